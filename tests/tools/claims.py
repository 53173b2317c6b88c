"""What the sentences of minigrpo.grading.symptoms claim, recomputed with numpy from the numbers: is a sentence true?"""

import re
from fractions import Fraction

import numpy as np

from minigrpo.grading.worker import Outcome

AXES = {1: ("place",), 2: ("row", "column"), 3: ("axis-0 place", "axis-1 place", "axis-2 place")}


def _near(one, other, rtol=1e-4) -> bool:
    return np.allclose(one, other, rtol=rtol, atol=3e-6, equal_nan=True)


def _number(text: str) -> float:
    return float(Fraction(text))


# (what the sentence says, whether it is so): want and have, what is wrong of both (w, h), and what the brackets caught.
CLAIMS = (
    (r"NaN stands", lambda want, have, w, h, said: np.isnan(h[np.isfinite(w)]).any()),
    (r"infinity stands", lambda want, have, w, h, said: np.isinf(h[np.isfinite(w)]).any()),
    (r"NaN is wanted", lambda want, have, w, h, said: np.isnan(w).any()),
    (r"infinity is wanted", lambda want, have, w, h, said: np.isinf(w).any()),
    (r"is minus the wanted", lambda want, have, w, h, said: _near(h, -w)),
    (r"stands where 0 is wanted", lambda want, have, w, h, said: (w == 0).all()),
    (r" is 0, where", lambda want, have, w, h, said: (h == 0).all()),
    (r"is (\S+) times the wanted", lambda want, have, w, h, said: _near(h / w, _number(said[0]), rtol=1e-3)),
    (
        r"times a number of its own",
        lambda want, have, w, h, said: all(_near((a @ a) * b, (a @ b) * a) for a, b in zip(want, have, strict=True)),
    ),
    (r"is (\S+) above the wanted", lambda want, have, w, h, said: _near(h - w, _number(said[0]), rtol=1e-3)),
    (r"is (\S+) below the wanted", lambda want, have, w, h, said: _near(w - h, _number(said[0]), rtol=1e-3)),
    (r"in each row all numbers are off", lambda want, have, w, h, said: _near(np.diff(have - want), 0)),
    (r"is exp of", lambda want, have, w, h, said: _near(h, np.exp(w))),
    (r"is the logarithm of", lambda want, have, w, h, said: _near(h, np.log(w))),
    (r"is 1 over", lambda want, have, w, h, said: _near(h, 1 / w)),
    (r"is the square of", lambda want, have, w, h, said: _near(h, w * w)),
    (r"is the root of", lambda want, have, w, h, said: _near(h, np.sqrt(w))),
    (r"too late along axis (\d)", lambda want, have, w, h, said: _slides(want, have, int(said[0]))),
    (r"too early along axis (\d)", lambda want, have, w, h, said: _slides(have, want, int(said[0]))),
    (r"reverse order along axis (\d)", lambda want, have, w, h, said: _near(np.flip(want, int(said[0])), have)),
    (r"rows and columns are exchanged", lambda want, have, w, h, said: _near(want.T, have)),
    (r"all there, but at other places", lambda want, have, w, h, said: _near(np.sort(want.ravel()), np.sort(have.ravel()))),
    (r"(\S+) is wanted everywhere", lambda want, have, w, h, said: _near(want, _number(said[0]), rtol=1e-3)),
    (r"every number is (\S+), and different", lambda want, have, w, h, said: _near(have, _number(said[0]), rtol=1e-3)),
    (r"True and False are exchanged", lambda want, have, w, h, said: (want != have).all()),
    (r"True stands where False", lambda want, have, w, h, said: (h > w).all()),
    (r"False stands where True", lambda want, have, w, h, said: (h < w).all()),
    (
        r"True is wanted (\d+) of these times, and False (\d+)",
        lambda want, have, w, h, said: [w.sum(), (1 - w).sum()] == [int(n) for n in said],
    ),
    (r"(\d+) too large and (\d+) too", lambda want, have, w, h, said: [(h > w).sum(), (h < w).sum()] == [int(n) for n in said]),
    (r"(?:, |\()too (large|small)", lambda want, have, w, h, said: ((h > w) if said[0] == "large" else (h < w)).all()),
    (r"the number is too (large|small)", lambda want, have, w, h, said: (h > w).all() == (said[0] == "large")),
    (r"largest error is (\S+), and some", lambda want, have, w, h, said: (np.abs(want - have) <= 1.01 * float(said[0])).all()),
    (r"(\d+) of (\d+)", lambda want, have, w, h, said: [len(w), want.size] == [int(n) for n in said]),
    (r"all (\d+) numbers", lambda want, have, w, h, said: len(w) == want.size == int(said[0])),
    (r"every number", lambda want, have, w, h, said: len(w) == want.size or _near(have, have.flat[0])),
)


# What a sentence that says what to look for claims of every failing case, be the number another one: patterns as above.
ADVICE = (
    r"look for a (factor|term|wrong sign)|look at (what is|where|the order|small)|: is (there|a ratio|something)|carries no"
)
LAWS = (
    (r"is minus the wanted", lambda want, have, w, h: _near(h, -w)),
    (r"stands where 0 is wanted", lambda want, have, w, h: (w == 0).all()),
    (r"times the wanted", lambda want, have, w, h: _near(h * (w @ w), w * (h @ w))),
    (r"(above|below) the wanted", lambda want, have, w, h: _near(h - w, (h - w)[0])),
    (
        r"times a number of its own",
        lambda want, have, w, h: all(_near((a @ a) * b, (a @ b) * a) for a, b in zip(want, have, strict=True)),
    ),
    (r"in each row all numbers are off", lambda want, have, w, h: _near(np.diff(have - want), 0)),
    (r"is exp of", lambda want, have, w, h: _near(h, np.exp(w))),
    (r"is the logarithm of", lambda want, have, w, h: _near(h, np.log(w))),
    (r"is 1 over", lambda want, have, w, h: _near(h, 1 / w)),
    (r"is the square of", lambda want, have, w, h: _near(h, w * w)),
    (r"is the root of", lambda want, have, w, h: _near(h, np.sqrt(w))),
    (r"all there, but at other places", lambda want, have, w, h: _near(np.sort(want.ravel()), np.sort(have.ravel()))),
    (r"every number is \S+, and different", lambda want, have, w, h: _near(have, have.flat[0])),
)


def holds_everywhere(sentence: str, cases: list[tuple[Outcome, Outcome]]) -> bool:
    """Whether every failing case, (wanted, got), bears what a sentence with advice says of one; without advice, any."""
    laws = [law for pattern, law in LAWS if re.search(pattern, sentence)] if re.search(ADVICE, sentence) else []
    kind = "gradients" if "gradient" in sentence else "values"
    for law in laws:
        for wanted, got in cases:
            if got.values is None or len(got.values) != len(wanted.values):
                return False
            pairs = [p for p in zip(*_arrays(wanted, got, kind), strict=True) if p[0].shape == p[1].shape and _wrong(*p)]
            if not any(law(a, b, a[_off(a, b)], b[_off(a, b)]) for a, b in pairs):
                return False
    return True


def is_true(sentence: str, wanted: Outcome, got: Outcome) -> bool:
    """Whether a symptom's sentence holds of a result, or of a gradient if it speaks of one."""
    if "he gradient is right, the value is not" in sentence:
        return not any(map(_wrong, *_arrays(wanted, got, "gradients"))) and any(map(_wrong, *_arrays(wanted, got, "values")))
    if confused := re.findall(r"(\S+) came where (\S+) is wanted", sentence):
        return (str(got.values[0].item()), str(wanted.values[0].item())) in confused
    kind = "gradients" if "gradient" in sentence else "values"
    right_is_true = "value is right" not in sentence or not any(map(_wrong, *_arrays(wanted, got, "values")))
    return right_is_true and any(_holds(sentence, *pair) for pair in zip(*_arrays(wanted, got, kind), strict=True))


def _arrays(wanted: Outcome, got: Outcome, kind: str) -> tuple[list, list]:
    ones, others = getattr(wanted, kind) or [], getattr(got, kind) or []
    others = others or [None] * len(ones)
    pairs = [
        [0.0 * b if a is None else a, 0.0 * a if b is None else b]
        for a, b in zip(ones, others, strict=True)
        if (a, b) != (None, None)
    ]
    return tuple([pair[i].numpy().astype(float) for pair in pairs] for i in (0, 1))


def _off(want: np.ndarray, have: np.ndarray) -> np.ndarray:
    """Where they differ by more than float32 rounds: the number itself, or the largest beside it, which counts up to 1000."""
    largest = min(np.abs(want[np.isfinite(want)]).max(initial=0.0), 1e3)
    return ~np.isclose(have, want, rtol=2e-5, atol=5e-6 + 3e-7 * largest, equal_nan=True)


def _wrong(want: np.ndarray, have: np.ndarray) -> bool:
    return want.shape != have.shape or bool(_off(want, have).any())


def _slides(one: np.ndarray, other: np.ndarray, axis: int) -> bool:
    length = one.shape[axis]
    return _near(one.take(range(length - 1), axis), other.take(range(1, length), axis))


def _holds(sentence: str, want: np.ndarray, have: np.ndarray) -> bool:
    if want.shape != have.shape:
        axis = re.search(r"along axis (\d) there are (\d+) numbers, wanted are (\d+)", sentence)
        if axis:
            return [have.shape[int(axis[1])], want.shape[int(axis[1])]] == [int(axis[2]), int(axis[3])]
        return (want.ndim > have.ndim) == ("axis is missing" in sentence)
    if (axis := re.search(r"along axis (\d)", sentence)) and int(axis[1]) >= want.ndim:
        return False  # said of another result
    wrong = _off(want, have)
    found = [(holds, said) for pattern, holds in CLAIMS if (said := re.search(pattern, sentence, re.IGNORECASE))]
    true = [bool(holds(want, have, want[wrong], have[wrong], said.groups())) for holds, said in found]
    return bool(wrong.any() and found and all(true)) and _places_hold(sentence, want, have, wrong)


def _places_hold(sentence: str, want: np.ndarray, have: np.ndarray, wrong: np.ndarray) -> bool:
    """The rows and columns that are listed are those in which something is wrong."""
    for words, those in (
        ("NaN stands", np.isnan(have) & np.isfinite(want)),
        ("infinity stands", np.isinf(have) & np.isfinite(want)),
        ("NaN is wanted", np.isnan(want)),
        ("infinity is wanted", np.isinf(want)),
    ):
        wrong = wrong & those if words in sentence else wrong
    for axis, noun in enumerate(AXES.get(want.ndim, ())):
        here = np.flatnonzero(wrong.any(axis=tuple(a for a in range(want.ndim) if a != axis))).tolist()
        size, numbers = want.shape[axis], r"(\d+\b(?:(?:, | and )\d+\b)*)"
        only, but = (re.search(rf"{words} {numbers}", sentence) for words in (f"only at {noun}s?", f"at all {noun}s but"))
        if (only and _numbers(only) != here) or (f"at the last {noun}" in sentence and here != [size - 1]):
            return False
        if but and _numbers(but) != [place for place in range(size) if place not in here]:
            return False
    return True


def _numbers(found: re.Match) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", found[1])]
