"""Names of columns: the flags that give them, those that are found without, and what a row is called by."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SerError

if TYPE_CHECKING:
    from datasets import Dataset


def flag(default: Any, help: str, **limits: Any) -> Any:
    """A field of a dataclass that is a flag of the command line; its annotation is the flag's type.

    Limits are `choices`, a range (`least` and `most` include the end, `above` and `below` exclude it), and `only_with`
    `(flag, values)`: allowed only if the other flag has one of the values; `()` means that it is set.
    """
    value = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**value, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Columns:
    """Columns of a folder or Hub dataset of your own; well-known names are found."""

    audio_column: str | None = flag(None, "Column of file names, or of audio.")
    label_column: str | None = flag(None, "Column of the label; of class folders: folder1, folder2, ... from the top.")
    label_columns: list[str] | None = flag(None, "Several columns of 0 and 1 (several labels), of values, or of votes.")
    text_column: str | None = flag(None, "Column of the transcript.")
    speaker_column: str | None = flag(None, "Column of the speaker.")
    split_column: str | None = flag(None, "Column of train, validation and test, or of folds: the protocol `official`.")
    start_column: str | None = flag(None, "Column of the segment's start in its file, in seconds.")
    end_column: str | None = flag(None, "Column of its end.")
    id_column: str | None = flag(None, "Column of the utterance's id.")
    group_column: str | None = flag(None, "Column of what stays on one side of every split, beside speakers.")
    group_by: str | None = flag(None, "folder: the files of one folder stay on one side.", choices=("folder",))
    streaming: bool = flag(False, "Hub: read rows in a stream into the corpus, without the cache of `datasets`.")
    min_per_class: int = flag(2, "Warn of classes of fewer speakers (utterances where they are unknown).", least=1)

    def named(self) -> dict[str, str | None]:
        """The columns that flags name, by their use in `KNOWN`."""
        return {
            "audio": self.audio_column,
            "label": self.label_column,
            "text": self.text_column,
            "speaker": self.speaker_column,
            "split": self.split_column,
            "start": self.start_column,
            "end": self.end_column,
            "id": self.id_column,
        }

    def given(self) -> list[str]:
        """The flags that are set, as they are typed."""
        return [f"--{entry.name}" for entry in fields(self) if getattr(self, entry.name) != entry.default]


WELL_KNOWN = Columns()  # no flag: all columns are found by their names

# What a column is for, and the names it is found by; the first is the one that needs no remark.
KNOWN = {
    "audio": (
        *("file_name", "audio", "file", "path", "filename", "filepath", "file_path", "audio_path", "audio_file"),
        *("audio_filepath", "wav", "wav_path", "wav_file", "clip", "recording"),
    ),
    "label": ("label", "emotion", "labels", "emotions", "emotion_label", "class", "category", "sentiment", "target"),
    "text": ("text", "transcript", "transcription", "sentence", "transcriptions", "normalized_text"),
    "speaker": (
        *("speaker", "speaker_id", "speakerid", "spk", "spk_id", "client_id", "actor", "actor_id", "subject"),
        *("subject_id", "participant", "participant_id"),
    ),
    "split": ("split", "partition", "subset", "fold", "set"),
    "start": ("start", "start_time", "begin", "onset", "start_s", "start_seconds"),
    "end": ("end", "end_time", "stop", "end_s", "end_seconds"),
    "id": ("id", "utterance_id", "utt_id", "segment_id", "clip_id"),
}
VAGUE = ("set", "subset")  # names of columns of splits, but of much else too: only with the words of `SPLITS`
SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def plain(name: object) -> str:
    """A column's name for comparison.

    >>> plain(" File-Name ")
    'file_name'
    """
    return re.sub(r"[\s-]+", "_", str(name).strip()).casefold()


def find_columns(
    names: Sequence[str], columns: Columns, where: str, others: Sequence[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """The column of each use in `KNOWN`, by the flags or by a well-known name that is none of `others`, and a remark on
    those found under another name than the first. SerError: a flag names a column that is not there."""
    found, assumed = {}, []
    by_plain = {plain(name): name for name in reversed(names) if name not in others}
    for use, known in KNOWN.items():
        if columns.named()[use] is not None:
            found[use] = existing(columns.named()[use], names, f"--{use}_column", where)
        elif use == "label" and columns.label_columns:
            continue
        elif name := next((by_plain[name] for name in known if name in by_plain), None):
            if name not in found.values():
                found[use] = name
                if name not in (known[0], use):
                    assumed.append(f"{use} = `{name}`")
    return found, [f"columns of {Path(where).name}: {', '.join(assumed)}"] if assumed else []


def select_present(rows: "Dataset", names: Iterable[str]) -> "Dataset":
    """The rows with those of the named columns that they have."""
    return rows.select_columns([name for name in names if name in rows.column_names])


def existing(name: str, names: Sequence[str], flag: str, where: str) -> str:
    """The column of that name, in whatever spelling. SerError, with the nearest name, if there is none."""
    if name in names:
        return name
    if match := next((other for other in names if plain(other) == plain(name)), None):
        return match
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise SerError(f"{flag} {name}: no such column in {where}; {hint}it has {', '.join(names)}")
