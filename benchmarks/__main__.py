"""Compare this project with the ideal and with the usual ways, in one run on this machine.

    python -m benchmarks                    # about half an hour on two idle cores
    python -m benchmarks --quick            # about eight minutes; coarser
    python -m benchmarks --only training --rounds 9 --json training.json
    python -m benchmarks --only training --device cuda --shape base
    python -m benchmarks --against benchmarks/results.json  # which goals' figures differ by more than 10 %?

What counts are ratios taken in one run (arms in turn, one thread), never seconds of one machine beside another's.
Nothing is written outside a temporary folder, but for --json.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

from ser_hf.files import write

from . import machine
from .figures import Options, number
from .rounds import unsteady

SECTIONS = {
    "padding": "padding and memory of 6000 utterances in batches (exact)",
    "startup": "before anything happens (fresh processes, median of 5)",
    "preparation": "corpus preparation (a folder as EmoDB's, 1.6 h)",
    "own": "own data: a table of 100,000 clips of 0.1 s (10,000 with --quick)",
    "scaling": "ten times the corpus (clips of 0.1 s)",
    "loader": "loader, one thread, no workers",
    "training": "training, files to optimizer steps",
    "fusion": "an epoch of a fusion head over frozen encoders",
    "intervals": "thresholds, 95 % intervals and calibration of 50,000 rows",
    "predict": "predict, files to rows, one thread",
    "whisper": "Whisper base: training on clips of 4 s, and an epoch of a frozen probe",
    "frozen": "six folds of a frozen probe of Whisper base, encoding included (the demo corpus)",
    "cv": "cross-validation around its trainings (the demo corpus; one pass)",
}


LEAST = 45.0  # seconds of a comparison whose passes are short


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be given several times")
    parser.add_argument("--rounds", type=int, help="passes of every arm, at least (default 5; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="smaller corpora and fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write them there; other sections stay")
    text = "say which figures of goals differ by more than 10 % from those that --json wrote there"
    parser.add_argument("--against", type=Path, metavar="FILE", help=text)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where `training` trains; cuda: bf16")
    parser.add_argument("--shape", choices=("small", "base", "xlsr"), help="model (default small; base on cuda)")
    parser.add_argument("--batch_seconds", type=float, help="budget of a batch (default 36; 300 on cuda)")
    parser.add_argument("--peak_tflops", type=float, help="of the GPU in bf16, for MFU, where the name is not known")
    args = parser.parse_args(argv)
    args.rounds = args.rounds if args.rounds is not None else 2 if args.quick else 5
    args.shape = args.shape or ("base" if args.device == "cuda" else "small")
    args.batch_seconds = args.batch_seconds or (300.0 if args.device == "cuda" else 36.0)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: must be at least 1")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: no such folder")
    if args.against and not args.against.is_file():
        parser.error(f"--against {args.against}: no such file")
    return args


def quiet(work: Path) -> None:
    """Caches into `work`, and no word from the libraries; before any of them is imported."""
    os.environ |= {
        "HF_HOME": str(work / "hf"),
        "HF_DATASETS_CACHE": str(work / "hf" / "datasets"),
        "SER_CACHE": str(work / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # of several GPUs one: the Trainer would use them all
    warnings.simplefilter("ignore")


def differing(figures: list[dict], others: list[dict]) -> list[str]:
    """One line for each figure of a goal that is more than a tenth off another run's, or that only one of them has.
    Seconds are compared in units of the section's `yardstick`, where both runs have one."""
    now, before = (
        {(one["section"], one["name"]): one for one in run if one["met"] is not None}
        for run in (figures, [one for one in others if one["section"] in {figure["section"] for figure in figures}])
    )
    lines = [f"{section}, {name.strip()}: in one run alone" for section, name in sorted(now.keys() ^ before.keys())]
    for (section, name), one in now.items():
        pair = [one, before.get((section, name), one)]
        scaled = one["unit"] == "s" and all("yardstick" in each for each in pair)
        value, other = (each["value"] / (each["yardstick"] if scaled else 1) for each in pair)
        if abs(value - other) > 0.1 * max(abs(value), abs(other)):
            shown, was = (number(each["value"]) for each in pair)
            slower = one["yardstick"] / pair[1]["yardstick"] if scaled else None
            clock = f" (the machine took {slower:.2f} times as long for its yardstick)" if scaled else ""
            lines.append(f"{section}, {name.strip()}: {shown}, before {was}{clock}")
    return lines


def figures_of(runs: list[dict]) -> list[dict]:
    """All figures of the runs of a file, in the order of `SECTIONS`."""
    order = list(SECTIONS)
    return sorted((one for run in runs for one in run["figures"]), key=lambda one: order.index(one["section"]))


def with_run(runs: list[dict], new: dict) -> list[dict]:
    """The runs of a file and a new one, whose sections take the place of theirs."""
    measured = {one["section"] for one in new["figures"]}
    left = [run | {"figures": [one for one in run["figures"] if one["section"] not in measured]} for run in runs]
    return [*(run for run in left if run["figures"]), new]


def main() -> None:
    args = arguments()
    sections = args.only or list(SECTIONS)
    before = figures_of(json.loads(args.against.read_text())) if args.against else None
    started, figures = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="ser_hf_benchmarks_") as folder:
        work = Path(folder)
        quiet(work)
        facts = machine.facts()
        print(*machine.lines(facts), sep="\n")
        if {"training", "loader", "fusion", "predict", "whisper", "frozen"} & set(sections):
            import torch

            torch.set_num_threads(1)  # two were half as fast on a busy machine
            if args.device == "cuda" and not torch.cuda.is_available():
                sys.stderr.write("error: --device cuda: torch sees no GPU; leave it out to train on the CPU\n")
                raise SystemExit(2)
        least = 0.0 if args.quick else LEAST
        device = (args.device, args.shape, args.batch_seconds, args.peak_tflops)
        options = Options(work, args.rounds, args.quick, least, *device)
        for section in SECTIONS:
            if section in sections:
                print(f"\n{SECTIONS[section]}", flush=True)
                began, pace = time.perf_counter(), machine.yardstick()
                found = importlib.import_module(f"benchmarks.{section}").run(options)
                pace = (pace + machine.yardstick()) / 2
                for figure, after in zip(found, [*found[1:], None], strict=True):
                    print(figure.line())
                    if after and after.name == "  of the fastest passes" and unsteady(figure.value, after.value):
                        print("    median and fastest differ by more than 30 %: do it again on a quieter machine")
                print(f"  {time.perf_counter() - began:.0f} s; yardstick {1000 * pace:.1f} ms")
                figures += [figure.as_dict(section) | {"yardstick": pace} for figure in found]
    missed = [figure["name"].strip() for figure in figures if figure["met"] is False]
    print(f"\n{time.perf_counter() - started:.0f} s; goals missed: {', '.join(missed) or 'none'}")
    if args.json:
        facts["load_at_the_end"] = os.getloadavg()[0]
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "against")}
        runs = json.loads(args.json.read_text()) if args.json.exists() else []
        runs = with_run(runs, {"machine": facts, "settings": settings, "figures": figures})
        write(args.json, json.dumps(runs, indent=2) + "\n")
    if before is not None:
        different = differing(figures, before)
        print(f"more than 10 % off {args.against}: {len(different)} figures", *different, sep="\n  ")


if __name__ == "__main__":
    main()
