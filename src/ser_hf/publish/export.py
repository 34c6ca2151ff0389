"""Write a trained model as an ONNX graph with its feature extraction inside: samples in, logits out.

    ser-hf export runs/demo
    ser-hf export runs/ravdess_whisper_fold0_seed42 --int8 true --dataset ravdess --data_dir /corpora/RAVDESS

The folder --out (runs/demo/onnx) gets model.onnx, export.json, and example.py, which classifies a clip with numpy,
soundfile and onnxruntime alone. Inputs of the graph:

- samples (batch, samples): mono float32 at the model's rate, any length (Whisper: 30 s at most). Where --trim_db was
  trained with, the graph trims.
- lengths (batch,): the real samples of each clip; zeros follow. A clip answers as it does alone. Models whose answers
  padding would change have no such input: the clips of a batch are then equally long.
- input_ids, text_attention_mask (batch, tokens), of fusion models: from the model's tokenizer. A mask of zeros is a
  text that is missing.

w2v-BERT and openSMILE functionals are computed outside: their graphs take the feature extractor's output. Labels,
rate and kind of scores are in the metadata of the file. Before anything is written, the logits of clips of several
lengths, alone and in a batch, are compared with the pipeline's in PyTorch: a difference above 1e-4 (of the largest
logit, if that is above 1) is refused.

--int8 true also writes model.int8.onnx, whose matrices are 8-bit integers. With --dataset both files answer the test
clips of the run's own fold: the report says what the integers cost.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from timeit import repeat
from typing import TYPE_CHECKING

from markupsafe import Markup

from .. import __version__
from ..cli.console import Parser
from ..cli.predict import fingerprint, load
from ..errors import SerError
from ..evaluation import CLASSES
from ..evaluation.tables import number, one_line, render, shown, with_interval
from ..files import check_empty, hold, saving, without_path
from ..training.arguments import converter
from ..training.run import say

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..models import SerPipeline

TOLERANCE = 1e-4
SECONDS = (0.02, 0.5, 1.7, 4.0, 9.3)  # of the synthetic clips that are compared; the fourth is timed
REAL = 8  # clips of --dataset that are compared, too
MOST_BYTES = 1.9e9  # ONNX's files are protobufs, which end at 2 GiB
INT8_OPS = ("MatMul", "Gemm")  # integer convolutions are slower than float ones in onnxruntime
SCORES = {
    "single_label_classification": "np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()",
    "multi_label_classification": "1 / (1 + np.exp(-logits))",
    "regression": "logits",
}


def main(argv: list[str]) -> int:
    parser = Parser("export", __doc__)
    parser.add_argument("model", help="fine-tuned model: folder or Hub id")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="format of the graph (default: onnx)")
    parser.add_argument("--out", help="folder to write (default: onnx in the model's folder)")
    parser.add_argument("--int8", type=converter(bool, {}), default=False, help="also write a model of 8-bit integers")
    parser.add_argument("--dataset", help="the corpus that the run was tested on: score its test clips by the graph")
    parser.add_argument("--data_dir", help="the corpus's folder; else it is looked for under $SER_DATA_DIR")
    args = parser.parse_args(argv)
    if args.data_dir and not args.dataset:
        raise SerError(f"--data_dir {args.data_dir}: does nothing without --dataset; give both")
    check_packages()

    from ..evaluation.report import reading
    from ..evaluation.scoring import answers_of
    from ..evaluation.stress import window_options
    from ..training.provenance import results_of

    folder = Path(args.model).expanduser()
    if not args.out and not folder.is_dir():
        raise SerError("--out is missing: name the folder to write")
    out = Path(args.out).expanduser() if args.out else folder / "onnx"
    if not (out / "export.json").is_file():
        check_empty(out, "--out ", " and holds no export (export.json)")
    test = find_test_clips(folder, args.dataset, args.data_dir) if args.dataset else None
    with reading(args.model):
        windows = window_options(results_of(args.model))
    pipe = load(args.model, False, flag="MODEL")
    labels, _ = answers_of(pipe.model.config)
    if test and (names := getattr(test.features["label"], "names", labels)) != labels:
        raise SerError(f"--dataset: its labels are {', '.join(names)}, the model's {', '.join(labels)}")
    size = sum(weight.numel() for weight in pipe.model.parameters()) * 4
    if size > MOST_BYTES:
        raise SerError(f"{args.model}: its weights are {size / 1e9:.1f} GB, an ONNX file holds {MOST_BYTES / 1e9} GB")
    hold(out, f"--out {out}")
    with saving(out) as staging:
        report, lines = export(pipe, args.model, staging, args.int8, test)
        if windows:
            cut = f"trained on windows of {windows['window_s']:g} s, and the graph scores its whole input"
            lines.append(f"{cut}: give it such windows of a clip and average their scores")
            report |= windows
        (staging / "export.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        for name in ("model.onnx", "model.int8.onnx", "example.py", "export.json"):
            (out / name).unlink(missing_ok=True)  # an earlier export's
    say(*lines, f"written: {out}")
    return 0


def check_packages() -> None:
    """SerError: the extra `export` is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise SerError(f"export needs {error.name}: pip install ser-hf[export]") from None


def find_test_clips(folder: Path, name: str, data_dir: str | None) -> "Dataset":
    """The test clips of a run, by its `predictions.parquet`. SerError: it has none, or the corpus lacks some."""
    import pandas as pd
    import yaml

    from ..data.columns import Columns
    from ..data.loading import load_corpus

    if not (folder / "predictions.parquet").is_file():
        raise SerError(f"--dataset {name}: {folder} has no predictions.parquet, which names a run's test clips")
    try:
        ids = set(pd.read_parquet(folder / "predictions.parquet", columns=["id"])["id"])
        flags = yaml.safe_load((folder / "run.yaml").read_text()) if (folder / "run.yaml").is_file() else {}
        columns = {entry.name: flags[entry.name] for entry in fields(Columns) if entry.name in flags}
        labels = flags.get("labels")
    except (ValueError, TypeError, AttributeError, yaml.YAMLError):
        raise SerError(f"{folder}: run.yaml or predictions.parquet is damaged; copy the run again") from None
    corpus = load_corpus(name, labels, data_dir, **columns)
    test = corpus.select([row for row, one in enumerate(corpus["id"][:]) if one in ids])
    if len(test) < len(ids):
        has = f"has {len(test)} of the {len(ids)} test clips of {folder}"
        raise SerError(f"--dataset {name}: {has}; name the corpus of the run, with all its files")
    return test


def export(pipe: "SerPipeline", name: str, folder: Path, int8: bool, test: "Dataset | None") -> tuple[dict, list[str]]:
    """Write all files but the report; returns it, and lines for the screen. SerError: logits are not PyTorch's."""
    import onnx

    from ..data.audio import decode
    from ..evaluation.scoring import answers_of
    from .graph import OPSET, write

    rate, (labels, _) = pipe.feature_extractor.sampling_rate, answers_of(pipe.model.config)
    file = folder / "model.onnx"
    inputs = write(pipe, file)
    graph = onnx.load(file)
    facts = {
        "labels": json.dumps(labels, ensure_ascii=False),
        "problem_type": pipe.problem_type,
        "sampling_rate": str(rate),
        "model": f"{without_path(name)}@{fingerprint(pipe.model)}",
        "ser_hf": __version__,
    }
    if thresholds := getattr(pipe.model.config, "thresholds", None):
        facts["thresholds"] = json.dumps(thresholds)
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, file)
    clips = synthetic(rate, SECONDS)
    texts = ["I don't know what you mean", None, "No", None, "It was there all the time"]
    real = test.select(range(0, len(test), max(1, len(test) // REAL))) if test else []
    for row in real:
        clips.append(decode(row["audio"], rate))
        texts.append(row["text"])
    session, takes_text = open_session(file), "input_ids" in inputs
    checked = compare(pipe, session, clips, texts if takes_text else [None] * len(clips))
    report = {
        **facts,
        "labels": labels,
        "inputs": {input: {str(dim): size for dim, size in dims.items()} for input, dims in inputs.items()},
        "opset": OPSET,
        "tolerance": TOLERANCE,
        "difference": max(one["difference"] for one in checked),
        "checked": checked,
        "bytes": {file.name: file.stat().st_size},
        "seconds_per_clip": timed(pipe, session, clips[3]),
    }
    if report["difference"] > TOLERANCE:
        where = max(checked, key=lambda one: one["difference"])["clips"]
        raise SerError(f"{name}: the graph's logits differ by {report['difference']:.2g} ({where}); not exported")
    dims = "; ".join(f"{input} ({', '.join(sizes.values()) or 'one clip'})" for input, sizes in inputs.items())
    lines = [
        f"{name}: {', '.join(map(one_line, labels))}; {dims}; {rate} Hz",
        f"logits as in PyTorch on {len(clips)} clips, {len(real)} of them real: largest difference "
        f"{report['difference']:.1e}",
    ]
    if "samples" in inputs:
        (folder / "example.py").write_text(example(inputs, pipe.problem_type))
    else:
        kind = type(pipe.feature_extractor).__name__
        lines.append(f"the features are not in the graph: it takes those of {kind}, and there is no example.py")
    if int8:
        quantise(file, folder / "model.int8.onnx", name)
        report["bytes"]["model.int8.onnx"] = (folder / "model.int8.onnx").stat().st_size
        small = open_session(folder / "model.int8.onnx")
        report["seconds_per_clip"]["int8"] = timed(pipe, small, clips[3])["onnxruntime"]
    sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in report["bytes"].items())
    times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in report["seconds_per_clip"].items())
    lines += [sizes, f"a clip of {len(clips[3]) / rate:g} s on one thread: {times}"]
    if test:
        files = {"float32": session} | ({"int8": small} if int8 else {})
        logits = {kind: answers(pipe, one, test, takes_text) for kind, one in files.items()}
        report["test"] = scores(pipe, logits, test, labels)
        lines += report_lines(report["test"])
    return report, lines


def synthetic(rate: int, seconds: Sequence[float]) -> "list[np.ndarray]":
    """Noise that swells, between fainter noise, always the same."""
    import numpy as np

    generator, clips = np.random.default_rng(0), []
    for duration in seconds:
        size = max(1, round(duration * rate))
        level = 0.1 * (1.2 + np.sin(np.arange(size) * 15 / rate))
        level[: size // 8] *= 1e-3
        level[size - size // 6 :] *= 1e-3
        clips.append((generator.standard_normal(size) * level).astype(np.float32))
    return clips


def open_session(file: Path):
    """The graph in onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(pipe: "SerPipeline", session, clips: list, texts: list) -> "np.ndarray":
    """The graph's logits `(clips, labels)`; without an input `lengths`, of clips that are equally long."""
    from .graph import feed

    return session.run(["logits"], feed(pipe, [one.name for one in session.get_inputs()], clips, texts))[0]


def compare(pipe: "SerPipeline", session, clips: list, texts: list) -> list[dict]:
    """The largest difference from the pipeline's logits (relative to logits above 1), of clips and of batches."""
    import numpy as np

    rate, checked = pipe.feature_extractor.sampling_rate, []
    alone = [
        pipe.forward({"samples": [clip], "text": [text]})["logits"] for clip, text in zip(clips, texts, strict=True)
    ]
    expected = np.concatenate([each.numpy() for each in alone])

    def check(what: str, got: "np.ndarray", rows: list[int]) -> None:
        difference = np.abs(got - expected[rows]).max() / max(1.0, np.abs(expected[rows]).max())
        checked.append({"clips": what, "difference": float(difference)})

    for row, (clip, text) in enumerate(zip(clips, texts, strict=True)):
        check(f"{len(clip) / rate:.3g} s", run(pipe, session, [clip], [text]), [row])
    names = {one.name: one.shape for one in session.get_inputs()}
    if "lengths" in names or "samples" not in names:
        rows = list(range(min(len(SECONDS), len(clips))))
        got = run(pipe, session, [clips[row] for row in rows], [texts[row] for row in rows])
        check("a batch of unequal clips", got, rows)
    elif isinstance(names["samples"][0], str):
        check("a batch of equal clips", run(pipe, session, [clips[2]] * 2, [texts[2]] * 2), [2, 2])
    return checked


def timed(pipe: "SerPipeline", session, clip: "np.ndarray") -> dict[str, float]:
    """Seconds for one clip on one thread, the least of five, with feature extraction."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pytorch = repeat(lambda: pipe.forward({"samples": [clip], "text": [None]}), number=1)
    finally:
        torch.set_num_threads(threads)
    onnx = repeat(lambda: run(pipe, session, [clip], [None]), number=1)
    return {"pytorch": min(pytorch), "onnxruntime": min(onnx)}


def quantise(file: Path, small: Path, name: str) -> None:
    """Write a graph with its matrices of weights (not those of spectra) as 8-bit integers. SerError: hardly any."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises preprocessing
    # 7 bits: sums of 8 overflow on CPUs without VNNI. A scale per column: one per matrix costs more UAR.
    ways = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
    quantize_dynamic(file, small, op_types_to_quantize=list(INT8_OPS), **ways)
    if small.stat().st_size > 0.9 * file.stat().st_size:
        raise SerError(f"--int8 true: hardly any weights of {name} are matrices (it convolves); leave it out")


def example(inputs: dict, problem_type: str) -> str:
    """The text of example.py."""
    given = {
        "samples": "clip[None]",
        "lengths": "np.array([len(clip)])",
        "input_ids": "np.zeros((1, 1), np.int64)",
        "text_attention_mask": "np.zeros((1, 1), np.int64)",  # no text
    }
    pairs, text = "zip(json.loads(facts['labels']), scores)", ", ".join(f'"{name}": {given[name]}' for name in inputs)
    single = problem_type == "single_label_classification"
    order = f"sorted({pairs}, key=lambda pair: -pair[1])" if single else pairs
    code = {"inputs": f"{{{text}}}", "scores": SCORES[problem_type], "order": order}
    return render("onnx_example.py.txt", **{name: Markup(part) for name, part in code.items()}) + "\n"


# ---- the test clips


def answers(pipe: "SerPipeline", session, test: "Dataset", takes_text: bool) -> "np.ndarray":
    """The graph's logits of the test clips, `(clips, labels)`."""
    import numpy as np
    from tqdm import tqdm

    from ..data.audio import decode

    rate, logits = pipe.feature_extractor.sampling_rate, []
    for row in tqdm(test, unit=" clips", disable=None):
        logits.append(run(pipe, session, [decode(row["audio"], rate)], [row["text"] if takes_text else None]))
    return np.concatenate(logits)


def scores(pipe: "SerPipeline", logits: dict, test: "Dataset", labels: list[str]) -> dict:
    """Scores of the float32 graph, and of the int8 one with the paired difference."""
    import numpy as np

    from ..evaluation.scoring import answers_of, score
    from ..evaluation.scoring import compare as paired
    from ..evaluation.tasks import TASKS

    _, limits = answers_of(pipe.model.config)
    metric, rows = TASKS[pipe.problem_type].selected_by, {"clips": len(test)}
    for kind, values in logits.items():
        whole = score(test, values, labels, pipe.problem_type, limits)
        rows[kind] = {"metric": metric, "value": whole["metrics"][metric], "interval": whole["intervals"].get(metric)}
    if "int8" in logits:
        against = paired(test, logits["int8"], {"float32": logits["float32"]}, labels, pipe.problem_type, limits)
        rows["int8"]["difference"] = against["float32"]["difference"][metric]
        rows["int8"]["difference_interval"] = against["float32"]["difference_intervals"].get(metric)
        if pipe.problem_type == CLASSES:
            same = logits["int8"].argmax(axis=1) == logits["float32"].argmax(axis=1)
            rows["int8"]["same_prediction"] = float(np.mean(same))
    return rows


def report_lines(test: dict) -> list[str]:
    """The scores of the test clips in words."""
    plain, int8 = test["float32"], test.get("int8")
    lines = [f"{test['clips']} test clips: {shown(plain['metric'])} {with_interval(plain['value'], plain['interval'])}"]
    if int8:
        change = with_interval(int8["difference"], int8["difference_interval"])
        lines.append(f"int8: {with_interval(int8['value'], int8['interval'])}, a difference of {change}")
        if "same_prediction" in int8:
            lines.append(f"int8 predicts the same for {number(int8['same_prediction'])} of the clips")
    return lines
