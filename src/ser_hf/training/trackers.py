"""What trackers (`--report_to`) get of a run, and that a run does not depend on them."""

import re
import sys
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ..errors import SerError, one_line
from ..evaluation.tables import markdown_table, rows_of
from ..evaluation.tasks import TASKS
from ..files import write
from .hub import published

# What W&B would send of this machine by itself: paths, the command line, code, what is printed.
PRIVATE = {"WANDB_X_DISABLE_META": "true", "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}
PRIVATE |= {"WANDB_CONSOLE": "off"}
# What a tracker gets of a finished run, beside its metrics.
TRACKED = ("README.md", "results.json", "run.yaml", "figures/*.png")


def is_tracker(callback: TrainerCallback) -> bool:
    return type(callback).__module__.startswith("transformers.integrations")


class Tracker:
    """The callback of a tracker that may fail. If it cannot start, the run ends with a SerError. If it fails later, it
    gets nothing more, which is said once, and the run goes on."""

    def __init__(self, callback: TrainerCallback):
        self.callback, self.failed = callback, False

    def __getattr__(self, event: str) -> Callable:  # `on_log` and the others
        return partial(self.give, getattr(self.callback, event), event)

    def give(self, call: Callable, event: str, *args: Any, **kwargs: Any) -> None:
        if self.failed or event == "on_predict":  # which calls all scores `test`, those of validation too
            return
        try:
            call(*args, **kwargs)
        except Exception as error:  # of whatever kind: the run does not depend on it
            flag = f"--report_to {type(self.callback).__name__.removesuffix('Callback').lower()}"
            why = one_line(error) or type(error).__name__
            if event == "on_train_begin":
                raise SerError(f"{flag}: cannot start ({why}); mend that, or leave it out") from error
            self.failed = True
            sys.stderr.write(f"{flag}: failed and gets nothing more, the run goes on ({why})\n")


def track(trainer: Trainer, folder: Path, results: dict) -> None:
    """Give the trackers of `--report_to` the test metrics; TensorBoard, W&B and Trackio also the figures, the table by
    label, and the files of `TRACKED` as they are published. What would name a local path stays here, which is said."""
    trackers = [one for one in trainer.callback_handler.callbacks if isinstance(one, Tracker)]
    for one in trackers:
        if isinstance(one.callback, TensorBoardCallback) and one.callback.logging_dir is None:  # nothing was trained
            one.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    trainer.log({f"test_{name}": value for name, value in results["test"]["metrics"].items() if value is not None})
    receivers = [one for one in trackers if type(one.callback) in TRACKERS]
    with tempfile.TemporaryDirectory() as copies:
        try:
            files = published(folder, trainer.args.run_name) if receivers else {}
        except SerError as error:
            sys.stderr.write(f"--report_to: figures and files are not tracked, {error}\n")
            return
        for name in [name for name in files if any(fnmatch(name, pattern) for pattern in TRACKED)]:
            content = files[name] if isinstance(files[name], bytes) else files[name].read_bytes()
            write(Path(copies) / name, content)
        table = rows_of(results["test"][TASKS[results["test"]["problem_type"]].table], "label")
        for one in receivers:
            one.give(TRACKERS[type(one.callback)], "end", one.callback, Path(copies), table, trainer.state.global_step)


def _to_tensorboard(callback: TensorBoardCallback, copies: Path, table: tuple, step: int) -> None:
    from matplotlib.image import imread

    for file in copies.glob("figures/*.png"):
        callback.tb_writer.add_image(f"test/{file.stem}", imread(file)[..., :3], step, dataformats="HWC")
    for name in (name for name in TRACKED if (copies / name).is_file()):
        text = (copies / name).read_text()
        callback.tb_writer.add_text(name, text if name.endswith(".md") else f"```\n{text}```", step)
    callback.tb_writer.add_text("test/by_label", markdown_table(*table), step)
    callback.on_train_end(None, None, None)  # closes the file


def _to_wandb(callback: WandbCallback, copies: Path, table: tuple, step: int) -> None:
    import wandb

    figures = {f"test/{file.stem}": wandb.Image(str(file)) for file in copies.glob("figures/*.png")}
    wandb.log(figures | {"test/by_label": wandb.Table(*table), "train/global_step": step})
    artifact = wandb.Artifact(f"results-{wandb.run.id}", type="results")
    artifact.add_dir(str(copies))
    wandb.log_artifact(artifact)
    wandb.finish()


def _to_trackio(callback: TrackioCallback, copies: Path, table: tuple, step: int) -> None:
    import trackio

    header, rows = table
    frame = pd.DataFrame(rows, columns=header)
    figures = {f"test/{file.stem}": trackio.Image(file) for file in copies.glob("figures/*.png")}
    trackio.log(figures | {"test/by_label": trackio.Table(dataframe=frame), "train/global_step": step})
    run = trackio.context_vars.current_run.get().name
    trackio.log_artifact(str(copies), name=re.sub(r"[^\w.-]+", "-", f"results-{run}"))
    trackio.finish()


TRACKERS = {TensorBoardCallback: _to_tensorboard, WandbCallback: _to_wandb, TrackioCallback: _to_trackio}
