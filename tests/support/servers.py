"""Processes that tests start and stop, each by its own id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_STOP_S: Final = 10.0


class Server:
    """A server in the foreground, in a process group of its own. log: the file that has its output."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = list(command)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, host: str, port: int, timeout_s: float = 30.0) -> None:
        """Start it and wait until it accepts connections. Raises AssertionError with the end of its log."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        ends = time.monotonic() + timeout_s
        while not accepts(host, port):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > ends:
                self.stop()
                tail = self._log.read_text(errors="replace")[-2000:]
                raise AssertionError(f"{self._command[0]} {'ended' if ended else 'does not listen'}: {tail}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and everything it started."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Stop the server and everything it started; without effect when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGCONT, signal.SIGTERM):
            _kill(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        # What it left behind in its group goes too.
        _kill(process.pid, signal.SIGKILL)
        process.wait()


def accepts(host: str, port: int) -> bool:
    """True when something listens there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as taken:
        taken.bind((host, 0))
        return int(taken.getsockname()[1])


def _kill(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
