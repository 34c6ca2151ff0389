"""Hostile inputs, each through its own command line: one line that names the thing, exit status 2, nothing written.

python -m pytest tests/test_bad_inputs.py -k config_overrides

`tests/bad_inputs/*.yaml` hold the cases, one file for each kind. `line` is a recipe or a command of ser-hf with its
arguments, in which `{name}` is one of the `Inputs`; `yaml` is the content of a file that is given by `--config`; `says`
are parts of the line on stderr.
"""

import importlib.util
import json
import shlex
import shutil
import sys
from functools import cache, cached_property
from pathlib import Path

import pytest
import soundfile as sf
import yaml
from test_pipeline import LABELS, RATE, make, noise
from transformers import BertConfig, BertForSequenceClassification, Wav2Vec2FeatureExtractor

from conftest import RECIPES, REPO
from ser_hf import cli
from ser_hf.training import run
from ser_hf.training.hub import save_model

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

    @cached_property
    def foreign_results(self) -> Path:
        return self._damaged("foreign_results", "results.json", b'{"trained_on": [{"accuracy": 1}]}')

    @cached_property
    def list_results(self) -> Path:
        return self._damaged("list_results", "results.json", b"[0.9, 0.8]")


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
