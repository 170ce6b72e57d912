"""The Thrift feature service as a process: ``python thrift_process.py PORT FOLDER``.

``FOLDER/rows.json``: ``{"v1": {"values": {"views": 3}, "observed_at": 0.0}}``. ``FOLDER/behaviour.json``, read at every
call: ``delay_seconds``, ``fail_every`` (n-th calls answer Overloaded), ``drop_every`` (n-th calls close the
connection).
"""

from __future__ import annotations

import itertools
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from thriftpy2.server import TThreadedServer
from thriftpy2.thrift import TProcessor
from thriftpy2.transport import TServerSocket
from thriftpy2.transport.base import TTransportException

from tidegate.platform.features.thrift_wire import features_thrift

IDL: Any = features_thrift()
_FIELDS = {bool: "flag", int: "integer", float: "number", str: "text"}


class ExclusiveSocket(TServerSocket):
    """Without SO_REUSEPORT: two servers on one port are an error, not a lottery."""

    def listen(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((self.host, self.port))
        self.sock.listen(self.backlog)


class Features:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = itertools.count(1)

    def get_many(self, video_ids: list[str], names: list[str]) -> Any:
        behaviour = json.loads((self.folder / "behaviour.json").read_text())
        call = next(self.calls)
        (self.folder / "calls").write_text(str(call))
        time.sleep(behaviour.get("delay_seconds", 0))
        if behaviour.get("drop_every") and call % behaviour["drop_every"] == 0:
            raise TTransportException(message="dropped on purpose")
        if behaviour.get("fail_every") and call % behaviour["fail_every"] == 0:
            raise IDL.Overloaded(message="too much to do")
        rows = json.loads((self.folder / "rows.json").read_text())
        return {video_id: self._row(rows[video_id], names) for video_id in video_ids if video_id in rows}

    @staticmethod
    def _row(row: dict[str, Any], names: list[str]) -> Any:
        values = {
            name: IDL.Value(**{_FIELDS[type(value)]: value})
            for name, value in row["values"].items()
            if not names or name in names
        }
        return IDL.Row(values=values, observed_at=row.get("observed_at"))


def main() -> None:
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    processor = TProcessor(IDL.VideoFeatures, Features(folder))
    transport = ExclusiveSocket(host="127.0.0.1", port=port, client_timeout=None)
    TThreadedServer(processor, transport, daemon=True).serve()


if __name__ == "__main__":
    main()
