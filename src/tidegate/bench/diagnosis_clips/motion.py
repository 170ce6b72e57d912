"""``describe_motion``: a clip as some hundred plain numbers: motion, edges, colour, sound. No network, no download.

Enters: a decoded clip. Leaves: numbers of fixed length, zeros where a modality is missing. Motion is told by frame
differences (how much, how spread, how it changes) and by the flow of blocks (Lucas & Kanade 1981, one step on blocks of
12 pixels, the median taken off as the camera's own); edges by histograms of gradient directions, of the pictures and of
their differences (Dalal et al. 2006); sound by the energy of bands.

Shape legend: T frames, S steps between them, H height, W width, B blocks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from tidegate.types import Clip

__all__ = ["MOTION_VERSION", "describe_motion"]

MOTION_VERSION = "motion-1"
Floats = npt.NDArray[np.float32]
_WIDTH, _HEIGHT, _BLOCK = 96, 72, 12
_DIRECTIONS, _BANDS = 8, 12
_DIFFERENCES = np.array([0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 1.01], dtype=np.float32)
_NUM_SOUND = 2 * _BANDS + 4


def describe_motion(clip: Clip) -> npt.NDArray[np.float64]:
    """The numbers of a clip."""
    parts = [*_seen(clip), _heard(clip)]
    return np.nan_to_num(np.concatenate(parts).astype(np.float64))


def _seen(clip: Clip) -> list[Floats]:
    pictures = np.zeros((1, _HEIGHT, _WIDTH, 3), dtype=np.float32)
    if clip.frames is not None and len(clip.frames):
        small = [Image.fromarray(frame).resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR)
                 for frame in clip.frames.frames_THWC]
        pictures = np.stack([np.asarray(image, dtype=np.float32) for image in small]) / 255.0
    grey_THW = pictures.mean(axis=3)
    steps_SHW = np.diff(grey_THW, axis=0) if len(grey_THW) > 1 else np.zeros((1, _HEIGHT, _WIDTH), dtype=np.float32)
    return [_differences(np.abs(steps_SHW)), _flow(grey_THW), _edges(grey_THW), _edges(np.abs(steps_SHW)),
            _colours(pictures), _detail(grey_THW)]


def _spread(values: npt.NDArray[np.float32]) -> Floats:
    """Mean, deviation, and quantiles."""
    return np.concatenate([[values.mean(), values.std()], np.quantile(values, [0.1, 0.5, 0.9, 1.0])]).astype(np.float32)


def _blocks(values_SHW: Floats) -> Floats:
    """(S, B) block means."""
    rows, columns = _HEIGHT // _BLOCK, _WIDTH // _BLOCK
    cut = values_SHW.reshape(len(values_SHW), rows, _BLOCK, columns, _BLOCK)
    means: Floats = cut.mean(axis=(2, 4)).reshape(len(values_SHW), -1)
    return means


def _differences(change_SHW: Floats) -> Floats:
    energy_SB = _blocks(change_SHW)
    total = energy_SB.mean(axis=0)
    share = total / max(1e-6, float(total.sum()))
    entropy = -float((share * np.log(share + 1e-9)).sum())
    counts = np.histogram(change_SHW, bins=_DIFFERENCES)[0] / change_SHW.size
    return np.concatenate([_spread(energy_SB.mean(axis=1)), _spread(total), _spread(energy_SB.std(axis=0)),
                           [entropy], np.log(counts + 1e-4)]).astype(np.float32)


def _flow(grey_THW: Floats) -> Floats:
    """Flow of blocks: how fast, how differently, how it changes, and where to."""
    if len(grey_THW) < 2:
        return np.zeros(4 * 6 + _DIRECTIONS + 1, dtype=np.float32)
    across, down = np.gradient(grey_THW[:-1], axis=2), np.gradient(grey_THW[:-1], axis=1)
    step = np.diff(grey_THW, axis=0)
    xx, yy, xy = _blocks(across**2) + 1e-4, _blocks(down**2) + 1e-4, _blocks(across * down)
    xt, yt = _blocks(across * step), _blocks(down * step)
    size = xx * yy - xy**2
    u_SB, v_SB = (xy * yt - yy * xt) / size, (xy * xt - xx * yt) / size
    speed = np.hypot(u_SB, v_SB)
    own_u, own_v = u_SB - np.median(u_SB, axis=1, keepdims=True), v_SB - np.median(v_SB, axis=1, keepdims=True)
    own = np.hypot(own_u, own_v)
    change = np.zeros((1, 1), dtype=np.float32)
    if len(own_u) > 1:
        change = np.hypot(np.diff(own_u, axis=0), np.diff(own_v, axis=0))
    place = ((np.arctan2(own_v, own_u) + np.pi) / (2 * np.pi) * _DIRECTIONS).astype(int) % _DIRECTIONS
    towards = np.bincount(place.ravel(), own.ravel(), minlength=_DIRECTIONS) / max(1e-6, float(own.sum()))
    entropy = -float((towards * np.log(towards + 1e-9)).sum())
    return np.concatenate([_spread(speed), _spread(own), _spread(change), _spread(own.std(axis=1)),
                           np.sort(towards), [entropy]]).astype(np.float32)


def _edges(values_SHW: Floats) -> Floats:
    """Histogram of gradient directions without sign, and how strong gradients are."""
    down, across = np.gradient(values_SHW, axis=(1, 2))
    strength = np.hypot(down, across)
    place = ((np.arctan2(down, across) % np.pi) / np.pi * _DIRECTIONS).astype(int) % _DIRECTIONS
    found = np.bincount(place.ravel(), strength.ravel(), minlength=_DIRECTIONS)
    return np.concatenate([found / max(1e-6, float(found.sum())), [strength.mean(), strength.std()]]).astype(np.float32)


def _colours(pictures_THWC: Floats) -> Floats:
    saturation = pictures_THWC.max(axis=3) - pictures_THWC.min(axis=3)
    means, spreads = pictures_THWC.mean(axis=(0, 1, 2)), pictures_THWC.std(axis=(0, 1, 2))
    return np.concatenate([means, spreads, [saturation.mean(), saturation.std()]]).astype(np.float32)


def _detail(grey_THW: Floats) -> Floats:
    laplace = (grey_THW[:, :-2, 1:-1] + grey_THW[:, 2:, 1:-1] + grey_THW[:, 1:-1, :-2] + grey_THW[:, 1:-1, 2:]
               - 4 * grey_THW[:, 1:-1, 1:-1])
    return np.array([np.abs(laplace).mean(), laplace.std()], dtype=np.float32)


def _heard(clip: Clip) -> Floats:
    """Whether there is sound, how loud, how uneven, and the energy of bands; zeros without."""
    if clip.audio is None or len(clip.audio.samples) < 1024:
        return np.zeros(_NUM_SOUND, dtype=np.float32)
    count = len(clip.audio.samples) // 512
    windows = clip.audio.samples[: count * 512].reshape(count, 512)
    power = np.abs(np.fft.rfft(windows * np.hanning(512), axis=1))[:, 1:] ** 2
    edges = np.unique(np.geomspace(2, 256, _BANDS + 1).astype(int))
    bands = np.log10(np.add.reduceat(power, edges[:-1] - 1, axis=1) + 1e-8)
    loudness = np.log10(np.sqrt((windows**2).mean(axis=1)) + 1e-5)
    flux = np.abs(np.diff(bands, axis=0)).mean() if count > 1 else 0.0
    found = np.zeros(_NUM_SOUND, dtype=np.float32)
    found[:4] = 1.0, loudness.mean(), loudness.std(), flux
    count = bands.shape[1]
    found[4 : 4 + count], found[4 + _BANDS : 4 + _BANDS + count] = bands.mean(axis=0), bands.std(axis=0)
    return found
