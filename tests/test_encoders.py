"""What every entry of `ENCODERS` promises, measured: a new entry is tested without a new test.

python -m pytest tests/test_encoders.py -k whisper
"""

import json
import os
import re
import runpy
import shutil
import sys
from itertools import product

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from test_fusion_model import text_config
from test_fusion_pipeline import WORDS, make_processor
from test_recipes import assert_equal_runs
from transformers import (
    AutoConfig,
    AutoModel,
    BertModel,
    Wav2Vec2FeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    pipeline,
)

import warm
from conftest import REPO, TINY, TINY_OF, run_recipe, tiny_config
from ser_hf import cli
from ser_hf.data.augmentation import Augmentation
from ser_hf.models import SerConfig, SerForAudioClassification, SerFusionForClassification, SerPipeline
from ser_hf.models.configuration_ser import HEADS
from ser_hf.models.encoders import (
    ENCODERS,
    audio_states,
    describe,
    example,
    extract,
    layer_count,
    load_extractor,
    longest_clip,
    padding_sensitive,
    runs_above,
    transformer_layers,
)
from ser_hf.models.pipeline_ser import TASK
from ser_hf.models.pooling import POOLINGS
from ser_hf.training.audio_model import audio_model, speech_collators
from ser_hf.training.encoder_states import head_of, put_back, sources_of
from ser_hf.training.saved_model import from_stock, save_model, stock_class, to_stock
from ser_hf.training.settings import ClipArguments

KINDS = [kind for kind, entry in ENCODERS.items() if entry.reads != "spectrogram"]
RATE = 16000
LABELS = ("angry", "happy", "sad")
MIXES = (
    {},
    *({"layer_mix": mix, "layers": layers} for mix, layers in product(("sum", "concat"), (None, [1], [2, 0]))),
)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


# 3 s, an odd number of samples, 10 ms and one sample.
CLIPS = [noise(length, seed) for seed, length in enumerate((3 * RATE, 23457, 160, 1))]


def make(kind: str, encoder: dict | None = None, of=None, **config) -> SerForAudioClassification:
    """A random model of three labels, whose head is so large that differences are seen. `of`: its encoder."""
    torch.manual_seed(0)
    audio = tiny_config(kind, **{"num_hidden_layers": 2, **(encoder or {})})
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    config = {"head_size": 8, "problem_type": "single_label_classification", **labels, **config}
    with pytest.MonkeyPatch.context() as patch:
        if of is not None:
            patch.setattr("ser_hf.models.modeling_ser.new_encoder", lambda _: of)
        model = SerForAudioClassification(SerConfig(audio_config=audio, **config)).eval()
    return as_trained(model, encoder=of is None)


def as_trained(model, encoder: bool = True):
    """The model with a head whose logits differ, and, if `encoder`, with norms that do something."""
    for name, parameter in model.named_parameters():
        if name.startswith("ser_"):
            torch.nn.init.normal_(parameter, std=0.2)
        elif encoder and "norm" in name and name.endswith("weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def features(model, clips=CLIPS, whole: bool | None = None) -> dict[str, torch.Tensor]:
    """The input of a model for clips, by a new feature extractor of its encoder."""
    config = model.config.audio_config
    whole = model.config.context == "full" if whole is None else whole
    return extract(describe(config).new_extractor(config, whole), list(clips), describe(config).least)


def once(forward):
    """The forward of an encoder, which is computed once for equal input."""
    answers = {}

    def answer(**inputs):
        key = tuple((k, v.numpy().tobytes() if torch.is_tensor(v) else v) for k, v in sorted(inputs.items()))
        if key not in answers:
            answers[key] = forward(**inputs)
        return answers[key]

    return answer


def logits(model, inputs: dict) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_an_encoder_that_reads_no_waveform_has_a_tiny_shape():
    others = {kind for kind in KINDS if ENCODERS[kind].reads != "waveform"}
    assert others == set(TINY_OF), "add the smallest shape of a new encoder to TINY_OF of conftest.py"


# ---- a clip alone is the clip in a batch


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_alone_is_the_clip_padded(kind):
    sensitive = padding_sensitive(tiny_config(kind))
    whole, differences = make(kind), []
    whole.encoder.forward = once(whole.encoder.forward)
    alone = [features(whole, [clip]) for clip in CLIPS]
    batch = features(whole)
    for pooling, head, mix in product(POOLINGS, HEADS, MIXES):
        model = make(kind, of=whole.encoder, pooling=pooling, head=head, **mix)
        padded = logits(model, batch)
        single = torch.cat([logits(model, one) for one in alone])
        assert torch.isfinite(single).all()
        differences.append(float((padded - single).abs().max()))
        if not sensitive:
            assert differences[-1] < 1e-5, (pooling, head, mix)
            # and the test can fail: without its mask the padding changes the logits
            unmasked = logits(model, {**batch, "attention_mask": None})
            assert (unmasked - single)[1].abs().max() > 1e-4, (pooling, head, mix)
    assert max(differences) > 1e-3 or not sensitive  # it is described as it is


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_ones_and_an_odd_length_change_nothing(kind):
    model = make(kind, pooling="max", layer_mix="sum")
    for samples in (RATE // 2, RATE // 2 + 1, 12345, 12721):
        inputs = features(model, [noise(samples)])
        if not inputs["attention_mask"].all():  # w2v-BERT makes a step of two frames: half of the last may be padding
            inputs = {name: v[:, :-1] for name, v in inputs.items()}
        assert inputs["attention_mask"].all()
        assert (logits(model, inputs) - logits(model, {**inputs, "attention_mask": None})).abs().max() < 1e-5


# ---- the table


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_steps_are_those_of_the_encoder(kind):
    encoder, entry = make(kind).encoder, ENCODERS[kind]
    config = encoder.config

    def frames_of(steps: int) -> int:
        values = example(config)
        values = values[..., :steps] if entry.time == -1 else values[:, :steps]
        assert values.shape[entry.time] == steps
        with torch.no_grad():
            return encoder(**{entry.input_name: values}).last_hidden_state.shape[1]

    for count in (1, 2, 3, 7):
        steps = entry.steps(config, count)
        assert entry.frames(config, torch.tensor(steps)) == count == frames_of(steps)
        if count > 1:  # one step less is one frame less
            assert entry.frames(config, torch.tensor(steps - 1)) == count - 1 == frames_of(steps - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_of_the_table(kind):
    encoder, entry = make(kind).encoder, ENCODERS[kind]
    config, extractor = encoder.config, entry.new_extractor(encoder.config, False)
    # rows, time and name of the input, by the feature extractor
    inputs = extract(extractor, [noise(RATE)], entry.least)
    values = inputs[entry.input_name]
    assert values.shape[entry.time] == inputs["attention_mask"].shape[1]
    rows = () if entry.rows is None else (entry.rows(config),)
    for shape in (values.shape, example(config).shape):
        assert shape[:-1] == (1, *rows) if entry.time == -1 else shape[2:] == rows
    # least: so many samples are enough, and without zero-padding fewer are not
    short = dict(extractor([noise(entry.least)], sampling_rate=RATE, return_tensors="pt", padding=True))
    assert torch.isfinite(short[entry.input_name]).all() and short[entry.input_name].shape[entry.time] >= 1
    if entry.least > 1:
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            fewer = extractor([noise(entry.least - 1)], sampling_rate=RATE, return_tensors="pt", padding=True)
            out = encoder(**{entry.input_name: fewer[entry.input_name]}).last_hidden_state
            if not torch.isfinite(out).all() or not out.shape[1]:
                raise ValueError("nothing to read")
    # layers
    with torch.no_grad():
        states, real = audio_states(encoder, values, inputs["attention_mask"], every_layer=True)
        last, _ = audio_states(encoder, values, inputs["attention_mask"])
    assert states.shape[1] == layer_count(config) == len(transformer_layers(encoder)) + 1
    assert last.shape[1:] == (1, *states.shape[2:]) and real.shape == states.shape[::2]
    assert (entry.feature_encoder is None) == (entry.reads != "waveform")


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_clip_is_read_and_a_longer_one_is_not(kind):
    model = make(kind, {"num_hidden_layers": 1})
    longest = longest_clip(model.config.audio_config)
    seconds = longest or 31
    inputs = features(model, [noise(round(seconds * RATE))])
    assert torch.isfinite(logits(model, inputs)).all()
    if longest is not None:
        with pytest.raises(ValueError, match="3001 frames: Whisper has positions for 3000; cut the clip into windows"):
            features_of_longer = features(model, [noise(round(longest * RATE) + 1)])
            logits(model, features_of_longer)


# ---- stock classes


@pytest.mark.parametrize("kind", KINDS)
def test_stock_is_ours_and_back(kind):
    context = "full" if longest_clip(tiny_config(kind)) else "clip"
    for mix, standardise in (("last", False), ("last", True), ("sum", False)):
        model = make(kind, layer_mix=mix, standardise=standardise, context=context)
        if standardise:
            torch.nn.init.normal_(model.ser_scale.mean)
            torch.nn.init.uniform_(model.ser_scale.std, 0.5, 2.0)
        assert stock_class(model.config) is not None
        # The stock class reads no zero-padded clips, so the clips of 10 ms and of one sample are left out.
        stock, inputs = to_stock(model).eval(), features(model, CLIPS[:2])
        if context == "full":
            inputs.pop("attention_mask")  # the stock class has none
        ours, theirs = logits(model, inputs), logits(stock, inputs)
        assert (ours - theirs).abs().max() < 1e-6 * max(1, ours.abs().max())
        if not standardise:  # the projection has taken over the scale
            assert torch.equal(logits(from_stock(stock), inputs), ours)
            again = to_stock(from_stock(stock)).state_dict()
            assert all(torch.equal(value, again[name]) for name, value in stock.state_dict().items())
        assert (logits(from_stock(stock), inputs) - theirs).abs().max() < 1e-5


def test_whisper_on_clips_has_no_stock_class_and_on_30_s_is_one():
    assert stock_class(make("whisper").config) is None
    model = make("whisper", context="full", layer_mix="sum")
    stock = to_stock(model)
    assert type(stock) is WhisperForAudioClassification and stock.config.use_weighted_layer_sum
    inputs = features(model)["input_features"]
    with torch.no_grad():
        ours, theirs = (one.encoder(inputs, output_hidden_states=True) for one in (model, stock.eval()))
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert torch.equal(mine, other)
    # on clips alone the same weights answer otherwise, so that the two must not be confused
    clips = make("whisper", layer_mix="sum")
    clips.load_state_dict(model.state_dict())
    assert (logits(clips, features(clips)) - logits(model, {"input_features": inputs})).abs().max() > 1e-2


# ---- training


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_equal_gradients(kind):
    gradients = []
    for checkpointing in (False, True):
        model = make(kind, layer_mix="sum", pooling="attentive").train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert model.is_gradient_checkpointing
        torch.manual_seed(1)
        model(**features(model, CLIPS[:2]), labels=torch.tensor([0, 2])).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys() and sum(name.startswith("encoder.") for name in plain) > 10
    for name, gradient in plain.items():
        assert (gradient - checkpointed[name]).abs().max() <= 1e-6 * max(1, gradient.abs().max()), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flag", ["mask_time", "mask_feature"])
def test_spec_augment_flags_change_training_alone(kind, flag):
    names, options = list(LABELS), {"model_type": kind, "config_overrides": json.dumps(overrides(kind))}
    masks = {f"{flag}_prob": 0.6, f"{flag}_length": 2}
    if ENCODERS[kind].reads == "waveform":
        masks |= {f"mask_{'feature' if flag == 'mask_time' else 'time'}_prob": 0.0}  # wav2vec2 masks time by default
    torch.manual_seed(0)
    plain, _ = audio_model(names, **options)
    torch.manual_seed(0)
    masked, _ = audio_model(names, **options, **masks)
    as_trained(masked).load_state_dict(as_trained(plain).state_dict())
    inputs = features(plain, CLIPS[:2])
    assert torch.equal(logits(plain, inputs), logits(masked, inputs))
    masked.train()
    with torch.no_grad():
        torch.manual_seed(2)
        one, two = masked(**inputs).logits, masked(**inputs).logits
    assert (one - logits(plain, inputs)).abs().max() > 1e-3 and (one - two).abs().max() > 1e-3


LOG_MEL = [(kind, "clip") for kind in KINDS if ENCODERS[kind].reads == "log-mel"]


@pytest.mark.parametrize(("kind", "context"), [*LOG_MEL, ("whisper", "full")])
def test_log_mel_features_are_masked_clip_by_clip(kind, context, tmp_path):
    """Bands and times of the real frames, by seed, epoch and clip; growing, or immediate."""
    rows = [{"id": str(i), "audio": {"bytes": None, "path": str(tmp_path / f"{i}.wav")}, "label": 0} for i in range(3)]
    for row, samples in zip(rows, (RATE, 9 * RATE // 4, 3 * RATE), strict=True):
        sf.write(row["audio"]["path"], noise(samples), RATE)
    model = make(kind, {"num_mel_bins" if kind == "whisper" else "feature_projection_input_dim": 20}, context=context)
    config, entry = model.config.audio_config, ENCODERS[kind]
    extractor = entry.new_extractor(config, context == "full")

    def collator(growth: float = 0.0, name: str = "data_collator"):
        changes = Augmentation(spec_p=1.0, spec_freq_width=4, spec_time_width=20, spec_growth=growth)
        return speech_collators(model, extractor, ClipArguments(), changes, seed=0)[name]

    def pictures(batch: dict) -> list[np.ndarray]:
        """`(bands, frames)` of each clip and of its padding."""
        values = [
            one if entry.time == -1 else one.view(-1, extractor.feature_size).T for one in batch[entry.input_name]
        ]
        return [one.numpy() for one in values]

    ours = collator()
    batch, clean = ours(rows), collator(name="eval_collator")(rows)
    for now, before, mask in zip(pictures(batch), pictures(clean), batch["attention_mask"], strict=True):
        real = int(mask.sum()) * (now.shape[1] // len(mask))
        changed = now != before
        bands, times = changed[:, :real].all(axis=1), changed[:, :real].all(axis=0)
        assert np.array_equal(changed[:, :real], bands[:, None] | times) and not changed[:, real:].any()
        assert 1 <= bands.sum() <= 8 and 1 <= times.sum() <= 40
        assert np.allclose(now[changed], before[:, :real].mean(), atol=1e-5)
    alone = ours([rows[1]])
    steps = int(alone["attention_mask"].sum())
    first, again = (
        (one if entry.time == 1 else one.T)[:steps] for one in (alone[entry.input_name][0], batch[entry.input_name][1])
    )
    assert torch.equal(first, again) and torch.equal(ours(rows)[entry.input_name], batch[entry.input_name])
    ours.set_epoch(1)
    assert not torch.equal(ours(rows)[entry.input_name], batch[entry.input_name])

    growing, sizes = collator(growth=0.5), []
    for passed in (0.0, 0.25, 0.5, 0.75):
        growing.set_epoch(0, passed)
        sizes.append(sum((a != b).sum() for a, b in zip(pictures(growing(rows)), pictures(clean), strict=True)))
    assert sizes[0] == 0 < sizes[1] < sizes[2] == sizes[3]
    assert torch.equal(growing(rows)[entry.input_name], batch[entry.input_name])


def overrides(kind: str) -> dict:
    """The tiny shape of a kind as `--config_overrides`: what its configuration knows of it."""
    known = {*(config := AutoConfig.for_model(kind)).to_dict(), *config.attribute_map}
    return {name: value for name, value in {**TINY, **TINY_OF.get(kind, {})}.items() if name in known}


PROBES = (
    {},
    {"pooling": "attentive", "layer_mix": "sum", "layers": [0, 2]},
    {"pooling": "meanstd", "head": "mlp"},
    {"layer_mix": "concat", "layers": [2, 1]},
    {"layer_mix": "sum"},
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_encoder_has_no_gradients_and_its_head_reads_cached_states(kind):
    for config in PROBES:
        model = make(kind, standardise=True, **config)
        model.freeze_encoder()
        inputs = features(model)
        expected = logits(model, inputs)
        extractor = describe(model.config.audio_config).new_extractor(model.config.audio_config, False)
        source = sources_of(model, extractor, ClipArguments())["audio"]
        with torch.no_grad():
            states, mask = source.encode(inputs[model.main_input_name], inputs["attention_mask"])
        states = states if source.selected is None else states[:, source.selected]
        assert (states.shape[1], states.shape[3]) == source.shape == model.audio_shape
        head = head_of(model)
        assert head.encoder is None
        with torch.no_grad():
            cached = head(audio_states=states, audio_mask=mask).logits
            half = head(audio_states=states.half(), audio_mask=mask).logits
        assert (cached - expected).abs().max() < 1e-5, config
        assert (half - expected).abs().max() < 1e-2 * expected.abs().max(), config
        loss = model.train()(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss
        assert not model.encoder.training
        loss.backward()
        trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
        assert trained == {name for name, _ in model.named_parameters() if name.startswith("ser_")}
        with torch.no_grad():
            head.ser_classifier.bias += 1.0
        whole = put_back(head, model)
        assert (logits(whole, inputs) - expected - 1.0).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_layers_above_frozen_ones_read_cached_states(kind):
    """With the logits and the gradients of audio; the norm after the layers of "stable" encoders is one of them."""
    whole = kind in ("wavlm", "wav2vec2-conformer", "wav2vec2-bert")
    adapted = tiny_config(kind, add_adapter=True, num_adapter_layers=1)
    assert runs_above(tiny_config(kind)) is not whole and (not runs_above(adapted) or kind in ("whisper", "hubert"))
    for encoder, config in product(({}, {"do_stable_layer_norm": True}), ({}, {"pooling": "attentive"})):
        if whole:
            continue
        model = make(kind, {"num_hidden_layers": 3, **encoder}, **config)
        inputs = features(model)
        expected = logits(model, inputs)
        model.freeze_layers(2)
        extractor = describe(model.config.audio_config).new_extractor(model.config.audio_config, False)
        source = sources_of(model, extractor, ClipArguments())["audio"]
        with torch.no_grad():
            states, audio_mask = source.encode(inputs[model.main_input_name], inputs["attention_mask"])
        assert (states.shape[1], states.shape[3]) == source.shape and source.half
        states = states * audio_mask[:, None, :, None]  # as they are padded
        by_states = {"audio_states": states, "audio_mask": audio_mask}
        assert (logits(model, by_states) - expected).abs().max() < 1e-5
        half = logits(model, {**by_states, "audio_states": states.half().float()})
        assert (half - expected).abs().max() < 1e-3 * expected.abs().max()
        assert (logits(model, {**by_states, "audio_mask": audio_mask | True}) - expected).abs().max() > 1e-3
        gradients = []
        for given in (inputs, by_states):
            model.zero_grad()
            model.train()(**given, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
            gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
        assert gradients[0].keys() == gradients[1].keys() and any(".2." in name for name in gradients[0])
        assert all((gradients[1][name] - one).abs().max() < 1e-5 for name, one in gradients[0].items())


# ---- published, in a process that has only the folder

CLEAN = """
import json, sys, numpy, torch
sys.modules["ser_hf"] = None  # importing this project is an error in this process
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
clip, results = {"array": numpy.load(sys.argv[1]), "sampling_rate": 16000}, {}
for folder in sys.argv[2:]:
    try:
        model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=False)
        code = False
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
        model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
        code = True
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=code)
    options = {"model": folder, "trust_remote_code": code}
    answers = [pipeline("audio-classification", **options)(clip, top_k=None)]
    if code:
        answers += [pipeline("speech-emotion-recognition", **options)(clip)]
    scores = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
    results[folder] = {"class": type(model).__name__, "code": code, "extractor": type(extractor).__name__,
                       "scores": scores}
print("RESULT" + json.dumps(results))
"""


def saved(model, folder):
    """Save a model with a new feature extractor, as a run does; returns the class that was saved."""
    config = model.config.audio_config
    extractor = describe(config).new_extractor(config, model.config.context == "full")
    return save_model(model, extractor, folder)


def test_saved_is_loaded_where_ser_hf_is_not_installed(tmp_path):
    clip, expected = noise(12345), {}
    np.save(tmp_path / "clip.npy", clip)
    configs = {"plain": {}, "own": {"pooling": "attentive", "head": "mlp", "layer_mix": "concat", "layers": [2, 0]}}
    cases = [(kind, name, config) for kind in KINDS for name, config in configs.items()]
    cases += [(kind, "full", {"context": "full"}) for kind in KINDS if longest_clip(tiny_config(kind))]
    for kind, name, config in cases:
        model, folder = make(kind, **config), tmp_path / f"{kind}-{name}"
        stock = stock_class(model.config)
        assert saved(model, folder) is (stock or SerForAudioClassification)
        limited = longest_clip(model.config.audio_config) is not None
        assert (stock is None) == (name == "own" or (limited and name == "plain"))
        scores = logits(model, features(model, [clip]))[0].softmax(-1).tolist()
        expected[str(folder)] = (stock or SerForAudioClassification).__name__, scores
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = warm.python("-c", CLEAN, tmp_path / "clip.npy", *expected, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.split("RESULT")[1])
    for folder, (name, scores) in expected.items():
        result = results[folder]
        assert result["class"] == name and result["code"] == name.startswith("Ser"), folder
        assert len(result["scores"]) == 1 + result["code"]
        for answer in result["scores"]:
            assert [answer[label] for label in LABELS] == pytest.approx(scores, abs=1e-5), folder
    names = {folder.rpartition("/")[2]: result["extractor"] for folder, result in results.items()}
    assert names["whisper-plain"] == names["whisper-own"] == "ClipWhisperFeatureExtractor"
    assert names["whisper-full"] == "WhisperFeatureExtractor"


# ---- the commands, and fusion


def checkpoints():
    """Names of pretrained checkpoints, and for each the class it is saved by."""
    whisper = {"-generation": WhisperForConditionalGeneration, "-classifier": WhisperForAudioClassification}
    return {kind: None for kind in KINDS} | {f"whisper{name}": kind for name, kind in whisper.items()}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Folders of checkpoints as transformers saves them, with the stock feature extractor; and of a BERT."""
    home = tmp_path_factory.mktemp("pretrained")
    for name, kind in checkpoints().items():
        torch.manual_seed(0)
        config = tiny_config(name.partition("-gen")[0].partition("-cl")[0])
        model = AutoModel.from_config(config) if kind is None else kind(config)
        as_trained(model).save_pretrained(home / name)
        describe(config).new_extractor(config, True).save_pretrained(home / name)
    BertModel(text_config("bert", vocab_size=len(WORDS))).save_pretrained(home / "bert")
    make_processor().tokenizer.save_pretrained(home / "bert")
    return home


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A corpus folder of three clips of different lengths, one of them of 10 ms."""
    root = tmp_path_factory.mktemp("clips")
    lines = ["file_name,label,speaker,text"]
    for seed, (label, samples) in enumerate(zip(LABELS, (20000, 12345, 160), strict=True)):
        sf.write(root / f"{seed}.wav", noise(samples, seed), RATE, subtype="FLOAT")
        lines.append(f"{seed}.wav,{label},s{seed},i am so {label}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("name", checkpoints())
def test_embed_predict_and_fusion_of_a_checkpoint(name, pretrained, clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    model = SerForAudioClassification.from_encoder(
        str(pretrained / name), num_labels=3, id2label=dict(enumerate(LABELS)), pooling="meanstd", layer_mix="sum"
    )
    as_trained(model, encoder=False)
    encoder, files = model.eval().encoder, sorted(clips.glob("*.wav"))
    alone = [features(model, [sf.read(file, dtype="float32")[0]]) for file in files]

    # embed: the mean over the frames of each clip alone, as of the encoder that transformers loads
    loaded = AutoModel.from_pretrained(pretrained / name).eval()
    kind = loaded.config.model_type
    if kind != "whisper":  # the stock encoder reads 30 s
        weights = loaded.state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())
    for flags, layers in ((["--layers", "all"], slice(None)), ([], None)):
        out = tmp_path / f"{len(flags)}.parquet"
        words = ["embed", str(clips), "--model", str(pretrained / name), "--out", str(out), *flags]
        assert cli.main(words) == 0, capsys.readouterr().err
        for row, inputs in zip(pq.read_table(out).to_pylist(), alone, strict=True):
            with torch.no_grad():
                values = inputs[model.main_input_name], inputs["attention_mask"]
                states, real = audio_states(encoder, *values, every_layer=layers is not None)
            pooled = states[0][:, real[0]].mean(dim=1)
            assert np.allclose(row["embedding"], pooled if layers else pooled[0], atol=1e-5)

    # predict: the saved model's scores of a folder
    saved(model, tmp_path / "tuned")
    assert cli.main(["predict", str(clips), "--model", str(tmp_path / "tuned"), "--out", str(tmp_path / "p.json")]) == 0
    scores = [logits(model, inputs)[0].softmax(-1).tolist() for inputs in alone]
    for row, one in zip(json.loads((tmp_path / "p.json").read_text()), scores, strict=True):
        assert [row[f"score_{label}"] for label in LABELS] == pytest.approx(one, abs=2e-6)

    # fusion with a text, saved and loaded
    paths = str(pretrained / name), str(pretrained / "bert")
    fused = SerFusionForClassification.from_encoders(*paths, num_labels=3, pooling="attentive", head_size=8)
    as_trained(fused, encoder=False).eval()
    config = fused.config.audio_config
    processor = make_processor(load_extractor(paths[0], config), least_samples=describe(config).least)
    save_model(fused, processor, tmp_path / "fused")
    pipe = pipeline(TASK, model=str(tmp_path / "fused"), device="cpu", trust_remote_code=True)
    clip = noise(12345)
    for text, source in ((None, clip), ("i am so sad", {"array": clip, "sampling_rate": RATE, "text": "i am so sad"})):
        with torch.no_grad():
            inputs = processor(audio=clip, text=text, sampling_rate=RATE)
            expected = fused(**inputs).logits[0].softmax(-1)
        answer = {entry["label"]: entry["score"] for entry in pipe(source)}
        assert [answer[label] for label in fused.config.id2label.values()] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.fixture
def whisper(tmp_path):
    """Folders of a fine-tuned Whisper, and of one with the feature extractor of another encoder."""
    saved(make("whisper", pooling="max"), tmp_path / "tuned")
    saved(make("whisper", pooling="max"), tmp_path / "unfit")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "unfit")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embed", "{long}", "--model", "{models}/tuned"], "whisper reads 30 s and 1 clips are longer, .*31.0 s.: cut"),
        (
            ["embed", "{long}", "--model", "{models}/unfit"],
            "the feature extractor Wav2Vec2FeatureEx.* does not fit",
        ),
        (
            ["predict", "{long}", "--model", "{models}/unfit"],
            "--model .*unfit: the feature extractor .* not fit",
        ),
        (["predict", "{long}", "--model", "{models}/tuned", "--window_s", "31"], "--window_s 31: the model reads 30 s"),
    ],
)
def test_commands_refuse_what_whisper_cannot_read(words, message, whisper, long, monkeypatch, capsys):
    monkeypatch.chdir(whisper)
    assert cli.main([word.format(models=whisper, long=long) for word in words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and re.search(message, errors[0]), errors


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A corpus folder with a clip of 1 s and one of 31 s."""
    root = tmp_path_factory.mktemp("long")
    for seconds in (1, 31):
        sf.write(root / f"{seconds}.wav", noise(seconds * 1000), 1000)
    (root / "metadata.csv").write_text("file_name,label\n1.wav,angry\n31.wav,happy\n")
    return root


def test_a_clip_of_31_s_is_an_error_of_its_file_alone(whisper, long, capsys):
    out = whisper / "out.json"
    assert cli.main(["predict", str(long), "--model", str(whisper / "tuned"), "--out", str(out)]) == 1
    short, other = json.loads(out.read_text())
    assert short["prediction"] and not short["error"] and not other["prediction"]
    assert re.search("31.wav: 31.0 s, and the encoder reads 30 s: give windows", other["error"])
    pipe = pipeline(TASK, model=str(whisper / "tuned"), trust_remote_code=True)
    with pytest.raises(ValueError, match="31.wav: 31.0 s, and the encoder reads 30 s"):
        pipe(str(long / "31.wav"))
    assert len(pipe(str(long / "31.wav"), window_s=20.0)["segments"]) == 3
    with pytest.raises(ValueError, match="window_s 31: the encoder reads 30 s; give shorter windows"):
        pipe(str(long / "1.wav"), window_s=31)


# ---- what once went wrong


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_encoder_drops_no_layer_under_a_layer_mix(kind, tmp_path):
    """A dropped layer leaves no hidden state to weigh; an encoder may have read the probability when it was made."""
    audio = tiny_config(kind, num_hidden_layers=2)
    audio.layerdrop = 0.9
    if kind == "whisper":
        audio.encoder_layerdrop = 0.9
    describe(audio).model.from_config(audio).save_pretrained(tmp_path)
    model = SerForAudioClassification.from_encoder(str(tmp_path), num_labels=3, layer_mix="concat").train()
    inputs = features(model, CLIPS[:2])
    for _ in range(4):
        assert torch.isfinite(model(**inputs, labels=torch.tensor([0, 1])).loss)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bfloat16_and_eager_attention_give_the_same_answer(kind, tmp_path):
    model = make(kind, pooling="meanstd", layer_mix="sum", standardise=True)
    saved(model, tmp_path)
    expected = torch.cat([logits(model, features(model, [clip])) for clip in CLIPS])
    extractor = describe(model.config.audio_config).new_extractor(model.config.audio_config, False)
    eager = SerForAudioClassification.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.encoder.config._attn_implementation == "eager"
    assert (logits(eager, features(model)) - logits(model, features(model))).abs().max() < 1e-5
    half = SerForAudioClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    pipe = SerPipeline(model=half, feature_extractor=extractor, device="cpu")
    # Without the clip of 3 s: for 600 frames of these sizes the bfloat16 convolution of torch's CPU build is wrong.
    for answer, one in zip(pipe(CLIPS[1:], batch_size=3), expected.softmax(-1)[1:], strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert [scores[label] for label in LABELS] == pytest.approx(one.tolist(), abs=0.02)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "add_adapter" in tiny_config(kind).to_dict()])
def test_an_adapter_shortens_and_widens_the_last_layer(kind, tmp_path):
    adapter = {"add_adapter": True, "num_adapter_layers": 2, "adapter_stride": 2, "output_hidden_size": 24}
    model = make(kind, {**adapter, "adapter_kernel_size": 3}, standardise=True)
    assert stock_class(model.config) is None and model.ser_projector.in_features == 24
    assert saved(model, tmp_path) is SerForAudioClassification
    inputs = features(model)
    alone = torch.cat([logits(model, features(model, [clip])) for clip in CLIPS])
    difference = (logits(model, inputs) - alone).abs().max()
    assert difference > 1e-3 if padding_sensitive(model.config.audio_config) else difference < 1e-5
    extractor = describe(model.config.audio_config).new_extractor(model.config.audio_config, False)
    source = sources_of(model, extractor, ClipArguments())["audio"]
    with torch.no_grad():
        states, mask = source.encode(inputs[model.main_input_name], inputs["attention_mask"])
        assert (head_of(model)(audio_states=states, audio_mask=mask).logits - logits(model, inputs)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_overrides_reach_the_encoder_of_a_model_of_ours(kind, tmp_path):
    saved(make(kind, pooling="max", layer_mix="concat"), tmp_path)
    model = SerForAudioClassification.from_encoder(
        str(tmp_path), {"mask_time_prob": 0.7, "layerdrop": 0.3}, num_labels=3
    )
    assert model.encoder.config.mask_time_prob == model.config.audio_config.mask_time_prob == 0.7
    assert model.encoder.config.layerdrop == 0.3
    before = SerForAudioClassification.from_pretrained(tmp_path).encoder.state_dict()
    assert all(torch.equal(value, model.encoder.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ValueError, match="with {'num_hidden_layers': 3}: the encoder's weights .* are missing"):
        SerForAudioClassification.from_encoder(str(tmp_path), {"num_hidden_layers": 3}, num_labels=3)


@pytest.mark.parametrize("layers", [[], [1, 1], [-1], [3]])
def test_layers_that_cannot_be_read(layers):
    with pytest.raises(ValueError, match="^layers "):
        make("wav2vec2", layer_mix="sum", layers=layers)


# ---- recipes


def recipe_flags(fake_corpus, out, *more) -> list[str]:
    tiny = ("--model_type", "whisper", "--config_overrides", json.dumps(overrides("whisper")))
    flags = (
        "--dataset",
        "demo",
        "--data_dir",
        fake_corpus("demo"),
        *tiny,
        "--use_cpu",
        "true",
        "--disable_tqdm",
        "true",
    )
    short = ("--config", "none", "--head_size", "8", "--learning_rate", "1e-3", "--adam_epsilon", "1e-3")
    return list(map(str, (*flags, *short, "--output_dir", out, *more)))


@pytest.mark.parametrize("recipe", ["wav2vec2_cls", "classical_cls"])
def test_a_copy_that_whisper_cannot_read_is_one_line(recipe, whisper, tmp_path, monkeypatch, capsys):
    """Clips of 28 s: played half as fast, each has 56 s."""
    root = tmp_path / "corpus"
    root.mkdir()
    rows = [f"{speaker}{label}.wav,{label},{speaker}" for speaker in "abc" for label in ("angry", "happy")]
    for number, row in enumerate(rows):  # of distinct lengths, because equal clips are a leak
        sf.write(root / row.partition(",")[0], noise(28000 + number), 1000)
    (root / "metadata.csv").write_text("\n".join(["file_name,label,speaker", *rows]) + "\n")
    flags = ["--dataset", str(root), "--speed_copies", "0.5", "--output_dir", str(tmp_path / "run")]
    flags += ["--config", "none", "--use_cpu", "true"]
    reads = ["--features"] if recipe == "classical_cls" else ["--freeze_encoder", "true", "--model_name_or_path"]
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", *flags, *reads, str(whisper / "tuned")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPO / "recipes" / f"{recipe}.py"), run_name="__main__")
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert stop.value.code == 2 and len(error) == 1, error
    assert re.search(r"whisper reads 30 s and \d clips are longer, \w+ x0.5 the longest .56.0 s.", error[0]), error


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_whisper_is_trained_and_scored_on_windows(frozen, fake_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    windows = ("--window_seconds", "0.3", "--num_train_epochs", "1", "--save_strategy", "no", "--eval_strategy", "no")
    windows += ("--validation_fraction", "0", "--freeze_encoder", frozen, "--layer_mix", "concat", "--layers", "1", "0")
    monkeypatch.setattr(sys, "argv", ["wav2vec2_cls.py", *recipe_flags(fake_corpus, tmp_path / "run", *windows)])
    runpy.run_path(str(REPO / "recipes" / "wav2vec2_cls.py"), run_name="__main__")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test_windows"]["utterances"] > results["test"]["utterances"] > 0
    probe = ", frozen encoder (a probe)" if frozen == "true" else ""
    assert results["model"]["details"] == f"mean pooling, linear head, layers 1, 0 side by side{probe}"
    # what the report says is what the saved model answers, window by window
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    pipe = pipeline(TASK, model=str(tmp_path / "run"), trust_remote_code=True)
    for _, row in table.iloc[:3].iterrows():
        answer = pipe(str(fake_corpus("demo") / "wav" / f"{row['id']}.wav"), window_s=0.3)
        for entry in answer["scores"]:
            assert entry["score"] == pytest.approx(row[f"score_{entry['label']}"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["true", "false"])
def test_two_processes_are_one_and_a_killed_run_resumes(frozen, fake_corpus, tmp_path):
    steps = ("--max_steps", "4", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "2")
    steps += ("--save_steps", "2", "--save_total_limit", "5", "--freeze_encoder", frozen, "--batch_seconds", "2")

    def run(name: str, *more: str, processes: int = 1):
        env = {**os.environ, "SER_CACHE": str(tmp_path / f"cache {name}")}
        flags = recipe_flags(fake_corpus, tmp_path / name, *steps, *more)
        done = run_recipe("wav2vec2_cls", *flags, processes=processes, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        return tmp_path / name

    # Six clips make three batches, by number (frozen) or by seconds: the second process is one short.
    one = run("one", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2")
    two = run("two", "--per_device_train_batch_size", "2", processes=2)
    assert_equal_runs(one, two, 1e-5)
    shutil.copytree(one / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    more = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2")
    assert_equal_runs(one, run("again", "--resume_from_checkpoint", "true", *more), 1e-6)
    # and the saved model is scored again as it was
    scored = ("--do_train", "false", "--model_name_or_path", str(one), "--data_dir", str(fake_corpus("demo")))
    plain = ("--dataset", "demo", "--use_cpu", "true", "--config", "none", "--output_dir", str(tmp_path / "scored"))
    done = run_recipe("wav2vec2_cls", *plain, *scored)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_runs(one, tmp_path / "scored", 1e-6)
