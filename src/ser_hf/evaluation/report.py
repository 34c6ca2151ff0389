"""What a run leaves for people: tables on the screen, a model card, figures, `results.json`, `predictions.parquet`."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import write

NAMES = {"uar": "UAR", "wa": "WA", "ccc": "CCC", "mae": "MAE", "mse": "MSE", "rmse": "RMSE", "map": "mAP", "f1": "F1"}
# How a saved model is called, by the task of its pipeline.
USES = {
    "audio-classification": 'classify({"array": samples, "sampling_rate": rate}, top_k=None)  # mono float32 samples',
    "text-classification": 'classify("What a day!", top_k=None)',
    "speech-emotion-recognition": 'classify({"audio": "clip.wav", "text": "What a day!"})  # or either of them alone',
}
# What a model is told besides its inputs, if its features are relative to speakers.
TOLD = """\
# The figures below are of a model that knows who speaks. By itself it takes an average speaker; to tell it of another,
# give ten or more of the speaker's clips, of many moods: mono float32 samples at its rate.
classify.feature_extractor = classify.feature_extractor.adapted(clips)
"""
SPEAKER_NORM = "SPEAKER-NORMALISED"
# What is said of figures, by what stands beside them (`warnings`).
COMPARABLE = {
    "LEAKS SPEAKERS": (
        "**These figures leak speakers between train and test by the protocol's construction and cannot be compared "
        "with speaker-independent ones.**"
    ),
    "SPEAKERS UNKNOWN": (
        "**The corpus does not say who speaks: train and test may share speakers, and these figures cannot be compared "
        "with speaker-independent ones.**"
    ),
    SPEAKER_NORM: (
        "**Features are relative to each speaker's mean spectrum, over all utterances of theirs in this run (those "
        "with one of its labels), the tested ones too: the figures hold where it is known who speaks, and cannot be "
        "compared with those of systems that hear one clip of a stranger.**"
    ),
}
# What systems are compared by.
COMPARED_BY = {
    "single_label_classification": ("uar", "macro_f1"),
    "multi_label_classification": ("map", "macro_f1"),
    "regression": ("ccc", "mae"),
}
# Of a scored part (`scoring.score`): the table with one row a label, by problem type.
TABLES = {
    "single_label_classification": "per_class",
    "multi_label_classification": "per_label",
    "regression": "per_value",
}


def warnings(results: dict) -> list[str]:
    """Of the keys of `COMPARABLE` those that hold for the figures of a run or a cross-validation."""
    named = (results["protocol"]["warning"], SPEAKER_NORM if results["model"].get("speaker_norm") else "")
    return [name for name in named if name]


def shown(metric: str) -> str:
    """A metric's name for people.

    >>> shown("macro_f1"), shown("uar"), shown("ccc_arousal")
    ('macro F1', 'UAR', 'CCC arousal')
    """
    return NAMES.get(metric) or " ".join(NAMES.get(word, word) for word in metric.split("_"))


def number(value: float | int | str | None) -> str:
    """A figure for a table; what is undefined says so."""
    if value is None:
        return "undefined"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def lines(results: dict) -> list[str]:
    """The report on screen."""
    protocol, test = results["protocol"], results["test"]
    warning = f"  {protocol['warning']}: do not compare with speaker-independent"
    out = [
        "",
        f"{results['corpus']['corpus']} ({results['corpus']['labels']}), {protocol['name']} fold {protocol['fold']}: "
        f"{test['utterances']} test utterances of {test['speakers']} unseen speakers"
        if protocol["speaker_independent"]
        else f"{results['corpus']['corpus']}, {protocol['name']} fold {protocol['fold']}{warning}",
    ]
    out += results["corpus"]["lines"][1:]
    for name, value in test["metrics"].items():
        interval = test["intervals"].get(name)
        spread = f"   95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        out.append(f"  {shown(name):<18} {number(value)}{spread}")
    out.append(
        f"  (intervals by bootstrap over {test['intervals_over']}; chance {shown(test['chance']['metric'])} "
        f"{number(test['chance']['value'])})"
    )
    out += [f"  {line}" for line in window_lines(results)]
    if results.get("comparisons"):
        out += ["", "  compared on the same test utterances (this system minus the other, paired bootstrap):"]
        out += _text_table(comparison_table(results))
    out += ["", *_text_table(test[TABLES[test["problem_type"]]])]
    for threshold, table in test.get("thresholds", {}).items():
        out += ["", f"  present at {threshold} and above:", *_text_table(table)]
    out += [f"  {line}" for line in test["remarks"]]
    return out


def window_lines(results: dict) -> list[str]:
    """Scores of single windows beside those of whole utterances, for a run on windows."""
    if "windows" not in results:
        return []
    cut, single, whole = results["windows"], results["test_windows"], results["test"]
    pairs = ", ".join(
        f"{shown(name)} {number(value)} on windows, {number(whole['metrics'][name])} on utterances"
        for name, value in single["metrics"].items()
    )
    return [
        f"windows of {cut['seconds']} s every {cut['hop']} s ({single['utterances']} windows of {whole['utterances']} "
        f"utterances), put together by {cut['combine']}: {pairs}"
    ]


def comparison_table(results: dict) -> dict[str, dict]:
    """A row for this system and one for each it is compared with: metrics, and differences with paired intervals."""
    test, table = results["test"], {}
    metrics = [name for name in COMPARED_BY[test["problem_type"]] if name in test["metrics"]]

    def cell(value: float | None, interval: list[float] | None) -> str:
        return number(value) + ("" if not interval else " [{:.3f}, {:.3f}]".format(*interval))

    row = {}
    for name in metrics:
        row[name] = cell(test["metrics"][name], test["intervals"].get(name))
        row[f"difference_in_{name}"] = ""
    table["this system"] = row
    for system, other in results["comparisons"].items():
        row = {}
        for name in metrics:
            row[name] = cell(other["metrics"][name], other["intervals"].get(name))
            difference = other["difference"][name], other["difference_intervals"].get(name)
            row[f"difference_in_{name}"] = cell(*difference)
        table[system.replace("_", " ")] = row
    return table


def _text_table(table: dict[str, dict]) -> list[str]:
    columns = list(next(iter(table.values())))
    first = max(14, *(len(name) + 1 for name in table))
    widths = {c: max(10, len(c) + 2, *(len(number(row[c])) + 2 for row in table.values())) for c in columns}
    lines = ["  " + " " * first + "".join(f"{shown(column):>{widths[column]}}" for column in columns)]
    for name, row in table.items():
        cells = "".join(f"{number(row[column]):>{widths[column]}}" for column in columns)
        lines.append(f"  {name:<{first}}{cells}")
    return lines


def _markdown_table(table: dict[str, dict], first: str) -> str:
    columns = list(next(iter(table.values())))
    lines = [f"| {first} | {' | '.join(map(shown, columns))} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {escape(name)} | {' | '.join(number(row[c]) for c in columns)} |" for name, row in table.items()]
    return "\n".join(lines)


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


def scatter_figure(table: pd.DataFrame, names: list[str], title: str) -> bytes:
    """Predicted against labelled values, one panel a name, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(names), 3.6), layout="constrained")
    figure.suptitle(title)
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1, title=name, xlabel="labelled", ylabel="predicted")
        labels, scores = table[f"label_{name}"], table[f"score_{name}"]
        low, high = min(labels.min(), scores.min()), max(labels.max(), scores.max())
        axes.plot([low, high], [low, high], color="0.7", linewidth=1)
        axes.plot(labels, scores, ".", alpha=0.4)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def model_card(results: dict, repo_id: str | None = None) -> str:
    """`README.md` of the run: what was trained on what, how it was tested, every metric with its interval."""
    import yaml

    corpus, protocol, test, model = (results[key] for key in ("corpus", "protocol", "test", "model"))
    independent = protocol["speaker_independent"]
    name = repo_id or "MODEL"
    # the Hub knows its own tasks only; ours answer in that one too
    tag = model["task"] if model["task"] != "speech-emotion-recognition" else "audio-classification"
    dataset = f"{corpus['corpus']} ({corpus['labels']})"
    under = ", ".join([f"{protocol['name']} fold {protocol['fold']}", *warnings(results)])
    metrics = [
        {"type": kind, "name": f"{shown(kind)} ({under})", "value": round(value, 4)}
        for kind, value in test["metrics"].items()
        if value is not None
    ]
    front = {
        "library_name": "transformers",
        "pipeline_tag": tag,
        "language": list(corpus["languages"]),
        "tags": ["speech-emotion-recognition", "ser_hf", *([] if independent else ["speaker-dependent-evaluation"])],
        "metrics": list(test["metrics"]),
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": tag, "name": "Emotion recognition"},
                        "dataset": {"type": corpus["corpus"], "name": dataset, "split": "test"},
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }
    if model["published_encoders"]:
        front["base_model"] = model["published_encoders"]
    remote = "" if model["stock"] else ", trust_remote_code=True"
    scores = {
        shown(kind): {"value": value, "95 % interval": "{:.3f} to {:.3f}".format(*test["intervals"][kind])}
        for kind, value in test["metrics"].items()
        if test["intervals"].get(kind)
    }
    undefined = [shown(kind) for kind, value in test["metrics"].items() if value is None]
    thresholds = "".join(
        f"\nPresent at {threshold} and above:\n\n{_markdown_table(table, 'label')}\n"
        for threshold, table in test.get("thresholds", {}).items()
    )
    remarks = "".join(f"\n{escape(line)}." for line in (*test["remarks"], *window_lines(results)))
    remarks += f"\nUndefined here: {', '.join(undefined)}." if undefined else ""
    figures = "".join(f"\n![{name}](figures/{name}.png)\n" for name in test["figures"])
    parts = "; ".join(
        f"{part} {size['utterances']} utterances of {size['speakers']} speakers"
        for part, size in results["splits"].items()
    )
    leak = "".join(f"\n> {COMPARABLE[warning]}\n" for warning in warnings(results))
    validated = results["splits"]["validation"]["utterances"]
    selected = "The model was selected on validation" if validated else "There was no validation: nothing was selected"
    counts = "\n".join(f"- {line.strip()}" for line in corpus["lines"])
    compared = ""
    if results.get("comparisons"):
        compared = (
            "\nCompared on the same test utterances; a difference is this system's figure minus the other's, with a 95 "
            f"% interval by paired bootstrap.\n\n{_markdown_table(comparison_table(results), 'system')}\n"
        )
    subject = "Emotion recognition from text" if tag == "text-classification" else "Speech emotion recognition"
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---

# {subject}: {escape(dataset)}

{escape(model["class"])}: {escape(model["encoder"])}, {model["details"]}; labels
{", ".join(map(escape, corpus["label_names"]))}.

```python
from transformers import pipeline

classify = pipeline("{model["task"]}", model="{name}"{remote})
{TOLD if model.get("speaker_norm") else ""}{USES[model["task"]]}
```

## Test

{leak}
Protocol: **{escape(protocol["name"])}**, fold {protocol["fold"]} ({escape(protocol["source"])}).
Speaker-independent: **{"yes" if independent else "NO"}**. {parts}.
{selected}; test was scored once.

{_markdown_table(scores, "metric")}

Intervals: bootstrap over {test["intervals_over"]}. One fold is one sample: folds differ more than this interval shows.
{remarks}

{_markdown_table(test[TABLES[test["problem_type"]]], "label")}
{thresholds}{compared}{figures}
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
    title = f"{results['corpus']['corpus']}, {results['protocol']['name']} fold {results['protocol']['fold']}"
    if results["test"]["problem_type"] == "single_label_classification":
        names = results["corpus"]["label_names"]
        figure = confusion_figure(results["test"]["confusion"], names, title)
        write(folder / "figures" / "confusion_matrix.png", figure)
    if results["test"]["problem_type"] == "regression":
        write(folder / "figures" / "scatter.png", scatter_figure(table, results["corpus"]["label_names"], title))
    write(folder / "README.md", model_card(results, repo_id))
    write(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
