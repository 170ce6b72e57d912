"""The stream's filter says exactly what the pipeline's filter says."""

from __future__ import annotations

import random
from datetime import date

from tidegate.pipeline.filter import Filter
from tidegate.pipeline.policy import Clause, Policy, RegionOverride
from tidegate.platform.verdicts import PolicyTable
from tidegate.types import Decision, VideoContext

DAY = date(2026, 6, 1)


def random_policy(rng: random.Random) -> Policy:
    def threshold() -> float | dict[str, float] | None:
        return rng.choice([None, round(rng.random(), 2), {"base": 0.7, "large": 0.4}, {"large": 0.6}])

    clauses = tuple(
        Clause(
            id=f"c{number}", issue=rng.choice(["icd", "ucc"]), title="a title", action=rng.choice(["remove", "ignore"]),
            remove_at=threshold(), ignore_from=rng.choice([None, 0.2, {"base": 0.3}]),
            effective_from=rng.choice([None, date(2026, 1, 1), date(2027, 1, 1)]),
            effective_until=rng.choice([None, date(2026, 2, 1), date(2026, 6, 1)]),
        )
        for number in range(rng.randint(1, 4))
    )
    changes = RegionOverride(clauses={"c0": {"remove_at": 0.9, "action": "remove"}})
    regions = {"EU": changes, "FR": changes}
    return Policy(name="p", version="1", clauses=clauses, groups={"EU": ("DE",)}, regions=regions)


def test_fast_filter_equals_the_definition() -> None:
    rng = random.Random(7)
    seen = set()
    for _ in range(300):
        policy = random_policy(rng)
        slow, fast = Filter(policy, clock=lambda: DAY), PolicyTable(policy, clock=lambda: DAY)
        for _ in range(20):
            score, threshold = round(rng.random(), 2), 0.5
            decision = Decision(
                issue=rng.choice(["icd", "ucc"]), score=score, flagged=score >= threshold, threshold=threshold,
                stage=rng.choice(["base", "large"]), escalated=False, route="precision", reason="r",
            )
            region = rng.choice([None, "DE", "FR", "US"])
            wanted, came = slow(decision, VideoContext(region=region)), fast.judge(decision, region)
            assert (came.status, came.reason) == (wanted.status, wanted.reason)
            completed = wanted.decision
            assert (came.threshold, came.flagged, came.clause) == (
                completed.threshold, completed.flagged, completed.clause,
            )
            seen.add(came.status)
    assert seen == {"remained", "removed", "ignored"}


def test_clauses_change_with_the_day_between_batches_only() -> None:
    clause = Clause(id="c", issue="icd", title="t", remove_at=0.5, effective_from=date(2026, 6, 2))
    today = [DAY]
    table = PolicyTable(Policy(name="p", version="1", clauses=(clause,)), clock=lambda: today[0])
    decision = Decision(
        issue="icd", score=0.9, flagged=True, threshold=0.5, stage="base", escalated=False, route="r", reason="r"
    )
    assert table.judge(decision, None).status == "ignored"
    today[0] = date(2026, 6, 2)
    assert table.judge(decision, None).status == "ignored"
    table.begin_batch()
    assert table.judge(decision, None).status == "removed"
