"""The test servers keep the promises that other tests build on."""

from __future__ import annotations

import psycopg
import redis
from servers.broker import Broker
from servers.gate import Gate
from servers.postgres import Postgres
from servers.thrift import ThriftFeatures
from servers.valkey import Valkey


def test_broker_keeps_the_order_of_a_partition(broker: Broker) -> None:
    topic = broker.create_topic("servers-order")
    broker.produce(topic, [b"%d" % number for number in range(500)])
    assert [value for _, value, _ in broker.consume(topic, 500)] == [b"%d" % number for number in range(500)]


def test_killed_valkey_comes_back_with_what_it_answered(own_valkey: Valkey) -> None:
    with redis.Redis.from_url(own_valkey.url) as client:
        client.set("a", "1")
        own_valkey.restart()
        assert client.get("a") == b"1"


def test_killed_postgres_comes_back_with_what_it_answered(own_postgres: Postgres) -> None:
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS n")
    own_postgres.restart()
    with psycopg.connect(own_postgres.url) as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (7,)


def test_gate_breaks_connections_and_lets_new_ones_through_again(thrift_features: ThriftFeatures) -> None:
    from thriftpy2.rpc import make_client
    from thriftpy2.transport import TTransportException

    from tidegate.platform.features.thrift_wire import features_thrift

    thrift_features.hold({"v1": {"views": 3}})
    with Gate(thrift_features.port) as gate:
        answers = []
        for step in ("open", "shut", "open"):
            if step == "shut":
                gate.shut()
            elif gate._listener is None:
                gate.open()
            try:
                client = make_client(features_thrift().VideoFeatures, "127.0.0.1", gate.port, timeout=5000)
                answers.append(client.get_many(["v1", "v2"], [])["v1"].values["views"].integer)
                client.close()
            except TTransportException:
                answers.append(None)
    assert answers == [3, None, 3]
