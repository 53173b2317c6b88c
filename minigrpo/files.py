"""Rows of a file: .jsonl, .json, .csv or .parquet; the one place that knows these formats."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset

from minigrpo.config import BadInput


def read_rows(path: Path) -> Iterable[tuple[int, dict]]:
    """(row number, row) of a file. A row of JSONL is a line; rows of CSV and Parquet are counted from 1."""
    if not path.is_file():
        raise BadInput(f"There is no file {str(path)!r}.")
    if path.suffix == ".parquet":
        try:
            yield from enumerate(Dataset.from_parquet(str(path), keep_in_memory=True), 1)
        except Exception as error:  # whatever a damaged file makes the reader raise
            raise BadInput(f"{path} is not a Parquet file that can be read: {str(error).splitlines()[0]}") from error
        return
    if path.suffix not in (".jsonl", ".json", ".csv"):
        raise BadInput(f"{path} ends with {path.suffix!r}; records are read from .jsonl, .csv and .parquet.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise BadInput(f"{path}, row {row}, is not UTF-8; save it in that encoding.") from error
    if path.suffix == ".csv":
        try:
            yield from enumerate(csv.DictReader(text.splitlines(keepends=True), strict=True), 1)
        except csv.Error as error:
            raise BadInput(f"{path} is not CSV: {error}.") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{path}, row {number}, is not JSON: {error}.") from error
