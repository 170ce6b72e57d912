"""The training loop: any model of ``tidegate.models``, on one process or several.

Enters: a model, its processor, clips by row, labels. Leaves: the weights of the best epoch on validation, and a
history. Every step is seeded by (seed, epoch, step), so a resumed run takes the same steps. A loss that is not finite
stops the run with the step and the video ids (``TrainingDiverged``), before it has changed a weight.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tidegate.errors import ModelError
from tidegate.evaluation import average_precision, confusion_at, roc_auc, threshold_at_precision
from tidegate.models.build import Model
from tidegate.models.processor import ClipProcessor
from tidegate.models.scoring import issue_probabilities
from tidegate.training.engine import Engine, OneProcess, autocast, trained_state
from tidegate.training.examples import Change, Examples, MicroBatch, Table, ahead, by_length, prepared_steps, step_rows
from tidegate.training.losses import MISSING_LABEL, AuxiliaryHeads, class_weights
from tidegate.training.objective import Objective
from tidegate.training.recipes import OptimiserConfig
from tidegate.training.resume import load_run, save_run
from tidegate.training.schedule import AveragedWeights, make_optimiser, rate_factor

__all__ = ["Change", "Examples", "FitResult", "Table", "TrainingDiverged", "fit", "score_rows", "validation_figures"]


class TrainingDiverged(ModelError):
    """The loss became NaN or infinite; names the step and the videos of its batch."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run came to."""

    history: tuple[dict[str, float], ...]
    best_epoch: int
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Session:
    """What stays the same during a run."""

    processor: ClipProcessor
    train: Examples
    validation: Examples
    config: OptimiserConfig
    change: Change | None
    seed: int
    engine: Engine
    resume: Path | None
    on_step: Callable[[int, int, float], None] | None

    @property
    def total_steps(self) -> int:
        return max(1, len(self.train) // self.config.batch_size) * self.config.epochs

    @property
    def pieces(self) -> int:
        """Micro-batches of a step in this process."""
        mine = -(-min(self.config.batch_size, len(self.train)) // self.engine.shard.world_size)
        return -(-mine // (self.config.micro_batch_size or mine))


@dataclass(kw_only=True, eq=False)
class _Run:
    """State of a run; all of it is in the resume file."""

    model: Model
    objective: Objective
    averaged: AveragedWeights
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Of the steps of the epoch that has begun."""
    best_epoch: int = -1
    best_value: tuple[float, float] = (-math.inf, -math.inf)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0


def score_rows(
    model: Model,
    processor: ClipProcessor,
    table: Table,
    rows: Sequence[int],
    *,
    batch_size: int = 64,
    device: str = "cpu",
) -> npt.NDArray[np.float64]:
    """Scores of cached clips, in the order of ``rows``: ``(N,)``, or ``(N, I)`` of a model of several issues."""
    model.eval()
    order = by_length(table, np.asarray(rows, dtype=np.int64))
    parts = [
        issue_probabilities(
            model, processor, [table[int(rows[at])] for at in order[start : start + batch_size]], device=device
        )
        for start in range(0, len(rows), batch_size)
    ]
    scored = np.asarray([row for part in parts for row in part], dtype=np.float64)
    scores_NI = np.empty_like(scored)
    scores_NI[order] = scored
    return scores_NI[:, 0] if scores_NI.shape[1:] == (1,) else scores_NI


def validation_figures(
    labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], precision: float
) -> dict[str, float]:
    """Average precision, AUC and recall at precision; of several issues the mean over those with both labels."""
    labels_NI, scores_NI = labels.reshape(len(labels), -1), scores.reshape(len(scores), -1)
    rows = []
    for mine, given in zip(labels_NI.T, scores_NI.T, strict=True):
        known = mine != MISSING_LABEL
        if len(set(mine[known].tolist())) == 2:
            tau = threshold_at_precision(mine[known], given[known], precision)
            recall = confusion_at(mine[known], given[known], tau).recall
            rows.append((average_precision(mine[known], given[known]), roc_auc(mine[known], given[known]), recall))
    means = np.mean(rows, axis=0) if rows else (math.nan, math.nan, math.nan)
    names = ("validation_ap", "validation_auc", f"validation_recall_at_p{round(100 * precision)}")
    return {name: float(value) for name, value in zip(names, means, strict=True)}


def fit(
    model: Model,
    processor: ClipProcessor,
    train: Examples,
    validation: Examples,
    config: OptimiserConfig,
    *,
    change: Change | None = None,
    seed: int = 0,
    keep_initial: bool = False,
    log: Path | None = None,
    resume: Path | None = None,
    engine: Engine | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> FitResult:
    """Train what of ``model`` requires a gradient, in place; it ends with the weights of its best epoch.

    ``keep_initial``: the weights it came with count as an epoch (-1), so that training cannot end with worse ones.
    ``resume``: a file that the run's state is saved to, and gone on from if it is there. ``engine``: one process on the
    processor unless told otherwise.
    """
    started = time.perf_counter()
    engine = engine or OneProcess()
    run = _start(model, train, config, seed, engine)
    first = engine.shard.rank == 0
    session = _Session(
        processor=processor,
        train=train,
        validation=validation,
        config=config,
        change=change,
        seed=seed,
        engine=engine,
        resume=resume,
        on_step=on_step if first else None,
    )
    if resume is not None and resume.exists():
        load_run(run, engine, resume)
    if keep_initial and not run.history and not run.step:
        _validate(run, session, -1, math.nan)
    while len(run.history) < config.epochs and len(run.history) - 1 - run.best_epoch < config.patience:
        record = _epoch(run, session)
        record["seconds"] = time.perf_counter() - started
        if log is not None and first:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
        if resume is not None:
            save_run(run, engine, resume)
        if on_epoch is not None and first:
            on_epoch(record)
    model.load_state_dict(run.best_state, strict=False)
    model.eval()
    return FitResult(history=tuple(run.history), best_epoch=run.best_epoch, seconds=time.perf_counter() - started)


def _start(model: Model, train: Examples, config: OptimiserConfig, seed: int, engine: Engine) -> _Run:
    torch.manual_seed(seed)
    classes = {name: int(targets.max()) + 1 for name, targets in train.auxiliary.items()}
    heads = AuxiliaryHeads(model.width, classes)
    weights_IK = torch.stack([class_weights(column, config.positive_weight) for column in train.labels_by_issue.T])
    objective = Objective(model, heads, weights_IK, config)
    engine.prepare(objective, lambda module: make_optimiser(module, config), config)
    return _Run(model=model, objective=objective, averaged=AveragedWeights(trained_state(model), config.ema_decay))


def _epoch(run: _Run, session: _Session) -> dict[str, float]:
    epoch, config = len(run.history), session.config
    steps = step_rows(len(session.train), config.batch_size, session.seed, epoch)
    made = prepared_steps(
        session.train,
        session.processor,
        steps[len(run.losses) :],
        pieces=session.pieces,
        shard=session.engine.shard,
        change=session.change,
        key=(session.seed, epoch),
    )
    prepared = ahead(made)
    try:
        for pieces in prepared:
            torch.manual_seed((session.seed * 1000 + epoch) * 1_000_003 + len(run.losses))
            run.losses.append(_step(run, session, pieces))
            if session.resume is not None and config.save_every_steps and run.step % config.save_every_steps == 0:
                save_run(run, session.engine, session.resume)
    finally:
        prepared.close()  # type: ignore[attr-defined]
    record = _validate(run, session, epoch, float(np.nanmean(run.losses)))
    run.history.append(record)
    run.losses = []
    return record


def _step(run: _Run, session: _Session, pieces: list[MicroBatch]) -> float:
    engine, config = session.engine, session.config
    if not pieces and engine.shard.world_size == 1:  # none of its videos decodes: there is nothing to learn from
        run.step += 1
        return math.nan
    run.objective.train()
    targets = [piece.targets.to(engine.device) for piece in pieces]
    counted = [run.objective.totals(one) for one in targets]
    totals = engine.summed([torch.stack(column).sum(dim=0) for column in zip(*counted, strict=True)])
    values: list[float] = []

    def share(piece: MicroBatch, target: Any) -> Tensor:
        with autocast(engine.device, config.precision):
            loss = engine.loss(piece.batch.to(engine.device), target, totals)
        values.append(float(loss.detach()))
        return loss

    factor = rate_factor(run.step, session.total_steps, config.warmup_fraction)
    shares = [partial(share, piece, target) for piece, target in zip(pieces, targets, strict=True)]
    mine = engine.step(shares, lambda group: group["peak"] * factor)
    value = float(engine.summed([mine])[0])
    if not math.isfinite(value):
        _diverged(run.step, value, pieces, values)
    run.averaged.update(trained_state(run.model))
    run.step += 1
    if session.on_step is not None:
        session.on_step(run.step, session.total_steps, value)
    return value


def _diverged(step: int, value: float, pieces: list[MicroBatch], values: list[float]) -> None:
    bad = [piece for piece, loss in zip(pieces, values, strict=True) if not math.isfinite(loss)]
    videos = [video_id for piece in bad for video_id in piece.video_ids]
    where = f"on the videos {videos}" if videos else "on the videos of another process"
    raise TrainingDiverged(f"step {step}: expected a finite loss, got {value} {where}")


def _scores(run: _Run, session: _Session) -> npt.NDArray[np.float64]:
    """Of all validation clips; each process scores its share, all as many times, as sharded models need."""
    shard, validation = session.engine.shard, session.validation
    mine = shard.of(np.arange(len(validation)))
    each = -(-len(validation) // shard.world_size)
    padded = np.concatenate([mine, np.zeros(each - len(mine), dtype=np.int64)])
    rows = validation.rows[padded].tolist()
    with session.engine.scoring():
        scores = score_rows(run.model, session.processor, validation.table, rows, device=session.engine.device)
    parts = session.engine.gathered((mine, scores[: len(mine)]))
    out = np.zeros((len(validation), *scores.shape[1:]))
    for places, values in parts:
        out[places] = values
    return out


def _validate(run: _Run, session: _Session, epoch: int, loss: float) -> dict[str, float]:
    config, current = session.config, {name: tensor.clone() for name, tensor in trained_state(run.model).items()}
    run.model.load_state_dict(run.averaged.state, strict=False)
    figures = validation_figures(session.validation.labels, _scores(run, session), config.select_precision)
    record = {"epoch": float(epoch), "loss": loss, **figures}
    precision, recall = figures["validation_ap"], list(figures.values())[-1]
    pair = (precision, recall) if config.select_on == "average_precision" else (recall, precision)
    value = (_or_least(pair[0]), _or_least(pair[1]))
    if value > run.best_value or not run.best_state:
        run.best_epoch, run.best_value = epoch, value
        run.best_state = {name: tensor.clone() for name, tensor in run.averaged.state.items()}
    run.model.load_state_dict(current, strict=False)
    return record


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value
