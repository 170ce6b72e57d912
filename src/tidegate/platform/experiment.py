"""The A/B test online: who is in which arm, whether the split is sound, and when it may be stopped.

Enters: ids, then counts of each arm. Leaves: an arm, a check of the sample ratio, an always-valid test.

- An arm is a hash of experiment and unit: the same on every machine and after every restart, without a table, and
  independent between experiments.
- Sample-ratio check: a chi-square test of the arms' sizes. A mismatch means that something loses or doubles units, and
  no result of the experiment may be believed (Fabijan et al., KDD 2019); the usual alarm is p < 0.0005.
- Sequential test: a mixture sequential probability ratio test with a normal mixture (Johari, Koomen, Pekelis, Walsh:
  "Always Valid Inference", 2022). Its p-value may be looked at after every item: the chance that it *ever* falls under
  alpha without a difference is at most alpha.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from scipy import stats

from tidegate.errors import UsageError
from tidegate.platform.audit import read_lines
from tidegate.platform.records import AuditEntry

__all__ = ["Assignment", "ExperimentReport", "SequentialTest", "experiment_report", "sample_ratio_p"]

SAMPLE_RATIO_ALARM = 0.0005


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Which arm a unit is in."""

    experiment: str
    """Name; another name gives another, independent split."""
    shares: Mapping[str, float] = field(default_factory=lambda: {"live": 0.5, "candidate": 0.5})
    """Arms and their shares, which add up to 1."""
    unit: Literal["video", "creator"] = "video"
    """What is assigned. ``creator``: all videos of a creator are in one arm; an event without one counts as itself."""

    def __post_init__(self) -> None:
        if not self.shares or any(share <= 0 for share in self.shares.values()):
            raise UsageError(f"expected shares over 0, got {dict(self.shares)}")
        if abs(sum(self.shares.values()) - 1.0) > 1e-9:
            raise UsageError(f"expected shares that add up to 1, got {dict(self.shares)}")

    def arm(self, unit_id: str) -> str:
        """The arm of a unit."""
        digest = hashlib.blake2b(f"{self.experiment}\0{unit_id}".encode(), digest_size=8).digest()
        place, upper = int.from_bytes(digest, "big") / 2**64, 0.0
        for name, share in self.shares.items():
            upper += share
            if place < upper:
                return name
        return name


def sample_ratio_p(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """P-value of the arms' sizes under the planned shares."""
    total = sum(counts.values())
    if not total:
        return 1.0
    observed = [counts.get(name, 0) for name in shares]
    return float(stats.chisquare(observed, [share * total for share in shares.values()]).pvalue)


@dataclass(kw_only=True)
class SequentialTest:
    """Always-valid comparison of two rates; fed with sums so far, as often as one likes."""

    alpha: float = 0.05
    effect: float = 0.01
    """Differences of about this size are found soonest (the standard deviation of the mixture)."""
    p_value: float = 1.0
    """The smallest so far: valid whenever one stops."""

    def look(self, n_a: int, sum_a: float, n_b: int, sum_b: float) -> bool:
        """Take the sums so far (counts of successes in each arm); whether a difference may be claimed."""
        if min(n_a, n_b) < 2:
            return False
        difference, variance = self._difference(n_a, sum_a, n_b, sum_b)
        spread = self.effect**2
        log_ratio = 0.5 * math.log(variance / (variance + spread))
        log_ratio += spread * difference**2 / (2 * variance * (variance + spread))
        self.p_value = min(self.p_value, math.exp(min(0.0, -log_ratio)))
        return self.p_value <= self.alpha

    def interval(self, n_a: int, sum_a: float, n_b: int, sum_b: float) -> tuple[float, float]:
        """An interval for rate b minus rate a that holds at all times together."""
        difference, variance = self._difference(n_a, sum_a, n_b, sum_b)
        spread = self.effect**2
        scale = 2 * variance * (variance + spread) / spread
        half = math.sqrt(scale * (math.log(1 / self.alpha) + 0.5 * math.log((variance + spread) / variance)))
        return difference - half, difference + half

    @staticmethod
    def _difference(n_a: int, sum_a: float, n_b: int, sum_b: float) -> tuple[float, float]:
        rate_a, rate_b = (sum_a + 0.5) / (n_a + 1), (sum_b + 0.5) / (n_b + 1)
        variance = rate_a * (1 - rate_a) / n_a + rate_b * (1 - rate_b) / n_b
        return sum_b / n_b - sum_a / n_a, variance


@dataclass(frozen=True, kw_only=True)
class ExperimentReport:
    """What the trail says of an experiment."""

    experiment: str
    items: Mapping[str, int]
    removed: Mapping[str, int]
    sample_ratio_p: float
    sound: bool
    """False: the sizes of the arms do not fit the plan; believe nothing else here."""
    p_value: float
    interval: tuple[float, float]
    """Of the removal rate, second arm minus first; valid whenever one looks."""


def experiment_report(folder: Path, assignment: Assignment, *, effect: float = 0.01) -> ExperimentReport:
    """Arms, sample ratio and removal rates from the audit trail; each (video, version) counts once."""
    arms = list(assignment.shares)
    if len(arms) != 2:
        raise UsageError(f"expected two arms to compare, got {arms}")
    seen: set[tuple[str | None, int | None]] = set()
    items: Counter[str] = Counter()
    removed: defaultdict[str, int] = defaultdict(int)
    test, looked = SequentialTest(effect=effect), 0
    decoder = msgspec.json.Decoder(AuditEntry)
    for line in read_lines(folder, keep=lambda raw: b'"arm":' in raw):
        entry = decoder.decode(line.raw)
        key = (entry.video_id, entry.version)
        if entry.arm is None or entry.arm not in assignment.shares or entry.verdict is None or key in seen:
            continue
        seen.add(key)
        items[entry.arm] += 1
        removed[entry.arm] += entry.status == "removed"
        looked += 1
        if looked % 100 == 0:
            test.look(*_sums(arms, items, removed))
    sums = _sums(arms, items, removed)
    test.look(*sums)
    ratio = sample_ratio_p(items, assignment.shares)
    return ExperimentReport(
        experiment=assignment.experiment, items=dict(items), removed=dict(removed), sample_ratio_p=ratio,
        sound=ratio >= SAMPLE_RATIO_ALARM, p_value=test.p_value,
        interval=test.interval(*sums) if min(items[arm] for arm in arms) > 1 else (-1.0, 1.0),
    )


def _sums(arms: Sequence[str], items: Mapping[str, int], removed: Mapping[str, int]) -> tuple[int, int, int, int]:
    first, second = arms
    return items[first], removed[first], items[second], removed[second]
