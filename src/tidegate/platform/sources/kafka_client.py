"""Settings that every Kafka client of the platform shares.

Enters: brokers and an optional properties file. Leaves: a configuration of librdkafka whose messages go to ``logging``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tidegate.errors import ConfigError

__all__ = ["client_settings"]

_LOG = logging.getLogger("tidegate.kafka")


def client_settings(bootstrap: str, security_file: str | None = None) -> dict[str, Any]:
    """``bootstrap.servers``, pauses between attempts to connect, and what the file adds."""
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap, "logger": _LOG, "reconnect.backoff.ms": 100, "reconnect.backoff.max.ms": 2000,
        "client.id": "tidegate",
    }
    return settings | ({} if security_file is None else _properties(Path(security_file)))


def _properties(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected a readable properties file: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"{path}:{number}: expected name=value, got {text!r}")
        found[name.strip()] = value.strip()
    return found
