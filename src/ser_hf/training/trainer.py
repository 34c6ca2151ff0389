"""The Trainer with batches by seconds of audio, an exactly normalised loss, and results in dataset order."""

import gc
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import profile
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, denumpify_detensorize

from ..data.audio import seconds_read
from ..data.batching import LengthBatchSampler, evaluation_batches
from ..data.collators import encoder_input
from ..data.columns import select_present
from ..data.trimming import trimmed_durations
from ..errors import SerError
from .encoder_states import StateCollator
from .losses import Loss
from .output import RECORD, complete, rotate, seal
from .run import changed
from .saved_model import forget_paths
from .schedule import by_rate
from .settings import ClipArguments
from .trackers import Tracker, is_tracker

logger = logging.getLogger("ser_hf")
NOT_READ = ("labels", "repeated", "read")  # what of a batch is no input of the model


@contextmanager
def _unchanged(model: torch.nn.Module):
    """Undo what a forward in training changes: torch's generators (dropout), NumPy's (transformers' SpecAugment), and
    running statistics."""
    state, statistics = np.random.get_state(), running_statistics(model)
    before = [one.clone() for one, _ in statistics]
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        yield
    np.random.set_state(state)
    for (one, _), old in zip(statistics, before, strict=True):
        one.copy_(old)


def running_statistics(model: torch.nn.Module) -> list[tuple[torch.Tensor, float]]:
    """The running statistics that a model's batch norms update in training, and the share of the old value that a batch
    keeps: `(buffer, share)`. Batch norms in evaluation mode update nothing."""
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.training and one.track_running_stats]
    shares = [(norm, 1 - norm.momentum) for norm in norms]
    moments = [(buffer, share) for norm, share in shares for buffer in (norm.running_mean, norm.running_var)]
    return moments + [(norm.num_batches_tracked, 1.0) for norm in norms]


def in_turn(before: torch.Tensor, ranks: torch.Tensor, shares: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Running statistics `(numbers,)` as if one process had seen the batches of all ranks in turn. `before` are those
    before the update, `ranks` those of each rank after its own batch `(ranks, numbers)`, which may be `counted`
    `(ranks,)` or not.

    A batch turns `r` into `share * r + x`; a rank's `x` is its result minus `share * before`.

    >>> ranks = torch.tensor([[0.5 + 2.0], [0.5 + 4.0]])
    >>> in_turn(torch.tensor([1.0]), ranks, torch.tensor([0.5]), torch.tensor([True, True]))  # (.5 + 2) / 2 + 4
    tensor([5.2500])
    """
    running = before
    for own, counts in zip(ranks, counted, strict=True):
        running = torch.where(counts, shares * running + (own - shares * before), running)
    return running


@dataclass(frozen=True)
class _Rows:
    """A dataset by row numbers; those of a batch that is repeated and must not count are negative. Rows have their
    `length`, where lengths are given."""

    dataset: Dataset | list[dict]
    lengths: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, numbers: list[int]) -> list[dict]:
        plain = [number % len(self.dataset) for number in numbers]
        rows = [self.dataset[i] for i in plain] if isinstance(self.dataset, list) else self.dataset.__getitems__(plain)
        if self.lengths is not None:
            rows = [row | {"length": float(self.lengths[number])} for row, number in zip(rows, numbers, strict=True)]
        return [row | {"repeated": True} for row in rows] if numbers[0] < 0 else rows


@dataclass(frozen=True)
class _Collate:
    """A collator whose batches are compact where it can make such, and say whether they are `repeated`, and in training
    the sum of their rows' lengths before and after padding (`read`); a class, because workers must pickle it."""

    collator: Callable

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        more: dict[str, Any] = {"repeated": torch.tensor(True)} if rows[0].get("repeated") else {}
        if lengths := [row["length"] for row in rows if "length" in row]:
            more["read"] = sum(lengths), max(lengths) * len(lengths)
        return getattr(self.collator, "compact", self.collator)(rows) | more


def _counted(lengths: np.ndarray) -> np.ndarray:
    """Lengths as they count in a budget: a row of text alone is not free, else all would be one batch."""
    return np.where(lengths > 0, lengths, 0.5)


class _Loader(DataLoader):
    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer for training loaders."""
        self.batch_sampler.set_epoch(epoch)


def _no_training(method: Callable) -> Callable:
    """A method of `SerTrainer` whose time does not count in the pace of training."""

    @wraps(method)
    def timed(self, *args, **kwargs):
        started = time.perf_counter()
        try:
            return method(self, *args, **kwargs)
        finally:
            spent = time.perf_counter() - started
            self._since, self._began = self._since + spent, self._began + spent

    return timed


class Profile(TrainerCallback):
    """Writes a trace of three steps, the fourth to the sixth of a training if it has as many, by torch's profiler to
    `file`, which https://ui.perfetto.dev opens. It ends with their epoch, before evaluation. The main process does.
    Raises SerError: there is nothing left to train."""

    def __init__(self, file: Path):
        self.file, self.first, self.profiler = file, 0, None

    def on_train_begin(self, args, state, control, **kwargs):
        left = state.max_steps - state.global_step
        if left < 1:
            raise SerError(f"--profile true: all {state.max_steps} steps are trained already; leave it out")
        self.first = state.global_step + max(0, min(3, left - 3))

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.first and state.is_world_process_zero:
            os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # no lines of its own
            self.profiler = profile(record_shapes=True)
            self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.first + 3:
            self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler.export_chrome_trace(str(self.file))
            self.profiler = None


class SerTrainer(Trainer):
    """Trainer over datasets with a column `label`, one of lengths, and the `columns` of its collators.

    Loaders are made here and not by accelerate, which repeats clips to complete the last batch: every clip is trained
    on once per epoch and scored exactly once, by any number of processes.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the weight of the whole accumulated batch

    def __init__(
        self,
        *args,
        budget: float | None = None,  # padded length of a device's batch; None: `per_device_train_batch_size` rows
        length: str = "duration",  # the column of lengths: `duration` in seconds, or `tokens`
        clips: ClipArguments | None = None,  # how much of a clip the collators read; None: all of it
        loss: Loss | None = None,
        eval_collator: Callable | None = None,  # `data_collator` if None
        exact_evaluation: bool = False,  # no padding in evaluation (`batching.evaluation_batches`)
        sampling: np.ndarray | None = None,  # weights of training clips (`sampling_weights`); None draws each once
        one_cycle: bool = False,  # torch's OneCycleLR (Smith 2018) that peaks at `learning_rate`, with its momentum
        rate_of: Callable[[str], float] | None = None,  # a parameter's name to its rate; None: all at `learning_rate`
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if self.args.report_to:
            forget_paths(self.model)
            handler = self.callback_handler
            handler.callbacks = [Tracker(one) if is_tracker(one) else one for one in handler.callbacks]
        self.save_total_limit = self.args.save_total_limit
        self.args = changed(self.args, save_total_limit=None)  # `_save_checkpoint` removes older checkpoints itself
        self.budget, self.length, self.clips, self.loss = budget, length, clips or ClipArguments(), loss or Loss()
        self._update = None  # all logits and labels of the running update, where the loss needs them together
        self.eval_collator = eval_collator or self.data_collator
        self.exact_evaluation, self.sampling = exact_evaluation, sampling
        self.one_cycle, self.rate_of = one_cycle, rate_of
        self._start_clock()

    def free(self) -> None:
        """Free the wrapped model before the process group ends: DDP's destructor would wait forever for gloo."""
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        gc.collect()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As in `Trainer`, without its pickle of the arguments: nothing reads it, and a token would be in it."""
        super()._save(output_dir, state_dict)
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def end(self) -> None:
        """As in `Trainer`, once, at the end of a recipe."""
        self.free()
        super().end()

    # ---- data

    def _loader(
        self,
        dataset: Dataset,
        batch_sampler: Iterable[list[int]],
        collator: Callable,
        lengths: np.ndarray | None = None,  # what `_Rows` has
    ) -> DataLoader:
        workers, rows = self.args.dataloader_num_workers, select_present(dataset, collator.columns)
        return _Loader(
            _Rows(rows.to_list() if isinstance(collator, StateCollator) else rows, lengths),  # Arrow is slow for a head
            batch_sampler=batch_sampler,
            collate_fn=_Collate(collator),
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            # workers are made anew each epoch: they hold a copy of the collator, which must know the epoch
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )

    @property
    def trim_db(self) -> float | None:
        """The dB of trimming, by the flags or the feature extractor; None without trimming."""
        extractor = getattr(self.processing_class, "feature_extractor", self.processing_class)
        return getattr(extractor, "trim_db", None) if self.clips.trim_db is None else self.clips.trim_db

    def lengths_read(self, rows: Dataset) -> np.ndarray:
        """The length of each row that is read: tokens, or seconds, 0 for a row of text alone."""
        if self.length != "duration":
            return np.array(rows[self.length][:])
        with self.accelerator.local_main_process_first():  # the others find trimmed lengths in the cache
            durations = trimmed_durations(rows, self.trim_db)
        return seconds_read(durations, self.clips.min_seconds, self.clips.max_seconds)

    def lengths(self, rows: Dataset) -> np.ndarray:
        """The length of each row that counts in a budget."""
        return _counted(self.lengths_read(rows))

    def get_train_dataloader(self) -> DataLoader:
        def set_epoch(epoch: int) -> None:
            steps = -(-len(sampler) // self.args.gradient_accumulation_steps)
            self.data_collator.set_epoch(epoch, epoch * steps / max(1, self.state.max_steps))

        read = self.lengths_read(self.train_dataset)
        sampler = LengthBatchSampler(
            _counted(read),
            seconds=self.budget,
            count=self.args.per_device_train_batch_size,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            weights=self.sampling,
            on_epoch=set_epoch if hasattr(self.data_collator, "set_epoch") else None,
        )
        return self._loader(self.train_dataset, sampler, self.data_collator, read)

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        """This rank's share of the evaluation batches. A rank with one batch less repeats one, which is not counted: a
        sharded model waits for the forwards of all ranks."""
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        lengths, count = self.lengths(dataset), self.args.per_device_eval_batch_size
        batches = evaluation_batches(lengths, self.budget, count, exact=self.exact_evaluation)
        if self.exact_evaluation and self.trim_db is not None:
            batches = [np.array([row]) for batch in batches for row in batch]  # trimmed lengths are no longer equal
        last, world = len(batches) - 1, self.args.world_size
        numbers = [first + self.args.process_index for first in range(0, len(batches), world)]
        loader = self._loader(dataset, [batches[min(n, last)].tolist() for n in numbers], self.eval_collator)
        loader.counted = [n <= last for n in numbers]
        return loader

    get_test_dataloader = get_eval_dataloader

    def _prepare_inputs(self, inputs: dict) -> dict:
        """As in `Trainer`; compact batches become the encoder's input on the device, before DeepSpeed's rounding."""
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        moved = {name: value.to(self.args.device) for name, value in tensors.items()}
        return super()._prepare_inputs(encoder_input({**inputs, **moved}))

    # ---- optimisation

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new and self.rate_of is not None:
            names = {parameter: name for name, parameter in (model or self.model).named_parameters()}
            rates = {parameter: self.rate_of(names[parameter]) for parameter in names if parameter.requires_grad}
            optimizer.param_groups = by_rate(optimizer.param_groups, rates, self.args.learning_rate)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if not self.one_cycle or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer = optimizer or self.optimizer
        rates = [group["lr"] for group in optimizer.param_groups]
        self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=num_training_steps)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- checkpoints

    @_no_training
    def _load_best_model(self) -> None:
        super()._load_best_model()

    @_no_training
    def _save_checkpoint(self, model, trial) -> None:
        """As in `Trainer`, and seal the checkpoint once all processes have written it; only then is an older one
        removed. The best and the last stay, also at the end: a finished run can be trained on."""
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (checkpoint / RECORD).unlink(missing_ok=True)  # of an earlier training that went on from here
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(checkpoint)
            rotate(checkpoint, self.state.best_model_checkpoint, self.save_total_limit)

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        """As in `Trainer`, but the best checkpoint so far is looked for where the run is now; if it is gone, the best
        of those to come is selected."""
        self._start_clock()
        begun = super()._init_training_state(*args, **kwargs)
        if self.state.best_global_step and not self.state.best_model_checkpoint:
            best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
            if complete(best):
                self.state.best_model_checkpoint = str(best)
            else:
                logger.warning(f"{best}, the best so far, is gone: the best of the checkpoints to come is selected")
                self.state.best_metric = self.state.best_global_step = None
        return begun

    # ---- pace and divergence

    @_no_training
    def _evaluate(self, *args, **kwargs) -> dict[str, float]:
        return super()._evaluate(*args, **kwargs)

    def _start_clock(self) -> None:
        # Lengths before and after padding, by this rank: so far, and until the last log.
        self._read = self._logged = np.zeros(2)
        # When the last log and the training were, moved by what was no training since.
        self._since = self._began = time.perf_counter()

    def _of_ranks(self, read: np.ndarray) -> tuple[float, float | None]:
        """The sum over ranks of what they read, and the padded length over it, if there is padding to know of."""
        read, padded = np.sum(gather_object([read]) if self.args.world_size > 1 else [read], axis=0).tolist()
        vectors = self.budget is None and isinstance(self.data_collator, StateCollator)  # batches without padding
        return read, round(padded / read, 3) if read and not vectors else None

    @property
    def padding_factor(self) -> float | None:
        """Padded over real length of all batches of this training; all ranks must ask for it."""
        return self._of_ranks(self._read)[1]

    @property
    def length_per_second(self) -> float | None:
        """How many seconds of audio (tokens) of all ranks this training has read a second so far, evaluation and
        checkpoints apart; None before it has read any. All ranks must ask for it."""
        read = self._of_ranks(self._read)[0]
        return round(read / (time.perf_counter() - self._began), 1) if read else None

    def _pace(self, started: float) -> dict[str, float]:
        """How fast the clips (texts) of all ranks went by since the last log, evaluation and checkpoints apart, and how
        long the rest of the training will take, with them. `started` by `time.time`."""
        (read, padding), now, state = self._of_ranks(self._read - self._logged), time.perf_counter(), self.state
        unit = "audio_seconds" if self.length == "duration" else self.length
        pace = {f"{unit}_per_second": round(read / (now - self._since), 1) if read else None, "padding_factor": padding}
        share = (state.max_steps - state.global_step) / (state.global_step - self._initial_global_step)
        self._logged, self._since = self._read, now
        pace["seconds_left"] = round(share * (time.time() - started))
        return {name: value for name, value in pace.items() if value is not None}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`; with the loss of training its pace. Raises SerError: the loss is not finite."""
        if start_time is not None:  # while training
            logs = logs | self._pace(start_time)
        super().log(logs, start_time)
        if not math.isfinite(logs.get("loss", 0.0)):
            raise SerError(self._diverged("loss"))

    def _diverged(self, what: str) -> str:
        advice = f"try a smaller --learning_rate than {self.args.learning_rate:g}, or more --warmup_steps"
        return f"the {what} at step {self.state.global_step} is NaN or infinite: the training has diverged; {advice}"

    # ---- loss

    def training_step(self, model: torch.nn.Module, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        """As in `Trainer`. Running statistics of batch norm become, on all ranks, those of one process that sees all
        ranks' batches in turn; DDP would keep those of rank 0 alone."""
        model.train()
        statistics = running_statistics(model) if self.args.world_size > 1 else []
        if not statistics:
            return super().training_step(model, inputs, num_items_in_batch)
        buffers = [buffer for buffer, _ in statistics]
        shares = torch.cat([torch.full_like(one.flatten(), share, dtype=torch.float64) for one, share in statistics])
        before = torch.cat([one.flatten().double() for one in buffers])
        loss = super().training_step(model, inputs, num_items_in_batch)
        own = torch.cat([*(one.flatten().double() for one in buffers), shares.new_tensor(["repeated" not in inputs])])
        ranks = self.accelerator.gather(own.unsqueeze(0))  # (ranks, numbers + 1)
        running = in_turn(before, ranks[:, :-1], shares, ranks[:, -1] > 0)
        for buffer, values in zip(buffers, running.split([one.numel() for one in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))
        return loss

    def get_batch_samples(self, *args, **kwargs) -> tuple[list[dict], torch.Tensor | None]:
        """As in `Trainer`; counts what is read."""
        batches, weight = super().get_batch_samples(*args, **kwargs)
        own = [batch["read"] for batch in batches if "repeated" not in batch]
        self._read = self._read + np.sum([(0.0, 0.0), *own], axis=0)
        return batches, weight

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Weight of all clips of one update, over the accumulation steps and all ranks."""
        if not batch_samples:
            return None
        self._update = None
        if self.loss.needs_whole_batch and (len(batch_samples) > 1 or self.args.world_size > 1):
            self._update = self._whole_update(batch_samples)
        counted = [self.loss.weight(batch["labels"]) for batch in batch_samples if "repeated" not in batch]
        weight = torch.stack([*counted, torch.zeros(())]).sum().to(device)
        return self.accelerator.gather(weight.reshape(1)).sum() if self.args.world_size > 1 else weight

    @torch.no_grad()
    def _whole_update(self, batch_samples: list) -> dict:
        """Logits of all clips of an update, by a first pass without gradients that draws the random numbers of the
        second pass (gradient caching, Gao et al. 2021)."""
        self.model_wrapped.train()
        logits, labels = [], []
        with _unchanged(self.model_wrapped):
            for batch in batch_samples:
                inputs = {name: value for name, value in self._prepare_inputs(batch).items() if name not in NOT_READ}
                with self.compute_loss_context_manager():
                    scores = self.model_wrapped(**inputs).logits.float()  # of repeated ones too: ranks wait
                if "repeated" not in batch:
                    labels.append(batch["labels"])
                    logits.append(scores)
        parts = [(logits, labels)]
        if self.args.world_size > 1:
            parts = gather_object([([part.cpu() for part in logits], [part.cpu() for part in labels])])
        before = sum(len(part) for rank in parts[: self.args.process_index] for part in rank[0])
        return {
            "logits": torch.cat([part for rank in parts for part in rank[0]]),
            "labels": torch.cat([part for rank in parts for part in rank[1]]),
            "next": before,
            "batches": len(batch_samples),
        }

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name not in NOT_READ})
        processes = self.accelerator.num_processes
        if "repeated" in inputs:  # its gradients, zeros, are waited for by the other ranks
            loss = 0.0 * outputs.logits.float().sum()
        elif num_items_in_batch is None or (self.loss.needs_whole_batch and self._update is None):
            loss = self.loss.value(outputs.logits, labels)
        elif self.loss.needs_whole_batch:
            update, first = self._update, self._update["next"]
            update["next"] += len(labels)
            logits, truth = update["logits"].to(labels.device), update["labels"].to(labels.device)
            rest = logits[first + len(labels) :]
            whole = self.loss.value(torch.cat([logits[:first], outputs.logits.float(), rest]), truth)
            # The gradients of the parts add up to the whole's (times `processes`: DDP averages over ranks). The logged
            # values add up too, so each part reports its share.
            loss = processes * (whole - whole.detach()) + whole.detach() / update["batches"]
        else:  # DDP averages gradients over ranks; the sum over ranks is wanted
            loss = self.loss.sum(outputs.logits, labels) / num_items_in_batch * processes
        return (loss, outputs) if return_outputs else loss

    # ---- evaluation

    def _prepared_for_evaluation(self):
        """The wrapped model, also when nothing was trained before (as in Trainer.evaluation_loop)."""
        model = self._wrap_model(self.model, training=False)
        if not self.accelerator._models and model is self.model:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                model = self.accelerator.prepare(model)
            else:
                model = self.accelerator.prepare_model(model, evaluation_mode=True)
            if self.is_fsdp_enabled:
                self.model = model
            if model is not self.model:
                self.model_wrapped = model
        return model.eval()

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Logits and labels of every utterance once, in the order of the dataset, on every rank."""
        model = self._prepared_for_evaluation()
        self.callback_handler.eval_dataloader = dataloader
        rows, logits, labels = [], [], []
        for batch, counted, inputs in zip(dataloader.batch_sampler, dataloader.counted, dataloader, strict=True):
            _, scores, truth = self.prediction_step(model, inputs, prediction_loss_only=False)
            if counted:
                rows += batch
                logits.append(scores.float().cpu().numpy())
                labels.append(truth.cpu().numpy())
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        ranks = gather_object([(rows, logits, labels)]) if self.args.world_size > 1 else [(rows, logits, labels)]
        rows, logits, labels = ([entry for rank in ranks for entry in rank[i]] for i in range(3))
        order = np.argsort(rows, kind="stable")
        scores, truth = np.concatenate(logits)[order], np.concatenate(labels)[order]
        if not np.isfinite(scores).all():
            raise SerError(self._diverged("scores"))
        prediction = EvalPrediction(predictions=scores, label_ids=truth)
        metrics = dict(self.compute_metrics(prediction)) if self.compute_metrics else {}
        metrics["loss"] = float(self.loss.value(torch.from_numpy(scores), torch.from_numpy(truth)))
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in denumpify_detensorize(metrics).items()}
        return EvalLoopOutput(predictions=scores, label_ids=truth, metrics=prefixed, num_samples=len(scores))
