"""Transcripts for a text model: cleaned, tokenised with their lengths known, padded to the longest of a batch."""

import logging
from collections.abc import Sequence

import torch
from datasets import Dataset, DatasetDict

from .errors import SerError
from .leaks import text_key
from .models.text_cleaning import clean_text

logger = logging.getLogger(__name__)


def with_text(dataset: Dataset, cleaning: str) -> tuple[Dataset, list[str]]:
    """The utterances that have a text, cleaned, without their audio; and the ids of those that have none.

    Args:
        dataset: A corpus, or a part of one.
        cleaning: `none`, `unicode` or `words`, as in `models.text_cleaning`.
    """
    texts = [clean_text(text, cleaning).strip() for text in dataset["text"]]
    kept = [row for row, text in enumerate(texts) if text]
    left_out = [name for name, text in zip(dataset["id"], texts, strict=True) if not text]
    dataset = dataset.remove_columns([c for c in ("audio", "text") if c in dataset.column_names]).select(kept)
    return dataset.add_column("text", [texts[row] for row in kept]), left_out


def prepare_texts(splits: DatasetDict, cleaning: str) -> tuple[DatasetDict, list[str]]:
    """All parts by `with_text`, and what must be said of the texts: how many are missing, how many repeat in train.

    Raises:
        SerError: train or test has no text at all.
    """
    parts, missing = {}, {}
    for part, rows in splits.items():
        parts[part], left_out = with_text(rows, cleaning)
        if left_out:
            missing[part] = len(left_out)
        if not len(parts[part]) and (len(rows) or part != "validation"):
            raise SerError(f"no utterance of {part} has a text: a text recipe needs a corpus with transcripts")
    lines = []
    if missing:
        counts = ", ".join(f"{part} {count}" for part, count in missing.items())
        lines.append(f"{sum(missing.values())} utterances have no text and are left out ({counts})")
    if shared := shared_texts(parts):
        lines.append(
            f"the texts of {shared} of {len(parts['test'])} test utterances also occur in train (case, punctuation, "
            "web addresses and @names aside)"
        )
    return DatasetDict(parts), lines


def shared_texts(splits) -> int:
    """How many test utterances have a text that also occurs in train: scripted corpora repeat their sentences."""
    known = {text_key(text) for text in splits["train"]["text"]}
    return sum(text_key(text) in known for text in splits["test"]["text"])


def tokenize(dataset: Dataset, tokenizer, max_length: int) -> Dataset:
    """Add `input_ids`, `tokens` (their number, by which batches are made) and, where the tokenizer makes them,
    `token_type_ids`.

    Args:
        dataset: With a column `text`, never null.
        tokenizer: Of the model.
        max_length: Longest text in tokens, special ones included; the rest is cut off.
    """
    if not len(dataset):
        return dataset
    encoded = tokenizer(list(dataset["text"]), truncation=True, max_length=max_length, return_attention_mask=False)
    for name in ("input_ids", "token_type_ids"):
        if name in encoded:
            dataset = dataset.add_column(name, encoded[name])
    return dataset.add_column("tokens", [len(ids) for ids in encoded["input_ids"]])


class TextCollator:
    """Pads the texts of a batch to its longest; a class because workers must pickle it.

    Args:
        tokenizer: Knows what is padded with, and on which side.
        model: Whose `forward` says whether it takes `token_type_ids`.
    """

    columns = ("id", "input_ids", "token_type_ids", "label")  # what is read of a row, where it is there

    def __init__(self, tokenizer, model):
        import inspect

        self.tokenizer = tokenizer
        self.types = "token_type_ids" in inspect.signature(model.forward).parameters

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (1 = real token), `token_type_ids` `(batch, tokens)`, and `labels`."""
        names = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]
        batch = self.tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")
        inputs = {name: value for name, value in batch.items() if name != "token_type_ids" or self.types}
        return {**inputs, "labels": torch.tensor([row["label"] for row in rows])}


def train_tokenizer(texts: Sequence[str], config, vocab_size: int):
    """A tokenizer of the model type's own kind (BERT: WordPiece), with a vocabulary from these texts alone.

    Args:
        texts: Of train.
        config: The model's configuration, whose type decides; its vocabulary size and special tokens are set.
        vocab_size: At most so many tokens.

    Raises:
        SerError: this model type has no tokenizer that can be trained.
    """
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    try:
        untrained = TOKENIZER_MAPPING[type(config)]()
        tokenizer = untrained.train_new_from_iterator([list(texts)], vocab_size, show_progress=False)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise SerError(
            f"--model_type {config.model_type}: it has no tokenizer that can be trained here; choose bert, roberta or "
            "distilbert, or give a checkpoint by --model_name_or_path"
        ) from None
    config.vocab_size = len(tokenizer)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        if getattr(config, name, None) is not None:
            setattr(config, name, getattr(tokenizer, name))
    return tokenizer
