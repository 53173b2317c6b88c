"""The forest plot: Student's interval, what it says of methods that are the same, and the control that draws it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from minigrpo.config import BadInput
from minigrpo.view.controls.seeds import choose_seeds
from minigrpo.view.forest import interval, plot_forest, student_factor
from minigrpo.view.plots import BLUE, GREY, ORANGE

pytestmark = pytest.mark.quick


def test_the_factors_are_those_of_the_tables():
    found = [student_factor(degrees, level) for degrees, level in ((1, 0.95), (2, 0.95), (4, 0.95), (4, 0.9875), (9, 0.99))]
    assert np.allclose(found, [12.706, 4.303, 2.776, 4.315, 3.250], rtol=2e-3)


def test_of_methods_that_are_the_same_one_in_five_comparisons_of_four_finds_a_difference():
    """And one in twenty where the four share the 5 %."""
    draws = np.random.default_rng(0).normal(size=(500, 4, 5))
    for comparisons, expected in ((1, 1 - 0.95**4), (4, 0.05)):
        factor = student_factor(4, 1 - 0.05 / comparisons)
        found = np.abs(draws.mean(2)) > factor * draws.std(2, ddof=1) / 5**0.5
        assert abs(found.any(1).mean() - expected) < 0.04
        assert [interval(x, comparisons=comparisons).excludes_zero for x in draws[0]] == found[0].tolist()


def test_colours_say_better_worse_or_chance():
    differences = {"better": [0.1, 0.11, 0.12], "worse": [-0.1, -0.11, -0.12], "chance": [0.1, -0.1, 0.05]}
    ax = plot_forest(differences, comparisons=1)
    assert [to_hex(line.get_color()).upper() for line in ax.lines if line.get_marker() == "."] == [BLUE, ORANGE, GREY]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(differences)
    plt.close("all")


def test_what_is_no_difference_is_refused():
    for wrong in ([0.1], [0.1, float("nan")], []):
        with pytest.raises(BadInput, match="at least two finite"):
            interval(wrong)
    with pytest.raises(BadInput, match="at least one method"):
        plot_forest({})


def test_the_control_draws_anew_with_more_seeds():
    control = choose_seeds({"dapo": [0.1, 0.2, 0.15, 0.3]})
    seeds, comparisons, picture = control.children
    seen = {picture.value}
    for slider, value in ((seeds, 4), (comparisons, 9)):
        slider.value = value
        seen.add(picture.value)
    assert len(seen) == 3
    assert all(bytes(png).startswith(b"\x89PNG") for png in seen)
    assert seeds.max == 4
