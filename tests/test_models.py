"""The audio model: a clip alone equals the same clip padded, saved equals loaded, nothing is ever random in silence."""

import json
import os

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

import warm
from conftest import TINY
from ser_hf.models import SerConfig, SerForAudioClassification, SerFusionConfig
from ser_hf.models.configuration_ser import HEADS, POOLINGS
from ser_hf.models.encoders import ENCODERS, describe, frame_mask, padding_sensitive, shortest_input
from ser_hf.models.pooling import pool
from ser_hf.training.saved_model import from_stock, load_finetuned, save_model, stock_class, to_stock

# The shapes that are published: base checkpoints have group norm, XLSR-53 and the large ones layer norm.
SHAPES = {
    "wav2vec2-base": ("wav2vec2", {"feat_extract_norm": "group", "do_stable_layer_norm": False}),
    "xlsr-53": ("wav2vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "hubert-base": ("hubert", {"feat_extract_norm": "group", "do_stable_layer_norm": False}),
    "hubert-large": ("hubert", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "wavlm-base": ("wavlm", {"feat_extract_norm": "group", "do_stable_layer_norm": False}),
    "wavlm-large": ("wavlm", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "data2vec": ("data2vec-audio", {}),
    "conformer": ("wav2vec2-conformer", {}),
    "unispeech": ("unispeech", {}),
    "unispeech-sat": ("unispeech-sat", {}),
}
GROUP_NORM = [name for name, (_, flags) in SHAPES.items() if flags.get("feat_extract_norm") == "group"]
SENSITIVE = [*GROUP_NORM, "data2vec", "conformer"]  # to padding, even with a mask
INVARIANT = [name for name in SHAPES if name not in SENSITIVE]


def make(shape: str, labels: int = 4, layers: int = 2, **config) -> SerForAudioClassification:
    kind, flags = SHAPES[shape]
    torch.manual_seed(0)
    audio = AutoConfig.for_model(kind, **{**TINY, "num_hidden_layers": layers, **flags})
    if "id2label" not in config:
        config["num_labels"] = labels
    config = {"head_size": 8, "problem_type": "single_label_classification", **config}
    model = SerForAudioClassification(SerConfig(audio_config=audio, **config)).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("ser_"):  # initial heads are so small that every difference would be
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def padded_batch(short: int = 9000, long: int = 16000):
    """One long and one short clip of noise, padded with zeros as the collator does."""
    torch.manual_seed(1)
    values, mask = torch.randn(2, long), torch.ones(2, long, dtype=torch.long)
    values[1, short:], mask[1, short:] = 0.0, 0
    return values, mask


def test_pooling_by_hand():
    frames = torch.tensor([[[1.0, 8.0], [3.0, 2.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert pool(frames, mask, "mean").tolist() == [[2.0, 5.0]]
    assert pool(frames, mask, "max").tolist() == [[3.0, 8.0]]
    assert pool(frames, mask, "meanmax").tolist() == [[2.0, 5.0, 3.0, 8.0]]
    scores = torch.tensor([[[0.0], [torch.log(torch.tensor(3.0))], [50.0]]])  # weights 1/4, 3/4, and padding nothing
    assert torch.allclose(pool(frames, mask, "attentive", lambda _: scores), torch.tensor([[2.5, 3.5]]))
    negative = pool(-frames, mask, "max")  # a maximum below zero is not the padding's zero
    assert negative.tolist() == [[-1.0, -2.0]]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("shape", INVARIANT)
def test_clip_alone_equals_clip_padded(shape, pooling):
    for head in HEADS:
        for layer_sum in (False, True):
            model = make(shape, pooling=pooling, head=head, layer_mix="sum" if layer_sum else "last")
            values, mask = padded_batch()
            with torch.no_grad():
                padded, alone = model(values, mask).logits[1], model(values[1:, :9000]).logits[0]
                assert (padded - alone).abs().max() < 1e-5
                # and the test can fail: without the mask the padding changes the logits
                assert (model(values).logits[1] - alone).abs().max() > 1e-5


@pytest.mark.parametrize("shape", GROUP_NORM)
def test_group_norm_is_padding_sensitive_within_a_bound(shape):
    """The bound the README names: at most 5 % padding changes the pooled vector by at most 5 % of its length."""
    model = make(shape)
    for share, bound in ((0.05, 0.05), (0.0, 1e-6)):
        short = round(16000 * (1 - share))
        values, mask = padded_batch(short)
        with torch.no_grad():
            padded, alone = model.encoder(values, mask), model.encoder(values[1:, :short])
        b = pool(alone.last_hidden_state, torch.ones(alone.last_hidden_state.shape[:2], dtype=torch.bool), "mean")
        frames = frame_mask(model.encoder.config, padded.last_hidden_state, mask)
        a = pool(padded.last_hidden_state, frames, "mean")[1:]
        assert (a - b).norm() / b.norm() <= bound


@pytest.mark.parametrize("shape", INVARIANT)
def test_clips_shorter_than_the_receptive_field(shape):
    model = make(shape)
    assert (
        shortest_input(model.config.audio_config) == 80 + 7 * 80
    )  # two layers: kernel 80 stride 80, then kernel 8 over those frames
    values, mask = padded_batch(short=100, long=8000)
    with torch.no_grad():
        padded, alone = model(values, mask).logits[1], model(values[1:, :100]).logits[0]
    assert torch.isfinite(alone).all() and (padded - alone).abs().max() < 1e-5


def test_short_batches_train_with_spec_augment():
    audio = AutoConfig.for_model("wav2vec2", **{**TINY, "apply_spec_augment": True, "mask_time_prob": 0.5})
    model = SerForAudioClassification(SerConfig(audio_config=audio, num_labels=4)).train()
    loss = model(torch.randn(2, 300), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layer_sum", [False, True])
def test_mean_pooled_model_is_the_stock_class(shape, layer_sum):
    model = make(shape, layer_mix="sum" if layer_sum else "last")
    stock = to_stock(model)
    assert type(stock).__name__.endswith("ForSequenceClassification") and "Ser" not in type(stock).__name__
    values, mask = padded_batch()
    with torch.no_grad():
        ours, theirs = model(values, mask).logits, stock.eval()(values, attention_mask=mask).logits
    assert (ours - theirs).abs().max() < 1e-6
    back = from_stock(stock)
    with torch.no_grad():
        assert torch.equal(back(values, mask).logits, ours)


def test_other_poolings_and_heads_have_no_stock_class():
    for config in (
        *({"pooling": name} for name in POOLINGS if name != "mean"),
        {"head": "mlp"},
        {"layer_mix": "concat"},
    ):
        model = make("xlsr-53", **config)
        assert stock_class(model.config) is None
        with pytest.raises(ValueError, match="no stock class"):
            to_stock(model)


CLEAN = """
import json, sys, torch
sys.modules["ser_hf"] = None  # importing this project is an error in this process
from transformers import AutoModelForAudioClassification, pipeline
values, results = torch.load(sys.argv[1], weights_only=True), {}
for folder in sys.argv[2:]:
    try:
        model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=False)
        code = False
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
        model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
        code = True
    answer = pipeline("audio-classification", model=folder, trust_remote_code=code)(
        {"array": values[0].numpy(), "sampling_rate": 16000}, top_k=None)
    results[folder] = {"class": type(model).__name__, "code": code,
                       "logits": model.eval()(values).logits.tolist(), "labels": [a["label"] for a in answer]}
print("RESULT" + json.dumps(results))
"""


def test_saved_equals_loaded_in_a_clean_process(tmp_path):
    labels = {"id2label": {0: "angry", 1: "happy", 2: "sad"}, "label2id": {"angry": 0, "happy": 1, "sad": 2}}
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    values = torch.randn(2, 8000)
    torch.save(values, tmp_path / "values.pt")
    expected = {}
    for shape in ("xlsr-53", "hubert-large", "wavlm-base"):
        for config in ({}, {"pooling": "max"}, {"pooling": "attentive", "head": "mlp", "layer_mix": "sum"}):
            model = make(shape, **labels, **config)
            folder = tmp_path / f"{shape}-{config.get('pooling', 'mean')}"
            kind = save_model(model, extractor, folder).__name__
            assert "pytorch_model.bin" not in os.listdir(folder) and not list(folder.glob(".saving*"))
            assert str(tmp_path) not in (folder / "config.json").read_text()
            with torch.no_grad():
                expected[str(folder)] = (kind, model(values).logits)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = warm.python("-c", CLEAN, tmp_path / "values.pt", *expected, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "not supported for audio-classification" not in done.stdout + done.stderr
    results = json.loads(done.stdout.split("RESULT")[1])
    for folder, (kind, logits) in expected.items():
        assert results[folder]["class"] == kind
        assert results[folder]["code"] == (kind == "SerForAudioClassification")  # only those need their code
        assert sorted(results[folder]["labels"]) == ["angry", "happy", "sad"]
        assert (torch.tensor(results[folder]["logits"]) - logits).abs().max() < 1e-6


def _without(folder, *names):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith(names)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_head_weights_are_an_error_that_names_them(tmp_path):
    from ser_hf import SerError

    make("xlsr-53", pooling="max").save_pretrained(tmp_path / "ours")
    _without(tmp_path / "ours", "ser_classifier")
    with pytest.raises(ValueError, match="ser_classifier.bias, ser_classifier.weight are missing"):
        SerForAudioClassification.from_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="missing"):
        AutoModelForAudioClassification.from_pretrained(tmp_path / "ours")
    save_model(make("xlsr-53"), Wav2Vec2FeatureExtractor(), tmp_path / "stock")
    _without(tmp_path / "stock", "classifier")
    with pytest.raises(SerError, match="classifier.bias, classifier.weight are missing"):
        load_finetuned(str(tmp_path / "stock"))


def test_a_new_head_on_a_pretrained_encoder(tmp_path):
    """The encoder's weights come from the checkpoint, whatever head it had; an encoder with holes is refused."""
    source = make("xlsr-53", labels=7)
    save_model(source, Wav2Vec2FeatureExtractor(), tmp_path)
    model = SerForAudioClassification.from_encoder(str(tmp_path), pooling="max", num_labels=3)
    assert model.ser_classifier.out_features == 3
    for name, weight in source.encoder.state_dict().items():
        assert torch.equal(weight, model.encoder.state_dict()[name]), name
    _without(tmp_path, "wav2vec2.encoder")
    with pytest.raises(ValueError, match="encoder's weights .* are missing"):
        SerForAudioClassification.from_encoder(str(tmp_path))


def test_problem_types_have_their_losses():
    values = torch.randn(2, 4000)
    for problem_type, labels in (
        ("single_label_classification", torch.tensor([1, 2])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0]])),
        ("regression", torch.randn(2, 4)),
    ):
        model = make("xlsr-53", problem_type=problem_type)
        out = model(values, labels=labels)
        logits = out.logits.double()
        if problem_type == "single_label_classification":
            by_hand = -logits.log_softmax(-1)[[0, 1], [1, 2]].mean()
        elif problem_type == "regression":
            by_hand = ((logits - labels) ** 2).mean()
        else:
            by_hand = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean()
        assert abs(float(out.loss) - float(by_hand)) < 1e-5


def test_feature_encoder_freezes():
    model = make("wav2vec2-base")
    model.freeze_feature_encoder()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(name.startswith("encoder.feature_extractor.") for name in frozen)


@pytest.mark.parametrize("wrong, message", [({"pooling": "sum"}, "pooling 'sum'"), ({"head": "deep"}, "head 'deep'")])
def test_wrong_configuration(wrong, message):
    with pytest.raises(ValueError, match=message):
        SerConfig(**wrong)


@pytest.mark.parametrize("kind, why", [("bert", "it reads text"), ("clap", "no frames"), ("encodec", "it is a codec")])
def test_encoders_that_are_refused_say_why(kind, why):
    with pytest.raises(ValueError, match=rf"'{kind}' is not supported.*{why}.*: use one of wav2vec2, hubert, wavlm"):
        SerForAudioClassification(SerConfig(audio_config=AutoConfig.for_model(kind)))


def test_every_waveform_encoder_is_tested():
    kinds = {kind for kind, entry in ENCODERS.items() if entry.reads == "waveform"}
    assert {kind for kind, _ in SHAPES.values()} == kinds


@pytest.mark.parametrize("shape", SHAPES)
def test_encoders_are_as_described(shape):
    model = make(shape)
    encoder, config = model.encoder, model.encoder.config
    description = describe(config)
    # frames and the samples they require: TINY's convolutions have kernel 80, stride 80, then 8, 8
    assert shortest_input(config) == 640 and description.steps(config, 3) == 80 * (2 * 8 + 8)
    for samples in (640, 1279, 1280, 16000, 16639):
        frames = description.frames(config, torch.tensor(samples))
        assert frames == samples // 640 == encoder._get_feat_extract_output_lengths(torch.tensor(samples))
        assert encoder(torch.randn(1, samples)).last_hidden_state.shape[1] == frames
    # padding_sensitive is what is measured: the same real frames of a clip, alone and padded to twice its length
    values, mask = padded_batch(8000)
    with torch.no_grad():
        alone = encoder(values[1:, :8000]).last_hidden_state
        padded = encoder(values, attention_mask=mask).last_hidden_state[1:, : alone.shape[1]]
    difference = (alone - padded).abs().max()
    assert padding_sensitive(config) == (shape in SENSITIVE)
    assert difference > 1e-3 if shape in SENSITIVE else difference < 1e-5


def test_adapters_shorten_the_frames():
    config = AutoConfig.for_model("wav2vec2", **TINY, add_adapter=True, num_adapter_layers=2, adapter_stride=2)
    lengths = torch.tensor([640, 6400, 16000])  # 1, 10 and 25 frames; each of two adapters halves them, rounded up
    assert describe(config).frames(config, lengths).tolist() == [1, 3, 7]


def test_an_encoder_with_its_own_code_is_one_of_waveforms_if_it_has_the_convolutions():
    from transformers import PreTrainedConfig, Wav2Vec2Config

    class Own(Wav2Vec2Config):
        model_type = "own"

    class Other(PreTrainedConfig):
        model_type = "other"

    assert describe(Own(**TINY)).reads == "waveform" and describe(Other()) is None and padding_sensitive(Other())


def test_fsdp_finds_the_layers_to_wrap():
    assert make("xlsr-53")._no_split_modules == {"Wav2Vec2EncoderLayerStableLayerNorm"}
    assert make("wavlm-base")._no_split_modules >= {"WavLMEncoderLayer"}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_layer_is_dropped_under_a_layer_sum(shape, tmp_path):
    """A dropped layer leaves no hidden state to weigh."""
    kind, flags = SHAPES[shape]
    audio = AutoConfig.for_model(kind, **{**TINY, **flags, "layerdrop": 0.5})
    assert SerConfig(audio_config=audio).audio_config.layerdrop == 0.5
    audio.save_pretrained(tmp_path)
    assert SerConfig(audio_config=audio.to_dict(), layer_mix="sum").audio_config.layerdrop == 0.0
    assert SerFusionConfig(audio_config=audio.to_dict(), use_weighted_layer_sum=True).audio_config.layerdrop == 0.0
    AutoModel.from_config(audio).save_pretrained(tmp_path)
    model = SerForAudioClassification.from_encoder(str(tmp_path), layer_mix="sum", num_labels=2)
    assert model.config.audio_config.layerdrop == model.encoder.config.layerdrop == 0.0
    loss = model.train()(torch.randn(2, 8000), labels=torch.tensor([0, 1])).loss
    assert torch.isfinite(loss)


def test_spec_augment_flags_reach_the_encoder():
    from ser_hf.training.audio_model import audio_model
    from ser_hf.training.settings import EncoderArguments

    encoder = EncoderArguments(
        model_type="wav2vec2", config_overrides=json.dumps(TINY), mask_time_prob=0.6, mask_time_length=2
    )
    model, _ = audio_model(["angry", "sad"], **vars(encoder))
    audio = model.config.audio_config
    assert (audio.apply_spec_augment, audio.mask_time_prob, audio.mask_time_length) == (True, 0.6, 2)
    values = torch.randn(1, 16000)
    model.train()
    with torch.no_grad():
        assert not torch.equal(model(values).logits, model(values).logits)  # TINY has no dropout: the masks differ
        assert torch.equal(model.eval()(values).logits, model(values).logits)
