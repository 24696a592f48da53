"""Alerts that a source was stopped, to webhooks and syslog: the highest that there is.

The log is the queue: what has to be told stands in it, durably, before an alert can be lost, and a place remembers up
to which record it was told. So an alert outlives a restart and comes at least once (`id` tells copies apart). A place
that takes nothing is tried again with longer pauses and never holds anything up. When a place was told, a record says
how long that took.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import structlog

from service.audit import AuditLog, Kind, record
from service.audit.standing import Stop
from service.errors import AuditUnavailableError, StartError
from service.files import durable_file, key_file
from service.sections.audit import Alert, WebhookAlert

_EVERY_S: Final = 0.2
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_TIMEOUT_S: Final = 10.0
_AUTHPRIV_ALERT: Final = 10 * 8 + 1
_LEAST_SECRET: Final = 16

_log = structlog.get_logger()


class Place(Protocol):
    """Who is told."""

    @property
    def name(self) -> str:
        """As messages call it."""

    @property
    def address(self) -> str:
        """What tells it from every other place; never shown, since it may hold a secret."""

    def tell(self, message: bytes) -> None:
        """Hand over an alert. Raises OSError."""


class Webhook:
    """An address that gets alerts by POST, as JSON.

    Header `Remit-Signature`: `t=<Unix time>,v1=<HMAC-SHA256 over the time, a full stop and the body, as hex>`.
    """

    def __init__(self, url: str, secret: bytes, ca: Path | None = None) -> None:
        self._url = url
        self._parts = urlsplit(url)
        self._secret = secret
        self._ca = ca

    @property
    def name(self) -> str:
        """See `Place`; without what may be a secret in the address."""
        return f"webhook {self._parts.scheme}://{self._parts.hostname}{self._parts.path}"

    @property
    def address(self) -> str:
        """See `Place`."""
        return self._url

    def tell(self, message: bytes) -> None:
        """See `Place`. Anything but a 2xx is a failure; redirects are not followed, since they are not configured."""
        at = int(datetime.now(UTC).timestamp())
        mark = hmac.new(self._secret, b"%d." % at + message, hashlib.sha256).hexdigest()
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context(cafile=self._ca)
            line: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=_TIMEOUT_S, context=context
            )
        else:
            line = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        target = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        headers = {"Content-Type": "application/json", "Remit-Signature": f"t={at},v1={mark}"}
        try:
            line.request("POST", target, message, headers)
            status = line.getresponse().status
        except http.client.HTTPException as err:
            raise OSError(f"no answer of HTTP: {type(err).__name__}") from err
        finally:
            line.close()
        if not 200 <= status < 300:
            raise OSError(f"HTTP status {status}")


class Syslog:
    """This machine's syslog: RFC 5424, facility authpriv, severity alert."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """See `Place`."""
        return f"syslog at {self._path}"

    @property
    def address(self) -> str:
        """See `Place`."""
        return self.name

    def tell(self, message: bytes) -> None:
        """See `Place`."""
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        head = f"<{_AUTHPRIV_ALERT}>1 {at} {socket.gethostname()} remit {os.getpid()} alert - "
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_TIMEOUT_S)
            sender.connect(str(self._path))
            sender.send(head.encode() + message)


class Alerter:
    """Tells one place what the log says, by a thread of its own. `close` it before the log.

    position: the file that remembers up to which record the place was told. A new place is told what still stands.
    """

    def __init__(
        self, log: AuditLog, place: Place, position: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._audit, self._place, self._position, self._now = log, place, position, now
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"alerts to {place.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was not told is told after the next start."""
        self._ending.set()
        self._thread.join(_TIMEOUT_S * 2)

    def _run(self) -> None:
        following = self._stored()
        pause, failing = _EVERY_S, False
        while not self._ending.wait(pause):
            try:
                if following is None:
                    # Before anything is told: whatever stops from now on is told, be it cleared meanwhile or not.
                    following = self._remember(self._first())
                for index, stop in sorted(self._audit.standing.alerts.items()):
                    if index < following:
                        continue
                    self._place.tell(_message(stop, self._audit.checkpoint.origin, index))
                    self._told(stop)
                    following = self._remember(index + 1)
                    if failing:
                        failing = False
                        _log.info("alert_recovered", place=self._place.name)
            except (OSError, ValueError, AuditUnavailableError) as err:
                if not failing:
                    failing = True
                    what = (err.strerror or str(err)) if isinstance(err, OSError) else type(err).__name__
                    _log.error("alert_failed", place=self._place.name, error=what)
                pause = min(max(pause * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            else:
                pause = _EVERY_S

    def _first(self) -> int:
        """With which record a new place begins: the first that still stops a source, or the next that does."""
        size, standing = self._audit.size, self._audit.standing
        return min((index for index, stop in standing.alerts.items() if stop in standing.stops.values()), default=size)

    def _remember(self, following: int) -> int:
        durable_file.replace(self._position, f"{self._audit.checkpoint.origin} {following}\n".encode())
        return following

    def _told(self, stop: Stop) -> None:
        """Record it, with the time from the event to the notice."""
        at = self._now()
        waited = at - datetime.fromisoformat(stop.happened_at)
        body: dict[str, object] = {
            "event": "alert delivered",
            "alert_id": stop.alert_id,
            "place": self._place.name,
            "source": stop.source,
            "happened_at": stop.happened_at,
            "waited_us": max(int(waited.total_seconds() * 1_000_000), 0),
        }
        self._audit.append_blocking(record(Kind.CONTROL, body))

    def _stored(self) -> int | None:
        """From which record on the place is to be told; None for a new place, and for what cannot be read."""
        try:
            origin, _, number = self._position.read_text("ascii").strip().partition(" ")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return int(number) if origin == self._audit.checkpoint.origin and number.isdecimal() else None


def _message(stop: Stop, origin: str, index: int) -> bytes:
    """An alert: ids and times, no name of a person, no title and no place."""
    body = {
        "id": stop.alert_id,
        "rule": "canary",
        "severity": "critical",
        "what": "a document that nobody may read was about to leave; its source is stopped until somebody clears it",
        "source": stop.source,
        "document_id": stop.document_id,
        "response_id": stop.response_id,
        "happened_at": stop.happened_at,
        "record": f"{origin}/{index}",
    }
    return json.dumps(body).encode()


def places(settings: Sequence[Alert]) -> tuple[Place, ...]:
    """The places that the settings name. Raises StartError: a secret that is missing or open to others."""
    return tuple(_place(one) for one in settings)


def _place(alert: Alert) -> Place:
    if not isinstance(alert, WebhookAlert):
        return Syslog(alert.path)
    secret = key_file.read(alert.secret, "the secret that signs alerts").strip()
    if len(secret) < _LEAST_SECRET:
        raise StartError(f"`{alert.secret}`, the secret that signs alerts, has less than {_LEAST_SECRET} characters")
    return Webhook(alert.url, secret, alert.ca)
