import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minigrpo.config import BadInput
from minigrpo.view import plots
from minigrpo.view.plots import PANELS, moving_mean, plot_metric, plot_runs

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
    assert said["KL to the reference (nats per token)"] == ["beta is 0: no reference, no KL"]
    assert said["mean reward"] == []


def test_every_panel_has_a_title_with_its_unit_and_draws_into_the_axes_it_is_given():
    _, given = plt.subplots(2, 3)
    axes = plot_runs([rows([1.0, 2.0], thinking=0.5)], axes=given)
    assert [ax.get_title(loc="left") for ax in axes] == [label for _, label, _ in PANELS]
    assert list(axes) == list(given.ravel())
    assert all(ax.get_xlabel() for ax in axes[3:])


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


# --- careless input -----------------------------------------------------------------------------------------------------


def said(ax):
    return [text.get_text() for text in ax.texts]


def test_a_misspelt_metric_is_no_empty_picture():
    for draw in (
        lambda: plot_metric([rows([1.0])], "rewardd"),
        lambda: plots.compare_runs({"a": [rows([1.0])]}, ["kl", "rewardd"]),
    ):
        with pytest.raises(BadInput, match="No run has the metric 'rewardd'; is 'reward' meant"):
            draw()
    with pytest.raises(BadInput, match="is 'rewards/length/mean' meant"):
        plot_metric([rows([1.0], **{"rewards/length/mean": 1.0})], "rewards/lenght/mean")
    assert said(plot_metric([rows([1.0])], "thinking")) == ["thinking was not measured"]  # a metric, though not of this run
    plt.close("all")
    assert not plt.get_fignums()


def test_the_rows_of_one_run_may_be_given_flat():
    flat = rows([1.0, 2.0, 6.0])
    assert plot_metric(flat, "reward").lines[0].get_ydata().tolist() == [1, 2, 6]
    assert plot_runs(flat)[0].lines[0].get_ydata().tolist() == [1, 2, 6]
    (ax,) = plots.compare_runs({"one": flat}, "reward")
    assert ax.lines[0].get_ydata().tolist() == [1, 2, 6]


@pytest.mark.parametrize("runs", [[], [[]], None, "reward", [{"reward": 1.0}], [rows([1.0]), []]])
def test_what_is_no_run_is_refused_in_a_sentence(runs):
    for draw in (lambda: plot_metric(runs, "reward"), lambda: plot_runs(runs), lambda: plots.compare_runs({"a": runs}, ["kl"])):
        with pytest.raises(BadInput, match="A run must be a list of rows with a step each"):
            draw()


def test_steps_out_of_order_are_drawn_in_order():
    ax = plot_metric([rows([1.0, 2.0, 3.0])[::-1]], "reward")
    assert ax.lines[0].get_xdata().tolist() == ax.lines[1].get_xdata().tolist() == [1, 2, 3]
    assert plot_metric([[{"step": 5, "reward": 0.0}, {"step": 4, "reward": 1.0}]], "reward").lines[0].get_ydata().tolist() == [
        1,
        0,
    ]


def test_one_step_is_a_point_that_is_seen():
    for runs in ([rows([2.0])], [rows([2.0]), rows([4.0])]):
        assert plot_metric(runs, "reward").lines[-1].get_marker() == "o"


def test_runs_without_a_step_in_common_say_so():
    ax = plot_metric([[{"step": 1, "reward": 1.0}], [{"step": 2, "reward": 1.0}]], "reward")
    assert said(ax) == ["these runs have no step in common"]
    assert not ax.lines


def test_what_was_not_a_number_at_a_step_is_not_drawn():
    values = [1.0, None, math.nan, math.inf, 3.0]
    ax = plot_metric([[{"step": n, "reward": v} for n, v in enumerate(values)]], "reward")
    assert ax.lines[0].get_xdata().tolist() == [0, 4]
    assert said(plot_metric([[{"step": 1, "reward": math.nan}]], "reward")) == ["reward was not measured"]


def test_several_runs_that_are_measured_now_and_then_are_not_smeared():
    sparse = [{"step": step, "accuracy": step / 100} for step in range(5, 101, 5)]
    curved = [{"step": step, "accuracy": (step / 100) ** 2} for step in range(5, 101, 5)]
    line = plot_metric([sparse, curved], "accuracy").lines[-1]
    assert line.get_ydata()[1] == pytest.approx((0.1 + 0.01) / 2)


def test_a_panel_of_nothing_says_so_and_the_legend_names_who_is_drawn_anywhere():
    groups = {"a": rows([1.0]), "b": [{"step": 1, "entropy": 1.0}]}
    first, _, third = plots.compare_runs(groups, ["reward", "entropy", "thinking"])
    assert said(third) == ["thinking was not measured"]
    assert [text.get_text() for text in first.figure.legends[0].get_texts()] == ["a", "b"]


def test_panels_and_groups_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="axes must be 6 Axes, one per panel, got 2"):
        plot_runs(rows([1.0]), axes=plt.subplots(1, 2)[1])
    with pytest.raises(BadInput, match="Some runs learn from records and some sample"):
        plot_runs([rows([1.0]), rows([1.0], weighted_logprob=-1.0)])
    with pytest.raises(BadInput, match="groups must be a dict"):
        plots.compare_runs([rows([1.0])], ["reward"])
    with pytest.raises(BadInput, match="at least one group of bars"):
        plots.plot_shares({})


@pytest.mark.parametrize("value", ["high", [1.0], {}])
def test_what_is_no_number_is_not_drawn(value):
    with pytest.raises(BadInput, match=r"Step 1 has .* as its reward; wanted is a number"):
        plot_metric([{"step": 1, "reward": value}], "reward")


def test_watch_says_at_once_what_it_cannot_draw():
    for settings in ({"every": 0}, {"names": []}):
        with pytest.raises(BadInput, match="watch wants"):
            next(plots.watch(iter(rows([1.0])), **settings))
