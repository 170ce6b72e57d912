"""Models of published parts, with their preprocessing read from the parts' own files.

Enters: hub ids or local folders. Leaves: a model with a new last layer, its processor and a card whose notice says
that the last layer is untrained.
"""

from __future__ import annotations

import math
from typing import Any

from tidegate.errors import CheckpointError
from tidegate.models.avlm import Avlm, llava_config
from tidegate.models.card import Card
from tidegate.models.configs import ProcessorConfig
from tidegate.models.hub import hub_json, hub_tokenizer
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor

__all__ = ["UNTRAINED_NOTICE", "compose_avlm", "compose_towers"]

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


def compose_towers(
    *, issue: str, vision: str | None = None, text: str | None = None, audio: str | None = None, num_frames: int = 8
) -> tuple[MultiTower, ClipProcessor, Card]:
    """A base stage of published encoders."""
    model = MultiTower.from_pretrained(issue=issue, vision=vision, text=text, audio=audio)
    settings: dict[str, Any] = {"modalities": model.config.modalities, "num_frames": num_frames}
    if vision is not None:
        settings |= _image_settings(vision)
    if audio is not None:
        settings |= _audio_settings(audio)
    if text is not None:
        settings |= {"prompt_prefix": "<s>", "prompt_suffix": "</s>", "max_text_tokens": 256}
    processor = ClipProcessor(ProcessorConfig(**settings), None if text is None else hub_tokenizer(text))
    return model, processor, _card({"vision": vision, "text": text, "audio": audio}, issue)


def compose_avlm(
    *, issue: str, vl: str, audio: str | None = None, num_frames: int = 8
) -> tuple[Avlm, ClipProcessor, Card]:
    """A large stage of LLaVA-OneVision and a Whisper encoder."""
    model = Avlm.from_pretrained(issue=issue, vl=vl, audio=audio)
    llava = llava_config(model.config.vision_language)
    vision: Any = llava.vision_config
    tokenizer = hub_tokenizer(vl)
    settings: dict[str, Any] = {
        "modalities": model.config.modalities,
        "num_frames": num_frames,
        **_image_settings(vl),
        "image_size": vision.image_size,
        "resize": "squash",
        "video_tokens_per_frame": math.ceil(vision.image_size // vision.patch_size / 2) ** 2,
        "prompt_prefix": "<|im_start|>user ",
        "prompt_suffix": "<|im_end|>\n<|im_start|>assistant\n",
        "pad_token": hub_json(vl, "tokenizer_config.json").get("pad_token", "<|endoftext|>"),
        "video_token": tokenizer.id_to_token(llava.video_token_index),
    }
    if audio is not None:
        settings |= _audio_settings(audio)
    processor = ClipProcessor(ProcessorConfig(**settings), tokenizer)
    return model, processor, _card({"vl": vl, "audio": audio}, issue)
