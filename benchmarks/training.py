"""Training throughput of the recipe against the ideal loop and against random batches of 8 decoded on access.

All train the same model with the same optimizer. The recipe is `SerTrainer` over files on disk. The ideal loop does the
very same batches with every clip at its batch's mean length: as many clips and as many seconds, nothing to decode,
nothing padded, no Trainer. The ideal with equal clips does as many seconds in steps of eight clips of one length; it is
faster than any corpus allows, because attention costs more in long clips whoever trains (in a small model most).
Every arm does the same batches in every round, so that rounds differ by the machine alone; they are a sample of an
epoch over 6000 utterances that pads as much as the whole epoch does.
"""

import logging
import os
from collections.abc import Callable

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ser_hf.data.batching import LengthBatchSampler
from ser_hf.data.collators import SpeechCollator
from ser_hf.training.trainer import SerTrainer

from .corpus import Clips, iemocap_like
from .figures import Figure, Options
from .padding import padding_factor, random_batches
from .peers import ExtractorCollator
from .rounds import Pass, Watch, alternate, compare, rate
from .shapes import build, mfu

LEARNING_RATE = 1e-4


class Clock(TrainerCallback):
    """Times the steps of a Trainer, without its set-up and without the first `skip` steps."""

    def __init__(self, skip: int):
        self.skip, self.watch, self.done = skip, None, None

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.skip:
            self.watch = started()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.skip:
            self.watch = started()

    def on_train_end(self, args, state, control, **kwargs):
        self.done = finished(self.watch, 0.0)


def started() -> Watch:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Watch()


def finished(watch: Watch, amount: float) -> Pass:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return watch.read(amount)


def sample(seconds: np.ndarray, epochs: Callable[[int], list[np.ndarray]], count: int) -> tuple[int, list[np.ndarray]]:
    """The seed among 20 whose first `count` batches are most like its whole epoch, and these batches: as much
    padding, and as long clips for every second of it."""

    def looks(batches):
        longest = np.array([seconds[batch].max() for batch in batches])
        padded = longest * [len(batch) for batch in batches]
        return np.array([padding_factor(seconds, batches), (padded * longest).sum() / padded.sum()])

    epoch = looks(epochs(0))
    drawn = {seed: epochs(seed)[:count] for seed in range(20)}
    best = min(drawn, key=lambda seed: np.abs(looks(drawn[seed]) / epoch - 1).sum())
    return best, drawn[best]


class Arms:
    """All ways over one corpus and one model."""

    def __init__(self, options: Options, clips: Clips, steps: dict[str, int], skip: int):
        self.options, self.clips, self.skip = options, clips, skip
        self.cuda = options.device == "cuda"
        self.model, self.extractor = build(options.shape)
        self.model.to(options.device)
        self.dataset = clips.dataset()
        budget = options.batch_seconds
        self.seed, self.budget = sample(
            clips.seconds,
            lambda seed: LengthBatchSampler(clips.seconds, budget, seed=seed).batches(0),
            steps["budget"] + skip,
        )
        _, self.random8 = sample(
            clips.seconds,
            lambda seed: random_batches(len(clips.paths), 8, np.random.default_rng(seed)),
            steps["random 8"] + skip,
        )

    def _audio(self, batches: list[np.ndarray]) -> float:
        """Real seconds in the timed batches."""
        return float(sum(self.clips.seconds[batch].sum() for batch in batches[self.skip :]))

    def _arguments(self, **given) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(self.options.work / "trainer"),
            per_device_train_batch_size=8,
            learning_rate=LEARNING_RATE,
            use_cpu=not self.cuda,
            bf16=self.cuda,
            dataloader_num_workers=min(8, os.cpu_count() - 1) if self.cuda else 0,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **given,
        )

    def _train(self, trainer: Trainer, batches: list[np.ndarray]) -> Pass:
        clock = Clock(self.skip)
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return Pass(self._audio(batches), clock.done.wall, clock.done.cpu)

    def recipe(self) -> Pass:
        trainer = SerTrainer(
            model=self.model,
            args=self._arguments(max_steps=len(self.budget), data_seed=self.seed),
            train_dataset=self.dataset,
            processing_class=self.extractor,
            data_collator=SpeechCollator(self.extractor, skip_unreadable=True),
            budget=self.options.batch_seconds,
        )
        return self._train(trainer, self.budget)

    def random_8(self) -> Pass:
        rows = [{"path": self.clips.paths[i], "label": int(i) % 4} for batch in self.random8 for i in batch]
        trainer = Trainer(
            model=self.model,
            args=self._arguments(max_steps=len(self.random8), train_sampling_strategy="sequential"),  # drawn already
            train_dataset=rows,
            processing_class=self.extractor,
            data_collator=ExtractorCollator(self.extractor),
        )
        return self._train(trainer, self.random8)

    def ideal(self) -> Pass:
        """The recipe's batches, each clip as long as its batch's mean."""
        return self._plain([(len(batch), self.clips.seconds[batch].mean()) for batch in self.budget])

    def ideal_equal(self) -> Pass:
        """As many steps of eight clips, all of one length."""
        timed = len(self.budget) - self.skip
        return self._plain([(8, self._audio(self.budget) / 8 / timed)] * len(self.budget))

    def _plain(self, batches: list[tuple[int, float]]) -> Pass:
        """The plain loop over batches of `(clips, seconds of each)` that are on the device before the clock starts."""
        tensors = [
            {"input_values": torch.randn(clips, round(seconds * 16000)), "labels": torch.arange(clips) % 4}
            for clips, seconds in batches
        ]
        tensors = [{name: t.to(self.options.device) for name, t in batch.items()} for batch in tensors]
        self.model.train()
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, fused=True)  # the Trainer's default
        for step, batch in enumerate(tensors):
            if step == self.skip:
                watch = started()
            with torch.autocast("cuda", torch.bfloat16, enabled=self.cuda):
                loss = self.model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return finished(watch, self._audio(self.budget))


def run(options: Options) -> list[Figure]:
    logging.getLogger("ser_hf").setLevel(logging.ERROR)
    cuda = options.device == "cuda"
    if cuda:  # steps take a hundredth of a second, and the first ones build kernels
        steps, skip = {"budget": 20, "random 8": 40} if options.quick else {"budget": 60, "random 8": 120}, 10
    else:
        steps, skip = {"budget": 4, "random 8": 2} if options.quick else {"budget": 10, "random 8": 4}, 0
    files = 150 if options.quick else 600
    arms = Arms(options, iemocap_like(options.work, files, times=6000 // files), steps, skip)
    peaks: dict[str, float] = {}

    def measured(name: str, arm: Callable[[], Pass]) -> Callable[[], Pass]:
        def one() -> Pass:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            done = arm()
            if cuda:
                peaks[name] = torch.cuda.max_memory_allocated() / 2**30
            return done

        return one

    ways = {
        "recipe": arms.recipe,
        "ideal": arms.ideal,
        "random 8": arms.random_8,
        "ideal, equal clips": arms.ideal_equal,
    }
    passes = alternate({name: measured(name, arm) for name, arm in ways.items()}, options.rounds)
    figures = [Figure(f"training, {options.shape}, {name}", rate(done), "audio s/s") for name, done in passes.items()]
    figures += compare(passes, "recipe", "ideal", at_least=0.85)
    figures += compare(passes, "recipe", "ideal, equal clips")
    figures += compare(passes, "recipe", "random 8", at_least=2.5)
    seconds = arms.clips.seconds
    figures.append(Figure("padding factor of the recipe's timed batches", padding_factor(seconds, arms.budget), "x"))
    figures.append(Figure("padding factor of the random ones", padding_factor(seconds, arms.random8), "x"))
    if cuda:
        figures += [Figure(f"peak memory, {name}", peak, "GiB") for name, peak in peaks.items()]
        device = torch.cuda.get_device_name()
        useful = mfu(options.shape, rate(passes["recipe"]), device, options.peak_tflops)
        if useful is not None:
            figures.append(Figure(f"MFU of the recipe, bf16 on {device}", useful, "", at_least=0.2))
    return figures
