"""The house rule: a room imports only rooms on lower lines; rooms on one line never import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidegate

ROOT = Path(tidegate.__file__).parent
LINES = [
    {"types", "errors"},
    {"media", "models", "evaluation"},
    {"cascade", "corpus"},
    {"training", "pipeline", "report"},
    {"platform", "diagnosis", "live"},
    {"serving", "bench"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LINES) for room in rooms}
FORBIDDEN = {  # third-party packages that a room must not know
    "types": {"torch", "av", "transformers", "polars"},
    "errors": {"torch", "av", "numpy"},
    "media": {"torch", "transformers"},
    "evaluation": {"torch", "av", "transformers"},
    "cascade": {"torch", "av", "transformers", "PIL"},
}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            if node.module == "tidegate":
                yield from (f"tidegate.{alias.name}" for alias in node.names)


FILES = sorted(path for path in ROOT.rglob("*.py") if room_of(path) not in {"__init__", "__main__"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_room_imports_only_rooms_on_lower_lines(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{room} is not a room of the architecture"
    for module in imported_modules(path):
        parts = module.split(".")
        assert parts[0] not in FORBIDDEN.get(room, set()), f"{path} imports {module}"
        if parts[0] != "tidegate" or len(parts) == 1 or parts[1] not in LEVEL or parts[1] == room:
            continue
        assert LEVEL[parts[1]] < LEVEL[room], f"{path} ({room}) imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_a_thing_is(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Handler", "Util", "Utils")), node.name
