"""Sound: where it lies in time, what is speech, what is loud."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_samples import RECIPES, Recipe, moving_pictures, write

from tidegate.media import (
    encode_video,
    loud_spans,
    probe,
    read_audio,
    read_clip,
    speech_spans,
    waveform_envelope,
)
from tidegate.types import AudioChunk, ClipRequest

Sample = Callable[[str], Path]
RATE = 16_000


def chunk(samples: np.ndarray, start: float = 0.0) -> AudioChunk:
    return AudioChunk(samples.astype(np.float32), RATE, start)


def tone(seconds: float, level: float = 0.5, pitch: float = 440.0) -> np.ndarray:
    return level * np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE)


@pytest.mark.parametrize("name", sorted(name for name in RECIPES if RECIPES[name].audio))
def test_audio_of_every_container_is_the_tone_it_was_made_with(sample: Sample, name: str) -> None:
    audio = read_audio(sample(name))
    assert audio is not None
    assert audio.samples.dtype == np.float32
    assert audio.sample_rate_hz == RATE
    assert audio.duration_seconds == pytest.approx(2.5, abs=0.08)
    middle = audio.samples[8000:24_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(440, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.4, abs=0.12)


def test_no_track_gives_none(sample: Sample) -> None:
    assert read_audio(sample("h264-mp4-ntsc")) is None
    assert read_clip(sample("h264-mp4-ntsc"), ClipRequest(), video_id="x")[1].missing == ("audio", "text")


def test_audio_is_cut_to_the_wanted_length(sample: Sample) -> None:
    audio = read_audio(sample("h264-mp4"), max_seconds=0.75)
    assert audio is not None
    assert len(audio.samples) == 12_000
    whole = read_audio(sample("h264-mp4"))
    assert whole is not None
    np.testing.assert_array_equal(whole.samples[:12_000], audio.samples)


def test_another_rate_can_be_asked_for(sample: Sample) -> None:
    audio = read_audio(sample("h264-mp4"), sample_rate_hz=8000)
    assert audio is not None
    assert len(audio.samples) == pytest.approx(20_000, abs=200)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_click_is_heard_at_its_time(tmp_path: Path, start: float) -> None:
    samples = np.zeros(2 * RATE)
    samples[RATE : RATE + 80] = tone(0.005, 0.9, 2000)
    encode_video(tmp_path / "click.mp4", moving_pictures(50), 20, chunk(samples, start), audio_bit_rate=128_000)
    audio = read_audio(tmp_path / "click.mp4")
    assert audio is not None
    loudest = int(np.argmax(np.abs(audio.samples)))
    assert audio.start_seconds + loudest / RATE == pytest.approx(start + 1.0, abs=0.006)


def test_missing_packets_leave_silence_of_their_length(tmp_path: Path) -> None:
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=20, options={"threads": "1"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for index, picture in enumerate(moving_pictures(40, 64, 64)):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index, Fraction(1, 20)
            container.mux(video.encode(frame))
        samples = (tone(2.0) * 32_767).astype(np.int16)
        for offset in [*range(0, 8000, 800), *range(20_000, 32_000, 800)]:  # nothing from 0.5 s to 1.25 s
            part = av.AudioFrame.from_ndarray(samples[None, offset : offset + 800], format="s16", layout="mono")
            part.sample_rate, part.time_base, part.pts = RATE, Fraction(1, RATE), offset
            container.mux(sound.encode(part))
        container.mux(video.encode(None))
    audio = read_audio(path)
    assert audio is not None
    assert len(audio.samples) == pytest.approx(32_000, abs=32)
    assert np.abs(audio.samples[8100:19_900]).max() < 1e-3
    assert np.abs(audio.samples[20_100:31_900]).max() == pytest.approx(0.5, abs=0.01)
    assert np.abs(audio.samples[:7900]).max() == pytest.approx(0.5, abs=0.01)


def test_padding_of_the_last_packet_is_not_sound(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", moving_pictures(20), 20, chunk(tone(1.0)))
    audio = read_audio(tmp_path / "a.mp4")
    assert audio is not None
    assert len(audio.samples) == RATE
    track = probe(tmp_path / "a.mp4").audio_track
    assert track is not None
    assert track.span is not None
    assert track.span.duration_seconds == pytest.approx(1.0)


def test_surround_is_mixed_down(tmp_path: Path) -> None:
    path = write(tmp_path / "surround.mkv", Recipe(suffix="mkv", audio=("aac", 48_000, "5.1"), count=30))
    audio = read_audio(path)
    assert audio is not None
    assert 0.1 < np.abs(audio.samples).max() <= 1.0


def spoken(text: str) -> np.ndarray:
    """The text in espeak-ng's English voice, 16 kHz float."""
    loader = pytest.importorskip("espeakng_loader")
    library = ctypes.CDLL(loader.get_library_path())
    heard: list[np.ndarray] = []
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def collect(samples, count: int, _events) -> int:
        if samples and count:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = kind(collect)
    rate = library.espeak_Initialize(2, 0, loader.get_data_path().encode(), 0)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(b"en-us")
    library.espeak_Synth(text.encode(), len(text) + 1, 0, 0, 0, 1, None, None)
    library.espeak_Synchronize()
    samples = np.concatenate(heard) / 32_768
    return np.interp(np.arange(0, len(samples), rate / RATE), np.arange(len(samples)), samples)


def test_speech_is_found_where_it_is_and_tones_and_noise_are_not_speech() -> None:
    voice = spoken("Please call the office in the morning, and ask for the new report.")
    noise = 0.01 * np.random.default_rng(0).standard_normal(2 * RATE)
    samples = np.concatenate([noise, voice, noise, tone(2.0)])
    spans = speech_spans(chunk(samples, start=10.0))
    assert spans
    first, last = 12.0, 12.0 + len(voice) / RATE
    assert spans[0].start_seconds == pytest.approx(first, abs=0.4)
    assert spans[-1].end_seconds == pytest.approx(last, abs=0.5)
    heard = sum(span.duration_seconds for span in spans)
    assert heard > 0.6 * len(voice) / RATE


def test_silence_and_nothing_hold_no_speech() -> None:
    assert speech_spans(chunk(np.zeros(RATE))) == ()
    assert speech_spans(chunk(np.zeros(0))) == ()


def test_speech_needs_the_models_rate() -> None:
    with pytest.raises(ValueError, match="16000 Hz audio, got 8000"):
        speech_spans(AudioChunk(np.zeros(100, np.float32), 8000))


def test_a_loud_stretch_in_a_quiet_track() -> None:
    samples = np.concatenate([tone(2.0, 0.02), tone(1.0, 0.3), tone(2.0, 0.02)])
    (span,) = loud_spans(chunk(samples, start=5.0))
    assert (span.start_seconds, span.end_seconds) == pytest.approx((7.0, 8.0), abs=0.06)


def test_loudness_is_absolute_for_tracks_that_are_loud_throughout() -> None:
    (span,) = loud_spans(chunk(tone(2.0, 0.9)))
    assert (span.start_seconds, span.end_seconds) == pytest.approx((0.0, 2.0))
    assert loud_spans(chunk(tone(2.0, 0.05))) == ()
    assert loud_spans(chunk(np.zeros(RATE))) == ()
    assert loud_spans(chunk(np.zeros(0))) == ()


def test_the_envelope_holds_every_extreme() -> None:
    rng = np.random.default_rng(0)
    samples = rng.uniform(-1, 1, 10_007).astype(np.float32)
    envelope = waveform_envelope(chunk(samples), 100)
    assert envelope.shape == (100, 2)
    assert (envelope[:, 0].min(), envelope[:, 1].max()) == (samples.min(), samples.max())
    assert envelope[0].tolist() == [samples[:100].min(), samples[:100].max()]
    assert waveform_envelope(chunk(samples[:3]), 10).shape == (10, 2)
    assert not waveform_envelope(chunk(samples[:0]), 4).any()
    with pytest.raises(ValueError, match="bins >= 1"):
        waveform_envelope(chunk(samples), 0)
