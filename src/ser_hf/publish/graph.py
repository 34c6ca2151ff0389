"""A model with its feature extraction as one module that torch's tracing exporter writes as ONNX, samples to logits.

Nothing here may branch on a size: a trace has the sizes as tensors and would keep one branch for all clips. Spectra are
computed in float64, as products with fixed matrices: ONNX's own transform is not in every runtime, and in float32 it is
wrong by more than 0.001 dB.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.onnx.operators import shape_as_tensor

from ..models import SerPipeline
from ..models.audio_blocks import FRAME_S
from ..models.encoders import describe, extract, padding_sensitive
from ..models.feature_extraction_spectrogram import LEAST_POWER, cosines, mel_filters

TEXT_INPUTS = ("input_ids", "text_attention_mask")
OPSET = 17  # of 2022; what is used here is older
# Samples `(batch, samples)` at the extractor's rate and lengths of clips `(batch,)` to the model's input and its mask.
FrontEnd = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


# ---- pieces


def _places(size: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`(batch, size)`, True where a place belongs to the clip."""
    return torch.arange(size) < lengths.unsqueeze(1)


def _at_least(samples: torch.Tensor, least: int) -> torch.Tensor:
    """Samples with zeros after them, where there are fewer than `least`."""
    size = shape_as_tensor(samples)[1].clamp(min=least)
    return torch.cat([samples, samples.new_zeros((1, least)).expand(samples.shape[0], -1)], dim=1)[:, :size]


def _padded(samples: torch.Tensor, before: int, after: int) -> torch.Tensor:
    zeros = samples.new_zeros((1, max(before, after))).expand(samples.shape[0], -1)
    return torch.cat([zeros[:, :before], samples, zeros[:, :after]], dim=1)


def _power(samples: torch.Tensor, window: torch.Tensor, hop: int, n_fft: int, frames: torch.Tensor) -> torch.Tensor:
    """Power spectra `(batch, frames, 1 + n_fft // 2)` in float64 of windows of `samples`, which begin every `hop`."""
    size = len(window)
    angles = 2 * math.pi / n_fft * torch.outer(torch.arange(size), torch.arange(n_fft // 2 + 1)).double()
    waves = torch.cat([angles.cos(), angles.sin()], dim=1) * window.double().unsqueeze(1)
    index = torch.arange(frames).unsqueeze(1) * hop + torch.arange(size)
    real, imaginary = (samples.double()[:, index] @ waves).square().chunk(2, dim=-1)
    return real + imaginary


def _ends(where: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first place `(batch, 1)` that is true, and the one after the last; of a row without any 0 and `size`."""
    first, back = where.float().argmax(dim=1, keepdim=True), where.float().flip(1).argmax(dim=1, keepdim=True)
    return first, size - back


def _trimmed(samples: torch.Tensor, lengths: torch.Tensor, rate: int, trim_db: float):
    """Clips without silence at both ends, as `audio_blocks.trim` cuts them, and their lengths."""
    half, size = max(1, round(FRAME_S * rate / 2)), shape_as_tensor(samples)[1]
    places = torch.arange(size)
    start, end = _ends(samples != 0, size)  # those of a clip of zeros are its own
    running = _padded(samples.double().square().cumsum(dim=1), 1, 0)
    energy = running[:, torch.minimum(places + half, size)] - running[:, (places - half).clamp(min=0)]
    inside = (places >= start) & (places < torch.minimum(end, lengths.unsqueeze(1)))
    energy = torch.where(inside, energy, torch.full_like(energy, -1.0))
    first, end = _ends(energy >= energy.amax(dim=1, keepdim=True) * 10 ** (-trim_db / 10), size)
    first, lengths = first.squeeze(1), (end - first).squeeze(1)
    place = torch.arange(lengths.amax())
    index = torch.minimum(first.unsqueeze(1) + place, size - 1)
    return samples.gather(1, index) * (place < lengths.unsqueeze(1)), lengths


# ---- feature extraction


def waveform(extractor, least: int) -> FrontEnd:
    """`Wav2Vec2FeatureExtractor`, and zeros after clips of fewer than `least` samples."""

    def front(samples, lengths):
        if extractor.do_normalize:
            count, exact = lengths.unsqueeze(1), samples.double()
            centred = exact - exact.sum(dim=1, keepdim=True) / count
            centred = centred * _places(shape_as_tensor(samples)[1], lengths)
            samples = (centred / (centred.square().sum(dim=1, keepdim=True) / count + 1e-7).sqrt()).float()
        samples = _at_least(samples, least)
        return samples, _places(shape_as_tensor(samples)[1], lengths.clamp(min=least)).long()

    return front


def log_mel(extractor, whole: bool) -> FrontEnd:
    """Whisper's features, of the clip, or with `whole` of the 30 s that the stock extractor pads it to."""
    hop, n_fft, half = extractor.hop_length, extractor.n_fft, extractor.n_fft // 2
    filters, trim_db = torch.as_tensor(extractor.mel_filters).double(), getattr(extractor, "trim_db", None)

    def front(samples, lengths):
        if trim_db is not None:
            samples, lengths = _trimmed(samples, lengths, extractor.sampling_rate, trim_db)
        frames, most = torch.div(shape_as_tensor(samples)[1] + hop - 1, hop, rounding_mode="floor"), extractor.n_samples
        # The loudest may be any frame that the clip takes part in, also two after its end.
        samples = _padded(samples, 0, most)[:, :most] if whole else _padded(samples, 0, n_fft + 2 * hop)
        mirrored = [samples[:, 1 : half + 1].flip(1), samples, samples[:, -half - 1 : -1].flip(1)]
        counted = torch.tensor(most // hop) if whole else frames + 2
        power = _power(torch.cat(mirrored, dim=1), torch.hann_window(n_fft), hop, n_fft, counted)
        values = (power @ filters).clamp(min=1e-10).log10()
        values = (torch.maximum(values, values.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        values = values if whole else values[:, :frames]
        mask = _places(frames, torch.div(lengths + hop - 1, hop, rounding_mode="floor"))
        return values.transpose(1, 2).float(), mask.long()

    return front


def spectrogram(extractor, least: int) -> FrontEnd:
    """`SerSpectrogramFeatureExtractor`, and padding after clips of fewer than `least` frames."""
    hop, n_fft, size, rate = extractor.hop_length, extractor.n_fft, extractor.win_length, extractor.sampling_rate
    window = (torch.hamming_window if extractor.window_type == "hamming" else torch.hann_window)(size).double()
    filters = mel_filters(n_fft, extractor.n_mels, extractor.f_min, extractor.f_max or rate / 2, rate).T.double()
    before = n_fft // 2 - (n_fft - size) // 2
    mean = None if extractor.mean_spectrum is None else torch.tensor(extractor.mean_spectrum).double()

    def front(samples, lengths):
        if extractor.trim_db is not None:
            samples, lengths = _trimmed(samples, lengths, rate, extractor.trim_db)
        samples = _at_least(samples, (least - 1) * hop)
        frames = torch.div(shape_as_tensor(samples)[1], hop, rounding_mode="floor") + 1
        counts = torch.div(lengths, hop, rounding_mode="floor") + 1
        mask = _places(frames, counts)
        real = mask.unsqueeze(2)
        power = (_power(_padded(samples, before, size), window, hop, n_fft, frames) @ filters).clamp(min=LEAST_POWER)
        if extractor.reference == "max":
            zero = torch.where(real, power, torch.zeros_like(power)).amax(dim=(1, 2), keepdim=True)
        else:
            zero = torch.tensor(max(extractor.reference, LEAST_POWER)).double()
        values = 10 * (power / zero).log10()
        if extractor.top_db is not None:
            highest = torch.where(real, values, torch.full_like(values, -1e9)).amax(dim=(1, 2), keepdim=True)
            values = torch.maximum(values, highest - extractor.top_db)
        if extractor.kind == "mfcc":
            values = values @ cosines(extractor.n_mfcc, extractor.n_mels).T.double()
        if mean is not None:
            values = values - mean
        if extractor.normalize == "clip":
            numbers = counts.view(-1, 1, 1) * extractor.feature_size
            values = values - (values * real).sum(dim=(1, 2), keepdim=True) / numbers
            values = values / ((values * real).square().sum(dim=(1, 2), keepdim=True) / numbers + 1e-7).sqrt()
        return (values * real).float(), mask.long()

    return front


# ---- the whole


class Graph(nn.Module):
    """The model of a pipeline from samples to logits.

    `inputs` names the inputs in order, and the dimensions of each that may change. `samples` are `(batch, samples)`,
    mono, at the extractor's rate; `lengths` `(batch,)` are the real samples of each clip, zeros follow. Without it the
    clips of a batch are equally long; without a `batch` there is one. `input_ids` and `text_attention_mask` `(batch,
    tokens)` are of the tokenizer of a fusion model; a mask of zeros is a text that is missing. Where the feature
    extraction is not in the graph there are the feature extractor's outputs instead of samples.
    """

    def __init__(self, pipe: SerPipeline):
        super().__init__()
        self.model, extractor = pipe.model.float().eval(), pipe.feature_extractor
        config = self.model.config
        audio = getattr(config, "audio_config", config)
        description, name = describe(audio), type(extractor).__name__
        sensitive, self.front, self.masked = padding_sensitive(audio), None, True
        self.name = extractor.model_input_names[0]
        if name == "Wav2Vec2FeatureExtractor":
            self.front, self.masked = waveform(extractor, description.steps(audio, 1)), not sensitive
        elif name in ("WhisperFeatureExtractor", "ClipWhisperFeatureExtractor"):
            whole = name == "WhisperFeatureExtractor"
            self.front, self.masked = log_mel(extractor, whole), not whole
            sensitive = sensitive or whole
        elif name == "SerSpectrogramFeatureExtractor":
            network = next(module for module in self.model.modules() if hasattr(module, "least_rows"))
            self.front = spectrogram(extractor, network.least)
        # Clips that are trimmed by unequal times share no batch of a network that knows no mask.
        alone = sensitive and getattr(extractor, "trim_db", None) is not None
        batch = {} if alone else {0: "batch"}
        if self.front is not None:
            self.inputs = {"samples": {**batch, 1: "samples"}} | ({} if sensitive else {"lengths": batch})
        else:
            self.inputs = {name: {0: "batch", 1: "frames"} for name in extractor.model_input_names}
            if config.model_type == "ser_functionals":
                self.inputs = {self.name: {0: "batch"}}
        if hasattr(config, "text_config"):
            self.inputs |= dict.fromkeys(TEXT_INPUTS, {**batch, 1: "tokens"})
        self.batch = batch
        for module in self.modules():  # torch's exporter keeps the length of a sequence that is key and value at once
            if isinstance(module, nn.MultiheadAttention):
                module.register_forward_pre_hook(lambda _, inputs: (*inputs[:2], inputs[2].clone()))

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(self.inputs, values, strict=True))
        if self.front is not None:
            samples = given.pop("samples")
            size = shape_as_tensor(samples)[1]
            lengths = given.pop("lengths", None)
            lengths = size.expand(samples.shape[0]) if lengths is None else lengths
            samples = samples * _places(size, lengths)
            features, mask = self.front(samples, lengths)
            given |= {self.name: features} | ({"attention_mask": mask} if self.masked else {})
        return self.model(**given, return_dict=False)[0]


def feed(pipe: SerPipeline, inputs: Iterable[str], clips: list[np.ndarray], texts: list[str | None]) -> dict:
    """The graph's inputs by name, as numpy arrays, for clips at the extractor's rate and their texts, None = missing.
    Where the graph has no `lengths` the clips must be equally long."""
    batch = {}
    if "samples" in inputs:
        most = max(map(len, clips))
        batch["samples"] = np.stack([np.pad(clip, (0, most - len(clip))) for clip in clips]).astype(np.float32)
        batch["lengths"] = np.array([len(clip) for clip in clips])
    else:
        description = describe(getattr(pipe.model.config, "audio_config", pipe.model.config))
        batch |= extract(pipe.feature_extractor, clips, description.least if description else 1)
    if "input_ids" in inputs:
        words = pipe.processor(text=texts)
        words = words or {name: np.zeros((len(texts), 1), dtype=np.int64) for name in TEXT_INPUTS}
        batch |= words
    return {name: np.asarray(batch[name]) for name in inputs}


def write(pipe: SerPipeline, file: Path) -> dict[str, dict[int, str]]:
    """Write the graph of a pipeline's model as ONNX; returns its inputs and which dimensions of them may change."""
    graph, rate = Graph(pipe).eval(), pipe.feature_extractor.sampling_rate
    draw = np.random.default_rng(0).standard_normal(round(1.3 * rate)).astype(np.float32) * 0.1
    clips = [draw, draw[: rate if "lengths" in graph.inputs else None]][: 2 if graph.batch else 1]
    example = feed(pipe, graph.inputs, clips, ["I am not so sure", "No"][: len(clips)])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of branches on sizes: the models' own, for clips that the graph makes longer
        torch.onnx.export(
            graph,
            tuple(torch.from_numpy(example[name]) for name in graph.inputs),
            str(file),
            dynamo=False,  # the newer exporter takes 40 times as long and unrolls LSTMs
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=["logits"],
            dynamic_axes={**graph.inputs, "logits": graph.batch},
        )
    return graph.inputs
