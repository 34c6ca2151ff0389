"""Compare recordings with those that a model was trained on: why may it fail on them?

    ser-hf doctor runs/ravdess_wav2vec2_fold0_seed42 calls/
    ser-hf doctor you/your-model emodb --data_dir /corpora/emodb --out doctor.json

`name` is an audio file, a folder, or a corpus. The table shows level, bandwidth, noise, duration, pitch and share
of speech beside the range of 98 % of the training clips, and one thing to try for each measure that is outside. Unseen
speakers alone put no measure outside: the test allows for the differences between training speakers and for chance, at
most one false alarm in 20 per measure. Recordings with labels are also scored: by speaker, by gender, and those inside
a measure's range beside those outside.

Exit status 0: nothing is outside; 1: something is; 2: a mistake in the command.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SerError
from ..evaluation.tables import number, scored, shown, text_table
from ..files import named_file, write
from ..training.run import say
from .console import Parser, columns_of, corpus_arguments
from .predict import MOST, SUFFIXES, find_files, load

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

LEAST_GROUP = 5  # recordings of a subgroup that is scored
CHANGES = "flags ending in _p change training clips: not of classical_cls.py, and not with --freeze_encoder true"
MOST_SPEAKERS = 10  # on the screen: those with the lowest scores


def find_corpus(args: argparse.Namespace) -> "Dataset | None":
    """The corpus `name`; None for an audio file, or a folder of audio files alone. SerError: it is neither."""
    from ..data.loading import find_source
    from ..data.loading import load as load_source

    path = Path(args.name).expanduser()
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return None
    columns = columns_of(args)
    try:
        source = find_source(args.name, args.labels, args.data_dir, columns=columns)
    except SerError as error:
        if not path.is_dir() or args.labels or args.data_dir or columns.given():
            raise
        say(f"{args.name}: read as audio files without labels ({error})")
        return None
    corpus, report = load_source(source, num_proc=args.num_proc)
    if corpus["audio_hash"][0] is None:
        raise SerError(f"{args.name}: has no audio; doctor compares recordings")
    say(*report.lines())
    return corpus


def measure_files(files: list[str]) -> "tuple[np.ndarray, list[str]]":
    """The measures of files `(files, measures)`, and why others cannot be read. SerError: none can."""
    import numpy as np
    from tqdm import tqdm

    from ..data.acoustics import RATE, measure
    from ..data.audio import AudioError, decode

    values, unreadable = [], []
    for file in tqdm(files, unit=" files", disable=None):
        try:
            values.append(measure(decode(file, RATE)))
        except AudioError as error:
            unreadable.append(str(error))
    if not values:
        raise SerError(f"none of {len(files)} files can be read; the first: {unreadable[0]}")
    return np.stack(values), unreadable


# ---- scores by subgroup


def score_groups(pipe, corpus: "Dataset", outside: "dict[str, np.ndarray]") -> tuple[dict[str, dict], list[str]]:
    """Scores of labelled recordings by subgroup, as `scoring.score` returns them, and remarks. `outside` has, by
    measure, which recordings are out of its range. No scores where the model has other labels."""
    import numpy as np
    from datasets import Dataset
    from tqdm import tqdm

    from ..data.audio import decode
    from ..evaluation.scoring import answerable, answers_of, pipeline_scores, score
    from ..evaluation.tasks import TASKS

    kind = pipe.problem_type
    names, limits = answers_of(pipe.model.config)
    try:
        labels, rows, remarks = answerable(names, kind, corpus)
    except SerError as error:
        return {}, [str(error)]
    rate = pipe.feature_extractor.sampling_rate
    clips = ({"array": decode(audio, rate), "sampling_rate": rate} for audio in corpus.select(rows)["audio"])
    answers = pipeline_scores(pipe, tqdm(clips, "scoring", len(rows), unit=" clips", disable=None))
    failed = [answer for answer in answers if isinstance(answer, str)]
    if failed:
        remarks.append(f"not scored: {len(failed)} that the model cannot read; the first: {failed[0]}")
    scores = {row: answer for row, answer in zip(rows.tolist(), answers, strict=True) if not isinstance(answer, str)}
    if not scores:
        return {}, remarks
    label_of = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    logits = {row: TASKS[kind].logits(values) for row, values in scores.items()}
    scored = np.isin(np.arange(len(corpus)), list(scores))
    speakers = np.array(corpus["speaker"][:], dtype=object)
    columns = {"speaker": speakers}
    if "gender" in corpus.column_names:
        columns["gender"] = np.array(corpus["gender"][:], dtype=object)
    columns |= {name: np.where(mask, "outside", "inside") for name, mask in outside.items()}
    groups = {"all": scored}
    for column, values in columns.items():
        several = {value for value in values[scored] if value is not None}
        if len(several) > 1:
            groups |= {f"{column} {value}": scored & (values == value) for value in sorted(several)}
    results = {}
    for name, mask in groups.items():
        rows = np.flatnonzero(mask)
        if len(rows) >= LEAST_GROUP or name == "all":
            part = Dataset.from_dict({"label": [label_of[row] for row in rows], "speaker": speakers[rows].tolist()})
            results[name] = score(part, np.stack([logits[row] for row in rows]), names, kind, limits)
    return results, remarks


# ---- the report


def lines(report: dict) -> list[str]:
    """The report on the screen."""
    trained, findings, scores = report["trained_on"], report["measures"], report["scores"]
    speakers = f"{trained['speakers']} speakers" if trained["speakers"] else "unknown speakers"
    out = ["", f"{report['measured']} recordings beside {trained['clips']} training clips of {speakers}:", ""]
    heads = ["measure", "unit", "training 1 %", "99 %", "median here", "share below", "share above", "verdict"]
    rows = [
        [
            *(one["measure"], one["unit"], *(f"{value:.4g}" for value in (*one["range"], one["median"]))),
            *(number(one[side]) for side in ("low", "high")),
            one["verdict"],
        ]
        for one in findings
    ]
    out += text_table(heads, rows)
    if classes := report["classes"]:
        findings = [*findings, classes]
        verdict, here = "OUTSIDE" if classes["outside"] else "in range", classes["recordings"]
        rows = [[name, number(share), number(here[name])] for name, share in classes["training"].items()]
        out += ["", f"class frequencies: {verdict}", *text_table(["class", "training", "here"], rows)]
    if scores:
        metrics = list(scores["all"]["metrics"])[:2]
        speakers = [name for name in scores if name.startswith("speaker ")]
        speakers.sort(key=lambda name: scores[name]["metrics"][metrics[0]] or 0.0)
        order = [name for name in scores if name not in speakers] + speakers[:MOST_SPEAKERS]
        rows = [[name, scores[name]["utterances"], *(scored(scores[name], m) for m in metrics)] for name in order]
        out += ["", *text_table(["subgroup", "recordings", *map(shown, metrics)], rows)]
        hidden = len(scores) - len(order)
        out += [f"... and {hidden} speakers with higher scores (--out has all)"] if hidden else []
    out += ["", *report["remarks"], *(f"cannot be read: {error}" for error in report["unreadable"][:MOST])]
    out += [f"... and {len(report['unreadable']) - MOST} more"] if len(report["unreadable"]) > MOST else []
    advice = [f"  {one['measure']}: {one['try']}" for one in findings if one["outside"]]
    return [*out, "outside the training range; try:" if advice else "nothing is outside the training range", *advice]


def main(argv: list[str]) -> int:
    parser = Parser("doctor", __doc__)
    parser.add_argument("model", metavar="MODEL", help="the folder of a run, or the Hub id of a pushed one")
    corpus_arguments(parser)
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--out", metavar="FILE", help="write the whole report as JSON to this file")
    args = parser.parse_args(argv)
    out = named_file(args.out, "--out", ".json") if args.out else None

    from ..data.acoustics import MEASURES, measure_rows
    from ..evaluation import shift

    training = shift.load(args.model)
    corpus, unreadable, classes, scores, remarks = find_corpus(args), [], None, {}, []
    if corpus is None:
        values, unreadable = measure_files(find_files([args.name]))
    else:
        values = measure_rows(corpus)
    findings = shift.compare(training, values)
    if corpus is not None:
        names = getattr(corpus.features["label"], "names", None)
        classes = shift.compare_classes(training, [names[index] for index in corpus["label"][:]]) if names else None
        masks = {
            one["measure"]: shift.beyond(column, one["range"], one["measure"]).any(axis=0)
            for one, column in ((one, values[:, list(MEASURES).index(one["measure"])]) for one in findings)
            if one["outside"]
        }
        try:
            scores, remarks = score_groups(load(args.model, args.trust_remote_code, flag="MODEL"), corpus, masks)
        except SerError as error:
            remarks = [f"not scored: {error}"]
    if any(known["left_out"] is None for known in training["measures"].values()):
        remarks.append("not all training speakers are known: only what moves half of the recordings is named")
    report = {
        "model": args.model,
        "recordings": args.name,
        "trained_on": {name: training[name] for name in ("clips", "speakers")},
        "measured": len(values),
        "measures": findings,
        "classes": classes,
        "scores": scores,
        "remarks": remarks,
        "unreadable": unreadable,
    }
    if out:
        write(out, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    say(*lines(report))
    return 1 if any(one["outside"] for one in [*findings, *([classes] if classes else [])]) else 0
