"""``ClipScorer``: probes on real clips, scored by a stage or a cascade of two.

Enters: manifest entries and loaded stages. Leaves: a ``Scorer`` and, by ``table``, the run itself. Each clip is decoded
at four times the stage's frames and changed in memory (clips used last are kept, up to a limit); in a cascade the base
stage sees the same change, and what it stops is scored as far below the threshold as the base score lay below tau.
Scores are kept on disk, one line an item and probe, under the models' identities: a run that was interrupted goes on, a
probe that was made is not made again. A video that does not decode has no score and a note that says why.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry
from tidegate.diagnosis.clip_changes import CHANGES, DENSE, Seen, changed, composes, parts_of, spread_frames
from tidegate.diagnosis.content import Content, content_of
from tidegate.diagnosis.recognised import Transcripts
from tidegate.diagnosis.retrying import decoded_again
from tidegate.diagnosis.score_table import slices_of
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.errors import MediaError, UsageError
from tidegate.media import DecoderPool, Limits
from tidegate.models.scoring import ClassifierStage
from tidegate.types import Clip, ClipRequest, TextSpan

if TYPE_CHECKING:
    from tidegate.models.recogniser import Recogniser

__all__ = ["AsIs", "ClipScorer", "Deciding", "matched_donors", "on_scale"]

AsIs = ""
"""Key of the scores under no change."""
_FORMAT = "clip-probes-1"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """Stages and what their scores are held against."""

    large: ClassifierStage
    threshold: float
    base: ClassifierStage | None = None
    tau: float = 0.0
    """Base score at or over which the large stage is asked."""

    @property
    def identity(self) -> str:
        """Changes whenever a score may change."""
        base = "" if self.base is None else f"{self.base.identity}|{self.tau!r}"
        said = f"{_FORMAT}|{self.large.identity}|{self.threshold!r}|{base}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def request(self) -> ClipRequest:
        """What is decoded of every video."""
        own = self.large.request
        edge = None if own.long_edge_pixels is None else 2 * own.long_edge_pixels
        return ClipRequest(num_frames=DENSE * own.num_frames, exact=own.exact, audio=own.audio,
                           max_audio_seconds=own.max_audio_seconds, long_edge_pixels=edge)


@dataclass(kw_only=True)
class _Scored:
    """What one item came to under one probe."""

    score: float | None
    base: float | None = None
    escalated: bool | None = None
    note: str = ""
    content: dict[str, Any] = field(default_factory=dict)


def _expect_alike(deciding: Deciding, other: Deciding) -> None:
    """Refuse a stage of another policy version that wants what is not decoded for the run's own."""
    has, wants = deciding.request, other.large.request
    if other.large.issue != deciding.large.issue:
        raise UsageError(f"expected a stage of another policy version for {deciding.large.issue!r}, as the run's, "
                         f"found one for {other.large.issue!r}")
    too_much = {
        "num_frames": wants.num_frames > has.num_frames, "audio": wants.audio and not has.audio,
        "exact": wants.exact and not has.exact,
        "max_audio_seconds": wants.audio and wants.max_audio_seconds > has.max_audio_seconds,
        "long_edge_pixels": has.long_edge_pixels is not None and (
            wants.long_edge_pixels is None or wants.long_edge_pixels > has.long_edge_pixels),
    }
    if name := next((name for name, over in too_much.items() if over), None):
        raise UsageError(f"expected a stage of another policy version that wants at most {name} {getattr(has, name)}, "
                         f"as is decoded for the run's own, found one that wants {getattr(wants, name)}")


class ClipScorer:
    """Scores entries of a manifest under probes. Use it in a ``with`` block: it holds decoding processes.

    Probes that go together may be asked for as ``a+b``.

    ``recogniser``: what ``transcript_recognised`` hears with; ``other``: the large stage of another policy version and
    its threshold, for ``policy_other``. None: that probe is not offered.
    """

    combines = True

    def __init__(self, entries: Sequence[Entry], deciding: Deciding, cache: Path, *, workers: int = 2,
                 limits: Limits | None = None, max_held_bytes: int = 512 * 2**20,
                 recogniser: Recogniser | None = None, other: Deciding | None = None,
                 progress: Progress | None = None) -> None:
        if not entries:
            raise UsageError("expected labelled entries to score, got none")
        self._entries, self._deciding, self._progress = tuple(entries), deciding, progress
        self._issue = deciding.large.issue
        if other is not None:
            _expect_alike(deciding, other)
        self._other = other
        self._limits = limits or Limits()
        self._pool = DecoderPool(workers=workers, limits=self._limits)
        self._threads = ThreadPoolExecutor(workers)
        heard = deciding.request.max_audio_seconds
        self._transcripts = None if recogniser is None else Transcripts(recogniser, self._pool, cache, seconds=heard)
        self._folder = cache / deciding.identity
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, dict[str, _Scored]] = {}
        self._donors = matched_donors(self._entries, self._issue)
        self._held: OrderedDict[int, Clip | MediaError] = OrderedDict()
        self._max_held_bytes = max_held_bytes

    @property
    def probes(self) -> frozenset[str]:
        """Probes that these stages and entries allow."""
        truths = any(entry.truth for entry in self._entries)
        left_out = set() if self._deciding.base is not None else {"force_full"}
        if not truths:
            left_out |= {"text_gold", "transcript_gold", "translated_gold"}
        if self._transcripts is None:
            left_out |= {"transcript_recognised"}
        if self._other is None:
            left_out |= {"policy_other"}
        return frozenset((set(CHANGES) | {"retry"}) - left_out)

    def score(self, rows: npt.NDArray[np.int64], probe: str) -> Floats:
        """Scores of the rows under a probe or a pair ``a+b``; NaN where it does not apply, the video does not decode,
        or the pair does not go together."""
        if unknown := set(parts_of(probe)) - self.probes:
            raise UsageError(f"expected probes among {sorted(self.probes)}, got {sorted(unknown)}")
        if not composes(probe):
            return np.full(len(rows), np.nan)
        probe = "+".join(parts_of(probe))
        known = self._known.setdefault(probe, self._read(probe))
        left = [int(row) for row in rows if self._entries[int(row)].video_id not in known]
        size = 4 * self._deciding.large.batch_size
        for start in range(0, len(left), size):
            batch = left[start : start + size]
            self._keep(probe, batch, self._retried(batch) if probe == "retry" else self._scored(batch, probe or None))
            if self._progress is not None:
                self._progress(probe or "as it is", min(start + size, len(left)), len(left))
        found = [known[self._entries[int(row)].video_id].score for row in rows]
        return np.asarray([np.nan if value is None else value for value in found], dtype=np.float64)

    def table(self) -> ProbeTable:
        """The run as it is: scores, thresholds, routes, notes and metadata of all entries."""
        scores = self.score(np.arange(len(self._entries)), AsIs)
        kept = [self._known[AsIs][entry.video_id] for entry in self._entries]
        cascade = self._deciding.base is not None
        content = Content.stacked([one.content for one in kept])
        return ProbeTable(
            ids=np.asarray([entry.video_id for entry in self._entries]),
            labels=np.asarray([entry.labels[self._issue] for entry in self._entries], dtype=np.int64),
            scores=scores, thresholds=np.full(len(scores), self._deciding.threshold),
            sources=np.asarray([entry.source_id or entry.video_id for entry in self._entries]),
            slices=slices_of(list(self._entries)),
            base_scores=np.asarray([np.nan if s.base is None else s.base for s in kept]) if cascade else None,
            escalated=np.asarray([bool(s.escalated) for s in kept]) if cascade else None,
            features={"noise_level": content.noise_N}, embeddings_ND=content.embeddings_ND, hashes=content.hashes_N,
            notes=np.asarray([one.note for one in kept]),
        )

    def _read(self, probe: str) -> dict[str, _Scored]:
        file, known = self._file(probe), {}
        lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
        for line in lines[:-1]:
            values = json.loads(line)
            video_id = values.pop("id")
            known[video_id] = _Scored(**values)
        if lines and lines[-1]:
            file.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
        return known

    def _file(self, probe: str) -> Path:
        tools = {"transcript_recognised": self._transcripts, "policy_other": self._other}
        used = [tools[part] for part in parts_of(probe) if part in tools]
        by = "".join(f"@{tool.identity}" for tool in used if tool is not None)
        return self._folder / f"{probe or 'as-is'}{by}.jsonl"

    def _keep(self, probe: str, rows: Sequence[int], scored: Sequence[_Scored]) -> None:
        with self._file(probe).open("a", encoding="utf-8") as file:
            for row, one in zip(rows, scored, strict=True):
                video_id = self._entries[row].video_id
                self._known[probe][video_id] = one
                file.write(json.dumps({"id": video_id, **vars(one)}) + "\n")

    def _decoded(self, entry: Entry) -> Clip | MediaError:
        try:
            return self._pool.read_clip(entry.path, self._deciding.request, video_id=entry.video_id,
                                        texts=entry.texts, context=entry.context)[1]
        except MediaError as error:
            return error

    def _transcript(self, row: int) -> TextSpan | None:
        return None if self._transcripts is None else self._transcripts.of(self._entries[row])

    def _clips_of(self, rows: Sequence[int]) -> dict[int, Clip | MediaError]:
        """Decoded clips of rows; those used last stay in memory up to the limit."""
        missing = [row for row in rows if row not in self._held]
        decoded = self._threads.map(self._decoded, [self._entries[row] for row in missing])
        self._held.update(zip(missing, decoded, strict=True))
        found = {row: self._held[row] for row in rows}
        for row in rows:
            self._held.move_to_end(row)
        while len(self._held) > 1 and sum(map(_bytes_of, self._held.values())) > self._max_held_bytes:
            self._held.popitem(last=False)
        return found

    def _scored(self, rows: Sequence[int], probe: str | None) -> list[_Scored]:
        """Decode, change, and let the stages decide."""
        needs_donor = probe is not None and (probe.endswith(("_swap", "_only")))
        wanted = sorted(set(rows) | ({self._donors[row] for row in rows} if needs_donor else set()))
        clips = self._clips_of(wanted)
        found = [_Scored(score=None) for _ in rows]
        jobs: list[tuple[int, Clip]] = []
        for place, row in enumerate(rows):
            clip = clips[row]
            if isinstance(clip, MediaError):
                found[place].note = clip.code
                continue
            donor = clips.get(self._donors[row])
            seen = Seen(clip=clip, num_frames=self._judge(probe).large.request.num_frames,
                        donor=donor if isinstance(donor, Clip) else None, truth=self._entries[row].truth,
                        recognised=self._transcript(row) if "transcript_recognised" in parts_of(probe) else None,
                        seed=zlib.crc32(self._entries[row].video_id.encode()))
            jobs += [(place, one) for one in changed(seen, probe)]
            if probe is None:
                found[place].content = content_of(spread_frames(clip, self._deciding.large.request.num_frames))
        self._decide(jobs, found, probe)
        return found

    def _retried(self, rows: Sequence[int]) -> list[_Scored]:
        """Decode again what has a note or no score; of all others there is nothing to retry."""
        self.score(np.asarray(rows), AsIs)
        found, jobs = [_Scored(score=None) for _ in rows], []
        for place, row in enumerate(rows):
            entry = self._entries[row]
            first = self._known[AsIs][entry.video_id]
            if first.score is not None and not first.note:
                continue
            clip = decoded_again(entry, self._deciding.request, self._limits)
            if isinstance(clip, MediaError):
                found[place].note = clip.code
            else:
                jobs.append((place, spread_frames(clip, self._deciding.large.request.num_frames, DENSE // 2)))
        self._decide(jobs, found, "retry")
        return found

    def _judge(self, probe: str | None) -> Deciding:
        """Whose large stage is asked."""
        return self._other if self._other is not None and "policy_other" in parts_of(probe) else self._deciding

    def _decide(self, jobs: Sequence[tuple[int, Clip]], found: list[_Scored], probe: str | None) -> None:
        """Fill in scores; of several clips of an item the highest counts."""
        deciding, judge, left = self._deciding, self._judge(probe), list(jobs)
        if deciding.base is not None and "force_full" not in parts_of(probe):
            asked = deciding.base.request.num_frames
            values = [s.value for s in deciding.base([spread_frames(clip, asked) for _, clip in jobs])]
            left = []
            for (place, clip), value in zip(jobs, values, strict=True):
                one = found[place]
                one.base = max(value, one.base if one.base is not None else 0.0)
                one.escalated = one.base >= deciding.tau
                if value >= deciding.tau:
                    left.append((place, clip))
                else:
                    _raise_to(one, on_scale(value, deciding.tau, deciding.threshold))
        for (place, _), score in zip(left, judge.large([clip for _, clip in left]), strict=True):
            same = judge is deciding
            value = score.value if same else on_scale(score.value, judge.threshold, deciding.threshold)
            _raise_to(found[place], value)

    def close(self) -> None:
        """End the decoding processes."""
        self._threads.shutdown()
        self._pool.close()

    def __enter__(self) -> ClipScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bytes_of(clip: Clip | MediaError) -> int:
    if not isinstance(clip, Clip):
        return 0
    frames = 0 if clip.frames is None else clip.frames.frames_THWC.nbytes
    return frames + (0 if clip.audio is None else clip.audio.samples.nbytes)


def _raise_to(one: _Scored, value: float) -> None:
    one.score = value if one.score is None else max(one.score, value)


def on_scale(value: float, own: float, threshold: float) -> float:
    """A score as far from the run's threshold, in log-odds, as it lay from its own; flagged stays flagged."""
    def odds(p: float) -> float:
        inside = min(max(p, 1e-6), 1 - 1e-6)
        return float(np.log(inside / (1 - inside)))

    flagged, distance = value >= own, odds(value) - odds(own)
    distance = max(distance, 0.0) if flagged else min(distance, -1e-3)
    moved = float(1.0 / (1.0 + np.exp(-(odds(threshold) + distance))))
    return max(moved, threshold) if flagged else moved


def matched_donors(entries: Sequence[Entry], issue: str) -> dict[int, int]:
    """For each row a harmless row of the same language and another source, the same in every run."""
    harmless = [row for row, entry in enumerate(entries) if entry.labels.get(issue) == 0]
    chosen = {}
    for row, entry in enumerate(entries):
        own = entry.source_id
        others = [h for h in harmless if h != row and (own is None or entries[h].source_id != own)]
        alike = [h for h in others if entries[h].language == entry.language] or others or [row]
        chosen[row] = alike[zlib.crc32(entry.video_id.encode()) % len(alike)]
    return chosen
