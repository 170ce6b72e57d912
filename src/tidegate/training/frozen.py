"""Training of all but the vision and audio towers: the towers run once, their outputs are kept in memory.

Enters: an ``Avlm``, or a ``MultiTower`` whose vision tower is SigLIP's; a feature table. Leaves: a ``FrozenTable``,
and a stand-in model that shares all weights but the towers'. What stays trainable: projector and language model of
the one, attention pooling and text tower of the other. Why: the towers take two thirds of a step; without them a
model sees five times as many clips an hour.

Shape legend: N clips, T frames, P patches of a frame, D features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from tidegate.errors import ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.batch import Batch, ClipFeatures
from tidegate.models.build import Model
from tidegate.models.processor import ClipProcessor
from tidegate.training.loop import Examples, FitResult, fit
from tidegate.training.recipes import OptimiserConfig

__all__ = [
    "FrozenItem",
    "FrozenProcessor",
    "FrozenTable",
    "fit_frozen",
    "frozen_towers",
    "open_frozen",
    "run_towers",
    "thin",
    "write_frozen",
]

Half = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenItem:
    """One clip after the towers."""

    patches_TPD: Half | None
    audio_D: npt.NDArray[np.float32] | None
    token_ids: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenTable:
    """Tower outputs of N clips, rows as in the feature table."""

    video_ids: tuple[str, ...]
    patches_NTPD: Half | None
    num_frames_N: npt.NDArray[np.int64]
    audio_ND: npt.NDArray[np.float32] | None
    has_audio_N: npt.NDArray[np.bool_]
    token_ids: Sequence[npt.NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.video_ids)

    def length(self, row: int) -> int:
        """Grows with the tokens of the row's prompt."""
        per_frame = 0 if self.patches_NTPD is None else self.patches_NTPD.shape[2]
        return int(self.num_frames_N[row]) * per_frame + len(self.token_ids[row])

    def __getitem__(self, row: int) -> FrozenItem:
        frames = int(self.num_frames_N[row])
        return FrozenItem(
            patches_TPD=self.patches_NTPD[row, :frames] if self.patches_NTPD is not None and frames else None,
            audio_D=self.audio_ND[row] if self.audio_ND is not None and self.has_audio_N[row] else None,
            token_ids=self.token_ids[row],
        )


def write_frozen(table: FrozenTable, folder: Path) -> None:
    """Keep the table in ``folder``, whole or not at all."""
    fresh = folder.with_name(folder.name + ".part")
    fresh.mkdir(parents=True, exist_ok=True)
    for name, array in (("patches", table.patches_NTPD), ("audio", table.audio_ND)):
        if array is not None:
            np.save(fresh / f"{name}.npy", array)
    np.savez(
        fresh / "columns.npz",
        video_ids=np.asarray(table.video_ids),
        num_frames=table.num_frames_N,
        has_audio=table.has_audio_N,
        offsets=np.cumsum([0, *map(len, table.token_ids)]),
        tokens=np.concatenate([np.zeros(0, np.int64), *table.token_ids]),
    )
    os.replace(fresh, folder)


def open_frozen(folder: Path) -> FrozenTable:
    """The table that ``write_frozen`` wrote; patches stay on disk."""
    columns, patches, audio = np.load(folder / "columns.npz"), folder / "patches.npy", folder / "audio.npy"
    return FrozenTable(
        video_ids=tuple(columns["video_ids"].tolist()),
        patches_NTPD=np.load(patches, mmap_mode="r") if patches.exists() else None,
        num_frames_N=columns["num_frames"],
        audio_ND=np.load(audio) if audio.exists() else None,
        has_audio_N=columns["has_audio"],
        token_ids=np.split(columns["tokens"], columns["offsets"][1:-1]),
    )


def _vision(model: Model) -> nn.Module | None:
    """The vision tower, whose last hidden states are kept."""
    if isinstance(model, Avlm):
        tower: nn.Module = model.vision_language.vision_tower
        return tower
    if "vision" not in model.towers:
        return None
    encoder = model.towers.get_submodule("vision.encoder")
    if not hasattr(encoder, "post_layernorm"):
        raise ConfigError(f"expected a SigLIP vision tower for frozen training, got {type(encoder).__name__}")
    return encoder


def _hearing(model: Model) -> nn.Module | None:
    if isinstance(model, Avlm):
        return model.audio
    return model.towers.get_submodule("audio") if "audio" in model.towers else None


def run_towers(
    model: Model, processor: ClipProcessor, examples: Examples, *, limit: int | None = None, batch_size: int = 16
) -> FrozenTable:
    """Outputs of the vision tower (before the projector) and the pooled audio tower, one row an example."""
    rows_used = examples.rows[:limit].tolist()
    items, count = [examples.table[row] for row in rows_used], len(rows_used)
    patches: Any = None
    audio: Any = None
    model.eval()
    for start in range(0, count, batch_size):
        rows = list(range(start, min(start + batch_size, count)))
        batch = processor.collate([items[row] for row in rows])
        if (clips := _patches(model, batch)) is not None:
            if patches is None:
                shape = (count, processor.config.num_frames, *clips[0].shape[1:])
                patches = np.zeros(shape, dtype=np.float16)
            for row, clip in zip(rows, clips, strict=True):
                patches[row, : len(clip)] = clip
        if (heard_BD := _audio(model, batch)) is not None:
            audio = np.zeros((count, heard_BD.shape[1]), dtype=np.float32) if audio is None else audio
            audio[rows] = heard_BD
    frames = [0 if item.frames_THWC is None else len(item.frames_THWC) for item in items]
    return FrozenTable(
        video_ids=tuple(examples.table.video_ids[row] for row in rows_used),
        patches_NTPD=patches,
        num_frames_N=np.asarray(frames, dtype=np.int64),
        audio_ND=audio,
        has_audio_N=np.asarray([item.mel_MF is not None for item in items]),
        token_ids=[item.token_ids for item in items],
    )


def _patches(model: Model, batch: Batch) -> list[npt.NDArray[np.float32]] | None:
    tower = _vision(model)
    if tower is None or batch.pixels_NCHW is None or batch.frames_per_clip_B is None:
        return None
    layer = model.vision_language.config.vision_feature_layer if isinstance(model, Avlm) else -1
    with torch.inference_mode():
        hidden_NPD = tower(batch.pixels_NCHW, output_hidden_states=True).hidden_states[layer]
    return [clip.numpy() for clip in torch.split(hidden_NPD, batch.frames_per_clip_B.tolist())]


def _audio(model: Model, batch: Batch) -> npt.NDArray[np.float32] | None:
    tower = _hearing(model)
    if tower is None or batch.mel_BMF is None:
        return None
    with torch.inference_mode():
        heard_BD: npt.NDArray[np.float32] = tower(batch).numpy()
    return heard_BD


def thin(item: FrozenItem, rng: np.random.Generator, dropout: float) -> FrozenItem:
    """The item with each modality taken away with probability ``dropout``."""
    lost = rng.random(3) < dropout
    return replace(
        item,
        patches_TPD=None if lost[0] else item.patches_TPD,
        audio_D=None if lost[1] else item.audio_D,
        token_ids=item.token_ids[:0] if lost[2] else item.token_ids,
    )


def fit_frozen(
    model: Model,
    processor: ClipProcessor,
    train: Examples,
    validation: Examples,
    config: OptimiserConfig,
    *,
    dropout: float,
    seed: int = 0,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> FitResult:
    """``fit`` of everything but the towers; ``train`` and ``validation`` are rows of ``FrozenTable``."""
    with frozen_towers(model):
        return fit(
            model,
            FrozenProcessor(processor.config, processor.tokenizer),
            train,
            validation,
            config,
            change=lambda item, rng: thin(item, rng, dropout),
            seed=seed,
            on_epoch=on_epoch,
            on_step=on_step,
        )


class FrozenProcessor(ClipProcessor):
    """Collates ``FrozenItem``: prompts as ever, patches in the place of pixels, pooled audio in the place of mel."""

    def collate(self, items: Sequence[Any]) -> Batch:
        """Tensors of a batch."""
        prompts = [
            ClipFeatures(frames_THWC=item.patches_TPD, mel_MF=None, num_mel_frames=0, token_ids=item.token_ids)
            for item in items
        ]
        token_ids, token_mask = self._tokens(prompts)
        patches = [item.patches_TPD for item in items if item.patches_TPD is not None]
        width = next((len(item.audio_D) for item in items if item.audio_D is not None), 0)
        audio_BD = np.stack([np.zeros(width, np.float32) if x.audio_D is None else x.audio_D for x in items])
        return Batch(
            size=len(items),
            pixels_NCHW=torch.from_numpy(np.concatenate(patches)).float().unsqueeze(-1) if patches else None,
            frames_per_clip_B=torch.tensor([0 if x.patches_TPD is None else len(x.patches_TPD) for x in items]),
            mel_BMF=torch.from_numpy(audio_BD).unsqueeze(-1) if width else None,
            audio_positions_B=torch.tensor([int(item.audio_D is not None) for item in items]),
            token_ids_BL=token_ids,
            token_mask_BL=token_mask,
        )


class _GivenPatches(nn.Module):
    """Stands where an AVLM's vision tower stands; its input is that tower's output."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        hidden_NPD = pixel_values.squeeze(-1)
        return BaseModelOutput(last_hidden_state=hidden_NPD, hidden_states=(hidden_NPD,))  # type: ignore[arg-type]


class _GivenHidden(nn.Module):
    """Stands where a ``MultiTower``'s SigLIP stands: that tower's own last norm and pooling, over given patches."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.post_layernorm = tower.get_submodule("post_layernorm")
        self.head = tower.get_submodule("head") if hasattr(tower, "head") else None

    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        last_NPD = self.post_layernorm(pixel_values.squeeze(-1))
        pooled_ND = None if self.head is None else self.head(last_NPD)
        return BaseModelOutputWithPooling(last_hidden_state=last_NPD, pooler_output=pooled_ND)


class _GivenAudio(nn.Module):
    """Stands where the audio tower stands; keeps its learnt vector for missing audio."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        absent_D, width = tower.absent_D, tower.width
        assert isinstance(absent_D, nn.Parameter)
        assert isinstance(width, int)
        self.absent_D, self.width = absent_D, width

    def forward(self, batch: Batch) -> Tensor:
        if batch.mel_BMF is None or batch.audio_positions_B is None:
            return self.absent_D.expand(batch.size, -1)
        return torch.where((batch.audio_positions_B > 0).unsqueeze(-1), batch.mel_BMF.squeeze(-1), self.absent_D)

    def tokens(self, batch: Batch, count: int) -> Tensor:
        """The pooled audio as the one token of early fusion ``(B, 1, D)``."""
        if count != 1:
            raise ConfigError(f"expected one audio token where the audio tower is frozen, got {count}")
        heard_BD: Tensor = self(batch)
        return heard_BD.unsqueeze(1)


def _place(model: Model, vision: nn.Module | None, hearing: nn.Module | None) -> None:
    if isinstance(model, Avlm):
        model.vision_language.vision_tower = vision
        model.audio = hearing  # type: ignore[assignment]
        return
    if vision is not None:
        model.towers.get_submodule("vision").encoder = vision
    if hearing is not None:
        model.towers["audio"] = hearing


@contextmanager
def frozen_towers(model: Model) -> Iterator[Model]:
    """The same model without its towers, for ``FrozenProcessor`` batches; the towers are put back at the end."""
    vision, hearing = _vision(model), _hearing(model)
    seen = _GivenPatches() if isinstance(model, Avlm) else None if vision is None else _GivenHidden(vision)
    _place(model, seen, None if hearing is None else _GivenAudio(hearing))
    try:
        yield model
    finally:
        _place(model, vision, hearing)
