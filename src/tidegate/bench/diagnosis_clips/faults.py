"""Which faults are planted, and the planting itself.

Enters: a ``Bench`` (a system in front of two halves of items, disjoint by source). Leaves: ``ClipFault``s, and of each
a ``ClipCase``: what a diagnosis may see, and, apart from that, the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.bench.diagnosis_clips.mechanisms import DECOYS, MECHANISMS, Place, Planting, Site, draw_place, hit
from tidegate.bench.diagnosis_clips.system import Deployed
from tidegate.bench.diagnosis_clips.treatment import Treatment
from tidegate.diagnosis.reference import Reference
from tidegate.diagnosis.table import ProbeTable, Strings
from tidegate.types import AudioChunk

__all__ = ["Bench", "ClipCase", "ClipFault", "planned_faults", "plant"]

Bools = npt.NDArray[np.bool_]
SHARES = (0.2, 0.35, 0.5)
"""Wanted shares of the slices; smaller ones would hold too few of some hundred clips."""
_CASCADE_ONLY, _TRUTH_ONLY = ("high_tau",), ("muffled_speech",)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A system without a fault."""

    diagnosed: Deployed
    """Items that a diagnosis sees."""
    measured: Deployed
    """Items of other sources, on which interventions are measured; the same ones where none is carried out."""
    reference: Reference | None
    """Training items; None: leakage cannot be planted."""
    columns: tuple[str, ...]
    """Metadata that slices are made of."""
    sounds: Sequence[AudioChunk]
    least_extra_errors: int
    """Extra errors from which on a fault counts."""


@dataclass(frozen=True, kw_only=True)
class ClipFault:
    """One planted fault, or none."""

    truth: str
    mechanism: str
    """Empty: none."""
    family: str
    """``fitting``, ``held_out``, ``none`` or ``decoy``."""
    severity: int
    share: float
    """Wanted share of the slice."""
    seed: int

    @property
    def key(self) -> str:
        """Name of a run, for resuming."""
        return f"{self.family}/{self.truth}/{self.mechanism or 'nothing'}/{self.severity}/{self.share}/{self.seed}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipCase:
    """A fault, planted."""

    fault: ClipFault
    place: Place | None
    deployed: Deployed
    measured: Deployed
    clean: Deployed
    """The measured items without the fault: their labels are the truth. Not for diagnosis."""
    table: ProbeTable
    reference: Reference | None
    harmed: Bools
    """Truth: items that are wrong with the fault and right without it. Not for diagnosis."""
    extra_errors: int
    """Truth: errors with the fault, minus without. Not for diagnosis."""


def planned_faults(bench: Bench, seeds: Sequence[int]) -> Iterator[ClipFault]:
    """Every mechanism once a seed, severities and shares going round; no fault, and the decoys.

    The order within a seed is random, so that an unfinished benchmark is still a fair sample.
    """
    for seed in seeds:
        faults = list(_faults_of(bench, seed))
        for place in np.random.default_rng([seed, 13]).permutation(len(faults)):
            yield faults[place]


def _faults_of(bench: Bench, seed: int) -> Iterator[ClipFault]:
    for number, (name, (failure, family, _)) in enumerate(MECHANISMS.items()):
        if _plantable(bench, name):
            yield ClipFault(truth=failure.value, mechanism=name, family=family, severity=1 + (number + seed) % 3,
                            share=SHARES[(number + 2 * seed) % len(SHARES)], seed=100 * seed + number)
    yield ClipFault(truth="none", mechanism="", family="none", severity=1, share=0.0, seed=100 * seed + 50)
    for number, name in enumerate(DECOYS):
        yield ClipFault(truth="none", mechanism=name, family="decoy", severity=1 + seed % 3,
                        share=SHARES[(number + seed) % len(SHARES)], seed=100 * seed + 60 + number)


def _plantable(bench: Bench, name: str) -> bool:
    knows = any(bench.diagnosed.system.entries[row].truth for row in bench.diagnosed.rows)
    return not ((name in _CASCADE_ONLY and not bench.diagnosed.cascade) or (name in _TRUTH_ONLY and not knows)
                or (name == "copies_in_training" and bench.reference is None))


def plant(bench: Bench, fault: ClipFault) -> ClipCase:
    """The bench with the fault in it."""
    place = draw_place(bench.diagnosed, bench.columns, fault.share, fault.seed) if fault.mechanism else None
    planting, reference = Planting(), bench.reference
    if place is not None:
        site = Site(clean=bench.diagnosed, place=place, severity=fault.severity, seed=fault.seed, sounds=bench.sounds)
        mechanism = DECOYS.get(fault.mechanism) or MECHANISMS[fault.mechanism][2]
        planting = mechanism(site)
        if planting.copies is not None and reference is not None:
            reference = _with_copies(reference, site, *planting.copies)
    deployed, before = planting.deploy(bench.diagnosed), bench.diagnosed.table()
    table = deployed.table()
    return ClipCase(
        fault=fault, place=place, deployed=deployed, measured=planting.deploy(bench.measured), clean=bench.measured,
        table=table, reference=reference, harmed=table.errors & ~before.errors,
        extra_errors=int(table.errors.sum()) - int(before.errors.sum()),
    )


def _with_copies(reference: Reference, site: Site, treatment: Treatment, chance: float) -> Reference:
    """Training items with copies of diagnosed ones among them."""
    rows = np.flatnonzero(hit(site, site.clean, chance))
    content = site.clean.content_under(treatment, rows)
    both = reference.hashes is not None and content.hashes_N is not None
    labels = None if reference.labels is None else np.concatenate([reference.labels, site.clean.labels[rows]])
    return dataclasses.replace(
        reference, embeddings_MD=np.vstack([reference.embeddings_MD, content.embeddings_ND]), labels=labels,
        hashes=_joined(reference.hashes, content.hashes_N) if both else None,
    )


def _joined(first: Strings | None, second: Strings | None) -> Strings:
    assert first is not None
    assert second is not None
    return np.concatenate([first, second])
