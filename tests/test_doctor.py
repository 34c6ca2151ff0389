"""`ser-hf doctor`: measures computed by hand, false alarms counted, and three changes of recordings named.

python -m pytest tests/test_doctor.py
"""

import json
import re
import shlex

import numpy as np
import pytest
import soundfile as sf
from datasets import Dataset
from transformers import Wav2Vec2FeatureExtractor

from conftest import settings_of, tiny_config
from ser_hf.cli import main
from ser_hf.data import acoustics
from ser_hf.data.acoustics import MEASURES, RATE, measure
from ser_hf.data.audio import decode
from ser_hf.data.augmentation import lowpass, noise_at_snr
from ser_hf.data.loading import load_corpus
from ser_hf.data.splits import split
from ser_hf.evaluation import shift
from ser_hf.models import SerConfig, SerForAudioClassification
from ser_hf.training.hub import published_files
from ser_hf.training.saved_model import save_model


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(hz: float = 200.0, seconds: float = 2.0, amplitude: float = 0.1) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def voice(hz: float, seconds: float = 2.0) -> np.ndarray:
    """Twenty harmonics of falling amplitude."""
    return sum(tone(hz * k, seconds, 0.1 / k) for k in range(1, 21) if hz * k < RATE / 2)


def band(hz: float, seconds: float = 2.0) -> np.ndarray:
    """White noise up to `hz`."""
    spectrum = np.fft.rfft(rng().standard_normal(round(seconds * RATE)) * 0.1)
    spectrum[np.fft.rfftfreq(round(seconds * RATE), 1 / RATE) > hz] = 0
    return np.fft.irfft(spectrum)


def of(samples: np.ndarray) -> dict[str, float]:
    return dict(zip(MEASURES, measure(samples.astype(np.float32)).tolist(), strict=True))


# --- measures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amplitude, level", [(1.0, -3.01), (0.1, -23.01), (0.01, -43.01)])
def test_level_of_a_sine(amplitude, level):
    assert of(tone(amplitude=amplitude))["level"] == pytest.approx(level, abs=0.1)


def test_half_a_clip_of_silence():
    half = of(np.concatenate([tone(), np.zeros(2 * RATE)]))
    assert half["speech"] == pytest.approx(0.5, abs=0.02) and half["duration"] == 4.0
    assert half["noise floor"] == acoustics.SILENCE_DB  # digital silence
    assert half["level"] == pytest.approx(-23.01, abs=0.2)  # of the tone alone


@pytest.mark.parametrize("snr", [0.0, 5.0, 10.0, 20.0, 40.0])
def test_signal_to_noise_of_bursts_in_white_noise(snr):
    """Half of the clip is the signal, so `snr` is the ratio while it sounds."""
    clip = np.concatenate([np.concatenate([voice(150, 0.5), np.zeros(RATE // 2)]) for _ in range(4)])
    signal = np.square(voice(150, 0.5)).mean()
    noise = rng(1).standard_normal(len(clip)) * np.sqrt(signal * 10 ** (-snr / 10))
    found = of(clip + noise)
    assert found["signal to noise"] == pytest.approx(snr, abs=2)
    assert found["noise floor"] == pytest.approx(10 * np.log10(np.square(noise).mean()), abs=1)


@pytest.mark.parametrize("hz", [1000, 3400, 6000])
def test_bandwidth_of_noise(hz):
    assert 0 <= of(band(hz))["bandwidth"] - hz <= 250
    loud = of(np.concatenate([band(hz), np.zeros(RATE)]))
    assert 0 <= loud["bandwidth"] - hz <= 250


@pytest.mark.parametrize("hz", [80, 120, 217, 400])
def test_pitch_of_harmonics(hz):
    assert of(voice(hz))["pitch"] == pytest.approx(hz, rel=0.02)
    assert of(voice(hz) + 0.02 * rng().standard_normal(2 * RATE))["pitch"] == pytest.approx(hz, rel=0.02)


def test_noise_has_no_pitch():
    assert np.isnan(of(rng().standard_normal(2 * RATE) * 0.1)["pitch"])


def test_what_measures_do_not_depend_on():
    clip = np.concatenate([voice(180, 1.0), 1e-3 * rng().standard_normal(RATE)])
    plain, loud, twice = of(clip), of(clip * 3), of(np.concatenate([clip, clip]))
    for name in ("level", "noise floor"):
        assert loud[name] - plain[name] == pytest.approx(20 * np.log10(3), abs=0.01)
    for name in ("bandwidth", "signal to noise", "duration", "pitch", "speech"):
        assert loud[name] == pytest.approx(plain[name], rel=1e-4), name
    assert twice["duration"] == 2 * plain["duration"]
    for name in ("level", "bandwidth", "noise floor", "signal to noise", "pitch", "speech"):
        assert twice[name] == pytest.approx(plain[name], rel=0.03), name


@pytest.mark.parametrize("length", [1, 2, 255, 512, 513, 1025])
def test_short_clips_have_measures(length):
    values = measure(rng().standard_normal(length).astype(np.float32) * 0.1)
    assert np.isfinite(np.delete(values, list(MEASURES).index("pitch"))).all()


# --- the rule ---------------------------------------------------------------------------------------------------------


def many(speakers: int, clips: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Levels of clips in dB: speakers differ by `spread` times what the clips of one do, 4 dB."""
    generator = rng(seed)
    names = np.repeat(np.arange(speakers), clips).astype(str).astype(object)
    values = generator.normal(-30, 4 * spread, speakers)[:, None] + generator.normal(0, 4, (speakers, clips))
    return values.ravel(), names


def training_of(values: np.ndarray, names: np.ndarray) -> dict:
    return {"speakers": len(set(names)), "measures": {"level": shift.describe_measure(values, names, "level")}}


def alarms(training: dict, recordings: np.ndarray) -> str | None:
    table = np.full((len(recordings), len(MEASURES)), np.nan)
    table[:, list(MEASURES).index("level")] = recordings
    (found,) = shift.compare(training, table)
    return found["outside"]


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_unseen_speakers_are_no_alarm_in_nineteen_of_twenty(spread):
    """Training sets of 20 speakers, each with one unseen speaker: 200 tests, 10 alarms and two deviations."""
    wrong = dict.fromkeys((1, 2, 5, 60), 0)  # by the number of clips
    for seed in range(200):
        values, names = many(21, 60, seed, spread)
        seen = names != "20"
        known = training_of(values[seen], names[seen])
        for clips in wrong:
            wrong[clips] += alarms(known, values[~seen][:clips]) is not None
    assert max(wrong.values()) <= 10 + 2 * np.sqrt(10), wrong


@pytest.mark.parametrize("recordings", [3, 60])
def test_a_change_of_20_db_is_named(recordings):
    found = [alarms(training_of(*many(20, 60, seed)), many(1, recordings, seed + 1000)[0] - 25) for seed in range(40)]
    assert found.count("low") >= 36 and "high" not in found
    unknown = many(20, 60, 0)
    known = training_of(unknown[0], np.full(1200, None, dtype=object))
    assert known["measures"]["level"]["left_out"] is None
    assert alarms(known, unknown[0] - 40) == "low" and alarms(known, unknown[0]) is None


def test_the_range_and_the_speakers_left_out_by_hand():
    """Speaker c is 20 dB above a and b, whose levels are -40 to -31: all of c is above their range, none below."""
    values = np.array([*range(-40, -30), *range(-40, -30), *range(-20, -10)], dtype=float)
    known = shift.describe_measure(values, np.repeat(np.array(["a", "b", "c"], dtype=object), 10), "level")
    assert known["left_out"]["high"] == {"mean": round(1 / 3, 4), "most": 1.0}
    assert known["left_out"]["low"] == {"mean": 0.0, "most": 0.0}  # below a and c together: -40 is their lowest
    assert known["quantiles"]["50"] == np.median(values) and list(known["quantiles"]) == "1 5 25 50 75 95 99".split()


def test_class_frequencies():
    known = {"classes": shift.describe_classes([0, 1] * 40, ["a", "b", "b", "a"] * 20, ["angry", "sad"])}
    assert known["classes"] == {"shares": {"angry": 0.5, "sad": 0.5}, "most": 0.0}
    found = shift.compare_classes(known, ["angry"] * 45 + ["sad"] * 5 + ["glad"] * 9)
    assert found["distance"] == 0.4 and found["outside"] and found["recordings"] == {"angry": 0.9, "sad": 0.1}
    assert not shift.compare_classes(known, ["angry"] * 3 + ["sad"])["outside"]  # four recordings say little
    assert shift.compare_classes(known, ["glad"]) is None and shift.compare_classes({"classes": None}, ["sad"]) is None


def test_the_sample_is_bounded_even_and_the_same_in_every_order():
    names = [f"s{number % 7}" for number in range(1400)]
    rows = Dataset.from_dict({"speaker": names, "audio_hash": [f"{n * 7919 % 1400:04d}" for n in range(1400)]})
    chosen = shift.sample(rows)
    counts = np.unique(chosen["speaker"][:], return_counts=True)[1]
    assert len(chosen) == shift.MOST_CLIPS and counts.max() == 72 and counts.min() >= 68
    assert set(shift.sample(rows.shuffle(seed=1))["audio_hash"]) == set(chosen["audio_hash"])
    crowd = Dataset.from_dict(
        {"speaker": [f"{n % 200}" for n in range(4000)], "audio_hash": list(map(str, range(4000)))}
    )
    assert set(np.unique(shift.sample(crowd)["speaker"][:], return_counts=True)[1]) == {shift.LEAST_CLIPS}


def test_advice_names_flags_that_exist():
    less = {"low": -9, "high": 9}
    texts = [text.format(aim=-20, less=less[side], usual=5) for (_, side), text in shift.ADVICE.items()]
    found = {flags for text in [*texts, shift.PRIOR_ADVICE] for flags in re.findall(r"--\w+(?: -?[\d.]+)+", text)}
    assert len(found) >= 8
    for text in texts:
        flags = re.findall(r"--(?!window_s)\w+(?: -?[\d.]+)+", text)
        settings_of("wav2vec2_cls", "--dataset", "demo", *shlex.split(" ".join(flags)))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A random model with the statistics of the demo corpus's training speakers, and test clips in four states."""
    root = tmp_path_factory.mktemp("doctor")
    corpus = load_corpus("demo")
    names, parts = corpus.features["label"].names, split(corpus, "demo")
    config = SerConfig(
        audio_config=tiny_config("wav2vec2"), head_size=8, id2label=dict(enumerate(names)), pooling="max"
    )
    config.problem_type = "single_label_classification"
    save_model(SerForAudioClassification(config).eval(), Wav2Vec2FeatureExtractor(), root / "model")
    known = shift.describe(parts["train"], names, config.problem_type)
    (root / "model" / shift.TRAINING_DATA).write_text(json.dumps(known))
    changes = {
        "plain": lambda x: x,
        "muffled": lambda x: lowpass(x, RATE, 1700.0),  # synthetic voices end at 3.4 kHz
        "noise": lambda x: noise_at_snr(x, 5.0, rng()),
        "tenth": lambda x: x / 10,
    }
    for name, change in changes.items():
        (root / name).mkdir()
        lines = ["file_name,label,speaker"]
        for row in parts["test"]:
            sf.write(root / name / f"{row['id']}.wav", change(decode(row["audio"], RATE)), RATE, subtype="PCM_16")
            lines.append(f"{row['id']}.wav,{names[row['label']]},{row['speaker']}")
        (root / name / "metadata.csv").write_text("\n".join(lines))
    return root, known, parts


def doctor(capsys, *argv) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["doctor", *map(str, argv)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "state, named",
    [
        ("plain", set()),
        ("muffled", {"bandwidth"}),
        ("noise", {"noise floor", "signal to noise"}),
        ("tenth", {"level"}),
    ],
)
def test_each_change_is_named_and_unseen_speakers_are_not(state, named, demo, capsys, tmp_path):
    root, _, parts = demo
    status, out, err = doctor(capsys, root / "model", root / state, "--out", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {one["measure"] for one in report["measures"] if one["outside"]} == named, out
    assert status == (1 if named else 0) and "Traceback" not in err
    for measure_name in named:
        assert re.search(rf"^{measure_name} .*OUTSIDE", out, re.M) and f"  {measure_name}: " in out
    assert report["measured"] == len(parts["test"]) and not report["classes"]["outside"]
    scores = report["scores"]
    speakers = set(parts["test"]["speaker"])
    assert {f"speaker {speaker}" for speaker in speakers} | {"all"} <= set(scores)
    assert scores["all"]["utterances"] == sum(scores[f"speaker {speaker}"]["utterances"] for speaker in speakers)
    assert f"{scores['all']['metrics']['uar']:.3f}" in out


def test_scores_are_the_pipelines(demo, capsys, tmp_path):
    from ser_hf.cli.predict import load

    root, _, parts = demo
    doctor(capsys, root / "model", root / "plain", "--out", tmp_path / "r.json")
    pipe, names = load(str(root / "model"), False), parts["test"].features["label"].names
    right = [pipe(str(root / "plain" / f"{r['id']}.wav"))[0]["label"] == names[r["label"]] for r in parts["test"]]
    scores = json.loads((tmp_path / "r.json").read_text())["scores"]["all"]
    assert scores["metrics"]["wa"] == pytest.approx(np.mean(right))


def test_files_without_labels_and_what_cannot_be_read(demo, capsys, tmp_path):
    root, _, parts = demo
    folder = tmp_path / "calls"
    folder.mkdir()
    for file in sorted((root / "tenth").glob("*.wav"))[:20]:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "broken.wav").write_text("no audio")
    status, out, _ = doctor(capsys, root / "model", folder)
    assert status == 1 and "20 recordings beside" in out and "broken.wav" in out and "OUTSIDE, too low" in out
    assert "--gain_p 0.5 --gain_db -" in out and "subgroup" not in out
    status, out, _ = doctor(capsys, root / "model", folder / "broken.wav")
    assert status == 2


def test_statistics_name_no_file_and_no_speaker(demo):
    _, known, parts = demo
    text = json.dumps(known)
    assert known["speakers"] == len(set(parts["train"]["speaker"])) and known["clips"] <= shift.MOST_CLIPS
    assert set(known["measures"]) == set(MEASURES)
    assert shift.TRAINING_DATA in published_files(demo[0] / "model")
    assert not any(str(name) in text for name in {*parts["train"]["speaker"], *parts["train"]["id"], "/"})


def test_mistakes_are_one_line_and_exit_status_2(demo, capsys, tmp_path):
    root, _, _ = demo
    (tmp_path / "bare").mkdir()
    for argv, words in (
        ((tmp_path / "bare", root / "plain"), "has no training_data.json"),
        (("no/such", root / "plain"), "no such folder, and on the Hub no training_data.json"),
        ((root / "model", tmp_path / "nothing"), "nothing"),
        ((root / "model", tmp_path / "bare"), "no audio below this folder"),
        ((root / "model", root / "plain", "--out", tmp_path), "is a folder"),
    ):
        status, _, err = doctor(capsys, *argv)
        assert status == 2 and words in err and err.count("\n") == 1, err


def test_few_recordings_and_labels_that_the_model_lacks(demo, capsys, tmp_path):
    """Three recordings, one of them with a label of another vocabulary: the two others are scored."""
    root, _, parts = demo
    files = sorted((root / "plain").glob("*.wav"))[:3]
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    words = ("angry", "sad", "jubilant")
    rows = [f"{file.name},{word},{n}" for n, (file, word) in enumerate(zip(files, words, strict=True))]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,speaker", *rows]))
    status, out, err = doctor(capsys, root / "model", tmp_path)
    assert status == 0 and "not scored: 1 with labels that the model lacks" in out and "Traceback" not in err
    assert re.search(r"^all +2 ", out, re.M)
