"""``train_stage``: a manifest and a recipe become a checkpoint folder with card and thresholds.

Enters: a manifest with splits and labels. Leaves: the folder that ``tidegate.models.load_stage`` reads. The
vocabulary is learnt from the training split's texts; the best epoch and all thresholds are chosen on validation;
the test split is scored once, at the end, for the card.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.corpus.manifest import Entry, read_manifest
from tidegate.errors import CheckpointError, ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.build import Model, build_model
from tidegate.models.card import Card
from tidegate.models.checkpoint import load_checkpoint, save_checkpoint, save_thresholds
from tidegate.models.compose import compose_avlm
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer, prompt_lines
from tidegate.training.augment import augment
from tidegate.training.distill import distilled, teacher_log_odds
from tidegate.training.engine import Engine, OneProcess
from tidegate.training.evaluate import EvaluationReport, ScoredSplit, entries_of, evaluate_scores
from tidegate.training.evidence import evidence_targets
from tidegate.training.features import FailedVideo, FeatureTable, load_features
from tidegate.training.frozen import fit_frozen, run_towers
from tidegate.training.loop import Examples, FitResult, fit, score_rows
from tidegate.training.lora import Adapted, adapt, checkpoint_gradients, freeze_towers, merged, save_adapter
from tidegate.training.losses import MISSING_LABEL
from tidegate.training.recipes import TrainRecipe
from tidegate.training.thresholds import choose_thresholds

__all__ = ["SYNTHETIC_NOTICE", "Progress", "PublishedParts", "TrainResult", "new_model", "train_stage"]

SYNTHETIC_NOTICE = "Trained on a synthetic corpus: for demonstration, tests and teaching, not for production."


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run reports to; each may be None."""

    on_decode: Callable[[int, int], None] | None = None
    on_step: Callable[[int, int, float], None] | None = None
    on_epoch: Callable[[dict[str, float]], None] | None = None
    on_note: Callable[[str], None] | None = None

    def note(self, text: str) -> None:
        """Say one thing."""
        if self.on_note is not None:
            self.on_note(text)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What ``train_stage`` did."""

    folder: Path
    fit: FitResult
    test: EvaluationReport
    failed: tuple[FailedVideo, ...]
    features_from_cache: bool


def new_model(recipe: TrainRecipe, train: Sequence[Entry], seed: int) -> tuple[Model, ClipProcessor]:
    """A model with new weights, and its processor with a vocabulary of the training texts."""
    import torch

    texts = [prompt_lines(entry.texts) for entry in train]
    tokenizer = build_tokenizer(texts, recipe.vocab_size) if "text" in recipe.model.modalities else None
    torch.manual_seed(seed)
    return build_model(recipe.model), ClipProcessor(recipe.processor, tokenizer)


@dataclass(frozen=True, kw_only=True)
class PublishedParts:
    """Published weights that an AVLM starts from; its last layer is new."""

    vl: str
    """LLaVA-OneVision: hub id or local folder."""
    audio: str | None = None
    """Whisper: hub id or local folder; None: the model does not listen."""
    num_frames: int = 8
    """Frames sampled from a video."""


def _initial(
    recipe: TrainRecipe, train: Sequence[Entry], seed: int, init: Path | None, parts: PublishedParts | None
) -> tuple[Model, ClipProcessor]:
    if init is not None and parts is not None:
        raise ConfigError("expected one thing to start from, got a checkpoint and published parts")
    if parts is not None:
        model, processor, _ = compose_avlm(
            issue=recipe.model.issue, vl=parts.vl, audio=parts.audio, num_frames=parts.num_frames
        )
        return model, processor
    if init is None:
        return new_model(recipe, train, seed)
    loaded, processor, _ = load_checkpoint(init)
    if type(loaded.config) is not type(recipe.model):
        raise CheckpointError(
            f"expected a {type(recipe.model).__name__} in {init} for recipe {recipe.name!r}, "
            f"found {type(loaded.config).__name__}"
        )
    return loaded, processor


def _examples(table: FeatureTable, entries: Sequence[Entry], issue: str, auxiliary: bool) -> Examples:
    entry_of = {entry.video_id: entry for entry in entries}
    rows = table.rows([entry.video_id for entry in entries])
    kept = [entry_of[table.video_ids[int(row)]] for row in rows]
    labels = np.asarray([entry.labels.get(issue, MISSING_LABEL) for entry in kept], dtype=np.int64)
    return Examples(table=table, rows=rows, labels=labels, auxiliary=evidence_targets(kept) if auxiliary else {})


def _scored(model: Model, processor: ClipProcessor, examples: Examples, entries: Sequence[Entry]) -> ScoredSplit:
    source_of = {entry.video_id: entry.source_id or entry.video_id for entry in entries}
    video_ids = tuple(examples.table.video_ids[int(row)] for row in examples.rows)
    return ScoredSplit(
        video_ids=video_ids,
        labels=examples.labels,
        scores=score_rows(model, processor, examples.table, examples.rows.tolist()),
        sources=tuple(source_of[video_id] for video_id in video_ids),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """One run of ``train_stage``."""

    data: Path
    out: Path
    recipe: TrainRecipe
    init: Path | None
    teacher: Path | None
    seed: int
    cache: Path
    workers: int
    progress: Progress
    engine: Engine
    splits: Mapping[str, list[Entry]]

    @property
    def entries(self) -> list[Entry]:
        """Of all splits."""
        return [entry for part in self.splits.values() for entry in part]


def train_stage(
    data: Path,
    out: Path,
    recipe: TrainRecipe,
    *,
    init: Path | None = None,
    parts: PublishedParts | None = None,
    teacher: Path | None = None,
    seed: int = 0,
    cache: Path | None = None,
    workers: int = 2,
    half: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> TrainResult:
    """Train one stage and write its checkpoint folder ``out``; with an adapter also ``<out>-adapter``.

    ``teacher``: a checkpoint whose soft scores the training split is to follow; videos of that split may then be
    unlabelled. ``parts``: published weights to start from instead of ``init``.
    """
    manifest = read_manifest(data)
    manifest.check_files()
    issue = recipe.model.issue
    work = _Work(
        data=data,
        out=out,
        recipe=recipe,
        init=init,
        teacher=teacher,
        seed=seed,
        cache=cache or out.parent / "feature-cache",
        workers=workers,
        progress=progress or Progress(),
        engine=engine or OneProcess(),
        splits={
            name: entries_of(manifest, name, issue, labelled=teacher is None or name != "train")
            for name in ("train", "validation", "test")
        },
    )
    model, processor = _initial(recipe, work.splits["train"], seed, init, parts)
    table = _on_first(
        work.engine,
        lambda: load_features(work.entries, processor, work.cache, workers=workers, progress=work.progress.on_decode),
    )
    work.progress.note(_table_note(table, work.cache))
    examples = _parts(work, table)
    out.parent.mkdir(parents=True, exist_ok=True)
    if recipe.frozen is not None:
        _fit_frozen(model, processor, examples, recipe, seed=seed, progress=work.progress)
    adapted = _made_ready(model, recipe)
    result = _fit(work, model, processor, examples)
    if adapted is not None and work.engine.shard.rank == 0:
        save_adapter(adapted, out.with_name(out.name + "-adapter"))
        merged(adapted)
    return _finish(work, model, processor, examples, result, table=table, half=half, command=command)


def _on_first(engine: Engine, make: Callable[[], FeatureTable]) -> FeatureTable:
    """Made by the first process; the others wait and then read what it left."""
    table = make() if engine.shard.rank == 0 else None
    engine.gathered(None)
    return make() if table is None else table


def _parts(work: _Work, table: FeatureTable) -> dict[str, Examples]:
    recipe, issue = work.recipe, work.recipe.model.issue
    auxiliary = recipe.auxiliary == "evidence"
    parts = {name: _examples(table, part, issue, auxiliary and name == "train") for name, part in work.splits.items()}
    if work.teacher is not None:
        odds, read = _taught(work, work.teacher, issue)
        work.progress.note(f"teacher {work.teacher.name}: {_table_note(read, work.cache)}")
        parts["train"] = distilled(parts["train"], odds)
    return parts


def _taught(work: _Work, teacher: Path, issue: str) -> tuple[dict[str, float], FeatureTable]:
    if work.engine.shard.rank != 0:
        work.engine.gathered(None)
    taught = teacher_log_odds(
        teacher, work.splits["train"], issue, work.cache, workers=work.workers, progress=work.progress.on_decode
    )
    if work.engine.shard.rank == 0:
        work.engine.gathered(None)
    return taught


def _made_ready(model: Model, recipe: TrainRecipe) -> Adapted | None:
    """Freeze, adapt, checkpoint as the recipe says."""
    if recipe.gradient_checkpointing:
        checkpoint_gradients(model)
    if recipe.adapter is not None:
        return adapt(model, recipe.adapter, towers=recipe.train_towers)
    if not recipe.train_towers:
        freeze_towers(model)
    return None


def _fit(work: _Work, model: Model, processor: ClipProcessor, examples: Mapping[str, Examples]) -> FitResult:
    recipe, out = work.recipe, work.out
    return fit(
        model,
        processor,
        examples["train"],
        examples["validation"],
        recipe.optimiser,
        change=lambda item, rng: augment(item, recipe.augment, rng),
        seed=work.seed,
        keep_initial=recipe.keep_initial,
        log=out.with_name(out.name + ".metrics.jsonl"),
        resume=out.with_name(out.name + ".resume.pt"),
        engine=work.engine,
        on_epoch=work.progress.on_epoch,
        on_step=work.progress.on_step,
    )


def _finish(
    work: _Work,
    model: Model,
    processor: ClipProcessor,
    examples: Mapping[str, Examples],
    result: FitResult,
    *,
    table: FeatureTable,
    half: bool,
    command: str | None,
) -> TrainResult:
    """Thresholds on validation, figures on test, and the folder."""
    recipe, issue, data = work.recipe, work.recipe.model.issue, work.data
    validation = _scored(model, processor, examples["validation"], work.splits["validation"])
    report = evaluate_scores(recipe.name, _scored(model, processor, examples["test"], work.splits["test"]), validation)
    digest = hashlib.sha256(data.read_bytes()).hexdigest()[:12]
    card = Card(
        name=recipe.name,
        issue=issue,
        notice=SYNTHETIC_NOTICE if any(entry.truth for entry in work.entries) else None,
        trained_on=f"{data.name}, sha256 {digest}, {len(examples['train'])} training videos",
        seed=work.seed,
        command=command,
        recipe=_plain(recipe),
        metrics={"test": report.to_dict(), "best_epoch": result.best_epoch, "history": list(result.history)},
        notes=_notes(recipe, work.init, table, work.teacher),
    )
    chosen = choose_thresholds(issue, validation.labels, validation.scores, measured_on=f"validation of {digest}")
    if work.engine.shard.rank == 0:
        save_checkpoint(model, processor, work.out, card, half=half)
        save_thresholds(work.out, chosen)
    work.engine.gathered(None)
    return TrainResult(
        folder=work.out, fit=result, test=report, failed=table.failed, features_from_cache=table.from_cache
    )


def _fit_frozen(
    model: Model,
    processor: ClipProcessor,
    parts: Mapping[str, Examples],
    recipe: TrainRecipe,
    *,
    seed: int,
    progress: Progress,
) -> None:
    if not isinstance(model, Avlm) or recipe.frozen is None:
        raise ConfigError(f"recipe {recipe.name!r}: expected an AVLM for training with frozen towers")
    after = [
        replace(parts[name], table=run_towers(model, processor, parts[name]), rows=np.arange(len(parts[name])))
        for name in ("train", "validation")
    ]
    fit_frozen(
        model,
        processor,
        after[0],
        after[1],
        recipe.frozen,
        dropout=recipe.augment.modality_dropout,
        seed=seed,
        on_epoch=progress.on_epoch,
        on_step=progress.on_step,
    )


def _plain(recipe: TrainRecipe) -> dict[str, Any]:
    values = dataclasses.asdict(recipe)
    return {key: value for key, value in values.items() if key not in {"model", "processor"}}


def _table_note(table: FeatureTable, cache: Path) -> str:
    origin = f"read from the cache {cache}" if table.from_cache else f"decoded and cached in {cache}"
    failures = "".join(f"\n  left out {item.video_id}: {item.code}: {item.reason}" for item in table.failed)
    return f"features of {len(table)} videos {origin}; {len(table.failed)} failed to decode{failures}"


def _notes(recipe: TrainRecipe, init: Path | None, table: FeatureTable, teacher: Path | None = None) -> tuple[str, ...]:
    notes = []
    if teacher is not None:
        notes.append(f"distilled: the soft scores of the checkpoint {teacher.name} were targets in training")
    if init is not None:
        notes.append(f"initialised from the checkpoint {init.name}")
    if recipe.auxiliary == "evidence":
        notes.append("the synthetic truth of the training split served as auxiliary targets in training")
    if table.failed:
        notes.append(f"{len(table.failed)} videos that did not decode were left out")
    return tuple(notes)
