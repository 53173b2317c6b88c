"""Files: what was written comes back, whatever it holds; what cannot be read is said with its place and the likely cause."""

import csv
import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minigrpo.config import BadInput
from minigrpo.files import check_characters, check_number, read_rows

pytestmark = pytest.mark.quick

# Everything at which str.splitlines splits, and the quotes, commas and marks that formats are made of.
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
TRICKY = st.sampled_from([*BREAKS, "\r\n", '"', '""', ",", ";", "\t", "\\", "\0", "\ufeff", "NA", "null", " ", "等", "🙂", "'"])
texts = st.lists(TRICKY | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=6).map("".join)
tables = st.lists(st.fixed_dictionaries({"prompt": texts, "response": texts}), min_size=1, max_size=4)


def with_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def with_pandas(path, rows):
    pd.DataFrame(rows, dtype="object").to_csv(path, index=False, quoting=csv.QUOTE_ALL, lineterminator="\n")


def with_json(path, rows, **kwargs):
    documents = [rows] if path.suffix == ".json" else rows
    path.write_bytes("".join(json.dumps(document, **kwargs) + "\n" for document in documents).encode())


WRITERS = {
    "csv.csv": with_csv,
    "pandas.csv": with_pandas,
    "ascii.jsonl": with_json,
    "raw.jsonl": lambda path, rows: with_json(path, rows, ensure_ascii=False),
    "raw.json": lambda path, rows: with_json(path, rows, ensure_ascii=False),
    "indented.json": lambda path, rows: with_json(path, rows, indent=2),
    "table.parquet": lambda path, rows: Dataset.from_list(rows).to_parquet(path),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, deadline=None)
@given(rows=tables)
@example(rows=[{"prompt": f"a{character}b", "response": character} for character in BREAKS])
@example(rows=[{"prompt": "a\r\nb", "response": "c"}])
@example(rows=[{"prompt": "x" * 200_000, "response": "past the csv module's limit"}])
def test_whatever_text_was_written_comes_back(tmp_path_factory, name, rows):
    path = tmp_path_factory.mktemp("written") / name
    WRITERS[name](path, rows)
    assert [row for _, row in read_rows(path)] == rows


def test_the_limit_of_the_csv_module_is_left_as_it_was(tmp_path):
    before = csv.field_size_limit()
    with_csv(tmp_path / "mine.csv", [{"prompt": "x" * 200_000}])
    list(read_rows(tmp_path / "mine.csv"))
    assert csv.field_size_limit() == before


def test_the_place_of_a_row_is_where_a_person_finds_it(tmp_path):
    """Of JSONL the line, blank ones counted; of CSV the record, and the line that it begins in."""
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "a.json").write_text('[{"a": 1},\n{"a": 2}]')
    (tmp_path / "a.csv").write_text('a,b\n"x\ny",1\n\nz,2\n')
    assert [place for place, _ in read_rows(tmp_path / "a.jsonl")] == ["row 1", "row 3"]
    assert [place for place, _ in read_rows(tmp_path / "a.json")] == ["row 1", "row 2"]
    assert [place for place, _ in read_rows(tmp_path / "a.csv")] == ["row 1 (line 2)", "row 2 (line 5)"]


@pytest.mark.parametrize("name", ["A.JSONL", "B.CSV", "C.Json", "d.csv", "e.jsonl"])
def test_every_line_ending_and_upper_case_names_are_read(tmp_path, name):
    table = name.lower().endswith("csv")
    lines = ["a,b", "1,x", '2,"y"', ""] if table else ['{"a": "1", "b": "x"}', '{"a": "2", "b": "y"}', ""]
    for ending in ("\n", "\r\n", "\r") if table else ("\n", "\r\n"):
        (tmp_path / name).write_bytes(ending.join(lines).encode())
        assert [row for _, row in read_rows(tmp_path / name)] == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.csv",
            "a,b\n1,2\nyes, no,3\n",
            r"row 2 \(line 3\), has more fields \(3\) than the header \(2\): a text that holds a comma needs quotation marks",
        ),
        ("a.csv", "a,b\n1\n", r"row 1 \(line 2\), has fewer fields \(1\) than the header \(2\): is a comma missing"),
        ("a.csv", "a,b,a\n1,2,3\n", "the column 'a' twice"),
        ("a.csv", "a;b\n1;2,5\n", "'a;b': are its fields separated by semicolons"),
        ("a.csv", "a\tb\n1\t2\n", "separated by tabs"),
        (
            "a.csv",
            'a,b\n1,2\n"x,3\n4,5\n',
            r"row 2 \(line 3\), is not CSV: unexpected end of data; is a quotation mark missing",
        ),
        ("a.csv", "a,b\n1\r2,3\n", r"row 1 \(line 2\), is not CSV"),
        ("a.csv", "a,b\n1,é\n".encode("latin-1"), "line 2, is not UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "is in UTF-16"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), "NUL bytes.*UTF-16"),
        ("a.csv", b"PK\x03\x04...", "is a zip archive, as Excel's workbooks are"),
        ("a.jsonl", b"\x1f\x8b\x08...", "is compressed by gzip; unpack it first"),
        ("a.jsonl.gz", b"\x1f\x8b\x08...", "is compressed by gzip; unpack it first"),
        ("a.jsonl", b"PAR1", "is a Parquet file; give it the ending"),
        ("a.jsonl", '{"a": 1}\n{"a": "x\0"}\n', "row 2, is not JSON: Invalid control character at column 9"),
        ("a.jsonl", '{"a": 1, "a": 2}\n', "row 1, is not JSON that can be read: the key 'a' stands twice"),
        ("a.jsonl", '{"m": [{"a": 1, "a": 2}]}\n', "row 1, .* the key 'a' stands twice"),
        ("a.jsonl", '{\n "a": 1\n}\n', "row 1, is not JSON: .* a line holds one whole record"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "row 1, is not JSON that can be read: Exceeds the limit"),
        ("a.json", '[{"a": 1},\n {"a": 2},]', "line 2, is not JSON"),
        ("a.json", '[{"a": 1, "a": 2}]', "the key 'a' stands twice"),
        ("a.json", "[" * 200_000, "is not JSON that can be read"),
        ("a.parquet", b"", "is not a Parquet file"),
        ("a.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "is not a Parquet file"),
        ("a.txt", b"a", "ends with '.txt'"),
        ("a", b"a", "ends with ''"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=sentence) as error:
        list(read_rows(path))
    assert "\n" not in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(BadInput, match="is a folder; name a file in it"):
        read_rows(tmp_path)
    with pytest.raises(BadInput, match="There is no file"):
        read_rows(tmp_path / "nowhere.csv")
    (tmp_path / "rows.csv").write_text("prompt")
    with pytest.raises(BadInput, match=r"rowz\.csv'; is '.*rows\.csv' meant\?$"):
        read_rows(tmp_path / "rowz.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_an_empty_file_has_no_rows(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert list(read_rows(tmp_path / name)) == []


def test_a_column_that_stands_twice_in_a_parquet_file_is_refused(tmp_path):
    """Its rows as dicts would hold the last of the two."""
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["reward", "reward"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="has the column 'reward' twice"):
        read_rows(tmp_path / "a.parquet")


def test_columns_of_a_path_are_no_columns_of_a_parquet_file(tmp_path):
    """Arrow would read year=2024 in a folder's name as a column."""
    (tmp_path / "year=2024").mkdir()
    Dataset.from_list([{"a": "x"}]).to_parquet(tmp_path / "year=2024" / "a.parquet")
    assert [row for _, row in read_rows(tmp_path / "year=2024" / "a.parquet")] == [{"a": "x"}]


# --- what may stand in a row ------------------------------------------------------------------------------------------


NUMBERS = [(3, 3.0), ("4.5", 4.5), (" -1e-3 ", -0.001), (".5", 0.5), ("5.", 5.0), (Decimal("2.50"), 2.5), ("0", 0.0)]
NUMBERS += [(Fraction(1, 2), 0.5), (np.float32(1.5), 1.5), (np.int64(7), 7.0), (torch.tensor(2.5), 2.5), (3.4e38, 3.4e38)]
NO_NUMBERS = ["1_000", "1e39", 1e39, -1e39, 10**39, "٣", "nan", "inf", "4,5", "", "0x10", b"5", True, np.True_, math.nan]
NO_NUMBERS += [10**5000, math.inf, Decimal("NaN"), [1], torch.tensor([1.0]), None]


def test_what_is_a_number_and_what_is_none():
    for value, number in NUMBERS:
        assert check_number(value, "row 1", "reward") == number
    for value in NO_NUMBERS:
        with pytest.raises(BadInput, match=r"row 1, has .* as its reward; wanted is a finite number"):
            check_number(value, "row 1", "reward")


def test_half_a_character_is_none():
    check_characters("a 🙂 and 等", "row 1")
    with pytest.raises(BadInput, match=r"row 1, holds '.ud83d', half of a character"):
        check_characters("a \ud83d", "row 1")
