"""Flags: YAML and command line agree, the command line wins, each flag is read or refused, mistakes are named."""

import ast
import json
import re
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path
from typing import get_type_hints

import pytest
from transformers import TrainingArguments

from conftest import RECIPES, REPO, settings_of, system_of
from ser_hf import SerError
from ser_hf.data.augmentation import Augmentation
from ser_hf.training.arguments import parse
from ser_hf.training.run import select_on_validation
from ser_hf.training.settings import Settings

CPU = ["--use_cpu", "true"]
AUDIO = system_of("wav2vec2_cls")
NAMES = ["angry", "sad"]


def concerns_of(recipe: str) -> dict[str, type]:
    """The dataclasses of a recipe's flags, by their names in its settings."""
    names = {"Augmentation": Augmentation, "TrainingArguments": TrainingArguments}
    types = get_type_hints(system_of(recipe).settings, localns=names)
    return {name: kind for name, kind in types.items() if name not in ("training", "overrides")}


# ---- defaults

# Differences to transformers; the last four follow from `eval_strategy` and `load_best_model_at_end`.
OURS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "learning_rate": 3e-5,
    "warmup_steps": 0.1,
    "num_train_epochs": 15,
    "logging_strategy": "epoch",
    "logging_nan_inf_filter": False,
    "remove_unused_columns": False,
    "do_train": True,
    "do_eval": True,
    "metric_for_best_model": "loss",
    "greater_is_better": False,
}
OF_RECIPE = {
    "spectrogram_cls": {"learning_rate": 1e-3, "num_train_epochs": 60},
    "fusion_cls": {
        "per_device_eval_batch_size": 64,
        "learning_rate": 1e-3,
        "num_train_epochs": 30,
        "per_device_train_batch_size": 32,
    },
}
FITTED = ("classical_cls",)  # nothing is trained step by step, and flags of such training do not exist


@pytest.mark.parametrize("recipe", RECIPES)
def test_defaults_differ_from_transformers_only_where_listed(recipe):
    training = settings_of(recipe, "--dataset", "smile").training
    plain = TrainingArguments(output_dir=training.output_dir, use_cpu=True)
    values = {entry.name: getattr(training, entry.name) for entry in fields(training)}
    different = {name: value for name, value in values.items() if value != getattr(plain, name)}
    different.pop("distributed_state", None)  # an object of each run
    assert different == ({"do_train": True} if recipe in FITTED else OURS | OF_RECIPE.get(recipe, {}))


def test_defaults_of_this_project():
    settings = settings_of("wav2vec2_cls", "--dataset", "smile")
    assert settings.training.output_dir == "runs/smile_wav2vec2_fold0_seed42"
    assert (settings.batches.budget, settings.head.pooling, settings.head.head) == (36.0, "mean", "linear")
    assert settings.encoder.freeze_feature_encoder is None and settings.data.fold == 0
    assert settings.overrides["dataset"] == "smile"
    assert settings.checkpoints == {"model_name_or_path": "facebook/wav2vec2-base"}
    assert settings_of("text_cls", "--dataset", "smile").checkpoints == {"model_name_or_path": "bert-base-uncased"}
    assert settings_of("spectrogram_cls", "--dataset", "smile").checkpoints == {}


@pytest.mark.parametrize("value", ["no", "0", "f", "false", "False"])
def test_whole_encoders_have_other_defaults_than_heads(value):
    def rates(*flags):
        training = settings_of("fusion_cls", "--dataset", "demo", *flags).training
        return training.learning_rate, training.num_train_epochs, training.per_device_train_batch_size

    assert rates() == rates("--freeze_encoders", "true") == (1e-3, 30, 32)
    assert rates("--freeze_encoders", value) == rates(f"--freeze_encoders={value}") == (3e-5, 15, 8)
    assert rates("--freeze_encoders", value, "--num_train_epochs", "2") == (3e-5, 2, 8)


def test_a_yaml_unfreezes_the_encoders_too(tmp_path):
    (tmp_path / "whole.yaml").write_text("dataset: demo\nfreeze_encoders: false\n")
    settings = settings_of("fusion_cls", "--config", tmp_path / "whole.yaml")
    assert not settings.fusion.freeze_encoders and settings.training.learning_rate == 3e-5


CLASSES, LABELS, VALUES = "single_label_classification", "multi_label_classification", "regression"


@pytest.mark.parametrize(
    ("kind", "asked", "metric", "greater"),
    [
        (CLASSES, None, "uar", True),
        (CLASSES, "macro_f1", "macro_f1", True),
        (CLASSES, "loss", "loss", False),
        (CLASSES, "eval_loss", "loss", False),
        (LABELS, None, "map", True),
        (VALUES, None, "ccc", True),
        (VALUES, "mae", "mae", False),
        (VALUES, "eval_rmse", "rmse", False),
        (VALUES, "loss", "loss", False),
    ],
)
def test_the_best_checkpoint_is_that_of_the_metric(kind, asked, metric, greater):
    flags = ("--metric_for_best_model", asked) if asked else ()
    settings = settings_of("text_cls", "--dataset", "demo", *flags)
    training = select_on_validation(settings, kind, NAMES, True).training
    assert (training.metric_for_best_model, training.greater_is_better) == (metric, greater)
    assert training.load_best_model_at_end
    last = select_on_validation(settings, kind, NAMES, False).training
    assert (last.eval_strategy, last.load_best_model_at_end, last.metric_for_best_model) == ("no", False, None)
    assert settings.training.metric_for_best_model == (asked or "loss")  # its argument is not changed


def test_a_metric_of_other_labels_cannot_select():
    settings = settings_of("text_cls", "--dataset", "demo", "--metric_for_best_model", "mae")
    with pytest.raises(SerError, match="--metric_for_best_model mae: .* choose uar, wa, macro_f1, weighted_f1, loss"):
        select_on_validation(settings, CLASSES, NAMES, True)


# ---- each flag is read


def values_of(recipe: str, name: str, entry, folder) -> tuple[list[str], list[str]]:
    """Words of another value of a flag than its default, and the flags without which it would do nothing."""
    kind = concerns_of(recipe)[name]
    annotation = str(get_type_hints(kind)[entry.name])
    default = entry.default if entry.default_factory is MISSING else entry.default_factory()
    special = {
        "config": folder / "empty.yaml",
        "config_overrides": '{"layerdrop": 0}',
        "dataset": "smile",
        "model_type": "hubert",
    }
    special |= {"reverb_dir": folder, "noise_dir": folder}
    limits = entry.metadata
    if entry.name in special:
        words = [str(special[entry.name])]
    elif "choices" in limits:
        words = [next(choice for choice in limits["choices"] if choice != default)]
    elif "bool" in annotation:
        words = [str(not default).lower()]
    elif "list[str]" in annotation:
        words = ["one", "two"]
    elif "list[float]" in annotation:
        words = ["0.7", "0.8"]
    elif "int" in annotation:
        words = [str((default or 0) + 1)]
    elif "float" in annotation:
        words = [str((default or 0) + 0.125)]
    else:
        words = ["other"]
    flag, needed = limits.get("only_with", (None, ()))
    context = {
        "window_seconds": ["1"],
        "lora_r": ["4"],
        "loss": list(needed)[:1],
        "layer_mix": ["sum"],
        "freeze_encoder": ["true"] if needed == (True,) else [],
        "speaker_norm": ["true"],
    }.get(flag, [])
    if flag and flag.endswith("_p"):
        context = ["1"]
    context = [f"--{flag}", *context] if context else []
    if recipe == "fusion_cls" and "lora_r" in (flag, entry.name):
        context += ["--freeze_encoders", "false"]
    return words, context


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_flag_is_read(recipe, tmp_path):
    """Each flag changes its own field of its own concern, and nothing else of any concern but for what is named."""
    (tmp_path / "empty.yaml").write_text("{}")
    (tmp_path / "noise.wav").touch()
    concerns = concerns_of(recipe)
    count, bases = 0, {}
    for name, kind in concerns.items():
        for entry in fields(kind):
            words, context = values_of(recipe, name, entry, tmp_path)
            if (base := bases.get(tuple(context))) is None:
                base = bases[tuple(context)] = settings_of(recipe, "--dataset", "demo", *context)
            settings = settings_of(recipe, "--dataset", "demo", *context, f"--{entry.name}", *words)
            value, before = (getattr(getattr(one, name), entry.name) for one in (settings, base))
            assert value != before, entry.name
            shown = [str(item) for item in value] if isinstance(value, list) else [str(value)]
            assert [word.lower() for word in shown] == [word.lower() for word in words], entry.name
            assert settings.overrides[entry.name] == value
            changed = {
                other.name
                for concern, fields_of in concerns.items()
                for other in fields(fields_of)
                if getattr(getattr(settings, concern), other.name) != getattr(getattr(base, concern), other.name)
            }
            follows = {"model_type": {"model_name_or_path"}}.get(entry.name, set())  # no checkpoint then
            assert changed - follows == {entry.name}, changed
            count += 1
    assert count > (15 if recipe in FITTED else 30)


@cache
def names_read(*files: Path) -> set[str]:
    """The attributes and arguments in these files."""
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        node.arg for node in nodes if isinstance(node, ast.arg)
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_flag_is_used(recipe):
    """A recipe reads each concern of its settings, and some code reads each of its fields by name."""
    read = names_read(*(REPO / "src" / "ser_hf").rglob("*.py")) | names_read(REPO / "recipes" / f"{recipe}.py")
    kinds = {*concerns_of(recipe).values()} - {Augmentation}  # tests/test_augmentation.py holds what each of these does
    names = {entry.name for kind in kinds for entry in fields(kind)}
    assert names <= read, names - read
    used = set(re.findall(r"settings\.(\w+)", (REPO / "recipes" / f"{recipe}.py").read_text()))
    if recipe == "fusion_cls":
        used |= set(re.findall(r"settings\.(\w+)", (REPO / "src/ser_hf/training/fusion_model.py").read_text()))
    everywhere = {"data", "columns", "run", "windows"}  # read by run.prepare, run.finish and run.cut_windows
    assert {*concerns_of(recipe)} - everywhere <= used


# ---- YAML


def test_yaml_is_typed_and_the_command_line_wins(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("dataset: emodb\nlearning_rate: 1e-4\nfold: 3\npooling: max\nadd_labels: [sad, angry]\n")
    settings = settings_of("wav2vec2_cls", "--config", file, "--fold", "5")
    assert settings.training.learning_rate == 1e-4  # YAML reads 1e-4 as text
    assert settings.data.fold == settings.overrides["fold"] == 5
    assert settings.head.pooling == "max" and settings.data.add_labels == ["sad", "angry"]
    assert settings_of("wav2vec2_cls", "--config", file, "--add-labels", "sad").data.add_labels == ["sad"]


def test_a_corpus_brings_its_own_settings():
    settings = parse(AUDIO, "", ["--dataset", "iemocap", *CPU])
    assert settings.encoder.model_name_or_path == "facebook/wav2vec2-base"
    assert settings.overrides["config"] == "iemocap_wav2vec2.yaml" and "batch_seconds" in settings.overrides
    settings = parse(AUDIO, "", ["--dataset", "iemocap", "--config", "none", *CPU])
    assert settings.encoder.model_name_or_path == "facebook/wav2vec2-base"
    assert "batch_seconds" not in settings.overrides
    # a random encoder on the command line replaces the YAML's checkpoint
    encoder = parse(AUDIO, "", ["--dataset", "iemocap", "--model_type", "hubert", *CPU]).encoder
    assert encoder.model_type == "hubert" and encoder.model_name_or_path is None


def test_fixed_count_mode():
    batches = settings_of("wav2vec2_cls", "--dataset", "emodb", "--batch_seconds", "0").batches
    assert batches.budget is None and batches.batch_seconds == 0
    assert settings_of("text_cls", "--dataset", "smile", "--batch_tokens", "0").batches.budget is None
    assert settings_of("text_cls", "--dataset", "smile").batches.budget == 2048


def test_windows_overlap_by_half():
    windows = settings_of("wav2vec2_cls", "--dataset", "emodb", "--window_seconds", "3").windows
    assert windows.window_hop is None and windows.hop == 1.5
    assert replace(windows, window_hop=1.0).hop == 1.0
    assert settings_of("wav2vec2_cls", "--dataset", "emodb").windows.hop is None


def test_yaml_mistakes(tmp_path):
    for content, message in (
        ("poling: max", "unknown flag --poling: did you mean --pooling"),
        ("- a", "must hold `flag: value` lines"),
        ("a: [", "not YAML"),
        ("batch_tokens: 4", "--batch_tokens: the recipe of wav2vec2 does not use it"),
        ("pooling: sum", "invalid choice: 'sum'"),
    ):
        (tmp_path / "run.yaml").write_text(content)
        with pytest.raises(SerError, match=message):
            settings_of("wav2vec2_cls", "--dataset", "emodb", "--config", tmp_path / "run.yaml")


def test_every_yaml_of_a_corpus_has_a_folder_of_its_own(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: iemocap\n")
    for config, name in (
        ("iemocap_text_bert_3class", "iemocap_text_bert_3class"),
        ("recipes/configs/cmu_mosei_text_bert_4class_iemocap.yaml", "cmu_mosei_text_bert_4class_iemocap"),
        (str(tmp_path / "run.yaml"), "iemocap_text"),
    ):
        training = settings_of("text_cls", "--config", config, "--fold", "2").training
        assert training.output_dir == f"runs/{name}_fold2_seed42"


def test_a_folds_encoder_is_of_that_fold():
    flags = ("--dataset", "demo", "--audio_model", "runs/a/fold{fold}_seed{seed}", "--text_model", "b", "--fold", "2")
    settings = settings_of("fusion_cls", *flags, "--seed", "7")
    assert settings.checkpoints == {"audio_model": "runs/a/fold2_seed7", "text_model": "b"}
    assert settings.overrides["audio_model"] == "runs/a/fold{fold}_seed{seed}"  # what repeats another fold


# ---- mistakes

EMODB = ["--dataset", "emodb"]
FROZEN = [*EMODB, "--freeze_encoder", "true"]


@pytest.mark.parametrize(
    ("recipe", "argv", "message"),
    [
        ("wav2vec2_cls", ["--datasett", "emodb"], "unknown flag --datasett: did you mean --dataset"),
        ("wav2vec2_cls", [*EMODB, "--pooling", "sum"], "invalid choice: 'sum'"),
        ("wav2vec2_cls", [*EMODB, "--fold", "one"], "--fold"),
        ("wav2vec2_cls", ["emodb"], "'emodb': flags are written --name value"),
        ("wav2vec2_cls", [*EMODB, "--config_overrides", "[1]"], "must be JSON"),
        ("wav2vec2_cls", [*EMODB, "--config", "emodb_wav2vec"], "did you mean emodb_wav2vec2"),
        ("wav2vec2_cls", [*EMODB, "--evaluation_strategy", "epoch"], "did you mean --eval_strategy"),
        ("wav2vec2_cls", [*EMODB, "--model_type", "hubert", "--model_name_or_path", "x"], "give one"),
        ("wav2vec2_cls", [*EMODB, "--window_seconds", "1", "--trim_db", "30"], "--trim_db 30: shifts the times of"),
        ("fusion_cls", [*EMODB, "--lora_r", "4"], "--lora_r 4: adapts the encoders; it needs --freeze_encoders false"),
        ("wav2vec2_cls", [], "--dataset is missing"),
        # ranges
        ("wav2vec2_cls", [*EMODB, "--validation_fraction", "1"], "--validation_fraction: 1: must be .* below 1"),
        ("wav2vec2_cls", [*EMODB, "--lora_r", "-1"], "--lora_r: -1: must be at least 0"),
        ("wav2vec2_cls", [*EMODB, "--trim_db", "0"], "--trim_db: 0: must be above 0"),
        ("wav2vec2_cls", [*EMODB, "--fold", "-1"], "--fold: -1: must be at least 0"),
        ("wav2vec2_cls", [*EMODB, "--batch_seconds", "nan"], "--batch_seconds: 'nan': must be a number"),
        ("wav2vec2_cls", [*EMODB, "--model_type", "wav2vec2", "--do_train", "false"], "there is nothing to score"),
        ("spectrogram_cls", [*EMODB, "--do_train", "false"], "there is nothing to score"),
        ("wav2vec2_cls", [*EMODB, "--noise_snr_db", "5"], "--noise_snr_db 5.0: does nothing without --noise_p"),
        ("wav2vec2_cls", [*EMODB, "--max_seconds", "inf"], "--max_seconds: 'inf': must be a number"),
        ("wav2vec2_cls", [*EMODB, "--mask_time_prob", "1.5"], "--mask_time_prob: 1.5: must be .* at most 1"),
        ("wav2vec2_cls", [*EMODB, "--split_seed", "1.5"], "--split_seed: '1.5': must be a whole number"),
        ("wav2vec2_cls", [*EMODB, "--freeze_encoder", "maybe"], "_encoder: 'maybe': must be true or false"),
        ("spectrogram_cls", [*EMODB, "--dropout", "1"], "--dropout: 1: must be at least 0 and below 1"),
        ("spectrogram_cls", [*EMODB, "--early_stopping_patience", "0"], "patience: 0: must be at least 1"),
        ("text_cls", [*EMODB, "--max_text_length", "2"], "--max_text_length: 2: must be at least 3"),
        # what another recipe has
        ("wav2vec2_reg", [*EMODB, "--sampling", "class"], "--sampling: the recipe of wav2vec2_reg does not use it"),
        ("wav2vec2_reg", [*EMODB, "--soft_labels"], "--soft_labels: the recipe of wav2vec2_reg does not use it"),
        ("wav2vec2_cls", [*EMODB, "--batch_tokens", "9"], "--batch_tokens: the recipe of wav2vec2 does not use it"),
        ("text_cls", [*EMODB, "--window_seconds", "1"], "--window_seconds: the recipe of text does not use it"),
        ("fusion_cls", [*EMODB, "--window_seconds=1"], "--window_seconds: the recipe of fusion does not use it"),
        ("spectrogram_cls", [*EMODB, "--lora_r", "4"], "--lora_r: the recipe of spectrogram does not use it"),
        ("classical_cls", [*EMODB, "--learning_rate", "1"], "--learning_rate: the recipe of classical does not use it"),
        ("classical_cls", [*EMODB, "--bf16"], "--bf16: the recipe of classical does not use it"),
        ("classical_cls", [*EMODB, "--loss", "ccc"], "--loss: the recipe of classical does not use it"),
        ("classical_cls", [*EMODB, "--learning_rat", "1"], "unknown flag --learning_rat: see --help_all"),
        # what does nothing as it is combined
        ("wav2vec2_cls", [*EMODB, "--lora_alpha", "3"], "--lora_alpha 3: does nothing without --lora_r"),
        ("wav2vec2_cls", [*EMODB, "--lora_target", "a", "b"], "--lora_target a b: does nothing without --lora_r"),
        ("wav2vec2_cls", [*EMODB, "--window_hop", "1"], "--window_hop 1.0: does nothing without --window_seconds"),
        ("wav2vec2_cls", [*EMODB, "--combine", "mean"], "--combine mean: does nothing without --window_seconds"),
        ("wav2vec2_cls", [*EMODB, "--focal_gamma", "1"], "--focal_gamma 1.0: does nothing without --loss focal"),
        ("wav2vec2_reg", [*EMODB, "--ccc_weight", "1"], "--ccc_weight 1.0: does nothing without --loss ccc_mse"),
        ("wav2vec2_cls", [*EMODB, "--head", "mlp", "--head_size", "8"], "--head_size 8: does nothing without --head l"),
        ("spectrogram_cls", [*EMODB, "--n_mels", "4", "--model_name_or_path", "x"], "--n_mels 4: does nothing with "),
        ("classical_cls", [*EMODB, "--features", "ComParE_2016", "--model_name_or_path", "x"], "does nothing with"),
        ("classical_cls", [*EMODB, "--validation_fraction", "0"], "0: the complexity .* is chosen on validation"),
        ("wav2vec2_cls", [*EMODB, "--layers", "2"], "--layers 2: does nothing without --layer_mix sum or concat"),
        ("wav2vec2_reg", [*FROZEN, "--mask_time_prob", "0.1"], "0.1: does nothing without --freeze_encoder false"),
        ("wav2vec2_cls", [*FROZEN, "--freeze_feature_encoder", "true"], "_encoder true: does nothing without --freeze"),
        ("wav2vec2_cls", [*FROZEN, "--noise_p", "0.5"], "--noise_p 0.5: does nothing with --freeze_encoder true"),
        ("wav2vec2_reg", [*FROZEN, "--mixup_p", "1"], "--mixup_p 1.0: does nothing with --freeze_encoder true"),
        ("wav2vec2_cls", [*FROZEN, "--draw_augmentation"], "--draw_augmentation true: does nothing with --freeze_enc"),
        ("wav2vec2_cls", [*FROZEN, "--gradient_checkpointing", "true"], "--gradient_checkpointing true: does nothing"),
        ("wav2vec2_cls", [*FROZEN, "--lora_r", "2"], "--lora_r 2: adapts the encoders; it needs --freeze_encoder fal"),
        (
            "fusion_cls",
            [*EMODB, "--fusion", "cross_attention", "--text_pooling", "first"],
            "--text_pooling first: does nothing without --fusion concat or gated",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(recipe, argv, message):
    with pytest.raises(SerError, match=message) as error:
        settings_of(recipe, *argv)
    assert "\n" not in str(error.value)


def test_what_a_combination_needs_may_be_anywhere(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: emodb\nloss: focal\n")
    settings = settings_of("wav2vec2_cls", "--config", tmp_path / "run.yaml", "--focal_gamma", "3")
    assert settings.loss.focal_gamma == 3
    flags = ("--window_hop", "1", "--window_seconds", "2", "--lora_alpha", "3", "--lora_r", "2")
    settings = settings_of("wav2vec2_cls", "--dataset", "emodb", *flags)
    assert settings.windows.hop == 1 and settings.lora.lora_alpha == 3


def test_lora_asks_for_what_it_trains():
    scored = settings_of(
        "fusion_cls", "--dataset", "demo", "--lora_r", "4", "--do_train", "false", "--model_name_or_path", "a/b"
    )
    assert scored.lora.lora_r == 4  # the recipe makes adapters for training alone
    whole = settings_of("fusion_cls", "--dataset", "demo", "--lora_r", "4", "--freeze_encoders", "false")
    assert whole.lora.lora_r == 4


def test_help_lists_every_flag_of_ours(capsys):
    for recipe in RECIPES:
        with pytest.raises(SystemExit) as stop:
            parse(system_of(recipe), "What it does.", ["--help"])
        text = capsys.readouterr().out
        assert stop.value.code == 0 and text.startswith("What it does.")
        for kind in concerns_of(recipe).values():
            for entry in fields(kind):
                assert f"--{entry.name}" in text
        rate = OF_RECIPE.get(recipe, {}).get("learning_rate", 3e-5)
        assert (f"learning_rate={json.dumps(rate)}" in text) == (recipe not in FITTED)
    assert issubclass(AUDIO.settings, Settings)
