"""Completions as coloured tokens: every token and its number are there, and text is text."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from minigrpo.config import BadInput
from minigrpo.sampling import sample_completions
from minigrpo.view.tokens import completion_tokens, printable, show_tokens, token_text

pytestmark = pytest.mark.quick


@pytest.fixture
def rollout(tiny):
    generator = torch.Generator().manual_seed(192)
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


# --- careless input -----------------------------------------------------------------------------------------------------


def written(tokenizer, ids, mask):
    return SimpleNamespace(completion_ids=torch.tensor([ids]), completion_mask=torch.tensor([mask]).bool())


@pytest.mark.parametrize("values", [torch.zeros(4, 3), torch.zeros(3), torch.tensor(1.0), [1.0, 2.0, 3.0, 4.0], None])
def test_values_that_do_not_fit_are_refused_in_a_sentence(tiny, rollout, values):
    with pytest.raises(BadInput, match=r"values must be a tensor \(B, C\) or \(B,\)"):
        show_tokens(tiny[1], rollout, values)


def test_where_only_some_tokens_count_each_keeps_its_own_value(tiny):
    """In a chat the user's turns are read and do not count: the second token's value is not the third's."""
    rollout = written(tiny[1], [65, 66, 67], [1, 0, 1])
    assert show_tokens(tiny[1], rollout, torch.tensor([[1.0, 2.0, 3.0]])).rows == [(["A", "C"], [1.0, 3.0])]


def test_line_breaks_and_bytes_of_half_a_letter_stay_on_one_line(tiny):
    ids = tiny[1]("a\n\t<等", add_special_tokens=False)["input_ids"]
    view = show_tokens(tiny[1], written(tiny[1], ids, [1] * len(ids)), torch.zeros(1, len(ids)))
    assert view.rows[0][0][:4] == ["a", "\\n", "\\t", "<"]
    assert len(repr(view).splitlines()) == 3
    assert "&lt;" in view._repr_html_()
    assert [printable(text) for text in ("", "\ud83d", "\x1b[0m", " ")] == ["''", "\\ud83d", "\\x1b[0m", " "]


def subwords(words, *, decoder, **of_bpe):
    """A tokenizer that knows these tokens and no merges."""
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], **of_bpe))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_subwords_are_readable_with_their_spaces_and_parts_of_a_character_by_their_bytes():
    """As GPT-2, Qwen and SmolLM cut texts, and as Llama 2 does; a token beyond the vocabulary has no text."""
    # "等" is e7 ad 89 in UTF-8, and an emoji begins with f0 9f.
    names = ["Ġthe", "the", "çŃī", "çŃ", "ī", "ĠðŁ", "Ċ", "ĉ", "Ã©", "\\x"]
    byte_level = subwords(names, decoder=decoders.ByteLevel())
    shown = [" the", "the", "等", r"\xe7\xad", r"\x89", r" \xf0\x9f", "\n", "\t", "é", r"\x"]
    assert [token_text(byte_level, token) for token in range(len(names) + 1)] == [*shown, ""]
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    names = ["▁the", "the", "▁", "<0xE7>", "<0x0A>", "等"]
    fallback = subwords(names, decoder=decoders.Sequence(pieces), byte_fallback=True)
    assert [token_text(fallback, token) for token in range(len(names))] == [" the", "the", " ", r"\xe7", "\n", "等"]


def test_what_is_no_number_has_no_colour_and_does_not_take_that_of_others(tiny):
    values = torch.tensor([[math.nan, -math.inf, 2.0]])
    page = show_tokens(tiny[1], written(tiny[1], [65, 66, 67], [1, 1, 1]), values)._repr_html_()
    assert re.findall(r"rgba\([\d,]+,([\d.a-z]+)\)", page) == ["0.00", "0.70", "0.70"]
    assert "full colour at 2.00" in page


@pytest.mark.parametrize(
    "values", [torch.zeros(1, 2).bfloat16(), torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 2).long()]
)
def test_values_of_any_kind_and_all_zero_are_shown(tiny, values):
    assert "0.00" in repr(show_tokens(tiny[1], written(tiny[1], [65, 66], [1, 1]), values))
