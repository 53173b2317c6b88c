"""Rows of a file, .jsonl, .json, .csv or .parquet, and what may stand in them; the one place that knows these formats."""

import csv
import difflib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from numbers import Real
from pathlib import Path

import pyarrow.parquet

from minigrpo.config import FLOAT32_MAX, BadInput, first_line, plain

TEXT_FORMATS = (".jsonl", ".json", ".csv")
OTHER_BEGINNINGS = {
    b"\xff\xfe": "is in UTF-16, as Excel's 'Unicode text' is; save it as UTF-8",
    b"\xfe\xff": "is in UTF-16; save it as UTF-8",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"PK\x03\x04": "is a zip archive, as Excel's workbooks are; save it as 'CSV UTF-8'",
    b"PAR1": "is a Parquet file; give it the ending .parquet",
}
# float() would also take 1_000, the digits of every script, nan and inf.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def read_rows(path: Path) -> Iterable[tuple[str, dict]]:
    """(place, row) of every row, the place as a message says it: "row 2", counted from 1.

    A row of JSONL is a line of the file, blank ones counted; in a .json file it may also be an item of an array. Of CSV and
    Parquet it is a record; since a CSV's header and line breaks in quotes take lines too, its line stands beside it.

    Raises:
        BadInput: if there is no such file, or it is not what its ending says, with the place where that shows.
    """
    if not path.is_file():
        if path.is_dir():
            raise BadInput(f"{str(path)!r} is a folder; name a file in it.")
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*") if file.is_file()], n=1)
        meant = f"; is {str(path.parent / near[0])!r} meant?" if near else "."
        raise BadInput(f"There is no file {str(path)!r}{meant}")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet_rows(path)
    data = path.read_bytes()
    for beginning, what in OTHER_BEGINNINGS.items():
        if data.startswith(beginning):
            raise BadInput(f"{path} {what}.")
    if kind not in TEXT_FORMATS:
        raise BadInput(f"{path} ends with {path.suffix!r}; rows are read from .jsonl, .json, .csv and .parquet.")
    if b"\0" in data.split(b"\n", 1)[0]:
        raise BadInput(f"{path} holds NUL bytes: it is damaged, or in UTF-16; save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        place = f"line {number}" if kind == ".csv" else f"row {number}"
        raise BadInput(f"{path}, {place}, is not UTF-8; save it in that encoding (in Excel 'CSV UTF-8').") from error
    if kind == ".csv":
        limit = csv.field_size_limit(2**31 - 1)  # the process's, and 131,072 characters by default
        try:
            return list(_csv_rows(path, text))
        finally:
            csv.field_size_limit(limit)
    return _array_rows(path, text) if kind == ".json" and text.lstrip().startswith("[") else _line_rows(path, text)


def _parquet_rows(path: Path) -> Iterable[tuple[str, dict]]:
    try:
        table = pyarrow.parquet.ParquetFile(path).read()
        rows = table.to_pylist()
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise BadInput(f"{path} is not a Parquet file that can be read: {first_line(error)}") from error
    _check_once(path, table.column_names)
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _check_once(path: Path, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"{path} has the column {name!r} twice; rename or delete one.")


# --- CSV --------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict]]:
    # Only what ends the first line ends a row; str.splitlines would split at form feeds and U+2028 as well.
    reader = csv.reader(io.StringIO(text, newline="\n" if "\n" in text else ""), strict=True)
    header, number = None, 1
    while True:
        place = "the header" if header is None else f"row {number} (line {reader.line_num + 1})"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise BadInput(f"{path}, {place}, is not CSV: {error}; is a quotation mark missing?") from error
        if fields is None:
            return
        if not fields:  # a blank line
            continue
        if header is None:
            header = _checked_header(path, fields)
            continue
        if len(fields) != len(header):
            more = len(fields) > len(header)
            how, cause = (
                ("more", "a text that holds a comma needs quotation marks.") if more else ("fewer", "is a comma missing?")
            )
            raise BadInput(f"{path}, {place}, has {how} fields ({len(fields)}) than the header ({len(header)}): {cause}")
        yield place, dict(zip(header, fields, strict=True))
        number += 1


def _checked_header(path: Path, names: list[str]) -> list[str]:
    for delimiter, what in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and delimiter in names[0]:
            raise BadInput(
                f"{path} has a single column, {names[0]!r:.60}: are its fields separated by {what}? Wanted are commas."
            )
    _check_once(path, names)
    return names


# --- JSON -------------------------------------------------------------------------------------------------------------


def _line_rows(path: Path, text: str) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=_object)
            except json.JSONDecodeError as error:
                found = f"{error.msg.removesuffix(' at')} at column {error.colno}"
                raise BadInput(f"{path}, row {number}, is not JSON: {found}; a line holds one whole record.") from error
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{path}, row {number}, is not JSON that can be read: {first_line(error)}.") from error
            yield f"row {number}", row


def _array_rows(path: Path, text: str) -> Iterator[tuple[str, dict]]:
    try:
        rows = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path}, line {error.lineno}, is not JSON: {error.msg.removesuffix(' at')} at column {error.colno}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON that can be read: {first_line(error)}.") from error
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _object(pairs: list[tuple]) -> dict:
    """Python would take the last of two values with one key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return found


# --- what may stand in a row ------------------------------------------------------------------------------------------


def check_characters(text: str, where: str) -> None:
    """Raises BadInput for a lone surrogate, which JSON can spell (as backslash-u d83d) and no file or terminal takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise BadInput(f"{where}, holds {half!r}, half of a character: a text was cut off within an emoji, say.") from None


def check_number(value, where: str, name: str) -> float:
    """``value``, a number or the text of one, as a float. Raises BadInput if float32 does not hold it, or it is a boolean."""
    number = plain(value)
    if isinstance(number, str):
        number = float(number) if NUMBER.fullmatch(number.strip()) else math.nan
    elif isinstance(number, bool) or not isinstance(number, Real | Decimal):
        number = math.nan
    number = float(number) if isinstance(number, Decimal) else number
    if not abs(number) <= FLOAT32_MAX:
        endless = isinstance(number, int) and number.bit_length() > 1000  # Python refuses to write down the longest
        shown = "a number of hundreds of digits" if endless else f"{value!r:.60}"
        raise BadInput(f"{where}, has {shown} as its {name}; wanted is a finite number such as 4.5, at most 3.4e38.")
    return float(number)
