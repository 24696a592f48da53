"""What a run compares with: the stored documents of a source, asked for in batches, and its containers and ACLs.

Documents are not held in memory, so that a run needs no more of it for a larger source.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pyroaring import BitMap
from sqlalchemy import Connection, Engine, LargeBinary, Select, bindparam, func, select
from sqlalchemy.types import UserDefinedType

from acl.model import AclId, Clause, ScopeId, Unknown
from acl.principal import Realm
from service.stores import schema
from service.stores.clauses import read_clause
from service.stores.errors import storage_errors
from service.stores.holds import Acls, Interned, is_held, unwind
from service.stores.sqlite import tuples, unindexed
from service.stores.writes import Former, Known, KnownScope

_BATCH: Final = 500
_MANY: Final = 20_000


class _Plain(UserDefinedType[bytes]):
    """Bytes that the driver takes as they are: to look at each of many costs more than to find it."""

    cache_ok = True


_DOCUMENTS: Final = schema.documents.c
_SERVED: Final = _DOCUMENTS.row_start < _DOCUMENTS.row_stop
_OF_SOURCE: Final = _DOCUMENTS.source == bindparam("source")
_STANDS: Final = _DOCUMENTS.deleted.is_(False)
_KNOWN: Final = select(
    _DOCUMENTS.native,
    _DOCUMENTS.ordinal,
    _DOCUMENTS.document_id,
    _DOCUMENTS.acl_id,
    _DOCUMENTS.scope,
    _DOCUMENTS.source_version,
    _DOCUMENTS.facts,
    _SERVED.label("served"),
)
_BY_NATIVE: Final = _KNOWN.where(
    _OF_SOURCE, _STANDS, _DOCUMENTS.native.in_(bindparam("values", expanding=True, type_=_Plain()))
)
_BY_ORDINAL: Final = _KNOWN.where(
    unindexed(_DOCUMENTS.source) == bindparam("source"),
    _STANDS,
    _DOCUMENTS.ordinal.in_(bindparam("values", expanding=True)),
)
_ORDINALS: Final = select(_DOCUMENTS.ordinal).where(_OF_SOURCE, _STANDS)
_WITH_ACL: Final = _ORDINALS.where(_DOCUMENTS.acl_id.in_(bindparam("values", expanding=True)))
_FORMER: Final = select(schema.former).where(schema.former.c.ref.in_(bindparam("values", expanding=True)))


class KnownDocuments:
    """The stored documents of one source. Each answer is of its own moment. Safe to use from several threads."""

    def __init__(self, path: Path, readers: Engine, source_id: int) -> None:
        self._path = path
        self._readers = readers
        self._source_id = source_id

    def __len__(self) -> int:
        """Count them."""
        with self._reading() as connection:
            wanted = select(func.count()).where(_DOCUMENTS.source == self._source_id, _DOCUMENTS.deleted.is_(False))
            return connection.scalar(wanted) or 0

    def find(self, natives: Collection[bytes]) -> dict[bytes, Known]:
        """Return those that are stored, by the keyed hash of the native id."""
        with self._reading() as connection:
            return dict(self._known(connection, _BY_NATIVE, natives))

    def get(self, ordinals: Iterable[int]) -> list[Known]:
        """Return those that exist."""
        with self._reading() as connection:
            return [known for _, known in self._known(connection, _BY_ORDINAL, list(ordinals))]

    def ordinals(self) -> BitMap:
        """Return all of them."""
        with self._reading() as connection:
            found = BitMap()
            # Some at a time: memory does not grow with the documents.
            for rows in connection.execute(_ORDINALS, {"source": self._source_id}).partitions(_MANY):
                found.update(ordinal for (ordinal,) in rows)
            return found

    def with_acls(self, acls: Collection[AclId]) -> BitMap:
        """Return those that have one of these ACLs."""
        found = BitMap()
        with self._reading() as connection:
            for batch in _batches(acls):
                values = {"source": self._source_id, "values": batch}
                found.update(ordinal for (ordinal,) in tuples(connection, _WITH_ACL, values))
        return found

    def served_by_scope(self) -> dict[ScopeId | None, int]:
        """Count the documents of which passages are stored, by container."""
        with self._reading() as connection:
            rows = connection.execute(
                select(_DOCUMENTS.scope, func.count().label("served"))
                .where(_DOCUMENTS.source == self._source_id, _DOCUMENTS.deleted.is_(False), _SERVED)
                .group_by(_DOCUMENTS.scope)
            )
            return {row.scope: row.served for row in rows.all()}

    def clauses_naming(self, realm: Realm) -> dict[bytes, Clause]:
        """Return the stored clauses that name a realm, by digest. One that is damaged lets nobody through."""
        clauses = schema.clauses.c
        with self._reading() as connection:
            # Principals stand in a clause's bytes as they are: what does not hold the name need not be read.
            wanted = select(clauses.digest, clauses.body).where(
                func.instr(clauses.body, bindparam("realm", realm.encode(), LargeBinary)) > 0
            )
            read = {row.digest: read_clause(row.digest, row.body) for row in connection.execute(wanted)}
        return {digest: found for digest, found in read.items() if isinstance(found, Clause) and realm in found.realms}

    def formerly(self, digests: Collection[bytes]) -> BitMap:
        """Return the documents that nobody reads now and whose rules that counted last are among these."""
        found = BitMap()
        former = schema.former.c
        with self._reading() as connection:
            for batch in _batches(digests):
                wanted = select(former.ref).where(unindexed(former.source) == self._source_id, former.clause.in_(batch))
                # Containers are remembered beside them, by ids with a slash.
                found.update(int(ref) for ref in connection.scalars(wanted) if ref.isdecimal())
        return found

    def clause(self, digest: bytes) -> Clause | Unknown:
        """Return a stored clause; one that is gone or damaged is unknown."""
        with self._reading() as connection:
            body = connection.scalar(select(schema.clauses.c.body).where(schema.clauses.c.digest == digest))
        return Unknown("not stored") if body is None else read_clause(digest, body)

    def _known(
        self, connection: Connection, wanted: Select[Any], values: Collection[bytes] | Collection[int]
    ) -> Iterator[tuple[bytes, Known]]:
        for batch in _batches(values):
            rows = tuples(connection, wanted, {"source": self._source_id, "values": batch})
            nobodys = [str(ordinal) for _, ordinal, _, acl_id, *_ in rows if not acl_id]
            former = formers(connection, nobodys) if nobodys else {}
            for native, ordinal, document_id, acl_id, scope, version, facts, served in rows:
                was = former.get(str(ordinal)) if not acl_id else None
                yield native, Known(ordinal, document_id, acl_id, scope, version, facts, bool(served), was)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with storage_errors(self._path), self._readers.begin() as connection:
            yield connection


def formers(connection: Connection, refs: Collection[str]) -> dict[str, Former]:
    """Return what is remembered of containers or documents that nobody reads."""
    rows = [row for batch in _batches(refs) for row in connection.execute(_FORMER, {"values": batch})]
    return {row.ref: Former(None if row.around is None else ScopeId(row.around), row.clause) for row in rows}


def occupied(connection: Connection, source_id: int) -> frozenset[ScopeId]:
    """Return the containers in which documents lie."""
    rows = connection.scalars(select(_DOCUMENTS.scope).where(_DOCUMENTS.source == source_id).distinct())
    return frozenset(ScopeId(scope) for scope in rows if scope is not None)


def known_rules(connection: Connection, source_id: int) -> tuple[dict[ScopeId, KnownScope], Acls]:
    """Read containers and interned ACLs, what is held taken apart from what the source said."""
    scopes, acls = schema.scopes.c, schema.acls.c
    rows = connection.execute(
        select(scopes.id, scopes.parent, scopes.clause, scopes.facts).where(scopes.source == source_id)
    ).all()
    links = {row.id: (row.parent, row.clause) for row in rows}
    former = formers(connection, [row.id for row in rows if row.clause is None])
    known: dict[ScopeId, KnownScope] = {}
    for row in rows:
        if not is_held(row.id):
            parent, held = unwind(row.parent, links)
            known[row.id] = KnownScope(row.facts, parent, row.clause, held, former.get(row.id))
    interned: Acls = {}
    for acl_id, scope, own in connection.execute(
        select(acls.acl_id, acls.scope, acls.own).where(acls.source == source_id)
    ):
        around, held = unwind(scope, links)
        interned[Interned(around, own, held)] = acl_id
    return known, interned


def _batches(values: Collection[Any]) -> Iterator[list[Any]]:
    listed = list(values)
    for start in range(0, len(listed), _BATCH):
        yield listed[start : start + _BATCH]
