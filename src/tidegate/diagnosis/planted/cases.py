"""Cases: which faults are planted in which worlds, and the planting itself.

Enters: seeds. Leaves: ``Fault``s (single ones of both kinds, none, decoys, double ones) and, for each, a ``Case``: the
deployed system, what diagnosis may see of it, and, apart from that, the truth. Worlds for fitting have seeds below
``FIRST_TEST_WORLD``, worlds for the score from there on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.planted import fitting, further, held_out, independent, varied_content, varied_system
from tidegate.diagnosis.planted.decoys import DECOYS
from tidegate.diagnosis.planted.fault import Fault, Injector, Place, draw_place
from tidegate.diagnosis.planted.probing import WorldScorer, table_of
from tidegate.diagnosis.planted.world import Deployed, build, outcome, start
from tidegate.diagnosis.table import ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["FAMILIES", "FIRST_TEST_WORLD", "FITTED", "Case", "doubles", "faultless", "plant", "singles"]

Array = npt.NDArray[Any]
FIRST_TEST_WORLD = 1000
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5)
_C = FailureClass
_VARIED = varied_system.INJECTORS | varied_content.INJECTORS
FITTED: dict[str, dict[FailureClass, Injector]] = {
    "fitting": fitting.INJECTORS, "further": further.INJECTORS,
    **{f"{name}{number}": {failure: own[number] for failure, own in injectors.items() if len(own) > number}
       for name, injectors in (("varied", _VARIED), ("independent", independent.INJECTORS)) for number in range(3)},
}  # fmt: skip
"""Family of mechanisms that a classifier may be fitted on → class → mechanism."""
FAMILIES: dict[str, dict[FailureClass, Injector]] = {**FITTED, "held_out": held_out.INJECTORS}
"""All families of single faults."""
_BY_MODEL = {_C.THRESHOLD.value, _C.MODALITY_IGNORED.value}
"""Their mechanisms need a slice that the model is told of."""
AND_PAIRS = (
    (_C.TEMPORAL, _C.SPATIAL), (_C.CORRUPTION, _C.CASCADE_DROP), (_C.SPATIAL, _C.CASCADE_DROP),
    (_C.TEMPORAL, _C.CORRUPTION), (_C.POLICY, _C.TEMPORAL), (_C.THRESHOLD, _C.CORRUPTION),
)  # fmt: skip
"""Pairs that can befall the same items, so that neither cure is enough."""
OR_PAIRS = (
    (_C.CASCADE_DROP, _C.LABEL), (_C.TEMPORAL, _C.POLICY), (_C.CORRUPTION, _C.SERVING), (_C.MODALITY_IGNORED, _C.LABEL),
    (_C.THRESHOLD, _C.SPATIAL), (_C.CROSS_MODAL, _C.NOVELTY),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A fault, planted."""

    fault: Fault
    system: Deployed
    table: ProbeTable
    scorer: WorldScorer
    harmed: Array
    """Truth: items that are wrong with the fault and right without it. Not for diagnosis."""
    extra_errors: int
    """Truth: errors with the fault, minus without. Not for diagnosis."""
    slice_share: float


def singles(seeds: Sequence[int], family: str, severities: Sequence[int] = (1, 2, 3)) -> Iterator[Fault]:
    """Every class at every severity, once a seed; shares of the slice go round."""
    injectors = FAMILIES[family]
    for seed in seeds:
        for severity in severities:
            for place, (failure, injector) in enumerate(injectors.items()):
                share = SHARES[(place + 2 * severity + seed) % len(SHARES)]
                yield Fault(
                    truth=failure.value, injectors=(injector,), severity=severity, share=share,
                    seed=seed * 10 + severity, family=family, world=seed,
                )  # fmt: skip


def faultless(seeds: Sequence[int]) -> Iterator[Fault]:
    """Runs without a fault, and decoys."""
    for seed in seeds:
        yield Fault(truth="none", injectors=(), severity=1, share=0.0, seed=seed, family="none", world=seed)
        decoy = DECOYS[seed % len(DECOYS)]
        yield Fault(
            truth="none", injectors=(decoy,), severity=1 + seed % 3, share=SHARES[seed % len(SHARES)], seed=seed,
            family="decoy", world=seed,
        )  # fmt: skip


def doubles(seeds: Sequence[int]) -> Iterator[Fault]:
    """Two faults at once: in the same items (``and``), or in two slices (``or``)."""
    for family, pairs in (("and", AND_PAIRS), ("or", OR_PAIRS)):
        for number, seed in enumerate(seeds):
            one, other = pairs[(number + seed) % len(pairs)]
            injectors = fitting.INJECTORS
            yield Fault(
                truth=one.value, also=other.value, injectors=(injectors[one], injectors[other]), severity=2 + seed % 2,
                share=0.35, seed=seed, family=family, world=seed,
            )  # fmt: skip


def _places(fault: Fault, rng: np.random.Generator) -> list[Place]:
    """The slice of each of the fault's mechanisms."""
    told = {fault.truth, fault.also} & _BY_MODEL
    columns = ("region", "surface") if told or len(fault.injectors) == 2 else ("region", "surface", "period")
    first = draw_place(rng, fault.share, columns)
    if fault.family != "or":
        return [first] * len(fault.injectors)
    for _ in range(50):
        second = draw_place(rng, fault.share, columns)
        if second.column == first.column and not set(second.values) & set(first.values):
            return [first, second]
    return [first, draw_place(rng, 0.2, ("surface",) if first.column == "region" else ("region",))]


def plant(fault: Fault, *, scale: float = 1.0) -> Case:
    """Build the world with the fault in it."""
    rng = np.random.default_rng([fault.seed, 3, *fault.truth.encode(), *fault.family.encode()])
    setup, clean = start(fault.world, scale).copy(), build(start(fault.world, scale).copy(), scale)
    places = _places(fault, rng)
    for injector, place in zip(fault.injectors, places, strict=True):
        injector(setup, place, fault.severity, rng)
    system = build(setup, scale)
    table = table_of(system)
    right_before = outcome(clean, "recent").flagged == (clean.setup.splits["recent"].labels == 1)
    return Case(
        fault=fault, system=system, table=table, scorer=WorldScorer(system), harmed=table.errors & right_before,
        extra_errors=int(table.errors.sum()) - int((~right_before).sum()),
        slice_share=places[0].share if places else 0.0,
    )  # fmt: skip
