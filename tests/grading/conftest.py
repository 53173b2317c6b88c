"""Shared by the tests of the grader."""

import pytest

collect_ignore = ["light"]  # to look for doctests in its worker would take torch from this process


@pytest.fixture(autouse=True)
def one_run(monkeypatch):
    """ex08 trains the bundled model in one run in place of three: each takes seconds, and nothing else is left out."""
    from minigrpo.grading import ex08

    monkeypatch.setattr(ex08, "RUNS", 1)
