"""The training step: its gradients do not depend on the batches, and nothing in it waits for the device."""

import copy
import gzip
import json
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from datasets import Dataset
from torch.fx.experimental import _config
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainingArguments

import ser_hf
from conftest import tiny_config
from ser_hf.data.collators import SpeechCollator
from ser_hf.errors import SerError
from ser_hf.models import SerConfig, SerForAudioClassification
from ser_hf.models.encoders import describe_audio
from ser_hf.training import run
from ser_hf.training.losses import Loss
from ser_hf.training.settings import LoopArguments
from ser_hf.training.trainer import Profile, SerTrainer

PACKAGES = tuple(str(Path(one.__file__).parent) for one in (ser_hf, transformers))  # not a clone's folder ser_hf

CLIPS = 14
META = torch.device("meta")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Dataset:
    """Clips of 0.4 to 2 s of three classes."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    seconds = np.linspace(0.4, 2.0, CLIPS).round(2)
    for i, length in enumerate(seconds):
        sf.write(folder / f"{i}.wav", rng.normal(0, 0.1, round(length * 16000)), 16000)
    audio = [{"bytes": None, "path": str(folder / f"{i}.wav")} for i in range(CLIPS)]
    ids, labels = [str(i) for i in range(CLIPS)], [int(i) for i in rng.integers(0, 3, CLIPS)]
    return Dataset.from_dict({"id": ids, "audio": audio, "label": labels, "duration": seconds})


def trainer_of(rows: Dataset, out: Path, *, kind="wav2vec2", budget=None, loss=None, model=None, encoder=None, **given):
    """A trainer of the smallest encoder of a kind, quiet, by plain gradient descent; `model` and `encoder` are changes
    to their configurations, `given` are TrainingArguments."""
    torch.manual_seed(0)
    config = tiny_config(kind, **(encoder or {}))
    training = {"optim": "sgd", "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none"}
    training |= {"use_cpu": True, "disable_tqdm": True, "logging_nan_inf_filter": False, "logging_strategy": "no"}
    return SerTrainer(
        model=SerForAudioClassification(SerConfig(audio_config=config, num_labels=3, **(model or {}))),
        args=TrainingArguments(str(out), remove_unused_columns=False, **(training | given)),
        train_dataset=rows,
        eval_dataset=rows.select(range(2)),
        data_collator=SpeechCollator(describe_audio(config).new_extractor(config, False)),
        budget=budget,
        loss=loss,
    )


@pytest.mark.parametrize(
    ("length", "shares"), [({"num_train_epochs": 4}, [0, 0.25, 0.5, 0.75]), ({"max_steps": 5}, [0, 0.4, 0.8])]
)
def test_the_collator_knows_what_share_of_the_training_has_passed(length, shares, rows, tmp_path):
    """14 clips are four batches of up to four, and two updates of two."""
    trainer = trainer_of(rows, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, **length)
    trainer.data_collator, passed = copy.copy(trainer.data_collator), []
    trainer.data_collator.set_epoch = lambda epoch, share: passed.append((epoch, share))
    trainer.train()
    assert passed == list(enumerate(shares))


class Gradients(TrainerCallback):
    """Those of each update, `(parameters,)`."""

    def __init__(self):
        self.updates = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.updates.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]))


def test_gradients_of_two_epochs_are_those_of_batches_of_one(rows, tmp_path):
    """An update an epoch, the second after a step by the first; the loss is weighted, and batches differ in size."""
    loss, found = Loss(weights=torch.tensor([1.0, 2.0, 0.5])), []
    for budget in (4.0, None):
        trainer = trainer_of(rows, tmp_path, budget=budget, loss=loss, per_device_train_batch_size=1)
        sizes = [len(batch) for batch in trainer.get_train_dataloader().batch_sampler]
        assert sum(sizes) == CLIPS and (len({*sizes}) > 2 if budget else {*sizes} == {1})
        given = {"gradient_accumulation_steps": len(sizes), "num_train_epochs": 2, "learning_rate": 0.1}
        trainer = trainer_of(
            rows, tmp_path, budget=budget, loss=loss, per_device_train_batch_size=1, max_grad_norm=0.0, **given
        )
        trainer.add_callback(gradients := Gradients())
        trainer.train()
        found.append(torch.stack(gradients.updates))
    budgets, ones = found
    assert budgets.shape == ones.shape and len(ones) == 2 and (ones[0] - ones[1]).abs().max() > 1e-3
    print(f"largest gradient {ones.abs().max():.2g}, apart {(budgets - ones).abs().max():.1e}")
    assert (budgets - ones).abs().max() <= 1e-5


class Waits(TorchDispatchMode):
    """Notes what would wait for a device, which is torch's `meta` here: a number, a truth value, a list or a copy for
    the CPU, and shapes that depend on values. As `file: line of code` of the innermost frame of these packages."""

    SIZED = ("aten.nonzero.", "aten.masked_select.", "aten.unique", "aten.repeat_interleave.Tensor")

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, to = str(function), (kwargs or {}).get("device")
        of_device = any(getattr(one, "device", None) == META for one in args)
        indices = args[1] if name.startswith(("aten.index.Tensor", "aten.index_put")) else ()
        fetched = name.startswith("aten._to_copy.") and to is not None and torch.device(to) != META
        filled = "put" in name and args[2].numel() == 1  # torch fills a mask with one number without its shape
        masked = not filled and any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in indices)
        number = name.startswith("aten._local_scalar_dense.")
        if of_device and (number or fetched or masked or name.startswith(self.SIZED)):
            frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGES)]
            self.found.add(f"{Path(frames[-1].filename).name}: {frames[-1].line}")
            if number:
                return True if args[0].dtype == torch.bool else 1
            if fetched:
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return function(*args, **(kwargs or {}))


MASK = "masking_utils.py: and (padding_mask is None or padding_mask.all())"  # is anything padded?
END = "trainer.py: self._total_loss_scalar += self._tr_loss.item()"  # after the last step
SPEC_AUGMENT = {  # transformers draws its masks by NumPy, for which it asks how long each clip is
    "modeling_wav2vec2.py: attention_mask.detach().sum(-1).tolist()",
    "modeling_wav2vec2.py: hidden_states[mask_time_indices] = self.masked_spec_embed.to(hidden_states.dtype)",
    "trainer.py: self.accelerator.backward(loss, **kwargs)",  # of the line before
}
CCC = {"loss": Loss("regression", "ccc"), "model": {"problem_type": "regression"}}


@pytest.mark.parametrize(
    ("given", "theirs"),
    [
        ({"model": {"pooling": "attentive", "layer_mix": "sum"}, "loss": Loss(weights=torch.ones(3))}, {MASK, END}),
        ({"kind": "whisper", "model": {"head": "mlp"}}, {MASK, END}),
        (CCC, {MASK, END}),
        ({"encoder": {"apply_spec_augment": True, "mask_time_length": 2}}, {MASK, END, *SPEC_AUGMENT}),
    ],
)
def test_no_line_of_ours_waits_for_the_device(given, theirs, rows, tmp_path, monkeypatch):
    if "model" in given and given["model"].get("problem_type"):
        rows = rows.map(lambda row: {"label": [float(row["label"])] * 3}, remove_columns="label")
    training = {"max_steps": 2, "gradient_accumulation_steps": 2, "optim": "adamw_torch"}
    trainer = trainer_of(rows, tmp_path, budget=4.0, **training, **given)
    trainer.model.to(META)
    vars(trainer.args)["_setup_devices"] = META
    monkeypatch.setattr(trainer.accelerator.state, "device", META)
    with _config.patch(meta_nonzero_assume_all_nonzero=True), Waits() as waits:  # else masks have no shape there
        trainer.train()
    assert trainer.state.global_step == 2 and waits.found == theirs


def test_training_says_its_pace(rows, tmp_path, monkeypatch):
    """Seconds of audio over the seconds of training, without those of an evaluation; padded over real seconds."""
    given = {"logging_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": 2}
    trainer = trainer_of(rows, tmp_path, budget=4.0, **given)
    loop, step, now = SerTrainer.evaluation_loop, SerTrainer.training_step, [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: now[0])

    def taking(seconds: float, method):
        def timed(*args, **kwargs):
            now[0] += seconds
            return method(*args, **kwargs)

        return timed

    monkeypatch.setattr(SerTrainer, "evaluation_loop", taking(100.0, loop))
    monkeypatch.setattr(SerTrainer, "training_step", taking(2.0, step))
    trained = run.train(trainer, LoopArguments())
    sampler = trainer.get_train_dataloader().batch_sampler
    steps = trainer.state.global_step
    assert trained["audio_seconds_per_second"] == pytest.approx(
        sum(rows["duration"]) / steps, abs=0.05
    )  # 2 epochs, 2 s
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    seconds, padded = np.array(rows["duration"]), []
    for epoch, log in enumerate(logs):
        batches = sampler.batches(epoch)
        padded.append(sum(seconds[batch].max() * len(batch) for batch in batches) / seconds.sum())
        assert log["audio_seconds_per_second"] == pytest.approx(seconds.sum() / (2.0 * len(batches)), abs=0.05)
        assert log["padding_factor"] == pytest.approx(padded[-1], abs=5e-4) and padded[-1] > 1.01
    assert [log["seconds_left"] for log in logs] == [2 * len(batches), 0] and len(logs) == 2
    assert trainer.padding_factor == pytest.approx(np.mean(padded), abs=5e-4)


def test_a_profile_is_a_trace_of_three_steps(rows, tmp_path, capsys):
    """Of the fourth to the sixth step; fewer where an epoch or the training ends, none where nothing is left."""

    def steps_in(given: dict) -> tuple[int, int]:
        trainer = trainer_of(rows, tmp_path, budget=4.0, **given)
        run.train(trainer, LoopArguments(profile=True))
        assert "profile.json.gz: open it in https://ui.perfetto.dev" in capsys.readouterr().out
        events = json.loads(gzip.decompress((tmp_path / "profile.json.gz").read_bytes()))["traceEvents"]
        whole = [event["name"] for event in events if event["ph"] == "X" and event["dur"] >= 0 and event["ts"] > 0]
        return sum("Optimizer.step#SGD" in name for name in whole), sum("DataLoader" in name for name in whole)

    assert steps_in({"num_train_epochs": 2}) == (3, 2)  # of eight; the first batch was read before
    assert steps_in({"max_steps": 2}) == (2, 1)
    assert steps_in({"num_train_epochs": 3, "gradient_accumulation_steps": 4}) == (1, 0)  # of three, one an epoch
    trainer = trainer_of(rows, tmp_path, budget=4.0, max_steps=2)
    trainer.state.max_steps = trainer.state.global_step = 2
    with pytest.raises(SerError, match="--profile true: all 2 steps are trained already"):
        Profile(tmp_path / "x").on_train_begin(trainer.args, trainer.state, trainer.control)


@pytest.mark.slow
def test_a_training_imports_no_classifiers_before_its_first_step():
    """scikit-learn and SciPy's statistics take half of what a recipe's start takes over a bare Trainer's."""
    modules = (
        "run trainer audio_model encoder_states fusion_model hub lora losses schedule spectrogram_model text_model"
    )
    names = [f"ser_hf.training.{name}" for name in modules.split()] + [
        "ser_hf.evaluation.scoring",
        "ser_hf.data.mixing",
    ]
    code = f"import sys, {', '.join(names)}; print({{'sklearn', 'scipy.stats'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
