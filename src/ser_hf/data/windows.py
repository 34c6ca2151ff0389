"""Utterances to windows, and the windows' scores back to one score per utterance.

A corpus is split first and cut into windows afterwards, so that no utterance is ever in two splits. Only times are
written: `audio.decode(row["audio"], rate, row["window_start"], row["window_end"])` reads a window's samples.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value
from datasets.fingerprint import Hasher

from ..errors import SerError

Last = Literal["pad", "drop", "shift"]
How = Literal["mean", "max", "vote", "attention"]

# Seconds of audio that are not a window of their own. `duration` columns are float32, whose steps reach 0.0001 s at
# half an hour; the encoders' frames are 0.02 s.
REST = 1e-3


def windows(duration: float, frame: float, hop: float, last: Last = "pad") -> list[tuple[float, float]]:
    """Start and end of the windows of a clip, as `models.audio_blocks.spans`, rounded to microseconds.

    `last` says what follows the last whole window: `pad` (one shorter window; the batch pads it), `shift` (one whole
    window that begins earlier) or `drop` (none). SerError: a length that is not above 0 seconds, or an unknown `last`.

    >>> windows(2.3, 1.0, 0.5), windows(2.3, 1.0, 1.0, last="shift")
    ([(0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.5, 2.3)], [(0.0, 1.0), (1.0, 2.0), (1.3, 2.3)])
    """
    from ..models.audio_blocks import spans

    for name, value in (("duration", duration), ("frame", frame), ("hop", hop)):
        if value is None or not 0 < value < math.inf:
            raise SerError(f"windows: {name} {value}: must be seconds above 0")
    if last not in get_args(Last):
        raise SerError(f"windows: last {last!r}: must be pad, drop or shift")
    times = spans(float(duration), frame, hop, last, REST)
    return [(round(float(start), 6), round(float(end), 6)) for start, end in times]


def to_windows(dataset: Dataset, frame: float, hop: float, last: Last = "pad") -> Dataset:
    """One row per window of a split, in the same order, with no audio read or copied.

    `id` becomes `<utterance>#<number of the window>`, `duration` the window's length; `utterance` is the former id;
    `window_start` and `window_end` are seconds in the clip. SerError: windows already, or a row has no duration.
    """
    if "window_start" in dataset.column_names:
        raise SerError("to_windows: the rows are windows already")
    rows, times = [], []
    for row, (utterance, duration) in enumerate(zip(dataset["id"][:], dataset["duration"][:], strict=True)):
        if duration is None:
            raise SerError(f"to_windows: {utterance} has no duration: only rows with audio can be cut into windows")
        parts = windows(duration, frame, hop, last)
        rows += [row] * len(parts)
        times += [(f"{utterance}#{number}", utterance, *window) for number, window in enumerate(parts)]
    columns = pd.DataFrame(times, columns=["id", "utterance", "window_start", "window_end"])
    columns.insert(1, "duration", columns["window_end"] - columns["window_start"])
    # Paths are repeated (0.6 kB per row). Audio bytes are gathered as slices that share the table's memory (about 6 kB
    # of Arrow objects per row): `select` and `add_column` would write all bytes as many times as there are windows.
    arrow = dataset.with_format("arrow")
    table = arrow[:]
    only_paths = pc.struct_field(table["audio"], "bytes").null_count == len(table)
    table = table.take(pa.array(rows, pa.int64())) if only_paths else arrow[rows]
    features = dataset.features.copy()
    features |= {"utterance": Value("string"), "window_start": Value("float64"), "window_end": Value("float64")}
    schema = pa.schema([features.arrow_schema.field(name) for name in columns])
    new = pa.Table.from_pandas(columns, schema, preserve_index=False)
    arrays = [dict(zip(part.column_names, part.columns, strict=True)) for part in (table, new)]
    table = pa.table(arrays[0] | arrays[1])
    info = dataset.info.copy()
    info.features = datasets.Features(features)
    # The default fingerprint would pickle the whole table to hash it.
    fingerprint = Hasher.hash((dataset._fingerprint, "windows", frame, hop, last))
    return Dataset(table, info=info, split=dataset.split, fingerprint=fingerprint)


def combine(
    scores: np.ndarray, utterances: Sequence[str], how: How = "mean", problem_type: str = "single_label_classification"
) -> tuple[np.ndarray, list[str]]:
    """Scores of windows to scores of utterances: `(utterances, labels)` float64 and their ids, in first-seen order.

    With `s[i, j]` the score of window i of an utterance for label j, i = 1 ... n:

    - `mean`: `mean_i s[i, j]`.
    - `max`: `max_i s[i, j]`; class probabilities are then divided by their sum. For regression it is the largest
      signed value of any window.
    - `vote`: each window votes for its most probable class (single-label) or for every label of at least 0.5
      (multi-label), and the mean breaks ties like one more vote: `(votes_j + mean_i s[i, j]) / (n + 1)`.
    - `attention`: `sum_i w_i s[i, j]` with `w = softmax_i(max_j |s[i, j]|)`: windows with a confident class, or with a
      strong value in regression, count more.

    `scores` are `(windows, labels)` probabilities (not logits), or regression values; `utterances` has the utterance of
    each window. SerError: unknown `how`, a vote of regression values, or not one utterance per window.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or len(scores) != len(utterances):
        raise SerError(f"combine: scores of shape {scores.shape} for {len(utterances)} windows")
    if how not in get_args(How):
        raise SerError(f"combine: {how!r}: must be mean, max, vote or attention")
    if how == "vote" and problem_type == "regression":
        raise SerError("combine: regression values cannot vote: use mean, max or attention")
    group, ids = pd.factorize(np.asarray(utterances, dtype=object))  # (windows,), (utterances,)
    single = problem_type.startswith("single")
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    count = np.bincount(group)[:, None]  # (utterances, 1)

    def each(values: np.ndarray, reduce: np.ufunc = np.add) -> np.ndarray:
        """`(windows, n)` to `(utterances, n)`; NaN stays NaN, unlike in pandas."""
        return reduce.reduceat(values[order], starts)

    if how == "mean":
        result = each(scores) / count
    elif how == "max":
        result = each(scores, np.maximum)
        result = result / result.sum(axis=1, keepdims=True) if single else result
    elif how == "vote":
        votes = np.eye(scores.shape[1])[scores.argmax(axis=1)] if single else (scores >= 0.5).astype(float)
        result = (each(votes) + each(scores) / count) / (count + 1)
    else:
        confidence = np.abs(scores).max(axis=1, keepdims=True)  # (windows, 1)
        weights = np.exp(confidence - each(confidence, np.maximum)[group])  # at most 1, also in regression
        result = each(weights * scores) / each(weights)
    return result, list(ids)
