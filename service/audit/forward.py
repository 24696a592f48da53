"""Copies of the log for SIEMs: every record as an OCSF event, to a file or to a syslog server over TLS.

The log is the queue: a place remembers, durably, up to which record it was served, so nothing is lost while it is away
or the service restarts, and after a fault some events come twice (`metadata.uid` tells). A place that takes nothing is
reported once, tried again with longer pauses, and never holds anything up.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from service.audit.errors import AuditTamperedError
from service.audit.ocsf import line
from service.audit.reading import AuditReader, Entry
from service.audit.record import parse
from service.files import durable_file

_EVERY_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_TIMEOUT_S: Final = 10.0
_LOCAL0: Final = 16 * 8
_NOTICE, _WARNING = 5, 4
_APP: Final = "remit"

_log = structlog.get_logger()


class Sink(Protocol):
    """A place for events."""

    @property
    def name(self) -> str:
        """As messages call it; the position is kept under it."""

    def send(self, events: Sequence[tuple[dict[str, Any], str]]) -> None:
        """Hand over records with their lines, all or none of which count. Raises OSError."""

    def close(self) -> None:
        """Let go of what is open."""


class FileSink:
    """A file to which events are appended, one a line. It may be moved away at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """See `Sink`."""
        return f"file {self._path}"

    def send(self, events: Sequence[tuple[dict[str, Any], str]]) -> None:
        """See `Sink`."""
        data = "".join(f"{text}\n" for _, text in events).encode()
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            start = os.fstat(handle).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, start)  # nothing half written
                raise
        finally:
            os.close(handle)

    def close(self) -> None:
        """Nothing stays open."""


class SyslogSink:
    """A syslog server over TLS: RFC 5424 messages in the frames of RFC 5425.

    ca: PEM file to verify the server by. certificate, key: PEM files of our own, when the server asks for them.
    """

    def __init__(
        self, host: str, port: int, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        self._host, self._port = host, port
        self._ca, self._certificate, self._key = ca, certificate, key
        self._stream: ssl.SSLSocket | None = None

    @property
    def name(self) -> str:
        """See `Sink`."""
        return f"syslog {self._host}:{self._port}"

    def send(self, events: Sequence[tuple[dict[str, Any], str]]) -> None:
        """See `Sink`. RFC 5425 has no acknowledgement: what a server took before it went away is not known."""
        try:
            if self._stream is None or self._gone(self._stream):
                self.close()
                self._stream = self._connect()
            self._stream.sendall(b"".join(self._frame(record, text) for record, text in events))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """See `Sink`."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    @staticmethod
    def _gone(stream: ssl.SSLSocket) -> bool:
        """Whether the server hung up meanwhile: what is written then is taken by nobody."""
        stream.settimeout(0.0)
        try:
            return not stream.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        except OSError:
            return True
        finally:
            stream.settimeout(_TIMEOUT_S)

    def _connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self._ca)
        if self._certificate is not None:
            context.load_cert_chain(self._certificate, self._key)
        plain = socket.create_connection((self._host, self._port), timeout=_TIMEOUT_S)
        try:
            return context.wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise

    @staticmethod
    def _frame(record: dict[str, Any], text: str) -> bytes:
        body = record["body"]
        severity = _WARNING if body.get("reason") or "count" in body else _NOTICE
        at = datetime.fromisoformat(record["time"]).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        header = f"<{_LOCAL0 + severity}>1 {at} {socket.gethostname()} {_APP} {os.getpid()} {record['class']} - "
        message = header.encode() + b"\xef\xbb\xbf" + text.encode()
        return b"%d %b" % (len(message), message)


class Forwarder:
    """Serves one place from one log, by a thread of its own. `close` it before the reader.

    position: the file that remembers how far the place was served. A new place begins with the log's first record.
    """

    def __init__(
        self, reader: AuditReader, sink: Sink, position: Path, *, origin: str, version: str, every_s: float = _EVERY_S
    ) -> None:
        self._reader, self._sink, self._position = reader, sink, position
        self._origin, self._version, self._every_s = origin, version, every_s
        self._failing = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"audit to {sink.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was not sent is sent after the next start."""
        self._ending.set()
        self._thread.join(_TIMEOUT_S * 2)
        self._sink.close()

    def _run(self) -> None:
        pause = self._every_s
        following: int | None = None
        while not self._ending.wait(pause):
            try:
                if following is None:
                    following = self._stored()
                for part in self._reader.read(following, self._reader.size):
                    # What expired while the place was away for that long is told to nobody any more.
                    self._sink.send([self._event(entry) for entry in part if entry.expired is None])
                    following = part[-1].index + 1
                    durable_file.replace(self._position, f"{self._origin} {following}\n".encode())
                    if self._ending.is_set():
                        return
            except (OSError, AuditTamperedError, ValueError) as err:
                if not self._failing:
                    self._failing = True
                    _log.error("audit_export_failed", place=self._sink.name, error=_reason(err))
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                if self._failing:
                    self._failing = False
                    _log.info("audit_export_recovered", place=self._sink.name)
                pause = self._every_s

    def _stored(self) -> int:
        """How far the place was served. What cannot be read as that, or is of another log, is the beginning."""
        try:
            origin, _, number = self._position.read_text("ascii").strip().partition(" ")
        except (FileNotFoundError, UnicodeDecodeError):
            return 0
        return int(number) if origin == self._origin and number.isdecimal() else 0

    def _event(self, entry: Entry) -> tuple[dict[str, Any], str]:
        record: dict[str, Any] = parse(entry.data)
        return record, line(record, self._origin, self._version)


def _reason(err: Exception) -> str:
    return (err.strerror if isinstance(err, OSError) else None) or type(err).__name__
