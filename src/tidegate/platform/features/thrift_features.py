"""Features of a Thrift service (``thrift_wire.IDL``), over one kept connection.

Enters: ids. Leaves: rows. Any failure closes the connection: after a broken call nobody knows what the next bytes
belong to. A service that says ``Overloaded`` keeps it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.errors import ConfigError, ServiceRefused, ServiceUnavailable
from tidegate.platform.features.guard import GuardConfig, GuardedFeatures, Row, scalars
from tidegate.platform.features.thrift_wire import features_thrift
from tidegate.platform.stores.drivers import driver

__all__ = ["ThriftFeaturesConfig", "open_thrift_features"]

_FIELDS = ("integer", "number", "text", "flag")


@dataclass(frozen=True, kw_only=True)
class ThriftFeaturesConfig(GuardConfig):
    """Where the service listens."""

    host: str = "127.0.0.1"
    """Name or address; binary protocol over a buffered transport."""
    port: int
    """TCP port."""
    names: tuple[str, ...] = ()
    """Features that are asked for; none = all that the service has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.port < 2**16:
            raise ConfigError(f"expected a TCP port, got {self.port}")


def open_thrift_features(config: ThriftFeaturesConfig) -> GuardedFeatures:
    """The service; it connects when it is first asked."""
    return GuardedFeatures(config, _ThriftFeatures(config))


class _ThriftFeatures:
    def __init__(self, config: ThriftFeaturesConfig) -> None:
        self._config = config
        self._wire = features_thrift()
        self._thrift = driver("thriftpy2.thrift")
        self._transport = driver("thriftpy2.transport")
        self._protocol = driver("thriftpy2.protocol")
        self._client: Any = None

    def fetch(self, video_ids: Sequence[str], seconds: float) -> Mapping[str, Row]:
        thrift = self._thrift
        broken = (OSError, EOFError, struct.error, ValueError, OverflowError, self._transport.TTransportException)
        try:
            answer = self._connected(seconds).get_many(list(video_ids), list(self._config.names))
        except self._wire.Overloaded as error:
            raise ServiceUnavailable(f"Thrift: overloaded: {error.message}") from error
        except thrift.TApplicationException as error:
            self.close()
            unknown = error.type == thrift.TApplicationException.UNKNOWN_METHOD
            raise (ServiceRefused if unknown else ServiceUnavailable)(f"Thrift: {error}") from error
        except thrift.TException as error:
            self.close()
            raise ServiceUnavailable(f"Thrift: {error}") from error
        except broken as error:
            self.close()
            raise ServiceUnavailable(f"Thrift: {type(error).__name__}: {error}") from error
        return {video_id: _row(row) for video_id, row in answer.items()}

    def _connected(self, seconds: float) -> Any:
        if self._client is None:
            milliseconds = max(1, int(seconds * 1000))
            socket = self._transport.TSocket(
                self._config.host, self._config.port, socket_timeout=milliseconds, connect_timeout=milliseconds
            )
            transport = self._transport.TCyBufferedTransportFactory().get_transport(socket)
            protocol = self._protocol.TCyBinaryProtocolFactory().get_protocol(transport)
            transport.open()
            self._client = self._thrift.TClient(self._wire.VideoFeatures, protocol)
        return self._client

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _row(row: Any) -> Row:
    values: dict[str, object] = {"observed_at": row.observed_at}
    for name, value in row.values.items():
        given = [getattr(value, field) for field in _FIELDS if getattr(value, field) is not None]
        if len(given) > 1:
            return Row({}, malformed=True)
        values[name] = given[0] if given else None
    return scalars(values)
