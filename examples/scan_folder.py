"""Scan a folder: ``python examples/scan_folder.py FOLDER OUT``. Index, JSON Lines and Parquet lie in OUT afterwards."""

from __future__ import annotations

import sys
from collections import Counter

from tidegate import Scanner, load_preset


def scan_folder(scanner: Scanner, folder: str, out: str) -> Counter[str]:
    """Print each verdict as it comes; how many videos ended how."""
    ends: Counter[str] = Counter()
    for outcome in scanner.scan_many([folder], out=out, resume=True):
        print(f"{outcome.status:9} {outcome.path}: {outcome.reason}")
        ends[outcome.status] += 1
    return ends


if __name__ == "__main__":
    with load_preset("tiny") as tiny:
        print(dict(scan_folder(tiny, *sys.argv[1:3])))
