"""Corpora by name: `find_source` resolves a name once, `load` builds its dataset, `load_corpus` does both."""

import importlib
import inspect
import os
import pkgutil
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ..errors import SerError
from .audio import scan
from .cache import MODELS, source_hash
from .columns import WELL_KNOWN, Columns
from .corpus import PROBLEM, CorpusReport, Protocol, SpeechCorpus
from .schema import LABEL_SETS, LabelConfig, features
from .sources import folder_corpus, hub_corpus, own_protocols

logger = datasets.logging.get_logger(__name__)


@dataclass(frozen=True)
class Source:
    """A resolved `--dataset`: nothing is loaded yet, and nothing about it has to be looked up again."""

    name: str  # as the user wrote it
    shown: str  # in results and cards: a folder by `./` and its last part alone, others as they are
    corpus: type[SpeechCorpus]
    config: LabelConfig
    protocol: Protocol
    root: Path | None  # the corpus's folder, absolute; None for a dataset on the Hub

    @property
    def stem(self) -> str:
        """The name as a part of file names: `our_calls` of `/data/our_calls`, `you_corpus` of `you/corpus`."""
        return re.sub(r"[^\w.-]+", "_", self.shown.removeprefix("./"))


def list_corpora() -> list[str]:
    """Names of all corpora: the files of `loading_scripts/`."""
    package = importlib.import_module("ser_hf.loading_scripts")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_")


def corpus_class(name: str) -> type[SpeechCorpus]:
    """The `SpeechCorpus` subclass of a loading script. SerError: no such corpus; suggests the nearest name."""
    if name not in list_corpora():
        near = get_close_matches(name.lower(), list_corpora(), n=1, cutoff=0.8)
        near = near or get_close_matches(name, os.listdir(), n=1, cutoff=0.8)
        near = near or get_close_matches(name.lower(), list_corpora(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(list_corpora())
        raise SerError(f"unknown dataset {name!r}: {hint}the corpora are {known}; no folder or file has that name")
    module = importlib.import_module(f"ser_hf.loading_scripts.{name}")
    classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, SpeechCorpus)]
    return next(c for c in classes if c.__module__ == module.__name__)


def find_protocol(corpus: str, name: str | None = None, dataset: datasets.Dataset | None = None) -> Protocol:
    """A protocol of a corpus, or of own data by its columns; the default if `name` is None. SerError: no such one."""
    if corpus in list_corpora() or dataset is None:
        choices = (corpus_class(corpus) if corpus in list_corpora() else SpeechCorpus).protocols()
    else:
        columns = ("split", "speaker", "group")
        choices = own_protocols(*(dataset[name][:] if name in dataset.column_names else None for name in columns))
    return _choose(choices, name, f"{corpus} has no protocol")


def _choose(choices: dict, name: str | None, mistake: str) -> Any:
    """The choice of that name, the first one if `name` is None."""
    if name is not None and name not in choices:
        raise SerError(f"{mistake} {name!r}: choose one of {', '.join(choices)}")
    return choices[next(iter(choices)) if name is None else name]


def is_own(name: str) -> bool:
    """Whether a `--dataset` value is a folder, a table or a dataset on the Hub, and no corpus of `list_corpora()`."""
    return name not in list_corpora() and ("/" in name or os.path.exists(name))


def find_source(
    name: str,
    labels: str | None = None,
    data_dir: str | Path | None = None,
    protocol: str | None = None,
    columns: Columns = WELL_KNOWN,
) -> Source:
    """Resolve the name of a corpus, its label set and protocol (the default ones if None) and its folder. SerError:
    unknown corpus, label set or protocol, or the corpus is not there.

    Args:
        name: A corpus of `list_corpora()`; a folder or a table of one's own; or a dataset on the Hub (`user/name`),
            which is downloaded, or streamed, on first use. The label sets of the latter are in their data.
        labels: Label configuration; on the Hub the dataset's configuration.
        data_dir: The corpus's folder, or one above it; else it is searched under `$SER_DATA_DIR`.
        columns: Names of columns of one's own data, where they are not found.
    """
    folder, on_hub = Path(name).expanduser().absolute(), False
    if not is_own(name):
        shown, corpus = name, corpus_class(name)
        if given := columns.given():
            raise SerError(f"{given[0]}: does nothing for {name}, whose loading script knows its columns; leave it out")
    elif data_dir is not None:
        raise SerError(f"--data_dir {data_dir}: --dataset {name} already says where the data is; leave --data_dir out")
    elif on_hub := bool(re.fullmatch(r"[^/.~][^/]*/[^/]+", name)) and not os.path.exists(name):
        shown, corpus = name, hub_corpus(name, labels, columns)
    else:
        shown, corpus = f"./{folder.name}", folder_corpus(folder, columns)
    if labels in LABEL_SETS and not is_own(name):
        corpus = with_shared_labels(corpus, labels)
    configs = {config.name: config for config in corpus.BUILDER_CONFIGS}
    config = _choose(configs, labels or corpus.DEFAULT_CONFIG_NAME, f"{name} has no label set")
    chosen = _choose(corpus.protocols(), protocol, f"{name} has no protocol")
    return Source(name, shown, corpus, config, chosen, None if on_hub else _find_root(corpus, name, data_dir))


def with_shared_labels(corpus: type[SpeechCorpus], name: str) -> type[SpeechCorpus]:
    """The corpus with the label set of `LABEL_SETS` of that name, if it has none of its own and two of the labels: of
    RAVDESS's eight emotions `4class` takes four."""
    mapping, configs = LABEL_SETS[name], corpus.BUILDER_CONFIGS
    of_words = [config for config in configs if config.label_map]
    most = max(of_words, key=lambda config: len(mapping.keys() & config.label_map.keys()), default=None)
    words = [word for word in most.label_map if word in mapping] if most else []
    if name in {config.name for config in configs} or len({mapping[word] for word in words}) < 2:
        return corpus
    counts = {}  # the official ones are by label: known where a word is its own label
    for word in words:
        counts[mapping[word]] = counts.get(mapping[word], 0) + most.counts.get(word, 0)
    label_map, counts = {word: mapping[word] for word in words}, counts if any(counts.values()) else {}
    config = LabelConfig(name, version=most.version, label_map=label_map, counts=counts)
    changes = {"BUILDER_CONFIGS": [*configs, config], "__module__": corpus.__module__}
    return type(corpus)(corpus.__name__, (corpus,), changes)


def _find_root(corpus: type[SpeechCorpus], name: str, data_dir: str | Path | None) -> Path:
    if data_dir is None and (root := corpus.generate()):
        return root
    places = []
    if above := data_dir if data_dir is not None else os.environ.get("SER_DATA_DIR"):
        base = Path(above).expanduser().absolute()
        if data_dir is not None and not base.is_dir():
            raise SerError(f"--data_dir {data_dir}: no such folder; give the folder that holds {corpus.CARD.title}")
        folders = dict.fromkeys((name, *corpus.CARD.folders))
        places = [*([base] if data_dir is not None else []), *(base / folder for folder in folders)]
    for place in places:
        if place.is_dir() and (root := corpus.root(place)):
            return root
    where = f"{data_dir} is not {name}" if data_dir is not None else f"{name} is not on this machine"
    looked = f"looked in {', '.join(map(str, places))}; " if places and data_dir is None else ""
    hint = "" if places else "neither --data_dir nor $SER_DATA_DIR is set; "
    layout = " | ".join(line.strip() for line in corpus.CARD.layout.strip().splitlines())
    raise SerError(f"{where}: {looked}{hint}{corpus.CARD.how_to_get} The folder must hold: {layout}")


def fingerprint(source: Source) -> str:
    """A hash of the corpus's content and of the code that reads it; `datasets` keys a builder's cache by neither."""
    files = [inspect.getfile(thing) for thing in (source.corpus, SpeechCorpus, scan, features)]
    digest = xxhash.xxh3_64(source_hash(*files, MODELS / "audio_blocks.py").encode())
    for line in source.corpus.state(source.root):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def select_usable(everything: datasets.Dataset, source: Source) -> tuple[datasets.Dataset, CorpusReport]:
    """The usable rows with a label, without the builder's column `problem`, and the report on all rows."""
    config, card = source.config, source.corpus.CARD
    table = everything.with_format("arrow")[:]  # as it lies on the disk: nothing is made a Python object
    clean, labelled = table[PROBLEM].is_null(), table["label"].is_valid()
    mask = pc.and_(clean, labelled)
    usable = everything.select(np.flatnonzero(mask)).remove_columns(PROBLEM)
    per_label, outside = {}, pc.sum(pc.and_not(clean, labelled)).as_py() or 0
    if not config.targets:
        numbers = np.bincount(table["label"].filter(mask), minlength=len(config.label_names)).tolist()
        per_label = dict(zip(config.label_names, numbers, strict=True))
    report = CorpusReport(
        corpus=source.shown,
        labels=config.name,
        label_names=config.label_names,
        problem_type=config.problem_type,
        utterances=len(usable),
        # Without published counts of a label set, utterances outside it cannot be told from missing ones.
        official=sum(config.counts.values()) or card.utterances - outside,
        hours=round((pc.sum(table["duration"].filter(mask)).as_py() or 0.0) / 3600, 4),
        speakers=pc.count_distinct(table["speaker"].filter(mask)).as_py(),
        per_label=per_label,
        official_per_label=dict(config.counts) if per_label else {},
        outside_labels=outside,
        problems=_problems(table.filter(pc.and_not(labelled, clean)), source.root),
        remarks=list(source.corpus.REMARKS),
        card=card,
    )
    return usable, report


def _problems(table: pa.Table, root: Path | None) -> list[str]:
    """What is wrong with each row. Its file is named relative to the corpus, one outside of it by the row's id: these
    lines go into results and cards, which name no folder of this machine."""
    lines = []
    for row in table.select(["id", "audio", PROBLEM]).to_pylist():
        file = (row["audio"] or {}).get("path") or ""
        text = row[PROBLEM].replace(f"{root}/", "")
        lines.append(text.replace(file, row["id"]) if os.path.isabs(file) else text)
    return lines


def load(
    source: Source, cache_dir: str | Path | None = None, num_proc: int | None = None, strict: bool = False
) -> tuple[datasets.Dataset, CorpusReport]:
    """Load a resolved corpus, as `load_corpus`."""
    builder = source.corpus(
        cache_dir=cache_dir,
        config_name=source.config.name,
        data_dir=source.root and str(source.root),
        dataset_name=source.stem,
        hash=fingerprint(source),
    )
    builder.download_and_prepare(num_proc=num_proc, verification_mode="no_checks")
    usable, report = select_usable(builder.as_dataset(split="train"), source)
    differences = "; ".join(line.strip() for line in report.lines()[1:]).replace(":;", ":")
    for line in report.lines():
        logger.info(line)
    if strict and (report.missing or report.problems):
        raise SerError(f"--strict: {differences}")
    if not len(usable):
        where = source.root or f"--dataset {source.name}"
        raise SerError(f"{where}: no usable utterance of {source.shown} ({source.config.name}); {differences}")
    ids = usable.select_columns("id").with_format("arrow")[:]["id"].value_counts()
    if len(ids) < len(usable):  # scores are gathered by id
        most = max(ids.to_pylist(), key=lambda one: one["counts"])
        most = f"{most['values']!r} occurs {most['counts']} times; give every utterance an id of its own"
        raise SerError(f"--dataset {source.name}: {len(usable)} utterances have only {len(ids)} ids, {most}")
    return usable, report


def load_corpus(
    name: str,
    labels: str | None = None,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    strict: bool = False,
    return_report: bool = False,
    **columns: str | int | list[str],
) -> datasets.Dataset | tuple[datasets.Dataset, CorpusReport]:
    """Load a corpus as one `datasets.Dataset` with the columns of `schema.COLUMNS`; `split` makes its folds.

    The first call reads every clip once (duration, hash, is it usable); later calls read the cache, which is renewed
    when a file or the loading script changes. Utterances outside the label set and unusable clips are left out and
    reported. SerError: as `find_source`; no usable utterance, repeated ids, or with `strict` not all official ones.

    Args:
        name, labels, data_dir: As in `find_source`.
        cache_dir: Folder of the cached table; `datasets`' own cache if None.
        num_proc: Processes that scan; worth it from about ten thousand clips.
        return_report: Also return the `CorpusReport`.
        columns: Fields of `Columns`, for one's own data: `label_column="mood"`.
    """
    usable, report = load(find_source(name, labels, data_dir, columns=Columns(**columns)), cache_dir, num_proc, strict)
    return (usable, report) if return_report else usable
