"""Trimming, cropping and shortest lengths, against a literal copy of librosa's arithmetic and values by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from datasets import Dataset, Value
from transformers import TrainingArguments, Wav2Vec2FeatureExtractor

from ser_hf.data.audio import crop, read_clip, scan, zero_pad
from ser_hf.data.collators import SpeechCollator
from ser_hf.data.trimming import trimmed_durations
from ser_hf.errors import SerError
from ser_hf.models.audio_blocks import trim, trimmed
from ser_hf.training.audio_model import with_copies
from ser_hf.training.encoder_states import AudioReader
from ser_hf.training.settings import ClipArguments
from ser_hf.training.trainer import SerTrainer

SCANNED = ("duration", "audio_hash")


def by_hand(samples, trim_db):
    """librosa.effects.trim at 22.05 kHz, with a frame around every sample, and without its floor of 1e-5."""
    padded = np.pad(samples.astype(np.float64), 1024)
    rms = np.sqrt([np.mean(padded[at : at + 2048] ** 2) for at in range(len(samples))])
    loud = np.flatnonzero(20 * np.log10(rms / rms.max() + 1e-300) > -trim_db)
    return loud[0], loud[-1] + 1


def drawn(seed):
    """A clip of 22.05 kHz whose level wanders."""
    rng = np.random.default_rng(seed)
    level = np.interp(np.arange(30000), np.sort(rng.uniform(0, 30000, 8)), rng.uniform(-80, 0, 8))
    return (rng.normal(0, 0.1, 30000) * 10 ** (level / 20)).astype(np.float32)


@pytest.mark.parametrize("trim_db", [10.0, 30.0, 60.0])
def test_the_frames_are_librosas_around_every_sample(trim_db):
    for seed in range(2):
        samples = drawn(seed)
        assert trim(samples, 22050, trim_db) == by_hand(samples, trim_db)


@pytest.mark.parametrize("before, after", [(100, 0), (1000, 0), (0, 500), (16001, 7)])
def test_zeros_at_the_ends_change_no_sample(before, after):
    """Neither of a clip that wanders nor of one that begins and ends loud."""
    for samples in (drawn(0), np.random.default_rng(1).normal(0, 0.1, 5000).astype(np.float32)):
        changed = np.pad(samples, (before, after))
        assert trimmed(changed, 22050, 30.0).tolist() == trimmed(samples, 22050, 30.0).tolist()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
def test_a_tone_between_silences(rate):
    """1 s to 2 s: at most half a frame (46 ms) more is kept on each side, nothing of it is lost."""
    samples = np.random.default_rng(0).normal(0, 1e-5, 3 * rate).astype(np.float32)
    samples[rate : 2 * rate] += 0.2 * np.sin(2 * np.pi * 300 * np.arange(rate) / rate).astype(np.float32)
    start, end = trim(samples, rate)
    assert 1.0 - 0.047 <= start / rate <= 1.0 and 2.0 <= end / rate <= 2.0 + 0.047
    assert type(start) is type(end) is int


@pytest.mark.parametrize("level", [1.0, 1e-2, 1e-6])
def test_quiet_clips_are_trimmed_as_loud_ones_are(level):
    """RAVDESS peaks at 0.02 in places; with librosa's floor of 1e-5 a clip below 3e-4 would not be trimmed at all."""
    samples = np.random.default_rng(0).normal(0, 1e-4, 48000).astype(np.float32)
    samples[16000:32000] *= 1000
    start, end = trim(samples * np.float32(level), 16000)
    assert (start, end) == trim(samples, 16000)
    # Half a frame is 743 samples; 30 dB below the loudest a frame holds one or two samples of the loud part, or a few.
    assert 16000 - 743 < start < 16000 - 733 and 32000 + 733 < end < 32000 + 743


def test_the_exported_graph_trims_alike():
    """A batch of unequal clips, one with zeros at its ends and one of zeros alone."""
    import torch

    from ser_hf.publish.graph import _trimmed

    clips = [drawn(0), drawn(1)[:20000], np.pad(drawn(2)[:9000], (700, 300)), np.zeros(4000, np.float32)]
    lengths = torch.tensor([len(clip) for clip in clips])
    batch = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    for found, length, clip in zip(*_trimmed(batch, lengths, 22050, 30.0), clips, strict=True):
        assert found[:length].tolist() == trimmed(clip, 22050, 30.0).tolist() and not found[length:].any()


def test_something_always_stays():
    assert trim(np.zeros(16000, dtype=np.float32), 16000) == (0, 16000)
    for length in (1, 2, 100, 800):
        assert trim(np.full(length, 0.1, dtype=np.float32), 16000) == (0, length)
    rng = np.random.default_rng(0)
    for at in [0, 15999, *rng.integers(0, 16000, 50)]:
        impulse = np.zeros(16000, dtype=np.float32)
        impulse[at] = 1.0
        start, end = trim(impulse, 16000, 1e-3)
        assert 0 <= start < end <= 16000
        assert start - 744 <= at < end + 744  # half a frame


@pytest.mark.parametrize("trim_db", [0, -3, float("nan")])
def test_trim_db_must_be_above_0(trim_db):
    from transformers import Wav2Vec2FeatureExtractor

    from ser_hf.data.collators import SpeechCollator
    from ser_hf.models import SerSpectrogramFeatureExtractor

    for use in (
        lambda: trim(np.ones(10), 16000, trim_db),
        lambda: SerSpectrogramFeatureExtractor(trim_db=trim_db),
        lambda: read_clip("gone.wav", 16000, trim_db),
        lambda: SpeechCollator(Wav2Vec2FeatureExtractor(), trim_db=trim_db),
    ):
        with pytest.raises((ValueError, SerError), match=f"trim_db {trim_db}: must be above 0"):
            use()


def test_a_clip_is_read_trimmed_changed_cropped_and_padded_in_this_order(tmp_path):
    """1 s of a tone between two silences of 1 s, at 16 kHz: of digital silence nothing stays."""
    import soundfile as sf

    samples = np.zeros(48000, dtype=np.int16)
    samples[16000:32000] = 1000
    sf.write(tmp_path / "a.wav", samples, 16000)
    path, expected = tmp_path / "a.wav", samples / np.float32(32768)
    assert read_clip(path, 16000).tolist() == expected.tolist()
    assert read_clip(path, 16000, 30.0).tolist() == expected[16000:32000].tolist()
    assert len(read_clip(path, 16000, 30.0, start=0.5, end=1.5)) == 16000  # a part is not trimmed
    lengths = []
    changed = read_clip(path, 16000, 30.0, 2.0, 0.5, change=lambda clip: lengths.append(len(clip)) or clip[::-1])
    assert lengths == [16000] and len(changed) == 32000 and not changed[8000:].any()
    # 16000 - 8000 = 8000 spare samples, half of them before the centre crop, of the reversed clip
    assert changed[:8000].tolist() == expected[16000:32000][::-1][4000:12000].tolist()
    draws = {read_clip(path, 16000, None, 0, 0.5, generator=np.random.default_rng(seed)).sum() for seed in range(9)}
    assert len(draws) > 3


def test_crop():
    samples = np.arange(100)
    assert crop(samples, 1.0, 40).tolist() == list(range(30, 70))
    assert crop(samples, 2.5, 40) is samples and crop(samples, 9, 40) is samples
    assert len(crop(samples, 0.001, 40)) == 1
    starts = [crop(samples, 1.0, 97, np.random.default_rng(seed)) for seed in range(200)]
    assert {len(part) for part in starts} == {97} and {int(part[0]) for part in starts} == {0, 1, 2, 3}
    twice = [crop(samples, 1.0, 10, np.random.default_rng(3)) for _ in range(2)]
    assert twice[0].tolist() == twice[1].tolist()
    for seconds in (0, -1, float("nan")):
        with pytest.raises(SerError, match="crop: "):
            crop(samples, seconds, 40)


def test_zero_pad():
    clip = np.ones(3, dtype=np.float32)
    assert zero_pad(clip, 3) is clip
    assert zero_pad(clip, 5).tolist() == [1, 1, 1, 0, 0] and zero_pad(clip, 5).dtype == np.float32


def test_every_recipe_and_predict_trim_a_clip_alike(tmp_path, monkeypatch):
    """What reaches each encoder or network of one clip: trimmed first, then cropped to its centre, then zero-padded."""
    import soundfile as sf
    from transformers import Wav2Vec2FeatureExtractor

    from ser_hf.data.collators import SpeechCollator
    from ser_hf.models import (
        SerForSpectrogramClassification,
        SerPipeline,
        SerSpectrogramConfig,
        SerSpectrogramFeatureExtractor,
    )
    from ser_hf.models.whisper import ClipWhisperFeatureExtractor
    from ser_hf.training.audio_model import saved_extractor
    from ser_hf.training.encoder_states import AudioReader, trims
    from ser_hf.training.settings import ClipArguments
    from ser_hf.training.spectrogram_model import FeatureCollator

    level = np.repeat([0.0001, 0.1, 0.02, 0.00001], 12000)
    samples = (np.random.default_rng(0).normal(0, 1, 48000) * level).astype(np.float32)
    sf.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    row, path = {"id": "a", "audio": str(tmp_path / "a.wav"), "label": 0}, str(tmp_path / "a.wav")
    first, last = trim(samples, 16000, 30.0)
    assert 12000 - 743 < first < 12000 - 733 and 36000 + 690 < last < 36000 + 743
    plain = Wav2Vec2FeatureExtractor(do_normalize=False)
    spectrogram = SerSpectrogramFeatureExtractor(sampling_rate=16000, n_mels=16, trim_db=30.0)
    read = []
    spectra = SerSpectrogramFeatureExtractor.spectra
    note = lambda self, clips: read.append(clips[0].numpy()) or spectra(self, clips)  # noqa: E731
    monkeypatch.setattr(SerSpectrogramFeatureExtractor, "spectra", note)
    mel = ClipWhisperFeatureExtractor._torch_extract_fbank_features
    keep = lambda self, clip, *more: read.append(clip) or mel(self, clip, *more)  # noqa: E731
    monkeypatch.setattr(ClipWhisperFeatureExtractor, "_torch_extract_fbank_features", keep)
    for clips in (ClipArguments(30.0), ClipArguments(30.0, max_seconds=1.0), ClipArguments(30.0, min_seconds=2.0)):
        expected = samples[first:last]
        if clips.max_seconds:
            spare = (last - first - 16000) // 2
            expected = samples[first + spare : first + spare + 16000]
        if clips.min_seconds:
            expected = np.pad(expected, (0, 32000 - len(expected)))
        same = {"min_seconds": clips.min_seconds, "max_seconds": clips.max_seconds}
        wave = SpeechCollator(plain, **vars(clips))([row])["input_values"][0].numpy()
        probe = AudioReader(plain, clips).inputs([row])["inputs"][0].numpy()
        FeatureCollator(spectrogram, None, **same)([row])
        for found in (wave, probe, read[-1]):
            assert np.array_equal(found, expected)
    # what is saved: the extractors that can trim do so in the pipeline, on the whole clip
    model = SerForSpectrogramClassification(SerSpectrogramConfig(arch="cnn1d_3", rows=16))
    SerPipeline(model, feature_extractor=spectrogram)(path)
    assert np.array_equal(read[-1], samples[first:last])
    whisper = saved_extractor(ClipWhisperFeatureExtractor(), ClipArguments(30.0))
    whisper(samples)
    assert np.array_equal(read[-1][: last - first], samples[first:last]) and not read[-1][last - first :].any()
    with pytest.raises(SerError, match="the checkpoint trims clips itself, at 30 dB; leave it out"):
        trims(whisper, ClipArguments(20.0))


def test_batches_are_made_by_what_trimming_leaves(tmp_path, monkeypatch):
    """36 files of 4 s hold 1 or 2 s of a tone. By their files 36 s hold 9 clips; by their tones 36 or 18."""
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    rows = []
    for number in range(36):
        samples = np.zeros(64000, np.float32)
        tone = 0.2 * np.sin(np.arange(16000 * (1 + number % 2)) * 0.1)
        samples[16000 : 16000 + len(tone)] = tone + number * 1e-4
        path = str(tmp_path / f"{number}.wav")
        sf.write(path, samples, 16000)
        audio = {"path": path, "bytes": None}
        rows.append({"id": str(number), "audio": audio, "label": 0} | {name: scan(path)[name] for name in SCANNED})
    rows = Dataset.from_list(rows).cast_column("duration", Value("float32"))
    expected = [len(read_clip(row["audio"], 16000, trim_db=30.0)) / 16000 for row in rows]
    found = trimmed_durations(rows, 30.0)
    assert np.allclose(found, expected, atol=1e-6)
    assert trimmed_durations(rows, None) == [4.0] * 36

    clips, extractor = ClipArguments(trim_db=30.0), Wav2Vec2FeatureExtractor()
    trainer = SerTrainer(
        model=torch.nn.Linear(1, 1),
        args=TrainingArguments(str(tmp_path / "out"), use_cpu=True),
        train_dataset=rows,
        data_collator=SpeechCollator(extractor, **vars(clips)),
        budget=36.0,
        clips=clips,
    )
    batches = list(trainer.get_train_dataloader())
    assert sorted(len(batch["labels"]) for batch in batches) == [9, 9, 18]  # of two, the larger is halved for room
    for batch in batches:  # padding is what was planned, and all clips of a batch hold as much
        assert batch["read"][1] == pytest.approx(batch["input_values"].numel() / 16000)
        assert batch["read"][1] / batch["read"][0] < 1.001
    assert AudioReader(extractor, clips).lengths(rows) == pytest.approx(expected)
    trimming = SimpleNamespace(trim_db=30.0)  # a checkpoint's feature extractor that trims
    trainer.clips, trainer.processing_class = ClipArguments(), trimming
    assert trainer.lengths(rows).tolist() == pytest.approx(expected)

    copies = with_copies(rows, [0.5])
    assert np.allclose(trimmed_durations(copies, 30.0), expected + [2 * seconds for seconds in expected], atol=1e-6)
    windows = rows.add_column("window_start", [0.0] * 36)
    assert trimmed_durations(windows, 30.0) == [4.0] * 36

    monkeypatch.setattr("ser_hf.data.audio.read", lambda *given: pytest.fail("a clip was read twice"))
    assert trimmed_durations(rows, 30.0) == found
    monkeypatch.undo()
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "another"))
    Path(rows[5]["audio"]["path"]).unlink()
    assert np.allclose(trimmed_durations(rows, 30.0), expected[:5] + [4.0] + expected[6:], atol=1e-6)
