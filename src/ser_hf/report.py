"""What a run leaves for people: tables on the screen, a model card, figures, `results.json`, `predictions.parquet`."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from .files import write
from .metrics import METRICS, bootstrap_intervals, classification_metrics, confusion, per_class

NAMES = {"uar": "UAR", "wa": "WA", "macro_f1": "macro F1", "weighted_f1": "weighted F1", "n": "utterances"}


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(rows, classes)` logits to probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def score(dataset: Dataset, logits: np.ndarray, label_names: list[str]) -> dict:
    """Everything that is said of one scored part of a corpus.

    Args:
        dataset: The part, in the order of `logits`.
        logits: `(utterances, classes)`.
        label_names: In index order.

    Returns:
        `metrics`, `intervals` (95 %, speakers resampled), `per_class`, `confusion` (rows = truth), `utterances`,
        `speakers`.
    """
    labels, predictions = np.array(dataset["label"]), logits.argmax(axis=1)
    speakers = dataset["speaker"]
    return {
        "utterances": len(labels),
        "speakers": len(set(speakers)),
        "metrics": classification_metrics(labels, predictions, len(label_names)),
        "intervals": bootstrap_intervals(labels, predictions, speakers, len(label_names)),
        "intervals_over": "speakers" if len(set(speakers)) > 1 else "utterances of one speaker",
        "per_class": per_class(labels, predictions, label_names),
        "confusion": confusion(labels, predictions, len(label_names)).tolist(),
    }


def predictions_table(dataset: Dataset, logits: np.ndarray, label_names: list[str]) -> pd.DataFrame:
    """One row an utterance: `id`, `speaker`, `label`, `prediction`, and `score_<label>` for each class."""
    table = pd.DataFrame(
        {
            "id": dataset["id"],
            "speaker": dataset["speaker"],
            "label": [label_names[index] for index in dataset["label"]],
            "prediction": [label_names[index] for index in logits.argmax(axis=1)],
        }
    )
    for name, column in zip(label_names, softmax(logits).T, strict=True):
        table[f"score_{name}"] = column
    return table


def lines(results: dict) -> list[str]:
    """The report on screen."""
    protocol, test = results["protocol"], results["test"]
    warning = "" if protocol["speaker_independent"] else "  LEAKS SPEAKERS: do not compare with speaker-independent"
    out = [
        "",
        f"{results['corpus']['corpus']} ({results['corpus']['labels']}), {protocol['name']} fold {protocol['fold']}: "
        f"{test['utterances']} test utterances of {test['speakers']} unseen speakers"
        if protocol["speaker_independent"]
        else f"{results['corpus']['corpus']}, {protocol['name']} fold {protocol['fold']}{warning}",
    ]
    out += results["corpus"]["lines"][1:]
    for name in METRICS:
        low, high = test["intervals"][name]
        out.append(f"  {NAMES[name]:<12} {test['metrics'][name]:.3f}   95 % interval {low:.3f} to {high:.3f}")
    out.append(f"  (intervals by bootstrap over {test['intervals_over']}; chance UAR {results['chance_uar']:.3f})")
    out += ["", f"  {'':<12} precision  recall     F1   utterances"]
    for name, row in test["per_class"].items():
        recall = "   -  " if row["recall"] is None else f"{row['recall']:6.3f}"
        out.append(f"  {name:<12} {row['precision']:9.3f}  {recall} {row['f1']:6.3f}   {row['support']:>10}")
    absent = [name for name, row in test["per_class"].items() if not row["support"]]
    if absent:
        out.append(f"  no test utterance is {', '.join(absent)}: UAR and macro F1 are over the other classes")
    return out


def confusion_figure(matrix: list[list[int]], label_names: list[str], title: str) -> bytes:
    """Row-normalised confusion matrix with counts, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.array(matrix, dtype=float)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.6 + 0.75 * len(label_names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="predicted", ylabel="labelled")
    image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(label_names)), label_names, rotation=45, ha="right")
    axes.set_yticks(range(len(label_names)), label_names)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if rates[row, column] > 0.55 else "black"
        axes.text(column, row, f"{int(count)}", ha="center", va="center", color=color)
    figure.colorbar(image, label="part of the class")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def model_card(results: dict, repo_id: str | None = None) -> str:
    """`README.md` of the run: what was trained on what, how it was tested, every metric with its interval."""
    import yaml

    corpus, protocol, test, model = (results[key] for key in ("corpus", "protocol", "test", "model"))
    independent = protocol["speaker_independent"]
    name = repo_id or "MODEL"
    dataset = f"{corpus['corpus']} ({corpus['labels']})"
    metrics = [
        {"type": kind, "name": f"{NAMES[kind]} ({protocol['name']} fold {protocol['fold']})", "value": round(value, 4)}
        for kind, value in test["metrics"].items()
    ]
    front = {
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "language": list(corpus["languages"]),
        "tags": ["speech-emotion-recognition", "ser_hf", *([] if independent else ["speaker-dependent-evaluation"])],
        "metrics": ["uar", "accuracy", "f1"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "audio-classification", "name": "Speech emotion recognition"},
                        "dataset": {"type": corpus["corpus"], "name": dataset, "split": "test"},
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }
    if model["pretrained"]:
        front["base_model"] = model["encoder"]
    remote = "" if model["stock"] else ", trust_remote_code=True"
    rows = []
    for kind in METRICS:
        low, high = test["intervals"][kind]
        rows.append(f"| {NAMES[kind]} | {test['metrics'][kind]:.3f} | {low:.3f} to {high:.3f} |")
    classes = [
        f"| {label} | {row['precision']:.3f} | {'-' if row['recall'] is None else format(row['recall'], '.3f')} "
        f"| {row['f1']:.3f} | {row['support']} |"
        for label, row in test["per_class"].items()
    ]
    parts = "; ".join(
        f"{part} {size['utterances']} utterances of {size['speakers']} speakers"
        for part, size in results["splits"].items()
    )
    leak = "" if independent else "\n> **These figures leak speakers between train and test by the protocol's "
    leak += "" if independent else "construction and cannot be compared with speaker-independent ones.**\n"
    counts = "\n".join(f"- {line.strip()}" for line in corpus["lines"])
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---

# Speech emotion recognition: {escape(dataset)}

{escape(model["class"])}: {escape(model["encoder"])}, {model["pooling"]} pooling, {model["head"]} head; labels
{", ".join(map(escape, corpus["label_names"]))}.

```python
from transformers import pipeline

classify = pipeline("audio-classification", model="{name}"{remote})
classify({{"array": samples, "sampling_rate": rate}}, top_k=None)  # mono float32 samples
```

## Test

{leak}
Protocol: **{escape(protocol["name"])}**, fold {protocol["fold"]} ({escape(protocol["source"])}).
Speaker-independent: **{"yes" if independent else "NO"}**. {parts}.
The model was selected on validation; test was scored once.

| metric | value | 95 % interval |
|---|---|---|
{chr(10).join(rows)}

Intervals: bootstrap over {test["intervals_over"]}. One fold is one sample: folds differ more than this interval shows.

| class | precision | recall | F1 | utterances |
|---|---|---|---|---|
{chr(10).join(classes)}

![confusion matrix](figures/confusion_matrix.png)

## Corpus

{escape(corpus["title"])}, licence {escape(corpus["licence"])}. {escape(corpus["notes"])}
Cite: {escape(corpus["citation"])}

{counts}

## Run again

```
{results["command"]}
```
"""


def escape(text: str) -> str:
    """Text from outside for Markdown: no markup, no HTML, no table breaks.

    >>> escape("a|b <i>*x*")
    'a\\\\|b &lt;i>\\\\*x\\\\*'
    """
    text = " ".join(str(text).split()).replace("<", "&lt;")
    for character in "\\`*[]|":
        text = text.replace(character, "\\" + character)
    return text


def write_report(folder: Path, results: dict, table: pd.DataFrame, repo_id: str | None = None) -> None:
    """`predictions.parquet`, `figures/`, `README.md`, and last `results.json`, which marks the run as finished."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write(folder / "predictions.parquet", buffer.getvalue())
    names = results["corpus"]["label_names"]
    title = f"{results['corpus']['corpus']}, {results['protocol']['name']} fold {results['protocol']['fold']}"
    write(folder / "figures" / "confusion_matrix.png", confusion_figure(results["test"]["confusion"], names, title))
    write(folder / "README.md", model_card(results, repo_id))
    write(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
