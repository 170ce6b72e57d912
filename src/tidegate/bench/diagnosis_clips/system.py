"""``ClipSystem``: what scores clips, and ``Deployed``: how it stands in front of some items, with or without a fault.

Enters: footage and a judge (two stages of a preset, or models of one's own). Leaves: a ``ProbeTable`` of any state of
deployment, and a ``Scorer`` that answers probes on it. The scores of both stages are kept raw, by treatment and probe:
thresholds, taus and labels are applied afterwards, so that faults of configuration cost no model call, and items that
a fault does not touch are scored once for all faults.

Shape legend: N items.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tidegate.bench.diagnosis_clips.footage import Footage
from tidegate.bench.diagnosis_clips.treatment import PROBES_OF_CLIPS, UNTREATED, Treatment, undone, views
from tidegate.bench.kept_rows import append_row, read_rows
from tidegate.diagnosis.clip_changes import Seen, spread_frames
from tidegate.diagnosis.clip_scorer import matched_donors, on_scale
from tidegate.diagnosis.content import Content, content_of
from tidegate.diagnosis.score_table import slices_of
from tidegate.diagnosis.table import Floats, ProbeTable, Strings
from tidegate.errors import MediaError
from tidegate.types import Clip

__all__ = ["ClipSystem", "Deployed", "Judge", "Judged", "attribute_of"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Pair = tuple[float | None, float]
"""(score of the base stage, or None without one; score of the large stage)."""
_BATCH = 32
_MAX_HELD = 64
"""Damaged clips in memory."""


class Judge(Protocol):
    """What scores clips."""

    @property
    def identity(self) -> str:
        """Changes whenever a score may change."""

    @property
    def num_frames(self) -> int:
        """Frames of a clip that it was trained with."""

    def judge(self, rows: Sequence[int], clips: Sequence[Clip]) -> list[Pair]:
        """Scores of clips that are versions of the items at ``rows``."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Raw scores of an item under a treatment and a probe."""

    pairs: tuple[Pair, ...] = ()
    """One of each clip that was scored; empty: none was."""
    note: str = ""
    """Why the file gave no clip."""
    content: dict[str, Any] = field(default_factory=dict)


class ClipSystem:
    """Entries, their footage and their judge, with all raw scores so far.

    What is kept lies under the judge, the entries (clips to swap with are drawn from them) and ``stamp``: whatever
    else scores depend on, such as the sounds that damage is done with.
    """

    def __init__(self, footage: Footage, judge: Judge, issue: str, folder: Path, *, stamp: str = "") -> None:
        self.footage, self.judge, self.issue, self.entries = footage, judge, issue, footage.entries
        names = "|".join([stamp, *(entry.video_id for entry in self.entries)])
        self.folder = folder / f"{judge.identity}-{hashlib.sha256(names.encode()).hexdigest()[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._donors = matched_donors(self.entries, issue)
        self._known: dict[tuple[str, str], dict[str, Judged]] = {}
        self._held: OrderedDict[tuple[int, str], Clip | MediaError] = OrderedDict()
        self.calls = 0
        """Clips that were really scored."""

    def judged(self, rows: Sequence[int], treatments: Sequence[Treatment], probe: str) -> list[Judged]:
        """Raw scores, from before where they are known."""
        missing = [(row, how) for row, how in zip(rows, treatments, strict=True)
                   if self.entries[row].video_id not in self._of(how.key, probe)]
        for start in range(0, len(missing), _BATCH):
            self._judge(missing[start : start + _BATCH], probe)
        return [self._of(how.key, probe)[self.entries[row].video_id]
                for row, how in zip(rows, treatments, strict=True)]

    def _of(self, treatment: str, probe: str) -> dict[str, Judged]:
        key = (treatment, probe)
        if key not in self._known:
            self._known[key] = _read(self._file(treatment, probe))
        return self._known[key]

    def _file(self, treatment: str, probe: str) -> Path:
        return self.folder / (treatment or "untreated") / f"{probe or 'as-is'}.jsonl"

    def _judge(self, wanted: Sequence[tuple[int, Treatment]], probe: str) -> None:
        jobs: list[tuple[int, Clip]] = []
        places, notes, contents = [], {}, {}
        for place, (row, how) in enumerate(wanted):
            shown, notes[place] = self._shown(row, how, probe)
            jobs += [(row, clip) for clip in shown]
            places += [place] * len(shown)
            contents[place] = content_of(shown[0]) if shown and not probe else {}
        pairs = self.judge.judge([row for row, _ in jobs], [clip for _, clip in jobs]) if jobs else []
        self.calls += len(jobs)
        for place, (row, how) in enumerate(wanted):
            own = tuple(pair for where, pair in zip(places, pairs, strict=True) if where == place)
            self._keep(row, how.key, probe, Judged(pairs=own, note=notes[place], content=contents[place]))

    def _shown(self, row: int, how: Treatment, probe: str) -> tuple[list[Clip], str]:
        """(clips to score, why there is none)."""
        how = UNTREATED if undone(how, probe) else how
        clip = self._file_of(row, how)
        if isinstance(clip, MediaError):
            return [], clip.code
        donor = self.footage.clip(self._donors[row]) if probe.endswith(("_swap", "_only")) else None
        entry = self.entries[row]
        seen = Seen(clip=clip, num_frames=self.judge.num_frames, donor=donor if isinstance(donor, Clip) else None,
                    truth=entry.truth, seed=zlib.crc32(entry.video_id.encode()))
        return views(seen, how, probe), ""

    def _file_of(self, row: int, how: Treatment) -> Clip | MediaError:
        """The file as it decodes; damaged ones are held for the next probes, the last ones used first."""
        if how.damage is None and how.kept_bytes >= 1.0:
            return self.footage.clip(row)
        if (row, how.key) not in self._held:
            clip = self.footage.clip(row) if how.kept_bytes >= 1.0 else self.footage.part(row, how.kept_bytes)
            if how.damage is not None and isinstance(clip, Clip):
                clip = how.damage(clip, zlib.crc32(self.entries[row].video_id.encode()))
            self._held[row, how.key] = clip
            while len(self._held) > _MAX_HELD:
                self._held.popitem(last=False)
        self._held.move_to_end((row, how.key))
        return self._held[row, how.key]

    def _keep(self, row: int, treatment: str, probe: str, one: Judged) -> None:
        video_id = self.entries[row].video_id
        self._of(treatment, probe)[video_id] = one
        append_row(self._file(treatment, probe), {"id": video_id, **vars(one)})


def _read(file: Path) -> dict[str, Judged]:
    """Kept scores by id."""
    known = {}
    for values in read_rows(file):
        pairs = tuple((base, large) for base, large in values["pairs"])
        known[values["id"]] = Judged(pairs=pairs, note=values["note"], content=values["content"])
    return known


def attribute_of(source: str, name: str, count: int) -> str:
    """A made-up attribute of a source, by its hash: the same in every run."""
    return f"{name[0]}{zlib.crc32(f'{name}/{source}'.encode()) % count}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Deployed:
    """The system in front of N items; arrays have length N."""

    system: ClipSystem
    rows: Ints
    """Places of the items among the system's entries."""
    treatments: tuple[Treatment, ...]
    taus: Floats
    """Base score from which on the large stage is asked."""
    thresholds: Floats
    labels: Ints
    """As the team has them."""
    attributes: dict[str, Strings]
    """Metadata beside region, language and clause."""
    cascade: bool = True

    @property
    def probes(self) -> frozenset[str]:
        """Probes that can be answered."""
        gone = set() if self.cascade else {"force_full"}
        if not any(self.system.entries[row].truth for row in self.rows):
            gone |= {"text_gold", "transcript_gold", "translated_gold"}
        if not any(self.system.entries[row].texts for row in self.rows):
            gone |= {"text_swap", "text_drop", "text_only"}
        return PROBES_OF_CLIPS - gone

    @property
    def sources(self) -> Strings:
        """Clusters for intervals."""
        entries = [self.system.entries[row] for row in self.rows]
        return np.asarray([entry.source_id or entry.video_id for entry in entries])

    def column(self, name: str) -> Strings:
        """A metadata column, such as a slice is made of; empty where it is not known."""
        if name in self.attributes:
            return self.attributes[name]
        found: Strings = slices_of([self.system.entries[row] for row in self.rows])[name]
        return found

    def with_treatment(self, hit: Bools, treatment: Treatment) -> Deployed:
        """The items in ``hit`` are treated."""
        chosen = tuple(treatment if here else old for here, old in zip(hit, self.treatments, strict=True))
        return replace(self, treatments=chosen)

    def score(self, rows: Ints, probe: str) -> Floats:
        """Scores of items under a probe, as a ``Scorer`` gives them."""
        judged = self._judged(rows, probe)
        verdicts = [self._verdict(int(row), one, probe) for row, one in zip(rows, judged, strict=True)]
        return np.asarray([verdict[0] for verdict in verdicts], dtype=np.float64)

    def _judged(self, rows: Ints, probe: str) -> list[Judged]:
        shown = "" if probe == "force_full" else probe
        chosen = [self.treatments[row] for row in rows]
        return self.system.judged([int(self.rows[row]) for row in rows], chosen, shown)

    def _verdict(self, row: int, one: Judged, probe: str) -> tuple[float, float, bool]:
        """(score that decides, base score, whether it was escalated); NaN without a clip."""
        best, base, escalated = np.nan, np.nan, False
        for below, above in one.pairs:
            asked = below is None or probe == "force_full" or below >= self.taus[row]
            value = above if asked or below is None else on_scale(below, self.taus[row], self.thresholds[row])
            best, escalated = np.fmax(best, value), escalated or asked
            base = np.fmax(base, np.nan if below is None else below)
        return float(best), float(base), escalated

    def table(self) -> ProbeTable:
        """The run as a team would see it."""
        judged = self._judged(np.arange(len(self.rows)), "")
        verdicts = [self._verdict(row, one, "") for row, one in enumerate(judged)]
        scores, bases, escalated = (np.asarray(column) for column in zip(*verdicts, strict=True))
        entries = [self.system.entries[row] for row in self.rows]
        content = Content.stacked([one.content for one in judged])
        notes = [how.note or one.note for how, one in zip(self.treatments, judged, strict=True)]
        return ProbeTable(
            ids=np.asarray([entry.video_id for entry in entries]), labels=self.labels, scores=scores,
            thresholds=self.thresholds, sources=self.sources, slices={**slices_of(entries), **self.attributes},
            base_scores=bases if self.cascade else None, escalated=escalated if self.cascade else None,
            features={"noise_level": content.noise_N}, embeddings_ND=content.embeddings_ND, hashes=content.hashes_N,
            notes=np.asarray(notes),
        )  # fmt: skip

    def content_under(self, treatment: Treatment, rows: Ints) -> Content:
        """What the items would be like under a treatment, without asking any model."""
        found = []
        for row in rows:
            place = int(self.rows[row])
            clip = self.system.footage.clip(place)
            seed = zlib.crc32(self.system.entries[place].video_id.encode())
            if isinstance(clip, Clip):
                damaged = clip if treatment.damage is None else treatment.damage(clip, seed)
                found.append(content_of(spread_frames(damaged, self.system.judge.num_frames)))
        return Content.stacked(found)
