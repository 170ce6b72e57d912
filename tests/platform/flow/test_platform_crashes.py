"""kill -9 at many points: the index, the dead letters and the outbox end as those of an undisturbed run."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from platform_crash_child import work
from platform_doubles import event

from tidegate.platform.audit import read_lines, verify
from tidegate.platform.config import read_config
from tidegate.platform.event import EventCodec
from tidegate.platform.eventlog import write_log
from tidegate.platform.overview import replay_letters
from tidegate.platform.records import AuditEntry

CONFIG = """
[platform]
policy_file = "policy.toml"
[batch]
max_batch = 16
poll_seconds = 0.0
[retry]
max_attempts = 2
retry_seconds = 0.001
[audit]
sync = false
max_file_bytes = 65536
[source]
kind = "log"
folder = "events"
[scoring]
kind = "feature"
feature = "score"
"""
POLICY = """
[policy]
name = "p"
version = "1"
[[clause]]
id = "icd-1"
issue = "icd"
title = "t"
remove_at = 0.8
ignore_from = 0.7
"""
POINTS = [
    "polled", "retrieved", "scored", "decided", "audited", "dead_lettered", "put_back", "indexed", "acknowledged"
]


def platform(folder: Path, num_events: int) -> Path:
    folder.mkdir()
    rng, codec = random.Random(11), EventCodec()
    for partition in range(3):
        messages: list[bytes] = []
        for number in range(num_events // 3):
            name = f"v{rng.randrange(num_events // 4)}"
            kind = "deleted" if rng.random() < 0.05 else "new"
            features = {} if rng.random() < 0.05 else {"score": round(rng.random(), 3)}
            messages.append(codec.encode(event(name, 3 * number + partition, kind=kind, features=features)))
            if rng.random() < 0.03:
                messages.append(b"{broken")
        write_log(folder / "events", f"p{partition}", messages)
    (folder / "policy.toml").write_text(POLICY)
    path = folder / "platform.toml"
    path.write_text(CONFIG)
    return path


def run(path: Path, kill_at: int, point: str | None = None, *, after_seconds: float | None = None) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["platform_crash_child"])
    child = context.Process(target=work, args=(path, kill_at, point))
    child.start()
    if after_seconds is not None:
        child.join(after_seconds)
        if child.exitcode is None:
            child.kill()
    child.join(120)
    assert child.exitcode is not None, "the worker hangs"
    return child.exitcode


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def state(path: Path) -> dict[str, object]:
    home = path.parent / "state"
    query = "SELECT source_partition, source_offset, code, video_id FROM dead_letters WHERE settled_at IS NULL"
    letters = rows(home / "dead-letters.db", query)
    return {
        "index": sorted(rows(home / "index.db", "SELECT * FROM records")),
        "outbox": latest(rows(home / "index.db", "SELECT key, payload FROM outbox")),
        "letters": sorted(letters, key=str),
        "waiting": rows(home / "waiting.db", "SELECT count(*) FROM waiting"),
    }


def latest(messages: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Which versions of a video ever reached the index depends on what is in one batch; the last one does not."""
    assert max(Counter(key for key, _ in messages).values()) == 1, "a message was doubled"
    newest: dict[str, tuple[int, object]] = {}
    for key, payload in messages:
        video_id, version = str(key).rsplit(":", 1)
        newest[video_id] = max(newest.get(video_id, (-1, b"")), (int(version), payload))
    return sorted(newest.items())


def statuses(path: Path) -> Counter[str]:
    """What became of each delivery at last, by the audit trail."""
    last: dict[tuple[str, int], str] = {}
    for line in read_lines(path.parent / "state" / "audit"):
        entry = msgspec.json.decode(line.raw, type=AuditEntry)
        key = (entry.partition, entry.offset)
        if last.get(key, "waiting") == "waiting" and entry.code != "worker_crashed":
            last[key] = entry.status
    return Counter(last.values())


def replay_crashed(path: Path) -> int:
    """A message that was alone in hand at three deaths is dead-lettered; these are innocent, and are replayed."""
    config = read_config(path)
    config = dataclasses.replace(config, flow=dataclasses.replace(config.flow, with_outbox=True))
    stats = replay_letters(config, code="worker_crashed", since=None, until=None)
    return int(stats["taken"])


def check(tmp_path: Path, num_events: int, kills: int, seed: int) -> None:
    calm, broken = platform(tmp_path / "calm", num_events), platform(tmp_path / "broken", num_events)
    assert run(calm, 0) == 0
    rng = random.Random(seed)
    died = 0
    for number in range(kills):
        if number >= 0.8 * kills:
            died += run(broken, 0, after_seconds=rng.uniform(0.05, 0.4)) == -9
        else:
            died += run(broken, rng.randint(1, 2), POINTS[number % len(POINTS)]) == -9
    assert run(broken, 0) == 0
    if replay_crashed(broken):
        assert run(broken, 0) == 0  # what of them waits for a second attempt
    assert died >= 0.65 * kills, f"only {died} of {kills} runs were killed"
    assert state(broken) == state(calm)
    assert statuses(broken) == statuses(calm)
    messages = sum(1 for _ in read_lines(calm.parent / "state" / "audit"))
    assert statuses(calm).total() <= messages
    assert set(statuses(calm)) == {"remained", "removed", "ignored", "deleted", "dead"}
    for path in (calm, broken):
        assert verify(path.parent / "state" / "audit").intact


def test_index_after_kills_equals_an_undisturbed_run(tmp_path: Path) -> None:
    check(tmp_path, num_events=900, kills=12, seed=1)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_index_after_a_hundred_kills_equals_an_undisturbed_run(tmp_path: Path) -> None:
    started = time.monotonic()
    check(tmp_path, num_events=12_000, kills=160, seed=int(os.environ.get("TIDEGATE_CRASH_SEED", "2")))
    assert time.monotonic() - started < 1200
