"""The collator computes what the feature extractor does, and a clip that cannot be read is dealt with."""

import logging

import numpy as np
import pytest
import soundfile as sf
import torch
from transformers import Wav2Vec2FeatureExtractor

from ser_hf.data.audio import AudioError, float_samples
from ser_hf.data.collators import SpeechCollator, encoder_input, padded


def reference(clips, **options):
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, **options)
    return extractor(clips, sampling_rate=16000, padding=True, return_tensors="pt")


@pytest.mark.parametrize("kind", ["int16", "float32", "one of each"])
@pytest.mark.parametrize("options", [{}, {"padding_value": -3.0}, {"do_normalize": False}])
@pytest.mark.parametrize("lengths", [(4000, 16000, 9000), (800, 800), (1, 5)])
def test_equals_the_feature_extractor(lengths, options, kind, monkeypatch):
    """On a CPU, and as another device computes it, all rows at once."""
    rng = np.random.default_rng(0)
    clips = [np.rint(rng.normal(9000, 3000, n)).astype(np.int16) for n in lengths]
    theirs = reference([float_samples(clip) for clip in clips], **options)
    float32 = {"int16": 0, "float32": len(clips), "one of each": 1}[kind]
    clips = [float_samples(clip) for clip in clips[:float32]] + clips[float32:]
    scaling = options.get("do_normalize", True), options.get("padding_value", 0.0)
    samples = padded(clips)
    assert samples["input_values"].dtype == (torch.float32 if float32 else torch.int16)
    batch = {**samples, "scaling": scaling, "labels": torch.tensor([1])}
    before = samples["input_values"].clone()
    here = encoder_input(batch)
    monkeypatch.setattr(torch.Tensor, "device", torch.device("meta"))
    monkeypatch.setattr(torch.Tensor, "tolist", lambda one: pytest.fail("waits for the device"))
    arange = torch.arange
    monkeypatch.setattr(torch, "arange", lambda *args, device: arange(*args))
    there = encoder_input(batch)
    monkeypatch.undo()
    for ours in (here, there):
        assert (ours["input_values"] - theirs["input_values"]).abs().max() < 1e-5
        if len(set(lengths)) > 1:
            assert torch.equal(ours["attention_mask"], theirs["attention_mask"])
        else:
            assert "attention_mask" not in ours  # nothing is padded: the fast attention path
        assert sorted(ours.keys() - {"attention_mask"}) == ["input_values", "labels"]
    assert torch.equal(samples["input_values"], before) and encoder_input(here) is here


def test_silence_gives_zeros_not_nan():
    batch = {**padded([np.zeros(100, dtype=np.int16)]), "scaling": (True, 0.0)}
    assert encoder_input(batch)["input_values"].tolist() == [[0.0] * 100]


def rows(tmp_path):
    good = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for i, path in enumerate(good):
        sf.write(path, np.random.default_rng(i).normal(0, 0.1, 8000 * (i + 1)), 16000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    paths = [good[0], tmp_path / "bad.wav", good[1]]
    return [{"id": p.stem, "audio": {"bytes": None, "path": str(p)}, "label": i} for i, p in enumerate(paths)]


def test_batch_of_files(tmp_path):
    made = rows(tmp_path)
    batch = SpeechCollator(Wav2Vec2FeatureExtractor())([made[0], made[2]])
    assert batch["input_values"].shape == (2, 16000) and batch["labels"].tolist() == [0, 2]
    assert batch["attention_mask"].sum(1).tolist() == [8000, 16000]


def test_unreadable_clip_is_skipped_in_training_and_an_error_in_evaluation(tmp_path, caplog):
    made = rows(tmp_path)
    with caplog.at_level(logging.WARNING):
        batch = SpeechCollator(Wav2Vec2FeatureExtractor(), skip_unreadable=True)(made)
    assert batch["labels"].tolist() == [0, 2] and "bad.wav" in caplog.text
    with pytest.raises(AudioError, match="bad.wav"):
        SpeechCollator(Wav2Vec2FeatureExtractor())(made)
    with pytest.raises(AudioError, match="none of the 1 clips"):
        SpeechCollator(Wav2Vec2FeatureExtractor(), skip_unreadable=True)(made[1:2])
