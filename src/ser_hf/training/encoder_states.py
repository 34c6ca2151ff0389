"""Hidden states of frozen encoders, computed once, by all processes, and cached.

The name of the cache folder stands for the encoder's weights and every setting of the preprocessing, that of an entry
for the audio or the cleaned text: a changed clip, encoder or flag is computed anew, and nothing else is.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainingArguments

from ..data import audio
from ..data.batching import evaluation_batches
from ..data.cache import Store, content_hash, settings_folder
from ..models import SerFusionForClassification, SerFusionProcessor
from ..models.encoders import padding_sensitive
from ..models.text_cleaning import clean_text
from .settings import ClipArguments

MODALITIES = ("audio", "text")
BATCH_CHARACTERS = 16384  # padded length of a batch of texts: about 4000 tokens
# Largest difference by another order of summing, relative to a state's largest value: float32, bfloat16 autocast.
ROUNDING, HALF_ROUNDING = 1e-3, 0.1
WAITING = 2**24  # numbers that are written to disk at a time, 64 MB in float32: the most that an interruption loses


@dataclass(frozen=True)
class AudioReader:
    """The inputs of an audio encoder from rows with `audio`, `audio_hash` and `duration`."""

    extractor: Any
    clips: ClipArguments
    budget: float | None = 36.0  # padded seconds of audio in a batch; None for eight clips
    exact: bool = False  # only clips of equal length share a batch: for padding-sensitive encoders

    @property
    def settings(self) -> tuple:
        """Everything besides the encoder and the clip that the states depend on."""
        return self.extractor.to_json_string(), *vars(self.clips).values()

    def name(self, row: dict) -> str | None:
        """The row's name in the cache; None if there is nothing to encode."""
        return row["audio_hash"]

    def lengths(self, rows: Dataset) -> list[float]:
        """Lengths in seconds, for batches."""
        if self.exact and trims(self.extractor, self.clips) is not None:
            return list(range(len(rows)))  # trimmed, clips of equal length may differ: each is encoded alone
        return [seconds or 0.0 for seconds in rows["duration"][:]]

    def inputs(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """The padded batch of rows, as the model's processor makes it."""
        rate = self.extractor.sampling_rate
        options = {"sampling_rate": rate, "padding": True, "return_attention_mask": True, "return_tensors": "pt"}
        batch = self.extractor([read_clip(row, rate, self.clips) for row in rows], **options)
        return {"inputs": batch[self.extractor.model_input_names[0]], "attention_mask": batch["attention_mask"]}


@dataclass(frozen=True)
class TextReader:
    """The inputs of a text encoder from rows with `text`, cleaned by `clean_text`; the methods are `AudioReader`'s."""

    tokenizer: Any
    cleaning: str
    max_length: int
    budget: float = BATCH_CHARACTERS
    exact: bool = False

    @property
    def settings(self) -> tuple:
        return tokenizer_settings(self.tokenizer), self.max_length

    def name(self, row: dict) -> str | None:
        cleaned = clean_text(row["text"], self.cleaning)
        return content_hash(cleaned) if cleaned.strip() else None

    def lengths(self, rows: Dataset) -> list[int]:
        return [len(clean_text(text, self.cleaning)) for text in rows["text"][:]]

    def inputs(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        options = {"padding": True, "padding_side": "right", "truncation": True, "max_length": self.max_length}
        options |= {"return_tensors": "pt", "return_token_type_ids": False, "return_attention_mask": True}
        batch = self.tokenizer([clean_text(row["text"], self.cleaning) for row in rows], **options)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def tokenizer_settings(tokenizer) -> str:
    """All settings of a tokenizer, except truncation and padding, which the last call has set."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # not of the tokenizers library
        settings = sorted((name, str(value)) for name, value in tokenizer.init_kwargs.items())
        return repr((type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), settings))
    backend = copy.deepcopy(backend)
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str()


def trims(extractor, clips: ClipArguments) -> float | None:
    """The dB of trimming, by the flags or the feature extractor; None without trimming."""
    return clips.trim_db if clips.trim_db is not None else getattr(extractor, "trim_db", None)


def read_clip(row: dict, rate: int, clips: ClipArguments) -> np.ndarray | None:
    """A row's samples at `rate` Hz, trimmed, centre-cropped and zero-padded by the flags; None without audio."""
    return None if row.get("audio") is None else audio.read_clip(row["audio"], rate, **vars(clips))


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of a model's weights and configuration, whatever path it was loaded from."""
    digest = xxhash.xxh3_128()
    config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    digest.update(repr(sorted(config.items(), key=lambda item: item[0])).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def open_store(
    encoder: PreTrainedModel, reader: AudioReader | TextReader, layers: int, pooling: str | None, half: bool = False
) -> Store:
    """The cache of an encoder's hidden states of so many layers, pooled over frames unless `pooling` is None, and in
    half precision if `half`."""
    return Store(settings_folder("states", fingerprint(encoder), layers, pooling, reader.settings, half))


@torch.no_grad()
def fill(
    store: Store,
    rows: Dataset,
    reader: AudioReader | TextReader,
    encode: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,  # of the encoder
    half: bool = False,  # float16: half the disk, and the precision of an encoder under bf16 autocast
    title: str | None = None,  # of the progress bar; None shows none
) -> int:
    """Compute the states that a cache lacks, each distinct name once, each process its share; returns the number that
    all processes have computed, once all have finished. `encode` maps inputs to states `(batch, layers, frames, dim)`
    and their mask `(batch, frames)`, True = real."""
    process, unread = PartialState(), rows.select_columns([name for name in rows.column_names if name != "audio"])
    names, lengths = [reader.name(row) for row in unread], reader.lengths(unread)
    named = [i for i, name in enumerate(names) if name is not None]
    todo = [named[i] for i in store.missing([names[i] for i in named])]
    process.wait_for_everyone()  # none adds before all have looked
    lengths = np.array([lengths[i] for i in todo], dtype=np.float64)
    batches = evaluation_batches(lengths, reader.budget, exact=reader.exact)
    batches = batches[process.process_index :: process.num_processes]
    waiting, size = {}, 0
    for batch in tqdm(batches, desc=title, disable=title is None or not process.is_main_process, leave=False):
        numbers = [todo[i] for i in batch]
        inputs = reader.inputs([rows[i] for i in numbers])
        states, mask = encode(**{name: value.to(device) for name, value in inputs.items()})
        states = states.to("cpu", torch.float16 if half else torch.float32)
        for number, one, real in zip(numbers, states, mask.cpu(), strict=True):
            waiting[names[number]] = one[:, real]  # (layers, frames, dim)
            size += one[:, real].numel()
        if size > WAITING:
            store.add(waiting)
            waiting, size = {}, 0
    store.add(waiting)
    process.wait_for_everyone()
    store.refresh()
    return len(todo)


def pad_states(states: list[torch.Tensor | None], shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cached states `(layers, frames, dim)`, None where missing, to a zero-padded batch `(batch, layers, frames, dim)`
    and its mask `(batch, frames)`, True = real. `shape` is `(layers, dim)`."""
    frames = max([1, *(one.shape[1] for one in states if one is not None)])
    batch = torch.zeros(len(states), shape[0], frames, shape[1])
    mask = torch.zeros(len(states), frames, dtype=torch.bool)
    for row, one in enumerate(states):
        if one is not None:
            batch[row, :, : one.shape[1]] = one
            mask[row, : one.shape[1]] = True
    return batch, mask


@dataclass(frozen=True)
class States:
    """The cached hidden states of a fusion model's encoders, by modality."""

    readers: dict[str, AudioReader | TextReader]
    shapes: dict[str, tuple[int, int]]  # layers and width
    stores: dict[str, Store]
    half: bool  # kept in half precision

    def find(self, kind: str, row: dict) -> torch.Tensor | None:
        """The states `(layers, frames, dim)` of a row, or None where the modality is missing."""
        name = self.readers[kind].name(row)
        return None if name is None else self.stores[kind][name]


class StateCollator:
    """Rows to batches of cached states; the modality `without` is withheld."""

    columns = ("id", "audio_hash", "text", "label")

    def __init__(self, states: States, without: str | None = None):
        self.states, self.without = states, without

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = {"labels": torch.tensor([row["label"] for row in rows])}
        for kind in MODALITIES:
            if kind != self.without:
                states = [self.states.find(kind, row) for row in rows]
                batch[f"{kind}_states"], batch[f"{kind}_mask"] = pad_states(states, self.states.shapes[kind])
        return batch


def encode(
    model: SerFusionForClassification,
    processor: SerFusionProcessor,
    splits: Mapping[str, Dataset],
    clips: ClipArguments,
    training: TrainingArguments,
    budget: float | None,
) -> States:
    """Encode each utterance of all parts once by each frozen encoder, unless it is cached. `training` has the device,
    precision and progress bar; `budget` is in padded seconds of audio per batch (None: eight clips)."""
    device, config = training.device, model.config
    half = device.type == "cuda" and (training.bf16 or training.fp16)
    exact = padding_sensitive(config.audio_config)
    readers = {
        "audio": AudioReader(processor.feature_extractor, clips, budget, exact),
        "text": TextReader(processor.tokenizer, processor.text_cleaning, processor.max_text_length),
    }
    shapes = {"audio": model.audio_shape, "text": model.text_shape}
    audio_pooling = config.pooling if model.pools_audio else None
    text_pooling = config.text_pooling if model.pools_text else None
    stores = {
        "audio": open_store(model.audio_encoder, readers["audio"], shapes["audio"][0], audio_pooling, half),
        "text": open_store(model.text_encoder, readers["text"], shapes["text"][0], text_pooling, half),
    }
    states = States(readers, shapes, stores, half)
    columns = ("id", "audio", "text", "audio_hash", "duration")
    rows = concatenate_datasets([part.select_columns(columns) for part in splits.values() if len(part)])
    model = model.to(device).eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        for kind, encoder in zip(MODALITIES, (model.encode_audio, model.encode_text), strict=True):
            title = None if training.disable_tqdm else f"{kind} encoder"
            fill(states.stores[kind], rows, states.readers[kind], encoder, device, half, title)
    return states


@torch.no_grad()
def check_states(model: SerFusionForClassification, states: States, rows: Dataset) -> float:
    """Compare the cached states of a few rows with those of each utterance encoded alone, as in a pipeline: the figures
    must be those of the saved model. Returns the largest difference, relative to the largest value of its state. Raises
    ValueError: it is larger than rounding explains, which would be a defect."""
    differences, device = [0.0], model.device
    for row in rows:
        for kind, encoder in zip(MODALITIES, (model.encode_audio, model.encode_text), strict=True):
            if (cached := states.find(kind, row)) is not None:
                inputs = states.readers[kind].inputs([row])
                inputs.pop("attention_mask")  # nothing is padded
                with torch.autocast(device.type, torch.bfloat16, enabled=states.half):
                    encoded = encoder(*(value.to(device) for value in inputs.values()))[0]
                now = encoded[0].float().cpu()
                differences.append(float((cached.float() - now).abs().max() / now.abs().max().clamp(min=1e-6)))
    if not max(differences) < (HALF_ROUNDING if states.half else ROUNDING):
        raise ValueError(f"an utterance encoded alone differs from its cached states by {max(differences):.2g}")
    return max(differences)
