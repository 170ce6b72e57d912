"""House rules that a machine can read: docstrings, exports, documented settings, cheap imports."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tidegate

ROOT = Path(tidegate.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "transformers", "av", "numpy", "scipy", "polars", "pyarrow", "rich.progress", "PIL", "jinja2"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            return list(ast.literal_eval(node.value))  # type: ignore[union-attr]
    return None


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_module_says_what_it_is_and_what_it_exports(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module opens with what enters, what leaves, and why"
    names = public_names(tree)
    has_public = any(
        isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") for node in tree.body
    )
    if path.name != "__main__.py" and has_public:
        assert names is not None, "a module with public names lists them in __all__"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in (names or ()):
            assert ast.get_docstring(node), f"{node.name} is public and has no docstring"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_exported_name_exists(path: Path) -> None:
    names = public_names(ast.parse(path.read_text(encoding="utf-8")))
    if names is None or path.name == "__main__.py":
        return
    module = importlib.import_module(module_name(path))
    assert [name for name in names if not hasattr(module, name)] == []


def config_fields(tree: ast.Module) -> list[tuple[str, str, bool]]:
    """(class, field, documented) of every configuration dataclass."""
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or not node.name.endswith(("Config", "Limits", "Options", "Recipe")):
            continue
        for this, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(this, ast.AnnAssign) and isinstance(this.target, ast.Name):
                documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                found.append((node.name, this.target.id, documented))
    return found


def test_every_setting_is_documented() -> None:
    missing = [
        f"{module_name(path)}.{owner}.{name}"
        for path in FILES
        for owner, name, documented in config_fields(ast.parse(path.read_text(encoding="utf-8")))
        if not documented and not name.startswith("_")
    ]
    assert missing == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from tidegate.cli import app\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    app(['--help'])\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_importing_the_package_starts_no_thread() -> None:
    before = threading.active_count()
    for path in FILES:
        if path.name != "__main__.py":
            importlib.import_module(module_name(path))
    assert threading.active_count() == before
