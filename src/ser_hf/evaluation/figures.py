"""The figures of a report, as PNG."""

import numpy as np
import pandas as pd

from ..files import png

MAX_INCHES = 24.0  # of one side; 320 classes at full size would be an image of 2 GB
MAX_COUNTS = 40  # classes with their counts in the cells; more do not fit
MAX_PANELS = 6  # side by side


def confusion_figure(matrix: list[list[int]], label_names: list[str], title: str) -> bytes:
    """Confusion matrix `(labels, labels)`, row = reference, column = prediction, coloured by the share of each labelled
    class, with counts. `label_names` are in index order."""
    from matplotlib.figure import Figure

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
    from matplotlib.figure import Figure

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


# By the names in `Task.figures`: `(results, predictions, title)` to PNG.
FIGURES = {
    "confusion_matrix": lambda r, _, title: confusion_figure(r["test"]["confusion"], r["corpus"]["label_names"], title),
    "scatter": lambda r, table, title: scatter_figure(table, r["corpus"]["label_names"], title),
}
