"""Emotions of audio files by a trained model, on the screen or as a table.

    ser-hf predict clip.wav --model runs/demo
    ser-hf predict recordings/ --model you/your-model --out scores.csv
    ser-hf predict interview.flac --model runs/demo --window_s 4 --hop_s 2 --out interview.parquet

A table has one row a file: file, prediction (of several labels at once those that apply, joined by +), score_<label>
for each label, error where the file cannot be heard, and the model with a mark of its weights. With --window_s a
file's row is the mean of its windows, and one row follows for each window, with its number, start and end in seconds.

A model that was trained with --speaker_norm is told by --speaker_clips how the person speaks who is heard in all files;
otherwise it takes an average speaker. Rows of a table are relative to the same clips: a folder that grows is no good.

The same command goes on after an interruption, and adds new files to a finished table: files that have a row in --out
are not heard again, those with an error are. Exit status 0: all files have scores; 1: some do not, they are listed;
2: a mistake in the command.
"""

import csv
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from .. import torchaudio_cpu
from ..errors import SerError
from ..evaluation.tables import text_table
from ..files import write
from ..training.run import say
from .console import Parser, claim, positive

# What is looked for in a folder. The last line needs FFmpeg: such files get an error instead of being passed over.
SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"),
    *(".m4a", ".aac", ".wma", ".webm", ".mp4"),
)
FORMATS = (".csv", ".json", ".parquet")
MOST = 20  # failures that are listed


def find_files(places: list[str]) -> list[str]:
    """The files that are named, and all audio below the folders that are named; each once.

    Raises:
        SerError: a place does not exist, or a folder has no audio.
    """
    files = []
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            found = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise SerError(f"{place}: no audio below this folder (looked for {' '.join(SUFFIXES)})")
            files += found
        elif path.is_file():
            files.append(str(path))
        else:
            raise SerError(f"{place}: no such file or folder")
    for file in files:
        try:
            file.encode()
        except UnicodeEncodeError:
            raise SerError(
                f"{ascii(file)}: a name that is not UTF-8 has no place in a table; rename the file"
            ) from None
    return list(dict.fromkeys(files))


def load(name: str, trust_remote_code: bool, speaker_clips: list[str] | None = None):
    """The pipeline of a fine-tuned model, ours or any audio classifier of transformers.

    Args:
        name: Its folder or Hub id.
        trust_remote_code: Whether code that comes with it may run.
        speaker_clips: Files by which it is to know who speaks (`SerSpectrogramFeatureExtractor.adapted`).

    Raises:
        SerError: not found, no audio classifier, its own code is not trusted, weights of the head are missing, it does
            not go by speakers, or a clip of the speaker cannot be read.
    """
    torchaudio_cpu.check()
    import transformers
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    from ..models import SerPipeline

    transformers.logging.set_verbosity_warning()  # it says when a file is long enough for windows
    transformers.logging.disable_progress_bar()
    options = {"trust_remote_code": trust_remote_code}
    try:
        extractor = AutoFeatureExtractor.from_pretrained(name, **options)
        model, info = AutoModelForAudioClassification.from_pretrained(name, output_loading_info=True, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason:
            reason = "it brings code of its own, which only --trust_remote_code runs; read it first"
        elif not Path(name).exists() and not isinstance(error, ValueError):
            reason = f"no such folder, and no model of the Hub that this machine can load ({reason})"
        raise SerError(f"--model {name}: {reason}") from None
    if missing := sorted(info["missing_keys"]):
        raise SerError(
            f"--model {name}: the weights {', '.join(missing[:4])} are missing, it would answer at random; "
            "give a fine-tuned checkpoint"
        )
    if speaker_clips:
        if getattr(extractor, "mean_spectrum", None) is None:
            raise SerError(f"--speaker_clips: {name} was trained without --speaker_norm; leave it out")
        try:
            extractor = extractor.adapted(_heard(speaker_clips, extractor.sampling_rate))
        except ValueError as error:
            raise SerError(f"--speaker_clips: {error}") from None
    elif getattr(extractor, "mean_spectrum", None) is not None:
        sys.stderr.write(f"{name}: trained with --speaker_norm, takes an average speaker without --speaker_clips\n")
    return SerPipeline(model=model, feature_extractor=extractor)


def _heard(files: list[str], sampling_rate: int) -> Iterator:
    """The samples of each file; one that cannot be read is named and left out."""
    from ..data.audio import AudioError
    from ..data.audio import decode as hear

    for file in files:
        try:
            yield hear(file, sampling_rate)
        except AudioError as error:
            sys.stderr.write(f"left out of --speaker_clips: {error}\n")


def fingerprint(model) -> str:
    """A mark of the weights: the rows of a model that was trained anew in the same folder are not taken for its own."""
    import torch
    import xxhash

    digest = xxhash.xxh3_64()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:8]


def columns_of(labels: list[str], windowed: bool, predicts: bool) -> dict[str, type]:
    """The table's columns and what is in them; `predicts` is False for regression, which has scores alone."""
    times = {"window": int, "start": float, "end": float} if windowed else {}
    settings = {"model": str} | ({"window_s": float, "hop_s": float, "window_last": str} if windowed else {})
    scores = {f"score_{label}": float for label in labels}
    return {"file": str, **times, **({"prediction": str} if predicts else {}), **scores, "error": str, **settings}


def rows_of(file: str, answer: list | dict, problem_type: str, fixed: dict) -> list[dict]:
    """The rows of one file: the file's, then its windows'.

    Args:
        file: As it was named.
        answer: `SerPipeline`'s.
        problem_type: Of the model.
        fixed: What is the same in all rows, in the order of the columns.
    """

    def row(scores: list[dict], **known) -> dict:
        if problem_type == "multi_label_classification":
            applying = [e["label"] for e in scores if e.get("predicted", e["score"] >= 0.5)]
            known["prediction"] = "+".join(applying) or None
        elif problem_type != "regression" and scores:
            known["prediction"] = scores[0]["label"]
        numbers = {f"score_{entry['label']}": round(entry["score"], 6) for entry in scores}
        return fixed | {"file": file} | known | numbers

    if isinstance(answer, list):
        return [row(answer)]
    if "error" in answer:
        return [row([], error=answer["error"])]
    spans = [{"start": round(part["start"], 6), "end": round(part["end"], 6)} for part in answer["segments"]]
    parts = enumerate(zip(answer["segments"], spans, strict=True))
    return [
        row(answer["scores"], start=0.0, end=spans[-1]["end"]),
        *(row(part["scores"], window=number, **span) for number, (part, span) in parts),
    ]


def encode(rows: list[dict], columns: dict[str, type], suffix: str) -> str | bytes:
    """Rows as the content of a csv, json or parquet file."""
    if suffix == ".json":
        return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
    if suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer := io.BytesIO())
    return buffer.getvalue()


def decode(file: Path, columns: dict[str, type]) -> list[dict]:
    """The rows of a file that `encode` made.

    Raises:
        ValueError: it is no such file (pyarrow's own error is one, json's too).
    """
    if file.suffix == ".json":
        return json.loads(file.read_text())
    if file.suffix == ".csv":
        with file.open(newline="") as lines:
            return [
                {name: None if text == "" else columns.get(name, str)(text) for name, text in row.items()}
                for row in csv.DictReader(lines)
            ]
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist()


def complete_lines(partial: Path) -> list[str]:
    """One a file; what follows the last line's end was being written when the call was stopped."""
    return partial.read_text().split("\n")[:-1] if partial.exists() else []


def earlier(out: Path, partial: Path, columns: dict[str, type], settings: dict) -> dict[str, list[dict]]:
    """What an earlier call of the same model wrote, finished or not: the rows of each file.

    Raises:
        SerError: the table is not this command's, or another model's or of other windows.
    """
    files = {}
    try:
        for rows in [decode(out, columns) if out.exists() else [], *map(json.loads, complete_lines(partial))]:
            table_of = {}
            for row in rows:
                if list(row) != list(columns):
                    raise SerError(f"--out {out} has other columns ({', '.join(map(str, row))}): choose another file")
                for name, value in settings.items():
                    if row[name] != value:
                        was = f"rows of {name} {row[name]}, now it is {value}"
                        raise SerError(f"--out {out} holds {was}: choose another file")
                table_of.setdefault(row["file"], []).append(row)
            files |= table_of
    except (ValueError, TypeError, AttributeError) as error:
        raise SerError(f"--out {out}: not a table of this command ({' '.join(str(error).split())})") from None
    return files


def predict(pipe, files: list[str], done: dict[str, list[dict]], fixed: dict, partial: Path | None, **options) -> None:
    """Add the rows of `files` to `done`, and to the file `partial` as soon as a file is heard.

    Raises:
        SerError: the device's memory is too small.
    """
    import torch
    from tqdm import tqdm

    # The longest first: clips of about equal length are batched, and what is too large for the memory fails at once.
    files = sorted(files, key=lambda file: -Path(file).stat().st_size)
    if partial:
        write(partial, "".join(f"{line}\n" for line in complete_lines(partial)))
    with partial.open("a") if partial else nullcontext() as lines:
        answers = pipe(iter(files), on_error="return", **options)
        try:
            for file, answer in zip(files, tqdm(answers, total=len(files), unit=" files", disable=None), strict=True):
                done[file] = rows_of(file, answer, pipe.problem_type, fixed)
                if lines:
                    lines.write(json.dumps(done[file]) + "\n")
                    lines.flush()
        except torch.OutOfMemoryError:
            size = options["batch_size"]
            raise SerError(f"--batch_size {size}: the GPU's memory is full; a smaller one, or --window_s") from None
        except KeyboardInterrupt:
            if lines:
                sys.stderr.write(f"the scores of {len(done)} files are kept: the same command goes on from there\n")
            raise


def lines_of(rows: list[dict], columns: dict[str, type]) -> list[str]:
    """The table on screen."""
    shown = [name for name in columns if name not in ("error", "model", "window", "window_s", "hop_s", "window_last")]
    cells = [
        ["-" if row[name] is None else f"{row[name]:.3f}" if columns[name] is float else row[name] for name in shown]
        for row in rows
        if not row["error"]
    ]
    return text_table([name.removeprefix("score_") for name in shown], cells) if cells else []


def main(argv: list[str]) -> int:
    parser = Parser("predict", __doc__)
    parser.add_argument("files", nargs="+", metavar="FILE|FOLDER", help="audio files, and folders of them")
    parser.add_argument("--model", required=True, help="a fine-tuned model: a folder or a Hub id")
    parser.add_argument("--out", help=f"the table: a file that ends in {', '.join(FORMATS)}; else the screen")
    parser.add_argument("--window_s", type=float, help="seconds of a window; else each file is heard as a whole")
    parser.add_argument("--hop_s", type=float, help="seconds from one window to the next (default: half a window)")
    kinds = ("pad", "shift", "drop")
    told = "audio behind the last whole window: a shorter one (default), one that begins earlier, or none"
    parser.add_argument("--window_last", choices=kinds, default="pad", help=told)
    parser.add_argument("--batch_size", type=positive, default=8, help="clips or windows at a time (default: 8)")
    told = "clips of the one person who speaks in all files, in various moods, for a model trained with --speaker_norm"
    parser.add_argument("--speaker_clips", nargs="+", metavar="FILE|FOLDER", help=told)
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")
    args = parser.parse_args(argv)
    if args.hop_s is not None and args.window_s is None:
        raise SerError(f"--hop_s {args.hop_s} is the step of windows: say how long they are with --window_s")
    windows = {}
    if args.window_s is not None:
        hop = args.window_s / 2 if args.hop_s is None else args.hop_s
        if not 0.01 <= hop <= args.window_s:
            raise SerError(f"--window_s {args.window_s} --hop_s {hop}: a hop is at least 0.01 s, and at most a window")
        windows = {"window_s": args.window_s, "hop_s": hop, "window_last": args.window_last}
    files = find_files(args.files)
    out = Path(args.out).expanduser() if args.out else None
    if out:
        if out.suffix not in FORMATS or out.is_dir():
            raise SerError(f"--out {args.out}: must be a file that ends in {', '.join(FORMATS)}")
        claim(out.parent, f"--out {args.out}")

    pipe = load(args.model, args.trust_remote_code, find_files(args.speaker_clips) if args.speaker_clips else None)
    name = Path(args.model).resolve().name if Path(args.model).is_dir() else args.model
    settings = {"model": f"{name}@{fingerprint(pipe.model)}", **windows}
    if args.speaker_clips:  # rows relative to other clips are others, but the order of the clips is nothing
        rounded = " ".join(f"{value:.2f}" for value in pipe.feature_extractor.mean_spectrum)
        settings["model"] += f" speaker {zlib.crc32(rounded.encode()):08x}"
    labels = [label for _, label in sorted(pipe.model.config.id2label.items())]
    columns = columns_of(labels, bool(windows), pipe.problem_type != "regression")
    partial = out.with_name(f".{out.name}.partial") if out else None
    done = earlier(out, partial, columns, settings) if out else {}
    todo = [file for file in files if file not in done or done[file][0]["error"]]
    kept = len(files) - len(todo)
    predict(pipe, todo, done, dict.fromkeys(columns) | settings, partial, batch_size=args.batch_size, **windows)

    named = set(files)
    rows = [row for file in [*(file for file in done if file not in named), *files] for row in done[file]]
    failed = [done[file][0]["error"] for file in files if done[file][0]["error"]]
    if out:
        write(out, encode(rows, columns, out.suffix))
        partial.unlink(missing_ok=True)
    else:
        say(*lines_of(rows, columns))
    parts = [f"{len(todo) - len(failed)} heard", f"{kept} kept from before" if kept else ""]
    parts.append(f"{len(failed)} cannot be heard" if failed else "")
    say(
        "",
        f"{len(files)} files: {', '.join(filter(None, parts))}" + (f"; written: {out}" if out else ""),
        *(f"  {error}" for error in failed[:MOST]),
        *([f"  ... and {len(failed) - MOST} more"] if len(failed) > MOST else []),
    )
    return 1 if failed else 0
