"""Dead letters: kept once per delivery, found by time and cause, marked when settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidegate.platform.contracts import DeadLetter, DeadLetters
from tidegate.platform.stores import DEAD_LETTERS


@pytest.fixture(params=["sqlite", "postgres"])
def letters(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    kind = request.param
    settings = (
        {"path": str(tmp_path / "dead.sqlite")} if kind == "sqlite"
        else {"url": request.getfixturevalue("postgres_url")}
    )
    store = DEAD_LETTERS[kind].open(DEAD_LETTERS[kind].settings(**settings))
    yield store
    store.close()


def letter(offset: int, failed_at: float, code: str = "malformed_event", **fields: Any) -> DeadLetter:
    return DeadLetter(
        partition="topic/0", offset=offset, code=code, reason="because", raw=b"\xff\x00", failed_at=failed_at, **fields
    )


def test_store_conforms_to_the_protocol(letters: Any) -> None:
    assert isinstance(letters, DeadLetters)


def test_letter_comes_back_as_it_was_kept(letters: Any) -> None:
    full = letter(2**40, 5.5, video_id="видео", attempts=3, occurred_at=1.25)
    letters.add_many([full])
    assert list(letters.list()) == [full]


def test_delivery_that_fails_again_replaces_its_letter(letters: Any) -> None:
    letters.add_many([letter(1, 1.0)])
    letters.add_many([letter(1, 2.0, code="scoring_error", attempts=2), letter(1, 0.5)])
    assert [(kept.code, kept.attempts) for kept in letters.list()] == [("scoring_error", 2)]
    assert letters.count() == 1


def test_letter_that_was_settled_and_fails_again_is_kept_though_the_clock_went_back(letters: Any) -> None:
    letters.add_many([letter(1, 1000.0)])
    letters.remove_many([("topic/0", 1)])
    letters.add_many([letter(1, 900.0, attempts=2)])
    assert [(kept.failed_at, kept.attempts) for kept in letters.list()] == [(900.0, 2)]


def test_time_range_is_half_open_and_codes_filter(letters: Any) -> None:
    letters.add_many([letter(number, float(number), code="a" if number % 2 else "b") for number in range(10)])
    assert [kept.offset for kept in letters.list(since=3, until=6)] == [3, 4, 5]
    assert [kept.offset for kept in letters.list(code="a", limit=3)] == [1, 3, 5]


def test_removed_letters_are_marked_and_come_back_when_they_fail_again(letters: Any) -> None:
    letters.add_many([letter(1, 1.0), letter(2, 2.0)])
    letters.remove_many([("topic/0", 1), ("topic/0", 99)])
    assert [kept.offset for kept in letters.list()] == [2]
    assert [kept.offset for kept in letters.settled()] == [1]
    letters.add_many([letter(1, 3.0, attempts=2)])
    assert [kept.offset for kept in letters.list()] == [2, 1]
    letters.remove_many([("topic/0", 1)])
    letters.forget_settled(4e9)
    assert letters.settled() == []
    assert letters.count() == 1


def test_hostile_reason_is_kept_in_a_form_that_every_database_takes(letters: Any) -> None:
    hostile = DeadLetter(partition="p", offset=0, code="c", reason="nul \0 half \ud800", raw=b"", video_id="\0")
    letters.add_many([hostile])
    assert letters.list()[0].reason == "nul \\x00 half \\ud800"
