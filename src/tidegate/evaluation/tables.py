"""Labels and scores of named models → the table of COEF-VQ (F1, R@P60 to R@P90, AUC), with what a reader needs beside
it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tidegate.errors import UsageError
from tidegate.evaluation.arrays import checked_labels
from tidegate.evaluation.intervals import Interval, bootstrap_interval
from tidegate.evaluation.ranking import (
    RecallAtPrecision,
    average_precision,
    best_f1,
    confusion_at,
    recall_at_precision,
    roc_auc,
)

__all__ = ["Summary", "markdown_table", "summarise", "summary_table"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One model's figures on one test set."""

    name: str
    n: int
    n_positives: int
    prevalence: float
    f1: float
    """At ``f1_threshold``, which was chosen on validation data when there were any."""
    f1_threshold: float
    auc: Interval
    average_precision: float
    recalls: tuple[RecallAtPrecision, ...]
    """First every precision's ``deployed`` figure (when validation data were given), then the ``oracle`` ones."""


def summarise(
    name: str,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    precisions: Sequence[float] = (0.6, 0.7, 0.8, 0.9),
    clusters: Sequence[Hashable] | npt.NDArray[Any] | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> Summary:
    """All headline figures of one model."""
    truth = checked_labels(labels)
    if len(truth) == 0:
        raise UsageError("expected at least one item, got none")
    _, threshold = best_f1(*((labels, scores) if validation is None else validation))
    counts = confusion_at(labels, scores, threshold)
    deployed = (
        []
        if validation is None
        else [recall_at_precision(labels, scores, p, validation=validation) for p in precisions]
    )
    return Summary(
        name=name,
        n=len(truth),
        n_positives=int(truth.sum()),
        prevalence=counts.prevalence,
        f1=counts.f1,
        f1_threshold=threshold,
        auc=bootstrap_interval(roc_auc, labels, scores, clusters=clusters, num_samples=num_samples, seed=seed),
        average_precision=average_precision(labels, scores),
        recalls=(*deployed, *(recall_at_precision(labels, scores, p) for p in precisions)),
    )


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table; floats with three decimals, NaN as a dash."""
    if not rows:
        return ""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "–" if math.isnan(value) else f"{value:.3f}"
        return str(value)

    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([cell(row[key]) for key in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary_table(summaries: Sequence[Summary]) -> str:
    """The table as Markdown. ``R@P90`` is the deployed figure, ``R@P90*`` the oracle one."""
    rows = []
    for entry in summaries:
        row: dict[str, object] = {
            "model": entry.name,
            "F1": entry.f1,
            "AUC": str(entry.auc),
            "AP": entry.average_precision,
        }
        for item in entry.recalls:
            row[f"R@P{round(100 * item.target)}{'*' if item.meaning == 'oracle' else ''}"] = item.recall
        rows.append({**row, "positives": entry.n_positives, "prevalence": entry.prevalence})
    return markdown_table(rows)
