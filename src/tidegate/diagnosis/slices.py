"""Slices: where failures gather, in words; and labels that independent evidence speaks against.

Enters: a ``ProbeTable``. Leaves: ``FailureSlice`` values with a readable description, the number of items, the error
rate with its interval, and how surprising it is after correction for the number of places looked at. Two searches:
conjunctions of at most two metadata values (readable by construction), and clusters of the errors' embeddings,
described by the metadata that they have more of than other errors. Labels are checked with ``cleanlab`` on
out-of-fold peers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

from tidegate.diagnosis.reference import peer_scores
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.errors import DependencyMissing, UsageError
from tidegate.evaluation import Interval, wilson

__all__ = ["FailureSlice", "LabelCheck", "check_labels", "failure_clusters", "failure_slices"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FailureSlice:
    """A part of the run in which failures gather."""

    description: str
    rows: Ints
    """Items of the slice."""
    errors: int
    rate: Interval
    """Error rate."""
    rate_elsewhere: float
    p_value: float
    """Holm-corrected; NaN for clusters, which were made of errors and cannot be tested on them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCheck:
    """What independent peers make of the labels."""

    suspects: Ints
    """Rows whose label is probably wrong, worst first."""
    quality_N: Floats
    """Probability that peers give to the label; NaN where they could not be asked."""


def _candidates(table: ProbeTable, min_items: int) -> Iterator[tuple[str, Bools]]:
    single: list[tuple[str, str, Bools]] = []
    for name, column in table.slices.items():
        for value in sorted(set(column.tolist()) - {""}):
            inside = column == value
            if inside.sum() >= min_items:
                single.append((name, value, inside))
                yield f"{name} {value}", inside
    for (name, value, inside), (other, second, also) in combinations(single, 2):
        if name != other and (inside & also).sum() >= min_items:
            yield f"{name} {value} and {other} {second}", inside & also


def failure_slices(table: ProbeTable, *, min_items: int = 15, level: float = 0.05, most: int = 12
                   ) -> tuple[FailureSlice, ...]:
    """Metadata values, and pairs of them, with more errors than elsewhere; nested finds are left out."""
    errors = table.errors
    tested = [(text, inside, *_excess(errors, inside)) for text, inside in _candidates(table, min_items)]
    kept: list[FailureSlice] = []
    for place, (text, inside, p, elsewhere) in enumerate(sorted(tested, key=lambda one: one[2])):
        corrected = min(1.0, p * (len(tested) - place))
        if corrected > level or len(kept) == most:
            break
        if all(_overlap(inside, found.rows) < 0.6 for found in kept):
            kept.append(_slice(text, errors, inside, elsewhere, corrected))
    return tuple(kept)


def _excess(errors: Bools, inside: Bools) -> tuple[float, float]:
    n, k, outside = int(inside.sum()), int((errors & inside).sum()), ~inside
    elsewhere = float(errors[outside].mean()) if outside.any() else 1.0
    return float(stats.binom.sf(k - 1, n, max(elsewhere, 1.0 / len(errors)))), elsewhere


def _overlap(inside: Bools, rows: Ints) -> float:
    both = int(inside[rows].sum())
    return both / max(1, int(inside.sum()) + len(rows) - both)


def _slice(text: str, errors: Bools, inside: Bools, elsewhere: float, p_value: float) -> FailureSlice:
    wrong = int((errors & inside).sum())
    return FailureSlice(description=text, rows=np.flatnonzero(inside), errors=wrong,
                        rate=wilson(wrong, int(inside.sum())), rate_elsewhere=elsewhere, p_value=p_value)


def failure_clusters(table: ProbeTable, *, most: int = 6, min_errors: int = 8, seed: int = 0
                     ) -> tuple[FailureSlice, ...]:
    """Clusters of the errors' embeddings, the number chosen by silhouette; empty without embeddings."""
    rows = np.flatnonzero(table.errors)
    if table.embeddings_ND is None or len(rows) < 2 * min_errors:
        return ()
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import silhouette_score
    except ImportError as error:
        raise DependencyMissing("clusters need scikit-learn: pip install 'tidegate[diagnosis]'") from error
    points = _reduced(table.embeddings_ND[rows])
    fits = [KMeans(k, n_init=4, random_state=seed).fit_predict(points)
            for k in range(2, min(most, len(rows) // min_errors) + 1)]
    codes = max(fits, key=lambda labels: silhouette_score(points, labels))
    found = [_cluster(table, rows, rows[codes == code]) for code in range(int(codes.max()) + 1)]
    return tuple(sorted((one for one in found if one.errors >= min_errors), key=lambda one: -one.errors))


def _reduced(rows_ND: Floats, size: int = 8) -> Floats:
    """Principal components of standardised rows."""
    spread = rows_ND.std(axis=0)
    standard = (rows_ND - rows_ND.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    left, values, _ = np.linalg.svd(standard, full_matrices=False)
    reduced: Floats = left[:, :size] * values[:size]
    return reduced


def _cluster(table: ProbeTable, errors: Ints, rows: Ints) -> FailureSlice:
    words = []
    for name, column in table.slices.items():
        for value in sorted(set(column[rows].tolist()) - {""}):
            share, usual = float((column[rows] == value).mean()), float((column[errors] == value).mean())
            if share >= 0.3 and share > 1.5 * usual:
                words.append((share / usual, f"{name} {value} ({share:.0%} against {usual:.0%})"))
    text = ", ".join(word for _, word in sorted(words, reverse=True)[:3]) or "no metadata sets it apart"
    return FailureSlice(description=f"alike in content: {text}", rows=rows, errors=len(rows),
                        rate=wilson(len(rows), len(rows)), rate_elsewhere=float("nan"), p_value=float("nan"))


def check_labels(table: ProbeTable) -> LabelCheck:
    """Labels that peers speak against, by cleanlab's confident learning.

    Peers are ``peer_score`` of the table, else out-of-fold models on its embeddings; without either: ``UsageError``.
    """
    peers = table.features.get("peer_score")
    if peers is None and table.embeddings_ND is not None:
        peers = peer_scores(table.embeddings_ND, table.labels, table.sources)
    if peers is None or not np.isfinite(peers).any():
        raise UsageError("checking labels needs peer scores or embeddings: the run has neither")
    known = np.flatnonzero(np.isfinite(peers))
    labels, inside = table.labels[known], np.clip(peers[known], 1e-6, 1 - 1e-6)
    quality = np.full(len(table), np.nan)
    quality[known] = np.where(labels == 1, inside, 1 - inside)
    if len(set(labels.tolist())) < 2:
        return LabelCheck(suspects=np.zeros(0, dtype=np.int64), quality_N=quality)
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise DependencyMissing("checking labels needs cleanlab: pip install 'tidegate[diagnosis]'") from error
    ranked = find_label_issues(labels, np.column_stack([1 - inside, inside]), n_jobs=1,
                               return_indices_ranked_by="self_confidence")
    return LabelCheck(suspects=known[np.asarray(ranked, dtype=np.int64)], quality_N=quality)
