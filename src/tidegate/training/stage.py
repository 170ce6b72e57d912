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
import numpy.typing as npt

from tidegate.corpus.manifest import Entry, read_manifest
from tidegate.errors import CheckpointError, ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.build import Model, build_model
from tidegate.models.card import Card
from tidegate.models.checkpoint import load_checkpoint, save_checkpoint, save_thresholds
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer, prompt_lines
from tidegate.training.augment import augment
from tidegate.training.evaluate import EvaluationReport, ScoredSplit, entries_of, evaluate_scores
from tidegate.training.evidence import evidence_targets
from tidegate.training.features import FailedVideo, FeatureTable, load_features
from tidegate.training.frozen import fit_frozen, run_towers
from tidegate.training.loop import Examples, FitResult, fit, score_rows
from tidegate.training.recipes import TrainRecipe
from tidegate.training.thresholds import choose_thresholds

__all__ = ["SYNTHETIC_NOTICE", "Progress", "TrainResult", "new_model", "train_stage"]

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


def _initial(recipe: TrainRecipe, train: Sequence[Entry], seed: int, init: Path | None) -> tuple[Model, ClipProcessor]:
    if init is None:
        return new_model(recipe, train, seed)
    model, processor, _ = load_checkpoint(init)
    if type(model.config) is not type(recipe.model):
        raise CheckpointError(
            f"expected a {type(recipe.model).__name__} in {init} for recipe {recipe.name!r}, "
            f"found {type(model.config).__name__}"
        )
    return model, processor


def _examples(table: FeatureTable, entries: Sequence[Entry], issue: str, auxiliary: bool) -> Examples:
    entry_of = {entry.video_id: entry for entry in entries}
    rows = table.rows([entry.video_id for entry in entries])
    kept = [entry_of[table.video_ids[int(row)]] for row in rows]
    labels: npt.NDArray[np.int64] = np.asarray([entry.labels[issue] for entry in kept], dtype=np.int64)
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


def train_stage(
    data: Path,
    out: Path,
    recipe: TrainRecipe,
    *,
    init: Path | None = None,
    seed: int = 0,
    cache: Path | None = None,
    workers: int = 2,
    half: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train one stage and write its checkpoint folder ``out``."""
    progress, issue = progress or Progress(), recipe.model.issue
    manifest = read_manifest(data)
    splits = {name: entries_of(manifest, name, issue) for name in ("train", "validation", "test")}
    model, processor = _initial(recipe, splits["train"], seed, init)
    entries = [entry for part in splits.values() for entry in part]
    cache = cache or out.parent / "feature-cache"
    table = load_features(entries, processor, cache, workers=workers, progress=progress.on_decode)
    progress.note(_table_note(table, cache))
    auxiliary = recipe.auxiliary == "evidence"
    parts = {name: _examples(table, part, issue, auxiliary and name == "train") for name, part in splits.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    if recipe.frozen is not None:
        _fit_frozen(model, processor, parts, recipe, seed=seed, progress=progress)
    result = fit(
        model,
        processor,
        parts["train"],
        parts["validation"],
        recipe.optimiser,
        change=lambda item, rng: augment(item, recipe.augment, rng),
        seed=seed,
        keep_initial=recipe.keep_initial,
        log=out.with_name(out.name + ".metrics.jsonl"),
        resume=out.with_name(out.name + ".resume.pt"),
        on_epoch=progress.on_epoch,
        on_step=progress.on_step,
    )
    validation = _scored(model, processor, parts["validation"], splits["validation"])
    report = evaluate_scores(recipe.name, _scored(model, processor, parts["test"], splits["test"]), validation)
    digest = hashlib.sha256(data.read_bytes()).hexdigest()[:12]
    card = Card(
        name=recipe.name,
        issue=issue,
        notice=SYNTHETIC_NOTICE if any(entry.truth for entry in entries) else None,
        trained_on=f"{data.name}, sha256 {digest}, {len(parts['train'])} training videos",
        seed=seed,
        command=command,
        recipe=_plain(recipe),
        metrics={"test": report.to_dict(), "best_epoch": result.best_epoch, "history": list(result.history)},
        notes=_notes(recipe, init, table),
    )
    save_checkpoint(model, processor, out, card, half=half)
    save_thresholds(
        out,
        choose_thresholds(issue, validation.labels, validation.scores, measured_on=f"validation of {digest}"),
    )
    return TrainResult(folder=out, fit=result, test=report, failed=table.failed, features_from_cache=table.from_cache)


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


def _notes(recipe: TrainRecipe, init: Path | None, table: FeatureTable) -> tuple[str, ...]:
    notes = []
    if init is not None:
        notes.append(f"initialised from the checkpoint {init.name}")
    if recipe.auxiliary == "evidence":
        notes.append("the synthetic truth of the training split served as auxiliary targets in training")
    if table.failed:
        notes.append(f"{len(table.failed)} videos that did not decode were left out")
    return tuple(notes)
