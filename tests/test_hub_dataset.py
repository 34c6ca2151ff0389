"""`--dataset user/name` through the Hub's API: a corpus that `ser-hf push corpus` published, and others' datasets."""

import pytest

import warm
from conftest import REPO
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


STREAMED = """
import os, sys, urllib.request
from datetime import datetime
from pathlib import Path
import datasets, numpy as np, soundfile as sf
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, List, Value
from huggingface_hub import HfApi
from ser_hf import SerError, load_corpus, split
from ser_hf.data.columns import Columns
from ser_hf.data.loading import find_source

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
folder.mkdir()
def sent():
    return int(urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/test/sent").read())
def wav(number):
    path = folder / f"{number}.wav"
    sf.write(path, rng.integers(-9000, 9000, 16000, dtype=np.int16), 16000)
    return {"bytes": path.read_bytes(), "path": path.name}
def rows(count, names=("sad", "angry")):
    kinds = Features({
        "clip": {"bytes": Value("binary"), "path": Value("string")}, "emotion": ClassLabel(names=list(names)),
        "who": Value("int64"),
        "several": List(ClassLabel(names=["x", "y"])), "image": datasets.Array2D((8, 8), "uint8"),
        "embedding": List(Value("float32")), "box": {"a": Value("int8")}, "day": Value("timestamp[s]"),
        "sentence": Value("large_string"), "valence": Value("float16"), "true": Value("bool"),
    })
    return Dataset.from_dict({
        "clip": [wav(i) for i in range(count)], "emotion": [i % len(names) if i else -1 for i in range(count)],
        "who": [i // 10 for i in range(count)], "several": [[i % 2] for i in range(count)],
        "image": [np.zeros((8, 8), "uint8")] * count, "embedding": [[0.5] * i for i in range(count)],
        "box": [{"a": 1}] * count, "day": [datetime(2026, 1, 1)] * count, "sentence": ["hello"] * count,
        "valence": np.zeros(count, "float16"), "true": [True] * count,
    }, features=kinds).cast_column("clip", Audio())

# only columns of use are fetched, then the sound once; nothing is downloaded into a cache, and not twice
flags = {"speaker_column": "who", "streaming": True}
parts = DatasetDict(train=rows(60), test=rows(40))
parts.push_to_hub("tester/any", max_shard_size="1MB")
size = sum(file.size for file in HfApi().list_repo_tree("tester/any", "data", repo_type="dataset"))
assert size > 2.5e6
counts = [sent()]
loading = lambda: load_corpus("tester/any", **flags)
for read in (lambda: find_source("tester/any", columns=Columns(**flags)), loading, loading):
    read()
    counts.append(sent())
table, sound, again = np.diff(counts) / size
assert table < 0.2 and 0.9 < sound < 1.3 and again < 0.01, (table, sound, again)
hub = Path(os.environ["HF_HOME"], "hub")
assert not [file for file in hub.rglob("*") if file.is_file() and file.stat().st_size > 50_000]

# the same rows as without a stream, in several processes too, and by other columns
for more in ({}, {"label_column": "several"}, {"label_column": "true", "audio_column": "clip"}):
    streamed, one = load_corpus("tester/any", return_report=True, **flags, **more)
    whole, other = load_corpus("tester/any", return_report=True, **{**flags, "streaming": False}, **more)
    assert one == other and streamed.column_names == whole.column_names
    for column in set(whole.column_names) - {"audio"}:
        assert streamed[column][:] == whole[column][:], column
    assert [x["bytes"] for x in streamed["audio"]] == [x["bytes"] for x in whole["audio"]]
assert len(whole) == 100 and one.speakers == 6 and whole["split"][:].count("test") == 40
one, two = (load_corpus("tester/any", cache_dir=folder / str(n), num_proc=n, **flags) for n in (1, 2))
assert one["audio_hash"][:] == two["audio_hash"][:] and len(two) == 98

# several tables in one repository
for name, words in (("one", ("x", "y")), ("two", ("u", "v"))):
    rows(4, words).push_to_hub("tester/two", name)
for labels in (None, "three", "4class"):
    try:
        load_corpus("tester/two", labels)
    except SerError as error:
        assert str(error) == "--dataset tester/two: it has several tables; name one by --labels: ['one', 'two']", error
assert load_corpus("tester/two", "two", **flags).features["label"].names == ["u", "v"]

# a repository of files is read as any folder; a folder is no stream
files = folder / "files"
for number in range(8):
    place = files / ("train", "test")[number % 2] / ("angry", "sad")[number // 2 % 2] / f"Actor_{number}"
    place.mkdir(parents=True)
    (folder / f"{number}.wav").rename(place / "clip.wav")
HfApi().create_repo("tester/files", repo_type="dataset")
HfApi().upload_folder(folder_path=files, repo_id="tester/files", repo_type="dataset")
found, report = load_corpus("tester/files", return_report=True)
assert sorted(found["id"]) == sorted(load_corpus(str(files))["id"]) and report.per_label == {"angry": 4, "sad": 4}
assert {*found["speaker"]} == {f"Actor_{number}" for number in range(8)} and {*found["split"]} == {"train", "test"}
for name, words in ((str(files), "is on this machine"), ("tester/files", "is files of sound")):
    try:
        load_corpus(name, streaming=True)
    except SerError as error:
        assert words in str(error), error
    else:
        raise AssertionError(name)
print("EQUAL")
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(CODE, id="pushed by ser-hf"),
        pytest.param(OWN, id="by others"),
        pytest.param(STREAMED, id="streamed", marks=pytest.mark.slow),
    ],
)
def test_datasets_on_the_hub(fake_corpus, tmp_path, code):
    folder = fake_corpus("emodb") if code is CODE else tmp_path / "clips"
    with hub_server() as hub:
        done = warm.python("-c", code, folder, env=hub.env(tmp_path / "home"), cwd=REPO)
    assert done.returncode == 0 and "EQUAL" in done.stdout, done.stderr[-3000:]
