"""Folds: published speakers, nothing shared, every utterance tested once; and the check finds a leak that is there."""

import pytest
from datasets import Dataset, DatasetDict

from ser_hf import SerError, check_disjoint, load_corpus, split
from ser_hf.data.loading import corpus_class, list_corpora
from ser_hf.data.splits import find_leaks, find_protocol, folds_of, text_key


@pytest.fixture(scope="module")
def corpus(fake_corpus):
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = load_corpus(name, data_dir=fake_corpus(name))
        return loaded[name]

    return load


def speakers(part) -> set[str]:
    return set(part["speaker"])


@pytest.mark.parametrize("name", list_corpora())
def test_every_protocol_of_every_corpus(corpus, name):
    dataset = corpus(name)
    for protocol in corpus_class(name).protocols().values():
        folds = folds_of(dataset, protocol)
        tested = []
        for fold in range(len(folds)):
            try:
                parts = split(dataset, name, protocol.name, fold)
            except SerError as error:  # a small copy of a corpus may lack a fold's speakers; nothing else is excused
                assert "empty" in str(error) or "only one training" in str(error), error
                continue
            assert sum(map(len, parts.values())) <= len(dataset)
            ids = [id for part in parts.values() for id in part["id"]]
            assert len(ids) == len(set(ids))
            assert all(len(part) for part in parts.values())
            check_disjoint(parts, protocol.speaker_independent, protocol.validation)
            tested += parts["test"]["id"]
        assert len(tested) == len(set(tested))
        # audEERING's 35 actors of CREMA-D are more than its small copy holds; test_crema_d_actors counts them.
        assert tested or (name, protocol.name) == ("crema_d", "audeering")


def test_default_protocols_are_speaker_independent():
    for name in list_corpora():
        default = next(iter(corpus_class(name).protocols().values()))
        if not corpus_class(name).CARD.speakers:  # texts by unknown writers cannot be split by speaker, and say so
            assert not default.speaker_independent and "speakers-unknown" in default.name
            assert default.warning == "SPEAKERS UNKNOWN"
            continue
        assert default.speaker_independent and "leak" not in default.name, name
        for protocol in corpus_class(name).protocols().values():
            assert bool(protocol.warning) != protocol.speaker_independent
            if not protocol.speaker_independent:
                assert "leak" in protocol.name or protocol.name == "random"
            assert protocol.source


def test_ravdess_folds_are_the_published_actors(corpus):
    six = [speakers(split(corpus("ravdess"), "ravdess", "6fold", k)["test"]) for k in range(6)]
    assert six[0] == {"01", "11", "20", "21"} and six[5] == {"06", "13", "17", "22"}
    five = [speakers(split(corpus("ravdess"), "ravdess", "5fold", k)["test"]) for k in range(5)]
    assert five[0] == {"02", "05", "14", "15", "16"} and five[4] == {"01", "04", "09", "22"}
    for folds in (six, five):
        assert sum(map(len, folds)) == 24 and len(set.union(*folds)) == 24
    assert find_protocol("ravdess").name == "6fold"


def test_emodb_splits(corpus):
    assert len(folds_of(corpus("emodb"), find_protocol("emodb"))) == 10
    assert speakers(split(corpus("emodb"), "emodb", "audeering")["test"]) == {"12", "14", "15", "16"}


def test_iemocap_folds(corpus):
    dataset = corpus("iemocap")
    for fold in range(5):
        parts = split(dataset, "iemocap", "leave-one-session-out", fold)
        assert set(parts["test"]["session"]) == {str(fold + 1)} and len(speakers(parts["test"])) == 2
        # validation is a whole session too, so no dialog is in both
        assert len(set(parts["validation"]["session"])) == 1
        assert not set(parts["validation"]["dialog"]) & set(parts["train"]["dialog"])
    tests = []
    for fold in range(10):
        parts = split(dataset, "iemocap", "leave-one-speaker-out", fold)
        (tester,), (partner,) = speakers(parts["test"]), speakers(parts["validation"])
        assert tester[:5] == partner[:5] and tester != partner
        tests.append(tester)
    assert sorted(tests) == sorted(speakers(dataset)) and len(set(tests)) == 10


def test_the_ten_sets_by_prefix_do_leak_and_say_so(corpus):
    """Set Ses01F holds both actors of session 1; Ses01M, with the same two, is in its training set."""
    dataset = corpus("iemocap")
    protocol = find_protocol("iemocap", "10sets-by-prefix-leaks-speakers")
    assert not protocol.speaker_independent and len(folds_of(dataset, protocol)) == 10
    parts = split(dataset, "iemocap", protocol.name, 0)
    assert {id[:6] for id in parts["test"]["id"]} == {"Ses01F"}
    assert speakers(parts["test"]) & speakers(parts["train"])
    with pytest.raises(SerError, match="share the speakers"):
        check_disjoint(parts, speaker_independent=True)


def test_tess_trains_on_one_actress_and_tests_on_the_other(corpus):
    for fold, (tested, trained) in enumerate((("OAF", "YAF"), ("YAF", "OAF"))):
        parts = split(corpus("tess"), "tess", None, fold)
        assert speakers(parts["test"]) == {tested}
        assert speakers(parts["train"]) == speakers(parts["validation"]) == {trained}
        assert not set(parts["train"]["text"]) & set(parts["validation"]["text"])  # other words, at least


def test_crema_d_actors():
    folds = find_protocol("crema_d", "5fold").folds
    assert [len(fold) for fold in folds] == [18, 18, 19, 18, 18] and len({a for fold in folds for a in fold}) == 91
    audeering = find_protocol("crema_d", "audeering")
    assert len(audeering.folds[0]) == 17 and len(audeering.validation) == 18
    assert not set(audeering.folds[0]) & set(audeering.validation)


def test_mosei_official_folds_leave_unassigned_videos_out(corpus):
    dataset = corpus("cmu_mosei")
    parts = split(dataset, "cmu_mosei")
    for part, rows in parts.items():
        assert set(rows["split"]) == {part}
    assert sum(map(len, parts.values())) == sum(value is not None for value in dataset["split"])


def test_smile_keeps_equal_texts_together(corpus):
    parts = split(corpus("smile"), "smile")
    texts = [{text.strip().lower() for text in part["text"]} for part in parts.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_copies_of_a_text_stay_together():
    """Copies of a tweet to other people, with other addresses, shouted or marked RT are one text in every fold."""
    copies = ["Tea & cake @here http://t.co/a", "RT @one: TEA &  cake! https://t.co/b", ".@two tea, cake"]
    texts = [*copies, *(f"another text {i}" for i in range(17)), "@here :)", "@two :("]
    dataset = Dataset.from_dict({"id": list(map(str, range(22))), "text": texts, "audio_hash": [None] * 22})
    folds = folds_of(dataset, find_protocol("smile"))
    assert sorted(row for fold in folds for row in fold) == list(range(22))
    assert [sum(row < 3 for row in fold) for fold in folds].count(3) == 1
    assert len({text_key(text) for text in texts}) == 20


def rows(*items: tuple[str, str, str]) -> Dataset:
    ids, names, hashes = zip(*items, strict=True)
    return Dataset.from_dict({"id": ids, "speaker": names, "audio_hash": hashes})


def test_check_finds_speakers_and_identical_clips():
    clean = {"train": rows(("a", "1", "x")), "validation": rows(("b", "2", "y")), "test": rows(("c", "3", "z"))}
    assert find_leaks(DatasetDict(clean)) == []
    with pytest.raises(SerError, match="leak: train and test share the speakers 1"):
        check_disjoint(DatasetDict({**clean, "test": rows(("c", "1", "z"))}))
    with pytest.raises(SerError, match="leak: train and validation share the speakers 1"):
        check_disjoint(DatasetDict({**clean, "validation": rows(("c", "1", "z"))}))
    with pytest.raises(SerError, match="share 1 identical clips, first b = c"):
        check_disjoint(DatasetDict({**clean, "test": rows(("c", "3", "y"))}))
    # a protocol that leaks speakers by construction still must not test on a training clip
    with pytest.raises(SerError, match="identical clips"):
        check_disjoint(DatasetDict({**clean, "test": rows(("c", "3", "x"))}), speaker_independent=False)
    check_disjoint(DatasetDict({**clean, "test": rows(("c", "1", "z"))}), speaker_independent=False)


def test_random_keeps_equal_audio_together_and_covers_everything():
    dataset = rows(*[(f"{i}", f"{i % 4}", f"h{i // 2}") for i in range(60)])
    folds = folds_of(dataset, find_protocol("emodb", "random"))
    assert len(folds) == 5 and sorted(i for fold in folds for i in fold) == list(range(60))
    for fold in folds:
        assert {i // 2 * 2 for i in fold} | {i // 2 * 2 + 1 for i in fold} == set(fold)
        assert len(fold) == 12


def test_validation_is_near_its_fraction_and_whole_speakers(corpus):
    parts = split(corpus("ravdess"), "ravdess", "6fold", 0, validation_fraction=0.2)
    assert len(speakers(parts["validation"])) == 4 and not speakers(parts["validation"]) & speakers(parts["train"])
    parts = split(corpus("ravdess"), "ravdess", "6fold", 0, validation_fraction=0)
    assert len(parts["validation"]) == 0 and len(speakers(parts["train"])) == 20
    again = [split(corpus("ravdess"), "ravdess", "6fold", 2)["validation"]["id"] for _ in range(2)]
    assert again[0] == again[1]
    other = split(corpus("ravdess"), "ravdess", "6fold", 2, seed=1)["validation"]["id"]
    assert other != again[0]


@pytest.mark.parametrize(
    "protocol, fold, message",
    [
        ("7fold", 0, "ravdess has no protocol '7fold': choose one of 6fold, 5fold"),
        ("6fold", 6, "--fold 6: ravdess's protocol '6fold' has folds 0 to 5"),
        ("6fold", -1, "--fold -1"),
    ],
)
def test_mistakes(corpus, protocol, fold, message):
    with pytest.raises(SerError, match=message):
        split(corpus("ravdess"), "ravdess", protocol, fold)


def test_too_few_speakers_say_what_to_do(corpus):
    dataset = corpus("ravdess")
    two = dataset.select([i for i, speaker in enumerate(dataset["speaker"]) if speaker in ("01", "02")])
    with pytest.raises(SerError, match="only one training speaker .*--validation_fraction 0"):
        split(two, "ravdess", "6fold", 0)
    with pytest.raises(SerError, match="leaves test empty: .* hold the speakers 01, 02"):
        split(two, "ravdess", "6fold", 1)
