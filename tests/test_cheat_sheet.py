"""The cheat sheet: every name in it exists, and what it says of defaults is so."""

import dataclasses
import re
from pathlib import Path

import pytest

import minigrpo
from minigrpo.config import GRPOConfig
from minigrpo.metrics import METRICS

pytestmark = pytest.mark.quick

SHEET = Path(__file__).parents[1] / "notebooks" / "cheat_sheet.md"
TEXT = SHEET.read_text(encoding="utf-8")
FIELDS = {field.name: field.default for field in dataclasses.fields(GRPOConfig)}
ARGUMENTS = {"logprobs", "old_logprobs", "ref_logprobs"}  # of grpo_loss and the estimators


def rows(title):
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]


def names(cell):
    return [name.split(".")[0] for name in re.findall(r"`([^`]+)`", cell) if not name.startswith("minigrpo ")]


def test_every_name_of_ours_exists():
    ours = [cell for row in rows("Formulas") for cell in row[2:3]]
    ours += [row[1] for row in rows("Names")]
    ours += [cell for row in rows("Symptoms") for cell in row]
    found = [name for cell in ours for name in names(cell)]
    assert len(found) > 50
    assert set(found) <= {*dir(minigrpo), *FIELDS, *METRICS, *ARGUMENTS}


def test_every_name_of_trl_exists():
    trl = pytest.importorskip("trl")
    fields = {field.name: field.default for field in dataclasses.fields(trl.GRPOConfig)}
    internal = {"per_token_logps", "old_per_token_logps", "ref_per_token_logps", "RLOOTrainer"}
    for row in rows("Names"):
        assert {*names(row[2])} - internal <= set(fields)
        if "the same" in row[2]:
            assert {*names(row[1])} <= set(fields)
    assert (fields["beta"], fields["loss_type"], fields["use_bias_correction_kl"]) == (0.0, "dapo", True)
    assert (FIELDS["beta"], FIELDS["loss_type"]) == (0.04, "grpo")
    assert hasattr(trl, "RLOOTrainer")


def test_it_is_one_page_whose_links_lead_somewhere():
    assert len(TEXT.splitlines()) < 80
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert {link[:2] for link in links} >= {"01", "02", "03", "06", "08", "09"}
    assert all((SHEET.parent / link).exists() for link in links)
