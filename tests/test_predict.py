"""`ser-hf predict`: what it writes, that it goes on where it stopped, and that one bad file costs one row.

python -m pytest tests/test_predict.py -k resume
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from test_pipeline import LABELS, RATE, as_vector, make, noise, pipe_of
from transformers import Wav2Vec2FeatureExtractor

import warm
from ser_hf.cli import main
from ser_hf.cli import predict as module
from ser_hf.training.saved_model import save_model, to_stock

SECONDS = {"a.wav": 1.0, "b.flac": 0.4, "sub/c.WAV": 2.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips, two files that are none, and one that is not looked at."""
    root = tmp_path_factory.mktemp("clips")
    (root / "sub").mkdir()
    for seed, (name, seconds) in enumerate(SECONDS.items()):
        sf.write(root / name, noise(seconds, seed), RATE)
    (root / "bad.mp3").write_text("this is no audio")
    sf.write(root / "sub" / "empty.wav", np.zeros(0), RATE)
    (root / "notes.txt").write_text("not audio and not meant to be")
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Published models: ours, stock, multi-label, regression."""
    root = tmp_path_factory.mktemp("models")
    made = {
        "ours": make(pooling="max"),
        "stock": make(),
        "multi": make(pooling="max", problem_type="multi_label_classification"),
        "values": make(pooling="max", problem_type="regression"),
    }
    made["multi"].config.thresholds = dict(zip(LABELS, (0.0, 1.0, 0.0), strict=True))
    for name, model in made.items():
        save_model(model, Wav2Vec2FeatureExtractor(return_attention_mask=True), root / name)
    return root, made


@pytest.fixture
def run(capsys):
    def ser_hf(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["predict", *(str(word) for word in argv)])
        return status, *capsys.readouterr()

    return ser_hf


def rows_of(file: Path) -> list[dict]:
    if file.suffix == ".csv":
        with file.open(newline="") as lines:
            return list(csv.DictReader(lines))
    return json.loads(file.read_text()) if file.suffix == ".json" else pq.read_table(file).to_pylist()


def good(folder: Path) -> list[Path]:
    return [folder / name for name in SECONDS]


def scores_of(row: dict) -> list[float]:
    return [float(row[f"score_{label}"]) for label in LABELS]


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
@pytest.mark.parametrize("name", ["ours", "stock"])
def test_a_folder(run, folder, models, tmp_path, suffix, name):
    root, made = models
    out = tmp_path / "new" / f"out.{suffix}"
    status, stdout, stderr = run(folder, "--model", root / name, "--out", out)
    assert status == 1 and not stderr
    assert f"5 files: 3 scored, 2 cannot be read; written: {out}" in stdout
    assert f"  {folder}/bad.mp3: unreadable audio (" in stdout and f"  {folder}/sub/empty.wav: no samples" in stdout
    rows = {row["file"]: row for row in rows_of(out)}
    assert list(rows) == [f"{folder}/{file}" for file in ("a.wav", "b.flac", "bad.mp3", "sub/c.WAV", "sub/empty.wav")]
    assert list(rows[f"{folder}/a.wav"]) == [
        "file",
        "prediction",
        *(f"score_{x}" for x in LABELS),
        "error",
        "model",
        "path",
        "content",
    ]
    pipe, marks = pipe_of(made[name]), {"ours": module.fingerprint(made["ours"])}
    marks["stock"] = module.fingerprint(to_stock(made["stock"]))
    for seed, file in enumerate(good(folder)):
        row, expected = rows[str(file)], as_vector(pipe(noise(SECONDS[str(file.relative_to(folder))], seed)))
        assert np.allclose(scores_of(row), expected, atol=2e-6)
        assert row["prediction"] == LABELS[expected.argmax()] and not row["error"]
        assert row["model"] == f"{name}@{marks[name]}"
    assert "no samples" in rows[f"{folder}/sub/empty.wav"]["error"]
    assert not rows[f"{folder}/bad.mp3"]["score_sad"]
    assert [file.name for file in out.parent.iterdir()] == [out.name]  # nothing else is left


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_windows(run, folder, models, tmp_path, suffix):
    root, made = models
    out = tmp_path / f"out.{suffix}"
    assert run(*good(folder), "--model", root / "ours", "--out", out, "--window_s", 1, "--hop_s", 0.5)[0] == 0
    rows = [row for row in rows_of(out) if row["file"].endswith("c.WAV")]
    answer = pipe_of(made["ours"])(folder / "sub" / "c.WAV", window_s=1.0, hop_s=0.5)
    times = [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.5, 2.2)]
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [(0.0, 2.2), *times]
    assert [str(row["window"] if row["window"] is not None else "") for row in rows] == ["", "0", "1", "2", "3"]
    for row, scores in zip(rows, [answer["scores"], *(part["scores"] for part in answer["segments"])], strict=True):
        assert np.allclose(scores_of(row), as_vector(scores), atol=2e-6)
        assert (float(row["window_s"]), float(row["hop_s"]), row["window_last"]) == (1.0, 0.5, "pad")
    assert len([row for row in rows_of(out) if row["file"].endswith("b.flac")]) == 2  # shorter than a window: one


def test_the_screen(run, folder, models):
    status, out, _ = run(folder / "a.wav", "--model", models[0] / "ours")
    head, row, empty, summary = out.splitlines()
    assert status == 0 and head.split() == ["file", "prediction", *LABELS] and not empty
    expected = pipe_of(models[1]["ours"])(folder / "a.wav")
    assert row.split()[:2] == [str(folder / "a.wav"), expected[0]["label"]]
    assert [float(cell) for cell in row.split()[2:]] == pytest.approx(list(as_vector(expected)), abs=6e-4)
    assert summary == "1 files: 1 scored"
    status, out, _ = run(folder / "a.wav", "--model", models[0] / "ours", "--window_s", 0.5)
    assert len(out.splitlines()) == 1 + 1 + 3 + 2 and "start" in out.splitlines()[0]


def test_several_labels_and_values(run, folder, models, tmp_path):
    out = tmp_path / "out.json"
    assert run(folder / "a.wav", "--model", models[0] / "multi", "--out", out)[0] == 0
    assert rows_of(out)[0]["prediction"] == "angry+sad"  # the thresholds of the configuration
    out = tmp_path / "values.json"
    assert run(folder / "a.wav", "--model", models[0] / "values", "--out", out)[0] == 0
    assert "prediction" not in rows_of(out)[0]
    expected = [entry["score"] for entry in pipe_of(models[1]["values"])(folder / "a.wav")]
    assert scores_of(rows_of(out)[0]) == pytest.approx(expected, abs=2e-6)


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def heard(monkeypatch):
    """The files that go through the model."""
    files = []
    real = module.rows_of
    monkeypatch.setattr(module, "rows_of", lambda file, *rest: (files.append(Path(file).name), real(file, *rest))[1])
    return files


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
@pytest.mark.parametrize("window", [[], ["--window_s", "0.5"]])
def test_resume(run, folder, models, tmp_path, heard, suffix, window):
    once, twice = tmp_path / f"once.{suffix}", tmp_path / f"twice.{suffix}"
    command = ["--model", models[0] / "ours", *window, "--out"]
    run(*good(folder), *command, once)
    heard.clear()
    run(folder / "b.flac", *command, twice)
    status, out, _ = run(*good(folder), *command, twice)
    assert heard == ["b.flac", "c.WAV", "a.wav"]  # the first call's, then the others, the longest first
    assert status == 0 and "3 files: 2 scored, 1 scored before" in out
    assert sorted(map(str, rows_of(twice))) == sorted(map(str, rows_of(once)))
    assert twice.read_bytes() == once.read_bytes()
    run(folder / "a.wav", *command, twice)  # of what is not named now nothing is lost
    assert len(heard) == 3 and {row["file"] for row in rows_of(twice)} == {str(file) for file in good(folder)}


def test_resume_after_an_interruption(run, folder, models, tmp_path, heard, monkeypatch):
    out, partial = tmp_path / "out.csv", tmp_path / ".out.csv.partial"
    command = [*good(folder), "--model", models[0] / "ours", "--batch_seconds", 0.1, "--out"]
    real = module.rows_of

    def stops_at_the_second(file, *rest):
        if heard[-1:] == ["c.WAV"]:
            raise KeyboardInterrupt
        return real(file, *rest)

    monkeypatch.setattr(module, "rows_of", stops_at_the_second)
    status, _, err = run(*command, out)
    assert status == 130 and "the scores of 1 more files are saved: the same command continues there" in err
    assert not out.exists() and len(partial.read_text().splitlines()) == 1
    partial.write_text(partial.read_text() + '[{"file": "cut off')
    monkeypatch.setattr(module, "rows_of", real)
    status, stdout, _ = run(*command, out)
    assert heard == ["c.WAV", "a.wav", "b.flac"] and "2 scored, 1 scored before" in stdout
    assert not partial.exists()
    run(*command, tmp_path / "once.csv")
    assert out.read_bytes() == (tmp_path / "once.csv").read_bytes()


def test_clips_are_sorted_by_their_seconds_and_batched(run, models, tmp_path, heard, monkeypatch):
    """A WAV has twice the bytes of a FLAC of its length; files that cannot be read come last; rows in input order."""
    from ser_hf.models import SerPipeline

    names, sizes = ["b.flac", "a.wav", "d.flac", "c.wav", "e.wav"], []
    for name, seconds in zip(names, (3.0, 2.5, 6.0, 5.0, 0.5), strict=True):
        sf.write(tmp_path / name, noise(seconds) // 64, RATE, subtype="PCM_16")
    (tmp_path / "bad.wav").write_text("none")
    forward = SerPipeline._forward

    def counts(self, pieces, **options):
        sizes.append(len(pieces["samples"]))
        return forward(self, pieces, **options)

    monkeypatch.setattr(SerPipeline, "_forward", counts)
    files, out = [tmp_path / name for name in ("bad.wav", *names)], tmp_path / "out.csv"
    run(*files, "--model", models[0] / "ours", "--out", out)
    assert heard == ["d.flac", "c.wav", "b.flac", "a.wav", "e.wav", "bad.wav"] and sizes == [1, 1, 2, 1]
    assert [row["file"] for row in rows_of(out)] == [str(file) for file in files]


def test_a_killed_process_loses_nothing(run, models, tmp_path):
    (tmp_path / "clips").mkdir()
    for number in range(40):
        sf.write(tmp_path / "clips" / f"{number:02}.wav", noise(3.0, number), RATE)
    out, partial = tmp_path / "out.json", tmp_path / ".out.json.partial"
    command = [tmp_path / "clips", "--model", models[0] / "ours", "--batch_seconds", "0.1", "--out", out]
    code = "from ser_hf.cli import main; import sys; raise SystemExit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, "predict", *map(str, command)], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (partial.exists() and partial.read_text().count("\n") >= 3):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = partial.read_text().count("\n") if partial.exists() else 40
    assert saved >= 3
    status, stdout, _ = run(*command)
    assert status == 0 and (saved == 40 or f"{40 - saved} scored, {saved} scored before" in stdout)
    assert len(rows_of(out)) == 40 and all(row["prediction"] for row in rows_of(out))


def test_files_that_failed_are_tried_again(run, models, tmp_path, heard):
    out, clip = tmp_path / "out.csv", tmp_path / "clip.wav"
    clip.write_text("")
    sf.write(tmp_path / "other.wav", noise(1.0), RATE)
    command = [clip, tmp_path / "other.wav", "--model", models[0] / "ours", "--out", out]
    assert run(*command)[0] == 1 and run(*command)[0] == 1
    sf.write(clip, noise(1.0), RATE)
    assert run(*command)[0] == 0
    assert heard == ["other.wav", "clip.wav", "clip.wav", "clip.wav"]
    assert [row["error"] for row in rows_of(out)] == ["", ""]


def test_rows_of_something_else_are_never_kept(run, folder, models, tmp_path, fails):
    out = tmp_path / "out.csv"
    assert run(folder / "a.wav", "--model", models[0] / "ours", "--out", out)[0] == 0
    before = out.read_bytes()
    clip = folder / "b.flac"
    assert "holds rows of model ours@" in fails(clip, "--model", models[0] / "stock", "--out", out)
    assert "has other columns" in fails(clip, "--model", models[0] / "ours", "--out", out, "--window_s", 1)
    # trained anew in the same folder
    save_model(make(pooling="max", head_size=4), Wav2Vec2FeatureExtractor(), tmp_path / "ours")
    assert "holds rows of model ours@" in fails(clip, "--model", tmp_path / "ours", "--out", out)
    assert out.read_bytes() == before
    windowed = tmp_path / "windowed.csv"
    assert run(clip, "--model", models[0] / "ours", "--out", windowed, "--window_s", 0.5)[0] == 0
    message = fails(clip, "--model", models[0] / "ours", "--out", windowed, "--window_s", 0.5, "--hop_s", 0.5)
    assert "holds rows of hop_s 0.25, now it is 0.5" in message
    for suffix, text in (("csv", "a,b\n1,2\n"), ("json", "nonsense"), ("json", "[1]"), ("parquet", "nonsense")):
        (other := tmp_path / f"other.{suffix}").write_text(text)
        assert str(other) in fails(clip, "--model", models[0] / "ours", "--out", other)
        assert other.read_text() == text


# --- files by name and content ----------------------------------------------------------------------------------------


def test_a_file_is_known_by_its_path_and_content(run, models, tmp_path, heard, monkeypatch):
    """Another spelling of a name is the same file; the same name elsewhere, and other content, are not."""
    for seed, place in enumerate(("here", "there")):
        (tmp_path / place).mkdir()
        sf.write(tmp_path / place / "a.wav", noise(1.0, seed), RATE)
    command = ["--model", models[0] / "ours", "--out", tmp_path / "out.csv"]
    monkeypatch.chdir(tmp_path / "here")
    assert run("a.wav", *command)[0] == 0
    assert "1 scored before" in run("./a.wav", "../here/a.wav", tmp_path / "here" / "a.wav", *command)[1]
    monkeypatch.chdir(tmp_path / "there")
    assert "1 files: 1 scored" in run("a.wav", *command)[1]
    rows = rows_of(tmp_path / "out.csv")
    assert [row["path"] for row in rows] == [str(tmp_path / place / "a.wav") for place in ("here", "there")]
    assert [row["file"] for row in rows] == ["a.wav", "a.wav"]  # as they were given
    assert rows[0]["content"] != rows[1]["content"] and rows[0]["score_sad"] != rows[1]["score_sad"]
    stat = (tmp_path / "there" / "a.wav").stat()
    sf.write(tmp_path / "there" / "a.wav", noise(1.0, 7), RATE)
    os.utime(tmp_path / "there" / "a.wav", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # equal size and time
    assert run("a.wav", *command)[0] == 0
    again = rows_of(tmp_path / "out.csv")
    assert again[0] == rows[0] and again[1]["score_sad"] != rows[1]["score_sad"]
    assert heard == ["a.wav"] * 3


NAMES = ("a\rb.wav", "a\nb.wav", 'a,"b".wav', "--a-b.wav", "ä\u2028b.wav", os.fsdecode(b"\xff.wav"), " .wav", "=1.wav")


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_names_of_all_kinds(run, models, tmp_path, monkeypatch, suffix):
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir(tmp_path / "clips")
    for seed, name in enumerate(NAMES):
        with open(name, "wb") as file:
            sf.write(file, noise(0.3, seed), RATE, format="WAV")
    out = tmp_path / f"out.{suffix}"
    command = ["--model", models[0] / "ours", "--out", out]
    assert run(*command, "--", *NAMES[:4])[0] == 0
    status, stdout, stderr = run(".", *command)
    assert status == 0 and "8 files: 4 scored, 4 scored before" in stdout and not stderr, stdout + stderr
    assert {row["file"] for row in rows_of(out)} == {module.as_text(name) for name in NAMES}
    assert all(row["prediction"] and not row["error"] for row in rows_of(out))
    before = out.read_bytes()
    assert "8 scored before" in run(".", *command)[1] and out.read_bytes() == before
    assert "\r" not in run("a\rb.wav", "--model", models[0] / "ours")[1]  # the screen shows an escape


def test_files_of_other_formats_are_listed(run, models, tmp_path):
    """Formats that soundfile does not read get an error each; none is passed over, and none ends the run."""
    sf.write(tmp_path / "a.wav", noise(0.5), RATE)
    others = ("b.amr", "c.MOV", "d.mkv", "e.3gp", "f.raw", "g.m4a", "h.pcm")
    for name in others:
        (tmp_path / name).write_bytes(b"#!AMR\n" + bytes(range(256)) * 8)
    status, stdout, _ = run(tmp_path, "--model", models[0] / "ours", "--out", tmp_path / "out.csv")
    assert status == 1 and "8 files: 1 scored, 7 cannot be read" in stdout
    assert all(f"/{name}: unreadable audio (" in stdout for name in others)


# --- memory, fusion ---------------------------------------------------------------------------------------------------


LITTLE_MEMORY = """
import resource, sys
from ser_hf.cli import main, predict
limits = resource.getrlimit(resource.RLIMIT_DATA)
predict.available = lambda: 150 << 20
status = main(sys.argv[1:])
assert resource.getrlimit(resource.RLIMIT_DATA) == limits
sys.exit(status)
"""


def test_a_file_too_long_for_the_memory_costs_one_row(run, models, tmp_path):
    """In processes of their own: what fails to get memory, such as oneDNN, may not work in this one afterwards."""
    for name, seconds in (("long.wav", 480.0), ("a.wav", 1.0), ("b.wav", 0.7)):
        sf.write(tmp_path / name, noise(seconds), RATE)
    command = ["predict", str(tmp_path), "--model", str(models[0] / "ours"), "--out"]

    def little(*words: str) -> subprocess.CompletedProcess:
        return warm.python("-c", LITTLE_MEMORY, *command, *words)

    done = little(str(tmp_path / "out.csv"))
    assert done.returncode == 1 and "3 files: 2 scored, 1 cannot be read" in done.stdout, done.stdout + done.stderr
    assert "long.wav: too long for the memory of this machine at once; give --window_s" in done.stdout
    assert little(str(tmp_path / "windows.csv"), "--window_s", "4").returncode == 0
    assert "1 scored, 2 scored before" in run(*command[1:], tmp_path / "out.csv")[1]


def test_pages_of_files_are_memory_that_can_be_used(tmp_path):
    """The kernel counts files that were read among the memory in use of a control group, and drops them when needed."""
    values = {"max": str(1 << 20), "current": str(1000 << 10), "stat": f"anon 5\ninactive_file {900 << 10}\nslab 7\n"}
    for name, value in values.items():
        (tmp_path / f"memory.{name}").write_text(value)
    assert module.available(tmp_path) == (1024 - 1000 + 900) << 10
    (tmp_path / "memory.max").write_text("max\n")
    assert module.available(tmp_path) > 1 << 20


def test_the_gpus_memory_costs_one_row(run, folder, models, monkeypatch):
    def forward(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    from ser_hf.models import SerPipeline

    monkeypatch.setattr(SerPipeline, "_forward", forward)
    status, stdout, _ = run(folder / "a.wav", "--model", models[0] / "ours")
    assert status == 1 and "a.wav: too long for the memory" in stdout and "1 files: 0 scored" in stdout


def test_a_defect_is_no_full_memory(run, folder, models, monkeypatch):
    from ser_hf.models import SerPipeline

    def forward(*args, **options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(SerPipeline, "_forward", forward)
    status, _, stderr = run(folder / "a.wav", "--model", models[0] / "ours")
    assert status == 1 and "RuntimeError: mat1" in stderr and stderr.splitlines()[-1].startswith("This is a defect")


def test_a_fusion_model_answers_from_the_audio(run, folder, tmp_path):
    from test_fusion_pipeline import make_processor
    from test_fusion_pipeline import named as make_fusion

    from ser_hf.models import SerPipeline

    model, processor = make_fusion(), make_processor()
    save_model(model, processor, tmp_path / "fusion")
    out = tmp_path / "out.json"
    status, stdout, stderr = run(folder / "a.wav", "--model", tmp_path / "fusion", "--out", out)
    assert (
        status == 0
        and stderr.count("\n") == 1
        and "a fusion model; without a text it answers from the audio alone" in stderr
    )
    pipe = SerPipeline(model=model.eval(), feature_extractor=processor.feature_extractor, processor=processor)
    expected = {entry["label"]: entry["score"] for entry in pipe(str(folder / "a.wav"))}
    row = rows_of(out)[0]
    assert {label: row[f"score_{label}"] for label in expected} == pytest.approx(expected, abs=2e-6)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fails(run):
    def message(*argv) -> str:
        status, _, err = run(*argv)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return message


def test_mistakes(fails, folder, models, tmp_path):
    model, clip = models[0] / "ours", folder / "a.wav"
    (tmp_path / "empty").mkdir()
    for argv, message in {
        (clip,): "required: --model",
        (folder / "gone.wav", "--model", model): "gone.wav: no such file or folder",
        (tmp_path / "empty", "--model", model): "no audio below this folder",
        (clip, "--model", model, "--out", tmp_path / "out.xlsx"): "must be a file that ends in .csv, .json, .parquet",
        (clip, "--model", model, "--hop_s", "1"): "only windows have a hop; give --window_s too",
        (clip, "--model", model, "--window_s", "0"): "--window_s: 0: must be at least 0.01",
        (
            clip,
            "--model",
            model,
            "--window_s",
            "1",
            "--hop_s",
            "2",
        ): "--hop_s 2: must be at most --window_s, which is 1",
        (clip, "--model", model, "--batch_seconds", "0"): "0: must be at least 0.01",
        (clip, "--model", model, "--window", "1"): "unknown argument --window, did you mean --window_s?",
        (clip, "--model", tmp_path / "empty"): "--model",
        (clip, "--model", "no/such-model"): "--model no/such-model: no such folder, and no model on the Hub",
    }.items():
        assert message in fails(*argv), argv


def test_heads_that_were_never_trained_are_refused(fails, folder, models, tmp_path):
    from transformers import AutoModel

    AutoModel.from_pretrained(models[0] / "stock").save_pretrained(tmp_path)  # the encoder alone
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    assert "are missing; give a fine-tuned checkpoint" in fails(folder / "a.wav", "--model", tmp_path)


def test_foreign_code_is_run_only_if_said(run, fails, folder, models, tmp_path):
    save_model(models[1]["ours"], Wav2Vec2FeatureExtractor(return_attention_mask=True), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "theirs"}))
    file = tmp_path / "configuration_ser.py"
    file.write_text(file.read_text().replace('model_type = "ser"', 'model_type = "theirs"'))
    assert "only --trust_remote_code runs" in fails(folder / "a.wav", "--model", tmp_path)
    status, out, _ = run(folder / "a.wav", "--model", tmp_path, "--trust-remote-code")
    assert status == 0 and pipe_of(models[1]["ours"])(folder / "a.wav")[0]["label"] in out


# --- unsure, and sets of labels


def test_a_table_says_unsure_and_the_likely_labels(models, folder, run, tmp_path):
    root, made = models
    made["ours"].config.label_sets = {"alpha": 0.1, "threshold": 0.0}
    save_model(made["ours"], Wav2Vec2FeatureExtractor(return_attention_mask=True), root / "calibrated")
    argv = [folder / "a.wav", "--model", root / "calibrated", "--out", tmp_path / "x.csv"]
    for least, prediction in ((0.0, None), (1.0, "unsure")):
        status, _, error = run(*argv, "--abstain_below", least, "--label_sets")
        assert status == 0, error
        row = rows_of(tmp_path / "x.csv")[0]
        best = max(LABELS, key=lambda label: float(row[f"score_{label}"]))
        assert row["prediction"] == (prediction or best) and set(row["label_set"].split("+")) == set(LABELS)
        assert float(row["abstain_below"]) == least and row["label_set"].startswith(best)
        assert "score_unsure" not in row and sum(scores_of(row)) == pytest.approx(1, abs=1e-5)
        assert run(*argv, "--abstain_below", least)[0] == 2  # other columns
        (tmp_path / "x.csv").unlink()
    shown = run(folder / "a.wav", "--model", root / "calibrated", "--abstain_below", "1")[1]
    assert "unsure" in shown and "abstain_below" not in shown


def test_what_a_model_cannot_answer_is_one_line(models, folder, run):
    root, _ = models
    for flag, name, words in (("--label_sets", "stock", "has none"), ("--abstain_below", "values", "single-label")):
        argv = [folder / "a.wav", "--model", root / name, flag, *(["0.5"] if flag == "--abstain_below" else [])]
        status, _, error = run(*argv)
        assert status == 2 and words in error and error.count("\n") == 1
    assert run(folder / "a.wav", "--model", root / "stock", "--abstain_below", "1.5")[0] == 2
    edited = root / "edited"
    shutil.copytree(root / "stock", edited)
    config = json.loads((edited / "config.json").read_text())
    for sets in (5, {"threshold": "x"}, {"threshold": None}, []):
        (edited / "config.json").write_text(json.dumps(config | {"label_sets": sets}))
        status, _, error = run(folder / "a.wav", "--model", edited, "--label_sets")
        assert status == 2 and "has none" in error and error.count("\n") == 1
    (edited / "config.json").write_text('{"model_type": "bert"}')
    status, _, error = run(folder / "a.wav", "--model", edited)
    assert status == 2 and "a text model reads no clips" in error and len(error) < 300
