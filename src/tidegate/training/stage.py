"""``train_stage``: a manifest and a recipe become a checkpoint folder with card and thresholds.

Enters: a manifest with splits and labels. Leaves: the folder that ``tidegate.models.load_stage`` reads. The
vocabulary is learnt from the training split's texts; the best epoch and all thresholds are chosen on validation;
the test split is scored once, at the end, for the card.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry, Manifest, read_manifest
from tidegate.errors import ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.build import Model, build_model
from tidegate.models.card import Card
from tidegate.models.checkpoint import save_checkpoint, save_thresholds
from tidegate.models.processor import ClipProcessor
from tidegate.training.augment import augment
from tidegate.training.corruption import CorruptedTable
from tidegate.training.distill import distilled, teacher_log_odds
from tidegate.training.engine import Engine, OneProcess
from tidegate.training.evaluate import EvaluationReport, ScoredSplit, entries_of, evaluate_scores
from tidegate.training.evidence import evidence_targets
from tidegate.training.features import FailedVideo, FeatureTable, load_features
from tidegate.training.frozen import fit_frozen, run_towers
from tidegate.training.live import LiveTable
from tidegate.training.loop import Examples, FitResult, Table, fit, score_rows
from tidegate.training.lora import Adapted, adapt, freeze_towers, merged, save_adapter
from tidegate.training.losses import MISSING_LABEL
from tidegate.training.mixture import check_mixture, mixed
from tidegate.training.recipes import TrainRecipe
from tidegate.training.start import PublishedParts, started
from tidegate.training.thresholds import choose_thresholds

__all__ = ["SYNTHETIC_NOTICE", "Progress", "TrainResult", "train_stage"]

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
    """Of the first issue."""
    more: Mapping[str, EvaluationReport]
    """Of further issues."""
    failed: tuple[FailedVideo, ...]
    features_from_cache: bool


def _examples(table: Table, entries: Sequence[Entry], issues: Sequence[str], auxiliary: bool) -> Examples:
    entry_of = {entry.video_id: entry for entry in entries}
    row_of = {video_id: row for row, video_id in enumerate(table.video_ids)}
    kept = [entry_of[entry.video_id] for entry in entries if entry.video_id in row_of]
    labels = [[entry.labels.get(issue, MISSING_LABEL) for issue in issues] for entry in kept]
    columns = np.asarray(labels, dtype=np.int64)
    return Examples(
        table=table,
        rows=np.asarray([row_of[entry.video_id] for entry in kept], dtype=np.int64),
        labels=columns[:, 0] if len(issues) == 1 else columns,
        auxiliary=evidence_targets(kept) if auxiliary else {},
    )


def _scored(
    model: Model, processor: ClipProcessor, examples: Examples, entries: Sequence[Entry], device: str
) -> dict[str, ScoredSplit]:
    """By issue: the videos that are labelled for it."""
    source_of = {entry.video_id: entry.source_id or entry.video_id for entry in entries}
    video_ids = [examples.table.video_ids[int(row)] for row in examples.rows]
    scores = score_rows(model, processor, examples.table, examples.rows.tolist(), device=device)
    splits = {}
    for place, issue in enumerate(model.config.issues):
        labels = examples.labels_by_issue[:, place]
        known = np.flatnonzero(labels != MISSING_LABEL).tolist()
        splits[issue] = ScoredSplit(
            video_ids=tuple(video_ids[row] for row in known),
            labels=labels[known],
            scores=scores.reshape(len(scores), -1)[known, place],
            sources=tuple(source_of[video_ids[row]] for row in known),
        )
    return splits


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
    live: bool
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
    live: bool = False,
    half: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> TrainResult:
    """Train one stage and write its checkpoint folder ``out``; with an adapter also ``<out>-adapter``.

    ``teacher``: a checkpoint whose soft scores the training split is to follow; videos of that split may then be
    unlabelled. ``parts``: published weights to start from instead of ``init``. ``live``: decode training videos while
    training instead of caching their features.
    """
    manifest = read_manifest(data)
    manifest.check_files()
    work = _Work(
        data=data,
        out=out,
        recipe=recipe,
        init=init,
        teacher=teacher,
        seed=seed,
        cache=cache or out.parent / "feature-cache",
        workers=workers,
        live=live,
        progress=progress or Progress(),
        engine=engine or OneProcess(),
        splits=_splits(manifest, recipe.model.issues, teacher is not None),
    )
    _check_live(work)
    start = started(recipe, work.splits["train"], seed, init, parts)
    model, processor = start.model, start.processor
    check_mixture(recipe, processor.config.modalities, init=init, live=live, taught=teacher is not None)
    for said in start.notes:
        work.progress.note(said)
    table = _table(work, processor)
    with ExitStack() as stack:
        train: Table = table
        if live:
            train = stack.enter_context(LiveTable(work.splits["train"], processor, workers=workers))
        examples, said_of_training = _parts(work, train, table)
        out.parent.mkdir(parents=True, exist_ok=True)
        fitted, adapted = _trained(work, model, processor, examples)
    model, adapted = _whole(work, model, adapted)
    failed = table.failed + (train.failed if isinstance(train, LiveTable) else ())
    done = _Done(fit=fitted, failed=failed, from_cache=table.from_cache, notes=(*start.notes, *said_of_training))
    finished = None
    if work.engine.shard.rank == 0:
        _keep_adapter(adapted, out)
        finished = _finish(work, model, processor, examples, done, half=half, command=command)
    result: TrainResult = work.engine.gathered(finished)[0]
    return result


def _check_live(work: _Work) -> None:
    several = work.engine.shard.world_size > 1
    if work.live and (several or work.teacher is not None or work.recipe.frozen is not None):
        raise ConfigError(
            "expected a feature cache with several processes, a teacher or a first part over frozen towers"
        )


def _keep_adapter(adapted: Adapted | None, out: Path) -> None:
    """Write the adapter beside the checkpoint, then merge it into the model that the checkpoint holds."""
    if adapted is not None:
        save_adapter(adapted, out.with_name(out.name + "-adapter"))
        merged(adapted)


def _whole(work: _Work, model: Model, adapted: Adapted | None) -> tuple[Model, Adapted | None]:
    """The trained model in plain modules: what an engine of several processes has sharded is put together."""
    if work.engine.shard.world_size == 1:
        return model, adapted
    state = work.engine.whole(model.state_dict())
    fresh = build_model(model.config)
    again = None if adapted is None else adapt(fresh, adapted.config, towers=work.recipe.train_towers)
    fresh.load_state_dict(state)
    return fresh.eval(), again


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What training came to."""

    fit: FitResult
    failed: tuple[FailedVideo, ...]
    from_cache: bool
    notes: tuple[str, ...]


def _splits(manifest: Manifest, issues: Sequence[str], taught: bool) -> dict[str, list[Entry]]:
    """Entries of each split that are labelled for any issue; each issue must have some in each split."""
    splits = {}
    for name in ("train", "validation", "test"):
        labelled = not (taught and name == "train")
        wanted = {entry.video_id for issue in issues for entry in entries_of(manifest, name, issue, labelled=labelled)}
        splits[name] = [entry for entry in manifest if entry.video_id in wanted]
    return splits


def _table(work: _Work, processor: ClipProcessor) -> FeatureTable:
    entries = [entry for name, part in work.splits.items() for entry in part if not (work.live and name == "train")]
    on_decode = work.progress.on_decode
    table = _on_first(
        work.engine,
        lambda: load_features(entries, processor, work.cache, workers=work.workers, progress=on_decode),
    )
    work.progress.note(_table_note(table, work.cache))
    if work.live:
        work.progress.note(f"{len(work.splits['train'])} training videos are decoded while training, without a cache")
    return table


def _trained(
    work: _Work, model: Model, processor: ClipProcessor, examples: Mapping[str, Examples]
) -> tuple[FitResult, Adapted | None]:
    if work.recipe.frozen is not None:
        _fit_frozen(model, processor, examples, work.recipe, seed=work.seed, progress=work.progress)
    adapted = _made_ready(model, work.recipe)
    return _fit(work, model, processor, examples), adapted


def _on_first(engine: Engine, make: Callable[[], FeatureTable]) -> FeatureTable:
    """Made by the first process; the others wait and then read what it left."""
    table = make() if engine.shard.rank == 0 else None
    engine.gathered(None)
    return make() if table is None else table


def _parts(work: _Work, train: Table, table: FeatureTable) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Examples of each split, and what was done to those of training."""
    recipe, issues = work.recipe, work.recipe.model.issues
    parts = {name: _examples(table, work.splits[name], issues, False) for name in ("validation", "test")}
    parts["train"] = _examples(train, work.splits["train"], issues, recipe.auxiliary == "evidence")
    mixture = mixed(parts["train"], work.splits["train"], recipe, init=work.init)
    for said in mixture.notes:
        work.progress.note(said)
    parts["train"] = mixture.examples
    if work.teacher is not None:
        odds, read = _taught(work, work.teacher, issues)
        work.progress.note(f"teacher {work.teacher.name}: {_table_note(read, work.cache)}")
        parts["train"] = distilled(parts["train"], odds)
    return parts, mixture.notes


def _taught(
    work: _Work, teacher: Path, issues: tuple[str, ...]
) -> tuple[dict[str, npt.NDArray[np.float64]], FeatureTable]:
    if work.engine.shard.rank != 0:
        work.engine.gathered(None)
    taught = teacher_log_odds(
        teacher, work.splits["train"], issues, work.cache, workers=work.workers, progress=work.progress.on_decode
    )
    if work.engine.shard.rank == 0:
        work.engine.gathered(None)
    return taught


def _made_ready(model: Model, recipe: TrainRecipe) -> Adapted | None:
    """Freeze, adapt, checkpoint as the recipe says."""
    if recipe.gradient_checkpointing:
        if not isinstance(model, Avlm):
            raise ConfigError(f"expected an AVLM for gradient checkpointing, got {type(model).__name__}")
        model.gradient_checkpointing(True)
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
        resume=out.with_name(out.name + ".resume.pt") if work.engine.resumable else None,
        engine=work.engine,
        on_epoch=work.progress.on_epoch,
        on_step=work.progress.on_step,
    )


def _finish(
    work: _Work,
    model: Model,
    processor: ClipProcessor,
    examples: Mapping[str, Examples],
    done: _Done,
    *,
    half: bool,
    command: str | None,
) -> TrainResult:
    """Thresholds on validation, figures on test, and the folder."""
    recipe, data = work.recipe, work.data
    device = work.engine.device
    model.to(device)
    validation, test = (
        _scored(model, processor, examples[name], work.splits[name], device) for name in ("validation", "test")
    )
    reports = {issue: evaluate_scores(recipe.name, test[issue], validation[issue]) for issue in test}
    issue, *more = model.config.issues
    digest = hashlib.sha256(data.read_bytes()).hexdigest()[:12]
    card = Card(
        name=recipe.name,
        issue=issue,
        notice=SYNTHETIC_NOTICE if any(entry.truth for entry in work.entries) else None,
        trained_on=f"{data.name}, sha256 {digest}, {len(examples['train'])} training videos",
        seed=work.seed,
        command=command,
        recipe=_plain(recipe),
        metrics={
            "test": reports[issue].to_dict(),
            **({"more": {other: reports[other].to_dict() for other in more}} if more else {}),
            "best_epoch": done.fit.best_epoch,
            "history": list(done.fit.history),
        },
        notes=(*_notes(work, done.failed), *done.notes),
    )
    save_checkpoint(model, processor, work.out, card, half=half)
    save_thresholds(work.out, _thresholds(validation, f"validation of {digest}"))
    return TrainResult(
        folder=work.out,
        fit=done.fit,
        test=reports[issue],
        more={other: reports[other] for other in more},
        failed=done.failed,
        features_from_cache=done.from_cache,
    )


def _thresholds(validation: Mapping[str, ScoredSplit], measured_on: str) -> dict[str, Any]:
    """Of the first issue, with those of further ones under ``issues``."""
    chosen = {
        issue: choose_thresholds(issue, split.labels, split.scores, measured_on=measured_on)
        for issue, split in validation.items()
    }
    first, *more = chosen
    return {**chosen[first], **({"issues": {issue: chosen[issue] for issue in more}} if more else {})}


def _fit_frozen(
    model: Model,
    processor: ClipProcessor,
    parts: Mapping[str, Examples],
    recipe: TrainRecipe,
    *,
    seed: int,
    progress: Progress,
) -> None:
    if recipe.frozen is None:
        raise ConfigError(f"recipe {recipe.name!r}: expected a schedule for training with frozen towers")
    seen = (_worse(parts["train"], recipe, seed), parts["validation"])
    after = [_after_towers(model, processor, part) for part in seen]
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


def _worse(train: Examples, recipe: TrainRecipe, seed: int) -> Examples:
    """The training clips with the recipe's share of them corrupted, each once and for all: its towers run once."""
    config = recipe.augment
    if not config.corruption:
        return train
    table = CorruptedTable(table=train.table, share=config.corruption, strength=config.corruption_strength, seed=seed)
    return replace(train, table=table)


def _after_towers(model: Model, processor: ClipProcessor, part: Examples) -> Examples:
    """The same examples over tower outputs; a video that is seen several times passes the towers once."""
    rows, places = np.unique(part.rows, return_inverse=True)
    return replace(part, table=run_towers(model, processor, replace(part, rows=rows)), rows=places)


def _plain(recipe: TrainRecipe) -> dict[str, Any]:
    values = dataclasses.asdict(recipe)
    if recipe.emphasis.ids is not None:
        values["emphasis"]["ids"] = recipe.emphasis.ids.name
    return {key: value for key, value in values.items() if key not in {"model", "processor"}}


def _table_note(table: FeatureTable, cache: Path) -> str:
    origin = f"read from the cache {cache}" if table.from_cache else f"decoded and cached in {cache}"
    failures = "".join(f"\n  left out {item.video_id}: {item.code}: {item.reason}" for item in table.failed)
    return f"features of {len(table)} videos {origin}; {len(table.failed)} failed to decode{failures}"


def _notes(work: _Work, failed: Sequence[FailedVideo]) -> tuple[str, ...]:
    notes = []
    if work.teacher is not None:
        notes.append(f"distilled: the soft scores of the checkpoint {work.teacher.name} were targets in training")
    if work.init is not None:
        notes.append(f"initialised from the checkpoint {work.init.name}")
    if work.recipe.auxiliary == "evidence":
        notes.append("the synthetic truth of the training split served as auxiliary targets in training")
    if failed:
        notes.append(f"{len(failed)} videos that did not decode were left out")
    return tuple(notes)
