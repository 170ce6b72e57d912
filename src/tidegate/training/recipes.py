"""Recipes: functions that return frozen configurations of a whole training run.

The tiny models' sizes and schedules were chosen for two processor cores and less than an hour; see docs/training.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tidegate.errors import ConfigError
from tidegate.models.configs import AvlmConfig, Fusion, ModelConfig, MultiTowerConfig, ProcessorConfig
from tidegate.training.augment import AugmentConfig
from tidegate.training.emphasis import EmphasisConfig
from tidegate.training.swapping import SwapConfig

__all__ = [
    "RECIPES",
    "AdapterConfig",
    "OptimiserConfig",
    "TrainRecipe",
    "customised",
    "lora_avlm",
    "recipe",
    "tiny_avlm",
    "tiny_base",
    "whisper_encoder",
    "with_adapter",
    "with_epochs",
    "with_issues",
    "with_optimiser",
]


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with linear warm-up and cosine decay."""

    epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 32
    """Clips of one step, over all micro-batches and processes."""
    micro_batch_size: int | None = None
    """Clips of one forward pass in one process; gradients are accumulated over the step. None: the whole step."""
    learning_rate: float = 1e-3
    """Peak rate."""
    tower_learning_rate: float | None = None
    """Peak rate of vision and audio towers; None: as ``learning_rate``. 0 freezes them."""
    weight_decay: float = 0.05
    """On matrices only, not on biases and norms."""
    warmup_fraction: float = 0.1
    """Share of all steps over which the rate rises from 0."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is what is evaluated and saved; 0: none."""
    positive_weight: float | None = 1.0
    """Loss weight of a violating clip; None balances the classes."""
    label_smoothing: float = 0.05
    """Share of the target given to the other class."""
    auxiliary_weight: float = 0.5
    """Weight of the auxiliary losses, where targets are given."""
    soft_weight: float = 0.7
    """Share of the loss that follows a teacher's soft scores, where there are some; the labels have the rest."""
    temperature: float = 2.0
    """Both teacher's and student's log-odds are divided by it before they are compared."""
    patience: int = 4
    """Epochs without a better ``select_on`` after which training stops."""
    select_on: Literal["average_precision", "recall_at_precision"] = "average_precision"
    """Which validation figure chooses the best epoch and stops training; ties go to average precision."""
    select_precision: float = 0.8
    """The precision of ``recall_at_precision``, in (0, 1]."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; ``auto``: bfloat16 (autocast) on a GPU that has it, else float32."""
    save_every_steps: int = 0
    """Steps between two saves of the run inside an epoch; 0: only at the end of each."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.micro_batch_size is not None and self.micro_batch_size < 1):
            raise ConfigError(
                f"expected batch_size and micro_batch_size >= 1, got {self.batch_size} and {self.micro_batch_size}"
            )
        if not 0.0 < self.select_precision <= 1.0 or not 0.0 <= self.soft_weight <= 1.0 or self.temperature <= 0.0:
            raise ConfigError(
                f"expected select_precision in (0, 1], soft_weight in [0, 1] and temperature > 0, got "
                f"{self.select_precision}, {self.soft_weight}, {self.temperature}"
            )


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """LoRA on the language model of an AVLM. Rank 0 and alpha 0: only the head is trained."""

    rank: int = 32
    """Rank of the two matrices added to each linear layer; 0: none are added."""
    alpha: int = 64
    """What they add is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout of what enters them, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha < 0 or (self.rank == 0) != (self.alpha == 0) or not 0.0 <= self.dropout < 1.0:
            raise ConfigError(
                f"expected LoRA rank and alpha >= 1, or both 0 for the head alone, and dropout in [0, 1), got "
                f"{self.rank}, {self.alpha}, {self.dropout}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """All settings of one training run."""

    name: str
    """Name of the recipe, which becomes the checkpoint's name."""
    model: ModelConfig
    """The model; its vocabulary is set from ``vocab_size``."""
    processor: ProcessorConfig
    """Preprocessing, saved with the checkpoint."""
    vocab_size: int = 2048
    """Size of the byte-level vocabulary learnt from the training split's texts."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Schedule and loss."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Changes to training clips."""
    frozen: OptimiserConfig | None = None
    """Schedule of a first part in which an AVLM's towers are frozen; None: there is no such part."""
    starts_from_weights: bool = False
    """Whether it makes no sense from random weights; ``model`` then only says which class and issue are wanted."""
    adapter: AdapterConfig | None = None
    """LoRA on an AVLM's language model, whose own weights are then frozen; None: all of it is trained."""
    fusion: Fusion | None = None
    """How an AVLM's audio is to be fused, whatever the weights it starts from had; None: as they had."""
    swap: SwapConfig = field(default_factory=SwapConfig)
    """How often a training clip gets a modality of another harmless one."""
    emphasis: EmphasisConfig = field(default_factory=EmphasisConfig)
    """Training videos that are seen more often than once in an epoch."""
    train_towers: bool = True
    """Whether vision and audio towers are trained."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    keep_initial: bool = False
    """Whether the weights that the main part starts from count as an epoch, so that it cannot end with worse ones."""
    auxiliary: Literal["none", "evidence"] = "none"
    """``evidence``: the kind of evidence of the *training split's* synthetic truth is a second target."""


def whisper_encoder(width: int, layers: int, seconds: int, mel_bins: int) -> dict[str, Any]:
    """A small ``WhisperConfig``; the decoder's settings are the smallest, it is never built."""
    return {
        "model_type": "whisper",
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": width // 32,
        "encoder_ffn_dim": 3 * width,
        "num_mel_bins": mel_bins,
        "max_source_positions": 50 * seconds,
        "vocab_size": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
        "decoder_layers": 1,
        "decoder_attention_heads": 1,
        "decoder_ffn_dim": 4,
    }


def _siglip(side: int, *, pooled: bool) -> dict[str, Any]:
    """A small ``SiglipVisionConfig``. Patches in even rows and columns: LLaVA-OneVision halves the grid by averages of
    two by two; of an odd grid it would all but lose the middle row and column."""
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "image_size": side,
        "patch_size": 16,
        "vision_use_head": pooled,
    }


def tiny_base(issue: str = "icd") -> TrainRecipe:
    """SigLIP + XLM-R + Whisper-encoder towers of 1.1 M parameters, the AVLM's sizes; four keyframes, no exact seek."""
    vocab_size, seconds, mel_bins, side = 2048, 6, 64, 128
    model = MultiTowerConfig(
        issue=issue,
        vision=_siglip(side, pooled=True),
        text={
            "model_type": "xlm-roberta",
            "vocab_size": vocab_size,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 100,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        audio=whisper_encoder(96, 2, seconds, mel_bins),
    )
    processor = ProcessorConfig(
        modalities=model.modalities,
        num_frames=4,
        exact_frames=False,
        long_edge_pixels=192,
        image_size=side,
        audio_seconds=seconds,
        num_mel_bins=mel_bins,
        max_text_tokens=64,
        prompt_prefix="<s>",
        prompt_suffix="</s>",
    )
    return TrainRecipe(
        name="tiny-base",
        model=model,
        processor=processor,
        vocab_size=vocab_size,
        frozen=OptimiserConfig(epochs=6, learning_rate=5e-4),
        optimiser=OptimiserConfig(epochs=1, learning_rate=1e-4, tower_learning_rate=2e-4),
        keep_initial=True,
        auxiliary="evidence",
    )


def tiny_avlm(issue: str = "icd") -> TrainRecipe:
    """LLaVA-OneVision (SigLIP 96 x 4, Qwen2 128 x 3) + Whisper encoder 96 x 2: 1.6 M parameters, 8 exact
    frames."""
    vocab_size, seconds, mel_bins, side = 2048, 6, 64, 128
    vision_language = {
        "model_type": "llava_onevision",
        "vision_config": _siglip(side, pooled=False),
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": vocab_size,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": True,
        },
        "image_token_index": 3,
        "video_token_index": 3,
        "image_grid_pinpoints": [[side, side]],
    }
    model = AvlmConfig(issue=issue, vision_language=vision_language, audio=whisper_encoder(96, 2, seconds, mel_bins))
    processor = ProcessorConfig(
        modalities=model.modalities,
        num_frames=8,
        long_edge_pixels=320,
        image_size=side,
        audio_seconds=seconds,
        num_mel_bins=mel_bins,
        video_tokens_per_frame=16,
        max_text_tokens=64,
        prompt_suffix="</s>",
    )
    return TrainRecipe(
        name="tiny-avlm",
        model=model,
        processor=processor,
        vocab_size=vocab_size,
        frozen=OptimiserConfig(epochs=5, learning_rate=5e-4),
        optimiser=OptimiserConfig(epochs=1, learning_rate=1e-4, tower_learning_rate=2e-4),
        keep_initial=True,
        auxiliary="evidence",
    )


def lora_avlm(issue: str = "icd") -> TrainRecipe:
    """Fine-tuning of published or trained weights: LoRA of rank 32 on the language model, frozen towers."""
    return replace(
        tiny_avlm(issue),
        name="lora-avlm",
        starts_from_weights=True,
        frozen=None,
        auxiliary="none",
        adapter=AdapterConfig(),
        train_towers=False,
        keep_initial=True,
        gradient_checkpointing=True,
        optimiser=OptimiserConfig(
            epochs=3,
            batch_size=64,
            micro_batch_size=4,
            learning_rate=1e-4,
            positive_weight=None,
            label_smoothing=0.0,
            patience=2,
            select_on="recall_at_precision",
            save_every_steps=200,
        ),
    )


RECIPES: dict[str, Callable[[str], TrainRecipe]] = {
    "tiny-base": tiny_base,
    "tiny-avlm": tiny_avlm,
    "lora-avlm": lora_avlm,
}


def recipe(name: str, issue: str = "icd") -> TrainRecipe:
    """The recipe of that name."""
    if name not in RECIPES:
        raise ConfigError(f"expected a recipe among {sorted(RECIPES)}, got {name!r}")
    return RECIPES[name](issue)


def with_issues(chosen: TrainRecipe, issues: Sequence[str]) -> TrainRecipe:
    """The recipe for one or several issues, a head each."""
    first, *more = issues
    return replace(chosen, model=replace(chosen.model, issue=first, more_issues=tuple(more)))


def with_optimiser(chosen: TrainRecipe, **changes: Any) -> TrainRecipe:
    """The recipe with other settings of ``OptimiserConfig``; those that are None stay as they are."""
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(chosen, optimiser=replace(chosen.optimiser, **given))


def with_adapter(chosen: TrainRecipe, rank: int | None, alpha: int | None, dropout: float) -> TrainRecipe:
    """The recipe with LoRA of that rank; None as ``rank`` leaves it. ``alpha`` is twice the rank by default."""
    if rank is None:
        if alpha is not None:
            raise ConfigError(f"expected a LoRA rank with alpha {alpha}, got none")
        return chosen
    adapter = AdapterConfig(rank=rank, alpha=2 * rank if alpha is None else alpha, dropout=dropout)
    return replace(chosen, adapter=adapter, frozen=None)


def customised(
    name: str,
    issues: Sequence[str],
    *,
    lora: tuple[int | None, int | None, float] = (None, None, 0.0),
    train_towers: bool | None = None,
    gradient_checkpointing: bool | None = None,
    epochs: int | None = None,
    fusion: Fusion | None = None,
    swap: SwapConfig | None = None,
    emphasis: EmphasisConfig | None = None,
    augment: Mapping[str, float | None] | None = None,
    **optimiser: Any,
) -> TrainRecipe:
    """A named recipe with some settings changed: what is None stays as the recipe has it.

    ``lora``: rank, alpha, dropout. ``augment``: fields of ``AugmentConfig``. ``optimiser``: fields of
    ``OptimiserConfig``.
    """
    chosen = with_adapter(with_issues(recipe(name, issues[0]), issues), *lora)
    chosen = with_epochs(with_optimiser(chosen, **optimiser), epochs)
    stronger: dict[str, Any] = {name: value for name, value in (augment or {}).items() if value is not None}
    chosen = replace(chosen, augment=replace(chosen.augment, **stronger))
    given = {
        "train_towers": train_towers,
        "gradient_checkpointing": gradient_checkpointing,
        "fusion": fusion,
        "swap": swap,
        "emphasis": emphasis,
    }
    changes: dict[str, Any] = {setting: value for setting, value in given.items() if value is not None}
    return replace(chosen, **changes)


def with_epochs(chosen: TrainRecipe, epochs: int | None) -> TrainRecipe:
    """The recipe with another number of epochs; None leaves it."""
    if epochs is None:
        return chosen
    if epochs < 1:
        raise ConfigError(f"expected epochs >= 1, got {epochs}")
    return replace(chosen, optimiser=replace(chosen.optimiser, epochs=epochs))
