"""Published weights by hub id or local folder, through ``from_pretrained``.

Enters: an id such as ``openai/whisper-small`` or a folder. Leaves: ``transformers`` models, or the path of one
file. What the hub or the folder cannot give is a ``CheckpointError`` that names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoModel,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionModel,
    PreTrainedModel,
    SiglipTextModel,
    SiglipVisionModel,
    WhisperForConditionalGeneration,
    WhisperModel,
    WhisperProcessor,
)
from transformers.utils import logging
from transformers.utils.hub import cached_file

from tidegate.errors import CheckpointError, ConfigError
from tidegate.models.tokens import parse_tokenizer

__all__ = [
    "DTYPES",
    "audio_encoder",
    "hub_folder",
    "hub_json",
    "hub_tokenizer",
    "quiet_transformers",
    "recogniser_model",
    "recogniser_processor",
    "tower_model",
    "vision_language_model",
]

DTYPES = ("float32", "bfloat16", "float16")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Nothing but errors is printed inside the block."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _named(source: str, wanted: str) -> Iterator[None]:
    """Errors that name the source. Tables of weights that are left out on purpose are not printed."""
    with quiet_transformers():
        try:
            yield
        except (OSError, ValueError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(
                f"expected {wanted} at {source!r} (a local folder or a model hub id), found none that loads: {error}"
            ) from error


def _complete(loaded: Any, source: str, ignore: tuple[str, ...] = ()) -> PreTrainedModel:
    model: PreTrainedModel = loaded[0]
    info: dict[str, Any] = loaded[1]
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(ignore))
    if missing or info["mismatched_keys"]:
        raise CheckpointError(
            f"expected all weights of {type(model).__name__} at {source!r}, found none for {missing[:5]} "
            f"({len(missing)} keys) and other shapes for {list(info['mismatched_keys'])[:5]}"
        )
    return model


def _expect_type(source: str, wanted: str) -> None:
    """Refuse a checkpoint of another class before a model of the wanted class is built for it."""
    found = hub_json(source, "config.json").get("model_type")
    if found != wanted:
        raise CheckpointError(f"expected a checkpoint of model_type {wanted!r} at {source!r}, found {found!r}")


def _load(cls: Any, source: str, dtype: str, ignore: tuple[str, ...] = ()) -> PreTrainedModel:
    """Weights of a source, from safetensors alone (one file or shards with their index): a pickle is never read."""
    if dtype not in DTYPES:
        raise ConfigError(f"expected a dtype among {DTYPES}, got {dtype!r}")
    loaded = cls.from_pretrained(source, output_loading_info=True, use_safetensors=True, dtype=dtype)
    return _complete(loaded, source, ignore)


def vision_language_model(
    source: str, *, language_head: bool = False, dtype: str = "float32"
) -> tuple[PreTrainedModel, nn.Linear | None]:
    """LLaVA-OneVision, and the language model's head if it is wanted and has weights of its own (else None)."""
    _expect_type(source, "llava_onevision")
    with _named(source, "a LLaVA-OneVision checkpoint"):
        if not language_head:
            return _load(LlavaOnevisionModel, source, dtype), None
        whole: Any = _load(LlavaOnevisionForConditionalGeneration, source, dtype)
    return whole.model, None if whole.config.tie_word_embeddings else whole.lm_head


def audio_encoder(source: str, *, dtype: str = "float32") -> PreTrainedModel:
    """The encoder of a Whisper checkpoint."""
    _expect_type(source, "whisper")
    with _named(source, "a Whisper checkpoint"):
        model: Any = _load(WhisperModel, source, dtype)
    encoder: PreTrainedModel = model.get_encoder()
    return encoder


def recogniser_model(source: str, *, dtype: str = "float32") -> PreTrainedModel:
    """A Whisper checkpoint with its decoder."""
    _expect_type(source, "whisper")
    with _named(source, "a Whisper checkpoint"):
        return _load(WhisperForConditionalGeneration, source, dtype)


def recogniser_processor(source: str) -> WhisperProcessor:
    """Features and vocabulary of a Whisper checkpoint."""
    with _named(source, "a Whisper processor"):
        processor: WhisperProcessor = WhisperProcessor.from_pretrained(source)
    return processor


def tower_model(source: str, reads: Literal["pixel_values", "input_ids"]) -> PreTrainedModel:
    """An encoder of images (``pixel_values``) or texts (``input_ids``); of SigLIP the tower of that kind."""
    kind = "an image encoder" if reads == "pixel_values" else "a text encoder"
    siglip = str(hub_json(source, "config.json").get("model_type", "")).startswith("siglip")
    cls: Any = (SiglipVisionModel if reads == "pixel_values" else SiglipTextModel) if siglip else AutoModel
    with _named(source, kind):
        model = _load(cls, source, "float32", ("pooler.",))
    if model.main_input_name != reads:
        raise CheckpointError(f"expected {kind} at {source!r}, found a {type(model).__name__}")
    return model


def _hub_file(source: str, name: str) -> Path:
    with _named(source, name):
        path = cached_file(source, name)
    if path is None:
        raise CheckpointError(f"expected {name} at {source!r}, found none")
    return Path(path)


def hub_folder(source: str) -> Path:
    """Where the files of a checkpoint that was loaded lie."""
    return _hub_file(source, "config.json").parent


def hub_json(source: str, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint."""
    try:
        values = json.loads(_hub_file(source, name).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"expected JSON in {name} of {source!r}, found: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"expected a JSON object in {name} of {source!r}, found {type(values).__name__}")
    return values


def hub_tokenizer(source: str) -> Tokenizer:
    """``tokenizer.json`` of a checkpoint."""
    return parse_tokenizer(
        _hub_file(source, "tokenizer.json").read_text(encoding="utf-8"), f"tokenizer.json of {source!r}"
    )
