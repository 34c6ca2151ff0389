"""The fusion recipe through its command line, and what it keeps of frozen encoders."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from test_recipes import assert_equal_runs

from conftest import TINY, run_recipe, settings_of, setup_of, tiny_config
from ser_hf import SerError, load_corpus, split
from ser_hf.training.encoder_states import StateCollator, head_of, put_back
from ser_hf.training.encoder_states import encode as encode_states
from ser_hf.training.settings import ClipArguments

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 80}
SHORT = ("--max_steps", "6", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "3")
SHORT += ("--save_steps", "3", "--save_total_limit", "5", "--per_device_train_batch_size", "1", "--head_size", "8")
SHORT += ("--use_cpu", "true", "--disable_tqdm", "true", "--config", "none", "--modality_dropout", "0")
SHORT += ("--head_dropout", "0")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory, fake_corpus):
    """Folders of a tiny audio encoder, a spectrogram model, and a BERT, with what reads their inputs."""
    from transformers import (
        BertConfig,
        BertModel,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Model,
        WhisperFeatureExtractor,
        WhisperModel,
        set_seed,
    )

    from ser_hf.models import SerForSpectrogramClassification, SerSpectrogramConfig, SerSpectrogramFeatureExtractor
    from ser_hf.training.text_model import train_tokenizer

    set_seed(0)
    home = tmp_path_factory.mktemp("encoders")
    Wav2Vec2Model(Wav2Vec2Config(**TINY)).save_pretrained(home / "audio")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(home / "audio")
    WhisperModel(tiny_config("whisper")).save_pretrained(home / "whisper")
    WhisperFeatureExtractor(feature_size=8).save_pretrained(home / "whisper")
    extractor = SerSpectrogramFeatureExtractor()
    SerForSpectrogramClassification(SerSpectrogramConfig(arch="cnn2d_2")).save_pretrained(home / "spectrogram")
    extractor.save_pretrained(home / "spectrogram")
    config = BertConfig(**TEXT)
    texts = load_corpus("demo", data_dir=fake_corpus("demo"))["text"]
    config, tokenizer = train_tokenizer(list(texts), config, 80)
    BertModel(config, add_pooling_layer=False).save_pretrained(home / "text")
    tokenizer.save_pretrained(home / "text")
    return home


@pytest.fixture
def demo(encoders, fake_corpus):
    data = ["--dataset", "demo", "--data_dir", str(fake_corpus("demo"))]
    return [*data, "--audio_model", str(encoders / "audio"), "--text_model", str(encoders / "text"), *SHORT]


@pytest.fixture(scope="module")
def trained(encoders, fake_corpus, tmp_path_factory):
    """One finished run with frozen encoders, and where its states are kept."""
    home = tmp_path_factory.mktemp("fusion")
    flags = ["--dataset", "demo", "--data_dir", str(fake_corpus("demo")), *SHORT]
    flags += ["--audio_model", str(encoders / "audio"), "--text_model", str(encoders / "text")]
    flags += ["--gradient_accumulation_steps", "2", "--output_dir", str(home / "run")]
    done = run_recipe("fusion_cls", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return home / "run", done.stdout


def test_what_a_run_leaves_behind(trained):
    folder, screen = trained
    results = json.loads((folder / "results.json").read_text())
    assert set(results["comparisons"]) == {"audio_only", "text_only", "average"}
    for other in results["comparisons"].values():
        difference = results["test"]["metrics"]["uar"] - other["metrics"]["uar"]
        assert other["difference"]["uar"] == pytest.approx(difference)
        low, high = other["difference_intervals"]["uar"]
        assert low <= high
    table = pd.read_parquet(folder / "predictions.parquet")
    assert {"prediction_audio_only", "prediction_text_only", "prediction_average"} <= set(table.columns)
    assert "audio only" in screen and "difference in UAR" in screen
    card = (folder / "README.md").read_text()
    assert 'pipeline("speech-emotion-recognition"' in card and "trust_remote_code=True" in card
    assert not (folder / "audio_only").exists() and not (folder / "text_only").exists()
    sizes = [file.stat().st_size for file in folder.glob("checkpoint-*/model.safetensors")]
    assert max(sizes) < 0.5 * (folder / "model.safetensors").stat().st_size  # heads, not encoders


def test_the_saved_model_answers_what_the_report_says(trained, fake_corpus):
    """Figures come from cached states; the whole model, from raw audio and text through the pipeline, agrees."""
    from transformers import pipeline

    import ser_hf.models  # noqa: F401  (registers the task)

    folder, _ = trained
    recognize = pipeline("speech-emotion-recognition", model=str(folder), trust_remote_code=True)
    texts = {row["id"]: row["text"] for row in load_corpus("demo", data_dir=fake_corpus("demo"))}
    table = pd.read_parquet(folder / "predictions.parquet")
    for _, row in table.iterrows():
        audio = str(fake_corpus("demo") / "wav" / f"{row['id']}.wav")
        for entry in recognize({"audio": audio, "text": texts[row["id"]]}):
            assert entry["score"] == pytest.approx(row[f"score_{entry['label']}"], abs=1e-4)
        alone = recognize({"audio": audio})
        assert sum(entry["score"] for entry in alone) == pytest.approx(1)


@pytest.mark.slow
def test_two_processes_are_one_with_two_accumulation_steps(trained, demo, tmp_path):
    env = _environment(tmp_path / "cache")  # both encode, each its share
    done = run_recipe("fusion_cls", *demo, "--output_dir", str(tmp_path / "two"), processes=2, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_runs(trained[0], tmp_path / "two", 1e-5)
    one, two = (json.loads((f / "results.json").read_text()) for f in (trained[0], tmp_path / "two"))
    for part in ("test", "comparisons"):
        assert one[part] == two[part]

    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "two" / "checkpoint-3", resumed / "checkpoint-3")
    before = _files(tmp_path / "cache")
    more = ("--output_dir", str(resumed), "--resume_from_checkpoint", "true")
    done = run_recipe("fusion_cls", *demo, *more, processes=2, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_runs(tmp_path / "two", resumed, 1e-6)
    assert before and _files(tmp_path / "cache") == before  # nothing was encoded again


def _environment(cache) -> dict:
    import os

    return {**os.environ, "SER_CACHE": str(cache)}


def _files(folder) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_everything_trained_on_raw_input_and_scored_again(demo, tmp_path):
    flags = [*demo, "--freeze_encoders", "false", "--fusion", "cross_attention", "--output_dir", str(tmp_path / "all")]
    done = run_recipe("fusion_cls", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "all" / "results.json").read_text())
    assert set(results["comparisons"]) == {"without_audio", "without_text"}
    drop = demo.index("--audio_model")
    again = [*demo[:drop], *demo[drop + 4 :], "--model_name_or_path", str(tmp_path / "all"), "--do_train", "false"]
    done = run_recipe("fusion_cls", *again, "--output_dir", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_runs(tmp_path / "all", tmp_path / "again", 1e-6)


@pytest.mark.slow
def test_a_spectrogram_model_is_an_audio_encoder_too(demo, encoders, tmp_path):
    flags = list(demo)
    flags[flags.index("--audio_model") + 1] = str(encoders / "spectrogram")
    done = run_recipe("fusion_cls", *flags, "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["audio_config"]["arch"] == "cnn2d_2"


MISTAKES = {
    "no audio model": (("--audio_model", None), "--audio_model is missing: name a checkpoint"),
    "no text model": (("--text_model", None), "--text_model is missing"),
    "wrong folder": (("--audio_model", "{tmp}/nowhere"), "--audio_model .*/nowhere: no such folder; train it first"),
    "not trained yet": (("--text_model", "runs/none"), "--text_model runs/none: no such folder; train it first"),
    "text for audio": (("--audio_model", "{text}"), "fusion of .*/text and .*/text: "),
    "audio for text": (("--text_model", "{audio}"), "fusion of .*/audio and .*/audio: "),
    "another fold": (
        ("--audio_model", "{tmp}/fold{{fold}}"),
        "leak: .*fold0 was trained on demo with fold 1 and not 0",
    ),
    "as an addition": (("--text_model", "{tmp}/added"), "leak: .*added was trained on demo as a whole"),
    "fusion": (("--fusion", "sum"), "--fusion"),
    "nothing to score": (("--do_train", "false"), "--model_name_or_path is missing"),
    "two ways": (("--model_name_or_path", "x"), "--model_name_or_path x: is scored with --do_train false"),
    "all frames of all layers": (("--pooling", "attentive --use_weighted_layer_sum true"), "all frames of all layers"),
    "too long texts": (("--max_text_length", "5000"), "--max_text_length 5000"),
    "no texts": (("--data_dir", "{tmp}/silent"), "no utterance of (train|test|validation) has text: fusion needs both"),
    "31 s for Whisper": (
        ("--audio_model", "{whisper} --min_seconds 31"),
        "--min_seconds 31: whisper reads 30 s; give less",
    ),
    "a flag of others": (("--window_seconds", "1"), "--window_seconds: the recipe of fusion does not use it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(mistake, demo, encoders, fake_corpus, tmp_path, capsys, monkeypatch):
    import re
    import runpy
    import sys

    from conftest import REPO

    run = {"corpus": "demo", "added": [], "protocol": "6fold", "fold": 1, "split_seed": 42}
    run |= {"test_ids": "other", "test_speakers": None}
    for name, training in (("fold0", run), ("added", {**run, "corpus": "emodb", "added": ["demo"]})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"ser_hf": "0", "trained_on": [training]}))
        (tmp_path / name / "config.json").write_text('{"model_type": "wav2vec2"}')
    shutil.copytree(fake_corpus("demo"), tmp_path / "silent")
    table = tmp_path / "silent" / "metadata.csv"
    rows = [re.sub(r'^(wav[^,]*,\w+,)("[^"]*"|[^,]*)', r"\1", line) for line in table.read_text().splitlines()]
    table.write_text("\n".join(rows))
    (flag, value), message = MISTAKES[mistake]
    given = [*demo, "--output_dir", str(tmp_path / "out")]
    if flag in given:
        at = given.index(flag)
        del given[at : at + 2]
    if value is not None:
        names = {"text": encoders / "text", "audio": encoders / "audio", "whisper": encoders / "whisper"}
        given += [flag, *value.format(tmp=tmp_path, **names).split()]
    monkeypatch.setattr(sys, "argv", ["fusion_cls.py", *given])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPO / "recipes" / "fusion_cls.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(lines) == 1 and re.search(message, lines[0]), lines


# ---- the cache


@pytest.fixture
def setting(encoders, tmp_path, monkeypatch):
    """A fusion model, its processor, and a small corpus whose clips may be changed."""
    from ser_hf.training import fusion_model as fusion

    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    import fakes.demo

    fakes.demo.make(tmp_path / "demo")
    training = settings_of("fusion_cls", "--dataset", "demo", "--disable_tqdm", "true").training

    def load(**flags):
        names = {"audio_model": str(encoders / "audio"), "text_model": str(encoders / "text")}
        return fusion.fusion_model(["a", "b"], **{**names, "head_size": 8, **flags})

    def encode(model, processor, **clips):
        rows = load_corpus("demo", data_dir=tmp_path / "demo", cache_dir=tmp_path / "datasets")
        clips, splits = ClipArguments(**clips), split(rows, "demo")
        return encode_states(model, processor, splits, clips, training, budget=36.0), rows

    return load, encode, tmp_path


def entries(cache) -> dict[str, int]:
    from safetensors import safe_open

    parts = {folder.name: folder.rglob("*.safetensors") for folder in cache.iterdir()}
    return {name: sum(len(safe_open(part, "np").keys()) for part in files) for name, files in parts.items()}


def test_only_what_changed_is_encoded_again(setting, encoders):
    load, encode, home = setting
    states, rows = encode(*load())
    clips, texts = len(set(rows["audio_hash"])), len(set(rows["text"]))
    first = entries(home / "cache")
    assert sorted(first.values()) == sorted([clips, texts])
    encode(*load())
    encode(*load(fusion="gated", head_size=4, use_weighted_layer_sum=False))  # what comes behind the encoders
    assert entries(home / "cache") == first

    sf.write(home / "demo" / "wav" / "f1_00.wav", np.random.default_rng(0).normal(0, 0.1, 9000), 16000)
    encode(*load())  # one clip more
    now = entries(home / "cache")
    assert now.keys() == first.keys() and sorted(now[name] - first[name] for name in now) == [0, 1]

    other = {  # every setting that changes states makes new ones
        "pooling": lambda: encode(*load(pooling="max")),
        "layers": lambda: encode(*load(use_weighted_layer_sum=True)),
        "text length": lambda: encode(*load(max_text_length=4)),
        "cleaning": lambda: encode(*load(text_cleaning="words")),
        "trimming": lambda: encode(*load(), trim_db=20.0),
        "length": lambda: encode(*load(), max_seconds=0.3),
    }
    for what, again in other.items():
        before = sum(entries(home / "cache").values())
        again()
        assert sum(entries(home / "cache").values()) > before, what
    model, processor = load()
    with torch.no_grad():
        model.audio_encoder.feature_projection.projection.bias[0] += 1e-3
    before = len(entries(home / "cache"))
    encode(model, processor)
    assert len(entries(home / "cache")) == before + 1  # the text encoder is as it was


def logits_of(model, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize("fusion_kind", ["concat", "gated", "cross_attention"])
@pytest.mark.parametrize("audio", ["audio", "spectrogram"])
def test_raw_input_gives_the_logits_of_cached_states(fusion_kind, audio, setting, encoders):
    from ser_hf.training import fusion_model as fusion

    load, encode, _ = setting
    model, processor = load(fusion=fusion_kind, audio_model=str(encoders / audio))
    states, rows = encode(model, processor)
    head = head_of(model)
    assert head.audio_encoder is None and model.audio_encoder is not None
    raw, kept = fusion.FusionCollator(processor, ClipArguments()), StateCollator(states)
    before = logits_of(model, raw([rows[0]]))
    with torch.no_grad():
        head.ser_classifier.bias += 1.0
    put_back(head, model)
    for row in rows:
        assert torch.allclose(logits_of(model, raw([row])), logits_of(head, kept([row])), atol=1e-5)
    assert torch.allclose(logits_of(model, raw([rows[0]])), before + 1.0, atol=1e-5)


@pytest.mark.parametrize("kind", ["group norm", "alexnet"])
def test_trimmed_clips_are_encoded_alone_by_padding_sensitive_encoders(kind, setting, encoders):
    """Clips of one length are of several after trimming; what is cached must not know who shared their batch."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    from ser_hf.models import SerForSpectrogramClassification, SerSpectrogramConfig, SerSpectrogramFeatureExtractor
    from ser_hf.training.encoder_states import check_states

    load, encode, home = setting
    rng = np.random.default_rng(0)
    for number, file in enumerate(sorted((home / "demo" / "wav").glob("*_0[0-3].wav"))):
        clip = rng.normal(0, 0.1, 12000) * (np.arange(12000) < 4000 + 700 * number)  # speech, then silence
        sf.write(file, clip, 16000)
    folder = home / "encoder"
    if kind == "alexnet":
        SerForSpectrogramClassification(SerSpectrogramConfig(arch="alexnet")).save_pretrained(folder)
        SerSpectrogramFeatureExtractor(trim_db=20.0).save_pretrained(folder)
    else:
        Wav2Vec2Model(Wav2Vec2Config(**TINY | {"feat_extract_norm": "group"})).save_pretrained(folder)
        Wav2Vec2FeatureExtractor().save_pretrained(folder)
    model, processor = load(audio_model=str(folder))
    data = {} if kind == "alexnet" else {"trim_db": 20.0}
    states, rows = encode(model, processor, **data)
    assert check_states(model, states, rows) < 1e-5
    with torch.no_grad():
        for weight in model.audio_encoder.parameters():
            weight += 0.05
    with pytest.raises(ValueError, match="encoded alone differs from its cached states"):
        check_states(model, states, rows)


def test_a_model_that_goes_by_speakers_is_refused(setting):
    from ser_hf.models import SerForSpectrogramClassification, SerSpectrogramConfig, SerSpectrogramFeatureExtractor

    load, _, home = setting
    SerForSpectrogramClassification(SerSpectrogramConfig(arch="cnn1d_3")).save_pretrained(home / "by_speaker")
    SerSpectrogramFeatureExtractor(mean_spectrum=[0.0] * 128).save_pretrained(home / "by_speaker")
    with pytest.raises(SerError, match="was trained with --speaker_norm, and fusion does not know the speakers"):
        load(audio_model=str(home / "by_speaker"))


def test_a_batch_of_states_without_text_or_audio(setting):

    load, encode, _ = setting
    model, processor = load()
    states, rows = encode(model, processor)
    row = {**rows[0], "text": None}
    batch = StateCollator(states)([row, rows[1]])
    assert batch["text_mask"].any(dim=-1).tolist() == [False, True]
    assert "audio_states" not in StateCollator(states, without="audio")([rows[0]])
    head = head_of(model).eval()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    alone = StateCollator(states)([row])
    alone = {name: value for name, value in alone.items() if name != "labels"}
    assert torch.allclose(head(**inputs).logits[:1], head(**alone).logits, atol=1e-6)


def test_nothing_left_in_a_batch_is_answered_too(setting):
    from ser_hf.training import fusion_model as fusion

    load, _, _ = setting
    model, processor = load()
    rows = [{"id": name, "audio": None, "text": text, "label": 0} for name, text in (("a", None), ("b", "[LAUGHTER]"))]
    for without in (None, "audio", "text"):
        collator = fusion.FusionCollator(processor, ClipArguments(), without)
        assert torch.isfinite(logits_of(model, collator(rows))).all()


def test_late_fusion_averages_probabilities():
    from ser_hf.evaluation.tasks import TASKS
    from ser_hf.training.fusion_model import averaged

    kind = "single_label_classification"
    first, second = {"test": np.log([[0.9, 0.1]])}, {"test": np.log([[0.3, 0.7]])}
    assert np.allclose(TASKS[kind].scores(averaged([first, second], kind)["test"]), [[0.6, 0.4]])
    values = [{"test": np.array([[1.0]])}, {"test": np.array([[3.0]])}]
    assert np.allclose(averaged(values, "regression")["test"], [[2.0]])


def test_systems_compared_with_have_thresholds_of_their_own():
    """Of several labels: the same logits as another system are no worse for it than for this one."""
    from ser_hf.evaluation.scoring import compare, decision_thresholds
    from ser_hf.training.fusion_model import on_test

    rng, kind, names = np.random.default_rng(0), "multi_label_classification", ["a", "b"]
    truth = (rng.random((60, 2)) < 0.3).astype(float)
    logits = truth * 1.5 - 3 + rng.normal(0, 0.5, (60, 2))  # nearly all below 0, so below 0.5
    rows = {"label": truth.tolist(), "speaker": [f"s{i % 6}" for i in range(60)]}
    setup = setup_of("fusion_cls", {"validation": rows, "test": rows}, label_names=names, problem_type=kind)
    others = on_test({"twin": {"validation": logits, "test": logits}}, setup)
    limits = decision_thresholds(rows, logits, names, kind)
    twin = compare(rows, logits, others, names, kind, limits)["twin"]
    assert twin["difference"]["macro_f1"] == pytest.approx(0) and twin["metrics"]["macro_f1"] > 0.5
