"""``export_stage`` and ``export_merged``: a checkpoint becomes what is deployed, and it is measured what that costs.

Enters: a checkpoint folder, a manifest for calibration and comparison; or a checkpoint and a LoRA adapter. Leaves: an
export folder that ``load_stage`` reads like a checkpoint, with graphs for ONNX Runtime or OpenVINO; or a merged
checkpoint with the parts beside it that plain ``transformers`` loads. Every export is compared with the model it came
from before its folder is put in place.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tidegate.corpus.manifest import Manifest, read_manifest
from tidegate.errors import CheckpointError, ConfigError, ManifestError, ScoringError
from tidegate.evaluation import Interval, bootstrap_interval, roc_auc
from tidegate.models.avlm import Avlm
from tidegate.models.batch import ClipFeatures
from tidegate.models.checkpoint import (
    checkpoint_hash,
    load_checkpoint,
    load_thresholds,
    replace_folder,
    save_checkpoint,
    save_thresholds,
    write_companions,
)
from tidegate.models.exported import EXPORT_FORMAT, load_exported
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.models.scoring import issue_probabilities
from tidegate.training.evaluate import entries_of
from tidegate.training.export_graph import Backend, tower_feeds, write_graph
from tidegate.training.features import FeatureTable, load_features
from tidegate.training.lora import load_adapter, merged
from tidegate.training.thresholds import choose_thresholds

__all__ = ["Comparison", "ExportConfig", "ExportResult", "export_merged", "export_stage"]

_EXACT = 1e-4
"""Largest difference of scores between a model and its graphs in float32."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is made of a base stage."""

    backend: Backend = "openvino"
    """Which runtime computes the towers."""
    int8: bool = False
    """Quantise weights and activations to 8 bits, with ranges measured on training videos."""
    calibration_videos: int = 100
    """Training videos that the ranges are measured on."""
    split: str = "test"
    """Split on which the export is compared with the model."""
    max_auc_loss: float | None = None
    """The export is refused if it loses more; None: it is only reported."""
    max_videos: int | None = None
    """Videos of a split at most; None: all."""

    def __post_init__(self) -> None:
        if self.backend not in {"onnx", "openvino"}:
            raise ConfigError(f"expected a backend among onnx and openvino, got {self.backend!r}")
        if self.calibration_videos < 1 or (self.max_videos is not None and self.max_videos < 2):
            found = f"{self.calibration_videos} and {self.max_videos}"
            raise ConfigError(f"expected calibration_videos >= 1 and max_videos >= 2, got {found}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The export beside the model it came from, on the same videos."""

    videos: int
    auc_before: Interval
    auc_after: Interval
    auc_loss: Interval
    """AUC before minus after, by bootstrap over sources."""
    max_score_difference: float
    mean_score_difference: float


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export came to."""

    folder: Path
    files: dict[str, int]
    """Sizes in bytes."""
    max_score_difference: float
    comparison: Comparison | None = None
    """None: there was no manifest to compare on."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**dataclasses.asdict(self), "folder": str(self.folder)}


@dataclass(frozen=True, eq=False)
class _Split:
    table: FeatureTable
    labels: Any
    sources: tuple[str, ...]

    @property
    def items(self) -> list[ClipFeatures]:
        return [self.table[row] for row in range(len(self.table))]


def _features(
    manifest: Manifest, split: str, limit: int | None, *, issue: str, processor: ClipProcessor, cache: Path,
    workers: int, progress: Callable[[int, int], None] | None,
) -> _Split:  # fmt: skip
    entries = entries_of(manifest, split, issue)[:limit]
    table = load_features(entries, processor, cache, workers=workers, progress=progress)
    entry_of = {entry.video_id: entry for entry in entries}
    kept = [entry_of[video_id] for video_id in table.video_ids]
    labels = np.asarray([entry.labels[issue] for entry in kept], dtype=np.int64)
    return _Split(table, labels, tuple(entry.source_id or entry.video_id for entry in kept))


def _scores(model: MultiTower, processor: ClipProcessor, items: Sequence[ClipFeatures]) -> Any:
    rows = [row for start in range(0, len(items), 16)
            for row in issue_probabilities(model, processor, items[start : start + 16])]  # fmt: skip
    scores = np.asarray(rows, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ScoringError("expected finite scores of model and export, got some that are not")
    return scores


def _compared(split: _Split, before: Any, after: Any) -> Comparison:
    def interval(metric: Callable[[Any, Any], float], scores: Any) -> Interval:
        return bootstrap_interval(metric, split.labels, scores, clusters=split.sources, num_samples=500, seed=0)

    rows = np.arange(len(split.labels), dtype=np.float64)

    def loss(labels: Any, chosen: Any) -> float:
        index = np.asarray(chosen, dtype=np.int64)
        return roc_auc(labels, before[index, 0]) - roc_auc(labels, after[index, 0])

    return Comparison(
        videos=len(rows),
        auc_before=interval(roc_auc, before[:, 0]),
        auc_after=interval(roc_auc, after[:, 0]),
        auc_loss=interval(loss, rows),
        max_score_difference=float(np.abs(before - after).max()),
        mean_score_difference=float(np.abs(before - after).mean()),
    )


def _noise(processor: ClipProcessor, model: MultiTower) -> list[ClipFeatures]:
    """Items of noise: enough to trace shapes and to hold float32 graphs against the model, not to calibrate."""
    rng, config = np.random.default_rng(0), processor.config
    side, bins = config.image_size, config.num_mel_bins
    used, vocabulary = model.config.modalities, int((model.config.text or {}).get("vocab_size", 8))
    return [
        ClipFeatures(
            frames_THWC=rng.integers(0, 256, (number, side, side, 3), dtype=np.uint8) if "vision" in used else None,
            mel_MF=rng.random((bins, 100 * config.audio_seconds), dtype=np.float32) if "audio" in used else None,
            num_mel_frames=50 * number if "audio" in used else 0,
            token_ids=rng.integers(4, vocabulary, 5 * number, dtype=np.int64),
        )
        for number in (1, 2, 3)
    ]


def export_stage(
    checkpoint: Path,
    out: Path,
    config: ExportConfig,
    *,
    data: Path | None = None,
    cache: Path | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> ExportResult:
    """Export a base stage; with ``data`` it is compared on a split, and its thresholds are chosen anew on validation.

    ``data`` is needed for int8. A float32 export whose scores differ by more than 1e-4, or one that loses more than
    ``max_auc_loss``, is a ``CheckpointError``, and ``out`` stays as it was.
    """
    identity = f"{checkpoint.name}@{checkpoint_hash(checkpoint)}"
    model, processor, card = load_checkpoint(checkpoint)
    if not isinstance(model, MultiTower) or model.exported_parameters:
        raise CheckpointError(f"{checkpoint}: expected a base stage's checkpoint to export, found {_kind(model)}")
    if config.int8 and data is None:
        raise ManifestError("expected a manifest to measure int8 ranges on, got none")
    splits = {} if data is None else _splits(data, model, processor, config, cache=cache, workers=workers, on=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as holder:
        fresh = Path(holder) / "export"
        fresh.mkdir()
        exported = _exported(model, processor, splits, config, fresh)
        probe = splits[config.split].items if splits else _noise(processor, model)
        before, after = _scores(model, processor, probe), _scores(exported, processor, probe)
        comparison = _compared(splits[config.split], before, after) if splits else None
        largest = float(np.abs(before - after).max())
        _refuse_bad(config, largest, comparison)
        notes = (*card.notes, _note(identity, config, largest, comparison))
        write_companions(fresh, processor, dataclasses.replace(card, notes=notes))
        _write_thresholds(fresh, checkpoint, exported, processor, splits.get("validation"))
        files = {path.name: path.stat().st_size for path in sorted(fresh.iterdir())}
        replace_folder(fresh, out)
    return ExportResult(folder=out, files=files, max_score_difference=largest, comparison=comparison)


def _splits(
    data: Path, model: MultiTower, processor: ClipProcessor, config: ExportConfig, *, cache: Path | None, workers: int,
    on: Callable[[int, int], None] | None,
) -> dict[str, _Split]:  # fmt: skip
    manifest, cache = read_manifest(data), cache or data.parent / "feature-cache"
    limits = {"train": config.calibration_videos, "validation": config.max_videos, config.split: config.max_videos}
    return {
        name: _features(
            manifest, name, limit, issue=model.config.issue, processor=processor, cache=cache, workers=workers,
            progress=on,
        )
        for name, limit in limits.items()
    }  # fmt: skip


def _exported(
    model: MultiTower, processor: ClipProcessor, splits: dict[str, _Split], config: ExportConfig, folder: Path
) -> MultiTower:
    """The graphs in ``folder``, loaded as they will be."""
    feeds = tower_feeds(model, processor, splits["train"].items if splits else _noise(processor, model))
    graphs = {
        name: write_graph(model, name, feeds[name], folder, backend=config.backend, int8=config.int8) for name in feeds
    }
    _write_head(model, folder, graphs, config)
    return load_exported(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _write_thresholds(
    folder: Path, checkpoint: Path, exported: MultiTower, processor: ClipProcessor, validation: _Split | None
) -> None:
    """Thresholds by the export's own scores on validation; without data, those of the checkpoint."""
    if validation is None:
        if (thresholds := load_thresholds(checkpoint)) is not None:
            save_thresholds(folder, thresholds)
        return
    scores = _scores(exported, processor, validation.items)[:, 0]
    measured_on = f"validation, {len(scores)} videos, scored by the export itself"
    issue = exported.config.issue
    save_thresholds(folder, choose_thresholds(issue, validation.labels, scores, measured_on=measured_on))


def _kind(model: Any) -> str:
    return "an export" if getattr(model, "exported_parameters", 0) else f"a {type(model).__name__}"


def _write_head(model: MultiTower, folder: Path, graphs: dict[str, str], config: ExportConfig) -> None:
    state = {name: tensor for name, tensor in model.state_dict().items() if ".encoder." not in name}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    values = {
        "format": EXPORT_FORMAT,
        "class": "MultiTower",
        "model": dataclasses.asdict(model.config),
        "backend": config.backend,
        "precision": "int8" if config.int8 else "float32",
        "graphs": graphs,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    (folder / "config.json").write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _refuse_bad(config: ExportConfig, largest: float, comparison: Comparison | None) -> None:
    if not config.int8 and largest > _EXACT:
        raise CheckpointError(f"expected scores of the export within {_EXACT} of the model's, found {largest:.2e}")
    loss = None if comparison is None else comparison.auc_loss.estimate
    if config.max_auc_loss is not None and loss is not None and loss > config.max_auc_loss:
        raise CheckpointError(f"expected the export to lose at most {config.max_auc_loss} AUC, found {loss:.4f}")


def _note(identity: str, config: ExportConfig, largest: float, comparison: Comparison | None) -> str:
    what = f"exported from {identity} to {config.backend}"
    what += f" int8, {config.calibration_videos} calibration videos" if config.int8 else " float32"
    if comparison is None:
        return f"{what}; largest difference of scores {largest:.2e} on noise"
    auc = f"AUC {comparison.auc_before.estimate:.4f} before, {comparison.auc_after.estimate:.4f} after"
    return f"{what}; largest difference of scores {largest:.2e}, {auc}, {comparison.videos} videos of {config.split}"


def export_merged(checkpoint: Path, adapter: Path | None, out: Path) -> ExportResult:
    """Merge a LoRA adapter into its AVLM: a checkpoint again, and beside it the parts for plain ``transformers``.

    ``out/transformers/vl`` and ``out/transformers/audio`` load with ``from_pretrained``; ``head.safetensors`` holds the
    rest. ``adapter`` None: the checkpoint as it is, in that form.
    """
    model, processor, card = load_checkpoint(checkpoint)
    if not isinstance(model, Avlm):
        raise CheckpointError(f"{checkpoint}: expected an AVLM to merge, found {_kind(model)}")
    features = _prompt_only(processor)
    largest = 0.0
    if adapter is not None:
        adapted = load_adapter(model, adapter)
        before = issue_probabilities(model.eval(), processor, features)
        model = merged(adapted)
        after = issue_probabilities(model, processor, features)
        largest = float(np.abs(np.asarray(before) - np.asarray(after)).max())
        if largest > _EXACT:
            raise CheckpointError(f"expected merged scores within {_EXACT} of the adapter's, found {largest:.2e}")
        card = dataclasses.replace(
            card, notes=(*card.notes, f"LoRA adapter {adapter.name} merged into {checkpoint.name}")
        )
    save_checkpoint(model, processor, out, card)
    if (thresholds := load_thresholds(adapter or checkpoint) or load_thresholds(checkpoint)) is not None:
        save_thresholds(out, thresholds)
    _write_transformers_parts(model, out / "transformers")
    files = {str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
    return ExportResult(folder=out, files=files, max_score_difference=largest)


def _prompt_only(processor: ClipProcessor) -> list[ClipFeatures]:
    ids = np.arange(4, 12, dtype=np.int64)
    blank = ClipFeatures(frames_THWC=None, mel_MF=None, num_mel_frames=0, token_ids=ids)
    side, rng = processor.config.image_size, np.random.default_rng(0)
    seen = dataclasses.replace(blank, frames_THWC=rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8))
    return [blank, seen]


def _write_transformers_parts(model: Avlm, folder: Path) -> None:
    from transformers import LlavaOnevisionForConditionalGeneration

    whole: Any = model.vision_language
    if model.config.language_head:
        with torch.device("meta"):
            whole = LlavaOnevisionForConditionalGeneration(model.vision_language.config)
        whole.model = model.vision_language
        if model.language_head is not None:
            whole.lm_head = model.language_head
        else:
            whole.tie_weights()
    whole.save_pretrained(folder / "vl")
    if model.audio is not None:
        model.audio.encoder.save_pretrained(folder / "audio")
    rest = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(("vision_language.", "audio.encoder.", "language_head."))
    }
    save_file(rest, folder / "head.safetensors", metadata={"format": "pt"})
