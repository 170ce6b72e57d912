"""Features of an error and of a whole run, for the learned classifier.

Enters: ``Observations`` and the table. Leaves: one row of numbers an error, one vector a run, with fixed names: the
excess of each observation over chance, what the rules make of it, and for the run the same summed over all errors, over
misses, over false alarms, and over the slice where it is strongest; what the errors that a slice has beyond the rest of
the run look like, for the rest of the run is the best picture of its ordinary errors; and the contrasts of whole
distributions. What was not observed is 0 and its share known is a feature of its own, so that a run with few probes is
not taken for a run where probes cured nothing.

Shape legend: E errors, F features, O observations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.classify import CLASSES, NONE, Classified, rank
from tidegate.diagnosis.contrasts import contrast_names, contrasts
from tidegate.diagnosis.hypotheses import HYPOTHESES
from tidegate.diagnosis.observations import NEAR_DUPLICATE, Observations
from tidegate.diagnosis.signatures import margins
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.taxonomy import PROBES

__all__ = ["OBSERVED", "item_features", "item_names", "run_features", "run_names", "with_context"]

Bools = npt.NDArray[np.bool_]
_SILENT = {"null"}
OBSERVED: tuple[str, ...] = (
    *(f"cure:{name}" for name in PROBES if name not in _SILENT),
    "still:audio_swap", "still:vision_swap", "still:text_swap", "still:frames_shuffled", "threshold", "translation",
    "note", "stopped", "far", "noisy", "duplicate", "perceived", "peers", "confident", "locale", "clause",
)  # fmt: skip
"""Observations that features are made of, in order."""
_RANKED = (*(failure.value for failure in CLASSES[:-1]), NONE)
_COLUMNS = ("region", "language", "clause", "surface", "period")
"""Metadata columns that a slice of extra errors is told apart by."""
_VIEWS = ("all", "misses", "alarms", "slice")


def item_names() -> tuple[str, ...]:
    """Names of an error's features, what the run model says (``with_context``) last."""
    rules = tuple(f"rule:{h.failure.value}:{h.variant}" for h in HYPOTHESES)
    return (*(f"seen:{name}" for name in OBSERVED), *rules, *(f"post:{c.value}" for c in CLASSES), "margin", "miss",
            *(f"run:{name}" for name in _RANKED))


def run_names() -> tuple[str, ...]:
    """Names of a run's features."""
    views = tuple(f"{view}:{name}" for view in _VIEWS for name in OBSERVED)
    return (*views, *(f"known:{name}" for name in OBSERVED), *(f"excess:{name}" for name in OBSERVED),
            *(f"share:{c.value}" for c in CLASSES), *(f"rank:{name}" for name in _RANKED),
            *(f"contrast:{name}" for name in OBSERVED), *(f"extra:{name}" for name in OBSERVED),
            *(f"worst:{name}" for name in (*_COLUMNS, "z", "share")),
            "errors", "error_rate", "misses", "duplicates", "notes", "escalated",
            *(f"against:{name}" for name in contrast_names()))


def _excess(seen: Observations) -> tuple[Floats, Floats]:
    """(value - chance, chance variance) in the order of ``OBSERVED``; 0 where not known."""
    shape = (len(seen.rows), len(OBSERVED))
    excess, variance = np.zeros(shape), np.zeros(shape)
    for place, name in enumerate(OBSERVED):
        if name in seen.names:
            o = seen.names.index(name)
            known = np.isfinite(seen.values_EO[:, o])
            chance = seen.chance_EO[:, o]
            excess[:, place] = np.where(known, np.nan_to_num(seen.values_EO[:, o]) - chance, 0.0)
            variance[:, place] = np.where(known, chance * (1 - chance), 0.0)
    return excess, variance


def item_features(table: ProbeTable, seen: Observations, ratios: Floats, rules: Classified) -> Floats:
    """(E, F) features of the errors but for the context; ``ratios`` (E, H) of the rules."""
    margin = np.nan_to_num(margins(table)[seen.rows], nan=-1.0)
    miss = (table.labels[seen.rows] == 1).astype(float)
    return np.column_stack([
        _excess(seen)[0], np.where(np.isfinite(ratios), ratios, 0.0), rules.posterior_EC, margin, miss,
    ])


def with_context(rows_EF: Floats, run: Floats) -> Floats:
    """Features of errors beside what the run model says; ``run``: probabilities by ``ranked_names``."""
    return np.column_stack([rows_EF, np.tile(run, (len(rows_EF), 1))])


def run_features(table: ProbeTable, seen: Observations, rules: Classified) -> Floats:
    """(F,) features of a run."""
    excess, variance = _excess(seen)
    miss = table.labels[seen.rows] == 1
    everything = np.ones(len(seen.rows), dtype=np.bool_)
    views = [_strength(excess, variance, mask) for mask in (everything, miss, ~miss)]
    views.append(_in_best_slice(table, seen, excess, variance))
    known = [float(np.isfinite(seen.column(name)).mean()) if len(seen.rows) else 0.0 for name in OBSERVED]
    mean = excess.mean(axis=0) if len(excess) else np.zeros(len(OBSERVED))
    ranked = dict(rank(seen)) if len(seen.rows) else {NONE: 1.0}
    similarity = table.features.get("duplicate_similarity", np.zeros(len(table)))
    duplicates = float((np.nan_to_num(similarity) >= NEAR_DUPLICATE).mean()) if len(table) else 0.0
    rest = [
        np.log1p(len(seen.rows)), float(table.errors.mean()) if len(table) else 0.0,
        float(miss.mean()) if len(miss) else 0.0, np.log10(duplicates + 1e-4),
        0.0 if table.notes is None else float((table.notes != "").mean()),
        -1.0 if table.escalated is None else float(table.escalated.mean()),
    ]
    return np.concatenate([*views, known, mean, [rules.shares[c] for c in CLASSES],
                           [_logit(ranked.get(name, 0.0)) for name in _RANKED], _surplus(table, seen), rest,
                           contrasts(table)])


def _logit(probability: float) -> float:
    inside = min(max(probability, 1e-6), 1 - 1e-6)
    return float(np.log(inside / (1 - inside)))


def _strength(excess: Floats, variance: Floats, mask: Bools) -> Floats:
    """Standardised sums, on a signed square-root scale so that large runs do not drown small ones."""
    z: Floats = excess[mask].sum(axis=0) / np.sqrt(variance[mask].sum(axis=0) + 1.0)
    root: Floats = np.sign(z) * np.sqrt(np.abs(z))
    return root


def _surplus(table: ProbeTable, seen: Observations) -> Floats:
    """What a slice's errors are beyond those of the rest of the run.

    Of each observation: the largest standardised surplus in a slice; then, in the slice with most surplus errors, the
    share of the surplus that shows it; then where that slice is, how much it stands out, and its share of the items.
    """
    events = np.zeros((len(table), len(OBSERVED) + 1))
    events[seen.rows, -1] = 1.0
    for place, name in enumerate(OBSERVED):
        events[seen.rows, place] = np.nan_to_num(seen.column(name))
    total, best_z = events.sum(axis=0), np.zeros(len(OBSERVED))
    worst, worst_z, where = np.zeros(len(OBSERVED)), 0.0, np.zeros(len(_COLUMNS) + 2)
    for column_name, column in table.slices.items():
        values, codes = np.unique(column, return_inverse=True)
        for code in np.flatnonzero((np.bincount(codes, minlength=len(values)) >= 30) & (values != ""))[:60]:
            inside = codes == code
            n, held = int(inside.sum()), events[inside].sum(axis=0)
            if n > 0.8 * len(table):
                continue
            ratio = n / (len(table) - n)
            usual = (total - held) * ratio
            z = (held - usual) / np.sqrt(usual * (1 + ratio) + 1.0)
            best_z = np.maximum(best_z, z[:-1])
            if z[-1] > worst_z:
                worst_z, surplus = float(z[-1]), max(float(held[-1] - usual[-1]), 1.0)
                worst = np.clip((held - usual)[:-1] / surplus, -1.0, 2.0)
                at = [float(column_name == name) for name in _COLUMNS]
                where = np.asarray([*at, np.sqrt(worst_z), n / len(table)])
    return np.concatenate([np.sqrt(best_z), worst, where])


def _in_best_slice(table: ProbeTable, seen: Observations, excess: Floats, variance: Floats) -> Floats:
    """Largest strength of each observation over the values of all metadata columns with at least 5 errors."""
    best = np.zeros(len(OBSERVED))
    for column in table.slices.values():
        values, codes = np.unique(column[seen.rows], return_inverse=True)
        for code in np.flatnonzero((np.bincount(codes, minlength=len(values)) >= 5) & (values != ""))[:60]:
            best = np.maximum(best, _strength(excess, variance, codes == code))
    return best


def ranked_names() -> tuple[str, ...]:
    """Classes of a run in the order of a learned ranking: the taxonomy, then ``none``."""
    return _RANKED
