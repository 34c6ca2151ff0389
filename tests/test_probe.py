"""Frozen probes: a head is trained on cached hidden states, and the saved model answers audio with the same logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import settings_of, tiny_config
from ser_hf import load_corpus
from ser_hf.data.augmentation import speed
from ser_hf.data.splits import split
from ser_hf.errors import SerError
from ser_hf.models import SerConfig, SerForAudioClassification
from ser_hf.models.audio_blocks import trim
from ser_hf.models.encoders import describe_audio, extract
from ser_hf.models.pooling import POOLINGS, Scale
from ser_hf.models.whisper import ClipWhisperFeatureExtractor
from ser_hf.training import audio_model as audio_module
from ser_hf.training import encoder_states
from ser_hf.training.audio_model import (
    audio_model,
    audio_remarks,
    probe_states,
    saved_extractor,
    speech_collators,
    with_copies,
)
from ser_hf.training.encoder_states import (
    StateCollator,
    States,
    check_states,
    head_of,
    open_store,
    put_back,
    with_shifts,
)
from ser_hf.training.run import unlike_saved
from ser_hf.training.saved_model import stock_class
from ser_hf.training.settings import ClipArguments


@pytest.fixture(scope="module")
def parts():
    """A few utterances of the demo corpus, whose speakers are those of its first fold."""
    splits = split(load_corpus("demo"), "demo")
    return {name: rows.shuffle(seed=0).select(range(12)) for name, rows in splits.items()}


@pytest.fixture
def make(monkeypatch, tmp_path):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))

    def make(kind: str = "whisper", **config):
        torch.manual_seed(0)
        audio = tiny_config(kind, num_hidden_layers=2)
        config = {"num_labels": 4, "head_size": 8, "standardise": True, **config}
        model = SerForAudioClassification(SerConfig(audio_config=audio, **config))
        model.freeze_encoder()
        flags = ["--dataset", "demo", "--config", "none", "--freeze_encoder", "true", "--use_cpu", "true"]
        settings = settings_of("wav2vec2_cls", *flags, "--disable_tqdm", "true", "--output_dir", str(tmp_path / "run"))
        return model, describe_audio(audio).new_extractor(audio, False), settings

    return make


@torch.no_grad()
def by_audio(model, extractor, samples: np.ndarray) -> torch.Tensor:
    return model.eval()(**extract(extractor, [samples])).logits[0]


def samples_of(row: dict) -> np.ndarray:
    return encoder_states.read_clip(row, 16000, settings_of("wav2vec2_cls", "--dataset", "demo").clips)


HEADS = [{"pooling": name} for name in POOLINGS] + [
    {"layer_mix": "sum"},
    {"layer_mix": "sum", "layers": [0, 1], "pooling": "attentive"},
    {"layer_mix": "concat", "layers": [2, 1]},
    {"layer_mix": "concat", "pooling": "meanstd", "head": "mlp"},
    {"layer_mix": "sum", "pooling": "max", "head": "mlp"},
]


@pytest.mark.parametrize("config", HEADS, ids=str)
def test_audio_gives_the_logits_of_the_cache(config, parts, make):
    model, extractor, settings = make(**config)
    states = probe_states(model, extractor, parts, settings.clips, settings.training, 36.0)
    head, rows = head_of(model).eval(), parts["test"]
    assert head.encoder is None and states.half == (not model.pools_audio)
    with torch.no_grad():
        head.ser_classifier.weight += torch.randn_like(head.ser_classifier.weight)  # as if it were trained
        batch = StateCollator(states)(list(rows))
        cached = head(**{name: value for name, value in batch.items() if name != "labels"}).logits
    put_back(head, model)
    for row, logits in zip(rows, cached, strict=True):
        difference = (by_audio(model, extractor, samples_of(row)) - logits).abs().max()
        assert difference < (1e-2 if states.half else 1e-5) * max(1.0, float(logits.abs().max()))


def test_each_utterance_is_encoded_once_whatever_the_head_reads(parts, make, monkeypatch):
    encoded, fill = [], encoder_states.fill

    def counted(*args, **kwargs):
        encoded.append(fill(*args, **kwargs))
        return encoded[-1]

    monkeypatch.setattr(encoder_states, "fill", counted)
    for config in ({"layer_mix": "sum"}, {"layer_mix": "sum"}, {"layer_mix": "concat", "layers": [1]}, {}):
        model, extractor, settings = make(**config)
        probe_states(model, extractor, parts, settings.clips, settings.training, 36.0)
    distinct = {row for rows in parts.values() for row in rows["audio_hash"]}
    # The encoder's output, which is read without a mix, is more than its last layer: wav2vec2's has one more norm.
    assert encoded == [len(distinct), 0, 0, len(distinct)]


def test_scale_by_hand():
    scale = Scale(layers=1, dim=2)
    scale.fit([torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[2.0, 5.0], [4.0, 5.0]]])])  # clips count equally
    assert scale.mean.tolist() == [[2.0, 5.0]]
    assert torch.allclose(scale.std, torch.tensor([[1.5**0.5, 1.0]]))  # (1 + (4 + 16) / 2) / 2 - 2 ** 2; constant
    assert torch.allclose(scale(torch.tensor([[[[2.0 + 1.5**0.5, 7.0]]]])), torch.tensor([[[[1.0, 2.0]]]]))


def test_copies_have_another_speed_and_another_voice(parts, make):
    train = with_copies(parts["train"], [0.5, 2.0, 1.0])
    assert len(train) == 36 and len(set(train["id"])) == 36
    assert train[12]["duration"] == pytest.approx(2 * train[0]["duration"])
    model, extractor, settings = make()
    states = probe_states(model, extractor, {**parts, "train": train}, settings.clips, settings.training, 36.0)
    fast = speed(samples_of(parts["train"][0]), 2.0)
    assert train[24]["speed"] == 2.0 and train[0]["speed"] is None
    with torch.no_grad():
        alone, _ = model.eval().encode_audio(extract(extractor, [fast])["input_features"])
    assert torch.allclose(states.find("audio", train[24]), alone[0], atol=1e-5)
    assert states.voice(train[24]) == (train[0]["speaker"], 2.0)


@pytest.mark.parametrize("config", [{}, {"layer_mix": "sum", "pooling": "attentive"}], ids=str)
def test_a_speaker_norm_model_adapts_to_the_speaker(config, parts, make):
    """The figures of known speakers are those of the saved model, once it knows the speaker's clips."""
    model, extractor, settings = make(speaker_norm=True, **config)
    states = probe_states(
        model,
        extractor,
        {**parts, "train": with_copies(parts["train"], [0.9])},
        settings.clips,
        settings.training,
        36.0,
    )
    test, head = parts["test"], head_of(model).eval()
    speaker = test[0]["speaker"]
    own = [row for row in test if row["speaker"] == speaker]
    centred = torch.stack([states.find("audio", row).double().mean(dim=1) for row in own]).mean(dim=0)
    # Relative to their speaker, the clips of any speaker have the mean of an average training speaker.
    assert torch.allclose(centred, model.ser_scale.mean.double(), atol=1e-2 if states.half else 1e-5)
    unknown = by_audio(model, extractor, samples_of(own[0]))
    model.adapt([samples_of(row) for row in own], extractor)
    with torch.no_grad():
        batch = StateCollator(states)([own[0]])
        cached = head(**{name: value for name, value in batch.items() if name != "labels"}).logits[0]
    adapted = by_audio(model, extractor, samples_of(own[0]))
    assert (adapted - cached).abs().max() < (1e-2 if states.half else 1e-4)
    assert (unknown - cached).abs().max() > (adapted - cached).abs().max()
    with pytest.raises(ValueError, match="was not trained with --speaker_norm"):
        make()[0].adapt([], extractor)


def test_a_speaker_of_too_few_clips_is_an_average_one(parts, make):
    """Of one clip where speakers are known; of three where they are estimated."""
    model, extractor, settings = make(speaker_norm=True)
    one, options = parts["test"].select([0]), (settings.clips, settings.training, 36.0)
    states = probe_states(model, extractor, {**parts, "test": one}, *options)
    plain = replace(states, shifts=None)
    for rows, same in ((one, True), (parts["train"], False)):
        assert torch.equal(states.find("audio", rows[0]), plain.find("audio", rows[0])) == same
    states = probe_states(model, extractor, parts, *options)
    names = {row["id"]: "few" if number < 3 else "enough" for number, row in enumerate(parts["test"])}
    states = with_shifts(replace(states, shifts=None, estimated=names), parts)
    assert not states.shifts["few", None].any() and states.shifts["enough", None].any()


def test_training_speakers_of_one_clip_are_refused_before_they_are_encoded(parts, make, monkeypatch):
    model, extractor, settings = make(speaker_norm=True)
    first = {row["speaker"]: number for number, row in enumerate(parts["train"])}.values()
    single = {**parts, "train": with_copies(parts["train"].select(first), [0.9])}  # copies are no further clips
    monkeypatch.setattr(audio_module, "encode", None)
    with pytest.raises(SerError, match="four training speakers with two clips or more are needed, there are 0"):
        probe_states(model, extractor, single, settings.clips, settings.training, 36.0, estimate_speakers=True)


def test_whispers_features_are_those_of_the_trimmed_clip():
    clip = np.zeros(16000, dtype=np.float32)
    clip[4000:12000] = np.random.default_rng(0).normal(0, 0.1, 8000)
    first, end = trim(clip, 16000, 30.0)
    assert (first, end) == (4000, 12000)
    trimmed, plain = ClipWhisperFeatureExtractor(trim_db=30.0), ClipWhisperFeatureExtractor()
    assert np.array_equal(trimmed.log_mel(clip), plain.log_mel(clip[first:end]))
    assert trimmed.to_dict()["trim_db"] == 30.0
    with pytest.raises(ValueError, match="trim_db 0"):
        ClipWhisperFeatureExtractor(trim_db=0)


def test_probes_that_have_no_stock_class():
    """That of the last layer has one, whose projection takes over the scale (tests/test_encoders.py)."""
    audio = tiny_config("wav2vec2")
    assert stock_class(SerConfig(audio_config=audio, standardise=True)).__name__ == "Wav2Vec2ForSequenceClassification"
    for config in ({"layer_mix": "sum"}, {"speaker_norm": True}, {"pooling": "meanstd"}):
        assert stock_class(SerConfig(audio_config=audio, standardise=True, **config)) is None


# ---- what once went wrong


def test_a_speaker_of_clips_with_a_masked_last_step_is_the_one_of_the_cache(parts, make):
    """w2v-BERT's features of an odd number of 10 ms frames end with a step that is half padding, and masked."""
    model, extractor, settings = make("wav2vec2-bert", speaker_norm=True)
    clips = [samples_of(row)[: 16000 // 100 * frames] for row, frames in zip(parts["test"], (21, 31), strict=False)]
    inputs = [extract(extractor, [clip]) for clip in clips]
    assert any(not batch["attention_mask"].all() for batch in inputs)
    with torch.no_grad():
        states = [model.eval().encode_audio(*batch.values())[0][0] for batch in inputs]
    model.adapt(clips, extractor)
    assert torch.allclose(model.ser_scale.mean, torch.stack(states).mean(dim=0)[:, 0], atol=1e-6)


def test_states_of_an_encoder_under_autocast_have_a_cache_of_their_own(make):
    model, extractor, settings = make(pooling="attentive")  # frames are in half precision anyway
    sources = [
        encoder_states.sources_of(model, extractor, settings.clips, autocast=on)["audio"] for on in (False, True)
    ]
    assert [source.half for source in sources] == [True, True]
    folders = {open_store(s.encoder, s.reader, s.layers, s.pooling, s.half, s.autocast).folder for s in sources}
    assert len(folders) == 2


def test_a_cache_of_nan_is_a_defect(parts, make):
    model, extractor, settings = make()
    states = probe_states(model, extractor, parts, settings.clips, settings.training, 36.0)
    spoilt = States(
        states.sources, {"audio": dict.fromkeys(parts["test"]["audio_hash"], torch.full((1, 1, 16), np.nan))}
    )
    with pytest.raises(ValueError, match="differs from its cached states by nan"):
        check_states(model, spoilt, parts["test"])


def test_a_run_checks_its_shortest_and_its_longest_test_clip(parts, make, monkeypatch):
    model, extractor, settings = make()
    checked = []
    monkeypatch.setattr(audio_module, "check_states", lambda *args: checked.append(args[-1]["id"][:]))
    lengths = dict(zip(parts["test"]["id"][:], parts["test"]["duration"][:], strict=True))
    for count in (len(lengths), 1):
        test = parts["test"].select(range(count))
        probe_states(model, extractor, {**parts, "test": test}, settings.clips, settings.training, 36.0)
    (short, long), alone = checked
    assert lengths[short] == min(lengths.values()) < lengths[long] == max(lengths.values())
    assert alone == [next(iter(lengths))]


def test_speakers_are_checked_before_anything_is_encoded(parts, make, monkeypatch):
    monkeypatch.setattr(encoder_states, "fill", lambda *args, **kwargs: pytest.fail("encoded first"))
    model, extractor, settings = make(speaker_norm=True)
    unnamed = parts["test"].map(lambda row: {"speaker": None})
    with pytest.raises(SerError, match="--speaker_norm: 12 of 36 utterances have no speaker"):
        probe_states(model, extractor, {**parts, "test": unnamed}, settings.clips, settings.training, 36.0)


def test_a_trained_model_is_scored_without_its_speakers(parts, make, tmp_path):
    names = {"id2label": dict(enumerate("abcd")), "label2id": {name: i for i, name in enumerate("abcd")}}
    model, extractor, _ = make(speaker_norm=True, **names)
    model.save_pretrained(tmp_path / "trained")
    extractor.save_pretrained(tmp_path / "trained")
    name = str(tmp_path / "trained")
    with pytest.raises(SerError, match="--speaker_norm true: a trained model is scored clip by clip"):
        audio_model(list("abcd"), new_head=False, model_name_or_path=name, freeze_encoder=True, speaker_norm=True)
    loaded, _ = audio_model(list("abcd"), new_head=False, model_name_or_path=name)
    assert "trained with --speaker_norm" in audio_remarks(loaded, None, parts)[0]
    assert audio_remarks(make()[0], None, parts) == []


def test_whisper_of_30_s_is_made_of_a_model_that_read_clips(make, tmp_path):
    model, extractor, _ = make()
    model.save_pretrained(tmp_path / "clips")
    extractor.save_pretrained(tmp_path / "clips")
    full, whole = audio_model(list("abcd"), model_name_or_path=str(tmp_path / "clips"), context="full")
    assert full.config.context == "full" and type(whole).__name__ == "WhisperFeatureExtractor"
    frames = extract(whole, [np.ones(1600, dtype=np.float32)])["input_features"].shape[-1]
    assert frames == 2 * model.config.audio_config.max_source_positions


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2-bert"])
def test_log_mel_features_are_not_mixed(kind, make):
    model, extractor, _ = make(kind)
    mixing = settings_of("wav2vec2_cls", "--dataset", "demo", "--mixup_p", "0.5")
    with pytest.raises(SerError, match="--mixup_p 0.5: mixes waveforms, and .* reads log-mel features"):
        speech_collators(model, extractor, mixing.clips, mixing.augmentation, seed=0)


def test_waveforms_have_no_bands_to_mask(make):
    model, extractor, _ = make("wav2vec2")
    masking = settings_of("wav2vec2_cls", "--dataset", "demo", "--spec_p", "0.5")
    why = "masks log-mel features, and wav2vec2 reads waveforms; its masks are --mask_time_prob"
    with pytest.raises(SerError, match=f"--spec_p 0.5: {why}"):
        speech_collators(model, extractor, masking.clips, masking.augmentation, seed=0)


def test_a_saved_whisper_trims_as_the_run_did(parts, make):
    model, extractor, _ = make()
    clips, row = ClipArguments(trim_db=30.0), parts["test"][0]
    saved = saved_extractor(extractor, clips)
    assert (saved.trim_db, extractor.trim_db) == (30.0, None) and saved_extractor(
        extractor, ClipArguments()
    ) is extractor
    whole, trimmed = (encoder_states.read_clip(row, 16000, how) for how in (ClipArguments(), clips))
    assert len(trimmed) < len(whole)
    assert np.array_equal(saved.log_mel(whole), extractor.log_mel(trimmed))
    (line,) = unlike_saved(parts["test"], clips, extractor)
    assert unlike_saved(parts["test"], clips, saved) == [] and unlike_saved(parts["test"], ClipArguments(), saved) == []
    assert line.startswith("of 12 test clips ") and "trimmed by --trim_db 30.0; the saved model does not" in line


def test_a_crop_or_padding_that_the_saved_model_lacks_is_said_where_it_matters(parts, make):
    _, extractor, _ = make("wav2vec2")
    test, seconds = parts["test"], sorted(parts["test"]["duration"])
    unlike = [
        unlike_saved(test, ClipArguments(min_seconds=low, max_seconds=high), extractor)
        for low, high in ((seconds[0], seconds[-1]), (0.0, seconds[-2] - 0.01), (seconds[1] + 0.01, None))
    ]
    counts = sum(one > seconds[-2] - 0.01 for one in seconds), sum(one < seconds[1] + 0.01 for one in seconds)
    assert unlike[0] == [] and f"of 12 test clips {counts[0]} cropped by --max_seconds" in unlike[1][0]
    assert f"of 12 test clips {counts[1]} padded by --min_seconds" in unlike[2][0]
