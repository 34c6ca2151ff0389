"""The page of `ser-hf check` about one's own data, and the cleaned table of `--fix`. A part of `check`.

Each function from rows to findings returns data; `lines` alone writes text. A row is an utterance of the builder with
its scan, its measures, `classes` (its labels), and `file`, its name in messages.
"""

import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.labels import is_labelled
from ..errors import SerError
from ..evaluation.tables import text_table
from ..files import claim, write
from .check import extra_files, listed, look, look_at_all, table_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from datasets import Dataset

    from ..data.loading import Source

TOP = 2**-14  # of full scale: samples this near to a clip's highest are at the top
CLIPPED = 1e-4  # share of samples in runs of three at the top; 0 in 223 real clips, more in 95 % that lost 6 dB of peak
FAINT = -50.0  # dBFS of the speech; a telephone's is about -25
MOST_SPEAKERS = 8  # columns of the table of classes
ALIKE = 0.75  # of difflib; a letter too much, too few, wrong or swapped in a word of four or more
# The simulated system: right on this share of clips, with this standard deviation between speakers (that of RAVDESS's
# folds of four speakers is half of it: recipes/results).
RIGHT, SPREAD = 0.7, 0.1


def finding(what: str, items: list[str], todo: str = "", needs_you: bool = True) -> list[dict]:
    """One finding, none without items: `{what, items, todo, needs_you}`."""
    return [{"what": what, "items": items, "todo": todo, "needs_you": needs_you}] if items else []


# ---- reading


def look_closely(row: dict) -> dict:
    """`check.look` with the fingerprint, the `acoustics.MEASURES`, and `clipped`: the share of samples in runs of three
    at the clip's top, or at full scale."""
    import numpy as np

    from ..data.acoustics import RATE, measure
    from ..data.audio import decode
    from ..models.audio_blocks import resampled
    from . import near_duplicates

    found = look(row)
    if not found["header"]:
        return {**found, "measures": None, "clipped": None}
    rate = found["header"][1]
    samples = decode(found.get("audio", row["audio"]), rate)  # once for the fingerprint and all measures
    levels = np.abs(samples)
    top = levels >= min(levels.max(), 1.0) - TOP
    clipped = float((top[2:] & top[1:-1] & top[:-2]).sum() / len(samples)) if levels.max() > 0.1 else 0.0
    print_ = near_duplicates.fingerprint(resampled(samples, rate, near_duplicates.RATE))
    measures = measure(resampled(samples, rate, RATE)).tolist()
    return {**found, "fingerprint": print_, "measures": measures, "clipped": clipped}


def read_rows(source: "Source", num_proc: int | None) -> "tuple[list[dict], Dataset]":
    """Every row with its scan; and the usable rows, as a run gets them."""
    with tempfile.TemporaryDirectory() as cache:  # the builder lists its rows; nothing is built
        folder = source.root and str(source.root)
        builder = source.corpus(
            cache_dir=cache, config_name=source.config.name, data_dir=folder, dataset_name=source.stem
        )
    rows = builder.utterances(source.root)
    blocks = (row for first in range(0, len(rows), 256) for row in builder.with_audio(rows[first : first + 256]))
    held = any("part" in row for row in rows)  # their sound is in the dataset: one process keeps one block in memory
    scans = look_at_all(look_closely, blocks, len(rows), source.shown, 1 if held else num_proc)
    usable, _ = table_of(builder, rows, scans, source)
    merged = []
    for row, scan in zip(rows, scans, strict=True):
        file = (row["audio"] or "").removeprefix(f"{source.root}/") or row["id"]
        classes = labels_of(row, source.config.problem_type)
        merged.append({**row, **scan, "audio": row["audio"], "file": file, "classes": classes})
    return merged, usable


def labels_of(row: dict, problem_type: str) -> list[str]:
    """The classes of a row: one, several at once, or none, as where labels are values."""
    if row["emotion"] is not None or problem_type == "regression":
        return [row["emotion"]] if row["emotion"] is not None else []
    return [name for name, value in row.get("scores", {}).items() if value == 1]


# ---- findings


def of_files(rows: list[dict], root: Path | None, extra: list[str]) -> list[dict]:
    """Files that are not there (and the nearest of the `extra` ones), cut off, silent, or cannot be read; segments that
    end after their file."""
    kinds = defaultdict(list)
    for row in rows:
        reason = (row["problem"] or "").replace(f"{root}/", "")
        if reason:
            cut_off = "cut off" in reason or "lost sync" in reason  # of FLAC, whose frames have no length
            kind = "missing" if "(no such file)" in reason else "silent" if ": silent (" in reason else "unreadable"
            near = get_close_matches(row["file"], extra, n=1, cutoff=0.8) if kind == "missing" else []
            hint = f"; there is {near[0]}, which no row names" if near else ""
            kinds["cut off" if cut_off else kind].append(reason + hint)
        elif row.get("cut") and row["end"] and row["end"] - row["start"] - row["duration"] > 0.05:
            kinds["short"].append(f"{row['id']}: ends at {row['end']:g} s, {row['duration']:.2f} s were there")
    return [
        *finding("files that are named and not there", kinds["missing"], "correct the name, or add them"),
        *finding("files that are cut off or damaged", kinds["cut off"], "copy them again"),
        *finding("silent files", kinds["silent"], "leave them out"),
        *finding("clips that cannot be read", kinds["unreadable"], "convert them, or leave them out"),
        *finding("segments that end after their file", kinds["short"], "correct the times"),
    ]


def misspelled(counts: Counter, known: tuple[str, ...] = ()) -> dict[str, str]:
    """Words that look like another one, misspelled: `{word: other}`. The other is of `known`, or three times as
    frequent. Words that differ in digits alone (`spk1`, `spk2`) or by what stands before (`happy`, `unhappy`) do not.

    >>> misspelled(Counter(angry=9, agnry=1, unhappy=1, happy=9, low=1), ("angry", "happy", "sad"))
    {'agnry': 'angry'}
    >>> misspelled(Counter(complaint=9, complant=2, praise=9)), misspelled(Counter(spk1=9, spk2=1))
    ({'complant': 'complaint'}, {})
    """
    found = {}
    for word, number in counts.items():
        others = [other for other in known if word not in known]
        others += [other for other in counts if other != word and word not in known and 3 * number <= counts[other]]
        likeness = {
            other: SequenceMatcher(None, word.casefold(), other.casefold()).ratio()
            for other in others
            if len(word) > 3
            and not word.casefold().endswith(other.casefold())
            and not other.casefold().endswith(word.casefold())
            and re.sub(r"\d", "", word) != re.sub(r"\d", "", other)
        }
        if likeness and max(likeness.values()) >= ALIKE:
            found[word] = max(likeness, key=likeness.get)
    return found


def of_words(what: str, counts: Counter, renamed: dict[str, str]) -> list[dict]:
    items = [f"{word} ({counts[word]}): {other}?" for word, other in renamed.items()]
    todo = f"correct them, or let --fix rename them; as they are, each counts as one of the {what}"
    return finding(f"{what} that look misspelled", items, todo)


def of_missing_cells(rows: list[dict]) -> list[dict]:
    """Rows without a label, or without a speaker where others have one; and what unknown speakers mean."""
    speakers = {row["speaker"] for row in rows if is_labelled(row)}
    nobody = [row["file"] for row in rows if row["speaker"] is None]
    names = sorted(speakers - {None})
    return [
        *finding("rows without a label", [row["file"] for row in rows if not is_labelled(row)], "label or remove them"),
        *finding(
            "rows without a speaker",
            nobody if names else [],
            "fill them in, or --fix leaves them out: with one of them no test can keep speakers apart, and every "
            "figure says SPEAKERS UNKNOWN",
        ),
        *finding(
            "speakers are not known",
            ["the test may hold voices that were trained on, and every figure says SPEAKERS UNKNOWN"] * (not names),
            "add a column `speaker`, or name it by --speaker_column",
        ),
        *finding(
            "one speaker alone",
            names * (len(names) == 1),
            "nothing can be said about other voices: add speakers, or train on a published corpus besides "
            "(--dataset corpus+PATH --test_on PATH)",
        ),
    ]


def of_copies(rows: list[dict]) -> tuple[list[dict], list[dict], list[dict]]:
    """Findings; groups of equal clips and pairs of nearly equal ones, `{ids, contradictory}`: of more than one speaker,
    label or part of the split."""
    from .near_duplicates import copies

    equal, alike = copies(rows, lambda row: (row["speaker"], row["emotion"], str(row.get("scores")), row.get("split")))

    def shown(groups: list[dict], contradictory: bool) -> list[str]:
        return [" = ".join(one["ids"]) for one in groups if one["contradictory"] == contradictory]

    across = "of other speakers, labels or splits"
    todo = "keep the right one of each; trained on and tested, they make every figure too good"
    return (
        [
            *finding(f"equal recordings {across}", shown(equal, True), todo),
            *finding(f"nearly equal recordings {across} (listen to them)", shown(alike, True), todo),
            *finding("equal recordings of one speaker and label", shown(equal, False), "", False),
            *finding("nearly equal recordings of one speaker and label", shown(alike, False), "", False),
        ],
        equal,
        alike,
    )


def of_texts(rows: list[dict]) -> list[dict]:
    """Texts of more than one speaker: a text model is tested on what it trained on."""
    from ..data.splits import text_key

    said = defaultdict(list)
    for row in rows:
        if row["text"] and row["speaker"] is not None:
            said[text_key(row["text"])].append(row)
    shared = {text: n for text, group in said.items() if (n := len({row["speaker"] for row in group})) > 1}
    items = [f"{said[text][0]['text'][:60]!r}: {number} speakers" for text, number in shared.items()]
    return finding("texts of several speakers (of no matter for audio; a text model knows them)", items, "", False)


def of_split(rows: list[dict]) -> tuple[list[dict], dict]:
    """Speakers whom parts of the data's own split share; of each part `{clips, speakers}`."""
    parts = defaultdict(list)
    for row in rows:
        if row.get("split") and is_labelled(row):
            parts[row["split"]].append(row["speaker"])
    of_speaker = defaultdict(set)
    for part, speakers in parts.items():
        for speaker in {*speakers} - {None}:
            of_speaker[speaker].add(part)
    items = [f"{speaker}: {', '.join(sorted(there))}" for speaker, there in of_speaker.items() if len(there) > 1]
    table = {part: {"clips": len(all_), "speakers": len({*all_} - {None})} for part, all_ in sorted(parts.items())}
    todo = "--protocol speaker-folds keeps speakers apart; --protocol official-leaks-speakers tests so all the same"
    return finding("speakers in several parts of your split", items, todo), table


def of_sound(rows: list[dict]) -> tuple[list[dict], dict]:
    """Clipped and faint clips, several rates; quantiles of all measures, and how many clips have each header."""
    import numpy as np

    from ..data.acoustics import MEASURES

    measured = [row for row in rows if row["measures"]]
    if not measured:
        return [], {}
    values = np.array([row["measures"] for row in measured])
    names = list(MEASURES)
    quantiles = {name: _rounded(_quantiles(values[:, column])) for column, name in enumerate(names)}
    headers = Counter("{}, {} Hz, channels: {}".format(*row["header"]) for row in measured)
    rates = Counter(row["header"][1] for row in measured)
    by_rate = [f"{rate} Hz: {n} clips; " + _of_labels(measured, rate) for rate, n in rates.most_common()]
    faint = [
        f"{row['file']}: {level:.0f} dBFS"
        for row, level in zip(measured, values[:, names.index("level")], strict=True)
        if level < FAINT
    ]
    clipped = [f"{row['file']}: {row['clipped']:.2%} of samples" for row in measured if row["clipped"] >= CLIPPED]
    several = "several sampling rates: if labels differ in them, a model may learn the rate"
    return [
        *finding("clipped recordings", clipped, "record them at a lower level, if you can", False),
        *finding(f"recordings fainter than {FAINT:.0f} dBFS", faint, "listen to them: is it speech?", False),
        *finding(several, by_rate if len(rates) > 1 else [], "", False),
    ], {"quantiles": quantiles, "headers": dict(headers.most_common())}


def _quantiles(column: "np.ndarray") -> "np.ndarray":
    import numpy as np

    known = column[~np.isnan(column)]
    return np.percentile(known, (0, 5, 50, 95, 100)) if len(known) else np.full(5, np.nan)


def _rounded(values: "np.ndarray") -> list[float | None]:
    return [None if x != x else round(float(x), 3) for x in values]


def _of_labels(rows: list[dict], rate: int) -> str:
    counts = Counter(word for row in rows if row["header"][1] == rate for word in row["classes"])
    return ", ".join(f"{word} {number}" for word, number in counts.most_common(8))


# ---- what a test can tell


def expected_interval(labels: list[int], speakers: list, classes: int, simulations: int = 20) -> list[float]:
    """The 95 % interval of the UAR that a system would get on these clips that is right on `RIGHT` of them, by the
    bootstrap of every report: the mean of some simulations. Each speaker has an accuracy of their own (`SPREAD`)."""
    import numpy as np

    from ..evaluation.bootstrap import class_draws, clusters_of, intervals

    labels, (cluster, *_) = np.array(labels), clusters_of(speakers)
    ends = []
    for seed in range(simulations):
        generator = np.random.default_rng(seed)
        accuracy = generator.normal(RIGHT, SPREAD, cluster.max() + 1).clip(0, 1)
        right = generator.random(len(labels)) < accuracy[cluster]
        others = (labels + generator.integers(1, classes, len(labels))) % classes
        draws = class_draws(labels, np.where(right, labels, others), speakers, classes, 500, seed)
        ends.append(intervals(draws)["uar"] or [0.0, 1.0])
    half = float(np.diff(ends, axis=1).mean() / 2)
    return [round(max(0.0, RIGHT - half), 3), round(min(1.0, RIGHT + half), 3)]


def of_test(source: "Source", usable: "Dataset") -> tuple[list[dict], dict]:
    """Why a run would stop; and the protocol, its folds as `[speakers, clips]` of the test, and the interval."""
    from ..data.splits import check_disjoint, folds_of, split

    protocol = source.protocol
    try:
        check_disjoint(
            split(usable, source.name, protocol), protocol.speaker_independent, protocol.validation, protocol.hint
        )
        tests = [usable.select(rows) for rows in folds_of(usable, protocol)]
    except SerError as error:
        return finding("a run would stop", [str(error)]), {}
    folds = [[len({*test["speaker"]} - {None}), len(test)] for test in tests]
    interval, classes = None, getattr(usable.features["label"], "names", [])
    if len(classes) > 1:
        speakers = [speaker for test in tests for speaker in test["speaker"]]
        interval = expected_interval([label for test in tests for label in test["label"]], speakers, len(classes))
    return [], {"protocol": protocol.name, "warning": protocol.warning, "folds": folds, "interval": interval}


def in_words(test: dict) -> list[str]:
    """What a test by the protocol can and cannot tell."""
    folds, interval = test["folds"], test["interval"]
    speakers, clips = (sum(column) for column in zip(*folds, strict=True))
    least = min(n for n, _ in folds)
    who = f"{least} speakers" if least > 1 else "one speaker" if least else "unknown speakers"
    size = f"{len(folds)} folds, the smallest tests {who}" if len(folds) > 1 else f"one test set of {who}"
    out = [f"protocol {test['protocol']}: {size}; {clips} clips of {speakers} speakers are tested in all"]
    if test["warning"]:
        out.append(f"{test['warning']}: figures of voices that may have been trained on say little of others")
    if interval:
        half = (interval[1] - interval[0]) / 2
        out.append(
            f"a system with UAR {RIGHT:.2f} would be reported with about [{interval[0]:.2f}, {interval[1]:.2f}] over "
            f"all folds: a figure of other work less than {half:.2f} away is not different (simulated; speakers differ "
            f"by {SPREAD:.2f})"
        )
    if 0 < speakers < 10:
        out.append(f"{speakers} speakers say little of others: each new speaker helps more than more clips of these")
    if len(folds) > 1:
        out.append("one fold alone says much less: ser-hf cv runs all")
    return out


# ---- the page


def report_of(source: "Source", rows: list[dict], usable: "Dataset") -> dict:
    """All findings, and what they stand on, as `--json` writes them."""
    import numpy as np

    from ..data.schema import EMOTIONS

    labels = Counter(word for row in rows for word in row["classes"])
    speakers = Counter(row["speaker"] for row in rows if row["speaker"] is not None)
    renamed, respelled = misspelled(labels, EMOTIONS), misspelled(speakers)
    copies, equal, alike = of_copies(rows)
    splits, parts = of_split(rows)
    noises, sound = of_sound(rows)
    stops, test = of_test(source, usable) if len(usable) else (finding("no row can be used", ["see above"]), {})
    named = [row["file"] for row in rows]
    extra = extra_files(source.root, named) if source.root else []
    classes = {word: Counter() for word in sorted(labels)}
    for row in rows:
        for word in row["classes"]:
            classes[word][row["speaker"] or ""] += 1
    findings = [
        *of_files(rows, source.root, extra),
        *of_words("labels", labels, renamed),
        *of_words("speakers", speakers, respelled),
        *of_missing_cells(rows),
        *splits,
        *copies,
        *stops,
        *noises,
        *of_texts(rows),
        *finding("audio files that no row names", extra, "", False),
    ]
    return {
        "corpus": source.shown,
        "labels": source.config.name,
        "rows": len(rows),
        "usable": len(usable),
        "speakers": len(speakers),
        "hours": round(sum(duration or 0.0 for duration in usable["duration"]) / 3600, 4),
        "remarks": list(source.corpus.REMARKS),
        "classes": {word: dict(counts) for word, counts in classes.items()},
        "values": {
            name: _rounded(_quantiles(np.array([row["scores"][name] for row in rows if is_labelled(row)])))
            for name in (source.config.targets if source.config.problem_type == "regression" else ())
        },
        "splits": parts,
        "sound": sound,
        "renamed": {"labels": renamed, "speakers": respelled},
        "duplicated": equal,
        "near_duplicates": alike,
        "test": test,
        "findings": findings,
        "needs_you": sum(one["needs_you"] for one in findings),
    }


def lines(report: dict) -> list[str]:
    """The page."""
    from ..data.acoustics import MEASURES

    sizes = f"{report['usable']} of {report['rows']} rows can be used, {report['speakers']} speakers"
    out = [f"{report['corpus']} ({report['labels']}): {sizes}, {report['hours']:.2f} h"]
    out += [f"  {remark}" for remark in report["remarks"]]
    if report["classes"]:
        out += ["", *class_table(report["classes"])]
    if report["splits"]:
        rows = [[part, sizes["clips"], sizes["speakers"]] for part, sizes in report["splits"].items()]
        out += ["", *text_table(["split", "clips", "speakers"], rows)]
    for what, table in (("label", report["values"]), ("sound", report["sound"].get("quantiles"))):
        if table:
            rows = [
                [f"{name} ({MEASURES[name]})" if what == "sound" else name]
                + ["-" if x is None else f"{x:.4g}" for x in values]
                for name, values in table.items()
            ]
            out += ["", *text_table([what, "least", "5 %", "median", "95 %", "most"], rows)]
    out += [f"{number} clips: {header}" for header, number in list(report["sound"].get("headers", {}).items())[:5]]
    for needs_you, head in ((True, "needs you"), (False, "to know")):
        some = [one for one in report["findings"] if one["needs_you"] == needs_you]
        out += ["", f"{head}:"] if some else []
        for one in some:
            shown = listed(one["what"], one["items"], most=3)
            out += [f"  {line}" for line in [*shown, *([f"  -> {one['todo']}"] if one["todo"] else [])]]
    if report["test"]:
        out += ["", "what a test can tell:", *(f"  {line}" for line in in_words(report["test"]))]
    number = report["needs_you"]
    hint = "; --fix OUT writes a table without what cannot be used" if number else ""
    return [*out, "", f"needs you: {number}{hint}" if number else "nothing needs you"]


def class_table(classes: dict[str, dict[str, int]]) -> list[str]:
    """Classes by speakers: those of the most clips, then all others."""
    totals = Counter()
    for counts in classes.values():
        totals.update(counts)
    totals.pop("", None)
    names = [name for name, _ in totals.most_common(MOST_SPEAKERS)]
    names = sorted(names) if len(totals) == len(names) else names
    others = len(totals) - len(names)
    heads = ["label", "clips", "speakers", *(name[:12] for name in names)]
    heads += [f"{others} others"] * (others > 0) + ["unknown"] * any("" in counts for counts in classes.values())
    table = []
    for word, counts in classes.items():
        shown = [counts.get(name, 0) for name in names]
        unknown = counts.get("", 0)
        row = [word, sum(counts.values()), len(counts.keys() - {""}), *shown]
        row += [sum(counts.values()) - sum(shown) - unknown] * (others > 0)
        table.append([*row, unknown][: len(heads)])
    return text_table(heads, table)


# ---- the cleaned table


def fix_target(text: str) -> Path:
    """The file that `--fix` writes: a new csv, or metadata.csv in a new folder. SerError: it exists, or cannot be
    written."""
    out = Path(text).expanduser().absolute()
    if out.suffix and out.suffix.lower() != ".csv":
        raise SerError(f"--fix {text}: writes csv; name a file such as {out.with_suffix('.csv').name}, or a new folder")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        example = f", such as {out}/metadata.csv" if out.is_dir() else ""
        raise SerError(f"--fix {text}: exists, and nothing is written over; name a new folder or file{example}")
    file = out if out.suffix else out / "metadata.csv"
    claim(file.parent, f"--fix {text}")
    return file


def reasons(rows: list[dict], report: dict) -> list[str | None]:
    """Why each row is left out of the cleaned table; None for those that stay."""
    torn = {id for one in report["duplicated"] if one["contradictory"] for id in one["ids"]}
    copies = {id for one in report["duplicated"] for id in one["ids"][1:]} - torn
    some = sum(row["speaker"] is not None for row in rows) * 2 >= len(rows)

    def reason(row: dict) -> str | None:
        if row["problem"]:
            return "files that are missing or cannot be used"
        if not is_labelled(row):
            return "without a label"
        if row["speaker"] is None and some:
            return "without a speaker"
        if row["id"] in torn:
            return "equal recordings of other speakers, labels or splits, all of them"
        return "copies of one recording, all but the first" if row["id"] in copies else None

    return [reason(row) for row in rows]


def cleaned(rows: list[dict], report: dict, targets: tuple[str, ...], folder: Path) -> "pd.DataFrame":
    """The table of these rows, in the names that are found without flags: names of files below `folder` are relative to
    it, others absolute; of several labels a list, of votes an object, of values a column each."""
    import pandas as pd

    from ..data.schema import OPTIONAL_COLUMNS

    labels, speakers = report["renamed"]["labels"], report["renamed"]["speakers"]

    def label(row: dict) -> str:
        if row.get("votes"):
            votes = Counter()
            for word, number in zip(sorted(report["classes"]), row["votes"], strict=True):
                votes[labels.get(word, word)] += number
            return json.dumps(votes)
        words = [labels.get(word, word) for word in row["classes"]]
        return words[0] if row["emotion"] is not None else json.dumps(words, ensure_ascii=False)

    def name(path: str) -> str:
        return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path

    table = []
    for row in rows:
        cells = {"file_name": name(row["audio"])} if row["audio"] else {}
        cells |= {target: row["scores"][target] for target in targets} or {"label": label(row)}
        cells |= {"speaker": speakers.get(row["speaker"], row["speaker"]), "text": row["text"], "id": row["id"]}
        cells |= {column: row[column] for column in OPTIONAL_COLUMNS if column != "votes" and column in row}
        table.append(cells)
    return pd.DataFrame(table).dropna(axis=1, how="all")


def fix(source: "Source", rows: list[dict], report: dict, file: Path, out: str) -> list[str]:
    """Write the cleaned table to `file`; says what was left out and how to load it. SerError: the recordings are no
    files; no row is left."""
    if any("part" in row for row in rows):
        raise SerError(f"--fix: the recordings of {source.shown} are in the dataset, and a csv can only name files")
    why = reasons(rows, report)
    kept = [row for row, reason in zip(rows, why, strict=True) if reason is None]
    if not kept:
        raise SerError(f"--fix: no row of {source.shown} can be used; nothing was written")
    values = source.config.targets if source.config.problem_type == "regression" else ()
    frame = cleaned(kept, report, values, file.parent)
    write(file, frame.to_csv(index=False))
    lost = [f"{reason} ({number})" for reason, number in Counter(filter(None, why)).items()]
    renamed = [f"{word} = {other}" for names in report["renamed"].values() for word, other in names.items()]
    flags = [f"--label_columns {' '.join(values)}"] * bool({*values} - {"label", "arousal", "valence", "dominance"})
    flags += ["--group_column group"] * ("group" in frame and not any(row.get("cut") for row in kept))
    return [
        f"wrote {file}: {len(kept)} of {len(rows)} rows" + (f"; left out: {', '.join(lost)}" if lost else ""),
        *([f"renamed: {', '.join(renamed)}"] if renamed else []),
        " ".join([f"next: --dataset {out}", *flags]),
    ]
