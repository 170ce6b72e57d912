"""A probability model that is stored without pickle: extremely randomised trees beside small neural networks.

Enters: rows of numbers, classes, groups (rows of one group never lie on two sides of a fold). Leaves: a ``Blend`` that
predicts with numpy alone and is written as arrays (safetensors). Trees find cuts, networks add up many weak signs;
their geometric mean is better than either, and a temperature fitted on out-of-fold predictions calibrates it.

Shape legend: R rows, F features, K classes, T trees, M nodes of all trees, S networks, U units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.networks import NetworkConfig, Networks, fit_networks, softmax
from tidegate.diagnosis.table import Floats
from tidegate.errors import DependencyMissing, UsageError

__all__ = ["Blend", "BlendConfig", "fit_blend"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """How trees and networks are fitted."""

    num_trees: int = 100
    """Trees."""
    min_leaf: int = 6
    """Fewest rows of a leaf."""
    max_depth: int = 16
    """Deepest level of a tree."""
    tree_share: float = 0.5
    """Weight of the trees' log-probabilities; the networks have the rest."""
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    """The networks."""
    folds: int = 5
    """Folds of whole groups, for out-of-fold probabilities."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """Fitted trees and networks over K classes."""

    classes: tuple[str, ...]
    networks: Networks
    roots_T: Ints
    left_M: Ints
    """Left child of each node; a leaf is its own child."""
    right_M: Ints
    feature_M: Ints
    cut_M: Floats
    value_MK: Floats
    tree_share: float = 0.5
    temperature: float = 1.0

    def probabilities(self, rows_RF: Floats) -> Floats:
        """(R, K) probabilities."""
        trees, networks = np.log(self._trees(rows_RF) + 1e-3), np.log(self.networks.probabilities(rows_RF) + 1e-6)
        return softmax((self.tree_share * trees + (1 - self.tree_share) * networks) / self.temperature)

    def _trees(self, rows_RF: Floats) -> Floats:
        rows_RF = rows_RF.astype(np.float32)  # as the trees were fitted
        total = np.zeros((len(rows_RF), len(self.classes)))
        here = np.arange(len(rows_RF))
        for root in self.roots_T:
            node = np.full(len(rows_RF), root)
            while True:
                goes_left = rows_RF[here, self.feature_M[node]] <= self.cut_M[node]
                following = np.where(goes_left, self.left_M[node], self.right_M[node])
                if (following == node).all():
                    break
                node = following
            total += self.value_MK[node]
        mean: Floats = total / max(1, len(self.roots_T))
        return mean

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """Arrays to store, their names behind ``prefix``."""
        stored: dict[str, npt.NDArray[Any]] = {f"{prefix}.cut_M": self.cut_M.astype(np.float32),
                                               f"{prefix}.value_MK": self.value_MK.astype(np.float16)}
        for name in ("left_M", "right_M", "feature_M", "roots_T"):
            stored[f"{prefix}.{name}"] = getattr(self, name).astype(np.int32)
        stored[f"{prefix}.settings"] = np.asarray([self.tree_share, self.temperature])
        return stored | self.networks.arrays(prefix)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, classes: tuple[str, ...]) -> Blend:
        """Inverse of ``arrays``."""
        parts: dict[str, Any] = {name: arrays[f"{prefix}.{name}"].astype(np.float64) for name in ("cut_M", "value_MK")}
        for name in ("roots_T", "left_M", "right_M", "feature_M"):
            parts[name] = arrays[f"{prefix}.{name}"].astype(np.int64)
        tree_share, temperature = map(float, arrays[f"{prefix}.settings"])
        return cls(classes=classes, **parts, networks=Networks.from_arrays(arrays, prefix), tree_share=tree_share,
                   temperature=temperature)


def fit_blend(rows_RF: Floats, targets: npt.NDArray[np.str_], groups: Ints, config: BlendConfig | None = None, *,
              seed: int = 0) -> tuple[Blend, Floats]:
    """(the model of all rows, out-of-fold probabilities (R, K) at the fitted temperature).

    With one fold nothing is out of fold: those probabilities are all alike, and the temperature stays 1.
    """
    config, classes = config or BlendConfig(), tuple(sorted(set(targets.tolist())))
    if len(classes) < 2:
        raise UsageError(f"expected at least two classes to tell apart, got {classes}")
    truth = np.asarray([classes.index(name) for name in targets.tolist()])
    fold_of = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups] % config.folds
    held_out = np.full((len(rows_RF), len(classes)), 1.0 / len(classes))
    for fold in range(config.folds):
        inside = fold_of != fold
        if inside.all() or len(set(truth[inside].tolist())) < 2:
            continue
        part = _fit_once(rows_RF[inside], truth[inside], classes, config, seed)
        held_out[~inside] = part.probabilities(rows_RF[~inside])
    temperature = _temperature(held_out, truth) if config.folds > 1 else 1.0
    whole = replace(_fit_once(rows_RF, truth, classes, config, seed), temperature=temperature)
    return whole, softmax(np.log(held_out + 1e-9) / temperature)


def _temperature(probabilities: Floats, truth: Ints) -> float:
    grid = np.geomspace(0.3, 4.0, 40)
    logs = np.log(probabilities + 1e-9)
    losses = [-np.log(softmax(logs / t)[np.arange(len(truth)), truth] + 1e-12).mean() for t in grid]
    return float(grid[int(np.argmin(losses))])


def _fit_once(rows_RF: Floats, truth: Ints, classes: tuple[str, ...], config: BlendConfig, seed: int) -> Blend:
    try:
        from sklearn.ensemble import ExtraTreesClassifier
    except ImportError as error:
        raise DependencyMissing("fitting a classifier needs scikit-learn: pip install 'tidegate[diagnosis]'") from error
    trees = ExtraTreesClassifier(
        config.num_trees, min_samples_leaf=config.min_leaf, max_depth=config.max_depth, max_features=0.3,
        class_weight="balanced", random_state=seed, n_jobs=-1).fit(rows_RF, truth)
    networks = fit_networks(rows_RF, truth, len(classes), config.networks, seed=seed)
    return Blend(classes=classes, networks=networks, tree_share=config.tree_share, **_flat(trees, len(classes)))


def _flat(trees: Any, num_classes: int) -> dict[str, Any]:
    """All trees as one list of nodes; a leaf points at itself."""
    parts: dict[str, list[Any]] = {"left_M": [], "right_M": [], "feature_M": [], "cut_M": [], "value_MK": []}
    roots, offset = [], 0
    columns = trees.classes_.astype(np.int64)
    for one in trees.estimators_:
        tree = one.tree_
        own = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        parts["left_M"].append(np.where(leaf, own, tree.children_left) + offset)
        parts["right_M"].append(np.where(leaf, own, tree.children_right) + offset)
        parts["feature_M"].append(np.where(leaf, 0, tree.feature))
        parts["cut_M"].append(np.where(leaf, 0.0, tree.threshold).astype(np.float32))
        values = np.zeros((tree.node_count, num_classes))
        values[:, columns] = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
        parts["value_MK"].append(values)
        roots.append(offset)
        offset += tree.node_count
    return {"roots_T": np.asarray(roots), **{name: np.concatenate(part) for name, part in parts.items()}}
