"""Samples to mel spectrograms in dB, or to MFCC, as librosa computes them, without librosa or torchaudio. Ships to the
Hub.

The defaults are the reference work's: 8 kHz, trimmed at 30 dB, n_fft 1024, Hamming windows of 512 samples every 100,
128 mels up to half the rate, dB against the maximum. RAVDESS's 03-01-01-01-01-02-01.wav has shape (109, 128) with them
(one frame fewer where silence is trimmed on librosa's grid).
"""

import copy
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from transformers import BatchFeature
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor

from .audio_blocks import check_trim_db, clips_at, one_clip, trimmed
from .common import check_choice

LEAST_POWER = 1e-10  # librosa.power_to_db's amin


@lru_cache(maxsize=8)
def mel_filters(n_fft: int, n_mels: int, f_min: float, f_max: float, rate: int) -> torch.Tensor:
    """`(n_mels, n_fft // 2 + 1)`, as librosa.filters.mel: Slaney's scale and normalisation."""
    bank = mel_filter_bank(n_fft // 2 + 1, n_mels, f_min, f_max, rate, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(np.ascontiguousarray(bank.T))


@lru_cache(maxsize=8)
def cosines(n_mfcc: int, n_mels: int) -> torch.Tensor:
    """`(n_mfcc, n_mels)`, the orthonormal DCT-II."""
    angles = np.pi / n_mels * np.outer(np.arange(n_mfcc), np.arange(n_mels) + 0.5)
    matrix = np.sqrt(2.0 / n_mels) * np.cos(angles)
    matrix[0] /= np.sqrt(2.0)
    return torch.from_numpy(matrix)


class SerSpectrogramFeatureExtractor(SequenceFeatureExtractor):
    """Mel spectrogram (power, in dB) or MFCC of clips; agrees with librosa to 1e-3.

    Args:
        sampling_rate: Rate of the samples in Hz.
        kind: `mel`, or `mfcc`: the DCT of the mel spectrogram.
        n_mels, n_mfcc: Number of mel bands, and of coefficients for `mfcc`.
        n_fft, win_length, hop_length: In samples; windows lie in the middle of the transform's frame, frames are
            centred, and the clip is zero-padded at both ends.
        window_type: `hamming` or `hann`, periodic. (transformers does not save an attribute called `window`.)
        f_min, f_max: Range of the bands in Hz; None is half the rate.
        trim_db: Trim silence at both ends, this many dB below the loudest (`audio_blocks.trim`); None keeps it.
        top_db: Floor of the values, in dB below the clip's highest; None for no floor.
        reference: The power of 0 dB: `max`, the clip's highest power, or a number. None is `max` for mel and 1.0 for
            mfcc, the defaults of the reference work and of librosa.feature.mfcc.
        normalize: `clip` normalises all values of a clip together to zero mean and unit variance, `none` leaves dB.
        mean_spectrum: `(rows,)`, subtracted from every frame before `normalize`; None subtracts nothing. Models with
            speaker normalisation have the mean spectrum of their training speakers here, for clips of unknown
            speakers; `adapted` replaces it by one speaker's.
        padding_value: Value of padded frames. None is the floor `-top_db` where values have one, 0 otherwise.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        sampling_rate: int = 8000,
        kind: str = "mel",
        n_mels: int = 128,
        n_mfcc: int = 40,
        n_fft: int = 1024,
        win_length: int = 512,
        hop_length: int = 100,
        window_type: str = "hamming",
        f_min: float = 0.0,
        f_max: float | None = None,
        trim_db: float | None = 30.0,
        top_db: float | None = 80.0,
        reference: str | float | None = None,
        normalize: str = "none",
        mean_spectrum: list[float] | None = None,
        padding_value: float | None = None,
        **kwargs,
    ):
        check_choice("kind", kind, ("mel", "mfcc"))
        check_choice("window_type", window_type, ("hamming", "hann"))
        check_choice("normalize", normalize, ("none", "clip"))
        if not 0 < win_length <= n_fft or hop_length < 1:
            sizes = f"win_length {win_length}, hop_length {hop_length}"
            raise ValueError(f"{sizes}: must be 1 or more, n_fft {n_fft} at most")
        check_trim_db(trim_db)
        if kind == "mfcc" and not 0 < n_mfcc <= n_mels:
            raise ValueError(f"n_mfcc {n_mfcc}: must be 1 to n_mels {n_mels}")
        rows = n_mels if kind == "mel" else n_mfcc
        if mean_spectrum is not None and len(mean_spectrum) != rows:
            raise ValueError(f"mean_spectrum of {len(mean_spectrum)} values: must be {rows}, one per row")
        reference = ("max" if kind == "mel" else 1.0) if reference is None else reference
        if padding_value is None:
            floor = kind == "mel" and reference == "max" and normalize == "none" and top_db is not None
            padding_value = -top_db if floor and mean_spectrum is None else 0.0
        kwargs.pop("feature_size", None)
        kwargs.setdefault("return_attention_mask", True)
        super().__init__(rows, sampling_rate, padding_value, **kwargs)
        self.kind, self.n_mels, self.n_mfcc = kind, n_mels, n_mfcc
        self.n_fft, self.win_length, self.hop_length, self.window_type = n_fft, win_length, hop_length, window_type
        self.f_min, self.f_max, self.trim_db, self.top_db = f_min, f_max, trim_db, top_db
        self.reference, self.normalize, self.mean_spectrum = reference, normalize, mean_spectrum

    @property
    def speaker_values(self) -> list[float] | None:
        """The values that `adapted` replaces; None without speaker normalisation."""
        return self.mean_spectrum

    def spectra(self, samples: torch.Tensor) -> torch.Tensor:
        """Features of clips `(batch, samples)` before `mean_spectrum` and `normalize`, untrimmed, on their device:
        `(batch, 1 + samples // hop_length, rows)`, in float64 where the device has it."""
        # In float32 torch's transform is wrong by 0.001 dB or more at -80 dB; Apple's devices have no float64.
        samples = samples.to(torch.float32 if samples.device.type == "mps" else torch.float64)
        shape = torch.hamming_window if self.window_type == "hamming" else torch.hann_window
        window = shape(self.win_length, dtype=samples.dtype, device=samples.device)
        sizes = self.n_fft, self.hop_length, self.win_length
        spectrum = torch.stft(samples, *sizes, window, pad_mode="constant", return_complex=True)
        top = self.f_max or self.sampling_rate / 2
        filters = mel_filters(self.n_fft, self.n_mels, self.f_min, top, self.sampling_rate)
        power = (filters.to(samples) @ spectrum.abs().square()).clamp(min=LEAST_POWER)
        zero = power.amax(dim=(1, 2), keepdim=True) if self.reference == "max" else max(self.reference, LEAST_POWER)
        values = 10 * (power / zero).log10()
        if self.top_db is not None:
            values = torch.maximum(values, values.amax(dim=(1, 2), keepdim=True) - self.top_db)
        values = cosines(self.n_mfcc, self.n_mels).to(samples) @ values if self.kind == "mfcc" else values
        return values.transpose(1, 2)

    def scaled(self, values: torch.Tensor, mean_spectrum: torch.Tensor | None = None) -> torch.Tensor:
        """Float32 features from `spectra`, `(..., frames, rows)` without padding, each clip on its own. `mean_spectrum`
        is the speaker's `(rows,)`, where it is known; it defaults to this extractor's, if it has one."""
        if mean_spectrum is None and self.mean_spectrum is not None:
            mean_spectrum = torch.tensor(self.mean_spectrum)
        if mean_spectrum is not None:
            values = values - mean_spectrum.to(values)
        if self.normalize == "clip":
            values = values - values.mean(dim=(-2, -1), keepdim=True)
            values = values / (values.square().mean(dim=(-2, -1), keepdim=True) + 1e-7).sqrt()
        return values.float()

    def unscaled(self, clip: np.ndarray) -> torch.Tensor:
        """`spectra` of one clip `(samples,)` after trimming by `trim_db`: `(frames, rows)`."""
        samples = trimmed(one_clip(clip), self.sampling_rate, self.trim_db)
        return self.spectra(torch.from_numpy(np.ascontiguousarray(samples)).unsqueeze(0))[0]

    def adapted(self, clips: Iterable) -> "SerSpectrogramFeatureExtractor":
        """A copy of this extractor for one speaker: its `mean_spectrum` is the mean over the speaker's `clips`.

        These are `(samples,)` each, ten or more in various emotions: if all are angry, the anger is subtracted with the
        voice. Silent clips are left out. ValueError: no clips, or a model without speaker normalisation.
        """
        if self.mean_spectrum is None:
            raise ValueError("this model was not trained with --speaker_norm: it has no use for a speaker's mean")
        means = [self.unscaled(clip).mean(dim=0) for clip in clips if np.any(clip)]
        if not means:
            raise ValueError("no clips of the speaker, or only silent ones")
        other = copy.deepcopy(self)
        other.mean_spectrum = torch.stack(means).mean(dim=0).tolist()
        return other

    def __call__(
        self,
        clips,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """`input_features` `(batch, frames, rows)` of one clip or several, and their `attention_mask` `(batch,
        frames)`, 1 = real frame. ValueError: another `sampling_rate`, in Hz, an empty clip, or unequal clips with
        `padding=False`.

        Args:
            clips: `(samples,)`, or a list of such or `(batch, samples)`.
            padding: True or `longest`: pad shorter clips at their end. False: all must have equally many frames.
                `max_length`: pad all to it.
            max_length: In samples, as clips are: `1 + max_length // hop_length` frames.
            truncation: Whether frames after `max_length` are left out.
            pad_to_multiple_of, return_attention_mask, return_tensors: As in `pad`, which counts in frames.
        """
        clips = clips_at(clips, sampling_rate, self.sampling_rate)
        features = [self.scaled(self.unscaled(clip)).numpy() for clip in clips]
        if padding in (False, "do_not_pad") and len({len(values) for values in features}) > 1:
            raise ValueError("clips of unequal lengths: give padding=True")
        frames = None if max_length is None else 1 + max_length // self.hop_length
        options = {"pad_to_multiple_of": pad_to_multiple_of, "return_attention_mask": return_attention_mask}
        options |= {"return_tensors": return_tensors or "np"}
        return self.pad({"input_features": features}, padding, frames, truncation, **options)
