"""Transfer ratios: which share of its ceiling an intervention of a kind has brought so far.

Enters: past interventions, each with its ceiling (all errors of its classes put right) and what it brought. Leaves: a
Beta posterior an intervention, with its interval. Without a past, the prior says how little is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from scipy import stats

from tidegate.errors import ConfigError
from tidegate.evaluation import Interval

__all__ = ["SHIPPED_RATIOS", "TransferRatios", "shipped_ratios"]

SHIPPED_RATIOS = Path(__file__).parent / "weights" / "transfer.json"
"""What interventions brought in planted worlds; made by ``tidegate bench diagnosis --fit-gains``."""


@dataclass(frozen=True, kw_only=True)
class TransferRatios:
    """Beta posteriors by intervention."""

    seen: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Intervention → (a, b) beyond the prior."""
    prior: tuple[float, float] = (1.5, 1.5)
    """Beta prior of every intervention."""
    weight: float = 2.0
    """How many observations one past intervention counts for."""
    placebo_f1: float = 0.0
    """F1 that as many steps of training on nothing new brought; added to what is predicted of every training."""
    misses_f1: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Intervention → (5 %, 95 %) quantiles of realised minus predicted F1 gain in the past; empty: none is known."""

    def beta(self, name: str) -> tuple[float, float]:
        """Parameters of the posterior."""
        a, b = self.seen.get(name, (0.0, 0.0))
        return a + self.prior[0], b + self.prior[1]

    def ratio(self, name: str, *, level: float = 0.9) -> Interval:
        """Expected ratio with its credible interval."""
        a, b = self.beta(name)
        tail = (1 - level) / 2
        low, high = stats.beta.ppf([tail, 1 - tail], a, b)
        return Interval(estimate=a / (a + b), low=float(low), high=float(high), level=level, method="beta posterior",
                        n_clusters=round((a + b - sum(self.prior)) / self.weight))

    def updated(self, name: str, *, realised: float, ceiling: float) -> TransferRatios:
        """The ratios after one more intervention; a ceiling of nothing teaches nothing."""
        if ceiling <= 0:
            return self
        share = min(1.0, max(0.0, realised / ceiling))
        a, b = self.seen.get(name, (0.0, 0.0))
        return replace(self, seen={**self.seen, name: (a + self.weight * share, b + self.weight * (1 - share))})

    def save(self, path: Path) -> None:
        """Write as JSON."""
        values = {"seen": {name: list(pair) for name, pair in sorted(self.seen.items())}, "prior": list(self.prior),
                  "weight": self.weight, "placebo_f1": self.placebo_f1,
                  "misses_f1": {name: list(pair) for name, pair in sorted(self.misses_f1.items())}}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> TransferRatios:
        """Read what ``save`` wrote."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            seen = {str(name): (float(a), float(b)) for name, (a, b) in values["seen"].items()}
            misses = {str(name): (float(low), float(high)) for name, (low, high) in values.get("misses_f1", {}).items()}
            placebo = float(values.get("placebo_f1", 0.0))
            prior = (float(values["prior"][0]), float(values["prior"][1]))
            return cls(seen=seen, placebo_f1=placebo, misses_f1=misses, prior=prior, weight=float(values["weight"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: expected transfer ratios, got {error}") from error


def shipped_ratios() -> TransferRatios:
    """What the package knows of past interventions; the bare prior if this build has no such file."""
    return TransferRatios.load(SHIPPED_RATIOS) if SHIPPED_RATIOS.exists() else TransferRatios()
