"""Audio alignment: an AVLM learns to write down what it hears, its own language model being the decoder.

Enters: an AVLM, trained or not. Leaves: the same model with its audio fused early, as a sequence of tokens, whose
projector (audio tower and language model by choice) has learnt to transcribe speech and to name sounds; and a curve
of error rates against *equivalent audio training time*: hours of audio heard, repetitions counted. This is the first
stage of a model's life (audio alignment, supervised fine-tuning, preference alignment); the checkpoint is where the
next one starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tidegate.errors import ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.batch import Batch
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import special_token_id
from tidegate.training.continuation import PADDING, continuation_logits, greedy, pad_continuations, summed_loss
from tidegate.training.engine import Engine, OneProcess, autocast, trained_state
from tidegate.training.examples import Table, ahead, step_rows
from tidegate.training.hearing_errors import hearing_errors
from tidegate.training.loop import TrainingDiverged
from tidegate.training.recipes import OptimiserConfig
from tidegate.training.resume import load_run, save_run
from tidegate.training.schedule import AveragedWeights, make_optimiser, rate_factor
from tidegate.training.speech import Heard, SpeechConfig

__all__ = ["AlignConfig", "AlignResult", "align", "fused_early", "written"]

_END = "</s>"


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """One alignment run."""

    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """What is heard."""
    hours: float = 4.0
    """Equivalent audio training time: hours of audio heard in all, repetitions counted."""
    marks_hours: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """When error rates are measured; before the first step they are, too."""
    audio_tokens: int = 32
    """Into how many tokens an item's audio is resampled."""
    max_tokens: int = 32
    """Longest text that is written, in tokens."""
    train_tower: bool = True
    """Whether the audio tower is trained."""
    train_language: bool = True
    """Whether the language model is trained; published ones know the languages and need not be."""
    language_hint: bool = True
    """Whether the prompt names the language that is spoken."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(batch_size=16, learning_rate=1e-3, warmup_fraction=0.05)
    )
    """Schedule; its number of epochs follows from ``hours``."""

    def __post_init__(self) -> None:
        if self.hours <= 0 or self.audio_tokens < 2 or self.max_tokens < 1:
            raise ConfigError(
                f"expected hours > 0, at least 2 audio tokens and 1 token of text, got {self.hours}, "
                f"{self.audio_tokens}, {self.max_tokens}"
            )


@dataclass(frozen=True, kw_only=True)
class AlignResult:
    """The curve: a record a mark, see ``hearing_errors``, with ``hours`` and the mean ``loss`` since the last."""

    curve: tuple[dict[str, Any], ...]


@dataclass(kw_only=True, eq=False)
class _Run:
    """State between steps; the names are those that the resume file keeps."""

    model: Avlm
    averaged: AveragedWeights
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best_value: tuple[float, float] = (0.0, 0.0)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0


class _Writing(nn.Module):
    """Share of the loss of writing down what is heard."""

    def __init__(self, model: Avlm) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, targets_BS: Tensor, total: Tensor) -> Tensor:
        """Mean over the tokens of the whole step."""
        return summed_loss(continuation_logits(self.model, batch, targets_BS), targets_BS) / total


def fused_early(model: Avlm, audio_tokens: int, seed: int = 0) -> Avlm:
    """The same parts with audio fused early as ``audio_tokens`` tokens, and the language model's head.

    A model that is so already is returned as it is. Else the audio projector and the verdict heads are new.
    """
    config = model.config
    if model.audio is None:
        raise ConfigError("expected an AVLM that listens, got one without an audio tower")
    if (config.fusion, config.audio_tokens, config.language_head) == ("early", audio_tokens, True):
        return model
    torch.manual_seed(seed)
    fresh = Avlm(replace(config, fusion="early", audio_tokens=audio_tokens, language_head=True))
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("head.") or fresh.width == model.width
    }
    fresh.load_state_dict(state, strict=False)
    return fresh


def _instruction(item: Heard, processor: ClipProcessor, hint: bool) -> npt.NDArray[np.int64]:
    """Token ids of the prompt: what to do, and perhaps in which language."""
    assert processor.tokenizer is not None
    language = f"[{item.language}]" if hint and item.language is not None else ""
    return np.asarray(processor.tokenizer.encode(f"{item.task}{language}:", add_special_tokens=False).ids)


def _targets(items: Sequence[Heard], processor: ClipProcessor, longest: int) -> list[list[int]]:
    tokenizer = processor.tokenizer
    assert tokenizer is not None
    end = special_token_id(tokenizer, _END)
    return [[*tokenizer.encode(item.text, add_special_tokens=False).ids[: longest - 1], end] for item in items]


def _prompts(table: Table, items: Sequence[Heard], rows: Sequence[int], processor: ClipProcessor, hint: bool) -> Batch:
    return processor.collate([replace(table[row], token_ids=_instruction(items[row], processor, hint)) for row in rows])


def written(
    model: Avlm,
    processor: ClipProcessor,
    table: Table,
    items: Sequence[Heard],
    config: AlignConfig,
    *,
    batch_size: int = 64,
    device: str = "cpu",
) -> list[str]:
    """What the model writes on hearing each item."""
    assert processor.tokenizer is not None
    model.eval()
    end, texts = special_token_id(processor.tokenizer, _END), []
    for start in range(0, len(items), batch_size):
        rows = range(start, min(start + batch_size, len(items)))
        batch = _prompts(table, items, rows, processor, config.language_hint).to(device)
        for row in greedy(model, batch, end_id=end, max_tokens=config.max_tokens):
            texts.append(processor.tokenizer.decode(row).strip())
    return texts


def _freeze(model: Avlm, config: AlignConfig) -> None:
    """The vision side and the verdict heads rest; projector, tower and language model as wished."""
    for name, parameter in model.named_parameters():
        wanted = name.startswith("audio_projector.")
        wanted |= config.train_tower and name.startswith("audio.")
        wanted |= config.train_language and name.startswith(("vision_language.language_model.", "language_head."))
        parameter.requires_grad_(parameter.requires_grad and wanted)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Session:
    processor: ClipProcessor
    items: Sequence[Heard]
    table: Table
    config: AlignConfig
    engine: Engine
    seed: int

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Audio of each item."""
        return np.asarray([self.table[row].num_mel_frames / 100 for row in range(len(self.table))])

    def steps(self) -> list[npt.NDArray[np.int64]]:
        """The items of every step until the hours are full."""
        seconds, size, wanted = self.seconds, self.config.optimiser.batch_size, 3600 * self.config.hours
        made: list[npt.NDArray[np.int64]] = []
        heard = 0.0
        while heard < wanted:
            for rows in step_rows(len(self.items), size, self.seed, len(made)):
                made.append(rows)
                heard += float(seconds[rows].sum())
                if heard >= wanted:
                    break
        return made

    def prepared(self, steps: Sequence[npt.NDArray[np.int64]]) -> Iterator[list[tuple[Batch, Tensor]]]:
        """This process's micro-batches of each step."""
        config, shard = self.config, self.engine.shard
        for chosen in steps:
            mine = shard.of(chosen)
            pieces = -(-len(mine) // (config.optimiser.micro_batch_size or len(mine)))
            yield [self._micro(part.tolist()) for part in np.array_split(mine, pieces)]

    def _micro(self, rows: list[int]) -> tuple[Batch, Tensor]:
        config = self.config
        targets = _targets([self.items[row] for row in rows], self.processor, config.max_tokens)
        batch = _prompts(self.table, self.items, rows, self.processor, config.language_hint)
        return batch, pad_continuations(targets)


def align(
    model: Avlm,
    processor: ClipProcessor,
    train: tuple[Sequence[Heard], Table],
    test: tuple[Sequence[Heard], Table],
    config: AlignConfig,
    *,
    seed: int = 0,
    resume: Path | None = None,
    engine: Engine | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_mark: Callable[[dict[str, Any]], None] | None = None,
) -> AlignResult:
    """Train ``model`` (see ``fused_early``) in place on items that are heard, measuring on others at each mark."""
    if model.audio_projector is None or not model.config.language_head:
        raise ConfigError("expected an AVLM with early fusion and a language head, see fused_early")
    engine = engine or OneProcess()
    _freeze(model, config)
    session = _Session(processor=processor, items=train[0], table=train[1], config=config, engine=engine, seed=seed)
    engine.prepare(_Writing(model), lambda module: make_optimiser(module, config.optimiser), config.optimiser)
    run = _Run(model=model, averaged=AveragedWeights(trained_state(model), 0.0))
    if resume is not None and resume.exists():
        load_run(run, engine, resume)
    steps = session.steps()
    hours = np.cumsum([session.seconds[rows].sum() for rows in steps]) / 3600
    marks = sorted({0, *(int(np.searchsorted(hours, mark)) + 1 for mark in config.marks_hours), len(steps)})

    def measure() -> None:
        texts = written(model, processor, test[1], test[0], config, device=engine.device)
        heard = float(hours[run.step - 1]) if run.step else 0.0
        loss = float(np.mean(run.losses)) if run.losses else math.nan
        run.history.append({"hours": heard, "loss": loss, **hearing_errors(test[0], texts)})
        run.losses = []
        run.averaged.update(trained_state(model))
        if resume is not None:
            save_run(run, engine, resume)
        if on_mark is not None and engine.shard.rank == 0:
            on_mark(run.history[-1])

    if not run.history:
        measure()
    for pieces in ahead(session.prepared(steps[run.step :])):
        run.losses.append(_step(run, session, pieces, len(steps)))
        if on_step is not None and engine.shard.rank == 0:
            on_step(run.step, len(steps), run.losses[-1])
        if run.step in marks:
            measure()
    model.requires_grad_(True).eval()
    return AlignResult(curve=tuple(run.history))


def _step(run: _Run, session: _Session, pieces: Sequence[tuple[Batch, Tensor]], total_steps: int) -> float:
    engine, config = session.engine, session.config.optimiser
    run.model.train()
    torch.manual_seed(session.seed * 1_000_003 + run.step)
    counted = torch.tensor(float(sum(int((targets != PADDING).sum()) for _, targets in pieces)), device=engine.device)
    total = engine.summed([counted])[0]

    def share(batch: Batch, targets: Tensor) -> Callable[[], Tensor]:
        def compute() -> Tensor:
            with autocast(engine.device, config.precision):
                return engine.loss(batch.to(engine.device), targets.to(engine.device), total)

        return compute

    factor = rate_factor(run.step, total_steps, config.warmup_fraction)
    mine = engine.step([share(*piece) for piece in pieces], lambda group: group["peak"] * factor)
    value = float(engine.summed([mine])[0])
    if not math.isfinite(value):
        raise TrainingDiverged(f"step {run.step}: expected a finite loss, got {value} in audio alignment")
    run.step += 1
    return value
