"""The report of `ser-hf check` on one's own data. `own_page` shows it, `own_fix` writes the cleaned table.

A row is an utterance of the builder with its scan, its measures, `classes` (its labels), and `file`, its name in
messages. A finding is `{what, items, todo, needs_you}`; one without items is not reported.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..data.acoustics import MEASURES, RATE, clipped_share, measure
from ..data.audio import decode
from ..data.labels import is_labelled
from ..data.loading import Source
from ..data.schema import EMOTIONS
from ..data.splits import check_disjoint, folds_of, split, text_key
from ..errors import SerError
from ..evaluation.bootstrap import expected_interval
from ..models.audio_blocks import resampled
from . import near_duplicates
from .check import builder_of, extra_files, look, look_at_all, problem_kind, table_of

CLIPPED = 1e-4  # of `clipped_share`; 0 in 223 real clips, more in 95 % that lost 6 dB of peak
FAINT = -50.0  # dBFS of the speech; a telephone's is about -25
ALIKE = 0.75  # of difflib; a letter too much, too few, wrong or swapped in a word of four or more
# Findings about files, and what to do.
FILES = {
    "missing": ("files that are named and not there", "correct the name, or add them"),
    "cut off": ("files that are cut off or damaged", "copy them again"),
    "silent": ("silent files", "leave them out"),
    "unreadable": ("clips that cannot be read", "convert them, or leave them out"),
    "short": ("segments that end after their file", "correct the times"),
}


def finding(what: str, items: list[str], todo: str = "", needs_you: bool = True) -> dict:
    return {"what": what, "items": items, "todo": todo, "needs_you": needs_you}


# ---- reading


def look_closely(row: dict) -> dict:
    """`check.look` with the fingerprint, the `acoustics.MEASURES`, and `clipped`, the `clipped_share`."""
    seen = look(row)
    if not seen["header"]:
        return {**seen, "measures": None, "clipped": None}
    _, rate, _ = seen["header"]
    samples = decode(seen.get("audio", row["audio"]), rate)  # once for the fingerprint and all measures
    print_ = near_duplicates.fingerprint(resampled(samples, rate, near_duplicates.RATE))
    measures = measure(resampled(samples, rate, RATE)).tolist()
    return {**seen, "fingerprint": print_, "measures": measures, "clipped": clipped_share(samples)}


def read_rows(source: Source, num_proc: int | None) -> tuple[list[dict], Dataset]:
    """Every row with its scan; and the usable rows, as a run gets them."""
    builder = builder_of(source)
    rows = builder.utterances(source.root)
    blocks = (row for first in range(0, len(rows), 256) for row in builder.with_audio(rows[first : first + 256]))
    held = any("part" in row for row in rows)  # their sound is in the dataset: one process keeps one block in memory
    scans = look_at_all(look_closely, blocks, len(rows), source.shown, 1 if held else num_proc)
    usable, _ = table_of(builder, [builder.columns(row, scan) for row, scan in zip(rows, scans, strict=True)], source)
    merged = []
    for row, scan in zip(rows, scans, strict=True):
        file = (row["audio"] or "").removeprefix(f"{source.root}/") or row["id"]
        classes = labels_of(row, source.config.problem_type)
        merged.append({**row, **scan, "audio": row["audio"], "file": file, "classes": classes})
    return merged, usable


def labels_of(row: dict, problem_type: str) -> list[str]:
    """The classes of a row: one, several at once, or none, as where labels are values."""
    if row["emotion"] is not None:
        return [row["emotion"]]
    scores = {} if problem_type == "regression" else row.get("scores", {})
    return [name for name, value in scores.items() if value == 1]


# ---- findings


def of_files(rows: list[dict], root: Path | None, extra: list[str]) -> list[dict]:
    """Files that are missing (the nearest of `extra`), cut off, silent, unreadable; segments that end too late."""
    items = defaultdict(list)
    for row in rows:
        if row["problem"]:
            reason = row["problem"].replace(f"{root}/", "")
            kind = problem_kind(reason)
            if kind == "missing" and (near := get_close_matches(row["file"], extra, n=1, cutoff=0.8)):
                reason += f"; there is {near[0]}, which no row names"
            if "cut off" in reason or "lost sync" in reason:  # the latter: FLAC, whose frames have no length
                kind = "cut off"
            items[kind].append(reason)
        elif row.get("cut") and row["end"] and row["end"] - row["start"] - row["duration"] > 0.05:
            items["short"].append(f"{row['id']}: ends at {row['end']:g} s, {row['duration']:.2f} s were there")
    return [finding(what, items[kind], todo) for kind, (what, todo) in FILES.items()]


def misspelled(counts: Counter, known: tuple[str, ...] = ()) -> dict[str, str]:
    """Words that look like another one, misspelled: `{word: other}`. The other is of `known`, or three times as
    frequent. Words that differ in digits alone (`spk1`, `spk2`) or in their beginning (`happy`, `unhappy`) do not.

    >>> misspelled(Counter(angry=9, agnry=1, unhappy=1, happy=9, low=1), ("angry", "happy", "sad"))
    {'agnry': 'angry'}
    >>> misspelled(Counter(complaint=9, complant=2, praise=9)), misspelled(Counter(spk1=9, spk2=1))
    ({'complant': 'complaint'}, {})
    """
    renamed = {}
    for word, number in counts.items():
        others = [*known, *(other for other in counts if 3 * number <= counts[other])] if word not in known else []
        likeness = {other: _likeness(word.casefold(), other.casefold()) for other in others}
        if likeness and max(likeness.values()) >= ALIKE:
            renamed[word] = max(likeness, key=likeness.get)
    return renamed


def _likeness(word: str, other: str) -> float:
    """From 0 to 1; 0 for words that are no misspellings of one another, however alike."""
    differ_in_digits = re.sub(r"\d", "", word) == re.sub(r"\d", "", other)
    if len(word) < 4 or differ_in_digits or word.endswith(other) or other.endswith(word):
        return 0.0
    return SequenceMatcher(None, word, other).ratio()


def of_words(what: str, counts: Counter, renamed: dict[str, str]) -> dict:
    items = [f"{word} ({counts[word]}): {other}?" for word, other in renamed.items()]
    todo = f"correct them, or let --fix rename them; as they are, each counts as one of the {what}"
    return finding(f"{what} that look misspelled", items, todo)


def of_missing_cells(rows: list[dict]) -> list[dict]:
    """Rows without a label, or without a speaker where others have one; and what unknown speakers mean."""
    unlabelled = [row["file"] for row in rows if not is_labelled(row)]
    out = [finding("rows without a label", unlabelled, "label or remove them")]
    names = sorted({row["speaker"] for row in rows if is_labelled(row)} - {None})
    if not names:
        meaning = "the test may hold voices that were trained on, and every figure says SPEAKERS UNKNOWN"
        todo = "add a column `speaker`, or name it by --speaker_column"
        return [*out, finding("speakers are not known", [meaning], todo)]
    nobody = [row["file"] for row in rows if row["speaker"] is None]
    why = "with one of them no test can keep speakers apart, and every figure says SPEAKERS UNKNOWN"
    out.append(finding("rows without a speaker", nobody, f"fill them in, or --fix leaves them out: {why}"))
    if len(names) == 1:
        other = "train on a published corpus besides (--dataset corpus+PATH --test_on PATH)"
        todo = f"nothing can be said about other voices: add speakers, or {other}"
        out.append(finding("one speaker alone", names, todo))
    return out


def of_copies(equal: list[dict], alike: list[dict]) -> list[dict]:
    """Groups of equal clips and pairs of nearly equal ones, as `near_duplicates.copies` returns them."""

    def shown(groups: list[dict], contradictory: bool) -> list[str]:
        return [" = ".join(one["ids"]) for one in groups if one["contradictory"] == contradictory]

    across, within = "of other speakers, labels or splits", "of one speaker and label"
    todo = "keep the right one of each; trained on and tested, they make every figure too good"
    return [
        finding(f"equal recordings {across}", shown(equal, True), todo),
        finding(f"nearly equal recordings {across} (listen to them)", shown(alike, True), todo),
        finding(f"equal recordings {within}", shown(equal, False), needs_you=False),
        finding(f"nearly equal recordings {within}", shown(alike, False), needs_you=False),
    ]


def of_texts(rows: list[dict]) -> dict:
    """Texts of more than one speaker: a text model is tested on what it trained on."""
    speakers, first = defaultdict(set), {}
    for row in rows:
        if row["text"] and row["speaker"] is not None:
            key = text_key(row["text"])
            speakers[key].add(row["speaker"])
            first.setdefault(key, row["text"][:60])
    items = [f"{first[key]!r}: {len(names)} speakers" for key, names in speakers.items() if len(names) > 1]
    what = "texts of several speakers (of no matter for audio; a text model knows them)"
    return finding(what, items, needs_you=False)


def of_split(rows: list[dict]) -> dict:
    """Speakers whom parts of the data's own split share."""
    parts = defaultdict(set)
    for row in rows:
        if row.get("split") and is_labelled(row) and row["speaker"] is not None:
            parts[row["speaker"]].add(row["split"])
    items = [f"{speaker}: {', '.join(sorted(some))}" for speaker, some in parts.items() if len(some) > 1]
    todo = "--protocol speaker-folds keeps speakers apart; --protocol official-leaks-speakers tests so all the same"
    return finding("speakers in several parts of your split", items, todo)


def of_sound(measured: list[dict]) -> list[dict]:
    """Clipped and faint clips, and several rates; `measured` are the rows with `measures`."""
    column = list(MEASURES).index("level")
    levels = [(row["file"], row["measures"][column]) for row in measured]
    faint = [f"{file}: {level:.0f} dBFS" for file, level in levels if level < FAINT]
    clipped = [f"{row['file']}: {row['clipped']:.2%} of samples" for row in measured if row["clipped"] >= CLIPPED]
    by_rate = defaultdict(list)
    for row in measured:
        by_rate[row["header"][1]].append(row)
    rates = []
    for rate, some in sorted(by_rate.items(), key=lambda item: -len(item[1])):
        counts = Counter(word for row in some for word in row["classes"]).most_common(8)
        rates.append(f"{rate} Hz: {len(some)} clips; " + ", ".join(f"{word} {number}" for word, number in counts))
    several = "several sampling rates: if labels differ in them, a model may learn the rate"
    return [
        finding("clipped recordings", clipped, "record them at a lower level, if you can", needs_you=False),
        finding(f"recordings fainter than {FAINT:.0f} dBFS", faint, "listen to them: is it speech?", needs_you=False),
        finding(several, rates if len(rates) > 1 else [], needs_you=False),
    ]


def of_test(source: Source, usable: Dataset) -> tuple[list[dict], dict]:
    """Why a run would stop; and the protocol, its folds as `[speakers, clips]` of the test, and the interval."""
    protocol = source.protocol
    try:
        parts = split(usable, source.name, protocol)
        check_disjoint(parts, protocol.speaker_independent, protocol.validation, protocol.hint)
        tests = [usable.select(rows) for rows in folds_of(usable, protocol)]
    except SerError as error:
        return [finding("a run would stop", [str(error)])], {}
    folds = [[len({*test["speaker"][:]} - {None}), len(test)] for test in tests]
    interval, classes = None, getattr(usable.features["label"], "names", [])
    if len(classes) > 1:
        labels, speakers = ([cell for test in tests for cell in test[column][:]] for column in ("label", "speaker"))
        interval = expected_interval(labels, speakers, len(classes))
    return [], {"protocol": protocol.name, "warning": protocol.warning, "folds": folds, "interval": interval}


# ---- the report


def report_of(source: Source, rows: list[dict], usable: Dataset) -> dict:
    """All findings, and what they stand on, as `--json` writes them."""
    config = source.config
    targets = config.targets if config.problem_type == "regression" else ()
    classes = {word: Counter() for word in sorted({word for row in rows for word in row["classes"]})}
    splits = defaultdict(list)  # the speakers of the labelled rows of each part
    for row in rows:
        for word in row["classes"]:
            classes[word][row["speaker"] or ""] += 1
        if row.get("split") and is_labelled(row):
            splits[row["split"]].append(row["speaker"])
    labels = Counter(word for row in rows for word in row["classes"])
    speakers = Counter(row["speaker"] for row in rows if row["speaker"] is not None)
    renamed, respelled = misspelled(labels, EMOTIONS), misspelled(speakers)
    equal, alike = near_duplicates.copies(
        rows, lambda row: (row["speaker"], row["emotion"], str(row.get("scores")), row.get("split"))
    )
    extra = extra_files(source.root, [row["file"] for row in rows]) if source.root else []
    measured = [row for row in rows if row["measures"]]
    stops, test = of_test(source, usable) if len(usable) else ([finding("no row can be used", ["see above"])], {})
    findings = [
        *of_files(rows, source.root, extra),
        of_words("labels", labels, renamed),
        of_words("speakers", speakers, respelled),
        *of_missing_cells(rows),
        of_split(rows),
        *of_copies(equal, alike),
        *stops,
        *of_sound(measured),
        of_texts(rows),
        finding("audio files that no row names", extra, needs_you=False),
    ]
    findings = [one for one in findings if one["items"]]
    return {
        "corpus": source.shown,
        "labels": config.name,
        "rows": len(rows),
        "usable": len(usable),
        "speakers": len(speakers),
        "hours": round(sum(duration or 0.0 for duration in usable["duration"][:]) / 3600, 4),
        "remarks": list(source.corpus.REMARKS),
        "classes": classes,
        "values": {name: quantiles([row["scores"][name] for row in rows if is_labelled(row)]) for name in targets},
        "splits": {
            part: {"clips": len(some), "speakers": len({*some} - {None})} for part, some in sorted(splits.items())
        },
        "sound": sound_of(measured),
        "renamed": {"labels": renamed, "speakers": respelled},
        "duplicated": equal,
        "near_duplicates": alike,
        "test": test,
        "findings": findings,
        "needs_you": sum(one["needs_you"] for one in findings),
    }


def sound_of(measured: list[dict]) -> dict:
    """`quantiles` of each of the `MEASURES`, and `headers`: how many clips have each format, rate and channels."""
    if not measured:
        return {}
    columns = zip(*(row["measures"] for row in measured), strict=True)
    headers = Counter("{}, {} Hz, channels: {}".format(*row["header"]) for row in measured)
    return {
        "quantiles": {name: quantiles(column) for name, column in zip(MEASURES, columns, strict=True)},
        "headers": dict(headers.most_common()),
    }


def quantiles(values: Sequence[float]) -> list[float | None]:
    """Least, 5 %, median, 95 % and most of the values that are no NaN; None where there are none.

    >>> quantiles([1.0, 2.0, 3.0, math.nan]), quantiles([])[:2]
    ([1.0, 1.1, 2.0, 2.9, 3.0], [None, None])
    """
    known = [value for value in values if not math.isnan(value)]
    return [round(float(x), 3) for x in np.percentile(known, (0, 5, 50, 95, 100))] if known else [None] * 5
