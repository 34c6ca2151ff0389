"""Texts on their way to a model: what is left out and said, token counts, padding, tokenisers trained on train."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from ser_hf import SerError
from ser_hf.training.text_model import (
    TextCollator,
    check_text_length,
    prepare_texts,
    shared_texts,
    text_model,
    text_remarks,
    tokenize,
    train_tokenizer,
    with_text,
)

TEXTS = ["I hate the exam.", "I love the concert", "the meeting is on Monday", "Listen, I miss the old garden."]


def rows(texts, **columns) -> Dataset:
    count = len(texts)
    return Dataset.from_dict(
        {"id": [f"u{i}" for i in range(count)], "text": texts, "label": [i % 2 for i in range(count)], **columns}
    )


def tokenized(texts, tokenizer, max_length: int = 64) -> Dataset:
    return tokenize(DatasetDict(test=rows(texts)), tokenizer, max_length)["test"]


@pytest.fixture(scope="module")
def bert():
    config = AutoConfig.for_model(
        "bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
    config, tokenizer = train_tokenizer(TEXTS * 5, config, 200)
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval(), tokenizer


def test_utterances_without_a_text_are_left_out_and_named():
    dataset = rows(["Fine.", None, "  ", "[LAUGHTER]", "OK [BREATHING]"], audio=["a", "b", "c", "d", "e"])
    kept, left_out = with_text(dataset, "unicode")
    assert kept["text"][:] == ["Fine.", "OK"] and left_out == ["u1", "u2", "u3"]
    assert kept["id"][:] == ["u0", "u4"] and "audio" not in kept.column_names
    assert with_text(dataset, "none")[0]["text"][:] == ["Fine.", "[LAUGHTER]", "OK [BREATHING]"]


def test_what_is_said_of_the_texts():
    parts = DatasetDict(train=rows(["Yes!", None, "No."]), validation=rows(["Maybe", None]), test=rows(["yes", "Why?"]))
    prepared, lines = prepare_texts(parts, "unicode")
    assert {part: len(kept) for part, kept in prepared.items()} == {"train": 2, "validation": 1, "test": 2}
    assert lines[0] == "2 utterances have no text and are left out (train 1, validation 1)"
    assert lines[1].startswith("the texts of 1 of 2 test utterances also occur in train") and len(lines) == 2
    assert shared_texts(prepared) == 1
    clean = DatasetDict(train=rows(["Yes"]), validation=rows([]), test=rows(["No"]))
    assert prepare_texts(clean, "words")[1] == []  # an empty validation is allowed, and nothing needs saying
    with pytest.raises(SerError, match="no utterance of test has a text"):
        prepare_texts(DatasetDict(train=rows(["Yes"]), validation=rows([]), test=rows([None])), "unicode")


def test_tokens_are_counted_and_cut(bert):
    _, tokenizer = bert
    dataset = tokenized(TEXTS, tokenizer, 7)
    assert dataset["tokens"][:] == [len(ids) for ids in dataset["input_ids"]]
    assert max(dataset["tokens"]) == 7 and dataset["input_ids"][3][-1] == tokenizer.sep_token_id
    assert tokenizer.decode(dataset["input_ids"][0]) == "[CLS] i hate the exam. [SEP]"
    assert len(tokenized([], tokenizer, 7)) == 0
    said = text_remarks(dataset, 7, "words")
    assert said[0] == f"{sum(n == 7 for n in dataset['tokens'])} of 4 test texts fill the 7 tokens and may be truncated"
    assert "clean_text(text, 'words'), pipelines do not" in said[1]
    assert text_remarks(dataset, 64, "none") == []


def test_a_padded_batch_answers_as_each_text_alone(bert):
    model, tokenizer = bert
    dataset, collate = tokenized(TEXTS, tokenizer), TextCollator(tokenizer, model)
    batch = collate(list(dataset))
    assert batch["labels"].tolist() == [0, 1, 0, 1]
    assert batch["attention_mask"].sum(dim=1).tolist() == dataset["tokens"][:]
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (4, max(dataset["tokens"]))
    with torch.no_grad():
        together = model(**batch).logits
        for row, logits in zip(dataset, together, strict=True):
            assert (model(**collate([row])).logits[0] - logits).abs().max() < 1e-5


def test_token_types_go_where_they_are_taken():
    config = AutoConfig.for_model("distilbert", dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    config, tokenizer = train_tokenizer(TEXTS, config, 100)
    model = AutoModelForSequenceClassification.from_config(config)
    batch = TextCollator(tokenizer, model)(list(tokenized(TEXTS, tokenizer)))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert model(**batch).logits.shape == (4, 2)


def test_labels_keep_their_kind(bert):
    model, tokenizer = bert
    dataset = tokenized(TEXTS, tokenizer).remove_columns("label").add_column("label", [[0.5, 1.0]] * 4)
    labels = TextCollator(tokenizer, model)(list(dataset))["labels"]
    assert labels.dtype == torch.float32 and labels.shape == (4, 2)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_a_trained_tokenizer_is_its_model_types_own(kind, tmp_path):
    before = AutoConfig.for_model(kind)
    config, tokenizer = train_tokenizer(TEXTS * 5, before, 400)
    assert before.to_dict() == AutoConfig.for_model(kind).to_dict()  # its argument is not changed
    assert config.vocab_size == len(tokenizer) <= 400 and config.pad_token_id == tokenizer.pad_token_id
    ids = tokenizer(TEXTS[1])["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert "concert" in tokenizer.decode(ids)
    tokenizer.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer) and again(TEXTS[1])["input_ids"] == ids
    assert again.pad([{"input_ids": ids}, {"input_ids": ids[:3]}])["input_ids"][1][-1] == config.pad_token_id


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_trained_tokenizer_knows_train_alone_and_repeats(kind):
    """Two processes, and a resumed run, must number the same words alike; the order of the texts is not theirs."""
    texts = [f"{text} {word}" for text in TEXTS for word in ("again", "twice", "never")]
    made = [train_tokenizer(order, AutoConfig.for_model(kind), 300)[1] for order in (texts, texts[::-1])]
    one, two = (tokenizer.get_vocab() for tokenizer in made)
    assert one == two and not any("zebra" in word for word in one)


def test_word_pieces_by_hand():
    config = AutoConfig.for_model("bert")
    _, tokenizer = train_tokenizer(["Ab ab, ba"], config, 100)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert pieces == [*special, ",", "a", "b", "##,", "##a", "##b", "ab", "ba"]
    assert tokenizer.tokenize("ba aba abz") == ["ba", "ab", "##a", "[UNK]"]  # z was never seen
    smaller, tokenizer = train_tokenizer(["Ab ab, ba"], config, 12)
    assert len(tokenizer) == smaller.vocab_size == 12  # the rarer word has no room


@pytest.mark.parametrize("kind", ["wav2vec2", "xlm-roberta"])
def test_a_model_type_without_a_trainable_tokenizer(kind):
    with pytest.raises(SerError, match=f"--model_type {kind}: it has no tokenizer .* choose bert"):
        train_tokenizer(TEXTS, AutoConfig.for_model(kind), 100)


@pytest.mark.parametrize(
    "kind, longest",
    [("bert", 8), ("roberta", 6), ("mpnet", 6), ("xlm-roberta", 6), ("deberta-v2", 8), ("distilbert", 8)],
)
def test_a_text_as_long_as_is_allowed_has_its_positions(kind, longest):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = AutoConfig.for_model(kind, vocab_size=20, max_position_embeddings=8, **sizes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    check_text_length(longest, config)
    assert model(input_ids=torch.full((1, longest), 5)).logits.shape == (1, 2)
    for wrong in (2, longest + 1):
        with pytest.raises(SerError, match=f"--max_text_length {wrong}: {kind} reads 3 to {longest} tokens"):
            check_text_length(wrong, config)
    if kind == "mpnet":
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, longest + 1), 5))


def test_relative_positions_have_no_end():
    for config in (AutoConfig.for_model("deberta-v2", position_biased_input=False), AutoConfig.for_model("xlnet")):
        check_text_length(9999, config)
        with pytest.raises(SerError, match="reads 3 tokens or more"):
            check_text_length(2, config)


def test_a_checkpoint_in_half_precision_is_trained_in_full(bert, tmp_path):
    import copy

    from transformers import logging

    model, tokenizer = bert
    copy.deepcopy(model).half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    task = (["happy", "sad"], "single_label_classification")
    loaded, _ = text_model(*task, model_name_or_path=str(tmp_path))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32} == {loaded.dtype}
    (tmp_path / "model.safetensors").unlink()
    before = logging.get_verbosity()
    with pytest.raises(SerError, match="model.safetensors"):
        text_model(*task, model_name_or_path=str(tmp_path))
    assert logging.get_verbosity() == before


def test_a_model_that_takes_no_mask_is_refused(bert, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 200}
    AutoModelForSequenceClassification.from_config(AutoConfig.for_model("fnet", **sizes)).save_pretrained(tmp_path)
    bert[1].save_pretrained(tmp_path)
    task = (["happy", "sad"], "single_label_classification")
    with pytest.raises(SerError, match="FNetForSequenceClassification takes no mask"):
        text_model(*task, model_name_or_path=str(tmp_path))
