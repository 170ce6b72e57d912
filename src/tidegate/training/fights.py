"""The base stage on real surveillance clips: ``python -m tidegate.training.fights --data FOLDER --init CHECKPOINT``.

Enters: the folder of fight clips (``load_fights``) and a base checkpoint to start from. Leaves: the AUC of
out-of-fold scores with its interval. Folds are disjoint by source, clips of unlisted sources are only trained on,
the epoch is chosen on sources held out of the training folds, and the interval resamples whole sources. Nothing is
chosen on the fold that is scored.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tidegate.corpus.loaders import load_fights
from tidegate.corpus.manifest import Entry
from tidegate.corpus.splits import UNLISTED
from tidegate.errors import CheckpointError
from tidegate.evaluation import Interval, average_precision, bootstrap_interval, roc_auc
from tidegate.models.checkpoint import load_checkpoint
from tidegate.models.heads import IssueHeads
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.training.augment import AugmentConfig, augment
from tidegate.training.features import FeatureTable, load_features
from tidegate.training.loop import Examples, fit, score_rows
from tidegate.training.recipes import OptimiserConfig

__all__ = ["FightsReport", "cross_validate", "folds_of", "main"]

_ISSUE = "violence"
_FINE_TUNING = OptimiserConfig(epochs=8, batch_size=16, learning_rate=5e-4, positive_weight=None, patience=8)
_AUGMENT = AugmentConfig(modality_dropout=0.1)


@dataclass(frozen=True, kw_only=True)
class FightsReport:
    """Out-of-fold figures of all clips with a known source."""

    n: int
    n_positives: int
    num_sources: int
    auc: Interval
    average_precision: Interval
    fold_auc: tuple[float, ...]


def folds_of(sources: Sequence[str], count: int, seed: int) -> dict[str, int]:
    """Source → fold; unlisted sources are in none. Larger sources are dealt first, to the smallest fold."""
    names, sizes = np.unique([name for name in sources if name != UNLISTED], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fold_sizes = np.zeros(count, dtype=np.int64)
    fold: dict[str, int] = {}
    for place in sorted(order, key=lambda index: -sizes[index]):
        smallest = int(np.argmin(fold_sizes))
        fold[str(names[place])] = smallest
        fold_sizes[smallest] += sizes[place]
    return fold


def _fold_scores(
    init: Path, processor: ClipProcessor, table: FeatureTable, entries: Sequence[Entry], *, seed: int, held: set[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Rows of the held-out sources, and their scores by a model that never saw them."""
    model, _, _ = load_checkpoint(init)
    assert isinstance(model, MultiTower)
    torch.manual_seed(seed)
    model.head = IssueHeads(model.width, 1)
    labels = np.asarray([entry.labels[_ISSUE] for entry in entries], dtype=np.int64)
    sources = np.asarray([entry.source_id for entry in entries])
    rest = sorted(set(sources) - held - {UNLISTED})
    chosen = np.random.default_rng(seed).permutation(rest)[: max(1, len(rest) // 5)]
    test, validation = np.isin(sources, sorted(held)), np.isin(sources, chosen)

    def part(mask: npt.NDArray[np.bool_]) -> Examples:
        return Examples(table=table, rows=np.flatnonzero(mask), labels=labels[mask])

    fit(
        model,
        processor,
        part(~test & ~validation),
        part(validation),
        _FINE_TUNING,
        change=lambda item, rng: augment(item, _AUGMENT, rng),
        seed=seed,
    )
    rows = np.flatnonzero(test)
    return rows, score_rows(model, processor, table, rows.tolist())


def cross_validate(
    folder: Path,
    init: Path,
    cache: Path,
    *,
    num_folds: int = 5,
    seed: int = 0,
    on_fold: Callable[[int, float], None] | None = None,
) -> FightsReport:
    """Fine-tune the checkpoint ``init`` on all folds but one, for each fold, and score that one."""
    model, trained_with, _ = load_checkpoint(init)
    if not isinstance(model, MultiTower):
        raise CheckpointError(f"expected a MultiTower in {init}, found {type(model).__name__}")
    processor = ClipProcessor(replace(trained_with.config, exact_frames=True), trained_with.tokenizer)
    entry_of = {entry.video_id: entry for entry in load_fights(folder)}
    table = load_features(list(entry_of.values()), processor, cache)
    entries = [entry_of[video_id] for video_id in table.video_ids]
    fold = folds_of([str(entry.source_id) for entry in entries], num_folds, seed)
    scores, fold_auc = np.full(len(entries), np.nan), []
    labels = np.asarray([entry.labels[_ISSUE] for entry in entries])
    for number in range(num_folds):
        held = {source for source, place in fold.items() if place == number}
        rows, values = _fold_scores(init, processor, table, entries, seed=seed + number, held=held)
        scores[rows] = values
        fold_auc.append(roc_auc(labels[rows], values))
        if on_fold is not None:
            on_fold(number, fold_auc[-1])
    listed = np.flatnonzero(~np.isnan(scores))
    sources = [str(entries[int(row)].source_id) for row in listed]
    arrays = (labels[listed], scores[listed])
    return FightsReport(
        n=len(listed),
        n_positives=int(labels[listed].sum()),
        num_sources=len(set(sources)),
        auc=bootstrap_interval(roc_auc, *arrays, clusters=sources, seed=seed),
        average_precision=bootstrap_interval(average_precision, *arrays, clusters=sources, seed=seed),
        fold_auc=tuple(fold_auc),
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the clips, with manifest.csv")
    parser.add_argument("--init", type=Path, required=True, help="base checkpoint to start from")
    parser.add_argument("--cache", type=Path, required=True, help="feature cache")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="processor threads of torch")
    chosen = parser.parse_args(arguments)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    report = cross_validate(chosen.data, chosen.init, chosen.cache, seed=chosen.seed)
    print(json.dumps({**vars(report), "auc": vars(report.auc), "average_precision": vars(report.average_precision)}))  # noqa: T201


if __name__ == "__main__":
    main()
