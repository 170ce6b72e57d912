"""The documentation is true: links resolve, commands exist, and no word of it speaks of anything but Tidegate."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tidegate.cli import app

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"```(?:bash|sh|console)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_and_pictures_resolve(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def documented_commands() -> list[tuple[str, str]]:
    found = set()
    for page in PAGES:
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.strip().removeprefix("$ ")
                if re.match(r"(\.venv/bin/)?tidegate( |$)", command):
                    found.add((str(page.relative_to(REPOSITORY)), command))
    return sorted(found)


@pytest.mark.parametrize(("page", "command"), documented_commands())
def test_documented_command_and_its_options_exist(page: str, command: str) -> None:
    words = shlex.split(command.split(" | ", maxsplit=1)[0].split(" > ", maxsplit=1)[0], comments=True)[1:]
    verbs = [word for word in words if not word.startswith("-")]
    options = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
    for depth in range(min(3, len(verbs)), -1, -1):
        result = CliRunner().invoke(app, [*verbs[:depth], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        if result.exit_code == 0:
            break
    assert depth > 0 or not verbs, f"{page}: no verb in {command!r}"
    assert {option for option in options if option not in result.output} == set(), f"{page}: {command!r}"


def test_readme_map_names_every_folder_of_the_package() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rooms = sorted(path.name for path in (REPOSITORY / "src/tidegate").iterdir() if (path / "__init__.py").exists())
    assert [room for room in rooms if f"{room}/" not in readme] == []


def test_readme_make_targets_exist() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make ([a-z][a-z-]*)", readme))
    assert {"demo", "test"} <= targets
    assert [target for target in sorted(targets) if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_python_dash_m_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tidegate", "version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", result.stdout.strip())
