"""What checkpoints were trained on: the same test set or held-out speakers pass, everything else stops the run."""

import json
import shutil
from dataclasses import replace

import pytest
from datasets import Dataset, DatasetDict

from conftest import setup_of
from ser_hf import SerError
from ser_hf.data.corpus import CROSS_CORPUS
from ser_hf.data.mixing import Mixed
from ser_hf.training.provenance import check_checkpoints, training_of, trainings_of

CROSS = CROSS_CORPUS.name
SPEAKERS = {"a1": "01", "a2": "01", "b1": "02", "c1": "03"}


def run_on(test, corpus="ravdess", protocol="6fold", fold=0, added=(), **overrides):
    """The setup of a run that tests these utterances."""
    rows = Dataset.from_dict({"id": list(test), "speaker": [SPEAKERS[name] for name in test]})
    mixed = Mixed(rows, dict.fromkeys(added, {})) if added else None
    changes = {"fold": fold, "mixed": mixed, "overrides": overrides}
    setup = setup_of("wav2vec2_cls", DatasetDict(test=rows), corpus, None if protocol == CROSS else protocol, **changes)
    return replace(setup, protocol=CROSS_CORPUS) if protocol == CROSS else setup


def finished(folder, setup, checkpoints=()):
    """The part of a finished run that is read here; returns its name."""
    folder.mkdir()
    trained_on = check_checkpoints(list(checkpoints), setup)
    (folder / "results.json").write_text(json.dumps({"ser_hf": "0", "trained_on": trained_on}))
    return str(folder)


@pytest.mark.parametrize(
    "before, now, leak",
    [
        ({"test": ["a1", "b1"]}, {"test": ["b1", "a1"]}, None),
        ({"test": ["a1", "b1"]}, {"test": ["a1", "b1"], "split_seed": 7}, None),  # it moves validation alone
        ({"test": ["a1", "b1"]}, {"test": ["a2"]}, None),  # other labels, whose folds are of the same named speakers
        ({"test": ["a1", "b1"]}, {"test": ["c1"], "fold": 1}, "fold 0 and not 1"),
        ({"test": ["a1"], "corpus": "emodb", "protocol": None}, {"test": ["a1"]}, None),
        ({"test": ["a1"], "corpus": "x", "protocol": None, "added": ["ravdess"]}, {"test": ["a1"]}, "as a whole"),
        # trained on the added corpus alone, it knows no utterance of the tested one
        ({"test": ["a1", "c1"], "protocol": CROSS, "added": ["emodb"]}, {"test": ["c1"], "fold": 1}, None),
        ({"test": ["b1"], "corpus": "emodb", "protocol": CROSS, "added": ["ravdess"]}, {"test": ["a1"]}, "as a whole"),
        ({"test": ["a1"]}, {"test": ["a1", "c1"], "protocol": CROSS, "added": ["emodb"]}, "6fold and not cross-corpus"),
        ({"test": ["a1"], "protocol": "random"}, {"test": ["a2"], "protocol": "random"}, "another test set"),
        ({"test": ["a1"], "protocol": "random"}, {"test": ["a1"], "protocol": "random"}, None),
        # five groups of whole speakers, dealt by the number of rows that the label set keeps
        ({"test": ["a1"], "corpus": "x", "protocol": None}, {"test": ["b1"], "corpus": "x", "protocol": None}, "other"),
        ({"test": ["a1"], "corpus": "x", "protocol": None}, {"test": ["a2"], "corpus": "x", "protocol": None}, None),
    ],
)
def test_what_a_checkpoint_was_trained_on(before, now, leak, tmp_path):
    name, now = finished(tmp_path / "before", run_on(**before)), run_on(**now)
    if leak is None:
        own, earlier = training_of(now), trainings_of(name)
        assert check_checkpoints([name, name], now) == [own, *(entry for entry in earlier if entry != own)]
        return
    with pytest.raises(SerError, match=f"leak: .*before was trained on .*{leak}"):
        check_checkpoints([name], now)


def test_what_a_checkpoint_was_made_from_is_remembered_when_it_is_gone(tmp_path):
    first = finished(tmp_path / "first", run_on(["c1"], fold=1))
    second = finished(tmp_path / "second", run_on(["a1"], corpus="emodb", protocol=None), [first])
    shutil.rmtree(first)
    assert [entry["corpus"] for entry in trainings_of(second)] == ["emodb", "ravdess"]
    with pytest.raises(SerError, match="leak: .*second was trained on ravdess with fold 1 and not 0"):
        check_checkpoints([second], run_on(["a1"]))
    scored = check_checkpoints([second], run_on(["c1"], fold=1), do_train=False)
    assert [entry["corpus"] for entry in scored] == ["emodb", "ravdess"]  # it is only scored here


def test_a_checkpoint_of_a_run_is_of_that_run(tmp_path):
    run = finished(tmp_path / "run", run_on(["c1"], fold=1))
    (tmp_path / "run" / "run.yaml").write_text("fold: 1\n")
    (tmp_path / "run" / "checkpoint-30").mkdir()
    assert trainings_of(f"{run}/checkpoint-30") == trainings_of(run) != []
    with pytest.raises(SerError, match="leak: .*checkpoint-30 was trained on ravdess with fold 1 and not 0"):
        check_checkpoints([f"{run}/checkpoint-30"], run_on(["a1"]))


def test_a_checkpoint_that_no_run_left_was_trained_on_nothing_that_is_known(tmp_path):
    assert trainings_of(str(tmp_path / "nowhere")) == trainings_of(str(tmp_path)) == []
    (tmp_path / "results.json").write_text(json.dumps({"accuracy": 1.0}))
    assert trainings_of(str(tmp_path)) == []
    assert check_checkpoints([str(tmp_path)], run_on(["a1"]), do_train=False) == []


def test_a_run_whose_training_cannot_be_known_is_refused(tmp_path):
    """It may have been trained on what would be tested."""
    (tmp_path / "run.yaml").write_text("dataset: demo")
    with pytest.raises(SerError, match="without record.json and results.json"):
        trainings_of(str(tmp_path))
    for content in ('{"trained_on": [', "\xff"):
        (tmp_path / "results.json").write_bytes(content.encode("latin1"))
        for name in (tmp_path, tmp_path / "checkpoint-30"):
            with pytest.raises(SerError, match="results.json, which says what the model was trained on, is damaged"):
                trainings_of(str(name))
