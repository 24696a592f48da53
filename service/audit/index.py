"""An index over the log, in SQLite: which records name a response, a person or a document, and where records stand.

It is derived: missing, damaged, behind, or made over another log, it is built again from the segments, which are the
truth. It holds no id in the clear: names are keyed digests of 63 bits, so whoever uses an index entry reads the record
and compares. It never stands between a record and its durability.

Of a record whose body is gone it knows the class, the day and the response; `expire` removes what else it knew.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from service.audit import segments
from service.audit.bodies import Gone, Opener
from service.audit.merkle import HASH_BYTES
from service.audit.record import Kind
from service.audit.segments import Place

_FORMAT: Final = 3
_BATCH: Final = 4096
_KINDS: Final = tuple(Kind)
_LAST: Final = 2**62
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SCHEMA: Final = """
    CREATE TABLE state (format INTEGER, origin TEXT, next INTEGER, segment INTEGER, offset INTEGER, last BLOB);
    CREATE TABLE record (idx INTEGER PRIMARY KEY, segment INTEGER, offset INTEGER, time INTEGER, kind INTEGER);
    CREATE TABLE named (name INTEGER, idx INTEGER, time INTEGER, PRIMARY KEY (name, idx)) WITHOUT ROWID;
"""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records. Empty and None leave open. since: from then on; until: before then.

    person: an account or a subject. document: one that was returned or asked about. use: a source and a principal's
    token, see `use_of`.
    """

    response_id: str = ""
    person: str = ""
    document_id: str = ""
    use: str = ""
    kinds: frozenset[Kind] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def names(self) -> list[str]:
        """What the index has to know of them."""
        named = (("response", self.response_id), ("person", self.person), ("document", self.document_id))
        return [f"{what}:{value}" for what, value in (*named, ("use", self.use)) if value]

    def fits(self, found: Mapping[str, Any]) -> bool:
        """True when a record is one of these; for what the index proposes, so that its digests never decide."""
        return all(name in names_of(found["body"]) for name in self.names()) and (
            not self.kinds or found["class"] in {kind.value for kind in self.kinds}
        )


def names_of(body: Mapping[str, Any]) -> set[str]:
    """Everything by which a record can be found."""
    found = {f"response:{body['response_id']}"} if "response_id" in body else set()
    actor = body.get("actor")
    if actor is not None:
        found |= {f"person:{value}" for value in (actor["subject"], actor["account"]) if value}
    about = body.get("about")
    if about is not None:
        found.add(f"person:{about['account']}")
    found |= {f"document:{one['document_id']}" for one in (*body.get("returned", ()), *body.get("checked", ()))}
    for one in body.get("returned", ()):
        found |= {f"use:{use_of(one['source'], match['principal'])}" for match in one["matches"]}
    return found


def use_of(source: str, principal: str) -> str:
    """A passage of a source that left by a rule for a principal. Neither a source's name nor a token has a blank."""
    return f"{source} {principal}"


class RecordIndex:
    """The index over one log. Thread-safe. origin: the log's. bodies: what opens its records."""

    def __init__(self, folder: Path, origin: str, bodies: Opener) -> None:
        self._folder = folder
        self._bodies = bodies
        self._path = folder / "index.sqlite"
        self._origin = origin
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._next = Place()

    @property
    def size(self) -> int:
        """How many records are in it."""
        return self._next.index

    def follow(self, size: int) -> bool:
        """Take in the next few thousand records of a log of `size`; True when none is left.

        Raises sqlite3.Error, OSError, segments.DamagedError and BodyError.
        """
        with self._lock:
            db = self._opened(size)
            if self._next.index < size:
                self._take(db, min(size, self._next.index + _BATCH))
            return self._next.index >= size

    def find(self, wanted: Wanted, *, first: int, last: int, limit: int, newest: bool) -> list[Place]:
        """Where records stand that may be `wanted`, numbered from `first` to `last`, in order, at most `limit`."""
        since, until = _micros(wanted.since, 0), _micros(wanted.until, _LAST)
        keys = [self._digest(name) for name in wanted.names()]
        order = "DESC" if newest else "ASC"
        kinds = [_KINDS.index(kind) for kind in wanted.kinds]
        of_kind = f"AND record.kind IN ({','.join('?' * len(kinds))})" if kinds else ""
        # CROSS keeps SQLite from walking through all records to look each of them up among the few that are named.
        if keys:
            more = "".join(
                f" CROSS JOIN named AS n{k} ON n{k}.name = ? AND n{k}.idx = n0.idx" for k in range(1, len(keys))
            )
            sql = f"""SELECT record.idx, record.segment, record.offset FROM named AS n0{more}
                CROSS JOIN record ON record.idx = n0.idx
                WHERE n0.name = ? AND n0.idx BETWEEN ? AND ? AND n0.time >= ? AND n0.time < ? {of_kind}
                ORDER BY n0.idx {order} LIMIT ?"""
            values = [*keys[1:], keys[0], first, last, since, until, *kinds, limit]
        else:
            sql = f"""SELECT idx, segment, offset FROM record
                WHERE idx BETWEEN ? AND ? AND time >= ? AND time < ? {of_kind}
                ORDER BY idx {order} LIMIT ?"""
            values = [first, last, since, until, *kinds, limit]
        with self._lock:
            db = self._opened(None)
            return [Place(*row) for row in db.execute(sql, values)]

    def places_naming(self, name: str) -> list[Place]:
        """Where all records stand that may have a name, such as `person:u-1`, in order."""
        asked = """SELECT record.idx, record.segment, record.offset FROM named
            CROSS JOIN record ON record.idx = named.idx WHERE named.name = ? ORDER BY record.idx"""
        with self._lock:
            db = self._opened(None)
            return [Place(*row) for row in db.execute(asked, (self._digest(name),))]

    def expire(self, gone: Mapping[int, Gone]) -> None:
        """Keep of these records, by number, what stays known of them when their bodies are gone, and no more."""
        kept = [(number, _micros(_start(one.period.day), 0), one.name) for number, one in gone.items()]
        with self._lock:
            db = self._opened(None)
            with _transaction(db):
                db.execute("CREATE TEMP TABLE gone (idx INTEGER PRIMARY KEY, time INTEGER, name INTEGER)")
                db.executemany("INSERT INTO gone VALUES (?, ?, ?)", kept)
                db.execute("DELETE FROM named WHERE idx IN (SELECT idx FROM gone)")
                db.execute("INSERT OR IGNORE INTO named SELECT name, idx, time FROM gone WHERE name <> 0")
                db.execute("UPDATE record SET time = gone.time FROM gone WHERE gone.idx = record.idx")
                db.execute("DROP TABLE gone")
            # Older pages would still tell: the log of the database is emptied into it.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def forget(self) -> None:
        """Drop the whole index: the next call begins a new one."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        for ending in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)

    def _opened(self, size: int | None) -> sqlite3.Connection:
        """The connection; opens the file, and makes another when it is not one over this log."""
        if self._db is None:
            try:
                self._open(size)
            except (sqlite3.DatabaseError, _ForeignError) as err:
                _log.warning("audit_index_rebuilt", error=type(err).__name__)
                self._drop()
                self._open(size)
        assert self._db is not None
        return self._db

    def _open(self, size: int | None) -> None:
        self._path.touch(0o600)
        self._db = db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        # Derived: after a power cut it may be older than the log, never damaged.
        for pragma in (
            "journal_mode=WAL",
            "secure_delete=ON",
            "synchronous=NORMAL",
            "cache_size=-16384",
            "temp_store=MEMORY",
        ):
            db.execute(f"PRAGMA {pragma}").close()
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            with _transaction(db):
                for statement in _SCHEMA.strip().split(";")[:-1]:
                    db.execute(statement)
                db.execute("INSERT INTO state VALUES (?, ?, 0, 0, 0, ?)", (_FORMAT, self._origin, b""))
        form, origin, index, segment, offset, last = db.execute("SELECT * FROM state").fetchone() or [None] * 6
        if form != _FORMAT or origin != self._origin or (size is not None and index > size):
            raise _ForeignError
        if index:
            row = db.execute("SELECT idx FROM record WHERE idx = ?", (index - 1,)).fetchone()
            if row is None or self._leaf(index - 1) != last:
                raise _ForeignError
        self._next = Place(index, segment, offset)

    def _leaf(self, index: int) -> bytes:
        with (self._folder / "leaves").open("rb") as file:
            file.seek(index * HASH_BYTES)
            return file.read(HASH_BYTES)

    def _take(self, db: sqlite3.Connection, stop: int) -> None:
        records: list[tuple[int, int, int, int, int]] = []
        named: list[tuple[int, int, int]] = []
        stored = b""
        place = self._next
        for place, stored in segments.read_from(self._folder, self._next, stop):
            data = self._bodies.open(place.index, stored)
            if isinstance(data, Gone):
                moment, kind = _micros(_start(data.period.day), 0), _KINDS.index(Kind(data.period.kind))
                named += [(data.name, place.index, moment)] if data.name else []
            else:
                found = json.loads(data)
                moment = _micros(datetime.fromisoformat(found["time"]), 0)
                kind = _KINDS.index(Kind(found["class"]))
                named += [(self._digest(name), place.index, moment) for name in names_of(found["body"])]
            records.append((place.index, place.segment, place.offset, moment, kind))
        following = Place(stop, place.segment, place.offset + segments.stored_bytes(stored))
        named.sort()  # in the order of the tree: each of its pages is touched once
        with _transaction(db):
            db.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?)", records)
            db.executemany("INSERT OR IGNORE INTO named VALUES (?, ?, ?)", named)
            db.execute(
                "UPDATE state SET next = ?, segment = ?, offset = ?, last = ?",
                (following.index, following.segment, following.offset, self._leaf(stop - 1)),
            )
        self._next = following

    def _digest(self, name: str) -> int:
        return self._bodies.digest(name)


class _ForeignError(Exception):
    """The file is not an index over this log."""


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # When the disk is full SQLite has already rolled back.
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _micros(moment: datetime | None, otherwise: int) -> int:
    if moment is None:
        return otherwise
    return (moment - _EPOCH) // _MICROSECOND
