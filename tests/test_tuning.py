"""Fine-tuning by parts: rates of head and layers, frozen layers, early stopping; by hand, and through the recipes."""

import json
import runpy
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, TrainingArguments, Wav2Vec2FeatureExtractor

from conftest import REPO, TINY, run_recipe, settings_of, tiny_config
from ser_hf import SerError, audio_model
from ser_hf.models import SerConfig, SerForAudioClassification
from ser_hf.models.encoders import ENCODERS, depth, example, transformer_layers
from ser_hf.training.audio_model import reads_states
from ser_hf.training.lora import add_lora, save_adapter
from ser_hf.training.saved_model import stock_class, to_stock
from ser_hf.training.schedule import early_stopping, learning_rates
from ser_hf.training.settings import ScheduleArguments, TuningArguments
from ser_hf.training.trainer import SerTrainer

KINDS = [kind for kind, entry in ENCODERS.items() if entry.layers]
RANDOM = {"hidden_dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5, "feat_proj_dropout": 0.5}
RANDOM |= {"layerdrop": 0.5, "apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 2, "dropout": 0.5}
STABLE, ADAPTER = {"do_stable_layer_norm": True}, {"add_adapter": True, "num_adapter_layers": 1}
FFN = ADAPTER | {"use_intermediate_ffn_before_adapter": True}


def tiny_model(kind: str, layers: int = 3, **changes) -> SerForAudioClassification:
    torch.manual_seed(0)
    config = tiny_config(kind, **{"num_hidden_layers": layers, **changes})
    return SerForAudioClassification(SerConfig(audio_config=config, head_size=8, num_labels=3)).eval()


def inputs(model, batch: int = 2) -> dict[str, torch.Tensor]:
    return {model.main_input_name: example(model.config.audio_config, batch)}


def trainer(model, folder, rate: float = 1e-3, head: float | None = None, decay: float | None = None, **arguments):
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    rate_of = learning_rates(base.config.audio_config, rate, TuningArguments(head, decay))
    args = TrainingArguments(str(folder), learning_rate=rate, use_cpu=True, **arguments)
    return SerTrainer(model=model, args=args, data_collator=lambda rows: rows, rate_of=rate_of)


def rates_of(optimizer, model) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by the name of the parameter; each is in one group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    rows = [
        (names[one], group["lr"], group["weight_decay"]) for group in optimizer.param_groups for one in group["params"]
    ]
    assert len({name for name, _, _ in rows}) == len(rows)
    return {name: (rate, decay) for name, rate, decay in rows}


# ---- rates


def test_rates_of_a_wav2vec2_of_three_layers(tmp_path):
    model = tiny_model("wav2vec2", **STABLE)
    optimizer = trainer(model, tmp_path, 1e-3, 1e-2, 0.5, weight_decay=0.1).create_optimizer()
    found = rates_of(optimizer, model)
    assert found["encoder.feature_extractor.conv_layers.0.conv.weight"] == (1.25e-4, 0.1)
    assert found["encoder.feature_projection.projection.bias"] == (1.25e-4, 0.0)
    assert found["encoder.encoder.pos_conv_embed.conv.bias"] == (1.25e-4, 0.0)
    assert found["encoder.encoder.layers.0.attention.q_proj.weight"] == (2.5e-4, 0.1)
    assert found["encoder.encoder.layers.1.feed_forward.output_dense.bias"] == (5e-4, 0.0)
    assert found["encoder.encoder.layers.2.attention.v_proj.weight"] == (1e-3, 0.1)
    assert found["encoder.encoder.layers.2.layer_norm.weight"] == (1e-3, 0.0)
    assert found["encoder.encoder.layer_norm.weight"] == (1e-3, 0.0)  # follows the layers of a stable encoder
    assert found["ser_projector.weight"] == found["ser_classifier.weight"] == (1e-2, 0.1)
    assert found["ser_classifier.bias"] == (1e-2, 0.0)
    assert optimizer.param_groups[0]["lr"] == 1e-3  # what the Trainer logs
    plain = tiny_model("wav2vec2")
    found = rates_of(trainer(plain, tmp_path, 1e-3, decay=0.5).create_optimizer(), plain)
    assert found["encoder.encoder.layer_norm.weight"] == (1.25e-4, 0.0)  # precedes the layers
    assert found["ser_classifier.weight"] == (1e-3, 0.0)


def test_rates_of_a_whisper_of_three_layers(tmp_path):
    model = tiny_model("whisper")
    found = rates_of(trainer(model, tmp_path, 1e-3, 1e-2, 0.5, weight_decay=0.1).create_optimizer(), model)
    assert found["encoder.conv1.weight"] == (1.25e-4, 0.1) and found["encoder.conv2.bias"] == (1.25e-4, 0.0)
    assert found["encoder.layers.0.fc1.weight"] == (2.5e-4, 0.1)
    assert found["encoder.layers.1.self_attn.q_proj.bias"] == (5e-4, 0.0)
    assert found["encoder.layers.2.final_layer_norm.weight"] == (1e-3, 0.0)
    assert found["encoder.layer_norm.bias"] == (1e-3, 0.0)
    assert found["ser_classifier.weight"] == (1e-2, 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_is_in_one_group(kind, tmp_path):
    """With the weight decay that transformers gives it; also of adapters and of the upper layers alone."""
    for make in (
        lambda model: model,
        frozen,
        lambda model: add_lora(model, r=2),
        lambda model: add_lora(frozen(model), r=2),
    ):
        model = make(tiny_model(kind))
        found = rates_of(trainer(model, tmp_path, 1e-3, 1e-2, 0.5, weight_decay=0.1).create_optimizer(), model)
        plain = rates_of(trainer(model, tmp_path, 1e-3, weight_decay=0.1).create_optimizer(), model)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == found.keys() == plain.keys()
        assert {name: decay for name, (_, decay) in found.items()} == {
            name: decay for name, (_, decay) in plain.items()
        }
        assert {rate for rate, _ in plain.values()} == {1e-3}
        heads = {name for name in trained if ".ser_" in f".{name}"}
        assert {found[name][0] for name in heads} == {1e-2} and heads
        assert {found[name][0] for name in trained - heads} <= {1e-3, 5e-4, 2.5e-4, 1.25e-4}
        assert 1e-3 in {found[name][0] for name in trained - heads}


def frozen(model, count: int = 1):
    model.freeze_layers(count)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_modules_run_in_the_order_of_their_depth(kind):
    for changes in ({}, STABLE, ADAPTER, FFN):
        model, order = tiny_model(kind, **changes), []
        for name, module in model.encoder.named_modules():
            if name and next(module.parameters(recurse=False), None) is not None:
                module.register_forward_hook(lambda *_, name=name, order=order: order.append(name))
        model(**inputs(model))
        depths = [depth(model.config.audio_config, name) for name in order]
        assert depths == sorted(depths) and {*depths} == {0, 1, 2, 3}, [*zip(order, depths, strict=True)]


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_one_step_by_hand(optim, tmp_path):
    model = tiny_model("wav2vec2")
    optimizer = trainer(model, tmp_path, 1e-2, 0.1, 0.5, weight_decay=0.1, optim=optim).create_optimizer()
    model(**inputs(model), labels=torch.tensor([0, 2])).loss.backward()
    names = (
        "encoder.encoder.layers.0.feed_forward.output_dense.weight",
        "ser_classifier.weight",
        "ser_classifier.bias",
    )
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    optimizer.step()
    for name, rate, decay in zip(names, (0.0025, 0.1, 0.1), (0.1, 0.1, 0.0), strict=True):
        parameter, old = model.get_parameter(name), before[name]
        grad = parameter.grad
        if optim == "sgd":
            expected = old - rate * (grad + decay * old)
        else:  # the first step of Adam is the sign of the gradient, but for epsilon
            expected = old * (1 - rate * decay) - rate * grad / (grad.abs() + 1e-8)
        assert torch.allclose(parameter, expected, atol=1e-7), name


def test_schedules_keep_the_ratio_of_the_rates(tmp_path):
    for one_cycle in (False, True):
        model = tiny_model("wav2vec2")
        one = trainer(model, tmp_path, 1e-3, 1e-2, 0.5, lr_scheduler_type="cosine")
        one.one_cycle = one_cycle
        optimizer = one.create_optimizer()
        schedule, seen = one.create_scheduler(20, optimizer), []
        for _ in range(19):
            rates = {group["lr"] for group in optimizer.param_groups}
            top = optimizer.param_groups[0]["lr"]
            assert sorted(rates) == pytest.approx([top / 8, top / 4, top / 2, top, top * 10])
            seen.append(top)
            optimizer.step()
            schedule.step()
        assert max(seen) == pytest.approx(1e-3)


# ---- frozen layers


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_layers_are_constant_and_below_the_graph(kind):
    """With every kind of randomness on, two steps of training change the upper layers alone."""
    changes = {} if kind in ("whisper", "wav2vec2-bert") else STABLE
    model = frozen(tiny_model(kind, 4, **RANDOM | changes), 2).train()
    layers, states = transformer_layers(model.encoder), []
    for layer in layers:
        layer.register_forward_hook(lambda _, given, out: states.append(out[0] if isinstance(out, tuple) else out))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    for _ in range(2):
        model(**inputs(model), labels=torch.tensor([0, 2])).loss.backward()
        optimizer.step()
    assert [state.requires_grad for state in states] == [False, False, True, True] * 2  # and no layer was skipped
    assert torch.equal(states[0], states[4]) and torch.equal(states[1], states[5])
    assert not torch.equal(states[2], states[6])  # dropout
    config, changed = model.config.audio_config, set()
    for name, value in model.state_dict().items():
        part, _, inner = name.partition(".")
        upper = part != "encoder" or depth(config, inner) > 2
        assert upper or torch.equal(value, before[name]), name
        changed |= (
            {depth(config, inner) if part == "encoder" else part} if not torch.equal(value, before[name]) else set()
        )
    assert {3, 4, "ser_projector", "ser_classifier"} <= changed
    gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients and all(name.startswith("ser_") or depth(config, name.partition(".")[2]) > 2 for name in gradients)
    assert (
        not any(module.training for module in layers[1].modules()) and layers[2].training and not model.encoder.training
    )
    model.eval()
    assert not any(module.training for module in model.modules())


def test_gradient_checkpointing_of_the_upper_layers_has_the_same_gradients():
    def gradients(checkpointed):
        model = frozen(tiny_model("wav2vec2"), 2).train()
        if checkpointed:
            model.activation_checkpointing_enable()
        model(**inputs(model), labels=torch.tensor([0, 2])).loss.backward()
        return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys() and any(".layers.2." in name for name in plain)
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-7) for name in plain)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if ENCODERS[kind].lora])
def test_adapters_in_the_upper_layers_alone(kind, tmp_path):
    model = tiny_model(kind)
    base = tiny_model(kind)
    adapted = add_lora(frozen(model, 2), r=2).train()
    assert not any(module.training for module in transformer_layers(model.encoder)[1].modules())
    assert transformer_layers(model.encoder)[2].training
    adapted.eval()  # in training a conformer's batch norm changes, which is part of the merged model alone
    lora = [name for name, _ in adapted.named_parameters() if ".lora_" in name]
    assert lora and all(".layers.2." in name for name in lora)
    adapted(**inputs(base), labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad is not None for name, parameter in adapted.named_parameters() if ".lora_" in name)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        logits = adapted(**inputs(base)).logits
        from peft import PeftModel

        merged = save_adapter(adapted, tmp_path, None)
        published = to_stock(base) if stock_class(base.config) else base
        again = PeftModel.from_pretrained(published, tmp_path / "adapter").eval()
        for other in (merged, again):
            assert (other(**inputs(base)).logits - logits).abs().max() < 1e-5


def test_adapters_of_frozen_layers_alone_are_refused():
    with pytest.raises(SerError, match="--lora_target projection: no such layer .* choose --lora_target from "):
        add_lora(frozen(tiny_model("wav2vec2"), 1), r=2, target=["projection"])  # the feature projection is frozen


def new_model(**flags):
    overrides = json.dumps({**TINY, "num_hidden_layers": 3})
    return audio_model(["angry", "sad"], model_type="wav2vec2", config_overrides=overrides, **flags)[0]


def test_layers_that_are_not_there():
    assert new_model(freeze_layers=2)._frozen_layers == 2
    with pytest.raises(
        SerError, match="--freeze_layers 3: these are all layers of this wav2vec2; give --freeze_encoder true"
    ):
        new_model(freeze_layers=3)
    with pytest.raises(SerError, match="--freeze_layers 4: this wav2vec2 has 3 layers; give at most 2"):
        new_model(freeze_layers=4)
    with pytest.raises(ValueError, match="freeze 1 to 2 of 3 layers, got 3"):
        tiny_model("whisper").freeze_layers(3)


# ---- flags


@pytest.mark.parametrize("recipe", ["wav2vec2_cls", "wav2vec2_reg"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--freeze_encoder true --head_learning_rate 1e-3",
            "--head_learning_rate 0.001: does nothing without --freeze_",
        ),
        (
            "--freeze_encoder true --layer_lr_decay 0.9",
            "--layer_lr_decay 0.9: does nothing without --freeze_encoder fal",
        ),
        ("--freeze_encoder true --freeze_layers 2", "--freeze_layers 2: does nothing without --freeze_encoder false"),
        (
            "--freeze_layers 2 --mask_time_prob 0.1",
            "--mask_time_prob 0.1: does nothing with --freeze_layers, .*; leave it",
        ),
        (
            "--freeze_layers 2 --freeze_feature_encoder false",
            "--freeze_feature_encoder false: does nothing with --freeze_l",
        ),
        ("--freeze_encoder true --spec_p 1", "--spec_p 1.0: does nothing with --freeze_encoder true, each clip"),
        ("--spec_growth 0.5", "--spec_growth 0.5: does nothing without --spec_p"),
        ("--freeze_layers 0", "--freeze_layers: 0: must be at least 1"),
        ("--head_learning_rate 0", "--head_learning_rate: 0: must be above 0"),
        ("--layer_lr_decay 1", "--layer_lr_decay: 1: must be above 0 and below 1"),
        ("--early_stopping_patience 0", "--early_stopping_patience: 0: must be at least 1"),
    ],
)
def test_mistakes_are_one_line(recipe, flags, message):
    with pytest.raises(SerError, match=message) as error:
        settings_of(recipe, "--dataset", "demo", *flags.split())
    assert "\n" not in str(error.value)


def test_other_recipes_have_no_layers():
    for recipe in ("text_cls", "fusion_cls", "spectrogram_cls"):
        with pytest.raises(SerError, match="--layer_lr_decay: the recipe of .* does not use it"):
            settings_of(recipe, "--dataset", "demo", "--layer_lr_decay", "0.9")


def test_early_stopping_counts_on_after_a_resume(tmp_path):
    """The best of four evaluations was the second one: two have passed without progress, the third one ends it."""
    from transformers import TrainerControl, TrainerState

    (callback,) = early_stopping(ScheduleArguments(early_stopping_patience=3), True)
    args = TrainingArguments(str(tmp_path), eval_strategy="epoch", metric_for_best_model="uar", use_cpu=True)
    args.greater_is_better = True
    log = [{"step": 10 * n, "eval_loss": 1.0, "eval_uar": 0.5} for n in (1, 2, 3, 4)] + [{"step": 40, "loss": 1.0}]
    state = TrainerState(log_history=log, best_global_step=20, best_metric=0.6)
    control = TrainerControl()
    callback.on_train_begin(args, state, control)
    assert callback.early_stopping_patience_counter == 2
    callback.on_evaluate(args, state, control, metrics={"eval_uar": 0.6})
    assert control.should_training_stop
    callback.on_train_begin(args, TrainerState(), control)
    assert callback.early_stopping_patience_counter == 0


# ---- recipes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An encoder of three layers with dropout, as it comes from the Hub."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = tiny_config("wav2vec2", num_hidden_layers=3, hidden_dropout=0.2, activation_dropout=0.2)
    AutoModel.from_config(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


def run(fake_corpus, checkpoint, out, *flags) -> None:
    data = ("--dataset", "emodb", "--data_dir", fake_corpus("emodb"), "--labels", "4class", "--config", "none")
    data += ("--protocol", "speaker-folds", "--batch_seconds", "4", "--model_name_or_path", checkpoint)
    data += ("--use_cpu", "true", "--disable_tqdm", "true", "--head_size", "16", "--save_total_limit", "9")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wav2vec2_cls.py", *map(str, (*data, "--output_dir", out, *flags))])
        runpy.run_path(str(REPO / "recipes" / "wav2vec2_cls.py"), run_name="__main__")


def same_runs(first, second) -> None:
    one, two = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    one, two = (pd.read_parquet(folder / "predictions.parquet").filter(like="score_") for folder in (first, second))
    assert np.array_equal(one.to_numpy(), two.to_numpy())


STEPS = ("--max_steps", "6", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "3")
STEPS += (
    "--save_steps",
    "3",
    "--logging_strategy",
    "steps",
    "--logging_steps",
    "1",
    "--gradient_accumulation_steps",
    "2",
)


@pytest.mark.parametrize(
    "more", [("--freeze_layers", "1"), ("--lora_r", "2", "--freeze_layers", "1", "--one_cycle", "true")]
)
def test_resumed_is_unbroken_and_frozen_layers_are_the_checkpoints(more, fake_corpus, checkpoint, tmp_path):
    flags = (*STEPS, "--learning_rate", "1e-3", "--head_learning_rate", "1e-2", "--layer_lr_decay", "0.5", *more)
    run(fake_corpus, checkpoint, tmp_path / "whole", *flags)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    run(fake_corpus, checkpoint, tmp_path / "resumed", *flags, "--resume_from_checkpoint", "true")
    same_runs(tmp_path / "whole", tmp_path / "resumed")

    before, after = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[f"wav2vec2.{name}"])}
    assert changed and all(name.startswith(("encoder.layers.1.", "encoder.layers.2.")) for name in changed)
    assert "--lora_r" not in more or all(".q_proj." in name or ".v_proj." in name for name in changed)
    groups = torch.load(tmp_path / "whole" / "checkpoint-6" / "optimizer.pt")["param_groups"]
    assert sorted({group["initial_lr"] for group in groups}) == pytest.approx(
        [0.0005 / 25, 0.001 / 25, 0.01 / 25] if "--one_cycle" in more else [0.0005, 0.001, 0.01]
    )
    log = json.loads((tmp_path / "whole" / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert max(entry.get("learning_rate", 0) for entry in log) <= 1e-3


@pytest.mark.slow
def test_training_from_the_states_of_frozen_layers_is_training_on_audio(fake_corpus, checkpoint, tmp_path, capsys):
    """But for their half precision. A gain of 0 dB changes no clip, and is random for all that is known of it."""
    flags = ("--max_steps", "6", "--learning_rate", "1e-3", "--freeze_layers", "2", "--early_stopping_patience", "9")
    run(fake_corpus, checkpoint, tmp_path / "states", *flags)
    assert "--freeze_layers 2: the frozen layers run once for each clip, and their states" in capsys.readouterr().out
    run(fake_corpus, checkpoint, tmp_path / "audio", *flags, "--gain_p", "1", "--gain_db", "0")
    assert "the frozen layers run in every epoch: --gain_p changes clips at random" in capsys.readouterr().out
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("states", "audio"))
    before = load_file(checkpoint / "model.safetensors")
    trained = [name for name in before if ".layers.2." in name]
    moved = max(float((one[f"wav2vec2.{name}"] - before[name]).abs().max()) for name in trained)
    assert one.keys() == two.keys() and moved > 2e-3
    assert all((one[name] - two[name]).abs().max() < 0.1 * moved for name in one)
    one, two = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("states", "audio"))
    scores = [table.filter(like="score_").to_numpy() for table in (one, two)]
    assert np.abs(scores[0] - scores[1]).max() < 1e-3
    report = (tmp_path / "states" / "README.md").read_text()
    assert "hidden states in half precision" in report


def test_what_frozen_layers_cannot_do_once(capsys):
    rows = Dataset.from_dict({"duration": [1.0, 2.5, None]})

    def reads(flags: str = "", kind: str = "whisper", **config) -> bool:
        settings = settings_of("wav2vec2_cls", "--dataset", "demo", *flags.split())
        torch.manual_seed(0)
        audio = tiny_config(kind, num_hidden_layers=3)
        model = frozen(SerForAudioClassification(SerConfig(audio_config=audio, head_size=8, num_labels=3, **config)))
        model = add_lora(model, r=2) if "lora" in flags else model
        return reads_states(model, rows, settings.clips, settings.augmentation)

    assert reads() and reads("--max_seconds 2.5 --trim_db 30 --noise_p 0")
    for flags, kind, config, why in [
        ("--crop_p 0.1", "whisper", {}, "--crop_p changes clips at random"),
        ("--noise_p 0.1 --mixup_p 0.1", "wav2vec2", {}, "--noise_p changes clips at random"),
        ("--max_seconds 2", "whisper", {}, "--max_seconds crops clips at random"),
        ("", "wavlm", {}, "a layer of this wavlm reads more than the layer below"),
        ("", "wav2vec2-bert", {}, "a layer of this wav2vec2-bert reads more than the layer below"),
        ("", "whisper", {"layer_mix": "sum"}, "--layer_mix sum reads several layers"),
        ("--lora_r 2", "whisper", {}, "adapters are trained"),
    ]:
        capsys.readouterr()
        assert not reads(flags, kind, **config)
        assert capsys.readouterr().out == f"--freeze_layers 1: the frozen layers run in every epoch: {why}\n"


@pytest.mark.parametrize("probe", [False, True])
def test_early_stopping_ends_a_run(probe, fake_corpus, checkpoint, tmp_path):
    """At a rate that changes nothing, the first evaluation is the best: two more, and the run ends."""
    flags = ("--num_train_epochs", "9", "--early_stopping_patience", "2", "--learning_rate", "1e-12")
    run(fake_corpus, checkpoint, tmp_path / "out", *flags, "--freeze_encoder", str(probe).lower())
    training = json.loads((tmp_path / "out" / "results.json").read_text())["training"]
    assert training["epochs"] == 3
    with pytest.raises(SystemExit):
        run(fake_corpus, checkpoint, tmp_path / "last", *flags, "--validation_fraction", "0")


@pytest.mark.slow
def test_two_processes_are_one_with_two_accumulation_steps(fake_corpus, tmp_path):
    overrides = json.dumps({**TINY, "num_hidden_layers": 3})
    flags = ["--dataset", "emodb", "--data_dir", fake_corpus("emodb"), "--labels", "4class", "--config", "none"]
    flags += ["--protocol", "speaker-folds", "--batch_seconds", "4", "--max_steps", "4", "--head_size", "16"]
    flags += [
        "--model_type",
        "wav2vec2",
        "--config_overrides",
        overrides,
        "--use_cpu",
        "true",
        "--disable_tqdm",
        "true",
    ]
    flags += [
        "--learning_rate",
        "1e-3",
        "--head_learning_rate",
        "1e-2",
        "--layer_lr_decay",
        "0.5",
        "--freeze_layers",
        "1",
    ]
    one = run_recipe("wav2vec2_cls", *flags, "--output_dir", tmp_path / "one", "--gradient_accumulation_steps", "2")
    assert one.returncode == 0, one.stderr[-3000:]
    two = run_recipe("wav2vec2_cls", *flags, "--output_dir", tmp_path / "two", processes=2)
    assert two.returncode == 0, two.stderr[-3000:]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all((first[name] - second[name]).abs().max() <= 1e-5 for name in first)
