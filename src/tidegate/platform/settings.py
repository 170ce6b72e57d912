"""Tables of a TOML file as frozen dataclasses, checked to the last key.

Enters: a table and the dataclass that it must fill. Leaves: the dataclass, or a ``ConfigError`` that names the file and
the key, what was expected and what came, with the nearest known word for a misspelt key. Relative values of keys that
name files (``path``, ``folder``, ``file``, ``root`` and those that end so) are relative to the file.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from tidegate.errors import ConfigError, TidegateError

__all__ = ["Table", "nearest"]

_Settings = TypeVar("_Settings")
_FILE_KEYS = ("path", "folder", "file", "root")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, 1)
    return f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(words)}"


class Table:
    """One table of a file."""

    def __init__(self, content: Mapping[str, Any], origin: Path, path: str = "") -> None:
        self._content, self._origin, self._path = dict(content), origin, path

    def error(self, key: str, said: str) -> ConfigError:
        """What is wrong with a key."""
        name = f"{self._path}.{key}" if self._path and key else self._path or key
        return ConfigError(f"{self._origin}: {name}: {said}")

    def only(self, known: Iterable[str]) -> None:
        """Refuse keys that nobody knows."""
        names = set(known)
        for key in self._content:
            if key not in names:
                raise self.error(key, f"unknown key{nearest(key, names)}")

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def take(self, key: str, kind: Any, default: Any) -> Any:
        """A value of the given type."""
        return self._typed(key, kind, self._content[key]) if key in self._content else default

    def table(self, key: str) -> Table:
        """A table inside this one; empty when absent."""
        value = self._content.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"expected a table [{key}], got {value!r}")
        return Table(value, self._origin, f"{self._path}.{key}" if self._path else key)

    def tables(self, key: str) -> list[Table]:
        """An array of tables inside this one."""
        values = self._content.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.error(key, f"expected tables [[{key}]], got {values!r}")
        return [Table(value, self._origin, f"{key}[{number}]") for number, value in enumerate(values)]

    def fill(self, settings: type[_Settings], *, beside: Iterable[str] = (), **defaults: Any) -> _Settings:
        """The dataclass that this table describes; ``beside`` are keys that somebody else reads."""
        hints = get_type_hints(settings)
        fields = {field.name: field for field in dataclasses.fields(settings) if field.init}  # type: ignore[arg-type]
        self.only([*fields, *beside])
        values = dict(defaults)
        for name, field in fields.items():
            if name in self._content:
                values[name] = self._typed(name, hints[name], self._content[name])
            elif name not in values and field.default is field.default_factory is dataclasses.MISSING:
                raise self.error(name, "expected a value, got none")
        try:
            return settings(**values)
        except (ValueError, TidegateError) as error:
            raise self.error("", str(error)) from error

    def _typed(self, key: str, kind: Any, value: Any) -> Any:
        try:
            typed = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise self.error(key, f"{str(error).lower()}, came {value!r}") from error
        if key.endswith(_FILE_KEYS) and isinstance(typed, str) and "://" not in typed and typed not in {"", ":memory:"}:
            return str(self._origin.parent / Path(typed).expanduser())
        return typed
