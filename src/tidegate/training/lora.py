"""Low-rank adapters on an AVLM's language model, and which parts of it are trained at all.

Enters: an ``Avlm`` and an ``AdapterConfig``. Leaves: the same model, with LoRA layers of ``peft`` in its language
model and all else frozen or not, as wished; a folder in peft's standard format beside the head; or the model with the
adapter merged in. Why a regular expression: names such as ``q_proj`` alone also match the vision tower (Hu et al.
2021: LoRA; arXiv 2412.10435, table 4: rank 32, alpha 64; rank 0 trains the head alone).

    adapter_config.json         peft's configuration, relative to ``LlavaOnevisionModel``
    adapter_model.safetensors   peft's weights: ``PeftModel.from_pretrained(llava_onevision_model, folder)``
    head.safetensors            all else that was trained: the head; projectors and towers where they were
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tidegate.errors import CheckpointError, ConfigError, DependencyMissing
from tidegate.models.avlm import Avlm
from tidegate.models.build import Model
from tidegate.training.recipes import AdapterConfig

__all__ = [
    "LANGUAGE_LAYERS",
    "Adapted",
    "adapt",
    "freeze_towers",
    "load_adapter",
    "merged",
    "save_adapter",
]

LANGUAGE_LAYERS = r"language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
"""Linear layers of the language model, by their names in ``LlavaOnevisionModel``."""
_TOWERS = ("vision_language.vision_tower.", "audio.encoder.", "towers.vision.encoder.", "towers.audio.encoder.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapted:
    """A model with an adapter in it; ``peft_model`` is None at rank 0, where only the head is trained."""

    model: Avlm
    config: AdapterConfig
    peft_model: Any

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """Trained parameters outside the adapter, by name."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and ".lora_" not in name
        }


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise DependencyMissing("LoRA needs peft: pip install 'tidegate[train]'") from error
    return peft


def freeze_towers(model: Model) -> None:
    """No gradient for the encoders of vision and audio; projectors, language model and head keep theirs."""
    for name, parameter in model.named_parameters():
        if name.startswith(_TOWERS):
            parameter.requires_grad_(False)


def _is_trained(name: str, rank: int, towers: bool) -> bool:
    """Whether a parameter of an adapted AVLM, by name, is trained outside the adapter."""
    if name.startswith("head.") or rank == 0:
        return name.startswith("head.")
    if name.startswith("vision_language."):
        return towers and ".language_model." not in name
    return name.startswith(("audio_projector.", "audio.absent_D")) or (towers and name.startswith("audio."))


def adapt(model: Model, config: AdapterConfig, *, towers: bool = False) -> Adapted:
    """Put an adapter into the language model and freeze its own weights.

    ``towers``: whether towers and the visual projector are trained too. Audio projectors, which are new, always are.
    At rank 0 only the head is trained, whatever ``towers`` says.
    """
    if not isinstance(model, Avlm):
        raise ConfigError(f"expected an AVLM for an adapter on its language model, got {type(model).__name__}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and _is_trained(name, config.rank, towers))
    if config.rank == 0:
        return Adapted(model=model, config=config, peft_model=None)
    peft = _peft()
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=LANGUAGE_LAYERS,
        task_type="FEATURE_EXTRACTION",
    )
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrapped = peft.get_peft_model(model.vision_language, settings)
    for name, parameter in model.named_parameters():  # peft froze all that is not its own
        if name in trained:
            parameter.requires_grad_(True)
    return Adapted(model=model, config=config, peft_model=wrapped)


def save_adapter(adapted: Adapted, folder: Path, *, state: dict[str, Tensor] | None = None) -> None:
    """Write the adapter's folder, whole or not at all. ``state``: the model's weights where they are sharded."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    given = adapted.model.state_dict() if state is None else state
    others = {name: given[name].detach().contiguous().cpu() for name in adapted.others}
    save_file(others, fresh / "head.safetensors", metadata={"format": "pt"})
    if adapted.peft_model is not None:
        prefix = "vision_language."
        inner = {f"base_model.model.{n.removeprefix(prefix)}": t for n, t in given.items() if n.startswith(prefix)}
        adapted.peft_model.save_pretrained(fresh, state_dict=inner, save_embedding_layers=False)
    fresh.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)


def load_adapter(model: Avlm, folder: Path) -> Adapted:
    """The model with the adapter of ``folder`` in it and its head: scores as it did when it was saved."""
    path = folder / "head.safetensors"
    try:
        others = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"expected the head of an adapter in {path}, found: {error}") from error
    own = model.state_dict()
    wrong = [name for name, tensor in others.items() if name not in own or own[name].shape != tensor.shape]
    if wrong:
        raise CheckpointError(f"{path}: expected tensors of this {type(model).__name__}, found {wrong[:3]} of another")
    model.load_state_dict(others, strict=False)
    if not (folder / "adapter_config.json").exists():
        return Adapted(model=model, config=AdapterConfig(rank=0, alpha=0), peft_model=None)
    return Adapted(model=model, **_wrapped(model, folder))


def _wrapped(model: Avlm, folder: Path) -> dict[str, Any]:
    peft = _peft()
    try:
        settings = peft.PeftConfig.from_pretrained(str(folder))
        wrapped = peft.PeftModel.from_pretrained(model.vision_language, str(folder))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"expected an adapter for this language model in {folder}, found: {error}") from error
    config = AdapterConfig(rank=settings.r, alpha=settings.lora_alpha, dropout=settings.lora_dropout)
    return {"config": config, "peft_model": wrapped.eval()}


def merged(adapted: Adapted) -> Avlm:
    """The model with the adapter added into its weights: plain layers again, the same scores."""
    if adapted.peft_model is not None:
        adapted.peft_model.merge_and_unload()
    return adapted.model.eval()
