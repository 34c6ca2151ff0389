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


# librosa.effects.trim's frames in samples at 8 and 16 kHz that are those of audio_blocks.trim: 93 ms, at every sample.
TRIM = {8000: {"frame_length": 744, "hop_length": 1}, 16000: {"frame_length": 1486, "hop_length": 1}}
# librosa 0.11.0 of voice(), trimmed by librosa.effects.trim(top_db=30, **TRIM[8000]): settings, shape, rows, frames,
# values there.
LIBROSA = [
    ({}, (128, 76), [0, 31, 63, 95, 127], [0, 25, 50, 75],
     [[-80.0, -48.8652, -43.0121, -80.0], [-80.0, -56.8478, -51.6761, -80.0], [-80.0, -54.7699, -58.6798, -80.0],
      [-80.0, -68.2847, -65.57, -80.0], [-80.0, -18.6948, -20.5313, -80.0]]),
    ({"kind": "mfcc"}, (40, 76), [0, 9, 19, 29, 39], [0, 25, 50, 75],
     [[-690.6475, -389.7568, -386.4748, -689.8546], [-0.3949, -13.4614, -0.5245, -0.367],
      [-1.9796, 14.8868, 9.3126, -0.9978], [1.8224, 1.0502, 13.4074, 3.5179], [-0.0105, -17.257, -7.1504, -0.3449]]),
    ({"kind": "mfcc", **SMALL}, (13, 48), [0, 3, 6, 9, 12], [0, 16, 32, 47],
     [[-547.1738, -392.7001, -394.1947, -546.2125], [2.9816, 39.0313, 37.478, 3.0389],
      [0.8652, -76.0889, -66.8093, 0.1233], [-0.1137, -6.4777, -3.3797, -0.2633], [-1.5882, 37.7805, 6.0593, -2.7957]]),
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
    """The reference work's 108 frames, and one more: it trimmed on a grid."""
    from ser_hf.data.audio import decode

    file = next(RAVDESS.rglob("Actor_01/03-01-01-01-01-02-01.wav"))
    extractor = SerSpectrogramFeatureExtractor()
    assert extractor(decode(file, 8000), sampling_rate=8000)["input_features"].shape == (1, 109, 128)


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
