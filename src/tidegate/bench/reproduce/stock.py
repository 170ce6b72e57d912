"""What all trials share: the clips of the manifest after the frozen towers of the foundation, kept in a folder.

Enters: a manifest and a foundation. Leaves: ``Stock``: tables by tower, labels, sources and splits. A foundation is
a folder with two warmed-up checkpoints (``warm-large``, ``warm-base``) and, for one row of table 6, a smaller audio
tower (``audio-small.safetensors`` with ``audio-small.json``); none of them has seen a video of any manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from tidegate.bench.reproduce.trials import Stage
from tidegate.corpus import Entry, read_manifest
from tidegate.errors import CheckpointError, ManifestError
from tidegate.models.avlm import Avlm
from tidegate.models.build import Model
from tidegate.models.checkpoint import checkpoint_hash, load_checkpoint
from tidegate.models.configs import MultiTowerConfig
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.training.evaluate import entries_of
from tidegate.training.features import FeatureTable, load_features
from tidegate.training.frozen import FrozenTable, open_frozen, run_towers, write_frozen
from tidegate.training.loop import Examples
from tidegate.training.quick import project

__all__ = ["PACKAGED_FOUNDATION", "Foundation", "Stock", "StockFiles", "load_trunk", "prepare_stock"]

PACKAGED_FOUNDATION = Path(str(files("tidegate.models"))) / "weights" / "tiny" / "foundation"
Say = Callable[[str], None]
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """Where the warmed-up models lie."""

    folder: Path

    def checkpoint(self, stage: Stage) -> Path:
        """The checkpoint folder of a stage."""
        path = self.folder / f"warm-{stage}"
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"expected warmed-up checkpoints warm-base and warm-large in {self.folder}, found no {path.name}; "
                "python -m tidegate.training.tiny leaves them in the folder work of its --out"
            )
        return path

    def small_audio(self, issue: str) -> MultiTower:
        """The smaller audio tower."""
        weights, config = self.folder / "audio-small.safetensors", self.folder / "audio-small.json"
        if not weights.is_file() or not config.is_file():
            raise CheckpointError(f"expected the smaller audio tower {weights} with {config.name}, found none")
        model = MultiTower(MultiTowerConfig(issue=issue, audio=json.loads(config.read_text(encoding="utf-8"))))
        own = model.state_dict()
        state = {name: tensor.to(own[name].dtype) for name, tensor in load_file(weights).items()}
        model.load_state_dict(state)
        return model.eval()


@dataclass(frozen=True, kw_only=True)
class StockFiles:
    """Where the tables lie; small enough to be sent to another process."""

    folder: Path
    data: Path
    issue: str
    foundation: Foundation

    @property
    def digest(self) -> str:
        """Changes with the manifest and with the foundation."""
        parts = [self.data.read_bytes(), self.issue.encode()]
        for stage in ("base", "large"):
            parts.append(checkpoint_hash(self.foundation.checkpoint(stage)).encode())  # type: ignore[arg-type]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]

    def table(self, name: str) -> Path:
        """Folder of one table: ``base``, ``large``, ``small`` (pooled audio of the smaller tower) or ``projected``."""
        return self.folder / f"{name}-{self.digest}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stock:
    """The clips after one stage's towers, with what is known of them."""

    table: FrozenTable
    labels: npt.NDArray[np.int64]
    sources: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]

    @classmethod
    def open(cls, at: StockFiles, stage: Stage, *, small_audio: bool = False) -> Stock:
        """The tables of a stage, prepared before; the large one has its frozen projector's output for patches."""
        entry_of = {entry.video_id: entry for entry in _entries(at.data, at.issue)}
        table = open_frozen(at.table("projected" if stage == "large" else stage))
        if small_audio:
            heard = open_frozen(at.table("small"))
            if heard.video_ids != table.video_ids:
                raise ManifestError("expected the smaller audio tower to have heard the same videos; clear the folder")
            table = replace(table, audio_ND=heard.audio_ND)
        kept = [entry_of[video_id] for video_id in table.video_ids]
        return cls(
            table=table,
            labels=np.asarray([entry.labels[at.issue] for entry in kept], dtype=np.int64),
            sources=np.asarray([entry.source_id or entry.video_id for entry in kept]),
            splits=np.asarray([str(entry.split) for entry in kept]),
        )

    def examples(self, split: str, *, share: float = 1.0) -> Examples:
        """One split; of ``share`` of its sources, the same ones whatever the seed, smaller shares inside larger."""
        mask = self.splits == split
        if share < 1.0:
            names = np.unique(self.sources[mask])
            order = np.random.default_rng(0).permutation(len(names))
            mask = mask & np.isin(self.sources, names[order[: round(share * len(names))]])
        rows = np.flatnonzero(mask)
        return Examples(table=self.table, rows=rows, labels=self.labels[rows])


def _entries(data: Path, issue: str) -> list[Entry]:
    manifest = read_manifest(data)
    return [entry for name in _SPLITS for entry in entries_of(manifest, name, issue)]


def _all_rows(table: FeatureTable) -> Examples:
    rows = np.arange(len(table))
    return Examples(table=table, rows=rows, labels=np.zeros(len(table), dtype=np.int64))


def prepare_stock(at: StockFiles, stages: tuple[Stage, ...], *, small_audio: bool, workers: int, say: Say) -> None:
    """Decode, preprocess and run the towers; what lies there already is kept."""
    for stage in stages:
        if not at.table(stage).exists():
            model, processor, _ = load_checkpoint(at.foundation.checkpoint(stage))
            write_frozen(run_towers(model, processor, _decoded(at, processor, workers, say)), at.table(stage))
            say(f"towers of the {stage} stage: done")
    if "large" in stages and not at.table("projected").exists():
        model, _ = load_trunk(at, "large")
        assert isinstance(model, Avlm)
        write_frozen(project(model, open_frozen(at.table("large"))), at.table("projected"))
    if small_audio and not at.table("small").exists():
        _, processor, _ = load_checkpoint(at.foundation.checkpoint("large"))
        decoded = _decoded(at, processor, workers, say)
        write_frozen(run_towers(at.foundation.small_audio(at.issue), processor, decoded), at.table("small"))
        say("smaller audio tower: done")


def _decoded(at: StockFiles, processor: ClipProcessor, workers: int, say: Say) -> Examples:
    table = load_features(_entries(at.data, at.issue), processor, at.folder / "features", workers=workers)
    origin = "read from the cache" if table.from_cache else "decoded"
    reasons = "".join(f"; {item.video_id}: {item.reason}" for item in table.failed[:3])
    say(f"features of {len(table)} videos {origin}; {len(table.failed)} failed{reasons}")
    return _all_rows(table)


def load_trunk(at: StockFiles, stage: Stage) -> tuple[Model, ClipProcessor]:
    """The warmed-up model of a stage."""
    model, processor, _ = load_checkpoint(at.foundation.checkpoint(stage))
    wanted: type[Model] = Avlm if stage == "large" else MultiTower  # type: ignore[assignment]
    if not isinstance(model, wanted):
        raise CheckpointError(f"expected a {wanted.__name__} as warm-{stage}, found {type(model).__name__}")
    return model, processor
