"""Mel spectrograms and MFCC: librosa's values, the reference work's shape, one clip and many alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from ser_hf.models import ClipWhisperFeatureExtractor, SerSpectrogramFeatureExtractor

RAVDESS = Path(__file__).parents[2] / "shared" / "realdata" / "ravdess"
SMALL = {"n_mels": 64, "n_mfcc": 13, "n_fft": 512, "win_length": 400, "hop_length": 160, "window_type": "hann"}


def voice() -> np.ndarray:
    """1.5 s at 8 kHz: five rising tones between near silences."""
    time = np.arange(12000) / 8000
    tones = enumerate((150, 430, 1210, 2600, 3700), start=1)
    sound = sum(np.sin(2 * np.pi * f * time * (1 + 0.05 * time)) / k for k, f in tones)
    return (sound * np.where((time > 0.35) & (time < 1.2), 0.2, 1e-4)).astype(np.float32)


# librosa.effects.trim's frames in samples at 8 and 16 kHz that are those of audio_blocks.trim, 93 ms every 23 ms.
TRIM = {8000: {"frame_length": 744, "hop_length": 186}, 16000: {"frame_length": 1488, "hop_length": 372}}
# librosa 0.11.0 of voice(), trimmed by librosa.effects.trim(top_db=30, **TRIM[8000]): settings, shape, rows, frames,
# values there.
LIBROSA = [
    ({}, (128, 75), [0, 31, 63, 95, 127], [0, 25, 49, 74],
     [[-44.4738, -45.8838, -42.8253, -80.0], [-47.744, -49.8069, -50.9742, -80.0],
      [-42.2286, -57.2465, -55.6327, -80.0], [-61.1262, -60.0771, -69.5966, -80.0],
      [-52.5731, -18.9607, -20.2084, -80.0]]),
    ({"kind": "mfcc"}, (40, 75), [0, 9, 19, 29, 39], [0, 25, 49, 74],
     [[-342.4196, -366.2621, -393.4695, -689.8158], [-4.4252, -18.3174, 2.7307, -0.38],
      [5.6537, 16.2696, 8.0151, -0.9239], [-0.9858, 0.5283, 12.4918, 3.551], [-2.5847, -18.5701, -7.426, -0.401]]),
    ({"kind": "mfcc", **SMALL}, (13, 47), [0, 3, 6, 9, 12], [0, 15, 31, 46],
     [[-546.7808, -393.7112, -393.8636, -544.8684], [3.127, 37.3661, 38.105, 3.5262],
      [0.7081, -75.3256, -66.2217, -0.5028], [0.2069, -5.7071, -2.8219, -0.1627], [-1.301, 36.1723, 6.3035, -3.3561]]),
]  # fmt: skip


@pytest.mark.parametrize("settings, shape, rows, frames, values", LIBROSA)
def test_values_stored_from_librosa(settings, shape, rows, frames, values):
    got = SerSpectrogramFeatureExtractor(**settings)(voice(), sampling_rate=8000)["input_features"][0]
    got = got.T  # as librosa
    assert got.shape == shape and got.dtype == np.float32
    assert np.abs(got[np.ix_(rows, frames)] - values).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("kind", ["mel", "mfcc"])
@pytest.mark.parametrize("settings", [{}, SMALL], ids=["reference", "small"])
def test_librosa_itself(rate, kind, settings):
    librosa = pytest.importorskip("librosa")
    extractor = SerSpectrogramFeatureExtractor(sampling_rate=rate, kind=kind, **settings)
    clip, _ = librosa.effects.trim(voice(), top_db=30, **TRIM[rate])
    mel = librosa.feature.melspectrogram(
        y=clip, sr=rate, n_fft=extractor.n_fft, win_length=extractor.win_length, hop_length=extractor.hop_length,
        window=extractor.window_type, n_mels=extractor.n_mels, fmax=rate / 2,
    )  # fmt: skip
    expected = librosa.power_to_db(mel, ref=np.max)
    if kind == "mfcc":
        expected = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=extractor.n_mfcc)
    got = extractor(voice(), sampling_rate=rate)["input_features"][0].T
    assert got.shape == expected.shape and np.abs(got - expected).max() < 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not RAVDESS.is_dir(), reason="the real samples are not beside this checkout")
def test_reference_shape_on_ravdess():
    from ser_hf.data.audio import decode

    file = next(RAVDESS.rglob("Actor_01/03-01-01-01-01-02-01.wav"))
    extractor = SerSpectrogramFeatureExtractor()
    assert extractor(decode(file, 8000), sampling_rate=8000)["input_features"].shape == (1, 108, 128)


def test_a_batch_is_its_clips():
    extractor = SerSpectrogramFeatureExtractor()
    clips = [voice(), voice()[3000:6000], voice()[:240]]
    batch = extractor(clips, sampling_rate=8000, return_tensors="pt")
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert batch["input_features"].shape == (3, max(lengths), 128)
    for row, clip, length in zip(batch["input_features"], clips, lengths, strict=True):
        alone = extractor(clip, return_tensors="pt")
        assert alone["attention_mask"].all() and alone["input_features"].shape[1] == length
        assert torch.equal(row[:length], alone["input_features"][0])
        assert (row[length:] == -80.0).all()  # the lowest there is
    same = torch.from_numpy(np.stack([voice(), voice()[::-1].copy()]))
    whole = SerSpectrogramFeatureExtractor(trim_db=None)
    assert torch.allclose(
        whole.scaled(whole.spectra(same))[1], whole(same[1].numpy(), return_tensors="pt")["input_features"][0]
    )


@pytest.mark.parametrize("kind", ["spectrogram", "whisper"])
def test_pad_pads_time(kind):
    """As every feature extractor of transformers: what its Trainer and pipelines call."""
    extractor = SerSpectrogramFeatureExtractor(trim_db=None)
    if kind == "whisper":
        extractor = ClipWhisperFeatureExtractor(feature_size=128, sampling_rate=8000, hop_length=100)
    clips = [voice(), voice()[:6000]]

    def time_first(values):
        return values.swapaxes(-1, -2) if kind == "whisper" else values

    alone = [extractor(clip)["input_features"][0] for clip in clips]
    frames = [len(time_first(values)) for values in alone]
    assert frames[0] > frames[1] and time_first(alone[0]).shape[1] == 128
    for given in ({"input_features": alone}, [{"input_features": values} for values in alone]):
        batch = extractor.pad(given, return_attention_mask=True, return_tensors="pt")
        values = time_first(batch["input_features"]).numpy()
        assert values.shape == (2, frames[0], 128) and batch["attention_mask"].sum(dim=1).tolist() == frames
        for row, one, length in zip(values, alone, frames, strict=True):
            assert np.array_equal(row[:length], time_first(one)) and (row[length:] == extractor.padding_value).all()
    hop = extractor.hop_length
    cut = extractor(clips, padding="max_length", max_length=8000, truncation=True, return_attention_mask=True)
    values = time_first(cut["input_features"])
    assert values.shape[1] in (8000 // hop, 8000 // hop + 1)
    assert np.array_equal(values[0], time_first(alone[0])[: values.shape[1]])
    assert cut["attention_mask"].sum(axis=1).tolist() == [values.shape[1], frames[1]]


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
        values = raw[1] - mean
        return values if normalize == "none" else (values - values.mean()) / values.std()

    assert np.allclose(extractor(clips[1])["input_features"][0], by_hand(np.linspace(-40, -10, 128)), atol=1e-4)
    adapted = extractor.adapted([*clips, np.zeros(800)])  # silence tells nothing of a voice
    mean = (raw[0].mean(axis=0) + raw[1].mean(axis=0)) / 2  # the long clip counts no more than the short one
    assert np.allclose(adapted(clips[1])["input_features"][0], by_hand(mean), atol=1e-4)
    assert not np.allclose(mean, np.linspace(-40, -10, 128), atol=1)
    assert extractor.mean_spectrum == list(np.linspace(-40, -10, 128))  # a copy was adapted
    # A line that passes each band by so many dB more or less, in all clips of a speaker, is not heard.
    line = torch.linspace(-20, 20, 128)
    values, mean = torch.from_numpy(raw[1]), torch.from_numpy(mean)
    through = extractor.scaled(values + line, mean + line)
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
