"""Completions as coloured tokens: every token and its number are there, and text is text."""

import re

import pytest
import torch

from minigrpo.sampling import sample_completions
from minigrpo.view.tokens import completion_tokens, show_tokens

pytestmark = pytest.mark.quick


@pytest.fixture
def rollout(tiny):
    generator = torch.Generator().manual_seed(238)
    return sample_completions(*tiny, ["4*2+9+7*1*4="], num_generations=4, max_completion_length=16, generator=generator)


def test_tokens_are_those_that_count_and_eos_is_seen(tiny, rollout):
    rows = completion_tokens(tiny[1], rollout)
    assert ["".join(row[:-1]) for row in rows] == rollout.completions
    assert all(row[-1] == "⏎" for row in rows)


def test_every_value_is_on_its_token_and_a_token_cannot_be_html(tiny, rollout):
    page = show_tokens(tiny[1], rollout, rollout.logprobs)._repr_html_()
    found = re.findall(r'<span title="([-\d.]+)" style="[^"]*">([^<]*)</span>', page)
    counted = rollout.logprobs[rollout.completion_mask].tolist()
    assert [float(value) for value, _ in found] == pytest.approx(counted, abs=1e-4)
    assert found[0][1] == "&lt;"  # the thought's first token
    assert "<script" not in page


def test_a_terminal_sees_tokens_and_numbers_in_columns(tiny, rollout):
    lines = repr(show_tokens(tiny[1], rollout, torch.tensor([1.0, -2.0, -2.0, 1.0]), label="advantage")).splitlines()
    assert lines[0] == "advantage"
    assert lines[3].split() == ["4", "⏎"]
    assert lines[4].split() == ["-2.00", "-2.00"]
    assert len(lines[1]) == len(lines[2])


def test_the_sign_decides_the_colour_and_the_largest_value_is_full(tiny, rollout):
    page = show_tokens(tiny[1], rollout, torch.tensor([1.0, -2.0, 0.0, 1.0]))._repr_html_()
    assert "rgba(213,94,0,0.70)" in page
    assert "rgba(0,114,178,0.35)" in page
