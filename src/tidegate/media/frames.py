"""The frames on screen at wanted instants.

Enters: a path and instants in seconds. Leaves: a ``FrameBatch`` of upright RGB frames with their true times.
Why this method: decoding starts at the keyframe before a wanted frame and stops after it, which for a few frames of
a long video costs a fraction of decoding everything. Each jump is verified by presentation times, and whatever cannot
be verified is decoded from the start of the file, so the pixels always equal those of decoding the whole file in order.
Frames that nothing refers to are skipped on the way in H.264, where ``nal_ref_idc`` says so exactly.
Source: the same seek-and-verify plan as torchcodec's exact mode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from tidegate.errors import CorruptMedia
from tidegate.media.container import PathArg, open_media
from tidegate.media.jumps import JumpReader
from tidegate.media.limits import Deadline, Limits
from tidegate.media.pixels import Canvas
from tidegate.media.probe import Probed, probe_timeline
from tidegate.media.scan import check_pixels, choose_video, decode_in_order
from tidegate.media.timeline import Timeline
from tidegate.types import FrameBatch

__all__ = ["ReadFrames", "read_frames", "read_probed_frames"]


@dataclass(frozen=True, kw_only=True)
class ReadFrames:
    """Frames, and what was unusual about decoding them."""

    batch: FrameBatch
    warnings: tuple[str, ...]


def read_frames(
    path: PathArg,
    instants_seconds: npt.ArrayLike,
    *,
    exact: bool = True,
    long_edge_pixels: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> FrameBatch:
    """The frame on screen at each instant (ascending seconds on the file's timeline), upright, RGB uint8.

    Exact: the last frame with pts <= t (the first frame for earlier t), bit-identical to decoding the whole file.
    Approximate (``exact=False``): the nearest keyframe at or before that frame; cheaper, frames may repeat. Either way
    ``pts_seconds`` are the real times of the frames returned. ``long_edge_pixels`` shrinks frames, never enlarges.
    A wanted frame that does not decode is replaced by the one before it, which its time shows; when fewer than half
    decode, ``CorruptMedia``.

    Runs in this process; untrusted files belong in ``DecoderPool``. Raises as ``probe`` does.
    """
    deadline = Deadline(limits)
    probed = probe_timeline(path, limits, deadline)
    instants = np.asarray(instants_seconds, np.float64)
    return read_probed_frames(
        path, probed, instants, exact=exact, long_edge_pixels=long_edge_pixels, limits=limits, deadline=deadline
    ).batch


def read_probed_frames(
    path: PathArg,
    probed: Probed,
    instants_seconds: npt.NDArray[np.float64],
    *,
    exact: bool,
    long_edge_pixels: int | None,
    limits: Limits,
    deadline: Deadline,
) -> ReadFrames:
    """``read_frames`` for a file that is probed already."""
    if instants_seconds.ndim != 1 or not np.all(np.isfinite(instants_seconds)) or np.any(np.diff(instants_seconds) < 0):
        raise ValueError(f"expected finite ascending instants_seconds (T,), got {instants_seconds!r}")
    timeline = probed.timeline
    numbers = timeline.on_screen(instants_seconds)
    if not exact:
        numbers = timeline.keyframes_before(numbers)
    canvas = Canvas.fit(probed.scan.width, probed.scan.height, long_edge_pixels, probed.scan.orientation)
    gallery = _Gallery(np.unique(numbers), canvas, timeline, limits)
    if not timeline.by_order and len(numbers):
        with open_media(path, limits, deadline) as container:
            reader = JumpReader(container, choose_video(container), timeline, deadline, gallery.show)
            reader.read(timeline.pts[gallery.numbers].tolist())
    if not gallery.is_complete:
        with open_media(path, limits, deadline) as container:
            gallery.collect_in_order(decode_in_order(container, choose_video(container), deadline))
    warnings = gallery.judge(numbers)
    return ReadFrames(batch=gallery.batch(numbers), warnings=warnings)


class _Gallery:
    """One place for every distinct wanted frame, and what hangs there: the frame itself or a stand-in."""

    def __init__(self, numbers: npt.NDArray[np.intp], canvas: Canvas, timeline: Timeline, limits: Limits) -> None:
        self.numbers = numbers
        self._canvas, self._timeline, self._limits = canvas, timeline, limits
        self._wall = canvas.blank(len(numbers), limits)
        self._ticks = timeline.pts[numbers]
        self._place_of = {int(tick): place for place, tick in enumerate(self._ticks)}
        self._shown_ticks = self._ticks.copy()
        self._is_hung = np.zeros(len(numbers), bool)
        self._num_damaged = 0
        self._is_stand_in = np.zeros(len(numbers), bool)
        self._reformatter = VideoReformatter()

    @property
    def is_complete(self) -> bool:
        return bool(self._is_hung.all())

    def show(self, tick: int, frame: av.VideoFrame) -> None:
        """Hang the wanted frame of time ``tick``."""
        self._hang(self._place_of[tick], tick, frame)

    def collect_in_order(self, frames: Iterator[av.VideoFrame]) -> None:
        """Fill the empty places from a decoding of the whole stream; the frame before stands in for a lost one."""
        before: tuple[int, av.VideoFrame] | None = None
        empty = deque(np.flatnonzero(~self._is_hung).tolist())
        for number, frame in enumerate(frames):
            tick = int(self._timeline.pts[number]) if self._timeline.by_order else frame.pts
            if tick is None:
                continue
            while empty and self._ticks[empty[0]] < tick:
                self._hang(empty.popleft(), *(before or (tick, frame)))
            if empty and self._ticks[empty[0]] == tick:
                self._hang(empty.popleft(), tick, frame)
            before = (tick, frame)
            if not empty:
                return
        while empty and before is not None:
            self._hang(empty.popleft(), *before)

    def _hang(self, place: int, tick: int, frame: av.VideoFrame) -> None:
        check_pixels(frame.width, frame.height, self._limits)
        self._canvas.paint(frame, self._wall[place], self._reformatter)
        self._shown_ticks[place] = tick
        self._is_hung[place] = True
        self._is_stand_in[place] = tick != self._ticks[place]
        self._num_damaged += frame.is_corrupt

    def judge(self, numbers: npt.NDArray[np.intp]) -> tuple[str, ...]:
        """Warnings about stand-ins; ``CorruptMedia`` when fewer than half of the wanted frames decode."""
        places = np.searchsorted(self.numbers, numbers)
        lost = int(np.sum(self._is_stand_in[places] | ~self._is_hung[places]))
        if lost * 2 > len(numbers) or not self.is_complete:
            raise CorruptMedia(
                f"expected at least half of {len(numbers)} wanted frames to decode, got {len(numbers) - lost}"
            )
        warnings = []
        if lost:
            warnings.append(f"{lost} of {len(numbers)} wanted frames do not decode; the frames before them stand in")
        if self._num_damaged:
            warnings.append(f"{self._num_damaged} of {len(self.numbers)} frames are damaged")
        return tuple(warnings)

    def batch(self, numbers: npt.NDArray[np.intp]) -> FrameBatch:
        """The frames for ``numbers``, which may repeat."""
        places = np.searchsorted(self.numbers, numbers)
        if np.any(np.diff(self._shown_ticks) < 0):
            raise CorruptMedia("expected frames in one order, got another on a second decoding")
        frames_THWC = self._wall if len(places) == len(self._wall) else self._wall[places]
        return FrameBatch(frames_THWC, self._timeline.seconds(self._shown_ticks)[places])
