"""The training loop: one process, any model of ``tidegate.models``.

Enters: a model, its processor, cached features, labels. Leaves: the weights of the best epoch by validation average
precision, and a history. Every step is seeded by (seed, epoch), so a resumed run takes the same steps. A loss that
is not finite stops the run with the step and the video ids (``TrainingDiverged``).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tidegate.errors import ModelError
from tidegate.evaluation import average_precision, roc_auc
from tidegate.models.build import Model
from tidegate.models.processor import ClipProcessor
from tidegate.models.scoring import score_features
from tidegate.training.losses import AuxiliaryHeads, class_weights, verdict_loss
from tidegate.training.recipes import OptimiserConfig
from tidegate.training.schedule import AveragedWeights, make_optimiser, rate_factor

__all__ = ["Change", "Examples", "FitResult", "Table", "TrainingDiverged", "fit", "score_rows"]


Change = Callable[[Any, np.random.Generator], Any]
"""Augmentation: an item of a table and a generator in, the changed item out."""


class TrainingDiverged(ModelError):
    """The loss became NaN or infinite; names the step and the videos of its batch."""


class Table(Protocol):
    """Clips after preprocessing, by row: a ``FeatureTable`` or a ``FrozenTable``."""

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Ids by row."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Rows of a table with their targets."""

    table: Table
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    auxiliary: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """Task to class of each item; ``losses.IGNORED`` where it has none."""

    def __len__(self) -> int:
        return len(self.rows)


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
    weights_K: Tensor
    on_step: Callable[[int, int, float], None] | None

    @property
    def total_steps(self) -> int:
        return max(1, len(self.train) // self.config.batch_size) * self.config.epochs


@dataclass(kw_only=True, eq=False)
class _Run:
    """State of a run between epochs; all of it is in the resume file."""

    model: Model
    heads: AuxiliaryHeads
    optimiser: torch.optim.AdamW
    averaged: AveragedWeights
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_value: float = -math.inf
    best_state: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0


def score_rows(
    model: Model, processor: ClipProcessor, table: Table, rows: Sequence[int], *, batch_size: int = 64
) -> npt.NDArray[np.float64]:
    """Scores of cached clips, in the order of ``rows``."""
    model.eval()
    parts = [
        score_features(model, processor, [table[int(row)] for row in rows[start : start + batch_size]])
        for start in range(0, len(rows), batch_size)
    ]
    return np.asarray([value for part in parts for value in part], dtype=np.float64)


def _batches(examples: Examples, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    order = rng.permutation(len(examples))
    for start in range(0, len(order) - len(order) % size or len(order), size):
        yield order[start : start + size]


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
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> FitResult:
    """Train ``model`` in place; it ends with the weights of its best epoch.

    ``keep_initial``: the weights it came with count as an epoch (-1), so that training cannot end with worse ones.
    """
    started = time.perf_counter()
    run = _start(model, train, config, seed, resume)
    session = _Session(
        processor=processor,
        train=train,
        validation=validation,
        config=config,
        change=change,
        weights_K=class_weights(train.labels, config.positive_weight),
        on_step=on_step,
    )
    if keep_initial and not run.history:
        _validate(run, session, -1, math.nan)
    while len(run.history) < config.epochs and len(run.history) - 1 - run.best_epoch < config.patience:
        record = _epoch(run, session, seed)
        record["seconds"] = time.perf_counter() - started
        if log is not None:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
        if resume is not None:
            _save_run(run, resume)
        if on_epoch is not None:
            on_epoch(record)
    model.load_state_dict(run.best_state)
    model.eval()
    return FitResult(history=tuple(run.history), best_epoch=run.best_epoch, seconds=time.perf_counter() - started)


def _epoch(run: _Run, session: _Session, seed: int) -> dict[str, float]:
    epoch = len(run.history)
    rng = np.random.default_rng([seed, epoch])
    torch.manual_seed(seed * 1000 + epoch)
    batches = _batches(session.train, session.config.batch_size, rng)
    losses = [_step(run, session, chosen, rng) for chosen in batches]
    record = _validate(run, session, epoch, float(np.mean(losses)))
    run.history.append(record)
    return record


def _start(model: Model, train: Examples, config: OptimiserConfig, seed: int, resume: Path | None) -> _Run:
    torch.manual_seed(seed)
    classes = {name: int(targets.max()) + 1 for name, targets in train.auxiliary.items()}
    heads = AuxiliaryHeads(model.width, classes)
    run = _Run(
        model=model,
        heads=heads,
        optimiser=make_optimiser(model, heads, config),
        averaged=AveragedWeights(model, config.ema_decay),
    )
    if resume is not None and resume.exists():
        _load_run(run, resume)
    return run


def _step(run: _Run, session: _Session, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> float:
    train, config = session.train, session.config
    items = [train.table[int(row)] for row in train.rows[chosen]]
    if session.change is not None:
        items = [session.change(item, rng) for item in items]
    run.model.train()
    embedding_BD = run.model.embed(session.processor.collate(items))
    labels_B = torch.from_numpy(train.labels[chosen])
    loss = verdict_loss(run.model.head(embedding_BD), labels_B, session.weights_K, config.label_smoothing)
    if train.auxiliary:
        targets = {name: torch.from_numpy(classes[chosen]) for name, classes in train.auxiliary.items()}
        loss = loss + config.auxiliary_weight * run.heads(embedding_BD, targets)
    value = float(loss.detach())
    if not math.isfinite(value):
        videos = [train.table.video_ids[int(row)] for row in train.rows[chosen]]
        raise TrainingDiverged(f"step {run.step}: expected a finite loss, got {value} on the videos {videos}")
    _update(run, loss, config, session.total_steps)
    if session.on_step is not None:
        session.on_step(run.step, session.total_steps, value)
    return value


def _update(run: _Run, loss: Tensor, config: OptimiserConfig, total_steps: int) -> None:
    factor = rate_factor(run.step, total_steps, config.warmup_fraction)
    for group in run.optimiser.param_groups:
        group["lr"] = group["peak"] * factor
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([*run.model.parameters(), *run.heads.parameters()], config.clip_norm)
    run.optimiser.step()
    run.averaged.update(run.model)
    run.step += 1


def _validate(run: _Run, session: _Session, epoch: int, loss: float) -> dict[str, float]:
    validation = session.validation
    current = {name: tensor.detach().clone() for name, tensor in run.model.state_dict().items()}
    run.model.load_state_dict(run.averaged.state)
    scores = score_rows(run.model, session.processor, validation.table, validation.rows.tolist())
    record = {
        "epoch": float(epoch),
        "loss": loss,
        "validation_ap": average_precision(validation.labels, scores),
        "validation_auc": roc_auc(validation.labels, scores),
    }
    if record["validation_ap"] > run.best_value:
        run.best_epoch, run.best_value = epoch, record["validation_ap"]
        run.best_state = {name: tensor.clone() for name, tensor in run.averaged.state.items()}
    run.model.load_state_dict(current)
    return record


def _save_run(run: _Run, path: Path) -> None:
    state: dict[str, Any] = {
        "model": run.model.state_dict(),
        "heads": run.heads.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "averaged": run.averaged.state,
        "averaged_step": run.averaged.step,
        "best_state": run.best_state,
        "progress": {
            "history": run.history,
            "best_epoch": run.best_epoch,
            "best_value": run.best_value,
            "step": run.step,
        },
    }
    fresh = path.with_name(path.name + ".part")
    torch.save(state, fresh)
    os.replace(fresh, path)


def _load_run(run: _Run, path: Path) -> None:
    state = torch.load(path, weights_only=True)
    run.model.load_state_dict(state["model"])
    run.heads.load_state_dict(state["heads"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.averaged.state, run.averaged.step = state["averaged"], state["averaged_step"]
    run.best_state, progress = state["best_state"], state["progress"]
    run.history, run.step = progress["history"], progress["step"]
    run.best_epoch, run.best_value = progress["best_epoch"], progress["best_value"]
