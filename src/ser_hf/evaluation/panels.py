"""Samples and features of a clip over seconds, on matplotlib axes."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_waveform(axes: "Axes", samples: np.ndarray, rate: int) -> None:
    """Mono samples over seconds."""
    axes.plot(np.arange(len(samples)) / rate, samples, linewidth=0.4)
    axes.set(xlim=(0, len(samples) / rate), title=f"waveform, {len(samples) / rate:.2f} s at {rate} Hz")


def draw_rows(axes: "Axes", values: np.ndarray, hop: float, lowest: int = 0) -> None:
    """The rows from `lowest` of features `(rows, frames)`, a frame every `hop` seconds, as an image over seconds."""
    extent = (0, values.shape[1] * hop, lowest, values.shape[0])
    axes.imshow(values[lowest:], origin="lower", extent=extent, aspect="auto", cmap="magma", interpolation="nearest")
