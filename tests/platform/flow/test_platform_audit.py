"""The trail survives crashes, notices every change, and lets nobody else write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.errors import UsageError
from tidegate.platform.audit import AuditTrail, read_lines, verify


def lines(first: int, count: int) -> list[bytes]:
    return [b'{"at":%d,"video_id":"v%d"}' % (number, number) for number in range(first, first + count)]


def test_blocks_come_back_in_order_and_the_chain_is_intact(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path, "w0", {"policy": "p"}, max_file_bytes=200)
    for block in range(10):
        trail.append(lines(block * 3, 3))
    trail.close()
    assert [line.raw for line in read_lines(tmp_path)] == lines(0, 30)
    assert {line.setup["policy"] for line in read_lines(tmp_path)} == {"p"}
    summary = verify(tmp_path)
    assert summary.intact
    assert summary.entries == 30
    assert summary.files > 2
    assert summary.heads == {"w0": trail.head}


@pytest.mark.parametrize("cut", [1, 20, 40, 60, 90])
def test_torn_block_is_cut_off_and_the_chain_goes_on(tmp_path: Path, cut: int) -> None:
    trail = AuditTrail(tmp_path, "w0", {})
    trail.append(lines(0, 2))
    trail.append(lines(2, 2))
    trail.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    again = AuditTrail(tmp_path, "w0", {})
    again.append(lines(4, 1))
    again.close()
    assert verify(tmp_path).intact
    assert [line.raw for line in read_lines(tmp_path)] == lines(0, 2) + lines(4, 1)


def test_any_changed_removed_or_added_line_is_noticed(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path, "w0", {"policy": "p"})
    trail.append(lines(0, 4))
    trail.append(lines(4, 4))
    trail.close()
    (path,) = tmp_path.iterdir()
    honest = path.read_bytes().splitlines(keepends=True)
    for number in range(len(honest)):
        for forged in (b"", honest[number].replace(b"v", b"w"), honest[number] * 2):
            if forged == honest[number] or (number == len(honest) - 1 and forged == b""):
                continue
            path.write_bytes(b"".join([*honest[:number], forged, *honest[number + 1 :]]))
            summary = verify(tmp_path)
            assert not summary.intact or summary.heads != {"w0": trail.head}, (number, forged)


def test_second_writer_is_refused(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path, "w0", {})
    with pytest.raises(UsageError, match="another process"):
        AuditTrail(tmp_path, "w0", {})
    trail.close()
    AuditTrail(tmp_path, "w0", {}).close()
