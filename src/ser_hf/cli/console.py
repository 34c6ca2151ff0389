"""What the console commands share: a parser whose errors are one line, a corpus's arguments, a check of a place."""

import argparse
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.columns import Columns
from ..errors import SerError
from ..training.arguments import NEGATIVE, add_flags, build, converter, readable, spelled, take_token

if TYPE_CHECKING:
    from ..data.loading import Source

# Types of arguments.
natural = converter(int, {"least": 0})
positive = converter(int, {"least": 1})


class Parser(argparse.ArgumentParser):
    """The parser of `ser-hf COMMAND`; `doc` opens its `--help`. `--data_dir`, `--data-dir`, `--data_dir=D` are one."""

    def __init__(self, command: str = "", doc: str = "", **options):
        options = {"prog": f"ser-hf {command}", "description": doc, **options}
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._negative_number_matcher = NEGATIVE

    def parse_args(self, argv: list[str]) -> argparse.Namespace:
        end = argv.index("--") if "--" in argv else len(argv)  # what follows are names of files
        found, unknown = self.parse_known_args([*take_token(spelled(argv[:end])), *argv[end:]])
        if unknown:
            groups = self._subparsers._group_actions if self._subparsers else []
            parsers = [self, *(child for group in groups for child in group.choices.values())]
            known = [flag for parser in parsers for flag in parser._option_string_actions]
            near = get_close_matches(unknown[0].partition("=")[0], known, n=1)
            self.error(f"unknown argument {unknown[0]}" + (f", did you mean {near[0]}?" if near else ""))
        return found

    def error(self, message: str):
        raise SerError(f"{readable(message)}; see {self.prog} --help")


def corpus_arguments(parser: argparse.ArgumentParser, *flag: str) -> None:
    """The arguments of every command that reads one corpus. Its `name` comes first, or is that of a required `flag`."""
    text = "a corpus (`ser-hf corpora` lists them), a folder, a table or a Hub dataset"
    named = {"dest": "name", "required": True, "metavar": "CORPUS"} if flag else {}
    parser.add_argument(*(flag or ["name"]), help=text, **named)
    parser.add_argument("--data_dir", help="the corpus's folder; else it is looked for under $SER_DATA_DIR")
    parser.add_argument("--labels", help="label configuration, such as 4class; else the corpus's default")
    parser.add_argument("--num_proc", type=positive, help="processes that read the audio")
    add_flags(parser, Columns)


def check_outside(source: "Source", out: Path, flag: str) -> None:
    """Raises SerError: `out`, which `flag` names, is in the corpus's folder, or is the table that is the corpus."""
    table = Path(source.name).expanduser()
    place = table if table.is_file() else source.root
    if place and out.resolve().is_relative_to(place.resolve()):
        raise SerError(f"{flag} {out}: nothing is written into the corpus's folder; choose another")


def columns_of(args: argparse.Namespace) -> Columns:
    """The columns that the arguments name."""
    return build(Columns, args)
