"""Hidden states of frozen encoders, computed once: batched by length, by all processes, cached by content.

The cache folder is named by the encoder's weights and configuration and by every setting of the preprocessing, an entry
by the hash of the audio or the cleaned text. A changed clip, encoder or flag is computed anew, and nothing else is.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainingArguments

from ..data.audio import decode
from ..data.batching import evaluation_batches
from ..data.cache import Store, content_hash, settings_folder
from ..data.trimming import crop, fit_length, trim
from ..models import SerFusionForClassification, SerFusionProcessor
from ..models.text_cleaning import clean_text
from .audio_model import padding_sensitive
from .settings import ClipArguments

MODALITIES = ("audio", "text")
BATCH_CHARACTERS = 16384  # padded length of a batch of texts: about 4000 tokens
# What sums in another order may change of a state, relative to its largest value: float32, and bfloat16 autocast.
ROUNDING, HALF_ROUNDING = 1e-3, 0.1

# States are written to disk when so many numbers wait: 64 MB in float32, and what an interruption costs.
WAITING = 2**24


def fingerprint(model: torch.nn.Module) -> str:
    """Changes when a weight of a model does, or its configuration (but for where it was loaded from)."""
    digest = xxhash.xxh3_128()
    config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    digest.update(repr(sorted(config.items(), key=lambda item: item[0])).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def fill(
    store: Store,
    names: list[str | None],
    lengths: list[float],
    read: Callable[[list[int]], dict[str, torch.Tensor]],
    encode: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    budget: float | None,
    exact: bool = False,
    half: bool = False,
    say: str | None = None,
) -> int:
    """Compute the states that a store lacks, each distinct name once, this process its share; returns when all have.

    Args:
        store: Where they are kept.
        names: One an utterance; None has nothing to encode.
        lengths: One an utterance, in seconds or characters, for batches of about equal length.
        read: Row numbers to a batch of inputs.
        encode: Inputs to states `(batch, layers, frames, dim)` and their mask `(batch, frames)`, True = real.
        budget: Padded length of a batch; None for eight utterances.
        exact: Only utterances of equal length share a batch (see `batching.evaluation_batches`).
        half: Keep float16: half the disk, and what an encoder under bf16 autocast has to give.
        say: Title of a progress bar; None shows none.

    Returns:
        How many were computed, by all processes.
    """
    process = PartialState()
    known = [i for i, name in enumerate(names) if name is not None]
    todo = [known[i] for i in store.missing([names[i] for i in known])]
    process.wait_for_everyone()  # all have looked before one adds
    lengths = np.array([lengths[i] or 0.0 for i in todo], dtype=np.float64)
    batches = evaluation_batches(lengths, budget, exact=exact)[process.process_index :: process.num_processes]
    waiting, size = {}, 0
    for batch in tqdm(batches, desc=say, disable=say is None or not process.is_main_process, leave=False):
        rows = [todo[i] for i in batch]
        states, mask = encode(**read(rows))
        states = states.to("cpu", torch.float16 if half else torch.float32)
        for row, one, real in zip(rows, states, mask.cpu(), strict=True):
            waiting[names[row]] = one[:, real]  # (layers, frames, dim)
            size += one[:, real].numel()
        if size > WAITING:
            store.add(waiting)
            waiting, size = {}, 0
    store.add(waiting)
    process.wait_for_everyone()
    store.refresh()
    return len(todo)


def pad_states(states: list[torch.Tensor | None], shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stored states to a batch.

    Args:
        states: `(layers, frames, dim)` each; None is missing.
        shape: Layers and dim, for a batch without any.

    Returns:
        `(batch, layers, frames, dim)`, zeros behind the real frames; and `(batch, frames)`, True = real.
    """
    frames = max([1, *(one.shape[1] for one in states if one is not None)])
    batch = torch.zeros(len(states), shape[0], frames, shape[1])
    mask = torch.zeros(len(states), frames, dtype=torch.bool)
    for row, one in enumerate(states):
        if one is not None:
            batch[row, :, : one.shape[1]] = one
            mask[row, : one.shape[1]] = True
    return batch, mask


def read_clip(row: dict, rate: int, clips: ClipArguments) -> np.ndarray | None:
    """A row's samples, trimmed, centre-cropped and zero-padded as the flags say; None where it has no audio.

    Args:
        row: With `audio`.
        rate: In Hz.
        clips: Trimming and length limits.
    """
    if row.get("audio") is None:
        return None
    samples = decode(row["audio"], rate)
    if clips.trim_db is not None:
        first, end = trim(samples, rate, clips.trim_db)
        samples = samples[first:end]
    if clips.max_seconds is not None:
        samples = crop(samples, clips.max_seconds, rate)
    return fit_length(samples, round(clips.min_seconds * rate))


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


def audio_store(
    encoder: PreTrainedModel,
    shape: tuple[int, int],
    pooling: str | None,
    extractor,
    clips: ClipArguments,
    half: bool = False,
) -> Store:
    """Where an audio encoder's states of clips are kept, by their `audio_hash`.

    Args:
        encoder: Its weights and configuration count.
        shape: Layers and width of the states.
        pooling: Of their frames; None for all frames.
        extractor: Its settings count.
        clips: Trimming and length limits count.
        half: Whether they are kept in half precision.
    """
    changes = (extractor.to_json_string(), clips.trim_db, clips.min_seconds, clips.max_seconds)
    return Store(settings_folder("audio-states", fingerprint(encoder), shape, pooling, changes, half))


def text_store(
    encoder: PreTrainedModel,
    shape: tuple[int, int],
    pooling: str | None,
    tokenizer,
    max_length: int,
    half: bool = False,
) -> Store:
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


def trims(extractor, clips: ClipArguments) -> float | None:
    """The dB of trimming, by the flags or by the feature extractor; None for none. Trimmed clips of equal length may
    be unequal."""
    return clips.trim_db if clips.trim_db is not None else getattr(extractor, "trim_db", None)


def fill_audio(
    store: Store,
    rows: Dataset,
    encode: Callable,
    extractor,
    clips: ClipArguments,
    device: torch.device,
    budget: float | None,
    exact: bool = False,
    **options,
) -> int:
    """Encode the clips of `rows` that a cache lacks; `options` and the returned number as in `fill`."""
    lengths = rows["duration"][:]
    if exact and trims(extractor, clips) is not None:
        lengths = range(len(rows))  # no two are called equal: each is encoded by itself

    def read(numbers: list[int]) -> dict:
        samples = [read_clip(rows[i], extractor.sampling_rate, clips) for i in numbers]
        return {name: value.to(device) for name, value in clip_inputs(samples, extractor).items()}

    return fill(store, rows["audio_hash"][:], lengths, read, encode, budget, exact, **options)


def fill_text(
    store: Store,
    texts: Sequence[str | None],
    cleaning: str,
    encode: Callable,
    tokenizer,
    max_length: int,
    device: torch.device,
    **options,
) -> int:
    """Encode the texts that a cache lacks, likewise."""
    cleaned = [clean_text(text, cleaning) for text in texts]

    def read(numbers: list[int]) -> dict:
        batch = text_inputs([cleaned[i] for i in numbers], tokenizer, max_length)
        return {name: value.to(device) for name, value in batch.items()}

    names, lengths = [text_name(text, cleaning) for text in texts], [len(text) for text in cleaned]
    return fill(store, names, lengths, read, encode, BATCH_CHARACTERS, **options)


class States:
    """The cached hidden states of a fusion model's two encoders.

    Args:
        model, processor: The fusion model and its processor.
        clips: Trimming and length limits.
        half: Whether they are kept in half precision.
    """

    def __init__(
        self,
        model: SerFusionForClassification,
        processor: SerFusionProcessor,
        clips: ClipArguments,
        half: bool = False,
    ):
        config, self.cleaning, self.half = model.config, processor.text_cleaning, half
        self.shapes = {"audio": model.audio_shape, "text": model.text_shape}
        audio = config.pooling if model.pools_audio else None
        text = config.text_pooling if model.pools_text else None
        extractor, tokenizer, length = processor.feature_extractor, processor.tokenizer, processor.max_text_length
        self.stores = {
            "audio": audio_store(model.audio_encoder, model.audio_shape, audio, extractor, clips, half),
            "text": text_store(model.text_encoder, model.text_shape, text, tokenizer, length, half),
        }

    def find(self, kind: str, row: dict) -> torch.Tensor | None:
        """`(layers, frames, dim)`, or None where the modality is missing."""
        name = row["audio_hash"] if kind == "audio" else text_name(row["text"], self.cleaning)
        return None if name is None else self.stores[kind][name]


def encode(
    model: SerFusionForClassification,
    processor: SerFusionProcessor,
    splits: Mapping[str, Dataset],
    clips: ClipArguments,
    training: TrainingArguments,
    budget: float | None,
) -> States:
    """Each utterance of all parts through each encoder once, unless it is cached.

    Args:
        model, processor: The fusion model, whose encoders are frozen, and its processor.
        splits: The parts.
        clips: Trimming and length limits.
        training: Device, precision, progress bar.
        budget: Padded seconds of audio in a batch; None for eight clips.
    """
    device = training.device
    half = device.type == "cuda" and (training.bf16 or training.fp16)
    states = States(model, processor, clips, half)
    columns = ("id", "audio", "text", "audio_hash", "duration")
    rows = concatenate_datasets([part.select_columns(columns) for part in splits.values() if len(part)])
    model = model.to(device).eval()
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    titles = [None if training.disable_tqdm else f"{kind} encoder" for kind in MODALITIES]
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        exact = padding_sensitive(model.config.audio_config)
        audio = {"budget": budget, "exact": exact, "half": half, "say": titles[0]}
        fill_audio(states.stores["audio"], rows, model.encode_audio, extractor, clips, device, **audio)
        text = {"max_length": processor.max_text_length, "device": device, "half": half, "say": titles[1]}
        fill_text(states.stores["text"], rows["text"][:], states.cleaning, model.encode_text, tokenizer, **text)
    return states


@torch.no_grad()
def check_states(
    model: SerFusionForClassification,
    processor: SerFusionProcessor,
    states: States,
    rows: Dataset,
    clips: ClipArguments,
) -> float:
    """The hidden states of an utterance alone, as in a pipeline, must be the cached ones: otherwise the figures to come
    would not be those of the model that is saved.

    Args:
        model, processor, states, clips: As in `encode`.
        rows: A few utterances.

    Returns:
        The largest difference, relative to the largest value of its state.

    Raises:
        ValueError: it is larger than rounding explains, which would be a defect.
    """
    differences, device = [0.0], model.device
    for row in rows:
        clip = read_clip(row, processor.feature_extractor.sampling_rate, clips)
        alone = {}
        with torch.autocast(device.type, torch.bfloat16, enabled=states.half):
            if clip is not None:
                inputs = clip_inputs([clip], processor.feature_extractor)["inputs"]
                alone["audio"] = model.encode_audio(inputs.to(device))
            if text := clean_text(row["text"], states.cleaning).strip():
                ids = text_inputs([text], processor.tokenizer, processor.max_text_length)["input_ids"]
                alone["text"] = model.encode_text(ids.to(device))
        for kind, (encoded, _) in alone.items():
            cached, now = states.find(kind, row), encoded[0].float().cpu()
            differences.append(float((cached.float() - now).abs().max() / now.abs().max().clamp(min=1e-6)))
    if not max(differences) < (HALF_ROUNDING if states.half else ROUNDING):
        raise ValueError(f"an utterance encoded alone differs from its cached states by {max(differences):.2g}")
    return max(differences)
