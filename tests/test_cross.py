"""`ser-hf cross` and the protocol `cross-corpus`: who is trained on, scores by hand, interruptions, mistakes.

python -m pytest tests/test_cross.py
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from conftest import REPO, run_recipe, settings_of, system_of, tiny_flags
from fakes import babble
from ser_hf.cli import main
from ser_hf.data.columns import Columns
from ser_hf.data.mixing import find_mixture, load_mixture
from ser_hf.errors import SerError
from ser_hf.evaluation.scoring import predictions_table, score
from ser_hf.experiments import cross, cv
from ser_hf.training.arguments import build, read
from ser_hf.training.record import describe, write_flags
from ser_hf.training.run import make_fold, resolve
from ser_hf.training.settings import DataArguments

RECIPE = str(REPO / "recipes" / "wav2vec2_cls.py")


@pytest.fixture(scope="module")
def corpora(fake_corpus, tmp_path_factory):
    """A folder that holds small copies of four corpora."""
    base = tmp_path_factory.mktemp("corpora")
    for name in ("emodb", "ravdess", "tess", "aesdd"):
        (base / name).symlink_to(fake_corpus(name))
    return base


class Launcher:
    """Stands for `cv.launch`: leaves what a recipe leaves. The model knows every label of its training corpora,
    and says the first of them elsewhere. `stop` interrupts before the run of that number."""

    def __init__(self):
        self.outs, self.stop, self.loaded, self.at_once = [], None, {}, []

    def __call__(self, jobs, start, at_once=1, verbose=False):
        self.at_once.append(at_once)
        yield from ((key, command, *self.run(command)) for key, command, _ in jobs)

    def run(self, command):
        values, overrides = read(system_of("wav2vec2_cls"), command[command.index(RECIPE) + 1 :])
        if len(self.outs) == self.stop:
            raise KeyboardInterrupt
        data, folder = build(DataArguments, values), Path(values.output_dir)
        self.outs.append(folder.parent.name)
        mixture, protocol = resolve(system_of("wav2vec2_cls"), data, build(Columns, values))
        if data.dataset not in self.loaded:
            self.loaded[data.dataset] = load_mixture(mixture)
        corpus, report, mixed = self.loaded[data.dataset]
        splits = make_fold(corpus, mixed, protocol, data, data.fold, report.corpus)
        names, test = report.label_names, splits["test"]
        known = sorted({*mixed.rows["label"]}) if mixed else range(len(names))
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
    """TESS has seven labels, AESDD five of them. Interrupted first: the same command goes on."""
    command, out = ["cross", *flags, "--datasets", "tess", "aesdd", "--labels", "7class"], tmp_path / "out"
    launcher.stop = 3
    assert main(command) == 130 and "the same command goes on from here" in capsys.readouterr().err
    assert not (out / "cross.json").exists()
    launcher.stop = None
    assert main(command) == 0
    said, text = capsys.readouterr().out, (out / "cross.md").read_text()
    found = json.loads((out / "cross.json").read_text())
    folds = len(list((out / "aesdd").glob("fold*")))
    assert launcher.outs == ["tess"] * 2 + ["aesdd"] * folds + ["tess_to_aesdd", "aesdd_to_tess"]
    cells = {(*cell["train"], cell["test"]): cell for cell in found["cells"]}
    assert list(cells) == [("tess", "tess"), ("aesdd", "aesdd"), ("tess", "aesdd"), ("aesdd", "tess")]
    assert [cell["own"] for cell in cells.values()] == [True, True, False, False]
    assert [cell["shared_uar"] for cell in cells.values()] == [1, 1, 1, 1]
    # trained on AESDD, two of seven recalls are 0, the others 1
    assert [cell["uar"] for cell in cells.values()] == pytest.approx([1, 1, 1, 5 / 7])
    assert [cell["chance_uar"] for cell in cells.values()] == pytest.approx([1 / 7, 1 / 5, 1 / 5, 1 / 7])
    counts = found["label_map"]["tess"]["labels"]
    unknown = {name: counts[name]["utterances"] for name in ("neutral", "surprised")}
    assert cells["aesdd", "tess"]["unknown"] == unknown and cells["tess", "aesdd"]["unknown"] == {}
    assert cells["tess", "aesdd"]["trained_on"]["tess"]["left_out_words"] == unknown  # AESDD has no such labels
    assert counts["sad"]["words"] == ["sad"] and cells["aesdd", "tess"]["protocol"] == "cross-corpus"
    assert text in said and "## Over the labels that both have" in text
    assert f"tested on tess: neutral ({unknown['neutral']} utterances), surprised" in text
    assert "1.000 [1.000, 1.000] (own)" in text and "0.714" in text
    assert (out / "cross.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "tess_to_aesdd" / "cv.json").read_text())["mixed"]["tess"]["utterances"] > 0
    # the same command has nothing to run
    launcher.outs.clear()
    assert main(command) == 0 and launcher.outs == [] and (out / "cross.md").read_text() == text
    assert {*launcher.at_once} == {1}
    # a scheduler gets the folds of all cells at once
    launcher.at_once.clear()
    assert main([*command, "--launcher", "true", "--overwrite_output_dir", "true"]) == 0
    assert launcher.at_once == [len(launcher.outs)] == [2 + folds + 2] and (out / "cross.md").read_text() == text


def test_folders_of_ones_own_are_named_once_and_without_their_path(launcher, tmp_path, capsys):
    for number, name in enumerate(("calls", "talks")):
        (tmp_path / name).mkdir()
        rows = [(f"{who}{label}.wav", label, f"{name} {who}") for who in "abcd" for label in ("angry", "sad")]
        for seed, (file, *_) in enumerate(rows):
            sf.write(tmp_path / name / file, babble(100 * number + seed), 16000)
        table = ["file_name,label,speaker", *map(",".join, rows)]
        (tmp_path / name / "metadata.csv").write_text("\n".join(table))
    out = tmp_path / "out"
    words = ["--datasets", str(tmp_path / "calls"), str(tmp_path / "talks"), "--labels", "labels"]
    assert main(["cross", RECIPE, *words, "--learning_rate", "1e-3", "--output_dir", str(out)]) == 0
    assert not capsys.readouterr().err.startswith("error")
    found, text = (out / "cross.json").read_text(), (out / "cross.md").read_text()
    assert str(tmp_path) not in found + text
    assert [(*cell["train"], cell["test"]) for cell in json.loads(found)["cells"]] == [
        ("./calls", "./calls"),
        ("./talks", "./talks"),
        ("./calls", "./talks"),
        ("./talks", "./calls"),
    ]
    assert text.count("\n| ./calls ") == 1 + 3  # a row of the matrix, three of the label map


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
