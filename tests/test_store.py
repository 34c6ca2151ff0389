"""What is kept once computed: found again by content, by every process, and never half-written."""

import pickle

import pytest
import torch

from ser_hf.data import cache
from ser_hf.data.cache import Store, content_hash, settings_folder


def test_tensors_come_back_and_missing_ones_are_named(tmp_path):
    store = Store(tmp_path / "store")
    assert store.missing(["a", "b", "a"]) == [0, 1]
    store.add({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1)})
    assert store.missing(["a", "c", "b", "c"]) == [1]
    assert store["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(KeyError):
        store["c"]


def test_small_tensors_are_read_once_within_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SMALL", 40)
    monkeypatch.setattr(cache, "KEPT", 100)
    Store(tmp_path).add({"a": torch.ones(10), "b": torch.ones(10), "c": torch.ones(10), "large": torch.ones(11)})
    store = Store(tmp_path)
    assert {name: store[name] is store[name] for name in ("large", "a", "b", "c")} == {
        "large": False, "a": True, "b": True, "c": False
    }  # fmt: skip


def test_another_process_finds_what_was_added(tmp_path):
    first = Store(tmp_path)
    first.add({"a": torch.zeros(2)})
    second = pickle.loads(pickle.dumps(first))  # as a worker gets it
    first.add({"b": torch.ones(2)})
    assert second["a"].tolist() == [0, 0] and second["b"].tolist() == [1, 1]
    assert len(pickle.dumps(first)) < 1000  # its folder, not its tensors


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.add({"a": torch.zeros(2)})

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ser_hf.data.cache.os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        store.add({"b": torch.zeros(2)})
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
    assert Store(tmp_path).missing(["a", "b"]) == [1]


def test_other_settings_and_other_code_are_another_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SER_CACHE", str(tmp_path))
    code = tmp_path / "code.py"
    code.write_text("a = 1")
    first = settings_folder("features", code, {"n_mels": 64, "hop": 160})
    assert first == settings_folder("features", code, {"n_mels": 64, "hop": 160}) and first.parent == tmp_path
    assert first != settings_folder("features", code, {"n_mels": 65, "hop": 160})
    code.write_text("a = 2")
    assert first != settings_folder("features", code, {"n_mels": 64, "hop": 160})
    assert content_hash("text", None) != content_hash("text") and content_hash("a\0b") == content_hash("a", "b")


@pytest.mark.parametrize("damage", [b"", b"half a file", None])
def test_a_damaged_file_is_computed_again(damage, tmp_path, caplog):
    store = Store(tmp_path)
    for name in "ab":
        store.add({name: torch.full((8,), float(ord(name)))})
    bad = next(file for file in tmp_path.iterdir() if b'"b"' in file.read_bytes())
    bad.write_bytes(bad.read_bytes()[:-4] if damage is None else damage)
    again = Store(tmp_path)
    assert again.missing(["a", "b"]) == [1] and not bad.exists() and "damaged" in caplog.text
    again.add({"b": torch.zeros(8)})
    assert again["a"][0] == ord("a") and again["b"][0] == 0


def test_filling_computes_each_missing_name_once_and_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("ser_hf.data.cache.BLOCK", 2)
    store, computed = Store(tmp_path), []
    store.add({"b": torch.tensor([7.0])})

    def compute(position: int) -> torch.Tensor:
        computed.append(position)
        return torch.tensor([float(position)])

    names = ["a", "b", "c", "a", "d"]
    assert store.fill(names, compute) == 3 and computed == [0, 2, 4]
    assert [store[name].item() for name in names] == [0.0, 7.0, 2.0, 0.0, 4.0]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3  # b; a and c; d
    assert store.fill(names, compute) == 0 and len(computed) == 3
