import os

import pytest

from minigrpo.run.summary import plot_to


@pytest.mark.parametrize("backend", [None, "module://matplotlib_inline.backend_inline"])
def test_a_picture_leaves_the_environment_as_it_was(tmp_path, monkeypatch, backend):
    """A JupyterLab that the same process starts later would otherwise show no figure."""
    monkeypatch.delenv("MPLBACKEND", raising=False)
    if backend is not None:
        monkeypatch.setenv("MPLBACKEND", backend)
    plot_to(tmp_path / "curves.png", [[{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.6}]], "run")
    assert (tmp_path / "curves.png").exists()
    assert os.environ.get("MPLBACKEND") == backend


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a$b$c", "$\\frac$", "等", "a\x01\n", "a\udcff", "x" * 300])
def test_a_title_is_a_folders_name_and_no_formula(tmp_path, name):
    plot_to(tmp_path / "curves.PNG", [[{"step": 1, "reward": -3e38}, {"step": 10**30, "reward": 3e38}]], name)
    assert (tmp_path / "curves.PNG").stat().st_size > 10_000
