"""The picture of one group: what it shows is what GRPO computed, and the part that is lit stands out."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb

import minigrpo
from minigrpo.view.group import DIMMED, PARTS, plot_group
from minigrpo.view.plots import BLUE, ORANGE

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def group():
    return minigrpo.worked_example()


@pytest.fixture
def axes(group):
    yield plot_group(group)
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_the_worked_example_is_the_one_of_the_lessons(group):
    assert ["".join(tokens) for tokens in group.tokens] == ["<8,7,4,4,6>6⏎", "4⏎", "8⏎", "6⏎"]
    assert group.rewards.tolist() == [1, 0, 0, 1]
    torch.testing.assert_close(group.advantages, torch.tensor([1.0, -1, -1, 1]) * 0.75**0.5, atol=2e-4, rtol=0)


def test_push_is_the_advantage_shared_by_the_tokens_of_a_completion_and_0_on_padding(group):
    lengths = torch.tensor([[len(tokens)] for tokens in group.tokens])
    share = group.advantages[:, None] / 4 / lengths
    torch.testing.assert_close(group.push, torch.where(torch.arange(13) < lengths, share, 0.0))


def test_the_step_makes_first_tokens_of_good_answers_likelier_and_those_of_bad_ones_less_likely(group):
    for tokens, advantage in zip(group.tokens, group.advantages, strict=True):
        assert (group.after[tokens[0]] > group.before[tokens[0]]) == (advantage > 0)
    assert sum(group.before.values()) == pytest.approx(1, abs=1e-5) == sum(group.after.values())


def test_a_step_leaves_the_model_as_it_was():
    policy, tokenizer = minigrpo.load_policy("tiny")
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    rollout = minigrpo.sample_completions(
        policy, tokenizer, ["1+1+1+1+1+1="], num_generations=2, generator=minigrpo.seeded(0), max_completion_length=4
    )
    _, student = minigrpo.one_step(policy, tokenizer, rollout, torch.tensor([1.0, 0.0]))
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())
    assert any(not torch.equal(before[name], weight) for name, weight in student.state_dict().items())


def test_every_number_of_the_group_stands_in_the_picture(axes):
    rows, bars = axes
    said = texts(rows)
    assert [said.count(text) for text in ("+0.87", "−0.87", "+0.017 each", "+0.108 each", "−0.108 each")] == [2, 2, 1, 1, 2]
    assert said.count("−2.9") == 1  # the log-prob of '<', 0.057
    assert [label.get_text() for label in bars.get_yticklabels()] == ["4", "6", "8", "2", "0", "<"]  # the likeliest first
    assert texts(bars)[-1] == "5.7 → 6.0 %"


def test_up_is_blue_and_down_is_orange(axes, group):
    """On the first tokens: a push of each row, a bar of the distribution for each of them."""
    for row, advantage in enumerate(group.advantages):
        color = to_rgb(BLUE if advantage > 0 else ORANGE)
        mine = [p for p in axes[0].patches if row * 1.75 <= p.get_y() < row * 1.75 + 1.5 and p.get_facecolor()[:3] == color]
        assert len(mine) == len(group.tokens[row]) + 1  # the pushes, and the advantage


@pytest.mark.parametrize("part", PARTS)
def test_only_the_lit_part_is_shown_in_full(group, part):
    rows, bars = plot_group(group, light=part)
    full = {text.get_text() for text in rows.texts if text.get_alpha() == 1} - {"completions"}
    reward, advantage, push = "1", "+0.87", "+0.017 each"
    assert (reward in full) == (part == "rewards")
    assert (advantage in full) == (part == "advantages")
    assert (push in full) == (part == "push")
    assert ("−2.9" in full) == (part == "logprobs")
    assert all(text.get_alpha() == (1 if part == "first_token" else DIMMED) for text in bars.texts)
    plt.close("all")


def test_a_completion_without_end_is_cut_in_the_picture_and_a_silent_group_has_no_direction():
    group = minigrpo.Group(
        prompt="why?\n",
        tokens=[["a"] * 40, ["$b$", "\n"]],
        logprobs=torch.full((2, 40), -1.0),
        rewards=torch.tensor([0.5, 0.5]),
        advantages=torch.zeros(2),
        push=torch.zeros(2, 40),
        before={"a": 0.5, "$b$": 0.5},
        after={"a": 0.5, "$b$": 0.5},
    )
    rows, _ = plot_group(group)
    rows.figure.canvas.draw()
    assert texts(rows).count("a") == 16
    assert texts(rows).count("+0.00") == 2
    plt.close("all")


@pytest.mark.parametrize("light", ["pushes", [], ["push", "kl"]])
def test_an_unknown_part_is_refused_by_name(group, light):
    with pytest.raises(minigrpo.BadInput, match="completions, logprobs, mask"):
        plot_group(group, light=light)
