"""Banks by hand: ``python -m tidegate.platform.known add BANK FILE...`` and ``... match BANK FILE...``.

Enters: files. Leaves: a bank with one more entry for each file (its name without the suffix), or a JSON line for each
file with its matches. Exit code 3 when a file could not be read, 2 when the request is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from tidegate.errors import TidegateError, UsageError
from tidegate.media import DecoderPool
from tidegate.platform.known.bank import Bank, read_bank, write_bank
from tidegate.platform.known.hashing import HashingConfig, hash_video
from tidegate.platform.known.matching import MatchConfig, find_matches


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tidegate.platform.known", description=__doc__)
    parser.add_argument("verb", choices=["add", "match"])
    parser.add_argument("bank", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--interval-seconds", type=float, default=1.0, help="between two hashed frames")
    parser.add_argument("--allowed", action="store_true", help="a new bank holds content that is known and allowed")
    parser.add_argument("--issue", default="icd", help="issue of a new bank")
    parser.add_argument("--max-bits", type=int, default=31, help="Hamming distance that counts as near")
    wanted = parser.parse_args(arguments)
    try:
        return _add(wanted) if wanted.verb == "add" else _match(wanted)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _add(wanted: argparse.Namespace) -> int:
    new = Bank(
        name=wanted.bank.stem, violates=not wanted.allowed, issue=wanted.issue, interval_seconds=wanted.interval_seconds
    )
    bank = read_bank(wanted.bank) if wanted.bank.exists() else new
    hashing = HashingConfig(interval_seconds=bank.interval_seconds)
    failed = False
    with DecoderPool(1) as pool:
        for path in wanted.files:
            try:
                bank = bank.with_entry(path.stem, hash_video(path, pool, hashing))
            except TidegateError as error:
                failed = True
                sys.stderr.write(f"{path}: {error}\n")
    write_bank(bank, wanted.bank)
    sys.stdout.write(f"{wanted.bank}: {len(bank.entries)} entries, {len(bank)} frames\n")
    return 3 if failed else 0


def _match(wanted: argparse.Namespace) -> int:
    bank, rule = read_bank(wanted.bank), MatchConfig(max_bits=wanted.max_bits)
    hashing = HashingConfig(interval_seconds=wanted.interval_seconds)
    failed = False
    with DecoderPool(1) as pool:
        for path in wanted.files:
            try:
                matches = find_matches(hash_video(path, pool, hashing, mirrored=True), bank, rule)
            except TidegateError as error:
                failed = True
                sys.stderr.write(f"{path}: {error}\n")
                continue
            sys.stdout.write(msgspec.json.encode({"file": str(path), "matches": matches}).decode() + "\n")
    return 3 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
