"""Feature services: what is missing is missing, whatever the service does. Slow, failing and flapping real servers."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from servers.process import wait_until
from servers.thrift import ThriftFeatures
from servers.valkey import Valkey

from tidegate.errors import ConfigError
from tidegate.platform.contracts import FeatureResult, FeatureService, Found, Missing
from tidegate.platform.features import KINDS
from tidegate.platform.features.guard import Circuit, GuardedFeatures

PATIENT: dict[str, Any] = {"name": "s", "deadline_seconds": 30.0}
Open = Callable[..., GuardedFeatures]


@pytest.fixture
def open_service() -> Iterator[Open]:
    opened: list[GuardedFeatures] = []

    def opener(kind: str, **settings: Any) -> GuardedFeatures:
        opened.append(KINDS[kind].open(KINDS[kind].settings(**{**PATIENT, **settings})))
        return opened[-1]

    yield opener
    for service in opened:
        service.close()


def values(result: FeatureResult) -> Mapping[str, Any]:
    assert isinstance(result, Found), result
    return result.values


def test_redis_json_values_and_what_is_not_there(valkey: Valkey, open_service: Open) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.set("features:v1", json.dumps({"views": 0, "ctr": 0.5, "lang": "de", "nsfw": False, "unknown": None}))
        client.set("features:видео", json.dumps({"views": 2**60, "observed_at": time.time() - 100}))
        client.set("features:list", "[1]")
        client.set("features:cut", '{"views": 1')
        client.set("features:nested", '{"views": {"de": 1}}')
    service = open_service("redis", url=valkey.url)
    assert isinstance(service, FeatureService)
    found = service.get_many(["v1", "видео", "list", "cut", "nested", "v2", "v1"])
    assert values(found["v1"]) == {"views": 0, "ctr": 0.5, "lang": "de", "nsfw": False}
    aged = found["видео"]
    assert isinstance(aged, Found)
    assert aged.values == {"views": 2**60}
    assert 99 <= aged.age_seconds < 160
    assert [found[name] for name in ("list", "cut", "nested")] == [Missing("malformed")] * 3
    assert found["v2"] == Missing("not_found")


def test_redis_hashes(valkey: Valkey, open_service: Open) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.hset("features:v1", mapping={"views": "12", "ctr": "0.5", "creator": "ann", "live": "true"})
    found = open_service("redis", url=valkey.url, form="hash").get_many(["v1", "v2"])
    assert values(found["v1"]) == {"views": 12, "ctr": 0.5, "creator": "ann", "live": True}
    assert found["v2"] == Missing("not_found")


def test_postgres_columns_are_features_and_null_is_absent(postgres_url: str, open_service: Open) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE videos (video_id text, views bigint, ctr numeric, at double precision)")
        connection.execute("INSERT INTO videos VALUES ('v1', 7, 0.25, %s), ('v2', NULL, NULL, NULL)", [time.time()])
    query = "SELECT video_id, views, ctr, at AS observed_at FROM videos WHERE video_id = ANY(%(ids)s)"
    found = open_service("postgres", url=postgres_url, query=query).get_many(["v1", "v2", "v3"])
    assert values(found["v1"]) == {"views": 7, "ctr": 0.25}
    assert values(found["v2"]) == {}
    assert found["v3"] == Missing("not_found")


def test_postgres_session_cannot_write(postgres_url: str, open_service: Open) -> None:
    query = "CREATE TABLE t AS SELECT 'v1' AS video_id WHERE 'v1' = ANY(%(ids)s)"
    assert open_service("postgres", url=postgres_url, query=query).get_many(["v1"]) == {"v1": Missing("refused")}


def test_slow_query_is_missing_at_the_deadline(postgres_url: str, open_service: Open) -> None:
    query = "SELECT id AS video_id, pg_sleep(60)::text AS slept FROM unnest(%(ids)s::text[]) AS id"
    service = open_service("postgres", url=postgres_url, query=query, deadline_seconds=0.5, attempts=1)
    begun = time.monotonic()
    result = service.get_many(["v1"])["v1"]
    assert isinstance(result, Missing)
    assert result.reason in {"deadline", "unavailable"}
    assert time.monotonic() - begun < 40


def test_sqlite_file(tmp_path: Path, open_service: Open) -> None:
    path = tmp_path / "features.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE videos (video_id TEXT, views INTEGER)")
        connection.execute("INSERT INTO videos VALUES ('v1', 7)")
    connection.close()
    query = "SELECT * FROM videos WHERE video_id IN (SELECT value FROM json_each(:ids))"
    service = open_service("sqlite", path=str(path), query=query)
    assert values(service.get_many(["v1", "v2"])["v1"]) == {"views": 7}
    absent = open_service("sqlite", path=str(tmp_path / "absent"), query=query, attempts=1)
    assert absent.get_many(["v1"]) == {"v1": Missing("unavailable")}


def test_endless_sqlite_query_ends_at_the_deadline(tmp_path: Path, open_service: Open) -> None:
    path = tmp_path / "features.sqlite"
    sqlite3.connect(path).close()
    numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n)"
    query = f"{numbers} SELECT max(i) AS video_id FROM n WHERE :ids <> ''"
    service = open_service("sqlite", path=str(path), query=query, deadline_seconds=0.3, attempts=1)
    result = service.get_many(["v1"])["v1"]
    assert isinstance(result, Missing)
    assert result.reason in {"deadline", "unavailable"}


def test_thrift_values(thrift_features: ThriftFeatures, open_service: Open) -> None:
    thrift_features.hold({"v1": {"views": 3, "ctr": 0.5, "lang": "de", "live": False}}, observed_at=time.time() - 50)
    service = open_service("thrift", port=thrift_features.port)
    found = service.get_many(["v1", "v2"])
    assert values(found["v1"]) == {"views": 3, "ctr": 0.5, "lang": "de", "live": False}
    assert found["v2"] == Missing("not_found")
    assert 49 < found["v1"].age_seconds < 110  # type: ignore[union-attr]
    named = open_service("thrift", port=thrift_features.port, names=("ctr",))
    assert values(named.get_many(["v1"])["v1"]) == {"ctr": 0.5}


def test_slow_service_is_missing_at_the_deadline_and_found_when_it_is_fast_again(
    thrift_features: ThriftFeatures, open_service: Open
) -> None:
    thrift_features.hold({"v1": {"views": 3}})
    thrift_features.behave(delay_seconds=30)
    service = open_service("thrift", port=thrift_features.port, deadline_seconds=0.3, breaker_failures=100)
    begun = time.monotonic()
    assert isinstance(service.get_many(["v1"])["v1"], Missing)
    assert time.monotonic() - begun < 20
    thrift_features.behave()
    patient = open_service("thrift", port=thrift_features.port)
    assert values(patient.get_many(["v1"])["v1"]) == {"views": 3}


@pytest.mark.parametrize("behaviour", [{"fail_every": 2}, {"drop_every": 2}])
def test_flapping_service_is_asked_again(
    thrift_features: ThriftFeatures, open_service: Open, behaviour: dict[str, int]
) -> None:
    thrift_features.hold({"v1": {"views": 3}})
    thrift_features.behave(**behaviour)  # type: ignore[arg-type]
    service = open_service("thrift", port=thrift_features.port, attempts=4)
    assert [values(service.get_many(["v1"])["v1"]) for _ in range(12)] == [{"views": 3}] * 12
    assert service.circuit.state == "closed"


def test_failing_service_opens_the_circuit_and_one_call_closes_it_again(
    thrift_features: ThriftFeatures, open_service: Open
) -> None:
    thrift_features.hold({"v1": {"views": 3}})
    thrift_features.behave(fail_every=1)
    service = open_service(
        "thrift", port=thrift_features.port, attempts=1, breaker_failures=3, breaker_seconds=2.0
    )
    reasons = []
    for _ in range(6):
        result = service.get_many(["v1"])["v1"]
        assert isinstance(result, Missing)
        reasons.append(result.reason)
    assert reasons[:3] == ["unavailable"] * 3
    assert set(reasons[3:]) <= {"circuit_open", "unavailable"}
    assert "circuit_open" in reasons
    thrift_features.behave()
    wait_until(lambda: isinstance(service.get_many(["v1"])["v1"], Found), "the circuit to close")
    assert service.circuit.state == "closed"


def test_killed_service_leaves_stale_values_that_say_so_and_nothing_for_the_unknown(
    own_thrift: ThriftFeatures, open_service: Open
) -> None:
    own_thrift.hold({"v1": {"views": 3}})
    service = open_service("thrift", port=own_thrift.port, stale_seconds=3600, attempts=2, breaker_failures=1000)
    strict = open_service("thrift", port=own_thrift.port, attempts=2, breaker_failures=1000)
    assert values(service.get_many(["v1"])["v1"]) == values(strict.get_many(["v1"])["v1"]) == {"views": 3}
    own_thrift.kill()
    found = service.get_many(["v1", "v2"])
    old = found["v1"]
    assert isinstance(old, Found)
    assert old.stale
    assert old.values == {"views": 3}
    assert found["v2"] == Missing("unavailable")
    assert strict.get_many(["v1"]) == {"v1": Missing("unavailable")}
    own_thrift.start()
    own_thrift.hold({"v1": {"views": 4}})
    fresh = service.get_many(["v1"])["v1"]
    assert isinstance(fresh, Found)
    assert not fresh.stale
    assert fresh.values == {"views": 4}


def test_frozen_cache_is_missing_at_the_deadline(own_valkey: Valkey, open_service: Open) -> None:
    service = open_service("redis", url=own_valkey.url, deadline_seconds=0.4)
    own_valkey.pause()
    begun = time.monotonic()
    result = service.get_many(["v1"])["v1"]
    took = time.monotonic() - begun  # it would wait for ever
    own_valkey.resume()
    assert isinstance(result, Missing)
    assert took < 60


def test_fresh_values_are_not_asked_for_again_and_deleted_ones_do_not_come_back(
    thrift_features: ThriftFeatures, open_service: Open
) -> None:
    thrift_features.hold({"v1": {"views": 3}})
    service = open_service("thrift", port=thrift_features.port, fresh_seconds=1000, stale_seconds=1000)
    before = thrift_features.calls
    for _ in range(5):
        assert values(service.get_many(["v1"])["v1"]) == {"views": 3}
    assert thrift_features.calls == before + 1
    eager = open_service("thrift", port=thrift_features.port, stale_seconds=1000, attempts=1)
    eager.get_many(["v1"])
    thrift_features.hold({})
    assert eager.get_many(["v1"]) == {"v1": Missing("not_found")}
    thrift_features.behave(fail_every=1)
    assert eager.get_many(["v1"]) == {"v1": Missing("unavailable")}


def test_circuit_counts_failures_in_a_row_only() -> None:
    circuit = Circuit(3, 1000)
    for _ in range(5):
        circuit.failed()
        circuit.failed()
        circuit.succeeded()
    assert circuit.state == "closed"
    for _ in range(3):
        circuit.failed()
    assert circuit.state == "open"
    assert not circuit.admits()


def test_rested_circuit_admits_one_caller() -> None:
    circuit = Circuit(1, 0.05)
    circuit.failed()
    wait_until(lambda: circuit.state == "half_open", "a rest")
    assert circuit.admits()
    assert not circuit.admits()


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("redis", {"name": "a.b"}), ("redis", {"deadline_seconds": 0}), ("redis", {"form": "xml"}),
        ("thrift", {"port": 0}), ("postgres", {"query": "SELECT 1"}), ("sqlite", {"path": "x", "query": "SELECT 1"}),
        ("redis", {"stale_seconds": 1.0, "fresh_seconds": 2.0}),
    ],
)
def test_wrong_settings_are_named(kind: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        KINDS[kind].settings(**{"name": "s", **wrong})
