"""Corpora on disk as `datasets`: the builder base that every loading script subclasses, and `load_corpus`.

A loading script (`loading_scripts/<corpus>.py`) is one `SpeechCorpus` subclass: a card, label configurations, `root`
(is this folder the corpus?) and `utterances` (one dict an utterance). The folder is the registry: nothing lists it.
"""

import importlib
import inspect
import os
import pkgutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path

import datasets
import pyarrow as pa
import xxhash

from . import __version__
from .audio import AudioError, cut, scan
from .errors import SerError
from .schema import COLUMNS, CorpusCard, LabelConfig, features

logger = datasets.logging.get_logger(__name__)

# Rows carry why they cannot be used through the cache, so that a second run reports what the first one found.
_PROBLEM = "problem"


class SpeechCorpus(datasets.ArrowBasedBuilder):
    """Base of all corpora: scans every clip once (duration, audio hash, problems) and writes paths, never samples.

    Subclasses set `CARD`, `BUILDER_CONFIGS` (of `LabelConfig`), `DEFAULT_CONFIG_NAME`, `OPTIONAL` (their optional
    columns) and define `root` and `utterances`.
    """

    BUILDER_CONFIG_CLASS = LabelConfig
    CARD: CorpusCard
    OPTIONAL: tuple[str, ...] = ()

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        """The corpus's root at or below `folder` (users point one level too high or too deep), or None."""
        raise NotImplementedError

    @classmethod
    def generate(cls) -> Path | None:
        """For a corpus that the code makes itself (`demo`): makes it if need be and returns its root."""
        return None

    def utterances(self, root: Path) -> list[dict]:
        """All utterances in a fixed order, one dict each.

        `id`; `audio` (a path, `{"bytes", "path"}`, or None in a corpus of texts); `emotion` (a word of
        `schema.EMOTIONS`, None where there is no single one); `text`; `speaker`; the optional columns; `scores`
        (`{target: value}`) for vector labels. `cut: True` makes the audio `start` to `end` seconds of its recording;
        `problem` says why a clip cannot be used, where the loading script knows better than the decoder.
        """
        raise NotImplementedError

    def _info(self) -> datasets.DatasetInfo:
        columns = features(self.config, self.OPTIONAL)
        return datasets.DatasetInfo(
            description=self.CARD.title,
            citation=self.CARD.citation,
            homepage=self.CARD.homepage,
            license=self.CARD.licence,
            features=datasets.Features({**columns, _PROBLEM: datasets.Value("string")}),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        root = Path(self.config.data_dir)
        if not (rows := self.utterances(root)):
            raise SerError(f"{root}: no usable utterance of {self.dataset_name} ({self.config.name}): no file names fit")
        return [datasets.SplitGenerator(name="train", gen_kwargs={"rows": rows})]  # a list: num_proc shards it

    def _generate_tables(self, rows: list[dict]):
        schema = self.info.features.arrow_schema
        with ThreadPoolExecutor(max_workers=2) as pool:  # reading files overlaps hashing; libsndfile frees the GIL
            for first in range(0, len(rows), 256):
                block = rows[first : first + 256]
                scans = list(pool.map(_scan, block))
                table = [self._row(row, found) for row, found in zip(block, scans, strict=True)]
                yield first, pa.Table.from_pylist(table, schema=schema)

    def _row(self, row: dict, found: dict) -> dict:
        audio = row["audio"]
        if audio and not isinstance(audio, dict):
            audio = {"bytes": None, "path": str(audio)}
        out = {name: row.get(name) for name in (*COLUMNS, *self.OPTIONAL)}
        return {**out, "audio": audio, "label": self._label(row), **found}

    def _label(self, row: dict) -> int | list[float] | None:
        if self.config.targets:
            values = {**row, **row.get("scores", {})}
            vector = [values.get(target) for target in self.config.targets]
            return None if None in vector else [float(value) for value in vector]
        word = self.config.label_map.get(row["emotion"])
        return None if word is None else self.config.label_names.index(word)


def _scan(row: dict) -> dict:
    """`audio.scan` of a row, and its `audio` if it is to be cut: here, so that only a block at a time is in memory."""
    if row.get("problem") or not row["audio"]:
        return {"problem": row.get("problem")}
    if not row.get("cut"):
        return scan(row["audio"])
    try:
        audio = {"bytes": cut(row["audio"], row["start"], row["end"]), "path": f"{row['id']}.flac"}
    except AudioError as error:
        return {"problem": str(error)}
    return {**scan(audio), "audio": audio}


@dataclass
class CorpusReport:
    """What was found of a corpus, against what it officially holds. Written into every result and card.

    `outside_labels` counts utterances the label configuration leaves out; `problems` are the clips that cannot be
    used; `missing` is official minus found, so a negative number means files the official corpus does not have.
    """

    corpus: str
    labels: str
    label_names: list[str]
    problem_type: str
    utterances: int
    official: int
    hours: float
    speakers: int
    per_label: dict[str, int] = field(default_factory=dict)
    official_per_label: dict[str, int] = field(default_factory=dict)
    outside_labels: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        return self.official - self.utterances - len(self.problems)

    def lines(self) -> list[str]:
        """Report lines for the screen: one summary, then one for each thing that is not as it officially is."""
        lines = [
            f"{self.corpus} ({self.labels}): {self.utterances} utterances, {self.speakers} speakers, {self.hours:.2f} h"
        ]
        if self.missing > 0:
            lines.append(f"  {self.missing} of the {self.official} official utterances are missing")
        if self.missing < 0:
            lines.append(f"  {-self.missing} utterances more than the official {self.official}")
        if self.outside_labels:
            lines.append(f"  {self.outside_labels} utterances carry no label of {self.labels!r} and are left out")
        if self.problems:
            lines.append(f"  {len(self.problems)} clips cannot be used and are skipped:")
            lines += [f"    {problem}" for problem in self.problems[:5]]
            lines += [f"    ... and {len(self.problems) - 5} more"] if len(self.problems) > 5 else []
        return lines

    def as_dict(self) -> dict:
        return {**asdict(self), "missing": self.missing}


def list_corpora() -> list[str]:
    """Names of all corpora: the files of `loading_scripts/`.

    >>> "demo" in list_corpora()
    True
    """
    package = importlib.import_module("ser_hf.loading_scripts")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_")


def corpus_class(name: str) -> type[SpeechCorpus]:
    """The `SpeechCorpus` subclass of a corpus.

    Raises:
        SerError: no such corpus; the message suggests the nearest name.
    """
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
        places = [Path(data_dir).expanduser().absolute()]
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
        name: A corpus of `list_corpora()`.
        labels: Label configuration; the corpus's default if None.
        data_dir: The corpus's folder; else it is looked for under `$SER_DATA_DIR`.
        cache_dir: Where the built table is kept; `datasets`' own cache if None.
        num_proc: Processes that scan; worth it from about ten thousand clips.
        strict: Make missing, surplus or unusable utterances an error.
        return_report: Also return the `CorpusReport`.

    Raises:
        SerError: unknown corpus or label set, corpus not found, or (`strict`) not complete.
    """
    config = label_config(name, labels)
    corpus, root = corpus_class(name), find_corpus(name, data_dir)
    builder = corpus(
        cache_dir=cache_dir,
        config_name=config.name,
        data_dir=str(root),
        dataset_name=name,
        hash=fingerprint(root, corpus),
    )
    builder.download_and_prepare(num_proc=num_proc, verification_mode="no_checks")
    everything = builder.as_dataset(split="train")
    usable, report = _select(everything, name, config, corpus.CARD, root)
    for line in report.lines():
        logger.info(line)
    if strict and (report.missing or report.problems):
        raise SerError(f"--strict: {'; '.join(line.strip() for line in report.lines()[1:])}")
    if not len(usable):
        raise SerError(f"{root}: no usable utterance of {name} ({config.name}); {'; '.join(line.strip() for line in report.lines()[1:])}")
    return (usable, report) if return_report else usable


def _select(everything: datasets.Dataset, name: str, config: LabelConfig, card: CorpusCard, root: Path):
    """Usable rows that carry a label, and the report on all others."""
    table = everything.with_format("arrow")[:]
    # Relative to the corpus: these lines go into results and cards, which name no folder of this machine.
    problems = [text and text.replace(f"{root}/", "") for text in table[_PROBLEM].to_pylist()]
    labels = table["label"].to_pylist()
    keep = [i for i, problem in enumerate(problems) if problem is None and labels[i] is not None]
    usable = everything.select(keep).remove_columns(_PROBLEM)
    outside = sum(p is None and label is None for p, label in zip(problems, labels, strict=True))
    # Where nobody published counts for a label set, what lies outside it cannot be told from what is missing.
    official = sum(config.counts.values()) or card.utterances - outside
    per_label = {}
    if not config.targets:
        per_label = {word: sum(labels[i] == index for i in keep) for index, word in enumerate(config.label_names)}
    report = CorpusReport(
        corpus=name,
        labels=config.name,
        label_names=config.label_names,
        problem_type=config.problem_type,
        utterances=len(keep),
        official=official,
        hours=round(sum(d or 0.0 for d in usable["duration"]) / 3600, 4),
        speakers=len(set(usable["speaker"]) - {None}),
        per_label=per_label,
        official_per_label=dict(config.counts) if per_label else {},
        outside_labels=outside,
        problems=[p for p, label in zip(problems, labels, strict=True) if p is not None and label is not None],
    )
    return usable, report
