"""`ser-hf convert`: the logits of a foreign checkpoint are those of its own formula, and no code in it runs.

python -m pytest tests/test_convert.py
"""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from conftest import tiny_config
from ser_hf.cli import main

LABELS = ["angry", "happy", "sad"]
RATE = 16000


def foreign(folder, kind="wav2vec2", pickled=True, labels=LABELS, **config):
    """A checkpoint in the layout of soxan's `Wav2Vec2ForSpeechClassification` or `HubertForSpeechClassification`, with
    its weights; returns the encoder, the weights of the head and the configuration."""
    torch.manual_seed(3)
    audio = tiny_config(kind, id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    encoder = AutoModel.from_config(audio).eval()
    width = audio.hidden_size
    head = {
        "classifier.dense.weight": torch.randn(width, width) / width**0.5,
        "classifier.dense.bias": torch.randn(width),
        "classifier.out_proj.weight": torch.randn(len(labels), width),
        "classifier.out_proj.bias": torch.randn(len(labels)),
    }
    weights = {f"{kind}.{name}": value for name, value in encoder.state_dict().items()} | head
    folder.mkdir()
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(audio.to_dict() | config))
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return encoder, head


def formula(encoder, head, samples, mode):
    """soxan's and audEERING's forward for one clip: pool the frames, dense, tanh, output."""
    values = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
    with torch.no_grad():
        frames = encoder(values[None]).last_hidden_state
        pooled = frames.mean(dim=1) if mode == "mean" else frames.max(dim=1).values
        hidden = torch.tanh(pooled @ head["classifier.dense.weight"].T + head["classifier.dense.bias"])
        return (hidden @ head["classifier.out_proj.weight"].T + head["classifier.out_proj.bias"])[0]


@pytest.mark.parametrize(
    ("kind", "pickled", "mode", "config"),
    [
        ("wav2vec2", True, "mean", {"pooling_mode": "mean"}),
        ("wav2vec2", False, "max", {"pooling_mode": "max"}),
        ("hubert", True, "mean", {"pooling_mode": "mean"}),
        ("wavlm", False, "mean", {}),
    ],
)
def test_logits_are_those_of_the_formula(tmp_path, capsys, kind, pickled, mode, config):
    encoder, head = foreign(tmp_path / "theirs", kind, pickled, **config)
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert "mlp head (angry, happy, sad)" in capsys.readouterr().out
    assert not list((tmp_path / "ours").glob("*.bin"))

    pipe = pipeline("audio-classification", model=str(tmp_path / "ours"), function_to_apply="none", top_k=None)
    for seconds in (0.4, 1.1):
        samples = torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(5))
        expected = formula(encoder, head, samples, mode)
        scores = {answer["label"]: answer["score"] for answer in pipe(samples.numpy())}
        logits = torch.tensor([scores[label] for label in LABELS])
        assert torch.allclose(logits, expected, atol=1e-5), (logits, expected)
        assert logits.std() > 0.1  # the formula's output is not nearly constant, so that the comparison can fail


def test_values_of_emotion_become_a_regression(tmp_path):
    """audEERING's configuration names arousal, dominance, valence and no pooling; the values are no softmax scores."""
    foreign(tmp_path / "theirs", labels=["arousal", "dominance", "valence"])
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (config["problem_type"], config["head"], config["pooling"]) == ("regression", "mlp", "mean")


def test_a_text_model_keeps_its_head(tmp_path, capsys):
    """RoBERTa's stock head has the names of soxan's."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    stock = RobertaForSequenceClassification(RobertaConfig(vocab_size=20, **sizes))
    stock.config.save_pretrained(tmp_path / "theirs")
    torch.save(stock.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0, capsys.readouterr().err
    again = RobertaForSequenceClassification.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in stock.state_dict().items())


def test_pickled_weights_become_safetensors(tmp_path):
    """A stock model whose weights are pickled: the same model and answers."""
    torch.manual_seed(0)
    stock = AutoModelForAudioClassification.from_config(tiny_config("wav2vec2")).eval()
    stock.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    torch.save(stock.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    again = AutoModelForAudioClassification.from_pretrained(tmp_path / "ours", use_safetensors=True).eval()
    values = torch.randn(2, 4000)
    with torch.no_grad():
        assert torch.equal(again(values).logits, stock(values).logits)


class Bomb:
    def __reduce__(self):
        return (print, ("this code ran",))


def test_no_code_in_weights_runs(tmp_path, capsys):
    foreign(tmp_path / "theirs")
    (tmp_path / "theirs" / "pytorch_model.bin").write_bytes(pickle.dumps({"classifier.dense.weight": Bomb()}))
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    out, err = capsys.readouterr()
    assert "this code ran" not in out + err
    assert err.startswith("error: ") and "cannot be read as weights alone" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), "names no model_type"),
        (lambda folder: (folder / "pytorch_model.bin").unlink(), "none of model.safetensors"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
    ],
)
def test_what_cannot_be_converted_is_one_line(tmp_path, capsys, change, words):
    foreign(tmp_path / "theirs")
    change(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and words in err and err.count("\n") == 1, err
    assert not list((tmp_path / "ours").glob("*.safetensors"))


def test_a_sum_over_frames_is_refused(tmp_path, capsys):
    foreign(tmp_path / "theirs", pooling_mode="sum")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    assert "pools by 'sum'; only mean and max can be converted" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path, capsys):
    foreign(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "theirs")]) == 2
    assert "is not empty" in capsys.readouterr().err
