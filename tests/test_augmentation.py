"""Each transform does by numbers what it says, draws from its generator alone, and survives the shortest clips."""

from dataclasses import fields

import numpy as np
import pytest
import scipy.stats
import soundfile as sf
import torch

from conftest import settings_of
from ser_hf.data import augmentation
from ser_hf.data.audio import AudioError
from ser_hf.data.augmentation import (
    Augmentation,
    augment,
    augment_spectrogram,
    draw_examples,
    gain,
    impulse_response,
    lowpass,
    mixup,
    noise_at_snr,
    pitch,
    reverb,
    spans,
    spec_augment,
    speed,
)
from ser_hf.errors import SerError

RATE = 16000
ALWAYS = Augmentation(crop_p=1, speed_p=1, pitch_p=1, reverb_p=1, noise_p=1, lowpass_p=1, gain_p=1, spec_p=1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(frequency: float, seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def babble(seconds: float = 1.0) -> np.ndarray:
    return rng(9).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def loudest(samples: np.ndarray, rate: int = RATE) -> float:
    """Hz of the strongest component, to 0.1 Hz."""
    size = rate * 10
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)), size)).argmax() * rate / size


def power(samples: np.ndarray) -> float:
    return float(np.square(samples, dtype=np.float64).mean())


# --- waveforms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("db", [-40.0, -6.0, 0.0, 12.0])
def test_gain_is_exact(db):
    clip = babble()
    assert 10 * np.log10(power(gain(clip, db)) / power(clip)) == pytest.approx(db, abs=1e-5)
    assert gain(clip, db).dtype == np.float32


@pytest.mark.parametrize("snr", [-5.0, 0.0, 10.0, 40.0])
@pytest.mark.parametrize("noise", [None, 300, 16000, 50000])
def test_snr_is_the_asked_one(snr, noise):
    clip = tone(200, 1.0)
    recording = None if noise is None else rng(5).uniform(-3, 3, noise).astype(np.float32) + 1
    noisy = noise_at_snr(clip, snr, rng(), recording)
    assert noisy.dtype == np.float32 and noisy.shape == clip.shape
    assert 10 * np.log10(power(clip) / power(noisy - clip)) == pytest.approx(snr, abs=0.1)


def test_white_noise_is_white_and_a_recording_is_itself():
    clip = tone(200, 4.0)
    added = noise_at_snr(clip, 0.0, rng()) - clip
    halves = np.abs(np.fft.rfft(added)) ** 2
    assert halves[: len(halves) // 2].sum() / halves.sum() == pytest.approx(0.5, abs=0.01)
    cycle = np.array([1.0, -2.0, 3.0], dtype=np.float32)  # shorter than the clip: repeated from some place
    added = noise_at_snr(clip, 0.0, rng(), cycle) - clip
    scale = np.sqrt(power(clip) / (14 / 3))
    assert any(np.allclose(added[:3], np.roll(cycle, shift) * scale, atol=1e-5) for shift in range(3))
    np.testing.assert_allclose(added[3:6], added[:3], atol=1e-5)
    places = {round(float(noise_at_snr(clip, 0.0, rng(s), cycle)[0] - clip[0]) / scale) for s in range(30)}
    assert places == {1, -2, 3}


def test_ratio_to_silence_is_no_ratio():
    silence, clip = np.zeros(100, dtype=np.float32), babble()
    assert noise_at_snr(silence, 10.0, rng()) is silence
    assert noise_at_snr(clip, 10.0, rng(), np.zeros(100)) is clip


@pytest.mark.parametrize("hz", [500, 2500, 3400, 4000, 5000])
def test_lowpass_is_a_butterworth_filter(hz):
    """-10 log10(1 + (hz / 3400) ** 24), -3 dB at 3400 Hz; the bilinear transform has tan(pi hz / rate) for hz."""
    warped = np.tan(np.pi * hz / RATE) / np.tan(np.pi * 3400 / RATE)
    expected = -10 * np.log10(1 + warped**24)
    clip = tone(hz)
    passed = lowpass(clip, RATE, 3400.0)
    assert 10 * np.log10(power(passed[8000:-800]) / power(clip[8000:-800])) == pytest.approx(expected, abs=0.2)
    assert passed.dtype == np.float32 and passed.shape == clip.shape


def test_lowpass_of_a_rate_that_holds_no_more_is_the_clip():
    clip = babble()
    assert lowpass(clip, 8000, 4000.0) is clip and lowpass(clip[:1], RATE, 3400.0).shape == (1,)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_speed_changes_length_and_frequency_by_its_factor(factor):
    fast = speed(tone(1000), factor)
    assert len(fast) == round(2 * RATE / factor) and fast.dtype == np.float32
    assert loudest(fast) == pytest.approx(1000 * factor, abs=1)
    assert power(fast) == pytest.approx(0.045, rel=0.02)  # 0.3 ** 2 / 2


def test_speed_does_not_alias():
    """6 kHz played 1.5 times as fast would be 9 kHz, which 16 kHz cannot hold."""
    assert power(speed(tone(6000), 1.5)[800:-800]) < 0.045 * 1e-8


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("semitones", [-12.0, -2.0, 0.37, 3.0])
def test_pitch_keeps_length_and_moves_a_tone(rate, semitones):
    clip = tone(440, 1.0, rate)
    shifted = pitch(clip, rate, semitones)
    assert shifted.shape == clip.shape and shifted.dtype == np.float32
    assert loudest(shifted, rate) == pytest.approx(440 * 2 ** (semitones / 12), rel=2e-3)
    assert power(shifted) == pytest.approx(power(clip), rel=0.5)
    assert pitch(clip, rate, 0.0) is clip


def test_pitch_keeps_the_tempo():
    clip = tone(440)
    clip[: RATE // 2] = clip[-RATE // 2 :] = 0
    shifted = np.square(pitch(clip, RATE, 4.0))
    assert shifted[: RATE // 2 - 800].max() < 1e-3 and shifted[-RATE // 2 + 800 :].max() < 1e-3
    assert shifted[RATE // 2 + 800 : -RATE // 2 - 800].max() > 0.05


def test_reverb_of_one_late_echo_is_the_clip():
    clip = babble(0.2)
    late = np.zeros(500, dtype=np.float32)
    late[100] = -0.25
    np.testing.assert_allclose(reverb(clip, late), -clip, atol=1e-6)  # neither delayed nor quieter


def test_reverb_by_hand():
    """[1, 0, 0] in a room [1, 0.5] is [1, 0.5, 0], as loud as before."""
    wet = reverb(np.array([1.0, 0.0, 0.0], dtype=np.float32), np.array([1.0, 0.5], dtype=np.float32))
    np.testing.assert_allclose(wet, np.array([1.0, 0.5, 0.0]) / np.sqrt(1.25), atol=1e-6)
    clip = babble()
    assert power(reverb(clip, impulse_response(0.5, RATE, rng()))) == pytest.approx(power(clip), rel=1e-5)
    silence = np.zeros(50, dtype=np.float32)
    assert reverb(silence, np.ones(3)).tolist() == [0.0] * 50


@pytest.mark.parametrize("seconds", [0.2, 0.8])
def test_synthetic_rooms_fade_in_the_asked_time(seconds):
    """Schroeder's backward integral falls by 20 dB in a third of the reverberation time."""
    response = impulse_response(seconds, RATE, rng()).astype(np.float64)
    assert response[0] == 1.0 and np.square(response[1:]).sum() == pytest.approx(10**-0.6, rel=1e-5)  # 6 dB
    left = np.cumsum(np.square(response[:0:-1]))[::-1]
    decay = 10 * np.log10(left / left[0])
    at5, at25 = np.argmax(decay < -5), np.argmax(decay < -25)
    assert (at25 - at5) * 3 / RATE == pytest.approx(seconds, rel=0.05)


# --- spectrograms -----------------------------------------------------------------------------------------------------


def test_one_span_has_every_width_up_to_the_asked_one():
    found = [int(spans(100, 1, 7, rng(seed)).sum()) for seed in range(400)]
    assert set(found) == set(range(8))
    assert np.mean(found) == pytest.approx(3.5, abs=0.4)
    starts = [int(spans(10, 1, 3, rng(seed)).argmax()) for seed in range(400)]
    assert set(starts) == set(range(10))  # the axis's end is masked as its middle is


def test_spans_never_hide_more_than_the_limit():
    for seed in range(300):
        draw = rng(seed)
        length, count, width = int(draw.integers(1, 60)), int(draw.integers(0, 6)), int(draw.integers(0, 80))
        limit = draw.uniform(0, 0.99)
        hidden = spans(length, count, width, draw, limit)
        assert hidden.shape == (length,) and hidden.sum() <= limit * length and not hidden.all()
        assert hidden.sum() <= count * width
    with pytest.raises(SerError, match="limit 1"):
        spans(10, 1, 10, rng(), 1.0)


@pytest.mark.parametrize("frames", [1, 2, 5, 400])
def test_spec_augment_masks_rows_and_columns_with_the_mean(frames):
    picture = rng(1).normal(-30, 10, (80, frames)).astype(np.float32)
    kept = picture.copy()
    sizes = Augmentation(spec_freq_masks=2, spec_freq_width=10, spec_time_masks=2, spec_time_width=30)
    hidden_rows, hidden_frames = [], []
    for seed in range(50):
        masked = spec_augment(picture, rng(seed), sizes)
        assert masked.dtype == np.float32 and masked.shape == picture.shape
        changed = masked != picture
        assert not changed.all()
        np.testing.assert_allclose(masked[changed], picture.mean(), rtol=1e-5)
        rows, columns = changed.all(axis=1), changed.all(axis=0)
        assert np.array_equal(changed, rows[:, None] | columns)
        hidden_rows.append(int(rows.sum()))
        hidden_frames.append(int(columns.sum()))
    np.testing.assert_array_equal(picture, kept)  # not written into
    assert 10 < max(hidden_rows) <= 20 and max(hidden_frames) <= min(60, frames // 2)
    assert frames < 4 or max(hidden_frames) > frames // 20


# --- batches ----------------------------------------------------------------------------------------------------------


def batch(count: int = 4000, labels: int = 3):
    """Clip i is the number i + 1 everywhere and its label one-hot i % labels."""
    values = torch.arange(1.0, count + 1).unsqueeze(-1).repeat(1, 2)
    return values, torch.eye(labels)[torch.arange(count) % labels]


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_draws_from_beta(alpha):
    values, _ = batch()
    labels = torch.eye(4000)  # a class of its own for each clip: lambda can be read off
    mixed, soft, mask = mixup(values, labels, alpha, rng())
    assert mask is None
    weights = soft.diagonal().double().numpy()
    np.testing.assert_allclose(soft.sum(1), 1.0, atol=1e-6)
    assert scipy.stats.kstest(weights, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert int((soft > 0).sum(1).max()) == 2  # a pair
    np.testing.assert_allclose(mixed[:, 0], soft @ torch.arange(1.0, 4001), rtol=1e-4)  # as labels, so inputs


def test_mixup_by_hand_and_masks():
    values = torch.tensor([[2.0, 2.0, 0.0], [4.0, 4.0, 4.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    draw = rng(3)
    draw.integers(1, 2, 2), draw.random(2)
    a, b = draw.beta(1.0, 1.0, 2)  # the two lambdas
    mixed, soft, both = mixup(values, labels, 1.0, rng(3), mask)
    expected = [[2 * a + 4 * (1 - a)] * 2 + [4 * (1 - a)], [4 * b + 2 * (1 - b)] * 2 + [4 * b]]
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)
    np.testing.assert_allclose(soft, [[a, 1 - a], [1 - b, b]], rtol=1e-6)
    assert both.tolist() == [[1, 1, 1], [1, 1, 1]] and both.dtype == mask.dtype
    assert values.tolist() == [[2.0, 2.0, 0.0], [4.0, 4.0, 4.0]] and mask.tolist()[0] == [1, 1, 0]


def test_mixup_leaves_alone_what_it_does_not_choose():
    values, labels = batch(500)
    values[0] = -0.0
    mask = torch.ones(500, 2, dtype=torch.long)
    for p in (0.0, 0.3):
        mixed, soft, _ = mixup(values, labels, 1.0, rng(), mask, p=p)
        same = (mixed == values).all(1)
        assert float(same.float().mean()) == pytest.approx(1 - p, abs=0.06)
        assert torch.equal(soft[same], labels[same])
    unchanged = mixup(values, labels, 1.0, rng(), mask, p=0.0)[0]
    assert unchanged.numpy().tobytes() == values.numpy().tobytes()
    alone = mixup(values[:1], labels[:1], 1.0, rng(), mask[:1])  # nobody to mix with
    assert torch.equal(alone[0], values[:1]) and torch.equal(alone[1], labels[:1])
    pictures = torch.randn(3, 80, 50)
    assert mixup(pictures, torch.randn(3, 2), 0.4, rng())[0].shape == (3, 80, 50)
    with pytest.raises(ValueError, match=r"shape \(500,\)"):
        mixup(values, torch.arange(500), 1.0, rng())


# --- all together -----------------------------------------------------------------------------------------------------


def test_never_is_the_clip_itself():
    clip, picture = babble(), np.zeros((80, 20))
    assert augment(clip, RATE, Augmentation(), rng()) is clip
    assert augment_spectrogram(picture, Augmentation(), rng()) is picture


@pytest.mark.parametrize("samples", [1, 2, 3, 100, 800])
def test_the_shortest_clips_survive(samples):
    for seed in range(5):
        made = augment(babble()[:samples], RATE, ALWAYS, rng(seed))
        assert made.dtype == np.float32 and 1 <= len(made) <= samples / 0.9 + 1
        assert np.isfinite(made).all() and made.any()
    silent = augment(np.zeros(samples, dtype=np.float32), RATE, ALWAYS, rng())
    assert not silent.any()


def test_equal_seeds_are_equal_clips_and_no_global_state_is_touched():
    clip, picture = babble(), rng(1).normal(size=(80, 100))
    np.random.seed(1)
    torch.manual_seed(1)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    made = [augment(clip, RATE, ALWAYS, rng(seed)) for seed in (7, 7, 8)]
    masked = [augment_spectrogram(picture, ALWAYS, rng(seed)) for seed in (7, 7, 8)]
    mixed = [mixup(*batch(50), 1.0, rng(seed))[0] for seed in (7, 7, 8)]
    for first, second, other in (made, masked, mixed):
        np.testing.assert_array_equal(first, second)
        assert first.shape != other.shape or not np.array_equal(first, other)
    assert np.array_equal(before, np.random.get_state()[1]) and torch.equal(torch_before, torch.get_rng_state())


def test_probabilities_and_ranges_are_kept():
    clip = tone(200, 0.05)
    config = Augmentation(gain_p=0.3, gain_db=[-6, 6])
    found = [10 * np.log10(power(augment(clip, RATE, config, draw)) / power(clip)) for draw in [rng()] * 1000]
    changed = np.array([db for db in found if db])
    assert len(changed) / 1000 == pytest.approx(0.3, abs=0.05)
    assert -6 <= changed.min() < -5.5 and 5.5 < changed.max() <= 6.001
    fixed = augment(clip, RATE, Augmentation(gain_p=1, gain_db=[3.0]), rng())
    np.testing.assert_array_equal(fixed, gain(clip, 3.0))


def test_a_crop_is_a_stretch_of_the_clip_from_anywhere():
    clip = np.arange(1, 1001, dtype=np.float32)
    config = Augmentation(crop_p=0.8, crop_keep=[0.4, 0.7])
    made = [augment(clip, RATE, config, draw) for draw in [rng()] * 1000]
    assert all(np.array_equal(part, clip[int(part[0]) - 1 :][: len(part)]) for part in made)
    cut = [part for part in made if len(part) < 1000]
    assert len(cut) / 1000 == pytest.approx(0.8, abs=0.04)
    lengths = np.array([len(part) for part in cut])
    assert 400 <= lengths.min() < 410 and 690 < lengths.max() <= 700
    places = np.array([(part[0] - 1) / (1000 - len(part)) for part in cut])  # 0 is the clip's beginning, 1 its end
    assert scipy.stats.kstest(places, "uniform").pvalue > 0.01
    assert len(augment(clip, RATE, Augmentation(crop_p=1, crop_keep=[0.5]), rng())) == 500


def test_noise_and_rooms_from_folders(tmp_path):
    (tmp_path / "noise" / "deep").mkdir(parents=True)
    (tmp_path / "rooms").mkdir()
    sf.write(tmp_path / "noise" / "deep" / "hum.wav", tone(1000, 30.0, 48000), 48000)
    room = np.zeros(4000)
    room[[40, 1640]] = 0.8, 0.8 * 0.5  # an echo after 0.1 s
    sf.write(tmp_path / "rooms" / "echo.flac", room, RATE)
    clip = tone(200, 1.0)
    noisy = augment(clip, RATE, Augmentation(noise_p=1, noise_snr_db=[0.0], noise_dir=str(tmp_path / "noise")), rng())
    assert 10 * np.log10(power(clip) / power(noisy - clip)) == pytest.approx(0, abs=0.1)
    assert loudest(noisy - clip) == pytest.approx(1000, abs=1)
    impulse = np.zeros(RATE, dtype=np.float32)
    impulse[0] = 1.0
    wet = augment(impulse, RATE, Augmentation(reverb_p=1, reverb_dir=str(tmp_path / "rooms")), rng())
    assert np.flatnonzero(np.abs(wet) > 0.1).tolist() == [0, 1600]
    assert wet[1600] / wet[0] == pytest.approx(0.5, abs=1e-3)
    (tmp_path / "noise" / "deep" / "hum.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(AudioError, match="hum.wav: unreadable"):
        augment(clip, RATE, Augmentation(noise_p=1, noise_dir=str(tmp_path / "noise")), rng())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--noise_p 1.5", "--noise_p: 1.5: must be at least 0 and at most 1"),
        ("--gain_p nan", "--gain_p: .*'nan'"),
        ("--noise_p 1 --noise_snr_db 20 10", "--noise_snr_db 20.0 10.0: must be one number or two, the lowest first"),
        ("--gain_p 1 --gain_db 1 2 3", "--gain_db 1.0 2.0 3.0: must be one number or two"),
        ("--gain_db 1 inf", "--gain_db: .*'inf'"),
        ("--gain_db", "--gain_db"),
        ("--speed_factor 0.0 1", "--speed_factor: 0.0: must be above 0"),
        ("--crop_keep 0.0 0.5", "--crop_keep: 0.0: must be above 0 and at most 1"),
        ("--crop_keep 0.5 1.5", "--crop_keep: 1.5: must be above 0 and at most 1"),
        ("--spec_time_width -1", "--spec_time_width: -1: must be at least 0"),
        ("--mixup_alpha 0.0", "--mixup_alpha: 0.0: must be above 0"),
        ("--noise_p 1 --noise_dir /no/such/folder", "--noise_dir /no/such/folder: no audio file"),
    ],
)
def test_a_wrong_flag_is_named(flags, message):
    with pytest.raises(SerError, match=message):
        settings_of("spectrogram_cls", "--dataset", "emodb", *flags.split())


def test_fields_are_flags():
    from transformers import TrainingArguments

    flags = "--noise_p 0.5 --noise_snr_db 5 20 --gain_p 1 --gain_db 3 --spec_p 1 --spec_time_masks 4".split()
    config = settings_of("spectrogram_cls", "--dataset", "emodb", *flags).augmentation
    assert config == Augmentation(
        noise_p=0.5, noise_snr_db=[5.0, 20.0], gain_p=1, gain_db=[3.0], spec_p=1, spec_time_masks=4
    )
    names = {entry.name for entry in fields(Augmentation)}
    assert not names & {entry.name for entry in fields(TrainingArguments)}
    assert all(entry.metadata["help"].endswith(".") for entry in fields(Augmentation))


def test_examples_are_a_png(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        augmentation, "augment", lambda samples, rate, config, generator: drawn.append(config) or samples
    )
    config = Augmentation(noise_p=0.2, spec_p=0.5, mixup_p=0.5)
    assert draw_examples(babble(0.5), RATE, config, 0)[:8] == b"\x89PNG\r\n\x1a\n"
    # as it is; noise alone; SpecAugment alone; twice as in training
    assert [(row.noise_p, row.spec_p) for row in drawn] == [(0, 0), (1, 0), (0, 1), (0.2, 0.5), (0.2, 0.5)]


@pytest.mark.parametrize("samples", [1, 8000])
def test_examples_repeat(samples):
    config = Augmentation(noise_p=1)
    first, second, other = (draw_examples(babble()[:samples], RATE, config, seed) for seed in (0, 0, 1))
    assert first == second != other
