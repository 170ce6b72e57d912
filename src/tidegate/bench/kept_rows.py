"""Rows of a benchmark kept as JSON Lines, so that a run that was stopped goes on where it was.

Enters: a file, a row. Leaves: the rows that were written whole. What was torn when a run was killed is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["append_row", "read_rows"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows, none if there is no file; from the first line that is not whole, the file is cut off."""
    written = path.read_bytes() if path.exists() else b""
    rows, whole = [], 0
    for line in written.splitlines(keepends=True):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if row is None:
            break
        rows.append(row)
        whole += len(line)
    if whole < len(written):
        os.truncate(path, whole)
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write a row at the end; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
