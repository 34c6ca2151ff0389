"""Samples to mel spectrograms in dB, or to MFCC, as librosa computes them. Ships to the Hub beside the weights: imports
nothing of this project, and neither librosa nor torchaudio.

The defaults are the reference work's: 8 kHz, trimmed at 30 dB, n_fft 1024, Hamming windows of 512 samples every 100,
128 mels up to half the rate, dB against the maximum. RAVDESS's 03-01-01-01-01-02-01.wav gives (128, 118) so, where the
trimming is done at 8 kHz (at the file's own 48 kHz it gives 105 frames).
"""

import copy
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from transformers import BatchFeature
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor

KINDS = ("mel", "mfcc")
# librosa.effects.trim's frames, in samples at whatever rate.
TRIM_FRAME, TRIM_HOP = 2048, 512
LEAST_POWER = 1e-10  # librosa.power_to_db's amin; the square of amplitude_to_db's


def trimmed(samples: np.ndarray, top_db: float) -> np.ndarray:
    """`samples` without the frames at both ends that are `top_db` or more below the loudest (librosa.effects.trim)."""
    padded = np.pad(samples.astype(np.float64) ** 2, TRIM_FRAME // 2)
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    starts = np.arange(1 + len(samples) // TRIM_HOP) * TRIM_HOP
    power = np.maximum((sums[starts + TRIM_FRAME] - sums[starts]) / TRIM_FRAME, LEAST_POWER)
    loud = np.flatnonzero(10 * np.log10(power / power.max()) > -top_db)
    return samples[loud[0] * TRIM_HOP : (loud[-1] + 1) * TRIM_HOP]


@lru_cache(maxsize=8)
def mel_filters(n_fft: int, n_mels: int, f_min: float, f_max: float, rate: int) -> torch.Tensor:
    """`(n_mels, n_fft // 2 + 1)`, those of librosa.filters.mel: Slaney's scale and normalisation."""
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
        sampling_rate: Of the samples, in Hz.
        kind: `mel`, or `mfcc`: the DCT of the mel spectrogram.
        n_mels, n_mfcc: Mel bands, and of `mfcc` how many coefficients are kept.
        n_fft, win_length, hop_length: In samples; windows stand in the middle of the transform's frame, frames are
            centred and beyond the clip's ends is silence.
        window_type: `hamming` or `hann`, periodic. (transformers does not save an attribute called `window`.)
        f_min, f_max: Range of the bands in Hz; None is half the rate.
        trim_db: Silence at both ends, this many dB below the loudest, is cut (`trimmed`); None for none.
        top_db: Values lower than this many dB under the clip's highest are raised to there; None for none.
        reference: What is 0 dB: `max`, the clip's highest power, or a power. None is `max` for mel and 1.0 for mfcc,
            the defaults of the reference work and of librosa.feature.mfcc.
        normalize: `clip` brings each clip's values together to zero mean and unit variance, `none` leaves dB.
        mean_spectrum: `(rows,)`, taken from every frame before `normalize`; None takes nothing. A model that was
            trained on spectra relative to each speaker's mean has here that of an average speaker, for clips of whom
            nothing else is known; `adapted` puts a speaker's own there.
        padding_value: What is behind shorter clips of a batch. None is the lowest value there is where there is one
            (`-top_db`), 0 otherwise.
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
        for name, value, choices in (
            ("kind", kind, KINDS),
            ("window_type", window_type, ("hamming", "hann")),
            ("normalize", normalize, ("none", "clip")),
        ):
            if value not in choices:
                raise ValueError(f"{name} {value!r}: choose one of {', '.join(choices)}")
        if not 0 < win_length <= n_fft or hop_length < 1:
            raise ValueError(
                f"win_length {win_length}, hop_length {hop_length}: must be 1 or more, n_fft {n_fft} at most"
            )
        if kind == "mfcc" and not 0 < n_mfcc <= n_mels:
            raise ValueError(f"n_mfcc {n_mfcc}: must be 1 to n_mels {n_mels}")
        rows = n_mels if kind == "mel" else n_mfcc
        if mean_spectrum is not None and len(mean_spectrum) != rows:
            raise ValueError(f"mean_spectrum of {len(mean_spectrum)} values: must be {rows}, one a row")
        if reference is None:
            reference = "max" if kind == "mel" else 1.0
        if padding_value is None:
            lowest = kind == "mel" and reference == "max" and normalize == "none" and top_db is not None
            lowest = lowest and mean_spectrum is None
            padding_value = -top_db if lowest else 0.0
        kwargs.pop("feature_size", None)
        super().__init__(rows, sampling_rate, padding_value, **kwargs)
        self.kind, self.n_mels, self.n_mfcc = kind, n_mels, n_mfcc
        self.n_fft, self.win_length, self.hop_length, self.window_type = n_fft, win_length, hop_length, window_type
        self.f_min, self.f_max, self.trim_db, self.top_db = f_min, f_max, trim_db, top_db
        self.reference, self.normalize, self.mean_spectrum = reference, normalize, mean_spectrum

    def decibel(self, power: torch.Tensor) -> torch.Tensor:
        """Power spectrograms `(batch, rows, frames)` in dB, each by itself (librosa.power_to_db)."""
        power = power.clamp(min=LEAST_POWER)
        highest = power.amax(dim=(1, 2), keepdim=True)
        zero = highest if self.reference == "max" else torch.full_like(highest, max(self.reference, LEAST_POWER))
        values = 10 * (power.log10() - zero.log10())
        return values if self.top_db is None else torch.maximum(values, values.amax((1, 2), keepdim=True) - self.top_db)

    def spectra(self, samples: torch.Tensor) -> torch.Tensor:
        """`extract` before `mean_spectrum` and `normalize`: `(batch, rows, frames)`, in float64 where there is one."""
        # torch's transform in float32 is wrong by 0.001 dB and more at -80 dB; Apple's devices have no float64.
        samples = samples.to(torch.float32 if samples.device.type == "mps" else torch.float64)
        shape = torch.hamming_window if self.window_type == "hamming" else torch.hann_window
        spectrum = torch.stft(
            samples,
            self.n_fft,
            self.hop_length,
            self.win_length,
            window=shape(self.win_length, dtype=samples.dtype, device=samples.device),
            pad_mode="constant",
            return_complex=True,
        )
        top = self.f_max or self.sampling_rate / 2
        filters = mel_filters(self.n_fft, self.n_mels, self.f_min, top, self.sampling_rate)
        values = self.decibel(filters.to(samples) @ spectrum.abs().square())
        return cosines(self.n_mfcc, self.n_mels).to(samples) @ values if self.kind == "mfcc" else values

    def scaled(self, values: torch.Tensor, mean_spectrum: torch.Tensor | None = None) -> torch.Tensor:
        """Float32 features of `spectra`, `(..., rows, frames)`, each clip by itself.

        Args:
            values: Not padded.
            mean_spectrum: `(rows,)`, the speaker's, if it is known; otherwise this extractor's, if it has one.
        """
        if mean_spectrum is None and self.mean_spectrum is not None:
            mean_spectrum = torch.tensor(self.mean_spectrum)
        if mean_spectrum is not None:
            values = values - mean_spectrum.to(values).unsqueeze(-1)
        if self.normalize == "clip":
            values = values - values.mean(dim=(-2, -1), keepdim=True)
            values = values / (values.square().mean(dim=(-2, -1), keepdim=True) + 1e-7).sqrt()
        return values.float()

    def extract(self, samples: torch.Tensor) -> torch.Tensor:
        """Features of clips of one length, on the device the samples are on; nothing is trimmed.

        Args:
            samples: `(batch, samples)` floats, at least one sample.

        Returns:
            `(batch, rows, 1 + samples // hop_length)` float32.
        """
        return self.scaled(self.spectra(samples))

    def unscaled(self, clip) -> torch.Tensor:
        """`spectra` of one clip `(samples,)`, trimmed first where `trim_db` says so: `(rows, frames)`."""
        samples = np.asarray(clip, dtype=np.float32)
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"a clip must be (samples,), at least one sample, got shape {samples.shape}")
        if self.trim_db is not None:
            samples = trimmed(samples, self.trim_db)
        return self.spectra(torch.from_numpy(np.ascontiguousarray(samples)).unsqueeze(0))[0]

    def features(self, clip) -> torch.Tensor:
        """`(rows, frames)` float32 of one clip `(samples,)`, trimmed first where `trim_db` says so."""
        return self.scaled(self.unscaled(clip))

    def adapted(self, clips: Iterable) -> "SerSpectrogramFeatureExtractor":
        """This extractor for one speaker: its `mean_spectrum` is theirs, each clip counting once.

        Args:
            clips: `(samples,)` each, of this speaker in various moods: if all are angry, anger is taken for the voice.
                Ten or more; silent ones are left out.

        Raises:
            ValueError: no clips, or a model that does not know speakers by their mean spectra.
        """
        if self.mean_spectrum is None:
            raise ValueError("this model was not trained with --speaker_norm: a speaker's mean means nothing to it")
        means = [self.unscaled(clip).mean(dim=1) for clip in clips if np.any(clip)]
        if not means:
            raise ValueError("no clips of the speaker, or only silent ones")
        other = copy.deepcopy(self)
        other.mean_spectrum = torch.stack(means).mean(dim=0).tolist()
        return other

    def batch(self, features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Clips `(rows, frames)` of any lengths as one padded batch: `input_features` `(batch, rows, frames)`, and
        `attention_mask` `(batch, frames)`, 1 = real frame, where some clip is padded."""
        lengths = torch.tensor([values.shape[1] for values in features])
        frames = int(lengths.max())
        padded = torch.full((len(features), features[0].shape[0], frames), float(self.padding_value))
        for row, values in zip(padded, features, strict=True):
            row[:, : values.shape[1]] = values
        batch = {"input_features": padded}
        if int(lengths.min()) < frames:
            batch["attention_mask"] = (torch.arange(frames) < lengths.unsqueeze(-1)).long()
        return batch

    def __call__(
        self,
        clips,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Features of one clip or several.

        Args:
            clips: `(samples,)`, or a list of such or `(batch, samples)`.
            sampling_rate: Of the clips; checked.
            padding: True or `longest`: shorter clips are padded behind. False: their frames must be equally many.
            return_attention_mask: True always, False never, None where a clip is padded.
            return_tensors: `pt` or `np`.

        Raises:
            ValueError: wrong rate, an empty clip, or unequal clips with `padding=False`.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"clips at {sampling_rate} Hz: resample them to this extractor's {self.sampling_rate} Hz")
        single = not isinstance(clips, list | tuple) or (len(clips) > 0 and np.ndim(clips[0]) == 0)
        single = single and np.ndim(clips) == 1
        batch = self.batch([self.features(clip) for clip in ([clips] if single else clips)])
        mask = batch.pop("attention_mask", None)
        if padding in (False, "do_not_pad") and mask is not None:
            raise ValueError("clips of unequal lengths: give padding=True")
        if return_attention_mask is not False and (mask is not None or return_attention_mask):
            if mask is None:
                shape = (len(batch["input_features"]), batch["input_features"].shape[2])
                mask = torch.ones(shape, dtype=torch.long)
            batch["attention_mask"] = mask
        return BatchFeature(
            {name: values.numpy() for name, values in batch.items()}, tensor_type=return_tensors or "np"
        )
