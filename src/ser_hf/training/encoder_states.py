"""Hidden states of frozen encoders, computed once, by all processes, and cached.

A cache folder is named by the encoder's weights and all settings of the preprocessing, an entry by its audio or its
cleaned text: only what a changed clip, encoder or flag concerns is computed again.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm
from transformers import FeatureExtractionMixin, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from ..data import audio
from ..data.augmentation import speed
from ..data.batching import evaluation_batches
from ..data.cache import Store, clip_name, content_hash, settings_folder
from ..data.columns import select_present
from ..data.trimming import trimmed_durations
from ..errors import SerError
from ..models import SerForAudioClassification, SerFusionForClassification, SerFusionProcessor
from ..models.encoders import audio_states, describe_audio, extract, layer_count, padding_sensitive
from ..models.pooling import pool_layers
from ..models.text_cleaning import clean_text
from .settings import ClipArguments
from .speakers import FEWEST, FEWEST_ALIKE, SpeakerMap, fit_map, group, means_by

MODALITIES = ("audio", "text")
BATCH_CHARACTERS = 16384  # padded length of a batch of texts: about 4000 tokens
# Largest difference by another order of summing, relative to a state's largest value: float32, bfloat16 autocast.
ROUNDING, HALF_ROUNDING = 1e-3, 0.1
WAITING = 2**24  # numbers that are written to disk at a time, 64 MB in float32: the most that an interruption loses


@dataclass(frozen=True)
class AudioReader:
    """The inputs of an audio encoder from rows with `audio`, `audio_hash` and `duration`."""

    extractor: FeatureExtractionMixin
    clips: ClipArguments
    budget: float | None = 36.0  # padded seconds of audio in a batch; None for eight clips
    exact: bool = False  # only clips of equal length share a batch: for padding-sensitive encoders
    least: int = 1  # samples that the extractor needs (`Encoder.least`)

    @property
    def settings(self) -> tuple:
        """Everything besides the encoder and the clip that the states depend on."""
        return self.extractor.to_json_string(), *vars(self.clips).values()

    def name(self, row: dict) -> str | None:
        """The row's name in the cache; None if there is nothing to encode."""
        return row["audio_hash"] and clip_name(row)

    def lengths(self, rows: Dataset) -> list[float]:
        """Lengths in seconds, for batches."""
        if self.exact and trims(self.extractor, self.clips) is not None:
            return list(range(len(rows)))  # trimmed, clips of equal length may differ: each is encoded alone
        durations = trimmed_durations(rows, trims(self.extractor, self.clips))
        return audio.seconds_read(durations, self.clips.min_seconds, self.clips.max_seconds).tolist()

    def inputs(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """The padded batch of rows, as the model's processor makes it."""
        clips = [read_clip(row, self.extractor.sampling_rate, self.clips) for row in rows]
        batch = extract(self.extractor, clips, self.least)
        return {"inputs": batch[self.extractor.model_input_names[0]], "attention_mask": batch["attention_mask"]}


@dataclass(frozen=True)
class TextReader:
    """The inputs of a text encoder from rows with `text`, cleaned by `clean_text`; the methods are `AudioReader`'s."""

    tokenizer: PreTrainedTokenizerBase
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


def tokenizer_settings(tokenizer: PreTrainedTokenizerBase) -> str:
    """All settings of a tokenizer, except truncation and padding, which the last call has set."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # not of the tokenizers library
        settings = sorted((name, str(value)) for name, value in tokenizer.init_kwargs.items())
        return repr((type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), settings))
    backend = copy.deepcopy(backend)
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str()


def trims(extractor: FeatureExtractionMixin, clips: ClipArguments) -> float | None:
    """The dB of trimming, by the flags or the feature extractor; None without trimming. SerError: by both."""
    own = getattr(extractor, "trim_db", None)
    if own is not None and clips.trim_db is not None:
        raise SerError(f"--trim_db {clips.trim_db:g}: the checkpoint trims clips itself, at {own:g} dB; leave it out")
    return own if clips.trim_db is None else clips.trim_db


def read_clip(row: dict, rate: int, clips: ClipArguments) -> np.ndarray | None:
    """A row's samples at `rate` Hz (those of its window, if it is one), trimmed, at its `speed` if it is a copy,
    centre-cropped and zero-padded by the flags; None without audio."""
    if row.get("audio") is None:
        return None
    times = {"start": row.get("window_start"), "end": row.get("window_end")}
    change = partial(speed, factor=row["speed"]) if row.get("speed") else None
    return audio.read_clip(row["audio"], rate, **vars(clips), **times, change=change)


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of a model's weights and configuration, whatever path it was loaded from, without LayerDrop, which a layer
    sum sets to 0."""
    digest, config = xxhash.xxh3_128(), model.config.to_dict()
    config = {name: value for name, value in config.items() if not (name.startswith("_") or "layerdrop" in name)}
    digest.update(repr(sorted(config.items(), key=lambda item: item[0])).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def open_store(
    encoder: PreTrainedModel,
    reader: AudioReader | TextReader,
    layers: int | Sequence[int],
    pooling: str | None,
    half: bool = False,
    autocast: bool = False,
) -> Store:
    """The cache of an encoder's hidden states. `layers`: all if it is their number, the last if it is 1, else those
    numbers. `pooling` is over frames; None keeps them. `half`: in half precision; `autocast`: encoded under bfloat16
    autocast."""
    precision = (half, "bfloat16") if autocast else (half,)
    return Store(
        settings_folder("states", __file__, fingerprint(encoder), layers, pooling, reader.settings, *precision)
    )


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
    names = [reader.name(row) for row in unread.to_list()]
    with process.local_main_process_first():  # the others find trimmed lengths in the cache
        lengths = reader.lengths(rows)
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
    alike = len({one if one is None else one.shape for one in states}) == 1
    if alike and states[0] is not None and states[0].shape[1]:  # vectors, as a rule: a tenth of the time
        batch = torch.stack(states).float()
        return batch, torch.ones(len(batch), batch.shape[2], dtype=torch.bool)
    frames = max([1, *(one.shape[1] for one in states if one is not None)])
    batch = torch.zeros(len(states), shape[0], frames, shape[1])
    mask = torch.zeros(len(states), frames, dtype=torch.bool)
    for row, one in enumerate(states):
        if one is not None:
            batch[row, :, : one.shape[1]] = one
            mask[row, : one.shape[1]] = True
    return batch, mask


@dataclass(frozen=True)
class Source:
    """An encoder of a model, and how its hidden states are cached."""

    reader: AudioReader | TextReader
    encoder: PreTrainedModel
    encode: Callable[..., tuple[torch.Tensor, torch.Tensor]]  # inputs to the states that are cached, and their mask
    layers: int | Sequence[int]  # that are cached, as in `open_store`
    pooling: str | None
    shape: tuple[int, int]  # layers and width that the head reads
    half: bool  # cached in half precision
    autocast: bool  # encoded under bfloat16 autocast
    selected: Sequence[int] | None = None  # the layers that the head reads among the cached ones; None: all


@dataclass(frozen=True)
class States:
    """The cached hidden states of a model's encoders, by modality."""

    sources: dict[str, Source]
    stores: dict[str, Store]
    # Subtracted from a speaker's states, `(layers, 1, dim)` by `voice` of a row: the speaker's mean minus that of an
    # average training speaker.
    shifts: dict[tuple, torch.Tensor] | None = None
    # Estimated speakers, by the id of a row whose speaker is not used (`with_estimated_speakers`).
    estimated: Mapping[str, str] = field(default_factory=dict)

    def find(self, kind: str, row: dict) -> torch.Tensor | None:
        """The states `(layers, frames, dim)` of a row that the head reads, or None where the modality is missing."""
        name = self.sources[kind].reader.name(row)
        return None if name is None else self.read(kind, row, self.stores[kind][name])

    def read(self, kind: str, row: dict, cached: torch.Tensor) -> torch.Tensor:
        """What the head reads of the cached states of a row."""
        selected = self.sources[kind].selected
        states = cached if selected is None else cached[selected]
        return states if self.shifts is None else states - self.shifts[self.voice(row)]

    def voice(self, row: dict) -> tuple:
        """Whose voice a row is: a copy at another speed has another."""
        return self.estimated.get(row["id"], row["speaker"]), row.get("speed")

    @property
    def half(self) -> bool:
        """Whether any are cached in half precision."""
        return any(source.half for source in self.sources.values())

    @property
    def remarks(self) -> list[str]:
        """Lines of the report."""
        return ["scored on hidden states in half precision; the saved model is float32"] if self.half else []


def with_estimated_speakers(states: States, parts: Mapping[str, Dataset]) -> tuple[States, SpeakerMap]:
    """States whose test speakers are estimated from all test clips, by a map that is fitted to train. Raises SerError:
    as `learnable`."""

    def vectors(rows: list[dict]) -> np.ndarray:
        return np.stack([states.find("audio", row).double().mean(dim=1).flatten().numpy() for row in rows])

    rows = {name: select_present(part, StateCollator.columns).to_list() for name, part in parts.items()}
    train = [row for row in rows["train"] if row.get("speed") is None]
    speaker_map = fit_map(vectors(train), [row["speaker"] for row in train])
    groups = group(speaker_map, vectors(rows["test"]))
    estimated = {row["id"]: f"estimated speaker {number}" for row, number in zip(rows["test"], groups, strict=True)}
    return replace(states, estimated=estimated), speaker_map


def with_shifts(states: States, parts: Mapping[str, Dataset]) -> States:
    """Speaker-normalised states: minus the mean over all of the speaker's clips, each with equal weight; where these
    are too few (`FEWEST`, `FEWEST_ALIKE`) minus that of an average speaker. No label is read."""
    rows = [row for part in parts.values() for row in select_present(part, StateCollator.columns).to_list()]
    clips = Counter(map(states.voice, rows))
    means = means_by((states.voice(row), states.find("audio", row).double().mean(dim=1, keepdim=True)) for row in rows)
    trained = sorted(set(parts["train"]["speaker"][:]))
    average = torch.stack([means[speaker, None] for speaker in trained]).mean(dim=0)
    fewest = dict.fromkeys(states.estimated.values(), FEWEST_ALIKE)
    few = [one for one in means if clips[one] < fewest.get(one[0], FEWEST)]
    # Those of train are one speaker together: the mean of train stays the average speaker's, which the model has.
    pooled = [means[one] for one in few if one[0] in trained]
    means |= {one: torch.stack(pooled).mean(dim=0) if one[0] in trained else average for one in few}
    return replace(states, shifts={one: (mean - average).float() for one, mean in means.items()})


class StateCollator:
    """Rows to batches of cached states; the modality `without` is withheld."""

    columns = ("id", "audio_hash", "text", "label", "window_start", "window_end", "speed", "speaker")

    def __init__(self, states: States, without: str | None = None):
        self.states, self.without = states, without

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = {"labels": torch.tensor([row["label"] for row in rows])}
        for kind, source in self.states.sources.items():
            if kind != self.without:
                states = [self.states.find(kind, row) for row in rows]
                batch[f"{kind}_states"], batch[f"{kind}_mask"] = pad_states(states, source.shape)
        return batch


def sources_of(
    model: SerForAudioClassification | SerFusionForClassification,
    processor: FeatureExtractionMixin | SerFusionProcessor,
    clips: ClipArguments,
    budget: float | None = 36.0,
    autocast: bool = False,  # encoded under bfloat16 autocast: all are cached in half precision
) -> dict[str, Source]:
    """The encoders of a model, and how their states are cached: pooled over frames where the head can do without them.
    An audio model with a layer mix has vectors of all layers cached, whichever the head reads; frames of an audio model
    are cached in half precision. Where its lower layers alone are frozen, those are the frames after the last of them.
    """
    fused, config = isinstance(model, SerFusionForClassification), model.config
    extractor, encoder = (processor.feature_extractor, model.audio_encoder) if fused else (processor, model.encoder)
    audio = config.audio_config
    pooling = config.pooling if model.pools_audio else None

    def encode_layers(inputs: torch.Tensor, attention_mask: torch.Tensor | None = None):
        mask = None if config.context == "full" else attention_mask
        return pool_layers(*audio_states(encoder, inputs, mask, every_layer=True), pooling)

    encode, layers, selected, shape = model.encode_audio, model.audio_shape[0], None, model.audio_shape
    if not fused and model._frozen_layers:
        encode, layers, pooling, shape = model.encode_frozen, (model._frozen_layers,), None, (1, config.hidden_size)
    elif not fused and config.layer_mix == "last":
        layers = 1  # not the last of all layers: some encoders norm or shorten it afterwards
    elif not fused and pooling is None:
        layers = tuple(config.read_layers)
    elif not fused:
        encode, layers = encode_layers, layer_count(audio)
        selected = config.read_layers if config.read_layers != list(range(layers)) else None
    sources = {
        "audio": Source(
            AudioReader(extractor, clips, budget, padding_sensitive(audio), describe_audio(audio).least),
            encoder,
            encode,
            layers,
            pooling,
            shape,
            half=autocast or (pooling is None and not fused),
            autocast=autocast,
            selected=selected,
        )
    }
    if fused:
        sources["text"] = Source(
            TextReader(processor.tokenizer, processor.text_cleaning, processor.max_text_length),
            model.text_encoder,
            model.encode_text,
            model.text_shape[0],
            config.text_pooling if model.pools_text else None,
            model.text_shape,
            half=autocast,
            autocast=autocast,
        )
    return sources


def encode(
    model: SerForAudioClassification | SerFusionForClassification,
    processor: FeatureExtractionMixin | SerFusionProcessor,
    splits: Mapping[str, Dataset],
    clips: ClipArguments,
    training: TrainingArguments,
    budget: float | None,
) -> States:
    """Encode each utterance of all parts once by each frozen encoder, unless it is cached. `training` has the device,
    precision and progress bar; `budget` is in padded seconds of audio per batch (None: eight clips)."""
    device = training.device
    autocast = device.type == "cuda" and (training.bf16 or training.fp16)
    sources = sources_of(model, processor, clips, budget, autocast)
    stores = {
        kind: open_store(source.encoder, source.reader, source.layers, source.pooling, source.half, source.autocast)
        for kind, source in sources.items()
    }
    columns = ("id", "audio", "text", "audio_hash", "duration", "window_start", "window_end", "speed")
    rows = concatenate_datasets([select_present(part, columns) for part in splits.values() if len(part)])
    model.to(device).eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for kind, source in sources.items():
            title = None if training.disable_tqdm else f"{kind} encoder"
            fill(stores[kind], rows, source.reader, source.encode, device, source.half, title)
    return States(sources, stores)


@torch.no_grad()
def check_states(model: SerForAudioClassification | SerFusionForClassification, states: States, rows: Dataset) -> float:
    """Compare the cached states of a few rows with those of each utterance encoded alone, as in a pipeline: the figures
    must be those of the saved model. Returns the largest difference, relative to the largest value of its state. Raises
    ValueError: it is larger than rounding explains, which would be a defect."""
    differences, device = [0.0], model.device
    for row in rows:
        for kind, source in states.sources.items():
            if (cached := states.find(kind, row)) is not None:
                inputs = source.reader.inputs([row])
                with torch.autocast(device.type, torch.bfloat16, enabled=source.autocast):
                    encoded, real = source.encode(**{name: value.to(device) for name, value in inputs.items()})
                now = states.read(kind, row, encoded[0][:, real[0]].float().cpu())
                differences.append(float((cached.float() - now).abs().max() / now.abs().max().clamp(min=1e-6)))
    largest = float(np.max(differences))  # NaN if any is, which `max` would pass over
    if not largest < (HALF_ROUNDING if states.half else ROUNDING):
        raise ValueError(f"an utterance encoded alone differs from its cached states by {largest:.2g}")
    return largest


# ---- heads over cached states


def head_of(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of one of our models without its encoders, which is trained on hidden states and saved in checkpoints."""
    # By the memo, deepcopy replaces the encoders by None.
    encoders = [child for name, child in model.named_children() if not name.startswith("ser_")]
    head = copy.deepcopy(model, {id(encoder): None for encoder in encoders})
    head._frozen = False  # it has no encoder to keep in evaluation mode
    return head


@torch.no_grad()
def put_back(head: PreTrainedModel, model: PreTrainedModel) -> PreTrainedModel:
    """The whole model with a trained head."""
    left = model.load_state_dict(head.state_dict(), strict=False)
    if left.unexpected_keys or any(key.startswith("ser_") for key in left.missing_keys):
        raise ValueError(f"not the head of this model: {left}")
    return model
