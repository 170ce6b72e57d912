"""How a sample of right items stands for all of them: strata by label and by nearness to the threshold.

Enters: a ``ProbeTable``. Leaves: strata, a sample by strata, and weights. A change breaks right items that lie near the
threshold far more often than others, so the nearest are all looked at and the farthest hardly: the sum of what breaks
is then known well from few items.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.signatures import margins
from tidegate.diagnosis.table import Floats, ProbeTable

__all__ = ["STRATUM", "item_weights", "sample_by_strata", "strata_of"]

Ints = npt.NDArray[np.int64]
STRATUM = 64
"""Right items of a label in the nearest stratum; each further one holds twice as many."""


def strata_of(table: ProbeTable) -> Ints:
    """(N,) 0 for errors; right items by label and rank of their distance from the threshold: 64, the next 128, ..."""
    strata, margin = np.zeros(len(table), dtype=np.int64), margins(table)
    for label in (0, 1):
        rows = np.flatnonzero(~table.errors & (table.labels == label))
        ranks = np.empty(len(rows), dtype=np.int64)
        ranks[np.argsort(np.nan_to_num(margin[rows], nan=np.inf), kind="stable")] = np.arange(len(rows))
        strata[rows] = 1 + label + 2 * np.floor(np.log2(ranks / STRATUM + 1)).astype(np.int64)
    return strata


def sample_by_strata(table: ProbeTable, rng: np.random.Generator, *, most: int = STRATUM) -> Ints:
    """Rows of right items, at most so many of each stratum: all of the nearest, ever fewer of the farther."""
    strata = strata_of(table)
    chosen = [rng.permutation(np.flatnonzero(strata == stratum))[:most] for stratum in np.unique(strata) if stratum > 0]
    rows: Ints = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
    return rows


def item_weights(table: ProbeTable, scores: Floats) -> tuple[Floats, Floats]:
    """(weights, scores): items known under a change stand for their unknown likes.

    A stratum of which nothing is known is taken to stay as it is, and so is an item that was probed otherwise: the
    probe does not apply to it (no speech to transcribe), or adaptive probing passed it over because it promised
    nothing.
    """
    known = np.isfinite(scores)
    weights, filled = np.ones(len(table)), scores.copy()
    probed = np.zeros(len(table), dtype=np.bool_)
    for made in table.probes.values():
        probed |= np.isfinite(made)
    skipped = probed & ~known
    filled[skipped], known = table.scores[skipped], known | skipped
    strata = strata_of(table)
    for stratum in np.unique(strata):
        inside = strata == stratum
        sampled = int((inside & known).sum())
        if sampled:
            weights[inside] = np.where(known[inside], inside.sum() / sampled, 0.0)
        else:
            filled[inside] = table.scores[inside]
    return weights, filled
