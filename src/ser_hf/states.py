"""The states that a fusion model's frozen encoders make of a corpus: where they are kept, and how batches are made of
them."""

import numpy as np
import torch

from .audio import decode
from .embeddings import device_of, fill, fingerprint, pad_states
from .models import SerFusionForClassification
from .models.text_cleaning import clean_text
from .store import Store, content_hash, settings_folder
from .trimming import crop, fit_length, trim

MODALITIES = ("audio", "text")
BATCH_CHARACTERS = 16384  # padded length of a batch of texts: about 4000 tokens


def read_clip(row: dict, rate: int, data, generator: np.random.Generator | None = None) -> np.ndarray | None:
    """A row's samples, trimmed and of the length that the flags say; None where it has no audio.

    Args:
        row: With `audio`.
        rate: In Hz.
        data: `ClipArguments`.
        generator: Draws the stretch that is taken of a too long clip; its middle otherwise.
    """
    if row.get("audio") is None:
        return None
    samples = decode(row["audio"], rate)
    if data.trim_db is not None:
        first, end = trim(samples, rate, data.trim_db)
        samples = samples[first:end]
    if data.max_seconds is not None:
        samples = crop(samples, data.max_seconds, rate, "centre" if generator is None else "random", generator)
    return fit_length(samples, round(data.min_seconds * rate))


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


class States:
    """Where the states of a fusion model's two encoders are kept, and under which name an utterance's are.

    Args:
        model, processor: The fusion model and its processor.
        data: `ClipArguments`.
        half: Whether they are kept in half precision.
    """

    def __init__(self, model: SerFusionForClassification, processor, data, half: bool = False):
        config = model.config
        self.cleaning = processor.text_cleaning
        self.shapes = {"audio": model.audio_shape, "text": model.text_shape}
        pooling = {
            "audio": config.pooling if model.pools_audio else None,
            "text": config.text_pooling if model.pools_text else None,
        }
        settings = {
            "audio": (processor.feature_extractor.to_json_string(), data.trim_db, data.min_seconds, data.max_seconds),
            "text": (processor.tokenizer.backend_tokenizer.to_str(), processor.max_text_length, self.cleaning),
        }
        encoders = {"audio": model.audio_encoder, "text": model.text_encoder}
        self.stores = {
            kind: Store(
                settings_folder(
                    f"{kind}-states",
                    *(fingerprint(encoders[kind]), self.shapes[kind], pooling[kind], settings[kind], half),
                )
            )
            for kind in MODALITIES
        }

    def name(self, kind: str, row: dict) -> str | None:
        """Under which an utterance's states are kept; None where it has no audio, or no text."""
        if kind == "audio":
            return row["audio_hash"]
        cleaned = clean_text(row["text"], self.cleaning).strip()
        return content_hash(cleaned) if cleaned else None

    def find(self, kind: str, row: dict) -> torch.Tensor | None:
        """`(layers, frames, dim)`, or None where the modality is missing."""
        name = self.name(kind, row)
        return None if name is None else self.stores[kind][name]


def encode(model: SerFusionForClassification, processor, splits, flags) -> States:
    """Each utterance of all parts through each encoder once, unless it is cached; see `embeddings.fill`."""
    from datasets import concatenate_datasets

    training, data = flags.training, flags.data
    half = training.device.type == "cuda" and (training.bf16 or training.fp16)
    states = States(model, processor, data, half)
    columns = ("id", "audio", "text", "audio_hash", "duration")
    rows = concatenate_datasets([part.select_columns(columns) for part in splits.values() if len(part)])
    keys = rows.select_columns(["audio_hash", "text"]).to_list()
    rate = processor.feature_extractor.sampling_rate
    model = model.to(training.device).eval()

    def inputs(batch: dict) -> dict:
        return {name: value.to(device_of(model)) for name, value in batch.items()}

    def read_audio(numbers: list[int]) -> dict:
        clips = [read_clip(rows[i], rate, data) for i in numbers]
        batch = processor(audio=clips, sampling_rate=rate, return_tensors="pt")
        return inputs({"inputs": batch[model.main_input_name], "attention_mask": batch["attention_mask"]})

    def read_text(numbers: list[int]) -> dict:
        batch = processor(text=[keys[i]["text"] for i in numbers], return_tensors="pt")
        return inputs({"input_ids": batch["input_ids"], "attention_mask": batch["text_attention_mask"]})

    options = {"half": half}
    with torch.autocast(training.device.type, torch.bfloat16, enabled=half):
        for kind, read, run, lengths, budget in (
            ("audio", read_audio, model.encode_audio, rows["duration"][:], flags.run.batch_seconds),
            ("text", read_text, model.encode_text, [len(key["text"] or "") for key in keys], BATCH_CHARACTERS),
        ):
            names = [states.name(kind, key) for key in keys]
            exact = kind == "audio" and padding_matters(model)
            title = None if training.disable_tqdm else f"{kind} encoder"
            fill(states.stores[kind], names, lengths, read, run, budget, exact, say=title, **options)
    return states


def padding_matters(model: SerFusionForClassification) -> bool:
    """Whether the audio encoder hears padding: group norm over time, or a network over spectrograms."""
    audio = model.config.audio_config
    return audio.model_type == "ser_spectrogram" or getattr(audio, "feat_extract_norm", None) == "group"
