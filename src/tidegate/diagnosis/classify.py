"""The rules: from observations of errors to a posterior over classes for each error, and a ranking for the run.

Enters: ``Observations``. Leaves: ``Classified``. Each error is a draw from a mixture: some share of the errors has each
cause, the rest have none that can be seen. What a cause lets one expect stands in ``hypotheses``; what no cause would
show is the chance rate of ``observations``; the shares are found by expectation maximisation under a prior that
keeps them small. An error whose likeliest cause is not clear stays ``undetermined``.

The run's ranking compares, for each class, the evidence of *that class at some share* with that of *no cause at all*
(shares integrated over a grid). Evidence of dependent observations is not worth its sum, so logarithms are damped.

Shape legend: E errors, H hypotheses (the last one: none), C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.hypotheses import HYPOTHESES, Hypothesis
from tidegate.diagnosis.observations import Observations
from tidegate.diagnosis.table import Floats
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["CLASSES", "NONE", "Classified", "RulesConfig", "classify", "log_ratios", "rank", "shares_of"]

CLASSES: tuple[FailureClass, ...] = tuple(FailureClass)
"""Columns of every posterior; the last one is ``undetermined``."""
NONE = "none"
"""The answer that nothing is wrong beyond ordinary errors."""
_SHARES = np.concatenate([np.linspace(0.02, 0.3, 15), np.linspace(0.35, 0.99, 14)])


@dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """How far the rules trust what they see."""

    damping: float = 0.6
    """Factor on the log-likelihood ratio of an error: observations of one error depend on each other."""
    max_log_ratio: float = 5.0
    """No single error may speak louder than this for or against a cause, in nats."""
    clear: float = 0.5
    """An error whose likeliest cause has a smaller posterior is undetermined."""
    none_prior: float = 0.5
    """Prior probability that a run has no fault."""
    run_damping: float = 0.5
    """Factor on the run's log evidence: errors of a source depend on each other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Classified:
    """What the rules make of E errors."""

    rows: npt.NDArray[np.int64]
    """Row of each error in the table."""
    posterior_EC: Floats
    """Over ``CLASSES``; rows sum to 1."""
    variants: tuple[str, ...]
    """Likeliest variant (modality) of each error's likeliest class; empty where it has none."""
    shares: dict[FailureClass, float]
    """Estimated share of the errors by class."""


def log_ratios(seen: Observations, hypotheses: tuple[Hypothesis, ...] = HYPOTHESES,
               config: RulesConfig | None = None, *, untold: float = -np.inf) -> Floats:
    """Damped log-likelihood ratio of each hypothesis against chance, (E, H).

    A cause of which nothing that defines it was observed gets ``untold``: by default it cannot be the answer.
    """
    config = config or RulesConfig()
    ratios = np.zeros((len(seen.rows), len(hypotheses)))
    for h, hypothesis in enumerate(hypotheses):
        told = np.zeros(len(seen.rows), dtype=np.bool_)
        for name, expected in hypothesis.expects.items():
            if name in seen.names:
                o = seen.names.index(name)
                value, chance = seen.values_EO[:, o], seen.chance_EO[:, o]
                known = np.isfinite(value)
                step = np.where(value == 1, np.log(expected / chance), np.log((1 - expected) / (1 - chance)))
                ratios[:, h] += np.where(known, step, 0.0)
                told |= known & (expected >= 0.5) & (name != "confident")
        ratios[~told, h] = np.nan
    limit = config.max_log_ratio
    return np.where(np.isfinite(ratios), np.clip(config.damping * ratios, -limit, limit), untold)


def shares_of(ratios: Floats, *, rounds: int = 60, pseudo: float = 0.5,
              floor: float = 1e-6) -> tuple[Floats, Floats]:
    """(shares of H hypotheses and none, responsibilities (E, H + 1)) by expectation maximisation."""
    likelihood = np.exp(np.column_stack([ratios, np.zeros(len(ratios))]))
    count = likelihood.shape[1]
    shares = np.full(count, 0.5 / max(1, count - 1))
    shares[-1] = 0.5
    prior = np.zeros(count)
    prior[-1] = pseudo * 4
    given = likelihood * shares
    for _ in range(rounds):
        given = likelihood * shares
        given /= given.sum(axis=1, keepdims=True)
        shares = np.maximum(given.sum(axis=0) - pseudo, 0.0) + prior
        shares /= shares.sum()
        shares = np.maximum(shares, floor)
    return shares, given


def classify(seen: Observations, *, hypotheses: tuple[Hypothesis, ...] = HYPOTHESES,
             config: RulesConfig | None = None) -> Classified:
    """Posterior of each error over the classes, by the rules."""
    config = config or RulesConfig()
    _, given = shares_of(log_ratios(seen, hypotheses, config))
    posterior = np.zeros((len(seen.rows), len(CLASSES)))
    for h, hypothesis in enumerate(hypotheses):
        posterior[:, CLASSES.index(hypothesis.failure)] += given[:, h]
    posterior[:, -1] += given[:, -1]
    best = given[:, :-1].argmax(axis=1) if len(given) else np.zeros(0, dtype=np.int64)
    by_class = {failure: float(posterior[:, c].mean()) if len(posterior) else 0.0 for c, failure in enumerate(CLASSES)}
    return Classified(rows=seen.rows, posterior_EC=posterior, variants=tuple(hypotheses[h].variant for h in best),
                      shares=by_class)


def rank(seen: Observations, *, hypotheses: tuple[Hypothesis, ...] = HYPOTHESES, config: RulesConfig | None = None,
         leakage: float = 0.0) -> tuple[tuple[str, float], ...]:
    """(class or ``none``, posterior probability) of the run, best first; ``leakage``: log evidence of duplicates."""
    config = config or RulesConfig()
    ratios = log_ratios(seen, hypotheses, config)
    evidence: dict[str, list[float]] = {}
    for h, hypothesis in enumerate(hypotheses):
        column = ratios[:, h]
        if np.isfinite(column).any():
            odds = np.expm1(np.maximum(column, -20.0))
            mixed = np.log1p(_SHARES[:, None] * odds[None, :]).sum(axis=1) * config.run_damping
            peak = float(mixed.max())
            evidence.setdefault(hypothesis.failure.value, []).append(peak + float(np.log(np.exp(mixed - peak).mean())))
    logs = {name: float(np.logaddexp.reduce(values) - np.log(len(values))) for name, values in evidence.items()}
    logs[FailureClass.LEAKAGE.value] = leakage
    names = [failure.value for failure in CLASSES[:-1]]
    prior = np.log((1 - config.none_prior) / len(names))
    scores = {name: logs.get(name, 0.0) + prior for name in names} | {NONE: float(np.log(config.none_prior))}
    total = float(np.logaddexp.reduce(list(scores.values())))
    return tuple(sorted(((name, float(np.exp(value - total))) for name, value in scores.items()),
                        key=lambda pair: -pair[1]))
