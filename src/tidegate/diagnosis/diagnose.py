"""``diagnose``: an evaluated run → how many errors each cause explains, and which cause stands out.

Enters: a ``ProbeTable``, and a ``Scorer`` where more probes may be run. Leaves: a ``Diagnosis``. Order: what can be
concluded at all, probes, observations, posterior of each error, probes by which gains are measured, pre-checks that
overrule the posterior (leakage, serving),
counts with intervals (whole sources resampled), ranking of the run with ``none`` as an answer.

Shape legend: E errors, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tidegate.diagnosis.adaptive import ProbingConfig, Spent, probe_run
from tidegate.diagnosis.classify import CLASSES, NONE, Classified, RulesConfig, classify, rank
from tidegate.diagnosis.confirming import confirm
from tidegate.diagnosis.hypotheses import HYPOTHESES
from tidegate.diagnosis.learned import LearnedClassifier
from tidegate.diagnosis.limits import conclusions
from tidegate.diagnosis.observations import Observations, observe
from tidegate.diagnosis.prechecks import check_first, leakage_evidence
from tidegate.diagnosis.reference import Reference, with_reference
from tidegate.diagnosis.signatures import Signature, signatures
from tidegate.diagnosis.table import ProbeTable, Scorer
from tidegate.diagnosis.taxonomy import FailureClass
from tidegate.evaluation import Interval

__all__ = ["Diagnosis", "DiagnosisConfig", "diagnose"]


@dataclass(frozen=True, kw_only=True)
class DiagnosisConfig:
    """Settings of a diagnosis."""

    rules: RulesConfig = field(default_factory=RulesConfig)
    """How far the rules trust what they see."""
    probing: ProbingConfig = field(default_factory=ProbingConfig)
    """Which probes are run on what, and when to stop."""
    num_samples: int = 200
    """Resamples of the intervals."""
    level: float = 0.95
    """Level of the intervals."""
    tolerated_duplicates: float = 0.005
    """Share of items with a near-duplicate in another split below which leakage is not reported."""
    seed: int = 0
    """Seed of resamples and of the choice of controls."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """What is known of a run's errors."""

    table: ProbeTable
    """The run, with every probe that was made."""
    observations: Observations
    """What was seen of each error."""
    classified: Classified
    """Posterior of each error over ``CLASSES``."""
    counts: Mapping[FailureClass, Interval]
    """Expected number of errors of each class, with an interval."""
    ranking: tuple[tuple[str, float], ...]
    """(class id or ``none``, posterior probability) of the whole run, best first."""
    signatures: tuple[Signature, ...]
    """Difference in differences of each probe."""
    spent: Spent
    """Model calls."""
    conclusions: tuple[str, ...]
    """What can and cannot be concluded from this run, in sentences."""

    @property
    def top(self) -> str:
        """Class id of the likeliest fault of the run, or ``none``."""
        return self.ranking[0][0]

    @property
    def calls_per_error(self) -> float:
        """Model calls (in calls of the large stage) for each error; NaN without errors."""
        errors = len(self.classified.rows)
        return self.spent.calls / errors if errors else float("nan")

    @property
    def together(self) -> tuple[tuple[FailureClass, FailureClass, int], ...]:
        """(class, class, errors) where only both cures together cure: two causes that act jointly."""
        found = []
        for first, second, count, _ in self.observations.together:
            pair = (_class_of(first), _class_of(second))
            if pair[0] is not None and pair[1] is not None and pair[0] is not pair[1]:
                found.append((pair[0], pair[1], count))
        return tuple(found)

    @property
    def likeliest(self) -> tuple[FailureClass, ...]:
        """Class of each error; undetermined where none is clear."""
        posterior = self.classified.posterior_EC
        return tuple(CLASSES[int(row.argmax())] if row.max() >= 0.5 else FailureClass.UNDETERMINED for row in posterior)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "items": len(self.table),
            "errors": len(self.classified.rows),
            "ranking": [{"class": name, "probability": probability} for name, probability in self.ranking],
            "counts": {failure.value: _plain(interval) for failure, interval in self.counts.items()},
            "signatures": [
                {"probe": s.probe, "errors": s.n_errors, "controls": s.n_controls, "cured": _plain(s.cured),
                 "broken": _plain(s.broken), "excess": _plain(s.excess), "mean_move": _finite(s.mean_move)}
                for s in self.signatures
            ],
            "together": [{"classes": [a.value, b.value], "errors": count} for a, b, count in self.together],
            "model_calls": self.spent.calls,
            "calls_per_error": _finite(self.calls_per_error),
            "conclusions": list(self.conclusions),
        }


def _class_of(probe: str) -> FailureClass | None:
    """The class that a probe's cure speaks for most; None for probes that speak for several."""
    told = [(hypothesis.expects.get(f"cure:{probe}", 0.0), hypothesis.failure) for hypothesis in HYPOTHESES]
    if probe == "translated_gold":
        return FailureClass.LOCALE
    strength, failure = max(told, key=lambda pair: pair[0])
    return failure if strength >= 0.6 else None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _plain(interval: Interval) -> dict[str, float | None]:
    return {name: _finite(getattr(interval, name)) for name in ("estimate", "low", "high")}


def diagnose(
    table: ProbeTable,
    scorer: Scorer | None = None,
    *,
    train: Reference | None = None,
    classifier: LearnedClassifier | None = None,
    config: DiagnosisConfig | None = None,
) -> Diagnosis:
    """Diagnose a run.

    With a ``scorer``, probes that the table lacks are run first, cheap ones before dear ones; all of them where a
    ``classifier`` finds the run unclear after that (``ProbingConfig.settled``); last, those by which gains are measured
    (``ProbingConfig.confirm``). ``train`` holds the
    training items, from which distance, near-duplicates and independent peers are found where the table lacks them.
    Without a ``classifier`` the rules judge.
    """
    config = config or DiagnosisConfig()
    if train is not None:
        table = with_reference(table, train)
    table, spent = probe_run(table, scorer, config.probing, rules=config.rules, seed=config.seed)
    seen = observe(table)
    classified, ranking = _judged(table, seen, classifier, config)
    if classifier is not None and config.probing.order == "adaptive" and ranking[0][1] < config.probing.settled:
        everything = replace(config.probing, order="all")
        table, more = probe_run(table, scorer, everything, rules=config.rules, seed=config.seed)
        seen, spent = observe(table), spent + more
        classified, ranking = _judged(table, seen, classifier, config)
    table, more = confirm(table, scorer, config.probing, seed=config.seed)
    spent += more
    classified, ranking = check_first(table, seen, classified, ranking, tolerated=config.tolerated_duplicates)
    return Diagnosis(
        table=table,
        observations=seen,
        classified=classified,
        counts=_counts(table, seen, classified, config),
        ranking=ranking,
        signatures=signatures(table, num_samples=config.num_samples, level=config.level, seed=config.seed),
        spent=spent,
        conclusions=conclusions(table),
    )


def _judged(table: ProbeTable, seen: Observations, classifier: LearnedClassifier | None, config: DiagnosisConfig
            ) -> tuple[Classified, tuple[tuple[str, float], ...]]:
    """(posterior of each error, ranking of the run), by the classifier or the rules."""
    if classifier is not None:
        return classifier.judge(table, seen, config.rules)
    leakage = leakage_evidence(table, config.tolerated_duplicates)
    ranking = rank(seen, config=config.rules, leakage=leakage) if len(seen.rows) else ((NONE, 1.0),)
    return classify(seen, config=config.rules), ranking


def _counts(table: ProbeTable, seen: Observations, classified: Classified,
            config: DiagnosisConfig) -> dict[FailureClass, Interval]:
    """Posterior mass of each class, and its spread over resampled sources and over the posterior itself."""
    posterior, rng = classified.posterior_EC, np.random.default_rng(config.seed)
    _, codes = np.unique(table.sources[seen.rows], return_inverse=True)
    units = int(codes.max()) + 1 if len(codes) else 0
    draws = np.zeros((config.num_samples, len(CLASSES)))
    cumulative = posterior.cumsum(axis=1)
    for sample in range(config.num_samples if units else 0):
        weight = np.bincount(rng.integers(0, units, units), minlength=units)[codes]
        drawn = (rng.random((len(posterior), 1)) > cumulative).sum(axis=1).clip(max=len(CLASSES) - 1)
        counted = np.bincount(drawn, weight, minlength=len(CLASSES))
        draws[sample] = counted / max(1.0, weight.sum()) * len(posterior)
    tail = (1 - config.level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return {
        failure: Interval(estimate=float(posterior[:, c].sum()), low=float(low[c]), high=float(high[c]),
                          level=config.level, method="cluster bootstrap", n_clusters=units)
        for c, failure in enumerate(CLASSES)
    }
