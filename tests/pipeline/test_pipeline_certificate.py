"""A certificate in a policy: the threshold routes, the promise travels with decisions, and nothing contradicts it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tidegate.cascade import CachedStage, Escalate
from tidegate.cascade.calibrate import CalibrationConfig, calibrate
from tidegate.errors import ConfigError
from tidegate.pipeline.policy import Policy
from tidegate.pipeline.policy_file import parse_policy, read_policy
from tidegate.pipeline.routing import CalibratedStage, RegionalCascades
from tidegate.types import Decision, Score, VideoContext

HEAD = '[policy]\nname = "p"\nversion = "1"\n[[clause]]\nid = "c"\nissue = "icd"\ntitle = "t"\n'
PLAIN_HASH = "ca784d03aabe4d78fc4df3113b9bf7cf301da08a953e5a7a8a130a788f92710b"
"""Of a policy without a certificate, from before there were any: hashes in old audit trails stay valid."""
WRITTEN = {
    "certified": True, "tau": 0.25, "lam": 0.6, "delta": 0.05, "recall_bound": 0.95, "precision_bound": None,
    "target_recall": 0.95, "n_audit": 4000, "n_positives": 200, "reason": "r", "target": "recall >= 0.95",
    "assumptions": ["exchangeable"], "certificate_id": "abc", "escalate_everything": False, "something_later": 1,
}


def written(folder: Path, name: str = "certificate.json", **changes: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(WRITTEN | changes))
    return path


def policy(folder: Path, rest: str = '[cascade]\ncertificate = "certificate.json"\n', clause: str = "") -> Policy:
    path = folder / "policy.toml"
    path.write_text(HEAD + clause + rest)
    return read_policy(path)


def stages(count: int = 2) -> list[CalibratedStage]:
    names = ("base", "large", "larger")[:count]
    return [CalibratedStage(stage=CachedStage(name=name, issue="icd", scores={}), taus={10: 0.1}) for name in names]


def step(policy: Policy, *values: float, region: str | None = None) -> Escalate | Decision:
    scores = [
        Score(value=value, stage=stage, issue="icd", model="m")
        for value, stage in zip(values, ("base", "large"), strict=False)
    ]
    return RegionalCascades(stages(), policy).step(scores, VideoContext(region=region))


def decided(policy: Policy, *values: float, region: str | None = None) -> Decision:
    found = step(policy, *values, region=region)
    assert isinstance(found, Decision)
    return found


def test_both_thresholds_are_the_certificates_and_every_decision_carries_its_promise(tmp_path: Path) -> None:
    written(tmp_path)
    mine = policy(tmp_path)
    assert isinstance(step(mine, 0.25), Escalate)
    below, under, over = decided(mine, 0.249), decided(mine, 0.3, 0.59), decided(mine, 0.3, 0.6)
    assert (below.flagged, below.stage, below.route) == (False, "base", "certified")
    assert (under.flagged, over.flagged, over.threshold) == (False, True, 0.6)
    for decision in (below, under, over):
        promise = decision.guarantee
        assert promise is not None
        assert (promise.certificate_id, promise.target, promise.delta, promise.bound) == (
            "abc", "recall >= 0.95", 0.05, 0.95
        )
        assert (promise.n_audit, promise.n_positives, promise.assumptions) == (4000, 200, ("exchangeable",))
        assert promise.policy_hash == mine.policy_hash


def test_certificate_of_calibrate_keeps_its_promise_on_fresh_items(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        large = rng.beta(0.3, 3.0, count)
        return np.clip(0.7 * large + 0.3 * rng.beta(1.0, 8.0, count), 0.0, 1.0), large

    base, large = draw(20_000)
    pl.DataFrame({"video_id": [f"v{n}" for n in range(len(base))], "base": base, "large": large}).write_parquet(
        tmp_path / "audit.parquet"
    )
    done = calibrate(CalibrationConfig(scores=tmp_path / "audit.parquet", target_recall=0.9))
    assert done.certificate.certified, done.certificate.reason
    done.write(tmp_path)
    mine = policy(tmp_path)
    cascade = RegionalCascades(stages(), mine).of(None)
    base, large = draw(20_000)
    tau, lam = done.certificate.tau, done.certificate.lam
    assert (cascade.stages[0].rule.tau, cascade.stages[1].flag_threshold) == (tau, lam)  # type: ignore[union-attr]
    assert ((base >= tau) & (large >= lam)).sum() / (large >= lam).sum() >= 0.9
    assert 0 < (base >= tau).mean() < 1


def test_certificate_that_escalates_everything_does_so(tmp_path: Path) -> None:
    written(tmp_path, tau=None, escalate_everything=True)
    mine = policy(tmp_path)
    assert mine.routing.certificate is not None
    assert mine.routing.certificate.tau == -math.inf
    assert isinstance(step(mine, 0.0), Escalate)


def test_region_may_have_another_threshold_and_then_makes_no_promise(tmp_path: Path) -> None:
    written(tmp_path)
    mine = policy(tmp_path, '[cascade]\ncertificate = "certificate.json"\n[region.DE.cascade]\ntau = 0.1\n')
    assert decided(mine, 0.05, region="DE").guarantee is None
    assert isinstance(step(mine, 0.2, region="DE"), Escalate)
    assert decided(mine, 0.2, region="FR").guarantee is not None
    assert mine.resolve("DE").routing.certificate is None


def test_hash_follows_the_certificate_and_is_the_old_one_without(tmp_path: Path) -> None:
    written(tmp_path)
    first = policy(tmp_path).policy_hash
    written(tmp_path, tau=0.26)
    assert policy(tmp_path).policy_hash != first
    assert parse_policy(HEAD + "[cascade]\ntau = 0.25\n").policy_hash == PLAIN_HASH
    assert "abc (tau 0.26" in policy(tmp_path).explain(None)


@pytest.mark.parametrize(("changes", "said"), [
    ({"certified": False, "reason": "too few positives"}, "too few positives"),
    ({"tau": None}, "tau and lam"),
    ({"lam": None}, "tau and lam"),
    ({"delta": "small"}, "certificate.json of tidegate calibrate"),
])
def test_certificate_that_promises_nothing_is_refused(
    tmp_path: Path, changes: Mapping[str, object], said: str
) -> None:
    written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=said) as caught:
        policy(tmp_path)
    assert "policy.toml: cascade.certificate: " in str(caught.value)


@pytest.mark.parametrize(("rest", "said"), [
    ('[cascade]\ncertificate = "absent.json"\n', "readable certificate.json"),
    ('[cascade]\ncertificate = "certificate.json"\ntau = 0.2\n', "either tau or certificate, not both"),
    ('[cascade]\ncertificate = "certificate.json"\np_base = 10\n', "either p_base or certificate, not both"),
    ('[cascade]\ncertificate = "certificate.json"\nrule = "entropy"\n', "expected precision"),
    ("[cascade]\ncertificate = 1\n", "expected a text"),
])
def test_contradictions_are_named(tmp_path: Path, rest: str, said: str) -> None:
    written(tmp_path)
    with pytest.raises(ConfigError, match=said):
        policy(tmp_path, rest)


def test_clause_may_not_judge_the_last_stage_by_another_threshold(tmp_path: Path) -> None:
    written(tmp_path)
    for fine in ("", "remove_at = 0.6\n", "remove_at = { base = 0.9, large = 0.6 }\n"):
        RegionalCascades(stages(), policy(tmp_path, clause=fine))
    for wrong in ("remove_at = 0.7\n", "remove_at = { large = 0.5 }\n"):
        with pytest.raises(ConfigError, match="without remove_at for stage large"):
            RegionalCascades(stages(), policy(tmp_path, clause=wrong))
    with pytest.raises(ConfigError, match="two stages"):
        RegionalCascades(stages(1), policy(tmp_path))
