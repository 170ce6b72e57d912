"""The committed recipe of the shipped tiny checkpoints: ``python -m tidegate.training.tiny --data M --out DIR``.

Enters: a manifest of the synthetic corpus. Leaves: ``DIR/base`` and ``DIR/large`` (float16), and ``DIR/work`` with
all that lies between. Steps: (1) the base stage, on drawings and then on the training split; (2) vision and audio
towers alone, on drawings; (3) the AVLM's language model over the frozen towers, on drawn pictures, soundtracks and
texts put together at random; (4) the whole AVLM on the training split. A step whose result lies there already is
not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tidegate.models.avlm import Avlm
from tidegate.models.build import build_model
from tidegate.models.card import Card
from tidegate.models.checkpoint import load_checkpoint, save_checkpoint
from tidegate.models.configs import AvlmConfig, MultiTowerConfig
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer, encode_texts, prompt_lines
from tidegate.training.augment import augment
from tidegate.training.console import console_progress
from tidegate.training.dense import draw_pictures, train_patches
from tidegate.training.frozen import fit_frozen, run_towers
from tidegate.training.loop import Examples, fit
from tidegate.training.recipes import OptimiserConfig, TrainRecipe, tiny_avlm, tiny_base
from tidegate.training.stage import SYNTHETIC_NOTICE, Progress, train_stage
from tidegate.training.towers import held_out, train_audio_tower, transplant
from tidegate.training.warmup import (
    WARMUP_SEED,
    PairedTable,
    audio_examples,
    draw_texts,
    paired_targets,
    picture_examples,
)

__all__ = ["WarmupConfig", "main", "warm_avlm", "warm_base"]


@dataclass(frozen=True, kw_only=True)
class WarmupConfig:
    """How long the tiny AVLM is warmed up."""

    drawings: int = 6_000
    """Single pictures for the vision tower."""
    vision_epochs: int = 16
    """Passes of the vision tower over its pictures."""
    vision_rate: float = 2e-3
    """Peak learning rate of the vision tower alone."""
    soundtracks: int = 12_000
    """Drawn soundtracks for the audio tower."""
    audio_epochs: int = 3
    """Passes of the audio tower over its soundtracks."""
    audio_rate: float = 2e-3
    """Peak learning rate of the audio tower alone."""
    base_epochs: int = 2
    """Passes of the base stage over drawings put together."""
    base_frames: int = 2
    """Frames of a drawn clip that the base stage is warmed up on."""
    pictures: int = 6_000
    """Drawn clips that are put together with soundtracks and texts."""
    joint_epochs: int = 4
    """Passes of the language model over what was put together."""
    joint_rate: float = 1e-3
    """Peak learning rate of the language model over frozen towers."""
    dropout: float = 0.05
    """Probability that a modality is taken away while towers are frozen."""


def _alone(rate: float, epochs: int) -> OptimiserConfig:
    return OptimiserConfig(
        epochs=epochs, learning_rate=rate, auxiliary_weight=1.0, label_smoothing=0.0, patience=epochs
    )


def _kept(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state in ``path``; made first if it is not there."""
    if not path.exists():
        save_file({name: tensor.contiguous() for name, tensor in make().items()}, path)
    return load_file(path)


def _vision_tower(
    recipe: TrainRecipe, config: WarmupConfig, work: Path, seed: int, progress: Progress
) -> dict[str, Tensor]:
    assert isinstance(recipe.model, AvlmConfig)
    vision = recipe.model.vision_language["vision_config"]

    def make() -> Mapping[str, Tensor]:
        drawings = draw_pictures(
            config.drawings,
            recipe.processor,
            vision["patch_size"],
            work / "drawings",
            seed=WARMUP_SEED + 10,
            progress=progress.on_decode,
        )
        rates = replace(_alone(config.vision_rate, config.vision_epochs), batch_size=64)
        return train_patches(
            vision, recipe.processor, drawings, rates, seed=seed, on_epoch=progress.on_epoch
        ).state_dict()

    return _kept(work / "vision.safetensors", make)


def _audio_tower(
    recipe: TrainRecipe, config: WarmupConfig, sounds: Examples, work: Path, *, seed: int, progress: Progress
) -> MultiTower:
    assert isinstance(recipe.model, AvlmConfig)
    rates = _alone(config.audio_rate, config.audio_epochs)
    avlm, processor = recipe.model, recipe.processor

    def make() -> Mapping[str, Tensor]:
        trained, _ = train_audio_tower(avlm, processor, sounds, rates, seed=seed, on_epoch=progress.on_epoch)
        return trained.state_dict()

    model = MultiTower(MultiTowerConfig(issue=avlm.issue, audio=avlm.audio))
    model.load_state_dict(_kept(work / "audio.safetensors", make))
    return model


def _drawn_clips(
    recipe: TrainRecipe, config: WarmupConfig, work: Path, progress: Progress
) -> tuple[Examples, Examples]:
    """Drawn pictures at the AVLM's size, and drawn soundtracks."""
    seen = ClipProcessor(replace(recipe.processor, modalities=("vision",), video_tokens_per_frame=0), None)
    heard = ClipProcessor(replace(recipe.processor, modalities=("audio",), video_tokens_per_frame=0), None)
    pictures = picture_examples(config.pictures, seen, work / "pictures", progress=progress.on_decode)
    return pictures, audio_examples(config.soundtracks, heard, work / "soundtracks", progress=progress.on_decode)


def _drawn_targets(
    pictures: Examples, sounds: Examples, processor: ClipProcessor
) -> tuple[list[npt.NDArray[np.int64]], dict[str, npt.NDArray[np.int64]]]:
    """Token ids of drawn texts, and the targets of picture i, soundtrack i and texts i put together."""
    count = min(len(pictures), len(sounds))
    texts, longest, tokenizer = draw_texts(count), processor.config.max_text_tokens, processor.tokenizer
    assert tokenizer is not None
    columns = [
        {**{name: column[:count] for name, column in part.auxiliary.items()}, "label": part.labels[:count]}
        for part in (pictures, sounds)
    ]
    token_ids = [np.asarray(encode_texts(tokenizer, spans, longest)[0], dtype=np.int64) for spans in texts.texts]
    return token_ids, paired_targets(columns[0], columns[1], texts)


def _paired(model: Avlm, processor: ClipProcessor, pictures: Examples, sounds: Examples) -> Examples:
    """Drawn clips after the towers."""
    token_ids, targets = _drawn_targets(pictures, sounds, processor)
    seen = run_towers(model, processor, pictures, limit=len(token_ids))
    heard = run_towers(model, processor, sounds, limit=len(token_ids))
    table = replace(seen, audio_ND=heard.audio_ND, has_audio_N=heard.has_audio_N, token_ids=token_ids)
    labels = targets.pop("label")
    return Examples(table=table, rows=np.arange(len(table)), labels=labels, auxiliary=targets)


def warm_base(recipe: TrainRecipe, config: WarmupConfig, work: Path, seed: int, progress: Progress) -> Path:
    """A checkpoint folder from which the base stage's training starts."""
    folder = work / "warm-base"
    if (folder / "config.json").exists():
        return folder
    pictures, sounds = _drawn_clips(tiny_avlm(recipe.model.issue), config, work, progress)
    tokenizer = build_tokenizer((prompt_lines(spans) for spans in draw_texts(4000).texts), recipe.vocab_size)
    processor = ClipProcessor(recipe.processor, tokenizer)
    token_ids, targets = _drawn_targets(pictures, sounds, processor)
    few = replace(recipe.processor, num_frames=config.base_frames)
    table = PairedTable(pictures=pictures, sounds=sounds, token_ids=token_ids, processor=few)
    labels = targets.pop("label")
    examples = Examples(table=table, rows=np.arange(len(table)), labels=labels, auxiliary=targets)
    train, validation = held_out(examples, 400)
    torch.manual_seed(seed)
    model = build_model(recipe.model)
    fit(
        model,
        processor,
        train,
        replace(validation, auxiliary={}),
        _alone(config.joint_rate, config.base_epochs),
        change=lambda item, rng: augment(item, recipe.augment, rng),
        seed=seed,
        on_epoch=progress.on_epoch,
        on_step=progress.on_step,
    )
    card = Card(name=f"{recipe.name}-warm", issue=recipe.model.issue, notice=SYNTHETIC_NOTICE, seed=seed)
    save_checkpoint(model, processor, folder, card)
    return folder


def warm_avlm(recipe: TrainRecipe, config: WarmupConfig, work: Path, seed: int, progress: Progress) -> Path:
    """A checkpoint folder from which the AVLM's training starts."""
    folder = work / "warm"
    if (folder / "config.json").exists():
        return folder
    assert isinstance(recipe.model, AvlmConfig)
    work.mkdir(parents=True, exist_ok=True)
    vision = _vision_tower(recipe, config, work, seed, progress)
    pictures, sounds = _drawn_clips(recipe, config, work, progress)
    audio = _audio_tower(recipe, config, sounds, work, seed=seed, progress=progress)
    tokenizer = build_tokenizer((prompt_lines(spans) for spans in draw_texts(4000).texts), recipe.vocab_size)
    processor = ClipProcessor(recipe.processor, tokenizer)
    torch.manual_seed(seed)
    model = Avlm(recipe.model)
    transplant(model, vision=vision, audio=audio)
    train, validation = held_out(_paired(model, processor, pictures, sounds), 400)
    fit_frozen(
        model,
        processor,
        train,
        replace(validation, auxiliary={}),
        _alone(config.joint_rate, config.joint_epochs),
        dropout=config.dropout,
        seed=seed,
        on_epoch=progress.on_epoch,
        on_step=progress.on_step,
    )
    card = Card(name=f"{recipe.name}-warm", issue=recipe.model.issue, notice=SYNTHETIC_NOTICE, seed=seed)
    save_checkpoint(model, processor, folder, card)
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Run the recipe; what is there already is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="manifest of the synthetic icd corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder of the two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="processor threads of torch")
    chosen = parser.parse_args(arguments)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    work, command = chosen.out / "work", "python -m tidegate.training.tiny " + " ".join(sys.argv[1:])
    with console_progress() as progress:
        for name, recipe in (("base", tiny_base()), ("large", tiny_avlm())):
            if (chosen.out / name / "config.json").exists():
                load_checkpoint(chosen.out / name)
                continue
            warm = warm_avlm if name == "large" else warm_base
            init = warm(recipe, WarmupConfig(), work, chosen.seed, progress)
            train_stage(
                chosen.data,
                chosen.out / name,
                recipe,
                init=init,
                seed=chosen.seed,
                cache=work / "features",
                half=True,
                command=command,
                progress=progress,
            )


if __name__ == "__main__":
    main()
