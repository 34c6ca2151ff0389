"""Rules of the repository that would drift if nothing held them."""

import ast
import os
import re
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from conftest import RECIPES, settings_of, system_of

REPO = Path(__file__).parents[1]
SOURCE = REPO / "src" / "ser_hf"

# Each wing imports itself and those before it. `models` ships to the Hub and imports its siblings alone.
WINGS = ("errors", "data", "evaluation", "training", "cli", "experiments", "publish")
LEAVES = {"errors", "files", "torchaudio_cpu", "__version__", "models"}


def _own_imports(file: Path) -> set[str]:
    """Wings and top-level modules of this project that a file imports, at any depth of its code."""
    package = ["ser_hf", *file.relative_to(SOURCE).parent.parts] if file.is_relative_to(SOURCE) else []
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *(node.module or "").split(".")] if node.module else base
            names = [parts] if len(parts) > 1 else [[*parts, alias.name] for alias in node.names]
            found |= {name[1] for name in names if name[0] == "ser_hf"}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ser_hf.")}
    return found


@pytest.mark.parametrize("wing", WINGS[1:])
def test_a_wing_imports_only_the_wings_before_it(wing):
    allowed = LEAVES | set(WINGS[: WINGS.index(wing) + 1])
    files = list((SOURCE / wing).rglob("*.py"))
    assert len(files) > 2
    wrong = {str(file.relative_to(SOURCE)): found for file in files if (found := _own_imports(file) - allowed)}
    assert not wrong


def test_models_import_only_siblings_one_level_up():
    files = [file for file in (SOURCE / "models").glob("*.py") if file.stem != "__init__"]
    assert len(files) >= 2
    siblings = {file.stem for file in files}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("ser_hf")):
                # `from . import x` is saved without x; `from ser_hf.x` demands the package of every user
                assert node.level == 1 and node.module in siblings, ast.unparse(node)


def test_loading_scripts_import_data_alone():
    files = [file for file in (REPO / "loading_scripts").glob("*.py") if file.stem != "__init__"]
    assert len(files) >= 4
    for file in files:
        assert _own_imports(file) <= {"data"}, file.name


def test_recipes_are_spines():
    for file in (REPO / "recipes").glob("*.py"):
        tree = ast.parse(file.read_text())
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)], file.name
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert names in (["main"], []), f"{file.name} defines {names}"
        assert len(file.read_text().splitlines()) <= 150, file.name


def test_a_column_read_row_by_row_is_found():
    from datasets import Dataset

    rows = Dataset.from_dict({"label": [0, 1], "audio": ["a", "b"]})
    for name, found in (("label", True), ("audio", False)):
        code = compile(f"list(rows[{name!r}])", str(REPO / "src" / "ser_hf" / "some.py"), "exec")
        with pytest.raises(AssertionError, match="column label row by row") if found else nullcontext():
            exec(code, {"rows": rows})
    assert list(rows["label"]) == [0, 1]  # a test may


def test_import_and_help_load_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "sklearn")
    code = f"import sys, ser_hf; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    for recipe in sorted((REPO / "recipes").glob("*_*.py")):
        if recipe.stem in ("__init__", "try_model"):
            continue
        code = (
            f"import sys, runpy; sys.argv = ['x', '--help']\n"
            f"try: runpy.run_path({str(recipe)!r}, run_name='__main__')\n"
            "except SystemExit as stop: assert stop.code == 0\n"
            "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "--dataset" in done.stdout and "accelerate launch" in done.stdout


def _documented_commands() -> list[list[str]]:
    """Every `accelerate launch recipes/...` command of the README, the docs, the recipes and their YAML, as words."""
    texts = [file.read_text() for file in (REPO / "README.md", *(REPO / "docs").glob("*.md"))]
    texts += [file.read_text() for folder in ("recipes",) for file in (REPO / folder).rglob("*.py")]
    texts += [re.sub(r"^# ?", "", f.read_text(), flags=re.M) for f in (REPO / "recipes").rglob("*.yaml")]
    commands = []
    for text in texts:
        joined = re.sub(r"\\\n\s*", " ", text)
        found = re.findall(r"^\s*(accelerate launch .*)$", joined, re.M)
        commands += [shlex.split(line.split("#")[0]) for line in found]
    return commands


def test_documented_commands_parse():
    from ser_hf.training.arguments import parse

    commands = _documented_commands()
    assert len(commands) >= 8
    for words in commands:
        at = next(i for i, word in enumerate(words) if word.startswith("recipes/") and word.endswith(".py"))
        assert (REPO / words[at]).is_file(), words
        from accelerate.commands.launch import launch_command_parser

        launch_command_parser().parse_args(words[2:])
        # the GPU flags of a documented command must parse on a machine without one
        system = system_of(Path(words[at]).stem)
        cpu = ["--use_cpu", "true", *(["--bf16", "false"] if system.training_flags is None else [])]
        parse(system, "", [*words[at + 1 :], *cpu])


class Parsed(Exception):
    """Stops a command where its arguments have been accepted."""


def test_documented_console_commands_parse(monkeypatch):
    from ser_hf import cli
    from ser_hf.cli import console as command
    from ser_hf.experiments import cross, cv

    def stop(self, argv, parse=command.Parser.parse_args):
        parse(self, argv)
        raise Parsed

    monkeypatch.setattr(command.Parser, "parse_args", stop)
    lines = re.findall(r"^ser-hf (.*)$", (REPO / "README.md").read_text(), re.M)
    assert {line.split()[0] for line in lines} == set(cli.COMMANDS)
    page = re.findall(r"^ser-hf (.*)$", (REPO / "docs" / "own_recordings.md").read_text(), re.M)
    assert {line.split()[0] for line in page} == {"check", "split", "cv", "doctor", "predict", "push"}
    lines += page
    for line in lines:
        name, *words = shlex.split(line.split(" #")[0])
        if name == "cv":  # its flags are the recipe's, and its own
            request = cv.parse(words)
            assert (REPO / words[0]).is_file() and request.data.dataset
            continue
        if name == "cross":
            assert (REPO / words[0]).is_file() and cross.parse(words)[1]
            continue
        module = cli.module_of(name)
        with pytest.raises(Parsed):
            module.main(words)


def test_yaml_files_are_flat_runs_that_parse():
    files = sorted((REPO / "recipes" / "configs").rglob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        flags = yaml.safe_load(file.read_text())
        assert file.stem.startswith(flags["dataset"].split("+")[0] + "_"), file.name
        name = file.stem.removeprefix(flags["dataset"].split("+")[0] + "_")
        # The recipe is that of the command in the file, or its system's name begins the file's.
        fitting = re.findall(rf"recipes/(\w+)\.py --config {file.stem}$", file.read_text(), re.M)
        fitting += [recipe for recipe in RECIPES if f"{name}_".startswith(f"{system_of(recipe).name}_")]
        assert fitting, file.name
        settings = settings_of(max(fitting, key=lambda recipe: len(system_of(recipe).name)), "--config", file)
        assert settings.data.dataset == flags["dataset"] and settings.overrides["config"] == str(file)


def test_accelerate_files_load():
    from accelerate.commands.config.config_args import load_config_from_file

    files = {file.stem: load_config_from_file(str(file)) for file in (REPO / "recipes" / "accelerate").glob("*.yaml")}
    assert set(files) == {"ddp", "fsdp", "deepspeed", "multi_node"}
    assert files["multi_node"].num_machines == 2 and files["multi_node"].num_processes == 8


# What sbatch would give to the script on two machines of four GPUs; `srun` runs a task on each.
SLURM = {
    "scontrol": 'test "$*" = "show hostnames n[1-2]" && printf "node1\\nnode2\\n"',
    "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
    "accelerate": 'for word; do echo "$word"; done; echo ---',
}


def test_the_slurm_script_starts_accelerate_on_each_machine(tmp_path):
    from accelerate.commands.launch import launch_command_parser

    for name, body in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_ID": "70007",
    }
    words = ["recipes/wav2vec2_cls.py", "--dataset", "our calls", "--fold", "$3"]
    done = subprocess.run(
        ["recipes/accelerate/slurm.sh", *words],
        env=os.environ | environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    assert (done.returncode, done.stderr) == (0, "")
    starts = [text.splitlines() for text in done.stdout.split("---\n")[:-1]]
    for rank, (start, *line) in enumerate(starts):
        args = launch_command_parser().parse_args(line)
        assert start == "launch" and Path(REPO / args.config_file).is_file()
        assert (args.num_machines, args.machine_rank, args.num_processes) == (2, rank, 8)
        assert (args.main_process_ip, args.main_process_port) == ("node1", 30007)
        assert [args.training_script, *args.training_script_args] == words
    assert len(starts) == 2
