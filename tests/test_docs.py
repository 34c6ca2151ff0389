"""docs/own_recordings.md from top to bottom, as it stands, with a small Whisper on a Hub of our own.

python -m pytest tests/test_docs.py
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf

from conftest import REPO, tiny_config
from fakes import babble
from hub_server import hub_server

PAGE = (REPO / "docs" / "own_recordings.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.M | re.S)


def make_calls(root: Path) -> None:
    """Six speakers with two clips of each of two labels, in a table as Excel saves it, with a misspelled label, a file
    that is not there and a row without a speaker; and three new calls."""
    rows, speakers = [], ("anna", "ben", "cleo", "dora", "emil", "finn")
    for seed, (who, label, n) in enumerate((w, la, n) for w in speakers for la in ("angry", "sad") for n in (1, 2)):
        (root / "calls").mkdir(exist_ok=True)
        sf.write(root / "calls" / f"{who}_{label}_{n}.wav", babble(seed), 16000)
        rows.append([f"{who}_{label}_{n}.wav", label, who])
    rows[0][1], rows[5][2] = "agnry", ""
    rows.append(["gone.wav", "sad", "anna"])
    with open(root / "calls" / "calls.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows([["file_name", "label", "speaker"], *rows])
    (root / "new_calls").mkdir()
    for number in (1, 2, 3):
        sf.write(root / "new_calls" / f"{number}.wav", babble(100 + number), 16000)


def tiny_whisper(folder: Path) -> dict[str, bytes]:
    """The files of a random Whisper, as they are on the Hub."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    WhisperForConditionalGeneration(tiny_config("whisper")).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path):
    make_calls(tmp_path)
    (tmp_path / "recipes").symlink_to(REPO / "recipes")
    with hub_server(user="you") as hub:
        hub.add_repo("openai/whisper-base", tiny_whisper(tmp_path / "whisper"))
        env = hub.env(tmp_path / "home") | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        env |= {"SER_CACHE": str(tmp_path / "cache"), "ACCELERATE_USE_CPU": "true"}
        said = {}
        for kind, code in BLOCKS:
            for step in [code] if kind == "python" else code.splitlines():
                words = [sys.executable, "-c", step] if kind == "python" else ["bash", "-c", step]
                done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
                finds = step.startswith(("ser-hf check calls/", "ser-hf doctor"))
                assert done.returncode in ((0, 1) if finds else (0,)), f"{step}\n{done.stderr[-3000:]}"
                said[step] = done.stdout
        assert hub.is_private("you/calls-emotions") and not hub.errors
        assert not [name for name in hub.files("you/calls-emotions") if name.endswith((".wav", ".parquet", ".csv"))]
    check = json.loads((tmp_path / "check.json").read_text())
    assert [one["what"] for one in check["findings"] if one["needs_you"]] == [
        "files that are named and not there",
        "labels that look misspelled",
        "rows without a speaker",
    ]
    assert said["ser-hf check calls_clean/"].endswith("nothing needs you\n")
    with open(tmp_path / "calls_clean" / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 23 and {row["label"] for row in rows} == {"angry", "sad"}
    assert len(list((tmp_path / "folds").iterdir())) == 5
    results = json.loads((tmp_path / "runs" / "calls" / "results.json").read_text())
    assert "SPEAKERS" not in (tmp_path / "runs" / "calls" / "README.md").read_text() and results
    assert "speaker-folds" in (tmp_path / "runs" / "calls_cv" / "cv.md").read_text()
    with open(tmp_path / "scores.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    (scores,) = [out for step, out in said.items() if "classify" in step]
    assert "angry" in scores and "sad" in scores
