"""What a user waits for before anything happens: the import, `--help` and the first step of a training, in fresh
processes."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from .corpus import iemocap_like
from .figures import Figure, Options
from .rounds import Pass, alternate
from .shapes import SMALL

REPO = Path(__file__).parents[1]
TIMES = 5
RECIPE = REPO / "recipes" / "wav2vec2_cls.py"
IMPORT = (
    "import sys, time as t; s = t.perf_counter(); import ser_hf; print(t.perf_counter() - s, 'torch' in sys.modules)"
)
# Ends a process after the first step of any Trainer in it.
STOP = """
import os, transformers.trainer as trainer
class Stop(trainer.TrainerCallback):
    def on_step_end(self, *args, **kwargs): os._exit(0)
trainer.DEFAULT_CALLBACKS.append(Stop)
"""
RUN = f"{STOP}\nimport runpy, sys\nsys.argv.pop(0)\nrunpy.run_path(sys.argv[0], run_name='__main__')"
BARE = f"""{STOP}
import json, sys, torch
from transformers import Trainer, TrainingArguments, Wav2Vec2Config, Wav2Vec2ForSequenceClassification
model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(num_labels=4, **json.loads(sys.argv[2])))
model.freeze_feature_encoder()
rows = [{{"input_values": torch.randn(72000), "labels": i % 4}} for i in range(8)]
trainer.Trainer(model, TrainingArguments(sys.argv[1], use_cpu=True, disable_tqdm=True), train_dataset=rows).train()
"""


def import_seconds() -> tuple[float, bool]:
    """Seconds of `import ser_hf` alone, and whether it brought torch."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    seconds, torch = done.stdout.split()
    return float(seconds), torch == "True"


def command_seconds(*words: str) -> float:
    """Seconds of a whole Python process, the interpreter's own start included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def first_steps(options: Options) -> list[Figure]:
    """A recipe on a table of 600 files that was read before, against a plain Trainer on eight tensors of 4.5 s."""
    clips = iemocap_like(options.work, 600)
    table = options.work / "first.csv"
    rows = [f"{path},{'angry happy neutral sad'.split()[i % 4]},{i % 10}\n" for i, path in enumerate(clips.paths)]
    table.write_text("file_name,label,speaker\n" + "".join(rows))
    shape = json.dumps(SMALL)
    flags = {"dataset": table, "output_dir": options.work / "first", "overwrite_output_dir": True, "config": "none"}
    flags |= {"model_type": "wav2vec2", "config_overrides": shape, "freeze_feature_encoder": True, "use_cpu": True}
    words = [f"--{name}={value}" for name, value in flags.items()]

    def arm(*command: str):
        def first() -> Pass:
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-c", *command], capture_output=True, check=True)
            wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            return Pass(1, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

        return first

    arms = {"recipe": arm(RUN, str(RECIPE), *words), "bare": arm(BARE, str(options.work / "bare"), shape)}
    passes = alternate(arms, options.rounds)
    pairs = list(zip(passes["recipe"], passes["bare"], strict=True))
    return [
        Figure(
            "first step, recipe over a bare Trainer",
            statistics.median(a.wall / b.wall for a, b in pairs),
            "x",
            None,
            1.15,
        ),
        Figure("  of CPU seconds", statistics.median(a.cpu / b.cpu for a, b in pairs), "x"),
        Figure("  of the recipe, CPU", statistics.median(a.cpu for a, _ in pairs), "s"),
        Figure("  of the bare Trainer, CPU", statistics.median(b.cpu for _, b in pairs), "s"),
    ]


def run(options: Options) -> list[Figure]:
    imports = [import_seconds() for _ in range(TIMES)]
    helps = [command_seconds(str(RECIPE), "--help") for _ in range(TIMES)]
    bare = [command_seconds("-c", "pass") for _ in range(TIMES)]
    return [
        Figure("import ser_hf", statistics.median(seconds for seconds, _ in imports), "s", at_most=0.3),
        Figure("  processes in which it imported torch", sum(torch for _, torch in imports), at_most=0),
        Figure("recipes/wav2vec2_cls.py --help, whole process", statistics.median(helps), "s", at_most=0.5),
        Figure("  fastest", min(helps), "s"),
        Figure("  of which Python's own start", statistics.median(bare), "s"),
        *first_steps(options),
    ]
