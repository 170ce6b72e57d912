"""The platform's scores are those of the embedded scanner; later stages can have a loop of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from platform_doubles import event

from tidegate.media import encode_video
from tidegate.pipeline.policy import Clause, Policy, Routing
from tidegate.pipeline.scanner import load_preset
from tidegate.platform.config import read_config
from tidegate.platform.contracts import Dead, Decided, Deferred, ScoringItem
from tidegate.platform.event import EventCodec
from tidegate.platform.eventlog import write_log
from tidegate.platform.history import history_of, reproduce
from tidegate.platform.overview import overview
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.scoring.preset import PresetScorerSettings, open_preset_scorer
from tidegate.platform.worker import Worker
from tidegate.types import Decision

COUNT = 4
CONFIG = """
[platform]
policy_file = "policy.toml"
media_folder = "media"
[source]
kind = "log"
folder = "events"
[scoring]
kind = "preset"
defer = {defer}
"""
POLICY = """
[policy]
name = "p"
version = "1"
[[clause]]
id = "c"
issue = "icd"
title = "t"
[cascade]
rule = "precision"
tau = {tau}
"""


def frames(seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for number in range(10):
        yield np.roll(still, number * (seed + 1), axis=1)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("media")
    for number in range(COUNT):
        encode_video(folder / f"v{number}.mp4", frames(number), Fraction(10), None)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def policy(tau: float) -> Policy:
    clause = Clause(id="c", issue="icd", title="t")
    return Policy(name="p", version="1", clauses=(clause,), routing=Routing(rule="precision", tau=tau))


def items(*names: str) -> list[ScoringItem]:
    return [ScoringItem(event(name, location=f"{name}.mp4"), {}) for name in names]


def plain(decision: Decision | None) -> Decision | None:
    """Without costs, without what only the policy filter adds, and without the last bits, which depend on the batch."""
    bare = {"cost_seconds": 0.0, "policy": None, "policy_version": None, "region": None, "clause": None}
    return None if decision is None else dataclasses.replace(decision, **bare, score=round(decision.score, 5))


def test_scores_and_decisions_are_those_of_the_embedded_scanner(media: Path) -> None:
    names = [f"v{number}" for number in range(COUNT)]
    with load_preset("tiny", policy=policy(0.0)) as scanner:
        outcomes = scanner.scan_many([media / f"{name}.mp4" for name in names])
        wanted = {Path(outcome.path).name: outcome for outcome in outcomes}
    scorer = open_preset_scorer(PresetScorerSettings(), ScoringContext(policy=policy(0.0), media_folder=media))
    try:
        results = scorer.score_many(items(*names, "broken", "absent"))
    finally:
        scorer.close()
    for name, result in zip(names, results, strict=False):
        assert isinstance(result, Decided)
        assert plain(result.decision) == plain(wanted[f"{name}.mp4"].decision)
        assert [observation.kind for observation in result.observations] == ["seen", "route", "seen"]
        assert result.observations[0].value["frame_pts_seconds"]
    broken, absent = results[-2:]
    assert isinstance(broken, Dead)
    assert (broken.code, broken.retryable) == ("not_media", False)
    assert isinstance(absent, Dead)
    assert absent.code == "source_unreadable"


def test_reports_escalate_whatever_the_score(media: Path) -> None:
    context = ScoringContext(policy=policy(1.0), media_folder=media)
    scorer = open_preset_scorer(PresetScorerSettings(defer=True), context)
    try:
        reported = ScoringItem(event("v1", location="v1.mp4", kind="report"), {})
        quiet, loud = scorer.score_many([*items("v0"), reported])
    finally:
        scorer.close()
    assert isinstance(quiet, Decided)
    assert isinstance(loud, Deferred)
    assert (loud.stage, len(loud.scores)) == ("large", 1)


def test_deferred_stage_comes_to_the_same_index_and_can_be_reproduced(media: Path, tmp_path: Path) -> None:
    indexes = []
    for defer in ("false", "true"):
        home = tmp_path / defer
        home.mkdir()
        (home / "media").symlink_to(media)
        (home / "policy.toml").write_text(POLICY.format(tau=0.0))
        (home / "platform.toml").write_text(CONFIG.format(defer=defer))
        events = [event(f"v{number}", location=f"v{number}.mp4") for number in range(COUNT)]
        events += [event("broken", location="broken.mp4"), event("nowhere")]
        write_log(home / "events", "p", [EventCodec().encode(each) for each in events])
        config = read_config(home / "platform.toml")
        with Worker(config) as worker:
            worker.run(until_idle=True)
        seen = overview(config)
        assert (sum(seen["index"].values()), seen["dead_letters"], seen["waiting"]) == (COUNT, 2, {})
        index = config.index.backend.open(config.index.settings)
        indexes.append(index.get_many([f"v{number}" for number in range(COUNT)]))
        index.close()
    assert indexes[0] == indexes[1]
    chapters = history_of(config.state / "audit", "v1")
    assert [chapter.entry.status == "waiting" for chapter in chapters] == [True, False]
    assert reproduce(config, chapters[-1]).differences == ()
