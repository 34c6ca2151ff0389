"""What a loading script builds on: the builder base, protocols as data, and the report on a loaded corpus."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa

from ..errors import SerError
from ..files import walk
from .audio import scan, segment
from .schema import COLUMNS, CorpusCard, LabelConfig, features

PROBLEM = "problem"  # column of the cached rows: why a clip is unusable, so that every run reports the same


@dataclass(frozen=True)
class Protocol:
    """One way to make folds. `by` is what is kept together and held out: a column (`speaker`, `session`, `split`),
    `prefix` (the first six letters of the id), `speakers-in-five`, `groups-in-five` (of speakers and what
    belongs together), `corpus` (all of it is tested), or `random` (clips; texts where there is no audio).
    `validation` is `carve` (whole speakers of train, or sessions where `by` is one), `partner` (the other speaker of
    the test speaker's session), `texts` (whole sentences, where one training speaker is left) or `by` values."""

    name: str  # value of `--protocol`
    source: str  # who uses it
    by: str = "speaker"
    folds: tuple[tuple[str, ...], ...] = ()  # test groups of `by` values; empty for one per value; `random` counts them
    validation: str | tuple[str, ...] = "carve"
    speaker_independent: bool = True  # False if it leaks speakers by construction, or they are unknown
    speakers_known: bool = True  # False if the corpus does not say who speaks
    hint: str = ""  # what to do where its parts share a speaker

    def __post_init__(self):  # from JSON these are lists
        object.__setattr__(self, "folds", tuple(map(tuple, self.folds)))
        if not isinstance(self.validation, str):
            object.__setattr__(self, "validation", tuple(self.validation))

    @property
    def warning(self) -> str:
        """The warning shown beside every figure of the protocol; empty if it is speaker-independent."""
        if self.speaker_independent:
            return ""
        return "LEAKS SPEAKERS" if self.speakers_known else "SPEAKERS UNKNOWN"


LEAVE_ONE_SPEAKER_OUT = Protocol("leave-one-speaker-out", "each speaker is the test set once")
SPEAKER_FOLDS = Protocol("speaker-folds", "five folds of whole speakers, of nearly equal size", by="speakers-in-five")
# Not of a corpus alone: `mixing.find_mixture` knows it.
CROSS_CORPUS = Protocol("cross-corpus", "trained on other corpora alone, every utterance is tested", by="corpus")
_random = partial(Protocol, by="random", speaker_independent=False)
_SHUFFLED = "utterances shuffled, 80/20: speakers are in train and test, only for comparison with papers that did so"
RANDOM = _random("random", _SHUFFLED, folds=((),) * 5)
EMOBOX_SIZES = _random(
    "random-75-25-leaks-speakers",
    "random 75/25, the sizes of EmoBox's only fold of this corpus (its file list is not shipped here); fold 0 of four",
    folds=((),) * 4,
)


def state_line(name: str | Path, state: os.stat_result) -> str:
    """One line that changes with a file: its name, size in bytes, times of change and number on the disk. A file that
    replaces another of equal size and age has another number; one that is overwritten has another `ctime`."""
    return f"{name} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}\n"


class SpeechCorpus(datasets.ArrowBasedBuilder):
    """Base of all corpora: scans every clip once (duration, audio hash, problems) and writes paths, not samples.
    A loading script is one subclass, which sets the constants and defines `root` and `utterances`."""

    BUILDER_CONFIG_CLASS = LabelConfig
    CARD: CorpusCard
    OPTIONAL: tuple[str, ...] = ()  # optional columns
    PROTOCOLS: tuple[Protocol, ...] = (SPEAKER_FOLDS, LEAVE_ONE_SPEAKER_OUT)  # the default first
    REMARKS: tuple[str, ...] = ()  # what the report also says: rows skipped, values not read

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        """The corpus's root at or below `folder` (users point one level too high or too deep), or None."""
        raise NotImplementedError

    @classmethod
    def generate(cls) -> Path | None:
        """The root of a corpus that needs no `--data_dir`: `demo` is made by the code, a user's folder is its own."""
        return None

    @classmethod
    def protocols(cls) -> dict[str, Protocol]:
        """Protocols by name, the default first; every corpus has `random`."""
        return {protocol.name: protocol for protocol in (*cls.PROTOCOLS, RANDOM)}

    @classmethod
    def state(cls, root: Path) -> Iterator[str]:
        """Lines that change with the corpus's content: `state_line` of every file."""
        for path, state in walk(root):
            yield state_line(str(path)[len(str(root)) + 1 :], state)

    def utterances(self, root: Path) -> list[dict]:
        """All utterances in a fixed order, one dict each: `id`; `audio` (a path, `{"bytes", "path"}`, or None in a
        corpus of texts); `emotion` (a word of `schema.EMOTIONS`, None where there is no single one); `text`; `speaker`;
        the optional columns; `scores` (`{target: value}`) for vector labels. `cut: True` cuts the audio from `start` to
        `end` seconds out of its recording; `problem` says why a clip is unusable, where the decoder cannot know."""
        raise NotImplementedError

    def with_audio(self, rows: list[dict]) -> list[dict]:
        """A block of rows with their `audio`, which a corpus whose audio is in no file reads here."""
        return rows

    def _info(self) -> datasets.DatasetInfo:
        columns = {**features(self.config, self.OPTIONAL), PROBLEM: datasets.Value("string")}
        card = {"citation": self.CARD.citation, "homepage": self.CARD.homepage, "license": self.CARD.licence}
        return datasets.DatasetInfo(description=self.CARD.title, features=datasets.Features(columns), **card)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        root = Path(self.config.data_dir or "")
        if not (rows := self.utterances(root)):
            raise SerError(f"{root}: no usable utterance of {self.dataset_name}: no file's name fits the corpus")
        return [datasets.SplitGenerator(name="train", gen_kwargs={"rows": rows})]  # a list: num_proc shards it

    def _generate_tables(self, rows: list[dict]):
        schema = self.info.features.arrow_schema
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:  # reading and decoding free the GIL
            for first in range(0, len(rows), 256):
                block = self.with_audio(rows[first : first + 256])
                parts = [block[start : start + 16] for start in range(0, len(block), 16)]
                scans = [result for results in pool.map(scan_rows, parts) for result in results]
                table = [self.columns(row, result) for row, result in zip(block, scans, strict=True)]
                yield first, pa.Table.from_pylist(table, schema=schema)

    def columns(self, row: dict, result: dict) -> dict:
        """A row of the table: an utterance and what `scan_row` returned for it."""
        audio = row["audio"]
        if audio and not isinstance(audio, dict):
            audio = {"bytes": None, "path": str(audio)}
        columns = {name: row.get(name) for name in (*COLUMNS, *self.OPTIONAL)}
        if self.config.targets:
            values = {**row, **row.get("scores", {})}
            vector = [values.get(target) for target in self.config.targets]
            label = None if None in vector else [float(value) for value in vector]
        else:
            word = self.config.label_map.get(row["emotion"])
            label = None if word is None else self.config.label_names.index(word)
        return {**columns, "audio": audio, "label": label, **result}


def scan_row(row: dict) -> dict:
    """`audio.scan` of a row's audio, and `audio` where it is a part of its recording."""
    if row.get("problem") or not row["audio"]:
        return {"problem": row.get("problem")}
    if not row.get("cut"):
        return scan(row["audio"])
    audio = {"bytes": None, "path": segment(row["audio"], row["start"], row["end"])}
    return {**scan(audio), "audio": audio}


def scan_rows(rows: list[dict]) -> list[dict]:
    """`scan_row` of each row: one task of a thread, which alone would cost a fifth of it."""
    return [scan_row(row) for row in rows]


@dataclass
class CorpusReport:
    """A loaded corpus against its official size, for every result and card: `outside_labels` counts utterances that the
    label set leaves out, `problems` are the unusable clips, `remarks` the builder's."""

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
    remarks: list[str] = field(default_factory=list)
    card: CorpusCard | None = None

    @property
    def missing(self) -> int:
        """Official minus loaded; negative if there are files that the official corpus does not have."""
        return self.official - self.utterances - len(self.problems)

    def lines(self) -> list[str]:
        """Report lines for the screen: a summary, then one line for each difference from the official corpus."""
        sizes = f"{self.utterances} utterances, {self.speakers} speakers, {self.hours:.2f} h"
        lines = [f"{self.corpus} ({self.labels}): {sizes}"]
        if self.missing > 0:
            lines.append(f"  {self.missing} of the {self.official} official utterances are missing")
        if self.missing < 0:
            lines.append(f"  {-self.missing} utterances more than the official {self.official}")
        if self.outside_labels:
            lines.append(f"  {self.outside_labels} utterances carry no label of {self.labels!r} and are left out")
        lines += [f"  {remark}" for remark in self.remarks]
        if self.problems:
            lines.append(f"  {len(self.problems)} clips cannot be used and are skipped:")
            lines += [f"    {problem}" for problem in self.problems[:5]]
            lines += [f"    ... and {len(self.problems) - 5} more"] if len(self.problems) > 5 else []
        return lines

    def as_dict(self) -> dict:
        """For JSON; without the card, from which results copy single facts."""
        return {**{name: value for name, value in asdict(self).items() if name != "card"}, "missing": self.missing}
