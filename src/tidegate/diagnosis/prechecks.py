"""Pre-checks: leakage and serving are looked for before anything is learnt or judged, as the taxonomy orders it.

Enters: the table, its observations, and what a judge made of them. Leaves: the same with M1 or M2 first where a record
proves them: near-duplicates across splits, or errors that serving's own notes are on far more often than on right
items. No model is asked: a note is a fact. A note that harms nothing is as frequent on right items and proves nothing.

Shape legend: E errors.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tidegate.diagnosis.classify import CLASSES, Classified
from tidegate.diagnosis.observations import NEAR_DUPLICATE, Observations
from tidegate.diagnosis.table import ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["Ranking", "check_first", "leakage_evidence", "serving_surplus"]

Ranking = tuple[tuple[str, float], ...]
CERTAIN = 5.0
"""Log evidence, and standard deviations of a surplus, from which on a record counts as proof."""
LEAST_SHARE = 0.05
"""Share of the errors that noted items must have beyond chance: a rare note is no fault of the run."""
PROVEN = 0.95
"""Probability of a class that a record proves."""


def leakage_evidence(table: ProbeTable, tolerated: float) -> float:
    """Log evidence that more than the tolerated share of items has a near-duplicate in another split."""
    similarity = table.features.get("duplicate_similarity")
    if similarity is None or not np.isfinite(similarity).any():
        return 0.0
    known = np.isfinite(similarity)
    found, n = int((similarity[known] >= NEAR_DUPLICATE).sum()), int(known.sum())
    expected = max(tolerated * n, 0.5)
    return float(found * np.log(max(found, 1) / expected) - (found - expected)) if found > expected else -2.0


def serving_surplus(seen: Observations) -> tuple[float, float]:
    """(share of the errors with a note beyond chance, standard deviations that this surplus is away from none)."""
    if "note" not in seen.names or not len(seen.rows):
        return 0.0, 0.0
    noted, chance = seen.column("note"), seen.chance_EO[:, seen.names.index("note")]
    surplus = float((noted - chance).sum())
    return surplus / len(noted), surplus / float(np.sqrt((chance * (1 - chance)).sum() + 1.0))


def check_first(table: ProbeTable, seen: Observations, judged: Classified, ranking: Ranking, *,
                tolerated: float) -> tuple[Classified, Ranking]:
    """(classified, ranking) with what a record proves in front; serving before leakage, which harms no item."""
    if leakage_evidence(table, tolerated) >= CERTAIN:
        ranking = _in_front(ranking, FailureClass.LEAKAGE)
    share, deviations = serving_surplus(seen)
    if share >= LEAST_SHARE and deviations >= CERTAIN:
        return _noted(seen, judged), _in_front(ranking, FailureClass.SERVING)
    return judged, ranking


def _in_front(ranking: Ranking, proven: FailureClass) -> Ranking:
    """The class gets at least ``PROVEN``, all others share the rest as they did."""
    values = dict(ranking)
    own = max(values.get(proven.value, 0.0), PROVEN)
    rest = sum(value for name, value in values.items() if name != proven.value)
    factor = (1 - own) / rest if rest > 0 else 0.0
    scaled = {name: value * factor for name, value in values.items()} | {proven.value: own}
    return tuple(sorted(scaled.items(), key=lambda pair: -pair[1]))


def _noted(seen: Observations, judged: Classified) -> Classified:
    """Noted errors belong to serving as often as notes are no chance; the rest of their posterior shrinks alike."""
    noted = seen.column("note") == 1
    chance = float(seen.chance_EO[noted, seen.names.index("note")].sum())
    own = max(0.0, 1.0 - chance / max(1, int(noted.sum())))
    posterior, column = judged.posterior_EC.copy(), CLASSES.index(FailureClass.SERVING)
    higher = noted & (posterior[:, column] < own)
    others = 1.0 - posterior[higher, column]
    posterior[higher] *= np.where(others > 0, (1.0 - own) / np.maximum(others, 1e-12), 0.0)[:, None]
    posterior[higher, column] = own
    means = posterior.mean(axis=0)
    shares = {failure: float(means[c]) for c, failure in enumerate(CLASSES)}
    return dataclasses.replace(judged, posterior_EC=posterior, shares=shares)
