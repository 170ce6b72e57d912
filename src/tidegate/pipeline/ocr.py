"""On-screen text with PP-OCR (the ``ocr`` extra), and what it cannot read.

Enters: a few large frames of a video. Leaves: texts of kind ``ocr`` with the span in which they were seen, and an
observation that says what was read or why not. PP-OCR as shipped in ``rapidocr`` reads Latin and Chinese script
exactly and gives nothing for Devanagari or Arabic, so an empty answer there means "not read", never "no text".
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from tidegate.errors import DependencyMissing
from tidegate.types import Clip, ClipRequest, FrameBatch, Observation, Span, TextSpan

__all__ = ["UNREAD", "PaddleReader"]

UNREAD = {
    "am": "Ethiopic", "ar": "Arabic", "as": "Bengali", "bn": "Bengali", "bo": "Tibetan", "dv": "Thaana", "fa": "Arabic",
    "gu": "Gujarati", "he": "Hebrew", "hi": "Devanagari", "hy": "Armenian", "ka": "Georgian", "km": "Khmer",
    "kn": "Kannada", "lo": "Lao", "ml": "Malayalam", "mr": "Devanagari", "my": "Myanmar", "ne": "Devanagari",
    "or": "Odia", "pa": "Gurmukhi", "ps": "Arabic", "sa": "Devanagari", "sd": "Arabic", "si": "Sinhala", "ta": "Tamil",
    "te": "Telugu", "th": "Thai", "ug": "Arabic", "ur": "Arabic", "yi": "Hebrew",
}
"""Languages (ISO 639-1) whose script the reader does not have."""
_MIN_SCORE = 0.6
_PRODUCER = "rapidocr"


class PaddleReader:
    """Reads text in frames. One call at a time; the networks are loaded by the first."""

    request = ClipRequest(num_frames=4, exact=True, audio=False, long_edge_pixels=960)

    def __init__(self) -> None:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise DependencyMissing("expected the extra 'ocr' for --ocr: pip install 'tidegate[ocr]'") from error
        self._read = RapidOCR(params={"Global.log_level": "critical"})
        self._lock = Lock()

    def __call__(self, clip: Clip) -> tuple[tuple[TextSpan, ...], tuple[Observation, ...]]:
        language = clip.context.language
        if language in UNREAD:
            why = f"on-screen text not read: the reader has no {UNREAD[language]} script (language {language})"
            return (), (Observation(kind="fallback", value=why, producer=_PRODUCER),)
        found = {} if clip.frames is None else self._seen(clip.frames)
        texts = tuple(TextSpan("ocr", text, language, Span(*times)) for text, times in found.items())
        num_frames = 0 if clip.frames is None else len(clip.frames)
        note = f"on-screen text read in {num_frames} frames, Latin and Chinese script"
        note += "" if language else "; the language is unknown, so text in another script would be missed"
        return texts, (Observation(kind="fallback", value=note, producer=_PRODUCER),)

    def _seen(self, frames: FrameBatch) -> dict[str, tuple[float, float]]:
        """Texts in order of first sight, each with the times of the first and the last frame that shows it."""
        found: dict[str, tuple[float, float]] = {}
        for frame, pts in zip(frames.frames_THWC, frames.pts_seconds.tolist(), strict=True):
            for text in self._lines(frame):
                first, _ = found.get(text, (pts, pts))
                found[text] = (first, pts)
        return found

    def _lines(self, frame_HWC: np.ndarray[Any, np.dtype[np.uint8]]) -> list[str]:
        with self._lock:
            answer: Any = self._read(np.ascontiguousarray(frame_HWC[:, :, ::-1]))
        pairs = zip(answer.txts or (), answer.scores or (), strict=True)
        return [text.strip() for text, score in pairs if score >= _MIN_SCORE and text.strip()]
