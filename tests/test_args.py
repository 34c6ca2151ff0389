"""Flags: YAML and command line agree, the command line wins, mistakes are named."""

import json

import pytest

from ser_hf import SerError
from ser_hf.training import arguments as args
from ser_hf.training.systems import flags_of, training_defaults

CPU = ["--use_cpu", "true"]


def test_defaults_differ_from_transformers_only_where_listed():
    from transformers import TrainingArguments

    data, model, run, training, given, _ = args.parse("", "wav2vec2", ["--dataset", "smile", *CPU])
    plain = TrainingArguments(output_dir="wav2vec2_x", use_cpu=True)
    for key, value in training_defaults("wav2vec2").items():
        assert str(getattr(training, key)).lower().endswith(str(type(getattr(training, key))(value)).lower()), key
    untouched = {"weight_decay", "lr_scheduler_type", "optim", "seed", "max_grad_norm", "gradient_accumulation_steps"}
    for key in untouched:
        assert getattr(training, key) == getattr(plain, key)
    assert training.output_dir == "runs/smile_wav2vec2_fold0_seed42"
    assert (run.batch_seconds, model.pooling, model.head, data.fold) == (36.0, "mean", "linear", 0)
    assert model.freeze_feature_encoder is None and given["dataset"] == "smile"


def test_yaml_is_typed_and_the_command_line_wins(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("dataset: emodb\nlearning_rate: 1e-4\nfold: 3\npooling: max\nadd_labels: [sad, angry]\n")
    data, model, _, training, given, _ = args.parse("", "wav2vec2_x", ["--config", str(file), "--fold", "5", *CPU])
    assert training.learning_rate == 1e-4  # YAML reads 1e-4 as text
    assert data.fold == 5 and given["fold"] == "5" and model.pooling == "max" and data.add_labels == ["sad", "angry"]
    assert args.parse("", "wav2vec2_x", ["--config", str(file), "--add-labels", "sad", *CPU])[0].add_labels == ["sad"]


def test_a_corpus_brings_its_own_settings():
    with_own = args.parse("", "wav2vec2", ["--dataset", "iemocap", *CPU])
    assert with_own[1].model_name_or_path == "facebook/wav2vec2-base" and with_own[4]["config"].endswith(".yaml")
    without = args.parse("", "wav2vec2", ["--dataset", "iemocap", "--config", "none", *CPU])
    assert without[1].model_name_or_path == "facebook/wav2vec2-base" and "batch_seconds" not in without[4]
    # a random encoder on the command line replaces the YAML's checkpoint
    model = args.parse("", "wav2vec2", ["--dataset", "iemocap", "--model_type", "hubert", *CPU])[1]
    assert model.model_type == "hubert" and model.model_name_or_path is None


def test_fixed_count_mode():
    assert args.parse("", "wav2vec2_x", ["--dataset", "emodb", "--batch_seconds", "0", *CPU])[2].batch_seconds is None


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--datasett", "emodb"], "unknown flag --datasett: did you mean --dataset"),
        (["--dataset", "emodb", "--pooling", "sum"], "invalid choice: 'sum'"),
        (["--dataset", "emodb", "--fold", "wav2vec2_x"], "--fold"),
        (["emodb"], "'emodb': flags are written --name value"),
        (["--dataset", "emodb", "--validation_fraction", "1"], "must be at least 0 and below 1"),
        (["--dataset", "emodb", "--config_overrides", "[1]"], "must be JSON"),
        (["--dataset", "emodb", "--lora_r", "-1"], "--lora_r -1: must be at least 1, or 0"),
        (["--dataset", "emodb", "--config", "emodb_wav2vec"], "did you mean emodb_wav2vec2"),
        (["--dataset", "emodb", "--evaluation_strategy", "epoch"], "did you mean --eval_strategy"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(SerError, match=message) as error:
        args.parse("", "wav2vec2_x", [*argv, *CPU])
    assert "\n" not in str(error.value)


def test_every_yaml_of_a_corpus_has_a_folder_of_its_own(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: iemocap\n")
    for config, name in (
        ("iemocap_text_bert_3class", "iemocap_text_bert_3class"),
        ("recipes/configs/cmu_mosei_text_bert_4class_iemocap.yaml", "cmu_mosei_text_bert_4class_iemocap"),
        (str(tmp_path / "run.yaml"), "iemocap_text"),
    ):
        training = args.parse("", "text", ["--config", config, "--fold", "2", *CPU]).training
        assert training.output_dir == f"runs/{name}_fold2_seed42"


def test_lora_is_of_training():
    of_lora = ["--dataset", "emodb", *CPU, "--lora_r", "4"]
    assert args.parse("", "wav2vec2_x", of_lora).model.lora_r == 4
    assert args.parse("", "wav2vec2_x", [*of_lora, "--do_train", "false"]).model.lora_r == 0


def test_yaml_mistakes(tmp_path):
    for content, message in (
        ("poling: max", "key 'poling': did you mean --pooling"),
        ("- a", "must hold `flag: value` lines"),
        ("a: [", "not YAML"),
    ):
        (tmp_path / "run.yaml").write_text(content)
        with pytest.raises(SerError, match=message):
            args.parse("", "wav2vec2_x", ["--dataset", "emodb", "--config", str(tmp_path / "run.yaml"), *CPU])


def test_help_lists_every_flag_of_ours(capsys):
    with pytest.raises(SystemExit) as stop:
        args.parse("What it does.", "wav2vec2_x", ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and text.startswith("What it does.")
    for kind in flags_of("wav2vec2"):
        for name in kind.__dataclass_fields__:
            assert f"--{name}" in text
    assert json.dumps("learning_rate=3e-5")[1:-1] in text
