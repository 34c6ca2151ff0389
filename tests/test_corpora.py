"""What every corpus owes, asked of all of `list_corpora()`: a loading script without `tests/fakes/<name>.py` fails.

python -m pytest tests/test_corpora.py -k iemocap
"""

import dataclasses
import functools
import importlib
import inspect
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile as sf

from fakes import voice
from ser_hf.data.audio import decode, whole
from ser_hf.data.loading import corpus_class, find_source, list_corpora, load_corpus
from ser_hf.data.schema import EMOTIONS, OPTIONAL_COLUMNS, CorpusCard, LabelConfig, SerError, features

CORPORA = list_corpora()
CONFIGS = [(name, config.name) for name in CORPORA for config in corpus_class(name).BUILDER_CONFIGS]
EVERY_CORPUS = pytest.mark.parametrize("name", CORPORA)
EVERY_CONFIG = pytest.mark.parametrize(("name", "labels"), CONFIGS)
REAL = Path(__file__).parents[2] / "shared" / "realdata"


def fake(name: str):
    try:
        return importlib.import_module(f"fakes.{name}")
    except ModuleNotFoundError:
        pytest.fail(f"loading_scripts/{name}.py has no tests/fakes/{name}.py")


def label_config(name: str, labels: str | None = None) -> LabelConfig:
    configs = {config.name: config for config in corpus_class(name).BUILDER_CONFIGS}
    return configs[labels or corpus_class(name).DEFAULT_CONFIG_NAME]


def find_corpus(name: str, data_dir: Path | None = None) -> Path:
    return find_source(name, data_dir=data_dir).root


def generated(name: str) -> bool:
    """Does the code make the corpus itself? Then it is always found."""
    return "generate" in vars(corpus_class(name))


def error_of(function, *args, **kwargs) -> str:
    """The message of a user's mistake, which must be one line."""
    with pytest.raises(SerError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and message
    return message


@pytest.fixture(scope="session")
def folder(fake_corpus, tmp_path_factory):
    """name -> its fake corpus under the name that users give it, alone in the folder above."""

    @functools.cache
    def link(name: str) -> Path:
        assert fake(name)
        place = tmp_path_factory.mktemp(f"{name}-alone") / corpus_class(name).CARD.folders[0]
        place.symlink_to(fake_corpus(name))
        return place

    return link


@pytest.fixture(scope="session")
def loaded(folder, tmp_path_factory):
    """name, label set -> (dataset, report), loaded once."""
    cache = tmp_path_factory.mktemp("cache")
    return functools.cache(
        lambda name, labels=None: load_corpus(name, labels, folder(name), cache_dir=cache, return_report=True)
    )


@pytest.fixture
def copy(folder, tmp_path):
    """name -> a copy of its fake corpus that the test may spoil."""
    return lambda name: shutil.copytree(folder(name), tmp_path / "copy" / folder(name).name, symlinks=True)


# --- what the file says of itself -------------------------------------------------------------------------------------


@EVERY_CORPUS
def test_fake_covers_every_label_set(name):
    configs = [config.name for config in corpus_class(name).BUILDER_CONFIGS]
    assert sorted(fake(name).EXPECTED) == sorted(configs)
    assert fake(name).ROWS


@EVERY_CORPUS
def test_card_is_complete(name):
    card = corpus_class(name).CARD
    for field in dataclasses.fields(CorpusCard):
        value = getattr(card, field.name)
        if field.name == "hours":
            assert value is None or value > 0
        elif field.name == "speakers":
            assert value >= 0  # a corpus of texts may have none
        elif field.name == "redistributable":
            assert isinstance(value, bool)
        else:
            assert value, f"{name}'s card has no {field.name}"
        if isinstance(value, str) and field.name != "layout":
            assert "\n" not in value
    assert card.homepage.startswith("http")
    assert all(re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*", code) for code in card.languages)
    assert inspect.getmodule(corpus_class(name)).__doc__


@EVERY_CORPUS
def test_names_of_label_sets(name):
    corpus = corpus_class(name)
    names = [config.name for config in corpus.BUILDER_CONFIGS]
    assert len(set(names)) == len(names) and corpus.DEFAULT_CONFIG_NAME in names
    assert set(corpus.OPTIONAL) <= set(OPTIONAL_COLUMNS)


@EVERY_CONFIG
def test_label_set_is_declared(name, labels):
    config = label_config(name, labels)
    assert isinstance(config, LabelConfig)
    assert str(config.version) not in ("", "0.0.0")  # the class's VERSION is ignored by datasets
    assert all(number > 0 for number in config.counts.values())
    assert sum(config.counts.values()) <= corpus_class(name).CARD.utterances
    if labels == corpus_class(name).DEFAULT_CONFIG_NAME:  # of other label sets they may never have been published
        assert config.counts
    if config.problem_type == "single_label_classification":
        assert not config.targets
        assert set(config.label_map) | set(config.label_map.values()) <= set(EMOTIONS)
        assert sorted(config.counts) in ([], config.label_names)
    else:
        assert config.problem_type in ("regression", "multi_label_classification")
        assert len(set(config.targets)) == len(config.targets) > 0
        assert list(config.counts) == [""]


# --- what is found ----------------------------------------------------------------------------------------------------


@EVERY_CONFIG
def test_counts_are_as_made(loaded, name, labels):
    dataset, report = loaded(name, labels)
    found = {
        "utterances": report.utterances,
        "outside_labels": report.outside_labels,
        "problems": len(report.problems),
        "per_label": report.per_label,
    }
    assert found == fake(name).EXPECTED[labels]
    assert len(dataset) == report.utterances > 0
    counts = label_config(name, labels).counts
    assert report.official == (sum(counts.values()) or corpus_class(name).CARD.utterances - report.outside_labels)
    assert report.missing == report.official - report.utterances - len(report.problems)
    assert report.speakers == len(set(dataset["speaker"]) - {None})
    assert report.lines()[0].startswith(f"{name} ({labels}): {report.utterances} utterances, {report.speakers} speaker")


@EVERY_CONFIG
def test_columns_and_types(loaded, name, labels):
    dataset, _ = loaded(name, labels)
    corpus, config = corpus_class(name), label_config(name, labels)
    assert dataset.features == features(config, corpus.OPTIONAL)
    assert dataset.column_names == list(features(config, corpus.OPTIONAL))
    assert len(set(dataset["id"])) == len(dataset)
    texts_only = not any(dataset["audio"])
    for column in ("id", "label") if texts_only else ("id", "label", "audio", "speaker", "duration", "audio_hash"):
        assert None not in dataset[column], f"{name} ({labels}): {column}"
    if config.targets:
        assert {len(vector) for vector in dataset["label"]} == {len(config.targets)}
    elif labels == corpus.DEFAULT_CONFIG_NAME:  # the fake has every label, so that recipes can be tested on it
        assert set(dataset["label"]) == set(range(len(config.label_names)))


@EVERY_CORPUS
def test_optional_columns_are_filled(loaded, name):
    dataset, _ = loaded(name)
    for column in corpus_class(name).OPTIONAL:
        assert any(value is not None for value in dataset[column]), f"{name}: {column} is always empty"
    if "gender" in dataset.column_names:
        assert set(dataset["gender"]) <= {"female", "male", None}
    if "split" in dataset.column_names:
        assert set(dataset["split"]) <= {"train", "validation", "test", None}


@EVERY_CORPUS
def test_rows_are_as_made(loaded, name):
    dataset, _ = loaded(name)
    rows = {row["id"]: row for row in dataset}
    words = dataset.features["label"]
    for row_id, expected in fake(name).ROWS.items():
        for column, value in expected.items():
            got = rows[row_id][column]
            if column == "label" and isinstance(words, datasets.ClassLabel):
                got = words.int2str(got)
            numeric = isinstance(value, (float, list, tuple))
            assert got == (pytest.approx(value, abs=1e-4) if numeric else value), f"{row_id}: {column}"


@EVERY_CORPUS
def test_audio_is_exactly_the_utterance(loaded, name):
    """Duration as the header says, decodable, mono; equal audio only within a speaker, so that no fake leaks."""
    dataset, _ = loaded(name)
    speaker_of = {}
    for row in dataset:
        if (audio := row["audio"]) is None:
            continue
        if audio["bytes"] is None:
            assert Path(audio["path"]).is_absolute()
        file, start, end = whole(audio["path"])
        header = sf.info(file)
        length = header.frames / header.samplerate
        assert row["duration"] == pytest.approx(length if end is None else min(end, length) - start, abs=1e-4)
        samples = decode(audio, 16000)
        assert samples.dtype == np.float32 and samples.ndim == 1
        assert len(samples) == pytest.approx(row["duration"] * 16000, abs=1.5)
        assert re.fullmatch("[0-9a-f]{32}", row["audio_hash"])
        assert speaker_of.setdefault(row["audio_hash"], row["speaker"]) == row["speaker"]


@EVERY_CORPUS
def test_two_processes_give_the_same_rows(folder, name, tmp_path):
    one = load_corpus(name, data_dir=folder(name), cache_dir=tmp_path / "one")
    two = load_corpus(name, data_dir=folder(name), cache_dir=tmp_path / "two", num_proc=2)
    assert two.features == one.features
    assert two.to_dict() == one.to_dict()


@EVERY_CORPUS
def test_strict_stops_at_an_incomplete_corpus(folder, loaded, name, tmp_path):
    _, report = loaded(name)
    if report.missing or report.problems:
        message = error_of(load_corpus, name, data_dir=folder(name), cache_dir=tmp_path, strict=True)
        assert message.startswith("--strict: ")
        assert not report.missing or f"{abs(report.missing)} " in message
        assert not report.problems or f"{len(report.problems)} clips" in message
    else:
        assert len(load_corpus(name, data_dir=folder(name), cache_dir=tmp_path, strict=True)) == report.utterances


# --- where it is found ------------------------------------------------------------------------------------------------


@EVERY_CORPUS
def test_found_at_above_and_below_its_root(folder, loaded, name):
    root = find_corpus(name, folder(name))
    assert root.is_relative_to(folder(name)) and root.is_absolute()
    assert find_corpus(name, root) == root
    assert find_corpus(name, folder(name).parent) == root  # one level too high
    for audio in loaded(name)[0]["audio"][:1]:  # one level too deep: the first folder on the way to a clip
        if audio and len(parts := Path(whole(audio["path"])[0]).relative_to(root).parts) > 1:
            assert find_corpus(name, root / parts[0]) == root


@EVERY_CORPUS
def test_found_in_ser_data_dir(folder, name, tmp_path, monkeypatch):
    if generated(name):
        return
    for number, known_as in enumerate({name, *corpus_class(name).CARD.folders}):
        base = tmp_path / str(number)
        base.mkdir()
        (base / known_as).symlink_to(folder(name))
        monkeypatch.setenv("SER_DATA_DIR", str(base))
        assert find_corpus(name).resolve() == find_corpus(name, folder(name)).resolve()


def test_no_corpus_is_taken_for_another(folder, tmp_path):
    """Also beside all others in one folder, as a user's /corpora is."""
    places = {name: folder(name) for name in CORPORA}
    for place in places.values():
        (tmp_path / place.name).symlink_to(place)
    for name in CORPORA:
        takes = [other for other, place in places.items() if corpus_class(name).root(place) is not None]
        assert takes == [name]
        assert find_corpus(name, tmp_path).resolve() == find_corpus(name, places[name]).resolve()


@EVERY_CORPUS
def test_folder_that_is_not_the_corpus(name, tmp_path, monkeypatch):
    corpus = corpus_class(name)
    layout = corpus.CARD.layout.strip().splitlines()[0].strip()
    (tmp_path / "empty").mkdir()
    for other in ("other/wav/hello.wav", "other/Session1/notes.txt", "other/table.csv", "other/Actor_01/a.wav"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text("nothing\n")
    for place in (tmp_path / "empty", tmp_path / "other"):
        message = error_of(find_corpus, name, place)
        assert f"{place} is not {name}" in message
        assert layout in message and corpus.CARD.how_to_get in message
    message = error_of(find_corpus, name, tmp_path / "missing")
    assert str(tmp_path / "missing") in message and "no such folder" in message and corpus.CARD.title in message
    if not generated(name):
        monkeypatch.delenv("SER_DATA_DIR", raising=False)
        message = error_of(find_corpus, name)
        assert f"{name} is not on this machine" in message and "$SER_DATA_DIR" in message and layout in message
        monkeypatch.setenv("SER_DATA_DIR", str(tmp_path / "empty"))
        assert f"looked in {tmp_path / 'empty' / name}" in error_of(find_corpus, name)


@EVERY_CORPUS
def test_misspelt_corpus_and_label_set(name):
    message = error_of(load_corpus, f"{name}x")
    assert f"unknown dataset '{name}x': did you mean {name!r}?" in message
    assert ", ".join(CORPORA) in message
    message = error_of(load_corpus, name, "no-such-set")
    assert "'no-such-set'" in message
    assert ", ".join(config.name for config in corpus_class(name).BUILDER_CONFIGS) in message


def test_corpus_without_a_usable_clip(tmp_path):
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "03a01Fa.wav").write_bytes(b"")
    message = error_of(load_corpus, "emodb", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert "no usable utterance of emodb (7class)" in message and "03a01Fa.wav" in message


def test_corpus_without_a_row(tmp_path, monkeypatch):
    voice(tmp_path / "wav" / "03a01Fa.wav")
    monkeypatch.setattr(corpus_class("emodb"), "utterances", lambda self, root: [])
    message = error_of(load_corpus, "emodb", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert "no usable utterance of emodb" in message


def test_name_like_no_corpus():
    assert "did you mean" not in error_of(load_corpus, "qqqqqqqq")


# --- the cache --------------------------------------------------------------------------------------------------------


@EVERY_CORPUS
def test_cache_is_renewed(copy, name, tmp_path, monkeypatch):
    corpus, place = corpus_class(name), copy(name)
    built, utterances = [], corpus.utterances
    monkeypatch.setattr(corpus, "utterances", lambda self, root: built.append(root) or utterances(self, root))

    def builds() -> int:
        load_corpus(name, data_dir=place, cache_dir=tmp_path / "cache")
        return len(built)

    assert builds() == 1
    assert builds() == 1  # nothing changed: the cache is read
    root = find_corpus(name, place)
    (root / "added.txt").write_text("a new file\n")
    assert builds() == 2
    file = min(root.rglob("*.wav"), default=min(root.rglob("*.csv"), default=root / "added.txt"))
    file.write_bytes(file.read_bytes())  # written anew and as large as before
    assert builds() == 3
    file_of, mended = inspect.getfile, tmp_path / "mended.py"
    mended.write_text(Path(file_of(corpus)).read_text() + "# mended\n")
    monkeypatch.setattr(inspect, "getfile", lambda thing: str(mended) if thing is corpus else file_of(thing))
    assert builds() == 4
    assert builds() == 4


@EVERY_CORPUS
def test_added_and_spoilt_clips_are_seen(copy, folder, loaded, name, tmp_path):
    dataset, before = loaded(name)
    paths = [Path(audio["path"]) if audio and "#t=" not in audio["path"] else None for audio in dataset["audio"]]
    names = [path.name for path in folder(name).rglob("*")]
    clips = [
        row
        for row, path in zip(dataset, paths, strict=True)
        if path and path.stem == row["id"] and names.count(path.name) == 1  # no second copy takes its place
    ]
    if not clips:
        # Texts only, or cut from longer recordings: no clip has a file of its own to take away. TESS's nested copies
        # hold each clip twice: the second takes the first's place.
        assert all(path is None or names.count(path.name) > 1 for path in paths if not path or "OA_" not in path.name)
        return
    place, row = copy(name), clips[0]
    clip = place / Path(row["audio"]["path"]).relative_to(folder(name))

    def load():
        return load_corpus(name, data_dir=place, cache_dir=tmp_path / "cache", return_report=True)

    aside = clip.rename(tmp_path / "aside")
    dataset, report = load()
    assert row["id"] not in dataset["id"] and report.utterances == before.utterances - 1
    aside.rename(clip)
    dataset, report = load()
    assert row["id"] in dataset["id"] and report.utterances == before.utterances
    clip.write_bytes(b"spoilt " * 100)
    dataset, report = load()
    assert row["id"] not in dataset["id"] and report.utterances == before.utterances - 1
    assert len(report.problems) == len(before.problems) + 1
    assert any(clip.name in problem and "\n" not in problem for problem in report.problems)


# --- what single corpora are known for --------------------------------------------------------------------------------


def test_ravdess_equal_clips_have_equal_hashes(loaded):
    dataset, _ = loaded("ravdess")
    hashes = dict(zip(dataset["id"], dataset["audio_hash"], strict=True))
    first, second = (Path(clip).stem for clip in fake("ravdess").TWINS)
    assert hashes[first] == hashes[second]
    assert len(set(hashes.values())) == len(hashes) - 1


def test_ravdess_beside_its_songs(tmp_path):
    """Both zips of the release unpacked into one folder, and found whatever order the file system lists them in."""
    voice(tmp_path / "Audio_Speech_Actors_01-24/Actor_01/03-01-01-01-01-01-01.wav")
    for number in range(10):
        voice(tmp_path / f"Audio_Song_Actors_01-24 ({number})/Actor_01/03-02-01-01-01-01-01.wav")
    assert find_corpus("ravdess", tmp_path) == tmp_path / "Audio_Speech_Actors_01-24"


def test_iemocap_clips_last_as_long_as_their_turns(loaded):
    dataset, _ = loaded("iemocap", "full")
    for row in dataset:
        assert row["duration"] == pytest.approx(row["end"] - row["start"], abs=1e-4)
        assert row["speaker"] == f"Ses0{row['session']}{row['id'].rsplit('_', 1)[1][0]}"
    assert len(set(dataset["speaker"])) == 10


def test_iemocap_votes_follow_the_label_set(loaded):
    """Happiness | Excited and Happiness | Neutral state: a rater counts once a label, in the label set's order."""
    votes = {}
    for labels in ("3class", "3class_sad", "full", "vad"):
        dataset, _ = loaded("iemocap", labels)
        votes[labels] = dict(zip(dataset["id"], dataset["votes"], strict=True))["Ses01F_impro01_F003"]
    assert votes["3class"] == [0, 2, 1] and votes["3class_sad"] == [0, 2, 0]
    assert votes["full"] == [0, 0, 1, 0, 0, 2, 1, 0, 0, 0, 0]  # excited 1, happy 2, neutral 1
    assert votes["vad"] is None


# --- real samples, where they are -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "ravdess").is_dir(), reason="no real RAVDESS beside the repository")
def test_real_ravdess(tmp_path):
    dataset, report = load_corpus("ravdess", data_dir=REAL / "ravdess", cache_dir=tmp_path, return_report=True)
    assert (report.utterances, report.missing, report.problems, report.outside_labels) == (120, 1320, [], 0)
    words = dataset.features["label"]
    for actor in ("01", "02"):
        found = [words.int2str(row["label"]) for row in dataset if row["speaker"] == actor]
        assert {word: found.count(word) for word in words.names} == {
            word: 4 if word == "neutral" else 8 for word in words.names
        }
    texts = list(dataset["text"])
    assert {text: texts.count(text) for text in texts} == {
        "Kids are talking by the door": 60,
        "Dogs are sitting by the door": 60,
    }
    assert 2.936 - 1e-3 <= min(dataset["duration"]) and max(dataset["duration"]) <= 5.272 + 1e-3
    stereo = [row for row in dataset if sf.info(row["audio"]["path"]).channels == 2]
    assert [row["id"] for row in stereo] == ["03-01-02-01-01-02-01", "03-01-08-01-02-02-01"]
    for row in stereo:  # both channels are the same signal
        left = sf.read(row["audio"]["path"], dtype="float32")[0][:, 0]
        np.testing.assert_array_equal(decode(row["audio"], 48000), left)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "emodb").is_dir(), reason="no real EmoDB beside the repository")
def test_real_emodb(tmp_path):
    where = {"data_dir": REAL / "emodb", "cache_dir": tmp_path, "return_report": True}
    _, report = load_corpus("emodb", "4class", strict=True, **where)
    assert report.per_label == {"angry": 127, "happy": 71, "neutral": 79, "sad": 62}
    assert (report.utterances, report.speakers, report.missing, report.problems) == (339, 10, 0, [])
    _, report = load_corpus("emodb", "7class", **where)
    assert (report.utterances, report.missing, report.problems) == (339, 196, [])
