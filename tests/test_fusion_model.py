"""The fusion model: padded equals single, raw input equals cached states, a missing text or clip has a learned answer.

python -m pytest tests/test_fusion_model.py -k cached
"""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from conftest import TINY
from ser_hf.models import (
    SerConfig,
    SerForAudioClassification,
    SerForSpectrogramClassification,
    SerFusionConfig,
    SerFusionForClassification,
    SerSpectrogramConfig,
)
from ser_hf.models.configuration_fusion import FUSIONS, POOLINGS, TEXT_POOLINGS
from ser_hf.models.fusion_layers import Concat, CrossAttention, Gated, Modality
from ser_hf.training.saved_model import save_model

TEXT = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# Every family that is named in the issue, and what the tiny shape needs beyond TEXT.
TEXTS = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "distilbert": {"dim": 12, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "dropout": 0.0, "attention_dropout": 0.0},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "electra": {"embedding_size": 12},
    "albert": {"embedding_size": 12},
}


def text_config(kind: str = "bert", **overrides):
    drop = TEXT.keys() & {"hidden_size", "num_hidden_layers", "num_attention_heads"} if kind == "distilbert" else ()
    shape = {key: value for key, value in TEXT.items() if key not in drop}
    return AutoConfig.for_model(kind, **{**shape, **TEXTS[kind], **overrides})


def audio_config(kind: str = "wav2vec2", **overrides):
    return AutoConfig.for_model(kind, **{**TINY, "num_hidden_layers": 2, "do_stable_layer_norm": True, **overrides})


def make(text: str = "bert", audio: dict | None = None, **config) -> SerFusionForClassification:
    torch.manual_seed(0)
    config = {"num_labels": 3, "head_size": 8, "problem_type": "single_label_classification", **config}
    parts = {"audio_config": audio_config(**(audio or {})), "text_config": text_config(text)}
    model = SerFusionForClassification(SerFusionConfig(**parts, **config)).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("ser_"):  # initial heads are so small that every difference would be
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def batch(size: int = 3) -> dict[str, torch.Tensor]:
    """Clips and texts of different lengths, padded as the processor does."""
    torch.manual_seed(1)
    values, mask = torch.randn(size, 12000), torch.ones(size, 12000, dtype=torch.long)
    ids, text_mask = torch.randint(5, 50, (size, 9)), torch.ones(size, 9, dtype=torch.long)
    for row in range(1, size):
        values[row, 12000 - 3000 * row :], mask[row, 12000 - 3000 * row :] = 0.0, 0
        ids[row, 9 - 2 * row :], text_mask[row, 9 - 2 * row :] = 0, 0
    return {"input_values": values, "attention_mask": mask, "input_ids": ids, "text_attention_mask": text_mask}


def row(inputs: dict, index: int) -> dict:
    """One row of a batch without its padding."""
    samples, tokens = inputs["attention_mask"][index].sum(), inputs["text_attention_mask"][index].sum()
    return {
        "input_values": inputs["input_values"][index : index + 1, :samples],
        "input_ids": inputs["input_ids"][index : index + 1, :tokens],
    }


def designs():
    for layer_sum in (False, True):
        for fusion in ("concat", "gated"):
            for pooling in POOLINGS:
                for text_pooling in TEXT_POOLINGS:
                    yield {
                        "fusion": fusion,
                        "pooling": pooling,
                        "text_pooling": text_pooling,
                        "use_weighted_layer_sum": layer_sum,
                    }
        yield {"fusion": "cross_attention", "use_weighted_layer_sum": layer_sum}


@torch.no_grad()
def test_padded_equals_single_and_raw_equals_cached():
    inputs = batch()
    for design in designs():
        model = make(**design)
        logits = model(**inputs).logits
        for index in range(3):
            assert (model(**row(inputs, index)).logits[0] - logits[index]).abs().max() < 1e-5, design
        assert (logits[0] - logits[1]).abs().max() > 1e-3  # and the test can fail
        audio = model.encode_audio(inputs["input_values"], inputs["attention_mask"])
        text = model.encode_text(inputs["input_ids"], inputs["text_attention_mask"])
        for (states, mask), shape, pools in (
            (audio, model.audio_shape, model.pools_audio),
            (text, model.text_shape, model.pools_text),
        ):
            assert (states.shape[1], states.shape[3]) == shape and states.shape[::2] == mask.shape
            assert states.shape[2] == 1 and mask.all() if pools else states.shape[2] > 1
        cached = model(audio_states=audio[0], audio_mask=audio[1], text_states=text[0], text_mask=text[1]).logits
        assert (cached - logits).abs().max() < 1e-5, design
        half = model.fuse(audio[0].half(), audio[1], text[0].half(), text[1])  # as a cache on disk may hold them
        assert half.dtype == torch.float32 and (half - logits).abs().max() < 0.02, design


def test_what_is_pooled_before_anything_trained():
    def pools(**config):
        model = make(**config)
        return model.pools_audio, model.pools_text

    assert pools() == (True, True)
    assert pools(pooling="meanmax", text_pooling="max") == (True, True)
    assert pools(pooling="attentive") == (False, True)
    assert pools(pooling="meanmax", text_pooling="max", use_weighted_layer_sum=True) == (False, False)
    assert pools(pooling="mean", text_pooling="first", use_weighted_layer_sum=True) == (True, True)
    assert pools(fusion="cross_attention") == (False, False)


def test_modality_by_hand():
    """Layer weights 1/4 and 3/4, the mean of two real frames, the norm's scale, and the vector of what is missing."""
    modality = Modality(dim=2, layers=2, pooling="max")
    with torch.no_grad():
        modality.layers.weight.copy_(torch.tensor([0.0, 3.0]).log().clamp(min=0))  # softmax: 1/4, 3/4
        modality.norm.weight.fill_(5.0)
        modality.missing.copy_(torch.tensor([7.0, -7.0]))
    first = [[4.0, 0.0], [0.0, 8.0], [99.0, 99.0]]
    second = [[0.0, 4.0], [8.0, 0.0], [99.0, 99.0]]
    states = torch.tensor([[first, second]]).repeat(2, 1, 1, 1)  # (2, 2 layers, 3 frames, 2)
    mask = torch.tensor([[True, True, False]] * 2)
    frames, real = modality(states, mask, torch.tensor([True, False]))
    # 1/4 first + 3/4 second: frames (1, 3) and (6, 2), maximum (6, 3), normalised (1, -1), times 5
    assert torch.allclose(frames, torch.tensor([[[5.0, -5.0]], [[7.0, -7.0]]]), atol=1e-4)
    assert real.tolist() == [[True], [True]]
    sequence = Modality(dim=2, layers=1, pooling=None)
    frames, real = sequence(states[:, :1], mask, torch.tensor([True, False]))
    assert real.tolist() == [[True, True, False], [True, False, False]]
    assert torch.allclose(frames[0, :2], torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), atol=1e-4)
    assert frames[1, 0].tolist() == [0.0, 0.0]


@torch.no_grad()
def test_fusions_by_hand():
    audio, text = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0]]])
    one = torch.ones(1, 1, dtype=torch.bool)
    concat = Concat(2, 1, 1)
    concat.dense.weight.copy_(torch.tensor([[0.1, -0.2, 0.3]]))
    concat.dense.bias.fill_(0.05)
    by_hand = torch.tanh(torch.tensor(0.1 * 1 - 0.2 * 2 + 0.3 * 3 + 0.05))
    assert torch.allclose(concat(audio, one, text, one), by_hand)
    gated = Gated(2, 1, 1)
    for parameter in gated.parameters():
        parameter.zero_()
    gated.audio.weight.copy_(torch.tensor([[0.5, 0.25]]))
    gated.text.weight.fill_(-0.5)
    gated.gate.bias.copy_(torch.tensor([3.0]).log())  # a gate of 3/4
    by_hand = 0.75 * torch.tanh(torch.tensor(1.0)) + 0.25 * torch.tanh(torch.tensor(-1.5))
    assert torch.allclose(gated(audio, one, text, one), by_hand)
    gated.gate.weight.copy_(torch.tensor([[1.0, -1.0, 2.0]]))  # and it reads both: 1 - 2 + 6 + log 3
    gate = torch.sigmoid(5.0 + torch.tensor(3.0).log())
    by_hand = gate * torch.tanh(torch.tensor(1.0)) + (1 - gate) * torch.tanh(torch.tensor(-1.5))
    assert torch.allclose(gated(audio, one, text, one), by_hand)


@torch.no_grad()
def test_cross_attention_by_hand():
    """With one head and identity projections a frame gets the weighted mean of the tokens, and of no padding."""
    block = CrossAttention(2, 2, 2, heads=1)
    for linear in (block.audio, block.text):
        linear.weight.copy_(torch.eye(2)), linear.bias.zero_()
    for attention in (block.to_text, block.to_audio):
        attention.in_proj_weight.copy_(torch.cat([torch.eye(2)] * 3)), attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(torch.eye(2)), attention.out_proj.bias.zero_()
    audio, text = torch.randn(1, 3, 2), torch.randn(1, 4, 2)
    audio_mask, text_mask = torch.tensor([[True, True, False]]), torch.tensor([[True, True, True, False]])
    a, t = audio[:, :2], text[:, :3]
    weights = (a @ t.transpose(1, 2) / 2**0.5).softmax(dim=-1)
    heard = block.audio_norm(a + weights @ t).mean(dim=1)
    weights = (t @ a.transpose(1, 2) / 2**0.5).softmax(dim=-1)
    read = block.text_norm(t + weights @ a).mean(dim=1)
    assert torch.allclose(block(audio, audio_mask, text, text_mask), torch.cat([heard, read], dim=-1), atol=1e-6)


@torch.no_grad()
def test_whole_model_by_hand():
    """Concat with mean and [CLS], from the encoders up, without the model's own methods."""
    model, inputs = make(), batch(1)
    frames = model.audio_encoder(inputs["input_values"]).last_hidden_state
    tokens = model.text_encoder(inputs["input_ids"]).last_hidden_state
    audio, text = model.ser_audio.norm(frames.mean(dim=1)), model.ser_text.norm(tokens[:, 0])
    fused = torch.tanh(torch.cat([audio, text], dim=-1) @ model.ser_fusion.dense.weight.T + model.ser_fusion.dense.bias)
    assert torch.allclose(model(**inputs).logits, model.ser_classifier(fused), atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_missing_text_or_audio(fusion):
    """Alone or beside others, as an argument that is not given or as a row of zeros: one answer, and gradients."""
    for design in (
        {"pooling": "mean"},
        {"pooling": "attentive", "text_pooling": "max", "use_weighted_layer_sum": True},
    ):
        model, inputs = make(fusion=fusion, **design), batch()
        with torch.no_grad():
            whole = model(**inputs).logits
            audio = {key: inputs[key] for key in ("input_values", "attention_mask")}
            text = {key: inputs[key] for key in ("input_ids", "text_attention_mask")}
            no_text, no_audio = model(**audio).logits, model(**text).logits
            assert torch.isfinite(no_text).all() and torch.isfinite(no_audio).all()
            for other in (no_text, no_audio):
                assert ((other - whole).abs().amax(dim=1) > 1e-3).all()
            assert (no_text[0] - no_text[1]).abs().max() > 1e-4  # what is there is heard
            assert (no_audio[0] - no_audio[1]).abs().max() > 1e-4
            mixed = {key: value.clone() for key, value in inputs.items()}
            mixed["attention_mask"][0] = 0
            mixed["text_attention_mask"][2] = 0
            logits = model(**mixed).logits
            for got, expected in zip(logits, (no_audio[0], whole[1], no_text[2]), strict=True):
                assert (got - expected).abs().max() < 1e-5
            mixed["input_values"][0], mixed["input_ids"][2] = 99.0, 7  # what a row of zeros masks is not read
            assert torch.equal(model(**mixed).logits, logits)
            empty = {**inputs, "text_attention_mask": torch.zeros(3, 9, dtype=torch.long)}
            assert torch.allclose(model(**empty).logits, no_text, atol=1e-5)
        model.train()
        mixed = {key: value.clone() for key, value in inputs.items()}
        mixed["attention_mask"][0], mixed["text_attention_mask"][2] = 0, 0
        for given in (mixed, audio, text):
            model.zero_grad()
            model(**given, labels=torch.tensor([0, 1, 2])).loss.backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
            there = "ser_text.missing" if given is not text else "ser_audio.missing"
            assert gradients[there].abs().sum() > 0


def test_nothing_at_all_is_an_error():
    model, inputs = make(), batch()
    with pytest.raises(ValueError, match="neither audio nor text"):
        model()
    inputs["attention_mask"][1], inputs["text_attention_mask"][1] = 0, 0
    with torch.no_grad():  # one row of a batch: what is answered when nothing is known
        logits = model.eval()(**inputs).logits
        known = model.ser_audio.missing, model.ser_text.missing
        fused = model.ser_fusion(known[0].view(1, 1, -1), None, known[1].view(1, 1, -1), None)
        assert torch.allclose(logits[1], model.ser_classifier(fused)[0], atol=1e-6)


def test_modality_dropout():
    model = make(modality_dropout=0.4)
    everyone = torch.ones(20000, dtype=torch.bool)
    audio, text = model.drop_modality(everyone, everyone)
    assert (audio | text).all()  # never both
    for there in (audio, text):
        assert 0.19 < float((~there).float().mean()) < 0.21  # half of 0.4 each
    partly = torch.arange(20000) % 2 == 0
    audio, text = model.drop_modality(everyone, partly)
    assert audio[~partly].all()  # what is alone stays
    inputs = batch()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)  # in training only
        model.train()
        model.ser_dropout.p = 0.0
        answers = {tuple(model(**inputs).logits[0].round(decimals=4).tolist()) for _ in range(60)}
        assert len(answers) == 3  # both, without audio, without text


def test_frozen_encoders_are_the_cache():
    noisy = {"hidden_dropout": 0.5, "apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 2}
    model, inputs = make(audio=noisy, head_dropout=0.0), batch()
    model.train()
    with torch.no_grad():
        assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.freeze_encoders()
    model.train()
    assert model.training and model.ser_dropout.training and not model.text_encoder.training
    logits = model(**inputs, labels=torch.tensor([0, 1, 2]))
    audio = model.encode_audio(inputs["input_values"], inputs["attention_mask"])
    text = model.encode_text(inputs["input_ids"], inputs["text_attention_mask"])
    assert torch.equal(model.fuse(*audio, *text), logits.logits) and not audio[0].requires_grad
    logits.loss.backward()
    with_gradient = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"ser_audio", "ser_text", "ser_fusion", "ser_classifier"}
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == with_gradient


def test_end_to_end_trains_everything():
    """But for what no answer depends on: the vectors of what is not missing have gradients of zero."""
    for fusion in FUSIONS:
        for layer_sum in (False, True):
            stable = {"do_stable_layer_norm": False}  # a stable encoder's last norm is not in its hidden states
            model = make(fusion=fusion, audio=stable, use_weighted_layer_sum=layer_sum).train()
            model.activation_checkpointing_enable()
            model(**batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
            without = {name for name, p in model.named_parameters() if p.grad is None}
            assert without <= {"audio_encoder.masked_spec_embed"}, without


@pytest.mark.parametrize("kind", TEXTS)
def test_text_encoders(kind, tmp_path):
    """No random pooler is left in any, padded equals single, and a fine-tuned classifier gives its encoder."""
    model, inputs = make(kind, text_pooling="mean"), batch()
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]
    with torch.no_grad():
        logits = model(**inputs).logits
        assert (model(**row(inputs, 2)).logits[0] - logits[2]).abs().max() < 1e-5
    fine_tuned = AutoModelForSequenceClassification.from_config(text_config(kind))
    fine_tuned.save_pretrained(tmp_path / "text")
    AutoModel.from_config(audio_config()).save_pretrained(tmp_path / "audio")
    model = SerFusionForClassification.from_encoders(str(tmp_path / "audio"), str(tmp_path / "text"), num_labels=3)
    theirs, ours = fine_tuned.base_model.state_dict(), model.text_encoder.state_dict()
    assert ours.keys() <= theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", ["hubert", "wavlm", "data2vec-audio"])
def test_audio_encoders(kind):
    torch.manual_seed(0)
    audio = AutoConfig.for_model(kind, **TINY)
    model = SerFusionForClassification(SerFusionConfig(audio_config=audio, text_config=text_config())).eval()
    inputs = batch()
    with torch.no_grad():
        if kind != "data2vec-audio":  # whose positional convolutions hear the padding
            assert (model(**row(inputs, 1)).logits[0] - model(**inputs).logits[1]).abs().max() < 1e-5
    short = {
        **inputs,
        "input_values": inputs["input_values"][:, :100],
        "attention_mask": inputs["attention_mask"][:, :100],
    }
    assert torch.isfinite(model.train()(**short).logits).all()  # as the audio model: long enough for one frame


def test_from_encoders(tmp_path):
    torch.manual_seed(0)
    audio = {"num_labels": 5, "head_size": 8, "audio_config": audio_config()}
    sources = {
        "ours": SerForAudioClassification(SerConfig(pooling="max", **audio)),
        "stock": SerForAudioClassification(SerConfig(**audio)),
    }
    AutoModelForSequenceClassification.from_config(text_config()).half().save_pretrained(tmp_path / "text")
    from transformers import Wav2Vec2FeatureExtractor

    for name, source in sources.items():
        save_model(source, Wav2Vec2FeatureExtractor(), tmp_path / name)
        model = SerFusionForClassification.from_encoders(
            str(tmp_path / name), str(tmp_path / "text"), fusion="gated", num_labels=3
        )
        assert model.config.pooling == source.config.pooling and model.config.fusion == "gated"
        assert model.config.audio_config is model.audio_encoder.config
        for key, weight in source.encoder.state_dict().items():
            assert torch.equal(weight, model.audio_encoder.state_dict()[key]), key
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert torch.isfinite(model(**batch()).logits).all()
    overrides = {"mask_time_prob": 0.6, "apply_spec_augment": True}
    model = SerFusionForClassification.from_encoders(
        str(tmp_path / "stock"), str(tmp_path / "text"), audio_overrides=overrides, pooling="attentive"
    )
    assert model.audio_encoder.config.mask_time_prob == 0.6 and model.config.pooling == "attentive"


@torch.no_grad()
def test_from_a_spectrogram_model(tmp_path):
    """Its encoder gives one vector a clip, whatever the fusion; padded frames do not count."""
    torch.manual_seed(0)
    source = SerForSpectrogramClassification(SerSpectrogramConfig(arch="cnn1d_3", rows=8, num_labels=5)).eval()
    source.save_pretrained(tmp_path / "audio")
    AutoModel.from_config(text_config()).save_pretrained(tmp_path / "text")
    features, mask = torch.randn(2, 60, 8), torch.ones(2, 60, dtype=torch.long)
    mask[1] = 0
    for fusion in FUSIONS:
        model = SerFusionForClassification.from_encoders(
            str(tmp_path / "audio"), str(tmp_path / "text"), fusion=fusion, use_weighted_layer_sum=True, num_labels=3
        ).eval()
        for key, weight in source.encoder.state_dict().items():
            assert torch.equal(weight, model.audio_encoder.state_dict()[key]), key
        text = {key: value for key, value in batch(2).items() if "text" in key or "ids" in key}
        logits = model(input_features=features, attention_mask=mask, **text).logits
        assert model.main_input_name == "input_features" and logits.shape == (2, 3)
        states, real = model.encode_audio(features, mask)
        assert states.shape == (2, 1, 1, source.config.hidden_size) and real.tolist() == [[True], [False]]
        assert torch.allclose(states[0, 0, 0], source.encoder(features[:1]).pooler_output[0], atol=1e-6)
        assert torch.allclose(model.fuse(states, real, *model.encode_text(*text.values())), logits, atol=1e-6)


def test_incomplete_or_wrong_encoders_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    AutoModel.from_config(audio_config()).save_pretrained(tmp_path / "audio")
    AutoModel.from_config(text_config()).save_pretrained(tmp_path / "text")
    for part in ("text", "audio"):
        folder = tmp_path / part
        weights = load_file(folder / "model.safetensors")
        kept = {key: value for key, value in weights.items() if ".layers.1." not in key and ".layer.1." not in key}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match="the encoder's weights .* are missing"):
            SerFusionForClassification.from_encoders(str(tmp_path / "audio"), str(tmp_path / "text"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            ValueError,
            match="encoder '(bert' is not supported .it reads text.: use one of|wav2vec2' is not supported: use BERT)",
        ):
            SerFusionForClassification.from_encoders(str(tmp_path / part), str(tmp_path / part))
    model = make()
    model.save_pretrained(tmp_path / "fusion")
    weights = load_file(tmp_path / "fusion" / "model.safetensors")
    del weights["ser_text.missing"], weights["ser_classifier.bias"]
    save_file(weights, tmp_path / "fusion" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weights ser_classifier.bias, ser_text.missing are missing"):
        SerFusionForClassification.from_pretrained(tmp_path / "fusion")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"fusion": "sum"}, "fusion 'sum': choose one of concat, gated, cross_attention"),
        ({"pooling": "first"}, "pooling 'first'"),
        ({"text_pooling": "cls"}, "text_pooling 'cls'"),
        ({"modality_dropout": 1.0}, "modality_dropout 1.0"),
        ({"fusion": "cross_attention", "head_size": 10}, "head_size 10: must be a multiple of attention_heads 4"),
    ],
)
def test_wrong_configuration(wrong, message):
    with pytest.raises(ValueError, match=message):
        SerFusionConfig(**wrong)


def test_problem_types_have_their_losses():
    inputs = batch(2)
    for problem_type, labels in (
        ("single_label_classification", torch.tensor([1, 2])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 0, 1]])),
        ("regression", torch.randn(2, 3)),
    ):
        out = make(problem_type=problem_type)(**inputs, labels=labels)
        logits = out.logits.double()
        if problem_type == "single_label_classification":
            by_hand = -logits.log_softmax(-1)[[0, 1], [1, 2]].mean()
        elif problem_type == "regression":
            by_hand = ((logits - labels) ** 2).mean()
        else:
            by_hand = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean()
        assert abs(float(out.loss.detach()) - float(by_hand.detach())) < 1e-5


def test_lora_keeps_the_head(tmp_path):
    """Modules named ser_ are what PEFT trains and saves whole; reloaded and merged give the trained logits."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model, inputs = make(fusion="cross_attention", use_weighted_layer_sum=True), batch()
    model.save_pretrained(tmp_path / "base")
    heads = [name for name, module in model.named_children() if name.startswith("ser_") and list(module.parameters())]
    targets = r"(audio|text)_encoder\..*(q_proj|v_proj|query|value)"
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=targets, modules_to_save=heads)).train()
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.5)
    before = tuned(**inputs).logits.detach()
    for _ in range(2):
        optimizer.zero_grad()
        tuned(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
    tuned.eval().save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        trained = tuned(**inputs).logits
        assert (trained - before).abs().max() > 1e-3
        base = SerFusionForClassification.from_pretrained(tmp_path / "base")
        reloaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert (reloaded(**inputs).logits - trained).abs().max() < 1e-5
        merged = reloaded.merge_and_unload()
        assert type(merged) is SerFusionForClassification
        assert (merged(**inputs).logits - trained).abs().max() < 1e-5
