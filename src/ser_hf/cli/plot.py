"""Draw a clip as one PNG: waveform with windows, mel spectrogram, MFCC, and SpecAugment examples.

The features are those of recipes/spectrogram_cls.py with its defaults, or of a trained spectrogram model (--model).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SerError, one_line
from ..files import named_file, png, write
from ..training.arguments import converter
from .console import Parser, natural

if TYPE_CHECKING:
    import numpy as np

    from ..models import SerSpectrogramFeatureExtractor

EXAMPLES = 3  # draws of SpecAugment


def draw(
    samples: "np.ndarray",
    extractor: "SerSpectrogramFeatureExtractor",
    window_seconds: float | None,
    window_hop: float | None,
    seed: int,
) -> bytes:
    """PNG of one clip, mono float32 `samples` at the extractor's rate and not trimmed.

    Mel and MFCC share the rate, sizes and trimming of `extractor`. Windows over the waveform are in seconds, None for
    none; `seed` is that of the SpecAugment examples.
    """
    import numpy as np
    from matplotlib.figure import Figure

    from ..data.augmentation import spec_augment
    from ..data.windows import windows
    from ..evaluation.panels import draw_rows, draw_waveform

    dropped = ("padding_value", "auto_map", "mean_spectrum")  # the mean is of one kind of rows
    settings = {key: value for key, value in extractor.to_dict().items() if key not in dropped}
    settings["n_mfcc"] = min(extractor.n_mfcc, extractor.n_mels)
    kinds = {"mel": "max", "mfcc": 1.0}  # with the power of 0 dB
    extractors = [type(extractor)(**{**settings, "kind": kind, "reference": kinds[kind]}) for kind in kinds]
    mel, mfcc = (one(samples)["input_features"][0].T for one in extractors)  # (rows, frames)
    generator, rate = np.random.default_rng(seed), extractor.sampling_rate
    rows = {f"{len(mel)} mel bands": mel, f"{len(mfcc)} MFCC": mfcc}
    rows |= {f"SpecAugment, draw {n + 1}": spec_augment(mel, generator) for n in range(EXAMPLES)}
    trimmed = "" if extractor.trim_db is None else f", trimmed at {extractor.trim_db:g} dB"

    figure = Figure(figsize=(9, 1.9 * (len(rows) + 1)), layout="constrained")
    axes = figure.subplots(len(rows) + 1)
    draw_waveform(axes[0], samples, rate)
    if window_seconds is not None:
        low, high = axes[0].get_ylim()
        spans = windows(len(samples) / rate, window_seconds, window_hop or window_seconds / 2)
        for number, span in enumerate(spans):
            level = low + (high - low) * (0.04 + 0.05 * (number % 4))  # overlapping windows on different levels
            color = f"C{1 + number % 4}"
            axes[0].plot(span, [level, level], color=color, linewidth=3, solid_capstyle="butt")
    for panel, (title, values) in zip(axes[1:], rows.items(), strict=True):
        lowest = 1 if values is mfcc else 0  # the range of coefficient 0, the loudness, would hide the others
        draw_rows(panel, values, extractor.hop_length / rate, lowest)
        panel.set(title=f"{title}, {values.shape[1]} frames{trimmed}", ylabel="row")
    axes[-1].set_xlabel("seconds")
    return png(figure)


def main(argv: list[str]) -> int:
    parser = Parser("plot", __doc__)
    parser.add_argument("file", help="audio file")
    parser.add_argument("--out", help="write this PNG (default: the file's name with .png, in this folder)")
    parser.add_argument("--model", help="use the features of this spectrogram model: folder or Hub id")
    rate, size = (converter(int, {"least": 1, "most": most}) for most in (384000, 4096))
    seconds, decibels = converter(float, {"least": 0.01}), converter(float, {"above": 0})
    parser.add_argument("--sampling_rate", type=rate, default=8000, help="rate in Hz (default: 8000)")
    parser.add_argument("--n_mels", type=size, default=128, help="number of mel bands (default: 128)")
    parser.add_argument("--n_mfcc", type=size, default=40, help="number of coefficients (default: 40)")
    text = "trim silence, dB below the loudest (default: 30)"
    parser.add_argument("--trim_db", type=decibels, default=30.0, help=text)
    parser.add_argument("--window_seconds", type=seconds, default=1.0, help="seconds of the drawn windows (default: 1)")
    parser.add_argument("--window_hop", type=seconds, help="seconds from window to window (default: half a window)")
    parser.add_argument("--seed", type=natural, default=42, help="seed of SpecAugment (default: 42)")
    args = parser.parse_args(argv)
    out = named_file(args.out or f"{Path(args.file).stem}.png", "--out", ".png")

    from ..data.audio import read_clip
    from ..models import SerSpectrogramFeatureExtractor
    from ..training.run import say

    sizes = {"n_mels": args.n_mels, "n_mfcc": args.n_mfcc, "trim_db": args.trim_db}
    try:
        if args.model:
            options = SerSpectrogramFeatureExtractor.get_feature_extractor_dict(args.model)[0]
            if (kind := options.get("feature_extractor_type")) != SerSpectrogramFeatureExtractor.__name__:
                raise ValueError(f"--model {args.model}: no model of spectrograms, it has a {kind}")
            extractor = SerSpectrogramFeatureExtractor.from_pretrained(args.model)
        else:
            extractor = SerSpectrogramFeatureExtractor(args.sampling_rate, **sizes)
    except (OSError, ValueError, TypeError) as error:
        raise SerError(one_line(error)) from None
    samples = read_clip(args.file, extractor.sampling_rate)
    write(out, draw(samples, extractor, args.window_seconds, args.window_hop, args.seed))
    say(f"written: {out}")
    return 0
