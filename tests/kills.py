"""Kill runs with SIGKILL and repeat their command: each must end bit-equal to one that was left alone.

    python tests/kills.py --moments 60 --seed 1 --home /tmp/kills [--only text_cls cv]

The moments are drawn over the whole run; every third is aimed at the writing of checkpoints and other files. Processes
are forked from one that has imported everything (multiprocessing's fork server), so that a run costs a second or two.
"""

import argparse
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(Path(__file__).parent))

from conftest import REPO, TINY, tiny_flags

PRELOADED = ["torch", "transformers", "transformers.trainer", "datasets", "pandas", "sklearn.svm", "peft", "opensmile"]
PRELOADED += ["ser_hf.experiments.cv", "ser_hf.training.trainer", "ser_hf.training.classical_model"]
PRELOADED += ["matplotlib.figure"]
PRELOADED += ["ser_hf.training.fusion_model", "ser_hf.training.spectrogram_model", "ser_hf.training.text_model"]
SHORT = ("--num_train_epochs", "3", "--learning_rate", "1e-3", "--use_cpu", "true", "--disable_tqdm", "true")
RESUME = ("--resume_from_checkpoint", "true")
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 90}


def jobs(home: Path) -> dict[str, tuple]:
    """Command lines by name: a recipe's file stem or `ser-hf`, and its arguments; `OUT` stands for the output."""
    corpus = ("--dataset", "demo", "--data_dir", str(home / "demo"), "--config", "none")
    audio, text = str(home / "audio"), str(home / "text")
    tiny, run = [*tiny_flags(), *SHORT, "--batch_seconds", "10"], ("--output_dir", "OUT")
    lora = ("--lora_r", "2", "--pooling", "max")
    return {
        "wav2vec2_cls": ("wav2vec2_cls", *corpus, *tiny, *run, *RESUME),
        "wav2vec2_lora": ("wav2vec2_cls", *corpus, *tiny, *lora, *run, *RESUME),
        "probe": ("wav2vec2_cls", *corpus, *SHORT, "--model_name_or_path", audio, "--freeze_encoder", "true", *run,
                  *RESUME),
        "wav2vec2_reg": ("wav2vec2_reg", *corpus, "--labels", "dimensional", *tiny, *run, *RESUME),
        "spectrogram_cls": ("spectrogram_cls", *corpus, *SHORT, "--arch", "cnn2d_2", *run, *RESUME),
        "text_cls": ("text_cls", *corpus, *SHORT, "--model_type", "bert", "--config_overrides", json.dumps(BERT), *run,
                     *RESUME),
        "fusion_cls": ("fusion_cls", *corpus, *SHORT, "--audio_model", audio, "--text_model", text, *run, *RESUME),
        "classical_cls": ("classical_cls", *corpus, "--use_cpu", "true", *run),
        "cv": ("ser-hf", "cv", str(REPO / "recipes" / "wav2vec2_cls.py"), *corpus, *tiny, "--folds", "0", "1", *run),
        "predict": ("ser-hf", "predict", str(home / "clips"), "--model", str(home / "model"), "--batch_size",
                    "1", "--out", "OUT/scores.csv"),
        "embed": ("ser-hf", "embed", "demo", "--data_dir", str(home / "demo"), "--model", audio, "--out",
                  "OUT/states.parquet"),
        "corpus": ("corpus", str(home / "demo")),
    }  # fmt: skip


def prepare(home: Path) -> None:
    """The corpus, two encoders and a trained model that the commands use."""
    import torch
    from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    from fakes import demo
    from ser_hf import load_corpus
    from ser_hf.training.text_model import train_tokenizer

    demo.make(home / "demo")
    shutil.copytree(home / "demo" / "wav", home / "clips", ignore=shutil.ignore_patterns(f"{demo.UNREADABLE}.wav"))
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**TINY)).save_pretrained(home / "audio")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(home / "audio")
    texts = load_corpus("demo", data_dir=home / "demo", cache_dir=home / "prepared")["text"]
    config, tokenizer = train_tokenizer(list(texts), BertConfig(**BERT), 90)
    BertModel(config, add_pooling_layer=False).save_pretrained(home / "text")
    tokenizer.save_pretrained(home / "text")


def body(argv: list[str], out: Path) -> None:
    """One command in a forked process; its exit status is the process's."""
    import datasets

    os.setsid()
    os.environ |= {"SER_CACHE": str(out.parent / f"{out.name}-states"), "HF_HUB_OFFLINE": "1"}
    os.environ["HF_DATASETS_CACHE"] = str(out.parent / f"{out.name}-datasets")
    datasets.config.HF_DATASETS_CACHE = out.parent / f"{out.name}-datasets"
    log = os.open(out.parent / f"{out.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    name, *words = [word.replace("OUT", str(out)) for word in argv]
    if name == "corpus":
        from ser_hf import load_corpus

        rows = load_corpus("demo", data_dir=words[0])
        out.mkdir(exist_ok=True)
        (out / "rows.json").write_text(json.dumps([str(row) for row in rows]))
        return
    if name == "ser-hf":
        from ser_hf import cli

        sys.argv = ["ser-hf", *words]
        raise SystemExit(cli.main(words))
    sys.argv = [f"{name}.py", *words]
    runpy.run_path(str(REPO / "recipes" / f"{name}.py"), run_name="__main__")


class Server:
    """Starts commands as forks of one process that has imported everything."""

    def __init__(self):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def start(self, argv: list[str], out: Path):
        process = self.context.Process(target=body, args=(list(argv), out))
        process.start()
        return process

    def run(self, argv: list[str], out: Path) -> float:
        """A command to its end, unless it was killed after that; returns its seconds."""
        begin, process = time.monotonic(), self.start(argv, out)
        process.join(300)
        assert process.exitcode == 0 or "holds a finished run" in tail(out)[-400:], (argv[0], tail(out))
        return time.monotonic() - begin


def tail(out: Path) -> str:
    return (out.parent / f"{out.name}.log").read_text()[-3000:]


def children_of(out: Path) -> list[int]:
    """Processes, of whatever parent, that write below the output: a fold's own go to its log."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{out}/" in os.readlink(entry / "fd" / "1"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def writing(out: Path) -> bool:
    """Whether files are being written just now: a checkpoint without its record, or something with a passing name."""
    folders = [out, *out.glob("fold*"), *out.parent.glob(f"{out.name}-*"), *out.parent.glob(f"{out.name}-*/*")]
    for path in [path for folder in folders if folder.is_dir() for path in folder.iterdir()]:
        if path.name.startswith("checkpoint-") and not (path / "record.json").exists():
            return True
        if path.name.startswith(".saving-") or path.name.endswith((".half", ".part", ".incomplete")):
            return True
    return False


def killed(server: Server, argv: list[str], out: Path, seconds: float, aimed: bool, rng: np.random.Generator) -> bool:
    """Start a command and kill it; False if it had ended before."""
    process, begin = server.start(argv, out), time.monotonic()
    delay = rng.uniform(0.02, 1.0) * seconds if not aimed else rng.uniform(0, 0.02)
    skip = rng.integers(0, 3) if aimed else 0  # aim at the first, second or third writing
    while process.is_alive() and aimed:
        if writing(out):
            if not skip:
                break
            skip -= 1
            while process.is_alive() and writing(out):
                time.sleep(0.0005)
        time.sleep(0.0005)
        assert time.monotonic() - begin < 300
    process.join(delay)
    alive = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    for _ in range(100):
        if not children_of(out):
            return alive
        time.sleep(0.05)
    raise AssertionError(f"{children_of(out)} are alive without their parent")


def facts(out: Path) -> dict[str, object]:
    """What two runs must have in common: names of all files, weights, scores and metrics."""
    import pandas as pd

    found: dict[str, object] = {"files": sorted(str(file.relative_to(out)) for file in out.rglob("*"))}
    found["files"] = [name for name in found["files"] if not name.endswith("log.txt")]
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.suffix in (".safetensors", ".csv") or name.endswith(("record.json", "rows.json", "run.yaml")):
            found[name] = file.read_bytes()
            if name.endswith("record.json"):  # sizes of reports vary with the seconds in them
                record = json.loads(found[name])
                found[name] = record["trained_on"], sorted(record["files"])
        elif file.suffix == ".parquet":
            found[name] = pd.read_parquet(file).to_json()
        elif file.name == "results.json":
            results = json.loads(file.read_text())
            trained = results["training"] or {}
            for key in ("test", "validation", "splits", "trained_on", "model"):
                found[f"{key} of {name}"] = results[key]
            for key in ("steps", "selected_step", "selected_by", "best_validation"):
                found[f"{key} of {name}"] = trained.get(key)
        elif file.name == "cv.json":
            found[name] = json.loads(file.read_text())["pooled"]
    return found


def drive(home: Path, moments: int, seed: int, only: list[str] | None = None) -> Iterator[str]:
    """Kill runs at so many moments; yields a line for each command. AssertionError: one does not end as it would."""
    prepare(home)
    server, rng = Server(), np.random.default_rng(seed)
    commands = {name: argv for name, argv in jobs(home).items() if not only or name in only}
    server.run(jobs(home)["wav2vec2_cls"], home / "model")
    names = [list(commands)[number % len(commands)] for number in range(moments)]
    aims = [number % 3 == 2 for number in range(moments)]
    for name in dict.fromkeys(names):
        argv, whole, out = commands[name], home / f"{name}-whole", home / f"{name}-killed"
        seconds, hits, aimed = server.run(argv, whole), 0, 0
        for aim in [aim for aim, other in zip(aims, names, strict=True) if other == name]:
            for _ in range(4):
                if killed(server, argv, out, seconds, aim, rng):
                    hits, aimed = hits + 1, aimed + aim
                    break
                check(name, whole, out)  # it had ended; begin again
                for place in home.glob(f"{name}-killed*"):
                    shutil.rmtree(place) if place.is_dir() else place.unlink()
        server.run(argv, out)
        check(name, whole, out)
        yield f"{name}: killed {hits} times, {aimed} of them aimed, then equal; {seconds:.1f} s unbroken"


def check(name: str, whole: Path, out: Path) -> None:
    one, two = facts(whole), facts(out)
    assert one.keys() == two.keys(), (name, sorted(one.keys() ^ two.keys()), one["files"], two["files"])
    differs = [key for key in one if one[key] != two[key]]
    shown = [(one[key], two[key]) for key in differs if key == "files" or key.endswith(".json")]
    assert not differs, (name, differs, shown)
    caches = [path for path in out.parent.glob(f"{out.name}-*") if path.is_dir()]
    left = [path for cache in caches for path in cache.rglob("*") if path.name.endswith((".part", ".incomplete"))]
    assert not left, (name, left)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path, required=True, help="an empty folder to work in")
    parser.add_argument("--only", nargs="+", help="commands, by their names in `jobs`")
    args = parser.parse_args()
    args.home.mkdir(parents=True, exist_ok=True)
    for line in drive(args.home.resolve(), args.moments, args.seed, args.only):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
