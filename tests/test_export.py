"""`ser-hf export`: the graph's logits are those of the pipeline, for every kind of model, length and batch.

python -m pytest tests/test_export.py
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import soundfile as sf
import test_common_models as common
import torch
from test_fusion_pipeline import make_processor
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor, WhisperForAudioClassification

from conftest import tiny_config
from fakes import babble
from ser_hf import load_corpus
from ser_hf.cli import main
from ser_hf.models import SerConfig, SerForAudioClassification, SerPipeline, SerSpectrogramFeatureExtractor
from ser_hf.models.encoders import describe_audio
from ser_hf.publish import graph
from ser_hf.publish.export import compare, open_session, synthetic
from ser_hf.training.saved_model import save_model

LABELS = ["angry", "happy", "neutral", "sad"]  # the demo corpus's
MFCC = {"kind": "mfcc", "n_mfcc": 64, "trim_db": None, "normalize": "clip", "mean_spectrum": [0.5] * 64}
FAST = ["ser whisper", "ser pooling attentive", "spectrogram cnn1d_3"]


def pipe_of(case: str, **spectra) -> SerPipeline:
    """The pipeline of a case of test_common_models, whose logits are a few units large."""
    model = common.make(case)
    config = model.config
    audio = getattr(config, "audio_config", config)
    if describe_audio(audio).reads == "spectrogram":
        extractor = SerSpectrogramFeatureExtractor(n_mels=common.ROWS, **spectra)
    else:
        extractor = describe_audio(audio).new_extractor(audio, False)
    processor = make_processor(extractor) if hasattr(config, "text_config") else None
    return SerPipeline(model=model, feature_extractor=extractor, processor=processor, device="cpu")


def differences(pipe: SerPipeline, folder: Path) -> dict[str, float]:
    """The largest difference from the pipeline, for clips shorter than a frame, with silence, alone and in batches."""
    graph.write(pipe, folder / "model.onnx")
    clips = synthetic(pipe.feature_extractor.sampling_rate, [0.005, 0.3, 2.17])
    texts = ["I am so happy today!", None, "sad"] if pipe.processor else [None] * 3
    checked = compare(pipe, open_session(folder / "model.onnx"), clips, texts)
    return {one["clips"]: one["difference"] for one in checked}


def matters(pipe: SerPipeline) -> None:
    """Clips of other content or length have other logits, so that the comparison can fail."""
    clips = synthetic(pipe.feature_extractor.sampling_rate, [1.0, 2.77])
    with torch.no_grad():
        one, other = (pipe.forward({"samples": [clip], "text": [None]})["logits"] for clip in clips)
    assert (one - other).abs().max() > 1e-3 * one.abs().max()


CASES = [case for case in common.MASKED if case != "spectrogram encoder"]
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case not in FAST]


@pytest.mark.parametrize("case", [*FAST, *SLOW])
def test_logits_are_those_of_the_pipeline(case, tmp_path):
    pipe = pipe_of(case)
    matters(pipe)
    found = differences(pipe, tmp_path)
    assert max(found.values()) < 1e-5, found
    unequal = not common.padding_sensitive(getattr(pipe.model.config, "audio_config", pipe.model.config))
    assert ("a batch of unequal clips" in found) == unequal


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if "spectrogram" in case])
def test_other_spectra(case, tmp_path):
    pipe = pipe_of(case, **MFCC)
    matters(pipe)
    found = differences(pipe, tmp_path)
    assert max(found.values()) < 1e-5 and len(found) == 4, found


@pytest.mark.slow
def test_whisper_of_30_seconds_is_exported_with_its_zeros(tmp_path):
    torch.manual_seed(0)
    model = WhisperForAudioClassification(tiny_config("whisper", num_labels=3, classifier_proj_size=8)).eval()
    for name, weight in model.named_parameters():  # as they are made, 30 s of positions drown the clip
        if "conv" in name or weight.ndim == 2 and "embed" not in name:
            torch.nn.init.normal_(weight, std=0.5)
    pipe = SerPipeline(model=model, feature_extractor=WhisperFeatureExtractor(feature_size=8), device="cpu")
    matters(pipe)
    found = differences(pipe, tmp_path)
    assert max(found.values()) < 1e-5 and "a batch of equal clips" in found, found


def trained(folder: Path, width: int = 16, **config) -> Path:
    """A saved model of the demo corpus's labels, whose head is large enough that differences are seen."""
    torch.manual_seed(0)
    audio = tiny_config("wav2vec2", hidden_size=width, intermediate_size=2 * width)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    config = {"pooling": "max", "head": "mlp", "problem_type": "single_label_classification", **config}
    model = SerForAudioClassification(SerConfig(audio_config=audio, **names, **config)).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("ser_"):
            torch.nn.init.normal_(parameter, std=0.4)
    save_model(model, Wav2Vec2FeatureExtractor(return_attention_mask=True), folder)
    return folder


def test_the_example_answers_as_the_pipeline_without_torch(tmp_path, capsys):
    folder = trained(tmp_path / "run")
    (folder / "results.json").write_text('{"windows": {"seconds": 2.0, "hop": 1.0, "combine": "mean"}}')
    assert main(["export", str(folder), "--format", "onnx"]) == 0
    said = capsys.readouterr().out
    assert "trained on windows of 2 s, and the graph scores its whole input" in said
    assert "angry, happy, neutral, sad; samples (batch, samples); lengths (batch); 16000 Hz" in said
    out = folder / "onnx"
    assert {file.name for file in out.iterdir()} - {".lock"} == {"model.onnx", "example.py", "export.json"}
    report = json.loads((out / "export.json").read_text())
    assert (report["window_s"], report["hop_s"]) == (2.0, 1.0)
    assert report["difference"] < 1e-5 and len(report["checked"]) == 6
    facts = {entry.key: entry.value for entry in onnx.load(out / "model.onnx").metadata_props}
    assert json.loads(facts["labels"]) == LABELS and facts["sampling_rate"] == "16000"

    sf.write(tmp_path / "clip.wav", np.stack([babble(1), babble(2)], axis=1), 16000, subtype="FLOAT")
    sf.write(tmp_path / "other.wav", babble(1), 8000)
    # Nothing but what it says is there: the other packages cannot be imported.
    code = "import sys; sys.modules |= dict.fromkeys(('torch', 'transformers', 'ser_hf', 'soxr', 'scipy', 'onnx'));"
    code += "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    words = [sys.executable, "-c", code, out / "example.py"]
    done = subprocess.run([*words, tmp_path / "clip.wav"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    expected = pipeline_of(folder)(str(tmp_path / "clip.wav"))
    assert [label for label, _ in lines] == [entry["label"] for entry in expected]
    assert np.allclose([float(score) for _, score in lines], [entry["score"] for entry in expected], atol=2e-6)
    assert expected[0]["score"] - expected[-1]["score"] > 0.05
    done = subprocess.run([*words, tmp_path / "other.wav"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("8000 Hz, the model reads 16000 Hz; resample it\n")
    assert len([line for line in (out / "example.py").read_text().splitlines() if line]) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("case", ["stock", "spectrogram cnn2d_6", "fusion gated", "ser whisper"])
def test_the_example_of_every_kind(case, tmp_path):
    """A fusion model answers from the audio alone, as in the pipeline."""
    pipe = pipe_of(case)
    folder = tmp_path / "run"
    save_model(pipe.model, pipe.processor or pipe.feature_extractor, folder)
    assert main(["export", str(folder), "--out", str(tmp_path / "graph")]) == 0
    rate = pipe.feature_extractor.sampling_rate
    sf.write(tmp_path / "clip.wav", babble(3, rate=rate), rate, subtype="FLOAT")
    words = [sys.executable, tmp_path / "graph" / "example.py", tmp_path / "clip.wav"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    expected = pipeline_of(folder)(str(tmp_path / "clip.wav"))
    assert [label for label, _ in lines] == [entry["label"] for entry in expected]
    assert np.allclose([float(score) for _, score in lines], [entry["score"] for entry in expected], atol=1e-5)


def pipeline_of(folder: Path) -> SerPipeline:
    from ser_hf.cli.predict import load

    return load(str(folder), False)


def test_a_graph_that_differs_is_refused(tmp_path, capsys, monkeypatch):
    """The feature extraction of the graph forgets the normalisation."""
    folder = trained(tmp_path / "run")

    right = graph.waveform
    monkeypatch.setattr(
        graph, "waveform", lambda extractor, least: right(Wav2Vec2FeatureExtractor(do_normalize=False), least)
    )
    assert main(["export", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "the graph's logits differ by" in err and "not exported" in err and err.count("\n") == 1
    assert not list((folder / "onnx").glob("[!.]*"))


@pytest.mark.slow
def test_integers_and_what_they_cost_on_the_test_clips(tmp_path, capsys):
    """UAR and agreement are counted here from the pipeline's and the integers' own answers."""
    folder = trained(tmp_path / "run", width=128)
    corpus = load_corpus("demo")
    test = corpus.select(range(0, len(corpus), 5))
    pd.DataFrame({"id": test["id"]}).to_parquet(folder / "predictions.parquet")
    words = ["export", str(folder), "--out", str(tmp_path / "graph"), "--int8", "true", "--dataset", "demo"]
    assert main(words) == 0
    report = json.loads((tmp_path / "graph" / "export.json").read_text())
    assert report["bytes"]["model.int8.onnx"] < 0.6 * report["bytes"]["model.onnx"]
    pipe, small, labels = pipeline_of(folder), open_session(tmp_path / "graph" / "model.int8.onnx"), test["label"][:]
    clips = [np.asarray(row["array"], dtype=np.float32) for row in decoded(test)]
    answers = [LABELS.index(pipe(clip)[0]["label"]) for clip in clips]
    feeds = [{"samples": clip[None], "lengths": np.array([len(clip)])} for clip in clips]
    integers = [int(small.run(None, given)[0][0].argmax()) for given in feeds]
    for kind, predicted in (("float32", answers), ("int8", integers)):
        recalls = [np.mean([predicted[row] == label for row in np.flatnonzero(np.array(labels) == label)])
                   for label in sorted(set(labels))]  # fmt: skip
        assert report["test"][kind]["value"] == pytest.approx(np.mean(recalls))
    int8 = report["test"]["int8"]
    assert int8["same_prediction"] == pytest.approx(np.mean(np.array(answers) == integers))
    assert int8["difference"] == pytest.approx(int8["value"] - report["test"]["float32"]["value"])
    assert f"{len(test)} test clips" in capsys.readouterr().out


def decoded(test):
    from ser_hf.data.audio import decode

    return [{"array": decode(row["audio"], 16000)} for row in test]


def test_what_a_killed_export_has_left_is_removed(tmp_path):
    folder = trained(tmp_path / "run")
    (folder / "onnx" / ".saving-abc").mkdir(parents=True)
    (folder / "onnx" / ".lock").write_text("1")
    assert main(["export", str(folder)]) == 0
    assert {file.name for file in (folder / "onnx").iterdir()} == {"model.onnx", "export.json", "example.py"}


def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, monkeypatch):
    folder = trained(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    for words, said in (
        (["--data_dir", "x"], "--data_dir x: does nothing without --dataset"),
        (["--out", str(tmp_path / "mine")], "is not empty and holds no export"),
        (["--dataset", "demo"], "has no predictions.parquet"),
        (["--int8", "maybe"], "--int8"),
        (["--format", "torchscript"], "--format"),
    ):
        assert main(["export", str(folder), *words]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1, err
    pd.DataFrame({"id": [*load_corpus("demo")["id"][:3], "gone"]}).to_parquet(folder / "predictions.parquet")
    for flags, said in (("a: [", "is damaged"), ("- a", "is damaged"), ("{}", "has 3 of the 4 test clips")):
        (folder / "run.yaml").write_text(flags)
        assert main(["export", str(folder), "--dataset", "demo"]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1, err
    assert main(["export", str(tmp_path / "mine")]) == 2
    assert "error: MODEL " in (err := capsys.readouterr().err) and "config.json is missing" in err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(folder)]) == 2
    assert "pip install ser-hf[export]" in capsys.readouterr().err
