"""Completions as coloured tokens: what a policy wrote, and a number for each token of it."""

import html
import math
import re

from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from minigrpo.config import BadInput


class TokenView:
    """Completions as coloured tokens: HTML in a notebook (no JavaScript), a table of numbers in a terminal. See show_tokens."""

    def __init__(self, rows: list[tuple[list[str], list[float]]], label: str):
        self.rows, self.label = [([printable(token) for token in tokens], values) for tokens, values in rows], label
        finite = [abs(value) for _, values in rows for value in values if math.isfinite(value)]
        self.largest = max(finite, default=0.0) or 1.0

    def __repr__(self) -> str:
        lines = []
        for tokens, values in self.rows:
            widths = [max(len(token), 6) for token in tokens]
            lines.append(" ".join(f"{token:>{width}}" for token, width in zip(tokens, widths, strict=True)))
            lines.append(" ".join(f"{value:>{width}.2f}" for value, width in zip(values, widths, strict=True)))
        return "\n".join([self.label, *lines])

    def _repr_html_(self) -> str:
        def span(token: str, value: float) -> str:
            rgb = "213,94,0" if value < 0 else "0,114,178"
            strength = 0.0 if math.isnan(value) else min(abs(value) / self.largest, 1.0) * 0.7
            style = f"background-color:rgba({rgb},{strength:.2f});padding:1px 3px;border-radius:3px;white-space:pre"
            return f'<span title="{value:.4f}" style="{style}">{html.escape(token)}</span>'

        lines = ["".join(map(span, tokens, values)) for tokens, values in self.rows]
        key = f"{self.label}: orange below 0, blue above; full colour at {self.largest:.2f}. Hover for the number."
        body = "".join(f"<div style='margin:4px 0'>{line}</div>" for line in lines)
        return f"<div style='font-family:monospace'>{body}</div><div style='font-size:85%;opacity:.7'>{html.escape(key)}</div>"


def show_tokens(tokenizer, rollout, values: Tensor, *, label: str = "log-prob (nats)") -> TokenView:
    """The completions of a rollout, each token coloured by its value: log-prob, ratio, advantage, KL.

    Args:
        rollout: a sampling.Rollout. values: (B, C), or (B,) for one value per completion; of any unit, which label names.
    Raises:
        BadInput: for values of another shape.
    """
    mask = rollout.completion_mask.cpu()
    values = token_values(values, tuple(mask.shape))
    texts = completion_tokens(tokenizer, rollout)
    return TokenView([(row, values[i][mask[i]].tolist()) for i, row in enumerate(texts)], label)


def token_values(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B,) or (B, C) of any kind, on any device -> (B, C) floats to draw."""
    if not isinstance(values, Tensor) or tuple(values.shape) not in (shape, shape[:1]):
        came = tuple(values.shape) if isinstance(values, Tensor) else f"{values!r:.60}"
        raise BadInput(f"values must be a tensor (B, C) or (B,), for these completions {shape} or {shape[:1]}, got {came}.")
    values = values.detach().cpu().float()
    return values.unsqueeze(1).expand(shape) if values.ndim == 1 else values


def printable(token: str) -> str:
    """A token on one line: a line break as \\n, and so on; '' for a token without text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token) or "''"


def completion_tokens(tokenizer, rollout) -> list[list[str]]:
    """The tokens of each completion as texts, up to and including EOS, which is shown as ⏎."""
    ids = [row[counts].tolist() for row, counts in zip(rollout.completion_ids, rollout.completion_mask, strict=True)]
    return [["⏎" if token == tokenizer.eos_token_id else token_text(tokenizer, token) for token in row] for row in ids]


def token_text(tokenizer, token: int) -> str:
    r"""A token by itself as text: with the space in front of a word, and a part of a character by its bytes, such as \xe4."""
    text, name = tokenizer.decode([token]), tokenizer.convert_ids_to_tokens(token) or ""  # a padded vocabulary has no name
    if "\ufffd" in text and (part := _bytes(name)):
        return part.decode("utf-8", errors="backslashreplace")
    return f" {text}" if name.startswith("▁") and not text.startswith(" ") else text  # decode takes it for the first word


def _bytes(name: str) -> bytes:
    """The bytes that a tokenizer's name for a token stands for: in GPT-2's alphabet, or as <0xE4>; none if it is otherwise."""
    if re.fullmatch("<0x[0-9A-F]{2}>", name):
        return bytes.fromhex(name[3:5])
    byte = {letter: number for number, letter in bytes_to_unicode().items()}
    return bytes(byte[letter] for letter in name) if set(name) <= set(byte) else b""
