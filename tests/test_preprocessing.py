"""Mixing corpora, and corpora without a loading script: the same columns, nothing dropped in silence."""

import json

import pandas as pd
import pytest

from conftest import run_recipe, tiny_flags
from fakes import voice
from ser_hf import SerError, load_corpus
from ser_hf.data.loading import corpus_class, find_source
from ser_hf.data.mixing import LABEL_SETS, find_mixture, load_mixture, words_for
from ser_hf.data.schema import COLUMNS, EMOTIONS, LabelConfig
from ser_hf.data.windows import to_windows


def test_label_sets_use_the_vocabulary():
    for labels in LABEL_SETS.values():
        assert set(labels) <= set(EMOTIONS) and set(labels.values()) <= set(labels)


def test_mistakes_in_a_mixture():
    for dataset, test_on, message in (
        ("a+b", None, "say which one is tested, such as --test_on a"),
        ("a+b", "c", "--test_on c: must be one of a, b"),
        ("a+a", "a", "named twice"),
        ("a", "b", "--test_on b: must be one of a"),
    ):
        with pytest.raises(SerError, match=message):
            find_mixture(dataset, test_on=test_on)


def test_words_for_takes_the_configuration_that_keeps_the_words(fake_corpus):
    four = LabelConfig("4class", counts=dict.fromkeys(["angry", "happy", "neutral", "sad"], 1))

    def name_for(corpus: str) -> str:
        return words_for(find_source(corpus, data_dir=fake_corpus(corpus)), four).name

    assert name_for("iemocap") == "4class"
    assert name_for("crema_d") == "6class"  # it has no 4class of its own
    assert name_for("smile") == "single"
    assert name_for("ravdess") in ("8class", "6class")


def test_texts_alone_are_no_corpus_of_an_audio_recipe(fake_corpus):
    mixture = find_mixture("smile", None, fake_corpus("smile"))
    with pytest.raises(SerError, match="smile has no audio; recipes/text_cls.py reads its texts"):
        load_mixture(mixture)
    assert len(load_mixture(mixture, with_audio=False)[0]) > 0


def test_added_corpora_are_mapped_and_counted(fake_corpus, tmp_path):
    base = tmp_path / "corpora"
    base.mkdir()
    for name in ("emodb", "crema_d", "ravdess"):
        (base / name).symlink_to(fake_corpus(name))
    mixture = find_mixture("crema_d+emodb+ravdess", "4class", base, test_on="emodb")
    assert mixture.tested.name == "emodb" and [source.name for source in mixture.added] == ["crema_d", "ravdess"]
    tested, report, mixed = load_mixture(mixture)
    assert mixed.rows.features == tested.features and mixed.rows.column_names == tested.column_names
    crema, own = load_corpus("crema_d", "6class", fake_corpus("crema_d"), return_report=True)
    words = [own.label_names[label] for label in crema["label"]]
    kept = [word for word in words if word in report.label_names]
    entry = mixed.counts["crema_d"]
    assert entry["utterances"] == len(kept) and entry["left_out"] == len(words) - len(kept)
    assert sum(entry["left_out_words"].values()) == entry["left_out"]
    added = [row for row in mixed.rows if row["id"].startswith("crema_d/")]
    assert [report.label_names[row["label"]] for row in added] == kept
    assert all(row["speaker"].startswith("crema_d/") for row in added)
    assert all(row["audio"]["path"].startswith(str(base)) for row in added)  # still paths, no copies

    with_two = find_mixture("emodb+ravdess", "4class", base, "emodb", ["sad", "angry"])
    only = load_mixture(with_two)[2]
    assert {report.label_names[label] for label in only.rows["label"]} == {"sad", "angry"}
    with pytest.raises(SerError, match="--add_labels bored: the labels are angry"):
        find_mixture("emodb+ravdess", "4class", base, "emodb", ["bored"])


def test_what_cannot_be_mixed_says_so(fake_corpus, tmp_path):
    for name in ("emodb", "smile", "iemocap"):
        (tmp_path / name).symlink_to(fake_corpus(name))
    mixture = find_mixture("emodb+smile", "4class", tmp_path, "emodb")
    with pytest.raises(SerError, match="smile has no audio"):
        load_mixture(mixture)
    assert load_mixture(mixture, with_audio=False)[2].counts["smile"]["utterances"] > 0
    with pytest.raises(SerError, match="--labels full: corpora can be mixed in the label sets 3class"):
        find_mixture("iemocap+emodb", "full", tmp_path, "iemocap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six speakers, two labels, one file that is not there and one row without a label."""
    root = tmp_path_factory.mktemp("folders") / "our_calls"
    rows = []
    for speaker in range(6):
        for take in range(4):
            label = ("angry", "neutral")[take % 2]
            file = voice(root / "clips" / f"s{speaker}_{take}.wav", 0.3, seed=speaker * 10 + take)
            rows.append((str(file.relative_to(root)), label, "hello, world", f"s{speaker}", "41"))
    rows += [("clips/gone.wav", "angry", "", "s0", ""), ("clips/s0_0.flac", "", "", "s0", "")]
    voice(root / "clips" / "s0_0.flac", 0.3)
    table = pd.DataFrame(rows, columns=["file_name", "label", "text", "speaker", "age"])
    table.to_csv(root / "metadata.csv", index=False)
    return root


def test_a_folder_with_a_csv_gives_the_same_columns(folder):
    rows, report = load_corpus(str(folder), return_report=True)
    assert rows.column_names == [*COLUMNS, "age"] and len(rows) == 24
    first = rows[0]
    assert first["id"] == "clips/s0_0.wav" and rows[1]["id"] == "clips/s0_1"  # there is an s0_0.flac, too
    assert first["text"] == "hello, world" and first["speaker"] == "s0"
    assert first["age"] == 41.0 and first["duration"] == pytest.approx(0.3)
    assert rows.features["label"].names == ["angry", "neutral"] and report.per_label == {"angry": 12, "neutral": 12}
    assert report.problems == ["clips/gone.wav: unreadable audio (no such file)"] and report.outside_labels == 1
    assert report.missing == 0


def test_a_recipe_trains_on_a_folder(folder, tmp_path):
    out = ("--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--save_strategy", "no", "--eval_strategy", "no")
    flags = ("--dataset", str(folder), *out, "--load_best_model_at_end", "false", *tiny_flags())
    done = run_recipe("wav2vec2_cls", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"]["name"] == "speaker-folds" and results["protocol"]["speaker_independent"]
    assert str(folder.parent) not in (tmp_path / "out" / "results.json").read_text()


def test_folder_mistakes(tmp_path):
    for content, message in (
        (None, "no metadata.csv there"),
        ("who,label\nanna,angry\n", "no column for audio or text; it has who, label; name it by --audio_column or"),
        ("a.wav,angry\nb.wav,sad\n", "its first line must name the columns, such as file_name,label,speaker"),
        ("file_name,label\na.wav,angry\na.wav,sad\n", "a.wav is named 2 times"),
        ("file_name,label\na.wav,angry\n./a.wav,sad\n", "a.wav is named 2 times"),
        ("", r"cannot be read as a table \(it is empty\)"),
        ("file_name,label\n", "no row has a label"),
        ("file_name,label\na.wav,\n,\n", "no row has a label"),
        ('file_name,label\na.wav,"[1, 2]"\nb.wav,[1]\n', "lists must hold numbers and have one length"),
        ("file_name,label\na.wav,angry\n", r"no usable utterance of \./.* a.wav: unreadable audio \(no such file\)$"),
    ):
        if content is not None:
            (tmp_path / "metadata.csv").write_text(content)
        with pytest.raises(SerError, match=message) as caught:
            load_corpus(str(tmp_path))
        assert "\n" not in str(caught.value)
    with pytest.raises(SerError, match="--data_dir elsewhere: --dataset .* already says where the data is"):
        load_corpus(str(tmp_path), data_dir="elsewhere")


@pytest.fixture
def own(tmp_path):
    """(csv, *files) -> the dataset and the report of a folder with them, and the labels by name."""

    def load(csv: str, *files: str):
        for seed, file in enumerate(files):
            voice(tmp_path / "own" / file, 0.2, seed=seed)
        (tmp_path / "own" / "metadata.csv").write_text(csv)
        rows, report = load_corpus(str(tmp_path / "own"), cache_dir=tmp_path / "cache", return_report=True)
        return rows, report, [report.label_names[i] if isinstance(i, int) else i for i in rows["label"]]

    return load


def test_two_files_of_one_stem_are_two_utterances(own):
    """Scores of windows are gathered by id: with one id for both files, a perfect model scored .5."""
    rows, _, words = own("file_name,label\nk.wav,sad\nk.flac,angry\nl.wav,sad\n", "k.wav", "k.flac", "l.wav")
    assert rows["id"][:] == ["k.wav", "k.flac", "l"] and words == ["sad", "angry", "sad"]
    windows = to_windows(rows, 0.1, 0.1)
    assert len(windows) == 6 and len(set(zip(windows["utterance"], windows["label"], strict=True))) == 3


def test_files_outside_the_folder(own, tmp_path):
    """Their ids name no folder of this machine, and their content is part of the cache's key."""
    near, far = voice(tmp_path / "o" / "n" / "x.wav", 0.2, seed=8), tmp_path / "o" / "f" / "x.wav"
    csv = f"file_name,label\n../o/n/x.wav,sad\n{far},angry\nx.wav,sad\n"
    rows, report, _ = own(csv, "x.wav")
    assert rows["id"][:] == ["n/x", "x"] and len(report.problems) == 1
    voice(far, 0.2, seed=9)  # it was missing
    rows, report, _ = own(csv)
    assert rows["id"][:] == ["n/x", "f/x", "x"] and not report.problems
    before = rows["audio_hash"][:]
    voice(near, 0.2, seed=10)
    assert [new == old for new, old in zip(own(csv)[0]["audio_hash"], before, strict=True)] == [False, True, True]


def test_a_second_load_builds_nothing(own, monkeypatch, tmp_path):
    first = own("file_name,label\na.wav,sad\nb.wav,angry\n", "a.wav", "b.wav")[0]
    monkeypatch.setattr("ser_hf.data.corpus.scan_row", None)
    again = load_corpus(str(tmp_path / "own"), cache_dir=tmp_path / "cache")
    assert again["audio_hash"][:] == first["audio_hash"][:]


def test_values_that_are_no_numbers_and_rows_without_a_file(own):
    csv = 'file_name,label,speaker,age,valence\na.wav,sad,1,unknown,"3,5"\nb.wav,angry,2,20-29,2.5\n,sad,1,3,1\n,,,,\n'
    rows, report, _ = own(csv, "a.wav", "b.wav")
    assert rows["age"][:] == [None, None] and rows["valence"][:] == [None, 2.5] and rows["speaker"][:] == ["1", "2"]
    assert report.remarks == [
        "rows of metadata.csv that name no file: 2; they are skipped",
        "values of `age` that are not numbers: 2, such as 'unknown'; left empty",
        "values of `valence` that are not numbers: 1, such as '3,5'; left empty",
        "labels of fewer than 2 speakers: `angry` (1), `sad` (1); too few for train and test; correct the spelling, "
        "leave them out, or record more",
    ]
    assert [f"  {remark}" for remark in report.remarks] == report.lines()[1:]


@pytest.mark.parametrize(
    ("labels", "kind", "names", "expected"),
    [
        ((10, 9, ""), "single_label_classification", ["9", "10"], ["10", "9"]),
        (("1.0", "2.0", "1.0"), "single_label_classification", ["1", "2"], ["1", "2", "1"]),
        (("True", "False", "True"), "single_label_classification", ["False", "True"], ["True", "False", "True"]),
        (("01", "2", "01"), "single_label_classification", ["01", "2"], ["01", "2", "01"]),
        (("1.5", "2", ""), "regression", ["label"], [[1.5], [2.0]]),
        (('"[0, 1]"', '"[1, 1]"', ""), "multi_label_classification", ["0", "1"], [[0, 1], [1, 1]]),
        (('"[0, 1]"', '"[0.5, 3]"', '"[1, NaN]"'), "regression", ["0", "1"], [[0, 1], [0.5, 3]]),
    ],
)
def test_labels_that_are_not_words(own, labels, kind, names, expected):
    csv = "file_name,label\n" + "".join(f"{i}.wav,{label}\n" for i, label in enumerate(labels))
    _, report, found = own(csv, "0.wav", "1.wav", "2.wav")
    assert (report.problem_type, report.label_names, found) == (kind, names, expected)
    assert report.outside_labels == 3 - len(expected) and report.missing == 0


def test_repeated_ids_are_one_line(fake_corpus, monkeypatch, tmp_path):
    corpus = corpus_class("emodb")
    utterances = corpus.utterances
    monkeypatch.setattr(corpus, "utterances", lambda self, root: [{**r, "id": "x"} for r in utterances(self, root)])
    with pytest.raises(SerError, match="--dataset emodb: [0-9]+ utterances have only 1 ids, 'x' occurs"):
        load_corpus("emodb", data_dir=fake_corpus("emodb"), cache_dir=tmp_path)


def test_without_speakers_a_split_says_so(tmp_path):
    from ser_hf import split

    for i in range(10):
        voice(tmp_path / f"{i}.wav", 0.2, seed=i)
    pd.DataFrame({"file_name": [f"{i}.wav" for i in range(10)], "label": ["sad", "angry"] * 5}).to_csv(
        tmp_path / "metadata.csv", index=False
    )
    rows = load_corpus(str(tmp_path))
    protocol = find_source(str(tmp_path)).protocol
    assert (protocol.name, protocol.warning) == ("group-folds", "SPEAKERS UNKNOWN")
    assert len(split(rows, str(tmp_path))["test"]) == len(split(rows, str(tmp_path), "random")["test"]) == 2


@pytest.mark.slow
def test_a_mixture_trains_through_the_command_line(fake_corpus, tmp_path):
    base = tmp_path / "corpora"
    base.mkdir()
    for name in ("emodb", "ravdess"):
        (base / name).symlink_to(fake_corpus(name))
    flags = ["--dataset", "ravdess+emodb", "--test_on", "emodb", "--labels", "4class", "--protocol", "speaker-folds"]
    flags += ["--max_steps", "2", "--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    flags += ["--add_labels", "sad", "angry", "--output_dir", str(tmp_path / "out"), *tiny_flags()]
    import os

    done = run_recipe("wav2vec2_cls", *flags, env={**os.environ, "SER_DATA_DIR": str(base)})
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["mixed"]["ravdess"]["utterances"] > 0 and "+ ravdess:" in done.stdout
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert not table["id"].str.startswith("ravdess/").any()  # tested on EmoDB alone
