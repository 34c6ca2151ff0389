"""Runs that are killed and repeated end as those that were left alone (`kills.py`, where more moments can be had)."""

import kills
import pytest


@pytest.mark.slow
def test_killed_commands_end_as_if_nothing_had_been(tmp_path):
    """One moment for each command, a third of them aimed at the writing of files."""
    commands = kills.jobs(tmp_path)
    said = list(kills.drive(tmp_path, moments=len(commands), seed=1))
    assert [line.split(":")[0] for line in said] == list(commands)
    assert sum("killed 1 times" in line for line in said) >= len(commands) - 2  # a short one may end before each kill


@pytest.mark.parametrize("change", ["weights", "a file more", "trained on"])
def test_what_the_comparison_sees(change, tmp_path):
    (tmp_path / "killed.log").touch()
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "record.json").write_text('{"trained_on": [0], "files": {"README.md": 1}}')
    kills.check("same", tmp_path / "whole", tmp_path / "killed")
    if change == "weights":
        (tmp_path / "killed" / "model.safetensors").write_bytes(b"weightz")
    elif change == "a file more":
        (tmp_path / "killed" / ".lock").touch()
    else:
        (tmp_path / "killed" / "record.json").write_text('{"trained_on": [1], "files": {"README.md": 1}}')
    with pytest.raises(AssertionError):
        kills.check("changed", tmp_path / "whole", tmp_path / "killed")
