"""`ser-hf cross` and the protocol `cross-corpus`: who is trained on, scores by hand, interruptions, mistakes.

python -m pytest tests/test_cross.py
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from conftest import REPO, run_recipe, settings_of, system_of, tiny_flags
from ser_hf.cli import cross, cv, main
from ser_hf.data.columns import Columns
from ser_hf.data.mixing import find_mixture, load_mixture
from ser_hf.errors import SerError
from ser_hf.evaluation.scoring import predictions_table, score
from ser_hf.training.arguments import build, read
from ser_hf.training.record import describe, write_flags
from ser_hf.training.run import make_fold, resolve
from ser_hf.training.settings import DataArguments

RECIPE = str(REPO / "recipes" / "wav2vec2_cls.py")


@pytest.fixture(scope="module")
def corpora(fake_corpus, tmp_path_factory):
    """A folder that holds small copies of EmoDB and RAVDESS."""
    base = tmp_path_factory.mktemp("corpora")
    for name in ("emodb", "ravdess", "tess"):
        (base / name).symlink_to(fake_corpus(name))
    return base


class Launcher:
    """Stands for `cv.launch`: leaves what a recipe leaves. The model is right wherever it was trained on the label, and
    says the first label that it knows elsewhere. `stop` interrupts before the run of that number."""

    def __init__(self):
        self.outs, self.stop = [], None

    def __call__(self, command, log, verbose=False):
        values, overrides = read(system_of("wav2vec2_cls"), command[command.index(RECIPE) + 1 :])
        if len(self.outs) == self.stop:
            raise KeyboardInterrupt
        data, folder = build(DataArguments, values), Path(values.output_dir)
        self.outs.append(folder.parent.name)
        mixture, protocol = resolve(system_of("wav2vec2_cls"), data, build(Columns, values))
        corpus, report, mixed = load_mixture(mixture)
        splits = make_fold(corpus, mixed, protocol, data, data.fold, report.corpus)
        names, test = report.label_names, splits["test"]
        known = sorted({*splits["train"]["label"]})
        answers = [label if label in known else known[0] for label in test["label"]]
        logits = np.eye(len(names))[answers]
        card = {"title": "T", "licence": "L", "notes": "", "lines": report.lines()}
        split = {name: getattr(protocol, name) for name in ("name", "source", "speaker_independent", "warning")}
        results = {
            "ser_hf": "0.1.0",
            "commit": None,
            "versions": {},
            "seed": values.seed,
            "training": None,
            "corpus": report.as_dict() | card,
            "mixed": mixed.counts if mixed else None,
            "protocol": split | {"fold": data.fold},
            "splits": describe(splits),
            "model": {"class": "C", "encoder": "E", "details": "d"},
            "test": score(test, logits, names),
        }
        buffer = io.BytesIO()
        predictions_table(test, logits, names).to_parquet(buffer)
        (folder / "predictions.parquet").write_bytes(buffer.getvalue())
        write_flags(folder, overrides)
        (folder / "results.json").write_text(json.dumps(results))
        return 0, ""


@pytest.fixture
def launcher(monkeypatch):
    fake = Launcher()
    monkeypatch.setattr(cv, "launch", fake)
    return fake


@pytest.fixture
def flags(corpora, tmp_path):
    return [RECIPE, "--data_dir", str(corpora), "--learning_rate", "1e-3", "--output_dir", str(tmp_path / "out")]


# ---- the protocol


def test_the_tested_corpus_is_not_trained_on(corpora):
    mixture = find_mixture("emodb+ravdess", "4class", corpora, "emodb", protocol="cross-corpus")
    corpus, report, mixed = load_mixture(mixture)
    data = settings_of("wav2vec2_cls", "--dataset", "emodb").data
    parts = make_fold(corpus, mixed, mixture.tested.protocol, data, 0, "emodb")
    assert parts["test"]["id"][:] == corpus["id"][:] and report.utterances == len(corpus)
    for part in ("train", "validation"):
        assert len(parts[part]) and all(name.startswith("ravdess/") for name in parts[part]["id"])
    assert not {*parts["train"]["speaker"]} & {*parts["validation"]["speaker"]}
    assert len(parts["train"]) + len(parts["validation"]) == len(mixed.rows)
    assert 0.1 < len(parts["validation"]) / len(mixed.rows) < 0.35
    with pytest.raises(SerError, match="--fold 1: cross-corpus has one fold, 0"):
        make_fold(corpus, mixed, mixture.tested.protocol, data, 1, "emodb")
    with pytest.raises(SerError, match="--dataset emodb is one corpus; name those to train on"):
        find_mixture("emodb", "4class", corpora, protocol="cross-corpus")


def test_a_corpus_has_the_label_sets_that_its_words_make(corpora):
    """RAVDESS publishes eight, six and five classes; of four labels it has the words."""
    mixture = find_mixture("ravdess", "4class", corpora)
    assert mixture.tested.config.counts == {"neutral": 96, "happy": 192, "sad": 192, "angry": 192}
    corpus, report, _ = load_mixture(mixture)
    assert report.label_names == ["angry", "happy", "neutral", "sad"] and report.outside_labels > 0
    everything = load_mixture(find_mixture("ravdess", "8class", corpora))[0]
    assert len(corpus) + report.outside_labels == len(everything)


# ---- the command


def test_the_matrix_with_labels_that_cannot_be_known(flags, launcher, tmp_path, capsys):
    command = ["cross", *flags, "--datasets", "emodb", "ravdess", "--labels", "7class"]
    assert main(command) == 0
    said, out = capsys.readouterr().out, tmp_path / "out"
    found = json.loads((out / "cross.json").read_text())
    cells = {(*cell["train"], cell["test"]): cell for cell in found["cells"]}
    assert list(cells) == [("emodb", "emodb"), ("ravdess", "ravdess"), ("emodb", "ravdess"), ("ravdess", "emodb")]
    assert launcher.outs == ["emodb"] * 10 + ["ravdess"] * 6 + ["emodb_to_ravdess", "ravdess_to_emodb"]
    # EmoDB's seven have no surprised, RAVDESS no bored: 6 of 7 recalls are 1, the other is 0
    for (train, test), cell in cells.items():
        assert cell["own"] == (train == test) and cell["shared_uar"] == 1.0
        assert cell["uar"] == pytest.approx(1.0 if train == test else 6 / 7)
    crossed = cells["emodb", "ravdess"]
    assert list(crossed["unknown"]) == ["surprised"] and crossed["unknown"]["surprised"] > 0
    assert list(cells["ravdess", "emodb"]["unknown"]) == ["bored"] and cells["ravdess", "ravdess"]["unknown"] == {}
    assert crossed["protocol"] == "cross-corpus" and crossed["trained_on"]["emodb"]["left_out_words"] == {
        "bored": found["label_map"]["emodb"]["labels"]["bored"]["utterances"]
    }
    assert found["label_map"]["ravdess"]["labels"]["sad"]["words"] == ["sad"]
    text = (out / "cross.md").read_text()
    assert text in said and "## Over the labels that both have" in text
    assert f"trained on emodb, tested on ravdess: surprised ({crossed['unknown']['surprised']} utterances)" in text
    assert "1.000 [1.000, 1.000] (own)" in text and "0.857" in text
    assert (out / "cross.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "emodb_to_ravdess" / "cv.json").read_text())["mixed"]["emodb"]["utterances"] > 0
    # the same command has nothing to run
    launcher.outs.clear()
    assert main(command) == 0 and launcher.outs == [] and (out / "cross.md").read_text() == text


def test_what_was_interrupted_goes_on(flags, launcher, tmp_path, capsys):
    command = ["cross", *flags, "--datasets", "emodb", "ravdess", "--labels", "4class"]
    launcher.stop = 12
    assert main(command) == 130 and "the same command goes on from here" in capsys.readouterr().err
    assert not (tmp_path / "out" / "cross.json").exists()
    launcher.stop = None
    assert main(command) == 0
    assert launcher.outs == ["emodb"] * 10 + ["ravdess"] * 6 + ["emodb_to_ravdess", "ravdess_to_emodb"]
    text = (tmp_path / "out" / "cross.md").read_text()
    assert "## Over the labels that both have" not in text  # both have all four


def test_all_but_one(flags):
    words = [
        "--datasets",
        "emodb",
        "ravdess",
        "tess",
        "--labels",
        "4class",
        "--leave_one_out",
        "true",
        "--seeds",
        "1",
        "2",
    ]
    out, cells = cross.parse([*flags, *words, "--record", "x"])
    assert [(cell.train, cell.test) for cell in cells[3:]] == [
        (("ravdess", "tess"), "emodb"),
        (("emodb", "tess"), "ravdess"),
        (("emodb", "ravdess"), "tess"),
    ]
    last = cells[-1].request
    assert last.data.dataset == "emodb+ravdess+tess" and last.data.test_on == "tess" and last.seeds == [1, 2]
    assert last.data.protocol == "cross-corpus" and last.out == out / "emodb_ravdess_to_tess"
    assert last.record == "x_from_emodb_ravdess" and cells[0].request.record == "x"
    assert [cell.request.data.protocol for cell in cells[:2]] == ["leave-one-speaker-out", "6fold"]
    assert all(cell.request.overrides["config"] == "none" for cell in cells)  # one system, not a YAML of each corpus


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "4class"], "the following arguments are required: --datasets"),
        (["--datasets", "emodb", "--labels", "4class"], "--datasets emodb: name two corpora or more, each once"),
        (["--datasets", "emodb", "emodb", "--labels", "4class"], "name two corpora or more, each once"),
        (["--datasets", "emodb", "ravdess"], "--labels is missing: name the label set"),
        (["--datasets", "emodb", "ravdess", "--labels", "4class", "--dataset", "x"], "--dataset: cross sets it"),
        (["--datasets", "emodb", "ravdess", "--labels", "4class", "--folds", "0"], "--folds: cross sets it"),
        (["--datasets", "emodb", "ravdess", "--labels", "4class", "--leave_one_out"], "needs three corpora or more"),
        (["--datasets", "emodb", "ravdes", "--labels", "4class"], "unknown dataset 'ravdes': did you mean 'ravdess'"),
        (["--datasets", "emodb", "ravdess", "--labels", "8class"], "emodb has no label set '8class'"),
        (["--datasets", "emodb", "ravdess", "--labels", "4class", "--pool", "x"], "--pool"),
        (["--datasets", "emodb", "demo", "--labels", "dimensional"], "emodb has no label set 'dimensional'"),
    ],
)
def test_mistakes_are_one_line(words, message, flags, launcher, capsys):
    assert main(["cross", *flags, *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and launcher.outs == []


def test_the_recipe_comes_first(capsys):
    assert main(["cross", "--datasets", "emodb", "ravdess"]) == 2
    assert "the recipe comes first: ser-hf cross recipes/" in capsys.readouterr().err


@pytest.mark.slow
def test_a_recipe_across_corpora(corpora, tmp_path):
    words = ["--dataset", "ravdess+emodb", "--test_on", "emodb", "--protocol", "cross-corpus", "--labels", "4class"]
    out = ["--data_dir", str(corpora), "--max_steps", "2", "--output_dir", str(tmp_path / "out")]
    done = run_recipe("wav2vec2_cls", *words, *tiny_flags(), *out)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (
        results["protocol"]["name"] == "cross-corpus"
        and results["test"]["utterances"] == results["corpus"]["utterances"]
    )
    assert results["trained_on"][0]["added"] == ["ravdess"] and results["splits"]["validation"]["utterances"] > 0
