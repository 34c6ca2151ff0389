"""A text model and its inputs: transcripts that are cleaned, tokenised once and padded by batch."""

import copy
import inspect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, DatasetInfo, Features, List, Value
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.splits import text_key
from ..errors import SerError, one_line
from ..models.common import load_safetensors
from ..models.text_cleaning import clean_text
from .saved_model import check_labels, label_maps
from .settings import TextEncoderArguments

# Model types that number the positions of tokens from pad_token_id + 1: RoBERTa has 514 for 512 tokens.
COUNTS_FROM_PADDING = ("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert")
COUNTS_FROM_PADDING += ("data2vec-text", "ibert", "longformer", "luke", "mpnet")


def with_text(dataset: Dataset, cleaning: str) -> tuple[Dataset, list[str]]:
    """The utterances with a text, cleaned (`models.text_cleaning`) and without audio; and the ids of the others."""
    texts = [clean_text(text, cleaning).strip() for text in dataset["text"][:]]
    with_one = [row for row, text in enumerate(texts) if text]
    without = [name for name, text in zip(dataset["id"][:], texts, strict=True) if not text]
    dataset = dataset.remove_columns([c for c in ("audio", "text") if c in dataset.column_names]).select(with_one)
    return _with_columns(dataset, {"text": [texts[row] for row in with_one]}, Value("string")), without


def _with_columns(dataset: Dataset, columns: dict[str, list], kind: List | Value) -> Dataset:
    """`Dataset.add_column` would show a progress bar for each of the parts."""
    table = dataset.with_format("arrow")[:]
    features = Features({**dataset.features, **dict.fromkeys(columns, kind)})
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, features.arrow_schema.field(name).type))
    return Dataset(table.cast(features.arrow_schema), info=DatasetInfo(features=features))


def prepare_texts(splits: DatasetDict, cleaning: str) -> tuple[DatasetDict, list[str]]:
    """All parts by `with_text`, and remarks on texts that are missing or repeated. SerError: a part has no text."""
    parts, missing = {}, {}
    for part, rows in splits.items():
        parts[part], without = with_text(rows, cleaning)
        missing |= {part: len(without)} if without else {}
        if not len(parts[part]) and (len(rows) or part != "validation"):
            raise SerError(f"no utterance of {part} has a text: a text recipe needs a corpus with transcripts")
    counts = ", ".join(f"{part} {count}" for part, count in missing.items())
    lines = [f"{sum(missing.values())} utterances have no text and are left out ({counts})"] if missing else []
    if shared := shared_texts(parts):
        aside = "(case, punctuation, web addresses and @names aside)"
        lines.append(f"the texts of {shared} of {len(parts['test'])} test utterances also occur in train {aside}")
    return DatasetDict(parts), lines


def shared_texts(splits: Mapping[str, Dataset]) -> int:
    """The number of test utterances whose text also occurs in train: scripted corpora repeat their sentences."""
    trained = {text_key(text) for text in splits["train"]["text"][:]}
    return sum(text_key(text) in trained for text in splits["test"]["text"][:])


def tokenize(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DatasetDict:
    """Add `input_ids`, `tokens` (their number, the length for batches) and, where the tokenizer makes them,
    `token_type_ids` to parts whose `text` is never null. `max_length` tokens remain, special ones included."""
    cut, parts = {"truncation": True, "max_length": max_length, "return_attention_mask": False}, {}
    for part, rows in splits.items():
        encoded = tokenizer(rows["text"][:], **cut) if len(rows) else {"input_ids": []}
        rows = _with_columns(rows, dict(encoded), List(Value("int32")))
        parts[part] = _with_columns(rows, {"tokens": [len(ids) for ids in encoded["input_ids"]]}, Value("int32"))
    return DatasetDict(parts)


def text_remarks(test: Dataset, max_text_length: int, text_cleaning: str) -> list[str]:
    """Lines on truncated texts, and on the cleaning that users of the saved model must do."""
    cut = sum(count >= max_text_length for count in test["tokens"][:])
    lines = [f"{cut} of {len(test)} test texts fill the {max_text_length} tokens and may be truncated"] if cut else []
    if text_cleaning != "none":
        call = f"ser_hf.models.text_cleaning.clean_text(text, {text_cleaning!r})"
        lines.append(f"texts were cleaned by {call}, pipelines do not")
    return lines


class TextCollator:
    """Pads texts to the batch's longest, with `token_type_ids` if the model takes them; a class: workers pickle it."""

    columns = ("id", "input_ids", "token_type_ids", "label")

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel):
        self.tokenizer = tokenizer
        self.types = "token_type_ids" in inspect.signature(model.forward).parameters

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (1 = real token), `token_type_ids` `(batch, tokens)`, and `labels`."""
        names = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]
        batch = self.tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")
        inputs = {name: value for name, value in batch.items() if name != "token_type_ids" or self.types}
        return {**inputs, "labels": torch.tensor([row["label"] for row in rows])}


def train_tokenizer(texts: Sequence[str], config: PreTrainedConfig, vocab_size: int) -> tuple[PreTrainedConfig, Any]:
    """A tokenizer of the model type's own kind (BERT: WordPiece, RoBERTa: byte-level BPE), with a vocabulary of at most
    `vocab_size` tokens from these texts alone. The same texts give the same vocabulary, in every process and any order.
    Returns the configuration with the tokenizer's vocabulary size and special tokens, and the tokenizer.
    Raises SerError: this model type has no tokenizer whose training is repeatable."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    try:
        tokenizer = TOKENIZER_MAPPING[type(config)]()
        kind = type(tokenizer.backend_tokenizer.model).__name__
    except (KeyError, ValueError, TypeError, AttributeError):
        kind = None
    if kind == "WordPiece":
        tokenizer = type(tokenizer)(vocab=_word_pieces(tokenizer, texts, vocab_size))
    elif kind == "BPE":
        tokenizer = tokenizer.train_new_from_iterator([sorted(texts)], vocab_size, show_progress=False)
    else:
        choice = "choose bert, roberta or distilbert, or give a checkpoint by --model_name_or_path"
        raise SerError(f"--model_type {config.model_type}: it has no tokenizer that can be trained here; {choice}")
    config = copy.deepcopy(config)
    config.vocab_size = len(tokenizer)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        if getattr(config, name, None) is not None:
            setattr(config, name, getattr(tokenizer, name))
    return config, tokenizer


def _word_pieces(untrained: PreTrainedTokenizerBase, texts: Sequence[str], size: int) -> dict[str, int]:
    """A WordPiece vocabulary: special tokens, every character at a word's beginning and inside it, the most frequent
    words. Not by the tokenizers library's trainer, whose ids and ties differ from process to process."""
    backend = untrained.backend_tokenizer
    split = (backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)) for text in texts)
    counts = Counter(word for words in split for word, _ in words)
    characters = sorted({character for word in counts for character in word})
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    special = sorted(untrained.get_vocab(), key=untrained.get_vocab().get)
    pieces = dict.fromkeys([*special, *characters, *(f"##{character}" for character in characters), *words])
    return {piece: index for index, piece in enumerate(pieces) if index < size}


def check_text_length(max_length: int, config: PreTrainedConfig) -> None:
    """See that a text encoder has a position for each of `max_length` tokens, special ones included. Raises SerError:
    too many (any number is right with relative positions), or fewer than a word and two special tokens."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is None or longest < 0 or not getattr(config, "position_biased_input", True):  # XLNet's -1; DeBERTa-v3
        longest = None
    elif config.model_type in COUNTS_FROM_PADDING:
        longest -= config.pad_token_id + 1
    if max_length < 3 or (longest is not None and max_length > longest):
        reads = "3 tokens or more" if longest is None else f"3 to {longest} tokens"
        raise SerError(f"--max_text_length {max_length}: {config.name_or_path or config.model_type} reads {reads}")


def text_model(
    label_names: list[str],  # in index order
    problem_type: str,  # as in transformers
    train_texts: Sequence[str] = (),  # they train the tokenizer of a random model
    *,
    max_text_length: int = 64,  # in tokens
    new_head: bool = True,  # False loads a fine-tuned model, whose labels must be `label_names`
    **keywords: Any,  # the fields of `settings.TextEncoderArguments`
) -> tuple[PreTrainedModel, Any]:
    """A model for sequence classification and its tokenizer.
    Raises SerError: the checkpoint is not found, or does not fit these settings."""
    import transformers
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    flags = TextEncoderArguments(**keywords)
    name, model_type = flags.model_name_or_path, flags.model_type
    overrides, trust = json.loads(flags.config_overrides or "{}"), {"trust_remote_code": flags.trust_remote_code}
    head = {**label_maps(label_names), "problem_type": problem_type}
    missing = []
    try:
        if model_type:
            config = AutoConfig.for_model(model_type, **overrides, **head)
            config, tokenizer = train_tokenizer(train_texts, config, config.vocab_size)
            check_text_length(max_text_length, config)
            model = AutoModelForSequenceClassification.from_config(config)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name, **trust)
            if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes one without words
                raise ValueError("has no tokenizer; save it beside the model")
            config = AutoConfig.from_pretrained(name, **trust, **(overrides | head if new_head else {}))
            check_text_length(max_text_length, config)
            verbosity = transformers.logging.get_verbosity()
            transformers.logging.set_verbosity_error()  # missing weights are reported below, in one line
            options = {"config": config, "ignore_mismatched_sizes": new_head, "dtype": torch.float32}
            try:  # a checkpoint in half precision does not train
                load = AutoModelForSequenceClassification.from_pretrained
                model, info = load_safetensors(load, name, **trust, **options)
            finally:
                transformers.logging.set_verbosity(verbosity)
            missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise SerError(f"model {model_type or name!r}: {one_line(error)}") from None
    if "attention_mask" not in inspect.signature(model.forward).parameters:  # FNet
        raise SerError(f"{name}: {type(model).__name__} takes no mask, so padding would change its scores")
    heads = [f"{child}." for child, _ in model.named_children() if child != model.base_model_prefix]
    random = tuple(heads) if new_head else ()  # weights that will be trained; so will BERT's pooler
    absent = [key for key in missing if not key.startswith(random) and not (new_head and ".pooler." in key)]
    if absent:
        give = f"give a {'complete' if new_head else 'fine-tuned'} checkpoint of this model type"
        raise SerError(f"{name}: the weights {', '.join(absent[:4])} are missing, it would answer at random; {give}")
    if not new_head:
        check_labels(model.config, label_names, name)
    if tokenizer.pad_token is None:  # decoders such as GPT-2 have none
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.model_max_length = max_text_length  # a pipeline truncates there too, if asked to
    return model, tokenizer
