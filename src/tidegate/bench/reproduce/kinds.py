"""Which kinds of evidence a model sees: AUC of the violating videos of one kind against all harmless ones.

Enters: a manifest of the synthetic corpus, and scores of its test split: of checkpoints, or of trials that are done.
Leaves: one line a kind, one column a model. This is what explains an ordering: a model that lacks a modality fails on
the kinds that lie in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tidegate.bench.reproduce.run import ReproduceConfig, results_done, stock_files
from tidegate.bench.reproduce.trials import ROWS, Trial
from tidegate.corpus import read_manifest
from tidegate.errors import ManifestError
from tidegate.evaluation import markdown_table, roc_auc
from tidegate.training.evaluate import entries_of, score_manifest

__all__ = ["kind_aucs", "kinds_of_checkpoints", "kinds_of_trials", "kinds_table"]

Column = dict[str, tuple[int, float]]


def kind_aucs(kinds: Sequence[str | None], labels: npt.NDArray[np.int64], scores_SN: npt.NDArray[np.float64]) -> Column:
    """Kind to (number of positives, mean AUC over seeds)."""
    found: Column = {}
    for kind in sorted({kind for kind in kinds if kind is not None}):
        mine = np.asarray([name == kind for name in kinds])
        rows = np.flatnonzero(mine | (labels == 0))
        found[kind] = int(mine.sum()), float(np.mean([roc_auc(labels[rows], scores[rows]) for scores in scores_SN]))
    return found


def _kind_of(data: Path) -> dict[str, str | None]:
    entries = entries_of(read_manifest(data), "test", "icd")
    if not any(entry.truth.get("kind") for entry in entries):
        raise ManifestError(f"{data}: expected the synthetic truth of the icd corpus, found none")
    return {entry.video_id: entry.truth.get("kind") for entry in entries}


def kinds_of_checkpoints(data: Path, folders: Mapping[str, Path], cache: Path) -> dict[str, Column]:
    """Of checkpoint folders, by name."""
    kind_of, entries = _kind_of(data), entries_of(read_manifest(data), "test", "icd")
    columns = {}
    for name, folder in folders.items():
        split = score_manifest(entries, folder, cache)
        columns[name] = kind_aucs([kind_of[video] for video in split.video_ids], split.labels, split.scores[None])
    return columns


def kinds_of_trials(config: ReproduceConfig) -> dict[str, Column]:
    """Of the trials of tables 1, 3 and 6 that are done, all their seeds together."""
    kind_of, files = _kind_of(config.data), stock_files(config)
    names = {row: name for number in (6, 3, 1) for (_, name), row in ROWS[number].items() if isinstance(row, Trial)}
    columns = {}
    for trial, name in names.items():
        results = results_done(files, trial, config.seeds)
        if results:
            kinds = [kind_of[video] for video in results[0].video_ids.tolist()]
            scores_SN = np.stack([one.test_scores for one in results])
            columns[f"{name}, {'+'.join(trial.modalities)}"] = kind_aucs(kinds, results[0].test_labels, scores_SN)
    return columns


def kinds_table(columns: Mapping[str, Column]) -> str:
    """As Markdown."""
    first = next(iter(columns.values()))
    rows: list[dict[str, object]] = []
    for kind, (count, _) in first.items():
        row: dict[str, object] = {"evidence": kind.replace("_", " "), "n": count}
        rows.append({**row, **{name: f"{column[kind][1]:.2f}" for name, column in columns.items()}})
    return markdown_table(rows)
