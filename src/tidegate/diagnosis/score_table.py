"""Score files: a run as a table, of Tidegate or of any other system.

Enters: Parquet or CSV with ``id``, ``label``, ``score`` and, where known, ``threshold``, ``source_id``, ``base_score``,
``escalated``, ``note``, ``hash``, metadata (``region``, ``language``, ``clause``, ``period``, or ``slice.NAME``),
``probe.NAME``, ``applied.NAME`` (a probe's change as if deployed, of more items) and ``feature.NAME``; or a folder
that ``tidegate scan`` wrote, with a manifest for the labels. Leaves: a checked ``ProbeTable``, and back. An empty cell
is not known; it is never 0. A wrong value is a ``ManifestError`` that names file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.corpus.manifest import Entry, Manifest
from tidegate.diagnosis.table import Floats, ProbeTable, Strings
from tidegate.diagnosis.taxonomy import PROBES
from tidegate.errors import ManifestError
from tidegate.evaluation import best_f1

__all__ = ["METADATA", "read_run", "read_scores", "table_of_outcomes", "write_scores"]

METADATA = ("region", "language", "clause", "period")
_EMBEDDING = re.compile(r"embedding\.(\d+)")


def read_run(run: Path, manifest: Manifest | None = None, *, issue: str = "icd") -> ProbeTable:
    """A run: a score file, a folder with one, or a folder of ``tidegate scan`` and the manifest."""
    if run.is_dir():
        for name in ("run.parquet", "scores.parquet"):
            if (run / name).exists():
                return read_scores(run / name)
        if (run / "outcomes.parquet").exists():
            if manifest is None:
                raise ManifestError(f"{run}: a scan has no labels; expected --data MANIFEST with them")
            return table_of_outcomes(run / "outcomes.parquet", manifest, issue)
        raise ManifestError(f"{run}: expected run.parquet, scores.parquet or a scan's outcomes.parquet in it")
    return read_scores(run)


def _frame(file: Path) -> pl.DataFrame:
    if file.suffix not in (".parquet", ".csv"):
        raise ManifestError(f"{file}: expected scores in .parquet or .csv, got {file.suffix or 'no ending'!r}")
    if not file.is_file():
        raise ManifestError(f"{file}: there is no such file")
    try:
        return pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file}: not readable as {file.suffix[1:]}: {error}") from error


def read_scores(file: Path) -> ProbeTable:
    """A score file as a table.

    Without a ``threshold`` the one of best F1 is taken; then the run's errors are those at its own best threshold.
    """
    frame = _frame(file)
    missing = {"id", "label", "score"} - set(frame.columns)
    if missing:
        raise ManifestError(f"{file}: missing column {', '.join(sorted(missing))}; expected at least id, label, score")
    unknown = [name for name in frame.columns if name.startswith(("probe.", "applied."))
               and not set(name.partition(".")[2].split("+")) <= set(PROBES)]
    if unknown:
        raise ManifestError(f"{file}: unknown probe {', '.join(unknown)}; expected among {', '.join(PROBES)}")
    cells = _Cells(file, frame)
    ids, labels, scores = cells.text("id", required=True), cells.numbers("label"), cells.numbers("score")
    cells.check("label", np.isin(labels, (0.0, 1.0)), "0 or 1 (unlabelled items cannot be diagnosed: leave them out)")
    optional = set(frame.columns)
    whole = labels.astype(np.int64)
    probes, applied, features = (
        {name.removeprefix(kind): cells.numbers(name) for name in frame.columns if name.startswith(kind)}
        for kind in ("probe.", "applied.", "feature.")
    )
    slices = {name.removeprefix("slice."): cells.text(name) for name in frame.columns
              if name in METADATA or name.startswith("slice.")}
    return ProbeTable(
        ids=ids, labels=whole, scores=scores,
        thresholds=cells.numbers("threshold", required=True) if "threshold" in optional else _best(whole, scores),
        sources=np.where((given := cells.text("source_id")) == "", ids, given) if "source_id" in optional else ids,
        slices=slices, probes=probes, applied=applied, features=features,
        base_scores=cells.numbers("base_score") if "base_score" in optional else None,
        escalated=cells.numbers("escalated") > 0.5 if "escalated" in optional else None,
        embeddings_ND=_embeddings(cells, frame.columns),
        hashes=cells.text("hash") if "hash" in optional else None,
        notes=cells.text("note") if "note" in optional else None,
    )


def _best(labels: npt.NDArray[np.int64], scores: Floats) -> Floats:
    known = np.isfinite(scores)
    if not known.any():
        return np.zeros(len(labels))
    _, threshold = best_f1(labels[known], scores[known])
    return np.full(len(labels), threshold if np.isfinite(threshold) else float(scores[known].max()))


def _embeddings(cells: _Cells, columns: list[str]) -> Floats | None:
    names = sorted((name for name in columns if _EMBEDDING.fullmatch(name)), key=lambda name: int(name.split(".")[1]))
    return np.column_stack([cells.numbers(name, required=True) for name in names]) if names else None


class _Cells:
    """Columns of one file; every complaint names file, line and column."""

    def __init__(self, file: Path, frame: pl.DataFrame) -> None:
        self._file, self._frame = file, frame

    def check(self, column: str, right: npt.NDArray[np.bool_], expected: str) -> None:
        if not right.all():
            row = int(np.flatnonzero(~right)[0])
            line = row + (2 if self._file.suffix == ".csv" else 1)
            found = self._frame[column][row]
            raise ManifestError(f"{self._file}: line {line}: column {column}: expected {expected}, got {found!r}")

    def text(self, column: str, *, required: bool = False) -> Strings:
        values = np.asarray(["" if v is None else str(v) for v in self._frame[column].to_list()], dtype=np.str_)
        if required:
            self.check(column, values != "", "a value")
        return values

    def numbers(self, column: str, *, required: bool = False) -> Floats:
        values, right = np.full(len(self._frame), np.nan), np.ones(len(self._frame), dtype=np.bool_)
        for row, cell in enumerate(self._frame[column].to_list()):
            if cell is not None and cell != "":
                try:
                    values[row] = {"true": 1.0, "false": 0.0}.get(str(cell).lower(), cell)
                except ValueError:
                    right[row] = False
        self.check(column, right & ~np.isinf(values), "a finite number or nothing")
        if required:
            self.check(column, np.isfinite(values), "a number")
        return values


def table_of_outcomes(file: Path, manifest: Manifest, issue: str) -> ProbeTable:
    """Outcomes of a scan with the labels of a manifest, joined by file name's stem or video id."""
    rows = pl.read_parquet(file).to_dicts()
    by_id: dict[str, Entry] = {entry.video_id: entry for entry in manifest if issue in entry.labels}
    by_path = {str(entry.path): entry for entry in by_id.values()}
    found = [(row, entry) for row in rows if (entry := _entry_of(row, by_id, by_path)) is not None]
    if not found:
        raise ManifestError(f"{file}: expected videos that the manifest labels for {issue!r}, found none")
    numbers = {name: _numbers([row[name] for row, _ in found]) for name in ("score", "threshold")}
    known = numbers["threshold"][np.isfinite(numbers["threshold"])]
    usual = float(np.median(known)) if len(known) else 0.5
    notes = ["" if row["error"] is None else str(row["error"]) for row, _ in found]
    entries = [entry for _, entry in found]
    return ProbeTable(
        ids=_strings([entry.video_id for entry in entries]),
        labels=np.asarray([entry.labels[issue] for entry in entries], dtype=np.int64),
        scores=numbers["score"], thresholds=np.where(np.isfinite(numbers["threshold"]), numbers["threshold"], usual),
        sources=_strings([entry.source_id or entry.video_id for entry in entries]),
        slices=slices_of(entries), notes=_strings(notes),
        escalated=np.asarray([bool(row["escalated"]) for row, _ in found]),
    )


def _entry_of(row: Mapping[str, Any], by_id: Mapping[str, Entry], by_path: Mapping[str, Entry]) -> Entry | None:
    path = Path(str(row["path"]))
    return by_path.get(str(path.absolute())) or by_id.get(str(row["video_id"])) or by_id.get(path.stem)


def slices_of(entries: list[Entry]) -> dict[str, Strings]:
    """Metadata columns of manifest entries that hold anything."""
    columns = {"region": [e.region for e in entries], "language": [e.language for e in entries],
               "clause": [e.truth.get("clause") for e in entries]}
    arrays = {name: _strings(["" if v is None else str(v) for v in values]) for name, values in columns.items()}
    return {name: values for name, values in arrays.items() if (values != "").any()}


def _strings(values: list[str]) -> Strings:
    return np.asarray(values, dtype=np.str_)


def _numbers(values: list[Any]) -> Floats:
    return np.asarray([np.nan if v is None else float(v) for v in values], dtype=np.float64)


def write_scores(table: ProbeTable, file: Path) -> None:
    """Write a table so that ``read_scores`` reads it back; unknown numbers become empty cells."""
    columns: dict[str, Any] = {"id": table.ids, "label": table.labels, "score": table.scores,
                               "threshold": table.thresholds, "source_id": table.sources}
    for name, optional in (("base_score", table.base_scores), ("escalated", table.escalated), ("note", table.notes),
                           ("hash", table.hashes)):
        if optional is not None:
            columns[name] = optional
    columns |= {name if name in METADATA else f"slice.{name}": column for name, column in table.slices.items()}
    columns |= {f"probe.{name}": column for name, column in table.probes.items()}
    columns |= {f"applied.{name}": column for name, column in table.applied.items()}
    columns |= {f"feature.{name}": column for name, column in table.features.items()}
    if table.embeddings_ND is not None:
        columns |= {f"embedding.{k}": table.embeddings_ND[:, k] for k in range(table.embeddings_ND.shape[1])}
    frame = pl.DataFrame({name: column.tolist() for name, column in columns.items()}, strict=False).fill_nan(None)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    frame.write_parquet(part) if file.suffix == ".parquet" else frame.write_csv(part)
    part.replace(file)
