"""Documented figures on the small real samples beside the checkout (../shared/realdata); skipped where they are not.

RAVDESS's and EmoDB's are in test_corpora.py, CMU-MOSEI's folds in test_cmu_mosei.py.
"""

from collections import Counter
from pathlib import Path

import pytest

from ser_hf import load_corpus
from ser_hf.loading_scripts import crema_d

REAL = Path(__file__).parents[2] / "shared" / "realdata"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason="the real samples are not beside this checkout"),
]


def test_tess_has_ten_clips_a_class():
    rows, report = load_corpus("tess", data_dir=REAL / "tess", return_report=True)
    assert len(rows) == 70 and set(report.per_label.values()) == {10} and report.missing == 2730
    assert set(rows["speaker"]) == {"OAF", "YAF"} and not report.problems
    assert all(text.startswith("Say the word ") for text in rows["text"])


def test_smile_in_full():
    _, report = load_corpus("smile", data_dir=REAL / "smile", return_report=True)
    assert report.per_label == {
        "angry": 57, "disgust": 6, "happy": 1137, "not_relevant": 214, "sad": 32, "surprised": 35
    }  # fmt: skip
    assert (report.utterances, report.outside_labels, report.missing) == (1481, 3085 - 1481, 0)


def test_crema_d_votes():
    votes = Counter(crema_d.voice_vote(REAL / "cremad").values())
    assert {word: votes[word] for word in ("neutral", "angry", "fearful", "disgust", "sad", "happy")} == {
        "neutral": 3897, "angry": 986, "fearful": 645, "disgust": 547, "sad": 370, "happy": 353
    }  # fmt: skip
    assert sum(votes.values()) == 7442
    assert len(crema_d.voice_counts(REAL / "cremad")) == 7442
