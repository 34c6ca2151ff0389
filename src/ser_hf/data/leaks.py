"""The check that train, validation and test share no speaker and no clip; it runs in every recipe."""

import re
from dataclasses import dataclass, field
from itertools import combinations

from datasets import DatasetDict

from ..errors import SerError

# What differs between copies of a tweet: web addresses, the people it is sent to, and the mark of a copy in front.
CHANGING = re.compile(r"(?:https?://|www\.)\S*|@\w+")
COPY = re.compile(r"^\W*rt\b")


def text_key(text: str) -> str:
    """What makes two texts the same: their words, whatever the case, punctuation, web addresses, @names, and the RT of
    a copied tweet. A text without a word is itself.

    >>> text_key("RT @museum: Tea &  cake! http://t.co/x"), text_key("tea, cake"), text_key("@museum :)")
    ('tea cake', 'tea cake', '@museum :)')
    """
    words = re.findall(r"\w+", COPY.sub("", CHANGING.sub(" ", text.lower())))
    return " ".join(words) or " ".join(text.lower().split())


@dataclass
class Leak:
    """What two parts share. Empty lists mean that nothing does."""

    parts: tuple[str, str]
    speakers: list[str] = field(default_factory=list)
    clips: list[tuple[str, str]] = field(default_factory=list)


def find_leaks(splits: DatasetDict) -> list[Leak]:
    """Speakers and identical clips that any two parts share."""
    leaks = []
    for first, second in combinations([part for part in splits if len(splits[part])], 2):
        a, b = splits[first], splits[second]
        speakers = sorted((set(a["speaker"]) & set(b["speaker"])) - {None})
        ids = dict(zip(a["audio_hash"], a["id"], strict=True))
        clips = [(ids[h], i) for h, i in zip(b["audio_hash"], b["id"], strict=True) if h is not None and h in ids]
        if speakers or clips:
            leaks.append(Leak((first, second), speakers, clips))
    return leaks


def check_disjoint(splits: DatasetDict, speaker_independent: bool = True, validation: str | tuple = "carve") -> None:
    """Stop when two parts share a speaker (unless the protocol says that it leaks) or an identical clip.

    Args:
        splits: The parts.
        speaker_independent: The protocol's; False allows shared speakers, never shared clips.
        validation: The protocol's; `texts` allows train and validation to share speakers.

    Raises:
        SerError: names the parts and what they share.
    """
    for leak in find_leaks(splits):
        pair = " and ".join(leak.parts)
        if leak.clips:
            raise SerError(f"leak: {pair} share {len(leak.clips)} identical clips, first {' = '.join(leak.clips[0])}")
        only_validation = validation == "texts" and leak.parts == ("train", "validation")
        if leak.speakers and speaker_independent and not only_validation:
            raise SerError(f"leak: {pair} share the speakers {', '.join(leak.speakers)}")
