"""Base data: events are completed, and the state does not depend on the order in which they came."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidegate.platform.event import EventText, VideoEvent
from tidegate.platform.stores.base_data import BASE_DATA, BaseData


@pytest.fixture(params=["sqlite", "postgres"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseData]:
    kind = request.param
    settings = (
        {"path": str(tmp_path / "base.sqlite")} if kind == "sqlite"
        else {"url": request.getfixturevalue("postgres_url")}
    )
    store = BASE_DATA[kind].open(BASE_DATA[kind].settings(**settings))
    yield store
    store.close()


def event(version: int, video_id: str = "v", **fields: Any) -> VideoEvent:
    return VideoEvent(video_id=video_id, version=version, occurred_at=1.0, **fields)


NEW = event(
    1, region="DE", location="a.mp4", creator="ann", texts=(EventText("title", "Titel", "de"),), features={"ctr": 0.5}
)


def test_event_that_says_little_is_completed(base: BaseData) -> None:
    assert base.complete_many([NEW]) == [NEW]
    (views,) = base.complete_many([event(2, kind="views", views=7, features={"likes": 1})])
    assert (views.region, views.location, views.creator, views.texts) == ("DE", "a.mp4", "ann", NEW.texts)
    assert (views.kind, views.version, views.views) == ("views", 2, 7)
    assert views.features == {"ctr": 0.5, "likes": 1}


def test_state_is_the_same_in_every_order_and_after_replays(base: BaseData) -> None:
    events = [
        {"version": 1, "region": "DE", "views": 1, "creator": "ann"}, {"version": 2, "views": 5},
        {"version": 3, "region": "FR", "features": {"ctr": 0.25}},
    ]
    states = []
    for number, order in enumerate(itertools.permutations(events)):
        for said in (*order, order[0]):
            base.complete_many([event(video_id=f"v{number}", **said)])  # type: ignore[arg-type]
        states.append(base.get_many([f"v{number}"])[f"v{number}"])
    wanted = {"region": "FR", "views": 5, "creator": "ann", "features.ctr": 0.25}
    assert states == [wanted] * 6


def test_what_the_event_itself_says_stands_and_zero_is_something_said(base: BaseData) -> None:
    base.complete_many([event(9, region="FR", views=100)])
    (late,) = base.complete_many([event(3, region="DE", views=0)])
    assert (late.region, late.views) == ("DE", 0)
    assert base.get_many(["v"])["v"] == {"region": "FR", "views": 100}


def test_deletion_is_passed_on_as_it_is_and_unknown_videos_are_absent(base: BaseData) -> None:
    base.complete_many([NEW])
    gone = event(5, kind="deleted")
    assert base.complete_many([gone]) == [gone]
    assert base.get_many(["unknown"]) == {}
    assert base.get_many(["v"])["v"]["region"] == "DE"
