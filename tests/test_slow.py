"""What takes minutes: the demo's figures and the package as a wheel. `make test-slow`; run before a release."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from conftest import REPO, run_recipe

pytestmark = pytest.mark.slow
DEMO = ("--dataset", "demo", "--use_cpu", "true", "--disable_tqdm", "true")


def results_of(recipe: str, folder, *flags: str) -> dict:
    done = run_recipe(recipe, *DEMO, "--output_dir", str(folder), *flags, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


def test_the_demo_learns_unseen_speakers(tmp_path):
    results = results_of("wav2vec2_cls", tmp_path / "out")
    assert results["protocol"]["speaker_independent"] and results["test"]["metrics"]["uar"] >= 0.75
    done = subprocess.run(
        [sys.executable, REPO / "recipes" / "try_model.py", tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Wav2Vec2" in results["model"]["class"] and "labelled" in done.stdout and "sad" in done.stdout


def test_arousal_and_valence_of_unseen_speakers(tmp_path):
    metrics = results_of("wav2vec2_reg", tmp_path / "out")["test"]["metrics"]
    assert metrics["ccc_arousal"] >= 0.6 and metrics["ccc_valence"] >= 0.6


def test_several_labels_of_unseen_speakers(tmp_path):
    test = results_of("wav2vec2_reg", tmp_path / "out", "--labels", "multi_label", "--loss", "bce")["test"]
    assert test["metrics"]["map"] >= test["chance"]["value"] + 0.25


def test_utterances_are_no_worse_than_their_windows(tmp_path):
    flags = ("--window_seconds", "1", "--window_hop", "0.5", "--num_train_epochs", "15")
    results = results_of("wav2vec2_cls", tmp_path / "out", *flags)
    assert results["test"]["metrics"]["uar"] >= results["test_windows"]["metrics"]["uar"]


def test_a_wheel_has_loading_scripts_and_recipes(tmp_path):
    """Unpacked where no checkout is: corpora are found, a recipe answers --help, its YAML is there."""
    source = tmp_path / "source"  # building writes into the source tree
    shutil.copytree(REPO, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "tests"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("ser_hf-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert "ser_hf/loading_scripts/iemocap.py" in names and "ser_hf/recipes/wav2vec2_cls.py" in names
    assert "ser_hf/recipes/configs/demo_wav2vec2.yaml" in names and "ser_hf/recipes/accelerate/fsdp.yaml" in names
    assert "ser_hf/loading_scripts/cmu_mosei_folds.json" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import ser_hf; assert ser_hf.__file__.startswith(sys.argv[1]), ser_hf.__file__\n"
        "from ser_hf.training.arguments import parse; from ser_hf.data.loading import list_corpora\n"
        "from ser_hf.recipes.wav2vec2_cls import SYSTEM\n"
        "assert 'iemocap' in list_corpora()\n"
        "settings = parse(SYSTEM, '', ['--dataset', 'demo', '--use_cpu', 'true'])\n"
        "assert settings.overrides['config'] == 'demo_wav2vec2.yaml'"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "ser_hf.recipes.wav2vec2_cls", "--help"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and "--dataset" in done.stdout
