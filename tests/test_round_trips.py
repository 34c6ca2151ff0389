"""Everything that is published: pushed over HTTP by `ser-hf push`, loaded by someone who has not this project, equal.

python -m pytest tests/test_round_trips.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile as sf
import torch
from test_card import fusion, spectrogram, waveform
from test_pipeline import make
from test_report import results_of
from transformers import Wav2Vec2FeatureExtractor

import warm
from conftest import TINY_OF
from hub_server import hub_server
from ser_hf.data.audio import decode
from ser_hf.data.loading import load_corpus
from ser_hf.evaluation.card import write_report
from ser_hf.models import SerPipeline, SerSpectrogramFeatureExtractor
from ser_hf.models.whisper import ClipWhisperFeatureExtractor
from ser_hf.training.lora import add_lora, save_adapter
from ser_hf.training.saved_model import save_model

WORDS = "What a day!"  # a fusion model reads them, too
TOLERANCE = 1e-5
pytestmark = pytest.mark.slow  # two processes that load and push


def at_16_khz(folder: Path):
    """A spectrogram network at the clip's rate: the stock pipeline resamples otherwise than ours."""
    return spectrogram()[0], SerSpectrogramFeatureExtractor(sampling_rate=16000)


def whisper(folder: Path):
    return make("whisper", TINY_OF["whisper"]), ClipWhisperFeatureExtractor(feature_size=8)


def lora(folder: Path):
    """The merged model; beside it are its adapter, and in another folder the encoder that was adapted."""
    model = make()
    model.encoder.save_pretrained(folder.parent / "base")
    model = add_lora(model, r=2)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return save_adapter(model.eval(), folder, "tester/base"), Wav2Vec2FeatureExtractor(return_attention_mask=True)


class Kind(NamedTuple):
    """What is pushed: `ser-hf push WHAT`, and a model's maker `(folder) -> model, processor`."""

    what: str = "model"
    make: Callable | None = None
    task: str = "audio-classification"  # a second one: all models with their own code answer in this one


KINDS = {
    "stock": Kind(make=lambda _: waveform()),
    "max-pooled": Kind(make=lambda _: waveform(pooling="max")),
    "spectrogram": Kind(make=at_16_khz),
    "whisper": Kind(make=whisper),
    "fusion": Kind(make=lambda _: fusion(), task="speech-emotion-recognition"),
    "lora": Kind(make=lora),
    "corpus": Kind("corpus"),
    "space": Kind("space"),
}
MODELS = [name for name, kind in KINDS.items() if kind.make]

# Of someone else: an answer for each repository, or the error.
STRANGER = """
import io, json, sys, traceback
sys.modules["ser_hf"] = None  # importing this project is an error in this process
import numpy as np, soundfile as sf, torch
from datasets import Audio, load_dataset
from peft import PeftModel
from transformers import AutoConfig, AutoModelForAudioClassification, Wav2Vec2ForSequenceClassification, pipeline

def model_of(repo, stock, words):
    try:
        AutoModelForAudioClassification.from_pretrained(repo, trust_remote_code=False)
        found = {"code": False}
    except ValueError as error:
        found = {"code": "trust_remote_code" in str(error)}
    classify = pipeline("audio-classification", model=repo, trust_remote_code=True)
    found["scores"] = classify(clip.copy(), top_k=None)
    with torch.no_grad():
        if stock:
            inputs = classify.preprocess(clip.copy())
            found["logits"] = classify.forward(inputs)["logits"][0].tolist()
        else:
            ours = pipeline("speech-emotion-recognition", model=repo, trust_remote_code=True)
            pieces = {"samples": [clip["array"]] * 2, "text": [None, words]}
            found["logits"], found["with text"] = ours.forward(pieces)["logits"].tolist()
        if repo.endswith("lora"):  # as its card has it
            config = AutoConfig.from_pretrained(repo)
            base = Wav2Vec2ForSequenceClassification.from_pretrained("tester/base", config=config)
            adapted = PeftModel.from_pretrained(base, repo, subfolder="adapter").eval()
            found["adapter"] = adapted(**inputs).logits[0].tolist()
    return found

def corpus_of(repo):
    rows = load_dataset(repo, split="train").cast_column("audio", Audio(decode=False))
    read = {row["id"]: sf.read(io.BytesIO(row["audio"]["bytes"]), dtype="int16")[0].tolist() for row in rows}
    return {"labels": rows.features["label"].names, "label": dict(zip(rows["id"], rows["label"])), "samples": read}

samples, rate = sf.read(sys.argv[1], dtype="float32")
clip, found = {"array": samples, "sampling_rate": rate}, {}
for name, (what, stock, words) in json.loads(sys.argv[2]).items():
    try:
        repo = f"tester/{name}"
        found[name] = model_of(repo, stock, words) if what == "model" else corpus_of(repo)
    except Exception:
        found[name] = {"error": traceback.format_exc()}
print("RESULT" + json.dumps(found))
"""
AUTHOR = """
import json, sys
from ser_hf.cli import main
for words in json.loads(sys.argv[1]):
    assert main(["push", *words]) == 0, words
"""


@pytest.fixture(scope="module")
def pushed(fake_corpus, tmp_path_factory):
    """All kinds, pushed by one process and loaded by another, which have nothing in common but the Hub: the models in
    memory, what the other process found, and the files on the Hub."""
    home = tmp_path_factory.mktemp("round_trips")
    corpus = str(fake_corpus("emodb"))
    clip = load_corpus("emodb", "4class", corpus)[0]
    samples = decode(clip["audio"], 16000)
    sf.write(home / "clip.wav", samples, 16000, subtype="FLOAT")
    models, stock = {}, {}
    for name in MODELS:
        torch.manual_seed(0)
        model, processor = models[name] = KINDS[name].make(home / name)
        saved = save_model(model, processor, home / name)
        stock[name] = saved.__module__.startswith("transformers.")
        results, table = results_of(model={"stock": stock[name], "class": saved.__name__, "task": KINDS[name].task})
        write_report(home / name, results, table)
    given = {"corpus": ["emodb", "--labels", "4class", "--data_dir", corpus], "space": ["tester/max-pooled"]}
    source = {name: given.get(name, [str(home / name)]) for name in KINDS}
    pushes = [[kind.what, *source[name], "--repo_id", f"tester/{name}"] for name, kind in KINDS.items()]
    asked = {name: [kind.what, stock.get(name), WORDS if name == "fusion" else None] for name, kind in KINDS.items()}
    del asked["space"]
    with hub_server() as hub:
        hub.add_repo("tester/base", {file.name: file.read_bytes() for file in (home / "base").iterdir()})
        for who, code, words in (
            ("author", AUTHOR, [json.dumps(pushes)]),
            ("stranger", STRANGER, [str(home / "clip.wav"), json.dumps(asked)]),
        ):
            env = hub.env(home / f"home of {who}") | {"OMP_NUM_THREADS": "1"}
            done = warm.python("-c", code, *words, env=env, cwd=home)
            assert done.returncode == 0, done.stderr[-3000:]
        assert not hub.unknown and not hub.errors
        on_hub = {name: (f"tester/{name}", kind.what.replace("corpus", "dataset")) for name, kind in KINDS.items()}
        files = {name: hub.files(*where) for name, where in on_hub.items()}
        assert all(hub.is_private(*where) for where in on_hub.values())
    return models, json.loads(done.stdout.split("RESULT")[1]), files, samples


@pytest.mark.parametrize("name", KINDS)
def test_pushed_equals_loaded_by_a_stranger(name, pushed, fake_corpus):
    models, found, files, samples = pushed
    for file, content in files[name].items():
        assert b"/tmp/" not in content, file
        if file.endswith(".py"):
            compile(content, file, "exec")
    if KINDS[name].what == "space":
        assert {"app.py", "requirements.txt", "README.md"} <= set(files[name])
        assert b"'tester/max-pooled'" in files[name]["app.py"] and "ser_hf/publish/page.py" in files[name]
        return
    assert "error" not in (got := found[name]), got["error"]
    if KINDS[name].what == "corpus":
        corpus = load_corpus("emodb", "4class", str(fake_corpus("emodb")))
        assert got["labels"] == corpus.features["label"].names
        assert got["label"] == dict(zip(corpus["id"], corpus["label"], strict=True))
        for row in corpus:
            assert got["samples"][row["id"]] == sf.read(row["audio"]["path"], dtype="int16")[0].tolist()
        return
    model, processor = models[name]
    extractor = getattr(processor, "feature_extractor", processor)
    ours = SerPipeline(model=model, feature_extractor=extractor, processor=processor if name == "fusion" else None)
    logits = ours.forward({"samples": [samples] * 2, "text": [None, WORDS if name == "fusion" else None]})["logits"]
    scores = dict(zip(model.config.id2label.values(), logits[0].softmax(-1).tolist(), strict=True))
    assert {entry["label"]: entry["score"] for entry in got["scores"]} == pytest.approx(scores, abs=TOLERANCE)
    assert got["code"] == any(file.endswith(".py") for file in files[name])  # which runs only if it is trusted
    for what, expected in (("logits", logits[0]), ("with text", logits[1]), ("adapter", logits[0])):
        if what in got:
            assert np.abs(np.array(got[what]) - expected.numpy()).max() <= TOLERANCE, what
    assert ("adapter" in got) == (name == "lora") and "logits" in got
    if name == "fusion":
        assert (logits[0] - logits[1]).abs().max() > 100 * TOLERANCE  # words matter
