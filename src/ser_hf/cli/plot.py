"""Draw a clip as one PNG: waveform with windows, mel spectrogram, MFCC, and SpecAugment examples.

The features are those of recipes/spectrogram_cls.py with its defaults, or of a trained spectrogram model (--model).
"""

from pathlib import Path

from ..errors import SerError
from ..files import claim, png, write
from .console import Parser, positive

EXAMPLES = 3  # draws of SpecAugment


def draw(samples, extractor, window_seconds: float | None, window_hop: float | None, seed: int) -> bytes:
    """PNG of one clip.

    Args:
        samples: Mono float32 samples at the extractor's rate, not trimmed.
        extractor: `SerSpectrogramFeatureExtractor`; mel and MFCC share its rate, sizes and trimming.
        window_seconds, window_hop: Windows to draw over the waveform, in seconds; None for no windows.
        seed: Seed of the SpecAugment examples.
    """
    import numpy as np
    from matplotlib.figure import Figure

    from ..data.augmentation import spec_augment

    settings = {key: value for key, value in extractor.to_dict().items() if key not in ("padding_value", "auto_map")}
    mel = type(extractor)(**{**settings, "kind": "mel", "reference": "max"})
    count = min(extractor.n_mfcc, extractor.n_mels)
    mfcc = type(extractor)(**{**settings, "kind": "mfcc", "reference": 1.0, "n_mfcc": count})
    picture, coefficients = (kind(samples)["input_features"][0] for kind in (mel, mfcc))
    generator, rate = np.random.default_rng(seed), extractor.sampling_rate
    rows = [("mel", picture, f"{mel.n_mels} mel bands"), ("mfcc", coefficients, f"{mfcc.n_mfcc} MFCC")]
    rows += [("mel", spec_augment(picture, generator), f"SpecAugment, draw {n + 1}") for n in range(EXAMPLES)]

    figure = Figure(figsize=(9, 1.9 * (len(rows) + 1)), layout="constrained")
    axes = figure.subplots(len(rows) + 1)
    axes[0].plot(np.arange(len(samples)) / rate, samples, linewidth=0.4)
    axes[0].set(xlim=(0, len(samples) / rate), title=f"waveform, {len(samples) / rate:.2f} s at {rate} Hz")
    if window_seconds is not None:
        _draw_windows(axes[0], len(samples) / rate, window_seconds, window_hop or window_seconds / 2)
    for panel, (kind, values, title) in zip(axes[1:], rows, strict=True):
        lowest = 0 if kind == "mel" else 1  # the range of coefficient 0, the loudness, would hide the others
        shown = values[lowest:]
        extent = (0, values.shape[1] * extractor.hop_length / rate, lowest, values.shape[0])
        panel.imshow(shown, origin="lower", aspect="auto", extent=extent, cmap="magma", interpolation="nearest")
        trimmed = "" if extractor.trim_db is None else f", trimmed at {extractor.trim_db:g} dB"
        panel.set(title=f"{title}, {values.shape[1]} frames{trimmed}", ylabel="row")
    axes[-1].set_xlabel("seconds")
    return png(figure)


def _draw_windows(axes, duration: float, seconds: float, hop: float) -> None:
    from ..data.windows import windows

    low, high = axes.get_ylim()
    for number, (start, end) in enumerate(windows(duration, seconds, hop)):
        level = low + (high - low) * (0.04 + 0.05 * (number % 4))  # overlapping windows on different levels
        axes.plot([start, end], [level, level], color=f"C{1 + number % 4}", linewidth=3, solid_capstyle="butt")


def main(argv: list[str]) -> int:
    parser = Parser("plot", __doc__)
    parser.add_argument("file", help="audio file")
    parser.add_argument("--out", help="write this PNG (default: the file's name with .png, in this folder)")
    parser.add_argument("--model", help="use the features of this spectrogram model: folder or Hub id")
    parser.add_argument("--sampling_rate", type=positive, default=8000, help="rate in Hz (default: 8000)")
    parser.add_argument("--n_mels", type=positive, default=128, help="number of mel bands (default: 128)")
    parser.add_argument("--n_mfcc", type=positive, default=40, help="number of coefficients (default: 40)")
    parser.add_argument("--trim_db", type=float, default=30.0, help="trim silence, dB below the loudest (default: 30)")
    parser.add_argument("--window_seconds", type=float, default=1.0, help="seconds of the drawn windows (default: 1)")
    parser.add_argument("--window_hop", type=float, help="seconds from window to window (default: half a window)")
    parser.add_argument("--seed", type=int, default=42, help="seed of SpecAugment (default: 42)")
    args = parser.parse_args(argv)
    out = Path(args.out or Path(args.file).with_suffix(".png").name).expanduser()
    if out.is_dir():
        raise SerError(f"--out {args.out or out}: is a folder; give the name of a PNG file in it")
    claim(out.parent, f"--out {out}")

    from ..data.audio import check_trim_db, read_clip

    check_trim_db(args.trim_db)
    from ..models import SerSpectrogramFeatureExtractor
    from ..training.run import say

    try:
        if args.model:
            extractor = SerSpectrogramFeatureExtractor.from_pretrained(args.model)
        else:
            sizes = {"n_mels": args.n_mels, "n_mfcc": args.n_mfcc, "trim_db": args.trim_db}
            extractor = SerSpectrogramFeatureExtractor(args.sampling_rate, **sizes)
    except (OSError, ValueError, TypeError) as error:
        raise SerError(" ".join(str(error).split())) from None
    samples = read_clip(args.file, extractor.sampling_rate)
    write(out, draw(samples, extractor, args.window_seconds, args.window_hop, args.seed))
    say(f"written: {out}")
    return 0
