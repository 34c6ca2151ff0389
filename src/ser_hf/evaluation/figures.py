"""The figures of a report, as PNG."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..files import png
from .tables import shown

MAX_INCHES = 24.0  # of one side; 320 classes at full size would be an image of 2 GB
MAX_COUNTS = 40  # classes with their counts in the cells; more do not fit
MAX_PANELS = 6  # side by side


def confusion_figure(matrix: list[list[int]], label_names: list[str], title: str) -> bytes:
    """Confusion matrix, row = reference, column = prediction, coloured by share; names in index order."""
    counts, classes = np.array(matrix, dtype=float), len(label_names)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(1.6 + 0.75 * classes, MAX_INCHES)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="predicted", ylabel="labelled")
    image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    font = min(10.0, 0.8 * 72 * size / classes)  # points; a line per class
    axes.set_xticks(range(classes), label_names, rotation=45, ha="right", rotation_mode="anchor", fontsize=font)
    axes.set_yticks(range(classes), label_names, fontsize=font)
    for (row, column), count in np.ndenumerate(counts if classes <= MAX_COUNTS else np.empty((0, 0))):
        color = "white" if rates[row, column] > 0.55 else "black"
        axes.text(column, row, f"{int(count)}", ha="center", va="center", color=color)
    figure.colorbar(image, label="share of the class")
    return png(figure)


def scatter_figure(table: pd.DataFrame, names: list[str], title: str) -> bytes:
    """Predicted against labelled values, one panel per name; `table` is `scoring.predictions_table`'s."""
    columns = min(len(names), MAX_PANELS)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.6 * rows), layout="constrained")
    figure.suptitle(title)
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1, title=name, xlabel="labelled", ylabel="predicted")
        labels, scores = table[f"label_{name}"], table[f"score_{name}"]
        low, high = min(labels.min(), scores.min()), max(labels.max(), scores.max())
        axes.plot([low, high], [low, high], color="0.7", linewidth=1)
        axes.plot(labels, scores, ".", alpha=0.4)
    return png(figure)


def reliability_figure(calibration: dict, title: str) -> bytes:
    """Accuracy against confidence before and after the temperature; `calibration` is that of `calibration.describe`."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    figure.suptitle(title)
    for place, when in enumerate(("before", "after"), 1):
        bins = {name: np.array(values) for name, values in calibration[when]["bins"].items()}
        there, edges = bins["count"] > 0, np.arange(len(bins["count"])) / len(bins["count"])
        shares = bins["count"] / bins["count"].sum()
        axes = figure.add_subplot(1, 2, place, xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share")
        axes.set_title(f"{when} scaling, ECE {calibration[when]['ece']:.3f}")
        axes.bar(edges, shares, 1 / len(edges), align="edge", color="0.85", label="utterances")
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        accuracy, confidence = bins["right"][there] / bins["count"][there], bins["confidence"][there]
        axes.plot(confidence / bins["count"][there], accuracy, "o-", label="accuracy")
        axes.legend(loc="upper left")
    return png(figure)


def answered_figure(calibration: dict, chance: float, title: str) -> bytes:
    """UAR and accuracy against the share of utterances that are answered, those with the highest confidence."""
    shares, answered = [float(share) for share in calibration["answered"]], calibration["answered"].values()
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="share of utterances that are answered", ylim=(0, 1.02), xlim=(0, 1))
    for metric, name in (("uar", "UAR"), ("wa", "accuracy")):
        axes.plot(shares, [each[metric] for each in answered], ".-", label=name)
    axes.axhline(chance, color="0.6", linewidth=1, linestyle="--", label="chance UAR")
    axes.legend(loc="lower left")
    return png(figure)


def curves_figure(curve: list[dict], title: str) -> bytes:
    """Losses and validation metrics against epochs; `curve` has the entries of the Trainer's log."""
    names = sorted({name for entry in curve for name in entry} - {"epoch"})
    losses = [name for name in names if name.endswith("loss")]
    panels = [panel for panel in (losses, [name for name in names if name not in losses]) if panel]
    figure = Figure(figsize=(4.4 * len(panels), 3.6), layout="constrained")
    figure.suptitle(title)
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place, xlabel="epoch")
        for name in panel:
            points = [(entry["epoch"], entry[name]) for entry in curve if name in entry]
            part = "validation" if name.startswith("eval_") else "train"
            axes.plot(*zip(*points, strict=True), ".-", label=f"{shown(name.removeprefix('eval_'))}, {part}")
        axes.legend()
    return png(figure)


# By the names of `names_of`: `(results, predictions, title)` to PNG.
FIGURES = {
    "confusion_matrix": lambda r, _, title: confusion_figure(r["test"]["confusion"], r["corpus"]["label_names"], title),
    "scatter": lambda r, table, title: scatter_figure(table, r["corpus"]["label_names"], title),
    "reliability": lambda r, _, title: reliability_figure(r["calibration"], title),
    "answered": lambda r, _, title: answered_figure(r["calibration"], r["test"]["chance"]["value"], title),
    "training_curves": lambda r, _, title: curves_figure(r["training"]["curve"], title),
}


def names_of(results: dict) -> list[str]:
    """The figures of a run, by what its results have."""
    calibrated = ["reliability", "answered"] if results.get("calibration") else []
    curves = ["training_curves"] if (results["training"] or {}).get("curve") else []
    return [*results["test"]["figures"], *calibrated, *curves]
