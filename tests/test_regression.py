"""recipes/wav2vec2_reg.py: values and labels through the command line, and a loss that is not a sum kept exact."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, TrainingArguments

from conftest import TINY, run_recipe, tiny_flags
from ser_hf.training.losses import LOSSES, Loss

SHORT = ("--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps")
SHORT += ("--save_steps", "2")


def vad(fake_corpus, out, *flags: str) -> list[str]:
    data = ["--dataset", "iemocap", "--data_dir", str(fake_corpus("iemocap")), "--labels", "vad"]
    return [*data, *tiny_flags(), *SHORT, "--output_dir", str(out), "--batch_seconds", "8", *flags]


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_is_the_same_in_one_batch_and_accumulated(kind, tmp_path):
    """One update of plain gradient descent over four clips: as one batch, and as two accumulated ones."""
    from datasets import Dataset

    from ser_hf.models import SerConfig, SerForAudioClassification
    from ser_hf.training.trainer import SerTrainer

    problem_type = LOSSES[kind].problem_type
    rng = np.random.default_rng(0)
    classes = problem_type == "single_label_classification"
    labels = [0, 1, 2, 0] if classes else (rng.random((4, 3)) > 0.5).astype(np.float32).tolist()
    rows = {"id": list("abcd"), "audio": [{"path": str(i)} for i in range(4)], "label": labels, "duration": [1.0] * 4}
    clips = {str(i): torch.from_numpy(rng.normal(size=4000 + 800 * i).astype(np.float32)) for i in range(4)}

    def collate(batch):
        length = max(len(clips[row["audio"]["path"]]) for row in batch)
        values, mask = torch.zeros(len(batch), length), torch.zeros(len(batch), length, dtype=torch.long)
        for i, row in enumerate(batch):
            clip = clips[row["audio"]["path"]]
            values[i, : len(clip)], mask[i, : len(clip)] = clip, 1
        return {"input_values": values, "attention_mask": mask, "labels": torch.tensor([row["label"] for row in batch])}

    collate.columns = ("audio", "label")

    weights = torch.tensor([1.0, 2.0, 0.5]) if problem_type != "regression" else None
    results = []
    for size, steps in ((4, 1), (2, 2)):
        torch.manual_seed(0)
        audio = AutoConfig.for_model("wav2vec2", **{**TINY, "hidden_dropout": 0.0})
        model = SerForAudioClassification(SerConfig(audio_config=audio, num_labels=3, problem_type=problem_type))
        training = TrainingArguments(
            output_dir=str(tmp_path / kind), per_device_train_batch_size=size, gradient_accumulation_steps=steps,
            max_steps=1, learning_rate=0.5, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
            use_cpu=True, disable_tqdm=True, save_strategy="no", remove_unused_columns=False, logging_steps=1,
        )  # fmt: skip
        trainer = SerTrainer(
            model=model, args=training, train_dataset=Dataset.from_dict(rows), data_collator=collate,
            loss=Loss(problem_type, kind, weights),
        )  # fmt: skip
        trainer.train()
        logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        results.append((logged, {name: value.clone() for name, value in model.state_dict().items()}))
    (loss, whole), (accumulated_loss, accumulated) = results
    assert loss == pytest.approx(accumulated_loss, abs=1e-5)
    torch.manual_seed(0)
    moved = max(float((whole[name] - accumulated[name]).abs().max()) for name in whole)
    assert moved < 1e-5, kind


@pytest.mark.slow
def test_values_through_the_command_line(fake_corpus, tmp_path):
    """With the loss that is not a sum, two processes are one with two accumulation steps; the pipeline keeps order."""
    one = run_recipe(
        "wav2vec2_reg", *vad(fake_corpus, tmp_path / "one", "--loss", "ccc", "--gradient_accumulation_steps", "2")
    )
    assert one.returncode == 0, one.stderr[-3000:]
    flags = vad(fake_corpus, tmp_path / "two", "--loss", "ccc", "--thresholds", "3", "3.5")
    two = run_recipe("wav2vec2_reg", *flags, processes=2)
    assert two.returncode == 0, two.stderr[-3000:]
    a, b = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    for name in a:
        assert (a[name] - b[name]).abs().max() < 1e-5, name

    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert results["corpus"]["label_names"] == ["valence", "arousal", "dominance"]
    assert set(results["test"]["thresholds"]) == {"3.0", "3.5"} and "present at 3.5 and above" in two.stdout
    table = pd.read_parquet(tmp_path / "two" / "predictions.parquet")
    error = (table["score_valence"] - table["label_valence"]).abs().mean()
    assert results["test"]["per_value"]["valence"]["mae"] == pytest.approx(error, abs=1e-5)
    assert (tmp_path / "two" / "figures" / "scatter.png").exists()

    from transformers import pipeline

    classify = pipeline("audio-classification", model=str(tmp_path / "two"))
    clip = {"array": np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32), "sampling_rate": 16000}
    answer = {entry["label"]: entry["score"] for entry in classify(clip, top_k=None)}
    assert set(answer) == {"valence", "arousal", "dominance"}
    model = classify.model
    with torch.no_grad():
        inputs = classify.feature_extractor(clip["array"], sampling_rate=16000, return_tensors="pt")
        raw = model(**inputs).logits[0]
    for index, name in model.config.id2label.items():
        assert answer[name] == pytest.approx(float(raw[index]), abs=1e-5)  # raw: no softmax


def test_labels_through_the_command_line(fake_corpus, tmp_path):
    data = ("--dataset", "cmu_mosei", "--data_dir", str(fake_corpus("cmu_mosei")), "--labels", "emotions_multi_label")
    flags = (*data, *tiny_flags(), *SHORT, "--class_weights", "balanced", "--output_dir", str(tmp_path / "out"))
    done = run_recipe("wav2vec2_reg", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["thresholds"] == results["test"]["decision_thresholds"]
    assert set(config["thresholds"]) == set(results["corpus"]["label_names"])


@pytest.mark.parametrize(
    "recipe, labels, message",
    [
        ("wav2vec2_reg", "4class", "of the kind single_label_classification: choose --labels vad"),
        ("wav2vec2_cls", "vad", "of the kind regression: choose --labels 4class or 3class or 3class_sad or full"),
    ],
)
def test_labels_of_another_kind_are_refused(recipe, labels, message, fake_corpus, tmp_path):
    flags = vad(fake_corpus, tmp_path / "out")
    flags[flags.index("vad")] = labels
    done = run_recipe(recipe, *flags)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "out").exists()
