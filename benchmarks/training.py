"""Training throughput of the recipe against the ideal loop and against the peers' ways; first step; largest memory.

All train the same model, and all but SpeechBrain's two Adams have the same optimizer. The recipe is `SerTrainer` over
files on disk. The ideal loop does the very same batches with every clip at its batch's mean length: as many clips and
as many seconds, nothing to decode, nothing padded, no Trainer. The ideal with equal clips does as many seconds in steps
of eight clips of one length; it is faster than any corpus allows, because attention costs more in long clips whoever
trains (in a small model most). The peers read random batches: soxan's of four of floats from Arrow, two to an update;
SpeechBrain's of four files, in a plain loop; transformers' example of eight, cropped to 20 s; `random 8` is a plain
Trainer with the extractor in its collator. What they do before training is not timed, nor their frequent evaluations.
Every arm does the same batches in every round, so that rounds differ by the machine alone; they are a sample of an
epoch over 6000 utterances that pads as much as the whole epoch does.
"""

import logging
import os
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ser_hf.data.batching import LengthBatchSampler
from ser_hf.data.collators import SpeechCollator
from ser_hf.training.trainer import SerTrainer

from .corpus import Clips, iemocap_like
from .figures import Figure, Options
from .padding import padding_factor, random_batches
from .peers import CROP_S, ExtractorCollator, arrow_floats, cropped, read_padded
from .rounds import Pass, Watch, alternate, compare, rate
from .shapes import build, kept, mfu

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
        self.random8, self.random4, self.crops = (
            sample(
                np.minimum(clips.seconds, longest),
                lambda seed, count=count: random_batches(len(clips.paths), count, np.random.default_rng(seed)),
                steps[f"random {count}"] + skip * updates,
            )[1]
            for count, longest, updates in ((8, np.inf, 1), (4, np.inf, 2), (8, CROP_S, 1))
        )
        self.floats = arrow_floats(self._rows(self.random4), self.extractor)

    def _rows(self, batches: list[np.ndarray]) -> list[dict]:
        return [{"path": self.clips.paths[i], "label": int(i) % 4} for batch in batches for i in batch]

    def _audio(self, batches: list[np.ndarray], skipped: int, longest: float = np.inf) -> float:
        """Real seconds that are read in the timed batches."""
        return float(sum(np.minimum(self.clips.seconds[batch], longest).sum() for batch in batches[skipped:]))

    def _arguments(self, **given) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(self.options.work / "trainer"),
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

    def _train(self, trainer: Trainer, audio: float) -> Pass:
        clock = Clock(self.skip)
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return Pass(audio, clock.done.wall, clock.done.cpu)

    def recipe(self) -> Pass:
        trainer = SerTrainer(
            model=self.model,
            args=self._arguments(max_steps=len(self.budget), data_seed=self.seed),
            train_dataset=self.dataset,
            processing_class=self.extractor,
            data_collator=SpeechCollator(self.extractor, skip_unreadable=True),
            budget=self.options.batch_seconds,
        )
        return self._train(trainer, self._audio(self.budget, self.skip))

    def _trainer(self, dataset, count: int, accumulated: int = 1, collator: Callable | None = None) -> Trainer:
        """A plain Trainer once over rows in their order, which was drawn; it pads by the extractor."""
        training = {"per_device_train_batch_size": count, "gradient_accumulation_steps": accumulated}
        return Trainer(
            model=self.model,
            args=self._arguments(num_train_epochs=1, train_sampling_strategy="sequential", **training),
            train_dataset=dataset,
            processing_class=self.extractor,
            data_collator=collator,
        )

    def random_8(self) -> Pass:
        trainer = self._trainer(self._rows(self.random8), 8, collator=ExtractorCollator(self.extractor))
        return self._train(trainer, self._audio(self.random8, self.skip))

    def soxan(self) -> Pass:
        return self._train(self._trainer(self.floats, 4, 2), self._audio(self.random4, 2 * self.skip))

    def example(self) -> Pass:
        dataset = cropped(self._rows(self.crops), self.extractor)
        return self._train(self._trainer(dataset, 8), self._audio(self.crops, self.skip, CROP_S))

    def speechbrain(self) -> Pass:
        loader = DataLoader(self._rows(self.random4), 4, collate_fn=read_padded)
        parts = {name: [] for name in ("encoder", "head")}
        for name, parameter in self.model.named_parameters():
            parts["encoder" if name.startswith("encoder.") else "head"].append(parameter)
        optimizers = [torch.optim.Adam(weights, lr=LEARNING_RATE) for weights in parts.values()]
        return self._loop(loader, optimizers, self._audio(self.random4, 2 * self.skip), 2 * self.skip)

    def ideal(self) -> Pass:
        """The recipe's batches, each clip as long as its batch's mean."""
        return self._plain([(len(batch), self.clips.seconds[batch].mean()) for batch in self.budget])

    def ideal_equal(self) -> Pass:
        """As many steps of eight clips, all of one length."""
        timed = len(self.budget) - self.skip
        return self._plain([(8, self._audio(self.budget, self.skip) / 8 / timed)] * len(self.budget))

    def _plain(self, batches: list[tuple[int, float]]) -> Pass:
        """Batches of `(clips, seconds of each)` that are on the device before the clock starts."""
        tensors = [
            {"input_values": torch.randn(clips, round(seconds * 16000)), "labels": torch.arange(clips) % 4}
            for clips, seconds in batches
        ]
        tensors = [{name: t.to(self.options.device) for name, t in batch.items()} for batch in tensors]
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, fused=True)  # the Trainer's default
        return self._loop(tensors, [optimizer], self._audio(self.budget, self.skip), self.skip)

    def _loop(self, batches: Iterable[dict], optimizers: list, audio: float, skip: int) -> Pass:
        """A plain training loop."""
        self.model.train()
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        watch = started()
        for step, batch in enumerate(batches):
            if step == skip:
                watch = started()
            with torch.autocast("cuda", torch.bfloat16, enabled=self.cuda):
                loss = self.model(**{name: tensor.to(self.options.device) for name, tensor in batch.items()}).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return finished(watch, audio)


def worst_memory(model, seconds: np.ndarray, batches: list[np.ndarray]) -> int:
    """Bytes that the largest step of an epoch keeps for its backward pass: of the batch with the most padded audio, or
    of that with the longest clip, for attention."""
    longest = seconds.max()
    costs = [seconds[batch].max() * len(batch) for batch in batches]
    with_longest = [cost * (seconds[batch].max() == longest) for cost, batch in zip(costs, batches, strict=True)]

    def loss_of(batch: np.ndarray) -> torch.Tensor:
        lengths = torch.from_numpy(np.round(seconds[batch] * 16000))
        mask = (torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)).long()
        inputs = {"input_values": torch.zeros(mask.shape), **({} if mask.all() else {"attention_mask": mask})}
        return model(**inputs, labels=torch.arange(len(batch)) % 4).loss

    model.train().to("cpu")
    worst = {int(np.argmax(costs)), int(np.argmax(with_longest))}
    return max(kept(model, lambda number=number: loss_of(batches[number])) for number in worst)


def run(options: Options) -> list[Figure]:
    logging.getLogger("ser_hf").setLevel(logging.ERROR)
    cuda = options.device == "cuda"
    if cuda:  # steps take a hundredth of a second, and the first ones build kernels
        steps, skip = {"budget": 20, "random 8": 40, "random 4": 80}, 10
        steps = steps if options.quick else {name: 3 * count for name, count in steps.items()}
    else:
        steps, skip = {"budget": 8, "random 8": 4, "random 4": 8}, 0
        steps = {name: count // 2 for name, count in steps.items()} if options.quick else steps
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
        "soxan's": arms.soxan,
        "SpeechBrain's": arms.speechbrain,
        "the official example's": arms.example,
    }
    passes = alternate({name: measured(name, arm) for name, arm in ways.items()}, options.rounds)
    # The smallest difference that has a goal: the two alone, and more often.
    pair = alternate({"recipe": arms.recipe, "ideal": arms.ideal}, 3 * options.rounds)
    figures = [Figure(f"training, {options.shape}, {name}", rate(done), "audio s/s") for name, done in passes.items()]
    goals = {"ideal": 0.97, "soxan's": 3, "SpeechBrain's": 2, "the official example's": 4}
    for other in list(ways)[1:]:
        figures += compare(pair if other == "ideal" else passes, "recipe", other, at_least=goals.get(other))
        if goals.get(other, 0) > 1:
            figures.append(compare(passes, "ideal", other)[0])  # as fast as the same batches can be
    seconds = arms.clips.seconds
    figures.append(Figure("padding factor of the recipe's timed batches", padding_factor(seconds, arms.budget), "x"))
    for name, batches in (("random 8", arms.random8), ("random 4", arms.random4)):
        figures.append(Figure(f"padding factor, {name}", padding_factor(seconds, batches), "x"))
    whole = LengthBatchSampler(seconds, options.batch_seconds).batches(0)
    ours, theirs = (
        worst_memory(arms.model, seconds, batches)
        for batches in (whole, random_batches(len(seconds), 8, np.random.default_rng(0)))
    )
    figures.append(Figure("memory of the worst step, recipe / random 8", ours / theirs, "x", at_most=1 / 6))
    if cuda:
        figures += [Figure(f"peak memory, {name}", peak, "GiB") for name, peak in peaks.items()]
        device = torch.cuda.get_device_name()
        useful = mfu(options.shape, rate(passes["recipe"]), device, options.peak_tflops)
        if useful is not None:
            figures.append(
                Figure(
                    f"MFU of the recipe, bf16 on {device}",
                    useful,
                    "",
                    at_least={"base": 0.35, "xlsr": 0.45}[options.shape],
                )
            )
    return figures
