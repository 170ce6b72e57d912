"""Reads a stage file (TOML): which model is the base stage, which the large one, with which thresholds.

Enters: a path. Leaves: the stages of a cascade, or a ``ConfigError`` that names the file, the key, what was expected
and what came. A table ``[base]`` and a table ``[large]``, one of them at least; ``kind`` says what stands there:

    preset      a stage of a preset:             preset = "tiny"
    checkpoint  a folder of training or export:  folder = "checkpoints/large"
    zero-shot   a chat model in this process:    source = "<hub id or folder>", clause = "..."
    server      an OpenAI-compatible server:     url = "http://localhost:8000/v1", model = "...", clause = "..."

``flag_at`` and ``escalate_at`` are scores of that stage; without them those of its ``thresholds.json`` are used.
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from tidegate.cascade import Stage
from tidegate.errors import ConfigError
from tidegate.pipeline.remote_stage import RemoteConfig, RemoteStage
from tidegate.pipeline.routing import CalibratedStage, calibrated

__all__ = ["MAX_STAGE_FILE_BYTES", "read_stages", "zero_shot_stages"]

MAX_STAGE_FILE_BYTES = 2**20
_NAMES: tuple[Literal["base", "large"], ...] = ("base", "large")


@dataclass(frozen=True, kw_only=True)
class _Preset:
    """``kind = "preset"``."""

    preset: str = "tiny"
    """Name of the preset whose stage this is."""


@dataclass(frozen=True, kw_only=True)
class _Checkpoint:
    """``kind = "checkpoint"``."""

    folder: str
    """Written by training or by ``tidegate export``; relative to the file."""
    issue: str | None = None
    """Which of its issues; None: its first."""


@dataclass(frozen=True, kw_only=True)
class _ZeroShot:
    """``kind = "zero-shot"``."""

    source: str
    """LLaVA-OneVision by hub id or folder, or an AVLM checkpoint with its language head."""
    clause: str
    """The rule, in words."""
    issue: str = "icd"
    """Under which issue the score is reported."""
    question: str | None = None
    """Asked after the clause; None: the built-in one."""
    frames: int = 8
    """Frames of each video."""
    dtype: str | None = None
    """``float32``, ``bfloat16`` or ``float16``; None: bfloat16 on an accelerator."""


_KINDS: dict[str, type[Any]] = {
    "preset": _Preset,
    "checkpoint": _Checkpoint,
    "zero-shot": _ZeroShot,
    "server": RemoteConfig,
}


def read_stages(path: str | Path, *, device: str = "cpu", batch_size: int = 8) -> list[CalibratedStage]:
    """The stages of a file, base first. Models are loaded here."""
    path = Path(path)
    document = _document(path)
    if unknown := sorted(set(document) - set(_NAMES)) or not document:
        raise ConfigError(f"{path}: expected the tables [base] or [large], got {unknown if document else 'neither'}")
    return [
        _stage(path, name, document[name], device=device, batch_size=batch_size) for name in _NAMES if name in document
    ]


def zero_shot_stages(source: str, clause: str, *, device: str = "cpu") -> list[CalibratedStage]:
    """A cascade of one stage that judges by a clause."""
    config = _ZeroShot(source=source, clause=clause)
    return [CalibratedStage(stage=_zero_shot(config, "large", source, device))]


def _document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_STAGE_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable stage file, got {error.strerror}") from error
    if len(content) > MAX_STAGE_FILE_BYTES:
        raise ConfigError(f"{path}: expected at most {MAX_STAGE_FILE_BYTES} bytes, got more")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: expected TOML, got {error}") from error


def _stage(
    path: Path, name: Literal["base", "large"], table: object, *, device: str, batch_size: int
) -> CalibratedStage:
    where = f"{path}: {name}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, got {table!r}")
    kind = table.get("kind")
    if kind not in _KINDS:
        raise ConfigError(f"{where}.kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    thresholds = {key: _score(table[key], f"{where}.{key}") for key in ("flag_at", "escalate_at") if key in table}
    rest = {key: value for key, value in table.items() if key not in {"kind", "flag_at", "escalate_at"}}
    stage = _loaded(_config(_KINDS[kind], rest, where), name, path.parent, device=device, batch_size=batch_size)
    entry = calibrated(stage, getattr(stage, "thresholds", None))
    if "flag_at" in thresholds:
        entry = replace(entry, flag_threshold=thresholds["flag_at"])
    return replace(entry, tau=thresholds["escalate_at"]) if "escalate_at" in thresholds else entry


def _score(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ConfigError(f"{where}: expected a score in [0, 1], got {value!r}")
    return float(value)


def _loaded(config: Any, name: Literal["base", "large"], folder: Path, *, device: str, batch_size: int) -> Stage:
    from tidegate.models import load_stage, preset

    if isinstance(config, RemoteConfig):
        return RemoteStage(config=config, name=name)
    if isinstance(config, _Preset):
        packaged: Stage = preset(config.preset).load_stage(name, device=device, batch_size=batch_size)
        return packaged
    if isinstance(config, _Checkpoint):
        place = folder / config.folder
        trained: Stage = load_stage(place, name=name, issue=config.issue, device=device, batch_size=batch_size)
        return trained
    beside = folder / config.source
    return _zero_shot(config, name, str(beside) if beside.is_dir() else config.source, device)


def _zero_shot(config: _ZeroShot, name: str, source: str, device: str) -> Stage:
    from tidegate.models import ZeroShotConfig, load_zero_shot

    wanted = ZeroShotConfig(clause=config.clause, issue=config.issue)
    if config.question is not None:
        wanted = replace(wanted, question=config.question)
    asked: Stage = load_zero_shot(
        source, wanted, name=name, num_frames=config.frames, device=device, dtype=config.dtype
    )
    return asked


def _config(cls: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """A configuration out of a table, with every key known and of its type."""
    kinds = typing.get_type_hints(cls)
    needed = {field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING}
    if unknown := sorted(set(values) - set(kinds)):
        raise ConfigError(f"{where}: expected keys among {sorted(kinds)}, got {unknown}")
    if absent := sorted(needed - set(values)):
        raise ConfigError(f"{where}: expected the keys {sorted(needed)}, got none for {absent}")
    try:
        return cls(**{key: _typed(value, kinds[key], f"{where}.{key}") for key, value in values.items()})
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from error


def _typed(value: Any, kind: Any, where: str) -> Any:
    """A TOML value as a field's type: text, whole number, number, truth, or a list of texts."""
    wanted = get_args(kind)[0] if get_origin(kind) in {types.UnionType, typing.Union} else kind
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            raise ConfigError(f"{where}: expected one of {', '.join(get_args(wanted))}, got {value!r}")
        return value
    if get_origin(wanted) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ConfigError(f"{where}: expected a list of texts, got {value!r}")
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{where}: expected {wanted.__name__}, got {value!r}")
    return value
