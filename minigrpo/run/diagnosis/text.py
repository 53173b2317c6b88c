"""Numbers in a text: printed dicts between other lines, JSON, tables in Markdown, CSV or HTML, verl's lines, notebooks.

Nothing here knows what the numbers mean; each reader returns dicts as they stand, and rows.py takes those it understands.
"""

import csv
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import chain

ANSI = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))")
DICT = re.compile(r"\{[^{}]*\}")  # the innermost braces, over line breaks too: a terminal breaks long lines
# A key in quotes and what is behind it: np.float64(0.5), tensor(0.5, device='cuda:0'), a text, or a bare number or word.
PAIR = re.compile(
    r"""(?P<q>['"])(?P<key>[^'"]{1,200})(?P=q)\s*:\s*"""
    r"""(?:(?:np\.\w+|\w*tensor|array)\(\s*\[?(?P<inner>[^,\])]*)[^)]*\)|(?P<q2>['"])(?P<text>[^'"]*)(?P=q2)|(?P<bare>[^,}\s]+))"""
)
BAR = re.compile(r"(\d+)/(\d+)\s*\[")  # of tqdm: 4/400 [03:12<5:00:00, 40.1s/it]
VERL = re.compile(r"step:\s*(\d+)\s+-\s+\S+:\S")
DEEPEST = 5  # levels of a JSON document that are searched for rows


def readings(text: str) -> Iterator[list[dict]]:
    """What each reader makes of the text; most find nothing."""
    text = ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ")
    document = _document(text)
    if document is not None:
        outputs = _outputs(document)
        yield from readings(outputs) if outputs else lists_of_rows(document)
        return
    yield printed_dicts(text)
    yield verl_lines(text)
    if "<t" in text.lower():
        yield table_rows(html_table(text))
    bars = text.translate({ord(c): "|" for c in "│┃║"})
    for split in (_cells_between_bars, _fields("\t"), _fields(","), _fields(";"), _columns):
        yield table_rows(map(split, bars.split("\n")))


def _document(text: str):
    """The text as one JSON document of several rows; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def _outputs(document) -> str:
    """What the cells of a notebook show, if it is one."""
    cells = document.get("cells") if isinstance(document, dict) else None
    shown = []
    for cell in cells if isinstance(cells, list) else []:
        for output in cell.get("outputs", []) if isinstance(cell, dict) else []:
            data = output.get("data", {})
            shown += [output.get("text", ""), data.get("text/html") or data.get("text/plain", "")]
    return "\n".join("".join(part) for part in shown)


def lists_of_rows(value, depth: int = 0) -> Iterator[list[dict]]:
    """Each list of objects in a JSON document, such as a trainer's log_history, and each object of columns."""
    if depth > DEEPEST:
        return
    if isinstance(value, list):
        rows = [flat(item) for item in value if isinstance(item, dict)]
        yield rows
        yield from chain.from_iterable(lists_of_rows(item, depth + 1) for item in value[:3])
    elif isinstance(value, dict):
        lists = {name: item for name, item in value.items() if isinstance(item, list)}
        length = max(map(len, lists.values()), default=0)
        full = {name: item for name, item in lists.items() if len(item) == length}
        yield [{name: item[k] for name, item in full.items()} for k in range(length)]
        yield [flat(value)]  # a single row
        yield from chain.from_iterable(lists_of_rows(item, depth + 1) for item in value.values())


def flat(row: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a/b": 1}; names that hold the rows' numbers and nothing else are left out."""
    found = {}
    for name, value in row.items():
        if isinstance(value, dict):
            inside = "" if name in ("metrics", "logs", "log", "data", "train") else f"{prefix}{name}/"
            found |= flat(value, inside)
        else:
            found[f"{prefix}{name}"] = value
    return found


def printed_dicts(text: str) -> list[dict]:
    """Dicts as Python or JSON prints them. ``bar`` and ``bar_of`` are the progress bar's, where one is near."""
    found = []
    lines = []  # what is no whole line of JSON
    for line in text.split("\n"):
        try:
            row = json.loads(line) if line.strip().startswith("{") else None
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            found.append((len(lines), flat(row)))
            line = ""
        lines.append(line)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    found = [(starts[number], row) for number, row in found]
    rest = "\n".join(lines)
    found += [(match.start(), pairs(match[0])) for match in DICT.finditer(rest)]
    found = sorted((item for item in found if item[1]), key=lambda item: item[0])
    return _with_bars(found, [(match.start(), int(match[1]), int(match[2])) for match in BAR.finditer(rest)])


def pairs(text: str) -> dict:
    """{'loss': 0.0, 'kl': nan} -> {"loss": "0.0", "kl": "nan"}, also where a terminal broke the line within a word."""
    found = {}
    for match in PAIR.finditer(text.replace("\n", "")):
        value = next(part for part in (match["inner"], match["text"], match["bare"]) if part is not None)
        found[match["key"]] = value
    return found


def _with_bars(found: list[tuple[int, dict]], bars: list[tuple[int, int, int]]) -> list[dict]:
    """The number of the first bar after a dict and before the next; bars of other things have another total."""
    totals = [total for _, _, total in bars]
    total = max(set(totals), key=totals.count, default=0)
    bars = [(place, number) for place, number, of in bars if of == total]
    rows, following = [], 0
    for k, (place, row) in enumerate(found):
        end = found[k + 1][0] if k + 1 < len(found) else float("inf")
        while following < len(bars) and bars[following][0] < place:
            following += 1
        near = following < len(bars) and bars[following][0] < end
        rows.append({**row, "bar": bars[following][1], "bar_of": total} if near else row)
    return rows


def verl_lines(text: str) -> list[dict]:
    """step:34 - actor/entropy:0.22 - critic/score/mean:-0.018 - ..."""
    rows = []
    for line in text.split("\n"):
        if VERL.search(line):
            items = [item.rpartition(":") for item in line[VERL.search(line).start() :].split(" - ")]
            values = {name.strip(): re.sub(r"^np\.\w+\((.*)\)$", r"\1", value.strip()) for name, _, value in items if name}
            rows.append(values)
    return rows


# --- tables -----------------------------------------------------------------------------------------------------------


def _cells_between_bars(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if "|" in line else []


def _fields(delimiter: str):
    def split(line: str) -> list[str]:
        if delimiter not in line:
            return []
        try:
            return [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            return []

    return split


def _columns(line: str) -> list[str]:
    """Columns that blanks set apart, as a data frame is printed."""
    cells = re.split(r"\s{2,}", line.strip())
    return cells if len(cells) > 1 else []


def table_rows(lines) -> list[dict]:
    """Lines of cells to dicts. A line of words begins a table; what does not fit under it is passed over."""
    header, rows = [], []
    for cells in lines:
        if len(cells) < 2 or all(re.fullmatch(r"[:=+ -]*", cell) for cell in cells):
            continue
        if _is_header(cells):
            header = cells
        elif len(cells) == len(header) + 1:  # an index without a name
            rows.append(dict(zip(header, cells[1:], strict=True)))
        elif len(cells) == len(header):
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


def _is_header(cells: list[str]) -> bool:
    """Words in most cells, and no number in any."""
    words = [bool(re.match(r"[^\W\d_]", cell)) and cell.lower() not in ("nan", "inf", "none", "no log") for cell in cells]
    return sum(words) >= len(cells) - 1 and not any(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell) for cell in cells)


class _Table(HTMLParser):
    def __init__(self):
        super().__init__()
        self.lines: list[list[str]] = []
        self.open = False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.lines.append([])
        elif tag in ("td", "th") and self.lines:
            self.lines[-1].append("")
            self.open = True

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th", "tr")

    def handle_data(self, data):
        if self.open and self.lines and self.lines[-1]:
            self.lines[-1][-1] += data.strip()


def html_table(text: str) -> list[list[str]]:
    """The cells of all tables of a page, line by line."""
    parser = _Table()
    parser.feed(text)
    return parser.lines
