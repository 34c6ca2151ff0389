"""The model card's code runs, for every kind of model; `ser-hf card` makes it again and compares runs."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from test_fusion_model import make as make_fusion
from test_pipeline import RATE, make, noise
from test_report import results_of
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

from ser_hf.cli import main
from ser_hf.evaluation.card import model_card, write_report
from ser_hf.evaluation.tasks import CLASSES, LABELS, VALUES
from ser_hf.models import SerForSpectrogramClassification, SerSpectrogramConfig, SerSpectrogramFeatureExtractor
from ser_hf.models.processing_fusion import SerFusionProcessor
from ser_hf.training.saved_model import save_model


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "What", "a", "day", "!"])}
    built = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=built, pad_token="[PAD]", unk_token="[UNK]")


def text():
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = AutoConfig.for_model("bert", vocab_size=10, num_labels=3, **shape)
    return AutoModelForSequenceClassification.from_config(config), tokenizer()


def spectrogram():
    config = SerSpectrogramConfig(num_labels=3, arch="cnn1d_3", problem_type=CLASSES)
    return SerForSpectrogramClassification(config), SerSpectrogramFeatureExtractor()


def waveform(**config):
    return make(**config), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def fusion():
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return make_fusion(), SerFusionProcessor(extractor, tokenizer())


KINDS = {
    "stock": (waveform, "audio-classification", CLASSES),
    "ours": (lambda: waveform(pooling="max"), "audio-classification", CLASSES),
    "values": (lambda: waveform(problem_type=VALUES), "audio-classification", VALUES),
    "labels": (lambda: waveform(pooling="max", problem_type=LABELS), "audio-classification", LABELS),
    "spectrogram": (spectrogram, "audio-classification", CLASSES),
    "fusion": (fusion, "speech-emotion-recognition", CLASSES),
    "text": (text, "text-classification", CLASSES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_a_card_runs(kind, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    build, task, problem_type = KINDS[kind]
    model, processor = build()
    saved = save_model(model, processor, tmp_path / "run")
    rate = getattr(processor, "feature_extractor", processor).sampling_rate if kind != "text" else 0
    about = {"class": saved.__name__, "stock": saved.__module__.startswith("transformers."), "task": task}
    results, _ = results_of(problem_type, model=about)
    for name, seconds in (("clip", 0.6), ("recording", 6.0)):
        sf.write(tmp_path / f"{name}.wav", noise(seconds)[: int(seconds * rate)], rate or RATE)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall("```python\n(.*?)```", model_card(results, "run"), re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for code in blocks:  # each as it is copied, with nothing before it
        exec(code, alone := {**names} if kind == "text" else {})
        names |= alone
    printed = capsys.readouterr().out
    inputs = {
        "text-classification": "What a day!",
        "speech-emotion-recognition": {"audio": "clip.wav", "text": "What a day!"},
    }.get(task, {"array": names.get("samples"), "sampling_rate": rate})
    answer = names["classify"](inputs, top_k=None)
    told = dict(re.findall(r"'(\w+)': (-?[\d.e-]+)", printed.splitlines()[-1]))
    # the code without a pipeline gives the pipeline's figures
    assert {entry["label"]: pytest.approx(entry["score"], abs=2e-5) for entry in answer} == {
        name: float(value) for name, value in told.items()
    }
    assert printed.count("4.0") >= (0 if kind == "text" else 1)


# --- ser-hf card


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folders of two runs on the same utterances."""
    root = tmp_path_factory.mktemp("made")
    for name in ("a", "b"):
        results, table = results_of()
        if name == "b":  # the other system is always right
            table[["score_angry", "score_sad"]] = np.eye(2)[[["angry", "sad"].index(word) for word in table["label"]]]
            table["prediction"] = table["label"]
        (root / name).mkdir()
        write_report(root / name, results, table, "me/model")
    return root


@pytest.fixture
def runs(made, tmp_path, capsys):
    """Copies of them, and the command."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)

    def command(*words) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["card", *(str(word) for word in words)])
        return status, *capsys.readouterr()

    return tmp_path, command


def test_a_card_is_made_again(runs):
    root, command = runs
    before = {file: file.read_bytes() for file in (root / "a").rglob("*") if file.is_file()}
    (root / "a" / "README.md").write_text((root / "a" / "README.md").read_text() + "by hand")
    (root / "a" / "figures" / "reliability.png").unlink()
    status, out, _ = command(root / "a")
    assert status == 0 and "README.md" in out
    for file, content in before.items():
        assert file.read_bytes() == content, file
    assert "reliability" in (root / "a" / "record.json").read_text()  # a push takes it
    assert command(root / "a", "--repo_id", "you/other")[0] == 0
    assert 'model="you/other"' in (root / "a" / "README.md").read_text()
    # results of an earlier version have less
    results = json.loads((root / "a" / "results.json").read_text())
    for name in ("calibration", "machine", "seconds", "versions", "ser_hf", "trained_on", "comparisons"):
        results.pop(name)
    for name in ("by_gender", "by_speaker"):
        results["test"].pop(name)
    results["training"] = None
    (root / "a" / "results.json").write_text(json.dumps(results))
    assert command(root / "a")[0] == 0
    assert "### Calibration" not in (root / "a" / "README.md").read_text()


def test_runs_are_compared_on_the_same_utterances(runs):
    root, command = runs
    status, out, _ = command("--compare", root / "a", root / "b", "--out", root / "table.md")
    results = json.loads((root / "a" / "results.json").read_text())
    uar = results["test"]["metrics"]["uar"]
    assert status == 0 and re.search(rf"^a +{uar:.3f} ", out, re.M)
    assert re.search(rf"^b +1.000 \[1.000, 1.000\] +{uar - 1:.3f} \[", out, re.M)
    assert (root / "table.md").read_text().count("\n| ") == 3
    table = pd.read_parquet(root / "b" / "predictions.parquet")
    for changed, words in ((table.iloc[::-1], None), (table.iloc[1:], "other utterances")):
        changed.to_parquet(root / "b" / "predictions.parquet")
        status, again, error = command("--compare", root / "a", root / "b")
        assert (status, again.splitlines()[:3]) == (0, out.splitlines()[:3]) if words is None else words in error
    table["label"] = np.roll(table["label"].to_numpy(), 1)
    table.to_parquet(root / "b" / "predictions.parquet")
    status, _, error = command("--compare", root / "a", root / "b")
    assert status == 2 and "other labels of the same utterances" in error


def test_files_that_are_damaged_or_of_another_version_are_one_line(runs):
    root, command = runs
    both = ["--compare", root / "a", root / "b"]
    results, table = json.loads((root / "b" / "results.json").read_text()), root / "b" / "predictions.parquet"
    good, whole = pd.read_parquet(table), table.read_bytes()

    def refused(words: str, *argv) -> None:
        status, _, error = command(*argv)
        assert status == 2 and words in error and error.count("\n") == 1, error

    for score in (float("nan"), float("inf")):  # a wrong figure otherwise
        good.assign(score_angry=[score, 0.5, 0.5, 0.5]).to_parquet(table)
        refused("has scores that are no numbers", *both)
    pd.concat([good, good[:1]]).to_parquet(table)
    refused("twice", *both)
    good[:0].to_parquet(table)
    refused("holds no predictions", *both)
    for content in (b"PAR1", b""):
        table.write_bytes(content)
        refused("holds no finished run", root / "b")
    table.write_bytes(whole)
    less = [results | {part: {}} for part in ("corpus", "model")] + [{**results, "splits": 3}]
    for content in (*less, {"corpus": 1, "protocol": 2, "model": 3, "test": 4}):
        (root / "b" / "results.json").write_text(json.dumps(content))
        refused("results of another version of ser_hf, or damaged", root / "b")
    (root / "b" / "results.json").write_text(json.dumps(results))
    (root / "b" / "stress.json").write_text("{")
    refused("stress.json: is damaged", root / "b")


def test_a_comparison_writes_over_nothing_and_has_each_run_once(runs):
    root, command = runs
    both = ["--compare", root / "a", root / "b"]
    card = (root / "a" / "README.md").read_text()
    assert "is there and holds no comparison" in command(*both, "--out", root / "a" / "README.md")[2]
    assert (root / "a" / "README.md").read_text() == card
    assert [command(*both, "--out", root / "t.md")[0] for _ in "ab"] == [0, 0]
    assert "is there twice" in command("--compare", root / "a", f"{root}/b/../a")[2]
    # figures of an earlier version's file are computed again, as the other run's are
    results = json.loads((root / "a" / "results.json").read_text())
    before = command(*both)[1]
    results["test"]["intervals"] = {name: [0.0, 0.1] for name in results["test"]["intervals"]}
    (root / "a" / "results.json").write_text(json.dumps(results))
    assert command(*both)[1] == before


def test_mistakes_are_one_line(runs):
    root, command = runs
    (root / "none").mkdir()
    (root / "other").mkdir()
    (root / "other" / "results.json").write_text('{"accuracy": 1.0}')
    (root / "b" / "README.md").write_text("---\n{\n---\n# broken by hand")
    assert command(root / "b")[0] == 0 and 'model="MODEL"' in (root / "b" / "README.md").read_text()
    two = [root / "a", root / "b"]
    for words in ([root / "none"], [root / "other"], two, ["--compare", root / "a"], [root / "a", "--out", "x.md"]):
        status, _, error = command(*words)
        assert status == 2 and error.count("\n") == 1, words
