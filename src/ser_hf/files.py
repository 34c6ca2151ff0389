"""Writing files whole or not at all, and figures as PNG."""

import io
import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Write under a temporary name beside `path`, then rename: an interruption never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(staging, path)


def png(figure) -> bytes:
    """A `matplotlib.figure.Figure` as PNG, without pyplot and its global state. `$` in a label is a dollar sign."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
