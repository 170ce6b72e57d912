"""A decision can be explained, taken again to the last bit, and stated as the law asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import typer
from platform_doubles import NOW, event
from typer.testing import CliRunner

from tidegate.cli import explain as verbs
from tidegate.errors import ConfigError, UsageError
from tidegate.platform.config import PlatformConfig, read_config
from tidegate.platform.event import EventCodec, VideoEvent
from tidegate.platform.eventlog import write_log
from tidegate.platform.history import explain, history_of, reproduce
from tidegate.platform.statement import CATEGORIES, payloads, read_grounds, statement
from tidegate.platform.worker import Worker

POLICY = """
[policy]
name = "live"
version = "2"
[[clause]]
id = "icd-1"
issue = "icd"
title = "Inappropriate content"
remove_at = {at}
"""
CONFIG = """
[platform]
policy_file = "policy.toml"
shadow_policies = ["strict.toml"]
[source]
kind = "log"
folder = "events"
[scoring]
kind = "feature"
feature = "score"
model = "m@1"
"""
GROUNDS = """
[clause.icd-1]
category = "STATEMENT_CATEGORY_VIOLENCE"
decision_ground = "DECISION_GROUND_INCOMPATIBLE_CONTENT"
ground = "Terms of service, section 4"
explanation = "Violent content is not allowed."
reference_url = "https://example.com/terms"
"""
APP = typer.Typer()
verbs.register(APP)


def platform(folder: Path, events: Sequence[VideoEvent]) -> PlatformConfig:
    write_log(folder / "events", "p", [EventCodec().encode(each) for each in events])
    (folder / "policy.toml").write_text(POLICY.format(at=0.8))
    (folder / "strict.toml").write_text(POLICY.replace("live", "strict").format(at=0.1))
    (folder / "grounds.toml").write_text(GROUNDS)
    (folder / "platform.toml").write_text(CONFIG)
    config = read_config(folder / "platform.toml")
    with Worker(config) as worker:
        worker.run(until_idle=True)
    return config


def video(name: str, score: float, version: int = 1, **settings: object) -> VideoEvent:
    return event(name, version, features={"score": score}, **settings)


def test_story_of_a_video_tells_every_decision_and_why(tmp_path: Path) -> None:
    config = platform(tmp_path, [
        video("v", 0.2, 1, region="DE", views=10), video("w", 0.2), video("v", 0.9000000000000001, 2, kind="report"),
        event("v", 3, kind="deleted"),
    ])
    chapters = history_of(config.state / "audit", "v")
    assert [chapter.entry.status for chapter in chapters] == ["remained", "removed", "deleted"]
    story = explain(chapters)
    for said in (
        "0.9000000000000001 by m@1", "clause icd-1 (Inappropriate content)", "live@2",
        "shadow policy strict@2: removed",
        "event: report", "region DE, 10 views", config.policy.policy_hash[:12], "The video was deleted.",
    ):
        assert said in story
    assert history_of(config.state / "audit", "nobody") == []
    assert "holds nothing" in explain([])


def test_decision_is_reproduced_to_the_last_bit_or_the_difference_is_named(tmp_path: Path) -> None:
    config = platform(tmp_path, [video("v", 0.1 + 0.2)])
    (chapter,) = history_of(config.state / "audit", "v")
    assert reproduce(config, chapter).equal
    path = tmp_path / "platform.toml"
    path.write_text(CONFIG.replace("m@1", "m@2"))
    again = reproduce(read_config(path), chapter)
    assert not again.equal
    assert "m@1" in again.differences[0]
    (tmp_path / "policy.toml").write_text(POLICY.format(at=0.7))
    with pytest.raises(UsageError, match="expected the policy of that time"):
        reproduce(read_config(path), chapter)


def test_only_decisions_by_models_can_be_reproduced(tmp_path: Path) -> None:
    config = platform(tmp_path, [event("v", kind="deleted")])
    (chapter,) = history_of(config.state / "audit", "v")
    with pytest.raises(UsageError, match="expected a decision by models"):
        reproduce(config, chapter)


def test_statement_has_the_fields_of_the_database_and_nothing_personal(tmp_path: Path) -> None:
    uploaded = video(
        "v-secret", 0.95, region="DE", language="de", creator="someone", uploaded_at=NOW - 86400,
        location="private/path.mp4",
    )
    config = platform(tmp_path, [uploaded, video("kept", 0.1, region="DE"), video("abroad", 0.95, region="US")])
    grounds = read_grounds(tmp_path / "grounds.toml")
    (removed,) = history_of(config.state / "audit", "v-secret")
    record = statement(removed, grounds)
    assert record is not None
    assert record["decision_visibility"] == ["DECISION_VISIBILITY_CONTENT_REMOVED"]
    assert record["decision_ground"] == "DECISION_GROUND_INCOMPATIBLE_CONTENT"
    assert record["incompatible_content_ground"] == "Terms of service, section 4"
    assert record["content_type"] == ["CONTENT_TYPE_VIDEO"]
    assert record["category"] in CATEGORIES
    assert record["territorial_scope"] == ["DE"]
    assert record["content_date"] == "2023-11-13"
    assert record["source_type"] == "SOURCE_VOLUNTARY"
    assert (record["automated_detection"], record["automated_decision"]) == ("Yes", "AUTOMATED_DECISION_FULLY")
    assert record["content_language"] == "DE"
    required = {
        "decision_visibility", "decision_ground", "content_type", "category", "content_date", "application_date",
        "decision_facts", "source_type", "automated_detection", "automated_decision", "puid",
        "incompatible_content_ground", "incompatible_content_explanation",
    }
    assert required <= set(record)
    text = msgspec.json.encode(record).decode()
    for personal in ("someone", "v-secret", "path.mp4"):
        assert personal not in text
    chapters = [chapter for name in ("v-secret", "kept", "abroad") for chapter in history_of(
        config.state / "audit", name
    )]
    assert [len(body["statements"]) for body in payloads([*chapters, *chapters], grounds)] == [1]


def test_statement_leaves_out_a_language_and_refuses_a_day_that_the_database_does_not_take(tmp_path: Path) -> None:
    config = platform(tmp_path, [
        video("odd", 0.95, region="DE", language="xx", uploaded_at=NOW),
        video("old", 0.95, region="DE", language="de", uploaded_at=1e8),
    ])
    grounds = read_grounds(tmp_path / "grounds.toml")
    (odd,), (old,) = (history_of(config.state / "audit", name) for name in ("odd", "old"))
    record = statement(odd, grounds)
    assert record is not None
    assert "content_language" not in record
    with pytest.raises(ConfigError, match="content_date: expected a day from 2000-01-01"):
        statement(old, grounds)
    (tmp_path / "grounds.toml").write_text(GROUNDS.replace("https://example.com/terms", "terms.html"))
    with pytest.raises(ConfigError, match="reference_url"):
        read_grounds(tmp_path / "grounds.toml")


def test_missing_ground_or_date_is_an_error_not_a_guess(tmp_path: Path) -> None:
    config = platform(tmp_path, [video("v", 0.95, region="FR")])
    (chapter,) = history_of(config.state / "audit", "v")
    with pytest.raises(ConfigError, match="expected a ground for clause 'icd-1'"):
        statement(chapter, {})
    with pytest.raises(ConfigError, match="content_date"):
        statement(chapter, read_grounds(tmp_path / "grounds.toml"))
    (tmp_path / "grounds.toml").write_text(GROUNDS.replace("VIOLENCE", "NOISE"))
    with pytest.raises(ConfigError, match="category: expected one of"):
        read_grounds(tmp_path / "grounds.toml")


def test_verbs_answer_and_set_exit_codes(tmp_path: Path) -> None:
    platform(tmp_path, [video("v", 0.95, region="DE", uploaded_at=NOW)])
    config = ["--config", str(tmp_path / "platform.toml")]
    run = CliRunner().invoke
    told = run(APP, ["explain", "v", *config])
    assert (told.exit_code, "removed" in told.output) == (0, True)
    assert run(APP, ["explain", "nobody", *config]).exit_code == 4
    assert msgspec.json.decode(run(APP, ["explain", "v", "--json", *config]).output)["entry"]["status"] == "removed"
    assert "the same to the last bit" in run(APP, ["replay-decision", "v", *config]).output
    assert run(APP, ["replay-decision", "v", "--version", "9", *config]).exit_code == 4
    bodies = run(APP, ["statements", *config, "--grounds", str(tmp_path / "grounds.toml")])
    assert len(msgspec.json.decode(bodies.output)["statements"]) == 1
    (tmp_path / "platform.toml").write_text(CONFIG.replace("m@1", "m@2"))
    assert run(APP, ["replay-decision", "v", *config]).exit_code == 3
