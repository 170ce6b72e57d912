"""One video under a policy of one's own, in three regions: ``python examples/own_policy.py VIDEO``."""

from __future__ import annotations

import sys
from pathlib import Path

from tidegate import Outcome, Scanner, load_preset
from tidegate.types import VideoContext

POLICY = Path(__file__).with_name("own_policy.toml")


def in_regions(scanner: Scanner, video: str) -> dict[str, Outcome]:
    """The outcome of a video as if it were shown in each of these regions."""
    return {region: scanner.scan(video, context=VideoContext(region=region)) for region in ("US", "FR", "DE")}


if __name__ == "__main__":
    with load_preset("tiny", policy=POLICY) as tiny:
        print(tiny.policy.explain("DE"))
        for region, outcome in in_regions(tiny, sys.argv[1]).items():
            print(f"{region}: {outcome.status}: {outcome.reason}")
