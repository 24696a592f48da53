"""A PostgreSQL server for tests: in a temporary folder, as an unprivileged user, stopped by its process id."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.needs import need

ADMIN: Final = "admin"
PASSWORD: Final = "canary-Pa55word"
"""Of every account. The server lives for one test run, on loopback."""


class Postgres:
    """A started server. port: on 127.0.0.1."""

    def __init__(self, folder: Path, programs: Path, user: str | None) -> None:
        """Make and start it; `user`: who runs it, None for this process's own."""
        self._folder = folder
        self._programs = programs
        self._user = user
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(secret, user)
        data = ["--pgdata", str(folder / "data")]
        self._run("initdb", *data, "--username", ADMIN, "--pwfile", str(secret), "--auth=scram-sha-256", "--no-sync")
        options = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c fsync=off -c unix_socket_directories={folder}"
        self._run("pg_ctl", *data, "--wait", "--log", str(folder / "log"), "--options", options, "start")

    def url(self, user: str, database: str) -> str:
        """Where to connect, without a password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """Stop it."""
        self._run("pg_ctl", "--pgdata", str(self._folder / "data"), "--mode=immediate", "--wait", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        complaints = self._folder / f"{program}.stderr"
        with complaints.open("w") as stderr:
            done = subprocess.run(
                [self._programs / program, *arguments],
                user=self._user,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                check=False,
                timeout=60,
            )
        assert done.returncode == 0, complaints.read_text()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A started server, gone afterwards. Skips, or fails where everything is required, without PostgreSQL."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    need(bool(installed), "PostgreSQL is not installed: deploy/test-deps.sh installs it")
    user = None
    if os.geteuid() == 0:
        # The server refuses to run as root.
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    with tempfile.TemporaryDirectory(prefix="remit-pg-") as folder:
        server = Postgres(Path(folder), installed[-1].parent, user)
        try:
            yield server
        finally:
            server.stop()
