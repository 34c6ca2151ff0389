"""Functionals and their linear classifier: by hand, cached, fitted as scikit-learn does, saved as fitted.

python -m pytest tests/test_classical_recipe.py -m "not slow"
"""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import LinearSVC
from transformers import TrainingArguments, Wav2Vec2FeatureExtractor, Wav2Vec2Model

import warm
from conftest import REPO, run_recipe, settings_of, tiny_config
from fakes import voice
from ser_hf import SerError, load_corpus
from ser_hf.cli import main as console
from ser_hf.cli import predict
from ser_hf.loading_scripts import demo
from ser_hf.models import (
    SerForAudioClassification,
    SerForFunctionalsClassification,
    SerFunctionalsConfig,
    SerFunctionalsFeatureExtractor,
)
from ser_hf.models.functionals import CLASSIFIERS, FEATURE_SETS
from ser_hf.training import classical_model as classical
from ser_hf.training import speakers as speakers_module
from ser_hf.training.settings import ClassifierArguments, VectorArguments
from ser_hf.training.speakers import fit_map, group

EGEMAPS = FEATURE_SETS["eGeMAPSv02"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six speakers, clips of 0.5 to 1.1 s: a high voice is angry, a low one neutral."""
    root = tmp_path_factory.mktemp("calls")
    rows = []
    for speaker in range(6):
        for take in range(4):
            file = voice(root / f"s{speaker}_{take}.wav", 0.5 + 0.2 * take, seed=speaker * 10 + take)
            rows.append((file.name, ("angry", "neutral")[(take + speaker) % 2], f"s{speaker}"))
    pd.DataFrame(rows, columns=["file_name", "label", "speaker"]).to_csv(root / "metadata.csv", index=False)
    return root


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))


def by_speaker(folder: Path) -> dict:
    """Train of three speakers, validation of one, test of two."""
    rows = load_corpus(str(folder))
    names = np.array(rows["speaker"])
    parts = {"train": ("s0", "s1", "s2"), "validation": ("s3",), "test": ("s4", "s5")}
    return {part: rows.select(np.flatnonzero(np.isin(names, speakers))) for part, speakers in parts.items()}


def functionals(extractor, parts, relative=False, do_train=True):
    training = TrainingArguments("unused", use_cpu=True, do_train=do_train, disable_tqdm=True)
    return classical.functionals_of(extractor, parts, training, relative=relative)


def config_of(labels: int = 3, **config) -> SerFunctionalsConfig:
    return SerFunctionalsConfig(num_labels=labels, **config)


def rows_of(labels: int, rows: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random functionals of very different sizes, a constant one, and labels that depend on them."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(labels, size=rows)
    features = generator.normal(size=(rows, EGEMAPS)) + truth[:, None] * generator.normal(size=EGEMAPS) / 2
    features = features * 10.0 ** generator.integers(-3, 4, size=EGEMAPS) + 5
    features[:, 7] = 3.3
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(truth)


# ---- functionals


@pytest.mark.parametrize("feature_set", FEATURE_SETS)
def test_functionals_are_those_of_opensmile(folder, feature_set):
    import opensmile

    kind = getattr(opensmile.FeatureSet, feature_set)
    smile = opensmile.Smile(feature_set=kind, feature_level=opensmile.FeatureLevel.Functionals)
    clips = [sf.read(folder / f"s0_{take}.wav", dtype="float32")[0] for take in (0, 2)]
    extractor = SerFunctionalsFeatureExtractor(feature_set)
    batch = extractor(clips, sampling_rate=16000, return_tensors="pt")
    assert list(batch) == ["input_features"] and batch["input_features"].shape == (2, FEATURE_SETS[feature_set])
    for clip, values in zip(
        clips, batch["input_features"], strict=True
    ):  # clips of two lengths do not change each other
        assert np.array_equal(values.numpy(), smile.process_signal(clip, 16000).to_numpy()[0])
        assert np.array_equal(extractor(clip)["input_features"][0], values.numpy())
    short = extractor(clips[0][:300])["input_features"]  # openSMILE needs 60 ms
    assert np.isfinite(short).all() and np.array_equal(
        short, extractor(np.pad(clips[0][:300], (0, 660)))["input_features"]
    )
    for wrong, message in ((np.zeros(0), "at least one sample"), (np.zeros((2, 2, 2)), "at least one sample")):
        with pytest.raises(ValueError, match=message):
            extractor([wrong])
    with pytest.raises(ValueError, match="clips at 8000 Hz: resample them to this extractor's 16000 Hz"):
        extractor(clips[0], sampling_rate=8000)


def test_wrong_settings_of_the_extractor():
    for wrong, message in (
        ({"feature_set": "eGeMAPS"}, "feature_set 'eGeMAPS': choose one of eGeMAPSv02, ComParE_2016"),
        ({"speaker_mean": [0.0] * 88}, "speaker_scale: must have 88 values"),
        ({"speaker_mean": [0.0] * 3, "speaker_scale": [1.0] * 3}, "speaker_mean: must have 88 values"),
    ):
        with pytest.raises(ValueError, match=message):
            SerFunctionalsFeatureExtractor(**wrong)


def test_functionals_are_kept_and_renewed(folder, tmp_path):
    rows = load_corpus(str(folder))
    extractor = SerFunctionalsFeatureExtractor()
    assert functionals(extractor, {"train": rows})[2] == 24
    _, collator, computed = functionals(extractor, {"train": rows, "test": rows.select([0])})
    assert computed == 0
    batch = collator([rows[5], rows[0]])
    clips = [sf.read(folder / name, dtype="float32")[0] for name in ("s1_1.wav", "s0_0.wav")]
    assert torch.equal(batch["input_features"], extractor(clips, return_tensors="pt")["input_features"])
    assert batch["labels"].tolist() == [rows[5]["label"], rows[0]["label"]]

    changed = tmp_path / "changed"
    changed.mkdir()
    for file in folder.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    samples, rate = sf.read(changed / "s0_0.wav")
    sf.write(changed / "s0_0.wav", samples * 0.5, rate)  # another clip; the others are found by their content
    assert functionals(extractor, {"train": load_corpus(str(changed))})[2] == 1
    assert functionals(SerFunctionalsFeatureExtractor("ComParE_2016"), {"train": rows.select([0])})[2] == 1


def test_speakers_are_standardised_by_all_their_clips(folder):
    """Of test too; the saved extractor has the average speaker of train and validation, `adapted` one speaker's."""
    parts = by_speaker(folder)
    plain = SerFunctionalsFeatureExtractor()
    raw = {
        n: np.stack([plain.unscaled(sf.read(folder / f"s{n}_{take}.wav")[0]) for take in range(4)]) for n in range(6)
    }
    expected = {}
    for name, values in raw.items():
        deviation = values.astype(float).std(axis=0)
        deviation[np.ptp(values, axis=0) == 0] = 1
        expected[name] = values.astype(float).mean(axis=0), deviation
    zeros = SerFunctionalsFeatureExtractor(speaker_mean=[0.0] * EGEMAPS, speaker_scale=[1.0] * EGEMAPS)
    extractor, collator, _ = functionals(zeros, parts, relative=True)
    for part, name in (("train", 1), ("test", 4)):
        rows = [row for row in parts[part] if row["speaker"] == f"s{name}"]
        hand = (raw[name] - expected[name][0]) / expected[name][1]
        assert np.allclose(collator(rows)["input_features"], hand, atol=1e-3)
        assert np.allclose(hand.mean(axis=0), 0, atol=1e-6)
    for which, average in enumerate((extractor.speaker_mean, extractor.speaker_scale)):
        assert np.allclose(average, np.mean([expected[name][which] for name in range(4)], axis=0), rtol=1e-5)
    assert zeros.speaker_mean == [0.0] * EGEMAPS  # its argument is not changed
    assert len(extractor.speaker_values) == 2 * EGEMAPS and plain.speaker_values is None

    clips = [sf.read(folder / f"s4_{take}.wav", dtype="float32")[0] for take in range(4)]
    adapted = extractor.adapted([*clips, np.zeros(16000)])  # the silent clip is left out
    rows = [row for row in parts["test"] if row["speaker"] == "s4"]
    assert np.array_equal(adapted(clips)["input_features"], collator(rows)["input_features"].numpy())
    unknown = (raw[4][0] - np.float32(extractor.speaker_mean)) / np.float32(extractor.speaker_scale)
    assert np.allclose(extractor(clips[0])["input_features"][0], unknown)
    one = parts["test"].filter(lambda name: Path(name).stem == "s4_0", input_columns="id")
    alone = functionals(zeros, {**parts, "test": one}, relative=True)[1](list(one))["input_features"][0]
    assert np.allclose(alone, unknown, atol=1e-3) and np.abs(unknown).max() > 0.1  # as an unknown speaker's
    single = {"train": parts["train"].select([0, 4, 8]), "validation": parts["validation"].select([0])}
    with pytest.raises(SerError, match="--speaker_norm: no training speaker has 2 clips"):
        functionals(zeros, {**parts, **single}, relative=True)
    for other, clips_of, message in (
        (plain, clips, "without --speaker_norm|not trained with"),
        (zeros, [], "no clips"),
    ):
        with pytest.raises(ValueError, match=message):
            other.adapted(clips_of)

    scored, _, _ = functionals(extractor, parts, relative=True, do_train=False)
    assert scored is extractor  # a trained model keeps its own
    nameless = load_corpus(str(folder)).remove_columns("speaker").add_column("speaker", ["s0", None] * 12)
    with pytest.raises(SerError, match="--speaker_norm: 12 of 24 utterances have no speaker"):
        functionals(zeros, {"train": nameless}, relative=True)


# ---- the classifier


def test_the_forward_by_hand():
    model = SerForFunctionalsClassification(config_of(2, problem_type="single_label_classification"))
    with torch.no_grad():
        model.mean[:], model.scale[:] = 1.0, 2.0
        model.ser_classifier.weight.zero_()
        model.ser_classifier.weight[1, :2] = torch.tensor([1.0, -3.0])
        model.ser_classifier.bias[:] = torch.tensor([0.5, 0.0])
        features = torch.ones(1, EGEMAPS)
        features[0, :2] = torch.tensor([5.0, 3.0])  # (5 - 1) / 2 = 2, (3 - 1) / 2 = 1
        out = model(features, labels=torch.tensor([1]))
    assert out.logits.tolist() == [[0.5, -1.0]]  # 2 - 3
    assert float(out.loss) == pytest.approx(np.log(1 + np.exp(1.5)))


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_model_is_what_scikit_learn_fitted(classifier, labels):
    features, truth = rows_of(labels)
    values = features.numpy().astype(float)
    deviation = values.std(axis=0)
    deviation[7] = 1  # the constant
    inputs = (values - values.mean(axis=0)) / deviation
    for weight in ("none", "balanced"):
        flags = ClassifierArguments(classifier, weight)
        linear = classical.fit_linear(features, truth, labels, 0.01, flags, seed=3)
        model = classical.put_linear(linear, SerForFunctionalsClassification(config_of(labels)), 0.01)
        kind = {"svm": LinearSVC, "logistic": LogisticRegression, "ridge": RidgeClassifier}[classifier]
        strength = {"alpha": inputs.shape[1] / 0.01} if classifier == "ridge" else {"C": 0.01, "max_iter": 1000}
        theirs = kind(**strength, class_weight=None if weight == "none" else weight, random_state=3)
        theirs.fit(inputs, truth.numpy())
        with torch.no_grad():
            logits = model(features).logits
        assert model.config.complexity == 0.01 and torch.allclose(logits, linear.logits(features), atol=1e-5)
        decision = theirs.decision_function(inputs)
        ours = (logits[:, 1] - logits[:, 0]).numpy() if labels == 2 else logits.numpy()
        assert np.abs(ours - decision).max() < 1e-3  # two solutions within the solvers' tolerance
        assert (logits.argmax(dim=1).numpy() == theirs.predict(inputs)).mean() > 0.98
        if classifier == "logistic":
            assert np.abs(logits.softmax(dim=1).numpy() - theirs.predict_proba(inputs)).max() < 1e-3


def test_a_class_that_train_lacks_is_never_predicted():
    features, truth = rows_of(2)
    flags = ClassifierArguments(class_weights="balanced")
    logits = classical.fit_linear(features, truth * 2 + 1, 4, 0.01, flags, seed=0).logits(features)  # classes 1 and 3
    assert set(logits.argmax(dim=1).tolist()) == {1, 3} and (logits[:, [0, 2]] == classical.ABSENT).all()
    assert torch.allclose(logits[:, 1], -logits[:, 3])


def test_the_complexity_has_the_best_uar_on_validation(folder, monkeypatch):
    """Of equal ones the least; what is returned was fitted to both parts, the returned logits are of train alone."""
    parts, calls = by_speaker(folder), []
    assert parts["validation"]["label"] == [1, 0, 1, 0]
    # Predictions on the four validation clips by complexity: UAR 0.5, 0.75, 1, 1, 0.5, 0.
    complexities = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    answers = dict(zip(complexities, ("0000", "1110", "1010", "1010", "1111", "0101"), strict=True))
    monkeypatch.setattr(classical, "GRIDS", {"logistic": complexities})

    def fake(vectors, labels, num_labels, complexity, flags, seed):
        calls.append((complexity, len(vectors), labels.tolist(), num_labels, flags, seed))
        guesses = torch.tensor([int(digit) for digit in answers[complexity]])
        linear = classical.Linear(*[torch.zeros(1)] * 4)
        object.__setattr__(linear, "logits", lambda rows: torch.nn.functional.one_hot(guesses, 2).float())
        return linear

    monkeypatch.setattr(classical, "fit_linear", fake)
    _, extractor, _ = classical.functionals_model(["angry", "neutral"])
    collator, flags = functionals(extractor, parts)[1], ClassifierArguments("logistic", "balanced")
    _, record, logits = classical.choose(classical.fitted(parts, None), collator, 2, flags, seed=5)
    assert record["validation_uar"] == {"1e-05": 0.5, "0.0001": 0.75, "0.001": 1, "0.01": 1, "0.1": 0.5, "1": 0}
    assert (record["complexity"], record["best_validation"], record["selected_by"]) == (1e-3, 1.0, "uar")
    assert [call[:2] for call in calls[:6]] == [(complexity, 12) for complexity in complexities]
    assert calls[6:] == [(1e-3, 16, [*parts["train"]["label"], *parts["validation"]["label"]], 2, flags, 5)]
    assert logits.argmax(axis=1).tolist() == [1, 0, 1, 0]
    assert record["utterances"] == 16 and record["classifier"] == "logistic"
    angry = [row for row, label in enumerate(parts["train"]["label"]) if label]
    with pytest.raises(SerError, match="train has utterances of one class only"):
        classical.choose(
            classical.fitted({**parts, "train": parts["train"].select(angry)}, None), collator, 2, flags, seed=5
        )


@pytest.mark.parametrize("part", ["mean", "scale", "ser_classifier.bias"])
def test_an_incomplete_checkpoint_is_refused(part, tmp_path):
    features, truth = rows_of(3)
    linear = classical.fit_linear(features, truth, 3, 0.01, ClassifierArguments(), seed=0)
    model = classical.put_linear(linear, SerForFunctionalsClassification(config_of()), 0.01)
    model.save_pretrained(tmp_path)
    loaded = SerForFunctionalsClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(features).logits, model(features).logits)
    weights = load_file(tmp_path / "model.safetensors")
    assert set(weights) == {"mean", "scale", "ser_classifier.weight", "ser_classifier.bias"}
    weights.pop(part)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"weights {part} are missing"):
        SerForFunctionalsClassification.from_pretrained(tmp_path)


# ---- through the command line

CPU = ("--use_cpu", "true", "--disable_tqdm", "true", "--config", "none")


@pytest.fixture
def recipe(monkeypatch, capsys):
    """The recipe in this process, with one complexity: of equally good ones it would take the least, whose scores are
    all nearly equal. Returns what it prints."""
    monkeypatch.setattr(classical, "GRIDS", {name: (0.1,) for name in CLASSIFIERS})

    def run(*flags) -> str:
        monkeypatch.setattr(sys, "argv", ["classical_cls.py", *map(str, flags)])
        runpy.run_path(str(REPO / "recipes" / "classical_cls.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def close(scores: pd.DataFrame, expected: pd.DataFrame, tolerance: float = 1e-5) -> bool:
    """Whether two tables have the same scores, which are no constants."""
    columns = [name for name in expected if name.startswith("score_")]
    one, two = (table[columns].to_numpy(dtype=float) for table in (scores, expected))
    assert np.ptp(two, axis=0).min() > 0.05
    return np.abs(one - two).max() < tolerance


CLEAN = """
import json, sys, soundfile
sys.modules["ser_hf"] = None  # importing this project is an error in this process
from transformers import pipeline
files, out = sys.argv[2:], {}
for task in ("audio-classification", "speech-emotion-recognition"):
    classify = pipeline(task, model=sys.argv[1], trust_remote_code=True)
    clips = [soundfile.read(file, dtype="float32")[0] for file in files]
    out[task] = [classify({"array": clip, "sampling_rate": 16000}, top_k=None) for clip in clips]
print("RESULT" + json.dumps(out))
"""


def test_a_run_is_what_the_saved_model_answers(folder, tmp_path, recipe):
    run, flags = tmp_path / "run", ("--dataset", folder, *CPU, "--class_weights", "balanced")
    screen = recipe(*flags, "--output_dir", run)
    assert "functionals of 24 clips: 24 computed" in screen
    results, card = json.loads((run / "results.json").read_text()), (run / "README.md").read_text()
    trained, model = results["training"], results["model"]
    assert results["test"]["utterances"] == 8 and results["validation"]["utterances"] == 4
    assert trained["utterances"] == 16 and trained["complexity"] == 0.1
    # the report's figure on validation is that of the model that was fitted to train alone
    assert results["validation"]["metrics"]["uar"] == trained["best_validation"] == trained["validation_uar"]["0.1"]
    assert model["class"] == "SerForFunctionalsClassification" and model["parameters"] == 2 * (EGEMAPS + 1)
    assert model["encoder"] == "eGeMAPSv02 functionals of openSMILE" and results["versions"]["opensmile"]
    for line in ("then train and validation together (16 utterances) were fitted", "how far they are probabilities"):
        assert line in screen and line in card
    assert not [file.name for file in run.iterdir() if file.suffix in (".pkl", ".joblib", ".bin")]

    table = pd.read_parquet(run / "predictions.parquet")
    files = [str(folder / f"{Path(name).stem}.wav") for name in table["id"]]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    clean = warm.python("-c", CLEAN, run, *files, env=environment, cwd=tmp_path)
    assert clean.returncode == 0, clean.stderr[-3000:]
    for answers in json.loads(clean.stdout.split("RESULT")[1]).values():
        assert close(pd.DataFrame([{f"score_{e['label']}": e["score"] for e in answer} for answer in answers]), table)

    # A second run computes nothing and is the same; so is scoring the saved model, in a process of its own.
    assert "24 clips: 0 computed" in recipe(*flags, "--output_dir", tmp_path / "again")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again" / "predictions.parquet"), table)
    base = ("--dataset", folder, *CPU, "--do_train", "false", "--model_name_or_path", run)
    done = run_recipe("classical_cls", *base, "--output_dir", tmp_path / "scored")
    assert done.returncode == 0 and "24 clips: 0 computed" in done.stdout, done.stderr[-3000:]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scored" / "predictions.parquet"), table)


def test_a_run_by_speaker_is_what_the_adapted_pipeline_answers(folder, tmp_path, recipe, capsys):
    run = tmp_path / "run"
    flags = ("--speaker_norm", "true", "--classifier", "logistic", "--features", "ComParE_2016")
    screen = recipe("--dataset", folder, *CPU, *flags, "--output_dir", run)
    results, card = json.loads((run / "results.json").read_text()), (run / "README.md").read_text()
    for text in (results["model"]["details"], screen, card):
        assert "relative to each speaker's mean" in text
    assert "relative to each speaker's mean and standard deviation" in card
    assert any("in test of 4 to 4 utterances" in line for line in results["test"]["remarks"])
    assert "fold 0, SPEAKER-NORMALISED)" in " ".join(card.split()) and ".adapted(clips)\n" in card
    assert "they are probabilities" not in card  # logistic regression's are
    table = pd.read_parquet(run / "predictions.parquet")
    own = table[table["speaker"] == table["speaker"][0]]
    files = [str(folder / f"{Path(name).stem}.wav") for name in own["id"]]

    def scores(*extra) -> pd.DataFrame:
        out = tmp_path / f"scores{len(extra)}.parquet"
        assert console(["predict", *files, "--model", str(run), "--out", str(out), *extra]) == 0
        return pd.read_parquet(out)

    known, unknown = scores("--speaker_clips", *files[::-1]), scores()
    assert "assumes a mean speaker" in capsys.readouterr().err
    assert close(known, own) and not close(unknown, own, 0.01)
    by, other = known["model"][0], unknown["model"][0]
    assert by.partition(" speaker ")[0] == other and by != other

    base = ("--dataset", folder, *CPU, "--do_train", "false", "--model_name_or_path", run)
    assert "relative to" not in recipe(*base, "--speaker_norm", "false", "--output_dir", tmp_path / "strangers")
    scored = pd.read_parquet(tmp_path / "strangers" / "predictions.parquet")
    assert close(unknown, scored[scored["speaker"] == table["speaker"][0]])


@pytest.mark.slow
def test_cross_validation_covers_the_demo_corpus(tmp_path):
    demo.make(tmp_path / "demo", each=20)
    recipe, out = str(REPO / "recipes" / "classical_cls.py"), tmp_path / "cv"
    data = ("--dataset", "demo", "--data_dir", str(tmp_path / "demo"))
    assert console(["cv", recipe, *data, *CPU, "--output_dir", str(out)]) == 0
    cv = json.loads((out / "cv.json").read_text())
    assert cv["coverage"]["exactly_once"] and cv["coverage"]["in_test_sets"] == 240
    assert cv["mean"]["over_seeds"]["uar"]["mean"] > 0.8  # a voice gives its emotion away in this corpus
    logs = [(out / f"fold{fold}_seed42" / "log.txt").read_text() for fold in range(6)]
    assert ["240 clips: 240 computed" in log for log in logs] == [True, *[False] * 5]
    assert all("240 clips: 0 computed" in log for log in logs[1:])


# ---- hidden states


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A random wav2vec2 of two layers."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    Wav2Vec2Model(tiny_config("wav2vec2", num_hidden_layers=2)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


def test_a_run_on_hidden_states_is_what_the_saved_model_answers(folder, encoder, tmp_path, recipe):
    run = tmp_path / "run"
    flags = ("--features", encoder, "--layers", "0", "2", "--class_weights", "balanced")
    screen = recipe("--dataset", folder, *CPU, *flags, "--output_dir", run)
    results = json.loads((run / "results.json").read_text())
    assert results["model"]["class"] == "SerForAudioClassification" and str(encoder) not in json.dumps(results)
    assert "layers 0, 2 of its hidden states, pooled over frames (mean), are classified" in screen
    model = SerForAudioClassification.from_pretrained(run)
    assert model.config.read_layers == [0, 2] and model.ser_projector.weight.shape == (2, 2 * 16)
    temperature = results["calibration"]["temperature"] or 1.0
    assert torch.allclose(model.ser_classifier.weight, torch.eye(2) / temperature)
    # The vectors by hand: two layers, the mean over frames, standardised over the sixteen clips that were fitted.
    table, extractor = pd.read_parquet(run / "predictions.parquet"), Wav2Vec2FeatureExtractor.from_pretrained(encoder)
    plain, vectors = Wav2Vec2Model.from_pretrained(encoder).eval(), {}
    for row in load_corpus(str(folder)):
        clip = sf.read(folder / f"{Path(row['id']).stem}.wav", dtype="float32")[0]
        with torch.no_grad():
            inputs = extractor(clip, sampling_rate=16000, return_tensors="pt").input_values
            states = plain(inputs, output_hidden_states=True).hidden_states
        vectors[row["id"]] = torch.cat([states[0][0].mean(dim=0), states[2][0].mean(dim=0)])
    tested = torch.stack([vectors[name] for name in table["id"]])
    fitted = torch.stack([vector for name, vector in vectors.items() if name not in set(table["id"])])
    assert len(fitted) == 16 and torch.allclose(model.ser_scale.mean.flatten(), fitted.mean(dim=0), atol=1e-5)
    inputs = (tested - fitted.mean(dim=0)) / fitted.std(dim=0, correction=0)
    logits = inputs @ model.ser_projector.weight.T + model.ser_projector.bias
    scores = (logits / temperature).softmax(dim=1).detach()
    assert close(pd.DataFrame(scores.numpy(), columns=["score_angry", "score_neutral"]), table, 1e-3)
    files = [str(folder / f"{Path(name).stem}.wav") for name in table["id"]]
    assert console(["predict", *files, "--model", str(run), "--out", str(tmp_path / "scores.parquet")]) == 0
    assert close(pd.read_parquet(tmp_path / "scores.parquet"), table, 1e-4)


def test_a_run_on_hidden_states_by_speaker_is_what_the_adapted_model_answers(folder, encoder, tmp_path, recipe):
    run, out = tmp_path / "run", tmp_path / "scores.parquet"
    flags = ("--features", encoder, "--layers", "1", "2", "--speaker_norm", "true")
    recipe("--dataset", folder, *CPU, *flags, "--output_dir", run)
    card = (run / "README.md").read_text()
    assert "SPEAKER-NORMALISED)" in card and "classify.model.adapt(clips" in card and "standard deviation" not in card
    table = pd.read_parquet(run / "predictions.parquet")
    own = table[table["speaker"] == table["speaker"][0]]
    files = [str(folder / f"{Path(name).stem}.wav") for name in own["id"]]
    for extra, tolerance, equal in ((("--speaker_clips", *files), 1e-4, True), ((), 1e-3, False)):
        command = ["predict", *files, "--model", str(run), "--out", str(out), *extra]
        assert console(command) == 0
        assert close(pd.read_parquet(out), own, tolerance) == equal
        out.unlink()


def test_estimated_speakers_are_the_true_ones_of_voices_that_differ():
    """Twelve voices in three of forty dimensions, under an emotion five times as strong in one of the others."""
    draws = np.random.default_rng(0)
    voices, emotions = draws.normal(size=(12, 40)) * ([1] * 3 + [0] * 37), np.zeros((4, 40))
    emotions[:, 5] = [-5, -2, 2, 5]
    speakers, felt = np.repeat(np.arange(12), 24), np.tile(np.arange(4), 72)
    vectors = 3 * voices[speakers] + emotions[felt] + 0.3 * draws.normal(size=(288, 40))
    known = speakers < 8
    speaker_map = fit_map(vectors[known], [f"s{one}" for one in speakers[known]])
    assert speaker_map.weight.shape == (7, 40)
    for test in ([8, 9, 10, 11], [9, 11], [10]):
        rows = np.isin(speakers, test)
        found = group(speaker_map, vectors[rows])
        assert len(set(zip(found, speakers[rows], strict=True))) == len(set(found)) == len(test)
    assert group(speaker_map, vectors[:1]) == [1] and group(speaker_map, vectors[:0]) == []
    few = "--estimate_speakers: four training speakers with two clips or more are needed, there are "
    with pytest.raises(SerError, match=few + "3"):
        fit_map(vectors[speakers < 3], [str(one) for one in speakers[speakers < 3]])
    with pytest.raises(SerError, match=few + "0"):
        fit_map(vectors[::24], [str(one) for one in speakers[::24]])
    # Those of one clip say nothing of how clips of one speaker differ.
    rows = np.r_[0:96, 96:288:24]
    alone = fit_map(vectors[rows], [str(one) for one in speakers[rows]])
    assert np.allclose(alone.weight, fit_map(vectors[:96], [str(one) for one in speakers[:96]]).weight)


@pytest.mark.parametrize("count", range(4, 12))
def test_two_speakers_or_more_are_held_out_at_a_time_and_each_once(count, monkeypatch):
    held, fit = [], speakers_module._discriminant
    speakers = np.repeat([f"s{one}" for one in range(count)], 3)

    def discriminant(vectors, known):
        held.append(sorted({*speakers} - {*known}))
        return fit(vectors, known)

    monkeypatch.setattr(speakers_module, "_discriminant", discriminant)
    fit_map(np.random.default_rng(0).normal(size=(3 * count, 5)), speakers)
    *held, none = held
    assert none == [] and min(map(len, held)) >= 2 and sorted(sum(held, [])) == sorted({*speakers})


def test_a_run_with_estimated_speakers_is_what_predict_answers(folder, encoder, tmp_path, recipe, capsys, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "scores.parquet"
    flags = ("--features", encoder, "--layers", "1", "2", "--speaker_norm", "true", "--estimate_speakers", "true")
    screen = recipe("--dataset", folder, *CPU, *flags, "--output_dir", run)
    assert "SPEAKERS ESTIMATED: test clips are relative to" in screen and "adjusted Rand index" in screen
    assert json.loads((run / "results.json").read_text())["model"]["speaker_norm"] == "estimated"
    card = (run / "README.md").read_text()
    assert (
        "fold 0, SPEAKERS ESTIMATED)" in " ".join(card.split())
        and "--estimate_speakers" in card
        and "adapt(clips" not in card
    )
    table = pd.read_parquet(run / "predictions.parquet")
    files = [str(folder / f"{Path(name).stem}.wav") for name in table["id"]]
    command = ["predict", *files, "--model", str(run), "--out", str(out)]
    encoded, encode = [], SerForAudioClassification._encode
    with monkeypatch.context() as patch:
        patch.setattr(
            SerForAudioClassification, "_encode", lambda *args, **kw: encoded.append(0) or encode(*args, **kw)
        )
        assert console([*command, "--estimate_speakers"]) == 0
        assert close(pd.read_parquet(out), table, 1e-4)
        assert console([*command, "--estimate_speakers"]) == 0  # goes on
    assert len(encoded) == len(files)  # each once, and none again
    clip, rate = sf.read(files[0])
    sf.write(files[0], clip[: len(clip) // 2], rate)  # its speaker's mean is another one, in all other rows too
    assert console([*command, "--estimate_speakers"]) == 2
    assert "choose another file" in capsys.readouterr().err
    sf.write(files[0], clip, rate)
    out.unlink()
    assert console(command) == 0 and not close(average := pd.read_parquet(out), table, 1e-3)  # an average speaker's
    pipe = predict.load(str(run), False)
    weights = {name: value.clone() for name, value in pipe.model.state_dict().items()}
    predict.by_estimated_speakers(pipe, files)  # writes nothing into the model
    assert all(torch.equal(value, weights[name]) for name, value in pipe.model.state_dict().items())
    # One file that sounds like no other is an average speaker's, one that was cut off an error.
    out.unlink()
    whole = Path(files[0]).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    one = ["predict", files[0], str(tmp_path / "cut.wav"), *command[-4:], "--estimate_speakers"]
    assert console(one) == 1
    scored, cut = pd.read_parquet(out).to_dict("records")
    columns = [name for name in average if name.startswith("score_")]
    assert all(scored[name] == pytest.approx(average[name][0], abs=1e-5) for name in columns)
    assert "cut.wav: unreadable audio (cut off" in cut["error"]
    assert "[1] files (1 in groups of fewer than 4, as of an average speaker)" in capsys.readouterr().err
    out.unlink()
    assert console([*command, "--estimate_speakers", "--window_s", "1"]) == 2
    assert "--estimate_speakers: not together with --window_s" in capsys.readouterr().err


def test_copies_at_other_speeds_are_no_utterances(folder, encoder, tmp_path, recipe):
    run = tmp_path / "run"
    screen = recipe(
        "--dataset", folder, *CPU, "--features", encoder, "--speed_copies", "0.9", "1.1", "--output_dir", run
    )
    results = json.loads((run / "results.json").read_text())
    assert (results["training"]["utterances"], results["training"]["copies"]) == (16, 32)
    assert "(16 utterances and 32 copies at other speeds) were fitted" in screen
    fitted = results["splits"]["train"]["utterances"] + results["splits"]["validation"]["utterances"]
    assert fitted == 16 and results["validation"]["utterances"] == results["splits"]["validation"]["utterances"]


# ---- mistakes


def test_mistakes_are_one_line(folder, encoder, fake_corpus, tmp_path, monkeypatch, capsys):
    trained = tmp_path / "trained"
    names = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    SerForFunctionalsClassification(SerFunctionalsConfig(**names)).save_pretrained(trained)
    SerFunctionalsFeatureExtractor().save_pretrained(trained)
    capsys.readouterr()  # progress bars of saving
    own, theirs = ("--model_name_or_path", str(trained)), ("--dataset", "demo", "--data_dir", str(fake_corpus("demo")))
    for wrong, message in (
        (own, "a classifier is fitted anew; a trained one is scored with --do_train false"),
        ((*own, "--do_train", "false"), "answers a, b, but the corpus's labels are angry, neutral"),
        (("--model_name_or_path", "nowhere/there", "--do_train", "false"), "--model_name_or_path nowhere/there: "),
        (("--features", "eGeMAPS"), "--features eGeMAPS: choose eGeMAPSv02, ComParE_2016, or an encoder"),
        (("--features", "nowhere/there"), "--features nowhere/there: "),
        (("--features", str(encoder), "--layers", "3"), "layers [3]: wav2vec2 has the layers 0 to 2"),
        (("--layers", "1", "2"), "--layers 1 2: eGeMAPSv02 has no layers"),
        (("--estimate_speakers", "true"), "--estimate_speakers true: does nothing without --speaker_norm true"),
        (("--speaker_norm", "true", "--estimate_speakers", "true"), "--estimate_speakers: for the hidden states"),
        ((*theirs, "--labels", "dimensional"), "choose --labels 4class"),
    ):
        flags = ("--dataset", str(folder), *wrong, *CPU, "--output_dir", str(tmp_path / "out"))
        monkeypatch.setattr(sys, "argv", ["classical_cls.py", *flags])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(REPO / "recipes" / "classical_cls.py"), run_name="__main__")
        error = capsys.readouterr().err
        assert stop.value.code == 2 and message in error and error.strip().count("\n") == 0, error
    with pytest.raises(SerError, match="--speaker_norm: .* was trained without it"):
        classical.functionals_model(["a", "b"], model_name_or_path=str(trained), speaker_norm=True)
    with pytest.raises(SerError, match=f"--model_name_or_path {encoder}: a model of type wav2vec2, which is scored by"):
        classical.functionals_model(["a", "b"], model_name_or_path=str(encoder))


def test_without_opensmile_the_error_names_what_to_install(tmp_path, monkeypatch, capsys):
    SerForFunctionalsClassification(SerFunctionalsConfig()).save_pretrained(tmp_path)
    SerFunctionalsFeatureExtractor().save_pretrained(tmp_path)
    sf.write(tmp_path / "clip.wav", np.zeros(16000), 16000)
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "opensmile", None)  # as if it were not installed
    monkeypatch.setattr(classical, "find_spec", lambda name: None)
    with pytest.raises(SerError, match=r"--features eGeMAPSv02: needs openSMILE: pip install ser-hf\[classical\]"):
        classical.check_vectors(VectorArguments())
    classical.check_vectors(VectorArguments(features="you/encoder"))  # needs none
    with pytest.raises(ImportError, match="opensmile is needed and not installed: pip install opensmile"):
        SerFunctionalsFeatureExtractor()
    assert console(["predict", str(tmp_path / "clip.wav"), "--model", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "pip install opensmile" in error and error.count("\n") == 1


def test_the_flags_of_training_are_those_that_do_something():
    training = settings_of("classical_cls", "--dataset", "demo", "--seed", "3").training
    assert training.seed == 3 and training.do_train and training.eval_strategy == "no"
    settings = settings_of("classical_cls", "--dataset", "emodb", "--config", "emodb_compare_svm")
    assert settings.vectors.features == "ComParE_2016" and settings.classifier.class_weights == "balanced"
    assert settings.overrides.keys() >= {"do_train", "dataset"} and "learning_rate" not in settings.overrides
    assert settings.checkpoints == {}
    fold = ("--features", "runs/a_cv/fold{fold}_seed{seed}", "--fold", "2")  # an encoder of the same fold
    settings = settings_of("classical_cls", "--dataset", "demo", *fold)
    assert settings.checkpoints == {"features": "runs/a_cv/fold2_seed42"}
