"""Mel spectrograms and MFCC: librosa's values, the reference work's shape, one clip and many alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from ser_hf.models import SerSpectrogramFeatureExtractor
from ser_hf.models.feature_extraction_spectrogram import trimmed

RAVDESS = Path(__file__).parents[2] / "shared" / "realdata" / "ravdess"
SMALL = {"n_mels": 64, "n_mfcc": 13, "n_fft": 512, "win_length": 400, "hop_length": 160, "window_type": "hann"}


def voice() -> np.ndarray:
    """1.5 s at 8 kHz: five rising tones between near silences."""
    time = np.arange(12000) / 8000
    tones = enumerate((150, 430, 1210, 2600, 3700), start=1)
    sound = sum(np.sin(2 * np.pi * f * time * (1 + 0.05 * time)) / k for k, f in tones)
    return (sound * np.where((time > 0.35) & (time < 1.2), 0.2, 1e-4)).astype(np.float32)


# librosa 0.11.0 of voice(), trimmed by librosa.effects.trim(top_db=30): settings, shape, rows, frames, values there.
LIBROSA = [
    ({}, (128, 88), [0, 31, 63, 95, 127], [0, 29, 58, 87],
     [[-80.0, -44.4094, -46.075, -80.0], [-80.0, -48.846, -49.1448, -80.0], [-80.0, -55.3641, -56.5136, -80.0],
      [-80.0, -60.1646, -62.1834, -80.0], [-80.0, -18.7057, -19.0083, -80.0]]),
    ({"kind": "mfcc"}, (40, 88), [0, 9, 19, 29, 39], [0, 29, 58, 87],
     [[-690.5051, -362.3564, -360.7274, -690.5475], [-0.2393, -13.9471, -4.9062, -0.6119],
      [-2.0237, 17.6874, 4.8842, -0.9235], [1.6959, 0.0327, 14.5225, 2.6889], [0.0127, -19.8178, -3.8156, -0.6995]]),
    ({"kind": "mfcc", **SMALL}, (13, 55), [0, 3, 6, 9, 12], [0, 18, 36, 54],
     [[-546.7997, -393.0302, -394.174, -544.9127], [2.9476, 38.2446, 37.1044, 3.4373],
      [0.6239, -76.9007, -63.6791, -0.4128], [0.2327, -7.0968, -1.9366, -0.1833], [-1.1491, 37.97, 2.693, -3.4178]]),
]  # fmt: skip


@pytest.mark.parametrize("settings, shape, rows, frames, values", LIBROSA)
def test_values_stored_from_librosa(settings, shape, rows, frames, values):
    got = SerSpectrogramFeatureExtractor(**settings)(voice(), sampling_rate=8000)["input_features"][0]
    assert got.shape == shape and got.dtype == np.float32
    assert np.abs(got[np.ix_(rows, frames)] - values).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("kind", ["mel", "mfcc"])
@pytest.mark.parametrize("settings", [{}, SMALL], ids=["reference", "small"])
def test_librosa_itself(rate, kind, settings):
    librosa = pytest.importorskip("librosa")
    extractor = SerSpectrogramFeatureExtractor(sampling_rate=rate, kind=kind, **settings)
    clip, _ = librosa.effects.trim(voice(), top_db=30)
    mel = librosa.feature.melspectrogram(
        y=clip, sr=rate, n_fft=extractor.n_fft, win_length=extractor.win_length, hop_length=extractor.hop_length,
        window=extractor.window_type, n_mels=extractor.n_mels, fmax=rate / 2,
    )  # fmt: skip
    expected = librosa.power_to_db(mel, ref=np.max)
    if kind == "mfcc":
        expected = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=extractor.n_mfcc)
    got = extractor(voice(), sampling_rate=rate)["input_features"][0]
    assert got.shape == expected.shape and np.abs(got - expected).max() < 1e-3


@pytest.mark.skipif(not RAVDESS.is_dir(), reason="the real samples are not beside this checkout")
def test_reference_shape_on_ravdess():
    from ser_hf.data.audio import decode

    file = next(RAVDESS.rglob("Actor_01/03-01-01-01-01-02-01.wav"))
    extractor = SerSpectrogramFeatureExtractor()
    assert extractor(decode(file, 8000), sampling_rate=8000)["input_features"].shape == (1, 128, 118)


def test_trimming_by_hand():
    clip = np.zeros(10240, np.float32)
    clip[4096:6144] = 1.0
    # Frames of 2048 every 512, centred: those from 3072 (any overlap) to 7168 - 512 hear something; full overlap at
    # 5120. 3 dB below it are at least half of the samples: centres 4096 (exactly half, -3.01 dB: not) to 6144.
    assert len(trimmed(clip, 3.1)) == 6144 + 512 - 4096 and len(trimmed(clip, 3.0)) == 5632 + 512 - 4608
    silent = np.zeros(100, np.float32)
    assert len(trimmed(silent, 30.0)) == 100  # nothing is louder than anything


def test_a_batch_is_its_clips():
    extractor = SerSpectrogramFeatureExtractor()
    clips = [voice(), voice()[3000:6000], voice()[:240]]
    batch = extractor(clips, sampling_rate=8000, return_tensors="pt")
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert batch["input_features"].shape == (3, 128, max(lengths))
    for row, clip, length in zip(batch["input_features"], clips, lengths, strict=True):
        alone = extractor(clip, return_tensors="pt")
        assert "attention_mask" not in alone and alone["input_features"].shape[2] == length
        assert torch.equal(row[:, :length], alone["input_features"][0])
        assert (row[:, length:] == -80.0).all()  # the lowest there is
    same = torch.from_numpy(np.stack([voice(), voice()[::-1].copy()]))
    whole = SerSpectrogramFeatureExtractor(trim_db=None)
    assert torch.allclose(whole.extract(same)[1], whole(same[1].numpy(), return_tensors="pt")["input_features"][0])


def test_normalised_clips_have_zero_mean_and_unit_variance():
    values = SerSpectrogramFeatureExtractor(normalize="clip")(voice())["input_features"][0]
    assert abs(values.mean()) < 1e-4 and abs(values.std() - 1) < 1e-4
    louder = SerSpectrogramFeatureExtractor(normalize="clip", kind="mfcc")(10 * voice())["input_features"]
    assert np.isfinite(louder).all()


@pytest.mark.parametrize("normalize", ["none", "clip"])
def test_features_relative_to_a_speaker(normalize, tmp_path):
    extractor = SerSpectrogramFeatureExtractor(normalize=normalize, mean_spectrum=list(np.linspace(-40, -10, 128)))
    extractor.save_pretrained(tmp_path)
    extractor = SerSpectrogramFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.padding_value == 0.0  # relative to a mean there is no lowest value
    plain = SerSpectrogramFeatureExtractor()
    clips = [voice(), voice()[:6000]]
    raw = [plain(clip)["input_features"][0] for clip in clips]

    def by_hand(mean):
        values = raw[1] - mean[:, None]
        return values if normalize == "none" else (values - values.mean()) / values.std()

    assert np.allclose(extractor(clips[1])["input_features"][0], by_hand(np.linspace(-40, -10, 128)), atol=1e-4)
    adapted = extractor.adapted([*clips, np.zeros(800)])  # silence tells nothing of a voice
    mean = (raw[0].mean(axis=1) + raw[1].mean(axis=1)) / 2  # the long clip counts no more than the short one
    assert np.allclose(adapted(clips[1])["input_features"][0], by_hand(mean), atol=1e-4)
    assert not np.allclose(mean, np.linspace(-40, -10, 128), atol=1)
    assert extractor.mean_spectrum == list(np.linspace(-40, -10, 128))  # a copy was adapted
    # A line that passes each band by so many dB more or less, in all clips of a speaker, is not heard.
    line = torch.linspace(-20, 20, 128)
    values, mean = torch.from_numpy(raw[1]), torch.from_numpy(mean)
    through = extractor.scaled(values + line.unsqueeze(1), mean + line)
    assert torch.allclose(through, extractor.scaled(values, mean), atol=1e-4)


def test_speakers_are_refused_where_they_mean_nothing():
    with pytest.raises(ValueError, match="not trained with --speaker_norm"):
        SerSpectrogramFeatureExtractor().adapted([voice()])
    with pytest.raises(ValueError, match="no clips of the speaker, or only silent ones"):
        SerSpectrogramFeatureExtractor(mean_spectrum=[0.0] * 128).adapted([np.zeros(800), np.zeros(0)])
    with pytest.raises(ValueError, match="mean_spectrum of 3 values: must be 128"):
        SerSpectrogramFeatureExtractor(mean_spectrum=[0.0] * 3)


def test_saved_and_loaded_is_the_same(tmp_path):
    extractor = SerSpectrogramFeatureExtractor(kind="mfcc", trim_db=None, **SMALL)
    extractor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["auto_map"] == {
        "AutoFeatureExtractor": "feature_extraction_spectrogram.SerSpectrogramFeatureExtractor"
    }
    for loaded in (SerSpectrogramFeatureExtractor.from_pretrained(tmp_path),
                   AutoFeatureExtractor.from_pretrained(tmp_path, trust_remote_code=True)):  # fmt: skip
        assert loaded.to_dict() == extractor.to_dict() and loaded.feature_size == 13
        assert np.array_equal(loaded(voice())["input_features"], extractor(voice())["input_features"])


@pytest.mark.parametrize(
    "settings, message",
    [({"kind": "cqt"}, "kind 'cqt'"), ({"win_length": 2048}, "win_length 2048"),
     ({"kind": "mfcc", "n_mfcc": 200}, "n_mfcc 200"), ({"normalize": "batch"}, "normalize 'batch'")],
)  # fmt: skip
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SerSpectrogramFeatureExtractor(**settings)


def test_wrong_clips():
    extractor = SerSpectrogramFeatureExtractor()
    with pytest.raises(ValueError, match="16000 Hz: resample them to this extractor's 8000 Hz"):
        extractor(voice(), sampling_rate=16000)
    with pytest.raises(ValueError, match="at least one sample"):
        extractor(np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="unequal"):
        extractor([voice(), voice()[:8000]], padding=False)
