"""Precision and recall of copy matching: ``python tests/platform/edges/measure_copies.py COPIES [DISTRACTORS]``.

Every video of COPIES (families are the first word of the file name) is a bank of its own in turn and every other one is
held against it; videos of DISTRACTORS (no copies of anything) are held against the bank of all. One JSON line for each
rule.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tidegate.media import DecoderPool
from tidegate.platform.known.bank import Bank
from tidegate.platform.known.hashing import HashingConfig, VideoHashes, hash_video
from tidegate.platform.known.matching import MatchConfig, find_matches


def family(path: Path) -> str:
    return path.stem.split("-")[0]


def measured(
    hashes: dict[Path, VideoHashes], bank: Bank, distractors: list[VideoHashes], config: MatchConfig
) -> dict[str, float]:
    usable = [path for path in hashes if len(hashes[path]) and path.stem in bank.entries]
    right = wrong = missed = 0
    for query in usable:
        found = {match.entry for match in find_matches(hashes[query], bank, config)}
        for entry in usable:
            if entry != query:
                same, matched = family(entry) == family(query), entry.stem in found
                right, wrong, missed = right + (same and matched), wrong + (matched and not same), missed + (
                    same and not matched
                )
    false = sum(bool(find_matches(query, bank, config)) for query in distractors if len(query))
    return {
        "max_bits": config.max_bits, "videos": len(usable), "pairs": right + missed,
        "recall": right / max(1, right + missed), "precision": right / max(1, right + wrong), "wrong_pairs": wrong,
        "distractors": len(distractors), "distractors_matched": false,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("copies", type=Path)
    parser.add_argument("distractors", type=Path, nargs="?")
    parser.add_argument("--n", type=int, default=60, help="distractors at most, by name")
    parser.add_argument("--interval-seconds", type=float, default=1.0)
    parser.add_argument("--bank-interval-seconds", type=float, default=0.2)
    wanted = parser.parse_args()
    hashing = HashingConfig(interval_seconds=wanted.interval_seconds)
    dense = HashingConfig(interval_seconds=wanted.bank_interval_seconds)
    bank = Bank(name="all", interval_seconds=wanted.bank_interval_seconds)
    with DecoderPool(1) as pool:
        hashes = {path: hash_video(path, pool, hashing, mirrored=True) for path in sorted(wanted.copies.glob("*.mp4"))}
        for path in hashes:
            entry = hash_video(path, pool, dense)
            bank = bank.with_entry(path.stem, entry) if len(entry) else bank
        others = sorted(wanted.distractors.rglob("*.mp4"))[: wanted.n] if wanted.distractors else []
        distractors = [hash_video(path, pool, hashing, mirrored=True) for path in others]
    for share in (0.5, 0.3, 0.2, 0.1):
        for max_bits in (15, 31, 47, 63, 79):
            rule = MatchConfig(max_bits=max_bits, min_video_share=share, min_entry_share=share)
            line = {"share": share, **measured(hashes, bank, distractors, rule)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
