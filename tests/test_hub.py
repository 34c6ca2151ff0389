"""Runs pushed through the Hub's HTTP interface, on a local server: private, nothing local in them."""

import getpass
import json
import os
import shlex
import socket
from pathlib import Path

import pytest

import warm
from conftest import FIGURES, run_recipe, tiny_flags
from hub_server import hub_server

pytestmark = pytest.mark.slow  # two runs, pushed

# What a model of ours ships: its files and those that they import.
OUR_CODE = (
    "audio_blocks common configuration_ser encoders modeling_ser pipeline_ser pooling text_cleaning whisper".split()
)

SER_HF = ["-c", "import sys; from ser_hf.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def pushed(fake_corpus, tmp_path_factory):
    """Two runs, mean and max pooled, trained two steps and pushed, the first by its recipe, the second by the command
    that its recipe names when the push fails."""
    home = tmp_path_factory.mktemp("push")
    with hub_server() as hub:
        folders = {}
        for pooling in ("mean", "max"):
            repo, folder = f"{hub.user}/emotion-{pooling}", home / f"run-{pooling}"
            data = ("--dataset", "emodb", "--data_dir", fake_corpus("emodb"), "--labels", "4class")
            hub.faults = [] if pooling == "mean" else [["POST .*/commit/", 500, 99]]
            done = run_recipe(
                "wav2vec2_cls", *data, *tiny_flags(), "--max_steps", "2", "--eval_strategy", "no",
                *("--load_best_model_at_end", "false", "--save_strategy", "no", "--protocol", "speaker-folds"),
                *("--pooling", pooling, "--push_to_hub", "true", "--hub_model_id", repo, "--output_dir", folder),
                *("--hub_token", hub.token), env=hub.env(home / "pusher") | {"HF_TOKEN": "hf_wrong"},
            )  # fmt: skip
            assert hub.token not in done.stdout + done.stderr
            folders[repo] = folder
            if pooling == "max":
                hub.faults, failed = [], done
                words = shlex.split(failed.stderr.strip().rpartition("this pushes it: ser-hf ")[2])
                done = warm.python(*SER_HF, *words, env=hub.env(home / "pusher"))
            assert done.returncode == 0, done.stderr[-3000:]
        assert not hub.unknown and not hub.errors
        files = {repo: hub.files(repo) for repo in folders}
        private = {repo: hub.is_private(repo) for repo in folders}
    return folders, files, private, failed


def test_what_is_pushed(pushed):
    _, files, private, _ = pushed
    assert all(private.values())  # private unless asked otherwise
    for repo, held in files.items():
        names = set(held) - {".gitattributes"}
        code = {f"{name}.py" for name in OUR_CODE} if repo.endswith("max") else set()
        assert names == code | {
            *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json", "run.yaml"),
            *(*FIGURES, "training_data.json"),
        }
        card = held["README.md"].decode()
        assert f'model="{repo}"' in card and ("trust_remote_code=True" in card) == repo.endswith("max")


def test_no_path_user_or_machine_name_leaks(pushed, fake_corpus):
    folders, files, _, _ = pushed
    words = [str(fake_corpus("emodb")), str(Path.home()) + "/", os.getcwd(), "/tmp/"]
    words += [str(folder) for folder in folders.values()]
    # short ones, such as "root" or "vm", occur in ordinary words and in pixels
    words += [name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 5]
    for held in files.values():
        for name, content in held.items():
            for word in words:
                assert word.encode() not in content, f"{name} holds {word}"
        assert json.loads(held["config.json"]).get("_name_or_path", "") == ""


def test_a_push_that_would_fail_ends_before_the_corpus_is_read(tmp_path):
    """Neither corpus nor checkpoint is there: the repository is claimed before either is looked at."""
    with hub_server() as hub:
        hub.add_repo(f"{hub.user}/open", {"README.md": b"x"}, private=False)
        for repo, words in {
            "someone/x": "--hub_model_id someone/x: your token may not do this",
            f"{hub.user}/open": f"--hub_model_id {hub.user}/open: exists and is public; choose another",
        }.items():
            flags = ("--push_to_hub", "true", "--hub_model_id", repo, "--output_dir", tmp_path / "run")
            done = run_recipe(
                "wav2vec2_cls", "--dataset", "demo", *tiny_flags(), *flags, env=hub.env(tmp_path / "home")
            )
            assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"error: {words}" in done.stderr
            assert not done.stdout and not list((tmp_path / "run").iterdir())


def test_no_token_and_no_pickle_is_written(pushed):
    for folder in pushed[0].values():
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert not [file for file in files if b"hf_test" in file.read_bytes()]
        assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl")]  # nothing is saved to go on from


def test_a_failed_push_is_one_line_with_the_command_that_repeats_it(pushed):
    folders, *_, failed = pushed
    repo, folder = list(folders.items())[1]
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "the Hub has failed" in errors[0]
    assert errors[0].endswith(f"this pushes it: ser-hf push model {folder} --repo_id {repo}")


def test_a_run_pushed_again_by_hand_is_what_its_recipe_pushed(pushed, tmp_path):
    repo, folder = next(iter(pushed[0].items()))
    with hub_server() as hub:
        done = warm.python(*SER_HF, "push", "model", folder, "--repo_id", repo, env=hub.env(tmp_path / "home"))
        assert done.returncode == 0, done.stderr[-3000:]
        assert hub.files(repo) == pushed[1][repo] and hub.is_private(repo)
