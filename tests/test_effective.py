import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minigrpo.defaults import triples_defaults
from minigrpo.effective import effective_records, proposed_beta, wanted_records, weight_warning
from minigrpo.triples import load_triples, optimum_weights

pytestmark = pytest.mark.quick


def test_equal_weights_all_count_and_a_single_weight_counts_as_one():
    assert effective_records(torch.ones(7)) == pytest.approx(7)
    assert effective_records(torch.tensor([0.0, 3.0, 0.0])) == pytest.approx(1)
    assert effective_records(torch.tensor([1.0, 1.0, 0.0, 0.0])) == pytest.approx(2)
    assert effective_records(torch.tensor([3.0, 1.0])) == pytest.approx(16 / 10)


def test_scores_up_to_a_hundred_at_a_small_beta_are_warned_of_with_a_beta_that_helps():
    rewards = torch.linspace(0, 100, 50)
    said = weight_warning(rewards, 0.4)
    assert "Of 50 records only 1.0 count" in said
    better = proposed_beta(rewards, 0.4)
    assert f"with beta {better:g}" in said
    assert effective_records(optimum_weights(rewards, better)) >= wanted_records(50) == 5
    assert weight_warning(rewards, better) is None


def test_the_bundled_records_and_a_handful_of_scores_give_no_warning():
    beta = triples_defaults("bundled")["beta"]
    assert weight_warning(torch.tensor(load_triples("bundled")["reward"]), beta) is None
    assert weight_warning(torch.tensor([5.0, 1.0, 3.0]), beta) is None
    assert weight_warning(torch.tensor([0.0, 1.0] * 5), beta) is None


@settings(max_examples=200, deadline=None)
@given(
    rewards=st.lists(st.floats(-1e6, 1e6, width=32) | st.integers(0, 100).map(float), min_size=2, max_size=60),
    beta=st.sampled_from([1e-3, 0.04, 0.4, 1.0, 7.0]),
)
@example(rewards=[float(score) for score in range(101)], beta=0.4)
@example(rewards=[100.0, 55.0, 40.0, 0.0, 10.0, 70.0, 62.0, 31.0], beta=0.4)
@example(rewards=[3.4e38, *[0.0] * 39], beta=0.4)
def test_the_beta_that_a_warning_proposes_lets_enough_records_count(rewards, beta):
    rewards = torch.tensor(rewards)
    sentence = weight_warning(rewards, beta)
    enough = max(len(rewards) / 10, min(2, len(rewards) / 4))

    def count(beta):  # by another route than the functions under test: p_i ~ exp(R_i / beta), 1 / sum p_i^2
        powers = ((rewards.double() - rewards.double().max()) / beta).exp()
        return (1 / (powers / powers.sum()).square().sum()).item()

    assert (sentence is None) == (count(beta) >= enough - 1e-9)
    if sentence:
        better = proposed_beta(rewards, beta)
        assert better > beta
        assert count(better) >= enough - 1e-9
        assert count(better / 2.5 * (1 - 1e-9)) < enough  # the next smaller is at most 2.5 times smaller
        assert f"with beta {better:g}, {count(better):.1f} would count" in sentence
        assert f"Of {len(rewards)} records only {count(beta):.1f} count" in sentence
