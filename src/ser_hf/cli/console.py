"""What the console commands share: a parser whose errors are one line, a check that a file can be written."""

import argparse
import os
import re
from difflib import get_close_matches
from pathlib import Path

from ..errors import SerError


class Parser(argparse.ArgumentParser):
    """Flags as the recipes spell them: `--data_dir`, `--data-dir` and `--data_dir=D` are the same.

    Args:
        command: What follows `ser-hf`, such as `check`.
        doc: The command's docstring: what its `--help` says.
    """

    def __init__(self, command: str = "", doc: str = "", **options):
        options = {"prog": f"ser-hf {command}", "description": doc, **options}
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=kind, **options)

    def parse_args(self, argv: list[str]) -> argparse.Namespace:
        argv = [re.sub("^--[^=]*", lambda flag: flag[0].replace("-", "_").replace("__", "--", 1), a) for a in argv]
        found, unknown = self.parse_known_args(argv)
        if unknown:
            known = [flag for parser in (self, *_children(self)) for flag in parser._option_string_actions]
            near = get_close_matches(unknown[0].partition("=")[0], known, n=1)
            self.error(f"unknown argument {unknown[0]}" + (f", did you mean {near[0]}?" if near else ""))
        return found

    def error(self, message: str):
        raise SerError(f"{message}; see {self.prog} --help")


def _children(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    groups = parser._subparsers._group_actions if parser._subparsers else []
    return [child for group in groups for child in group.choices.values()]


def corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that reads one corpus, in the words of the recipes' flags."""
    parser.add_argument("name", help="a corpus; `ser-hf corpora` lists them")
    parser.add_argument("--data_dir", help="the corpus's folder; else it is looked for under $SER_DATA_DIR")
    parser.add_argument("--labels", help="label configuration, such as 4class; else the corpus's default")
    parser.add_argument("--num_proc", type=positive, help="processes that read the audio")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def claim(folder: Path, flag: str) -> None:
    """Make a folder and see that files can be written there, before anything slow.

    Raises:
        SerError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (probe := folder / f".writable.{os.getpid()}").touch()
        probe.unlink()
    except OSError as error:
        raise SerError(f"{flag}: cannot write in {folder} ({error.strerror}); choose another") from None
