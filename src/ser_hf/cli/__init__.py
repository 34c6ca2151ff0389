"""The console command `ser-hf`. A command's module is imported when it runs, so that every `--help` answers at once."""

import importlib
import os
import sys
from difflib import get_close_matches

from .. import __version__
from ..errors import SerError

# Command, which is also the name of its module with `main(argv)`, and what it does.
COMMANDS = {
    "corpora": "list the corpora: size, labels, licence, protocols, found on this machine?",
    "check": "read every file of a corpus and compare it with what the corpus officially holds",
    "split": "write the folds of a protocol as csv",
    "cv": "run a recipe on every fold of the protocol and sum it up",
    "predict": "emotions of audio files, by a trained model",
    "plot": "draw waveform, mel spectrogram, MFCC, windows and SpecAugment of an audio file",
    "embed": "what a pretrained encoder makes of a corpus, as a dataset",
    "convert": "rewrite a foreign checkpoint (soxan's head, pickled weights) as one that loads whole",
    "push": "publish a corpus or a finished run on the Hugging Face Hub",
}


def help_text() -> str:
    lines = ["usage: ser-hf COMMAND [arguments]", "", "Speech emotion recognition the Hugging Face way.", ""]
    lines += [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    lines += ["", "ser-hf COMMAND --help says what a command takes; ser-hf --version, which version this is."]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: the command's own, 2 for a user's mistake (one line on stderr)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    try:
        if argv[0] not in COMMANDS:
            near = get_close_matches(argv[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise SerError(f"unknown command {argv[0]!r}: {hint}the commands are {', '.join(COMMANDS)}")
        module = importlib.import_module(f".{argv[0]}", __package__)
        return module.main(argv[1:]) or 0
    except SerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `ser-hf corpora | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
