"""`ser-hf convert`: the logits of a foreign checkpoint are those of its own formula, and no code in it runs.

python -m pytest tests/test_convert.py
"""

import argparse
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
from ser_hf.errors import SerError
from ser_hf.training.saved_model import load_finetuned

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


# ---- s3prl: a head alone, on an encoder of transformers


def s3prl(folder, kind="hubert", count=2, arguments=None, head=None, featurizer=None, norm="layer", **more):
    """A checkpoint as s3prl's Runner saves it, and a random encoder; returns the encoder, its head and the file."""
    torch.manual_seed(4)
    audio = tiny_config(kind, feat_extract_norm=norm)
    encoder = AutoModel.from_config(audio).eval()
    encoder.save_pretrained(folder / "encoder")
    width = audio.hidden_size
    weights = {
        "projector.weight": torch.randn(6, width) / width**0.5,
        "projector.bias": torch.randn(6),
        "model.post_net.linear.weight": torch.randn(4, 6),
        "model.post_net.linear.bias": torch.randn(4),
        "best_score": torch.zeros(1),
    }
    said = {"upstream": kind, "downstream": "emotion", "upstream_feature_selection": "hidden_states"}
    said |= {"upstream_layer_selection": None, "upstream_feature_normalize": False, "device": "cuda"}
    state = {
        "Optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "Step": 30000,
        "Epoch": 12,
        "Args": argparse.Namespace(**said | (arguments or {})),
        "Config": {"downstream_expert": {"modelrc": {"select": "UtteranceLevel", "projector_dim": 6}}},
        "Featurizer": {"weights": torch.randn(count)} if featurizer is None else featurizer,
        "Downstream": weights | (head or {}),
        **more,
    }
    torch.save(state, folder / "dev-best.ckpt")
    return encoder, state, folder / "dev-best.ckpt"


def s3prl_formula(encoder, state, values, layer=None):
    """Featurizer and downstream for one clip: softmax-weighted sum of hidden states, project, mean, linear."""
    with torch.no_grad():
        states = torch.stack(encoder(values[None], output_hidden_states=True).hidden_states)[
            :, 0
        ]  # (layers, frames, dim)
        weights = state["Featurizer"].get("weights")
        frames = states[layer] if weights is None else torch.tensordot(weights.softmax(0), states, 1)
        head = state["Downstream"]
        projected = frames @ head["projector.weight"].T + head["projector.bias"]
        out = head["model.post_net.linear.weight"] @ projected.mean(dim=0)
        return out + head["model.post_net.linear.bias"]


S3PRL_CASES = {
    "weighted sum": ("layer", {}, None, None),
    "weighted sum, samples as they are": ("group", {}, None, None),
    "one layer": ("layer", {"upstream_layer_selection": 0}, {}, 0),
    "last layer": ("layer", {"upstream_feature_selection": "last_hidden_state"}, {}, -1),
}


@pytest.mark.parametrize("case", S3PRL_CASES)
def test_a_head_of_s3prl_on_its_encoder(tmp_path, capsys, case):
    norm, arguments, featurizer, layer = S3PRL_CASES[case]
    encoder, state, file = s3prl(tmp_path, arguments=arguments, featurizer=featurizer, norm=norm)
    words = ["convert", str(file), str(tmp_path / "ours"), "--encoder", str(tmp_path / "encoder")]
    assert main(words) == 0, capsys.readouterr().err
    assert "neutral, happy, angry, sad" in capsys.readouterr().out
    stock = json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"]
    assert stock == ["SerForAudioClassification" if case == "one layer" else "HubertForSequenceClassification"]
    pipe = pipeline("audio-classification", model=str(tmp_path / "ours"), function_to_apply="none", top_k=None)
    for seconds in (0.4, 1.1):
        samples = 0.3 + torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(5))
        values = samples
        if norm == "layer":
            values = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
        expected = s3prl_formula(encoder, state, values, layer)
        scores = {answer["label"]: answer["score"] for answer in pipe(samples.numpy())}
        logits = torch.tensor([scores[label] for label in ("neutral", "happy", "angry", "sad")])
        assert torch.allclose(logits, expected, atol=1e-5), (logits, expected)
        assert logits.std() > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arguments": {"downstream": "sid"}}, "its task is 'sid'"),
        ({"head": {"model.pooling.sap_layer.W.weight": torch.zeros(1, 6)}}, "only s3prl's default head"),
        ({"Upstream": {"w": torch.zeros(1)}}, "its encoder was trained too"),
        ({"arguments": {"upstream_feature_normalize": True}}, "are layer-normed"),
        ({"count": 13}, "the head weighs 13 hidden states, the encoder has 2"),
        ({"Args": Bomb()}, "cannot be read as weights alone"),
        ({"Downstream": None}, "no checkpoint of s3prl"),
    ],
)
def test_other_heads_of_s3prl_are_one_line(tmp_path, capsys, change, words):
    s3prl(tmp_path, **change)
    encoder = ["--encoder", str(tmp_path / "encoder")]
    assert main(["convert", str(tmp_path / "dev-best.ckpt"), str(tmp_path / "ours"), *encoder]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and "this code ran" not in out + err, err
    assert not list((tmp_path / "ours").glob("[!.]*"))


def test_a_head_without_its_encoder_and_an_encoder_too_many(tmp_path, capsys):
    s3prl(tmp_path)
    assert main(["convert", str(tmp_path / "dev-best.ckpt"), str(tmp_path / "ours")]) == 2
    assert "--encoder names that of transformers which is s3prl's 'hubert'" in capsys.readouterr().err
    foreign(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours"), "--encoder", "x"]) == 2
    assert "--encoder x: does nothing for" in capsys.readouterr().err


def test_a_stock_weighted_sum_loads_whole(tmp_path, capsys):
    """As superb/hubert-base-superb-er: no conversion, no missing weights, and ours computes the same."""
    torch.manual_seed(0)
    stock = AutoModelForAudioClassification.from_config(tiny_config("hubert", use_weighted_layer_sum=True)).eval()
    torch.nn.init.normal_(stock.layer_weights)
    stock.save_pretrained(tmp_path / "theirs")
    values = torch.randn(2, 4000)
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert "nothing to convert" in (said := capsys.readouterr().out) and said.count("\n") == 1
    assert not (tmp_path / "ours").exists()
    with torch.no_grad():
        assert (load_finetuned(str(tmp_path / "theirs"))(values).logits - stock(values).logits).abs().max() < 1e-6


def test_a_stock_load_names_convert(tmp_path, capsys):
    foreign(tmp_path / "soxan", pickled=False)
    (tmp_path / "clip.wav").touch()
    (tmp_path / "s3prl").mkdir()
    s3prl(tmp_path / "s3prl")
    (tmp_path / "s3prl" / "encoder").rename(tmp_path / "encoder")
    for model, said in (
        (tmp_path / "soxan", f"`ser-hf convert {tmp_path / 'soxan'} NEW_FOLDER` makes it ours"),
        (tmp_path / "s3prl", "dev-best.ckpt NEW_FOLDER --encoder ENCODER`"),
        (tmp_path / "s3prl" / "dev-best.ckpt", "dev-best.ckpt NEW_FOLDER --encoder ENCODER`"),
    ):
        assert main(["predict", str(tmp_path / "clip.wav"), "--model", str(model)]) == 2
        err = capsys.readouterr().err
        assert said in err and err.splitlines()[-1].startswith("error: "), err
    with pytest.raises(SerError, match="ser-hf convert"):
        load_finetuned(str(tmp_path / "soxan"))


def test_a_model_of_speechbrain_is_refused_with_the_reason(tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "hyperparams.yaml").write_text("wav2vec2_hub: facebook/wav2vec2-base\n")
    torch.save({"0.w.weight": torch.zeros(4, 16)}, tmp_path / "theirs" / "model.ckpt")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    assert "standardises all hidden states of a clip together" in capsys.readouterr().err


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


def test_what_a_killed_command_has_left_is_no_file_of_yours(tmp_path):
    foreign(tmp_path / "theirs")
    (tmp_path / "ours" / ".saving-abc").mkdir(parents=True)
    (tmp_path / "ours" / ".lock").write_text("1")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert not [file for file in (tmp_path / "ours").iterdir() if file.name.startswith(".")]


def test_nothing_is_overwritten(tmp_path, capsys):
    foreign(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "theirs")]) == 2
    assert "is not empty" in capsys.readouterr().err
