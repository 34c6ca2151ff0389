"""The usual ways, each rebuilt from its description; what they read by torchaudio or torchcodec, soundfile reads."""

import random
from pathlib import Path

import soundfile as sf
import torch

CROP_S = 20.0  # `--max_length_seconds` of transformers' example


def read(path: str | Path, rate: int):
    """Mono float32 at `rate` Hz. soxr resamples here too: the peers' torchaudio would be slower."""
    samples, found = sf.read(path, dtype="float32")
    if samples.ndim > 1:
        samples = samples.mean(axis=1)
    if found != rate:
        import soxr

        samples = soxr.resample(samples, found, rate)
    return samples


class ExtractorCollator:
    """Decodes on access and lets the feature extractor normalise and pad, with a mask (results are equal to ours)."""

    def __init__(self, extractor):
        self.extractor = extractor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        rate = self.extractor.sampling_rate
        clips = [read(row["path"], rate) for row in rows]
        batch = self.extractor(clips, sampling_rate=rate, padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}


def arrow_floats(rows: list[dict], extractor, file: Path | None = None, names: tuple[str, ...] = ("input_values",)):
    """soxan's corpus: every clip is decoded and goes through the extractor in `Dataset.map`, floats into Arrow (in
    `file`; None keeps them in memory). Rows are read as lists of floats, and padded to the longest of a batch by the
    Trainer. `names` are what is stored of the extractor's output."""
    from datasets import Dataset

    def prepare(batch: dict) -> dict:
        clips = [read(path, extractor.sampling_rate) for path in batch["path"]]
        made = extractor(clips, sampling_rate=extractor.sampling_rate)
        return {"labels": batch["label"], **{name: made[name] for name in names}}

    options = {"batch_size": 100, "remove_columns": ["path", "label"], "cache_file_name": file and str(file)}
    return Dataset.from_list(rows).map(prepare, batched=True, **options)


def cropped(rows: list[dict], extractor):
    """transformers' example for audio classification: in `set_transform` a clip is decoded, cropped to a random 20 s
    and given to the extractor; the Trainer pads."""
    from datasets import Dataset

    most = round(CROP_S * extractor.sampling_rate)

    def transform(batch: dict) -> dict:
        clips = [read(path, extractor.sampling_rate) for path in batch["path"]]
        starts = [random.randint(0, max(0, len(clip) - most)) for clip in clips]
        clips = [clip[start : start + most] for clip, start in zip(clips, starts, strict=True)]
        inputs = extractor(clips, sampling_rate=extractor.sampling_rate)
        return {"input_values": inputs.input_values, "labels": batch["label"]}

    dataset = Dataset.from_list(rows)
    dataset.set_transform(transform)
    return dataset


def read_padded(rows: list[dict]) -> dict[str, torch.Tensor]:
    """SpeechBrain's batch: clips read on the fly and padded, then normalised with their padding, beside a mask."""
    clips = [torch.from_numpy(read(row["path"], 16000)) for row in rows]
    lengths = torch.tensor([len(clip) for clip in clips])
    values = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    return {
        "input_values": torch.nn.functional.layer_norm(values, values.shape[1:]),
        "attention_mask": (torch.arange(values.shape[1]) < lengths.unsqueeze(-1)).long(),
        "labels": torch.tensor([row["label"] for row in rows]),
    }
