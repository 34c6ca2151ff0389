"""`pipeline("speech-emotion-recognition")`: every kind of input, windows by hand, long files in constant memory.

python -m pytest tests/test_pipeline.py -k windows
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
import torch
from transformers import AutoConfig, Wav2Vec2FeatureExtractor, pipeline

import warm
from conftest import TINY
from ser_hf.data.windows import windows as in_seconds
from ser_hf.models import SerConfig, SerForAudioClassification, SerPipeline
from ser_hf.models.audio_blocks import read, windows
from ser_hf.models.pipeline_ser import TASK
from ser_hf.training.saved_model import save_model, to_stock

RATE = 16000
LABELS = ("angry", "happy", "sad")


def make(kind: str = "wav2vec2", encoder: dict | None = None, **config) -> SerForAudioClassification:
    """A random model of three labels, whose head is large enough that differences are seen."""
    torch.manual_seed(0)
    audio = AutoConfig.for_model(kind, **{**TINY, **(encoder or {})})
    labels = {"id2label": dict(enumerate(LABELS)), "problem_type": "single_label_classification"}
    config = {"head_size": 8, **labels, **config}
    model = SerForAudioClassification(SerConfig(audio_config=audio, **config)).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("ser_"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def pipe_of(model, **options) -> SerPipeline:
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return SerPipeline(model=model, feature_extractor=extractor, device="cpu", **options)


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """int16 samples, so that every lossless file holds exactly them."""
    return (np.random.default_rng(seed).standard_normal(round(seconds * rate)) * 3000).astype(np.int16)


def by_hand(model, samples: np.ndarray) -> torch.Tensor:
    """Logits of one clip without the pipeline."""
    x = torch.from_numpy(samples.astype(np.float64) / 32768)
    x = ((x - x.mean()) / torch.sqrt(x.var(correction=0) + 1e-7)).float()
    with torch.no_grad():
        return model(x[None]).logits[0]


def as_vector(scores: list[dict]) -> np.ndarray:
    found = {entry["label"]: entry["score"] for entry in scores}
    return np.array([found[label] for label in LABELS])


@pytest.fixture(scope="module")
def pipe():
    return pipe_of(make(pooling="max"))


def test_scores_that_are_not_finite_are_an_error():
    broken = make(pooling="max")
    with torch.no_grad():
        broken.ser_classifier.bias[0] = float("nan")
    pipe = pipe_of(broken)
    with pytest.raises(ValueError, match="scores are NaN or infinite"):
        pipe(noise(1.0))
    answers = pipe([noise(1.0), noise(2.0)], on_error="return")
    assert [list(answer) for answer in answers] == [["error"], ["error"]]


def test_a_clip_is_its_probabilities_highest_first(pipe):
    clip = noise(1.5)
    answer = pipe(clip)
    assert [entry["score"] for entry in answer] == sorted((entry["score"] for entry in answer), reverse=True)
    assert np.allclose(as_vector(answer), by_hand(pipe.model, clip).softmax(-1), atol=1e-5)
    assert pipe(clip, top_k=2) == answer[:2]
    # and the test can fail: labels and clips differ by far more than the tolerances here
    assert np.abs(np.diff(as_vector(answer))).min() > 0.01
    assert np.abs(as_vector(answer) - as_vector(pipe(noise(1.5, seed=1)))).max() > 0.005


def test_all_kinds_of_input_are_the_same(pipe, tmp_path):
    clip = noise(1.0)
    samples = clip / np.float32(32768)
    expected = as_vector(pipe(clip))
    buffer = io.BytesIO()
    sf.write(buffer, clip, RATE, format="FLAC")
    for suffix in ("wav", "flac", "aiff"):
        sf.write(tmp_path / f"clip.{suffix}", clip, RATE)
    (tmp_path / "no_suffix").write_bytes(buffer.getvalue())
    inputs = {
        "str": str(tmp_path / "clip.wav"),
        "Path": tmp_path / "clip.flac",
        "aiff": tmp_path / "clip.aiff",
        "content, not name": tmp_path / "no_suffix",
        "bytes": buffer.getvalue(),
        "bytearray": bytearray(buffer.getvalue()),
        "BytesIO, at its end": buffer,
        "open file": (tmp_path / "clip.wav").open("rb"),
        "row with an open file": {"audio": (tmp_path / "clip.wav").open("rb")},
        "int16": clip,
        "int32": clip.astype(np.int32) << 16,
        "float32": samples,
        "float64": samples.astype(np.float64),
        "tensor": torch.from_numpy(samples),
        "int16 tensor": torch.from_numpy(clip),
        "tensor (1, n)": torch.from_numpy(samples)[None],
        "stereo (2, n)": np.stack([samples, samples]),
        "stereo (n, 2)": np.stack([samples, samples], axis=1),
        "array": {"array": samples, "sampling_rate": RATE},
        "raw": {"raw": samples, "sampling_rate": RATE},
        "a list in a dict": {"array": samples.tolist(), "sampling_rate": RATE},
        "datasets, decoded": {"array": samples, "sampling_rate": RATE, "path": "gone.wav"},
        "datasets, bytes": {"bytes": buffer.getvalue(), "path": "gone.wav"},
        "datasets, path": {"bytes": None, "path": str(tmp_path / "clip.wav")},
    }
    for name, source in inputs.items():
        assert np.allclose(as_vector(pipe(source)), expected, atol=1e-6), name
    answers = pipe(list(inputs.values()))
    assert len(answers) == len(inputs) and all(np.allclose(as_vector(a), expected, atol=1e-6) for a in answers)


def test_integers_are_pcm():
    """Normalisation hides a wrong scale or zero, but not every feature extractor normalises."""
    for dtype, values in ((np.uint8, [0, 128, 192]), (np.int16, [-32768, 0, 16384]), (np.int32, [-(2**31), 0, 2**30])):
        (samples,) = read(np.array(values, dtype), RATE)
        assert samples.tolist() == [-1.0, 0.0, 0.5] and samples.dtype == np.float32


def test_other_rates_and_stereo(pipe, tmp_path):
    left, right = noise(1.2, seed=1, rate=44100), noise(1.2, seed=2, rate=44100)
    sf.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 44100)
    mono = (left / 32768 + right / 32768).astype(np.float32) / 2
    expected = as_vector(pipe(soxr.resample(mono, 44100, RATE)))
    assert np.allclose(as_vector(pipe(tmp_path / "stereo.wav")), expected, atol=1e-5)
    assert np.allclose(as_vector(pipe({"array": np.stack([left, right]), "sampling_rate": 44100})), expected, atol=1e-5)
    # a file is converted block by block: the windows are those of the file converted as a whole
    long = noise(25.0, seed=3, rate=22050)
    sf.write(tmp_path / "long.flac", long, 22050)
    of_file = pipe(tmp_path / "long.flac", window_s=2.0)["segments"]
    of_array = pipe(soxr.resample((long / 32768).astype(np.float32), 22050, RATE), window_s=2.0)["segments"]
    assert len(of_file) == len(of_array) == 24
    for a, b in zip(of_file, of_array, strict=True):
        assert np.allclose(as_vector(a["scores"]), as_vector(b["scores"]), atol=1e-6)


@pytest.mark.parametrize("last", ["pad", "shift", "drop"])
def test_windows_are_those_of_the_recipes_and_do_not_depend_on_the_blocks(last):
    samples = np.arange(1000, dtype=np.float32)
    rng = np.random.default_rng(0)
    sizes = [(1000, 100, 50), (1000, 64, 64), (999, 100, 30), (50, 100, 50), (100, 100, 50), (101, 100, 1)]
    sizes += [
        tuple(int(n) for n in (rng.integers(1, 1000), size, rng.integers(1, size + 1))) for size in range(1, 400, 7)
    ]
    for total, size, hop in sizes:
        seconds = in_seconds(total / 100, size / 100, hop / 100, last)
        expected = [(round(start * 100), round(end * 100)) for start, end in seconds]
        for cuts in ([], sorted(rng.integers(0, total, 7)), range(1, total)):
            found = list(windows(np.split(samples[:total], cuts), size, hop, last))
            assert [(first, first + len(window)) for first, window in found] == expected
            assert all(window.tolist() == samples[first : first + len(window)].tolist() for first, window in found)


def test_a_sample_more_or_less_makes_no_window():
    """Converted rates round: 4 s at 44.1 kHz may be 63999 samples at 16 kHz, or 64001."""
    for total, expected in ((149, (50, 99)), (150, (50, 100)), (151, (50, 100))):
        for last in ("pad", "shift", "drop"):
            *_, (first, window) = windows([np.arange(total)], 100, 50, last, rest=1)
            assert (first, len(window)) == expected


def test_times_and_scores_of_windows_by_hand(pipe, tmp_path):
    clip = noise(5.3)
    sf.write(tmp_path / "clip.flac", clip, RATE)
    times = [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (3.0, 5.0)]
    for last, rest in (("pad", [(4.0, 5.3)]), ("shift", [(3.3, 5.3)]), ("drop", [])):
        answer = pipe(tmp_path / "clip.flac", window_s=2.0, hop_s=1.0, window_last=last)
        assert [(part["start"], part["end"]) for part in answer["segments"]] == times + rest
        spans = [slice(round(start * RATE), round(end * RATE)) for start, end in times + rest]
        hand = [by_hand(pipe.model, clip[span]).softmax(-1) for span in spans]
        for part, probabilities in zip(answer["segments"], hand, strict=True):
            assert np.allclose(as_vector(part["scores"]), probabilities, atol=1e-5)
        assert np.allclose(as_vector(answer["scores"]), torch.stack(hand).mean(0), atol=1e-5)
    assert len(pipe(tmp_path / "clip.flac", window_s=2.0)["segments"]) == 5  # a hop is half a window
    short = pipe(noise(0.7), window_s=2.0, window_last="drop")  # shorter than a window: the clip, in the same shape
    assert [(part["start"], part["end"]) for part in short["segments"]] == [(0.0, 0.7)]
    assert short["scores"] == short["segments"][0]["scores"] == pipe(noise(0.7))


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("published", ["ours", "stock"])
def test_a_batch_gives_what_each_gives_alone(norm, published):
    """Also for encoders with group norm, which hear padding even through a mask."""
    model = make(encoder={"feat_extract_norm": norm})
    pipe = pipe_of(model if published == "ours" else to_stock(model))
    clips = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 0.4, 2.7, 1.0, 0.01, 3.1, 0.4))]
    alone = [pipe(clip, return_embeddings=True) for clip in clips]
    for answers in (
        pipe(clips, batch_size=4, return_embeddings=True),
        list(pipe((clip for clip in clips), batch_size=7, return_embeddings=True)),
        pipe(tuple(clips), batch_size=3, return_embeddings=True),
    ):
        for a, b in zip(answers, alone, strict=True):
            assert np.allclose(as_vector(a["scores"]), as_vector(b["scores"]), atol=1e-6)
            assert np.allclose(a["embedding"], b["embedding"], atol=1e-5)
    windowed = [pipe(clip, window_s=0.5, hop_s=0.3) for clip in clips]
    for batch_size in (1, 4):  # windows of several clips share a batch
        for a, b in zip(pipe(clips, window_s=0.5, hop_s=0.3, batch_size=batch_size), windowed, strict=True):
            assert [part["start"] for part in a["segments"]] == [part["start"] for part in b["segments"]]
            assert np.allclose(as_vector(a["scores"]), as_vector(b["scores"]), atol=1e-6)


def test_batches_within_a_budget_of_seconds(pipe, monkeypatch):
    """A longer clip is alone, an error and a batch's padding count; the answers are those of each alone."""
    clips = [noise(seconds, seed) for seed, seconds in enumerate((3.0, 1.0, 0.9, 0.2, 1.0, 0.01, 0.01))]
    alone, batches, forward = [pipe(clip) for clip in clips], [], SerPipeline._forward

    def counts(self, pieces, **options):
        batches.append([len(samples) / RATE for samples in pieces["samples"]])
        return forward(self, pieces, **options)

    monkeypatch.setattr(SerPipeline, "_forward", counts)
    for answer, expected in zip(pipe(clips, batch_seconds=2.0), alone, strict=True):
        assert np.allclose(as_vector(answer), as_vector(expected), atol=1e-6)
    assert batches == [[3.0], [1.0, 0.9], [0.2, 1.0], [0.01, 0.01]]
    batches.clear()
    found = list(pipe(iter([clips[1], b"no audio", clips[2]]), batch_seconds=2.0, on_error="return"))
    assert batches == [[1.0], [0.9]] and "unreadable" in found[1]["error"]
    with pytest.raises(ValueError, match="batch_seconds 0: must be above 0"):
        pipe(clips, batch_seconds=0)


@pytest.mark.parametrize("published", ["ours", "stock"])
def test_shorter_than_the_receptive_field(published):
    ours = make()
    pipe = pipe_of(ours if published == "ours" else to_stock(ours))
    for samples in (1, 100, 639):
        clip = noise(1.0)[:samples]
        assert np.allclose(as_vector(pipe(clip)), by_hand(ours, clip).softmax(-1), atol=1e-5), samples
    assert as_vector(pipe(np.zeros(RATE, np.float32))).sum() == pytest.approx(1)  # silence has an answer


def test_answers_come_as_soon_as_they_are_known(pipe):
    asked = []

    def stream():
        for number in range(3):
            asked.append(number)
            yield noise(0.5, number)

    answers = pipe(stream())
    assert len(next(answers)) == 3 and asked == [0]  # a microphone has not yet said what comes next
    assert len(list(answers)) == 2


def test_embeddings_are_what_pooling_leaves():
    clip = noise(1.0)
    x = torch.from_numpy((clip - clip.mean()) / clip.std()).float()[None]
    for config in ({"pooling": "max"}, {"pooling": "meanmax", "head": "mlp"}, {}):
        model = make(**config)
        with torch.no_grad():
            frames = model.encoder(x).last_hidden_state[0]
            if config.get("head") != "mlp":
                frames = model.ser_projector(frames)
        pooled = {"mean": [frames.mean(0)], "max": [frames.amax(0)]}
        pooled["meanmax"] = pooled["mean"] + pooled["max"]
        expected = torch.cat(pooled[config.get("pooling", "mean")])
        answer = pipe_of(model)(clip, return_embeddings=True)
        assert np.allclose(answer["embedding"], expected, atol=1e-4) and answer["embedding"].dtype == np.float32
        assert answer["scores"] == pipe_of(model)(clip)
        if not config:
            stock = pipe_of(to_stock(model))(clip, return_embeddings=True)
            assert np.allclose(stock["embedding"], expected, atol=1e-4)
    cut = pipe_of(model)(clip, window_s=0.4, return_embeddings=True)
    parts = [part["embedding"] for part in cut["segments"]]
    assert len(parts) == 4 and np.allclose(cut["embedding"], np.mean(parts, axis=0), atol=1e-6)


def test_problem_types():
    clip = noise(1.0)
    regression = pipe_of(make(problem_type="regression"))
    logits = by_hand(regression.model, clip)
    assert [entry["label"] for entry in regression(clip)] == list(LABELS)  # the model's order, whatever the values
    assert np.allclose([entry["score"] for entry in regression(clip)], logits, atol=1e-5)
    with pytest.raises(ValueError, match="top_k 2: .* must have classes"):
        regression(clip, top_k=2)
    multi = pipe_of(make(problem_type="multi_label_classification"))
    expected = [{"label": label, "score": float(p)} for label, p in zip(LABELS, logits.sigmoid(), strict=True)]
    assert [entry["label"] for entry in multi(clip)] == list(LABELS)
    assert np.allclose([e["score"] for e in multi(clip)], [e["score"] for e in expected], atol=1e-5)
    assert "predicted" not in multi(clip)[0]  # nobody said from where on
    low, high = multi(clip)[0]["score"] - 0.01, multi(clip)[1]["score"] + 0.01
    multi.model.config.thresholds = {"happy": high, "sad": 0.0, "angry": low}
    assert [entry["predicted"] for entry in multi(clip)] == [True, False, True]
    part = multi(clip, window_s=1.0)
    assert part["scores"] == part["segments"][0]["scores"] == multi(clip)
    best = max(multi(clip), key=lambda entry: entry["score"])
    assert multi(clip, top_k=1) == [best]
    one = pipe_of(make(problem_type=None, id2label={0: "arousal"}))
    assert one(clip)[0]["score"] == pytest.approx(float(by_hand(one.model, clip)), abs=1e-5)


def test_one_bad_input_is_named(pipe, tmp_path):
    (tmp_path / "text.wav").write_text("this is no audio")
    sf.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    whole = io.BytesIO()
    sf.write(whole, noise(30.0), RATE, format="FLAC")
    (tmp_path / "cut.flac").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    bad = noise(1.0) / np.float32(32768)
    bad[5] = np.nan
    cases = {
        "gone.wav: unreadable audio (no such file)": tmp_path / "gone.wav",
        "(a folder)": tmp_path,
        "text.wav: unreadable audio (": tmp_path / "text.wav",
        "empty.wav: no samples": tmp_path / "empty.wav",
        "cut.flac: unreadable audio (": tmp_path / "cut.flac",
        "input 1 (bytes): unreadable audio (": b"RIFFnonsense",
        "input 1 (ndarray): NaN or infinite samples": bad,
        "an array of shape (40, 50)": np.zeros((40, 50), np.float32),
        "samples of type complex64": np.zeros(5, np.complex64),
        'an "array" needs its "sampling_rate"': {"array": bad},
    }
    good = noise(1.0)
    expected = {None: pipe(good), 0.5: pipe(good, window_s=0.5)["scores"]}
    for window_s in expected:
        for message, source in cases.items():
            with pytest.raises(ValueError) as error:
                pipe([good, source, good], window_s=window_s)
            assert message in str(error.value)
            answers = pipe([good, source, good], window_s=window_s, on_error="return", batch_size=3)
            assert message in answers[1]["error"]
            for answer in (answers[0], answers[2]):
                scores = answer if window_s is None else answer["scores"]
                assert np.allclose(as_vector(scores), as_vector(expected[window_s]), atol=1e-6)
    for nonsense in (5, None, {"audio": 1}, object()):
        with pytest.raises(TypeError, match="input 0 "):
            pipe([nonsense])


def test_wrong_arguments(pipe):
    clip = noise(1.0)
    for options, message in (
        ({"window_s": 0}, "must be above 0"),
        ({"window_s": 1.0, "hop_s": 2.0}, "a hop at most a window"),
        ({"hop_s": 1.0}, "window_s None"),
        ({"top_k": 0}, "top_k 0"),
        ({"on_error": "ignore"}, "on_error 'ignore'"),
        ({"window_last": "cut"}, "window_last 'cut': choose one of pad, shift, drop"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(clip, **options)
    with pytest.raises(TypeError, match="unknown argument window; there are window_s"):
        pipe(clip, window=4.0)
    assert pipe([]) == []
    with pytest.raises(ValueError, match="feature_extractor is missing"):
        SerPipeline(model=pipe.model)


def test_a_file_in_text_mode_is_refused(pipe):
    with pytest.raises(TypeError, match=r"input 0 \(TextIOWrapper\): a file must be open in binary mode"):
        pipe(open(__file__))


def test_evaluate_takes_it(pipe, tmp_path, monkeypatch):
    import evaluate
    import transformers
    from datasets import Dataset, Features, Value

    # evaluate 0.4.6 asks transformers 5 for it, whatever the pipeline
    monkeypatch.setattr(transformers, "TFPreTrainedModel", transformers.PreTrainedModel, raising=False)

    class Share(evaluate.Metric):  # its own are on the Hub
        def _info(self):
            features = Features({"predictions": Value("string"), "references": Value("string")})
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions, references):
            return {"right": sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)}

    for number in range(4):
        sf.write(tmp_path / f"{number}.wav", noise(0.5, number), RATE)
    files = [str(tmp_path / f"{number}.wav") for number in range(4)]
    told = [answer[0]["label"] for answer in pipe(files)]
    rows = Dataset.from_dict({"file": files, "label": [*told[:3], "none"]})
    result = evaluate.evaluator("audio-classification").compute(pipe, rows, metric=Share())
    assert result["right"] == 0.75


def test_a_dataset_column(pipe, tmp_path):
    from datasets import Dataset
    from transformers.pipelines.pt_utils import KeyDataset

    clips = [noise(0.5, seed) for seed in range(3)]
    for number, clip in enumerate(clips):
        sf.write(tmp_path / f"{number}.wav", clip, RATE)
    rows = Dataset.from_dict({"audio": [{"bytes": None, "path": str(tmp_path / f"{n}.wav")} for n in range(3)]})
    expected = pipe(clips)
    assert pipe(rows["audio"]) == expected
    assert list(pipe(KeyDataset(rows, "audio"))) == expected


def test_a_model_left_in_training_mode_answers_without_dropout():
    model = make(encoder={"hidden_dropout": 0.5}, head="mlp", head_dropout=0.5).train()
    pipe = pipe_of(model)
    assert pipe(noise(1.0)) == pipe(noise(1.0))


def test_stock_models_where_ser_hf_is_installed(tmp_path):
    model = make()
    assert (
        save_model(model, Wav2Vec2FeatureExtractor(), tmp_path / "stock").__name__
        == "Wav2Vec2ForSequenceClassification"
    )
    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert "custom_pipelines" not in config and not list((tmp_path / "stock").glob("*.py"))  # needs no code of ours
    pipe = pipeline(TASK, model=str(tmp_path / "stock"), window_s=0.5)
    assert type(pipe) is SerPipeline and type(pipe.model).__name__ == "Wav2Vec2ForSequenceClassification"
    expected = pipe_of(model)(noise(1.0), window_s=0.5)
    assert np.allclose(as_vector(pipe(noise(1.0))["scores"]), as_vector(expected["scores"]))
    pipe.save_pretrained(tmp_path / "shipped")  # who wants the windows everywhere saves the pipeline
    assert (tmp_path / "shipped" / "pipeline_ser.py").is_file()


# A 30-minute file has 115 MB of samples; what a batch of windows needs is the same for a minute. What Python and NumPy
# hold is counted, samples with it: the peak of a whole process swings by 50 MB with what torch keeps.
CLEAN = """
import json, sys, tracemalloc
sys.modules["ser_hf"] = None  # importing this project is an error in this process
from transformers import pipeline
folder, stock, clip, minute, long = sys.argv[1:]
try:
    pipeline("speech-emotion-recognition", model=folder, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    raise AssertionError("code ran without being trusted")
pipe = pipeline("speech-emotion-recognition", model=folder, trust_remote_code=True)
result = {"answer": pipe(clip), "windows": pipe(clip, window_s=1.0, return_embeddings=False)}
result["inferred"] = type(pipeline(model=folder, trust_remote_code=True)).__name__
result["stock"] = pipeline("speech-emotion-recognition", model=stock, trust_remote_code=True)(clip)
tracemalloc.start()
for name, file in (("minute", minute), ("long", long)):
    tracemalloc.reset_peak()
    found = pipe(file, window_s=4.0, hop_s=2.0, batch_size=16)
    peak = tracemalloc.get_traced_memory()[1]
    result[name] = {"windows": len(found["segments"]), "end": found["segments"][-1]["end"], "peak": peak}
    status = open("/proc/self/status").read()
    result[name]["process"] = int(status.split("VmHWM:")[1].split()[0]) / 1e3
tracemalloc.stop()
pipe.save_pretrained(sys.argv[1] + "-again")
print("RESULT" + json.dumps(result))
"""


def test_in_a_process_without_ser_hf_and_long_files_in_constant_memory(tmp_path):
    model = make(pooling="max")
    folder, again = tmp_path / "model", Path(f"{tmp_path / 'model'}-again")
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    assert save_model(model, extractor, folder).__name__ == "SerForAudioClassification"
    task = {"impl": "pipeline_ser.SerPipeline", "pt": ["AutoModelForAudioClassification"]}
    assert json.loads((folder / "config.json").read_text())["custom_pipelines"] == {TASK: task}
    stock = make()
    pipe_of(to_stock(stock)).save_pretrained(tmp_path / "stock")
    clip, block = noise(3.0), noise(60.0)
    sf.write(tmp_path / "clip.flac", clip, RATE)
    for name, minutes in (("minute", 1), ("long", 30)):
        with sf.SoundFile(tmp_path / f"{name}.flac", "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(block)
    files = [tmp_path / f"{name}.flac" for name in ("clip", "minute", "long")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = warm.python("-c", CLEAN, folder, tmp_path / "stock", *files, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.split("RESULT")[1])
    here = pipe_of(model)
    assert np.allclose(as_vector(result["answer"]), as_vector(here(clip)), atol=1e-6)
    assert len(result["windows"]["segments"]) == 5
    assert result["inferred"] == "SerPipeline"
    assert np.allclose(as_vector(result["stock"]), as_vector(pipe_of(stock)(clip)), atol=1e-6)
    assert result["minute"]["windows"] == 29 and result["minute"]["end"] == 60.0
    assert result["long"]["windows"] == 899 and result["long"]["end"] == 1800.0
    minute, long = (result[name]["peak"] / 1e6 for name in ("minute", "long"))
    assert 16 * 4 * RATE * 4 / 1e6 < minute and long - minute < 5, (minute, long)  # a batch; no 111 MB of samples
    assert result["long"]["process"] - result["minute"]["process"] < 150  # nor 230 MB of windows, which torch may hold
    # saved again by someone who has only the folder: nothing is lost
    assert {"config.json", "pipeline_ser.py", "modeling_ser.py", "configuration_ser.py"} <= set(os.listdir(again))
    assert json.loads((again / "config.json").read_text())["custom_pipelines"] == {TASK: task}
