"""What every model of transformers does, for all our classes and kinds, with a stock class as control.

A case is a class and what it is made of; new encoders, architectures and fusions of the tables become cases themselves.
"""

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import AutoConfig, PreTrainedModel, Wav2Vec2ForSequenceClassification

import ser_hf.models
from conftest import tiny_config
from ser_hf.models import (
    SerConfig,
    SerForAudioClassification,
    SerForFunctionalsClassification,
    SerForSpectrogramClassification,
    SerFunctionalsConfig,
    SerFusionConfig,
    SerFusionForClassification,
    SerSpectrogramConfig,
    SerSpectrogramModel,
)
from ser_hf.models.configuration_fusion import FUSIONS
from ser_hf.models.configuration_spectrogram import ARCHS
from ser_hf.models.encoders import ENCODERS, describe_audio, padding_sensitive
from ser_hf.models.pooling import POOLINGS

TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
ROWS = 64
# SpecAugment off and no dropout (conftest's TINY): training is deterministic
HEAD = {"num_labels": 3, "problem_type": "single_label_classification", "head_dropout": 0.0}
KINDS = [kind for kind, entry in ENCODERS.items() if entry.reads in ("waveform", "log-mel")]


def stock(**config):
    return Wav2Vec2ForSequenceClassification(tiny_config("wav2vec2", num_labels=3, classifier_proj_size=8, **config))


def ser(kind="wav2vec2", **config):
    return SerForAudioClassification(SerConfig(audio_config=tiny_config(kind), head_size=8, **HEAD, **config))


def spectrogram(arch, kind=SerForSpectrogramClassification, **config):
    return kind(SerSpectrogramConfig(arch=arch, rows=ROWS, num_labels=3, dropout=0.0, **config))


def fusion(audio=None, **config):
    parts = {"audio_config": audio or tiny_config("wav2vec2"), "text_config": AutoConfig.for_model("bert", **TEXT)}
    return SerFusionForClassification(SerFusionConfig(**parts, head_size=8, **HEAD, **config))


CASES = {
    "stock": stock,
    **{f"ser {kind}": lambda kind=kind: ser(kind) for kind in KINDS},
    **{f"ser pooling {name}": lambda name=name: ser(pooling=name, head="mlp", layer_mix="sum") for name in POOLINGS},
    "ser standardised": lambda: ser(layer_mix="concat", standardise=True),
    **{f"spectrogram {arch}": lambda arch=arch: spectrogram(arch) for arch in ARCHS},
    "spectrogram of time": lambda: spectrogram("cnn1d_3", reduce="time"),
    "spectrogram encoder": lambda: spectrogram("cnn2d_2", SerSpectrogramModel),
    "functionals": lambda: SerForFunctionalsClassification(SerFunctionalsConfig(num_labels=3)),
    **{f"fusion {name}": lambda name=name: fusion(fusion=name) for name in FUSIONS},
    "fusion layer sum": lambda: fusion(use_weighted_layer_sum=True, pooling="attentive", text_pooling="max"),
    "fusion spectrogram": lambda: fusion(SerSpectrogramConfig(arch="cnn1d_3", rows=ROWS)),
}
HEADS = [name for name in CASES if name != "spectrogram encoder"]
MASKED = [name for name in HEADS if name != "functionals"]
ENCODED = ["stock", "ser wav2vec2", "ser whisper", "ser wav2vec2-bert", "ser pooling attentive", "fusion concat"]
# One of each kind; the others take minutes.
FAST = [*ENCODED, "spectrogram cnn1d_3", "spectrogram cnn2d_6", "spectrogram cnn_lstm_attention", "spectrogram encoder"]
FAST += ["fusion cross_attention", "fusion spectrogram", "functionals"]


def each(cases):
    """A test for each case, slow but for `FAST`."""
    marks = pytest.mark.slow
    return pytest.mark.parametrize(
        "case", [case if case in FAST else pytest.param(case, marks=marks) for case in cases]
    )


def make(case: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = CASES[case]().eval()
    for name, module in model.named_modules():  # initial heads are so small that every difference would be
        if isinstance(module, nn.Linear) and ("ser_" in name or name == "classifier"):
            nn.init.normal_(module.weight, std=0.3)
    return model


def inputs(model: PreTrainedModel, batch: int = 3, share: float = 1.0, mask: bool = True) -> dict[str, torch.Tensor]:
    """Clips (and texts) of different lengths, `share` of 0.3 s (or 120 frames); with `mask` zero-padded."""
    generator = torch.Generator().manual_seed(1)
    config = getattr(model.config, "audio_config", model.config)
    if config.model_type == "ser_functionals":
        return {"input_features": torch.randn(batch, model.mean.shape[0], generator=generator)}
    entry = describe_audio(config)
    rows = entry.rows(config) if entry.rows else {"spectrogram": ROWS}.get(entry.reads)
    steps = round((120 if rows else 4800) * share)
    shape = (batch, steps, *((rows,) if rows else ())) if entry.time == 1 or not rows else (batch, rows, steps)
    values = torch.randn(shape, generator=generator)
    real = (torch.arange(steps) < steps - torch.arange(batch).unsqueeze(-1) * (steps // 8)).long()
    given = {entry.input_name: values}
    if mask:
        padding = real if not rows else real.unsqueeze(-1) if entry.time == 1 else real.unsqueeze(1)
        given = {entry.input_name: values * padding, "attention_mask": real}
    if hasattr(model.config, "text_config"):
        tokens = round(10 * share)
        given["input_ids"] = torch.randint(5, 50, (batch, tokens), generator=generator)
        if mask:
            given["text_attention_mask"] = (torch.arange(tokens) < tokens - 2 * torch.arange(batch)[:, None]).long()
    return given


def logits(model, given) -> torch.Tensor:
    with torch.no_grad():
        return model(**given)[-1 if isinstance(model, SerSpectrogramModel) else "logits"]


def test_every_class_is_a_case():
    kinds = {value for value in vars(ser_hf.models).values() if isinstance(value, type)}
    kinds = {kind for kind in kinds if issubclass(kind, PreTrainedModel)}
    assert len(kinds) >= 5 and kinds <= {type(make(case)) for case in CASES}


@each(CASES)
def test_saved_and_loaded_answer_alike(case, tmp_path):
    model = make(case)
    given = inputs(model)
    expected = logits(model, given)
    assert torch.equal(logits(model, given), expected)  # determinism
    model.save_pretrained(tmp_path)
    files = {file.name for file in tmp_path.iterdir() if file.suffix not in (".py", ".json")}
    assert files == {"model.safetensors"}
    again = type(model).from_pretrained(tmp_path)
    assert not again.training and again.config.to_dict().keys() == model.config.to_dict().keys()
    assert (logits(again, given) - expected).abs().max() < 1e-6
    assert expected.std() > 1e-4


@each(MASKED)
def test_a_row_of_a_batch_is_the_clip_alone(case):
    """Of equal lengths always; padded where the encoder is padding-invariant."""
    model = make(case)
    sensitive = padding_sensitive(getattr(model.config, "audio_config", model.config))
    whole, padded = inputs(model, mask=False), inputs(model)
    for given in [whole] if sensitive else [whole, padded]:
        together = logits(model, given)
        for row in range(3):
            alone = {name: values[row : row + 1] for name, values in given.items()}
            assert (logits(model, alone)[0] - together[row]).abs().max() < 1e-4 * together.abs().max()
    everything_real = {name: values for name, values in whole.items()}
    everything_real |= {name: torch.ones_like(values) for name, values in padded.items() if "mask" in name}
    assert (logits(model, everything_real) - logits(model, whole)).abs().max() < 1e-4 * together.abs().max()
    assert (logits(model, padded) - logits(model, whole)).abs().max() > 1e-4  # and the mask is read


@each(CASES)
def test_hidden_states_and_attentions(case):
    """By arguments, by the configuration, and in tuples; as many as there are layers."""
    model = make(case)
    given, config = inputs(model), model.config
    model.set_attn_implementation("eager")
    wanted = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        plain, out = model(**given), model(**given, **wanted)
        in_tuple = model(**given, **wanted, return_dict=False)
        for name in wanted:
            setattr(config, name, True)
        configured, overruled = model(**given), model(**given, **dict.fromkeys(wanted, False))
    for name in ("hidden_states", "attentions"):
        assert getattr(plain, name) is None and getattr(overruled, name) is None
    audio, rows = getattr(config, "audio_config", config), len(given[model.main_input_name])
    if hasattr(audio, "num_hidden_layers"):
        assert len(out.hidden_states) == audio.num_hidden_layers + 1 and len(out.attentions) == audio.num_hidden_layers
        assert out.attentions[0].shape[:2] == (rows, audio.num_attention_heads)
    else:
        assert out.attentions is None and len(out.hidden_states) in (1, 2)
    if hasattr(config, "text_config"):
        assert len(out.text_hidden_states) == 3 and len(out.text_attentions) == 2
        assert out.text_hidden_states[0].shape == (rows, 10, 16)
    assert all(len(state) == rows and state.isfinite().all() for state in out.hidden_states)
    assert len(in_tuple) == len(out.to_tuple()) > len(plain.to_tuple())
    for values in (in_tuple, configured.to_tuple()):
        for one, other in zip(values, out.to_tuple(), strict=True):
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            assert all((a - b).abs().max() < 1e-6 for a, b in pairs)


@each(HEADS)
def test_a_step_reaches_every_weight(case):
    model = make(case).train()
    out = model(**inputs(model), labels=torch.tensor([0, 1, 2]))
    assert out.loss.ndim == 0 and out.loss.isfinite()
    assert torch.equal(model.eval()(**inputs(model), labels=torch.tensor([0, 1, 2]), return_dict=False)[0].isfinite(),
                       torch.tensor(True))  # fmt: skip
    out.loss.backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    # SpecAugment's filling, fixed or relative positions, missing modalities, the norm after a sum of all layers
    unused = ("masked_spec_embed", "embed_positions", "pos_conv_embed", "layer_norm", "missing")
    assert all(any(part in name for part in unused) for name in without), without


@each([case for case in HEADS if case.startswith(("stock", "ser ", "fusion"))])
def test_activation_checkpointing_changes_no_gradient(case):
    model, gradients = make(case).train(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model.zero_grad()
        torch.manual_seed(0)  # of the conformer's dropout
        model(**inputs(model), labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append(
            {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert all((gradients[0][name] - gradients[1][name]).abs().max() < 1e-5 for name in gradients[0])


@pytest.mark.parametrize("case", ["stock", "ser wav2vec2", "spectrogram cnn1d_3", "functionals", "fusion concat"])
def test_a_head_of_other_labels(case, tmp_path):
    """Refused as it is, and new where that is asked for; a head that is missing is never made by itself in ours."""
    model = make(case)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        type(model).from_pretrained(tmp_path, num_labels=5)
    again = type(model).from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert logits(again, inputs(model)).shape == (3, 5)
    head = "classifier" if case == "stock" else "ser_classifier"
    before, after = model.state_dict(), again.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith(head))
    kept = {name: value for name, value in before.items() if not name.startswith(head)}
    model.save_pretrained(tmp_path, state_dict=kept)
    if case == "stock":
        type(model).from_pretrained(tmp_path)
    else:
        with pytest.raises(ValueError, match="ser_classifier.bias, ser_classifier.weight are missing, the model would"):
            type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("case", ENCODED)
def test_adapters_of_peft(case, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base = make(case)
    names = {name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    targets = sorted(names & {"q_proj", "linear_q", "query"})
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=targets)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=3.0)
    given = inputs(base)
    expected = logits(model, given)
    assert (expected - logits(base, given)).abs().max() > 1e-5
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert (logits(again, given) - expected).abs().max() < 1e-6
    assert (logits(again.merge_and_unload(), given) - expected).abs().max() < 1e-4


@each(CASES)
def test_half_precision(case, tmp_path):
    """Saved, loaded and run. In bfloat16 on a CPU encoders of waveforms are far off, the stock class's too."""
    model = make(case)
    rounding = {torch.float16: 0.01, torch.bfloat16: 4.0 if model.main_input_name == "input_values" else 0.1}
    given = inputs(model)
    expected = logits(model, given)
    for dtype, tolerance in rounding.items():
        copy.deepcopy(model).to(dtype).save_pretrained(tmp_path)
        half = type(model).from_pretrained(tmp_path, dtype=dtype)
        assert half.dtype == dtype
        got = logits(half, {name: v.to(dtype) if v.is_floating_point() else v for name, v in given.items()})
        assert got.dtype == dtype and got.isfinite().all()
        assert (got.float() - expected).abs().max() < tolerance * expected.abs().max()
        whole = type(model).from_pretrained(tmp_path, dtype=torch.float32)
        assert whole.dtype == torch.float32
        assert (logits(whole, given) - expected).abs().max() < 0.05 * expected.abs().max()


# ---- export


def times(model, given: dict, fixed: bool) -> dict:
    """Which dimensions may change: the batch, and time unless `fixed`."""
    shapes = {}
    for name, values in given.items():
        time = values.ndim - 1 if name != model.main_input_name or values.ndim < 3 else 1
        if (
            model.main_input_name == name
            and describe_audio(getattr(model.config, "audio_config", model.config)).time == -1
        ):
            time = values.ndim - 1
        shapes[name] = {0: Dim.AUTO} if fixed else {0: Dim.AUTO, time: Dim.AUTO}
    return shapes


def exported(case: str, mask: bool, strict: bool) -> float:
    """The largest difference of an exported model on another batch and length, relative to its logits."""
    model = make(case)
    fixed = "lstm" in case  # torch.export unrolls LSTMs over the frames
    given, other = inputs(model, mask=mask), inputs(model, 2, 1.0 if fixed else 1.4, mask)
    expected = logits(model, other)  # first: transformers installs its hooks for hidden states, which dynamo cannot
    with torch.no_grad():
        program = torch.export.export(model, (), given, dynamic_shapes=times(model, given, fixed), strict=strict)
        got = program.module()(**other)
    return float((got["logits"] - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", ["stock", "ser wav2vec2", "spectrogram cnn1d_3"])
def test_torch_export(case):
    assert exported(case, mask=True, strict=False) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("case", MASKED)
def test_torch_export_of_everything(case, mask, strict):
    assert exported(case, mask, strict) < 1e-5


@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
@each(MASKED)
def test_torch_trace(case, mask):
    """As legacy ONNX traces it: equal on another batch and another length."""
    model = make(case)
    given, other = inputs(model, mask=mask), inputs(model, 2, 1.4, mask)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *values):
            return self.model(**dict(zip(given, values, strict=True)), return_dict=False)[0]

    with torch.no_grad():
        traced = torch.jit.trace(Plain(), tuple(given.values()), check_trace=False)
        got = traced(*other.values())
    expected = logits(model, other)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.slow
def test_missing_rows_of_a_batch_are_exported_too():
    """A clip without text and a text without a clip: no branch on data stays."""
    model = make("fusion concat")
    given, other = inputs(model), inputs(model, 2, 1.4)
    given["attention_mask"][0], other["text_attention_mask"][1] = 0, 0
    with torch.no_grad():
        program = torch.export.export(model, (), given, dynamic_shapes=times(model, given, False))
        got = program.module()(**other)["logits"]
    assert (got - logits(model, other)).abs().max() < 1e-5
    alone = {name: values[1:] for name, values in other.items() if "input_ids" not in name and "text" not in name}
    assert (got[1:] - logits(model, alone)).abs().max() < 1e-5
