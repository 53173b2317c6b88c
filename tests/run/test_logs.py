"""Logs as people have them: whatever form the same numbers come in, the same rows are read."""

import json
import math
import re

import pandas
import pytest

import minigrpo
from minigrpo.config import BadInput
from minigrpo.run.diagnosis.logs import as_text, diagnose, parse, read_log
from minigrpo.run.diagnosis.rows import as_number, standard_name, understand

pytestmark = pytest.mark.quick

ROWS = [
    {
        "step": k,
        "loss": round(0.001 * k, 4),
        "grad_norm": 0.5 + 0.01 * k,
        "learning_rate": 1e-06,
        "reward": round(0.2 + 0.03 * k, 4),
        "reward_std": 0.41,
        "frac_reward_zero_std": 0.125,
        "kl": 0.00012 * k,
        "completions/mean_length": 101.5 + k,
        "completions/clipped_ratio": 0.0,
        "rewards/format/mean": 0.1 * k,
    }
    for k in range(1, 13)
]
SUMMARY = {"train_runtime": 93.2, "train_samples_per_second": 1.2, "train_loss": 0.0065, "epoch": 1.0}
EVAL = {"eval_loss": 0.1, "eval_runtime": 3.0, "completions/mean_length": 7.0, "reward": 9.0, "step": 6}
NOISE = "Generating train split: 100%|####| 7473/7473 [00:01<00:00, 9.1 examples/s]\nSetting {pad_token_id} to `eos`: 2\n"


def without_steps(rows):
    return [{name: value for name, value in row.items() if name != "step"} for row in rows]


def console(rows, every=1, total=400):
    lines = [NOISE]
    for k, row in enumerate(without_steps(rows), 1):
        lines.append(f"{row}\n  3%|#6        | {k * every}/{total} [03:12<5:00:00, 40.1s/it]")
    return "\n".join(lines) + f"\n{SUMMARY}\n"


def table(rows, left="| ", between=" | ", right=" |", rule=True):
    def line(cells):
        return left + between.join(map(str, cells)) + right

    head = [line(rows[0])] + ([line([":--"] * len(rows[0]))] if rule else [])
    return "\n".join(head + [line(row.values()) for row in rows])


def in_a_browser(rows):
    """A notebook's own table: other headers, blanks around the slash, six decimals."""
    names = {"step": "Step", "loss": "Training Loss"}
    rows = [{names.get(n, n.replace("/", " / ")): v for n, v in row.items() if n != "learning_rate"} for row in rows]
    cells = "".join("<tr>" + "".join(f"<td>{value}</td>" for value in row.values()) + "</tr>\n" for row in rows)
    head = "".join(f"<th>{name}</th>\n" for name in rows[0])
    bar = "<div><progress value='12'></progress>[12/12 01:02, Epoch 1/1]</div>"
    return f"{bar}\n<table><thead><tr>{head}</tr></thead>{cells}</table><p>"


def notebook(rows):
    outputs = [
        {"output_type": "stream", "text": [NOISE]},
        {"output_type": "display_data", "data": {"text/html": [in_a_browser(rows)], "text/plain": ["<IPython>"]}},
    ]
    return json.dumps({"cells": [{"cell_type": "code", "source": ["x = {'loss': 1}"], "outputs": outputs}], "nbformat": 4})


def wandb(rows):
    """A CSV of curves, with the band's edges beside each."""
    named = [
        {"Step": row["step"]}
        | {f"run-7 - train/{n}{s}": v for n, v in row.items() if n != "step" for s in ("", "__MIN", "__MAX")}
        for row in rows
    ]
    return pandas.DataFrame(named).to_csv(index=False)


def verl(rows):
    words = {
        "grad_norm": "actor/grad_norm", "loss": "actor/pg_loss", "kl": "actor/kl_loss", "reward": "critic/score/mean",
        "learning_rate": "actor/lr", "completions/mean_length": "response_length/mean",
        "completions/clipped_ratio": "response_length/clip_ratio",
    }  # fmt: skip
    lines = []
    for row in rows:
        items = " - ".join(f"{words.get(name, name)}:{value}" for name, value in row.items() if name != "step")
        lines.append(f"\x1b[36m(TaskRunner pid=16292)\x1b[0m step:{row['step']} - perf/mfu:0.1 - {items}")
    return "\n".join(lines)


FORMS = {
    "JSON lines": "\n".join(map(json.dumps, ROWS)),
    "JSON lines, torn at the end": "\n".join(map(json.dumps, [*ROWS, {"step": 13, "loss": 1.0}]))[:-9],
    "a trainer's state": json.dumps({"best_metric": None, "log_history": [*ROWS[:6], EVAL, *ROWS[6:], SUMMARY]}, indent=2),
    "an array": json.dumps(ROWS),
    "columns": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "nested": json.dumps({"run": {"history": [{"step": row["step"], "metrics": without_steps([row])[0]} for row in ROWS]}}),
    "a console": console(ROWS),
    "a console with carriage returns": console(ROWS).replace("\n  3%", "\r  3%").replace("\n", "\r\n"),
    "a bar in front of the dict": "\n".join(f"  3%|#6  | {row['step']}/400 [03:12<5:00:00, 40.1s/it]{row}" for row in ROWS),
    "colours": console(ROWS).replace("{", "\x1b[1;32m{").replace("}", "}\x1b[0m"),
    "a narrow terminal": "\n".join(str(row)[k : k + 61] for row in ROWS for k in range(0, len(str(row)), 61)),
    "one number per line": "\n".join(str(row).replace(", ", ",\n ") for row in ROWS),
    "texts for numbers": "\n".join(str({name: f"{value:.6g}" for name, value in row.items()}) for row in ROWS),
    "numpy and torch": "\n".join(
        "{" + ", ".join(f"'{n}': "
        f"{f'np.float64({v})' if k % 2 else f'tensor({v}, device=0)'}" for k, (n, v) in enumerate(row.items())) + "}"
        for row in ROWS
    ),
    "a logger's lines": "\n".join(f"2026-01-02 03:04:05,678 - INFO - trainer.py:88 - {row}" for row in ROWS),
    "Markdown": "Here is my log, what is wrong?\n\n" + table(ROWS) + "\n\nThanks!",
    "Markdown without outer bars": table(ROWS, "", " | ", ""),
    "a table in boxes": table(ROWS, "│ ", " │ ", " │", rule=False),
    "CSV": pandas.DataFrame(ROWS).to_csv(index=False),
    "CSV with an index": pandas.DataFrame(ROWS).to_csv(),
    "CSV with semicolons": pandas.DataFrame(ROWS).to_csv(index=False, sep=";"),
    "tabs": pandas.DataFrame(ROWS).to_csv(index=False, sep="\t"),
    "a data frame printed": pandas.DataFrame(ROWS).to_string(),
    "curves of W&B": wandb(ROWS),
    "verl": verl(ROWS),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_whatever_the_form_the_rows_are_the_same(form):
    read = understand(parse(FORMS[form]))
    assert len(read.rows) == len(ROWS)
    for row, wanted in zip(read.rows, ROWS, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("html", [in_a_browser(ROWS), notebook(ROWS)], ids=["a page", "a notebook"])
def test_the_table_that_a_notebook_shows(html):
    rows = understand(parse(html)).rows
    assert rows == [pytest.approx({n: v for n, v in row.items() if n != "learning_rate"}) for row in ROWS]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_whatever_the_encoding(encoding):
    text = console(ROWS).replace("Setting", "für")
    assert understand(parse(as_text(text.encode(encoding)))).rows == understand(parse(text)).rows


# --- steps and runs ----------------------------------------------------------------------------------------------------


def steps(text):
    read = understand(parse(text))
    return [row["step"] for row in read.rows], " ".join(read.notes)


def test_steps_that_are_not_written_are_those_of_the_progress_bar():
    assert steps(console(ROWS, every=10)) == (
        [10.0 * k for k in range(1, 13)],
        "The log has no step numbers; by its progress bar there is a row every 10 steps.",
    )
    assert steps("\n".join(map(str, without_steps(ROWS))))[0] == list(range(1, 13))


def test_a_bar_of_something_else_is_no_step():
    text = "\n".join(
        f"{row}\nLoading weights: 100%|##| {7 + k % 2}/9 [00:01<00:00]" for k, row in enumerate(without_steps(ROWS))
    )
    assert steps(text)[0] == list(range(1, 13))


def test_a_second_run_in_the_same_file_is_another_run():
    lines = list(map(json.dumps, ROWS))
    found, said = steps("\n".join([*lines[:9], *lines]))
    assert found == list(range(1, 13))
    assert "2 runs (of 9, 12 rows); this is about number 2" in said
    found, said = steps("\n".join([*lines, *lines[:2]]))  # started again, and only just
    assert (found, "number 1 alone" in said) == (list(range(1, 13)), True)
    epochs = [str(row | {"epoch": 0.1 * k}) for k, row in enumerate(without_steps(ROWS))]
    assert "2 runs" in steps("\n".join([*epochs, *epochs]))[1]


def test_what_a_resumed_run_says_again_counts():
    again = [row | {"reward": 0.9} for row in ROWS[7:]]
    rows = understand(parse("\n".join(map(json.dumps, [*ROWS[:10], *again])))).rows
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["reward"] for row in rows[7:]] == [0.9] * 5


def test_an_evaluation_joins_its_step_and_says_nothing_of_the_training():
    rows = understand([*ROWS[:6], EVAL | {"eval_reward": 0.7}]).rows
    assert rows[-1] == ROWS[5] | {"eval/reward": 0.7}


def test_missing_steps_and_numbers_stay_missing():
    rows = understand(
        [ROWS[0], {"step": 40, "loss": None, "reward": 0.5, "kl": ""}, {"step": 41, "reward": "No Log", "kl": "nan"}]
    ).rows
    assert rows[1] == {"step": 40, "reward": 0.5}
    assert math.isnan(rows[2].pop("kl"))
    assert rows[2] == {"step": 41}


# --- names and numbers --------------------------------------------------------------------------------------------------


NAMES = """
completion_length = completions/mean_length; train/completions/mean_length = completions/mean_length; Training Loss = loss
train/loss = loss; clip_ratio = clip_ratio; clip_ratio/region_mean = clip_ratio; actor/pg_clipfrac = clip_ratio; KL = kl
completions / clipped_ratio = completions/clipped_ratio; actor/ppo_kl = None; rewards/f/mean = rewards/f/mean
rewards/f = rewards/f/mean; rewards / F / std = rewards/F/std; train/rewards/a/b/mean = rewards/a/b/mean
reward/mean = reward; eval_reward = eval/reward; eval_reward_std = None; learning rate = learning_rate; reward__MIN = None
val-core/gsm8k/reward/mean@1 = eval/core/gsm8k/reward/mean@1; step_time = None
"""


@pytest.mark.parametrize("pair", re.split("[;\n]", NAMES.strip()))
def test_names(pair):
    name, standard = pair.strip().split(" = ")
    assert str(standard_name(name)[0]) == standard


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("1e-06", 1e-6), ("-0.0", 0.0), ("1,234.5", 1234.5), (".5", 0.5), ("−0.25", -0.25), ("inf", math.inf), (3, 3.0),
        ("-Infinity", -math.inf), ("", None), ("No Log", None), ("N/A", None), ("0x1f", None), ("1_000", None), (True, None),
        ([1.0], None), (10**400, None),
    ],
)  # fmt: skip
def test_numbers(value, number):
    assert as_number(value) == number


@pytest.mark.parametrize(("text", "number"), [("0.0", 0.0), ("0", 0.0), (0.0, 0.0), ("0.000", None), ("0.000000", None)])
def test_a_learning_rate_that_a_printer_rounded_to_0_is_not_0(text, number):
    assert as_number(text, "learning_rate") == number


def test_the_better_of_two_witnesses_counts():
    row = understand([{"completion_length": 80.0, "completions/mean_length": 40.0, "reward": 1.0}]).rows[0]
    assert row["completions/mean_length"] == 40.0
    assert understand([{"clip_ratio/low_mean": 0.1, "clip_ratio/high_mean": 0.2, "reward": 1}]).rows[0][
        "clip_ratio"
    ] == pytest.approx(0.3)
    assert (
        understand([{"critic/advantages/max": 0.0, "critic/advantages/min": 0.0, "critic/score/mean": 0.9}]).rows[0][
            "frac_reward_zero_std"
        ]
        == 1
    )


# --- files, folders, and what is none -------------------------------------------------------------------------------------


def test_the_folders_of_a_trainer(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"log_history": ROWS[:step]}))
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    log = read_log(tmp_path)
    assert (len(log.rows), log.config) == (10, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train_stdout.log").write_text(console(ROWS))
    assert diagnose(tmp_path / "other").rows == 12


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.log", b"", "is empty"), ("a.log", b"hello {world: 1}\n1,2,3\n", "no metrics"), ("a.json", b"{}", "no metrics"),
        ("a.txt", b"\x1f\x8b\x08", "gzip"), ("a.csv", b"name,age\nann,3\n", "no metrics"), ("a.log", b"\0\0\0", "no metrics"),
        ("a.jsonl", b"[" * 100_000, "no metrics"), ("a.md", b"|" * 5000, "no metrics"),
        ("a.json", b'{"log_history": []}', "no metrics"),
    ],
)  # fmt: skip
def test_what_is_no_log_is_refused_in_a_sentence(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=said):
        diagnose(tmp_path / name)


def test_what_is_not_there_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(BadInput, match="no file or folder"):
        diagnose(tmp_path / "none")
    with pytest.raises(BadInput, match="has no metrics"):
        diagnose(tmp_path)
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text("")
    with pytest.raises(BadInput, match="holds 2"):
        diagnose(tmp_path)
    for nothing in ([], [{"lr": 3}], [{}], [{"reward": None}]):
        with pytest.raises(BadInput, match="no row with a number"):
            diagnose(nothing)
    with pytest.raises(BadInput, match="list of dicts"):
        diagnose({"reward": [1, 2]})


def test_python_takes_rows_a_history_and_a_data_frame():
    frame = pandas.DataFrame([*ROWS, EVAL | {"step": 12}, SUMMARY])  # its empty cells are NaN, and no NaN of the run
    for run in (ROWS, [*ROWS, SUMMARY], frame):
        assert minigrpo.diagnose(run).to_dict() == diagnose(ROWS).to_dict()
    gone = [row | ({"loss": math.nan, "grad_norm": math.nan} if row["step"] > 6 else {}) for row in ROWS]
    assert minigrpo.diagnose(pandas.DataFrame(gone)).first.name == "not_a_number"
