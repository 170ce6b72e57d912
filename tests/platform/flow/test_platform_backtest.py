"""Offline and online comparison: views count until the action, splits are checked, early looks are paid for."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import polars
import pytest
from platform_doubles import event

from tidegate.errors import ManifestError, UsageError
from tidegate.pipeline.policy import Clause, Policy, Routing
from tidegate.platform.backtest import StreamVideo, compare, read_stream, replay_stream
from tidegate.platform.config import read_config
from tidegate.platform.event import EventCodec
from tidegate.platform.eventlog import write_log
from tidegate.platform.experiment import Assignment, SequentialTest, experiment_report, sample_ratio_p
from tidegate.platform.worker import Worker


def policy(name: str, tau: float) -> Policy:
    return Policy(
        name=name, version="1", clauses=(Clause(id="c", issue="icd", title="t", remove_at=0.5),),
        routing=Routing(rule="precision", tau=tau),
    )


def video(number: int, label: int, base: float, large: float, **settings: object) -> StreamVideo:
    values: dict[str, object] = {
        "video_id": f"v{number}", "arrived_at": float(number), "label": label, "base_score": base,
        "large_score": large, "base_seconds": 1.0, "large_seconds": 4.0, "views": ((10.0, 100.0), (100.0, 1000.0)),
        "creator": f"c{number % 20}",
    }
    return StreamVideo(**{**values, **settings})  # type: ignore[arg-type]


def test_views_before_action_are_those_until_the_decision() -> None:
    videos = [video(0, 1, 0.9, 0.9), video(0, 0, 0.1, 0.1)]
    replayed = replay_stream(videos, policy("p", 0.4))
    assert replayed.removed.tolist() == [1.0, 0.0]
    assert replayed.latency_seconds.tolist() == [5.0, 1.0]
    assert replayed.views.tolist() == [50.0, 1000.0]  # 10 views a second for 5 seconds
    assert replayed.model_seconds.tolist() == [5.0, 1.0]


def test_escalated_videos_queue_for_the_large_stage() -> None:
    videos = [video(number, 1, 0.9, 0.9, arrived_at=0.0) for number in range(4)]
    one = replay_stream(videos, policy("p", 0.4), large_workers=1)
    two = replay_stream(videos, policy("p", 0.4), large_workers=2)
    assert one.latency_seconds.tolist() == [5.0, 9.0, 13.0, 17.0]
    assert two.latency_seconds.tolist() == [5.0, 5.0, 9.0, 9.0]
    assert one.views.sum() > two.views.sum()


def stream(count: int = 400) -> list[StreamVideo]:
    rng = np.random.default_rng(3)
    return [
        video(
            number, label := int(rng.random() < 0.2), float(np.clip(0.35 * label + rng.normal(0.3, 0.15), 0, 1)),
            float(np.clip(0.6 * label + rng.normal(0.2, 0.1), 0, 1)), arrived_at=10.0 * number,
        )
        for number in range(count)
    ]


def test_report_agrees_with_the_textbook_sums_and_pairs_its_intervals(tmp_path: Path) -> None:
    videos = stream()
    report = compare(videos, policy("live", 0.6), policy("candidate", 0.3), samples=200, seed=1)
    side = replay_stream(videos, policy("candidate", 0.3))
    hits = sum(1 for label, gone in zip(side.labels, side.removed, strict=True) if label and gone)
    assert report.candidate_values["recall"] == hits / side.labels.sum()
    assert report.candidate_values["qps_ratio"] == pytest.approx(side.escalated.mean())
    rate = (side.views * side.labels).sum() / side.views.sum()
    assert report.candidate_values["violating_view_rate"] == pytest.approx(rate)
    for name, interval in report.differences.items():
        estimate = report.candidate_values[name] - report.live_values[name]
        assert interval.estimate == pytest.approx(estimate)
        assert interval.low <= estimate <= interval.high
        assert interval.n_clusters == 20
    assert report.differences["qps_ratio"].low > 0
    assert "violating_view_rate" in report.table()
    json.dumps(report.to_dict())


def test_same_policy_differs_in_nothing() -> None:
    report = compare(stream(100), policy("a", 0.4), policy("b", 0.4), samples=100)
    assert all(interval.low == interval.high == 0.0 for interval in report.differences.values())


def test_stream_is_read_and_bad_rows_are_named(tmp_path: Path) -> None:
    rows = [{
        "video_id": item.video_id, "arrived_at": item.arrived_at, "label": item.label, "base_score": item.base_score,
        "large_score": item.large_score, "base_seconds": 1.0, "large_seconds": 4.0,
        "views": json.dumps(item.views), "creator": item.creator,
    } for item in reversed(stream(10))]
    polars.DataFrame(rows).write_parquet(tmp_path / "s.parquet")
    polars.DataFrame(rows).write_csv(tmp_path / "s.csv")
    assert read_stream(tmp_path / "s.parquet") == read_stream(tmp_path / "s.csv") == stream(10)
    rows[3]["views"] = "[[5, 10], [4, 20]]"
    polars.DataFrame(rows).write_csv(tmp_path / "bad.csv")
    with pytest.raises(ManifestError, match="row 4: expected ascending views"):
        read_stream(tmp_path / "bad.csv")
    polars.DataFrame(rows).drop("label").write_csv(tmp_path / "bad.csv")
    with pytest.raises(ManifestError, match="missing label"):
        read_stream(tmp_path / "bad.csv")


def test_assignment_is_stable_balanced_and_independent_between_experiments() -> None:
    first = Assignment(experiment="a", shares={"live": 0.9, "candidate": 0.1})
    ids = [f"v{number}" for number in range(20_000)]
    arms = [first.arm(name) for name in ids]
    assert arms == [Assignment(experiment="a", shares={"live": 0.9, "candidate": 0.1}).arm(name) for name in ids]
    assert first.arm("v0") == "candidate"
    counts = Counter(arms)
    assert sample_ratio_p(counts, first.shares) > 0.001
    other = [Assignment(experiment="b").arm(name) for name in ids]
    both = sum(1 for a, b in zip(arms, other, strict=True) if a == b == "candidate")
    assert abs(both / counts["candidate"] - 0.5) < 4 * math.sqrt(0.25 / counts["candidate"])


def test_lost_units_of_one_arm_raise_the_alarm() -> None:
    assert sample_ratio_p({"live": 5000, "candidate": 5000}, {"live": 0.5, "candidate": 0.5}) == 1.0
    assert sample_ratio_p({"live": 5300, "candidate": 4700}, {"live": 0.5, "candidate": 0.5}) < 0.0005


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_bad_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Assignment(experiment="a", shares=shares)


def ever_claims(rng: np.random.Generator, rate_a: float, rate_b: float) -> bool:
    a, b = np.cumsum(rng.random(4000) < rate_a), np.cumsum(rng.random(4000) < rate_b)
    test = SequentialTest(alpha=0.05, effect=0.05)
    return any(test.look(n, float(a[n - 1]), n, float(b[n - 1])) for n in range(50, 4001, 50))


def test_looking_all_the_time_is_paid_for_and_real_differences_are_found() -> None:
    rng = np.random.default_rng(5)
    false = sum(ever_claims(rng, 0.2, 0.2) for _ in range(150))
    found = sum(ever_claims(rng, 0.2, 0.27) for _ in range(50))
    assert false / 150 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 150)
    assert found >= 45


def test_interval_that_holds_at_all_times_covers() -> None:
    rng = np.random.default_rng(6)
    missed = 0
    for _ in range(200):
        a, b = np.cumsum(rng.random(3000) < 0.2), np.cumsum(rng.random(3000) < 0.24)
        test = SequentialTest(effect=0.05)
        spans = [test.interval(n, float(a[n - 1]), n, float(b[n - 1])) for n in range(100, 3001, 50)]
        missed += any(not low <= 0.04 <= high for low, high in spans)
    assert missed / 200 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)


CONFIG = """
[platform]
policy_file = "live.toml"
[source]
kind = "log"
folder = "events"
[scoring]
kind = "feature"
feature = "score"
[experiment]
name = "stricter"
policy_file = "candidate.toml"
candidate_share = 0.3
"""
POLICY = """
[policy]
name = "{name}"
version = "1"
[[clause]]
id = "c"
issue = "icd"
title = "t"
remove_at = {at}
"""


def test_experiment_decides_by_arm_and_reports(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    events = [event(f"v{n}", features={"score": float(score)}) for n, score in enumerate(rng.random(4000).round(3))]
    write_log(tmp_path / "events", "p", [EventCodec().encode(each) for each in events])
    (tmp_path / "live.toml").write_text(POLICY.format(name="live", at=0.9))
    (tmp_path / "candidate.toml").write_text(POLICY.format(name="candidate", at=0.6))
    (tmp_path / "platform.toml").write_text(CONFIG)
    config = read_config(tmp_path / "platform.toml")
    with Worker(config) as worker:
        worker.run(until_idle=True)
    assert config.experiment is not None
    assignment = Assignment(experiment="stricter", shares=config.experiment.settings.shares)
    report = experiment_report(config.state / "audit", assignment, effect=0.1)
    assert sum(report.items.values()) == 4000
    assert report.sound
    assert report.removed["candidate"] / report.items["candidate"] == pytest.approx(0.4, abs=0.06)
    assert report.removed["live"] / report.items["live"] == pytest.approx(0.1, abs=0.03)
    assert report.p_value < 1e-6
    assert report.interval[0] > 0.15
