"""`ser-hf push corpus`: what is published, what is refused, and a round trip through a local Hub.

python -m pytest tests/test_push.py
"""

import ast
import io
import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml
from test_report import HOSTILE

import warm
from hub_server import hub_server
from ser_hf.cli import main
from ser_hf.data.audio import scan
from ser_hf.data.loading import CorpusReport, corpus_class, list_corpora
from ser_hf.errors import SerError
from ser_hf.publish.push import as_published, card_text, metadata


def noise(channels: int = 1, frames: int = 3000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, (frames, channels))


# --- audio ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "channels", "kind"),
    [
        ("clip.wav", 16000, 1, {"subtype": "PCM_16"}),
        ("stereo.wav", 48000, 2, {"subtype": "PCM_16"}),
        ("tess.wav", 24414, 1, {"subtype": "PCM_16"}),
        ("aiff.wav", 24414, 1, {"subtype": "PCM_16", "format": "AIFF"}),
        ("fast.wav", 96000, 1, {"subtype": "PCM_24"}),
        ("bytes.wav", 8000, 1, {"subtype": "PCM_U8"}),
    ],
)
def test_lossless_kinds_become_flac(tmp_path, name, rate, channels, kind):
    path = tmp_path / name
    sf.write(path, noise(channels), rate, **kind)
    audio = as_published({"bytes": None, "path": str(path)})
    assert audio["path"] == path.with_suffix(".flac").name
    header = sf.info(io.BytesIO(audio["bytes"]))
    assert (header.format, header.samplerate, header.channels) == ("FLAC", rate, channels)
    np.testing.assert_array_equal(
        sf.read(io.BytesIO(audio["bytes"]), dtype="int32")[0], sf.read(path, dtype="int32")[0]
    )
    assert scan(audio) == scan(path)  # the same duration and hash: what the columns say stays true
    assert as_published({"bytes": path.read_bytes(), "path": str(path)}) == audio


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("float.wav", {"subtype": "FLOAT"}),
        ("wide.wav", {"subtype": "PCM_32"}),
        ("clip.mp3", {}),
        ("clip.ogg", {}),
        ("clip.flac", {"subtype": "PCM_16"}),
        ("phone.wav", {"subtype": "ULAW"}),
        ("many.wav", {"subtype": "PCM_16", "channels": 9}),  # FLAC has eight
    ],
)
def test_other_kinds_stay_as_they_are(tmp_path, name, kind):
    path = tmp_path / name
    sf.write(path, noise(kind.pop("channels", 1)), 16000, **kind)
    assert as_published({"bytes": None, "path": str(path)}) == {"bytes": path.read_bytes(), "path": name}


def test_no_audio_and_a_file_that_is_gone(tmp_path):
    assert as_published(None) is None
    with pytest.raises(SerError, match="gone.wav: cannot be read"):
        as_published({"bytes": None, "path": str(tmp_path / "gone.wav")})


# --- the card ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_corpora())
def test_metadata_of_every_corpus(name):
    card = corpus_class(name).CARD
    data = yaml.safe_load(yaml.safe_dump(metadata(card, card.utterances, has_audio=name != "smile")))
    assert data["pretty_name"] == card.title and data["language"] == list(card.languages)
    assert data["task_categories"] == ["text-classification" if name == "smile" else "audio-classification"]
    if data["license"] == "other":
        assert data["license_link"] == card.homepage
        assert re.fullmatch("[a-z0-9.-]+", data["license_name"])
    else:
        assert data["license"].removesuffix("-4.0").removesuffix("-1.0") in card.licence.lower()


@pytest.mark.parametrize(
    ("number", "size"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (10_039, "10K<n<100K"), (100_000, "100K<n<1M"), (1_000_000, "n>1M")],
)
def test_size_categories(number, size):
    assert metadata(corpus_class("emodb").CARD, number, has_audio=True)["size_categories"] == [size]


def report(labels: str, per_label: dict[str, int], **more) -> CorpusReport:
    return CorpusReport(
        "emodb", labels, sorted(per_label), "single_label_classification", 9, 9, 0.1, 2, per_label, **more
    )


def test_card_keeps_what_it_says_of_other_label_sets():
    card = corpus_class("emodb").CARD
    first = card_text(card, report("7class", {"bored": 4, "sad": 5}), "user/emodb", has_audio=True)
    assert card.citation in first and "| bored | 4 | - |" in first and 'load_dataset("user/emodb", "7class"' in first
    both = card_text(card, report("4class", {"sad": 5}), "user/emodb", True, older=first)
    assert "| bored | 4 | - |" in both and both.count("## Label set") == 2
    again = card_text(card, report("7class", {"bored": 3, "sad": 5}), "user/emodb", True, older=both)
    assert "| bored | 3 | - |" in again and "| bored | 4" not in again and again.count("## Label set") == 2
    assert card_text(card, report("7class", {"bored": 3, "sad": 5}), "user/emodb", True, older=again) == again


def test_text_from_outside_stays_text():
    card = replace(corpus_class("emodb").CARD, title=HOSTILE, notes=HOSTILE, citation=HOSTILE, licence=HOSTILE)
    hostile = report(f'a"b`{HOSTILE}', {f"sad{HOSTILE}": 3}, problems=[f"{HOSTILE}.wav: unreadable"], remarks=[HOSTILE])
    text = card_text(card, hostile, "user/x", has_audio=True)
    head, _, rest = text.partition("```python")
    code, _, rest = rest.partition("```")
    (heading,) = [line for line in rest.splitlines() if line.startswith("## Label set")]
    assert heading.count("`") == 2 and "<script" not in heading  # a code span, in which nothing else is markup
    seen = ("<script", "</td", "![x]", "[y](z)", "\n# e", "\n---\n#", "|a|", "`b`", "*c*", " _d_", "\x1b", " $x")
    for markup in seen:
        assert markup not in head + rest.replace(heading, ""), markup
    call = next(line for line in code.splitlines() if line.startswith("corpus = "))
    names = [one.value for one in ast.parse(call).body[0].value.args]
    assert names == ["user/x", f'a"b`{HOSTILE}']


def test_card_of_a_private_corpus_and_of_texts():
    text = card_text(corpus_class("smile").CARD, report("single", {"sad": 1}), "user/smile", has_audio=False)
    assert "keep this repository private" in text and "texts only" in text and "soundfile" not in text
    assert "keep this repository private" not in card_text(corpus_class("emodb").CARD, report("a", {}), "u/e", True)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_refused_before_anything_is_read(fake_corpus, capsys):
    tess, emodb = fake_corpus("tess"), fake_corpus("emodb")
    for argv, parts in {
        ("tess", "--repo_id", "user/tess", "--data_dir", tess, "--public"): [
            "--public: TESS",
            "may not be published again",
            "CC-BY-NC-ND-4.0",
            "leave --public out to push it to a private repository",
        ],
        ("emodb", "--repo_id", "emodb", "--data_dir", emodb): ["--repo_id emodb: must be user/name"],
        ("emodb", "--repo_id", "user/emodb", "--data_dir", emodb): ["the Hub does not accept", "hf auth login"],
        ("emodb", "--repo_id", "user/emodb", "--labels", "x", "--data_dir", emodb): ["no label set 'x'"],
        ("emodb", "--repo_id", "user/emodb"): ["emodb is not on this machine"],
    }.items():
        assert main(["push", "corpus", *map(str, argv)]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("error: ") and err.count("\n") == 1
        for part in parts:
            assert part in err


@pytest.mark.parametrize("name", list_corpora())
def test_no_corpus_with_a_forbidding_licence_is_published(name, capsys):
    if not corpus_class(name).CARD.redistributable:
        assert main(["push", "corpus", name, "--repo_id", "user/name", "--public"]) == 2
        assert "may not be published again" in capsys.readouterr().err


# --- round trip -------------------------------------------------------------------------------------------------------


def client(hub, home: Path, code: str) -> dict:
    """Run `code` in a new process whose cache is `home`; the dict that it leaves in `result`."""
    code = f"import json\nresult = {{}}\n{textwrap.dedent(code)}\nprint('RESULT' + json.dumps(result))"
    env = hub.env(home) | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(home / "datasets")}
    done = warm.python("-c", code, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.rpartition("RESULT")[2])


def test_round_trip(fake_corpus, tmp_path):
    folders = {name: str(fake_corpus(name)) for name in ("emodb", "ravdess", "cmu_mosei", "smile")}
    with hub_server() as hub:
        hub.add_repo("tester/open", {"README.md": b"open\n"}, "dataset", private=False)
        hub.add_repo("tester/closed", {"README.md": b"closed\n"}, "dataset", private=True)
        pushed = client(
            hub,
            tmp_path / "author",
            f"""
            import contextlib, io
            from ser_hf.cli import main
            folders = {folders!r}

            def push(name, repo, *flags):
                err = io.StringIO()
                with contextlib.redirect_stderr(err):
                    status = main(["push", "corpus", name, "--repo_id", repo, "--data_dir", folders[name], *flags])
                return [status, err.getvalue().splitlines()[-1:] if status else []]

            result["4class"] = push("emodb", "tester/emodb", "--labels", "4class", "--public")
            result["7class"] = push("emodb", "tester/emodb", "--public")
            result["again"] = push("emodb", "tester/emodb", "--public", "--num_proc", "2")
            result["ravdess"] = push("ravdess", "tester/ravdess")
            result["mosei"] = push("cmu_mosei", "tester/mosei", "--labels", "sentiment")
            result["smile"] = push("smile", "tester/smile")
            result["open"] = push("ravdess", "tester/open")
            result["closed"] = push("ravdess", "tester/closed", "--public")
            result["foreign"] = push("ravdess", "someone/ravdess")
            """,
        )
        for name in ("4class", "7class", "again", "ravdess", "mosei", "smile"):
            assert pushed[name] == [0, []]
        for name, part in {
            "open": "tester/open: exists and is public",
            "closed": "tester/closed: exists and is private",
            "foreign": "--repo_id someone/ravdess: your token may not do this (403",
        }.items():
            status, (line,) = pushed[name]
            assert status == 2 and line.startswith("error: ") and part in line
        assert [hub.is_private(f"tester/{name}", "dataset") for name in ("emodb", "ravdess", "mosei", "smile")] == [
            False,
            True,
            True,
            True,
        ]
        assert hub.files("tester/open", "dataset") == {"README.md": b"open\n"}

        files = hub.files("tester/emodb", "dataset")
        assert sorted(files) == [
            ".gitattributes",
            "4class/train-00000-of-00001.parquet",
            "7class/train-00000-of-00001.parquet",
            "README.md",
        ]
        _, front, text = files["README.md"].decode().split("---\n", 2)
        front = yaml.safe_load(front)
        assert front["license"] == "cc0-1.0" and front["language"] == ["de"] and front["size_categories"] == ["n<1K"]
        assert front["task_categories"] == ["audio-classification"]
        assert {c["config_name"]: c.get("default") for c in front["configs"]} == {"4class": None, "7class": True}
        assert "| angry | 20 | 127 |" in text and "1 clips cannot be used" in text and text.count("## Label set") == 2
        for name, folder in folders.items():
            for path, content in hub.files(f"tester/{name.removeprefix('cmu_')}", "dataset").items():
                assert folder.encode() not in content and str(tmp_path).encode() not in content, path

        loaded = client(
            hub,
            tmp_path / "reader",
            f"""
            import io
            from pathlib import Path
            import numpy as np, soundfile as sf
            from datasets import get_dataset_config_names, load_dataset
            from ser_hf import load_corpus
            from ser_hf.data.audio import cut, whole
            folders = {folders!r}

            def samples(audio):
                file, start, end = whole(audio["path"])
                part = audio["bytes"] if start is None else cut(file, start, end)
                array, rate = sf.read(file if part is None else io.BytesIO(part), dtype="int32")
                return rate, array.shape, array.tobytes()

            def compare(name, labels, repo, *config):
                ours = load_corpus(name, labels, folders[name])
                theirs = load_dataset(repo, *config, split="train")
                stream = load_dataset(repo, *config, split="train", streaming=True)
                features = ours.features == theirs.features == stream.features
                rows = columns = equal = 0
                paths = set()
                for a, b, c in zip(ours, theirs, stream, strict=True):
                    first, second, third = a.pop("audio"), b.pop("audio"), c.pop("audio")
                    assert repr(a) == repr(b) == repr(c) and second == third, (a, b, c)  # repr: NaN is not itself
                    rows += 1
                    equal += first is second is None or samples(first) == samples(second)
                    paths |= {{second and Path(second["path"]).name == second["path"]}}
                return [features, rows, equal, list(paths)]

            result["default"] = compare("emodb", "7class", "tester/emodb")
            result["4class"] = compare("emodb", "4class", "tester/emodb", "4class")
            result["configs"] = get_dataset_config_names("tester/emodb")
            result["ravdess"] = compare("ravdess", None, "tester/ravdess")
            result["mosei"] = compare("cmu_mosei", "sentiment", "tester/mosei")
            result["smile"] = compare("smile", None, "tester/smile")
            """,
        )
        rows = {"default": 140, "4class": 80, "ravdess": 197, "mosei": loaded["mosei"][1], "smile": loaded["smile"][1]}
        for name, number in rows.items():
            assert loaded[name] == [True, number, number, [None if name == "smile" else True]], name
        assert rows["mosei"] >= 5 and rows["smile"] >= 5 and loaded["configs"] == ["4class", "7class"]
        assert hub.unknown == [] and hub.errors == []
