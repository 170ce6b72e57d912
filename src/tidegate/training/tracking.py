"""Training curves, for TensorBoard or MLflow by choice.

Enters: what a run reports. Leaves: event files (TensorBoard), or metrics of one run in a tracking store (MLflow: a
folder, or a server's address). Neither is imported unless it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from tidegate.errors import ConfigError, DependencyMissing
from tidegate.training.stage import Progress

__all__ = ["Tracks", "tracked"]


class Tracks(Protocol):
    """Takes metrics."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Metrics by name, of one step or epoch."""
        ...


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


class _Mlflow:
    def __init__(self, mlflow: Any) -> None:
        self._mlflow = mlflow

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)


@contextmanager
def _tensorboard(where: str, settings: Mapping[str, Any]) -> Iterator[Tracks]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyMissing("training curves for TensorBoard: pip install 'tidegate[train]'") from error
    writer: Any = SummaryWriter(where)  # type: ignore[no-untyped-call]
    try:
        writer.add_text("settings", "\n".join(f"- {name}: `{value}`" for name, value in settings.items()))
        yield _TensorBoard(writer)
    finally:
        writer.close()


@contextmanager
def _mlflow(where: str, settings: Mapping[str, Any]) -> Iterator[Tracks]:
    try:
        import mlflow
    except ImportError as error:
        raise DependencyMissing("training curves for MLflow: pip install 'tidegate[mlflow]'") from error
    if "://" not in where:  # a folder: MLflow keeps that store as it is, and wants to be told that we know
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(where)
    mlflow.set_experiment("tidegate")
    with mlflow.start_run():
        mlflow.log_params({name: str(value)[:250] for name, value in settings.items()})
        yield _Mlflow(mlflow)


_TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow}


@contextmanager
def tracked(progress: Progress, kind: str | None, where: str, settings: Mapping[str, Any]) -> Iterator[Progress]:
    """``progress`` that also reports to a tracker: ``train/loss`` by step, the epoch's figures by epoch.

    ``where``: TensorBoard's folder; MLflow's address, a folder or such as ``http://host:5000``.
    ``settings``: kept with the run. None as ``kind`` changes nothing.
    """
    if kind is None:
        yield progress
        return
    if kind not in _TRACKERS:
        raise ConfigError(f"expected a tracker among {sorted(_TRACKERS)}, got {kind!r}")
    with _TRACKERS[kind](where, settings) as tracks:

        def on_step(step: int, total: int, loss: float) -> None:
            tracks.log({"train/loss": loss}, step)
            if progress.on_step is not None:
                progress.on_step(step, total, loss)

        def on_epoch(record: dict[str, float]) -> None:
            figures = {f"epoch/{name}": value for name, value in record.items() if name != "epoch"}
            tracks.log(figures, int(record["epoch"]))
            if progress.on_epoch is not None:
                progress.on_epoch(record)

        yield replace(progress, on_step=on_step, on_epoch=on_epoch)
