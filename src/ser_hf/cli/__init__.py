"""The console command `ser-hf`. A command's module is imported when it runs, so that every `--help` answers at once."""

import importlib
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from types import ModuleType

from .. import __version__
from ..errors import SerError, door
from ..files import release

# Command and what it does. A module of this name here, in `experiments` or in `publish` has its `main(argv)`.
COMMANDS = {
    "corpora": "list the corpora: size, labels, licence, protocols, found on this machine?",
    "check": "read every file: what differs from the published corpus, what your own data needs",
    "split": "write the folds of a protocol as csv",
    "cv": "run a recipe on every fold of the protocol and sum it up",
    "cross": "train on each of several corpora, test on the others: the matrix",
    "compare": "two systems on the same folds, several over corpora: what may be concluded",
    "predict": "emotions of audio files, by a trained model",
    "doctor": "why a model may fail on recordings: what its training clips were like, what they are like",
    "demo": "serve a page in the browser: record or upload a clip, see its emotions over time",
    "stress": "how a model bears noise, codecs, small changes; is it fair to groups of speakers?",
    "plot": "draw waveform, mel spectrogram, MFCC, windows and SpecAugment of an audio file",
    "embed": "what a pretrained encoder makes of a corpus, as a dataset",
    "convert": "rewrite a foreign checkpoint (soxan, s3prl, pickled weights) as one that loads whole",
    "cache": "what is kept once computed ($SER_CACHE): its size by kind; remove it",
    "export": "write a trained model as an ONNX graph that takes samples, checked against PyTorch",
    "card": "make a run's model card again; compare runs of the same test in one table",
    "push": "publish a corpus or a finished run on the Hugging Face Hub",
}


def module_of(name: str) -> ModuleType:
    """The module of a command."""
    places = (f"ser_hf.{wing}.{name}" for wing in ("cli", "experiments", "publish"))
    return importlib.import_module(next(filter(find_spec, places)))


def help_text() -> str:
    lines = ["usage: ser-hf COMMAND [arguments]", "", "Speech emotion recognition the Hugging Face way.", ""]
    lines += [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    lines += ["", "ser-hf COMMAND --help says what a command takes; ser-hf --version, which version this is."]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: the command's own, or that of `errors.door`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    return door(lambda: run(*argv))


def run(name: str, *argv: str) -> int | None:
    """Run one command; returns its exit status. Raises SerError: there is none of that name (suggests the nearest)."""
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SerError(f"unknown command {name!r}: {hint}the commands are {', '.join(COMMANDS)}")
    try:
        return module_of(name).main(list(argv))
    finally:
        release()
