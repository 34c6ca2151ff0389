"""Properties of what takes input from outside, on drawn input: no traceback but SerError, and no row lost unsaid.

About 5,000 draws, always the same ones; `HYPOTHESIS_PROFILE=long python -m pytest tests/test_properties.py` makes
other draws, two hundred times as many.
"""

import csv
import math
import os
import re
import shutil
import string
import warnings
from collections import Counter
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics as sk
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_report import CLASSES, LABELS, VALUES, results_of

from conftest import settings_of
from fakes import voice
from ser_hf import SerError
from ser_hf.data.audio import seconds_read, segment, whole
from ser_hf.data.batching import LengthBatchSampler, evaluation_batches
from ser_hf.data.labels import label_set
from ser_hf.data.loading import find_source, list_corpora
from ser_hf.data.windows import REST, combine, windows
from ser_hf.errors import trouble
from ser_hf.evaluation.bootstrap import class_draws, draw, intervals, resampled
from ser_hf.evaluation.card import model_card
from ser_hf.evaluation.metrics import averaged_f1, classification_metrics, confusion, per_label, value_metrics
from ser_hf.evaluation.report import lines
from ser_hf.evaluation.scoring import compare
from ser_hf.evaluation.tables import escape, markdown_table, one_line, plain
from ser_hf.models import audio_blocks

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def draws(count: int):
    """Settings of a property that costs as much as `count` draws allow."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    times = 200 if LONG else 1
    return settings(
        max_examples=count * times, deadline=None, derandomize=not LONG, database=None, suppress_health_check=checks
    )


SECONDS = st.floats(0.01, 60.0) | st.sampled_from([1.0, 2.0, 30.0])
LENGTHS = st.lists(SECONDS, min_size=1, max_size=40)
TEXT = st.text(max_size=30) | st.text("<>[]()!`*_~|$#&\\-+=.:/\n\r\t 1ax{}%\"'@", max_size=30)
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


# --- the sampler ------------------------------------------------------------------------------------------------------


@draws(600)
@given(
    LENGTHS, st.none() | st.floats(0.1, 100.0), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.integers(0)
)
def test_every_clip_once_an_epoch_by_any_number_of_processes(durations, seconds, count, world, epoch, seed):
    durations = np.array(durations)
    ranks = [LengthBatchSampler(durations, seconds, count, seed, rank, world) for rank in range(world)]
    seen, turns = [], []
    for sampler in ranks:
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == len(ranks[0])
        assert all(batch and len({number < 0 for number in batch}) == 1 for batch in batches)
        counted = [batch for batch in batches if batch[0] >= 0]
        assert batches[: len(counted)] == counted and len(batches) - len(counted) <= 1
        turns.append(counted)
        seen += [number for batch in counted for number in batch]
        for batch in batches:
            rows = [number % len(durations) for number in batch]
            if seconds is None:
                assert len(rows) <= count
            else:
                assert len(rows) == 1 or durations[rows].max() * len(rows) <= seconds * (1 + 1e-9)
    assert sorted(seen) == list(range(len(durations)))
    alone = LengthBatchSampler(durations, seconds, count, seed)
    alone.set_epoch(epoch)
    shared = [turns[i % world][i // world] for i in range(len(list(alone)))]
    assert shared == list(alone)


@draws(250)
@given(LENGTHS, st.none() | st.floats(0.1, 100.0), st.integers(1, 9), st.booleans())
def test_every_clip_is_scored_once(durations, seconds, count, exact):
    batches = evaluation_batches(durations, seconds, count, exact)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(durations)))
    for batch in batches:
        lengths = np.array(durations)[batch]
        assert not exact or len(set(lengths)) == 1
        assert len(batch) <= count if seconds is None else len(batch) == 1 or lengths.max() * len(batch) <= seconds


@draws(400)
@given(st.lists(st.none() | SECONDS), st.floats(0, 5), st.none() | st.floats(0.01, 9))
def test_seconds_that_are_read(durations, least, most):
    for seconds, duration in zip(seconds_read(durations, least, most), durations, strict=True):
        if duration is None:
            assert seconds == 0
        else:
            assert seconds == max(least, min(duration, most or math.inf))


# --- windows ----------------------------------------------------------------------------------------------------------


@draws(400)
@given(SECONDS, st.floats(0.02, 10.0), st.floats(0.02, 10.0), st.sampled_from(["pad", "drop", "shift"]))
def test_windows_lie_in_the_clip_and_cover_it(duration, frame, hop, last):
    times = windows(duration, frame, hop, last)
    assert times[0][0] == 0.0 and all(start < end <= duration + 1e-6 for start, end in times)
    assert all(end - start <= frame + 1e-5 for start, end in times)
    assert times == sorted(times)
    if hop <= frame and last != "drop":
        assert times[-1][1] >= duration - REST - 1e-5
        assert all(later <= end + 1e-5 for (_, end), (later, _) in zip(times, times[1:], strict=False))


@draws(250)
@given(st.data(), st.integers(1, 200), st.integers(1, 20), st.sampled_from(["pad", "drop", "shift"]))
def test_windows_of_a_stream_are_those_of_the_clip(data, total, size, last):
    hop, samples = data.draw(st.integers(1, size)), np.arange(total)
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=6)))
    blocks = [block for block in np.split(samples, cuts) if len(block)]
    found = [(first, first + len(part), part) for first, part in audio_blocks.windows(blocks, size, hop, last)]
    assert [(first, end) for first, end, _ in found] == audio_blocks.spans(total, size, hop, last)
    assert all(part.tolist() == list(range(first, end)) for first, end, part in found)


@draws(150)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.sampled_from(["mean", "max", "vote", "attention"]))
def test_windows_of_equal_scores_combine_to_that_score(utterances, how):
    scores = np.tile([0.1, 0.7, 0.2], (len(utterances), 1))
    combined, ids = combine(scores, [f"u{number}" for number in utterances], how)
    assert ids == list(dict.fromkeys(f"u{number}" for number in utterances))
    assert combined.argmax(axis=1).tolist() == [1] * len(ids) and np.allclose(combined.sum(axis=1), 1)


@draws(150)
@given(WORDS, st.floats(0, 1e5), st.none() | st.floats(0, 1e5))
def test_a_segment_is_read_back(name, start, end):
    assume(whole(name)[1] is None)
    assert whole(segment(name, start, end)) == (name, start, end)


# --- metrics and intervals --------------------------------------------------------------------------------------------

ANSWERS = st.integers(2, 6).flatmap(
    lambda labels: st.tuples(
        st.just(labels),
        st.lists(st.tuples(st.integers(0, labels - 1), st.integers(0, labels - 1)), min_size=1, max_size=40),
    )
)


@draws(150)
@given(ANSWERS)
def test_metrics_of_classes_are_scikit_learns(answers):
    labels, pairs = answers
    truth, predicted = np.array(pairs).T
    scores = classification_metrics(truth, predicted, labels)
    present = sorted(set(truth.tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and never true
        f1 = partial(sk.f1_score, truth, predicted, zero_division=0)
        expected = {
            "uar": sk.balanced_accuracy_score(truth, predicted),
            "wa": sk.accuracy_score(truth, predicted),
            "macro_f1": f1(labels=present, average="macro"),
            "weighted_f1": f1(average="weighted"),
        }
    assert scores == pytest.approx(expected)
    assert np.array_equal(
        confusion(truth, predicted, labels), sk.confusion_matrix(truth, predicted, labels=range(labels))
    )


@draws(100)
@given(st.data(), st.integers(1, 4), st.integers(1, 20))
def test_metrics_of_several_labels_are_scikit_learns(data, labels, rows):
    cells = st.lists(st.integers(0, 4), min_size=labels * rows, max_size=labels * rows)
    scores = np.array(data.draw(cells)).reshape(rows, labels) / 4
    truth = np.array(data.draw(cells)).reshape(rows, labels) > 2
    table = per_label(truth, scores, list("abcd")[:labels], 0.5)
    for column, row in enumerate(table.values()):
        if truth[:, column].any():
            expected = sk.average_precision_score(truth[:, column], scores[:, column])
            assert row["average_precision"] == pytest.approx(expected)
        else:
            assert row["average_precision"] is None
    if truth.any() and labels > 1:
        found = averaged_f1(truth, scores >= 0.5)
        for average in ("micro", "weighted", "samples"):
            expected = sk.f1_score(truth, scores >= 0.5, average=average, zero_division=0)
            assert found[average] == pytest.approx(expected), average


@draws(150)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=20))
def test_metrics_of_values_are_numpys(pairs):
    truth, predicted = np.array(pairs, dtype=float).T
    found = value_metrics(truth[:, None], predicted[:, None], ["arousal"])
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, predicted))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, predicted))
    if np.ptp(truth) and np.ptp(predicted):
        covariance = np.cov(truth, predicted, ddof=0)
        lin = 2 * covariance[0, 1] / (covariance.trace() + (truth.mean() - predicted.mean()) ** 2)
        assert found["ccc"] == pytest.approx(lin, abs=1e-12)
        assert found["pearson"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1], abs=1e-12)
    else:
        assert found["ccc"] is None and found["pearson"] is None


@draws(200)
@given(ANSWERS, st.data())
def test_intervals_lie_within_what_is_possible(answers, data):
    labels, pairs = answers
    truth, predicted = np.array(pairs).T
    names = st.sampled_from([None, "a", "b", "c", "None", ""])
    speakers = data.draw(st.lists(names, min_size=len(pairs), max_size=len(pairs)))
    unit, times = draw(speakers, 40)
    clusters = [speaker if speaker is not None else index for index, speaker in enumerate(speakers)]
    if len(set(clusters)) < 5:  # each drawn cluster gives as many utterances as it has
        size = {cluster: clusters.count(cluster) for cluster in clusters}
        chosen = np.array(
            [[times[d, np.array([c == name for c in clusters])].sum() for name in size] for d in range(40)]
        )
        assert (chosen % list(size.values()) == 0).all()
        if len(size) > 1:
            assert (chosen / list(size.values())).sum(axis=1).tolist() == [len(size)] * 40
    else:
        assert times.sum(axis=1).tolist() == [len(set(clusters))] * 40 and len(set(unit)) == len(set(clusters))
    found = intervals(class_draws(truth, predicted, speakers, labels, samples=40))
    assert all(0 <= low <= high <= 1 + 1e-12 for low, high in found.values())
    assert resampled(speakers)


@draws(60)
@given(ANSWERS, st.sampled_from([["a"], ["a", "b"], [None], ["a", None], list("abcdef")]))
def test_a_system_never_differs_from_itself(answers, speakers):
    labels, pairs = answers
    truth, predicted = np.array(pairs).T
    part = {"label": truth, "speaker": [speakers[i % len(speakers)] for i in range(len(pairs))]}
    same = compare(part, np.eye(labels)[predicted], {"same": predicted}, list("abcdef")[:labels])["same"]
    assert set(same["difference"].values()) == {0.0}
    assert all(interval == [0.0, 0.0] for interval in same["difference_intervals"].values())


# --- tables, labels, flags, corpora -----------------------------------------------------------------------------------

CELLS = (
    st.sampled_from(["", " ", "nan", "-1", "angry", "sad", "Ärger", "1", "0.5", "[1, 0]", "a,b", '"', "\ufeff"]) | TEXT
)
FILES = st.sampled_from(["a.wav", "b.wav", "sub/a.wav", "./a.wav", "a.flac", "gone.wav", "..", "/", ""]) | TEXT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    for name in ("a.wav", "b.wav", "sub/a.wav", "a.flac"):
        voice(root / name, 0.1, seed=name)
    return root


def line_of(error: SerError) -> str:
    """The line that a command would end with."""
    line = trouble(error)
    assert line and line.isprintable()
    return line


def rows_of(folder):
    """The rows and remarks of a folder's corpus, or the message of the SerError."""
    try:
        corpus = find_source(str(folder)).corpus
    except SerError as error:
        return line_of(error), ()
    return corpus.utterances(None, folder), corpus.REMARKS


@draws(200)
@given(st.lists(st.tuples(FILES, CELLS, CELLS, CELLS), max_size=8, unique_by=lambda row: row[0]), st.booleans())
def test_no_row_of_a_table_is_lost_unsaid(folder, rows, times):
    head = ["file_name", "label", "speaker", "text"] if not times else ["file_name", "label", "start", "end"]
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows([head, *rows])
    found, remarks = rows_of(folder)
    if isinstance(found, str):
        return
    said = sum(int(number) for remark in remarks for number in re.findall(r"^rows of .*: (\d+)", remark))
    assert len(found) + said == len(rows), remarks
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        assert all(name in row for name in ("id", "audio", "text", "speaker", "emotion"))
        row["id"].encode()


@example(b"PK\3\4", False)  # as a zip begins
@example(b"PAR1", False)
@draws(150)
@given(st.binary(max_size=80) | TEXT.map(lambda text: text.encode(errors="replace")), st.booleans())
def test_any_bytes_are_a_table_or_one_line(folder, content, headed):
    (folder / "metadata.csv").write_bytes(b"file_name,label\na.wav,sad\n" * headed + content)
    found, remarks = rows_of(folder)
    assert found and (isinstance(found, str) or found[0]["id"])


@draws(150)
@given(
    st.lists(
        st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | CELLS | st.lists(st.integers(0, 2), max_size=3),
        max_size=8,
    )
)
def test_any_column_of_labels_is_a_label_set_or_one_line(values):
    try:
        labels = label_set("calls", "labels", values)
    except SerError as error:
        line_of(error)
        return
    assert len(labels.rows) == len(values) and labels.configs


FLAGS = st.sampled_from(
    ["fold", "learning_rate", "labels", "layers", "lora_r", "config_overrides", "bf16", "seed", "no"]
)
VALUES_OF_YAML = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(st.integers(0, 9), max_size=3)
)
VALUES_OF_YAML |= st.dictionaries(TEXT, st.integers(), max_size=2) | st.dates()


@draws(100)
@given(st.dictionaries(FLAGS | TEXT, VALUES_OF_YAML, max_size=3), st.booleans())
def test_a_yaml_is_flags_or_one_line(tmp_path, flags, safe):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(flags) if safe else "\n".join(f"{key}: {value}" for key, value in flags.items()),
                    encoding="utf-8", errors="replace")  # fmt: skip
    try:
        settings_of("wav2vec2_cls", "--dataset", "demo", "--config", path)
    except SerError as error:
        line_of(error)


@draws(100)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_yaml_or_one_line(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    try:
        settings_of("wav2vec2_cls", "--dataset", "demo", "--config", tmp_path / "x.yaml")
    except SerError as error:
        line_of(error)


@pytest.fixture(scope="module")
def copies(fake_corpus, tmp_path_factory):
    """`copies(name)`: the root and class of a corpus's synthetic copy, and the ids and file names in it."""

    @cache
    def make(name: str):
        root = tmp_path_factory.mktemp(name) / "copy"
        shutil.copytree(fake_corpus(name), root)
        source = find_source(name, data_dir=root)
        ids = [row["id"] for row in source.corpus.utterances(SimpleNamespace(config=source.config), source.root)]
        return source, ids, sorted(path.relative_to(source.root) for path in source.root.rglob("*") if path.is_file())

    return make


@pytest.mark.parametrize("name", [name for name in list_corpora() if name not in ("smile", "cmu_mosei")])
@draws(30)
@given(data=st.data())
def test_a_stray_file_loses_no_utterance(name, data, copies):
    """Files of any name, or of one that almost fits, beside those of the corpus."""
    source, ids, files = copies(name)
    near = data.draw(st.sampled_from(files))
    stem = list(near.stem)
    for _ in range(data.draw(st.integers(1, 3))):
        stem[data.draw(st.integers(0, len(stem) - 1))] = data.draw(st.sampled_from(string.ascii_letters + "0129-_. "))
    any_name = re.sub("[/\0\ud800-\udfff]", "", data.draw(TEXT))
    stray = "".join(stem) + near.suffix if data.draw(st.booleans()) else any_name
    path = source.root / near.parent / (stray.strip(". ")[:60] or "x")
    if path.exists():
        return
    path.write_bytes(b"")
    try:
        found = [row["id"] for row in source.corpus.utterances(SimpleNamespace(config=source.config), source.root)]
    finally:
        path.unlink()
    assert not set(ids) - set(found) and len(found) <= len(ids) + 1


# --- the card ---------------------------------------------------------------------------------------------------------

RENDER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
BLOCKS = {"paragraph_open", "inline", "paragraph_close"}


@draws(600)
@given(TEXT)
def test_escaped_text_renders_as_itself(text):
    tokens = RENDER.parse(escape(text))
    assert {token.type for token in tokens} <= {"paragraph_open", "inline", "paragraph_close"}, tokens
    inline = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inline} <= {"text", "text_special"}, inline
    assert "".join(child.content for child in inline) == one_line(text)


@draws(250)
@given(TEXT)
def test_plain_text_has_no_markup(text):
    tokens = [child.type for token in RENDER.parse(f"a {plain(text)} z") for child in token.children or ()]
    assert not {"html_inline", "link_open", "image", "code_inline"} & {*tokens}
    assert "\n" not in plain(text)


@draws(150)
@given(st.lists(st.tuples(TEXT, st.floats(0, 1)), min_size=1, max_size=4), TEXT)
def test_a_table_keeps_its_rows_and_columns(rows, head):
    table = markdown_table([head, "UAR"], [[name, f"{value:.3f}"] for name, value in rows])
    tokens = RENDER.parse(table)
    kinds = Counter(token.type for token in tokens)
    assert (kinds["table_open"], kinds["tr_open"], kinds["td_open"]) == (1, len(rows) + 1, 2 * len(rows)), table
    assert not {"html_inline", "html_block", "link_open", "image"} & {c.type for t in tokens for c in t.children or ()}


RESULTS = {kind: results_of(kind, words="WORDS")[0] for kind in (CLASSES, LABELS, VALUES)}


def with_words(value, words: str):
    """Results whose texts from outside end with these words."""
    if isinstance(value, dict):
        return {with_words(key, words): with_words(entry, words) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_words(entry, words) for entry in value]
    return value.replace("WORDS", words) if isinstance(value, str) else value


def outline(results: dict) -> list[str]:
    body = model_card(results, "me/model").split("\n---\n", 1)[1]
    return [f"{token.type} {token.tag}" for token in RENDER.parse(body) if token.type != "inline"]


OUTLINES = {kind: outline(results) for kind, results in RESULTS.items()}


@draws(150)
@given(TEXT, st.sampled_from(list(RESULTS)))
def test_a_card_with_any_text_in_its_names_has_the_same_parts(words, problem_type):
    results = with_words(RESULTS[problem_type], words)
    front = yaml.safe_load(model_card(results, "me/model").split("\n---\n", 1)[0])
    assert front["model-index"][0]["name"] == "me/model"
    assert outline(results) == OUTLINES[problem_type]
    assert lines(results)
