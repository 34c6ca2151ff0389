"""`--report_to`: TensorBoard, W&B (offline) and Trackio get a run's configuration, all metrics by their names, figures,
tables and files; and nothing of this machine.

python -m pytest tests/test_tracking.py
"""

import json
import os
import re
from types import SimpleNamespace

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from test_pipeline import make
from test_report import results_of as example_results
from transformers import AutoModel, TrainerCallback, TrainerControl, TrainerState, Wav2Vec2FeatureExtractor
from transformers.trainer_callback import CallbackHandler

from conftest import run_recipe, settings_of, tiny_config
from ser_hf import SerError
from ser_hf.files import local_path
from ser_hf.training import trackers
from ser_hf.training.saved_model import forget_paths


def test_the_configuration_names_no_path(tmp_path):
    flags = ("--dataset", "demo", "--model_type", "wav2vec2", "--output_dir", str(tmp_path), "--run_name", "anna's")
    config = settings_of("wav2vec2_cls", *flags, "--hub_token", "hf_secret").training.to_dict()
    assert config["learning_rate"] == 3e-5 and config["num_train_epochs"] == 15
    assert not {"output_dir", "hub_token", "run_name", "trackio_space_id"} & config.keys()
    assert local_path(json.dumps(config)) is None


def test_configurations_of_a_model_forget_their_checkpoints():
    model = make()
    model.config._name_or_path = model.config.audio_config._name_or_path = "/data/anna/checkpoint"
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert "/data/anna" in str(adapted.peft_config) + json.dumps(adapted.config.to_dict())
    forget_paths(adapted)
    assert "/data/anna" not in str(adapted.peft_config) + json.dumps(adapted.config.to_dict())


def test_files_that_would_name_a_path_stay_here(tmp_path, monkeypatch, capsys):
    logged = {}
    handler = SimpleNamespace(callbacks=[trackers.Tracker(object())])
    trainer = SimpleNamespace(callback_handler=handler, log=logged.update, args=SimpleNamespace(run_name="x"))

    def refuse(*_):
        raise SerError("README.md names the local path /data/anna: not pushed")

    monkeypatch.setattr(trackers, "published", refuse)
    monkeypatch.setattr(trackers, "TRACKERS", {object: None})
    results, _ = example_results()
    trackers.track(trainer, tmp_path, results)
    assert logged["test_uar"] == results["test"]["metrics"]["uar"]
    assert "figures and files are not tracked, README.md names the local path" in capsys.readouterr().err


class Broken(TrainerCallback):
    def __init__(self, event: str):
        self.event, self.calls = event, []

    def on_train_begin(self, *args, **kwargs):
        self.calls.append("on_train_begin")
        if self.event in self.calls:
            raise ConnectionError("the server\nis gone")

    def on_log(self, *args, **kwargs):
        self.calls.append("on_log")
        if self.event in self.calls:
            raise KeyError("uar")


def test_a_tracker_that_fails_ends_a_run_at_its_start_alone(capsys):
    def started(tracker: trackers.Tracker) -> CallbackHandler:
        handler = CallbackHandler([tracker], None, None, None, None)
        handler.on_train_begin(None, TrainerState(), TrainerControl())
        return handler

    with pytest.raises(SerError, match="--report_to broken: cannot start .the server is gone.; mend that, or leave"):
        started(trackers.Tracker(Broken("on_train_begin")))
    tracker = trackers.Tracker(Broken("on_log"))
    handler = started(tracker)
    for _ in range(2):
        handler.on_log(None, TrainerState(), TrainerControl(), {"loss": 1.0})
    handler.on_predict(None, TrainerState(), TrainerControl(), {"test_uar": 1.0})
    tracker.give(lambda: 1 / 0, "end")
    assert tracker.callback.calls == ["on_train_begin", "on_log"]
    assert capsys.readouterr().err == "--report_to broken: failed and gets nothing more, the run goes on ('uar')\n"


def text_of(board, tag: str) -> str:
    return board.Tensors(tag)[0].tensor_proto.string_val[0].decode()


@pytest.mark.slow
def test_three_trackers_get_a_run(fake_corpus, tmp_path, monkeypatch):
    checkpoint, out = tmp_path / "anna" / "checkpoint", tmp_path / "run"
    AutoModel.from_config(tiny_config("wav2vec2")).save_pretrained(checkpoint)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(checkpoint)
    homes = {f"{name}_DIR": str(tmp_path / name.lower()) for name in ("WANDB", "TRACKIO", "WANDB_DATA", "WANDB_CACHE")}
    (tmp_path / "wandb").mkdir()
    done = run_recipe(
        *(
            "wav2vec2_cls",
            "--dataset",
            "emodb",
            "--data_dir",
            fake_corpus("emodb"),
            "--labels",
            "4class",
            "--fold",
            "1",
        ),
        *("--model_name_or_path", checkpoint, "--lora_r", "2", "--pooling", "max", "--learning_rate", "1e-3"),
        *("--max_steps", "2", "--use_cpu", "true", "--disable_tqdm", "true", "--config", "none"),
        *("--report_to", "tensorboard", "wandb", "trackio", "--output_dir", out),
        env={**os.environ, **homes, "WANDB_MODE": "offline"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((out / "results.json").read_text())
    metrics = {name: value for name, value in results["test"]["metrics"].items() if value is not None}
    data = {"corpus": "emodb", "labels": "4class", "protocol": results["protocol"]["name"], "fold": 1, "lora_r": 2}
    figures = {file.stem for file in (out / "figures").glob("*.png")}
    assert "confusion_matrix" in figures

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (out / "runs").iterdir()
    board = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    board.Reload()
    tags = board.Tags()
    assert {"eval/uar", "eval/loss", "train/train_loss"} <= {*tags["scalars"]}
    for name, value in metrics.items():
        assert board.Scalars(f"test/{name}")[-1].value == pytest.approx(value, abs=1e-6)
    assert set(tags["images"]) == {f"test/{name}" for name in figures}
    assert data.items() <= json.loads(text_of(board, "args/text_summary")).items()
    assert yaml.safe_load(text_of(board, "run.yaml/text_summary").strip("`\n"))["lora_r"] == 2
    assert "| angry " in text_of(board, "test/by_label/text_summary")

    monkeypatch.setenv("TRACKIO_DIR", homes["TRACKIO_DIR"])
    from trackio import sqlite_storage
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    (run,) = SQLiteStorage.get_runs("huggingface")  # one: the test's metrics are in the run of the training
    assert run.startswith("run 20") and data.items() <= SQLiteStorage.get_run_config("huggingface", run).items()
    logs = SQLiteStorage.get_logs("huggingface", run)
    merged = {name: value for entry in logs for name, value in entry.items()}
    assert {f"test/{name}": value for name, value in metrics.items()}.items() <= merged.items() and "eval/uar" in merged
    assert {f"test/{name}" for name in figures} <= merged.keys()
    assert [row["label"] for row in merged["test/by_label"]["_value"]] == results["corpus"]["label_names"]
    assert list((tmp_path / "trackio").rglob("blobs/sha256/*/*"))

    (log,) = (tmp_path / "wandb").rglob("run-*.wandb")
    raw = log.read_bytes()
    for name, value in metrics.items():  # field 16 of a history item is its value
        found = re.findall(rb"test/" + name.encode() + rb"\x82\x01.([\d.e-]+)", raw, re.DOTALL)
        assert found and all(float(one) == pytest.approx(value) for one in found), name  # validation is not called test
    for name, value in data.items():
        assert re.search(rb"\b" + name.encode() + rb"\b.{2,6}" + json.dumps(value).encode(), raw, re.DOTALL), name
    assert b"run.yaml" in raw and all(f"test/{name}".encode() in raw for name in figures)

    kept = [log, *folder.iterdir(), *(file for file in (tmp_path / "trackio").rglob("*") if file.is_file())]
    secrets = (str(checkpoint), str(fake_corpus("emodb")), str(out))
    assert not [(file.name, text) for file in kept for text in secrets if text.encode() in file.read_bytes()]
