import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minigrpo.plots import PANELS, moving_mean, plot_clipping, plot_metric, plot_runs


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
