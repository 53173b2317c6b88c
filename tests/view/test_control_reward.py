"""You are the reward: buttons in, another first token out."""

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pytest

from minigrpo import BadInput
from minigrpo.view.controls import be_the_reward as module
from minigrpo.view.controls.be_the_reward import Game, be_the_reward, play, plot_game

pytestmark = pytest.mark.quick


def parts(box, kind):
    found = [box] if isinstance(box, kind) else []
    return found + [part for child in getattr(box, "children", ()) for part in parts(child, kind)]


@pytest.fixture
def games(monkeypatch):
    """The games that controls start."""
    started = []

    class Kept(Game):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(module, "Game", Kept)
    return started


@pytest.mark.slow
def test_the_buttons_reward_step_moves_the_first_token_and_start_again_undoes_it(games):
    control = be_the_reward()
    choices, (picture,) = parts(control, widgets.ToggleButtons), parts(control, widgets.Image)
    step, again = (button for button in parts(control, widgets.Button) if button.description in ("step", "start again"))
    said = control.children[0]
    shown = [answer.value for answer in parts(control, widgets.HTML) if answer is not said]
    drawn, thinkers = picture.value, [text.startswith("<") for text in games[0].completions]
    assert [("&lt;" in text) for text in shown] == thinkers
    assert sum(thinkers) == 1
    for choice, thinks in zip(choices, thinkers, strict=True):
        choice.value = float(thinks)
    step.click()
    assert games[0].now["<"] > games[0].start["<"] * 1.1
    assert picture.value != drawn
    assert "step 1: 1 of 8" in said.value
    assert not any(choice.value for choice in choices), "eight new answers wait for their rewards"
    step.click()
    assert "nothing moved" in said.value
    assert games[0].now == pytest.approx(games[0].groups[0].after, abs=1e-6)
    again.click()
    assert picture.value == drawn
    assert games[-1].now == games[-1].start == games[0].start


def test_a_rule_in_your_place_gets_what_it_pays_for():
    def four(completion):
        return float(completion == "4")

    game = play(four, steps=4)
    assert game.now["4"] > 1.5 * game.start["4"]
    assert len(game.groups) == 4
    bars, lines = plot_game(game)
    assert [line.get_label() for line in lines.lines] == ["0", "2", "4", "8", "6", "<"]
    assert lines.lines[2].get_ydata()[-1] == game.now["4"]
    assert bars.get_title(loc="left").startswith("first token")
    plt.close("all")


def test_each_answer_wants_its_reward():
    with pytest.raises(BadInput, match="8 numbers, one per answer, got 2"):
        Game().step([1.0, 0.0])
