"""A TCP gate before a server: a test shuts it (connections break, new ones are refused) and opens it again."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

from servers.process import free_port


class Gate:
    """Forwards ``127.0.0.1:port`` to ``target_port`` while it is open."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open_sockets: set[socket.socket] = set()

    def open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        listener, self._listener = self._listener, None
        for end in ([] if listener is None else [listener]) + list(self._open_sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with self._lock:
            self._open_sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                client, _ = listener.accept()
            except OSError:
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:  # nobody behind the gate: the client must learn it
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open_sockets |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                sink.sendall(block)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with self._lock:
            self._open_sockets -= {source, sink}

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
