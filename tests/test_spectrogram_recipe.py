"""The spectrogram recipe: features are kept and renewed, randomness repeats, a run resumes, every row has a YAML."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import soxr
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainingArguments

from conftest import REPO, run_recipe
from fakes import voice
from ser_hf import SerError, load_corpus
from ser_hf.cli import main as console
from ser_hf.data.augmentation import Augmentation
from ser_hf.data.cache import Store
from ser_hf.data.windows import to_windows
from ser_hf.experiments.cv_report import mark
from ser_hf.models import SerForSpectrogramClassification, SerSpectrogramConfig, SerSpectrogramFeatureExtractor
from ser_hf.models.configuration_spectrogram import ARCHS
from ser_hf.training import spectrogram_model as spectrograms
from ser_hf.training.schedule import early_stopping
from ser_hf.training.settings import ClipArguments, ScheduleArguments
from ser_hf.training.trainer import SerTrainer


@pytest.fixture
def folder(tmp_path):
    """Six speakers, clips of 0.5 to 1.1 s."""
    root = tmp_path / "calls"
    rows = []
    for speaker in range(6):
        for take in range(4):
            file = voice(root / f"s{speaker}_{take}.wav", 0.5 + 0.2 * take, seed=speaker * 10 + take)
            rows.append((file.name, ("angry", "neutral")[(take + speaker) % 2], f"s{speaker}"))
    pd.DataFrame(rows, columns=["file_name", "label", "speaker"]).to_csv(root / "metadata.csv", index=False)
    return root


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def collators_of(extractor, parts, changes=None, relative=False, do_train=True, **clips):
    """`feature_collators` with these changes of training clips: the extractor to save, and both collators."""
    training = TrainingArguments("unused", seed=1, use_cpu=True, do_train=do_train)
    augmentation, clips = Augmentation(**(changes or {})), ClipArguments(**clips)
    return spectrograms.feature_collators(
        extractor, parts, clips, augmentation, training, relative=relative, num_labels=2
    )


def kept(cache) -> dict[str, int]:
    """Folders of the store, and how many clips each holds."""
    found = {}
    for path in cache.glob("features-*/*.safetensors"):
        found[path.parent.name] = found.get(path.parent.name, 0) + len(load_file(path))
    return found


def test_features_are_kept_and_renewed(folder, own_store):
    rows = load_corpus(str(folder))
    extractor = SerSpectrogramFeatureExtractor(n_mels=20, trim_db=None)
    _, collators = collators_of(extractor, {"train": rows})
    assert list(kept(own_store).values()) == [24]
    batch = collators["data_collator"]([rows[0], rows[1]])
    by_hand = extractor([sf.read(folder / f"s0_{take}.wav")[0].astype(np.float32)[::2] for take in (0, 1)])
    assert batch["input_features"].shape == by_hand["input_features"].shape
    assert batch.get("attention_mask", np.ones(1)).tolist() == by_hand["attention_mask"].tolist()

    collators_of(extractor, {"train": rows})
    assert list(kept(own_store).values()) == [24]  # nothing anew
    samples, rate = sf.read(folder / "s0_0.wav")
    sf.write(folder / "s0_0.wav", samples * 0.5, rate)  # a changed clip is another clip, the others stay
    changed = load_corpus(str(folder))
    assert changed[0]["audio_hash"] != rows[0]["audio_hash"]
    _, again = collators_of(extractor, {"train": changed})
    assert list(kept(own_store).values()) == [25]
    assert not torch.equal(again["data_collator"]([changed[0]])["input_features"],
                           collators["data_collator"]([rows[0]])["input_features"])  # fmt: skip
    other = SerSpectrogramFeatureExtractor(n_mels=20, trim_db=None, hop_length=50)  # and so is another setting
    collators_of(other, {"train": changed})
    assert sorted(kept(own_store).values()) == [24, 25]


def test_features_of_windows_are_those_of_their_samples(folder, own_store):
    rows = to_windows(load_corpus(str(folder)), 0.4, 0.2)
    extractor = SerSpectrogramFeatureExtractor(16000, n_mels=20, trim_db=None)
    collator = collators_of(extractor, {"train": rows})[1]["eval_collator"]
    assert list(kept(own_store).values()) == [len(rows)]
    samples = sf.read(folder / "s0_0.wav", dtype="float32")[0]
    for row in (rows[0], rows[1]):
        part = samples[round(row["window_start"] * 16000) : round(row["window_end"] * 16000)]
        expected = extractor(part, return_tensors="pt")["input_features"]
        assert torch.equal(collator([row])["input_features"], expected)


def test_waveforms_are_changed_before_and_spectrograms_behind_the_store(folder, own_store):
    rows = load_corpus(str(folder))
    extractor = SerSpectrogramFeatureExtractor(n_mels=20, trim_db=None)
    parts = {"train": rows.select(range(12)), "validation": rows.select(range(12, 24))}
    _, noisy = collators_of(extractor, parts, {"noise_p": 1.0})
    assert list(kept(own_store).values()) == [12]  # validation alone
    _, masked = collators_of(extractor, parts, {"spec_p": 1.0, "mixup_p": 1.0})
    assert sum(kept(own_store).values()) == 24
    for collators in (noisy, masked):
        train, evaluation = collators["data_collator"], collators["eval_collator"]
        clean = evaluation([rows[0], rows[2]])["input_features"]
        first = train([rows[0], rows[2]])
        assert not torch.equal(first["input_features"], clean)
        assert torch.equal(first["input_features"], train([rows[0], rows[2]])["input_features"])
        train.set_epoch(1)
        assert not torch.equal(first["input_features"], train([rows[0], rows[2]])["input_features"])
        assert torch.equal(evaluation([rows[0], rows[2]])["input_features"], clean)
    assert first["labels"].shape == (2, 2) and torch.allclose(first["labels"].sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("kind", ["mel", "mfcc"])
def test_what_is_hidden_gets_the_mean(folder, kind):
    """Of the whole mel spectrogram, and of MFCC each row's own."""
    rows = load_corpus(str(folder))
    extractor = SerSpectrogramFeatureExtractor(n_mels=20, n_mfcc=20, trim_db=None, kind=kind)
    changes = {"spec_p": 1.0, "spec_time_masks": 0, "spec_freq_width": 4}
    _, collators = collators_of(extractor, {"train": rows}, changes)
    clean, masked = (collators[name]([rows[3]])["input_features"][0] for name in ("eval_collator", "data_collator"))
    changed = (masked - clean).abs().amax(dim=0) > 1e-3
    assert 0 < changed.sum() <= 8
    fill = clean.mean(dim=0) if kind == "mfcc" else clean.mean().expand(20)
    assert torch.allclose(masked[:, changed], fill[changed].expand(len(clean), -1), atol=1e-3)
    assert torch.allclose(masked[:, ~changed], clean[:, ~changed], atol=1e-3)


def test_features_are_relative_to_the_mean_of_the_speaker(folder, own_store):
    """Of all the speaker's clips as recorded: in training, evaluation, from the store or not; no label is read."""
    rows = load_corpus(str(folder))
    parts = {"train": rows.select(range(12)), "validation": rows.select([]), "test": rows.select(range(12, 24))}
    assert rows[3]["speaker"] == "s0" != rows[4]["speaker"]
    settings = {"n_mels": 20, "trim_db": None, "normalize": "clip"}
    plain = SerSpectrogramFeatureExtractor(**settings)

    def raw(take):  # of speaker 0, in dB
        samples = soxr.resample(sf.read(folder / f"s0_{take}.wav", dtype="float32")[0], 16000, 8000)
        return plain.spectra(torch.from_numpy(samples)[None])[0]

    mean = sum(raw(take).mean(dim=0) for take in range(4)) / 4
    values = raw(3) - mean
    expected = ((values - values.mean()) / values.std(correction=0)).float()
    for extra in ({}, {"gain_p": 1.0, "gain_db": [6.0]}):
        extractor = SerSpectrogramFeatureExtractor(**settings, mean_spectrum=[0.0] * 20)
        saved, collators = collators_of(extractor, parts, extra, relative=True)
        for collator in collators.values():  # a louder clip is the same one, against its maximum
            assert torch.allclose(collator([rows[3]])["input_features"][0], expected, atol=1e-4)
        means = collators["eval_collator"].means
        assert sorted(means) == [f"s{number}" for number in range(6)]
        average = (means["s0"] + means["s1"] + means["s2"]) / 3  # of train
        assert torch.allclose(torch.tensor(saved.mean_spectrum), average, atol=1e-4)
        assert extractor.mean_spectrum == [0.0] * 20  # its argument is not changed
    extractor = SerSpectrogramFeatureExtractor(**settings, mean_spectrum=[1.0] * 20)  # a trained model keeps its own
    saved, _ = collators_of(extractor, parts, relative=True, do_train=False)
    assert saved.mean_spectrum == extractor.mean_spectrum == [1.0] * 20
    nameless = rows.remove_columns("speaker").add_column("speaker", ["s0", None] * 12)
    with pytest.raises(SerError, match="--speaker_norm: 12 of 24 utterances have no speaker"):
        collators_of(extractor, {"train": nameless}, relative=True)


def test_one_cycle_goes_up_and_down(tmp_path):
    model = SerForSpectrogramClassification(SerSpectrogramConfig(arch="cnn1d_3", rows=4, num_labels=2))
    training = TrainingArguments(str(tmp_path), learning_rate=0.1, use_cpu=True, lr_scheduler_type="constant")
    trainer = SerTrainer(model=model, args=training, data_collator=lambda rows: rows, one_cycle=True)
    trainer.create_optimizer_and_scheduler(100)
    rates = []
    for _ in range(100):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    # torch: from 1/25 of the top, which is reached after 30 %, down to 1/10000 of where it began, along cosines
    assert rates[0] == pytest.approx(0.004) and int(np.argmax(rates)) == 29 and max(rates) == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1 / 25e4) and rates[64] == pytest.approx(0.05, rel=0.02)


def test_early_stopping_needs_validation():
    patient = ScheduleArguments(early_stopping_patience=3)
    assert early_stopping(ScheduleArguments(), False) == []
    assert early_stopping(patient, True)[0].early_stopping_patience == 3
    with pytest.raises(SerError, match="--early_stopping_patience 3: needs validation"):
        early_stopping(patient, False)


RUN = ("--arch", "cnn1d_3", "--n_mels", "20", "--n_mfcc", "10", "--use_cpu", "true", "--disable_tqdm", "true")
RUN += ("--config", "none", "--one_cycle", "true", "--spec_p", "0.5", "--spec_freq_width", "3", "--batch_seconds", "3")
RUN += ("--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps")
RUN += ("--save_steps", "2", "--save_total_limit", "5", "--mixup_p", "0.5")


def test_a_run_leaves_a_model_of_the_network(folder, tmp_path):
    out = tmp_path / "run"
    short = ("--max_steps", "2", "--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "no")
    done = run_recipe("spectrogram_cls", "--dataset", str(folder), *RUN[: RUN.index("--max_steps")], *short,
                      "--output_dir", str(out))  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((out / "results.json").read_text())
    assert results["test"]["utterances"] == 8 and results["training"]["steps"] == 2
    assert SerForSpectrogramClassification.from_pretrained(out).config.arch == "cnn1d_3"


@pytest.mark.slow
def test_a_run_in_windows_resumes_exactly(folder, own_store, tmp_path):
    flags = ("--dataset", str(folder), *RUN, "--window_seconds", "0.4", "--early_stopping_patience", "9")
    done = run_recipe("spectrogram_cls", *flags, "--output_dir", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["model"]["class"] == "SerForSpectrogramClassification"
    assert results["model"]["details"] == "cnn1d_3 with random weights" and results["training"]["steps"] == 4
    assert results["test_windows"]["utterances"] > results["test"]["utterances"] == 8  # two speakers
    model = SerForSpectrogramClassification.from_pretrained(tmp_path / "a")
    assert model.config.rows == 10 and model.config.id2label == {0: "angry", 1: "neutral"}

    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoint-4")
    (tmp_path / "b" / "results.json").unlink()
    before = sum(kept(own_store).values())
    done = run_recipe(
        "spectrogram_cls", *flags, "--output_dir", str(tmp_path / "b"), "--resume_from_checkpoint", "true"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sum(kept(own_store).values()) == before
    one, two = (load_file(tmp_path / run / "checkpoint-4" / "model.safetensors") for run in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_run_relative_to_speakers_is_what_the_adapted_pipeline_answers(folder, tmp_path, capsys):
    flags = ("--dataset", str(folder), *RUN, "--speaker_norm", "true", "--normalize", "clip")
    done = run_recipe("spectrogram_cls", *flags, "--output_dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    card = (tmp_path / "run" / "README.md").read_text()
    for text in (results["model"]["details"], done.stdout, card):
        assert "relative to each speaker's mean" in text
    assert any("in test of 4 to 4 utterances" in line for line in results["test"]["remarks"])
    assert (
        ".adapted(clips)\n" in card
        and "fold 0, SPEAKER-NORMALISED)" in " ".join(card.split())
        and mark(results) == " (SPEAKER-NORMALISED)"
    )
    assert "The model was selected on validation, by " in card
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    columns = [name for name in table.columns if name.startswith("score_")]
    assert len(table) == 8 and len(columns) == 2
    speaker = table["speaker"][0]
    own = table[table["speaker"] == speaker]
    files = sorted(str(file) for file in folder.glob(f"{speaker}_*.wav"))
    assert len(files) == len(own) == 4

    def scores(*extra):
        out = tmp_path / f"scores{len(extra)}.parquet"
        assert console(["predict", *files, "--model", str(tmp_path / "run"), "--out", str(out), *extra]) == 0
        found = pd.read_parquet(out)
        return found[columns].to_numpy(), found["model"][0]

    (folder / "zz.wav").write_text("no audio")
    sf.write(folder / "zzz.wav", np.zeros(8000), 16000)
    extra = (str(folder / "zz.wav"), str(folder / "zzz.wav"))
    (known, by), (unknown, other) = scores("--speaker_clips", *extra, *files[::-1]), scores()
    told = capsys.readouterr().err
    assert "left out of --speaker_clips" in told and "zz.wav: unreadable" in told and "assumes a mean speaker" in told
    assert console(["predict", files[0], "--model", str(tmp_path / "run"), "--speaker_clips", *extra]) == 2
    assert "error: --speaker_clips: no clips of the speaker, or only silent ones" in capsys.readouterr().err
    for name in ("zz", "zzz"):
        (folder / f"{name}.wav").unlink()
    assert [Path(name).stem for name in own["id"]] == [Path(file).stem for file in files]
    expected = own[columns].to_numpy()
    assert np.abs(known - expected).max() < 1e-5 and np.abs(unknown - expected).max() > 1e-4
    assert by.partition(" speaker ")[0] == other and by != other and scores("--speaker_clips", *files)[1] == by

    base = ("--dataset", str(folder), "--config", "none", "--use_cpu", "true")
    base += ("--model_name_or_path", str(tmp_path / "run"), "--do_train", "false")
    two = ("--validation_fraction", "0", "--output_dir", str(tmp_path / "two"))
    done = run_recipe("spectrogram_cls", *base, *two)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "There was no validation: nothing was selected; test" in (tmp_path / "two" / "README.md").read_text()
    scored = pd.read_parquet(tmp_path / "two" / "predictions.parquet")
    assert np.abs(scored[columns].to_numpy() - table[columns].to_numpy()).max() < 1e-6
    assert "relative to each speaker" in done.stdout

    done = run_recipe("spectrogram_cls", *base, "--speaker_norm", "false", "--output_dir", str(tmp_path / "strangers"))
    assert done.returncode == 0 and "relative to" not in done.stdout, done.stderr[-3000:]
    scored = pd.read_parquet(tmp_path / "strangers" / "predictions.parquet")
    strangers = scored[scored["speaker"] == speaker][columns].to_numpy()
    assert np.abs(strangers - unknown).max() < 1e-5
    on = ("--do_train", "true", "--speaker_norm", "false", "--output_dir", str(tmp_path / "on"))
    done = run_recipe("spectrogram_cls", *base, *on)
    assert done.returncode == 2 and "was trained with it; false is for --do_train false" in done.stderr
    done = run_recipe("spectrogram_cls", *base, "--window_seconds", "0.5", "--output_dir", str(tmp_path / "cut"))
    assert done.returncode == 2 and "--window_seconds: the means of --speaker_norm are" in done.stderr

    extractor = SerSpectrogramFeatureExtractor.from_pretrained(tmp_path / "run")
    extractor.mean_spectrum = None
    extractor.save_pretrained(tmp_path / "run")
    capsys.readouterr()
    assert console(["predict", *files, "--model", str(tmp_path / "run"), "--speaker_clips", *files]) == 2
    assert "was trained without --speaker_norm" in capsys.readouterr().err
    done = run_recipe("spectrogram_cls", *base, "--speaker_norm", "true", "--output_dir", str(tmp_path / "three"))
    assert done.returncode == 2 and "was trained without it" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "wrong, message",
    [(("--arch", "vgg"), "invalid choice: 'vgg'"), (("--reduce", "time"), "only the cnn1d"),
     (("--n_fft", "100"), "win_length 512"),
     (("--speaker_norm", "true", "--max_seconds", "1"), "--max_seconds: the means of --speaker_norm are"),
     (("--arch", "alexnet", "--imagenet"), "no ImageNet weights"),
     (("--model_name_or_path", "nowhere/there"), "--model_name_or_path nowhere/there: ")],
)  # fmt: skip
def test_mistakes_are_one_line(folder, wrong, message, tmp_path, monkeypatch, capsys):
    import runpy
    import sys

    flags = ("--dataset", str(folder), *wrong, "--use_cpu", "true", "--output_dir", str(tmp_path / "out"))
    monkeypatch.setattr(sys, "argv", ["spectrogram_cls.py", *flags])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPO / "recipes" / "spectrogram_cls.py"), run_name="__main__")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.strip().count("\n") == 0 and "Traceback" not in error


def expanded(name: str) -> list[str]:
    """`a_{b,c}` is `a_b` and `a_c`."""
    head, brace, rest = name.partition("{")
    choices, _, tail = rest.partition("}")
    return [end for choice in choices.split(",") for end in expanded(head + choice + tail)] if brace else [name]


def test_the_table_of_systems_names_every_yaml():
    text = (REPO / "recipes" / "README.md").read_text()
    table, names, row = text.split("## The systems")[1].split("## Results")[0], [], []
    for line in table.splitlines():
        if line.startswith("| ") and "configs" not in line:
            before, row = row, []
            for name in re.findall(r"`([^`]+)`", line.split("|")[2]):
                if name.startswith("_"):  # "the same with _windows"
                    row += [other + name for other in before]
                elif name.startswith("…"):
                    row += [other.removesuffix("_iemocap") + name[1:] for other in row]
                else:
                    row += expanded(name)
            names += row
    files = {file.stem for file in (REPO / "recipes" / "configs").glob("*.yaml")}
    assert sorted(names) == sorted(files)
    assert all(re.search(rf"\b{arch}\b", table) for arch in ARCHS)
    for corpus, counts in {"ravdess": (8, 6, 5), "tess": (7, 6, 5), "crema_d": (6, 3), "iemocap": (4, 3)}.items():
        for count in counts:
            for windows in ("", "_windows"):
                name = f"{corpus}_spectrogram_{count}class{windows}"
                flags = yaml.safe_load((REPO / "recipes" / "configs" / f"{name}.yaml").read_text())
                assert (flags["dataset"], flags["labels"]) == (corpus, f"{count}class")
                assert ("window_seconds" in flags) == bool(windows) != ("trim_db" in flags)


def test_plot_draws_a_file(folder, tmp_path, capsys):
    assert console(["plot", str(folder / "s0_3.wav"), "--out", str(tmp_path / "clip.png"), "--n_mels", "40"]) == 0
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG") and "written" in capsys.readouterr().out
    assert console(["plot", str(folder / "none.wav"), "--out", str(tmp_path / "x.png")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "x.png")
    speaker_mean = SerSpectrogramFeatureExtractor(n_mels=20, n_mfcc=12, mean_spectrum=[-40.0] * 20)
    speaker_mean.save_pretrained(tmp_path / "model")
    flags = ("--model", str(tmp_path / "model"), "--out", str(tmp_path / "model.png"))
    assert console(["plot", str(folder / "s0_3.wav"), *flags]) == 0
    for flags, error in (
        (("--out", str(tmp_path)), f"--out {tmp_path}: is a folder"),
        (("--trim_db", "0", "--out", str(tmp_path / "y.png")), "--trim_db: 0: must be above 0"),
    ):
        assert console(["plot", str(folder / "s0_3.wav"), *flags]) == 2
        assert error in (line := capsys.readouterr().err) and line.count("\n") == 1


def test_a_store_in_a_worker_opens_its_own_files(folder, own_store):
    import pickle

    rows = load_corpus(str(folder))
    extractor = SerSpectrogramFeatureExtractor(n_mels=20, trim_db=None)
    collator = collators_of(extractor, {"train": rows})[1]["eval_collator"]
    other = pickle.loads(pickle.dumps(collator))
    assert isinstance(other.store, Store)
    assert torch.equal(other([rows[3]])["input_features"], collator([rows[3]])["input_features"])
