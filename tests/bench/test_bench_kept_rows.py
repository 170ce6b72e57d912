"""Kept rows: what was written whole is read, what was torn is cut off, and writing goes on behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.bench.kept_rows import append_row, read_rows


@pytest.mark.parametrize("torn", [b"", b'{"key": "c", "ra', b'{"key": "c"}', b"\xff\xfe", b'{"key"\n{"key": "d"}\n'])
def test_torn_rows_are_cut_off_and_writing_goes_on(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "folder" / "rows.jsonl"
    assert read_rows(file) == []
    append_row(file, {"key": "a", "text": "two\nlines"})
    append_row(file, {"key": "b"})
    with file.open("ab") as out:
        out.write(torn)
    assert [row["key"] for row in read_rows(file)] == ["a", "b"]
    append_row(file, {"key": "e"})
    assert [row["key"] for row in read_rows(file)] == ["a", "b", "e"]
