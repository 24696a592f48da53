"""The real service in a process of its own, which is killed and started again on the same ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.demo.stage import _free_addresses
from service.sections import initial

_SETTINGS = """\
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
  access-admin: [group:access-admins]
embedding: {{kind: {embedding}}}
sources:
  - name: feed
    kind: feed
    path: ./feed.jsonl
    audience: ["static:people:members"]
    max_permissions_age: 24h
"""


class Server:
    """Lay it out with `Server(folder)`, then `start`."""

    def __init__(self, folder: Path, embedding: str = "hash") -> None:
        initial.write(folder)
        self.folder = folder
        self.callers, self.administrators = _free_addresses()
        self.config = folder / "remit.yaml"
        self.config.write_text(
            _SETTINGS.format(callers=self.callers, administrators=self.administrators, embedding=embedding)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; `wait` says when it serves."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "--config", str(self.config), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = 90.0) -> None:
        """Return when health says SERVING."""
        until = time.monotonic() + timeout_s
        with grpc.insecure_channel(self.callers, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < until:
                assert self._process is not None
                assert self._process.poll() is None, self.last_words()
                try:
                    if stub.Check(health_pb2.HealthCheckRequest(), timeout=2).status == 1:
                        return
                except grpc.RpcError:
                    pass
                time.sleep(0.05)
        raise AssertionError(f"the service does not serve: {self.last_words()}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, and wait for the end of the process; its own children end by themselves."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        """End it, however it stands."""
        if self._process is not None and self._process.poll() is None:
            self.end()

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def last_words(self) -> str:
        """The end of its log."""
        log = self.folder / "server.log"
        return log.read_text(errors="replace")[-600:] if log.exists() else os.fspath(log)
