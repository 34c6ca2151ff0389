"""Recipes through their command line: the main path, equal runs, resuming, and every mistake a user makes."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from conftest import FIGURES, REPO, TINY_OF, run_recipe, tiny_config, tiny_flags

# Three epochs of two updates; the checkpoint in the middle is in the middle of an epoch. Four batches an epoch, so that
# two processes or two accumulation steps come out even.
SHORT = ("--max_steps", "6", "--eval_strategy", "steps", "--save_strategy", "steps", "--batch_seconds", "4")
SHORT += ("--eval_steps", "3", "--save_steps", "3", "--save_total_limit", "5", "--class_weights", "balanced")


def emodb(fake_corpus, *flags: str, labels: str = "4class") -> list[str]:
    data = ["--dataset", "emodb", "--data_dir", str(fake_corpus("emodb")), "--labels", labels]
    return [*data, "--protocol", "speaker-folds", *tiny_flags(), *SHORT, *flags]


@pytest.fixture(scope="module")
def trained(fake_corpus, tmp_path_factory):
    """One finished run of one process with two accumulation steps; later tests compare with it."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    done = run_recipe(
        "wav2vec2_cls", *emodb(fake_corpus, "--output_dir", str(folder), "--gradient_accumulation_steps", "2")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


def assert_equal_runs(first: Path, second: Path, tolerance: float):
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).abs().max() <= tolerance, name
    one, two = (pd.read_parquet(folder / "predictions.parquet") for folder in (first, second))
    assert one["id"].tolist() == two["id"].tolist()
    scores = [column for column in one if column.startswith("score_")]
    assert np.abs(one[scores].to_numpy() - two[scores].to_numpy()).max() <= max(tolerance, 1e-6)


def test_what_a_run_leaves_behind(trained, fake_corpus):
    folder, screen = trained
    left = {str(file.relative_to(folder)) for file in folder.rglob("*") if "checkpoint" not in str(file)}
    assert left == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "predictions.parquet"),
        *("results.json", "run.yaml", "record.json", "training_data.json", "figures"),
        *FIGURES,
    }
    results = json.loads((folder / "results.json").read_text())
    assert results["protocol"]["speaker_independent"] and results["model"]["stock"]
    assert results["corpus"]["missing"] > 0 and "official utterances are missing" in screen
    assert set(results["test"]["metrics"]) == {"uar", "wa", "macro_f1", "weighted_f1"}
    for low, high in results["test"]["intervals"].values():
        assert 0 <= low <= high <= 1
    assert f"UAR                {results['test']['metrics']['uar']:.3f}" in screen

    table = pd.read_parquet(folder / "predictions.parquet")
    assert len(table) == results["splits"]["test"]["utterances"] == results["test"]["utterances"]
    scores = table[[f"score_{name}" for name in results["corpus"]["label_names"]]].to_numpy()
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    names = np.array(results["corpus"]["label_names"])
    assert (names[scores.argmax(axis=1)] == table["prediction"]).all()
    by_hand = np.mean([(group["prediction"] == label).mean() for label, group in table.groupby("label")])
    assert results["test"]["metrics"]["uar"] == pytest.approx(by_hand)

    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "audio-classification" and front["language"] == ["de"]
    assert "Speaker-independent: **yes**" in card and "95 % interval" in card
    # nothing that may be published names a folder of this machine
    texts = [(folder / name).read_text() for name in ("results.json", "config.json", "training_data.json")]
    assert json.loads(texts[2])["speakers"] == results["splits"]["train"]["speakers"]
    for text in (card, *texts):
        assert str(fake_corpus("emodb")) not in text and str(folder) not in text


def test_predictions_are_in_dataset_order_with_the_pipelines_scores(trained, fake_corpus):
    """Row by row, what the saved folder answers through the stock pipeline is what the report says."""
    import soundfile as sf
    from transformers import pipeline

    folder, _ = trained
    classify = pipeline("audio-classification", model=str(folder))
    table = pd.read_parquet(folder / "predictions.parquet")
    for _, row in table.iloc[:: max(1, len(table) // 6)].iterrows():
        samples, rate = sf.read(fake_corpus("emodb") / "wav" / f"{row['id']}.wav", dtype="float32")
        for entry in classify({"array": samples, "sampling_rate": rate}, top_k=None):
            assert entry["score"] == pytest.approx(row[f"score_{entry['label']}"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_are_one_with_two_accumulation_steps(trained, fake_corpus, tmp_path):
    """Every clip once, the class-weighted loss over both ranks, evaluation gathered in order: the same run."""
    done = run_recipe("wav2vec2_cls", *emodb(fake_corpus, "--output_dir", str(tmp_path / "two")), processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_runs(trained[0], tmp_path / "two", 1e-5)
    one, two = (json.loads((f / "results.json").read_text()) for f in (trained[0], tmp_path / "two"))
    for part in ("validation", "test"):
        assert one[part] == two[part]

    # The same two processes, stopped after the first checkpoint and resumed, make the unbroken run.
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "two" / "checkpoint-3", resumed / "checkpoint-3")
    flags = emodb(fake_corpus, "--output_dir", str(resumed), "--resume_from_checkpoint", "true")
    done = run_recipe("wav2vec2_cls", *flags, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((resumed / "results.json").read_text())["training"]["resumed"]
    assert_equal_runs(tmp_path / "two", resumed, 1e-6)


@pytest.mark.slow
def test_resumed_equals_unbroken_with_dropout(fake_corpus, tmp_path):
    """Random states come back too: dropout and SpecAugment on, stopped in the middle of an epoch."""
    flags = emodb(fake_corpus)
    flags[flags.index("--config_overrides") + 1] = json.dumps(
        {**json.loads(flags[flags.index("--config_overrides") + 1]), "hidden_dropout": 0.3, "apply_spec_augment": True}
        | {"mask_time_length": 2, "mask_time_prob": 0.2}
    )
    done = run_recipe("wav2vec2_cls", *flags, "--output_dir", str(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    assert not (tmp_path / "resumed" / "checkpoint-3" / "training_args.bin").exists()  # nothing needs it
    out = ("--output_dir", str(tmp_path / "resumed"))
    refused = run_recipe("wav2vec2_cls", *flags, *out)
    assert refused.returncode == 2 and "holds an unfinished run: --resume_from_checkpoint true" in refused.stderr
    done = run_recipe("wav2vec2_cls", *flags, *out, "--resume_from_checkpoint", "true")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_runs(tmp_path / "whole", tmp_path / "resumed", 1e-6)


@pytest.mark.slow
def test_a_saved_run_repeats_and_evaluates(trained, fake_corpus, tmp_path):
    """run.yaml makes the same model again; --do_train false scores it again; its remote-code twin does so too."""
    folder, _ = trained
    again = run_recipe("wav2vec2_cls", "--config", str(folder / "run.yaml"), "--output_dir", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr[-3000:]
    assert_equal_runs(folder, tmp_path / "again", 0.0)

    flags = [*emodb(fake_corpus), "--output_dir", str(tmp_path / "scored"), "--do_train", "false"]
    drop = flags.index("--model_type")
    del flags[drop : drop + 4]  # and --config_overrides: the checkpoint says what it is
    scored = run_recipe("wav2vec2_cls", *flags, "--model_name_or_path", str(folder))
    assert scored.returncode == 0, scored.stderr[-3000:]
    assert_equal_runs(folder, tmp_path / "scored", 1e-6)
    again = run_recipe("wav2vec2_cls", *flags, "--model_name_or_path", str(folder))
    assert again.returncode == 2 and "scored holds a finished run: choose another" in again.stderr
    wrong = [flag if flag != "4class" else "7class" for flag in flags] + ["--output_dir", str(tmp_path / "wrong")]
    wrong = run_recipe("wav2vec2_cls", *wrong, "--model_name_or_path", folder)
    assert wrong.returncode == 2 and "answers angry, happy, neutral, sad, but the corpus's labels are" in wrong.stderr


def test_a_checkpoint_without_its_head_is_refused(trained, fake_corpus, tmp_path):
    from safetensors.torch import save_file

    broken = tmp_path / "broken"
    shutil.copytree(trained[0], broken)
    kept = {name: value for name, value in weights(broken).items() if not name.startswith("classifier")}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    flags = [*emodb(fake_corpus), "--output_dir", str(tmp_path / "out"), "--do_train", "false"]
    drop = flags.index("--model_type")
    del flags[drop : drop + 4]
    done = run_recipe("wav2vec2_cls", *flags, "--model_name_or_path", str(broken))
    assert done.returncode == 2 and "classifier.bias, classifier.weight are missing" in done.stderr
    assert "Traceback" not in done.stderr and not any((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_bad_clips_are_counted_and_skipped(fake_corpus, tmp_path):
    import soundfile as sf

    corpus = tmp_path / "emodb"
    shutil.copytree(fake_corpus("emodb"), corpus)
    files = sorted((corpus / "wav").glob("[0-9]*W?.wav"))
    before = len(list((corpus / "wav").glob("[0-9]*[WFTN]?.wav")))
    files[0].write_bytes(b"RIFF and nothing more")
    files[1].write_bytes(b"")
    sf.write(files[2], np.zeros(0), 16000)
    sf.write(files[3], np.full(1600, np.nan), 16000, subtype="FLOAT")
    sf.write(files[4], np.random.default_rng(0).normal(0, 0.1, 200), 16000)  # shorter than the receptive field
    flags = emodb(fake_corpus, "--output_dir", str(tmp_path / "out"))
    flags[flags.index("--data_dir") + 1] = str(corpus)
    done = run_recipe("wav2vec2_cls", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    known = len(results["corpus"]["problems"])
    assert results["corpus"]["utterances"] + known == before and known >= 4
    assert f"{known} clips cannot be used and are skipped" in done.stdout
    for file, why in zip(files[:4], ("unreadable", "unreadable", "no samples", "NaN"), strict=True):
        assert any(file.name in line and why in line for line in results["corpus"]["problems"]), (file.name, why)
    assert sum(part["utterances"] for part in results["splits"].values()) == results["corpus"]["utterances"]


TINY_WHISPER = ("--model_type", "whisper", "--config_overrides", json.dumps(TINY_OF["whisper"]))
LONG_CLIP = ("--dataset", "{bad}/long", "--data_dir", None, "--labels", None, "--protocol", None)
MISTAKES = {
    "unknown dataset": (("--dataset", "emobd"), "unknown dataset 'emobd': did you mean 'emodb'?"),
    "no dataset": (("--dataset", ""), "--dataset is missing"),
    "not the corpus": (("--data_dir", "{tmp}/other"), "is not emodb: .* The folder must hold: wav/03a01Fa.wav"),
    "empty folder": (("--data_dir", "{tmp}/empty"), "is not emodb"),
    "missing folder": (("--data_dir", "{tmp}/nowhere"), "no such folder"),
    "unknown flag": (("--learning_rat", "1"), "unknown flag --learning_rat: did you mean --learning_rate?"),
    "not a number": (("--fold", "three"), "--fold"),
    "not a choice": (("--pooling", "sum"), "--pooling"),
    "label set": (("--labels", "9class"), "emodb has no label set '9class': choose one of 7class, 4class"),
    "protocol": (("--protocol", "loso"), "emodb has no protocol 'loso': choose one of leave-one-speaker-out"),
    "fold": (("--fold", "99"), "--fold 99: emodb's protocol 'speaker-folds' has folds 0 to 4"),
    "config": (("--config", "nowhere.yaml"), "--config nowhere.yaml: no such file"),
    "yaml key": (
        ("--config", "{tmp}/wrong.yaml"),
        "wrong.yaml: line 1: unknown flag --learning_rates: did you mean --learning_rate",
    ),
    "overrides": (("--config_overrides", "layerdrop=0"), "must be JSON"),
    "two models": (("--model_name_or_path", "x", "--model_type", "wav2vec2"), "give one"),
    "output": (("--output_dir", "{tmp}/file/out"), "--output_dir .*/file/out: cannot write in .*; choose another"),
    "checkpoint": (
        ("--model_name_or_path", "{tmp}/empty", "--config_overrides", "{}"),
        "empty: config.json is missing",
    ),
    "resume": (("--resume_from_checkpoint", "{tmp}/nowhere"), "no such folder"),
    # a checkpoint, its feature extractor, and what is read of it
    "another extractor": (
        ("--model_name_or_path", "{bad}/of_wav2vec2"),
        "model '.*of_wav2vec2': the feature extractor Wav2Vec2FeatureExtractor does not fit whisper",
    ),
    "other mel bands": (
        ("--model_name_or_path", "{bad}/of_80_bands"),
        "model '.*of_80_bands': .* makes 80 values per frame, the encoder reads 8",
    ),
    "no extractor": (("--model_name_or_path", "{bad}/no_extractor"), "no_extractor': .*preprocessor_co"),
    "clap": (("--model_name_or_path", "{bad}/clap"), "encoder 'clap' is not .*one vector per clip"),
    "encodec": (("--model_name_or_path", "{bad}/encodec"), "encoder 'encodec' is not .*it is a codec"),
    "gpt2": (("--model_name_or_path", "{bad}/gpt2"), "encoder 'gpt2' is not supported .it reads text"),
    "ast": (
        ("--model_name_or_path", "{bad}/audio-spectrogram-transformer"),
        "encoder 'audio-spectrogram-transformer' is not supported .it reads patches",
    ),
    "no such layer": (("--layers", "99", "--layer_mix", "sum"), r"layers \[99\]: wav2vec2 has the layers 0 to 1"),
    "a layer twice": (("--layers", "1 1", "--layer_mix", "concat"), r"layers \[1, 1\]: name each layer once"),
    "30 s of wav2vec2": (("--context", "full"), "context 'full': wav2vec2 reads clips of any length"),
    "30 s by max": (
        ("--context", "full", "--pooling", "max", *TINY_WHISPER),
        "'full' with pooling max and head linear",
    ),
    "30 s by mlp": (
        ("--context", "full", "--head", "mlp", "--head_size", None, *TINY_WHISPER),
        "'full' with pooling mean and head mlp",
    ),
    "no convolutions": (("--freeze_feature_encoder", "true", *TINY_WHISPER), "true: whisper has no convolutions"),
    "LoRA names": (("--lora_r", "2", "--lora_target", "query"), "--lora_target query: no such layer in SerFor"),
    "31 s": (
        (*LONG_CLIP, *TINY_WHISPER),
        "whisper reads 30 s and 1 clips are longer, .*31.0 s.: give --window_seconds",
    ),
    "31 s by a pause": (("--min_seconds", "31", *TINY_WHISPER), "--min_seconds 31: whisper reads 30 s"),
    "31 s by speed": (
        ("--speed_p", "1", "--speed_factor", "0.001", *TINY_WHISPER),
        "whisper reads 30 s and .* the longest .slowed by --speed_factor, .* s.: give",
    ),
    "push without a name": (("--push_to_hub", "true"), "--hub_model_id is missing: name the repository, user/name"),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Checkpoints that cannot be used, and a corpus with a clip of 31 s."""
    import soundfile as sf
    from transformers import AutoConfig, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor, WhisperModel

    home = tmp_path_factory.mktemp("bad")
    for name, extractor in (
        ("of_wav2vec2", Wav2Vec2FeatureExtractor()),
        ("of_80_bands", WhisperFeatureExtractor()),
        ("no_extractor", None),
    ):
        WhisperModel(tiny_config("whisper")).save_pretrained(home / name)
        if extractor is not None:
            extractor.save_pretrained(home / name)
    for kind in ("clap", "encodec", "gpt2", "audio-spectrogram-transformer"):
        AutoConfig.for_model(kind).save_pretrained(home / kind)
    (home / "long").mkdir()
    lines = ["file_name,label,speaker"]
    for index in range(12):
        samples = np.random.default_rng(index).normal(0, 0.1, 31 * 1000 if index == 7 else 800)
        sf.write(home / "long" / f"{index}.wav", samples, 1000)
        lines.append(f"{index}.wav,{('angry', 'sad')[index % 2]},s{index // 2}")
    (home / "long" / "metadata.csv").write_text("\n".join(lines))
    return home


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(mistake, fake_corpus, bad, tmp_path, capsys, monkeypatch):
    """In this process (the first lines of a recipe are the same everywhere), so that an import each is not paid."""
    import runpy
    import sys

    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "speech.wav").write_bytes(b"x")
    (tmp_path / "file").write_text("a file where a folder should be")
    (tmp_path / "wrong.yaml").write_text("learning_rates: 1")
    wrong, message = MISTAKES[mistake]
    given = emodb(fake_corpus, "--output_dir", str(tmp_path / "out"))
    for key, value in zip(wrong[::2], wrong[1::2], strict=True):
        if key in given:
            del given[given.index(key) : given.index(key) + 2]
        if key == "--model_name_or_path" and "--model_type" not in wrong:
            del given[given.index("--model_type") : given.index("--model_type") + 4]
        if value is not None:
            given += [
                key,
                *([value] if key == "--config_overrides" else value.format(tmp=tmp_path, bad=bad).split(" ")),
            ]
    monkeypatch.setattr(sys, "argv", ["wav2vec2_cls.py", *given])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPO / "recipes" / "wav2vec2_cls.py"), run_name="__main__")
    error = capsys.readouterr().err
    assert stop.value.code == 2
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    import re

    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())  # nothing half-written


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    """Through the operating system once: exit status 2 and a single line on stderr."""
    done = run_recipe("wav2vec2_cls", "--dataset", "emobd", "--output_dir", str(tmp_path / "out"), "--use_cpu", "true")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.strip()] == [
        line for line in done.stderr.splitlines() if line.startswith("error: unknown dataset 'emobd'")
    ]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("flags", [(), ("--validation_fraction", "0")], ids=str)
def test_a_training_that_diverges_is_one_line_and_leaves_no_model(flags, fake_corpus, tmp_path):
    diverging = ("--learning_rate", "1e30", "--max_grad_norm", "0", "--optim", "sgd", "--num_train_epochs", "2")
    corpus = ("--dataset", "demo", "--data_dir", str(fake_corpus("demo")), "--output_dir", str(tmp_path / "run"))
    done = run_recipe("wav2vec2_cls", *corpus, *tiny_flags(), *diverging, *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert re.search(r"^error: the (scores|loss) at step \d+ is NaN or infinite: .*--learning_rate", done.stderr, re.M)
    assert not (tmp_path / "run" / "results.json").exists() and not (tmp_path / "run" / "model.safetensors").exists()
