"""`ser-hf embed`, and encoder outputs that are computed once (the fusion recipe's tests hold the rest)."""

import json
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch
from datasets import Dataset, load_dataset
from transformers import AutoConfig, BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from conftest import TINY
from ser_hf import cli, load_corpus
from ser_hf.data.cache import Store
from ser_hf.models import SerForAudioClassification, SerFusionForClassification
from ser_hf.training.encoder_states import AudioReader, fill, fingerprint, pad_states
from ser_hf.training.settings import ClipArguments
from ser_hf.training.text_model import train_tokenizer

# An encoder with code of its own: wav2vec2, whose last states are doubled.
OWN = """
from transformers import Wav2Vec2Config, Wav2Vec2Model
class OwnConfig(Wav2Vec2Config):
    model_type = "own"
class OwnModel(Wav2Vec2Model):
    config_class = OwnConfig
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.last_hidden_state = 2 * out.last_hidden_state
        return out
"""


@pytest.fixture(scope="module")
def encoders(tmp_path_factory, fake_corpus):
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("encoders")
    Wav2Vec2Model(Wav2Vec2Config(**TINY)).save_pretrained(home / "audio")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(home / "audio")
    config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=60)
    texts = load_corpus("demo", data_dir=fake_corpus("demo"))["text"]
    config, tokenizer = train_tokenizer(list(texts), config, 60)
    BertModel(config).save_pretrained(home / "text")
    tokenizer.save_pretrained(home / "text")
    AutoConfig.for_model("fnet").save_pretrained(home / "fnet")
    shutil.copytree(home / "audio", home / "own")
    (home / "own" / "own.py").write_text(OWN)
    config = json.loads((home / "audio" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (home / "own" / "config.json").write_text(json.dumps(config))
    return home


def embed(tmp_path, fake_corpus, corpus, model, *flags, capsys=None):
    out = tmp_path / f"{'_'.join(flags) or 'plain'}.parquet".replace("-", "")
    words = ["embed", corpus, "--data_dir", str(fake_corpus(corpus)), "--model", str(model), "--out", str(out), *flags]
    assert cli.main(words) == 0, capsys and capsys.readouterr().err
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    return load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "datasets"))


def test_audio_is_encoded_as_transformers_does(encoders, fake_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    rows = embed(tmp_path, fake_corpus, "demo", encoders / "audio")
    frames = embed(tmp_path, fake_corpus, "demo", encoders / "audio", "--level", "frames")
    layers = embed(tmp_path, fake_corpus, "demo", encoders / "audio", "--layers", "all")
    assert rows.features["label"].names == ["angry", "happy", "neutral", "sad"] and "audio" not in rows.column_names
    model = Wav2Vec2Model.from_pretrained(encoders / "audio").eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(encoders / "audio")
    for row, many, every in zip(rows, frames, layers, strict=True):
        samples, rate = sf.read(fake_corpus("demo") / "wav" / f"{row['id']}.wav", dtype="float32")
        with torch.no_grad():
            inputs = extractor(samples, sampling_rate=rate, return_tensors="pt")["input_values"]
            out = model(inputs, output_hidden_states=True)
        assert np.allclose(many["embedding"], out.last_hidden_state[0], atol=1e-5)
        assert np.allclose(row["embedding"], out.last_hidden_state[0].mean(0), atol=1e-5)
        by_layer = torch.stack(out.hidden_states)[:, 0].mean(1)
        assert np.allclose(every["embedding"], by_layer, atol=1e-5)


def test_code_that_comes_with_an_encoder_is_run_if_it_is_trusted(encoders, fake_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    flags = ("--batch_seconds", "7.5")
    rows = embed(tmp_path, fake_corpus, "demo", encoders / "audio", *flags)
    own = embed(tmp_path, fake_corpus, "demo", encoders / "own", *flags, "--trust_remote_code")
    assert np.allclose(2 * np.array(rows["embedding"]), np.array(own["embedding"]), atol=1e-5)
    model = SerForAudioClassification.from_encoder(str(encoders / "own"), trust_remote_code=True, num_labels=2)
    assert type(model.encoder).__name__ == "OwnModel"
    paths = str(encoders / "own"), str(encoders / "text")
    model = SerFusionForClassification.from_encoders(*paths, trust_remote_code=True, num_labels=2)
    assert type(model.audio_encoder).__name__ == "OwnModel"
    with pytest.raises(ValueError, match="trust_remote_code"):
        SerForAudioClassification.from_encoder(str(encoders / "own"), num_labels=2)


def test_texts_are_encoded_and_what_has_none_is_said(encoders, fake_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    rows = embed(tmp_path, fake_corpus, "smile", encoders / "text", "--pooling", "first")
    assert len(rows[0]["embedding"]) == 8 and len(set(rows["text"])) == len({tuple(e) for e in rows["embedding"]})
    words = ["embed", "smile", "--data_dir", str(fake_corpus("smile")), "--model", str(encoders / "audio")]
    assert cli.main([*words, "--out", str(tmp_path / "none.parquet")]) == 2
    assert "smile has nothing that" in capsys.readouterr().err and not (tmp_path / "none.parquet").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model", "{home}/nowhere"], "--model .*nowhere"),
        (["--model", "{home}/text", "--max_text_length", "513"], "--max_text_length 513: .*text reads 3 to 512 tokens"),
        (["--model", "{home}/audio", "--batch_seconds", "many"], "--batch_seconds"),
        (["--model", "{home}/fnet"], "--model .*fnet: text encoder 'fnet' takes no mask"),
        (["--model", "{home}/own"], "--model .*own: .*trust_remote_code"),
        (["--model", "{home}/audio", "--pooling", "first"], "--pooling first: .*choose mean, max"),
        (["--model", "{home}/audio", "--level", "frames", "--layers", "all"], "--layers all: only for"),
        (["--model", "{home}/audio", "--level", "frames", "--pooling", "max"], "--pooling max: does nothing"),
        (["--model", "{home}/audio", "--pool", "max"], "unknown argument --pool, did you mean --pooling"),
        ([], "--model"),
    ],
)
def test_mistakes_are_one_line(flags, message, encoders, fake_corpus, tmp_path, capsys, monkeypatch):
    import re

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["embed", "demo", "--data_dir", str(fake_corpus("demo")), "--out", str(tmp_path / "out.parquet")]
    assert cli.main([*words, *(flag.format(home=encoders) for flag in flags)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert re.search(message, [line for line in error if line.startswith("error")][0])
    assert not (tmp_path / "out.parquet").exists()


def test_what_is_stored_is_not_computed_again(tmp_path):
    calls = []

    def encode(inputs, attention_mask):
        """Three frames of a clip's first sample; the last is real in clips of 2 s and more."""
        calls.append(sorted(attention_mask.sum(dim=1).tolist()))
        states = inputs[:, :1, None, None].expand(-1, 1, 3, 2)
        return states, torch.stack([torch.tensor([True, True, count >= 200]) for count in attention_mask.sum(dim=1)])

    def clip(value: float, seconds: float) -> str:
        sf.write(tmp_path / f"{value}.wav", np.full(round(100 * seconds), value), 100, subtype="FLOAT")
        return str(tmp_path / f"{value}.wav")

    names, lengths = ["a", "b", None, "c", "a"], [3.0, 1.0, None, 2.0, 3.0]
    files = [clip(0.25, 3.0), clip(0.5, 1.0), None, clip(0.75, 2.0), clip(0.25, 3.0)]
    rows = {"audio": files, "audio_hash": names, "duration": lengths}
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=100, do_normalize=False, return_attention_mask=True)
    reader, cpu = AudioReader(extractor, ClipArguments(), budget=4.0), torch.device("cpu")
    store = Store(tmp_path / "states")
    assert fill(store, Dataset.from_dict(rows), reader, encode, cpu) == 3
    assert sorted(calls) == [[100, 200], [300]]  # by length, each name once, nothing for None
    assert store["c"].shape == (1, 3, 2) and store["b"].shape == (1, 2, 2) and float(store["c"][0, 0, 0]) == 0.75
    assert fill(store, Dataset.from_dict(rows), reader, encode, cpu) == 0 and len(calls) == 2
    more = {"audio": [*files, clip(0.125, 1.5)], "audio_hash": [*names, "d"], "duration": [*lengths, 1.5]}
    assert fill(store, Dataset.from_dict(more), reader, encode, cpu) == 1 and calls[-1] == [150]


def test_a_batch_of_stored_states_is_padded_with_a_mask():
    one, two = torch.ones(2, 1, 3), 2 * torch.ones(2, 2, 3)
    states, mask = pad_states([one, None, two], (2, 3))
    assert states.shape == (3, 2, 2, 3) and mask.tolist() == [[True, False], [False, False], [True, True]]
    assert states[0, :, 0].eq(1).all() and states[0, :, 1].eq(0).all() and states[2].eq(2).all()
    assert pad_states([None], (1, 4))[0].shape == (1, 1, 1, 4)
    assert pad_states([torch.zeros(1, 0, 4)], (1, 4))[0].shape == (1, 1, 1, 4)  # one frame, which is masked
    assert pad_states([], (1, 4))[0].shape == (0, 1, 1, 4)
    # States of equal length are the same batch as beside a row without the modality.
    half = [part.half() for part in (one, two[:, :1], two[:, 1:])]
    alike, beside = (pad_states(part, (2, 3)) for part in (half, [*half, None]))
    assert alike[0].dtype == torch.float32 and torch.equal(alike[0], beside[0][:3])
    assert alike[1].all() and torch.equal(alike[1], beside[1][:3])


def test_a_fingerprint_is_of_weights_and_configuration():
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=10)
    model = BertModel(config)
    before = fingerprint(model)
    model.config._name_or_path = "elsewhere"
    assert fingerprint(model) == before
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1e-6
    changed = fingerprint(model)
    assert changed != before
    model.config.layer_norm_eps = 1e-5
    assert fingerprint(model) not in (before, changed)
