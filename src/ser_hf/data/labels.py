"""What a column of labels means: classes, several labels at once, values, or the votes of raters."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from ..errors import SerError
from .schema import LABEL_SETS, SPELLINGS, LabelConfig
from .tables import as_text, is_missing, parsed

CLASSES, SEVERAL, VALUES = "single_label_classification", "multi_label_classification", "regression"


@dataclass(frozen=True)
class Labels:
    """Label sets of a table, the default first; of each row `{"emotion": word}` or `{"emotion": None, "scores":
    {target: value}}` (None where it has no label), and `votes` where raters voted; and remarks on what was assumed."""

    configs: list[LabelConfig]
    rows: list[dict]
    remarks: list[str]


def label_set(
    title: str, name: str, values: Sequence, order: tuple[str, ...] = (), columns: Sequence[str] = ()
) -> Labels:
    """The label sets that a column of labels makes, or several `columns` of which each value is a list.

    - Words, booleans and whole numbers are classes, in the given `order` of names if any. Spellings that differ in case
      are one class, and known emotion words (`schema.SPELLINGS`) are the vocabulary's. -1 is no label, as on the Hub,
      unless other numbers are negative.
    - Lists of words, `a|b`, and 0 or 1 for each of several labels are several labels at once.
    - Fractions, if they are more than the words beside them, and lists of numbers are values to regress.
    - `{word: number}`, a list that repeats words, and whole numbers in columns named by emotions are votes: the class
      is the word with the most, none where two have.

    SerError: no row has a label; lists of numbers of several lengths.

    >>> labels = label_set("calls", "labels", [10, 9, None])
    >>> labels.configs[0].label_names, [row["emotion"] for row in labels.rows]
    (['9', '10'], ['10', '9', None])
    """
    if columns:
        return _columns(title, name, values, columns)
    values = parsed(list(values))
    numbers = [_number(value) for value in values]
    fractions = sum(_finite(x) and x % 1 != 0 for x in numbers)
    if fractions > sum(isinstance(x, str | list | dict) for x in numbers):  # -1 is a number like others
        return _vectors(title, name, [None if _empty(x) else [x] for x in numbers], ("label",))
    values, remarks = _without_nothing(values, numbers)
    present = [value for value in values if value is not None]
    if not present:
        raise SerError(f"--dataset {title}: no row has a label; fill the column `label`, or name it by --label_column")
    if any(isinstance(value, str) and "|" in value for value in present):
        values = [value if value is None else str(value).split("|") for value in values]
        present = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in present):
        values = [value if value is None or isinstance(value, list) else [value] for value in values]
        numbers = [x for value in present if isinstance(value, list) for x in value if not isinstance(x, str)]
        if len(numbers) < sum(len(value) for value in values if value is not None) or not numbers:
            return _lists_of_words(name, values, remarks)
        return _vectors(title, name, values, remarks=remarks)
    if all(isinstance(value, dict) for value in present):
        return _votes(name, values, remarks)
    if not order and all(isinstance(value, int | float) for value in present):
        order = tuple(dict.fromkeys(_word(value) for value in sorted(present)))
        if len(order) > 2:
            remarks += [f"labels are {len(order)} whole numbers, taken as classes; as values: --label_columns COLUMN"]
    words, more = one_spelling([_word(value) for value in values], "labels", SPELLINGS)
    names, _ = one_spelling(list(order), "labels", SPELLINGS)
    configs = _classes(name, words, tuple(dict.fromkeys(names)))
    return Labels(configs, [{"emotion": word} for word in words], remarks + more)


def _without_nothing(values: list, numbers: list) -> tuple[list, list[str]]:
    """The labels, None where one says nothing, and a remark on these; `numbers` are the labels by `_number`."""
    negative = any(_finite(x) and x < 0 and x != -1 for x in numbers)
    says_nothing = [is_missing(value) and not (negative and x == -1) for value, x in zip(values, numbers, strict=True)]
    nothing = Counter(str(value) for value in compress(values, says_nothing) if not _empty(value))
    hint = "; if -1 is a class, give it a name" if {"-1", "-1.0"} & nothing.keys() else ""
    remarks = [f"labels that say nothing: {shown(nothing)}; left out{hint}"] if nothing else []
    return [None if empty else value for value, empty in zip(values, says_nothing, strict=True)], remarks


def _columns(title: str, name: str, values: Sequence, columns: Sequence[str]) -> Labels:
    """Labels of several columns: votes where their names are emotions and they count, else as `_vectors`."""
    rows = [[_number(cell) for cell in value] for value in values]
    rows = [None if all(map(_empty, row)) else row for row in rows]
    numbers = {x for row in rows if row is not None for x in row if _finite(x)}
    words = [SPELLINGS.get(column.casefold()) for column in columns]
    if None not in words and max(numbers, default=0) > 1 and all(x >= 0 and float(x).is_integer() for x in numbers):
        votes = [row and {word: x for word, x in zip(words, row, strict=True) if _finite(x)} for row in rows]
        return _votes(name, votes, [f"votes of raters: {', '.join(f'`{column}`' for column in columns)}"])
    return _vectors(title, name, rows, columns)


def _word(value: Any) -> str | None:
    """A label as text: also -1, where it is one."""
    return "-1" if value in (-1, "-1") else as_text(value)


def _empty(value: Any) -> bool:
    return value is None or value == "" or value != value


def _number(cell: Any) -> Any:
    """A cell as a number, where it is one."""
    if isinstance(cell, str):
        if cell.casefold() in ("true", "false"):
            return float(cell.casefold() == "true")
        try:
            return float(cell) if not is_missing(cell) or cell == "-1" else None
        except ValueError:
            return cell
    return cell


def shown(counts: Counter) -> str:
    """Counts in one line.

    >>> shown(Counter(["nan", "-1", "nan"]))
    '`nan` (2), `-1` (1)'
    """
    return ", ".join(f"`{word}` ({number})" for word, number in counts.most_common(8))


def one_spelling(words: list, what: str, known: dict[str, str] | None = None) -> tuple[list, list[str]]:
    """Words that differ in case or blanks in one spelling, of `known` or the most frequent; and a remark on changes."""
    counts = Counter(word for word in words if word is not None)
    keys = {word: " ".join(word.split()).casefold() for word in counts}
    spelling = {}
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0].swapcase())):
        spelling.setdefault(keys[word], (known or {}).get(keys[word], word))
    changed = {word: spelling[keys[word]] for word in sorted(counts) if spelling[keys[word]] != word}
    changes = ", ".join(f"`{word}` = {new}" for word, new in list(changed.items())[:8])
    remarks = [f"{what} of one meaning: {changes}"] if changed else []
    return [word if word is None else changed.get(word, word) for word in words], remarks


def _classes(name: str, words: list, order: tuple[str, ...] = ()) -> list[LabelConfig]:
    """The label set of all words, and those of `LABEL_SETS` that have two labels here."""
    counts = Counter(word for word in words if word is not None)
    configs = [LabelConfig(name, counts={word: counts[word] for word in order or sorted(counts)}, order=order)]
    for shared, mapping in LABEL_SETS.items():
        here = {word: label for word, label in mapping.items() if word in counts}
        per_label = Counter({label: 0 for label in here.values()})
        for word, label in here.items():
            per_label[label] += counts[word]
        if len(per_label) > 1 and shared != name:
            configs.append(LabelConfig(shared, label_map=here, counts=dict(per_label)))
    return configs


def _lists_of_words(name: str, values: list, remarks: list[str]) -> Labels:
    """Several labels at once; a word twice in a list makes all of them votes."""
    flat = [as_text(word) for value in values if value is not None for word in value]
    flat, more = one_spelling([word and word.strip() for word in flat], "labels", SPELLINGS)
    words = iter(flat)
    lists = [value if value is None else [word for _ in value if (word := next(words))] for value in values]
    if any(value and len(set(value)) < len(value) for value in lists):
        return _votes(name, [value and dict(Counter(value)) for value in lists], remarks + more)
    targets = tuple(sorted({word for value in lists if value is not None for word in value}))
    vectors = [None if value is None else [float(word in value) for word in targets] for value in lists]
    return _of_targets(name, targets, SEVERAL, vectors, remarks + more)


def _votes(name: str, values: list, remarks: list[str]) -> Labels:
    """Classes by the raters' most frequent word, with all their votes."""
    words, more = one_spelling([word for value in values for word in (value or ())], "labels", SPELLINGS)
    spelling = iter(words)
    votes = []
    for value in values:
        counts = Counter()
        for number in (value or {}).values():
            counts[next(spelling)] += number if _finite(number) else 0
        votes.append(counts)
    most = [(+counts).most_common(2) for counts in votes]  # without words that nobody chose
    first = [top[0][0] if top and (len(top) < 2 or top[0][1] > top[1][1]) else None for top in most]
    ties = sum(bool(top) and word is None for top, word in zip(most, first, strict=True))
    remarks = [*remarks, *more, *([f"rows without one word of most votes: {ties}; left out"] if ties else [])]
    names = sorted({word for word in first if word is not None})
    if not names:
        raise SerError("no row has a word with most votes; name another column by --label_column")
    rows = [
        {"emotion": word, "votes": [float(counts[name]) for name in names] if counts else None}
        for word, counts in zip(first, votes, strict=True)
    ]
    return Labels(_classes(name, first)[:1], rows, remarks)


def _vectors(title: str, name: str, values: list, columns: Sequence[str] = (), remarks: Sequence[str] = ()) -> Labels:
    """Several labels where all numbers are 0 and 1, else values to regress. A row with a gap has no label."""
    lengths = {len(value) for value in values if value is not None}
    if len(lengths) > 1 or lengths == {0}:
        raise SerError(f"--dataset {title}: labels that are lists must hold numbers and have one length")
    targets = tuple(columns) or tuple(str(index) for index in range(lengths.pop()))
    gaps = [value is not None and not all(map(_finite, value)) for value in values]
    complete = [None if gap else value for value, gap in zip(values, gaps, strict=True)]
    numbers = {float(x) for value in complete if value is not None for x in value}
    if not numbers:
        raise SerError(f"--dataset {title}: no row has all of the numbers {', '.join(targets)}")
    kind = SEVERAL if numbers <= {0.0, 1.0} and (len(targets) > 1 or not columns) else VALUES
    if sum(gaps):
        bad = next(x for value, gap in zip(values, gaps, strict=True) if gap for x in value if not _finite(x))
        remarks = [*remarks, f"rows whose values are not all numbers: {sum(gaps)}, such as {bad!r}; left out"]
    return _of_targets(name, targets, kind, [value and [*map(float, value)] for value in complete], [*remarks])


def _of_targets(name: str, targets: tuple[str, ...], kind: str, vectors: list, remarks: list[str]) -> Labels:
    config = LabelConfig(name, targets=targets, problem_type=kind, counts={"": len(vectors) - vectors.count(None)})
    scores = [dict(zip(targets, vector or [None] * len(targets), strict=True)) for vector in vectors]
    return Labels([config], [{"emotion": None, "scores": score} for score in scores], remarks)


def is_labelled(row: dict) -> bool:
    """Whether a row of `Labels.rows`, or an utterance with its fields, has a label."""
    return row["emotion"] is not None or None not in row.get("scores", {"": None}).values()


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
