"""Frozen value types that pass between rooms. Numpy only.

What enters and leaves every room is one of these. Each is checked at birth: a wrong shape, dtype, range or order is a
``ValueError`` that says what was expected and what came. Nothing here opens a file, runs a model or knows a policy.

Shape legend: T frames, H height, W width, C = 3 colour channels (RGB), N audio samples.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = [
    "AudioChunk",
    "Clip",
    "ClipRequest",
    "Decision",
    "FrameBatch",
    "Guarantee",
    "Modality",
    "Observation",
    "Outcome",
    "Score",
    "Span",
    "Status",
    "TextKind",
    "TextSpan",
    "VideoContext",
]

Modality = Literal["vision", "audio", "text"]
Status = Literal["remained", "removed", "ignored", "failed"]
TextKind = Literal["title", "sticker", "ocr", "transcript", "chat"]


def _expect(condition: bool, expected: str, came: object) -> None:
    if not condition:
        raise ValueError(f"expected {expected}, got {came!r}")


@dataclass(frozen=True)
class Span:
    """Half-open stretch of media time, ``[start_seconds, end_seconds)``, on the file's own timeline."""

    start_seconds: float
    end_seconds: float

    def __post_init__(self) -> None:
        finite = math.isfinite(self.start_seconds) and math.isfinite(self.end_seconds)
        _expect(finite and self.start_seconds <= self.end_seconds, "finite start_seconds <= end_seconds", self)

    @property
    def duration_seconds(self) -> float:
        return self.end_seconds - self.start_seconds

    def __contains__(self, instant_seconds: float) -> bool:
        return self.start_seconds <= instant_seconds < self.end_seconds


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """Decoded RGB frames and their presentation times on the file's own timeline (ffprobe's ``pts_time``)."""

    frames_THWC: npt.NDArray[np.uint8]
    pts_seconds: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        frames, pts = self.frames_THWC, self.pts_seconds
        _expect(
            frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3,
            "uint8 (T, H, W, 3)",
            (frames.dtype, frames.shape),
        )
        _expect(pts.shape == (len(frames),), f"{len(frames)} presentation times", pts.shape)
        _expect(bool(np.all(np.isfinite(pts)) and np.all(np.diff(pts) >= 0)), "finite ascending pts_seconds", pts)

    def __len__(self) -> int:
        return len(self.frames_THWC)


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """Mono float32 audio; ``start_seconds`` lies on the file's own timeline, as the frames' times do."""

    samples: npt.NDArray[np.float32]
    sample_rate_hz: int
    start_seconds: float = 0.0

    def __post_init__(self) -> None:
        _expect(
            self.samples.dtype == np.float32 and self.samples.ndim == 1,
            "float32 (N,)",
            (self.samples.dtype, self.samples.shape),
        )
        _expect(self.sample_rate_hz > 0, "sample_rate_hz > 0", self.sample_rate_hz)

    @property
    def duration_seconds(self) -> float:
        return len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True)
class TextSpan:
    """A text that belongs to a video, and where it came from."""

    kind: TextKind
    text: str
    language: str | None = None
    """ISO 639-1 code, None when unknown."""
    span: Span | None = None
    """When it is seen or heard; None for the whole video."""

    def __post_init__(self) -> None:
        _expect(self.kind in get_args(TextKind), f"one of {get_args(TextKind)}", self.kind)


@dataclass(frozen=True, kw_only=True)
class VideoContext:
    """What the platform knows of a video besides its content. None means unknown, never zero."""

    region: str | None = None
    """ISO 3166-1 alpha-2 code of the region where it is shown, upper case."""
    language: str | None = None
    views: int | None = None
    uploaded_at: datetime | None = None
    creator: str | None = None

    def __post_init__(self) -> None:
        region = self.region
        _expect(
            region is None or (len(region) == 2 and region.isascii() and region.isupper()),
            "an ISO 3166-1 alpha-2 region in upper case",
            region,
        )
        _expect(self.views is None or self.views >= 0, "views >= 0", self.views)


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """What a stage wants to see of a video. ``media`` reads it; stages declare it."""

    num_frames: int = 8
    """Frames sampled uniformly over the video; 0 = none."""
    exact: bool = True
    """True: the frames nearest the wanted instants, bit-identical to decoding the whole file.
    False: the nearest earlier keyframes, cheaper (their real times are reported)."""
    audio: bool = True
    """Decode the audio as 16 kHz mono float32."""
    max_audio_seconds: float = 30.0
    """Audio is read from the start of the video up to this length."""
    long_edge_pixels: int | None = None
    """Frames are scaled down to this long edge at decode; None keeps the native size."""

    def __post_init__(self) -> None:
        _expect(self.num_frames >= 0, "num_frames >= 0", self.num_frames)
        _expect(self.max_audio_seconds > 0, "max_audio_seconds > 0", self.max_audio_seconds)
        _expect(
            self.long_edge_pixels is None or self.long_edge_pixels > 0, "long_edge_pixels > 0", self.long_edge_pixels
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One video as a stage sees it. A modality that the video lacks is None (or no texts), never silence or blanks."""

    video_id: str
    span: Span
    frames: FrameBatch | None
    audio: AudioChunk | None
    texts: tuple[TextSpan, ...] = ()
    context: VideoContext = field(default_factory=VideoContext)

    @property
    def missing(self) -> tuple[Modality, ...]:
        """Modalities that this clip does not have."""
        lacking: list[Modality] = []
        if self.frames is None or len(self.frames) == 0:
            lacking.append("vision")
        if self.audio is None or len(self.audio.samples) == 0:
            lacking.append("audio")
        if not any(text.text.strip() for text in self.texts):
            lacking.append("text")
        return tuple(lacking)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A stage's probability that the video violates (or is a copy, by issue)."""

    value: float
    """In [0, 1]."""
    stage: str
    """Name of the stage that gave it, e.g. ``base``."""
    issue: str
    """What is scored, e.g. ``icd`` or ``ucc``."""
    model: str
    """Identity of the model: checkpoint name and content hash."""
    missing: tuple[Modality, ...] = ()
    """Modalities that the model uses and this clip lacked; they were masked."""
    cost_seconds: float = 0.0
    """Model time spent on this item (its share of the batch)."""

    def __post_init__(self) -> None:
        _expect(math.isfinite(self.value) and 0.0 <= self.value <= 1.0, "a finite score in [0, 1]", self.value)


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """A promise that travels with a threshold, and what it rests on. Made by ``cascade``'s certificates."""

    target: str
    """What is promised, in words: ``recall >= 0.95 of the large model's positives``."""
    delta: float
    """Probability that the promise fails."""
    bound: float
    """The certified value."""
    n_audit: int
    n_positives: int
    assumptions: tuple[str, ...] = ()
    policy_hash: str = ""
    certificate_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which stage decided, against which threshold, and why; for one issue of one video."""

    issue: str
    score: float
    flagged: bool
    """score >= threshold at the deciding stage."""
    threshold: float
    stage: str
    escalated: bool
    """Whether a stage after the first one was asked."""
    route: str
    """Rule that accepted or escalated, e.g. ``precision``, ``entropy``, ``views``, ``last_stage``."""
    reason: str
    """One sentence a person can read."""
    guarantee: Guarantee | None = None
    policy: str | None = None
    policy_version: str | None = None
    region: str | None = None
    clause: str | None = None
    cost_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A piece of evidence about a video. New kinds of evidence are new observations, never new optional fields."""

    kind: str
    """E.g. ``probe``, ``frames``, ``speech``, ``loudness``, ``texts``, ``missing_modality``, ``fallback``."""
    value: Any
    """JSON-able."""
    producer: str
    span: Span | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that became of one video: the record that the index, the report and evaluation read."""

    video_id: str
    path: str
    status: Status
    reason: str
    decision: Decision | None = None
    scores: tuple[Score, ...] = ()
    observations: tuple[Observation, ...] = ()
    context: VideoContext = field(default_factory=VideoContext)
    error: str | None = None
    """``TidegateError.code`` when status is ``failed``."""
    duration_seconds: float | None = None
    frame_pts_seconds: tuple[float, ...] = ()
    """Times of the frames that the deciding stage saw."""
    cost_seconds: float = 0.0
    """Wall seconds spent on this video: decoding and models."""

    def __post_init__(self) -> None:
        _expect(self.status in get_args(Status), f"one of {get_args(Status)}", self.status)
        _expect(
            (self.status == "failed") == (self.error is not None),
            "an error code exactly when failed",
            (self.status, self.error),
        )
        _expect(bool(self.reason), "a reason", self.reason)

    @property
    def score(self) -> float | None:
        return None if self.decision is None else self.decision.score

    @property
    def stage(self) -> str | None:
        return None if self.decision is None else self.decision.stage

    @property
    def escalated(self) -> bool:
        return self.decision is not None and self.decision.escalated

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: the fields, plus ``score``, ``stage`` and ``escalated`` at the top level."""
        record = dataclasses.asdict(self)
        uploaded_at = self.context.uploaded_at
        record["context"]["uploaded_at"] = None if uploaded_at is None else uploaded_at.isoformat()
        return {**record, "score": self.score, "stage": self.stage, "escalated": self.escalated}
