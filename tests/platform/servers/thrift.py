"""A Thrift feature service in its own process, whose data and misbehaviour a test sets."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servers.process import Server, free_port


class ThriftFeatures(Server):
    """``host`` and ``port`` are its address."""

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.hold({})
        self.behave()

    def hold(self, rows: Mapping[str, Mapping[str, Any]], observed_at: float | None = None) -> None:
        """Features by video id."""
        wire = {video_id: {"values": dict(values), "observed_at": observed_at} for video_id, values in rows.items()}
        self._write("rows.json", wire)

    def behave(
        self, *, delay_seconds: float = 0.0, fail_every: int = 0, drop_every: int = 0
    ) -> None:
        """From the next call on."""
        self._write(
            "behaviour.json", {"delay_seconds": delay_seconds, "fail_every": fail_every, "drop_every": drop_every}
        )

    @property
    def calls(self) -> int:
        """Calls that reached the server since it started."""
        path = self.folder / "calls"
        return int(path.read_text() or 0) if path.exists() else 0

    def _write(self, name: str, value: object) -> None:
        draft = self.folder / f"{name}.draft"
        draft.write_text(json.dumps(value))
        os.replace(draft, self.folder / name)

    def prepare(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)

    def command(self) -> list[str]:
        script = Path(__file__).with_name("thrift_process.py")
        return [sys.executable, str(script), str(self.port), str(self.folder)]

    def move(self) -> None:
        self.port = free_port()

    def ready(self) -> bool:
        with socket.create_connection((self.host, self.port), timeout=1):
            return True
