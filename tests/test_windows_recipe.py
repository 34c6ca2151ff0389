"""Windows, augmentation and imbalance through the recipes: what is reported, and that randomness is reproducible."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import Wav2Vec2FeatureExtractor

from conftest import run_recipe, tiny_flags
from fakes import voice
from ser_hf import SerError
from ser_hf.data.augmentation import Augmentation
from ser_hf.data.batching import LengthBatchSampler, sampling_weights
from ser_hf.data.collators import SpeechCollator
from ser_hf.data.mixing import with_soft_labels
from ser_hf.data.windows import to_windows
from ser_hf.evaluation import metrics, scoring, tasks


def test_window_scores_to_utterances_by_hand():
    windows = Dataset.from_dict({"utterance": ["a", "a", "b"]})
    rows = Dataset.from_dict({"id": ["b", "a"]})
    logits = np.log(np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
    whole = scoring.utterance_logits(logits, windows, rows, "single_label_classification", "mean")
    assert np.allclose(tasks.softmax(whole), [[0.2, 0.8], [0.7, 0.3]])
    values = scoring.utterance_logits(np.array([[1.0], [3.0], [5.0]]), windows, rows, "regression", "mean")
    assert values.tolist() == [[5.0], [2.0]]
    with pytest.raises(ValueError, match="1 utterances have no window, first c"):
        missing = Dataset.from_dict({"id": ["c"]})
        scoring.utterance_logits(logits, windows, missing, "single_label_classification", "mean")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six speakers, clips of 0.5 to 1.1 s."""
    root = tmp_path_factory.mktemp("windows") / "calls"
    rows = []
    for speaker in range(6):
        for take in range(4):
            file = voice(root / f"s{speaker}_{take}.wav", 0.5 + 0.2 * take, seed=speaker * 10 + take)
            rows.append((file.name, ("angry", "neutral")[(take + speaker) % 2], f"s{speaker}"))
    pd.DataFrame(rows, columns=["file_name", "label", "speaker"]).to_csv(root / "metadata.csv", index=False)
    return root


SHORT = ("--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps")
SHORT += ("--save_steps", "2", "--save_total_limit", "5", "--batch_seconds", "3")


@pytest.mark.slow
def test_a_windowed_run_reports_windows_and_utterances(folder, tmp_path):
    out = ("--output_dir", str(tmp_path / "out"), "--window_seconds", "0.4", "--window_hop", "0.2")
    done = run_recipe("wav2vec2_cls", "--dataset", str(folder), *tiny_flags(), *SHORT, *out, "--combine", "attention")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    # clips of 0.5, 0.7, 0.9 and 1.1 s: windows begin every 0.2 s; the last, padded, begins before the clip's end
    per_speaker = results["test_windows"]["utterances"] / results["test"]["speakers"]
    assert per_speaker == 2 + 3 + 4 + 5
    assert results["test"]["utterances"] == results["splits"]["test"]["utterances"] == 4 * results["test"]["speakers"]
    assert "on windows," in done.stdout and results["windows"]["combine"] == "attention"
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert len(table) == results["test"]["utterances"] and not table["id"].str.contains("#").any()
    labels = [results["corpus"]["label_names"].index(word) for word in table["label"]]
    guesses = [results["corpus"]["label_names"].index(word) for word in table["prediction"]]
    assert metrics.classification_metrics(labels, guesses, 2)["uar"] == results["test"]["metrics"]["uar"]


AUGMENTED = ("--noise_p", "0.5", "--gain_p", "0.5", "--speed_p", "0.3", "--mixup_p", "0.5", "--max_seconds", "0.6")


@pytest.mark.slow
def test_augmented_runs_resume_exactly(folder, tmp_path):
    """What is drawn depends on seed, epoch and clip alone, so a resumed run is the unbroken one; so are two workers."""
    import shutil

    flags = ("--dataset", str(folder), *tiny_flags(), *SHORT, *AUGMENTED, "--sampling", "class")
    done = run_recipe("wav2vec2_cls", *flags, "--output_dir", str(tmp_path / "a"), "--draw_augmentation", "true")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "a" / "figures" / "augmentation.png").read_bytes().startswith(b"\x89PNG")
    shutil.copytree(tmp_path / "a" / "checkpoint-2", tmp_path / "b" / "checkpoint-2")
    resumed = ("--resume_from_checkpoint", "true", "--dataloader_num_workers", "1")
    done = run_recipe("wav2vec2_cls", *flags, "--output_dir", str(tmp_path / "b"), *resumed)
    assert done.returncode == 0, done.stderr[-3000:]
    a, b = (load_file(tmp_path / run / "model.safetensors") for run in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def rows(folder):
    return [
        {"id": file.stem, "audio": {"bytes": None, "path": str(file)}, "label": i % 2}
        for i, file in enumerate(sorted(folder.glob("*.wav"))[:4])
    ]


def test_collator_draws_by_seed_epoch_and_clip(folder):
    config = Augmentation(noise_p=1.0, mixup_p=1.0)
    extractor = Wav2Vec2FeatureExtractor()
    one, same = (SpeechCollator(extractor, augmentation=config, num_labels=2) for _ in range(2))
    first = one(rows(folder))
    assert torch.equal(first["input_values"], same(rows(folder))["input_values"])
    assert torch.allclose(first["labels"].sum(dim=1), torch.ones(4)) and first["labels"].shape == (4, 2)
    one.set_epoch(1)
    assert not torch.equal(first["input_values"], one(rows(folder))["input_values"])
    plain = SpeechCollator(extractor)(rows(folder))
    nothing = SpeechCollator(extractor, augmentation=Augmentation())(rows(folder))
    assert torch.equal(plain["input_values"], nothing["input_values"])


def test_collator_cuts_windows_and_trims(folder):
    table = Dataset.from_dict({"id": ["x"], "audio": [rows(folder)[3]["audio"]], "label": [0], "duration": [1.1]})
    window = to_windows(table, 0.4, 0.2)[1]
    collator = SpeechCollator(Wav2Vec2FeatureExtractor(do_normalize=False))
    whole, part = collator([dict(table[0])])["input_values"][0], collator([window])["input_values"][0]
    assert (window["window_start"], window["window_end"]) == (0.2, 0.6)
    assert torch.equal(part, whole[3200:9600])
    short = SpeechCollator(Wav2Vec2FeatureExtractor(), max_seconds=0.25)(rows(folder))
    assert short["input_values"].shape[1] == 4000 and "attention_mask" not in short
    longer = SpeechCollator(Wav2Vec2FeatureExtractor(), min_seconds=2.0)(rows(folder))
    assert longer["input_values"].shape[1] == 32000


def test_balanced_sampling_draws_classes_equally():
    labels = np.array([0] * 90 + [1] * 10)
    durations = np.linspace(1, 3, 100)
    sampler = LengthBatchSampler(durations, 12.0, weights=sampling_weights(labels))
    drawn = []
    for epoch in range(40):
        batches = sampler.batches(epoch)
        assert len(batches) == len(sampler)
        assert all(durations[b].max() * len(b) <= 12.0 for b in batches)
        drawn += labels[np.concatenate(batches)].tolist()
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)


def test_soft_labels_are_votes():
    train = Dataset.from_dict({"votes": [[3.0, 1.0], None, [0.0, 0.0]], "label": [0, 1, 0]})
    assert with_soft_labels(train, 2)["label"][:] == [[0.75, 0.25], [0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(SerError, match="have no votes"):
        with_soft_labels(train.remove_columns("votes"), 2)
