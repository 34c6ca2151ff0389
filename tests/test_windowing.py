"""Windows and scores put together again, against values worked out by hand. Nothing is decoded but in one test."""

import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf
from datasets import Audio, ClassLabel, Dataset, Features, List, Value

from ser_hf.data.audio import decode
from ser_hf.data.windows import combine, to_windows, windows
from ser_hf.errors import SerError


@pytest.mark.parametrize(
    ("duration", "frame", "hop", "last", "expected"),
    [
        (1.6, 1.0, 0.25, "pad", [(0, 1), (0.25, 1.25), (0.5, 1.5), (0.75, 1.6)]),
        (1.6, 1.0, 0.25, "drop", [(0, 1), (0.25, 1.25), (0.5, 1.5)]),
        (1.6, 1.0, 0.25, "shift", [(0, 1), (0.25, 1.25), (0.5, 1.5), (0.6, 1.6)]),
        (1.0, 0.5, 0.25, "pad", [(0, 0.5), (0.25, 0.75), (0.5, 1)]),  # nothing is left over
        (1.0, 0.5, 0.25, "shift", [(0, 0.5), (0.25, 0.75), (0.5, 1)]),
        (9.5, 4.0, 2.0, "pad", [(0, 4), (2, 6), (4, 8), (6, 9.5)]),
        (9.5, 4.0, 2.0, "shift", [(0, 4), (2, 6), (4, 8), (5.5, 9.5)]),
        (4.0, 4.0, 2.0, "pad", [(0, 4)]),
        (2.5, 1.0, 1.0, "pad", [(0, 1), (1, 2), (2, 2.5)]),
        # binary fractions: 0.3 is 0.1 + 0.1 + 0.1 but for the last bit, and 1.2 as float32 is 1.2000000477
        (0.5, 0.2, 0.1, "pad", [(0, 0.2), (0.1, 0.3), (0.2, 0.4), (0.3, 0.5)]),
        (float(np.float32(1.2)), 0.4, 0.4, "pad", [(0, 0.4), (0.4, 0.8), (0.8, 1.2)]),
        (0.3, 0.1, 0.1, "drop", [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),  # (0.3 - 0.1) / 0.1 is below 2
        (float(np.float32(0.7)), 0.35, 0.35, "drop", [(0, 0.35), (0.35, 0.7)]),  # 0.69999999
        (float(np.float32(1799.9)), 899.95, 899.95, "drop", [(0, 899.95), (899.95, 1799.9)]),
        # gaps
        (5.5, 1.0, 2.0, "pad", [(0, 1), (2, 3), (4, 5)]),
        (5.5, 1.0, 2.0, "shift", [(0, 1), (2, 3), (4, 5)]),
        (6.5, 1.0, 2.0, "pad", [(0, 1), (2, 3), (4, 5), (6, 6.5)]),
        (6.5, 1.0, 2.0, "shift", [(0, 1), (2, 3), (4, 5), (5.5, 6.5)]),
    ],
)
def test_windows(duration, frame, hop, last, expected):
    found = windows(duration, frame, hop, last)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("last", ["pad", "drop", "shift"])
@pytest.mark.parametrize("duration", [1 / 16000, 0.05, 0.999, 1.0, 1.0005])
def test_a_clip_not_longer_than_a_frame_is_one_window(duration, last):
    assert windows(duration, 1.0, 0.25, last) == [(0.0, min(1.0, round(duration, 6)))]


@pytest.mark.parametrize("last", ["pad", "drop", "shift"])
def test_windows_lie_in_the_clip_in_order_and_cover_it(last):
    rng = np.random.default_rng(0)
    for _ in range(300):
        duration, frame = rng.uniform(0.01, 20), rng.uniform(0.1, 4)
        hop = frame * rng.uniform(0.1, 1)
        found = np.array(windows(duration, frame, hop, last))
        starts, ends = found.T
        assert starts[0] == 0 and (np.diff(starts) > 0).all() and (ends <= duration + 1e-6).all()
        assert (starts[1:] <= ends[:-1] + 2e-6).all()  # no gap
        assert duration - ends[-1] <= (hop if last == "drop" else 0) + 1e-3 + 1e-6
        if duration > frame:
            whole = ends - starts > frame - 1e-3 - 2e-6
            assert whole[:-1].all() if last == "pad" else whole.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1, 1), "duration 0.0"),
        ((None, 1, 1), "duration None"),
        ((float("nan"), 1, 1), "duration nan"),
        ((1, 0, 1), "frame 0"),
        ((1, 1, -0.5), "hop -0.5"),
        ((1, 1, 1, "loop"), "last 'loop': must be pad, drop or shift"),
    ],
)
def test_windows_name_a_wrong_value(arguments, message):
    with pytest.raises(SerError, match=message):
        windows(*arguments)


def corpus(sources: list, durations: list, labels=None, kind=None) -> Dataset:
    """A corpus as builders make it: `audio` as paths or bytes, typed columns."""
    features = Features(
        {
            "id": Value("string"),
            "audio": Audio(decode=False),
            "label": kind or ClassLabel(names=["angry", "sad"]),
            "speaker": Value("string"),
            "duration": Value("float32"),
            "start": Value("float64"),
        }
    )
    count = len(sources)
    columns = {
        "id": [f"u{i}" for i in range(count)],
        "audio": [s if isinstance(s, dict) else {"bytes": None, "path": str(s)} for s in sources],
        "label": labels or [i % 2 for i in range(count)],
        "speaker": [f"s{i}" for i in range(count)],
        "duration": durations,
        "start": [100.0] * count,
    }
    return Dataset(pa.table(columns, schema=features.arrow_schema))


def test_rows_are_repeated_with_their_window():
    made = to_windows(corpus(["/gone/a.wav", "/gone/b.wav"], [1.3, 0.4]), 1.0, 0.25)
    assert made["id"][:] == ["u0#0", "u0#1", "u0#2", "u1#0"]
    assert made["utterance"][:] == ["u0", "u0", "u0", "u1"]
    assert made["window_start"][:] == [0.0, 0.25, 0.5, 0.0]
    np.testing.assert_allclose(made["window_end"][:], [1.0, 1.25, 1.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(made["duration"][:], [1.0, 1.0, 0.8, 0.4], atol=1e-6)
    assert made["label"][:] == [0, 0, 0, 1] and made["speaker"][:] == ["s0", "s0", "s0", "s1"]
    assert made["start"][:] == [100.0] * 4  # where the utterance lies in its recording
    assert made[2]["audio"] == {"bytes": None, "path": "/gone/a.wav"}
    assert made.features["label"] == ClassLabel(names=["angry", "sad"])
    assert made.features["window_start"] == made.features["window_end"] == Value("float64")
    assert made.features["duration"] == Value("float32")
    with pytest.raises(SerError, match="windows already"):
        to_windows(made, 1.0, 0.25)


def test_parts_stay_apart_and_in_order():
    """Of a part in any order, only its own utterances, in that order."""
    whole = corpus([f"/gone/{i}.wav" for i in range(6)], [1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    part = whole.select([5, 1, 3])
    made = to_windows(part, 1.0, 1.0)
    assert made["utterance"][:] == ["u5"] * 3 + ["u1"] * 2 + ["u3"]
    assert made["label"][:] == [1] * 3 + [1] * 2 + [1] and len(set(made["id"])) == 6
    assert set(made["speaker"]) == {"s5", "s1", "s3"}
    assert part.column_names == whole.column_names  # the given rows are what they were


def test_vector_labels_are_inherited():
    made = to_windows(corpus(["/gone/a.wav"], [2.0], [[0.5, -1.0, 3.0]], List(Value("float32"), length=3)), 1.0, 1.0)
    assert made["label"][:] == [[0.5, -1.0, 3.0]] * 2


def test_half_an_hour_is_listed_without_decoding():
    made = to_windows(corpus(["/no/such/file.wav"], [1800.0]), 1.0, 0.25)
    assert len(made) == 7197  # (1800 - 1) / 0.25 + 1
    assert made[7196]["id"] == "u0#7196" and made[7196]["window_end"] == 1800.0


@pytest.mark.parametrize("split", [False, True])
def test_audio_bytes_are_shared_not_copied(split):
    clips = [{"bytes": bytes([i]) * 1_000_000, "path": f"{i}.flac"} for i in range(4)]
    whole = corpus(clips, [10.0] * 4)
    part = whole.select([3, 0]) if split else whole
    before = pa.total_allocated_bytes()
    made = to_windows(part, 1.0, 0.5)
    assert pa.total_allocated_bytes() - before < 100_000
    assert len(made) == 19 * len(part)
    assert made[20]["audio"]["bytes"] == (clips[0] if split else clips[1])["bytes"]
    assert made.select_columns(["id", "audio"])[[0, 18, 19]]["audio"][1]["path"] == ("3.flac" if split else "0.flac")


def test_equal_calls_have_equal_fingerprints():
    """So that `map` finds its cache again; the table itself is not hashed."""
    rows = corpus(["/gone/a.wav"], [2.0])
    made = [to_windows(rows, 1.0, hop)._fingerprint for hop in (0.5, 0.5, 0.25)]
    assert made[0] == made[1] != made[2]


def test_no_rows_and_no_duration():
    rows = corpus(["/gone/a.wav"], [2.0])
    assert len(to_windows(rows.select([]), 1.0, 0.5)) == 0
    with pytest.raises(SerError, match="u0 has no duration"):
        to_windows(corpus(["/gone/a.wav"], [None]), 1.0, 0.5)


def test_windows_decode_to_their_samples(tmp_path):
    samples = np.random.default_rng(0).integers(-9000, 9000, 40000).astype(np.int16)
    sf.write(tmp_path / "a.wav", samples, 16000)
    made = to_windows(corpus([tmp_path / "a.wav"], [2.5]), 1.0, 0.25)
    assert len(made) == 7
    whole = decode(tmp_path / "a.wav", 16000)
    for row in made:
        part = decode(row["audio"], 16000, row["window_start"], row["window_end"])
        first = round(row["window_start"] * 16000)
        np.testing.assert_array_equal(part, whole[first : first + 16000])


# --- combine ----------------------------------------------------------------------------------------------------------

# Windows of two utterances, not side by side.
SCORES = np.array([[0.6, 0.3, 0.1], [0.05, 0.05, 0.9], [0.2, 0.5, 0.3], [0.1, 0.5, 0.4]])
OF = ["b", "a", "b", "b"]


@pytest.mark.parametrize(
    ("how", "b"),
    [
        ("mean", [0.9 / 3, 1.3 / 3, 0.8 / 3]),
        ("max", [0.6 / 1.5, 0.5 / 1.5, 0.4 / 1.5]),
        ("vote", [(1 + 0.3) / 4, (2 + 1.3 / 3) / 4, (0 + 0.8 / 3) / 4]),
        # weights: exp(0.6), exp(0.5), exp(0.5) over their sum = 0.355913, 0.322043, 0.322043
        ("attention", [0.310161, 0.428817, 0.261022]),
    ],
)
def test_class_scores(how, b):
    made, ids = combine(SCORES, OF, how)
    assert ids == ["b", "a"] and made.dtype == np.float64
    np.testing.assert_allclose(made[0], b, atol=1e-6)
    np.testing.assert_allclose(made.sum(axis=1), 1.0)
    if how != "vote":  # one window is its utterance
        np.testing.assert_allclose(made[1], SCORES[1])
    assert made[1].argmax() == 2


def test_majority_beats_confidence_and_the_mean_breaks_ties():
    majority = combine(np.array([[0.51, 0.49], [0.51, 0.49], [0.0, 1.0]]), ["a"] * 3, "vote")[0]
    assert majority.argmax() == 0  # the mean says 1
    tied = combine(np.array([[0.6, 0.4], [0.1, 0.9]]), ["a"] * 2, "vote")[0]
    np.testing.assert_allclose(tied, [[(1 + 0.35) / 3, (1 + 0.65) / 3]])
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.dirichlet(np.ones(4), rng.integers(1, 9))
        votes = np.bincount(scores.argmax(axis=1), minlength=4)
        best = np.lexsort((scores.mean(axis=0), votes))[-1]
        assert combine(scores, ["a"] * len(scores), "vote")[0].argmax() == best


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [0.6, 0.3, 0.45]),
        ("max", [0.9, 0.4, 0.5]),  # each label for itself, not normalised
        ("vote", [(1 + 0.6) / 3, (0 + 0.3) / 3, (1 + 0.45) / 3]),  # 0.5 is a vote; half of them: the mean decides
        # weights exp(0.9), exp(0.5) over their sum = 0.598688, 0.401312
        ("attention", [0.659213, 0.280262, 0.440131]),
    ],
)
def test_multi_label_scores(how, expected):
    scores = np.array([[0.9, 0.2, 0.4], [0.3, 0.4, 0.5]])
    made, _ = combine(scores, ["a", "a"], how, "multi_label_classification")
    np.testing.assert_allclose(made, [expected], atol=1e-6)


def test_regression_values():
    values, of = np.array([[0.0, -2.0], [1.0, 0.0]]), ["a", "a"]
    np.testing.assert_allclose(combine(values, of, "mean", "regression")[0], [[0.5, -1.0]])
    np.testing.assert_allclose(combine(values, of, "max", "regression")[0], [[1.0, 0.0]])
    weight = np.e / (np.e + 1)  # strengths 2 and 1
    np.testing.assert_allclose(combine(values, of, "attention", "regression")[0], [[1 - weight, -2 * weight]])
    np.testing.assert_allclose(combine(values * 1e4, of, "attention", "regression")[0], [[0.0, -2e4]])  # no overflow
    with pytest.raises(SerError, match="cannot vote"):
        combine(values, of, "vote", "regression")


def test_combine_checks_what_it_is_given():
    with pytest.raises(SerError, match="'median': must be"):
        combine(SCORES, OF, "median")
    with pytest.raises(SerError, match="for 3 windows"):
        combine(SCORES, OF[:3])
    assert combine(np.zeros((0, 3)), [])[0].shape == (0, 3)
