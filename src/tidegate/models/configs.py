"""Configurations of models and preprocessing: frozen values that are written to and read from ``config.json``.

A tower is described by the configuration dictionary of its ``transformers`` class (``model_type`` included), so
that the tiny models and the ones of 8 B parameters differ in these values only. Neither torch nor transformers is
imported here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from tidegate.errors import CheckpointError, ConfigError
from tidegate.types import ClipRequest, Modality

__all__ = ["AvlmConfig", "Fusion", "ModelConfig", "MultiTowerConfig", "ProcessorConfig", "model_config_from_dict"]

Fusion = Literal["late", "early", "none"]
TowerConfig = Mapping[str, Any]


def _check_issues(issues: tuple[str, ...]) -> None:
    if len(set(issues)) != len(issues) or not all(issues):
        raise ConfigError(f"expected different, non-empty names of issues, got {list(issues)}")


@dataclass(frozen=True, kw_only=True)
class AvlmConfig:
    """The audio-visual-language model of arXiv 2412.10435, section 2.1."""

    issue: str
    """What its probability means, e.g. ``icd``."""
    vision_language: TowerConfig
    """``LlavaOnevisionConfig`` as a dictionary."""
    audio: TowerConfig | None
    """``WhisperConfig`` as a dictionary; None: the model does not listen."""
    fusion: Fusion = "late"
    """``late``: pooled audio beside the last hidden state. ``early``: audio, projected, as the language model's last
    input tokens. ``none``: no audio."""
    audio_tokens: int = 1
    """Early fusion: into how many tokens the audio is resampled; 1 is the paper's pooled token."""
    more_issues: tuple[str, ...] = ()
    """Issues scored besides ``issue``, each by a head of its own on the same trunk."""
    language_head: bool = False
    """Keep the language model's own head (next-token logits), for zero-shot scores, alignment and rationales."""

    def __post_init__(self) -> None:
        _check_issues(self.issues)
        if self.fusion not in get_args(Fusion):
            raise ConfigError(f"expected a fusion among {get_args(Fusion)}, got {self.fusion!r}")
        if (self.audio is None) != (self.fusion == "none"):
            raise ConfigError(
                f"expected an audio tower exactly with early or late fusion, got fusion {self.fusion!r} "
                f"and {'no' if self.audio is None else 'an'} audio tower"
            )
        if self.audio_tokens < 1 or (self.audio_tokens > 1 and self.fusion != "early"):
            raise ConfigError(
                f"expected audio_tokens >= 1, and 1 unless fusion is early, got {self.audio_tokens} with {self.fusion}"
            )

    @property
    def issues(self) -> tuple[str, ...]:
        """All issues, in the order of the heads."""
        return (self.issue, *self.more_issues)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model uses."""
        return ("vision", "text") if self.audio is None else ("vision", "audio", "text")


@dataclass(frozen=True, kw_only=True)
class MultiTowerConfig:
    """Late fusion of up to three towers: each is pooled, the results are concatenated, a linear layer decides."""

    issue: str
    """What its probability means, e.g. ``icd``."""
    vision: TowerConfig | None = None
    """Any image model of ``AutoModel`` with a pooled output: ``resnet``, ``swin``, ``siglip_vision_model``."""
    text: TowerConfig | None = None
    """Any bidirectional encoder of ``AutoModel``: ``xlm-roberta``."""
    audio: TowerConfig | None = None
    """``WhisperConfig`` as a dictionary; its encoder is used."""
    more_issues: tuple[str, ...] = ()
    """Issues scored besides ``issue``, each by a head of its own on the same towers."""

    def __post_init__(self) -> None:
        _check_issues(self.issues)
        if not self.modalities:
            raise ConfigError("expected at least one of the towers vision, text, audio; got none")

    @property
    def issues(self) -> tuple[str, ...]:
        """All issues, in the order of the heads."""
        return (self.issue, *self.more_issues)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model uses."""
        towers = {"vision": self.vision, "audio": self.audio, "text": self.text}
        return tuple(cast(Modality, name) for name, tower in towers.items() if tower is not None)


ModelConfig = AvlmConfig | MultiTowerConfig


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """How a clip becomes tensors. Saved beside the weights as ``preprocessor_config.json``."""

    modalities: tuple[Modality, ...]
    """What is prepared; the rest of a clip is not looked at."""
    num_frames: int = 8
    """Frames sampled from a video."""
    exact_frames: bool = True
    """See ``ClipRequest.exact``."""
    long_edge_pixels: int | None = None
    """See ``ClipRequest.long_edge_pixels``."""
    image_size: int = 384
    """Height and width that the vision tower sees."""
    resize: Literal["squash", "crop"] = "squash"
    """``squash``: to a square, as SigLIP and Swin; ``crop``: shorter edge to image_size / crop_fraction, then the
    centre, as ResNet (``ConvNextImageProcessor``)."""
    crop_fraction: float = 0.875
    """Share of the resized shorter edge that ``crop`` keeps; unused by ``squash``."""
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """Interpolation of the resize (anti-aliased)."""
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from pixels in [0, 1], per colour."""
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divides what remains, per colour."""
    audio_seconds: int = 30
    """Length to which audio is cut or zero-padded, as ``WhisperFeatureExtractor.chunk_length``."""
    num_mel_bins: int = 80
    """Mel bins of the spectrogram, as the audio tower was trained with."""
    video_tokens_per_frame: int = 0
    """Tokens that one frame takes in the prompt (196 at 7 B); 0: frames do not go through a prompt."""
    max_text_tokens: int = 256
    """Longer texts lose their first tokens; the number lost is recorded in ``ClipFeatures.truncated_tokens``."""
    prompt_prefix: str = ""
    """Text before the frames; may hold special tokens."""
    prompt_middle: str = ""
    """Text between the frames and the first line; may hold special tokens. Frames in a prompt only."""
    prompt_suffix: str = ""
    """Text after the last line; its last token's hidden state is read."""
    pad_token: str = "<pad>"  # noqa: S105
    """Token that fills shorter rows on the left."""
    video_token: str = "<video>"  # noqa: S105
    """Placeholder that the frames' tokens replace."""

    def __post_init__(self) -> None:
        sizes = (self.num_frames, self.image_size, self.audio_seconds, self.num_mel_bins, self.max_text_tokens)
        if min(sizes) < 1:
            raise ConfigError(
                f"expected num_frames, image_size, audio_seconds, mel bins, text tokens >= 1, got {sizes}"
            )
        if self.video_tokens_per_frame and not self.prompt_suffix:
            raise ConfigError("expected a prompt_suffix, whose last token carries the verdict, got an empty one")

    @property
    def request(self) -> ClipRequest:
        """What must be decoded of a video."""
        return ClipRequest(
            num_frames=self.num_frames if "vision" in self.modalities else 0,
            exact=self.exact_frames,
            audio="audio" in self.modalities,
            max_audio_seconds=float(self.audio_seconds),
            long_edge_pixels=self.long_edge_pixels,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProcessorConfig:
        """Inverse of ``dataclasses.asdict`` through JSON."""
        fields = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - fields):
            raise CheckpointError(f"preprocessor: expected keys among {sorted(fields)}, found {unknown}")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        try:
            return cls(**lists)
        except TypeError as error:
            raise CheckpointError(f"preprocessor: {error}") from error


_CLASSES: dict[str, type[AvlmConfig] | type[MultiTowerConfig]] = {"Avlm": AvlmConfig, "MultiTower": MultiTowerConfig}


def model_config_from_dict(class_name: str, values: Mapping[str, Any]) -> ModelConfig:
    """The model configuration that a checkpoint's ``config.json`` describes."""
    if class_name not in _CLASSES:
        raise CheckpointError(f"expected a model class among {sorted(_CLASSES)}, found {class_name!r}")
    cls = _CLASSES[class_name]
    fields = {field.name for field in dataclasses.fields(cls)}
    if set(values) - fields or "issue" not in values:
        raise CheckpointError(f"config of {class_name}: expected keys {sorted(fields)}, found {sorted(values)}")
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return cls(**lists)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"config of {class_name}: {error}") from error
