"""Checkpoint folders: everything a stage needs, nothing that runs code.

    config.json               model class and configuration
    model.safetensors         weights (float32, or float16 to be small; computed in float32)
    preprocessor_config.json  ``ClipProcessor``
    tokenizer.json            if the model reads text
    thresholds.json           thresholds chosen on validation (optional)
    card.json, README.md      what it was trained on

A folder is written beside its destination and moved into place, so that a crash leaves the last good one. Whatever is
missing, truncated or of another class is a ``CheckpointError`` that names what was expected and what was found.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tidegate.errors import CheckpointError
from tidegate.models.build import Model, build_model
from tidegate.models.card import Card
from tidegate.models.configs import AvlmConfig, model_config_from_dict
from tidegate.models.exported import EXPORT_FORMAT, load_exported
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import highest_token_id, parse_tokenizer

__all__ = [
    "checkpoint_hash",
    "load_checkpoint",
    "load_thresholds",
    "replace_folder",
    "save_checkpoint",
    "save_thresholds",
    "write_companions",
]

_FORMAT = "tidegate-checkpoint-1"
_IDENTITY = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"expected the checkpoint file {path}, found none that can be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"expected JSON in {path}, found: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"expected a JSON object in {path}, found {type(values).__name__}")
    return values


def save_checkpoint(
    model: Model, processor: ClipProcessor, folder: Path | str, card: Card, *, half: bool = False
) -> None:
    """Write a checkpoint folder. ``half`` stores the weights as float16. The card names all issues of the model."""
    folder, issues = Path(folder), model.config.issues
    if card.issue not in issues:
        raise CheckpointError(f"{folder}: expected a card of an issue among {list(issues)}, got {card.issue!r}")
    card = dataclasses.replace(card, more_issues=tuple(issue for issue in issues if issue != card.issue))
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    state = {
        name: (tensor.to(torch.float16) if half and tensor.is_floating_point() else tensor).detach().contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, fresh / "model.safetensors", metadata={"format": "pt"})
    config = dataclasses.asdict(model.config)
    _write_json(fresh / "config.json", {"format": _FORMAT, "class": type(model).__name__, "model": config})
    write_companions(fresh, processor, card)
    replace_folder(fresh, folder)


def write_companions(folder: Path, processor: ClipProcessor, card: Card) -> None:
    """Preprocessing, tokenizer and card: what stands beside the weights."""
    _write_json(folder / "preprocessor_config.json", processor.save_json())
    if processor.tokenizer is not None:
        (folder / "tokenizer.json").write_text(processor.tokenizer.to_str(), encoding="utf-8")
    _write_json(folder / "card.json", card.to_dict())
    (folder / "README.md").write_text(card.to_markdown(), encoding="utf-8")
    folder.chmod(0o755)
    (folder / "model.safetensors").chmod(0o644)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Move ``fresh`` to ``folder``; what was there is removed only once the new one stands."""
    old = fresh.with_name(fresh.name + ".old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _last_good(folder: Path) -> Path:
    """The folder; if a save was killed after it had moved the old one aside, that one."""
    if folder.exists():
        return folder
    aside = folder.parent.glob(f".{glob.escape(folder.name)}.*.old")
    return max(aside, key=lambda path: path.stat().st_mtime, default=folder)


def _check_keys(expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{path}: expected the {len(expected)} tensors of config.json, found {len(missing)} missing "
            f"{missing[:3]} and {len(extra)} that do not belong {extra[:3]}"
        )
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise CheckpointError(
                f"{path}: expected {name} of shape {tuple(tensor.shape)}, found {tuple(found[name].shape)}"
            )


def _load_model(folder: Path) -> Model:
    values = _read_json(folder / "config.json")
    if values.get("format") == EXPORT_FORMAT:
        return load_exported(folder, values)
    if values.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder}/config.json: expected format {_FORMAT!r} or {EXPORT_FORMAT!r}, found {values.get('format')!r}"
        )
    model = build_model(model_config_from_dict(str(values.get("class")), values.get("model", {})))
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"expected complete safetensors weights in {path}, found: {error}") from error
    expected = model.state_dict()
    _check_keys(expected, state, path)
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in state.items()})
    return model.eval()


def _load_processor(folder: Path) -> ClipProcessor:
    path, tokenizer = folder / "tokenizer.json", None
    values = _read_json(folder / "preprocessor_config.json")
    if "text" in values.get("modalities", ()):
        tokenizer = parse_tokenizer(_read_text(path), str(path))
    return ClipProcessor.from_json(values, tokenizer)


def _check_vocabulary(model: Model, processor: ClipProcessor, folder: Path) -> None:
    tower = model.config.vision_language["text_config"] if isinstance(model.config, AvlmConfig) else model.config.text
    if processor.tokenizer is None or tower is None or "vocab_size" not in tower:
        return
    highest = highest_token_id(processor.tokenizer)
    if highest >= tower["vocab_size"]:
        raise CheckpointError(
            f"{folder}: expected a tokenizer of at most {tower['vocab_size']} tokens, as config.json has, found one "
            f"whose highest id is {highest}"
        )


def _existing(folder: Path | str) -> Path:
    found = _last_good(Path(folder))
    if not found.is_dir():
        raise CheckpointError(f"expected a checkpoint folder at {found}, found none")
    return found


def load_checkpoint(folder: Path | str) -> tuple[Model, ClipProcessor, Card]:
    """Model (in evaluation mode), processor and card of a checkpoint folder."""
    folder = _existing(folder)
    model, processor = _load_model(folder), _load_processor(folder)
    _check_vocabulary(model, processor, folder)
    return model, processor, Card.from_dict(_read_json(folder / "card.json"))


def checkpoint_hash(folder: Path | str) -> str:
    """Twelve hexadecimal digits that identify weights, configuration and preprocessing together."""
    digest, folder = hashlib.sha256(), _existing(folder)
    graphs = sorted(path.name for path in folder.iterdir() if path.suffix in {".onnx", ".xml", ".bin"})
    for name in (*_IDENTITY, *graphs):
        path = folder / name
        if path.exists():
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def save_thresholds(folder: Path | str, thresholds: dict[str, Any]) -> None:
    """Write ``thresholds.json``."""
    path = Path(folder) / "thresholds.json"
    fresh = path.with_suffix(".json.part")
    _write_json(fresh, thresholds)
    os.replace(fresh, path)


def load_thresholds(folder: Path | str) -> dict[str, Any] | None:
    """Thresholds chosen on validation; None if the folder has none."""
    path = _last_good(Path(folder)) / "thresholds.json"
    return _read_json(path) if path.exists() else None
