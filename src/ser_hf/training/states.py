"""The states that a fusion model's frozen encoders make of a corpus: where they are kept, and how batches are made of
them."""

import copy

import numpy as np
import torch

from ..data import audio
from ..data.cache import Store, content_hash, settings_folder
from ..models import SerFusionForClassification
from ..models.encoders import padding_sensitive
from ..models.text_cleaning import clean_text
from .encoder_states import fill, fingerprint, pad_states

MODALITIES = ("audio", "text")
BATCH_CHARACTERS = 16384  # padded length of a batch of texts: about 4000 tokens
# What sums in another order may change of a state, relative to its largest value: float32, and bfloat16 autocast.
ROUNDING, HALF_ROUNDING = 1e-3, 0.1


def read_clip(row: dict, rate: int, data) -> np.ndarray | None:
    """A row's samples, trimmed and of the length that the flags say; None where it has no audio.

    Args:
        row: With `audio`.
        rate: In Hz.
        data: `ClipArguments`; of a too long clip the middle is taken.
    """
    if row.get("audio") is None:
        return None
    return audio.read_clip(row["audio"], rate, data.trim_db, data.min_seconds, data.max_seconds)


class StateCollator:
    """Rows to cached states.

    Args:
        states: `States`.
        without: A modality to withhold.
    """

    columns = ("id", "audio_hash", "text", "label")

    def __init__(self, states: "States", without: str | None = None):
        self.states, self.without = states, without

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = {"labels": torch.tensor([row["label"] for row in rows])}
        for kind in MODALITIES:
            if kind != self.without:
                found = [self.states.find(kind, row) for row in rows]
                batch[f"{kind}_states"], batch[f"{kind}_mask"] = pad_states(found, self.states.shapes[kind])
        return batch


def clip_inputs(clips: list[np.ndarray], extractor) -> dict[str, torch.Tensor]:
    """`inputs` and `attention_mask` of a batch of clips, as the fusion model's processor makes them."""
    options = {"sampling_rate": extractor.sampling_rate, "padding": True, "return_attention_mask": True}
    batch = extractor(clips, return_tensors="pt", **options)
    return {"inputs": batch[extractor.model_input_names[0]], "attention_mask": batch["attention_mask"]}


def text_inputs(texts: list[str], tokenizer, max_length: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of a batch of cleaned texts, likewise."""
    cut = {"padding": True, "padding_side": "right", "truncation": True, "max_length": max_length}
    batch = tokenizer(texts, return_tensors="pt", return_token_type_ids=False, return_attention_mask=True, **cut)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def audio_store(encoder, shape: tuple[int, int], pooling: str | None, extractor, data, half: bool = False) -> Store:
    """Where an audio encoder's states of clips are kept, by their `audio_hash`.

    Args:
        encoder: Its weights and configuration count.
        shape: Layers and width of the states.
        pooling: Of their frames; None for all frames.
        extractor: Its settings count.
        data: `ClipArguments`: trimming and length limits count.
        half: Whether they are kept in half precision.
    """
    changes = (extractor.to_json_string(), data.trim_db, data.min_seconds, data.max_seconds)
    return Store(settings_folder("audio-states", fingerprint(encoder), shape, pooling, changes, half))


def text_store(encoder, shape, pooling, tokenizer, max_length: int, half: bool = False) -> Store:
    """Where a text encoder's states of cleaned texts are kept, by `text_name`; arguments as `audio_store`'s."""
    changes = (tokenizer_settings(tokenizer), max_length)
    return Store(settings_folder("text-states", fingerprint(encoder), shape, pooling, changes, half))


def tokenizer_settings(tokenizer) -> str:
    """Everything that makes tokens of a text, without what the last call left of truncation and padding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # not of the tokenizers library
        settings = sorted((name, str(value)) for name, value in tokenizer.init_kwargs.items())
        return repr((type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), settings))
    backend = copy.deepcopy(backend)
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str()


def text_name(text: str | None, cleaning: str) -> str | None:
    """Under which a text's states are kept; None where cleaning leaves nothing."""
    cleaned = clean_text(text, cleaning)
    return content_hash(cleaned) if cleaned.strip() else None


def trims(extractor, data) -> float | None:
    """dB below the loudest that is cut at both ends, by the flags or by the feature extractor; None for none. Clips of
    equal length are no longer equal after that."""
    return data.trim_db if data.trim_db is not None else getattr(extractor, "trim_db", None)


def fill_audio(store: Store, rows, encode, extractor, data, device, budget, exact: bool = False, **options) -> int:
    """Encode the clips of `rows` that a store lacks; `options` and what is returned as in `embeddings.fill`."""
    lengths = rows["duration"][:]
    if exact and trims(extractor, data) is not None:
        lengths = range(len(rows))  # no two are called equal: each is encoded by itself

    def read(numbers: list[int]) -> dict:
        clips = [read_clip(rows[i], extractor.sampling_rate, data) for i in numbers]
        return {name: value.to(device) for name, value in clip_inputs(clips, extractor).items()}

    return fill(store, rows["audio_hash"][:], lengths, read, encode, budget, exact, **options)


def fill_text(store: Store, texts, cleaning: str, encode, tokenizer, max_length: int, device, **options) -> int:
    """Encode the texts that a store lacks, likewise."""
    cleaned = [clean_text(text, cleaning) for text in texts]

    def read(numbers: list[int]) -> dict:
        batch = text_inputs([cleaned[i] for i in numbers], tokenizer, max_length)
        return {name: value.to(device) for name, value in batch.items()}

    names, lengths = [text_name(text, cleaning) for text in texts], [len(text) for text in cleaned]
    return fill(store, names, lengths, read, encode, BATCH_CHARACTERS, **options)


class States:
    """The states of a fusion model's two encoders, and under which name an utterance's are kept.

    Args:
        model, processor: The fusion model and its processor.
        data: `ClipArguments`.
        half: Whether they are kept in half precision.
    """

    def __init__(self, model: SerFusionForClassification, processor, data, half: bool = False):
        config, self.cleaning, self.half = model.config, processor.text_cleaning, half
        self.shapes = {"audio": model.audio_shape, "text": model.text_shape}
        audio = config.pooling if model.pools_audio else None
        text = config.text_pooling if model.pools_text else None
        extractor, tokenizer, length = processor.feature_extractor, processor.tokenizer, processor.max_text_length
        self.stores = {
            "audio": audio_store(model.audio_encoder, model.audio_shape, audio, extractor, data, half),
            "text": text_store(model.text_encoder, model.text_shape, text, tokenizer, length, half),
        }

    def find(self, kind: str, row: dict) -> torch.Tensor | None:
        """`(layers, frames, dim)`, or None where the modality is missing."""
        name = row["audio_hash"] if kind == "audio" else text_name(row["text"], self.cleaning)
        return None if name is None else self.stores[kind][name]


def encode(model: SerFusionForClassification, processor, splits, flags) -> States:
    """Each utterance of all parts through each encoder once, unless it is cached; see `embeddings.fill`."""
    from datasets import concatenate_datasets

    training, data, device = flags.training, flags.data, flags.training.device
    half = device.type == "cuda" and (training.bf16 or training.fp16)
    states = States(model, processor, data, half)
    columns = ("id", "audio", "text", "audio_hash", "duration")
    rows = concatenate_datasets([part.select_columns(columns) for part in splits.values() if len(part)])
    model = model.to(device).eval()
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    said = [None if training.disable_tqdm else f"{kind} encoder" for kind in MODALITIES]
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        exact = padding_sensitive(model.config.audio_config)
        audio = {"budget": flags.run.batch_seconds, "exact": exact, "half": half, "say": said[0]}
        fill_audio(states.stores["audio"], rows, model.encode_audio, extractor, data, device, **audio)
        text = {"max_length": processor.max_text_length, "device": device, "half": half, "say": said[1]}
        fill_text(states.stores["text"], rows["text"][:], states.cleaning, model.encode_text, tokenizer, **text)
    return states


@torch.no_grad()
def check_states(model, processor, states: States, rows, flags) -> float:
    """What the encoders make of an utterance alone, as in a pipeline, must be what was cached of it: otherwise the
    figures to come were not those of the model that is saved.

    Args:
        rows: A few utterances.
        flags: As in `encode`.

    Returns:
        The largest difference, relative to the largest value of its state.

    Raises:
        ValueError: it is larger than rounding explains, which would be a defect.
    """
    device, differences = flags.training.device, [0.0]
    for row in rows:
        clip = read_clip(row, processor.feature_extractor.sampling_rate, flags.data)
        alone = {"audio": None, "text": None}
        with torch.autocast(device.type, torch.bfloat16, enabled=states.half):
            if clip is not None:
                alone["audio"] = model.encode_audio(
                    clip_inputs([clip], processor.feature_extractor)["inputs"].to(device)
                )
            if text := clean_text(row["text"], states.cleaning).strip():
                ids = text_inputs([text], processor.tokenizer, processor.max_text_length)["input_ids"]
                alone["text"] = model.encode_text(ids.to(device))
        for kind, found in alone.items():
            if found is not None:
                kept, now = states.find(kind, row), found[0][0].float().cpu()
                differences.append(float((kept.float() - now).abs().max() / now.abs().max().clamp(min=1e-6)))
    if not max(differences) < (HALF_ROUNDING if states.half else ROUNDING):
        raise ValueError(f"an utterance encoded alone differs from what is cached of it by {max(differences):.2g}")
    return max(differences)
