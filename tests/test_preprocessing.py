"""Mixing corpora, and corpora without a loading script: the same columns, nothing dropped in silence."""

import json

import pandas as pd
import pytest

from conftest import run_recipe, tiny_flags
from fakes import voice
from ser_hf import SerError, load_corpus
from ser_hf.data.loading import find_source
from ser_hf.data.mixing import LABEL_SETS, find_mixture, load_mixture, parse_mixture, words_for
from ser_hf.data.schema import COLUMNS, EMOTIONS


def test_label_sets_use_the_vocabulary():
    for labels in LABEL_SETS.values():
        assert set(labels) <= set(EMOTIONS) and set(labels.values()) <= set(labels)


def test_parse_mixture():
    assert parse_mixture("emodb", None) == ("emodb", [])
    assert parse_mixture("iemocap+cmu_mosei+smile", "cmu_mosei") == ("cmu_mosei", ["iemocap", "smile"])
    for dataset, test_on, message in (
        ("a+b", None, "say which one is tested, such as --test_on a"),
        ("a+b", "c", "--test_on c: must be one of a, b"),
        ("a+a", "a", "named twice"),
        ("a", "b", "--test_on b: must be one of a"),
    ):
        with pytest.raises(SerError, match=message):
            parse_mixture(dataset, test_on)


def test_words_for_takes_the_configuration_that_keeps_the_words(fake_corpus):
    four = ["angry", "happy", "neutral", "sad"]

    def name_for(corpus: str) -> str:
        return words_for(find_source(corpus, data_dir=fake_corpus(corpus)), "4class", four).name

    assert name_for("iemocap") == "4class"
    assert name_for("crema_d") == "6class"  # it has no 4class of its own
    assert name_for("smile") == "single"
    assert name_for("ravdess") in ("8class", "6class")


def test_added_corpora_are_mapped_and_counted(fake_corpus, tmp_path):
    base = tmp_path / "corpora"
    base.mkdir()
    for name in ("emodb", "crema_d", "ravdess"):
        (base / name).symlink_to(fake_corpus(name))
    mixture = find_mixture("emodb+crema_d+ravdess", "4class", base, test_on="emodb")
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
        ("file,label\na.wav,angry\n", "no column file_name; it has file, label"),
        ("file_name,label\na.wav,angry\na.wav,sad\n", "a.wav is named 2 times"),
        ("", "not a csv file"),
    ):
        if content is not None:
            (tmp_path / "metadata.csv").write_text(content)
        with pytest.raises(SerError, match=message):
            load_corpus(str(tmp_path))


def test_without_speakers_only_random_splits(tmp_path):
    from ser_hf import split

    for i in range(8):
        voice(tmp_path / f"{i}.wav", 0.2, seed=i)
    pd.DataFrame({"file_name": [f"{i}.wav" for i in range(8)], "label": ["sad", "angry"] * 4}).to_csv(
        tmp_path / "metadata.csv", index=False
    )
    rows = load_corpus(str(tmp_path))
    with pytest.raises(SerError, match="not every utterance has a speaker: .*--protocol random"):
        split(rows, str(tmp_path))
    assert len(split(rows, str(tmp_path), "random")["test"]) == 2


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
