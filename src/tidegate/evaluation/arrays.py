"""Arrays at the door of the room: labels, scores and weights as callers give them → checked numpy arrays.

A metric over a NaN, a label that is neither 0 nor 1 or arrays of unequal length gives a number that means nothing, so
all of them are refused here, once, with what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.errors import UsageError

__all__ = [
    "FloatArray",
    "IntArray",
    "checked_labels",
    "checked_scores",
    "checked_weights",
    "group_codes",
    "same_length",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def _first(mask: npt.NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(mask)[0])


def checked_labels(labels: npt.ArrayLike, *, name: str = "labels") -> IntArray:
    """One-dimensional int64 array of zeros and ones."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise UsageError(f"{name}: expected one dimension, got shape {array.shape}")
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{name}: expected 0 or 1, got dtype {array.dtype}")
    wrong = ~((array == 0) | (array == 1))
    if wrong.any():
        raise UsageError(f"{name}: expected 0 or 1, got {array[_first(wrong)]!r} at position {_first(wrong)}")
    return array.astype(np.int64)


def checked_scores(scores: npt.ArrayLike, *, name: str = "scores", probability: bool = False) -> FloatArray:
    """One-dimensional finite float64 array; ``probability`` asks for values in [0, 1] too."""
    array = np.asarray(scores)
    if array.ndim != 1:
        raise UsageError(f"{name}: expected one dimension, got shape {array.shape}")
    if array.size and array.dtype.kind not in "biuf":
        raise UsageError(f"{name}: expected numbers, got dtype {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        where = _first(~np.isfinite(array))
        raise UsageError(f"{name}: expected finite numbers, got {array[where]} at position {where}")
    if probability and array.size and (array.min() < 0.0 or array.max() > 1.0):
        where = _first((array < 0.0) | (array > 1.0))
        raise UsageError(f"{name}: expected values in [0, 1], got {array[where]} at position {where}")
    return array


def checked_weights(weights: npt.ArrayLike, *, name: str = "weights") -> FloatArray:
    """One-dimensional finite non-negative float64 array, such as view counts."""
    array = checked_scores(weights, name=name)
    if array.size and array.min() < 0:
        where = _first(array < 0)
        raise UsageError(f"{name}: expected values >= 0, got {array[where]} at position {where}")
    return array


def same_length(**arrays: Any) -> int:
    """The common length of the named arrays."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"expected arrays of one length, got {lengths}")
    return next(iter(lengths.values()))


def group_codes(groups: Sequence[Hashable] | npt.NDArray[Any]) -> tuple[list[Hashable], IntArray]:
    """Distinct groups in order of first appearance, and the index of each item's group."""
    index: dict[Hashable, int] = {}
    codes = np.fromiter((index.setdefault(group, len(index)) for group in groups), dtype=np.int64, count=len(groups))
    return list(index), codes
