"""A file of scores (Parquet or CSV) → checked columns.

Columns: ``video_id, base, large[, label][, region][, propensity]``. A missing score is refused: an item without a
score is a failure of its own kind and not a low score. A missing label is allowed and stays missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tidegate.errors import UsageError

if TYPE_CHECKING:
    import polars

__all__ = ["ScoreFile", "read_column", "read_features", "read_score_file"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreFile:
    """The columns of a score file, as numbers; ranges are checked where they are used."""

    path: Path
    video_ids: list[str]
    base: FloatArray
    large: FloatArray
    labels: FloatArray | None
    """NaN where a label is missing."""
    regions: list[str | None] | None
    propensities: FloatArray | None

    def __len__(self) -> int:
        return len(self.base)


def _read(path: Path) -> polars.DataFrame:
    import polars

    if not path.is_file():
        raise UsageError(f"{path}: expected a file of scores (Parquet or CSV), found none")
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            return polars.read_parquet(path)
        return polars.read_csv(path, infer_schema_length=None)
    except polars.exceptions.NoDataError as error:
        raise UsageError(f"{path}: expected a header line with columns, the file is empty") from error
    except (polars.exceptions.PolarsError, OSError) as error:
        raise UsageError(f"{path}: expected Parquet or CSV with a header line: {error}") from error


def _numbers(frame: polars.DataFrame, name: str, path: Path, *, missing: bool) -> FloatArray:
    import polars

    column = frame[name]
    if column.null_count() and not missing:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0]) + 1
        raise UsageError(f"{path}: column {name}: expected a value in every row, missing in row {row}")
    numbers = column.cast(polars.Float64, strict=False)
    if numbers.null_count() > column.null_count():
        example = column.filter(numbers.is_null() & column.is_not_null()).head(1).to_list()
        raise UsageError(f"{path}: column {name}: expected numbers, got {example}")
    return numbers.to_numpy().astype(np.float64)


def read_score_file(path: Path) -> ScoreFile:
    """Read a whole audit."""
    frame = _read(path)
    lacking = [name for name in ("video_id", "base", "large") if name not in frame.columns]
    if lacking:
        raise UsageError(f"{path}: expected columns video_id, base and large, missing {lacking} of {frame.columns}")
    if frame["video_id"].null_count():
        raise UsageError(f"{path}: column video_id: expected a value in every row")
    columns = set(frame.columns)
    labels = _numbers(frame, "label", path, missing=True) if "label" in columns else None
    return ScoreFile(
        path=path,
        video_ids=[str(value) for value in frame["video_id"].to_list()],
        base=_numbers(frame, "base", path, missing=False),
        large=_numbers(frame, "large", path, missing=False),
        labels=None if labels is None or (len(labels) and np.isnan(labels).all()) else labels,
        regions=[None if v is None else str(v) for v in frame["region"].to_list()] if "region" in columns else None,
        propensities=_numbers(frame, "propensity", path, missing=False) if "propensity" in columns else None,
    )


def read_column(path: Path, name: str) -> list[object]:
    """One column of a file, such as the ids of a tuning set or the base scores of all traffic."""
    frame = _read(path)
    if name not in frame.columns:
        raise UsageError(f"{path}: expected a column {name}, got {frame.columns}")
    return list(frame[name].to_list())


def read_features(path: Path) -> FloatArray:
    """The columns ``feature_...`` of a score file as a matrix, one row an item."""
    frame = _read(path)
    names = [name for name in frame.columns if name.startswith("feature_")]
    if not names:
        raise UsageError(f"{path}: expected columns named feature_..., got {frame.columns}")
    return np.column_stack([_numbers(frame, name, path, missing=False) for name in names])
