"""Records of the audit log: the one sequence of bytes for each (RFC 8785), and its place in the log.

Pure. No record holds text of a document, a title, a place or a query: ids, hashes, numbers and principals only.
Numbers are integers, scores in millionths; what is absent is left out and never null.
The writer adds the envelope (`envelope`), since only it knows the place of a record in the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

import rfc8785

from service.audit.errors import RecordError
from service.files import strict_json

FORMAT: Final = 2
SALT_BYTES: Final = 16
MAX_BYTES: Final = 4 * 1024 * 1024
_MAX_INTEGER: Final = 2**53 - 1


class Kind(Enum):
    """The class of a record; each may be kept for a time of its own."""

    QUERY = "query"  # calls that can return content
    ACCESS = "access"  # calls that ask who may read
    ADMIN = "admin"  # calls and commands that administer
    INGEST = "ingest"  # runs over sources
    CONTROL = "control"  # the log itself and the service: start, stop, other settings
    HEARTBEAT = "heartbeat"  # nothing happened, and the log was there
    AUDIT = "audit"  # calls that read the audit log
    STANDING = "standing"  # what stands until another record ends it: holds, expiries, stopped sources; never expires
    ON_BEHALF = "on_behalf"  # calls of a service that names a person, whatever they ask for


@dataclass(frozen=True, slots=True)
class Record:
    """A record before it has its place: its class, and its body in canonical bytes. Build one with `record`.

    response_id: that of the body, empty when it has none.
    """

    kind: Kind
    body: bytes
    response_id: str = ""


def record(kind: Kind, body: Mapping[str, object]) -> Record:
    """Build a record. Raises RecordError for a value without a canonical form here."""
    try:
        _check(body, "body")
        data = _canonical(body)
    except (ValueError, RecursionError) as err:
        raise err if isinstance(err, RecordError) else RecordError(f"no canonical form: {err}") from err
    if len(data) > MAX_BYTES:
        raise RecordError(f"a record of {len(data)} bytes, more than {MAX_BYTES}")
    return Record(kind, data, str(body.get("response_id", "")))


def _check(value: object, where: str) -> None:
    # At every call, over every passage: types are compared before anything dearer is asked.
    kind = type(value)
    if kind is str or kind is bool:
        return
    if kind is int:
        if abs(value) > _MAX_INTEGER:  # type: ignore[arg-type]  # an int
            raise RecordError(f"{where} is a number beyond 2^53")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if type(key) is not str:
                raise RecordError(f"{where} has a member that is not named by text")
            _check(inner, key)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check(inner, where)
    else:
        raise RecordError(f"{where} is a {kind.__name__}, which no record holds")


def _canonical(value: object) -> bytes:
    """RFC 8785 of what `_check` let pass, which has no floats."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    # In ASCII it is the same, and ten times quicker; beyond, keys sort by UTF-16 code units (RFC 8785, 3.2.3).
    return text.encode() if text.isascii() else rfc8785.dumps(value)  # type: ignore[arg-type]  # checked before


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the writer adds.

    index: the record's number, from 0. previous: the leaf hash of the record before it, zeros for the first; so the
    records alone say which one was changed, where the tree only says that one was.
    salt: random, so that a leaf whose record is gone cannot be tried with guesses.
    session: one opening of the log. uptime_us: since then by the monotonic clock, which shows changes of the clock.
    """

    index: int
    previous: bytes
    salt: bytes
    session: str
    time: datetime
    uptime_us: int


_FORM: Final = (
    b'{"body":%b,"class":"%b","index":%d,"previous":"%b","salt":"%b","session":"%b","time":"%b","uptime_us":%d,"v":%d}'
)


def envelope(made: Record, place: Envelope) -> bytes:
    """The canonical bytes of a record at its place: the leaf of the tree."""
    # The keys stand in the order of RFC 8785, and none of the values needs escaping.
    return _FORM % (
        made.body,
        made.kind.value.encode(),
        place.index,
        place.previous.hex().encode(),
        place.salt.hex().encode(),
        place.session.encode(),
        timestamp(place.time).encode(),
        place.uptime_us,
        FORMAT,
    )


_OF_FIRST: Final = frozenset({"body", "class", "index", "previous", "session", "time", "uptime_us", "v"})
_MEMBERS: Final[Mapping[object, frozenset[str]]] = {1: _OF_FIRST, FORMAT: _OF_FIRST | {"salt"}}
"""The members of a record by its format. The first had no salt."""


def parse(data: bytes) -> dict[str, object]:
    """Read a record back, of this format or the first. Raises RecordError unless it is one, in canonical form."""
    try:
        found = strict_json.parse(data)
    except ValueError as err:
        raise RecordError("not the bytes of a record") from err
    if not isinstance(found, dict) or found.keys() != _MEMBERS.get(found.get("v")):
        raise RecordError("not a record of this format")
    _check(found, "record")
    if _canonical(found) != data:
        raise RecordError("not in canonical form")
    return found


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, always with microseconds. Raises RecordError without a time zone."""
    if moment.tzinfo is None:
        raise RecordError("a time without a time zone")
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def micros(duration: timedelta) -> int:
    """A duration in whole microseconds."""
    return duration // timedelta(microseconds=1)
