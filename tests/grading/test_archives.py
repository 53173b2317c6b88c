"""Zip files as learning platforms give them out, and such as nobody should unpack."""

import json
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from minigrpo.config import BadInput
from minigrpo.grading import archives, batch
from minigrpo.grading.people import find

NOTEBOOK = json.dumps({"cells": [{"cell_type": "code", "source": "x = 1"}]})
MOODLE = {
    "Ann Smith_81_assignsubmission_file/ex06_kl.ipynb": "Ann Smith 81",
    "Ann Smith_82_assignsubmission_file/ex06_kl.ipynb": "Ann Smith 82",
    "Bob O'Neil_83_assignsubmission_file_/sub/ex06 (1).ipynb": "Bob O'Neil 83",
    "Zoë_84_assignsubmission_file_ex06_kl.ipynb": "Zoë 84",  # without folders
}
CANVAS = {
    "smithann_81_4711_ex06_kl.ipynb": "smithann 81",
    "oneilbob_LATE_82_4712_ex06_kl-1.ipynb": "oneilbob 82",
}


def archive(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in files.items():
            made.writestr(name, text)
    return path


@pytest.mark.parametrize("files", [MOODLE, CANVAS], ids=["Moodle", "Canvas"])
def test_what_a_platform_gives_out_is_everybodys_own(tmp_path, files):
    given = archive(tmp_path / "all.zip", dict.fromkeys(files, NOTEBOOK))
    found = find(archives.unpack([given], tmp_path / "room"))
    assert sorted(one.person for one in found) == sorted(files.values())
    assert {one.path.read_text() for one in found} == {NOTEBOOK}


def test_a_platforms_name_is_shortened_and_no_other():
    for name in ("ann", "ex06_kl", "smith_ann_ex06_kl", "ann_1", "2026_81_4711_x"):
        assert archives.person(name) == name


def test_of_other_files_there_is_the_name_alone(tmp_path):
    given = archive(tmp_path / "all.ZIP", {"ann/work.py": "x" * 9, "ann/old.zip": "y", "bob/ex06.ipynb": NOTEBOOK})
    (folder,) = archives.unpack([given], tmp_path / "room")
    assert (folder / "ann" / "work.py").stat().st_size == 0
    problems = {one.person: one.problem for one in find([folder])}
    assert problems == {"ann": "There is no notebook (.ipynb) here, but old.zip, work.py.", "bob": ""}


def test_a_folder_that_holds_nothing_to_see_has_a_row_too(tmp_path):
    for person in ("ann", "bob", "cy/work"):
        (tmp_path / person).mkdir(parents=True)
    (tmp_path / "bob" / ".DS_Store").write_text("")
    (tmp_path / "cy" / "notes.md").write_text("")
    (tmp_path / "dan.ipynb").write_text(NOTEBOOK)
    problems = {one.person: one.problem for one in find([tmp_path])}
    notes = "There is no notebook (.ipynb) here, but notes.md."
    assert problems == {"ann": "The folder is empty.", "bob": "The folder is empty.", "cy": notes, "dan": ""}


def test_windows_slashes_and_names_that_are_too_long(tmp_path):
    given = archive(tmp_path / "all.zip", {"ann\\ex06.ipynb": NOTEBOOK, f"bob/ex06_{'é' * 200}.ipynb": NOTEBOOK})
    assert [one.person for one in find(archives.unpack([given], tmp_path / "room"))] == ["ann", "bob"]


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def of_size(name, size):
    """A header that lies about its size, as a bomb's."""
    entry = zipfile.ZipInfo(name)
    entry.file_size = size
    return entry


BAD = {
    "a path outside": ({"../ann/ex06.ipynb": "x"}, "leads out of the folder"),
    "a path inside that goes up": ({"ann/../../ex06.ipynb": "x"}, "leads out of the folder"),
    "a path from the root": ({"/etc/ex06.ipynb": "x"}, "leads out of the folder"),
    "a path with slashes of Windows": ({"..\\ex06.ipynb": "x"}, "leads out of the folder"),
    "a drive": ({"C:\\ex06.ipynb": "x"}, "leads out of the folder"),
    "a link": ({link("ann/ex06.ipynb"): "/etc/passwd"}, "a link"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_in_a_sentence_and_nothing_is_written(tmp_path, name):
    files, said = BAD[name]
    given = archive(tmp_path / "all.zip", {"bob/ex06.ipynb": NOTEBOOK, **files})
    with pytest.raises(BadInput, match=said):
        archives.unpack([given], tmp_path / "room")
    assert not (tmp_path / "room").exists()
    assert not (tmp_path.parent / "ann").exists()


def test_too_much_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    given = archive(tmp_path / "all.zip", {f"{n}/ex06.ipynb": " " * 1000 for n in range(4)})
    monkeypatch.setattr(archives, "LARGEST", 3999)
    with pytest.raises(BadInput, match=r"The notebooks in .*all\.zip are"):
        archives.unpack([given], tmp_path / "room")
    monkeypatch.setattr(archives, "MOST", 3)
    with pytest.raises(BadInput, match="holds 4 files"):
        archives.unpack([given], tmp_path / "room")
    assert not (tmp_path / "room").exists()


def test_a_notebook_that_is_too_large_costs_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_FILE", 500)
    given = archive(tmp_path / "all.zip", {"ann/ex06.ipynb": " " * 1000, "bob/ex06.ipynb": NOTEBOOK})
    (folder,) = archives.unpack([given], tmp_path / "room")
    assert (folder / "ann" / "ex06.ipynb").stat().st_size == 501
    assert (folder / "bob" / "ex06.ipynb").read_text() == NOTEBOOK


def test_a_size_that_is_a_lie_fills_nothing(tmp_path):
    """A bomb: its header says 10 bytes, and more would come out."""
    given = archive(tmp_path / "all.zip", {"ann/ex06.ipynb": " " * 100_000})
    data = bytearray(given.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # both headers
        data[(at := data.index(mark) + offset) : at + 4] = struct.pack("<I", 10)
    given.write_bytes(data)
    with pytest.raises(BadInput, match="cannot be unpacked"):
        archives.unpack([given], tmp_path / "room")
    assert sum(path.stat().st_size for path in (tmp_path / "room").rglob("*") if path.is_file()) <= 10


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_zip_is_said_so(tmp_path, data):
    (tmp_path / "all.zip").write_bytes(data)
    with pytest.raises(BadInput, match=r"all\.zip cannot be unpacked: File is not a zip file"):
        archives.unpack([tmp_path / "all.zip"], tmp_path / "room")


def test_a_damaged_or_protected_one_is_said_so(tmp_path):
    given = archive(tmp_path / "all.zip", {"ann/ex06.ipynb": NOTEBOOK})
    data = bytearray(given.read_bytes())
    data[50:56] = b"\xff" * 6
    (tmp_path / "damaged.zip").write_bytes(data)
    with pytest.raises(BadInput, match=r"damaged\.zip cannot be unpacked"):
        archives.unpack([tmp_path / "damaged.zip"], tmp_path / "room")
    data = bytearray(given.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    with pytest.raises(BadInput, match="protected by a password"):
        archives.unpack([tmp_path / "secret.zip"], tmp_path / "room")


def test_a_report_names_the_archive_and_its_folder_is_gone(tmp_path, monkeypatch):
    for section in ("monday", "tuesday"):
        (tmp_path / section).mkdir()
        archive(tmp_path / section / "all.zip", dict.fromkeys(MOODLE, "no notebook"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch, "isolation", lambda trust: "none")
    monkeypatch.setattr(batch, "missing", lambda how: [])
    seen = []
    reports, _ = batch.grade_paths(
        [Path("monday/all.zip"), Path("tuesday/all.zip")], each=lambda reports, how: seen.extend(reports)
    )
    assert "monday/all.zip/Ann Smith_81_assignsubmission_file/ex06_kl.ipynb" in {report.file for report in reports}
    assert not [one for one in [*seen, *reports] if "minigrpo-" in one.person + one.file + one.problem]
    assert {"monday/all.zip/Zoë 84", "tuesday/all.zip/Zoë 84"} < {report.person for report in reports}
    assert len({report.person for report in reports}) == 2 * len(MOODLE)
    assert not list(Path(batch.TemporaryDirectory().name).parent.glob("minigrpo-*/0/all.zip"))
