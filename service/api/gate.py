"""The last look at an answer before it leaves: no document that nobody may read, and none of a source that is stopped.

Whatever message it is: every `DocumentInfo` in it is found by the descriptors, so a new method is looked at, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Protocol

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from remit.v1 import retrieval_pb2

from service.audit.record import Record
from service.canaries import CanaryError, Patterns, Stops

_DOCUMENT = retrieval_pb2.DocumentInfo.DESCRIPTOR


class Log(Protocol):
    """What keeps records: `service.audit.log.AuditLog`."""

    async def append(self, record: Record) -> object:
        """Return once the record is durable. Raises AuditUnavailableError."""


class Gate:
    """Looks at every answer."""

    def __init__(self, patterns: Patterns, stops: Stops, log: Log) -> None:
        self._patterns = patterns
        self._stops = stops
        self._log = log

    def use(self, patterns: Patterns) -> None:
        """Look for other canaries from now on."""
        self._patterns = patterns

    async def check(self, message: Message, response_id: str) -> None:
        """Return when the message may leave. Raises CanaryError, and AuditUnavailableError."""
        stopped = self._stops.sources()
        if not stopped and not self._patterns.by_source:
            return
        withheld = False
        for document in documents(message):
            withheld = withheld or document.source in stopped
            if document.source not in stopped and self._patterns.match(document):
                # Withheld before anything is waited for.
                await self._log.append(self._stops.stop(document, response_id))
                withheld = True
                stopped = self._stops.sources()
        if withheld:
            raise CanaryError


def documents(message: Message) -> Iterator[retrieval_pb2.DocumentInfo]:
    """Every document that a message says something of."""
    if isinstance(message, retrieval_pb2.DocumentInfo):
        yield message
        return
    for field in _leading(message.DESCRIPTOR):
        value: Any = getattr(message, field.name)
        if field.is_repeated:
            for one in value.values() if _is_map(field) else value:
                yield from documents(one)
        elif message.HasField(field.name):
            yield from documents(value)


@cache
def _leading(kind: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The fields of a message in which there can be documents, however deep."""
    return tuple(field for field in kind.fields if field.message_type is not None and _holds(field.message_type))


def _holds(kind: Descriptor, above: frozenset[Descriptor] = frozenset()) -> bool:
    if kind == _DOCUMENT:
        return True
    if kind in above:
        return False
    return any(field.message_type is not None and _holds(field.message_type, above | {kind}) for field in kind.fields)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)
