"""Decoding, resampling, cutting and scanning of single clips, against values worked out by hand."""

import io
import os

import numpy as np
import pytest
import soundfile as sf

from ser_hf.data.audio import AudioError, _wave, cut, decode, scan, segment, whole
from ser_hf.models import audio_blocks
from ser_hf.models.audio_blocks import AudioInputError

SIXTEENTHS = np.array([0.0, 0.25, -0.5, 0.75, -1.0, 0.0625])  # exact in 16 and 24 bits and in float


def tone(frequency: float, rate: int, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def write(path, samples, rate=16000, subtype="PCM_16", **options):
    sf.write(path, samples, rate, subtype=subtype, **options)
    return path


# --- decode -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_16"),
        ("a.wav", "PCM_24"),
        ("a.wav", "PCM_32"),
        ("a.wav", "FLOAT"),
        ("a.wav", "DOUBLE"),
        ("a.wav", "PCM_U8"),
        ("a.flac", "PCM_16"),
        ("a.flac", "PCM_24"),
        ("a.aiff", "PCM_16"),
    ],
)
def test_decode_gives_the_written_values(tmp_path, name, subtype):
    samples = decode(write(tmp_path / name, SIXTEENTHS, subtype=subtype), 16000)
    assert samples.dtype == np.float32 and samples.ndim == 1
    np.testing.assert_array_equal(samples, SIXTEENTHS.astype(np.float32))


def test_decode_of_raw_integers(tmp_path):
    """A 16-bit sample n is n / 32768, whatever library reads it."""
    path = write(tmp_path / "a.wav", np.array([1, -1, 16384, 32767, -32768], dtype=np.int16))
    assert decode(path, 16000).tolist() == [2**-15, -(2**-15), 0.5, 32767 / 32768, -1.0]


def test_float_beyond_full_scale_is_kept(tmp_path):
    assert decode(write(tmp_path / "a.wav", np.array([1.5, -2.0]), subtype="FLOAT"), 16000).tolist() == [1.5, -2.0]


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_channels_are_averaged(tmp_path, subtype):
    stereo = np.array([[0.5, 0.25], [-0.5, 0.5], [-1.0, -1.0], [0.75, 0.75]])
    path = write(tmp_path / "a.wav", stereo, subtype=subtype)
    assert decode(path, 16000).tolist() == [0.375, 0.0, -1.0, 0.75]


def test_aiff_named_wav(tmp_path):
    """TESS has two such files."""
    path = tmp_path / "a.wav"
    write(tmp_path / "a.aiff", SIXTEENTHS).rename(path)
    assert path.read_bytes()[:4] == b"FORM"
    np.testing.assert_array_equal(decode(path, 16000), SIXTEENTHS.astype(np.float32))


def test_decode_takes_paths_text_and_column_values(tmp_path):
    path = write(tmp_path / "a.wav", SIXTEENTHS)
    content = path.read_bytes()
    for source in (path, str(path), {"bytes": None, "path": str(path)}, {"bytes": content, "path": "gone.wav"}):
        np.testing.assert_array_equal(decode(source, 16000), SIXTEENTHS.astype(np.float32))
    np.testing.assert_array_equal(decode({"bytes": content, "path": None}, 16000), SIXTEENTHS.astype(np.float32))


def test_decode_part_of_a_clip(tmp_path):
    path = write(tmp_path / "a.wav", (np.arange(16000) - 8000).astype(np.int16))
    assert (decode(path, 16000, start=0.25, end=0.5) * 32768).tolist() == list(range(-4000, 0))
    assert (decode(path, 16000, start=0.99) * 32768).tolist() == list(range(7840, 8000))
    assert (decode(path, 16000, end=0.001) * 32768).tolist() == list(range(-8000, -7984))
    assert len(decode(path, 16000, start=0.9, end=2.0)) == 1600  # the clip ends first
    assert len(decode(path, 8000, start=0.25, end=0.5)) == 2000


@pytest.mark.parametrize(("rate", "channels"), [(48000, 1), (48000, 2), (44100, 1), (24414, 1), (8000, 1)])
def test_resampled_tone_keeps_frequency_and_amplitude(tmp_path, rate, channels):
    wave = np.repeat(tone(1000, rate)[:, None], channels, axis=1)
    samples = decode(write(tmp_path / "a.wav", wave, rate), 16000)
    assert samples.dtype == np.float32 and len(samples) == pytest.approx(16000, abs=1)
    inner = samples[1600:14400]  # 0.8 s: bins of 1.25 Hz
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    assert spectrum.argmax() * 1.25 == 1000.0
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.5 / np.sqrt(2), rel=2e-3)
    np.testing.assert_allclose(inner, tone(1000, 16000)[1600:14400], atol=2e-3)  # neither shifted


def test_resampling_does_not_alias(tmp_path):
    """9 kHz does not exist at 16 kHz; a bad resampler leaves it at 7 kHz (torchaudio's default: -17 dB)."""
    samples = decode(write(tmp_path / "a.wav", tone(9000, 48000), 48000, subtype="FLOAT"), 16000)
    assert np.abs(samples[800:-800]).max() < 0.5 * 10 ** (-90 / 20)


# --- cut --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "first", "frames"),
    [
        (0.0, 1.0, 0, 16000),
        (0.25, 0.5, 4000, 4000),
        (0.10003, 0.20003, 1600, 1600),  # 1600.48 and 3200.48
        (0.10004, 0.20004, 1601, 1600),  # 1600.64 and 3200.64
        (-0.5, 0.25, 0, 4000),  # MOSEI has negative times
        (0.9, 3.0, 14400, 1600),  # beyond the end
    ],
)
def test_cut_is_lossless_and_exact(tmp_path, start, end, first, frames):
    integers = np.random.default_rng(0).integers(-32768, 32768, 16000).astype(np.int16)
    content = cut(write(tmp_path / "a.wav", integers), start, end)
    assert content[:4] == b"fLaC"
    samples, rate = sf.read(io.BytesIO(content), dtype="int16")
    assert (rate, len(samples)) == (16000, frames)
    np.testing.assert_array_equal(samples, integers[first : first + frames])
    found = scan({"bytes": content, "path": "a.flac"})
    assert found["duration"] == frames / 16000 and found["problem"] is None


def test_cuts_side_by_side_lose_no_frame(tmp_path):
    integers = np.random.default_rng(1).integers(-32768, 32768, 16000).astype(np.int16)
    path = write(tmp_path / "a.wav", integers)
    times = [0.0, 0.1234567, 0.3333333, 0.70001, 1.0]
    parts = [sf.read(io.BytesIO(cut(path, *pair)), dtype="int16")[0] for pair in zip(times, times[1:], strict=False)]
    np.testing.assert_array_equal(np.concatenate(parts), integers)


def test_cut_keeps_channels_rate_and_24_bits(tmp_path):
    stereo = np.random.default_rng(2).integers(-(2**23), 2**23, (4410, 2)) / 2**23
    content = cut(write(tmp_path / "a.wav", stereo, 44100, subtype="PCM_24"), 0.05, 0.1)
    samples, rate = sf.read(io.BytesIO(content))
    assert rate == 44100 and samples.shape == (2205, 2)
    np.testing.assert_array_equal(samples, stereo[2205:])


# --- clips that cannot be used ----------------------------------------------------------------------------------------


def wave_of_no_samples(path):
    return write(path, np.zeros(0))


def wave_with(value: float):
    return lambda path: write(path, np.array([0.1, value, 0.2]), subtype="FLOAT")


def wave_of_zeros(path):
    return write(path, np.zeros(1600))


def file_of(content: bytes):
    return lambda path: path.write_bytes(content)


UNUSABLE = {
    "missing": (lambda path: None, "unreadable audio (no such file)"),
    "empty": (file_of(b""), "unreadable audio ("),
    "garbage": (file_of(b"not audio at all " * 50), "unreadable audio ("),
    "AppleDouble": (file_of(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"), "unreadable audio ("),
    "Git LFS pointer": (file_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "unreadable audio ("),
    "only a header": (file_of(b"RIFF\x24\x00\x00\x00WAVE"), "unreadable audio ("),
    "folder": (lambda path: path.mkdir(), "unreadable audio ("),
    "no samples": (wave_of_no_samples, "no samples"),
    "NaN": (wave_with(np.nan), "NaN or infinite samples"),
    "infinite": (wave_with(-np.inf), "NaN or infinite samples"),
    "larger than audio": (wave_with(3e38), "samples of up to 3e+38"),
    "silent": (wave_of_zeros, "silent (every sample is zero)"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_clip_is_one_line(tmp_path, kind):
    path = tmp_path / "03a01Fa.wav"
    prepare, reason = UNUSABLE[kind]
    prepare(path)
    sources = [path, {"bytes": None, "path": str(path)}]
    if path.is_file():
        sources.append({"bytes": path.read_bytes(), "path": str(path)})
    for source in sources:
        found = scan(source)
        assert (found["duration"], found["audio_hash"]) == (None, None)
        assert found["problem"].startswith(f"{path}: {reason}") and "\n" not in found["problem"]
        if kind == "silent":  # decodable, so the caller decides
            assert not decode(source, 16000).any()
        else:
            with pytest.raises(AudioError) as caught:
                decode(source, 16000)
            assert str(caught.value) == found["problem"]


def test_bytes_without_a_name(tmp_path):
    assert scan({"bytes": b"", "path": None})["problem"].startswith("<bytes>: unreadable audio (")


@pytest.mark.parametrize(("start", "end"), [(1.5, 2.0), (0.5, 0.5), (0.5, 0.25), (-2.0, -1.0)])
def test_nothing_to_cut(tmp_path, start, end):
    path = write(tmp_path / "a.wav", tone(100, 16000))
    with pytest.raises(AudioError) as caught:
        cut(path, start, end)
    assert str(caught.value) == f"{path}: nothing between {start} s and {end} s"


def test_cut_of_a_missing_recording(tmp_path):
    with pytest.raises(AudioError, match=r"gone\.wav: unreadable audio \(no such file\)"):
        cut(tmp_path / "gone.wav", 0.0, 1.0)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "mp3", "flac"])
def test_a_file_that_was_cut_off_is_told(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    sf.write(path, tone(440, 16000), 16000)
    assert scan(path)["problem"] is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reason = scan(path)["problem"]
    assert "unreadable audio (" in reason and ("announces" in reason or suffix == "flac" and "lost sync" in reason)
    for source in (path, path.read_bytes(), {"path": str(path)}):  # the pipeline's reader says the same
        for rate in (16000, 8000):
            with pytest.raises(AudioInputError) as caught:
                list(audio_blocks.read(source, rate))
            assert reason.endswith(str(caught.value))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_that_was_cut_off_is_told(subtype, tmp_path):
    """By its last page, wherever it is cut but between two pages; from bytes too."""
    path = tmp_path / "a.ogg"
    sf.write(path, tone(440, 48000, 6.0), 48000, format="OGG", subtype=subtype)
    content = path.read_bytes()
    pages = [position for position in range(len(content)) if content.startswith(b"OggS", position)]
    assert scan(path)["problem"] is None and len(pages) > 3
    path.write_bytes(content + b"TAG" + b"\0" * 125)  # as programs for music add
    assert scan(path)["problem"] is None
    cuts = {length for page in pages[2:] for length in (page + 3, page + 26, page + 27, page + 28, page + 300)}
    cuts = {length for length in cuts | {len(content) - 1} if length < len(content)} - {*pages}
    for length in sorted(cuts):
        problem = scan({"bytes": content[:length], "path": None})["problem"]
        assert problem and ("cut off in its last Ogg page" in problem or length < pages[3]), (length, problem)
    path.write_bytes(content[: len(content) // 2])
    assert "a.ogg: unreadable audio (cut off in its last Ogg page)" in scan(path)["problem"]
    with pytest.raises(AudioInputError, match=r"unreadable audio \(cut off in its last Ogg page\)"):
        list(audio_blocks.read(path, 16000))


def test_a_header_that_does_not_know_the_length(tmp_path):
    """As a pipe writes it: the length is what is there."""
    path = write(tmp_path / "a.wav", tone(440, 16000))
    content = path.read_bytes()
    path.write_bytes(content[:40] + b"\xff" * 4 + content[44:])
    assert scan(path)["duration"] == 1.0


@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_file_is_read_as_soundfile_reads_it(channels, tmp_path):
    """By the standard library where its header is right (of files, not of bytes); any byte of the header changed, and
    chunks before and after the samples."""
    path = tmp_path / "a.wav"
    sf.write(path, np.random.default_rng(0).normal(0, 0.1, (500, channels)), 16000, subtype="PCM_16")
    content = path.read_bytes()
    variants = [content[:i] + bytes([value]) + content[i + 1 :] for i in range(44) for value in (0, 1, 32, 255)]
    variants += [content[:end] for end in (43, 44, 45, 46, 1000)]
    variants += [content + b"LIST\x04\0\0\0INFO", content[:36] + b"junk\x05\0\0\0abcde\0" + content[36:]]
    read = 0
    for variant in (content, *variants):
        path.write_bytes(variant)
        assert scan(path) == scan({"bytes": variant, "path": str(path)}), variant[:60]
        read += _wave(str(path), len(variant)) is not None
    assert read > 50 and decode(path, 16000).shape == (500,)


def test_a_header_that_announces_too_much(tmp_path):
    """2^36 samples: no memory is asked for that is not there."""
    path = tmp_path / "a.flac"
    sf.write(path, tone(440, 16000), 16000)
    content = bytearray(path.read_bytes())
    content[21] |= 15
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    assert "unreadable audio" in scan(path)["problem"]


def test_no_file_to_read_is_a_problem_and_no_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "x.raw").write_bytes(b"\0\1" * 100)
    sf.write(tmp_path / "one.wav", np.ones(1) / 2, 192000)
    for name, reason in {
        "pipe.wav": "not a regular file",
        "x.raw": "unreadable audio",
        "one.wav": "too short (1 samples at 192000 Hz)",
        "": "a folder",
        ".": "a folder",
        "..": "a folder",
        "n" * 256 + ".wav": "no such file",
        "a\0b.wav": "no such file",
        "\udcff.wav": "no such file",
    }.items():
        assert reason in scan(f"{tmp_path}/{name}")["problem"], name


def test_a_part_of_a_file_is_a_clip_of_its_own(tmp_path):
    path = write(tmp_path / "a.wav", np.arange(1, 16001, dtype="int16"))
    part = segment(path, 0.25, 0.5)
    assert scan(part)["duration"] == 0.25 and whole(part) == (str(path), 0.25, 0.5)
    assert decode(part, 16000).tolist() == decode(path, 16000)[4000:8000].tolist()
    inner = decode({"bytes": None, "path": part}, 16000, 0.125, 0.5)  # never beyond the part
    assert inner.tolist() == decode(path, 16000)[6000:8000].tolist()
    assert scan(segment(path, 0.75, None))["duration"] == 0.25
    assert "nothing between 2.0 s and 3.0 s" in scan(segment(path, 2, 3))["problem"]


# --- the hash ---------------------------------------------------------------------------------------------------------


def test_duration_is_frames_over_rate(tmp_path):
    assert scan(write(tmp_path / "a.wav", tone(440, 24414, 1.5), 24414))["duration"] == 36621 / 24414
    assert scan(write(tmp_path / "b.wav", np.repeat(tone(440, 48000)[:, None], 2, axis=1), 48000))["duration"] == 1.0


def test_a_copy_that_a_model_reads_alike_has_an_equal_hash(tmp_path):
    """Whatever the file's name, container, channels and sample type."""
    wave = np.random.default_rng(3).integers(-(2**15), 2**15, 1600) / 2**15
    stereo = np.repeat(wave[:, None], 2, axis=1)
    paths = [write(tmp_path / f"{subtype}.wav", wave, subtype=subtype) for subtype in ("PCM_16", "PCM_24", "PCM_32")]
    paths += [write(tmp_path / f"{subtype}.wav", stereo, subtype=subtype) for subtype in ("FLOAT", "DOUBLE")]
    paths += [write(tmp_path / f"{subtype}.flac", stereo, subtype=subtype) for subtype in ("PCM_16", "PCM_24")]
    paths += [write(tmp_path / "e.wav", wave, format="WAVEX"), write(tmp_path / "f.aiff", wave, subtype="PCM_24")]
    hashes = [scan(path)["audio_hash"] for path in paths]
    hashes.append(scan({"bytes": paths[5].read_bytes(), "path": "c.flac"})["audio_hash"])
    assert len(hashes) == 10 and len(set(hashes)) == 1


def test_two_channels_are_hashed_as_their_mean(tmp_path):
    """Left 3 and right 1 are read as 2; and what a model reads as zeros is silent."""
    left_and_right = np.array([[3, 1], [-8, 2], [100, 300]], dtype=np.int16)
    mono = write(tmp_path / "mono.wav", np.array([2, -3, 200], dtype=np.int16))
    assert scan(write(tmp_path / "a.wav", left_and_right))["audio_hash"] == scan(mono)["audio_hash"]
    opposite = write(tmp_path / "b.wav", np.array([[5, -5], [7, -7]], dtype=np.int16))
    assert "silent" in scan(opposite)["problem"] and not decode(opposite, 16000).any()


def test_rounding_to_16_bit_does_not_make_quiet_recordings_equal(tmp_path):
    """A quarter of the last of 16 bits is rounded away; where nothing else is there, it is kept."""
    whole, step = np.array([4.0, -7.0, 9.0]) / 2**15, 2.0**-15
    near = [write(tmp_path / f"{i}.wav", whole + part * step, subtype="FLOAT") for i, part in enumerate((0.0, 0.25))]
    assert scan(near[0])["audio_hash"] == scan(near[1])["audio_hash"]
    quiet = [write(tmp_path / f"q{i}.wav", part * whole, subtype="FLOAT") for i, part in enumerate((0.01, 0.02))]
    assert scan(quiet[0])["problem"] is None and scan(quiet[0])["audio_hash"] != scan(quiet[1])["audio_hash"]


def test_different_audio_has_a_different_hash(tmp_path):
    wave = (tone(440, 16000, 0.1) * 32768).astype(np.int16)
    other = wave.copy()
    other[-1] += 1
    paths = [
        write(tmp_path / "a.wav", wave),
        write(tmp_path / "b.wav", other),
        write(tmp_path / "c.wav", wave[:-1]),
        write(tmp_path / "d.wav", wave, 8000),  # the same numbers, twice as slow
    ]
    assert len({scan(path)["audio_hash"] for path in paths}) == 4


def test_stereo_with_a_dead_left_channel_is_heard(tmp_path):
    """Two different recordings on the right channel only are not the same audio."""
    right = [np.stack([np.zeros(1600), tone(frequency, 16000, 0.1)], axis=1) for frequency in (200, 300)]
    first, second = (scan(write(tmp_path / f"{i}.wav", wave)) for i, wave in enumerate(right))
    assert first["problem"] is None
    assert first["audio_hash"] != second["audio_hash"]


def test_quiet_is_not_silent(tmp_path):
    """RAVDESS has peaks below 300 of 32768; one sample of 1 is enough."""
    samples = np.zeros(1600, dtype=np.int16)
    samples[800] = 1
    assert scan(write(tmp_path / "a.wav", samples))["problem"] is None
