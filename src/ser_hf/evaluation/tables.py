"""The one table writer: aligned text for a screen, Markdown for a card, and how a figure, a metric's name and text from
outside are written in either."""

import re
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

WIDTH = 120  # columns of the terminal that text tables fit into
NAMES = {"uar": "UAR", "wa": "WA", "ccc": "CCC", "mae": "MAE", "mse": "MSE", "rmse": "RMSE", "map": "mAP", "f1": "F1"}
# Control characters, bytes of names that are not UTF-8, and marks that turn the direction of what follows.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
NUMERIC = re.compile(r"(-?[\d.,]+( \[.*\])?( \([A-Za-z -]+\))*|-|undefined)?")  # cells that stand to the right


def shown(metric: str) -> str:
    """A metric's name for people.

    >>> shown("macro_f1"), shown("uar"), shown("ccc_arousal")
    ('macro F1', 'UAR', 'CCC arousal')
    """
    return NAMES.get(metric) or " ".join(NAMES.get(word, word) for word in metric.split("_"))


def number(value: float | int | str | None) -> str:
    """A figure with three decimals; None is "undefined".

    >>> number(0.12345), number(-1e-9), number(12), number(None)
    ('0.123', '0.000', '12', 'undefined')
    """
    return "undefined" if value is None else f"{value:z.3f}" if isinstance(value, float) else str(value)


def with_interval(value: float | None, interval: list[float] | None) -> str:
    """A figure and its interval, if it has one: `0.500 [0.400, 0.600]`."""
    return number(value) + ("" if interval is None else " [{:z.3f}, {:z.3f}]".format(*interval))


def scored(part: dict, metric: str) -> str:
    """A metric of a part that `scoring.score` has scored, with its interval."""
    return with_interval(part["metrics"][metric], part["intervals"].get(metric))


def one_line(text: object) -> str:
    r"""Text from outside as one line of characters that can be seen, others as U+FFFD.

    >>> one_line("a\r\n b\x1b\udcff")
    'a b\ufffd\ufffd'
    """
    return UNSEEN.sub("\ufffd", " ".join(str(text).split()))


def escape(text: object) -> str:
    r"""Text from outside as one line of Markdown: no markup, no HTML, no link, no table break.

    >>> escape("a|b <i>*x*\n# c_d _e_ [x](y)")
    'a\\|b &lt;i>\\*x\\* # c_d \\_e\\_ \\[x\\](y)'
    >>> escape("- x"), escape("1. x"), escape("1.5 s"), escape("a & &lt;")
    ('\\- x', '1\\. x', '1.5 s', 'a &amp; &amp;lt;')
    """
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)
    # what begins a numbered list, a heading, a quote, a list or a rule
    return re.sub(r"^(\d+(?=[.)](?:\s|$))|(?=[=#>]|[-+](?:[\s-]|$)))", r"\1\\", line)


def plain(text: object) -> str:
    """Text from outside for metadata, where nothing can be escaped: without the characters of Markdown and HTML.

    >>> plain("![x](y) <b>"), plain("./my_corpus (4class)")
    ('x (y) b', './my_corpus (4class)')
    """
    return one_line(re.sub(r"[<>\[\]`*|\\!]", " ", str(text)))


def rows_of(table: dict[str, dict], first: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table by name; `first` heads the names.

    >>> rows_of({"angry": {"recall": 0.5, "support": 4}}, "label")
    (['label', 'recall', 'support'], [['angry', '0.500', '4']])
    """
    columns = list(next(iter(table.values()), {}))
    return [first, *map(shown, columns)], [[name, *(number(row[c]) for c in columns)] for name, row in table.items()]


def text_table(header: list[str], rows: list[list], width: int = WIDTH) -> list[str]:
    """Lines of a table: numbers to the right; the widest columns are wrapped at spaces until it fits into `width`.

    >>> text_table(["name", "n"], [["emodb", 535], ["smile", 85]])
    ['name     n', 'emodb  535', 'smile   85']
    """
    columns = [[str(cell) for cell in column] for column in zip(header, *rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    least = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns]
    while sum(widths) + 2 * len(widths) - 2 > width and widths != least:
        widest = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
        widths[widest] -= 1
    numeric = [all(NUMERIC.fullmatch(cell) for cell in column[1:]) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [textwrap.wrap(c, w, break_on_hyphens=False) for c, w in zip(row, widths, strict=True)]
        for part in range(max(map(len, cells))):
            texts = [cell[part] if part < len(cell) else "" for cell in cells]
            padded = zip(texts, widths, numeric, strict=True)
            lines.append("  ".join(t.rjust(w) if right else t.ljust(w) for t, w, right in padded).rstrip())
    return lines


def markdown_table(header: list[str], rows: list[list]) -> str:
    """A Markdown table whose columns are also aligned on a screen. Every cell but a figure is escaped.

    >>> print(markdown_table(["name", "n"], [["a|b", 1]]))
    | name | n   |
    | ---- | --- |
    | a\\|b | 1   |
    """
    cells = [[c if NUMERIC.fullmatch(c) else escape(c) for c in map(str, row)] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("-" * width for width in widths), *lines[1:]))


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **facts: object) -> str:
    """A template of `templates/`: every expression is one line of escaped text (`escape`), whatever comes from outside,
    unless it is `Markup`, which is Markdown or code of our own."""
    return _templates().get_template(template).render(**facts)
