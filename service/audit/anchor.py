"""Checkpoints to places outside of the service's reach: a file on another volume, or syslog.

A copy, and never in the way: a place that does not take a checkpoint is reported once, and tried again with the next.
What was handed to it stays true whatever happens to the log: `remit audit verify --seen` holds a log against it.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import structlog

from service.audit.log import AuditLog

_EVERY_S: Final = 1.0
_AUTHPRIV_NOTICE: Final = 10 * 8 + 5
_TIMEOUT_S: Final = 5.0

_log = structlog.get_logger()


class Anchor(Protocol):
    """A place for checkpoints."""

    @property
    def name(self) -> str:
        """As messages call it."""

    def put(self, note: str) -> None:
        """Hand over a signed note. Raises OSError."""


class FileAnchor:
    """A file to which every checkpoint is appended, an empty line after each: `remit audit verify --seen` reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """See `Anchor`."""
        return str(self._path)

    def put(self, note: str) -> None:
        """See `Anchor`."""
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            os.write(handle, f"{note}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)


class SyslogAnchor:
    """The machine's syslog: a note on one line, its line feeds as `\\n`, in the form of RFC 5424."""

    def __init__(self, path: Path = Path("/dev/log")) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """See `Anchor`."""
        return f"syslog at {self._path}"

    def put(self, note: str) -> None:
        """See `Anchor`."""
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        text = note.replace("\n", "\\n")
        line = f"<{_AUTHPRIV_NOTICE}>1 {at} {socket.gethostname()} remit {os.getpid()} checkpoint - {text}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_TIMEOUT_S)
            sender.connect(str(self._path))
            sender.send(line.encode())


class Anchors:
    """Hands every new checkpoint of a log to its places, by a thread of its own. `close` it before the log."""

    def __init__(self, log: AuditLog, places: Sequence[Anchor], every_s: float = _EVERY_S) -> None:
        self._audit = log
        self._places = tuple(places)
        self._every_s = every_s
        self._failing: set[str] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit anchors", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hand over the last checkpoint that there is, and stop."""
        self._ending.set()
        self._thread.join(_TIMEOUT_S * (len(self._places) + 1))

    def _run(self) -> None:
        done = ""
        while True:
            ending = self._ending.wait(self._every_s)
            note = self._audit.note
            if note and note != done:
                for place in self._places:
                    self._put(place, note)
                done = note
            if ending:
                return

    def _put(self, place: Anchor, note: str) -> None:
        try:
            place.put(note)
            self._failing.discard(place.name)
        except OSError as err:
            if place.name not in self._failing:
                self._failing.add(place.name)
                _log.error("checkpoint_not_anchored", place=place.name, error=err.strerror or type(err).__name__)
