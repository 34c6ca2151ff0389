"""Corpora by name: the folder `loading_scripts/` is the registry, `load_corpus` the door to all of them."""

import importlib
import inspect
import os
import pkgutil
from difflib import get_close_matches
from pathlib import Path

import datasets
import xxhash

from .. import __version__
from ..errors import SerError
from .audio import scan
from .corpus import CorpusReport, SpeechCorpus, select_usable
from .schema import LabelConfig, features
from .sources import folder_corpus, load_hub

logger = datasets.logging.get_logger(__name__)


def list_corpora() -> list[str]:
    """Names of all corpora: the files of `loading_scripts/`.

    >>> "demo" in list_corpora()
    True
    """
    package = importlib.import_module("ser_hf.loading_scripts")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_")


def is_hub_name(name: str) -> bool:
    """Whether a `--dataset` value is a dataset on the Hub: `user/name`, and no folder here.

    >>> is_hub_name("you/your-corpus"), is_hub_name("emodb"), is_hub_name("/tmp")
    (True, False, False)
    """
    return name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists()


def shown_name(name: str) -> str:
    """How results and cards call a `--dataset`: a folder by `./` and its last part alone, others as they are."""
    return f"./{Path(name).absolute().name}" if Path(name).is_dir() and name not in list_corpora() else name


def corpus_class(name: str) -> type[SpeechCorpus]:
    """The `SpeechCorpus` subclass of a corpus, or one made for a folder with a `metadata.csv`.

    Raises:
        SerError: no such corpus; the message suggests the nearest name.
    """
    if name not in list_corpora() and ("/" in name or Path(name).is_dir()):
        return folder_corpus(Path(name).expanduser())
    if name not in list_corpora():
        near = get_close_matches(name, list_corpora(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SerError(f"unknown dataset {name!r}: {hint}the corpora are {', '.join(list_corpora())}")
    module = importlib.import_module(f"ser_hf.loading_scripts.{name}")
    classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, SpeechCorpus)]
    return next(c for c in classes if c.__module__ == module.__name__)


def label_config(name: str, labels: str | None = None) -> LabelConfig:
    """A label configuration of a corpus, the default one if `labels` is None.

    Raises:
        SerError: the corpus has no such label set.
    """
    corpus = corpus_class(name)
    configs = {config.name: config for config in corpus.BUILDER_CONFIGS}
    labels = labels or corpus.DEFAULT_CONFIG_NAME
    if labels not in configs:
        raise SerError(f"{name} has no label set {labels!r}: choose one of {', '.join(configs)}")
    return configs[labels]


def find_corpus(name: str, data_dir: str | Path | None = None) -> Path:
    """The corpus's root: at or below `data_dir`, else under `$SER_DATA_DIR`. Always absolute.

    Raises:
        SerError: not there; says where the corpus comes from and what its folder must look like.
    """
    corpus = corpus_class(name)
    if data_dir is None and (generated := corpus.generate()):
        return generated
    if data_dir is not None:
        given = Path(data_dir).expanduser().absolute()
        places = [given, *(given / folder for folder in dict.fromkeys((name, *corpus.CARD.folders)))]
        if not places[0].is_dir():
            raise SerError(f"--data_dir {data_dir}: no such folder; give the folder that holds {corpus.CARD.title}")
    else:
        base = os.environ.get("SER_DATA_DIR")
        folders = dict.fromkeys((name, *corpus.CARD.folders)) if base else ()
        places = [Path(base).expanduser().absolute() / folder for folder in folders]
    for place in places:
        found = corpus.root(place) if place.is_dir() else None
        if found is not None:
            return found
    where = f"{data_dir} is not {name}" if data_dir is not None else f"{name} is not on this machine"
    looked = f"looked in {', '.join(map(str, places))}; " if places and data_dir is None else ""
    hint = "" if places else "neither --data_dir nor $SER_DATA_DIR is set; "
    layout = " | ".join(line.strip() for line in corpus.CARD.layout.strip().splitlines())
    raise SerError(f"{where}: {looked}{hint}{corpus.CARD.how_to_get} The folder must hold: {layout}")


def fingerprint(root: Path, corpus: type[SpeechCorpus]) -> str:
    """Changes when a file under `root` (path, size, time of change) or the loading script does. For the cache key,
    because `datasets` keys builder caches by neither (shared/PLATFORM.md 4.1)."""
    code = "".join(inspect.getsource(inspect.getmodule(thing)) for thing in (corpus, SpeechCorpus, scan, features))
    digest = xxhash.xxh3_64((__version__ + code).encode())
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for file in sorted(files):
            path = Path(folder, file)
            if path.exists():  # a dangling link is not a file of the corpus
                state = path.stat()
                digest.update(f"{path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def load_corpus(
    name: str,
    labels: str | None = None,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    strict: bool = False,
    return_report: bool = False,
) -> datasets.Dataset | tuple[datasets.Dataset, CorpusReport]:
    """Load a corpus as one `datasets.Dataset` with the columns of `schema.COLUMNS`; folds are `protocols.split`'s.

    The first call reads every clip once (duration, hash, is it usable); later calls read the cache, which is renewed
    when a file or the loading script changes. Utterances outside the label set and unusable clips are left out and
    reported.

    Args:
        name: A corpus of `list_corpora()`, a folder with a `metadata.csv`, or a dataset on the Hub (`user/name`).
        labels: Label configuration; the corpus's default if None.
        data_dir: The corpus's folder; else it is looked for under `$SER_DATA_DIR`.
        cache_dir: Where the built table is kept; `datasets`' own cache if None.
        num_proc: Processes that scan; worth it from about ten thousand clips.
        strict: Make missing, surplus or unusable utterances an error.
        return_report: Also return the `CorpusReport`.

    Raises:
        SerError: unknown corpus or label set, corpus not found, or (`strict`) not complete.
    """
    if is_hub_name(name):
        usable, report = load_hub(name, labels)
        return (usable, report) if return_report else usable
    config = label_config(name, labels)
    corpus, root = corpus_class(name), find_corpus(name, data_dir)
    builder = corpus(
        cache_dir=cache_dir,
        config_name=config.name,
        data_dir=str(root),
        dataset_name=Path(name).name,
        hash=fingerprint(root, corpus),
    )
    builder.download_and_prepare(num_proc=num_proc, verification_mode="no_checks")
    everything = builder.as_dataset(split="train")
    usable, report = select_usable(everything, shown_name(name), config, corpus.CARD, root)
    for line in report.lines():
        logger.info(line)
    if strict and (report.missing or report.problems):
        raise SerError(f"--strict: {'; '.join(line.strip() for line in report.lines()[1:])}")
    if not len(usable):
        why = "; ".join(line.strip() for line in report.lines()[1:])
        raise SerError(f"{root}: no usable utterance of {name} ({config.name}); {why}")
    return (usable, report) if return_report else usable
