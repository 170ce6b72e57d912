"""What a training run starts from: new weights, a checkpoint, or published parts; and what of it is new.

Enters: a recipe and where to start. Leaves: a model with a head for each issue, its processor, and a sentence for
everything that did not come along, because weights that are new must be known to be new. Another fusion than the
checkpoint's keeps every tensor whose name and shape fit (all towers and the language model do).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tidegate.corpus.manifest import Entry
from tidegate.errors import CheckpointError, ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.build import Model, build_model
from tidegate.models.checkpoint import load_checkpoint
from tidegate.models.compose import compose_avlm
from tidegate.models.configs import Fusion
from tidegate.models.heads import IssueHeads
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer, prompt_lines
from tidegate.training.recipes import TrainRecipe

__all__ = ["PublishedParts", "Start", "for_issues", "fused_as", "new_model", "started"]


@dataclass(frozen=True, kw_only=True)
class PublishedParts:
    """Published weights that an AVLM starts from; its last layer is new."""

    vl: str
    """LLaVA-OneVision: hub id or local folder."""
    audio: str | None = None
    """Whisper: hub id or local folder; None: the model does not listen."""
    num_frames: int = 8
    """Frames sampled from a video."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """A model before its first step."""

    model: Model
    processor: ClipProcessor
    notes: tuple[str, ...] = ()
    """What of it is new, where it started from weights."""


def started(
    recipe: TrainRecipe, train: Sequence[Entry], seed: int, init: Path | None, parts: PublishedParts | None
) -> Start:
    """The model that a run starts from, its fusion and heads as the recipe wants them."""
    model, processor = _initial(recipe, train, seed, init, parts)
    notes = []
    if recipe.fusion is not None:
        model, processor, said = fused_as(model, processor, recipe.fusion, seed)
        notes.append(said)
    if for_issues(model, recipe.model.issues, seed):
        notes.append(f"the head of {', '.join(recipe.model.issues)} was new")
    return Start(model=model, processor=processor, notes=() if init is None and parts is None else tuple(notes))


def new_model(recipe: TrainRecipe, train: Sequence[Entry], seed: int) -> tuple[Model, ClipProcessor]:
    """A model with new weights, and its processor with a vocabulary of the training texts."""
    texts = [prompt_lines(entry.texts) for entry in train]
    tokenizer = build_tokenizer(texts, recipe.vocab_size) if "text" in recipe.model.modalities else None
    torch.manual_seed(seed)
    return build_model(recipe.model), ClipProcessor(recipe.processor, tokenizer)


def _initial(
    recipe: TrainRecipe, train: Sequence[Entry], seed: int, init: Path | None, parts: PublishedParts | None
) -> tuple[Model, ClipProcessor]:
    if init is not None and parts is not None:
        raise ConfigError("expected one thing to start from, got a checkpoint and published parts")
    if parts is not None:
        composed, processor, _ = compose_avlm(
            issue=recipe.model.issue, vl=parts.vl, audio=parts.audio, num_frames=parts.num_frames
        )
        return composed, processor
    if init is None:
        if recipe.starts_from_weights:
            raise ConfigError(f"recipe {recipe.name!r}: expected a checkpoint or published weights to start from")
        return new_model(recipe, train, seed)
    loaded, processor, _ = load_checkpoint(init)
    if type(loaded.config) is not type(recipe.model):
        raise CheckpointError(
            f"expected a {type(recipe.model).__name__} in {init} for recipe {recipe.name!r}, "
            f"found {type(loaded.config).__name__}"
        )
    return loaded, processor


def fused_as(model: Model, processor: ClipProcessor, fusion: Fusion, seed: int) -> tuple[Model, ClipProcessor, str]:
    """The model with its audio fused as wanted, its processor, and what of it is new, in words.

    Kept is what has the same name and shape: towers and language model. New are the verdict heads where their width
    changes, and the audio projector of early fusion. A model that is fused so already is returned as it is.
    """
    if not isinstance(model, Avlm):
        raise ConfigError(f"expected an AVLM for {fusion} fusion, got a {type(model).__name__}: its towers fuse late")
    had = model.config.fusion
    if had == fusion:
        return model, processor, f"fusion was {fusion} already: nothing is new"
    if had == "none":
        raise ConfigError(f"expected a model that listens for {fusion} fusion, got one without an audio tower")
    torch.manual_seed(seed)
    audio = None if fusion == "none" else model.config.audio
    fresh = Avlm(replace(model.config, fusion=fusion, audio_tokens=1, audio=audio))
    own, given = fresh.state_dict(), model.state_dict()
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    fresh.load_state_dict(fitting, strict=False)
    new = sorted(own.keys() - fitting.keys())
    said = f"fusion {had} became {fusion}: {len(fitting)} tensors were kept, {len(new)} are new ({', '.join(new)})"
    settings = replace(processor.config, modalities=fresh.config.modalities)
    return fresh.eval(), ClipProcessor(settings, processor.tokenizer), said


def for_issues(model: Model, issues: tuple[str, ...], seed: int) -> bool:
    """Give the model a head for each of ``issues``; a head it has keeps its weights. Whether any is new."""
    had = model.config.issues
    if had == issues:
        return False
    torch.manual_seed(seed)
    heads = IssueHeads(model.width, len(issues))
    with torch.no_grad():
        for place, issue in enumerate(issues):
            if issue in had:
                mine, theirs = slice(2 * place, 2 * place + 2), slice(2 * had.index(issue), 2 * had.index(issue) + 2)
                heads.weight[mine], heads.bias[mine] = model.head.weight[theirs], model.head.bias[theirs]
    model.head = heads
    model.config = replace(model.config, issue=issues[0], more_issues=issues[1:])  # type: ignore[assignment]
    return any(issue not in had for issue in issues)
