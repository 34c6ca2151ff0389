"""The demo corpus: synthetic and says so, equal on every run, its emotion partly in the voice, partly in words."""

import hashlib

import numpy as np
import pytest
import soundfile as sf
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

import warm
from ser_hf import load_corpus, split
from ser_hf.data.loading import corpus_class
from ser_hf.loading_scripts import demo


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("demo")  # generated into the test session's own cache


def digest(folder) -> str:
    files = sorted(folder.rglob("*.*"))
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def test_same_bytes_every_time_and_in_every_process(tmp_path):
    demo.make(tmp_path / "a", each=2)
    code = (
        "import sys; from pathlib import Path; from ser_hf.loading_scripts import demo; "
        "demo.make(Path(sys.argv[1]), each=2)"
    )
    assert warm.python("-c", code, tmp_path / "b").returncode == 0
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert len(list((tmp_path / "a" / "wav").iterdir())) == 24


def test_what_it_holds(corpus):
    assert len(corpus) == 720 and len(set(corpus["speaker"])) == 12
    assert np.bincount(corpus["label"]).tolist() == [180] * 4
    assert 0.9 < min(corpus["duration"]) and max(corpus["duration"]) < 2.5
    assert all(1 <= value <= 5 for name in ("arousal", "valence") for value in corpus[name])
    card = corpus_class("demo").CARD
    assert "SYNTHETIC" in card.title and "say nothing about real speech" in card.notes
    assert corpus_class("demo").generate() == corpus_class("demo").generate()


def sound(path: str) -> np.ndarray:
    """Pitch, energy and spectral statistics, as a student would compute them."""
    samples, rate = sf.read(path, dtype="float32")
    frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::320] * np.hanning(640)
    spectrum = np.abs(np.fft.rfft(frames, axis=1)) ** 2 + 1e-9
    energy = np.log(spectrum.sum(axis=1))
    loud = energy > energy.max() - 4
    hz = np.fft.rfftfreq(640, 1 / rate)
    centroid = (spectrum * hz).sum(1) / spectrum.sum(1)
    correlation = np.fft.irfft(spectrum, axis=1)[:, 50:230]  # lags of 70 to 320 Hz at 16 kHz
    pitch = rate / (50 + correlation.argmax(1))
    voiced = correlation.max(1) / np.fft.irfft(spectrum, axis=1)[:, 0]
    tilt = np.log(spectrum[:, hz < 1000].sum(1) / spectrum[:, hz >= 1000].sum(1))
    rows = [pitch[loud], centroid[loud], tilt[loud], voiced[loud], np.diff(pitch[loud]), np.diff(energy)]
    stats = [f(row) for row in rows for f in (np.mean, np.std, np.median)]
    return np.array([*stats, energy.std(), loud.mean(), len(samples) / rate])


def test_voice_and_words_are_each_good_and_together_better(corpus):
    features = np.array([sound(audio["path"]) for audio in corpus["audio"]])
    row = {name: i for i, name in enumerate(corpus["id"])}
    labels, text = np.array(corpus["label"]), np.array(corpus["text"])
    voice, words, both = [], [], []
    for fold in range(3):
        parts = split(corpus, "demo", None, fold)
        train, validation, test = ([row[name] for name in parts[p]["id"]] for p in ("train", "validation", "test"))
        forest = RandomForestClassifier(300, random_state=0).fit(features[train], labels[train])
        counts = CountVectorizer(ngram_range=(1, 2)).fit(text[train])
        line = LogisticRegression(max_iter=500).fit(counts.transform(text[train]), labels[train])

        def scores(rows, weight, forest=forest, counts=counts, line=line):
            heard = np.log(forest.predict_proba(features[rows]) + 1e-2)
            return heard + weight * np.log(line.predict_proba(counts.transform(text[rows])) + 1e-2)

        def uar(rows, guesses):
            return balanced_accuracy_score(labels[rows], guesses.argmax(axis=1))

        weight = max((0.3, 0.5, 0.7, 1.0), key=lambda w: uar(validation, scores(validation, w)))
        voice.append(uar(test, scores(test, 0.0)))
        words.append(uar(test, line.predict_proba(counts.transform(text[test]))))
        both.append(uar(test, scores(test, weight)))
    voice, words, both = map(np.mean, (voice, words, both))
    assert 0.7 < voice < 0.95 and 0.65 < words < 0.90, (voice, words)
    assert both > max(voice, words), (voice, words, both)
    print(f"voice {voice:.3f}, words {words:.3f}, both {both:.3f}")
