"""What leaves this machine: an allow-list of files and flags, no path, no token; and pushes that fail and are repeated.

python -m pytest tests/test_publish.py
"""

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml
from test_report import results_of

import warm
from conftest import FIGURES, RECIPES, REPO, settings_of, setup_of, tiny_config, tiny_flags
from hub_server import hub_server
from ser_hf import SerError, load_corpus, models
from ser_hf.evaluation.card import write_report
from ser_hf.files import local_path
from ser_hf.publish.push import check_columns
from ser_hf.training import hub as publishing
from ser_hf.training.output import files_of, write_record
from ser_hf.training.record import licence_of, portable
from ser_hf.training.run import changed
from ser_hf.training.saved_model import load_finetuned, save_model

FLAGS = {"dataset": "demo", "model_type": "wav2vec2", "learning_rate": 0.001, "labels": "4class"}
LOCAL = {"data_dir": "/data/anna/demo", "accelerator_config": "/data/anna/acc.json", "run_name": "annas-laptop"}
MODEL_FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} | FIGURES


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of a finished run of a model of ours, beside files that are not of a run."""
    from transformers import Wav2Vec2FeatureExtractor

    from ser_hf.models import SerConfig, SerForAudioClassification

    folder = tmp_path_factory.mktemp("made")
    model = SerForAudioClassification(SerConfig(audio_config=tiny_config("wav2vec2"), pooling="max", num_labels=2))
    save_model(model, Wav2Vec2FeatureExtractor(), folder)
    results, table = results_of(model={"stock": False})
    write_report(folder, results, table)
    (folder / "run.yaml").write_text(yaml.safe_dump(FLAGS | LOCAL))
    for name in ("training_args.bin", "notes.py", "credentials.json", "pytorch_model.bin", "log.txt", "a.safetensors"):
        (folder / name).write_text("secret")
    (folder / "figures" / "notes.txt").write_text("secret")
    return folder


@pytest.fixture
def finished(made, tmp_path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(made, tmp_path / "runs" / "mine"))


# --- what may leave ---------------------------------------------------------------------------------------------------


def test_a_push_is_an_allow_list(finished):
    files = publishing.published(finished, "me/name")
    code = {name for name in files if name.endswith(".py")}
    ours = {file.name for file in Path(publishing.__file__).parents[1].joinpath("models").glob("*.py")}
    assert set(files) - code == {*MODEL_FILES, "results.json", "run.yaml"}
    assert {"configuration_ser.py", "modeling_ser.py", "pooling.py", "pipeline_ser.py"} <= code <= ours
    assert yaml.safe_load(files["run.yaml"]) == FLAGS
    card = files["README.md"].decode()
    assert 'model="me/name"' in card and "- name: me/name\n" in card and "MODEL" not in card
    assert (finished / "README.md").read_text() == card.replace("me/name", "MODEL")


def test_what_the_run_has_not_written_stays_here(finished):
    write_record(finished, [], files_of(finished))
    (finished / "vocab.txt").write_text("secret")
    assert "vocab.txt" in publishing.published_files(finished)
    assert not {"vocab.txt", "record.json"} & publishing.published(finished, "me/name").keys()
    (finished / "record.json").unlink()
    assert "vocab.txt" in publishing.published(finished, "me/name")


@pytest.mark.parametrize(
    "card, licence",
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("---\nlicense: other\n---\n# x", None),
        ("---\nlicense: [mit, gpl]\n---\n# x", None),
        ("---\nlicense: {\n---\n# x", None),
        ("# x", None),
        (None, None),
    ],
)
def test_the_licence_of_a_checkpoint_is_that_of_its_card(card, licence, tmp_path):
    if card:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == licence


def test_trackers_see_the_data(monkeypatch):
    settings = settings_of("wav2vec2_cls", "--dataset", "demo", "--model_type", "wav2vec2")
    setup = setup_of("wav2vec2_cls", {}, fold=2)
    tracked = changed(settings.training, about=setup.about())
    names = {"recipe": "wav2vec2_cls", "corpus": "demo", "labels": "default", "fold": 2}
    assert (names | {"protocol": setup.protocol.name, "learning_rate": 3e-5}).items() <= tracked.to_dict().items()
    assert "corpus" in json.loads(tracked.to_json_string()) and "corpus" not in settings.training.to_dict()


TRACKED = """
import json, runpy, sys
import transformers.integrations.integration_utils as integrations
from transformers import TrainerCallback

class Tracker(TrainerCallback):
    def on_train_begin(self, args, state, control, **others):
        print("CONFIG" + json.dumps(args.to_dict()))
    def on_log(self, args, state, control, logs=None, **others):
        print("LOG" + json.dumps(logs))

integrations.INTEGRATION_TO_CALLBACK["tensorboard"] = Tracker
integrations.is_tensorboard_available = lambda: True
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_tracker_gets_the_data_and_the_test_metrics(fake_corpus, tmp_path):
    data = ("--dataset", "emodb", "--data_dir", fake_corpus("emodb"), "--labels", "4class", "--fold", "1")
    steps = ("--max_steps", "2", "--report_to", "tensorboard", "--output_dir", tmp_path / "run")
    done = warm.python("-c", TRACKED, REPO / "recipes" / "wav2vec2_cls.py", *data, *tiny_flags(), *steps)
    assert done.returncode == 0, done.stderr[-3000:]
    (config,) = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("CONFIG")]
    assert {"corpus": "emodb", "labels": "4class", "fold": 1, "recipe": "wav2vec2_cls"}.items() <= config.items()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert config["protocol"] == results["protocol"]["name"]
    logs = [json.loads(line[3:]) for line in done.stdout.splitlines() if line.startswith("LOG")]
    assert {f"test_{name}": value for name, value in results["test"]["metrics"].items()}.items() <= logs[-1].items()
    assert sum("test_uar" in one for one in logs) == 1


@pytest.mark.parametrize("name", ["README.md", "results.json", "config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "path", ["/data/anna_b/none.wav", "~/x/y.wav", "C:\\data\\x.wav", "file:///srv/x.wav", "/my data/calls/x.wav"]
)
def test_a_local_path_in_any_text_is_refused(finished, name, path):
    from ser_hf.evaluation.tables import escape

    file = finished / name
    if name.endswith(".json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"new": {"a": ["b", f"x {path}: bad"]}}))
    else:
        file.write_text(f"{file.read_text()}\n- {escape(path)}: cannot be read\n")
    with pytest.raises(SerError, match=f"{name} names the local path .*: not pushed"):
        publishing.published(finished, "me/name")


def test_whole_paths_are_matched_and_not_parts_of_words():
    for text in (
        *(
            "https://a.org/data/x",
            "and/or",
            "1/2/3",
            "runs/a/b",
            "/a/ and /e/",
            "s3://bucket/x/y",
            "a / b/c",
            "\\_x\\_",
        ),
        *("doi:10.1/x/y", "me/root/name", "[a](b/c/d)", "half/data/anna", "{fold}/data/x"),
        *("happy /sad or angry/neutral", "http://localhost:80/x and y/z", "https://a.org/b c/d/e.f", "-/- a/b/c"),
        *("phones:/a/ and /e/", "(or sad/neutral)", f"https://a.org{Path.home()}", f"me{Path.cwd()}x"),
    ):
        assert local_path(text) is None, text
    for text in ("/root/x", "x=/data/x", "(/tmp/a)", "'~/x'", "D:/a/b", "\\\\server\\share\\x", "`/mnt/d/x y.wav`"):
        assert local_path(text), text
    for text in ("/my data/calls/x.wav", "C:\\My Recordings\\x.wav", "/data (old)/calls/x", "path:/home/a/b"):
        assert local_path(text), text


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_flag_of_ours_with_text_is_declared(recipe):
    """A new flag is not published before someone has said what it holds."""
    from dataclasses import fields, is_dataclass

    from ser_hf.training import settings

    known = {*settings.PUBLIC_SOURCES, *settings.PUBLIC_TEXTS, *settings.choice_flags(), "data_dir", "config"}
    concerns = vars(settings_of(recipe, "--dataset", "demo")).items()
    for _, concern in [one for one in concerns if one[0] != "training" and is_dataclass(one[1])]:
        for entry in fields(concern):
            if "str" in str(entry.type):
                assert entry.name in known, entry.name


def test_flags_of_a_machine_stay_here(tmp_path):
    (tmp_path / "noise").mkdir()
    (tmp_path / "calls").mkdir()
    local = {
        **LOCAL,
        "deepspeed": "ds.json",  # by its kind: it does not look like a path
        "fsdp_config": '{"x": "/data/anna"}',
        "hub_token": "hf_x",
        "hub_model_id": "me/x",
        "output_dir": "runs/x",
        "resume_from_checkpoint": "runs/x/checkpoint-3",
        "trackio_space_id": "anna/x",
        "unheard_of": "x",
    }
    shown = {
        "dataset": f"ravdess+{tmp_path}/calls",
        "noise_dir": f"{tmp_path}/noise",
        "model_name_or_path": "private/clients/run/checkpoint-3",
        "audio_model": "facebook/wav2vec2-base",
        "layers": [1, 2],
        "speed_copies": [0.9],
        "bf16": True,
        "seed": 3,
        "pooling": "max",
        "lr_scheduler_type": "linear",
    }
    assert portable(local | shown) == shown | {
        "dataset": "ravdess+calls",
        "noise_dir": "noise",
        "model_name_or_path": "checkpoint-3",
    }


def test_the_folders_of_a_run_are_local_paths_however_short_they_are():
    assert local_path(f"in {Path.home()}") == str(Path.home()) and local_path(f"({Path.cwd()})")
    for folder in ("/calls", "/my calls"):
        assert local_path(f"read from {folder}, today") is None
        with pytest.raises(SerError, match=f"README.md names the local path {folder}"):
            publishing.check_public("README.md", {"x": [f"read from {folder}, today"]}, [None, folder])
        publishing.check_public("README.md", f"https://a.org{folder} and {folder}s", [folder])


def folder_with_a_file_outside(tmp_path: Path) -> Path:
    """A corpus of two clips, and a clip that is not in its folder and cannot be read."""
    folder, outside = tmp_path / "calls", tmp_path / "anna" / "none.wav"
    folder.mkdir()
    outside.parent.mkdir()
    outside.write_bytes(b"no audio")
    for name in ("a", "b"):
        sf.write(folder / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, 8000), 8000)
    rows = f"a.wav,sad\nb.wav,happy\n{outside},sad\n"
    (folder / "metadata.csv").write_text(f"file_name,label\n{rows}")
    return folder


def test_a_bad_file_outside_its_corpus_is_named_by_its_id(tmp_path):
    _, report = load_corpus(str(folder_with_a_file_outside(tmp_path)), return_report=True)
    (problem,) = report.problems
    assert problem.startswith("none: ") and not any(map(local_path, report.lines()))


def test_columns_that_spell_a_path_are_not_pushed(tmp_path):
    import datasets
    import pyarrow as pa

    def corpus(id: str, speaker: str, path: str | None) -> datasets.Dataset:
        from ser_hf.data.corpus import LabelConfig
        from ser_hf.data.schema import features

        kinds = features(LabelConfig("x", counts={"sad": 1}))
        row = {"id": id, "audio": path and {"bytes": None, "path": path}, "text": "/data/a/b is a text", "label": 0}
        row |= {"speaker": speaker, "duration": 1.0, "audio_hash": "x"}
        return datasets.Dataset(pa.Table.from_pylist([row], schema=kinds.arrow_schema))

    check_columns(corpus("data/anna/x", "anna", "/data/anna/calls/data/anna/x.wav"))
    check_columns(corpus("x", "anna", None))
    with pytest.raises(SerError, match="the id data/anna/x spells the path /data/anna/x.wav: not pushed"):
        check_columns(corpus("data/anna/x", "anna", "/data/anna/x.wav"))
    with pytest.raises(SerError, match="the column id names the local path /data/anna/x: not pushed"):
        check_columns(corpus("/data/anna/x", "anna", None))
    with pytest.raises(SerError, match="the column speaker names the local path ~/anna/x"):
        check_columns(corpus("x", "~/anna/x", None))


# --- tokens and pickles -----------------------------------------------------------------------------------------------


def test_a_token_is_in_the_environment_and_nowhere_else(monkeypatch):
    from huggingface_hub import get_token

    monkeypatch.setenv("HF_TOKEN", "another")
    settings = settings_of("classical_cls", "--dataset", "demo", "--hub-token", "hf_secret")
    assert get_token() == "hf_secret" and "hf_secret" not in repr(settings) and "hub_token" not in settings.overrides
    with pytest.raises(SerError, match="--hub_token: needs a value"):
        settings_of("classical_cls", "--dataset", "demo", "--hub_token")


def test_a_checkpoint_holds_no_arguments(tmp_path):
    from transformers import TrainingArguments

    from ser_hf.models import SerConfig, SerForAudioClassification
    from ser_hf.training.trainer import SerTrainer

    model = SerForAudioClassification(SerConfig(audio_config=tiny_config("wav2vec2"), num_labels=2))
    arguments = TrainingArguments(str(tmp_path / "run"), use_cpu=True, hub_token="hf_secret")
    SerTrainer(model, arguments, data_collator=list).save_model(str(tmp_path / "checkpoint"))
    assert {file.name for file in (tmp_path / "checkpoint").iterdir()} >= {"config.json", "model.safetensors"}
    assert not list(tmp_path.rglob("*.bin"))


def pickled(folder: Path, model) -> str:
    """The folder of a model whose weights are pickled."""
    import torch

    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return str(folder)


def tiny_model(kind: str):
    from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForSequenceClassification

    if kind == "ours":
        return models.SerForAudioClassification(models.SerConfig(audio_config=tiny_config("wav2vec2"), pooling="max"))
    if kind == "stock":
        return AutoModelForAudioClassification.from_config(tiny_config("wav2vec2"))
    if kind == "spectrogram":
        return models.SerForSpectrogramClassification(models.SerSpectrogramConfig(arch="cnn1d_3", num_labels=2))
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **size))


def loaders(kind: str) -> dict:
    """The ways in which a checkpoint of this kind is loaded, by name."""
    from transformers import AutoModelForAudioClassification, pipeline

    from ser_hf.cli import main
    from ser_hf.files import check_checkpoint
    from ser_hf.models.modeling_fusion import load_audio_encoder, load_text_encoder

    def predict(folder):
        sf.write(f"{folder}/a.wav", np.ones(8000), 8000)
        assert main(["predict", f"{folder}/a.wav", "--model", folder]) == 2

    recipe = {"recipe": lambda folder: check_checkpoint(folder, "--model_name_or_path")}
    of_audio = {"predict": predict, "load_finetuned": load_finetuned, "encoder": load_audio_encoder}
    ours = {"auto": AutoModelForAudioClassification.from_pretrained, "encoder": load_audio_encoder}
    ours["pipeline"] = lambda folder: pipeline("audio-classification", model=folder)
    return (
        recipe
        | {
            "ours": {**of_audio, **ours, "class": models.SerForAudioClassification.from_pretrained},
            "stock": of_audio,
            "text": {"encoder": load_text_encoder},
            "spectrogram": {**ours, "class": models.SerForSpectrogramClassification.from_pretrained},
        }[kind]
    )


@pytest.mark.parametrize("kind", ["ours", "stock", "text", "spectrogram"])
def test_pickled_weights_are_refused_in_one_line(kind, tmp_path, capsys):
    folder = pickled(tmp_path / "old", tiny_model(kind))
    hint = f"`ser-hf convert {folder} NEW_FOLDER` rewrites"
    for name, load in loaders(kind).items():
        capsys.readouterr()
        try:
            load(folder)
            said = capsys.readouterr().err
        except (OSError, SerError, ValueError) as error:
            said = str(error)
        assert hint in said, (name, said)
        assert said.strip().count("\n") == 0 or name == "pipeline", (name, said)  # transformers quotes errors there


# --- pushes that fail -------------------------------------------------------------------------------------------------


def client(hub, home: Path, code: str, **env) -> dict:
    """Run `code` in a new process with `push(*argv)`, the status and the lines of `ser-hf push`, and `faults`; the dict
    that it leaves in `result`."""
    start = f"""
    import contextlib, io, json, urllib.request
    import huggingface_hub.utils._http as http
    http.time.sleep = lambda seconds: None  # between its attempts
    from ser_hf.cli import main
    result = {{}}

    def push(*argv):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["push", *map(str, argv)])
        said = err.getvalue().split("error: ")[1:]  # after a bar of progress, perhaps
        return [status, said if status else []]

    def faults(*faults):
        urllib.request.urlopen("{hub.url}/test/faults", data=json.dumps(faults).encode())
    """
    code = f"{textwrap.dedent(start)}\n{textwrap.dedent(code)}\nprint('RESULT' + json.dumps(result))"
    env = hub.env(home) | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(home / "datasets")} | env
    done = warm.python("-c", code, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.rpartition("RESULT")[2])


# What fails (a request, a status, how often), and what is said of it.
FAULTS = {  # the uploads first: what is there is not uploaded again
    "upload": ("PUT /lfs/upload/", 500, "the Hub has failed"),
    "upload reset": ("PUT /lfs/upload/", "reset", "the Hub cannot be reached"),
    "rights": ("POST /api/repos/create", 403, "your token may not do this"),
    "commit rights": ("POST .*/commit/", 403, "your token may not do this"),
    "conflict": ("POST .*/commit/", 409, "is being changed by someone else"),
    "stale": ("POST .*/commit/", 412, "was changed by someone else meanwhile"),
    "broken": ("POST .*/commit/", 500, "the Hub has failed"),
    "limit": ("POST .*/commit/", 429, "too many requests"),
    "reset": ("POST .*/commit/", "reset", "the Hub cannot be reached"),
    "token": ("GET /api/whoami", 401, "the Hub does not accept this machine"),
}


def test_flags_of_the_hub_do_what_they_say_or_are_refused():
    def asked(*flags: str) -> publishing.Repository | None:
        settings = settings_of("spectrogram_cls", "--dataset", "demo", *flags)
        return publishing.destination(settings.training, settings.overrides)

    push = ("--push_to_hub", "true", "--hub_model_id", "me/x")
    assert asked() is None and asked("--push_to_hub", "false", "--hub_model_id", "me/x") is None
    assert asked(*push) == publishing.Repository("me/x", private=True)
    assert asked(*push, "--hub_private_repo", "true", "--hub_strategy", "end") == publishing.Repository("me/x")
    public = asked(*push, "--hub_private_repo", "false", "--hub_revision", "v1")
    assert public == publishing.Repository("me/x", private=False, revision="v1")
    for flags, words in {
        ("--hub_model_id", "me/x"): "--hub_model_id me/x: does nothing without --push_to_hub true; leave it out",
        ("--hub_private_repo", "false"): "--hub_private_repo False: does nothing without --push_to_hub true",
        (*push, "--hub_strategy", "every_save"): "--hub_strategy every_save: a run is pushed once, when it is finished",
        (*push, "--hub_always_push", "true"): "--hub_always_push True: a run is pushed once",
    }.items():
        with pytest.raises(SerError, match=words):
            asked(*flags)
    for id, words in {None: "--hub_model_id is missing", "x": "--hub_model_id x: must be user/name"}.items():
        with pytest.raises(SerError, match=words):
            publishing.claim(publishing.Repository(id), "--hub_model_id")


@pytest.mark.slow
def test_a_corpus_that_cannot_be_pushed_is_one_line(tmp_path):
    folder = folder_with_a_file_outside(tmp_path)
    with hub_server() as hub:
        got = client(
            hub,
            tmp_path / "home",
            f"""
            for name, (request, status, _) in {FAULTS!r}.items():
                repository = f"tester/{{name.replace(' ', '-')}}"
                faults([request, status, 99])
                result[name] = push("corpus", {str(folder)!r}, "--repo_id", repository)
            faults()
            result["again"] = push("corpus", {str(folder)!r}, "--repo_id", "tester/conflict")
            """,
        )
        print(json.dumps(got, indent=1))
        for name, (_, _, words) in FAULTS.items():
            status, lines = got[name]
            assert status == 2 and len(lines) == 1 and words in lines[0].splitlines()[0], (name, lines)
        assert got["again"] == [0, []] and hub.is_private("tester/conflict", "dataset")
        files = hub.files("tester/conflict", "dataset")
        assert "1 clips cannot be used" in files["README.md"].decode() and "- none: " in files["README.md"].decode()
        for name, content in files.items():
            assert str(tmp_path).encode() not in content and b"anna" not in content, name


@pytest.mark.slow
def test_a_push_that_fails_is_one_line_and_can_be_repeated(finished, tmp_path):
    with hub_server() as hub:
        hub.add_repo("tester/open", {"README.md": b"open\n"}, private=False)
        old = {"README.md": b"old", "old.safetensors": b"x", "old.py": b"x", "vocab.txt": b"x", "LICENSE": b"mine"}
        hub.add_repo("tester/again", old, private=True)
        got = client(
            hub,
            tmp_path / "home",
            f"""
            from pathlib import Path
            from ser_hf.errors import SerError
            from ser_hf.training.hub import Repository, push_run

            folder = {str(finished)!r}
            for name, (request, status, _) in {FAULTS!r}.items():
                repository = f"tester/{{name.replace(' ', '-')}}"
                faults([request, status, 99])
                result[name] = push("model", folder, "--repo_id", repository)
                faults()
            faults(["POST .*/commit/", 500, 99])
            for name, options in {{"at the end": (), "to a branch": (False, "v 1")}}.items():
                try:
                    push_run(Path(folder), Repository("tester/end", *options))
                except SerError as error:
                    result[name] = str(error)
            with open(f"{{folder}}/figures/confusion_matrix.png", "ab") as file:
                file.write(b"new")
            faults(["PUT /lfs/upload/", 503, 2])  # twice, then it works
            result["tried again"] = push("model", folder, "--repo_id", "tester/again")
            faults()
            result["open"] = push("model", folder, "--repo_id", "tester/open")
            result["public"] = push("model", folder, "--repo_id", "tester/open", "--public")
            result["closed"] = push("model", folder, "--repo_id", "tester/again", "--public")
            result["branch"] = push("model", folder, "--repo_id", "tester/again", "--revision", "v1")
            result["foreign"] = push("model", folder, "--repo_id", "someone/x")
            result["no run"] = push("model", Path(folder).parent, "--repo_id", "tester/x")
            """,
        )
        print(json.dumps(got, indent=1))
        for name, (_, _, words) in FAULTS.items():
            status, lines = got[name]
            assert status == 2 and len(lines) == 1 and words in lines[0], (name, lines)
        assert "try again in 7 s" in got["limit"][1][0]
        again = f"ser-hf push model {finished} --repo_id tester/end"
        assert got["at the end"].endswith(f"; the run is saved, and this pushes it: {again}")
        assert got["to a branch"].startswith("--hub_model_id tester/end: exists and is private")
        assert got["to a branch"].endswith(f"{again} --public --revision 'v 1'")
        for name in ("tried again", "public", "branch"):
            assert got[name] == [0, []], name
        for name, words in {
            "open": "exists and is public; choose another, make it private on the Hub, or give --public",
            "closed": "exists and is private; make it public on the Hub, or leave --public out",
            "foreign": "your token may not do this (403",
            "no run": "holds no finished run",
        }.items():
            assert got[name][0] == 2 and words in got[name][1][0], got[name]
        code = {name for name in publishing.published(finished, "a/b") if name.endswith(".py")}
        pushed = {*MODEL_FILES, *code, "results.json", "run.yaml"}
        assert set(hub.files("tester/again")) == pushed | {"LICENSE"}  # what an earlier run left is gone
        assert set(hub.files("tester/again", revision="v1")) == pushed | {"LICENSE"}
        assert set(hub.files("tester/open")) == pushed
        for name, content in publishing.published(finished, "tester/again").items():
            content = content if isinstance(content, bytes) else content.read_bytes()
            assert hub.files("tester/again")[name] == content
        for path in ("again", "open"):
            for name, content in hub.files(f"tester/{path}").items():
                for word in (b"anna", str(tmp_path).encode(), b"secret"):
                    assert word not in content, (name, word)
        assert not hub.unknown and not hub.errors
