"""Read every file of a corpus and compare it with what the corpus officially holds.

Unlike training, which trusts what an earlier reading of the same files found, this reads all of them each time. It
never writes into the corpus's folder. Exit status 0: complete; 1: something differs; 2: a mistake in the command.

Different are utterances that are missing, surplus or unusable (unreadable, silent), and equal audio under different
emotions or speakers. Only listed, because perfect copies have them too (RAVDESS, TESS, IEMOCAP, CREMA-D), are equal
audio of one speaker and emotion, unusual formats, audio files that are no utterance, and clips that the corpus's own
notes say to be unusable.
"""

import io
import json
import os
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from ..errors import SerError
from ..evaluation.tables import text_table
from ..files import write
from ..training.run import say
from .console import Parser, claim, corpus_arguments

# What the content of a file of this kind must be, in libsndfile's names; also the kinds of file that are looked for.
FORMATS = {
    ".wav": ("WAV", "WAVEX", "RF64"),
    ".flac": ("FLAC",),
    ".mp3": ("MP3",),
    ".ogg": ("OGG",),
    ".aif": ("AIFF",),
    ".aiff": ("AIFF",),
}
MANY = 1000  # from so many clips on, starting processes is worth it


def look(row: dict) -> dict:
    """What the builder finds in one clip (`audio.scan`), and its file's header; the samples stay behind."""
    import soundfile as sf

    from ..data.corpus import scan_row

    found = scan_row(row)
    found.pop("audio", None)  # a cut segment
    header = None
    if row["audio"] and not found["problem"]:
        audio = row["audio"] if isinstance(row["audio"], dict) else {"bytes": None, "path": row["audio"]}
        info = sf.info(audio["path"] if audio["bytes"] is None else io.BytesIO(audio["bytes"]))
        header = (info.format, info.samplerate, info.channels)
    return {**found, "header": header}


def look_at_all(rows: list[dict], name: str, num_proc: int | None) -> list[dict]:
    """`look` at all rows, in their order, in parallel and with progress."""
    from tqdm import tqdm

    workers = num_proc or (min(8, os.cpu_count() or 1) if len(rows) >= MANY else 1)
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        found = map(look, rows) if pool is None else pool.map(look, rows, chunksize=16)
        return list(tqdm(found, total=len(rows), desc=f"reading {name}", unit=" clips", disable=None))


def check(name: str, labels: str | None = None, data_dir: str | None = None, num_proc: int | None = None) -> dict:
    """Read a whole corpus; the report as one dict, that `--json` writes.

    Raises:
        SerError: unknown corpus or label set, or the corpus is not there.
    """
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    from ..data.corpus import select_usable
    from ..data.loading import corpus_class, find_corpus, label_config

    config, corpus = label_config(name, labels), corpus_class(name)
    root = find_corpus(name, data_dir)
    with tempfile.TemporaryDirectory() as cache:  # the builder is asked for its rows; nothing is built
        builder = corpus(cache_dir=cache, config_name=config.name, data_dir=str(root), dataset_name=name)
    rows = builder.utterances(root)
    found = look_at_all(rows, name, num_proc)

    scans = [{key: value for key, value in scan.items() if key != "header"} for scan in found]
    emitted = [{**builder._row(row, scan), "audio": None} for row, scan in zip(rows, scans, strict=True)]
    everything = InMemoryTable(pa.Table.from_pylist(emitted, schema=builder.info.features.arrow_schema))
    _, report = select_usable(Dataset(everything, info=builder.info), name, config, corpus.CARD, root)

    files = [_relative(row, root) for row in rows]
    clips = {"missing": [], "unreadable": [], "silent": []}
    for row, file, scan in zip(emitted, files, found, strict=True):
        if scan["problem"]:
            known = row["id"] in corpus.CARD.notes or bool(file and file in corpus.CARD.notes)
            label = row["label"] if config.targets or row["label"] is None else config.label_names[row["label"]]
            reason = scan["problem"].replace(f"{root}/", "")
            clips[_kind(reason)].append(
                {"id": row["id"], "file": file, "label": label, "reason": reason, "known": known}
            )
    unusable = [*clips["unreadable"], *clips["silent"]]
    missing = report.official - report.utterances - sum(clip["label"] is not None for clip in unusable)
    classes = {
        word: {"official": report.official_per_label.get(word), "found": number}
        | {"unusable": sum(clip["label"] == word for clip in unusable)}
        for word, number in report.per_label.items()
    }
    for sizes in classes.values():
        official = sizes["official"]
        sizes["missing"] = None if official is None else official - sizes["found"] - sizes["unusable"]
    duplicated = _duplicated(rows, found)
    numbers = {
        "missing": max(0, missing),
        "more than officially": max(0, -missing),
        "missing outside this label set": sum(clip["label"] is None for clip in clips["missing"]),
        "unreadable": sum(not clip["known"] for clip in clips["unreadable"]),
        "silent": sum(not clip["known"] for clip in clips["silent"]),
        "contradictory duplicates": sum(group["contradictory"] for group in duplicated),
    }
    if not missing:  # else it goes without saying
        others = sum(bool(sizes["missing"]) for sizes in classes.values())
        numbers["labels with another number than officially"] = others
    different = [f"{number} {what}" for what, number in numbers.items() if number]
    return {
        "corpus": name,
        "labels": config.name,
        "folder": str(root),
        "complete": not different,
        "different": different,
        "official": report.official,
        "found": report.utterances,
        "missing": missing,
        "outside_labels": report.outside_labels,
        "speakers": report.speakers,
        "hours": report.hours,
        "classes": classes,
        "missing_files": clips["missing"],  # those that the corpus's own tables name
        "unreadable": clips["unreadable"],
        "silent": clips["silent"],
        "duplicated": duplicated,
        "wrong_format": _wrong_formats(files, found),
        "extra": _extra(root, files),
    }


def _relative(row: dict, root: Path) -> str | None:
    audio = row["audio"]
    path = audio["path"] if isinstance(audio, dict) else audio
    return str(path).removeprefix(f"{root}/") if path else None


def _kind(problem: str) -> str:
    """Of `audio.scan`'s messages, and of those of loading scripts."""
    return "missing" if "(no such file)" in problem else "silent" if ": silent (" in problem else "unreadable"


def _duplicated(rows: list[dict], found: list[dict]) -> list[dict]:
    """Groups of equal audio; contradictory are those that say different things of it."""
    groups = {}
    for row, scan in zip(rows, found, strict=True):
        if scan.get("audio_hash"):
            groups.setdefault(scan["audio_hash"], []).append(row)
    return [
        {
            "ids": [row["id"] for row in group],
            "contradictory": len({(row["emotion"], row["speaker"]) for row in group}) > 1,
        }
        for group in groups.values()
        if len(group) > 1
    ]


def _wrong_formats(files: list[str | None], found: list[dict]) -> list[dict]:
    """Files whose content is not what their name says, or whose rate or channels are not those of most."""
    headers = {file: scan["header"] for file, scan in zip(files, found, strict=True) if file and scan["header"]}
    rates = Counter(rate for _, rate, _ in headers.values()).most_common(1)
    channels = Counter(number for *_, number in headers.values()).most_common(1)
    wrong = []
    for file, (kind, rate, number) in headers.items():
        if kind not in FORMATS.get(Path(file).suffix.lower(), (kind,)):
            wrong.append({"file": file, "reason": f"content is {kind}"})
        if rate != rates[0][0]:
            wrong.append({"file": file, "reason": f"{rate} Hz, most have {rates[0][0]} Hz"})
        if number != channels[0][0]:
            wrong.append({"file": file, "reason": f"channels: {number}, most have {channels[0][0]}"})
    return wrong


def _extra(root: Path, files: list[str | None]) -> list[str]:
    """Audio files in the corpus's folder that are no utterance of it."""
    used, extra = set(files), []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        paths = (str(Path(folder, name).relative_to(root)) for name in sorted(names))
        extra += [path for path in paths if Path(path).suffix.lower() in FORMATS and path not in used]
    return extra


def lines(found: dict) -> list[str]:
    """The summary on screen."""
    out = [
        f"{found['corpus']} ({found['labels']}) in {found['folder']}",
        f"{found['found']} of {found['official']} utterances, {found['speakers']} speakers, {found['hours']:.2f} h",
    ]
    if found["classes"]:
        heads = ("official", "found", "unusable", "missing")
        cells = {word: [sizes[head] for head in heads] for word, sizes in found["classes"].items()}
        rows = [[word, *("-" if cell is None else cell for cell in row)] for word, row in cells.items()]
        out += ["", *text_table(["label", *heads], rows), ""]
    if found["outside_labels"]:
        out.append(f"outside this label set: {found['outside_labels']}")
    for kind, what in (
        ("missing_files", "missing, though the corpus's tables name them"),
        ("unreadable", "unreadable"),
        ("silent", "silent"),
    ):
        out += _listed(what, [c["reason"] + " (known, as in the original)" * c["known"] for c in found[kind]])
    equal = [" = ".join(group["ids"]) + " CONTRADICTORY" * group["contradictory"] for group in found["duplicated"]]
    out += _listed("equal audio, groups", equal)
    out += _listed("of an unusual format", [f"{f['file']}: {f['reason']}" for f in found["wrong_format"]])
    folders = Counter(str(Path(file).parent) for file in found["extra"])
    first = {str(Path(file).parent): Path(file).name for file in reversed(found["extra"])}
    places = [f"{number} in {folder}, the first is {first[folder]}" for folder, number in folders.most_common()]
    out += _listed("audio files that are no utterance", places, len(found["extra"]))
    return [*out, "complete" if found["complete"] else f"different: {', '.join(found['different'])}"]


def _listed(what: str, items: list[str], number: int | None = None, most: int = 5) -> list[str]:
    if not items:
        return []
    rest = [f"  ... and {len(items) - most} more (--json has all)"] if len(items) > most else []
    return [f"{what}: {len(items) if number is None else number}", *(f"  {item}" for item in items[:most]), *rest]


def main(argv: list[str]) -> int:
    parser = Parser("check", __doc__)
    corpus_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the whole report, for machines")
    args = parser.parse_args(argv)

    from ..data.loading import find_corpus, label_config

    label_config(args.name, args.labels)
    root = find_corpus(args.name, args.data_dir)
    if args.json:
        file = Path(args.json).expanduser().absolute()
        if file.resolve().is_relative_to(root.resolve()):
            raise SerError(f"--json {args.json} lies in the corpus's folder, where nothing is written; choose another")
        if file.is_dir():
            raise SerError(f"--json {args.json} is a folder; name a file")
        claim(file.parent, f"--json {args.json}")
    found = check(args.name, args.labels, args.data_dir, args.num_proc)
    if args.json:
        write(file, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    say(*lines(found))
    return 0 if found["complete"] else 1
