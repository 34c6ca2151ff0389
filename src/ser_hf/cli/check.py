"""Read every file of a corpus and compare it with its official size; of your own data, say what to mend first.

    ser-hf check ravdess --data_dir /corpora/RAVDESS
    ser-hf check calls/ --fix calls_clean

It never writes into the corpus's folder. Exit status 0: complete, or nothing needs you; 1: something differs, or needs
you; 2: a mistake in the command.

Your own data, a folder, a table or a dataset on the Hub, becomes one page: labels by speakers, level, noise, rates,
clipping and silence, files that are missing or cut off, copies, words that look misspelled, texts of several speakers,
splits that share speakers, and what a test on unseen speakers can tell at this size. --fix OUT writes what can be used
to a new csv, or to metadata.csv in a new folder, with misspelled words renamed; the originals stay as they are.

For a published corpus, differences are utterances that are missing, surplus or unusable (unreadable, silent), and equal
audio under different emotions or speakers. Complete copies of RAVDESS, TESS, IEMOCAP and CREMA-D also have equal audio
of one speaker and emotion, unusual formats, audio files that are no utterance, and clips that the corpus's notes call
unusable: these are listed and do not count as differences.

Equal audio is what a model reads alike: whatever the file format, sample type and number of equal channels. A copy with
another gain, lossy encoding, rate or trimming is found by --near_duplicates, and listed.
"""

import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SerError
from ..evaluation.tables import text_table
from ..files import named_file, walk, write
from ..training.run import say
from .console import Parser, check_outside, columns_of, corpus_arguments

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.corpus import CorpusReport, SpeechCorpus
    from ..data.loading import Source

# Suffixes of audio files, and the libsndfile formats that a file with that suffix should have.
FORMATS = {".wav": ("WAV", "WAVEX", "RF64"), ".flac": ("FLAC",), ".mp3": ("MP3",), ".ogg": ("OGG",)}
FORMATS |= {".aif": ("AIFF",), ".aiff": ("AIFF",)}
MANY = 1000  # clips from which starting several processes saves time


def look(row: dict, near: bool = False) -> dict:
    """The builder's scan of a clip; `header`: format, rate (Hz) and channels; with `near` its `fingerprint`."""
    import soundfile as sf

    from ..data.audio import decode, whole
    from ..data.corpus import scan_row
    from .near_duplicates import RATE, fingerprint

    scan = scan_row(row)
    header = print_ = None
    if row["audio"] and not scan["problem"]:
        audio = row["audio"] if isinstance(row["audio"], dict) else {"bytes": None, "path": row["audio"]}
        info = sf.info(whole(audio["path"])[0] if audio["bytes"] is None else io.BytesIO(audio["bytes"]))
        header = (info.format, info.samplerate, info.channels)
        print_ = fingerprint(decode(scan.get("audio", audio), RATE)) if near else None
    return {**scan, "header": header, "fingerprint": print_}


def look_at_all(
    one: Callable[[dict], dict], rows: Iterable[dict], number: int, name: str, num_proc: int | None
) -> list[dict]:
    """`one` of each of a number of rows, in their order, in parallel and with progress."""
    from tqdm import tqdm

    workers = num_proc or (min(8, os.cpu_count() or 1) if number >= MANY else 1)
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        scans = map(one, rows) if pool is None else pool.map(one, rows, chunksize=16)
        return list(tqdm(scans, total=number, desc=f"reading {name}", unit=" clips", disable=None))


def builder_of(source: "Source") -> "SpeechCorpus":
    """The builder of a corpus, which lists its rows; nothing is built."""
    folder = source.root and str(source.root)
    with tempfile.TemporaryDirectory() as cache:
        return source.corpus(cache_dir=cache, config_name=source.config.name, data_dir=folder, dataset_name=source.stem)


def table_of(builder: "SpeechCorpus", columns: list[dict], source: "Source") -> "tuple[Dataset, CorpusReport]":
    """The usable rows without audio, and the report on all, as `loading.load`. `columns` are the builder's rows."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    from ..data.loading import select_usable

    rows = [row | {"audio": None} for row in columns]
    everything = InMemoryTable(pa.Table.from_pylist(rows, schema=builder.info.features.arrow_schema))
    return select_usable(Dataset(everything, info=builder.info), source)


def problem_kind(problem: str) -> str:
    """`missing`, `silent` or `unreadable`, by the messages of `audio.scan` and of loading scripts."""
    return "missing" if "(no such file)" in problem else "silent" if ": silent (" in problem else "unreadable"


def check(source: "Source", num_proc: int | None = None, near: bool = False) -> dict:
    """Read a whole corpus in a folder; the report, as `--json` writes it. `near` also compares fingerprints."""
    from .near_duplicates import copies

    root, builder = source.root, builder_of(source)
    rows = builder.utterances(root)
    scans = look_at_all(partial(look, near=near), rows, len(rows), source.shown, num_proc)
    columns = [builder.columns(row, scan) for row, scan in zip(rows, scans, strict=True)]
    paths = [row["audio"]["path"] if isinstance(row["audio"], dict) else row["audio"] for row in rows]
    files = [str(path).removeprefix(f"{root}/") if path else None for path in paths]
    _, report = table_of(builder, columns, source)
    clips = unusable(source, columns, files)
    bad = [clip["label"] for clip in (*clips["unreadable"], *clips["silent"]) if clip["label"] is not None]
    missing = report.official - report.utterances - len(bad)
    classes = {}
    for word, number in report.per_label.items():
        official = report.official_per_label.get(word)
        lacking = None if official is None else official - number - bad.count(word)
        classes[word] = {"official": official, "found": number, "unusable": bad.count(word), "missing": lacking}
    scanned = [row | scan for row, scan in zip(rows, scans, strict=True)]
    duplicated, alike = copies(scanned, lambda row: (row["emotion"], row.get("speaker")))
    numbers = {
        "missing": max(0, missing),
        "more than officially": max(0, -missing),
        "missing outside this label set": sum(clip["label"] is None for clip in clips["missing"]),
        "unreadable": sum(not clip["known"] for clip in clips["unreadable"]),
        "silent": sum(not clip["known"] for clip in clips["silent"]),
        "contradictory duplicates": sum(group["contradictory"] for group in duplicated),
    }
    if not missing:  # else every class may differ
        others = sum(bool(sizes["missing"]) for sizes in classes.values())
        numbers["labels with another number than officially"] = others
    different = [f"{number} {what}" for what, number in numbers.items() if number]
    return {
        "corpus": source.shown,
        "labels": source.config.name,
        "folder": str(root),
        "complete": not different,
        "different": different,
        "official": report.official,
        "found": report.utterances,
        "missing": missing,
        **{name: getattr(report, name) for name in ("outside_labels", "remarks", "speakers", "hours")},
        "classes": classes,
        "missing_files": clips["missing"],  # those that the corpus's own tables name
        "unreadable": clips["unreadable"],
        "silent": clips["silent"],
        "duplicated": duplicated,
        "near_duplicates": alike,  # empty without `near`
        "wrong_format": _wrong_formats(files, scans),
        "extra": extra_files(root, files),
    }


def unusable(source: "Source", columns: list[dict], files: list[str | None]) -> dict[str, list[dict]]:
    """The clips that cannot be used, by `problem_kind`; `known` are those that the corpus's notes name."""
    config, notes = source.config, source.corpus.CARD.notes
    clips = {"missing": [], "unreadable": [], "silent": []}
    for row, file in zip(columns, files, strict=True):
        if row["problem"]:
            label = row["label"] if config.targets or row["label"] is None else config.label_names[row["label"]]
            reason = row["problem"].replace(f"{source.root}/", "")
            known = row["id"] in notes or bool(file and file in notes)
            clip = {"id": row["id"], "file": file, "label": label, "reason": reason, "known": known}
            clips[problem_kind(reason)].append(clip)
    return clips


def _wrong_formats(files: list[str | None], scans: list[dict]) -> list[dict]:
    """Files whose format does not fit their suffix, or whose rate or channels differ from most files'."""
    headers = {file: scan["header"] for file, scan in zip(files, scans, strict=True) if file and scan["header"]}
    if not headers:
        return []
    columns = zip(*headers.values(), strict=True)
    _, usual_rate, usual_channels = (Counter(column).most_common(1)[0][0] for column in columns)
    wrong = []
    for file, (kind, rate, channels) in headers.items():
        if kind not in FORMATS.get(Path(file).suffix.lower(), (kind,)):
            wrong.append({"file": file, "reason": f"content is {kind}"})
        if rate != usual_rate:
            wrong.append({"file": file, "reason": f"{rate} Hz, most have {usual_rate} Hz"})
        if channels != usual_channels:
            wrong.append({"file": file, "reason": f"channels: {channels}, most have {usual_channels}"})
    return wrong


def extra_files(root: Path, files: list[str | None]) -> list[str]:
    """Audio files in the corpus's folder that are no utterance of it."""
    from ..data.audio import MEDIA, whole

    paths = {str(path.relative_to(root)) for path, _ in walk(root)} - {file and whole(file)[0] for file in files}
    return sorted(path for path in paths if Path(path).suffix.lower() in MEDIA)


def lines(report: dict) -> list[str]:
    """The summary on screen."""
    out = [
        f"{report['corpus']} ({report['labels']}) in {report['folder']}",
        f"{report['found']} of {report['official']} utterances, {report['speakers']} speakers, {report['hours']:.2f} h",
    ]
    if report["classes"]:
        heads = ("official", "found", "unusable", "missing")
        classes = report["classes"].items()
        rows = [[word, *("-" if sizes[head] is None else sizes[head] for head in heads)] for word, sizes in classes]
        out += ["", *text_table(["label", *heads], rows), ""]
    if report["outside_labels"]:
        out.append(f"outside this label set: {report['outside_labels']}")
    out += report["remarks"]
    for kind in ("missing_files", "unreadable", "silent"):
        what = "missing, though the corpus's tables name them" if kind == "missing_files" else kind
        out += listed(what, [c["reason"] + " (known, as in the original)" * c["known"] for c in report[kind]])
    equal = [" = ".join(group["ids"]) + " CONTRADICTORY" * group["contradictory"] for group in report["duplicated"]]
    out += listed("equal audio, groups", equal)
    near = [
        f"{' ~ '.join(pair['ids'])} ({pair['differing_bits']:.1%} of the bits of their fingerprints differ)"
        + " CONTRADICTORY" * pair["contradictory"]
        for pair in report["near_duplicates"]
    ]
    out += listed("nearly equal audio, pairs", near)
    out += listed("of an unusual format", [f"{f['file']}: {f['reason']}" for f in report["wrong_format"]])
    folders = Counter(str(Path(file).parent) for file in report["extra"])
    first = {str(Path(file).parent): Path(file).name for file in reversed(report["extra"])}
    places = [f"{number} in {folder}, the first is {first[folder]}" for folder, number in folders.most_common()]
    out += listed("audio files that are no utterance", places, len(report["extra"]))
    return [*out, "complete" if report["complete"] else f"different: {', '.join(report['different'])}"]


def listed(what: str, items: list[str], number: int | None = None, most: int = 5) -> list[str]:
    if not items:
        return []
    rest = [f"  ... and {len(items) - most} more (--json has all)"] if len(items) > most else []
    return [f"{what}: {len(items) if number is None else number}", *(f"  {item}" for item in items[:most]), *rest]


def main(argv: list[str]) -> int:
    parser = Parser("check", __doc__)
    corpus_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the whole report as JSON to this file")
    parser.add_argument(
        "--near_duplicates",
        action="store_true",
        help="also find copies with another gain, encoding, rate or trimming (own data: always)",
    )
    parser.add_argument("--fix", metavar="OUT", help="own data: write a cleaned table, a new csv or a new folder's")
    args = parser.parse_args(argv)

    from ..data.loading import find_source, is_own

    own = is_own(args.name)
    if args.fix and not own:
        raise SerError(f"--fix {args.fix}: is for your own data; {args.name} is what its owner published")
    if args.near_duplicates and own:
        raise SerError("--near_duplicates: own data is always compared; leave it out")
    source = find_source(args.name, args.labels, args.data_dir, columns=columns_of(args))
    if args.json:
        check_outside(source, Path(args.json).expanduser(), "--json")
        file = named_file(args.json, "--json", ".json")
    if own:
        from . import check_own, own_fix, own_page

        target = own_fix.fix_target(args.fix) if args.fix else None
        rows, usable = check_own.read_rows(source, args.num_proc)
        report = check_own.report_of(source, rows, usable)
        page, well = own_page.lines(report), not report["needs_you"]
    else:
        report = check(source, args.num_proc, args.near_duplicates)
        page, well = lines(report), report["complete"]
    if args.json:
        write(file, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    say(*page)
    if own and target:
        say(*own_fix.fix(source, rows, report, target, args.fix))
    return 0 if well else 1
