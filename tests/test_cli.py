"""`ser-hf`: every command as it is typed, on synthetic corpora.

python -m pytest tests/test_cli.py -k check
"""

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr

from fakes import babble
from ser_hf.cli import COMMANDS, main
from ser_hf.cli.near_duplicates import fingerprint, near_duplicates
from ser_hf.data.loading import corpus_class, list_corpora
from ser_hf.evaluation.tables import text_table

REAL = Path(__file__).parents[2] / "shared" / "realdata"
EVERY_CORPUS = pytest.mark.parametrize("name", list_corpora())


def label_config(name: str, labels: str):
    return next(config for config in corpus_class(name).BUILDER_CONFIGS if config.name == labels)


@pytest.fixture
def run(capsys):
    """The command line in this process: (exit status, stdout, stderr)."""

    def ser_hf(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        return status, *capsys.readouterr()

    return ser_hf


@pytest.fixture
def error_of(run):
    """The message of a user's mistake: one line on stderr, exit status 2."""

    def message(*argv) -> str:
        status, _, err = run(*argv)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, err
        return err[len("error: ") : -1]

    return message


@pytest.fixture
def copy(fake_corpus, tmp_path):
    """name -> a copy of its fake corpus that the test may change."""
    return lambda name: shutil.copytree(fake_corpus(name), tmp_path / "copy" / name, symlinks=True)


# --- the command itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(run, argv):
    status, out, err = run(*argv)
    assert status == 0 and not err
    for name, text in COMMANDS.items():
        assert f"  {name} " in out and text in out


def test_version(run):
    import ser_hf

    assert run("--version") == (0, f"{ser_hf.__version__}\n", "")


def test_every_help_without_anything_heavy():
    """Each in a fresh interpreter would take longer than all of them in one, and nothing would be seen besides."""
    code = """
        import sys
        from ser_hf.cli import COMMANDS, main
        for argv in (["--help"], *([name, "--help"] for name in COMMANDS), ["push", "corpus", "--help"]):
            try:
                assert main(argv) == 0
            except SystemExit as done:
                assert done.code == 0
            heavy = {"torch", "transformers", "datasets", "numpy", "pandas", "evaluate", "pyarrow"} & set(sys.modules)
            assert not heavy, (argv, heavy)
        """
    code = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"ser-hf {name}" in done.stdout
    assert "--repo_id" in done.stdout and "--validation_fraction" in done.stdout


def test_the_console_command_is_installed():
    command = Path(sys.executable).with_name("ser-hf")
    if not command.exists():
        pytest.skip("not installed beside this interpreter")
    done = subprocess.run([command, "chekc"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: unknown command 'chekc': did you mean 'check'? the commands are {', '.join(COMMANDS)}\n"
    )


def test_a_reader_that_stops_reading():
    code = "from ser_hf.cli import main; raise SystemExit(main(['corpora']))"
    command = f'{sys.executable} -c "{code}" | true'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (141, "")


def test_mistakes(error_of, fake_corpus, tmp_path):
    emodb = fake_corpus("emodb")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for argv, parts in {
        ("nonsense",): ["unknown command 'nonsense': the commands are corpora, check, split"],
        ("check",): ["required: name", "see ser-hf check --help"],
        ("check", "emodbb"): ["unknown dataset 'emodbb': did you mean 'emodb'?"],
        ("check", "EMODB"): ["unknown dataset 'EMODB': did you mean 'emodb'?"],
        ("check", "emodb", "--labels", "9class"): ["no label set '9class'", "7class, 4class"],
        ("check", "emodb", "--data_dir", tmp_path / "empty"): [f"{tmp_path / 'empty'} is not emodb", "wav/03a01Fa.wav"],
        ("check", "emodb", "--data_dir", tmp_path / "none"): ["no such folder"],
        ("check", "emodb"): ["emodb is not on this machine"],
        ("check", "emodb", "--data_dri", "x"): ["unknown argument --data_dri, did you mean --data_dir?"],
        ("check", "emodb", "--num_proc", "0"): ["0: must be at least 1"],
        ("check", "emodb", "--data_dir", emodb, "--json", emodb / "wav" / "x.json"): ["nothing is written"],
        ("check", "emodb", "--data_dir", emodb, "--json", tmp_path): ["is a folder"],
        ("check", "emodb", "--data_dir", emodb, "--json", tmp_path / "file" / "x.json"): ["cannot write in"],
        ("split", "emodb", "--protocol", "6fold", "--data_dir", emodb): [
            "no protocol '6fold'",
            "leave-one-speaker-out",
        ],
        ("split", "emodb", "--out", tmp_path / "file" / "x", "--data_dir", emodb): ["--out", "cannot write in"],
        ("split", "emodb", "--validation_fraction", "1"): ["--validation_fraction: 1: must be"],
        ("split", "emodb", "--data_dir", tmp_path / "empty"): ["is not emodb"],
        ("corpora", "--data_dir", tmp_path / "none"): ["no such folder"],
        ("corpora", "emodb"): ["unknown argument emodb", "see ser-hf corpora --help"],
        ("push",): ["required: WHAT"],
        ("push", "modell"): ["'modell'", "corpus"],
        ("push", "corpus", "emodb"): ["required: --repo_id"],
    }.items():
        message = error_of(*argv)
        for part in parts:
            assert part in message, argv
    assert not list(emodb.rglob("*.json")) and not (tmp_path / "none").exists()


def test_folds_lie_beside_a_table_and_not_in_a_folder(run, error_of, fake_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips = sorted((fake_corpus("demo") / "wav").glob("*.wav"))
    rows = [f"{clip},{'ab'[n % 2]},s{n // 2}" for n, clip in enumerate(clips)]
    Path("calls.csv").write_text("\n".join(["file,label,speaker", *rows]))
    status, out, err = run("split", "calls.csv")
    assert status == 0 and "5 files in folds" in out, err
    for label in "ab":
        shutil.copytree(fake_corpus("demo") / "wav", tmp_path / "calls" / label)
    assert "nothing is written into the corpus's folder" in error_of("split", "calls", "--out", "calls/folds")


def test_table_wraps_the_widest_column():
    rows = [["a", 1, "one two three"], ["bb", 20, "leave-one-out four"]]
    assert text_table(["name", "n", "words"], rows, width=100) == [
        "name   n  words",
        "a      1  one two three",
        "bb    20  leave-one-out four",
    ]
    assert text_table(["name", "n", "words"], rows, width=10) == [  # as narrow as the longest word lets it be
        "name   n  words",
        "a      1  one two three",
        "bb    20  leave-one-out",
        "          four",
    ]


# --- corpora ----------------------------------------------------------------------------------------------------------


def test_corpora_in_a_terminal(run, fake_corpus, tmp_path, monkeypatch):
    base = tmp_path / "corpora"
    (base / "deeper").mkdir(parents=True)
    (base / "ravdess").symlink_to(fake_corpus("ravdess"))
    (base / "EmoDB").symlink_to(fake_corpus("emodb"))
    monkeypatch.setenv("SER_DATA_DIR", str(base))
    status, out, _ = run("corpora")
    assert status == 0
    lines = out[: out.index("\n\n")].splitlines()
    assert max(map(len, lines)) <= 120
    rows = {line.split()[0]: line.split() for line in lines if line[0] != " "}
    assert set(rows) == {"name", *list_corpora()}
    assert rows["emodb"][:5] == ["emodb", "de", "535", "0.41", "10"] and rows["emodb"][-1] == "yes"
    assert [rows[name][-1] for name in ("ravdess", "iemocap", "tess")] == ["yes", "no", "no"]
    assert "10sets-by-prefix-leaks-speakers*" in out and "random*" in out and "leave-one-session-out*" not in out
    assert f"  emodb: {base / 'EmoDB'}" in out
    assert run("corpora", "--data_dir", fake_corpus("tess"))[1].count(" yes\n") == 1  # one corpus itself
    monkeypatch.delenv("SER_DATA_DIR")
    _, out, _ = run("corpora")
    assert "$SER_DATA_DIR is not set" in out and " yes\n" not in out


def test_corpora_for_machines(run, fake_corpus):
    status, out, _ = run("corpora", "--json", "--data_dir", fake_corpus("emodb"))
    corpora = {corpus["name"]: corpus for corpus in json.loads(out)}
    assert status == 0 and list(corpora) == list_corpora()
    emodb = corpora["emodb"]
    assert (emodb["utterances"], emodb["licence"], emodb["redistributable"]) == (535, "CC0-1.0", True)
    assert emodb["found"] == str(fake_corpus("emodb")) and corpora["tess"]["found"] is None
    assert [labels["name"] for labels in emodb["labels"]] == ["7class", "4class"]  # the default first
    assert emodb["labels"][1]["counts"] == {"angry": 127, "happy": 71, "neutral": 79, "sad": 62}
    leaking = {p["name"]: not p["speaker_independent"] for p in corpora["iemocap"]["protocols"]}
    assert leaking["random"] and leaking["10sets-by-prefix-leaks-speakers"] and not leaking["leave-one-session-out"]


# --- check ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def checked(run, tmp_path):
    """Check a corpus: (exit status, screen, the JSON report)."""

    def check(name, folder, *flags):
        status, out, _ = run("check", name, "--data_dir", folder, "--json", tmp_path / "report.json", *flags)
        return status, out, json.loads((tmp_path / "report.json").read_text())

    return check


def files(folder: Path) -> dict:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@EVERY_CORPUS
def test_check_counts_what_the_fakes_hold(checked, fake_corpus, name):
    before = files(fake_corpus(name))
    for labels, expected in importlib.import_module(f"fakes.{name}").EXPECTED.items():
        status, out, report = checked(name, fake_corpus(name), "--labels", labels)
        unusable = [*report["missing_files"], *report["unreadable"], *report["silent"]]
        assert {word: sizes["found"] for word, sizes in report["classes"].items()} == expected["per_label"]
        assert (report["found"], report["outside_labels"]) == (expected["utterances"], expected["outside_labels"])
        assert sum(clip["label"] is not None for clip in unusable) == expected["problems"]
        official = sum(label_config(name, labels).counts.values())
        named = sum(clip["label"] is not None for clip in report["missing_files"])
        if official:
            assert report["missing"] == official - expected["utterances"] - expected["problems"] + named
        for sizes in report["classes"].values():
            if sizes["official"] is not None:
                assert sizes["official"] == sizes["found"] + sizes["unusable"] + sizes["missing"]
        complete = not report["different"]
        assert (status, report["complete"]) == (0 if complete else 1, complete)
        assert out.splitlines()[-1] == ("complete" if complete else f"different: {', '.join(report['different'])}")
        assert not complete or report["missing"] == 0 and not expected["problems"]
        assert str(fake_corpus(name)) in report["folder"] and json.dumps(report).count(str(fake_corpus(name))) == 1
    assert files(fake_corpus(name)) == before


def test_check_finds_the_traps(checked, fake_corpus):
    _, out, tess = checked("tess", fake_corpus("tess"))
    assert {(Path(file["file"]).name, file["reason"]) for file in tess["wrong_format"]} == {
        ("YAF_germ_angry.wav", "content is AIFF"),
        ("YAF_neat_fear.wav", "content is AIFF"),
        ("OAF_food_fear.wav", "96000 Hz, most have 24414 Hz"),
    }
    assert any(Path(file).name.startswith("._") for file in tess["extra"])  # AppleDouble
    assert any(file.startswith("TESS Toronto") for file in tess["extra"])  # Kaggle's second copy
    assert f"audio files that are no utterance: {len(tess['extra'])}" in out

    _, out, ravdess = checked("ravdess", fake_corpus("ravdess"))
    twins = ["03-01-03-01-02-01-07", "03-01-03-01-02-02-07"]
    assert ravdess["duplicated"] == [{"ids": twins, "contradictory": False}]
    assert " = ".join(twins) in out and "contradictory" not in " ".join(ravdess["different"])
    assert {file["reason"] for file in ravdess["wrong_format"]} == {"channels: 2, most have 1"}
    assert len(ravdess["unreadable"]) == 3

    _, out, crema = checked("crema_d", fake_corpus("crema_d"))
    assert [(clip["id"], clip["known"]) for clip in crema["silent"]] == [("1076_MTI_SAD_XX", True)]
    assert "silent (every sample is zero) (known, as in the original)" in out
    assert not [text for text in crema["different"] if "silent" in text]
    assert [(clip["known"], clip["label"]) for clip in crema["unreadable"]] == [(False, "neutral")]

    _, _, iemocap = checked("iemocap", fake_corpus("iemocap"))
    (missing,) = iemocap["missing_files"]
    assert missing["id"] == "Ses02F_impro01_M000" and missing["file"].endswith("Ses02F_impro01_M000.wav")
    assert any(file.endswith("dialog/wav/Ses01F_impro01.wav") for file in iemocap["extra"])

    _, _, mosei = checked("cmu_mosei", fake_corpus("cmu_mosei"))
    assert [clip["file"] for clip in mosei["missing_files"]] == ["Raw/Audio/Full/WAV_16000/nowav_00001.wav"]
    assert not mosei["extra"]


def test_check_in_processes_is_the_same(checked, fake_corpus):
    for name in ("iemocap", "cmu_mosei"):  # a file a clip; segments that are cut
        one = checked(name, fake_corpus(name), "--num_proc", 1)
        assert checked(name, fake_corpus(name), "--num-proc=2") == one


def test_check_of_a_complete_corpus_and_what_may_go_wrong(checked, copy, monkeypatch):
    place = copy("emodb")
    (place / "wav" / "08b10Wd.wav").unlink()
    (place / "wav" / "._03a07Fa.wav").unlink()
    counts = {"angry": 20, "happy": 20, "neutral": 20, "sad": 20}
    monkeypatch.setattr(label_config("emodb", "4class"), "counts", counts)

    def check() -> tuple[int, list[str]]:
        status, _, report = checked("emodb", place, "--labels", "4class")
        return status, report["different"]

    status, out, report = checked("emodb", place, "--labels", "4class")
    assert status == 0 and report["complete"] and out.endswith("\ncomplete\n")
    assert report["missing"] == 0 and not any(report[key] for key in ("unreadable", "silent", "duplicated", "extra"))

    clip = next(place.glob("wav/03*Fa.wav"))
    clip.rename(clip.with_suffix(".bak"))
    assert check() == (1, ["1 missing"])
    clip.with_suffix(".bak").rename(clip)
    assert check() == (0, [])

    content, state = clip.read_bytes(), clip.stat()
    clip.write_bytes(bytes(len(content)))  # the same size and times: a cache would not notice
    os.utime(clip, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert check() == (1, ["1 unreadable"])
    samples, rate = sf.read(clip.parent / next(place.glob("wav/08*Fa.wav")))
    sf.write(clip, samples * 0, rate)
    assert check() == (1, ["1 silent"])
    clip.write_bytes(content)

    extra = place / "notes.wav"
    shutil.copy(clip, extra)  # no utterance by its name: only listed
    status, out, report = checked("emodb", place, "--labels", "4class")
    assert status == 0 and report["extra"] == ["notes.wav"] and "1 in ., the first is notes.wav" in out
    extra.rename(clip.with_name("10a01Wx.wav"))  # equal audio, another speaker and emotion
    assert check() == (1, ["1 more than officially", "1 contradictory duplicates"])
    clip.with_name("10a01Wx.wav").unlink()

    monkeypatch.setattr(label_config("emodb", "4class"), "counts", {**counts, "angry": 19, "sad": 21})
    assert check() == (1, ["2 labels with another number than officially"])


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "emodb").is_dir(), reason="no real EmoDB beside the repository")
def test_check_real_emodb(run):
    status, out, _ = run("check", "emodb", "--labels", "4class", "--data_dir", REAL / "emodb")
    assert status == 0 and "339 of 339 utterances, 10 speakers" in out
    status, out, _ = run("check", "emodb", "--data_dir", REAL / "emodb")
    assert status == 1 and out.endswith("\ndifferent: 196 missing\n")


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "smile").is_dir(), reason="no real SMILE beside the repository")
def test_check_real_smile(run):
    status, out, _ = run("check", "smile", "--data_dir", REAL / "smile")
    assert status == 0 and "1481 of 1481 utterances" in out


COPIES = {  # how a copy is written, and how much later than the original it starts
    "mp3": (lambda path, x: sf.write(path.with_suffix(".mp3"), x, 16000), 0.0),
    "ogg": (lambda path, x: sf.write(path.with_suffix(".ogg"), x, 16000, compression_level=0.9), 0.0),
    "softer": (lambda path, x: sf.write(path.with_suffix(".wav"), 0.1 * x, 16000), 0.0),
    "trimmed": (lambda path, x: sf.write(path.with_suffix(".wav"), x[3200:-1600], 16000), 0.2),
    "24 kHz": (lambda path, x: sf.write(path.with_suffix(".flac"), soxr.resample(x, 16000, 24000), 24000), 0.0),
}


def test_check_finds_copies_that_are_not_equal_sample_by_sample(run, tmp_path):
    """Five copies among twenty recordings, one of which is also there twice, once by a speaker who cannot have said it;
    no other pair of the 325 is reported."""
    root, rows = tmp_path / "corpus", []
    root.mkdir()
    for seed in range(20):
        sf.write(root / f"{seed}.wav", babble(seed), 16000)
        rows.append((f"{seed}.wav", ("angry", "sad")[seed % 2], "ann"))
    for seed, (write, _) in enumerate(COPIES.values()):
        write(root / f"copy{seed}", babble(seed))
        rows.append((next(root.glob(f"copy{seed}.*")).name, ("angry", "sad")[seed % 2], ("ann", "bob")[seed == 2]))
    sf.write(root / "same.wav", babble(7), 16000)
    rows.append(("same.wav", "sad", "ann"))
    (root / "metadata.csv").write_text("\n".join(map(",".join, [("file_name", "label", "speaker"), *rows])) + "\n")
    _, out, _ = run("check", root, "--json", tmp_path / "near.json")
    report = json.loads((tmp_path / "near.json").read_text())
    assert [group["ids"] for group in report["duplicated"]] == [["7", "same"]]
    found = {tuple(pair["ids"]): pair for pair in report["near_duplicates"]}
    assert set(found) == {(str(seed), f"copy{seed}") for seed in range(5)}
    for seed, (kind, (_, later)) in enumerate(COPIES.items()):
        pair = found[str(seed), f"copy{seed}"]
        assert pair["differing_bits"] < 0.2 and abs(pair["starts_later"] - later) < 0.02, kind
        assert pair["contradictory"] == (seed == 2)
    assert "nearly equal recordings of other speakers, labels or splits (listen to them): 1\n    2 = copy2\n" in out
    assert "nearly equal recordings of one speaker and label: 4" in out


def test_silence_and_single_clips_have_no_near_duplicates():
    assert near_duplicates([]) == []
    short = fingerprint(np.full(5, 0.1, np.float32))
    assert len(short) >= 1 and near_duplicates([short]) == []
    assert near_duplicates([np.zeros(50, np.uint32), np.zeros(50, np.uint32)]) == []


# --- split ------------------------------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_split_writes_every_fold(run, fake_corpus, tmp_path):
    status, out, _ = run("split", "emodb", "--data_dir", fake_corpus("emodb"), "--out", tmp_path / "out" / "folds")
    assert status == 0 and "10 files in" in out and "LEAKS" not in out
    paths = sorted((tmp_path / "out" / "folds").iterdir())
    assert [path.name for path in paths] == [f"emodb_leave-one-speaker-out_fold{fold}.csv" for fold in range(10)]
    tested = []
    for fold, path in enumerate(paths):
        rows = rows_of(path)
        assert list(rows[0]) == ["id", "part", "speaker", "label"] and len({row["id"] for row in rows}) == 140
        assert str(tmp_path) not in path.read_text() and ".wav" not in path.read_text()
        parts = {
            part: {row["speaker"] for row in rows if row["part"] == part} for part in ("train", "validation", "test")
        }
        assert len(parts["test"]) == 1 and len(set.union(*parts.values())) == sum(map(len, parts.values())) == 10
        tested += parts["test"]
        sizes = [str(sum(row["part"] == part for row in rows)) for part in ("train", "validation", "test")]
        line = next(line.split() for line in out.splitlines() if line.endswith(path.name))
        assert [line[0], line[1], line[3], line[5]] == [str(fold), *sizes]
    assert len(set(tested)) == 10
    labels = {row["id"]: row["label"] for row in rows}
    assert labels["03a07Fa"] == "happy" and labels["08a02Wa"] == "angry"


def test_split_is_what_a_recipe_trains_on(run, fake_corpus, tmp_path):
    from ser_hf import load_corpus, split

    flags = ("--labels", "6class", "--validation_fraction", "0.3", "--split-seed", "7", "--protocol", "5fold")
    run("split", "ravdess", "--data_dir", fake_corpus("ravdess"), "--out", tmp_path, *flags)
    corpus = load_corpus("ravdess", "6class", fake_corpus("ravdess"))
    for fold in (0, 4):
        parts = split(corpus, "ravdess", "5fold", fold, 0.3, 7)
        rows = rows_of(tmp_path / f"ravdess_5fold_fold{fold}.csv")
        assert [(row["id"], row["part"]) for row in rows] == [(i, part) for part in parts for i in parts[part]["id"]]


def test_split_says_what_leaks(run, fake_corpus, tmp_path):
    where = ("--data_dir", fake_corpus("iemocap"), "--out", tmp_path)
    status, out, _ = run("split", "iemocap", "--protocol", "10sets-by-prefix-leaks-speakers", *where)
    assert status == 0 and "LEAKS SPEAKERS by construction: its parts share 10 speakers" in out
    status, out, _ = run("split", "tess", "--data_dir", fake_corpus("tess"), "--out", tmp_path)
    assert status == 0 and "validation shares 2 speakers with train" in out and "LEAKS" not in out
    status, out, _ = run("split", "smile", "--data_dir", fake_corpus("smile"), "--out", tmp_path)
    assert status == 0 and "NOT speaker-independent: the speakers are unknown" in out


def test_split_of_vectors_has_a_column_for_each_number(run, fake_corpus, tmp_path):
    run("split", "iemocap", "--labels", "vad", "--data_dir", fake_corpus("iemocap"), "--out", tmp_path)
    rows = rows_of(tmp_path / "iemocap_leave-one-session-out_fold0.csv")
    assert list(rows[0]) == ["id", "part", "speaker", "valence", "arousal", "dominance"] and len(rows) == 138
    assert all(1 <= float(row["arousal"]) <= 5 for row in rows)


def test_split_of_too_little_writes_nothing(error_of, copy, tmp_path):
    place = copy("emodb")
    for clip in place.glob("wav/*.wav"):
        if clip.name[:2] not in ("03", "08"):
            clip.unlink()
    message = error_of("split", "emodb", "--data_dir", place, "--out", tmp_path / "out")
    assert "only one training speaker" in message and "--validation_fraction 0" in message
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture
def own(fake_corpus, tmp_path):
    """A folder with a metadata.csv: the fake EmoDB's clips of two labels, a file that is not there, a nameless row."""
    folder = tmp_path / "own calls"
    folder.mkdir()
    rows = ["file_name,label,speaker"]
    for clip in sorted(fake_corpus("emodb").rglob("*[WN]?.wav")):
        rows.append(f"{clip},{clip.stem[5]},{clip.stem[:2]}")
    (folder / "metadata.csv").write_text("\n".join([*rows, "a.wav,N,03", ",N,03"]) + "\n")
    return folder


def test_split_writes_an_own_folder_where_it_is_told(run, own, tmp_path):
    status, out, _ = run("split", own, "--out", tmp_path / "folds")
    assert status == 0 and "5 files in" in out and [path.name for path in own.iterdir()] == ["metadata.csv"]
    names = sorted(path.name for path in (tmp_path / "folds").iterdir())
    assert names == [f"own_calls_speaker-folds_fold{fold}.csv" for fold in range(5)]
    text = (tmp_path / "folds" / names[0]).read_text()
    assert str(tmp_path) not in text and "\n03b02Na,test,03,N\n" in text


def test_check_an_own_folder(run, own, error_of):
    status, out, _ = run("check", own)
    assert status == 1 and "a.wav: unreadable audio (no such file)" in out and "needs you: " in out
    assert "rows of metadata.csv that name no file: 1; they are skipped" in out and "(known" not in out
    assert "nobody/nothing: cannot be loaded" in error_of("check", "nobody/nothing")


def test_cache_shows_and_clears_only_what_is_its_own(run, error_of, tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    assert "empty" in run("cache")[1]
    for name, bytes in {
        "states-0123456789abcdef/a.safetensors": 3000,
        "states-0123456789abcde0/b.safetensors": 500,
        "features-aa23456789abcdef/c.safetensors": 7,
        "own-aa23456789abcdef/index.arrow": 2,
    }.items():
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"0" * bytes)
    mine = tmp_path / "cache" / "my-notes" / "a.safetensors"
    mine.parent.mkdir()
    mine.write_bytes(b"0")
    lines = [line.split() for line in run("cache")[1].splitlines()]
    assert ["states", "2", "3.5", "kB"] in lines and ["features", "1", "7", "B"] in lines
    assert ["own", "1", "2", "B"] in lines
    os.utime(tmp_path / "cache/states-0123456789abcde0/b.safetensors", (0, 0))
    assert "1 folders removed, 500 B" in run("cache", "--keep_days", "30")[1]
    assert "--clear state: nothing of that kind" in error_of("cache", "--clear", "state")
    assert "1 folders removed, 3.0 kB" in run("cache", "--clear", "states")[1]
    assert "2 folders removed, 9 B" in run("cache", "--clear")[1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["my-notes"] and mine.exists()
