"""The collator computes what the feature extractor does, and a clip that cannot be read is dealt with."""

import logging
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments, Wav2Vec2FeatureExtractor

from ser_hf.data import cache
from ser_hf.data.audio import AudioError, float_samples, read_clip, scan
from ser_hf.data.augmentation import Augmentation
from ser_hf.data.collators import SpeechCollator, _normalize, encoder_input, padded


def reference(clips, **options):
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, **options)
    return extractor(clips, sampling_rate=16000, padding=True, return_tensors="pt")


@pytest.mark.parametrize("kind", ["int16", "float32", "one of each"])
@pytest.mark.parametrize("options", [{}, {"padding_value": -3.0}, {"do_normalize": False}])
@pytest.mark.parametrize("lengths", [(4000, 16000, 9000), (800, 800), (1, 5)])
def test_equals_the_feature_extractor(lengths, options, kind):
    rng = np.random.default_rng(0)
    clips = [np.rint(rng.normal(9000, 3000, n)).astype(np.int16) for n in lengths]
    theirs = reference([float_samples(clip) for clip in clips], **options)
    floats = {"int16": 0, "float32": len(clips), "one of each": 1}[kind]
    samples = padded([float_samples(clip) for clip in clips[:floats]] + clips[floats:])
    assert samples["input_values"].dtype == (torch.float32 if floats else torch.int16)
    before = samples["input_values"].clone()
    scaling = options.get("do_normalize", True), options.get("padding_value", 0.0)
    ours = encoder_input({**samples, "scaling": scaling, "labels": torch.tensor([1])})
    assert (ours["input_values"] - theirs["input_values"]).abs().max() < 1e-5
    if len(set(lengths)) > 1:
        assert torch.equal(ours["attention_mask"], theirs["attention_mask"])
    else:
        assert "attention_mask" not in ours  # nothing is padded: the fast attention path
    assert {*ours} - {"attention_mask"} == {"input_values", "labels"} and encoder_input(ours) is ours
    assert torch.equal(samples["input_values"], before)


def test_all_rows_at_once_equal_the_feature_extractor():
    """As on a GPU, which computes the padding too rather than wait."""
    clips = [np.random.default_rng(n).normal(0.3, 0.1, n).astype(np.float32) for n in (4000, 16000, 9000)]
    values, lengths = padded(clips).values()
    _normalize(values, lengths.unsqueeze(-1), torch.arange(16000) >= lengths.unsqueeze(-1))
    assert (values - reference(clips)["input_values"]).abs().max() < 1e-5


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


def corpus(folder, rate: int, subtype: str = "PCM_16") -> list[dict]:
    """Rows of five clips with a faint noise after a loud one, and their hashes."""
    made = []
    for i, seconds in enumerate((0.5, 1.1, 0.8, 1.1, 0.3)):
        rng, path = np.random.default_rng(i), str(folder / f"{i}.wav")
        samples = rng.normal(0.01, 0.1, round(rate * seconds)) * np.repeat([1, 1e-3], round(rate * seconds / 2))
        sf.write(path, samples, rate, subtype=subtype)
        audio = {"bytes": None, "path": path}
        made.append({"id": str(i), "audio": audio, "label": i, "audio_hash": scan(path)["audio_hash"]})
    return made


def read_all(made, **options) -> list[np.ndarray]:
    return [read_clip(row["audio"], 16000, **options) for row in made]


def assert_equal(ours, theirs):
    assert (ours["input_values"] - theirs["input_values"]).abs().max() < 1e-5
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_trainer_normalises_what_the_loader_gives(workers, subtype, tmp_path):
    """Samples as the file holds them, in any number of workers; the same as of the collator, for any other Trainer."""
    from datasets import Dataset

    from ser_hf.training.trainer import SerTrainer

    made, arguments = corpus(tmp_path, 16000, subtype), {"use_cpu": True, "dataloader_num_workers": workers}
    trainer = SerTrainer(
        model=torch.nn.Linear(1, 1),
        args=TrainingArguments(str(tmp_path / "out"), **arguments),
        data_collator=SpeechCollator(Wav2Vec2FeatureExtractor(), trim_db=40.0, augmentation=Augmentation(spec_p=1.0)),
        budget=100.0,
    )
    rows = Dataset.from_list([row | {"duration": 2.0 - i} for i, row in enumerate(made)])
    (batch,) = trainer.get_eval_dataloader(rows)
    assert batch["input_values"].dtype == (torch.int16 if subtype == "PCM_16" else torch.float32)
    clips = read_all(made, trim_db=40.0)
    assert batch["lengths"].tolist() == [len(clip) for clip in clips] and len(clips[1]) < 0.6 * 16000
    assert_equal(trainer._prepare_inputs(batch), reference(clips))
    assert_equal(trainer.eval_collator(made), reference(clips))


def test_augmented_waveforms_travel_as_floats(tmp_path):
    """Otherwise a change of the level would be one of an integer."""
    collator = SpeechCollator(
        Wav2Vec2FeatureExtractor(do_normalize=False), augmentation=Augmentation(gain_p=1.0, gain_db=[-6.0])
    )
    batch = collator.compact(made := corpus(tmp_path, 16000))
    assert batch["input_values"].dtype == torch.float32
    for row, clip in zip(batch["input_values"], read_all(made), strict=True):
        assert np.array_equal(row[: len(clip)].numpy(), clip * np.float32(10 ** (-6 / 20)))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "clips").mkdir()
    return tmp_path / "cache"


def files(home) -> list:
    return sorted(path for folder in home.glob("resampled-*") for path in folder.iterdir())


def test_a_clip_is_resampled_once(home, tmp_path):
    """By two workers at once, into files of the float32 samples; afterwards the very same without the corpus."""
    made = corpus(tmp_path / "clips", 48000)
    plain = SpeechCollator(Wav2Vec2FeatureExtractor(), keep_resampled=False)(made)
    assert not home.exists()
    collator = SpeechCollator(Wav2Vec2FeatureExtractor())
    batches = list(DataLoader(made * 2, batch_size=5, collate_fn=collator, num_workers=2))
    assert [path.name for path in files(home)] == sorted(f"{row['audio_hash']}.safetensors" for row in made)
    assert sum(path.stat().st_size for path in files(home)) < 1.01 * sum(4 * len(clip) for clip in read_all(made))
    shutil.rmtree(tmp_path / "clips")
    for batch in (*batches, collator(made)):
        assert all(torch.equal(batch[name], plain[name]) for name in plain)
    with pytest.raises(AudioError, match="no such file"):  # a window is resampled by itself
        collator([made[0] | {"window_start": 0.0, "window_end": 0.2}])


def test_clips_at_the_encoder_s_rate_are_not_kept(home, tmp_path):
    SpeechCollator(Wav2Vec2FeatureExtractor())(corpus(tmp_path / "clips", 16000))
    assert not files(home)


def test_an_interrupted_cache_changes_no_sample(home, tmp_path, caplog, monkeypatch):
    """What a killed process has left, a damaged file, and a full disk, on which one warning is enough."""
    made, collator = corpus(tmp_path / "clips", 48000), SpeechCollator(Wav2Vec2FeatureExtractor())
    whole = collator(made)["input_values"]
    first, second, third, *_ = files(home)
    first.rename(first.with_suffix(".part"))
    second.write_bytes(second.read_bytes()[:5000])
    third.write_bytes(b"")
    assert torch.equal(collator(made)["input_values"], whole)
    assert caplog.text.count("damaged") == 2 and len(files(home)) == len(made) + 1
    shutil.rmtree(home)
    monkeypatch.setattr(cache, "ROOM", 2**70)
    assert torch.equal(collator(made)["input_values"], whole) and not files(home)
    assert caplog.text.count("resampled in every epoch") == 1
