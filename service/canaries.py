"""Canaries: documents that nobody may ever be given. One that is about to leave shows that the rules failed.

The administrator declares them by place (`canaries` of a source, patterns of locations). Every answer is looked at
after it was decided and before anything leaves (`service.api.gate`). When one of them is in it:

1. from that moment on every document of its source is withheld, in memory
2. a record of the log says so, durably: from it the source stays stopped over restarts, until somebody clears it
3. the answer is refused; the alert follows from the record (`service.alerts`)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Final, Protocol

import structlog

from service.audit.log import AuditLog
from service.audit.record import Record, timestamp
from service.audit.standing import Stop, cleared_record, stopped_record
from service.errors import NotFoundError, SearchUnavailableError

WHY: Final = "canary"

log = structlog.get_logger()


class CanaryError(SearchUnavailableError):
    """A document that nobody may read, or one of a source that is stopped, was about to leave. Tells nobody which."""

    def __init__(self) -> None:
        super().__init__("the answer was withheld")


class Shown(Protocol):
    """What an answer says of a document: `remit.v1.DocumentInfo`."""

    @property
    def document_id(self) -> str:
        """Its id."""

    @property
    def source(self) -> str:
        """The name of its source."""

    @property
    def location(self) -> str:
        """Its place."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """Where the canaries of each source are. Shell patterns, in which `*` also stands for `/`."""

    by_source: Mapping[str, Sequence[str]]

    def match(self, document: Shown) -> bool:
        """Whether a document is a canary."""
        return any(fnmatchcase(document.location, one) for one in self.by_source.get(document.source, ()))


class Stops:
    """Sources that are stopped: those that the log says, and those of which it is about to. Thread-safe."""

    def __init__(self, audit: AuditLog, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._audit = audit
        self._now = now
        self._stopping: frozenset[str] = frozenset()

    def sources(self) -> frozenset[str]:
        """The names of all sources whose documents are withheld."""
        return self._stopping.union(self._audit.standing.stops)

    def standing(self) -> tuple[Stop, ...]:
        """What stopped each of them, by name."""
        stops = self._audit.standing.stops
        return tuple(stops[name] for name in sorted(stops))

    def stop(self, found: Shown, response_id: str) -> Record:
        """Withhold the source of a canary from now on; return the record that has to become durable."""
        self._stopping |= {found.source}
        at = self._now()
        log.error("canary_returned", source=found.source, document_id=found.document_id, request_id=response_id)
        return stopped_record(
            Stop(found.source, secrets.token_hex(8), WHY, response_id, found.document_id, timestamp(at))
        )

    def clear(self, source: str, by: str, why: str) -> Stop:
        """Let a source be read again. Raises NotFoundError and AuditUnavailableError."""
        found = self._audit.standing.stops.get(source)
        if found is None:
            raise NotFoundError("the source is not stopped")
        self._audit.append_blocking(cleared_record(found, by, why))
        self._stopping -= {source}
        return found
