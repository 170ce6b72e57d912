"""A probability model that is stored without pickle: extremely randomised trees beside a logistic regression.

Enters: rows of numbers, classes, groups (rows of one group never lie on two sides of a fold). Leaves: a ``Blend`` that
predicts with numpy alone and is written as arrays (safetensors). Trees find interactions, the line extrapolates; their
geometric mean, with a temperature fitted on out-of-fold predictions, is better calibrated than either.

Shape legend: R rows, F features, K classes, T trees, M nodes of all trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.table import Floats
from tidegate.errors import DependencyMissing, UsageError

__all__ = ["Blend", "fit_blend"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """Fitted trees and line over K classes."""

    classes: tuple[str, ...]
    mean_F: Floats
    scale_F: Floats
    weight_FK: Floats
    bias_K: Floats
    roots_T: Ints
    left_M: Ints
    """Left child of each node; a leaf is its own child."""
    right_M: Ints
    feature_M: Ints
    cut_M: Floats
    value_MK: Floats
    temperature: float = 1.0

    def probabilities(self, rows_RF: Floats) -> Floats:
        """(R, K) probabilities."""
        logs = np.log(self._trees(rows_RF) + 1e-3) / 2 + np.log(self._line(rows_RF) + 1e-6) / 2
        return _softmax(logs / self.temperature)

    def _line(self, rows_RF: Floats) -> Floats:
        inside = np.clip((rows_RF - self.mean_F) / self.scale_F, -6.0, 6.0)
        return _softmax(inside @ self.weight_FK + self.bias_K)

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
        names = ("mean_F", "scale_F", "weight_FK", "bias_K", "roots_T", "left_M", "right_M", "feature_M", "cut_M")
        stored: dict[str, npt.NDArray[Any]] = {f"{prefix}.{name}": getattr(self, name) for name in names}
        stored[f"{prefix}.value_MK"] = self.value_MK.astype(np.float16)
        for name in ("left_M", "right_M", "feature_M", "roots_T"):
            stored[f"{prefix}.{name}"] = stored[f"{prefix}.{name}"].astype(np.int32)
        stored[f"{prefix}.temperature"] = np.asarray([self.temperature])
        return stored

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, classes: tuple[str, ...]) -> Blend:
        """Inverse of ``arrays``."""
        names = ("mean_F", "scale_F", "weight_FK", "bias_K", "cut_M", "value_MK")
        parts: dict[str, Any] = {name: arrays[f"{prefix}.{name}"].astype(np.float64) for name in names}
        for name in ("roots_T", "left_M", "right_M", "feature_M"):
            parts[name] = arrays[f"{prefix}.{name}"].astype(np.int64)
        return cls(classes=classes, **parts, temperature=float(arrays[f"{prefix}.temperature"][0]))


def _softmax(logs: Floats) -> Floats:
    shifted = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return shares


def fit_blend(rows_RF: Floats, targets: npt.NDArray[np.str_], groups: Ints, *, num_trees: int = 200,
              min_leaf: int = 2, max_depth: int | None = 14, regularisation: float = 0.05, folds: int = 5,
              seed: int = 0) -> tuple[Blend, Floats]:
    """(the model of all rows, out-of-fold probabilities (R, K) at the fitted temperature)."""
    classes = tuple(sorted(set(targets.tolist())))
    if len(classes) < 2:
        raise UsageError(f"expected at least two classes to tell apart, got {classes}")
    settings: dict[str, Any] = {"num_trees": num_trees, "min_leaf": min_leaf, "max_depth": max_depth,
                                "regularisation": regularisation, "seed": seed}
    fold_of = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups] % folds
    held_out = np.full((len(rows_RF), len(classes)), 1.0 / len(classes))
    for fold in range(folds):
        inside = fold_of != fold
        if inside.all() or len(set(targets[inside].tolist())) < 2:
            continue
        part = _fit_once(rows_RF[inside], targets[inside], classes, **settings)
        held_out[~inside] = part.probabilities(rows_RF[~inside])
    truth = np.asarray([classes.index(name) for name in targets.tolist()])
    temperature = _temperature(held_out, truth)
    whole = _fit_once(rows_RF, targets, classes, **settings)
    return Blend(**{**vars(whole), "temperature": temperature}), _softmax(np.log(held_out + 1e-9) / temperature)


def _temperature(probabilities: Floats, truth: Ints) -> float:
    grid = np.geomspace(0.3, 4.0, 40)
    logs = np.log(probabilities + 1e-9)
    losses = [-np.log(_softmax(logs / t)[np.arange(len(truth)), truth] + 1e-12).mean() for t in grid]
    return float(grid[int(np.argmin(losses))])


def _fit_once(rows_RF: Floats, targets: npt.NDArray[np.str_], classes: tuple[str, ...], *, num_trees: int,
              min_leaf: int, max_depth: int | None, regularisation: float, seed: int) -> Blend:
    try:
        from sklearn.ensemble import ExtraTreesClassifier
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise DependencyMissing("fitting a classifier needs scikit-learn: pip install 'tidegate[diagnosis]'") from error
    mean, scale = rows_RF.mean(axis=0), rows_RF.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    trees = ExtraTreesClassifier(num_trees, min_samples_leaf=min_leaf, max_depth=max_depth, max_features=0.3,
                                 class_weight="balanced", random_state=seed, n_jobs=1).fit(rows_RF, targets)
    line = LogisticRegression(C=regularisation, max_iter=60, tol=1e-3, class_weight="balanced")
    line.fit(np.clip((rows_RF - mean) / scale, -6.0, 6.0), targets)
    weight, bias = np.zeros((rows_RF.shape[1], len(classes))), np.full(len(classes), -20.0)
    coefficients, intercepts = line.coef_, line.intercept_
    if len(line.classes_) == 2:
        coefficients, intercepts = np.vstack([-coefficients, coefficients]) / 2, np.array([-1, 1]) * intercepts / 2
    columns = [classes.index(str(name)) for name in line.classes_]
    weight[:, columns], bias[columns] = coefficients.T, intercepts
    return Blend(classes=classes, mean_F=mean, scale_F=scale, weight_FK=weight, bias_K=bias,
                 **_flat(trees, classes))


def _flat(trees: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """All trees as one list of nodes; a leaf points at itself."""
    parts: dict[str, list[Any]] = {"left_M": [], "right_M": [], "feature_M": [], "cut_M": [], "value_MK": []}
    roots, offset = [], 0
    columns = [classes.index(str(name)) for name in trees.classes_]
    for one in trees.estimators_:
        tree = one.tree_
        own = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        parts["left_M"].append(np.where(leaf, own, tree.children_left) + offset)
        parts["right_M"].append(np.where(leaf, own, tree.children_right) + offset)
        parts["feature_M"].append(np.where(leaf, 0, tree.feature))
        parts["cut_M"].append(np.where(leaf, 0.0, tree.threshold))
        values = np.zeros((tree.node_count, len(classes)))
        values[:, columns] = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
        parts["value_MK"].append(values)
        roots.append(offset)
        offset += tree.node_count
    return {"roots_T": np.asarray(roots), **{name: np.concatenate(part) for name, part in parts.items()}}
