"""The exercises: written from the solutions, complete, running untouched, and worth 100 points."""

import html
import inspect
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from minigrpo.grading import practice, shipped
from minigrpo.grading.check import exercises, grade, judge, questions
from minigrpo.grading.ex08 import is_right, parse_answer
from minigrpo.grading.pages import pages
from minigrpo.grading.results import Graded, Report
from minigrpo.grading.submission import CALL_SECONDS, SECONDS, outcome_of
from minigrpo.training import train
from tests.tools.build_notebooks import EXERCISES, ROOT, SOLUTIONS, exercise_of, from_source

NAMES = sorted(path.stem for path in (SOLUTIONS / "src").glob("*.py"))


def read(folder, name):
    return nbformat.read(folder / f"{name}.ipynb", as_version=4)


def cells(notebook):
    return [(cell.id, cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]


def test_there_is_a_notebook_for_each_exercise_and_nothing_else():
    assert [name[:4] for name in NAMES] == exercises() == [f"ex0{k}" for k in range(1, 9)]
    for folder in (EXERCISES, SOLUTIONS):
        assert sorted(path.stem for path in folder.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_exercise_and_solution_are_in_step_with_their_source(name):
    source = from_source(SOLUTIONS / "src" / f"{name}.py")
    assert cells(read(SOLUTIONS, name)) == cells(source), "run python -m tests.tools.build_notebooks"
    assert cells(read(EXERCISES, name)) == cells(exercise_of(source)), "run python -m tests.tools.build_notebooks"


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_holds_no_solution_and_asks_every_question_with_its_points(name):
    text = (EXERCISES / f"{name}.ipynb").read_text(encoding="utf-8")
    asked = questions(name[:4])
    assert "SOLUTION" not in text
    assert text.count("raise NotImplementedError") >= len(asked)
    markdown = "\n".join(c.source for c in read(EXERCISES, name).cells if c.cell_type == "markdown")
    for question in asked:
        heading = re.search(rf"## {re.escape(question.id)} · .+\((\d+) points?, \d+ minutes, difficulty [1-5]\)", markdown)
        assert heading, question.id
        assert int(heading[1]) == question.points
        assert f"check({question.name})" in text
        assert 2 <= len(question.hints) <= 4
    assert f"{sum(q.points for q in asked)} points" in markdown
    for target in re.findall(r"\]\(([^)\s#]+)\)", markdown):
        assert target.startswith("http") or (EXERCISES / target).exists(), target


def test_all_together_are_a_hundred_points_and_at_least_eighty_known_mistakes():
    assert sum(question.points for question in questions()) == 100
    assert sum(len(question.mistakes) for question in questions()) >= 80


@pytest.mark.parametrize("name", NAMES)
def test_the_solutions_get_all_points(name):
    notebook = read(SOLUTIONS, name)
    namespace: dict = {}
    for cell in notebook.cells:
        checks = cell.source.startswith("check(")  # what is asked below, and takes as long
        if cell.cell_type == "code" and not checks and "demonstration" not in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    for question in questions(name[:4]):
        for seed in range(1 if question.trial else 3):
            result = grade(question, namespace[question.name], seed)
            assert result.points == question.points, result


@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_exercise_runs_from_top_to_bottom_and_says_what_is_missing(name, monkeypatch):
    """In IPython, as a kernel has it, but not in a process of its own, which would first import torch; training is short."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # IPython puts its own there
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    with capture_output() as said:
        for cell in read(EXERCISES, name).cells:
            if cell.cell_type == "code":
                shell.run_cell(cell.source.replace("max_steps=80", "max_steps=2")).raise_error()
    for question in questions(name[:4]):
        assert f"{question.id} {question.name}: not answered yet" in said.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_ends_with_the_points_so_far_and_a_solution_shows_nobodys(name):
    for folder in (EXERCISES, SOLUTIONS):
        last = read(folder, name).cells[-1]
        assert (last.source, last.outputs) == ("progress()", [])


def test_the_learners_notebook_needs_only_torch_and_check():
    for name in NAMES:
        code = "\n".join(
            cell.source
            for cell in read(EXERCISES, name).cells
            if cell.cell_type == "code" and "demonstration" not in cell.metadata.get("tags", [])
        )
        imported = set(re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE))
        assert imported <= {"torch", "minigrpo", "math", "re"}
        for line in re.findall(r"^from minigrpo.*$", code, re.MULTILINE):
            assert line == "from minigrpo import check, hint, progress"


# --- ex05: inputs on which a bug shows ----------------------------------------------------------------------------------

BUGS = {
    "groups": shipped.GROUPS,
    "clip": shipped.CLIP,
    "positions": shipped.POSITIONS,
    "mask": shipped.EOS,
    "best": shipped.BEST,
    "ratio": shipped.STALE,
}
ROW, IDS = torch.tensor([[1.5, -2.0, 0.5]]), torch.tensor([[3, 1, 6, 0]])
RUN = torch.zeros(2), torch.ones(3, 2), torch.tensor([0.2, 0.9, 0.5])
UPDATES, LEFT = -torch.rand(4, 2, 3) - 0.1, torch.tensor([[False, True, True], [True, True, True]])
NOTHING_SHOWS = [
    ("groups", (ROW[0], 3), "both give 1.5, -2, 0.5: take two prompts"),
    ("groups", (torch.tensor([1.0, 0.0, 0.5, 0.5]), 2), "whose groups have different means"),
    ("groups", (torch.tensor([1.0, 2.0]), 1), "take two prompts"),
    ("groups", (torch.tensor([1.0, 0.0, 0.5, 0.500001]), 2), "whose groups have different means"),  # by rounding
    ("positions", (torch.ones(2, 3, dtype=torch.bool),), "both give 0, 1, 2, 0 ...: take a prompt that is shorter"),
    ("best", (*RUN[:2], torch.tensor([0.2, 0.3, 0.5])), "both give 3, 3: take a run that goes on"),
    ("best", (RUN[0], 0 * RUN[1], RUN[2]), "a run that goes on"),
    ("clip", (torch.ones(1, 3), torch.tensor([[2.0]]), 0.2), "both give -2, -2, -2: take a ratio"),
    ("clip", (ROW.abs(), torch.zeros(1, 1), 0.2), "an advantage that is not 0"),
    ("mask", (IDS, 6, 0), "both give 1, 1, 1, 0: take a completion that ends"),
    ("mask", (torch.tensor([[3, 1, 4]]), 6, 6), "pad is EOS"),
    ("ratio", (UPDATES, 4), "a second rollout"),
    ("ratio", (UPDATES, 1), "two updates per rollout"),
    ("ratio", (UPDATES[:1].expand(4, 2, 3), 2), "whose log-probs are others"),
]
NO_INPUT = [
    ("groups", (torch.ones(5), 2), "which is no multiple of num_generations = 2"),
    ("groups", (torch.ones(4), 2.5), "num_generations holds 2.5"),
    ("groups", (torch.ones(2, 2), 2), "rewards has the shape (2, 2), wanted is (B)"),
    ("groups", (ROW[0] * torch.nan, 3), "rewards holds nan"),
    ("groups", (torch.tensor([1e308, 1e308, 0.0, 0.0], dtype=torch.float64), 2), "not finite: take smaller"),
    ("groups", (torch.ones(4),), "the result holds 1 arguments, wanted are 2, a tuple of rewards, num_generations"),
    ("groups", (torch.empty(0), 1), "rewards holds 0 numbers"),
    ("groups", (torch.ones(1600), 2), "at most 1000"),
    ("positions", (LEFT.flip(1),), "in prompt_mask a row is not padded on the left"),
    ("positions", (torch.tensor([[False, True, False, True]]),), "in prompt_mask a row is not padded on the left"),
    ("positions", (torch.zeros(1, 3, dtype=torch.bool),), "in prompt_mask a row is not padded on the left"),
    ("positions", (LEFT.long(),), "prompt_mask has the dtype int64; wanted: True and False"),
    ("positions", (LEFT[0],), "prompt_mask has the shape (3,), wanted is (P, L)"),
    ("best", (RUN[0], RUN[1], RUN[2][:2]), "accuracies has the shape (2,), wanted is (S) with S = 3"),
    ("best", (RUN[0], RUN[1], RUN[2] * 100), "accuracies holds 20; wanted: shares"),
    ("best", (RUN[0].long(), *RUN[1:]), "weights has the dtype int64"),
    ("clip", (ROW, torch.ones(1, 1), 0.2), "ratio holds -2; wanted: ratios of probabilities"),
    ("clip", (ROW.abs(), torch.ones(1), 0.2), "advantages has the shape (1,), wanted is (B, 1)"),
    ("clip", (ROW.abs(), torch.ones(1, 3), 0.2), "advantages has the shape (1, 3), wanted is (B, 1)"),
    ("clip", (ROW.abs(), torch.ones(1, 1), 1.0), "epsilon holds 1; wanted: a number between 0 and 1"),
    ("clip", (ROW.abs(), torch.ones(1, 1), torch.tensor([0.2])), "epsilon has the shape (1,), wanted is a number"),
    ("mask", (IDS, 6, 6), "in completion_ids 0 stands behind the first EOS (6); wanted there: nothing but padding"),
    ("mask", (-IDS, 6, 6), "completion_ids holds -3"),
    ("mask", (IDS.float(), 6, 6), "completion_ids has the dtype float32"),
    ("mask", (IDS, 6.5, 0), "eos_token_id holds 6.5"),
    ("ratio", (UPDATES, 2.5), "num_iterations holds 2.5"),
    ("ratio", (-UPDATES, 2), "wanted: log-probs (floats, none above 0"),
    ("ratio", (UPDATES, 0), "num_iterations holds 0"),
    ("ratio", (UPDATES[0], 2), "wanted is (U, B, C)"),
]
SHOWS = [
    ("groups", (torch.tensor([1.0, 0.0, 3.0, 5.0]), 2)),
    ("groups", ([1.0, 0.0, 0.5, 0.0, 0.0, 0.0], 3)),
    ("groups", (torch.tensor([1.0, 2.0, 5.0, 7.0]), torch.tensor(2))),
    ("positions", LEFT),
    ("positions", [[False, True]]),
    ("best", RUN),
    ("clip", (torch.tensor([[1.0], [0.5]]), torch.tensor([[1.0], [-1.0]]), 0.2)),
    ("mask", (torch.tensor([[3, 0, 6, 0]]), 6, 0)),  # the policy wrote padding's token itself
    ("ratio", (UPDATES, 3)),
]


def shown(name, answer):
    return grade(next(q for q in questions("ex05") if q.name == f"shows_{name}"), lambda: answer, 0)


@pytest.mark.parametrize(("name", "answer", "said"), NOTHING_SHOWS + NO_INPUT)
def test_an_input_that_shows_nothing_or_is_none_is_refused_in_a_sentence(name, answer, said):
    result = shown(name, answer)
    assert (result.points, result.cause) == (0, None)
    assert said in result.difference


@pytest.mark.parametrize(("name", "answer"), SHOWS)
def test_any_input_on_which_the_bug_shows_will_do(name, answer):
    assert shown(name, answer).points == 1


def test_a_bug_in_the_gradient_alone_shows():
    bug = shipped.Bug(lambda x: x.detach() + 0 * x, lambda x: 1 * x, {"x": ("B", shipped.ANY)}, "anything", gradient=("x",))
    assert bug.accepts([torch.ones(2)]) is None
    assert "both give 1, 1" in replace(bug, gradient=()).accepts([torch.ones(2)])


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_whatever_comes_as_an_input_the_answer_is_a_sentence(bug):
    count = len(bug.args)
    odd = [
        torch.tensor(3),
        torch.ones((1,) * 70),
        torch.ones(0, 10**9),
        torch.full((1, 1, 1), torch.inf),
        torch.full((1, 1), 2**62),
        torch.full((1, 1, 1), -1e308, dtype=torch.float64),
        torch.tensor(2.0**62, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.complex64),
        torch.ones(1, 1, dtype=torch.float16),
        torch.ones(2, 2).to_sparse(),
        torch.ones(1, 1, device="meta"),
    ]
    for values in [[], odd, *([value] * count for value in odd), *([odd[4], value, value][:count] for value in odd)]:
        assert bug.accepts(values) is None or " " in bug.accepts(values)
        assert bug.accepts(values)


@pytest.mark.parametrize("reply", [{}, {"error": None, "changed": "x"}, {"error": "e", "changed": None}, {"values": None}])
def test_a_workers_odd_reply_shows_no_bug(reply):
    for question in (q for q in questions("ex05") if q.accepts):
        cases = question.cases(torch.Generator())
        assert judge(question, cases, [outcome_of(reply, 0)]).points == 0


def test_the_notebook_holds_the_functions_that_the_grader_runs():
    code = [cell.source.strip() for cell in read(EXERCISES, "ex05_diagnosis").cells if cell.cell_type == "code"]
    for name, bug in BUGS.items():
        assert bug.shipped.__name__ == f"shipped_{name}"
        assert inspect.getsource(bug.shipped).strip() in code
        right = next(q for q in questions("ex05") if q.name == f"fixed_{name}").reference
        if name == "mask":  # asks for more than the repair: what was cut off is left out
            ended, cut_off = torch.tensor([[1, 6, 0]]), torch.tensor([[1, 2, 0]])
            assert torch.equal(right(ended, 6, 0), bug.right(ended, 6, 0))
            assert bug.right(cut_off, 6, 0).all()
            assert not right(cut_off, 6, 0).any()
        else:
            assert right is bug.right


# --- ex08 ---------------------------------------------------------------------------------------------------------------

CARELESS = {
    "the answer stands somewhere": lambda text, answer: str(answer) in text,
    "the last number": lambda text, answer: parse_answer(text) == answer,
    "the longer the better": lambda text, answer: len(text),
    "always": lambda text, answer: 1.0,
}


HONEST = next(q for q in questions("ex08") if q.name == "honest_reward")
SHORT = 3  # steps, where it does not matter what the policy becomes


def each(reward):
    return lambda texts, answers: [float(reward(t, a)) for t, a in zip(texts, answers, strict=True)]


@pytest.mark.parametrize("name", CARELESS)
def test_a_careless_reward_makes_a_policy_that_is_wrong(name):
    """The bundled model finds a + b = c so easily that even the last number keeps it honest; ready answers do not."""
    result = grade(HONEST, each(CARELESS[name]), 0)
    assert result.passed == (name == "the last number")
    assert result.points < HONEST.points
    assert "of the policy's answers are right" in result.difference
    if name != "the longer the better":
        assert result.difference.endswith("stands in it among others: pay for the one that is the answer"), result.difference
    right = [is_right(text, answer) for text, answer in zip(*result.args.values(), strict=True)]
    assert sum(right) < (0.9 if result.passed else 0.7) * len(right)  # what it says can be read


def test_an_honest_reward_may_be_shaped():
    """A small price for length changes nothing about what is right."""
    shaped = lambda texts, answers: [r - 0.001 * len(t) for r, t in zip(HONEST.reference(texts, answers), texts, strict=True)]  # noqa: E731
    assert grade(HONEST, shaped, 0).about is None


def test_rewards_that_agree_share_a_run(monkeypatch):
    """And rewards that part do not: what is drawn depends on the seed and on all that was paid before."""
    monkeypatch.setattr(practice, "STEPS", SHORT)
    monkeypatch.setattr(practice, "KNOWN", {})
    trained = []
    monkeypatch.setattr(practice, "train", lambda *args: trained.append(1) or train(*args))
    seen = []

    def noted(texts, answers):
        seen.append(texts)
        return HONEST.reference(texts, answers)

    for reward in (noted, noted, each(lambda text, answer: len(text))):
        practice.practise(reward, 5)
    assert (len(trained), len(seen)) == (2, 2 * SHORT)
    assert seen[:SHORT] == seen[SHORT:]
    assert len({key[:2] for key in practice.KNOWN if len(key) > 1}) == 2  # after the first step they are two runs
    before = dict(practice.KNOWN)
    practice.KNOWN.clear()
    practice.practise(noted, 5)
    assert practice.KNOWN.items() <= before.items()  # the same to the last letter


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ([1.0], "wanted is one reward per completion, the shape (32,), got (1,)"),
        ([[1.0]] * 32, "the shape (32,), got (32, 1)"),
        ([math.nan] * 32, "one of the rewards is not a number from"),
        ([1e300] * 32, "one of the rewards is not a number from"),
        (None, "is a return missing?"),
    ],
)
def test_what_is_no_reward_is_said_at_once(gives, said):
    """Before a step of training, for what a learner's function gives is not believed."""
    result = grade(HONEST, lambda texts, answers: gives, 0)
    assert (result.points, said in result.difference) == (0, True), result


def test_an_error_after_some_steps_is_the_outcome(monkeypatch):
    monkeypatch.setattr(practice, "STEPS", SHORT)
    calls = []

    def breaks(texts, answers):
        calls.append(1)
        return [1.0] * len(texts) if len(calls) < 3 else [1.0 / 0.0]

    assert "ZeroDivisionError" in grade(HONEST, breaks, 0).difference


def test_three_hidden_runs_and_ready_answers_are_what_a_reward_is_scored_on(monkeypatch):
    monkeypatch.undo()  # of the one run that tests make do with
    cases = HONEST.draw(0)
    assert len({case.args.get("seed") for case in cases}) == 4
    assert {case.args["seed"] for case in cases[:3]}.isdisjoint(case.args.get("seed") for case in HONEST.draw(1))


def test_no_path_leads_out_of_the_course():
    assert all(not Path(p).is_symlink() for folder in (EXERCISES, SOLUTIONS) for p in folder.rglob("*"))


READ = re.compile(r"Read: (.*?)\.?(?:\n\n|\Z)", re.DOTALL)
FIRST = re.compile(r"Read notebook\s+\[(\d\d)\]")


@pytest.mark.parametrize("name", NAMES)
def test_a_question_and_its_pages_send_people_where_the_notebook_does(name):
    text = "\n\n".join(cell.source for cell in read(EXERCISES, name).cells if cell.cell_type == "markdown")
    said = {}
    for part in re.split(r"^## (?=ex\d\d\.)", text, flags=re.MULTILINE)[1:]:
        said[part.split()[0]] = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", " ".join(READ.search(part)[1].split()))
    assert {question.id: question.read for question in questions(name[:4])} == said
    report = Report("ann", name[:4], [Graded(question, 0, "Not answered.") for question in questions(name[:4])])
    page = html.unescape(pages([report], "none")["ann.html"])
    assert re.findall(r"<dt>Where to read</dt><dd>(.*)</dd>", page) == list(said.values())


def test_every_table_names_the_lesson_that_the_exercise_names():
    first = {name[:4]: FIRST.search(read(EXERCISES, name).cells[0].source)[1] for name in NAMES}
    guide = (EXERCISES / "README.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (ex\d\d) .*\| (\d\d) \|$", guide, re.MULTILINE)) == first
    lessons = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\d\d) .*\| ([^|]*)\|$", lessons, re.MULTILINE)
    assert {exercise: lesson for lesson, asks in rows for exercise in re.findall(r"ex\d\d", asks)} == first
    for path in (ROOT / "notebooks" / "src").glob("0*.py"):
        sends = re.search(r"\*\*Exercises?:\*\*(.*?)\*\*Next", path.read_text(encoding="utf-8"))
        named = re.findall(r"\[(ex\d\d)\]", sends[1]) if sends else []
        assert named == [exercise for exercise, lesson in first.items() if lesson == path.name[:2]], path.name


def test_the_readme_counts_rightly():
    readme = (EXERCISES / "README.md").read_text(encoding="utf-8")
    assert f"{len(questions())} questions, {sum(q.points for q in questions())} points" in readme
    assert f"{CALL_SECONDS:.0f} s for each question or cell that hangs, and at most {SECONDS:.0f} s of a submission" in readme


# --- ex06 ---------------------------------------------------------------------------------------------------------------


def test_what_autograd_finds_of_each_estimate_is_what_the_closed_form_says():
    """By enumeration: the gradient of sum over v of p(v) * estimate(v), p held fixed; and of both KLs, p not held."""
    question = next(q for q in questions("ex06") if q.name == "kl_pulls")
    for case in question.draw(0):
        logits, ref_logits = case.to(torch.float64).args.values()
        leaf = logits.clone().requires_grad_()
        log_p, log_q = leaf.log_softmax(0), ref_logits.log_softmax(0)
        k1 = log_p - log_q
        held = log_p.exp().detach()
        sums = [(held * k).sum() for k in (k1, k1**2 / 2, (-k1).exp() - 1 + k1)]
        found = torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in sums])
        torch.testing.assert_close(question.reference(logits, ref_logits), found)
        kls = (log_p.exp() * k1).sum(), (log_q.exp() * -k1).sum()
        true = torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in kls])
        torch.testing.assert_close(found, torch.cat([torch.zeros(1, len(logits), dtype=torch.float64), true]))
