"""Copies of a recording that are not equal sample by sample: another gain, lossy encoding, rate, or trimming.

A part of `check`. Each frame becomes 32 bits: whether the difference of energy between two neighbouring bands has grown
since the frame before (Haitsma & Kalker, A highly robust audio fingerprinting system, ISMIR 2002). 90 clips of RAVDESS
were compressed by MP3 or Ogg to the worst quality, made ten times softer, trimmed or resampled: at most 12 % of their
bits changed. Among its 1440 clips, only one pair, which is equal, differs in less than `LIMIT`.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

RATE, FRAME, HOP = 8000, 2048, 128  # Hz and samples: frames of 256 ms, every 16 ms
BLOCK = 4096  # frames whose spectra are in memory at a time: those of a minute
LOWEST, HIGHEST, BITS = 200, 3000, 32  # Hz of the bands
QUIET = 1e-4  # of the loudest frame's energy: fainter frames are silence, and in no fingerprint
LIMIT = 0.25  # the most bits that differ, of 1
NEIGHBOURS = 4  # clips with an equal frame that are compared with a clip; all copies of one need not be


def fingerprint(samples: np.ndarray) -> np.ndarray:
    """`(frames,)` uint32 of a clip `(samples,)` at `RATE`, 0 where it is silent."""
    samples = np.pad(samples, (0, max(0, FRAME + HOP - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]  # a view
    edges = np.round(np.geomspace(LOWEST, HIGHEST, BITS + 2) * FRAME / RATE).astype(int)
    window, parts = np.hanning(FRAME).astype(np.float32), []
    for first in range(0, len(frames), BLOCK):
        spectrum = np.fft.rfft(frames[first : first + BLOCK] * window)
        parts.append(np.add.reduceat(spectrum.real**2 + spectrum.imag**2, edges, axis=1)[:, :-1])
    energy = np.concatenate(parts)  # (frames + 1, BITS + 1)
    grown = np.diff(np.diff(energy, axis=1), axis=0) > 0
    words = (grown << np.arange(BITS, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    loudness = energy[1:].sum(axis=1)
    return np.where(loudness > QUIET * loudness.max(), words, np.uint32(0))


def near_duplicates(prints: Sequence[np.ndarray]) -> list[tuple[int, int, float, float]]:
    """Pairs of clips by their fingerprints: both positions, the share of bits that differ, and by how many seconds the
    second one starts after the first. Clips that share less than half of the shorter one are no pair.

    Only clips with two equal frames at one distance are compared, which sorting all frames finds.
    """
    if not prints:
        return []
    clip = np.repeat(np.arange(len(prints)), [len(one) for one in prints])
    frame = np.concatenate([np.arange(len(one)) for one in prints])
    words = np.concatenate(prints)
    order = np.flatnonzero(words)
    order = order[np.argsort(words[order], kind="stable")]
    equal = []
    for step in range(1, NEIGHBOURS + 1):
        at = np.flatnonzero(words[order[step:]] == words[order[:-step]])
        first, second = order[at], order[at + step]  # by the stable sort, in the order of clips
        equal.append(np.stack([clip[first], clip[second], frame[first] - frame[second]], axis=1))
    candidates, counts = np.unique(np.concatenate(equal), axis=0, return_counts=True)
    found = {}
    for a, b, shift in candidates[(counts > 1) & (candidates[:, 0] != candidates[:, 1])].tolist():
        one, two = prints[a][max(0, shift) :], prints[b][max(0, -shift) :]
        one, two = one[: len(two)], two[: len(one)]
        both = (one != 0) & (two != 0)
        if 2 * both.sum() < min(np.count_nonzero(prints[a]), np.count_nonzero(prints[b])):
            continue
        share = float(np.bitwise_count(one[both] ^ two[both]).mean() / BITS)
        if share <= min(LIMIT, found.get((a, b), (1.0,))[0]):
            found[a, b] = share, shift * HOP / RATE
    return [(a, b, *figures) for (a, b), figures in sorted(found.items())]


def copies(rows: Sequence[dict], kind: Callable[[dict], Hashable]) -> tuple[list[dict], list[dict]]:
    """Groups of equal clips, and pairs of nearly equal ones: `{ids, contradictory}`, of which pairs also have
    `differing_bits` (a share) and `starts_later` (seconds). `contradictory`: their `kind` differs. Rows have `id`,
    `audio_hash` and `fingerprint`, None where a clip is not compared. Of equal clips only the first is compared."""

    def group(members: list[dict], **figures) -> dict:
        return {"ids": [row["id"] for row in members], "contradictory": len({*map(kind, members)}) > 1, **figures}

    by_hash = defaultdict(list)
    for row in rows:
        if row.get("audio_hash"):
            by_hash[row["audio_hash"]].append(row)
    equal = [group(members) for members in by_hash.values() if len(members) > 1]
    first = [members[0] for members in by_hash.values() if members[0]["fingerprint"] is not None]
    alike = [
        group([first[a], first[b]], differing_bits=round(share, 4), starts_later=round(seconds, 3))
        for a, b, share, seconds in near_duplicates([row["fingerprint"] for row in first])
    ]
    return equal, alike
