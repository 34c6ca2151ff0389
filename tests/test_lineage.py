"""What checkpoints were trained on: the same test set or held-out speakers pass, everything else stops the run."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from datasets import Dataset

from ser_hf import SerError
from ser_hf.data.splits import find_protocol
from ser_hf.training.provenance import check_checkpoints, own_training, trainings_of

SPEAKERS = {"a1": "01", "a2": "01", "b1": "02", "c1": "03"}


def setup_of(test, corpus="ravdess", protocol="6fold", fold=0, added=(), **given):
    rows = Dataset.from_dict({"id": list(test), "speaker": [SPEAKERS[name] for name in test]})
    mixed = SimpleNamespace(counts=dict.fromkeys(added, {})) if added else None
    report = SimpleNamespace(corpus=corpus)
    protocol = find_protocol(corpus, protocol)
    return SimpleNamespace(given=given, splits={"test": rows}, report=report, mixed=mixed, protocol=protocol, fold=fold)


def finished(folder, setup, checkpoints=()):
    """What a run leaves that is looked at here; returns its name."""
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
        ({"test": ["a1"], "protocol": "random"}, {"test": ["a2"], "protocol": "random"}, "another test set"),
        ({"test": ["a1"], "protocol": "random"}, {"test": ["a1"], "protocol": "random"}, None),
        # five groups of whole speakers, dealt by the number of rows that the label set keeps
        ({"test": ["a1"], "corpus": "x", "protocol": None}, {"test": ["b1"], "corpus": "x", "protocol": None}, "other"),
        ({"test": ["a1"], "corpus": "x", "protocol": None}, {"test": ["a2"], "corpus": "x", "protocol": None}, None),
    ],
)
def test_what_was_heard(before, now, leak, tmp_path):
    name, now = finished(tmp_path / "before", setup_of(**before)), setup_of(**now)
    if leak is None:
        own, heard = own_training(now), trainings_of(name)
        assert check_checkpoints([name, name], now) == [own, *(entry for entry in heard if entry != own)]
        return
    with pytest.raises(SerError, match=f"leak: .*before was trained on .*{leak}"):
        check_checkpoints([name], now)


def test_what_a_checkpoint_was_made_from_is_remembered_when_it_is_gone(tmp_path):
    first = finished(tmp_path / "first", setup_of(["c1"], fold=1))
    second = finished(tmp_path / "second", setup_of(["a1"], corpus="emodb", protocol=None), [first])
    shutil.rmtree(first)
    assert [entry["corpus"] for entry in trainings_of(second)] == ["emodb", "ravdess"]
    with pytest.raises(SerError, match="leak: .*second was trained on ravdess with fold 1 and not 0"):
        check_checkpoints([second], setup_of(["a1"]))
    scored = check_checkpoints([second], setup_of(["c1"], fold=1), do_train=False)
    assert [entry["corpus"] for entry in scored] == ["emodb", "ravdess"]  # it is only scored here


def test_a_checkpoint_of_a_run_is_of_that_run(tmp_path):
    run = finished(tmp_path / "run", setup_of(["c1"], fold=1))
    (tmp_path / "run" / "run.yaml").write_text("fold: 1\n")
    (tmp_path / "run" / "checkpoint-30").mkdir()
    assert trainings_of(f"{run}/checkpoint-30") == trainings_of(run) != []
    with pytest.raises(SerError, match="leak: .*checkpoint-30 was trained on ravdess with fold 1 and not 0"):
        check_checkpoints([f"{run}/checkpoint-30"], setup_of(["a1"]))


def test_runs_of_before_are_followed_through_their_flags(tmp_path):
    def old(name, corpus, fold, **flags):
        (tmp_path / name).mkdir()
        protocol = {"name": "6fold", "fold": fold}
        results = {"ser_hf": "0", "corpus": {"corpus": corpus}, "mixed": None, "protocol": protocol, "seed": 43}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        (tmp_path / name / "run.yaml").write_text(yaml.safe_dump(flags))
        return str(tmp_path / name)

    old("fold2_seed43", "ravdess", 2)
    # a run that went on in its own folder must not be followed for ever
    later = old(
        "later", "emodb", 2, audio_model=str(tmp_path / "fold{fold}_seed{seed}"), text_model=f"{tmp_path}/later"
    )
    assert [(entry["corpus"], entry["fold"]) for entry in trainings_of(later)] == [("emodb", 2), ("ravdess", 2)]
    check_checkpoints([later], setup_of(["a1"], fold=2))
    with pytest.raises(SerError, match="leak: .*later was trained on ravdess with fold 2 and not 0"):
        check_checkpoints([later], setup_of(["a1"]))
    assert trainings_of(str(tmp_path / "nowhere")) == trainings_of(str(tmp_path)) == []
