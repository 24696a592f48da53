"""Where the demo plays: its folder, the configuration, the real server as a child process, and people's tokens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from remit.client import AdminClient, Client, SearchResult, SyncRun

from service import devissuer, settings
from service.demo import layout, people
from service.demo.calls import Calls
from service.demo.layout import Layout
from service.sections import initial

SOURCE: Final = "company"
OPERATOR: Final = "oskar"

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 15.0

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None)

_CONFIGURATION: Final = """\
version: 1
data: ./data
listen:
  callers: {callers}
  administrators: {administrators}
  insecure_loopback: true
keys: {{provider: file, path: ./keys/remit.kek}}
issuers:
  - issuer: https://remit.localhost/dev
    audience: remit
    jwks: ./keys/dev.jwks.json
    claim: sub
    directory: people
    attribute: id
directories:
  - {{name: people, kind: static, path: ./people.yaml}}
roles:
  operator: [group:operators]
  auditor: [group:auditors]
embedding: {{kind: model}}
sources:
  - name: {source}
    kind: filesystem
    root: {root}
    id_domain: {id_domain}
    # The demo's folder is closed to everybody but you, and its people are nobody on this machine.
    ancestors_above_root: trust
    max_permissions_age: 24h
"""


class StageError(Exception):
    """The demo cannot play; the message is one sentence for people."""


class Stage:
    """Everything that the demo started or wrote, so that one call takes it all away again."""

    def __init__(self, *, keep: bool) -> None:
        """Nothing is there yet. keep: whether the server outlives this process."""
        self._keep: Final = keep
        self._layout: Layout | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._calls: Calls | None = None
        self.addresses: tuple[str, str] = ("", "")

    @property
    def files(self) -> Layout:
        """Where the files lie. Only after `lay_out`."""
        assert self._layout is not None
        return self._layout

    @property
    def calls(self) -> Calls:
        """The connections. Only after `serve`."""
        assert self._calls is not None
        return self._calls

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.files.base / "remit.yaml"

    @property
    def people(self) -> Path:
        """The directory file."""
        return self.files.base / "people.yaml"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._server is not None
        return self._server.pid

    def lay_out(self) -> None:
        """Write files, keys and configuration. Raises LayoutError and StartError."""
        self._layout = layout.lay_out()
        initial.write(self.files.base)
        self.addresses = _free_addresses()
        text = _CONFIGURATION.format(
            callers=self.addresses[0],
            administrators=self.addresses[1],
            source=SOURCE,
            root=self.files.company,
            id_domain=people.ID_DOMAIN,
        )
        self.config.write_text(text, "utf-8")
        people.write(self.people)

    def serve(self) -> None:
        """Start the server and wait until it says that it serves. Raises StageError."""
        command = [sys.executable, "-m", "service.cli", "--config", str(self.config), "serve"]
        own = self.files.base / "tmp"
        own.mkdir(mode=0o700)
        with (self.files.base / "server.log").open("wb") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which then stops the server in order.
            _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # children that lose the server are ours to wait for
            self._server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # What libraries leave in the folder for temporary files goes with the demo's own.
                env={**os.environ, "TMPDIR": str(own)},
                start_new_session=True,
                preexec_fn=None if self._keep else _end_with_parent,
            )
        self._calls = Calls(self.addresses[0])
        until = time.monotonic() + START_TIMEOUT_S
        while not self._calls.serving():
            if self._server.poll() is not None:
                raise StageError(f"the server ended with code {self._server.returncode}: {self.last_words()}")
            if time.monotonic() > until:
                raise StageError(f"the server did not serve within {START_TIMEOUT_S:.0f} seconds: {self.last_words()}")
            time.sleep(0.1)

    def token(self, name: str) -> str:
        """A token for a person, as `remit token` mints it."""
        return devissuer.mint(settings.load(self.config), name, lifetime=timedelta(minutes=15))

    def ask(self, name: str, question: str) -> SearchResult:
        """Search as a person, with the reasons for each passage."""
        with Client(self.addresses[0], token=self.token(name), insecure_loopback=True) as client:
            return client.search(question, limit=10, explain=True)

    def sync(self) -> Iterator[SyncRun]:
        """Open a run over the company, and follow it to its end."""
        with AdminClient(self.addresses[1], token=self.token(OPERATOR), insecure_loopback=True) as admin:
            yield from admin.watch_sync_run(admin.start_sync(SOURCE).run_id, timeout_s=300)

    def stop(self) -> None:
        """Stop the server, if it runs."""
        if self._calls is not None:
            self._calls.close()
        if self._server is not None:
            _stop(self._server)

    def close(self, *, keep: bool) -> None:
        """Stop the server and delete everything, or with `keep` leave both as they are."""
        if not keep:
            self.stop()
            if self._layout is not None:
                self._layout.remove()

    def last_words(self) -> str:
        """The end of the server's log."""
        log = self.files.base / "server.log"
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:400] if lines else "it wrote nothing"


def _free_addresses() -> tuple[str, str]:
    """Two loopback addresses that nobody listens on."""
    with socket.socket() as one, socket.socket() as two:
        for held in (one, two):
            held.bind(("127.0.0.1", 0))
        first, second = (f"127.0.0.1:{held.getsockname()[1]}" for held in (one, two))
        return first, second


def _end_with_parent() -> None:
    """In the server, before it starts: end when the demo is killed in a way that it cannot answer."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, and wait until its children have.

    Those of a server that was stopped before it could answer end by themselves, but may write once more until then.
    """
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    until = time.monotonic() + STOP_TIMEOUT_S
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)
