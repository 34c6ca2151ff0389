"""`ser-hf stress`: each change measured by hand, thresholds against other code, fair and unfair models, the command.

python -m pytest tests/test_stress.py
"""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.signal import correlate
from test_report import results_of
from transformers import Wav2Vec2FeatureExtractor

from conftest import settings_of, setup_of, system_of, tiny_config
from ser_hf.cli import main
from ser_hf.data.cache import content_hash
from ser_hf.data.loading import load_corpus
from ser_hf.data.splits import split
from ser_hf.errors import SerError
from ser_hf.evaluation import fairness, perturbations, stress
from ser_hf.evaluation.card import model_card, read_stress
from ser_hf.evaluation.perturbations import CHANGES, KINDS, apply
from ser_hf.models import SerConfig, SerForAudioClassification
from ser_hf.training.hub import published_files
from ser_hf.training.saved_model import save_model

RATE = 16000
OF = {change.key: change for change in CHANGES}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(*hz: float, seconds: float = 2.0) -> np.ndarray:
    """Sines of amplitude 0.1."""
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(0.1 * np.sin(2 * np.pi * f * time) for f in hz).astype(np.float32)


def db(power: float) -> float:
    return 10 * np.log10(power)


def level(samples: np.ndarray, hz: float) -> float:
    """The level in dB of a tone of a whole number of periods, beside amplitude 0.1."""
    middle = samples[RATE // 2 : RATE // 2 + RATE]  # one second: filters have settled
    return db((2 * abs(np.fft.rfft(middle)[round(hz)]) / RATE / 0.1) ** 2)


def changed(key: str, samples: np.ndarray, id: str = "a", voices=()) -> np.ndarray:
    return apply(OF[key], samples, RATE, id, voices)


# --- changes ----------------------------------------------------------------------------------------------------------


def test_the_table():
    assert len(OF) == len(CHANGES) == 36 and {change.kind for change in CHANGES} == set(KINDS)
    clip = rng().standard_normal(RATE).astype(np.float32) * np.repeat([1e-4, 0.1, 1e-4], [4000, 8000, 4000])
    clip = clip.astype(np.float32)
    for change in CHANGES:
        first = apply(change, clip, RATE, "a", [tone(200), tone(300)])
        assert first.dtype == np.float32 and np.isfinite(first).all() and not np.array_equal(first, clip), change.key
        assert np.array_equal(first, apply(change, clip, RATE, "a", [tone(200), tone(300)])), change.key
        short = apply(change, clip[:20], RATE, "a", [tone(200)])
        silent = apply(change, np.zeros(4000, np.float32), RATE, "a", [tone(200)])
        assert np.isfinite(short).all() and np.isfinite(silent).all(), change.key


def test_small_changes_by_hand():
    clip = rng().standard_normal(RATE).astype(np.float32) * 0.1
    for strength in (-2, 2):
        assert db(np.square(changed(f"gain {strength} dB", clip) / clip).mean()) == pytest.approx(strength, abs=1e-4)
    for count in (100, 500, 1000):
        before, after = changed(f"zeros before {count} samples", clip), changed(f"zeros after {count} samples", clip)
        assert not before[:count].any() and np.array_equal(before[count:], clip)
        assert not after[RATE:].any() and len(after) == RATE + count and np.array_equal(after[:RATE], clip)
    rounded = changed("dither 16 bit", clip)
    steps = rounded.astype(np.float64) * 32768
    error = steps - clip * 32768.0
    assert np.array_equal(steps, np.rint(steps)) and np.abs(error).max() <= 1.5
    # rounding has a variance of 1/12 of a step, triangular dither of 2/12; together 1/4
    assert abs(error.mean()) < 0.02 and error.var() == pytest.approx(1 / 4, rel=0.05)
    cut = changed("clipping 0.1 %", clip)
    assert (cut != clip).sum() == 16 and np.abs(cut).max() == np.sort(np.abs(clip))[-17]


@pytest.mark.parametrize("hz", [50, 100, 150])
def test_the_high_pass_is_of_first_order(hz):
    filtered = changed(f"high-pass {hz} Hz", tone(hz // 10, hz, hz * 10))
    # 1 / (1 + (cutoff / f)^2)
    assert [level(filtered, f) for f in (hz // 10, hz, hz * 10)] == pytest.approx([-20.04, -3.01, -0.04], abs=0.1)


def test_the_low_pass_halves_7_khz():
    filtered = changed("low-pass 7000 Hz", tone(1000, 7000))
    assert level(filtered, 7000) == pytest.approx(-3.01, abs=0.05) and level(filtered, 1000) > -0.1


@pytest.mark.parametrize("snr", [20, 10, 5, 0])
@pytest.mark.parametrize("noise", ["white", "pink", "babble"])
def test_noise_has_its_power_and_is_the_same_at_every_strength(noise, snr):
    clip, voices = tone(200), [tone(f, seconds=1.3) * f for f in (500, 700, 900)]
    added = changed(f"{noise} noise {snr} dB", clip, "a", voices).astype(np.float64) - clip
    assert db(np.square(clip, dtype=np.float64).mean() / np.square(added).mean()) == pytest.approx(snr, abs=1e-3)
    loudest = changed(f"{noise} noise 0 dB", clip, "a", voices).astype(np.float64) - clip
    assert np.corrcoef(added, loudest)[0, 1] > 0.99999
    other = changed(f"{noise} noise 0 dB", clip, "b", voices).astype(np.float64) - clip
    assert np.corrcoef(other, loudest)[0, 1] < 0.9  # babble of three tones may be alike by chance, not equal
    power = np.square(np.abs(np.fft.rfft(added)))
    octaves = [power[2 * low : 4 * low].sum() for low in (500, 1000, 2000)]  # bins of 0.5 Hz
    if noise != "babble":  # per octave white noise grows by 3 dB, pink stays
        grown = db(octaves[2] / octaves[0]) / 2
        assert grown == pytest.approx(3.01 if noise == "white" else 0.0, abs=0.4)
    else:  # every voice is equally loud, whatever its level, and nothing else is there
        voices_power = [power[2 * f - 20 : 2 * f + 21].sum() for f in (500, 700, 900)]
        assert max(voices_power) / min(voices_power) < 1.5 and sum(voices_power) > 0.95 * power.sum()


def test_channels():
    narrow = changed("telephone band to 3400 Hz", tone(100, 1000, 5000))
    assert abs(level(narrow, 1000)) < 0.3 and level(narrow, 100) < -35 and level(narrow, 5000) < -40
    law = changed("mu-law at 8000 Hz", tone(1000, 5000))
    assert abs(level(law, 1000)) < 0.3 and level(law, 5000) < -40
    noise = np.clip(rng().standard_normal(8000) * 0.3, -1, 1).astype(np.float32)
    coded = perturbations.mu_law(noise, 8000, 8000)
    assert len(np.unique(coded)) <= 255
    # the textbook's ratio of signal to quantisation noise of 8 bits of mu-law: about 38 dB
    assert db(np.square(noise).mean() / np.square(noise - coded).mean()) == pytest.approx(38, abs=1)
    speech = tone(300, 450, 800) * np.sin(np.linspace(0, 20, 2 * RATE)).astype(np.float32)
    for rate in (64, 32):
        decoded = changed(f"MP3 {rate} kbit/s", speech)
        assert len(decoded) == len(speech)
        assert correlate(decoded, speech).argmax() == len(speech) - 1  # not delayed
        assert db(np.square(speech).mean() / np.square(decoded - speech).mean()) > 20


def test_room_tilt_and_silence():
    clip = rng().standard_normal(2 * RATE).astype(np.float32) * 0.1
    power = np.square(clip, dtype=np.float64).mean()
    for key in ("reverberation 0.3 s", "reverberation 1 s", "tilt per octave -3 dB", "tilt per octave 3 dB"):
        other = changed(key, clip)
        assert len(other) == len(clip) and np.square(other, dtype=np.float64).mean() == pytest.approx(power, rel=1e-4)
    impulse = np.zeros(2 * RATE, np.float32)
    impulse[0] = 1.0
    tail = np.square(changed("reverberation 1 s", impulse), dtype=np.float64)
    early, late = tail[100 : RATE // 10].sum(), tail[RATE // 2 : RATE // 2 + RATE // 10 - 100].sum()
    assert db(early / late) == pytest.approx(30, abs=1.5)  # 60 dB a second
    for slope in (-3, 3):  # two octaves apart
        tilted = changed(f"tilt per octave {slope} dB", tone(500, 2000))
        assert level(tilted, 2000) - level(tilted, 500) == pytest.approx(2 * slope, abs=0.05)
    padded = changed("zeros at both ends 0.5 s", clip)
    assert np.array_equal(padded[RATE // 2 : -RATE // 2], clip) and len(padded) == 3 * RATE
    assert abs(len(changed("silence trimmed at 30 dB", padded)) - len(clip)) < 0.15 * RATE


# --- groups -----------------------------------------------------------------------------------------------------------

NAMES = ["angry", "happy", "neutral", "sad"]
ROWS = np.array([[0.8, 0.15, 0.03, 0.02], [0.3, 0.6, 0.08, 0.02], [0.02, 0.1, 0.7, 0.18], [0.01, 0.02, 0.22, 0.75]])


def clips_of(sizes: dict[str, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of so many clips of each class."""
    labels = np.concatenate([np.repeat(np.arange(4), counts) for counts in sizes.values()])
    return labels, np.repeat(np.array(list(sizes), dtype=object), [sum(counts) for counts in sizes.values()])


def answers(labels: np.ndarray, generator: np.random.Generator, rows: np.ndarray = ROWS) -> np.ndarray:
    """A model that confuses classes as `rows` say, whoever speaks."""
    return np.array([generator.choice(4, p=rows[label]) for label in labels])


def alarms(found: dict) -> tuple[bool, bool]:
    """Whether the UAR of a group is beyond chance, and whether a class is."""
    return (
        any(group["biased"] for group in found["groups"]),
        any(one["biased"] for group in found["groups"] for one in group["classes"]),
    )


def test_gaps_by_hand():
    """Group a: 3 of 4 angry and 2 of 2 sad right; group b: 1 of 4 angry. All: 4 of 8 angry, 2 of 2 sad."""
    labels = [0, 0, 0, 0, 3, 3, 0, 0, 0, 0]
    predictions = [0, 0, 0, 3, 3, 3, 0, 3, 3, 3]
    counts = fairness.counts_of(labels, predictions, np.array([0] * 6 + [1] * 4), 2, 4)
    uar, recall, share = fairness.gaps(counts)
    assert uar.tolist() == [(0.75 + 1) / 2 - (0.5 + 1) / 2, 0.25 - 0.5]
    assert recall.tolist() == [[0.25, 0, 0, 0], [-0.25, 0, 0, 0]]
    # a: 3 of 6 answers are angry; by the confusion of all clips 4 * 0.5 of 6 are
    assert share[0] == pytest.approx([3 / 6 - 2 / 6, 0, 0, 3 / 6 - 4 / 6]) and share[1, 0] == 1 / 4 - 2 / 4


def test_the_threshold_against_another_computation():
    labels, groups = clips_of({"f": [30, 30, 30, 30], "m": [20, 10, 40, 25]})
    predictions = answers(labels, rng(5))
    found = fairness.judge(labels, predictions, groups, NAMES)
    share = np.array([[(predictions[labels == k] == c).mean() for c in range(4)] for k in range(4)])
    generator, female, draws = rng(99), groups == "f", []
    for _ in range(1500):
        drawn = np.array(
            [
                np.searchsorted(np.cumsum(share[k]), u)
                for k, u in zip(labels, generator.random(len(labels)), strict=True)
            ]
        )
        right = drawn == labels
        recalls = [[right[mask & (labels == k)].mean() for k in range(4)] for mask in (female, ~female, labels >= 0)]
        draws.append([np.mean(recalls[0]) - np.mean(recalls[2]), np.mean(recalls[1]) - np.mean(recalls[2])])
    draws = np.array(draws)
    limit = np.percentile(np.max(np.abs(draws) / draws.std(axis=0), axis=1), 95) * draws.std(axis=0)
    assert [group["limit"] for group in found["groups"]] == pytest.approx(limit.tolist(), rel=0.08)


@pytest.mark.parametrize(
    "sizes",
    [
        {"f": [25, 25, 25, 25], "m": [25, 25, 25, 25]},
        {"f": [40, 5, 30, 10], "m": [3, 40, 0, 30], "x": [10, 10, 10, 10]},  # other labels in each group are no bias
        {f"s{number}": [9, 9, 9, 9] for number in range(8)},
    ],
)
def test_a_fair_model_raises_an_alarm_in_one_of_twenty_tests(sizes):
    labels, groups = clips_of(sizes)
    found = [alarms(fairness.judge(labels, answers(labels, rng(seed)), groups, NAMES)) for seed in range(120)]
    assert all(count <= 6 + 2 * np.sqrt(6) for count in np.sum(found, axis=0)), np.mean(found, axis=0)


def test_an_unfair_model_is_found():
    labels, groups = clips_of({"f": [40, 40, 40, 40], "m": [40, 40, 40, 40]})
    worse = ROWS - 0.25 * np.eye(4) + 0.25 * np.roll(np.eye(4), 1, axis=1)  # a quarter of the right answers moves
    sad = ROWS * 0.7 + 0.3 * np.array([0, 0, 0, 1])  # to everything
    uar, classes = [], []
    for seed in range(40):
        generator = rng(seed)
        fair, lower, gloomy = (answers(labels, generator, rows) for rows in (ROWS, worse, sad))
        uar.append(alarms(fairness.judge(labels, np.where(groups == "f", lower, fair), groups, NAMES))[0])
        found = fairness.judge(labels, np.where(groups == "f", gloomy, fair), groups, NAMES)
        classes.append(any(g["group"] == "f" and g["classes"][3]["share_gap"] > g["classes"][3]["share_limit"]
                           for g in found["groups"]))  # fmt: skip
    assert np.mean(uar) > 0.95 and np.mean(classes) > 0.95


def test_small_groups_are_named_and_not_judged():
    labels, groups = clips_of({"a": [8, 8, 8, 8], "b": [5, 5, 5, 5], "c": [2, 2, 2, 2]})
    groups = np.where(np.arange(len(groups)) == 0, None, groups)
    found = fairness.judge(labels, answers(labels, rng()), groups, NAMES)
    assert [group["group"] for group in found["groups"]] == ["a", "b"] and found["too_small"] == {"c": 8}
    crowd = fairness.judge(np.zeros(60, int), np.zeros(60, int), [f"text {number // 2}" for number in range(60)], NAMES)
    assert crowd["groups"] == [] and crowd["too_small_groups"] == 30 and len(crowd["too_small"]) == 12
    assert found["not_judged"] is None and found["groups"][0]["clips"] == 31
    assert all(one["limit"] is None for one in found["groups"][1]["classes"])  # five clips of a class: no recall
    alone = fairness.judge(labels[:20], labels[:20], ["a"] * 20, NAMES)
    assert alone["not_judged"] == "one group only" and alone["groups"][0]["limit"] is None
    assert alarms(alone) == (False, False)
    few = fairness.judge(labels, labels, np.where(groups == "a", "a", None), NAMES)
    assert few["not_judged"] == "one group only" and few["groups"][0]["gap"] == 0


def test_pitch_and_age_groups():
    pitch = np.array([100, 140, np.nan, 150, 230, 190, np.nan, 300])
    speakers = ["a", "a", "a", "b", "b", "c", "d", None]
    low, medium, high = "low, up to 145 Hz", "medium", "high, above 190 Hz"
    assert fairness.pitch_groups(pitch, speakers) == [low, low, low, medium, medium, medium, None, None]
    assert fairness.pitch_groups(np.array([190.5]), ["c"]) == [high]
    ages = (3, 24.9, 25, 39, 40, 60, None)
    assert [fairness.age_group(age) for age in ages] == [
        *("under 25", "under 25", "25 to 39", "25 to 39", "40 to 59", "60 and over", None)
    ]


def test_what_stays():
    labels = np.array([[0.0, 1.0], [2.0, 3.0]])
    before = stress.decided(np.array([[0.0, 1.0], [2.0, 3.0]]), labels, "regression", None)
    after = stress.decided(np.array([[0.09, 1.0], [2.0, 3.11]]), labels, "regression", None)  # of a range of 2
    assert stress.kept(before, after, "regression") == 0.5
    several = [np.array([[0.6, 0.3], [0.2, 0.9]]), np.array([[0.7, 0.1], [0.2, np.nan]])]
    one, two = (stress.decided(scores, labels, "multi_label_classification", [0.5, 0.4]) for scores in several)
    assert stress.kept(one, two, "multi_label_classification") == 0.5


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model of the demo corpus's classes, as a run on fold 0."""
    folder = tmp_path_factory.mktemp("stress") / "model"
    corpus = load_corpus("demo")
    names, test = corpus.features["label"].names, split(corpus, "demo")["test"]
    config = SerConfig(
        audio_config=tiny_config("wav2vec2"), head_size=8, id2label=dict(enumerate(names)), pooling="max"
    )
    config.problem_type = "single_label_classification"
    save_model(SerForAudioClassification(config).eval(), Wav2Vec2FeatureExtractor(), folder)
    trained = {"corpus": "demo", "added": [], "protocol": "6fold", "fold": 0, "split_seed": 42}
    trained |= {"test_ids": content_hash(*sorted(test["id"])), "test_speakers": "unknown"}
    results = {"trained_on": [trained], "corpus": {"corpus": "demo", "labels": "4class"}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder, test


def names_of(rows) -> dict:
    """The labels of a model of these rows."""
    return {"id2label": dict(enumerate(rows.features["label"].names)), "problem_type": "single_label_classification"}


def run(capsys, *argv) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["stress", *map(str, argv)])
    return status, *capsys.readouterr()


def calls_of(monkeypatch, stop_after: int | None = None) -> list[int]:
    """Counts the calls of the model; the one after `stop_after` is interrupted."""
    calls, real = [], perturbations.pipeline_scores

    def counted(pipe, clips, **options):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        found = real(pipe, clips, **options)
        calls.append(len(found))
        return found

    monkeypatch.setattr(perturbations, "pipeline_scores", counted)
    return calls


def test_an_interrupted_command_goes_on_and_ends_as_an_unbroken_one(model, tmp_path, monkeypatch, capsys):
    folder, test = model
    flags = [folder, "--dataset", "demo", "--changes", "room", "silence"]
    monkeypatch.setattr(perturbations, "BLOCK", 50)
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "one"))
    with monkeypatch.context() as patch:
        unbroken = calls_of(patch)
        status, out, _ = run(capsys, *flags, "--out", tmp_path / "unbroken")
    report = json.loads((tmp_path / "unbroken" / "stress.json").read_text())
    assert status == 0 and unbroken == 5 * [50, 50, 20]  # no change and four, each clip once
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "two"))
    with monkeypatch.context() as patch:
        calls_of(patch, stop_after=7)
        assert run(capsys, *flags, "--out", tmp_path / "resumed")[0] == 130
    with monkeypatch.context() as patch:
        rest = calls_of(patch)
        run(capsys, *flags, "--out", tmp_path / "resumed")
    assert len(rest) == len(unbroken) - 7
    for name in ("stress.json", "stress.md", "figures/stress.png"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    with monkeypatch.context() as patch:
        assert run(capsys, *flags, "--out", tmp_path / "again")[0] == status and calls_of(patch) == []

    assert [report["fold"], report["part"], report["clips"]] == [0, "test", len(test)]
    assert report["model"] == "model" and str(tmp_path) not in json.dumps(report)
    assert set(report["groups"]["speaker"]["too_small"]) | {
        group["group"] for group in report["groups"]["speaker"]["groups"]
    } == set(test["speaker"])
    room = report["changes"][0]
    assert f"reverberation 0.3 s | {room['kept']:.3f}" in re.sub(" +", " ", out)
    for one in report["changes"]:
        assert 0 <= one["kept"] <= 1 and one["failed"] == 0 and set(one["metrics"]) >= {"uar", "wa"}


def test_babble_is_of_other_speakers_in_any_order():
    corpus = load_corpus("demo")
    voices, mixed = (perturbations.Voices(rows, RATE) for rows in (corpus, corpus.shuffle(seed=1)))
    assert voices.ids == mixed.ids and len(set(voices.ids)) == perturbations.POOL
    assert len(set(voices.speakers)) == len(set(corpus["speaker"]))
    id, speaker = voices.ids[3], voices.speakers[3]
    others = [name for name in voices.speakers if name != speaker]
    assert len(voices.other("another", speaker)) == len(others) < perturbations.POOL
    unknown = perturbations.Voices(corpus.remove_columns("speaker").add_column("speaker", [None] * len(corpus)), RATE)
    assert len(unknown.other(id, None)) == perturbations.POOL - (id in unknown.ids)


def test_training_clips_that_have_become_unreadable_do_not_end_a_run(tmp_path, monkeypatch, caplog):
    """They are not measured, and not in babble: training has left them out too."""
    import soundfile as sf

    from ser_hf.evaluation import shift

    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    for number in range(3):
        sf.write(tmp_path / f"{number}.wav", tone(200 + 50 * number), RATE)
    ids = list("abc")
    rows = Dataset.from_dict({"id": ids, "audio_hash": ids, "speaker": ids, "label": [0, 1, 0]})
    rows = rows.add_column("audio", [{"path": str(tmp_path / f"{number}.wav"), "bytes": None} for number in range(3)])
    (tmp_path / "1.wav").write_bytes(b"no audio")
    described = shift.describe(rows, ["angry", "sad"], "single_label_classification")
    assert described["clips"] == described["speakers"] == 2 and described["classes"]["shares"]["sad"] == 0.3333
    assert len(perturbations.Voices(rows, RATE).other("a", "a")) == 1
    assert "1 clips that can no longer be read" in caplog.text and "not in babble noise" in caplog.text


def test_clean_scores_are_the_pipelines_and_kept_is_counted(model, tmp_path, capsys):
    from ser_hf.cli.predict import load
    from ser_hf.data.audio import decode

    folder, test = model
    status, _, _ = run(capsys, folder, "--dataset", "demo", "--changes", "silence")
    report = json.loads((folder / "stress.json").read_text())
    pipe, names = load(str(folder), False), test.features["label"].names
    clips = [decode(row["audio"], RATE) for row in test]
    plain = [pipe(clip)[0]["label"] for clip in clips]
    padded = [pipe(np.pad(clip, RATE // 2))[0]["label"] for clip in clips]
    right = [label == names[row["label"]] for label, row in zip(plain, test, strict=True)]
    assert report["clean"]["metrics"]["wa"] == pytest.approx(np.mean(right))
    (ends,) = (one for one in report["changes"] if one["name"] == "zeros at both ends")
    assert ends["kept"] == pytest.approx(np.mean([a == b for a, b in zip(plain, padded, strict=True)]))
    assert (
        status == 0 and report["reached"] is None and "No small changes were made" in (folder / "stress.md").read_text()
    )


def test_a_strangers_model_is_scored_on_all_or_on_a_fold(model, tmp_path, capsys):
    """A stock class with short names of emotions, and no word of what it was trained on."""
    from transformers import Wav2Vec2ForSequenceClassification

    config = tiny_config("wav2vec2", num_labels=3, id2label={0: "ang", 1: "hap", 2: "neu"}, classifier_proj_size=8)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "theirs")
    theirs = [tmp_path / "theirs", "--dataset", "demo", "--changes", "none"]
    status, out, _ = run(capsys, *theirs, "--out", tmp_path / "all")
    report = json.loads((tmp_path / "all" / "stress.json").read_text())
    corpus = load_corpus("demo")
    sad = corpus["label"][:].count(corpus.features["label"].names.index("sad"))
    assert status == 0 and report["clips"] == len(corpus) - sad and "with labels that the model lacks" in out
    assert report["fold"] is None and report["changes"] == [] and "scored: all clips" in out
    assert run(capsys, *theirs, "--fold", 1, "--out", tmp_path / "one")[0] == 0
    report = json.loads((tmp_path / "one" / "stress.json").read_text())
    assert [report["protocol"], report["fold"]] == ["6fold", 1] and report["speakers"] < 24
    for argv, words in (
        (("--part", "all"), "was not trained on demo"),
        (("--protocol", "6fold"), "does nothing without --fold"),
        (("--fold", 99), "has folds 0 to 5"),
        (("--changes", "none", "small"), "makes no change"),
    ):
        status, _, err = run(capsys, *theirs, *argv, "--out", tmp_path / "x")
        assert status == 2 and words in err and err.count("\n") == 1, err


def test_training_speakers_are_refused_unless_asked_for(model, tmp_path, capsys):
    folder, test = model
    quick = ("--dataset", "demo", "--changes", "none", "--out", tmp_path / "all")
    status, out, _ = run(capsys, folder, *quick, "--part", "all")
    assert status == 0 and "TRAINING CLIPS INCLUDED" in out
    assert json.loads((tmp_path / "all" / "stress.json").read_text())["clips"] == len(load_corpus("demo"))
    assert "its own fold is scored" in run(capsys, folder, *quick, "--fold", 1)[2]
    results = json.loads((folder / "results.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    for change, words in (({"test_ids": "others"}, "has other clips and speakers"), ({"added": ["demo"]}, "on all of")):
        trained = [results["trained_on"][0] | change]
        (other / "results.json").write_text(json.dumps(results | {"trained_on": trained}))
        status, _, err = run(capsys, other, *quick)
        assert status == 2 and words in err and "--part all" in err and err.count("\n") == 1


def test_a_model_of_other_corpora_is_scored_on_the_corpus_that_it_was_tested_on(model, tmp_path, capsys):
    folder, _ = model
    shutil.copytree(folder, other := tmp_path / "other", ignore=shutil.ignore_patterns("stress*", "figures"))
    results = json.loads((folder / "results.json").read_text())
    trained = results["trained_on"][0] | {"protocol": "cross-corpus", "added": ["emodb"]}
    (other / "results.json").write_text(json.dumps(results | {"trained_on": [trained]}))
    status, out, err = run(capsys, other, "--dataset", "demo", "--changes", "none")
    assert status == 0 and "scored: all clips\n" in out, err
    assert json.loads((other / "stress.json").read_text())["clips"] == len(load_corpus("demo"))
    assert "was not trained on demo" in run(capsys, other, "--dataset", "demo", "--part", "all")[2]


def test_mistakes_are_one_line(model, tmp_path, capsys):
    folder, _ = model
    for argv, words in (
        (("you/none", "--dataset", "demo"), "name a folder for the report by --out"),
        ((folder, "--dataset", "demoo"), "did you mean 'demo'"),
        ((folder,), "required: --dataset"),
        ((tmp_path, "--dataset", "demo"), f"error: MODEL {tmp_path}: config.json is missing"),
    ):
        status, _, err = run(capsys, *argv)
        assert status == 2 and words in err and err.count("\n") == 1, err


def test_files_of_others_are_no_traceback_and_stay(model, tmp_path, capsys):
    folder, _ = model
    other = tmp_path / "run"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("results.json", "stress*", "figures"))
    quick = (other, "--dataset", "demo", "--changes", "none")
    for content, words in (
        ('{"trained_on": [', "is damaged"),
        ('{"windows": 3}', "results of another version of ser_hf, or damaged"),
    ):
        (other / "results.json").write_text(content)
        status, _, err = run(capsys, *quick)
        assert status == 2 and words in err and err.count("\n") == 1, err
    (other / "stress.md").write_text("my notes")
    (other / "results.json").write_text('{"corpus": [3]}')  # not ours
    status, _, err = run(capsys, *quick)
    assert status == 2 and "stress.md is there" in err and (other / "stress.md").read_text() == "my notes"


def test_the_card_shows_the_report_and_names_nobody(model, tmp_path):
    folder, test = model
    groups = {}
    for attribute, names in (
        ("gender", "mf"),
        ("speaker", ["anna|s", "otto"]),
        ("sentence", ["secret one", "secret two"]),
    ):
        values = [names[number % 2] for number in range(120)]
        judged = fairness.judge(np.arange(120) // 2 % 4, np.arange(120) // 2 % 4, values, NAMES)
        groups[attribute] = judged | {"groups": [one | {"speakers": 1} for one in judged["groups"]]}
    report = {"clips": 120, "speakers": 2, "label_names": NAMES, "metric": "uar", "changes": [], "groups": groups}
    report |= {"clean": {"metrics": {"uar": 1.0}, "intervals": {}, "intervals_over": "speakers"}, "remarks": []}
    report |= {"not_tested": {"age group": "the corpus does not say"}}
    (tmp_path / "stress.json").write_text(json.dumps(report))
    full = stress.section(report)
    text = model_card(results_of()[0] | {"stress": read_stress(tmp_path)})
    assert "anna\\|s" in full and "secret two" in full and "Not tested: age group, the corpus does not say." in full
    assert "## Under stress" in text and "| m " in text and "anna" not in text and "secret" not in text
    assert "speaker: 2 groups, widest gap 0.000 (limit 0.000), 0 with a gap beyond chance." in text
    assert "were not tested (ser-hf stress does)" not in text
    assert "were not tested (ser-hf stress does)" in model_card(results_of()[0])
    assert "stress.json" not in published_files(folder)  # it names speakers


def test_the_flag_of_the_recipes(model, monkeypatch):
    """`--stress true` scores the run's test part as the command does, and a text recipe refuses it."""
    from ser_hf.training import run as training_run

    folder, test = model
    monkeypatch.setattr(perturbations, "CHANGES", [OF["gain 2 dB"]])
    saved = SerForAudioClassification.from_pretrained(folder)
    saved.config.speaker_norm = True
    corpus = load_corpus("demo")
    setup = setup_of("wav2vec2_cls", split(corpus, "demo"), label_names=corpus.features["label"].names)
    files = training_run.stress_files(saved, Wav2Vec2FeatureExtractor(), setup, {}, "cpu")
    report = json.loads(files["stress.json"])
    assert sorted(files) == ["figures/stress.png", "stress.json", "stress.md"]
    assert [report["corpus"], report["fold"], report["clips"]] == ["demo", 0, len(test)]
    assert [line for line in report["remarks"] if "scored as an average speaker's" in line]
    assert [change["name"] for change in report["changes"]] == ["gain"] and report["reached"] is not None
    settings = settings_of("text_cls", "--dataset", "demo", "--stress", "true")
    with pytest.raises(SerError, match="--stress true: changes recordings"):
        training_run.prepare("text_cls", system_of("text_cls"), settings)


@pytest.mark.parametrize("trims", [False, True])
def test_clips_are_read_as_those_of_the_test(model, monkeypatch, trims):
    """Cropped in `--stress` and by the command alike; a feature extractor trims before the crop, and not after it."""
    from ser_hf.data.audio import decode, prepared
    from ser_hf.models import (
        SerForSpectrogramClassification,
        SerPipeline,
        SerSpectrogramConfig,
        SerSpectrogramFeatureExtractor,
    )
    from ser_hf.training import run as training_run

    folder, test = model[0], model[1].select(range(8))
    monkeypatch.setattr(perturbations, "CHANGES", [])
    saved, extractor = SerForAudioClassification.from_pretrained(folder), Wav2Vec2FeatureExtractor()
    reading = {"trim_db": 20.0, "min_seconds": 0.1, "max_seconds": 0.3}
    if trims:
        extractor = SerSpectrogramFeatureExtractor(n_mels=16, trim_db=20.0)
        torch.manual_seed(0)
        config = SerSpectrogramConfig(arch="cnn2d_2", rows=16, **names_of(test))
        saved = SerForSpectrogramClassification(config).eval()
    setup = setup_of("wav2vec2_cls", {"test": test}, label_names=test.features["label"].names)
    found = []
    monkeypatch.setattr(stress, "scores_of", lambda *args: found.append(perturbations.scores_of(*args)) or found[-1])
    files = training_run.stress_files(saved, extractor, setup, {"clips": reading}, "cpu")
    assert [line for line in json.loads(files["stress.json"])["remarks"] if "trimmed, cropped and padded as" in line]
    if trims:
        extractor.trim_db = None
    pipe, names = SerPipeline(model=saved, feature_extractor=extractor, device="cpu"), test.features["label"].names
    for read, same in ((reading, True), ({}, False)):
        clips = [{"array": prepared(decode(row["audio"], RATE), RATE, **read), "sampling_rate": RATE} for row in test]
        answers = [{one["label"]: one["score"] for one in answer} for answer in pipe(clips, batch_seconds=8.0)]
        expected = np.array([[answer[name] for name in names] for answer in answers])
        assert (np.abs(expected - found[0]).max() < 1e-4) == same


def test_a_fusion_model_reads_the_text_of_a_clip(model, monkeypatch):
    from test_fusion_pipeline import make, pipe_of

    _, test = model
    saved = make(**names_of(test), num_labels=4, fusion="gated")
    pipe, rows = pipe_of(saved), test.select(range(3))
    rows = rows.remove_columns("text").add_column("text", ["i am so happy today", "sad", None])
    found = []
    monkeypatch.setattr(stress, "scores_of", lambda *args: found.append(perturbations.scores_of(*args)) or found[-1])
    stress.stress(pipe, rows, rows, "fusion", [OF["gain 2 dB"]])
    for row, clean, louder in zip(rows, *found, strict=True):
        for text, same in ((row["text"], True), (None if row["text"] else "sad", False)):
            answer = {one["label"]: one["score"] for one in pipe({"audio": row["audio"], "text": text})}
            expected = [answer[name] for name in test.features["label"].names]
            assert np.allclose(expected, clean, atol=1e-5) == np.allclose(expected, louder, atol=1e-2) == same
