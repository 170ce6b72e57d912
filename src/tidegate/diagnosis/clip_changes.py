"""Changes of a clip: what each probe shows the model instead.

Enters: a decoded ``Clip``, another one to swap with, and what is truly said and written. Leaves: one clip or several
(then the highest score counts). Pure functions: the same clip, the same result. A change that does not apply to a clip
(no audio to mute, no known transcript) gives none, and the item has no score under that probe.

Shape legend: T frames, H height, W width, C colours.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from tidegate.corpus.synthetic.lexicon import lexicon
from tidegate.types import Clip, FrameBatch, TextSpan

__all__ = ["CHANGES", "DENSE", "Seen", "changed", "composes", "parts_of", "spread_frames"]

DENSE = 4
"""How many times the usual frames are decoded for probes of time."""
_PIXELS = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What a change may use."""

    clip: Clip
    """With ``DENSE`` times the stage's frames, at twice its size."""
    num_frames: int
    """Frames that the stage asks for."""
    donor: Clip | None = None
    """A matched harmless clip, decoded alike."""
    truth: Mapping[str, Any] = field(default_factory=dict)
    """What is truly in the clip, where it is known."""
    recognised: TextSpan | None = None
    """What a speech recogniser made of the audio."""
    seed: int = 0
    """Of noise and order."""


def spread_frames(clip: Clip, count: int, offset: int = 0) -> Clip:
    """Every k-th frame from ``offset``, so that about ``count`` are left."""
    if clip.frames is None or len(clip.frames) <= count:
        return clip
    step = len(clip.frames) // count
    return _with_frames(clip, clip.frames, np.arange(count) * step + min(offset, step - 1))


def _with_frames(clip: Clip, frames: FrameBatch, rows: npt.NDArray[Any], *, in_order: bool = True) -> Clip:
    """Chosen frames; times stay ascending whatever the pictures' order is."""
    rows = np.minimum(rows, len(frames) - 1)
    times = np.sort(frames.pts_seconds[rows])
    pictures = frames.frames_THWC[np.sort(rows) if in_order else rows]
    return replace(clip, frames=FrameBatch(frames_THWC=pictures, pts_seconds=times))


def _plain(seen: Seen) -> Clip:
    return spread_frames(seen.clip, seen.num_frames, DENSE // 2)


def _each_frame(clip: Clip, change: Callable[[_PIXELS], _PIXELS]) -> Clip:
    if clip.frames is None:
        return clip
    pictures = np.stack([change(frame) for frame in clip.frames.frames_THWC])
    return replace(clip, frames=FrameBatch(frames_THWC=pictures, pts_seconds=clip.frames.pts_seconds))


def _audio(clip: Clip, change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> Clip:
    if clip.audio is None or not len(clip.audio.samples):
        return clip
    samples = np.ascontiguousarray(change(clip.audio.samples), dtype=np.float32)
    return replace(clip, audio=replace(clip.audio, samples=samples))


def _null(seen: Seen) -> list[Clip]:
    """Pictures through JPEG, samples with the least dither."""
    rng = np.random.default_rng(seen.seed)

    def encoded(frame: _PIXELS) -> _PIXELS:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=92)
        return np.asarray(Image.open(buffer))

    dithered = _audio(_plain(seen), lambda x: x + rng.normal(0, 1e-4, len(x)).astype(np.float32))
    return [_each_frame(dithered, encoded)]


def _noisy(level: float, snr_db: float) -> Callable[[Seen], list[Clip]]:
    def change(seen: Seen) -> list[Clip]:
        rng = np.random.default_rng(seen.seed)

        def grain(frame: _PIXELS) -> _PIXELS:
            return np.clip(frame + rng.normal(0, level, frame.shape), 0, 255).astype(np.uint8)

        def hiss(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            loudness = float(np.sqrt(np.mean(samples**2))) + 1e-6
            return samples + rng.normal(0, loudness * 10 ** (-snr_db / 20), len(samples)).astype(np.float32)

        return [_audio(_each_frame(_plain(seen), grain), hiss)]

    return change


def _clean(seen: Seen) -> list[Clip]:
    """Median-filtered pictures; steady background noise taken off the spectrum."""
    from scipy import signal

    def smooth(frame: _PIXELS) -> _PIXELS:
        return np.asarray(Image.fromarray(frame).filter(ImageFilter.MedianFilter(3)))

    def denoised(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if len(samples) < 1024:
            return samples
        _, _, spectrum = signal.stft(samples, nperseg=512)
        power = np.abs(spectrum)
        floor = np.quantile(power, 0.1, axis=1, keepdims=True)
        kept = spectrum * np.maximum(1.0 - 1.5 * floor / np.maximum(power, 1e-9), 0.1)
        return np.asarray(signal.istft(kept, nperseg=512)[1][: len(samples)], dtype=np.float32)

    return [_audio(_each_frame(_plain(seen), smooth), denoised)]


def _from_donor(*parts: str) -> Callable[[Seen], list[Clip]]:
    """The donor's frames, audio or texts instead of the clip's own."""

    def change(seen: Seen) -> list[Clip]:
        if seen.donor is None or not any(_has(seen.clip, part) for part in parts):
            return []
        donor, clip = spread_frames(seen.donor, seen.num_frames, DENSE // 2), _plain(seen)
        taken: dict[str, Any] = {}
        if "vision" in parts:
            taken["frames"] = donor.frames
        if "audio" in parts:
            taken["audio"] = donor.audio
        if "text" in parts:
            taken["texts"] = donor.texts
        return [replace(clip, **taken)]

    return change


def _only(own: str, *others: str) -> Callable[[Seen], list[Clip]]:
    swapped = _from_donor(*others)
    return lambda seen: swapped(seen) if _has(seen.clip, own) else []


def _has(clip: Clip, modality: str) -> bool:
    return modality not in clip.missing


def _without(**gone: Any) -> Callable[[Seen], list[Clip]]:
    def change(seen: Seen) -> list[Clip]:
        lacks = ("audio" in gone and not _has(seen.clip, "audio")) or ("texts" in gone and not _has(seen.clip, "text"))
        clip = replace(_plain(seen), **gone)
        return [] if lacks or len(clip.missing) == 3 else [clip]

    return change


def _shuffled(seen: Seen) -> list[Clip]:
    clip = _plain(seen)
    if clip.frames is None or len(clip.frames) < 3:
        return []
    order = np.random.default_rng(seen.seed).permutation(len(clip.frames))
    return [_with_frames(clip, clip.frames, order, in_order=False)]


def _window(seen: Seen) -> list[Clip]:
    """As many neighbouring frames, where most changes from one to the next."""
    frames = seen.clip.frames
    if frames is None or len(frames) <= seen.num_frames:
        return []
    small = frames.frames_THWC[:, ::8, ::8].astype(np.float32)
    change = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))
    sums = np.convolve(change, np.ones(seen.num_frames - 1), mode="valid")
    start = int(sums.argmax())
    return [_with_frames(seen.clip, frames, np.arange(start, start + seen.num_frames))]


def _more(seen: Seen) -> list[Clip]:
    """All frames, in as many interleaved clips of the usual length: four times the tokens, none the model never saw."""
    if seen.clip.frames is None or len(seen.clip.frames) <= seen.num_frames:
        return []
    return [spread_frames(seen.clip, seen.num_frames, offset) for offset in range(DENSE)]


def _crops(seen: Seen) -> list[Clip]:
    """The whole picture and its four quarters."""
    clip = _plain(seen)
    if clip.frames is None:
        return []
    height, width = clip.frames.frames_THWC.shape[1:3]
    if min(height, width) < 32:
        return []

    def part(top: int, left: int) -> Clip:
        return _each_frame(clip, lambda frame: frame[top : top + height // 2, left : left + width // 2])

    return [clip, *(part(y, x) for y in (0, height - height // 2) for x in (0, width - width // 2))]


def _words(seen: Seen, *, translated: bool, speech: bool, writing: bool) -> list[Clip]:
    """The true words as texts; none if there are none, or the stage has them already."""
    language = seen.truth.get("language")
    spans: list[TextSpan] = []
    kinds = (("speech", "transcript", speech), ("sticker", "ocr", writing), ("title", "title", writing))
    for name, kind, wanted in kinds:
        words = seen.truth.get(name)
        known = name == "title" or (name == "sticker" and seen.truth.get("sticker_in_metadata"))
        if wanted and isinstance(words, Mapping) and words.get("text") and (translated or not known):
            text, spoken = str(words["text"]), language
            if translated:
                text, spoken = _in_english(words) or text, "en"
            spans.append(TextSpan(kind, text, spoken))  # type: ignore[arg-type]
    if not spans or (translated and language == "en"):
        return []
    kept = tuple(text for text in _plain(seen).texts if not translated or text.kind not in ("title", "sticker"))
    return [replace(_plain(seen), texts=(*kept, *spans))]


def _recognised(seen: Seen) -> list[Clip]:
    """The recogniser's transcript as a text, where it made something of the audio."""
    if seen.recognised is None:
        return []
    clip = _plain(seen)
    return [replace(clip, texts=(*clip.texts, seen.recognised))]


def _in_english(words: Mapping[str, Any]) -> str | None:
    """The parallel line of the lexicon; None for words that are not of the synthetic corpus."""
    try:
        return lexicon()["en"].phrases(str(words["theme"]))[int(words["line"])]
    except (KeyError, AttributeError, IndexError, ValueError):
        return None


CHANGES: Mapping[str, Callable[[Seen], list[Clip]]] = {
    "null": _null,
    "force_full": lambda seen: [_plain(seen)],
    "policy_other": lambda seen: [_plain(seen)],
    "audio_swap": _from_donor("audio"),
    "audio_mute": _without(audio=None),
    "vision_swap": _from_donor("vision"),
    "text_swap": _from_donor("text"),
    "text_drop": _without(texts=()),
    "audio_only": _only("audio", "vision", "text"),
    "vision_only": _only("vision", "audio", "text"),
    "text_only": _only("text", "vision", "audio"),
    "text_gold": lambda seen: _words(seen, translated=False, speech=False, writing=True),
    "transcript_gold": lambda seen: _words(seen, translated=False, speech=True, writing=False),
    "transcript_recognised": _recognised,
    "translated_gold": lambda seen: _words(seen, translated=True, speech=True, writing=True),
    "frames_more": _more,
    "frames_window": _window,
    "frames_shuffled": _shuffled,
    "crops": _crops,
    "clean": _clean,
    "noise_mild": _noisy(10.0, 20.0),
    "noise_strong": _noisy(35.0, 5.0),
}
"""Probe → the clips that are scored instead. ``force_full`` and ``policy_other`` change who judges, not what is seen.
Absent: ``resolution_up`` (LLaVA-OneVision pools frames on the configured grid, so a stage's input size is fixed;
``crops`` shows detail), what needs a translator, and ``retry``, which decodes anew (``retrying``)."""


_CHANGES_WHAT: Mapping[str, frozenset[str]] = {
    "frames_more": frozenset({"time"}), "frames_window": frozenset({"time"}), "frames_shuffled": frozenset({"time"}),
    "clean": frozenset({"noise"}), "crops": frozenset({"detail"}), "text_gold": frozenset({"writing"}),
    "transcript_gold": frozenset({"speech"}), "transcript_recognised": frozenset({"speech"}),
    "translated_gold": frozenset({"writing", "speech"}), "text_drop": frozenset({"writing", "speech"}),
    "audio_mute": frozenset({"sound"}), "force_full": frozenset({"stage"}), "policy_other": frozenset({"policy"}),
}  # fmt: skip
"""Probes that go together, in the order in which they are applied, and what each changes. Swaps and noise are not here:
whether what is swapped in is changed too, and which noise is cleaned, would be anybody's choice."""


def parts_of(probe: str | None) -> tuple[str, ...]:
    """The probes of ``a+b`` in the order in which they are applied, however they are written."""
    order = list(_CHANGES_WHAT)
    names = (probe or "").split("+") if probe else []
    return tuple(sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name)))


def composes(probe: str) -> bool:
    """Whether the parts go together: no two change the same thing. A single probe does."""
    parts = parts_of(probe)
    changes = [what for part in parts for what in _CHANGES_WHAT.get(part, ())]
    return len(parts) < 2 or (all(part in _CHANGES_WHAT for part in parts) and len(changes) == len(set(changes)))


def changed(seen: Seen, probe: str | None) -> list[Clip]:
    """Clips of an item under a probe, or several as ``a+b``; as it is for None; empty where one does not apply."""
    if probe is None:
        return [_plain(seen)]
    clips = [seen.clip] if composes(probe) else []
    for part in parts_of(probe):  # after the first a clip has the stage's frames, and all of them are kept
        clips = [after for clip in clips for after in CHANGES[part](replace(seen, clip=clip))]
    return clips
