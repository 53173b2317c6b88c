"""Questions that a worker without torch can answer: each asks for numbers doubled. Read by --questions, too."""

import torch

from minigrpo.grading.questions import Case, Question

NAMES = ("shift_logits", "top_k_logprobs", "completion_mask", "token_entropies", "tempered_ratio")


def double(numbers):
    return [2 * x for x in numbers]


def cases(generator):
    return [Case(f"case {k}", {"numbers": torch.rand(3, generator=generator).tolist()}) for k in range(3)]


QUESTIONS = [Question(f"ex01.{k}", name, 1, cases, double, ("Double it.",)) for k, name in enumerate(NAMES, start=1)]
