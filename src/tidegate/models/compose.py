"""Models of published parts, with their preprocessing read from the parts' own files.

Enters: hub ids or local folders. Leaves: a model with a new last layer, its processor and a card whose notice says
that the last layer is untrained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from tokenizers import Tokenizer

from tidegate.errors import CheckpointError
from tidegate.models.avlm import Avlm, llava_config
from tidegate.models.card import Card
from tidegate.models.configs import AvlmConfig, Fusion, ProcessorConfig
from tidegate.models.hub import hub_json, hub_tokenizer
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import highest_token_id

__all__ = ["UNTRAINED_NOTICE", "avlm_settings", "compose_avlm", "compose_towers"]

UNTRAINED_NOTICE = "The last layer of this model is untrained: its scores mean nothing before fine-tuning."
_PILLOW_RESAMPLE = {2: "bilinear", 3: "bicubic"}


def _image_settings(source: str) -> dict[str, Any]:
    """Resize and normalise settings of a published ``preprocessor_config.json``."""
    values = hub_json(source, "preprocessor_config.json")
    size, resample = values.get("size", {}), values.get("resample", 3)
    size = {"height": size, "width": size} if isinstance(size, int) else size
    side = size.get("height") or size.get("shortest_edge")
    if side is None or resample not in _PILLOW_RESAMPLE or size.get("width", side) != side:
        raise CheckpointError(
            f"preprocessor of {source!r}: expected a square size and bilinear or bicubic resampling, "
            f"found size {size} and resample {resample}"
        )
    return {
        "image_size": side,
        "resize": "crop" if "crop_pct" in values or values.get("do_center_crop") else "squash",
        "crop_fraction": values.get("crop_pct", 0.875),
        "resample": _PILLOW_RESAMPLE[resample],
        "image_mean": tuple(values["image_mean"]),
        "image_std": tuple(values["image_std"]),
    }


def _audio_settings(source: str) -> dict[str, Any]:
    values = hub_json(source, "preprocessor_config.json")
    return {"audio_seconds": values.get("chunk_length", 30), "num_mel_bins": values.get("feature_size", 80)}


def _card(parts: dict[str, str | None], issue: str) -> Card:
    given = {name: part for name, part in parts.items() if part is not None}
    return Card(
        name="+".join(part.rstrip("/").split("/")[-1] for part in given.values()),
        issue=issue,
        notice=UNTRAINED_NOTICE,
        recipe={"parts": given},
    )


def _text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """How a text encoder's prompt is framed."""
    if config["model_type"] == "siglip_text_model":
        return {"prompt_suffix": "</s>", "max_text_tokens": config["max_position_embeddings"] - 1, "pad_token": "</s>"}
    return {"prompt_prefix": "<s>", "prompt_suffix": "</s>", "max_text_tokens": 256}


def _checked_tokenizer(source: str, vocab_size: int) -> Tokenizer:
    """The source's tokenizer, which must not know more tokens than the model."""
    tokenizer = hub_tokenizer(source)
    if (highest := highest_token_id(tokenizer)) >= vocab_size:
        raise CheckpointError(
            f"expected a tokenizer of at most {vocab_size} tokens at {source!r}, as its config.json has, found one "
            f"whose highest id is {highest}"
        )
    return tokenizer


def compose_towers(
    *,
    issue: str = "icd",
    more_issues: tuple[str, ...] = (),
    vision: str | None = None,
    text: str | None = None,
    audio: str | None = None,
    num_frames: int = 8,
) -> tuple[MultiTower, ClipProcessor, Card]:
    """A base stage of published encoders."""
    model = MultiTower.from_pretrained(issue=issue, more_issues=more_issues, vision=vision, text=text, audio=audio)
    settings: dict[str, Any] = {"modalities": model.config.modalities, "num_frames": num_frames}
    if vision is not None:
        settings |= _image_settings(vision)
    if audio is not None:
        settings |= _audio_settings(audio)
    tokenizer = None
    if text is not None and model.config.text is not None:
        settings |= _text_settings(model.config.text)
        tokenizer = _checked_tokenizer(text, model.config.text["vocab_size"])
    processor = ClipProcessor(ProcessorConfig(**settings), tokenizer)
    return model, processor, _card({"vision": vision, "text": text, "audio": audio}, issue)


def _pad_token(source: str) -> str:
    """Padding token of ``tokenizer_config.json``: a text, or, in older files, an object with its text."""
    found = hub_json(source, "tokenizer_config.json").get("pad_token") or "<|endoftext|>"
    return str(found["content"] if isinstance(found, dict) else found)


def avlm_settings(vl: str, audio: str | None, config: AvlmConfig, num_frames: int) -> tuple[dict[str, Any], Tokenizer]:
    """Preprocessing of a LLaVA-OneVision source: frames, prompt in its own chat form, tokenizer."""
    llava = llava_config(config.vision_language)
    vision, text = cast(Any, llava.vision_config), cast(Any, llava.get_text_config())
    tokenizer = _checked_tokenizer(vl, text.vocab_size)
    video_token = tokenizer.id_to_token(llava.video_token_index)
    if video_token is None:
        raise CheckpointError(
            f"expected a tokenizer with the video token {llava.video_token_index} at {vl!r}, as its config.json has, "
            f"found one without it"
        )
    settings: dict[str, Any] = {
        "modalities": config.modalities,
        "num_frames": num_frames,
        **_image_settings(vl),
        "image_size": vision.image_size,
        "resize": "squash",
        "video_tokens_per_frame": math.ceil(vision.image_size // vision.patch_size / 2) ** 2,
        "prompt_prefix": "<|im_start|>user ",
        "prompt_middle": "\n",
        "prompt_suffix": "<|im_end|><|im_start|>assistant\n",
        "pad_token": _pad_token(vl),
        "video_token": video_token,
    }
    return settings | (_audio_settings(audio) if audio is not None else {}), tokenizer


def compose_avlm(
    *,
    vl: str,
    audio: str | None = None,
    issue: str = "icd",
    more_issues: tuple[str, ...] = (),
    fusion: Fusion | None = None,
    audio_tokens: int = 1,
    language_head: bool = False,
    num_frames: int = 8,
    dtype: str = "float32",
) -> tuple[Avlm, ClipProcessor, Card]:
    """A large stage of LLaVA-OneVision and a Whisper encoder; see ``Avlm.from_pretrained``."""
    model = Avlm.from_pretrained(
        vl=vl,
        audio=audio,
        issue=issue,
        more_issues=more_issues,
        fusion=fusion,
        audio_tokens=audio_tokens,
        language_head=language_head,
        dtype=dtype,
    )
    settings, tokenizer = avlm_settings(vl, audio, model.config, num_frames)
    return model, ClipProcessor(ProcessorConfig(**settings), tokenizer), _card({"vl": vl, "audio": audio}, issue)
