"""The committed recipe of the shipped tiny checkpoints: ``python -m tidegate.training.tiny --data M --out DIR``.

Enters: a manifest of the synthetic corpus. Leaves: ``DIR/base`` and ``DIR/large`` (float16), and ``DIR/work`` with
all that lies between. Steps: (1) the vision tower, with one target a patch, and the audio tower, on drawings; (2)
over those frozen towers, the language model of the AVLM and the pooling and text tower of the base, on drawn
pictures, soundtracks and texts put together at random; (3) both on the training split, first over frozen towers,
then whole, and the better of the two by validation is kept; (4) ``DIR/foundation``: the warmed-up models, which have
seen no video of a manifest, and a smaller audio tower, for ``tidegate reproduce``. A second process draws while this
one trains. A step whose result lies there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tidegate.corpus.manifest import read_manifest
from tidegate.models.avlm import Avlm
from tidegate.models.build import Model, build_model
from tidegate.models.card import Card
from tidegate.models.checkpoint import load_checkpoint, save_checkpoint
from tidegate.models.configs import AvlmConfig, MultiTowerConfig
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer, encode_texts, prompt_lines
from tidegate.training.console import console_progress
from tidegate.training.dense import draw_pictures, train_patches
from tidegate.training.evaluate import entries_of
from tidegate.training.features import load_features
from tidegate.training.frozen import FrozenTable, fit_frozen, run_towers
from tidegate.training.loop import Examples
from tidegate.training.recipes import OptimiserConfig, TrainRecipe, tiny_avlm, tiny_base
from tidegate.training.stage import SYNTHETIC_NOTICE, Progress, train_stage
from tidegate.training.towers import train_audio_tower, transplant, transplant_base
from tidegate.training.warmup import (
    WARMUP_SEED,
    PairedTowers,
    audio_examples,
    draw_texts,
    paired_targets,
    picture_examples,
)

__all__ = ["WarmupConfig", "main", "warm_up"]


@dataclass(frozen=True, kw_only=True)
class WarmupConfig:
    """How long the tiny models are warmed up."""

    drawings: int = 10_000
    """Single pictures for the vision tower."""
    vision_epochs: int = 16
    """Passes of the vision tower over its pictures."""
    vision_rate: float = 2e-3
    """Peak learning rate of the vision tower alone."""
    soundtracks: int = 10_000
    """Drawn soundtracks for the audio tower."""
    audio_epochs: int = 8
    """Passes of the audio tower over its soundtracks."""
    audio_rate: float = 2e-3
    """Peak learning rate of the audio tower alone."""
    pictures: int = 6_000
    """Drawn clips that are put together with soundtracks and texts."""
    pairs: int = 24_000
    """How many are put together; each is seen once."""
    held_out: int = 300
    """Last pictures and soundtracks, which only the check of the warm-up sees."""
    joint_rate: float = 1e-3
    """Peak learning rate over frozen towers."""
    dropout: float = 0.05
    """Probability that a modality is taken away while towers are frozen."""


SMALL_AUDIO = {"d_model": 32, "encoder_attention_heads": 1, "encoder_ffn_dim": 96}
"""What a smaller audio tower differs in; it has about a ninth of the weights."""


def _alone(rate: float, epochs: int) -> OptimiserConfig:
    return OptimiserConfig(
        epochs=epochs, learning_rate=rate, auxiliary_weight=1.0, label_smoothing=0.0, patience=epochs
    )


def _kept(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state in ``path``; made first if it is not there."""
    if not path.exists():
        fresh = path.with_suffix(".part")
        save_file({name: tensor.contiguous() for name, tensor in make().items()}, fresh)
        fresh.replace(path)
    return load_file(path)


def _noted(progress: Progress, text: str, started: float) -> None:
    progress.note(f"{text}: {time.perf_counter() - started:.0f} s")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Warmup:
    """What all steps of the warm-up share."""

    large: TrainRecipe
    base: TrainRecipe
    config: WarmupConfig
    work: Path
    seed: int
    progress: Progress

    @property
    def avlm(self) -> AvlmConfig:
        assert isinstance(self.large.model, AvlmConfig)
        return self.large.model

    def alone(self, modality: str) -> ClipProcessor:
        """The AVLM's preprocessing of one modality."""
        changed = replace(self.large.processor, modalities=(modality,), video_tokens_per_frame=0)  # type: ignore[arg-type]
        return ClipProcessor(changed, None)

    def drawings(self) -> Path:
        patch = self.avlm.vision_language["vision_config"]["patch_size"]
        folder = self.work / "drawings"
        draw_pictures(self.config.drawings, self.large.processor, patch, folder, seed=WARMUP_SEED + 10)
        return folder

    def sounds(self) -> Examples:
        return audio_examples(self.config.soundtracks, self.alone("audio"), self.work / "soundtracks")

    def pictures(self) -> Examples:
        return picture_examples(self.config.pictures, self.alone("vision"), self.work / "pictures")


def _draw(warmup: _Warmup) -> None:
    """All drawings, in the order in which they are wanted; runs in a process of its own."""
    torch.set_num_threads(1)
    warmup.drawings()
    (warmup.work / "drawings" / "done").touch()
    warmup.sounds()
    (warmup.work / "soundtracks" / "done").touch()
    warmup.pictures()
    (warmup.work / "pictures" / "done").touch()


@contextmanager
def _drawn_meanwhile(warmup: _Warmup) -> Iterator[Callable[[str], None]]:
    """Draw in a second process; what is given waits for one kind of drawing."""
    quiet = replace(warmup, progress=Progress())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as second:
        drawing = second.submit(_draw, quiet)

        def wait(kind: str) -> None:
            while not (warmup.work / kind / "done").exists():
                if drawing.done():
                    drawing.result()
                time.sleep(0.5)

        yield wait
        drawing.result()


def _vision_tower(warmup: _Warmup) -> dict[str, Tensor]:
    vision, config = warmup.avlm.vision_language["vision_config"], warmup.config

    def make() -> Mapping[str, Tensor]:
        folder, started = warmup.work / "drawings", time.perf_counter()
        drawings = draw_pictures(
            config.drawings, warmup.large.processor, vision["patch_size"], folder, seed=WARMUP_SEED + 10
        )
        rates = replace(_alone(config.vision_rate, config.vision_epochs), batch_size=64)
        report = warmup.progress.on_epoch
        trained = train_patches(
            vision, warmup.large.processor, drawings, rates, seed=warmup.seed, on_epoch=report
        ).state_dict()
        _noted(warmup.progress, "vision tower", started)
        return trained

    return _kept(warmup.work / "vision.safetensors", make)


def _audio_tower(warmup: _Warmup, name: str = "audio", **changes: object) -> MultiTower:
    """The AVLM's audio tower, or one that differs from it by ``changes`` of its configuration."""
    config, seed = warmup.config, warmup.seed
    assert warmup.avlm.audio is not None
    avlm = replace(warmup.avlm, audio={**warmup.avlm.audio, **changes})
    rates = _alone(config.audio_rate, config.audio_epochs)

    def make() -> Mapping[str, Tensor]:
        started, report = time.perf_counter(), warmup.progress.on_epoch
        sounds = warmup.sounds()
        trained, _ = train_audio_tower(avlm, warmup.large.processor, sounds, rates, seed=seed, on_epoch=report)
        _noted(warmup.progress, f"{name} tower", started)
        return trained.state_dict()

    model = MultiTower(MultiTowerConfig(issue=avlm.issue, audio=avlm.audio))
    model.load_state_dict(_kept(warmup.work / f"{name}.safetensors", make))
    return model


def _write_foundation(warmup: _Warmup, warm: Mapping[str, Path], folder: Path) -> None:
    """The warmed-up models and the smaller audio tower, as float16."""
    for name, path in warm.items():
        save_checkpoint(*_plain(path), folder / f"warm-{name}", load_checkpoint(path)[2], half=True)
    small = _audio_tower(warmup, "audio-small", **SMALL_AUDIO)
    state = {name: tensor.half().contiguous() for name, tensor in small.state_dict().items()}
    save_file(state, folder / "audio-small.safetensors")
    (folder / "audio-small.json").write_text(json.dumps(small.config.audio, indent=1) + "\n", encoding="utf-8")


def _plain(path: Path) -> tuple[Model, ClipProcessor]:
    model, processor, _ = load_checkpoint(path)
    return model, processor


def processor_of(recipe: TrainRecipe) -> ClipProcessor:
    """The recipe's preprocessing, with a vocabulary of drawn texts."""
    tokenizer = build_tokenizer((prompt_lines(spans) for spans in draw_texts(4000).texts), recipe.vocab_size)
    return ClipProcessor(recipe.processor, tokenizer)


def _columns(part: Examples, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {**{name: column[rows] for name, column in part.auxiliary.items()}, "label": part.labels[rows]}


def _paired(
    warmup: _Warmup,
    processor: ClipProcessor,
    drawn: tuple[Examples, Examples],
    towers: tuple[FrozenTable, FrozenTable],
    *,
    held: bool,
) -> Examples:
    """Random pairs of pictures, soundtracks and texts; held-out pictures and soundtracks or the others."""
    config, rng = warmup.config, np.random.default_rng([warmup.seed, int(held)])
    count = 2 * config.held_out if held else config.pairs

    def rows(part: Examples) -> np.ndarray:
        first = len(part) - config.held_out if held else 0
        size = config.held_out if held else len(part) - config.held_out
        return first + np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count]

    picture_N, sound_N = rows(drawn[0]), rows(drawn[1])
    texts = draw_texts(count, WARMUP_SEED + 2 + int(held))
    tokenizer, longest = processor.tokenizer, processor.config.max_text_tokens
    assert tokenizer is not None
    table = PairedTowers(
        seen=towers[0],
        heard=towers[1],
        token_ids=[np.asarray(encode_texts(tokenizer, spans, longest)[0], dtype=np.int64) for spans in texts.texts],
        picture_N=picture_N,
        sound_N=sound_N,
        frames=_frames_of(processor, warmup.large.processor.num_frames),
    )
    targets = paired_targets(_columns(drawn[0], picture_N), _columns(drawn[1], sound_N), texts)
    labels = targets.pop("label")
    return Examples(table=table, rows=np.arange(count), labels=labels, auxiliary={} if held else targets)


def _frames_of(processor: ClipProcessor, drawn: int) -> tuple[int, ...]:
    """Which of the drawn frames a model looks at: the middles of equal stretches."""
    wanted = processor.config.num_frames
    return tuple(int((place + 0.5) * drawn / wanted) for place in range(wanted))


def warm_up(
    large: TrainRecipe,
    base: TrainRecipe,
    config: WarmupConfig,
    work: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> dict[str, Path]:
    """Checkpoint folders from which the training of ``large`` and ``base`` starts.

    ``meanwhile`` is called while the first pictures are drawn.
    """
    folders = {"large": work / "warm-large", "base": work / "warm-base"}
    if all((folder / "config.json").exists() for folder in folders.values()):
        return folders
    work.mkdir(parents=True, exist_ok=True)
    warmup = _Warmup(large=large, base=base, config=config, work=work, seed=seed, progress=progress or Progress())
    with _drawn_meanwhile(warmup) as wait:
        meanwhile()
        wait("drawings")
        vision = _vision_tower(warmup)
        wait("soundtracks")
        audio = _audio_tower(warmup)
        wait("pictures")
    _warm_both(warmup, folders, vision, audio)
    return folders


def _warm_both(warmup: _Warmup, folders: Mapping[str, Path], vision: Mapping[str, Tensor], audio: MultiTower) -> None:
    drawn, progress = (warmup.pictures(), warmup.sounds()), warmup.progress
    towers: tuple[FrozenTable, FrozenTable] | None = None
    for name, recipe in (("large", warmup.large), ("base", warmup.base)):
        started, processor = time.perf_counter(), processor_of(recipe)
        torch.manual_seed(warmup.seed)
        model = build_model(recipe.model)
        if isinstance(model, Avlm):
            transplant(model, vision=vision, audio=audio)
            towers = (run_towers(model, processor, drawn[0]), run_towers(model, processor, drawn[1]))
            _noted(progress, "towers over drawings", started)
        else:
            transplant_base(model, vision=vision, audio=audio)
        assert towers is not None
        fit_frozen(
            model,
            processor,
            _paired(warmup, processor, drawn, towers, held=False),
            _paired(warmup, processor, drawn, towers, held=True),
            _alone(warmup.config.joint_rate, 1),
            dropout=warmup.config.dropout,
            seed=warmup.seed,
            on_epoch=progress.on_epoch,
            on_step=progress.on_step,
        )
        card = Card(name=f"{recipe.name}-warm", issue=recipe.model.issue, notice=SYNTHETIC_NOTICE, seed=warmup.seed)
        save_checkpoint(model, processor, folders[name], card)
        _noted(progress, f"warm-up of {recipe.name} over frozen towers", started)


def _decode(data: Path, recipes: tuple[TrainRecipe, ...], cache: Path, progress: Progress) -> None:
    """Features of all videos, in the order in which ``train_stage`` asks for them."""
    manifest, started = read_manifest(data), time.perf_counter()
    for recipe in recipes:
        splits = [entries_of(manifest, name, recipe.model.issue) for name in ("train", "validation", "test")]
        load_features([x for part in splits for x in part], processor_of(recipe), cache, progress=progress.on_decode)
    _noted(progress, "decoding and preprocessing", started)


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
    work, cache = chosen.out / "work", chosen.out / "work" / "features"
    command, large, base = "python -m tidegate.training.tiny " + " ".join(sys.argv[1:]), tiny_avlm(), tiny_base()
    with console_progress() as progress:
        warm = warm_up(
            large, base, WarmupConfig(), work, seed=chosen.seed, progress=progress,
            meanwhile=lambda: _decode(chosen.data, (large, base), cache, progress),
        )  # fmt: skip
        for name, recipe in (("large", large), ("base", base)):
            started = time.perf_counter()
            if not (chosen.out / name / "config.json").exists():
                train_stage(
                    chosen.data,
                    chosen.out / name,
                    recipe,
                    init=warm[name],
                    seed=chosen.seed,
                    cache=cache,
                    half=True,
                    command=command,
                    progress=progress,
                )
                _noted(progress, f"{recipe.name} on the training split", started)
        warmup = _Warmup(large=large, base=base, config=WarmupConfig(), work=work, seed=chosen.seed, progress=progress)
        if not (chosen.out / "foundation" / "audio-small.json").exists():
            _write_foundation(warmup, warm, chosen.out / "foundation")


if __name__ == "__main__":
    main()
