"""Tables of any kind, with what had to be assumed to read them: delimiter, encoding, sheet."""

import ast
import csv
import io
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SerError, one_line
from .columns import KNOWN, plain

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".xlsx")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Marks at the start of a file. UTF-32's begins with UTF-16's.
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
DECIMAL_COMMA = re.compile(r"^\s*([+-]?\d+),(\d+)\s*$")
MISSING = frozenset(("", "nan", "none", "null", "n/a", "na", "<na>", "#n/a", "-1"))


def read_table(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The cells of a table as they are (text without blanks around it, in Unicode's composed form), and remarks on what
    was assumed and on rows that cannot be read. SerError: no table; the package for it is missing."""
    try:
        raw = path.read_bytes()
        if raw[:4] == b"PAR1":
            import pyarrow.parquet as pq

            frame, remarks = pd.DataFrame(pq.read_table(io.BytesIO(raw)).to_pylist(), dtype=object), []
        elif raw[:4] == b"PK\3\4":
            frame, remarks = _sheet(path, raw)
        elif path.suffix.lower() in (".parquet", ".xlsx"):
            raise ValueError("its content is something else")
        else:
            text, remarks = _decoded(raw, path.name)
            reader = _json if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv
            frame, more = reader(text, path.name)
            remarks += more
    except SerError:
        raise
    except (OSError, ValueError, csv.Error, KeyError) as error:
        raise SerError(f"{path}: cannot be read as a table ({one_line(error)})") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame.loc[:, ~frame.columns.duplicated()].map(tidy), remarks


def tidy(value: Any) -> Any:
    """A cell: text without blanks around it, in composed form and with escapes for what is no Unicode (half a character
    of JSON, a folder's name), None for NaN, others as they are."""
    if isinstance(value, str):
        return value and unicodedata.normalize("NFC", value.strip()).encode(errors="backslashreplace").decode()
    return None if isinstance(value, float) and value != value else value


def _decoded(raw: bytes, name: str) -> tuple[str, list[str]]:
    encoding = next((encoding for mark, encoding in MARKS.items() if raw.startswith(mark)), None)
    if encoding is None and raw[:200].count(0) > 50:  # every second byte of UTF-16 is zero in Latin text
        encoding = "utf-16-le" if raw[1:200:2].count(0) > raw[:200:2].count(0) else "utf-16-be"
    for guess in [encoding] if encoding else ["utf-8", "cp1252", "latin-1"]:
        try:
            text = raw.decode(guess)
        except UnicodeDecodeError as error:
            if encoding:
                raise ValueError(f"not {encoding.upper()}: {error.reason}") from None
            continue
        usual = guess in ("utf-8", "utf-8-sig")
        return text, [] if usual else [f"{name} was read as {'Latin-1' if guess[0] in 'cl' else guess.upper()}"]
    raise AssertionError("latin-1 decodes everything")


def _csv(text: str, name: str) -> tuple[pd.DataFrame, list[str]]:
    head = next((line for line in text.splitlines() if line.strip()), "")
    if not head:
        raise ValueError("it is empty")
    heads = {sign: [cell.strip() for cell in next(csv.reader([head], delimiter=sign))] for sign in DELIMITERS}
    usual = {plain(column) for known in KNOWN.values() for column in known}
    sign = max(heads, key=lambda sign: (sum(plain(cell) in usual for cell in heads[sign]), len(heads[sign])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign)
    names, rows, odd = None, [], []
    for cells in reader:
        if len(cells) < 2 and not "".join(cells).strip():
            continue
        if names is None:
            names = [cell.strip() or f"column{position}" for position, cell in enumerate(cells, 1)]
        elif any(cell.strip() for cell in cells[len(names) :]):
            odd.append(reader.line_num)
        else:
            rows.append([*cells, *[""] * (len(names) - len(cells))][: len(names)])
    remarks = [f"{name} is separated by {DELIMITERS[sign]}"] if sign != "," and not name.endswith(".tsv") else []
    if sign != ",":  # as spreadsheets write where decimals have a comma
        points = [[DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in row] for row in rows]
        remarks += [f"numbers of {name} with a comma were read as decimals (0,5 as 0.5)"] * (points != rows)
        rows = points
    if odd:
        remarks.append(f"rows of {name} with more cells than its header: {len(odd)}, such as line {odd[0]}; skipped")
    return pd.DataFrame(rows, columns=names, dtype=object), remarks


def _json(text: str, name: str) -> tuple[pd.DataFrame, list[str]]:
    try:  # one document: a list of rows, or columns
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, list):
        lines = whole
    elif isinstance(whole, dict) and whole and all(isinstance(column, list) for column in whole.values()):
        lines = pd.DataFrame(whole, dtype=object).to_dict("records")
    else:
        lines = []
        for line in filter(str.strip, text.splitlines()):
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append(None)
    rows = [line for line in lines if isinstance(line, dict)]
    if not rows:
        raise ValueError("no line of it is a JSON object")
    bad = len(lines) - len(rows)
    return pd.DataFrame(rows, dtype=object), [f"lines of {name} that are no JSON object: {bad}; skipped"] if bad else []


def _sheet(path: Path, raw: bytes) -> tuple[pd.DataFrame, list[str]]:
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise SerError(f"{path}: Excel files need openpyxl: pip install ser-hf[xlsx], or save it as csv") from None
    try:
        book = load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
        cells = [row for row in book.worksheets[0].iter_rows(values_only=True) if any(cell is not None for cell in row)]
    except Exception as error:  # of zipfile, XML and openpyxl: cut off, or another kind of zip
        raise ValueError(f"no Excel file, or a damaged one: {error}") from None
    if not cells:
        raise ValueError(f"its sheet {book.worksheets[0].title!r} is empty")
    names = [f"column{position}" if name is None else str(name) for position, name in enumerate(cells[0], 1)]
    more = len(book.worksheets) - 1
    first = f"{path.name}: its first sheet {book.worksheets[0].title!r} was read, {more} more were not"
    return pd.DataFrame(cells[1:], columns=names, dtype=object), [first] if more else []


def parsed(cells: list) -> list:
    """Cells of a table that knows text only, as the numbers, lists or objects that all of them are; else as they are.

    >>> parsed(["1", "2.5", ""]), parsed(["['sad', 'angry']"]), parsed(["sad", "1"])
    ([1, 2.5, None], [['sad', 'angry']], ['sad', '1'])
    """
    values = []
    for cell in cells:
        if not isinstance(cell, str):
            values.append(cell)
        elif is_missing(cell) and cell != "-1":
            values.append(None)
        else:
            try:
                value = json.loads(cell)
            except ValueError:
                if cell[:1] not in "[{":
                    return cells
                try:
                    value = ast.literal_eval(cell)  # as pandas writes a list
                except (ValueError, SyntaxError, MemoryError, RecursionError):
                    return cells
            if type(value) not in (int, float, list, dict):
                return cells
            values.append(value)
    return values


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: None, NaN, -1 (the Hub's way to say so), or the words of `MISSING`."""
    if isinstance(value, str):
        return value.casefold() in MISSING
    return value is None or (isinstance(value, int | float) and (value != value or value == -1))


def as_text(value: Any) -> str | None:
    """A cell as text, None if it says nothing. Whole numbers have no point, which pandas and Excel give them.

    >>> as_text(3.0), as_text("NaN"), as_text(True)
    ('3', None, 'True')
    """
    if is_missing(value):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
