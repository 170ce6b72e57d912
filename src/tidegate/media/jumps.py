"""Decode chosen frames by jumping to the keyframes before them, and prove each jump.

Enters: an open container, its frame table, wanted presentation times. Leaves: those frames that were reached with
proof.
Why this method: a frame depends on nothing before the keyframe at or before it (in presentation time; pictures
shown before a keyframe but stored after it may not, and are not taken). A jump counts only when the packet landed
on is a known keyframe that is early enough, and when the first picture that comes out is that keyframe itself,
which a stream refreshed gradually fails. Where a container has no exact index (MPEG-TS and the like) nothing is
sought: packets are read on and left undecoded. What has no proof is not returned; the caller decodes it in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from tidegate.media.container import demux
from tidegate.media.limits import Deadline
from tidegate.media.timeline import Timeline

__all__ = ["JumpReader"]

_INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_Show = Callable[[int, av.VideoFrame], None]


class JumpReader:
    """One decoder moving forward through a file; ``read`` may be called once."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, timeline: Timeline, deadline: Deadline, show: _Show
    ) -> None:
        self._container, self._stream, self._context = container, stream, stream.codec_context
        self._timeline, self._deadline, self._show = timeline, deadline, show
        self._keys = set(timeline.key_pts.tolist())
        self._can_seek = container.format.name in _INDEXED_CONTAINERS
        self._packets: Iterator[Packet[VideoStream]] = demux(container, stream)
        self._wanted: set[int] = set()
        self._is_running = False
        self._is_proven = False
        self._start = 0
        self._newest_key = 0
        self._newest_out = 0

    def read(self, wanted_pts: Sequence[int]) -> None:
        """Call ``show(pts, frame)`` for every wanted time that is reached with proof, in ascending order per jump."""
        self._wanted = set(wanted_pts)
        for key, group in self._groups(wanted_pts):
            if group[-1] not in self._wanted:
                continue
            try:
                self._read_group(key, group)
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                self._stop()

    def _groups(self, wanted_pts: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Wanted times by the row of the last keyframe at or before each; times before any keyframe are left out."""
        rows = np.searchsorted(self._timeline.key_pts, np.asarray(wanted_pts), side="right") - 1
        for row in np.unique(rows[rows >= 0]):
            yield int(row), [pts for pts, at in zip(wanted_pts, rows, strict=True) if at == row]

    def _read_group(self, key: int, group: list[int]) -> None:
        goal = int(self._timeline.key_pts[key])
        if not (self._is_running and goal <= self._newest_key):
            landed = self._jump(key)
            if landed is None:
                return
            if group == [goal] == [landed.pts] and self._read_alone(landed):
                return
            self._decode(landed)
        while self._is_running and self._newest_out < group[-1]:
            self._decode(next(self._packets, None))

    def _jump(self, key: int) -> Packet[VideoStream] | None:
        """Move to a keyframe at or before the goal; the packet landed on, None when it cannot be proven."""
        goal, goal_dts = int(self._timeline.key_pts[key]), int(self._timeline.key_dts[key])
        self._context.flush_buffers()
        landed = None
        if self._can_seek:
            for target in dict.fromkeys((goal, goal_dts)):
                self._container.seek(target, stream=self._stream)
                self._packets = demux(self._container, self._stream)
                landed = next(self._packets, None)
                if self._is_key_before(landed, goal):
                    break
        else:
            landed = next((packet for packet in self._packets if packet.is_keyframe and packet.pts == goal), None)
        if landed is None or not self._is_key_before(landed, goal):
            self._stop()
            return None
        self._start = self._newest_out = self._newest_key = landed.pts or 0
        self._newest_out -= 1
        self._is_running, self._is_proven = True, landed.is_discard
        return landed

    def _is_key_before(self, packet: Packet[VideoStream] | None, goal: int) -> bool:
        return (
            packet is not None
            and packet.size > 0
            and packet.is_keyframe
            and packet.pts is not None
            and packet.pts in self._keys
            and packet.pts <= goal
        )

    def _read_alone(self, packet: Packet[VideoStream]) -> bool:
        """Decode one keyframe without what follows; False for interlaced video: half may be in the next packet."""
        self._context.skip_frame = "DEFAULT"
        frames = [*self._context.decode(packet), *self._context.decode(None)]
        self._context.flush_buffers()
        if len(frames) != 1 or frames[0].pts != packet.pts or frames[0].interlaced_frame:
            return False
        self._stop()
        self._take(frames[0])
        return True

    def _decode(self, packet: Packet[VideoStream] | None) -> None:
        self._deadline.check()
        if packet is not None and packet.size == 0:
            packet = None
        if packet is not None:
            if packet.is_keyframe and packet.pts is not None:
                self._newest_key = max(self._newest_key, packet.pts)
            if self._context.name == "h264":
                self._context.skip_frame = "DEFAULT" if packet.pts in self._wanted else "NONREF"
        for frame in self._context.decode(packet):
            self._place(frame)
        if packet is None:
            self._stop()

    def _place(self, frame: av.VideoFrame) -> None:
        if frame.pts is None or frame.pts < self._start:
            return
        if not self._is_proven:
            if frame.pts != self._start:
                self._stop()
                return
            self._is_proven = True
        if self._is_running:
            self._newest_out = max(self._newest_out, frame.pts)
            self._take(frame)

    def _take(self, frame: av.VideoFrame) -> None:
        if frame.pts is not None and frame.pts in self._wanted:
            self._wanted.discard(frame.pts)
            self._show(frame.pts, frame)

    def _stop(self) -> None:
        self._is_running = False
