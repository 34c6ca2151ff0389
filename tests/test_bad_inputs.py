"""Hostile inputs, each through its own command line: one line that names the thing, exit status 2, nothing written.

python -m pytest tests/test_bad_inputs.py -k config_overrides

`tests/bad_inputs/*.yaml` hold the cases, one file for each kind. `line` is a recipe or a command of ser-hf with its
arguments, in which `{name}` is one of the `Inputs`; `yaml` is the content of a file that is given by `--config`; `says`
are parts of the line on stderr.
"""

import errno
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import cache, cached_property
from pathlib import Path

import pytest
import soundfile as sf
import yaml
from test_pipeline import LABELS, RATE, make, noise
from transformers import BertConfig, BertForSequenceClassification, Wav2Vec2FeatureExtractor

from conftest import RECIPES, REPO, settings_of
from ser_hf import cli
from ser_hf.data.audio import AudioError
from ser_hf.errors import SerError, door
from ser_hf.files import write
from ser_hf.training import run
from ser_hf.training.saved_model import save_model

CASES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((REPO / "tests/bad_inputs").glob("*.yaml"))}


class Inputs:
    """Files and folders of the cases, each made once, when a case names it."""

    def __init__(self, root: Path):
        self.root = root

    def __getitem__(self, name: str) -> Path:
        return getattr(self, name)

    def _file(self, name: str, content: bytes) -> Path:
        (self.root / name).write_bytes(content)
        return self.root / name

    @cached_property
    def folder(self) -> Path:
        (folder := self.root / "empty folder").mkdir()
        return folder

    @cached_property
    def text_file(self) -> Path:
        return self._file("notes.txt", b"no audio\n")

    @cached_property
    def binary_file(self) -> Path:
        return self._file("binary", bytes(range(256)))

    @cached_property
    def json_list(self) -> Path:
        return self._file("list.json", b"[1]")

    @cached_property
    def deep_yaml(self) -> Path:
        return self._file("deep.yaml", b"layers: " + b"[" * 5000 + b"]" * 5000)

    @cached_property
    def foreign_table(self) -> Path:
        return self._file("table.csv", b"a,b\n1,2\n")

    @cached_property
    def clip(self) -> Path:
        sf.write(self.root / "clip.wav", noise(0.5), RATE)
        return self.root / "clip.wav"

    @cached_property
    def corpus(self) -> Path:
        """A folder of 4 speakers, who say 2 short clips in each of the three emotions."""
        (folder := self.root / "corpus").mkdir()
        rows = [
            (f"s{s}_{label}_{n}.wav", label, f"s{s}", f"so {label} {n}")
            for s in range(4)
            for label in LABELS
            for n in range(2)
        ]
        for seed, (name, *_) in enumerate(rows):
            sf.write(folder / name, noise(0.3, seed), RATE)
        lines = ["file_name,label,speaker,text", *(",".join(row) for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
        return folder

    @cached_property
    def speakerless(self) -> Path:
        """The same corpus without its speakers."""
        shutil.copytree(self.corpus, folder := self.root / "speakerless")
        rows = [line.split(",") for line in (folder / "metadata.csv").read_text().splitlines()]
        (folder / "metadata.csv").write_text("".join(f"{name},{label},{text}\n" for name, label, _, text in rows))
        return folder

    # ---- checkpoints

    @cached_property
    def model(self) -> Path:
        """A wav2vec2 of 16 dimensions with labels of its own order."""
        save_model(make(pooling="max"), Wav2Vec2FeatureExtractor(return_attention_mask=True), self.root / "model")
        return self.root / "model"

    @cached_property
    def text_model(self) -> Path:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        BertForSequenceClassification(BertConfig(vocab_size=50, **sizes)).save_pretrained(self.root / "text_model")
        return self.root / "text_model"

    def _damaged(self, name: str, file: str, content: bytes | None, of: str = "model") -> Path:
        """A copy of a checkpoint in which one file has another content; None removes it."""
        shutil.copytree(self[of], folder := self.root / name)
        (folder / file).unlink(missing_ok=True)
        if content is not None:
            (folder / file).write_bytes(content)
        return folder

    def _configured(self, name: str, **changes) -> Path:
        config = json.loads((self.model / "config.json").read_text())
        changed = {key: value for key, value in (config | changes).items() if value is not None}
        return self._damaged(name, "config.json", json.dumps(changed).encode())

    @cached_property
    def weights(self) -> bytes:
        return (self.model / "model.safetensors").read_bytes()

    @cached_property
    def empty_weights(self) -> Path:
        return self._damaged("empty_weights", "model.safetensors", b"")

    @cached_property
    def cut_weights(self) -> Path:
        return self._damaged("cut_weights", "model.safetensors", self.weights[:-100])

    @cached_property
    def garbled_weights(self) -> Path:
        return self._damaged("garbled_weights", "model.safetensors", b"\xff" * 400 + self.weights[400:])

    @cached_property
    def no_weights(self) -> Path:
        return self._damaged("no_weights", "model.safetensors", None)

    @cached_property
    def no_extractor(self) -> Path:
        return self._damaged("no_extractor", "preprocessor_config.json", None)

    @cached_property
    def no_tokenizer(self) -> Path:
        return self._damaged("no_tokenizer", "vocab.txt", None, of="text_model")

    @cached_property
    def empty_config(self) -> Path:
        return self._damaged("empty_config", "config.json", b"")

    @cached_property
    def list_config(self) -> Path:
        return self._damaged("list_config", "config.json", b"[1, 2]")

    @cached_property
    def typeless_config(self) -> Path:
        return self._configured("typeless_config", model_type=None, auto_map=None)

    @cached_property
    def unknown_type(self) -> Path:
        return self._configured("unknown_type", model_type="telepathy", auto_map=None)

    @cached_property
    def impossible_config(self) -> Path:
        audio = json.loads((self.model / "config.json").read_text())["audio_config"]
        return self._configured("impossible_config", audio_config=audio | {"hidden_size": "wide"})

    @cached_property
    def other_labels(self) -> Path:
        names = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
        return self._configured("other_labels", **names)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("inputs"))


def words_of(case: dict, inputs: Inputs, folder: Path) -> tuple[list[str], list[str]]:
    """The words of a case's command line, and the parts of its message. A recipe that names no corpus, folder or YAML
    gets one."""
    out = folder / "out"

    def filled(text: str) -> str:
        for name in {"out", *(name for name in dir(Inputs) if name[0] != "_")}:
            if f"{{{name}}}" in text:
                text = text.replace(f"{{{name}}}", str(out if name == "out" else inputs[name]))
        return text

    lexer = shlex.shlex(case.get("line", "wav2vec2_cls"), posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.quotes, lexer.commenters, lexer.escape = True, "'", "", ""
    words = [filled(word) for word in lexer]
    if "yaml" in case:
        (file := folder / "run.yaml").write_bytes(case["yaml"].encode(case.get("encoding", "utf-8")))
        words += ["--config", str(file)]
    recipe = words[1] if words[:1] == ["cv"] else words[0] if words else ""
    if recipe in RECIPES:
        if words[0] == "cv":
            words[1] = str(REPO / "recipes" / f"{recipe}.py")
        usual = {"--dataset": inputs.corpus, "--config": "none", "--output_dir": out, "--use_cpu": "true"}
        if recipe.startswith("wav2vec2") and not {"--model_type", "--do_train"} & {*words} and "yaml" not in case:
            usual["--model_name_or_path"] = inputs.model
        words += [word for flag, value in usual.items() if flag not in words for word in (flag, str(value))]
    return words, [filled(str(part)) for part in case["says"]]


@cache
def main_of(recipe: str):
    spec = importlib.util.spec_from_file_location(recipe, REPO / "recipes" / f"{recipe}.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module.main


def status_of(words: list[str], monkeypatch) -> int:
    """The exit status of a command line, run in this process as its console entry runs it."""
    if words and words[0] in RECIPES:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            run.cli(main_of(words[0]))
        return stop.value.code
    return cli.main(words)


def named(kind: str, case: dict):
    return pytest.param(case, id=f"{kind}: {case.get('line') or repr(case['yaml'])}")


@pytest.mark.parametrize("case", [named(kind, case) for kind, cases in CASES.items() for case in cases])
def test_one_line(case, inputs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words, says = words_of(case, inputs, tmp_path)
    before = {*inputs.root.rglob("*")}
    capfd.readouterr()
    status = status_of(words, monkeypatch)
    err = capfd.readouterr().err
    check(status, err, says)
    made = {*inputs.root.rglob("*"), *(tmp_path / "out").rglob("*")} - before
    assert not [path for path in made if path.is_file()]


def check(status: int, err: str, says: list[str]) -> None:
    assert "Traceback" not in err, err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert status == 2
    for part in says:
        assert part in err, f"{part!r} is not in {err!r}"


# ---- the door itself


class SafetensorError(Exception):
    """As safetensors' own, which is of no other class."""


class OutOfMemoryError(RuntimeError):
    """As torch's own."""


IN_A_WORKER = (
    "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n{0}: {1}\n"
)


def hub_errors() -> list[tuple[Exception, str]]:
    """What huggingface_hub raises of a repository that is gated or missing, and without a network."""
    from huggingface_hub import errors

    http = importlib.import_module(errors.HfHubHTTPError.__mro__[1].__module__)  # the client that it is built on
    response = http.Response(403, request=http.Request("GET", "https://huggingface.co/you/model"))
    return [
        (errors.GatedRepoError("Access to you/model is restricted", response=response), "hf auth login"),
        (errors.RepositoryNotFoundError("404: you/model", response=response), "you/model"),
        (errors.OfflineModeIsEnabled("offline mode is enabled"), "the Hub cannot be reached"),
        (http.ConnectError("Name or service not known"), "the Hub cannot be reached"),
        (errors.HfHubHTTPError("500 Server Error", response=response), "500 Server Error"),
    ]


TROUBLES = [
    (SerError("--fold 9: no such fold"), "--fold 9: no such fold"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/d/a.wav"), "/d/a.wav: no such file"),
    (PermissionError(errno.EACCES, "Permission denied", "/d/a.wav"), "/d/a.wav: permission denied"),
    (OSError(errno.ENOSPC, "No space left on device", "/d/x"), "/d/x: no space left on the disk; free some"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the disk"),
    (OSError(errno.ENOSPC, "No space left on device", "/from/x", None, "/to/x"), "/to/x: no space left on the disk"),
    (RuntimeError("basic_ios::clear: iostream error"), "no space left on the disk"),
    (SafetensorError("Error: No space left on device (os error 28)"), "no space left on the disk"),
    (SafetensorError("header too small"), "a safetensors file is damaged or cut off (header too small)"),
    (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/3"), "no space left on the disk"),
    (MemoryError(), "the memory is full (MemoryError)"),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "the memory is full (CUDA out of memory."),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the memory is full"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "the memory is full"),
    (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "no space left"),
    (SerError(IN_A_WORKER.format("ser_hf.errors.SerError", "a.wav: gone")), "error: a.wav: gone\n"),
    (OSError(IN_A_WORKER.format("OSError", "a.wav: gone")), "error: a.wav: gone\n"),
    (SerError("a\rb\x1b[2J\n.wav: no audio"), r"error: a b\x1b[2J .wav: no audio"),
    (OSError("first line\n\n  second " + "x" * 3000), "first line second xxx"),
]


@pytest.mark.parametrize(("error", "says"), TROUBLES, ids=range(len(TROUBLES)))
def test_troubles_are_one_line(error, says, capsys):
    def body():
        raise error

    assert door(body) == 2
    err = capsys.readouterr().err
    assert says in err and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 600


def test_troubles_of_the_hub_are_one_line(capsys):
    for error, says in hub_errors():
        test_troubles_are_one_line(error, says, capsys)


def test_the_cause_of_a_wrapped_trouble_is_told(capsys):
    """datasets and transformers raise their own errors from a full disk or memory."""
    for cause, says in ((OSError(errno.ENOSPC, "No space left on device"), "no space left"), (MemoryError(), "memory")):

        def body(cause=cause):
            try:
                raise cause
            except Exception as error:
                raise ValueError("An error occurred while generating the dataset") from error

        assert door(body) == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [KeyError("uar"), RuntimeError("mat1 and mat2"), AssertionError(), ZeroDivisionError()]
)
def test_a_defect_keeps_its_traceback(error, capsys):
    def body():
        raise error

    assert door(body) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)") and type(error).__name__ in err
    assert err.splitlines()[-1] == "This is a defect of ser_hf: open an issue with this traceback and the command."


def test_statuses(capsys, monkeypatch):
    def stops():
        raise KeyboardInterrupt

    assert (door(lambda: None), door(lambda: 1), door(stops, "stopped; go on")) == (0, 1, 130)
    assert capsys.readouterr().err == "stopped; go on\n"
    monkeypatch.setenv("RANK", "1")  # the first process says what all have in common
    assert door(lambda: (_ for _ in ()).throw(SerError("--fold 9"))) == 2 and not capsys.readouterr().err
    assert door(lambda: (_ for _ in ()).throw(MemoryError())) == 2 and "memory" in capsys.readouterr().err
    assert door(lambda: (_ for _ in ()).throw(AudioError("a.wav"))) == 2 and "a.wav" in capsys.readouterr().err


# ---- what is right


def test_yaml_values_are_as_typed(inputs, tmp_path):
    """YAML's own types would make 8 of 010, false of no and 90 of 1:30."""
    (tmp_path / "run.yaml").write_text(
        "\ufefffold: 010\nlearning_rate: 1e-4\nfreeze_encoder: no\nlabels: null\nlayers: []\nadd_labels: [no, 010]\n"
        "model_type: hubert\nconfig_overrides: {layerdrop: 0, conv_bias: no}\nreport_to: none\n",
        encoding="utf-8",
    )
    settings = settings_of("wav2vec2_cls", "--dataset", "ravdess", "--config", tmp_path / "run.yaml")
    assert settings.data.fold == 10 and settings.training.learning_rate == 1e-4
    assert settings.encoder.freeze_encoder is False and settings.data.labels is None and settings.head.layers is None
    assert settings.data.add_labels == ["no", "010"]
    assert json.loads(settings.encoder.config_overrides) == {"layerdrop": 0, "conv_bias": False}


def test_the_command_line_empties_what_it_makes_idle(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: demo\nmask_time_prob: 0.1\nnoise_p: 0\npooling: max\n")
    settings = settings_of("wav2vec2_cls", "--config", tmp_path / "run.yaml", "--freeze_encoder", "true")
    assert settings.encoder.mask_time_prob is None and "mask_time_prob" not in settings.overrides
    assert settings.head.pooling == "max"
    (tmp_path / "net.yaml").write_text("dataset: demo\narch: resnet50\nn_mels: 64\n")
    flags = ("--config", tmp_path / "net.yaml", "--model_name_or_path", "a/b", "--do_train", "false")
    assert not {"arch", "n_mels"} & {*settings_of("spectrogram_cls", *flags).overrides}


def test_help_shows_the_ranges_of_training(capsys):
    for flag in ("--help_all", "--help"):
        with pytest.raises(SystemExit):
            settings_of("wav2vec2_cls", "--dataset", "demo", flag)
        text = " ".join(capsys.readouterr().out.split())
        assert "(at least 0 and at most 1)" in text  # --mask_time_prob
        assert ("(at least 0 and at most 4294967295)" in text) == (flag == "--help_all")  # --seed


def test_every_limit_is_of_a_flag():
    from transformers import TrainingArguments

    from ser_hf.training.settings import JSON_FLAGS, OF_TOKENS, TRAINING_LIMITS

    assert {*TRAINING_LIMITS, *JSON_FLAGS, *OF_TOKENS} <= {*TrainingArguments.__dataclass_fields__}


# ---- as users start them

CONSOLE = "import sys; from ser_hf.cli import main; raise SystemExit(main(sys.argv[1:]))"
PROCESSES = [
    ("wav2vec2_cls --learning_rate nan", "--learning_rate"),
    ("wav2vec2_cls --model_name_or_path {cut_weights}", "model.safetensors"),
    ('text_cls --model_type bert --config_overrides {"hidden_size":0}', "hidden_size 0"),
    ("predict {clip} --model {garbled_weights}", "model.safetensors"),
    ("prdict x", "did you mean 'predict'"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "says"), PROCESSES)
def test_one_line_of_a_process(line, says, inputs, tmp_path):
    words, _ = words_of({"line": line, "says": []}, inputs, tmp_path)
    recipe = words[0] in RECIPES
    start = [str(REPO / "recipes" / f"{words[0]}.py"), *words[1:]] if recipe else ["-c", CONSOLE, *words]
    done = subprocess.run([sys.executable, *start], capture_output=True, text=True, cwd=tmp_path)
    check(done.returncode, done.stderr, [says])


@pytest.mark.slow
def test_a_full_disk_is_one_line(inputs, tmp_path):
    with open("/dev/full", "w") as full:
        start = [sys.executable, "-c", CONSOLE, "corpora"]
        done = subprocess.run(start, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    check(done.returncode, done.stderr, ["no space left on the disk"])


def test_a_full_disk_is_named_and_the_former_file_stays(tmp_path, capsys):
    """`/dev/full` refuses every byte."""
    write(tmp_path / "table.csv", "former")
    (tmp_path / f".table.csv.{os.getpid()}.half").symlink_to("/dev/full")
    assert door(lambda: write(tmp_path / "table.csv", "new")) == 2
    assert f"error: {tmp_path}/table.csv: no space left on the disk" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "former"
