"""What can happen to a clip before any model sees it: noise, blur, coarse coding, other or muffled sound.

Enters: a decoded clip and a seed. Leaves: the clip as a damaged file would decode. Pictures stay in memory all the way,
the coded ones too (H.264 into a buffer and back), so that no frame of anybody is written anywhere.

Shape legend: T frames, H height, W width, C colours.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from tidegate.types import AudioChunk, Clip, FrameBatch

__all__ = ["Damage", "added_noise", "blurred", "coded", "loud_sound", "muffled", "other_sound", "shrunk", "silenced"]

Damage = Callable[[Clip, int], Clip]
"""(clip, seed of the item) → damaged clip."""
_Frames = npt.NDArray[np.uint8]
_Samples = npt.NDArray[np.float32]
_MODEL_RATE_HZ = 16_000


def _pictures(clip: Clip, change: Callable[[_Frames], _Frames]) -> Clip:
    """The clip with all its frames changed at once."""
    if clip.frames is None or not len(clip.frames):
        return clip
    frames = FrameBatch(frames_THWC=change(clip.frames.frames_THWC), pts_seconds=clip.frames.pts_seconds)
    return replace(clip, frames=frames)


def _sound(clip: Clip, change: Callable[[_Samples], _Samples]) -> Clip:
    if clip.audio is None or not len(clip.audio.samples):
        return clip
    samples = np.clip(change(clip.audio.samples), -1.0, 1.0).astype(np.float32)
    return replace(clip, audio=replace(clip.audio, samples=samples))


def _each(frames_THWC: _Frames, change: Callable[[Image.Image], Image.Image]) -> _Frames:
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames_THWC])


def _loudness(samples: _Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) + 1e-6


def added_noise(grain: float, snr_db: float) -> Damage:
    """Grain of that deviation (of 255) on the pictures, hiss at that ratio under the sound."""

    def damage(clip: Clip, seed: int) -> Clip:
        rng = np.random.default_rng(seed)

        def grained(frames: _Frames) -> _Frames:
            noise = rng.standard_normal(frames.shape, dtype=np.float32) * grain
            return np.clip(frames + noise, 0, 255).astype(np.uint8)

        def hissing(samples: _Samples) -> _Samples:
            level = _loudness(samples) * 10 ** (-snr_db / 20)
            return samples + level * rng.standard_normal(len(samples), dtype=np.float32)

        return _sound(_pictures(clip, grained), hissing)

    return damage


def blurred(share: float) -> Damage:
    """Gaussian blur whose radius is a share of the shorter edge."""

    def damage(clip: Clip, seed: int) -> Clip:
        def soft(frames: _Frames) -> _Frames:
            filtered = ImageFilter.GaussianBlur(share * min(frames.shape[1:3]))
            return _each(frames, lambda image: image.filter(filtered))

        return _pictures(clip, soft)

    return damage


def shrunk(clip: Clip, factor: float) -> Clip:
    """Frames decoded at a fraction of their size; the stage enlarges them again."""
    if factor >= 1.0:
        return clip

    def smaller(frames: _Frames) -> _Frames:
        size = tuple(max(4, round(edge * factor)) for edge in (frames.shape[2], frames.shape[1]))
        return _each(frames, lambda image: image.resize(size, Image.Resampling.BOX))

    return _pictures(clip, smaller)


def coded(crf: float, factor: float = 1.0) -> Damage:
    """Encoded again by libx264 at a constant rate factor, at a fraction of the size, and decoded."""

    def damage(clip: Clip, seed: int) -> Clip:
        return _pictures(clip, lambda frames: _recoded(frames, crf, factor))

    return damage


def _recoded(frames_THWC: _Frames, crf: float, factor: float) -> _Frames:
    height, width = frames_THWC.shape[1:3]
    size = tuple(max(16, 2 * round(edge * factor / 2)) for edge in (width, height))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        options = {"crf": f"{crf:g}", "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=8, options=options)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for frame in frames_THWC:
            image = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        pictures = [frame.to_image() for frame in container.decode(video=0)]
    return np.stack([np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for image in pictures])


def muffled(cutoff_hz: float) -> Damage:
    """Sound through a closed door: a steep low pass that takes the words and leaves the voice."""

    def damage(clip: Clip, seed: int) -> Clip:
        from scipy import signal

        rate = _MODEL_RATE_HZ if clip.audio is None else clip.audio.sample_rate_hz
        sections = signal.butter(8, cutoff_hz, fs=rate, output="sos")
        return _sound(clip, lambda samples: np.asarray(signal.sosfilt(sections, samples), dtype=np.float32))

    return damage


def silenced(clip: Clip, seed: int) -> Clip:
    """The audio track is gone."""
    return replace(clip, audio=None)


def other_sound(sounds: Sequence[AudioChunk], peak: float = 0.5) -> Damage:
    """The audio of something else instead, of the same length and at that loudness; a silent clip gets it too."""

    def damage(clip: Clip, seed: int) -> Clip:
        length = _length(clip)
        samples = _fitted(sounds[seed % len(sounds)], length)
        loudest = max(1e-3, float(np.abs(samples).max()))
        return replace(clip, audio=AudioChunk(samples * (peak / loudest), _MODEL_RATE_HZ))

    return damage


def loud_sound(sounds: Sequence[AudioChunk], over_db: float) -> Damage:
    """Something else played over the clip's own sound, that much louder than it (at least audible)."""

    def damage(clip: Clip, seed: int) -> Clip:
        def mixed(samples: _Samples) -> _Samples:
            second = _fitted(sounds[seed % len(sounds)], len(samples))
            level = max(_loudness(samples), 0.02) * 10 ** (over_db / 20)
            both = samples + second * (level / _loudness(second))
            return np.asarray(both / max(1.0, float(np.abs(both).max())), dtype=np.float32)

        return _sound(clip, mixed)

    return damage


def _length(clip: Clip) -> int:
    """Samples that a track of the clip's length has."""
    if clip.audio is not None and len(clip.audio.samples):
        return len(clip.audio.samples)
    return max(_MODEL_RATE_HZ, round((clip.span.end_seconds - clip.span.start_seconds) * _MODEL_RATE_HZ))


def _fitted(sound: AudioChunk, length: int) -> _Samples:
    """A sound repeated or cut to a length."""
    return np.resize(sound.samples, length).astype(np.float32)
