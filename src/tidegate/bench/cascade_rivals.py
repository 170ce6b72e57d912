"""What others do with the same oracle calls: plug-in, SUPG, LOTUS's formula, BARGAIN.

Each rival takes a population and a number of calls and gives (tau, audited items that it found to be positive).
SUPG and BARGAIN return what they found in the audit as well, so found positives count as caught for them, as their
papers promise.

- plug-in: the threshold whose recall *in the audit* reaches the target (COEF-VQ and most code).
- SUPG (Kang et al., 2020, arXiv 2004.00827), uniform and importance (square-root weights with a tenth uniform): the
  empirical target is raised by normal bounds on the positive mass above and below the threshold.
- LOTUS (Patel et al., 2024, arXiv 2407.11418): the same correction, with means over the items of each side.
- BARGAIN (2025, arXiv 2509.02896), uniform recall mode (beta = 0, the mode that has its guarantee): a betting test
  for each threshold. ``bargain_uniform`` is the installed ``bargain`` package's loop in array form, to make
  hundreds of trials affordable; ``bargain_package`` runs the package itself, and a test holds that both agree.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.bench.cascade_families import Population
from tidegate.errors import DependencyMissing

__all__ = ["RIVALS", "bargain_package", "bargain_uniform", "lotus", "plug_in", "supg_importance", "supg_uniform"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Found = tuple[float, IntArray]


def _highest_reaching(scores: FloatArray, mass: FloatArray, target: float) -> float:
    """Highest threshold with at least ``target`` of the positives' (weighted) mass at or above it."""
    if not len(scores):
        return -math.inf
    order = np.argsort(-scores, kind="stable")
    cumulative = np.cumsum(mass[order])
    place = int(np.searchsorted(cumulative, target * cumulative[-1] * (1.0 - 1e-12), side="left"))
    return float(scores[order[min(place, len(scores) - 1)]])


def _draw(population: Population, calls: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """A uniform sample: all drawn items, and the positive ones."""
    chosen = rng.integers(0, len(population), size=calls)
    return chosen, chosen[population.label[chosen] == 1]


def plug_in(population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator) -> Found:
    """The audit's own recall, taken at its word."""
    _, found = _draw(population, calls, rng)
    return _highest_reaching(population.base[found], np.ones(len(found)), recall), np.zeros(0, dtype=np.int64)


def _raised(above: FloatArray, below: FloatArray, sizes: tuple[int, int], calls: int, delta: float) -> float:
    """UB / (UB + LB): the raised target, from the positives' masses and the ``sizes`` that they are averaged over."""
    width = math.sqrt(2.0 * math.log(2.0 / delta) / calls)
    bound = []
    for mass, size, sign in ((above, sizes[0], 1.0), (below, sizes[1], -1.0)):
        mean = float(mass.sum()) / size if size else 0.0
        spread = math.sqrt(max(0.0, float((mass**2).sum()) / size - mean**2)) if size else 0.0
        bound.append(mean + sign * width * spread)
    return 1.0 if sum(bound) <= 0 else min(1.0, bound[0] / sum(bound))


def _supg(scores: FloatArray, mass: FloatArray, calls: int, recall: float, delta: float) -> float:
    above = scores >= _highest_reaching(scores, mass, recall)
    target = _raised(mass[above], mass[~above], (calls, calls), calls, delta)
    return _highest_reaching(scores, mass, target)


def supg_uniform(population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator) -> Found:
    """SUPG with uniform sampling (U-CI-R)."""
    _, found = _draw(population, calls, rng)
    return _supg(population.base[found], np.ones(len(found)), calls, recall, delta), found


def supg_importance(population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator) -> Found:
    """SUPG with importance sampling (IS-CI-R)."""
    weights, cumulative = population.root_weights
    drawn = np.searchsorted(cumulative, rng.random(calls) * cumulative[-1], side="right")
    chosen = np.minimum(drawn, len(population) - 1)
    found = chosen[population.label[chosen] == 1]
    mass = 1.0 / (len(population) * weights[found])
    return _supg(population.base[found], mass, calls, recall, delta), found


def lotus(population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator) -> Found:
    """LOTUS's formula on a uniform sample."""
    chosen, found = _draw(population, calls, rng)
    scores, mass = population.base[found], np.ones(len(found))
    first = _highest_reaching(scores, mass, recall)
    higher = int(np.count_nonzero(population.base[chosen] >= first))
    target = _raised(mass[scores >= first], mass[scores < first], (higher, calls - higher), calls, delta)
    return _highest_reaching(scores, mass, target), np.zeros(0, dtype=np.int64)


def _betting_rejects(hits: npt.NDArray[np.bool_], target: float, alpha: float) -> bool:
    """BARGAIN's test that the mean of ``hits`` is above target, sampling with replacement, known sample size."""
    n = len(hits)
    steps = np.arange(n, dtype=np.float64)  # observations before each bet
    sums = np.concatenate([[0.0], np.cumsum(hits[:-1], dtype=np.float64)])
    mean = (0.5 + sums) / (steps + 1.0)
    variance = (0.25 + sums * (1.0 - 2.0 * mean) + steps * mean**2) / (steps + 1.0)
    bet = np.minimum(np.sqrt(2.0 * math.log(2.0 / alpha) / (n * variance)), 0.75 / target)
    with np.errstate(divide="ignore"):
        wealth = np.cumsum(np.log1p(bet * (hits - target)))
    return bool((wealth >= -math.log(alpha)).any())


def _bargain_threshold(positions: IntArray, recall: float, delta: float) -> int:
    """Highest position that the package certifies; 0 when none (everything is returned)."""
    best = 0
    for threshold in np.sort(positions):
        hits = positions >= threshold
        if hits.mean() < recall or not _betting_rejects(hits, recall, delta):
            break
        best = int(threshold)
    return best


def bargain_uniform(population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator) -> Found:
    """BARGAIN's uniform recall mode."""
    _, found = _draw(population, calls, rng)
    return float(population.base[_bargain_threshold(found, recall, delta)]), found


def bargain_package(population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator) -> Found:
    """The installed package itself, on the same population. Slow: one Python call per item."""
    try:
        from BARGAIN import BARGAIN_R, Oracle, Proxy
    except ImportError as missing:
        raise DependencyMissing("the bargain package is not installed: pip install 'tidegate[bench]'") from missing

    class Labels(Oracle):  # type: ignore[misc]
        def get_pred(self, data_records: Any, indxs: Any = None) -> Any:
            self.calls = len(indxs)
            return population.label[indxs]

        def get_number_preds(self) -> int:
            return self.calls

    class Scores(Proxy):  # type: ignore[misc]
        def get_preds_and_scores(self, indxs: Any, data_records: Any) -> Any:
            return np.ones(len(indxs), dtype=np.int64), population.base[indxs]

    solver = BARGAIN_R(
        Scores(verbose=False),
        Labels(verbose=False),
        delta=delta,
        target=recall,
        budget=calls,
        seed=int(rng.integers(2**31)),
    )
    returned = np.sort(np.asarray(solver.process(np.arange(len(population))), dtype=np.int64))
    tail = returned[returned >= 0]
    run = np.flatnonzero(tail != np.arange(len(population) - len(tail), len(population)))
    start = int(run[-1]) + 1 if len(run) else 0
    return float(population.base[tail[start]]), tail[:start]


RIVALS = {
    "plug-in": plug_in,
    "SUPG uniform": supg_uniform,
    "SUPG importance": supg_importance,
    "LOTUS formula": lotus,
    "BARGAIN": bargain_uniform,
}
