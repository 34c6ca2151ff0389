"""`--dataset user/name` through the Hub's API: a corpus that `ser-hf push corpus` published, and others' datasets."""

import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import hub_server

CODE = """
import json
import sys
import tempfile
from pathlib import Path
from ser_hf import cli, load_corpus, split
flags = ["--labels", "4class", "--data_dir", sys.argv[1], "--repo_id", "tester/e"]
assert not cli.main(["push", "corpus", "emodb", *flags])
own = load_corpus("emodb", "4class", sys.argv[1])
rows, report = load_corpus("tester/e", "4class", return_report=True)
assert rows.column_names == own.column_names, (rows.column_names, own.column_names)
for column in ("id", "label", "speaker", "text", "duration", "audio_hash", "gender"):
    assert rows[column][:] == own[column][:], column
assert rows.features["label"].names == own.features["label"].names
assert report.corpus == "tester/e" and report.per_label["sad"] == list(own["label"]).count(3)
parts = split(rows, "tester/e")
assert len(parts["train"]) + len(parts["validation"]) + len(parts["test"]) == len(own)
with tempfile.TemporaryDirectory() as folder:
    assert cli.main(["check", "tester/e", "--labels", "4class", "--json", f"{folder}/check.json"]) < 2
    report = json.loads(Path(folder, "check.json").read_text())
assert (report["corpus"], report["usable"], report["speakers"]) == ("tester/e", len(own), 10)
assert report["sound"]["quantiles"]["duration"][0] > 0 and len(report["classes"]) == 4
print("EQUAL")
"""


OWN = """
import sys
sys.path.insert(0, "tests")
import datasets
from datasets import ClassLabel, Dataset, DatasetDict
from pathlib import Path
from fakes import voice
from ser_hf import SerError, load_corpus
from ser_hf.data.corpus import SpeechCorpus

folder = Path(sys.argv[1])
def rows(count=4, first=0, **columns):
    audio = [str(voice(folder / f"{i}.wav", 0.1, seed=i)) for i in range(first, first + count)]
    table = Dataset.from_dict({"audio": audio, **columns})
    table = table.cast_column("audio", datasets.Audio(decode=False))
    embed = datasets.table.embed_table_storage
    return table.with_format("arrow").map(embed, batched=True).with_format(None)

def loaded(data, name):
    (data if isinstance(data, DatasetDict) else DatasetDict(train=data)).push_to_hub(f"tester/{name}")
    try:
        found, report = load_corpus(f"tester/{name}", return_report=True)
    except SerError as error:
        assert "\\n" not in str(error)
        return str(error)
    return found, report, [report.label_names[i] if isinstance(i, int) else i for i in found["label"]]

# whole numbers are classes in the order of their values; whole-number speakers are text; `age` may be a word
data = rows(label=[10, 9, 10, 9], speaker=[1, 1, 2, 2], age=["41", "unknown", "20-29", None], valence=["3,5"] * 4)
found, report, words = loaded(data, "ints")
assert report.label_names == ["9", "10"] and words == ["10", "9", "10", "9"] and found["label"][:] == [1, 0, 1, 0]
assert found["speaker"][:] == ["1", "1", "2", "2"] and found["age"][:] == [41.0, None, None, None]
assert found["valence"][:] == [None] * 4 and report.remarks == [
    "values of `age` that are not numbers: 2, such as 'unknown'; left empty",
    "values of `valence` that are not numbers: 4, such as '3,5'; left empty",
]
assert found["id"][:] == ["000000", "000001", "000002", "000003"]
SpeechCorpus._generate_tables, generate = None, SpeechCorpus._generate_tables  # a second load builds nothing
assert load_corpus("tester/ints")["audio_hash"][:] == found["audio_hash"][:]
SpeechCorpus._generate_tables = generate

assert loaded(rows(label=[True, False, True, None]), "bools")[2] == ["True", "False", "True"]
assert loaded(rows(label=["x", "y", "x", "x"]), "bools")[2] == ["x", "y", "x", "x"]  # a new revision is seen
assert loaded(rows(label=[1.0, 2.0, None, 2.0]), "floats")[2] == ["1", "2", "2"]
found, report, _ = loaded(rows(label=[1.5, 2.0, None, 2.5]), "fractions")
assert (report.problem_type, report.label_names, report.outside_labels) == ("regression", ["label"], 1)
assert found["label"][:] == [[1.5], [2.0], [2.5]]
found, report, _ = loaded(rows(label=[[0.5, 1.0], [2.0, 3.0], [0.0, 0.0], [1.0, 1.0]]), "vectors")
assert report.problem_type == "regression" and found["label"][:][1] == [2.0, 3.0]
found, report, _ = loaded(rows(label=[[0, 1], [1, 1], [0, 0], [1, 0]]), "several")
assert report.problem_type == "multi_label_classification" and found["label"][:][1] == [1.0, 1.0]
assert "labels that are lists must hold numbers and have one length" in loaded(rows(label=[[1], [1, 2], [], [1]]), "l")

# -1 and None are no label; the dataset's own order of classes stays
data = rows(label=[0, -1, None, 1]).cast_column("label", ClassLabel(names=["sad", "angry"]))
found, report, words = loaded(data, "classes")
assert words == ["sad", "angry"] and found["label"][:] == [0, 1] and report.outside_labels == 2
assert report.official == 2 and report.missing == 0

# two splits that both count from 0; the same id twice in one
parts = {part: rows(2, first, id=[0, 1], label=["a", "b"]) for part, first in (("train", 0), ("test", 2))}
found, report, _ = loaded(DatasetDict(parts), "parts")
assert found["id"][:] == ["train/0", "train/1", "test/0", "test/1"]
assert found["split"][:] == ["train", "train", "test", "test"]
assert "2 utterances have only 1 ids, 'k' occurs 2 times" in loaded(rows(2, id=["k", "k"], label=["a", "b"]), "twice")

# no clip can be read: one line
gone = Dataset.from_dict({"audio": [{"bytes": b"no audio", "path": "a.wav"}] * 2, "label": ["a", "b"]})
gone = gone.cast_column("audio", datasets.Audio(decode=False))
assert "no usable utterance of tester/gone (default)" in loaded(gone, "gone")
assert "no column for audio or text; it has label" in loaded(Dataset.from_dict({"label": ["a"]}), "text")
print("EQUAL")
"""


@pytest.mark.parametrize("code", [CODE, OWN], ids=["pushed by ser-hf", "by others"])
def test_datasets_on_the_hub(fake_corpus, tmp_path, code):
    folder = fake_corpus("emodb") if code is CODE else tmp_path / "clips"
    with hub_server() as hub:
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env=hub.env(tmp_path / "home"),
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0 and "EQUAL" in done.stdout, done.stderr[-3000:]
