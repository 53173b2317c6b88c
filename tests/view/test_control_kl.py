import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from minigrpo.config import BadInput
from minigrpo.view.controls.kl import drag_policy, expected_pull, plot_two_kls

pytestmark = pytest.mark.quick

REFERENCE = torch.tensor([0.60, 0.39, 0.01], dtype=torch.float64)
GIVEN_UP = torch.tensor([0.98, 0.01, 0.01], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_two_bars_are_the_two_kls():
    axes = plot_two_kls(GIVEN_UP, REFERENCE)
    reverse = sum(p * math.log(p / q) for p, q in zip(GIVEN_UP.tolist(), REFERENCE.tolist(), strict=True))
    forward = sum(q * math.log(q / p) for p, q in zip(GIVEN_UP.tolist(), REFERENCE.tolist(), strict=True))
    assert [bar.get_height() for bar in axes[1].patches] == pytest.approx([reverse, forward])
    assert forward > 2 * reverse  # what was given up


def test_k1_pulls_nowhere_k3_to_the_forward_kl_and_the_two_others_to_the_reverse_one():
    """The gradients of both KLs, by their closed forms: p (log p/q - KL) and p - q."""
    log_ratio = (GIVEN_UP / REFERENCE).log()
    reverse = -GIVEN_UP * (log_ratio - (GIVEN_UP * log_ratio).sum())
    torch.testing.assert_close(expected_pull(GIVEN_UP, REFERENCE, "k2"), reverse)
    torch.testing.assert_close(expected_pull(GIVEN_UP, REFERENCE, "k3_ratio"), reverse)
    torch.testing.assert_close(expected_pull(GIVEN_UP, REFERENCE, "k3"), REFERENCE - GIVEN_UP)
    assert expected_pull(GIVEN_UP, REFERENCE, "k1").abs().max() < 1e-12


def test_weights_are_scaled_to_a_sum_of_1():
    one, other = (plot_two_kls(w)[0].patches[3:] for w in ([0.2, 0.2, 0.4], [0.1, 0.1, 0.2]))
    assert [bar.get_height() for bar in one] == [bar.get_height() for bar in other] == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize("policy", [(0.5, 0.5), (1.0, 0.0, 0.0), ("a", "b", "c"), None, (math.nan, 1, 1)])
def test_what_is_no_policy_of_three_tokens_is_refused(policy):
    with pytest.raises(BadInput, match="policy must be three numbers above 0"):
        plot_two_kls(policy)


def test_dragging_a_slider_draws_the_figure_anew_and_leaves_none_open():
    control = drag_policy()
    sliders, picture = control.children
    before = bytes(picture.value)
    sliders.children[2].value = 0.01
    assert bytes(picture.value) != before
    assert bytes(picture.value).startswith(b"\x89PNG")
    assert plt.get_fignums() == []
