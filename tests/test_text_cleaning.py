"""Cleaning of transcripts, by hand.

python -m pytest tests/test_text_cleaning.py
"""

import pytest

from ser_hf.models.text_cleaning import TEXT_CLEANING, clean_text

CASES = {  # as written: (unicode, words)
    "": ("", ""),
    "Hello there.": ("Hello there.", "hello there"),
    "  two \t lines\r\nin one ": ("two lines in one", "two lines in one"),
    "It\u2019s \u201cfine\u201d \u2013 really\u2014so": ("It's \"fine\" - really-so", "it's fine really so"),
    "rock 'n' roll, boys' '90s o'clock": ("rock 'n' roll, boys' '90s o'clock", "rock n roll boys 90s o'clock"),
    "\uff28\uff45\uff4c\uff4c\uff4f \ufb01ne \u2026": ("Hello fine ...", "hello fine"),
    "[LAUGHTER]": ("", ""),
    "Oh. [BREATHING] No [LIP_SMACK] ++GARBAGE++ way": ("Oh. No way", "oh no way"),
    "as he says [sic] [to Mary]": ("as he says [sic] [to Mary]", "as he says sic to mary"),
    "zero\u200bwidth \ufeffBOM so\u00adft \x07bell": ("zerowidth BOM soft bell", "zerowidth bom soft bell"),
    "fish &amp; chips": ("fish &amp; chips", "fish amp chips"),
    "caf\u0065\u0301": ("caf\u00e9", "caf\u00e9"),
    "C\u00b4est": ("C'est", "c'est"),
    "\u00a1Qu\u00e9 \u00bfs\u00ed? \u00abnon\u00bb": ('\u00a1Qu\u00e9 \u00bfs\u00ed? "non"', "qu\u00e9 s\u00ed non"),
    "\u0924\u0947\u0964": ("\u0924\u0947\u0964", "\u0924\u0947"),  # a vowel sign is no punctuation
    "great \U0001f600!!": ("great \U0001f600!!", "great \U0001f600"),
    "\U0001f469\u200d\U0001f4bb": ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
    "well-known e-mail": ("well-known e-mail", "well known e mail"),
}  # fmt: skip


@pytest.mark.parametrize("text", CASES)
def test_by_hand(text):
    assert clean_text(text, "none") == text
    assert (clean_text(text, "unicode"), clean_text(text, "words")) == CASES[text]


@pytest.mark.parametrize("how", TEXT_CLEANING)
def test_cleaning_twice_is_cleaning_once(how):
    for text in CASES:
        once = clean_text(text, how)
        assert clean_text(once, how) == once
    assert clean_text(None, how) == ""


def test_unknown_cleaning():
    with pytest.raises(ValueError, match="text_cleaning 'all': choose one of none, unicode, words"):
        clean_text("a", "all")
