"""Attribution: did a change bring the gain, and by the mechanism that was diagnosed?

Enters: the same items before and after a change, the diagnosis of the run before, and (better) the same items after a
placebo of equal compute. Leaves: a ``Comparison``. A gain is claimed for a class only if three things hold: the gain's
interval (thresholds chosen anew in every resample, on sources that are not judged) lies above 0; the cured items lie in
the class more than the placebo's cured ones do (odds ratio above 1 after Holm's correction over the classes asked
about); and the class has fewer errors after than before. Gains and breaks are paired: McNemar's exact test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tidegate.diagnosis.classify import CLASSES
from tidegate.diagnosis.diagnose import Diagnosis
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass
from tidegate.errors import UsageError
from tidegate.evaluation import Interval, best_f1, confusion_at

__all__ = ["ClassClaim", "Comparison", "aligned", "compare_runs", "holm", "mcnemar", "odds_ratio"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ClassClaim:
    """Whether the gain may be put down to the cure of one class."""

    failure: FailureClass
    errors_before: float
    cured: float
    """Expected number of cured errors of the class."""
    odds_ratio: Interval
    """Odds of the class among the cured, against the placebo's cured (or against errors that stayed)."""
    p_value: float
    """One-sided, of an odds ratio above 1; Holm-corrected."""
    shrinks: bool | None
    """Whether the class has fewer errors after; None where it was not diagnosed again."""
    claimed: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs over the same items."""

    n: int
    left_out: int
    """Items that only one of the runs has."""
    errors_before: int
    errors_after: int
    cured: int
    broken: int
    p_value: float
    """McNemar's exact test at the thresholds as they are."""
    f1_gain: Interval
    """Thresholds chosen on other sources inside each resample."""
    f1_gain_fixed: float
    """At the thresholds as they are."""
    claims: tuple[ClassClaim, ...]
    by_slice: tuple[tuple[str, int, int], ...]
    """(slice, cured, broken), the most changed first."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        values = _plain(asdict(self))
        assert isinstance(values, dict)
        return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value.value if isinstance(value, FailureClass) else value


def mcnemar(cured: int, broken: int) -> float:
    """Two-sided exact p-value that cures and breaks are equally likely."""
    return 1.0 if cured + broken == 0 else float(stats.binomtest(cured, cured + broken, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order, corrected, highest = np.argsort(p_values, kind="stable"), [1.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[int(index)] = highest
    return corrected


def odds_ratio(a: float, b: float, c: float, d: float, *, level: float = 0.95) -> tuple[Interval, float]:
    """((a / b) / (c / d) with Woolf's interval, one-sided p-value above 1); half an item is added to each cell."""
    cells = np.asarray([a, b, c, d]) + 0.5
    log = float(np.log(cells[0] / cells[1]) - np.log(cells[2] / cells[3]))
    spread = float(np.sqrt((1 / cells).sum()))
    z = float(stats.norm.ppf((1 + level) / 2))
    interval = Interval(estimate=float(np.exp(log)), low=float(np.exp(log - z * spread)),
                        high=float(np.exp(log + z * spread)), level=level, method="woolf",
                        n_clusters=round(a + b + c + d))
    return interval, float(stats.norm.sf(log / spread))


def aligned(before: ProbeTable, after: ProbeTable) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the items that both have, in one order; labels that differ are a ``UsageError``."""
    place = {name: row for row, name in enumerate(after.ids.tolist())}
    pairs = [(row, place[name]) for row, name in enumerate(before.ids.tolist()) if name in place]
    if not pairs:
        raise UsageError("expected runs over the same items, found no id in both")
    ours, theirs = np.asarray(pairs, dtype=np.int64).T
    return ours, theirs


def compare_runs(
    before: ProbeTable,
    after: ProbeTable,
    *,
    diagnosis: Diagnosis | None = None,
    diagnosis_after: Diagnosis | None = None,
    placebo: ProbeTable | None = None,
    classes: Sequence[FailureClass] = (),
    num_samples: int = 300,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two runs; ``classes`` are those that the change was meant to cure (all diagnosed ones if empty)."""
    ours, theirs = aligned(before, after)
    wrong, still = before.errors[ours], after.errors[theirs]
    cured, broken = wrong & ~still, ~wrong & still
    gain = _f1_gain(before, after, ours, theirs, num_samples=num_samples, level=level, seed=seed)
    turned = int((before.labels[ours] != after.labels[theirs]).sum())
    notes = _notes(turned, diagnosis, placebo)
    claims: tuple[ClassClaim, ...] = ()
    if diagnosis is not None:
        claims = _claims(diagnosis, ours, cured, gain, classes=classes, diagnosis_after=diagnosis_after,
                         placebo=_placebo_cured(before, placebo), level=level)
    return Comparison(
        n=len(ours), left_out=len(before) + len(after) - 2 * len(ours), errors_before=int(wrong.sum()),
        errors_after=int(still.sum()), cured=int(cured.sum()), broken=int(broken.sum()),
        p_value=mcnemar(int(cured.sum()), int(broken.sum())), f1_gain=gain,
        f1_gain_fixed=_f1(after.labels[theirs], after.flagged[theirs]) - _f1(before.labels[ours], before.flagged[ours]),
        claims=claims, by_slice=_by_slice(before, ours, cured, broken), notes=notes,
    )


def _f1(labels: npt.NDArray[np.int64], flagged: Bools) -> float:
    total = int(labels.sum() + flagged.sum())
    return float(2 * (labels * flagged).sum() / total) if total else 0.0


def _f1_gain(before: ProbeTable, after: ProbeTable, ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64], *,
             num_samples: int, level: float, seed: int) -> Interval:
    """Out-of-bag F1 of each run at the threshold that is best in the bag; sources are drawn."""
    _, codes = np.unique(before.sources[ours], return_inverse=True)
    units, rng = int(codes.max()) + 1, np.random.default_rng(seed)
    pairs = [(table.labels[rows], np.nan_to_num(table.scores[rows], nan=-1e9))
             for table, rows in ((before, ours), (after, theirs))]
    values = np.full(num_samples, np.nan)
    for sample in range(num_samples):
        drawn = np.bincount(rng.integers(0, units, units), minlength=units)[codes]
        outside = drawn == 0
        if not outside.any() or any(not labels[outside].any() or not labels[drawn > 0].any() for labels, _ in pairs):
            continue
        bag = np.repeat(np.arange(len(codes)), drawn)
        scores = []
        for labels, given in pairs:
            _, threshold = best_f1(labels[bag], given[bag])
            scores.append(confusion_at(labels[outside], given[outside], threshold).f1)
        values[sample] = scores[1] - scores[0]
    known = values[np.isfinite(values)]
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
    return Interval(estimate=float(known.mean()) if len(known) else float("nan"), low=float(low), high=float(high),
                    level=level, method="out-of-bag cluster bootstrap, threshold chosen inside", n_clusters=units,
                    n_undefined=num_samples - len(known))


def _placebo_cured(before: ProbeTable, placebo: ProbeTable | None) -> Bools | None:
    if placebo is None:
        return None
    ours, theirs = aligned(before, placebo)
    cured = np.zeros(len(before), dtype=np.bool_)
    cured[ours] = before.errors[ours] & ~placebo.errors[theirs]
    return cured


def _claims(diagnosis: Diagnosis, ours: npt.NDArray[np.int64], cured: Bools, gain: Interval, *,
            classes: Sequence[FailureClass], diagnosis_after: Diagnosis | None, placebo: Bools | None,
            level: float) -> tuple[ClassClaim, ...]:
    posterior = np.zeros((len(diagnosis.table), len(CLASSES)))
    posterior[diagnosis.classified.rows] = diagnosis.classified.posterior_EC
    all_cured = np.zeros(len(diagnosis.table), dtype=np.bool_)
    all_cured[ours] = cured
    other = diagnosis.table.errors & ~all_cured if placebo is None else placebo
    asked = [c for c in CLASSES[:-1] if (c in classes if classes else posterior[:, CLASSES.index(c)].sum() >= 5)]
    tested = [_mass(posterior[:, CLASSES.index(failure)], all_cured, other, level) for failure in asked]
    corrected = holm([p for _, p, _ in tested])
    return tuple(
        _claim(failure, posterior[:, CLASSES.index(failure)], in_class, ratio=ratio, p=p, gain=gain,
               shrinks=_shrinks(failure, diagnosis, diagnosis_after))
        for failure, (ratio, _, in_class), p in zip(asked, tested, corrected, strict=True)
    )


def _mass(of_class: Floats, cured: Bools, other: Bools, level: float) -> tuple[Interval, float, float]:
    a, c = float(of_class[cured].sum()), float(of_class[other].sum())
    ratio, p = odds_ratio(a, float(cured.sum()) - a, c, float(other.sum()) - c, level=level)
    return ratio, p, a


def _shrinks(failure: FailureClass, before: Diagnosis, after: Diagnosis | None) -> bool | None:
    if after is None:
        return None
    return after.counts[failure].estimate < before.counts[failure].low


def _claim(failure: FailureClass, of_class: Floats, cured: float, *, ratio: Interval, p: float, gain: Interval,
           shrinks: bool | None) -> ClassClaim:
    checks = [
        (gain.low > 0, f"the gain's interval [{gain.low:.3f}, {gain.high:.3f}] reaches below 0"),
        (p < 0.05, f"the cured items do not lie in this class more than expected (odds ratio {ratio}, p {p:.2g})"),
        (shrinks is True, "the run after was not diagnosed, so it is not known whether the class shrank"
         if shrinks is None else "the class has not clearly fewer errors after"),
    ]
    against = [text for holds, text in checks if not holds]
    return ClassClaim(
        failure=failure, errors_before=float(of_class.sum()), cured=cured, odds_ratio=ratio, p_value=p, shrinks=shrinks,
        claimed=not against, why="; ".join(against) or "gain, mechanism and signature agree",
    )


def _by_slice(before: ProbeTable, ours: npt.NDArray[np.int64], cured: Bools, broken: Bools
              ) -> tuple[tuple[str, int, int], ...]:
    found = []
    for name, column in before.slices.items():
        values, codes = np.unique(column[ours], return_inverse=True)
        plus = np.bincount(codes, cured, minlength=len(values))
        minus = np.bincount(codes, broken, minlength=len(values))
        found += [(f"{name} {v}", int(p), int(m)) for v, p, m in zip(values, plus, minus, strict=True) if v and p + m]
    return tuple(sorted(found, key=lambda one: -(one[1] + one[2]))[:20])


def _notes(turned: int, diagnosis: Diagnosis | None, placebo: ProbeTable | None) -> tuple[str, ...]:
    said = []
    if turned:
        said.append(f"{turned} labels differ between the runs: their cures and breaks are changes of the label.")
    if diagnosis is None:
        said.append("The run before was not diagnosed: a gain cannot be put down to a class.")
    if placebo is None:
        said.append("No placebo run: the cured are compared with the errors that stayed, which is weaker. Easy "
                    "errors are cured by anything.")
    return tuple(said)


def summary_of(comparison: Comparison) -> Mapping[str, float]:
    """The figures that a ledger keeps."""
    return {"f1": comparison.f1_gain.estimate, "errors": comparison.errors_before - comparison.errors_after}
