"""The same verdicts through Ray Serve and Ray Data as in process. Takes minutes: Ray starts, replicas load models."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from platform_doubles import event

from tidegate.media import encode_video
from tidegate.pipeline.policy import Clause, Policy, Routing
from tidegate.platform.contracts import Dead, Decided, Scored, Scorer, ScoringItem
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.scoring.preset import PresetScorerSettings, open_preset_scorer
from tidegate.platform.scoring.ray_settings import (
    RayBackfillSettings,
    RayScorerSettings,
    open_ray_backfill,
    open_ray_serve,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
COUNT = int(os.environ.get("TIDEGATE_RAY_VIDEOS", "500"))


def frames(seed: int) -> Iterator[np.ndarray]:
    still = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for number in range(8):
        yield np.roll(still, number * (seed % 7 + 1), axis=1)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ScoringContext:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("media")
    for number in range(COUNT):
        encode_video(folder / f"v{number}.mp4", frames(number), Fraction(8), None)
    (folder / "broken.mp4").write_bytes(b"no video")
    policy = Policy(
        name="p", version="1", clauses=(Clause(id="c", issue="icd", title="t"),),
        routing=Routing(rule="precision", tau=0.0),
    )
    return ScoringContext(policy=policy, media_folder=folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, namespace="tidegate")
    yield
    ray.shutdown()


def items() -> list[ScoringItem]:
    names = [*(f"v{number}" for number in range(COUNT)), "broken"]
    return [ScoringItem(event(name, location=f"{name}.mp4"), {}) for name in names]


def verdicts(scorer: Scorer) -> list[object]:
    try:
        return [bare(result) for result in scorer.score_many(items())]
    finally:
        scorer.close()


def bare(result: Scored) -> object:
    """Without costs, which are measured anew each time; scores are rounded to what a batch's order may change."""
    if isinstance(result, Dead):
        return result.code
    assert isinstance(result, Decided)
    decision = result.decision
    reason = decision.reason if abs(decision.score - decision.threshold) > 1e-4 else ""
    return dataclasses.replace(decision, cost_seconds=0.0, score=round(decision.score, 4), reason=reason)


def test_ray_gives_the_verdicts_of_this_process(context: ScoringContext, cluster: None) -> None:
    wanted = verdicts(open_preset_scorer(PresetScorerSettings(decoders=2), context))
    assert wanted[-1] == "not_media"
    served = open_ray_serve(RayScorerSettings(max_replicas=1, cpus_per_replica=0.5), context)
    assert verdicts(served) == wanted
    backfill = open_ray_backfill(RayBackfillSettings(actors=1, cpus_per_actor=0.5), context)
    assert verdicts(backfill) == wanted
