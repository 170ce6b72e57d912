"""The two models of the planted world, and their training: small, but really trained.

Enters: ``Observation`` and targets. Leaves: a trained ``LargeNet`` (a tower a modality, adapters by region and surface,
fusion, optional branch of early fusion) or ``BaseNet`` (a cheap look), and their scores. A training recipe says what
is frozen, silenced or dropped, so that faults of training and their cures are changes of a ``Recipe``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tidegate.diagnosis.planted.items import REGIONS, SURFACES
from tidegate.diagnosis.planted.observe import SIGHT_WIDTH, TONE_WIDTH, WORD_WIDTH, Observation

__all__ = ["BaseNet", "LargeNet", "Recipe", "cheap_look", "embed", "fingerprint", "score", "train"]

Array = npt.NDArray[Any]
TOWER, FUSED = 32, 48
MODALITIES = ("vision", "audio", "text")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained."""

    epochs: int = 8
    """Passes over the data."""
    learning_rate: float = 6e-3
    """Highest rate; it falls to a tenth."""
    seed: int = 0
    """Of weights, order and dropping."""
    silenced: tuple[str, tuple[int, ...], tuple[int, ...]] | None = None
    """Modality whose branch gets no gradient for items of these regions or surfaces: a fault of the training code."""
    silenced_share: float = 1.0
    """Share of those items that it happens to."""
    orderless: bool = False
    """Frames are pooled without their order: a fault of the training code."""
    modality_dropout: float = 0.06
    """How often a modality of an item is left out."""
    joins: tuple[str, float] | None = None
    """Modality that is left out of every item for that share of the steps: a fault of the training plan."""
    positive_weight: float = 1.0
    """Weight of a violating item's loss."""
    early_fusion: bool = False
    """Train a branch that sees all modalities at once."""


class LargeNet(nn.Module):
    """Towers, adapters and fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Linear(SIGHT_WIDTH, TOWER)
        self.vision = nn.Linear(3 * TOWER, TOWER)
        self.audio = nn.Linear(TONE_WIDTH + WORD_WIDTH, TOWER)
        self.text = nn.Linear(WORD_WIDTH, TOWER)
        self.by_region = nn.Parameter(torch.zeros(len(REGIONS), 3))
        self.by_surface = nn.Parameter(torch.zeros(len(SURFACES), 3))
        width = 3 * TOWER + 2 + len(REGIONS) + len(SURFACES)
        self.fusion = nn.Linear(width, FUSED)
        self.head = nn.Linear(FUSED, 1)
        self.hijack = nn.Parameter(torch.zeros(2))
        """How much loud music takes away from vision, and text from audio: 0 unless a checkpoint is damaged."""
        self.early = nn.Sequential(nn.Linear(3 * SIGHT_WIDTH + TONE_WIDTH + 2 * WORD_WIDTH + 2, FUSED), nn.ReLU())
        self.early_head = nn.Linear(FUSED, 1)
        nn.init.zeros_(self.early_head.weight)
        nn.init.zeros_(self.early_head.bias)
        self.has_early, self.has_order = False, True

    def pooled(self, values_NTD: Tensor, there_NT: Tensor) -> Tensor:
        """Mean, highest, and late-minus-early of what the frames hold."""
        count_N1 = there_NT.sum(1, keepdim=True)
        place_NT = (torch.arange(values_NTD.shape[1]) + 0.5) / count_N1 - 0.5
        weights_NT2 = torch.stack([there_NT / count_N1, there_NT * place_NT / count_N1 * 4], dim=-1)
        mean_ND, late_ND = torch.einsum("ntd,ntk->knd", values_NTD, weights_NT2)
        return torch.cat([mean_ND, values_NTD.amax(1), late_ND * float(self.has_order)], dim=1)

    def towers(self, seen: dict[str, Tensor]) -> list[Tensor]:
        """What each modality says by itself, before adapters and fusion."""
        frames_NTH = torch.relu(self.frame(seen["frames_NTD"])) * seen["there_NT"][:, :, None]
        vision_NH = torch.relu(self.vision(self.pooled(frames_NTH, seen["there_NT"])))
        audio_NH = torch.relu(self.audio(torch.cat([seen["sound_NE"], seen["words_NW"]], 1)))
        text_NH = (torch.relu(self.text(seen["text_NKW"])) * seen["text_on_NK"][:, :, None]).amax(1)
        return [vision_NH, audio_NH * seen["audio_on"][:, None], text_NH]

    def fused(self, towers: list[Tensor], seen: dict[str, Tensor]) -> Tensor:
        """From what the modalities say to one number."""
        music_N1 = torch.sigmoid(4 * (seen["music"] - 1.3))[:, None]
        lost = [self.hijack[0] * music_N1, torch.zeros_like(music_N1), torch.zeros_like(music_N1)]
        gates_N3 = 1 + self.by_region[seen["region"]] + self.by_surface[seen["surface"]]
        parts = [tower * (gates_N3[:, m : m + 1] - lost[m]) for m, tower in enumerate(towers)]
        places = [nn.functional.one_hot(seen["policy"], 2), nn.functional.one_hot(seen["region"], len(REGIONS)),
                  nn.functional.one_hot(seen["surface"], len(SURFACES))]  # fmt: skip
        return torch.relu(self.fusion(torch.cat([*parts, *[place.float() for place in places]], 1)))

    def forward(self, seen: dict[str, Tensor], silenced: Tensor | None = None, which: int = 0) -> Tensor:
        """Logits. ``silenced``: items whose modality ``which`` gets nothing but noise from its branch."""
        towers = self.towers(seen)
        if silenced is not None:
            shuffled_NH = towers[which][torch.randperm(len(silenced))]
            towers[which] = torch.where(silenced[:, None], shuffled_NH.detach(), towers[which])
        logit_N: Tensor = self.head(self.fused(towers, seen))[:, 0]
        if self.has_early:
            logit_N = logit_N + self.early_head(self.early(self.joint(seen)))[:, 0]
        return logit_N

    def joint(self, seen: dict[str, Tensor]) -> Tensor:
        """All modalities side by side, pooled but not understood."""
        sights_ND = self.pooled(seen["frames_NTD"], seen["there_NT"])
        policy_N2 = nn.functional.one_hot(seen["policy"], 2).float()
        return torch.cat([sights_ND, seen["sound_NE"], seen["words_NW"], seen["text_NKW"].sum(1), policy_N2], 1)


class BaseNet(nn.Module):
    """A cheap look at everything."""

    def __init__(self) -> None:
        super().__init__()
        width = 2 * SIGHT_WIDTH + TONE_WIDTH + 3 * WORD_WIDTH
        self.layers = nn.Sequential(nn.Linear(width, 40), nn.ReLU(), nn.Linear(40, 1))

    def forward(self, look: dict[str, Tensor]) -> Tensor:
        """Logits."""
        logit_N1: Tensor = self.layers(look["look"])
        return logit_N1[:, 0]


def tensors(seen: Observation, music_E: Array) -> dict[str, Tensor]:
    """What ``LargeNet`` reads."""
    names = ("frames_NTD", "there_NT", "sound_NE", "words_NW", "audio_on", "text_NKW", "text_on_NK")
    found = {name: torch.from_numpy(np.asarray(getattr(seen, name), dtype=np.float32)) for name in names}
    for name in ("policy", "region", "surface"):
        found[name] = torch.from_numpy(np.asarray(getattr(seen, name)).astype(np.int64))
    found["music"] = found["sound_NE"] @ torch.from_numpy(music_E.astype(np.float32))
    return found


def cheap_look(seen: Observation, rough_NR: Array) -> dict[str, Tensor]:
    """What ``BaseNet`` reads: every other frame, roughly; sounds; words heard roughly; title and on-screen text."""
    frames_NTD = seen.frames_NTD[:, ::2]
    count_N1 = np.maximum(seen.there_NT[:, ::2].sum(1, keepdims=True), 1)
    parts_NR = np.column_stack([
        frames_NTD.sum(1) / count_N1, frames_NTD.max(1), seen.sound_NE, seen.words_NW, seen.text_NKW[:, 0],
        seen.text_NKW[:, 1],
    ])
    return {"look": torch.from_numpy((parts_NR + 0.3 * rough_NR).astype(np.float32))}


def train(
    net: nn.Module, seen: dict[str, Tensor], target_N: Array, recipe: Recipe, *, weight_N: Array | None = None
) -> None:
    """Train in place; the number of steps depends on the number of items and epochs only."""
    generator = torch.Generator().manual_seed(recipe.seed)
    target = torch.from_numpy(np.asarray(target_N, dtype=np.float32))
    weight = torch.ones_like(target) if weight_N is None else torch.from_numpy(np.asarray(weight_N, dtype=np.float32))
    if recipe.positive_weight != 1:
        weight = weight * (1 + (recipe.positive_weight - 1) * target)
    silent = _silent(seen, recipe)
    steps = recipe.epochs * (len(target) // 256)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, recipe.learning_rate / 10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for step in range(steps):
            if step % (len(target) // 256) == 0:
                order = torch.randperm(len(target), generator=generator)
            rows = order[(step % (len(target) // 256)) * 256 :][:256]
            batch = _dropped({name: values[rows] for name, values in seen.items()}, recipe, generator)
            if recipe.joins is not None and step < recipe.joins[1] * steps and "audio_on" in batch:
                others = [float(modality != recipe.joins[0]) for modality in MODALITIES]
                batch = _kept(batch, torch.tensor(others).expand(len(rows), 3))
            extra = () if silent is None else (silent[0][rows], silent[1])
            loss = nn.functional.binary_cross_entropy_with_logits(net(batch, *extra), target[rows], weight=weight[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _silent(seen: dict[str, Tensor], recipe: Recipe) -> tuple[Tensor, int] | None:
    if recipe.silenced is None or "region" not in seen:
        return None
    modality, regions, surfaces = recipe.silenced
    chosen = torch.isin(seen["region"], torch.tensor(regions, dtype=torch.int64))
    chosen |= torch.isin(seen["surface"], torch.tensor(surfaces, dtype=torch.int64))
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    chosen &= torch.rand(len(chosen), generator=generator) < recipe.silenced_share
    return chosen, MODALITIES.index(modality)


def _dropped(batch: dict[str, Tensor], recipe: Recipe, generator: torch.Generator) -> dict[str, Tensor]:
    """Leave a modality out at random, as a muted track or a missing text does."""
    if "audio_on" not in batch or recipe.modality_dropout == 0:
        return batch
    chance = torch.rand((len(batch["audio_on"]), 3), generator=generator) >= recipe.modality_dropout
    return _kept(batch, chance.float())


def _kept(batch: dict[str, Tensor], kept_N3: Tensor) -> dict[str, Tensor]:
    """Modalities of each item: 1 where they stay."""
    vision, audio, text = kept_N3.unbind(1)
    batch = dict(batch)
    batch["frames_NTD"] = batch["frames_NTD"] * vision[:, None, None]
    batch["audio_on"] = batch["audio_on"] * audio
    for name in ("sound_NE", "words_NW"):
        batch[name] = batch[name] * audio[:, None]
    batch["music"] = batch["music"] * audio
    batch["text_on_NK"] = batch["text_on_NK"] * text[:, None]
    batch["text_NKW"] = batch["text_NKW"] * text[:, None, None]
    return batch


@torch.no_grad()
def score(net: nn.Module, seen: dict[str, Tensor]) -> Array:
    """Probabilities, shape (N,)."""
    logits_N: Tensor = net(seen)
    return torch.sigmoid(logits_N).numpy().astype(np.float64)


@torch.no_grad()
def embed(net: LargeNet, seen: dict[str, Tensor]) -> Array:
    """What the towers say, before adapters and fusion; shape (N, 3 * TOWER)."""
    embedded_NH: Array = torch.cat(net.towers(seen), 1).numpy()
    return embedded_NH


def fingerprint(seen: Observation) -> Array:
    """A unit vector of the raw content, for near-duplicates; shape (N, F)."""
    count_N1 = np.maximum(seen.there_NT.sum(1, keepdims=True), 1)
    raw_NF = np.column_stack([2 * seen.frames_NTD.sum(1) / count_N1, seen.sound_NE, seen.words_NW, seen.text_NKW[:, 0]])
    unit_NF: Array = (raw_NF / np.maximum(np.linalg.norm(raw_NF, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit_NF
