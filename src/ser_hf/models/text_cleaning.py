"""Cleaning of transcripts. Ships to the Hub."""

import re
import string
import unicodedata

from .common import check_choice

TEXT_CLEANING = ("none", "unicode", "words")
# Tags for sounds other than words: IEMOCAP's [LAUGHTER], [BREATHING], [GARBAGE] and, in its alignments,
# ++LAUGHTER++. Capitals only: "[sic]" and "[to Mary]" are not such tags.
NOISE = re.compile(r"\[[A-Z][A-Z _-]*\]|\+\+[A-Z_]+\+\+")
# Typographic forms that NFKC does not unify (and U+00B4, which it turns into a space with an accent).
ASCII = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a\u00b4\u02bc", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
JOINERS = "\u200c\u200d"  # invisible, but Persian, Indic scripts and compound emoji are spelled with them


CONTROL = re.compile(r"<\|[^<>|]*\|>")  # Whisper's <|endoftext|>, <|en|>, <|1.20|>: said by nobody


def without_control_tokens(text: str) -> str:
    """A recogniser's transcript without its control tokens.

    >>> without_control_tokens("<|startoftranscript|><|en|> No way!<|0.80|> <|endoftext|>")
    'No way!'
    """
    return " ".join(CONTROL.sub(" ", text).split())


def clean_text(text: str | None, how: str = "unicode") -> str:
    """A transcript as input of a tokenizer; "" where there is none or cleaning leaves nothing.

    `none` changes nothing. `unicode` is NFKC with typographic quotes and dashes as ASCII, without control characters
    and noise tags such as [LAUGHTER], white space collapsed; HTML entities stay. `words` is `unicode` in lower case
    without punctuation; an apostrophe inside a word stays. ValueError: no such `how`.

    >>> clean_text("\u201cI don\u2019t\u2026 know\u201d [LAUGHTER]")
    '"I don\\'t... know"'
    >>> clean_text("\u201cI don\u2019t\u2026 know\u201d [LAUGHTER]", "words")
    "i don't know"
    """
    check_choice("text_cleaning", how, TEXT_CLEANING)
    if text is None or how == "none":
        return text or ""
    text = unicodedata.normalize("NFKC", NOISE.sub(" ", text.translate(ASCII)))
    text = "".join(_visible(character) for character in text)
    if how == "words":
        around = f" {text.lower()} "
        text = "".join(" " if _is_punctuation(around, at) else around[at] for at in range(len(around)))
    return " ".join(text.split())


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc":
        return " "
    return "" if category == "Cf" and character not in JOINERS else character


def _is_punctuation(text: str, at: int) -> bool:
    if text[at] == "'" and text[at - 1].isalnum() and text[at + 1].isalnum():
        return False  # it's
    return text[at] in string.punctuation or unicodedata.category(text[at]).startswith("P")
