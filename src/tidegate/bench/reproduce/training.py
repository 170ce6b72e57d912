"""One trial: from the foundation's weights to scores of validation and test.

Enters: the stock, a trial, a seed. Leaves: ``TrialResult``, kept as one file, so that a trial that is done is not
repeated. Only labels are learnt from: the synthetic truth plays no part here. Every trial has a new last layer. The
large model is trained as in the paper, by LoRA on its language model over frozen towers; a base is trained whole but
for its vision and audio encoders.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tidegate.bench.reproduce.stock import Stock, StockFiles, load_trunk
from tidegate.bench.reproduce.trials import Trial
from tidegate.models.avlm import Avlm
from tidegate.models.build import Model, build_model
from tidegate.models.configs import AvlmConfig, ModelConfig, MultiTowerConfig
from tidegate.models.processor import ClipProcessor
from tidegate.training.frozen import FrozenProcessor, FrozenTable, fit_frozen, frozen_towers
from tidegate.training.loop import Examples, score_rows
from tidegate.training.lora import adapt
from tidegate.training.quick import given_tokens, quick
from tidegate.training.recipes import AdapterConfig, OptimiserConfig

__all__ = ["SCHEDULES", "TrialResult", "run_trial", "schedule_of"]

SCHEDULES = {
    "large": OptimiserConfig(epochs=2, learning_rate=2e-3, label_smoothing=0.0, patience=2, micro_batch_size=16),
    "base": OptimiserConfig(epochs=6, learning_rate=1e-3, label_smoothing=0.0, patience=6),
}
"""Fixed before the first run, the same for all trials of a stage. Micro-batches only spare padding."""
_DROPOUT = 0.05


def schedule_of(trial: Trial) -> OptimiserConfig:
    """The stage's schedule, at the trial's rate if it has one of its own."""
    usual = SCHEDULES[trial.stage]
    return usual if trial.rate is None else replace(usual, learning_rate=trial.rate)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialResult:
    """Scores of one trained model."""

    num_parameters: int
    """Of the whole model, frozen towers included."""
    num_trained: int
    seconds: float
    """Of training, towers not included."""
    test_labels: npt.NDArray[np.int64]
    test_scores: npt.NDArray[np.float64]
    test_sources: npt.NDArray[np.str_]
    validation_labels: npt.NDArray[np.int64]
    validation_scores: npt.NDArray[np.float64]
    video_ids: npt.NDArray[np.str_]
    """Of the test split."""

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.stem + ".part.npz")
        columns: dict[str, Any] = {name: np.asarray(value) for name, value in vars(self).items()}
        np.savez(fresh, **columns)
        os.replace(fresh, path)

    @classmethod
    def load(cls, path: Path) -> TrialResult:
        """What ``save`` wrote."""
        with np.load(path) as stored:
            values = {name: stored[name] for name in stored.files}
        for name, kind in (("num_parameters", int), ("num_trained", int), ("seconds", float)):
            values[name] = kind(values[name])
        return cls(**values)


def _config(trunk: ModelConfig, trial: Trial, files: StockFiles) -> ModelConfig:
    hears = "audio" in trial.modalities
    if isinstance(trunk, AvlmConfig):
        small = files.foundation.small_audio(files.issue).config.audio if trial.small_audio else None
        audio = (small or trunk.audio) if hears else None
        return replace(trunk, issue=files.issue, audio=audio, fusion=trial.fusion if hears else "none")
    assert isinstance(trunk, MultiTowerConfig)
    lost = {name: None for name in ("vision", "audio", "text") if name not in trial.modalities}
    return replace(trunk, issue=files.issue, **lost)  # type: ignore[arg-type]


def _model(trunk: Model, trial: Trial, files: StockFiles, seed: int) -> Model:
    """The trial's variant of the trunk: its weights where names and shapes fit, a new last layer."""
    torch.manual_seed(seed)
    model = build_model(_config(trunk.config, trial, files))
    own, given = model.state_dict(), trunk.state_dict()
    fitting = {
        name: tensor
        for name, tensor in given.items()
        if not name.startswith("head.") and name in own and own[name].shape == tensor.shape
    }
    model.load_state_dict(fitting, strict=False)
    if isinstance(model, Avlm):
        adapt(model, AdapterConfig(rank=trial.rank, alpha=trial.alpha))
    else:
        _freeze_encoders(model)
    return model


def _freeze_encoders(model: Model) -> None:
    """Of the vision and audio encoders only SigLIP's last norm and pooling are trained: they come after the patches."""
    for name, parameter in model.named_parameters():
        inside = name.startswith(("towers.vision.encoder.", "towers.audio.encoder."))
        pools = name.startswith(("towers.vision.encoder.head.", "towers.vision.encoder.post_layernorm."))
        parameter.requires_grad_(not inside or pools)


def _without(table: FrozenTable, trial: Trial) -> FrozenTable:
    """The table without what the trial does not look at."""
    nothing = np.zeros(0, dtype=np.int64)
    return replace(
        table,
        patches_NTPD=table.patches_NTPD if "vision" in trial.modalities else None,
        audio_ND=table.audio_ND if "audio" in trial.modalities else None,
        token_ids=table.token_ids if "text" in trial.modalities else [nothing] * len(table),
    )


def _processor(processor: ClipProcessor, trial: Trial, stage_is_large: bool) -> ClipProcessor:
    """An AVLM always reads its prompt, of which the texts are a part; a base without text reads none."""
    kept = tuple(n for n in ("vision", "audio", "text") if n in trial.modalities or (n == "text" and stage_is_large))
    return ClipProcessor(replace(processor.config, modalities=kept), processor.tokenizer)  # type: ignore[arg-type]


def run_trial(files: StockFiles, trial: Trial, seed: int) -> TrialResult:
    """Train and score."""
    stock = Stock.open(files, trial.stage, small_audio=trial.small_audio)
    trunk, processor = load_trunk(files, trial.stage)
    processor = _processor(processor, trial, isinstance(trunk, Avlm))
    model = _model(trunk, trial, files, seed)
    parts = {
        name: replace(part, table=_without(part.table, trial))  # type: ignore[arg-type]
        for name, part in {
            "train": stock.examples("train", share=trial.share),
            "validation": stock.examples("validation"),
            "test": stock.examples("test"),
        }.items()
    }
    started = time.perf_counter()
    with _short(model):
        fit_frozen(
            model,
            processor,
            parts["train"],
            parts["validation"],
            schedule_of(trial),
            dropout=_DROPOUT,
            seed=seed,
        )
        seconds = time.perf_counter() - started
        return _scored(model, processor, parts, stock, seconds)


@contextmanager
def _short(model: Model) -> Iterator[None]:
    """The large model's forward pass without what its verdict does not need, over what its projector made."""
    if not isinstance(model, Avlm):
        yield
        return
    with quick(model), given_tokens(model):
        yield


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _scored(
    model: Model, processor: ClipProcessor, parts: dict[str, Examples], stock: Stock, seconds: float
) -> TrialResult:
    test, validation = parts["test"], parts["validation"]
    given = FrozenProcessor(processor.config, processor.tokenizer)
    with frozen_towers(model):
        scores = [score_rows(model, given, part.table, part.rows.tolist()) for part in (test, validation)]
    return TrialResult(
        num_parameters=_count([p for name, p in model.named_parameters() if ".lora_" not in name]),
        num_trained=_count([p for p in model.parameters() if p.requires_grad]),
        seconds=seconds,
        test_labels=test.labels,
        test_scores=scores[0],
        test_sources=stock.sources[test.rows],
        validation_labels=validation.labels,
        validation_scores=scores[1],
        video_ids=np.asarray([test.table.video_ids[int(row)] for row in test.rows]),
    )
