"""The builder base that every loading script subclasses, and the report on what it found.

A loading script (`loading_scripts/<corpus>.py`) is one `SpeechCorpus` subclass: a card, label configurations, `root`
(is this folder the corpus?) and `utterances` (one dict an utterance).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import pyarrow as pa

from ..errors import SerError
from .audio import AudioError, cut, scan
from .schema import COLUMNS, CorpusCard, LabelConfig, features

# Rows carry why they cannot be used through the cache, so that a second run reports what the first one found.
PROBLEM = "problem"


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
            features=datasets.Features({**columns, PROBLEM: datasets.Value("string")}),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        root = Path(self.config.data_dir)
        if not (rows := self.utterances(root)):
            raise SerError(f"{root}: no usable utterance of {self.dataset_name}: no file's name fits the corpus")
        return [datasets.SplitGenerator(name="train", gen_kwargs={"rows": rows})]  # a list: num_proc shards it

    def _generate_tables(self, rows: list[dict]):
        schema = self.info.features.arrow_schema
        with ThreadPoolExecutor(max_workers=2) as pool:  # reading files overlaps hashing; libsndfile frees the GIL
            for first in range(0, len(rows), 256):
                block = rows[first : first + 256]
                scans = list(pool.map(scan_row, block))
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


def scan_row(row: dict) -> dict:
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
    card: CorpusCard | None = None

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
        """For JSON; without the card, whose facts results quote by name."""
        return {**{name: value for name, value in asdict(self).items() if name != "card"}, "missing": self.missing}


def select_usable(
    everything: datasets.Dataset, name: str, config: LabelConfig, card: CorpusCard, root: Path
) -> tuple[datasets.Dataset, CorpusReport]:
    """Usable rows that carry a label, and the report on all others."""
    table = everything.with_format("arrow")[:]
    # Relative to the corpus: these lines go into results and cards, which name no folder of this machine.
    problems = [text and text.replace(f"{root}/", "") for text in table[PROBLEM].to_pylist()]
    labels = table["label"].to_pylist()
    keep = [i for i, problem in enumerate(problems) if problem is None and labels[i] is not None]
    usable = everything.select(keep).remove_columns(PROBLEM)
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
        card=card,
        problems=[p for p, label in zip(problems, labels, strict=True) if p is not None and label is not None],
    )
    return usable, report
