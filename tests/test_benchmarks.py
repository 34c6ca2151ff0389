"""The benchmark's exact figures, its arithmetic, and its command line. No time is asserted: other work decides it."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import corpus, padding, results, rounds
from benchmarks.__main__ import SECTIONS, differing, figures_of, with_run
from benchmarks.figures import Figure
from benchmarks.rounds import Pass, alternate, compare, unsteady
from benchmarks.shapes import mfu

REPO = Path(__file__).parents[1]


def run(*flags: str, cwd: Path = REPO) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "benchmarks", *flags], cwd=cwd, capture_output=True, text=True)


def test_lengths_are_iemocaps():
    seconds = corpus.iemocap_lengths(6000)
    assert np.median(seconds) == pytest.approx(3.4, abs=0.1)
    assert seconds.mean() == pytest.approx(4.4, abs=0.1)
    assert seconds.max() == 34.0 and seconds.min() == 0.6
    assert corpus.iemocap_lengths(10).max() == 34.0


def test_padding_of_three_ways_on_6000_utterances():
    found = padding.measure()
    assert found["budget of 36 s"][:2] == pytest.approx((1.007, 1.15), abs=0.005)
    assert found["random 8"][:2] == pytest.approx((2.37, 3.27), abs=0.01)
    assert found["length groups of 8"][:2] == pytest.approx((1.06, 7.29), abs=0.01)
    # the worst step's memory grows with its padded seconds: no batch above the budget, against eight clips of 34 s
    assert 34 < found["budget of 36 s"][2] <= 36 and found["random 8"][2] == 8 * 34


def test_length_groups_pad_little_and_keep_the_largest_batch():
    # One pool: 9 8 | 2 1. Padded 9 x 2 and 2 x 2 of 20 real seconds.
    seconds = np.array([1.0, 9.0, 2.0, 8.0])
    groups = padding.length_groups(seconds, 2, np.random.default_rng(0))
    assert [batch.tolist() for batch in groups] == [[1, 3], [2, 0]]
    assert padding.padding_factor(seconds, groups) == 22 / 20
    assert padding.largest_over_mean(seconds, groups) == 18 / 11
    # Two pools of 50 batches of one: each sorted on its own.
    many = padding.length_groups(np.arange(100.0), 1, np.random.default_rng(0))
    assert sorted(int(batch[0]) for batch in many) == list(range(100))
    assert all(many[i][0] > many[i + 1][0] for i in range(99) if i != 49)


def test_files_are_16_bit_of_the_lengths_asked_for_and_equal_every_time(tmp_path):
    import soundfile as sf

    first = corpus.write(tmp_path / "a", np.array([0.6, 1.25]))
    again = corpus.write(tmp_path / "b", np.array([0.6, 1.25]))
    assert [Path(path).suffix for path in first.paths] == [".flac", ".wav"]
    for path, other, seconds in zip(first.paths, again.paths, (0.6, 1.25), strict=True):
        assert sf.info(path).duration == seconds and sf.info(path).subtype == "PCM_16"
        assert (sf.read(path)[0] == sf.read(other)[0]).all()
    assert corpus.iemocap_like(tmp_path, 3, times=2).paths == 2 * corpus.iemocap_like(tmp_path, 3).paths


def test_arms_take_turns_after_one_warm_up_each(monkeypatch):
    calls = []

    def arm(name):
        return lambda: calls.append(name) or Pass(1.0, 1.0, 1.0)

    passes = alternate({"a": arm("a"), "b": arm("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(done) for name, done in passes.items()} == {"a": 2, "b": 2}
    # Short passes go on for so many seconds, of a clock that each call here moves by one.
    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=lambda: float(len(calls))))
    assert len(alternate({"a": arm("a")}, 2, seconds=5.0)["a"]) == 5
    assert len(alternate({"a": arm("a")}, 2, seconds=1.0)["a"]) == 2


def test_ratios_are_of_rounds_of_fastest_passes_and_of_cpu_seconds():
    ours = [Pass(10, 1.0, 1.0), Pass(10, 5.0, 1.0), Pass(10, 2.0, 1.0)]  # 10, 2, 5 a second
    theirs = [Pass(10, 2.0, 2.0), Pass(10, 5.0, 2.0), Pass(10, 2.5, 2.0)]  # 5, 2, 4 a second
    median, fastest, cpu = compare({"ours": ours, "theirs": theirs}, "ours", "theirs", at_least=1.2)
    assert (median.value, fastest.value, cpu.value) == (1.25, 2.0, 2.0)
    assert median.met and fastest.met is None
    assert unsteady(1.25, 2.0) and not unsteady(1.25, 1.5)


def test_goals():
    assert Figure("x", 1.05, at_most=1.05).met and not Figure("x", 1.051, at_most=1.05).met
    assert Figure("x", 0.85, at_least=0.85).met and not Figure("x", 0.849, at_least=0.85).met
    assert "MISSED" in Figure("x", 2.0, at_most=1.0).line() and Figure("x", 2.0).met is None


def test_mfu_counts_real_seconds():
    # 33.1 GFLOP a second of audio (counted without padding): 10 500 of them are 35 % of 989 TFLOP/s.
    assert mfu("base", 10_500, "NVIDIA H200") == pytest.approx(0.35, abs=0.002)
    assert mfu("xlsr", 1_000, "unknown", peak_tflops=101.0) == 1.0
    assert mfu("base", 1_000, "unknown") is None


def test_quick_padding_from_the_command_line(tmp_path):
    done = run("--quick", "--only", "padding", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0 and done.stderr == ""
    assert "cores" in done.stdout and "goals missed: none" in done.stdout
    (written,) = json.loads((tmp_path / "figures.json").read_text())
    factor = next(f for f in written["figures"] if f["name"] == "padding factor, budget of 36 s")
    assert factor["at_most"] == 1.05 and factor["met"] is True and factor["section"] == "padding"
    assert written["machine"]["threads"] == 1 and written["settings"]["quick"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize(
    "flags", [("--only", "paddin"), ("--rounds", "0"), ("--json", "/no/such/folder/x.json"), ("--fast",)]
)
def test_wrong_flags_end_with_2_before_anything_runs(flags):
    done = run(*flags)
    assert done.returncode == 2 and "error: " in done.stderr and done.stdout == ""


def test_figures_that_differ_by_more_than_a_tenth():
    def figure(name: str, value: float, section: str = "a", met: bool | None = True, **more) -> dict:
        return {"section": section, "name": name, "value": value, "met": met, "unit": "x", **more}

    before = [figure("x", 10.0), figure("y", 10.0), figure("gone", 1.0), figure("other", 1.0, "b")]
    now = [figure("x", 11.0), figure("y", 11.2), figure("new", 0.5), figure("no goal", 9.0, met=None)]
    assert differing(now, before) == [
        "a, gone: in one run alone", "a, new: in one run alone", "a, y: 11.2, before 10.0"
    ]  # fmt: skip
    assert differing(before, before) == []
    # Seconds in units of the yardstick: twice as long on a machine that is twice as slow is no difference.
    slow, fast = ([figure("wait", value, unit="s", yardstick=of)] for value, of in ((8.0, 0.2), (4.0, 0.1)))
    assert differing(slow, fast) == [] and len(differing(slow, [fast[0] | {"yardstick": 0.2}])) == 1
    assert differing(slow, [figure("wait", 4.0, unit="s")]) == ["a, wait: 8.00, before 4.00"]  # of an earlier version


def test_what_the_page_says_of_two_runs_in_a_row():
    names = ("results.json", "first_run.json")
    now, first = (figures_of(json.loads((REPO / "benchmarks" / name).read_text())) for name in names)
    different, goals = len(differing(now, first)), sum(one["met"] is not None for one in now)
    assert f"10 % in {different} of {goals} figures" in (REPO / "benchmarks" / "README.md").read_text()


def test_every_figure_with_a_goal_has_a_name_of_its_own():
    """`--against` finds it by its section and its name."""
    figures = figures_of(json.loads((REPO / "benchmarks" / "results.json").read_text()))
    goals = [(one["section"], one["name"]) for one in figures if one["met"] is not None]
    assert len(goals) == len(set(goals)) and {section for section, _ in goals} <= set(SECTIONS)


def test_a_section_that_is_measured_again_takes_the_place_of_the_former():
    def run(date: str, *sections: str) -> dict:
        return {"machine": {"date": date}, "figures": [{"section": name, "value": date} for name in sections]}

    runs = with_run([run("1", "loader", "padding"), run("2", "predict")], run("3", "loader", "predict"))
    assert runs == [run("1", "padding"), run("3", "loader", "predict")]
    assert [one["value"] for one in figures_of(runs)] == ["1", "3", "3"]


def test_the_table_of_goals(tmp_path):
    facts = {"processor": "a CPU", "cores": 2, "threads": 1, "python": "3.11", "torch": "2", "transformers": "5"}
    facts |= {"load": 0.1, "load_at_the_end": 1.0, "date": "2026-01-01 00:00"}
    figures = [Figure("a | b", 2.0, "x"), Figure("fast", 2.347, "x", at_least=2), Figure("  memory", 0.5, at_most=0.25)]
    written = {"machine": facts, "settings": {"rounds": 5}, "figures": [one.as_dict("loader") for one in figures]}
    written["figures"].append(Figure("slow", 9.0, "s", at_most=1).as_dict("predict"))
    (tmp_path / "r.json").write_text(json.dumps([written]))
    lines = results.speed(["everything"], tmp_path / "r.json").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert cells == [
        ["loader", "fast", "2.35 x", "at least 2", "met"],
        ["loader", "memory", "0.50", "at most 0.25", "missed"],
        ["predict", "slow", "9.00 s", "at most 1", "missed"],
    ]
    assert lines[-1].startswith("a CPU, 2 cores of which 1 used; python 3.11") and "rounds: 5" in lines[-1]
    first = results.speed(["predict", "loader", "no such"], tmp_path / "r.json")
    assert first.index("slow") < first.index("fast") and "memory" not in first
    assert results.speed(["everything"], tmp_path / "none.json") == "Nothing is recorded yet."
