"""The synthetic families of the cascade benchmark: populations of base scores, large-model scores and labels.

Beta families are calibrated (an item is positive with probability its score), as in SUPG's experiments; Gauss
families are not (scores are squashed logits); blind spots are positives that the base model scores like clean
items; tied scores are rounded. A population is fixed per cell, and audits are drawn from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["FAMILIES", "Population", "make_population"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """All items of one family, in ascending order of their base scores."""

    name: str
    base: FloatArray
    large: FloatArray
    label: npt.NDArray[np.int8]
    positive_scores: FloatArray = field(init=False)
    """Base scores of the labelled positives, ascending: what recall cells are about."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "positive_scores", self.base[self.label == 1])

    @cached_property
    def root_weights(self) -> tuple[FloatArray, FloatArray]:
        """SUPG's sampling weights (nine tenths by the square root of the score, one tenth uniform), and their sums."""
        root = np.sqrt(self.base)
        weights = 0.9 * root / root.sum() + 0.1 / len(self)
        return weights, np.cumsum(weights)

    def __len__(self) -> int:
        return len(self.base)

    def recall(self, tau: float) -> float:
        """Share of positives at or above tau."""
        below = np.searchsorted(self.positive_scores, tau, side="left")
        return 1.0 - float(below) / max(1, len(self.positive_scores))

    def share(self, tau: float) -> float:
        """Share of items at or above tau."""
        return 1.0 - float(np.searchsorted(self.base, tau, side="left")) / len(self.base)


def _squash(z: FloatArray) -> FloatArray:
    return 1.0 / (1.0 + np.exp(2.0 - z))


def _gauss(
    rng: np.random.Generator,
    size: int,
    *,
    separation: float,
    prevalence: float,
    blind: float = 0.0,
    decimals: int | None = None,
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    label = np.zeros(size, dtype=bool)
    label[: round(prevalence * size)] = True
    z = rng.normal(size=size) + separation * label
    hidden = label & (rng.random(size) < blind)
    z[hidden] = rng.normal(size=int(hidden.sum()))
    scores = _squash(z)
    return (scores if decimals is None else np.round(scores, decimals)), label


def _beta(
    rng: np.random.Generator, size: int, *, b: float, noise: float = 0.0
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    truth = rng.beta(0.01, b, size)
    label = rng.random(size) < truth
    return np.clip(truth + noise * rng.normal(size=size), 0.0, 1.0), label


Maker = Callable[[np.random.Generator, int], tuple[FloatArray, npt.NDArray[np.bool_]]]


def _gauss_maker(separation: float, prevalence: float, *, blind: float = 0.0, decimals: int | None = None) -> Maker:
    return lambda rng, size: _gauss(
        rng, size, separation=separation, prevalence=prevalence, blind=blind, decimals=decimals
    )


FAMILIES: dict[str, Maker] = {
    "beta(.01, 1)": lambda rng, size: _beta(rng, size, b=1.0),
    "beta(.01, 2) + noise": lambda rng, size: _beta(rng, size, b=2.0, noise=0.02),
    **{
        f"gauss d'={separation:g}, {prevalence:.1%}": _gauss_maker(separation, prevalence)
        for separation in (1.5, 2.5, 3.5)
        for prevalence in (0.1, 0.01, 0.001)
    },
    "blind spot 2%": _gauss_maker(2.5, 0.01, blind=0.02),
    "blind spot 5%": _gauss_maker(2.5, 0.01, blind=0.05),
    "blind spot 10%": _gauss_maker(2.5, 0.01, blind=0.10),
    "ties, 2 decimals": _gauss_maker(2.5, 0.01, decimals=2),
    "ties, 1 decimal": _gauss_maker(2.5, 0.1, decimals=1),
}


def make_population(name: str, *, size: int, seed: int) -> Population:
    """The family's population; the large model's scores are a noisy view of the label (d' = 4.5)."""
    rng = np.random.default_rng([seed, sorted(FAMILIES).index(name)])
    base, label = FAMILIES[name](rng, size)
    large = _squash(rng.normal(size=size) - 0.5 + 4.5 * label)
    order = np.argsort(base, kind="stable")
    return Population(name=name, base=base[order], large=large[order], label=label[order].astype(np.int8))
