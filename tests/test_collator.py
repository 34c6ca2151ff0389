"""The collator computes what the feature extractor does, and a clip that cannot be read is dealt with."""

import logging

import numpy as np
import pytest
import soundfile as sf
import torch
from transformers import Wav2Vec2FeatureExtractor

from ser_hf.data.audio import AudioError
from ser_hf.data.collators import SpeechCollator, pad_and_normalize


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("lengths", [(4000, 16000, 9000), (800, 800), (1, 5)])
def test_equals_the_feature_extractor(lengths, normalize):
    rng = np.random.default_rng(0)
    clips = [rng.normal(0.3, 0.1, n).astype(np.float32) for n in lengths]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    theirs = extractor(clips, sampling_rate=16000, padding=True, return_tensors="pt")
    ours = pad_and_normalize(clips, normalize)
    assert (ours["input_values"] - theirs["input_values"]).abs().max() < 1e-5
    if len(set(lengths)) > 1:
        assert torch.equal(ours["attention_mask"], theirs["attention_mask"].long())
    else:
        assert "attention_mask" not in ours  # nothing is padded: the fast attention path


def test_silence_gives_zeros_not_nan():
    assert pad_and_normalize([np.zeros(100, dtype=np.float32)], True)["input_values"].tolist() == [[0.0] * 100]


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
