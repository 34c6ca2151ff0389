"""Predict the emotions of audio files with a trained model, on the screen or as a table.

    ser-hf predict clip.wav --model runs/demo
    ser-hf predict recordings/ --model you/your-model --out scores.csv
    ser-hf predict interview.flac --model runs/demo --window_s 4 --hop_s 2 --out interview.parquet
    ser-hf predict calls/ --model runs/demo --abstain_below 0.6 --label_sets

The table has one row per file: file, prediction (for multi-label models all labels that apply, joined by +),
score_<label> for each label, error if the file cannot be read, the model with a fingerprint of its weights, and the
absolute path and a hash of the file's content. With --window_s the row of a file is the mean of its windows, and one
row per window follows, with its number, start and end in seconds. A file too long for the memory gets an error;
--window_s reads it. A fusion model answers from the audio alone.

With --abstain_below P the prediction is "unsure" where no label has the probability P. With --label_sets the column
label_set has all labels that are likely enough, joined by +: on average nine of ten sets hold the right one, if the
recordings are like the validation part of the training.

A model that was trained with --speaker_norm requires --speaker_clips for speaker normalisation: clips of the speaker,
the same in all files. Without them it uses the mean of its training speakers. One table requires the same clips.
A model that was trained with --estimate_speakers can find by itself which files sound like the same speaker
(--estimate_speakers): give many files of each speaker, in various emotions. Other files may then change all scores.

The same command continues after an interruption and adds new files to a finished table: it skips files with scores in
--out whose path and content are the same, and retries files with an error. After -- follow names of files alone:
ser-hf predict --model runs/demo -- --my-clip.wav

Exit status 0: all files have scores; 1: some do not, they are listed; 2: a mistake in the command.
"""

import csv
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import torchaudio_cpu
from ..errors import SerError, no_memory, one_line, printable
from ..evaluation.tables import number, text_table
from ..files import check_checkpoint, hold, named_file, without_path, write
from ..training.arguments import converter
from ..training.run import say
from .console import Parser

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..models import SerPipeline

# File names looked for in a folder. The last line requires FFmpeg: such files get an error instead of being skipped.
SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"),
    *(".m4a", ".aac", ".wma", ".webm", ".mp4", ".amr", ".awb", ".3gp", ".3g2", ".mov", ".mkv", ".mka", ".avi", ".m4v"),
    *(".m4b", ".mp2", ".mpg", ".mpeg", ".ac3", ".ape", ".wv", ".spx", ".gsm", ".snd", ".voc", ".raw", ".pcm"),
)
FORMATS = (".csv", ".json", ".parquet")
MOST = 20  # errors that are listed


def find_files(places: list[str]) -> dict[str, str]:
    """The named files, and all audio files below the named folders, each once: absolute path to the name as given. A
    link is not followed: its own name is what its user knows. SerError if there are none."""
    files = []
    for place in places:
        path = Path(place).expanduser()
        if place and path.is_dir():
            audio = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not audio:
                raise SerError(f"{place}: no audio below this folder (looked for {' '.join(SUFFIXES)})")
            files += audio
        elif place and path.is_file():
            files.append(str(path))
        else:
            raise SerError(f"{place or repr(place)}: no such file or folder")
    named: dict[str, str] = {}
    for file in files:
        named.setdefault(os.path.abspath(file), file)
    return named


def as_text(name: str) -> str:
    """A file's name as UTF-8, which a table can hold: bytes that are none become escapes."""
    return name.encode(errors="backslashreplace").decode()


def seconds_of(file: str) -> float:
    """Seconds of a file by its header; 0 if it cannot be read."""
    import soundfile as sf

    try:
        return sf.info(os.fsencode(file)).duration
    except (sf.SoundFileError, OSError, RuntimeError, TypeError):
        return 0.0


def content_of(file: str) -> str:
    """A hash of a file's content; empty if it cannot be read."""
    import xxhash

    try:
        with open(file, "rb") as content:
            return hashlib.file_digest(content, xxhash.xxh3_64).hexdigest()
    except OSError:
        return ""


def load(
    name: str, trust_remote_code: bool, speaker_clips: list[str] | None = None, flag: str = "--model", **options: Any
) -> "SerPipeline":
    """The `SerPipeline` of a fine-tuned model, ours or any audio classifier of transformers. `speaker_clips` are files
    of the speaker, for speaker normalisation; `flag` is the user's name for the argument; `options` are the pipeline's.
    SerError: not found, no audio classifier, incomplete, its code is not trusted, or an option does not fit it."""
    torchaudio_cpu.check()
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, AutoProcessor

    from ..models import SerPipeline
    from ..models.common import load_safetensors
    from ..training.saved_model import incomplete

    check_checkpoint(name, flag)

    transformers.logging.set_verbosity_warning()  # the pipeline warns of files that are long enough for windows
    transformers.logging.disable_progress_bar()
    trust = {"trust_remote_code": trust_remote_code}
    try:
        model, info = load_safetensors(AutoModelForAudioClassification.from_pretrained, name, **trust)
        fused = hasattr(model.config, "text_config")
        processor = AutoProcessor.from_pretrained(name, **trust) if fused else None
        extractor = processor.feature_extractor if fused else AutoFeatureExtractor.from_pretrained(name, **trust)
    except (OSError, ValueError, ImportError, StrictDataclassError) as error:
        reason = one_line(error)
        if "trust_remote_code" in str(error):
            reason = "it brings its own code, which only --trust_remote_code runs; read it first"
        elif "Unrecognized configuration class" in str(error):
            reason = "no classifier of audio by its configuration; name one (a text model reads no clips)"
        elif not Path(name).exists() and isinstance(error, OSError):
            reason = f"no such folder, and no model on the Hub that this machine can load ({reason})"
        raise SerError(f"{flag} {name}: {reason}") from None
    if problem := incomplete(name, info):
        raise SerError(f"{flag} {name}: {problem}")
    if fused:
        sys.stderr.write(f"{name}: a fusion model; without a text it answers from the audio alone\n")
    relative = getattr(model.config, "speaker_norm", False)  # hidden states, by the model; else features, by ...
    normalises_speakers = relative or getattr(extractor, "speaker_values", None) is not None
    if speaker_clips and not normalises_speakers:
        raise SerError(f"--speaker_clips: {name} was trained without --speaker_norm; leave it out")
    if speaker_clips:
        try:
            clips = _readable(sorted(speaker_clips), extractor.sampling_rate)
            if relative:
                model.eval().adapt(clips, extractor)
            else:
                extractor = extractor.adapted(clips)
        except ValueError as error:
            raise SerError(f"--speaker_clips: {error}") from None
    elif normalises_speakers:
        ways = "--speaker_clips" + (" or --estimate_speakers" if getattr(model.config, "speaker_dims", 0) else "")
        sys.stderr.write(f"{name}: trained with --speaker_norm; without {ways} it assumes a mean speaker\n")
    try:
        return SerPipeline(model=model, feature_extractor=extractor, processor=processor, **options)
    except ValueError as error:
        raise SerError(f"{flag} {name}: {error}") from None


def _readable(files: list[str], sampling_rate: int) -> Iterator:
    """The samples of each file; a file that cannot be read is named and left out."""
    from ..data.audio import AudioError, read_clip

    for file in files:
        try:
            yield read_clip(file, sampling_rate)
        except AudioError as error:
            sys.stderr.write(f"left out of --speaker_clips: {error}\n")


def by_estimated_speakers(pipe: "SerPipeline", files: list[str]) -> dict[str, list | dict]:
    """The answer for each file relative to those that sound like the same speaker, from one pass of the encoder; where
    these are fewer than `FEWEST_ALIKE`, relative to an average speaker."""
    import torch
    from tqdm import tqdm

    from ..data.audio import AudioError, read_clip
    from ..models.encoders import longest_clip
    from ..training.speakers import FEWEST_ALIKE, SpeakerMap, alone, group

    model, extractor = pipe.model, pipe.feature_extractor
    limit, states = longest_clip(model.config.audio_config), {}
    answers: dict[str, list | dict] = {}
    for file in tqdm(files, unit=" files", disable=None):
        try:
            samples = read_clip(file, extractor.sampling_rate)
            if limit is not None and len(samples) > limit * extractor.sampling_rate:
                raise AudioError(f"{file}: longer than the {limit:g} s that the encoder reads; cut it into parts")
            with bounded_memory(pipe.device):  # such a model pools before its head: one frame, which is its mean
                (states[file],) = model.clip_means([samples], extractor)
        except AudioError as error:
            answers[file] = {"error": as_text(str(error))}
        except Exception as error:
            if not no_memory(error):
                raise
            answers[file] = {"error": f"{as_text(file)}: too long for the memory of this machine; cut it into parts"}
    speaker_map = SpeakerMap(model.ser_speakers.weight.detach().double().cpu().numpy(), model.config.speaker_distance)
    numbers = group(speaker_map, torch.stack(list(states.values())).flatten(1).cpu().numpy()) if states else []
    groups = [[file for file, one in zip(states, numbers, strict=True) if one == number] for number in set(numbers)]
    sizes = sorted(map(len, groups))
    few = alone(sizes, FEWEST_ALIKE)
    sys.stderr.write(f"{len(states)} files sound like {len(groups)} speakers, of {sizes} files{few}\n")
    for one in groups:
        clips = torch.stack([states[file] for file in one])
        if len(one) >= FEWEST_ALIKE:  # as if each clip were an average speaker's, whose mean the model has
            clips = clips - clips.mean(dim=0) + model.ser_scale.mean
        with torch.no_grad():
            logits = model.classify(clips.float()[:, :, None], None).cpu()
        for file, row in zip(one, logits, strict=True):
            answers[file] = pipe.postprocess([{"logits": row}], **pipe._postprocess_params | {"on_error": "return"})
    return answers


def fingerprint(model: "PreTrainedModel") -> str:
    """Eight digits that change with the weights: a table must not mix rows of models from the same folder."""
    import torch
    import xxhash

    digest = xxhash.xxh3_64()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:8]


def columns_of(labels: list[str], settings: dict, predicts: bool, label_sets: bool) -> dict[str, str]:
    """The table's columns and pandas types; `settings` are shared by all rows, `predicts` is False for regression."""
    windowed = "window_s" in settings
    times = {"window": "Int64", "start": "Float64", "end": "Float64"} if windowed else {}
    types = {"model": "string", "window_s": "Float64", "hop_s": "Float64", "window_last": "string"}
    types |= {"abstain_below": "Float64"}
    prediction = {"prediction": "string"} if predicts else {}
    prediction |= {"label_set": "string"} if label_sets else {}
    scores = {f"score_{label}": "Float64" for label in labels}
    keys = {"path": "string", "content": "string"}
    shared = {name: types[name] for name in settings}
    return {"file": "string", **times, **prediction, **scores, "error": "string", **shared, **keys}


def rows_of(file: str, answer: list | dict, problem_type: str, fixed: dict) -> list[dict]:
    """The row of one file, then the rows of its windows, from the answer of `SerPipeline`. `fixed` has all columns in
    their order, with the values that all rows share."""

    def row(scores: list[dict], **values) -> dict:
        if problem_type == "multi_label_classification":
            labels = [e["label"] for e in scores if e.get("predicted", e["score"] >= 0.5)]
            values["prediction"] = "+".join(labels) or None
        elif problem_type != "regression" and scores:
            values["prediction"] = scores[0]["label"]
        if "label_set" in fixed and scores:
            values["label_set"] = "+".join(entry["label"] for entry in scores if entry.get("in_set"))
        values |= {name: entry["score"] for entry in scores if (name := f"score_{entry['label']}") in fixed}
        rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
        return fixed | {"file": file} | rounded

    if isinstance(answer, list):
        return [row(answer)]
    if "error" in answer:
        return [row([], error=answer["error"])]
    parts = answer["segments"]
    windows = [row(p["scores"], window=n, start=p["start"], end=p["end"]) for n, p in enumerate(parts)]
    return [row(answer["scores"], start=0.0, end=parts[-1]["end"]), *windows]


def encode(rows: list[dict], columns: dict[str, str], suffix: str) -> str | bytes:
    """Rows as the content of a csv, json or parquet file."""
    import pandas as pd

    if suffix == ".json":
        return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
    table = pd.DataFrame(rows, columns=list(columns)).astype(columns)
    if suffix == ".parquet":
        return table.to_parquet(index=False)
    # Python before 3.13 does not quote a field for a carriage return in it
    quoting = csv.QUOTE_NONNUMERIC if any("\r" in row["file"] for row in rows) else csv.QUOTE_MINIMAL
    return table.to_csv(index=False, lineterminator="\n", quoting=quoting)


def decode(file: Path, columns: dict[str, str]) -> list[dict]:
    """The rows of a file written by `encode`; ValueError if it is no such file."""
    import pandas as pd

    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    if file.suffix == ".csv":
        table = pd.read_csv(file, dtype=columns, keep_default_na=False, na_values=[""])
    else:
        table = pd.read_parquet(file)
    return table.astype(object).where(table.notna(), None).to_dict("records")


def earlier(out: Path, partial: Path, columns: dict[str, str], settings: dict) -> dict[str, list[dict]]:
    """The rows of each file, by its path, from an earlier call with the same model, finished or not. SerError: the
    table is not one of this command, or has another model or other windows."""
    files = {}
    lines = partial.read_text().split("\n")[:-1] if partial.exists() else []  # the last may be cut off
    try:
        for rows in [decode(out, columns) if out.exists() else [], *map(json.loads, lines)]:
            for row in rows:
                if list(row) != list(columns):
                    raise SerError(f"--out {out} has other columns ({', '.join(map(str, row))}): choose another file")
                for name, value in settings.items():
                    if row[name] != value:
                        problem = f"holds rows of {name} {row[name]}, now it is {value}"
                        raise SerError(f"--out {out} {problem}: choose another file")
            files |= {file: list(group) for file, group in groupby(rows, key=lambda row: row["path"])}
    except (ValueError, TypeError, AttributeError) as error:
        raise SerError(f"--out {out}: not a table of this command ({one_line(error)}); choose another file") from None
    return files


def available(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still use, of the machine or its control `group`; None if the system is silent."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(facts["MemAvailable"].split()[0]) * 1024
        most = (group / "memory.max").read_text().strip() if (group / "memory.max").is_file() else "max"
        if most == "max":
            return free
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)  # can be dropped
        return min(free, int(most) - int((group / "memory.current").read_text()) + int(cached[1]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


@contextmanager
def bounded_memory(device: "torch.device") -> Iterator[None]:
    """On a CPU of Linux, memory beyond what is `available` is refused, as an error that names no file; without this
    the system grants it and then kills the process."""
    limit, free = None, available() if device.type == "cpu" else None
    if free is not None:
        import resource

        used = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
        limit = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([int(used[1]) * 1024 + free, *most]), hard))
    try:
        yield
    finally:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, limit)


def predict(
    pipe: "SerPipeline", files: list[str], fixed: dict, partial: Path | None, **options: Any
) -> dict[str, list[dict]]:
    """The rows of each file, by its path, from a `SerPipeline`, called with `options`; also appended to the file
    `partial`, for the next call if this one is interrupted. `fixed` as in `rows_of`. A file for which the memory is
    too small, also alone, gets an error, and the others go on."""
    from tqdm import tqdm

    # The longest first: clips of similar length are batched, and a batch too large for the memory fails at once.
    todo, rows = sorted(files, key=lambda file: -seconds_of(file)), {}
    contents: dict[str, str] = {}

    def stream() -> Iterator[str]:
        for file in todo[len(rows) :]:
            contents[file] = content_of(file)
            yield file

    with (
        (partial or Path(os.devnull)).open("a", buffering=1) as lines,
        tqdm(total=len(todo), unit=" files", disable=None) as progress,
    ):  # each line is written at once

        def keep(file: str, answer: list | dict) -> None:
            same = fixed | {"path": as_text(file), "content": contents.get(file, "")}
            rows[file] = rows_of(as_text(file), answer, pipe.problem_type, same)
            lines.write(json.dumps(rows[file]) + "\n")
            progress.update()

        try:
            while len(rows) < len(todo):
                try:
                    with bounded_memory(pipe.device):
                        answers = pipe(stream(), on_error="return", **options)
                        for file, answer in zip(todo[len(rows) :], answers, strict=True):
                            keep(file, answer)
                except Exception as error:
                    if not no_memory(error):
                        raise
                if len(rows) < len(todo):  # the batch is too large: the longest file alone
                    keep(file := todo[len(rows)], _alone(pipe, file, options))
        except KeyboardInterrupt:
            if partial:
                sys.stderr.write(f"the scores of {len(rows)} more files are saved: the same command continues there\n")
            raise
    return rows


def _alone(pipe: "SerPipeline", file: str, options: dict) -> list | dict:
    """The answer for one file by itself."""
    try:
        with bounded_memory(pipe.device):
            return pipe(file, on_error="return", **options | {"batch_seconds": 0.01})
    except Exception as error:
        if not no_memory(error):
            raise
        advice = "give shorter windows" if "window_s" in options else "give --window_s"
        return {"error": f"{as_text(file)}: too long for the memory of this machine at once; {advice}"}


def lines_of(rows: list[dict]) -> list[str]:
    """The table for the screen: rows without an error, and neither settings nor the windows' numbers."""
    import pandas as pd

    hidden = ["error", "model", "window", "window_s", "hop_s", "window_last", "path", "content", "abstain_below"]
    shown = [row | {"file": printable(row["file"])} for row in rows if not row["error"]]
    table = pd.DataFrame(shown).drop(columns=hidden, errors="ignore")
    cells = [["-" if pd.isna(value) else number(value) for value in row] for row in table.itertuples(index=False)]
    return text_table([name.removeprefix("score_") for name in table], cells)


def _parser() -> Parser:
    parser = Parser("predict", __doc__)
    parser.add_argument("files", nargs="+", metavar="FILE|FOLDER", help="audio files, and folders of them")
    parser.add_argument("--model", required=True, help="fine-tuned model: folder or Hub id")
    parser.add_argument("--out", help=f"write the table to this file ({', '.join(FORMATS)}; default: the screen)")
    seconds = converter(float, {"least": 0.01})
    parser.add_argument("--window_s", type=seconds, help="score windows of so many seconds (default: whole files)")
    parser.add_argument("--hop_s", type=seconds, help="seconds from one window to the next (default: half a window)")
    kinds = ("pad", "shift", "drop")
    text = "audio after the last whole window: a shorter window (default), one that begins earlier, or none"
    parser.add_argument("--window_last", choices=kinds, default="pad", help=text)
    text = "seconds of audio per batch, with padding (default: 8 on a CPU, 36 on a GPU)"
    parser.add_argument("--batch_seconds", type=converter(float, {"least": 0.01}), help=text)
    text = "predict 'unsure' where no label has this probability, 0 to 1 (default: always predict)"
    parser.add_argument("--abstain_below", type=converter(float, {"least": 0, "most": 1}), metavar="P", help=text)
    text = "add the set of likely labels of each file (conformal, from the model's validation part)"
    parser.add_argument("--label_sets", action="store_true", help=text)
    text = "clips of the one speaker of all files, in various emotions, for a model trained with --speaker_norm"
    parser.add_argument("--speaker_clips", nargs="+", metavar="FILE|FOLDER", help=text)
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")
    text = "score clips relative to all those that sound like the same speaker, for a model that was trained so"
    parser.add_argument("--estimate_speakers", action="store_true", help=text)
    return parser


def window_options(window_s: float | None, hop_s: float | None, window_last: str) -> dict:
    """The pipeline's options for windows; none without `window_s`. SerError: a hop without windows, or above them."""
    if window_s is None:
        if hop_s is not None:
            raise SerError(f"--hop_s {hop_s}: only windows have a hop; give --window_s too")
        return {}
    hop_s = window_s / 2 if hop_s is None else hop_s
    if hop_s > window_s:
        raise SerError(f"--hop_s {hop_s:g}: must be at most --window_s, which is {window_s:g}")
    return {"window_s": window_s, "hop_s": hop_s, "window_last": window_last}


def model_name(model: str, pipe: "SerPipeline", adapted: bool) -> str:
    """The model in the table: its folder or Hub id, a fingerprint of its weights, and of the speaker it was `adapted`
    to. Other clips of the speaker give other scores, in any order."""
    name = f"{without_path(model)}@{fingerprint(pipe.model)}"
    values = getattr(pipe.feature_extractor, "speaker_values", None)
    if not adapted or values is None:  # a model that was adapted itself has another fingerprint
        return name
    return f"{name} speaker {zlib.crc32(' '.join(f'{value:.2f}' for value in values).encode()):08x}"


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    if args.estimate_speakers and (args.speaker_clips or args.window_s):
        other = "--speaker_clips" if args.speaker_clips else "--window_s"
        raise SerError(f"--estimate_speakers: not together with {other}; leave one of them out")
    windows = window_options(args.window_s, args.hop_s, args.window_last)
    files = find_files(args.files)
    out = named_file(args.out, "--out", *FORMATS) if args.out else None
    if out:
        hold(out, f"--out {args.out}", file=True)

    from ..evaluation.scoring import answers_of
    from ..models.encoders import longest_clip

    clips = [*find_files(args.speaker_clips)] if args.speaker_clips else None
    abstaining = {} if args.abstain_below is None else {"abstain_below": args.abstain_below}
    pipe = load(args.model, args.trust_remote_code, clips, label_sets=args.label_sets, **abstaining)
    limit = longest_clip(getattr(pipe.model.config, "audio_config", pipe.model.config))
    if limit is not None and windows and args.window_s > limit:
        raise SerError(f"--window_s {args.window_s:g}: the model reads {limit:g} s; give less")
    if args.estimate_speakers and not getattr(pipe.model.config, "speaker_dims", 0):
        raise SerError(f"--estimate_speakers: {args.model} was trained without it; leave it out")
    settings = {"model": model_name(args.model, pipe, adapted=bool(clips)), **windows, **abstaining}
    if args.estimate_speakers:  # other files give other speakers, and other scores
        speech = repr(sorted((path, content_of(path)) for path in files)).encode(errors="surrogateescape")
        settings["model"] += f" speakers {zlib.crc32(speech):08x}"
    labels, _ = answers_of(pipe.model.config)
    columns = columns_of(labels, settings, pipe.problem_type != "regression", args.label_sets)
    partial = out.with_name(f".{out.name}.partial") if out else None
    done = earlier(out, partial, columns, settings) if out else {}
    if out:
        write(partial, "".join(json.dumps(rows) + "\n" for rows in done.values()))

    def scored_before(path: str) -> bool:
        row = done.get(as_text(path), [None])[0]
        return row is not None and not row["error"] and row["content"] == content_of(path)

    todo = [path for path in files if not scored_before(path)]
    fixed = dict.fromkeys(columns) | settings
    options = {"batch_seconds": args.batch_seconds or pipe.fast_batch, **windows}
    answers = by_estimated_speakers(pipe, list(files)) if args.estimate_speakers and todo else {}
    scored = {}
    for path in filter(answers.__contains__, todo):
        same = fixed | {"path": as_text(path), "content": content_of(path)}
        scored[path] = rows_of(as_text(path), answers[path], pipe.problem_type, same)
    scored |= predict(pipe, [path for path in todo if path not in scored], fixed, partial, **options)
    done |= {as_text(path): rows for path, rows in scored.items()}
    names = {as_text(path): as_text(name) for path, name in files.items()}
    done |= {path: [row | {"file": name} for row in done[path]] for path, name in names.items()}
    rows = [row for path in [*(path for path in done if path not in names), *names] for row in done[path]]
    failed = [printable(done[path][0]["error"]) for path in names if done[path][0]["error"]]
    if out:
        write(out, encode(rows, columns, out.suffix))
        partial.unlink(missing_ok=True)
    else:
        say(*lines_of(rows))
    others = {"scored before": len(files) - len(todo), "cannot be read": len(failed)}
    parts = [f"{len(todo) - len(failed)} scored", *(f"{count} {text}" for text, count in others.items() if count)]
    say(
        "",
        f"{len(files)} files: {', '.join(parts)}" + (f"; written: {out}" if out else ""),
        *(f"  {error}" for error in failed[:MOST]),
        *([f"  ... and {len(failed) - MOST} more"] if len(failed) > MOST else []),
    )
    return 1 if failed else 0
