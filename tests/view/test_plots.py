import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minigrpo.view import plots
from minigrpo.view.plots import PANELS, moving_mean, plot_clipping, plot_metric, plot_runs

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def rows(values, **more):
    return [{"step": n, "reward": v, "kl": v / 10, **more} for n, v in enumerate(values, 1)]


def test_a_moving_mean_keeps_length_level_and_centre():
    assert moving_mean(np.full(5, 3.0)) == pytest.approx([3.0] * 5)
    assert moving_mean(np.arange(30.0)) == pytest.approx(
        np.arange(30.0)
    )  # at both ends too, where a lopsided mean would bend it
    assert moving_mean(np.array([1.0])) == pytest.approx([1.0])
    assert moving_mean(np.array([0.0, 3.0, 6.0]), window=3) == pytest.approx([0.0, 3.0, 6.0])
    assert moving_mean(np.array([0.0, 6.0, 0.0]), window=3) == pytest.approx([0.0, 2.0, 0.0])


def test_one_run_is_drawn_as_it_was():
    ax = plot_metric([rows([1.0, 2.0, 6.0])], "reward")
    assert ax.lines[0].get_ydata().tolist() == [1, 2, 6]
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]


def test_several_runs_are_a_mean_and_a_band_over_the_steps_they_share():
    ax = plot_metric([rows([1.0] * 20), rows([3.0] * 30)], "reward")
    assert ax.lines[0].get_ydata().tolist() == [2.0] * 20
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1.0, 3.0)


def test_what_was_not_measured_is_said():
    without_kl = [{"step": 1, "reward": 1.0}]
    axes = plot_runs([without_kl])
    said = {ax.get_title(loc="left"): [t.get_text() for t in ax.texts] for ax in axes}
    assert said["KL to the reference (nats a token)"] == ["beta is 0: no reference, no KL"]
    assert said["mean reward"] == []


def test_every_panel_has_a_title_with_its_unit_and_draws_into_the_axes_it_is_given():
    _, given = plt.subplots(2, 3)
    axes = plot_runs([rows([1.0, 2.0], thinking=0.5)], axes=given)
    assert [ax.get_title(loc="left") for ax in axes] == [label for _, label, _ in PANELS]
    assert list(axes) == list(given.ravel())
    assert all(ax.get_xlabel() for ax in axes[3:])


def test_the_clip_is_drawn_by_the_function_that_trains():
    axes = plot_clipping(epsilon=0.2)
    for ax, flat_from, level in ((axes[0], 1.2, 1.2), (axes[1], 0.0, -0.8)):
        line = ax.lines[1]
        at = np.abs(line.get_xdata() - (flat_from + 0.3)).argmin()
        assert line.get_ydata()[at] == pytest.approx(level)


# --- what the lessons draw ----------------------------------------------------------------------------------------------


def test_each_group_of_runs_has_its_line_and_its_name():
    groups = {"a": [rows([1.0, 2.0, 6.0])], "b": [rows([0.0, 0.0, 0.0]), rows([2.0, 2.0, 2.0])]}
    (ax,) = plots.compare_runs(groups, ["reward"])
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["a", "b"]
    styles = [(line.get_color(), line.get_linestyle()) for line in ax.lines if line.get_linestyle() != "None"]
    assert len(set(styles)) == len(styles) == 2  # told apart by colour and by dashes
    assert ax.lines[-1].get_ydata().tolist() == [1, 1, 1]


def test_a_metric_that_is_measured_now_and_then_is_not_smeared():
    sparse = [{"step": step, "accuracy": step / 100} for step in range(5, 101, 5)]
    line = plot_metric([sparse], "accuracy").lines[-1]
    assert line.get_ydata()[0] == pytest.approx(0.05)
    assert line.get_ydata()[-1] == pytest.approx(1.0)


def test_advantages_and_silent_groups_are_the_packages_and_the_closed_form():
    """k of G right: a right answer gets sqrt((1 - p) / p (G - 1) / G); groups agree with p^G + (1 - p)^G."""
    left, right = plots.plot_advantages(4)
    assert left.lines[0].get_ydata()[1] == pytest.approx(math.sqrt(3 / 4), rel=1e-3)
    assert left.lines[1].get_ydata()[0] == pytest.approx(-math.sqrt(1 / 3 * 3 / 4), rel=1e-3)
    assert right.lines[0].get_ydata()[50] == pytest.approx(2 * 0.5**4)


def test_estimators_are_drawn_where_theory_has_them():
    """Of N(d, 1) and N(0, 1): k1 and k3 have the mean KL = d^2 / 2, k2's is KL + KL^2 / 2; k1's spread is sqrt(2 KL)."""
    mean, spread = plots.plot_kl_estimators(200_000)
    k1, k2, k3 = (line.get_ydata() for line in mean.lines[:3])
    kl = mean.lines[0].get_xdata()
    assert k1 == pytest.approx(np.ones(30), abs=1e-6)
    assert k2 == pytest.approx(1 + kl / 2, rel=0.02)
    assert k3 == pytest.approx(np.ones(30), abs=0.03)
    assert spread.lines[0].get_ydata() == pytest.approx(np.sqrt(2 * kl) / kl, rel=0.02)


def test_bars_have_the_heights_that_were_given():
    ax = plots.plot_shares({"before": {"full": 0.3, "rest": 0.7}, "after": {"full": 0.9, "rest": 0.1}})
    assert [patch.get_height() for patch in ax.patches] == [0.3, 0.7, 0.9, 0.1]


def test_watch_hands_on_every_row_and_draws_the_last(monkeypatch):
    drawn = []

    class Handle:
        def update(self, figure):
            drawn.append(figure._suptitle.get_text())

    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: Handle())
    given = rows([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert list(plots.watch(iter(given), ["reward"], every=3)) == given
    assert drawn == ["step 3", "step 6", "step 7"]
    drawn.clear()
    for row in plots.watch(iter(given), ["reward"], every=3):
        if row["step"] == 2:
            break
    assert drawn == ["step 2"]  # also where the loop was left early


def test_the_pipeline_names_every_step():
    texts = {text.get_text() for text in plots.plot_pipeline().texts}
    assert {"prompts", "sample", "reward", "advantage", "log-probs", "ratio, clip, KL", "loss", "update"} <= texts
