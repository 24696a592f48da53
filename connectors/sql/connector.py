"""A database as a source: rows are documents, and columns or other tables say who may read them.

docs/connectors/sql.md says what is guaranteed and what is not. A page of rows, and each row that is read, is seen in
one state of the database together with everything that says who may read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from acl.model import MAX_DEPTH, Clause, ScopeId, Unknown
from acl.principal import Principal
from connectors.base import (
    Change,
    Checkpoint,
    Cursor,
    Finding,
    Level,
    Membership,
    MembershipsEnd,
    ScanComplete,
    ScopeChange,
    Skip,
    Upsert,
)
from connectors.errors import ConnectorError, SkippableError
from connectors.sql import rows
from connectors.sql.declared import Declared
from connectors.sql.rows import ValueOfRowError
from connectors.sql.tables import PAGE, Access, Found, Moment, Tables

AUDIENCE: Final = ScopeId("database")


@dataclass(frozen=True, slots=True)
class Container:
    """A container as it was sent."""

    parent: ScopeId
    clause: Clause | Unknown
    location: str


class Sql:
    """Reads the declared tables of one database.

    `read` answers for what the last `changes` of the same object sent; one thread may walk while another reads.
    """

    def __init__(self, access: Access, declared: Declared, audience: Clause) -> None:
        """Connect to nothing yet. audience: who may read anything of the source at all."""
        self._declared: Final = declared
        self._audience: Final = audience
        self._tables: Final = Tables(access, declared)
        table = declared.documents
        # Other readers may be declared with another text: the former one must not pass for it.
        self._place: Final = rows.place(access.where, table.table, table.key, table.text, table.media_type)
        self._sent: dict[ScopeId, Container] = {}
        # Containers that were sent a second time, differently: no read can rely on them.
        self._twice: set[ScopeId] = set()

    def check(self) -> list[Finding]:
        """Say whether everything declared is there."""
        try:
            self._tables.verify()
        except ConnectorError as err:
            return [Finding(Level.ERROR, err.detail)]
        return [Finding(Level.INFO, f"`{self._declared.documents.table}` and all that is declared can be read")]

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        """Send groups, containers and rows; then look at the containers again.

        The cursor of a checkpoint holds the last key; that of a complete walk holds nothing.
        """
        self._tables.verify()
        yield from self._memberships()
        self._twice = set()
        self._sent = self._containers()
        yield ScopeChange(AUDIENCE, None, self._audience, self._declared.documents.table)
        for scope, found in self._sent.items():
            yield ScopeChange(scope, found.parent, found.clause, found.location)
        after = None if cursor is None else _after(cursor)
        while True:
            with self._tables.moment() as moment:
                page = moment.documents(after)
            for row in page:
                yield self._document(row)
            if len(page) < PAGE:
                break
            after = page[-1].key
            with suppress(ValueOfRowError):  # A key that is no id: the next page has another.
                yield Checkpoint({"after": rows.native_id(after)})
        yield from self._look_again()
        yield ScanComplete({"version": 1})

    def resumes(self, cursor: Cursor) -> bool:
        """Whether the cursor holds a key: rows come in the order of their keys, so that those behind it are to come."""
        return _after(cursor) is not None

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        """Return the text of `document.version`, if the row and all containers around it are what was sent."""
        with self._tables.moment() as moment:
            found = moment.document(rows.key_of(document.native_id))
            if found is None or rows.native_id(found.key) != document.native_id:
                raise SkippableError("vanished", f"`{document.location}` is not in the table any more")
            try:
                self._compare(moment, found, document)
                if found.size_bytes > limit_bytes:
                    raise SkippableError("too large", f"`{document.location}` has {found.size_bytes} bytes")
                return rows.content(moment.text(found.key))
            except ValueOfRowError as err:
                raise SkippableError("unreadable", f"`{document.location}`: {err}") from err

    def close(self) -> None:
        """Close all connections."""
        self._tables.close()

    def _memberships(self) -> Iterator[Change]:
        """All groups, in one state of the database. A row that names none, or one for the second time, hides all."""
        declared = self._declared.groups
        if declared is None:
            yield MembershipsEnd()
            return
        nameless = ""
        with self._tables.moment() as moment:
            found = list(moment.groups())
        met: set[Principal] = set()
        for row in found:
            try:
                group = rows.group(declared, row.key)
            except ValueOfRowError as err:
                nameless = f"a row of `{declared.table}` is no group: {err}"
                continue
            if group in met:
                nameless = f"two rows of `{declared.table}` are the group `{group.id}`"
                continue
            met.add(group)
            name = rows.label(row.row[declared.title]) or group.id
            yield Membership(group, rows.members(declared.rules, row.row, row.joined), name)
        yield MembershipsEnd(nameless)

    def _document(self, found: Found) -> Change:
        table, row = self._declared.documents, found.row
        try:
            native_id = rows.native_id(found.key)
        except ValueOfRowError as err:
            return Skip(None, table.table, "no identity", str(err))
        title = rows.label(row[table.title]) or native_id
        location = (rows.label(row[table.location]) if table.location else None) or f"{table.table}/{native_id}"
        scope, own = self._rules(found)
        if scope not in self._sent and scope != AUDIENCE:
            scope, own = AUDIENCE, Unknown("its container is not in the table of containers")
        try:
            return Upsert(
                native_id=native_id,
                scope=scope,
                own=own,
                version=rows.version(row[table.version], self._place),
                name=title,
                location=location,
                media_type=table.media_type,
                size_bytes=found.size_bytes,
                modified_at=rows.moment(row[table.modified_at]),
            )
        except ValueOfRowError as err:
            return Skip(native_id, location, "broken row", str(err))

    def _rules(self, found: Found) -> tuple[ScopeId, Clause | Unknown]:
        """A document's container and its own clause; in the audience alone when the container is unknown."""
        table = self._declared.documents
        own = rows.clause(table.rules, found.row, found.joined)
        if table.scope is None:
            return AUDIENCE, own
        try:
            return _scope_id(found.row[table.scope]), own
        except ValueOfRowError as err:
            return AUDIENCE, Unknown(f"its container is not known: {err}")

    def _containers(self) -> dict[ScopeId, Container]:
        """Read all containers, parents first. One whose way up is broken or a circle is unknown."""
        found: dict[ScopeId, Container] = {}
        with self._tables.moment() as moment:
            for row in moment.scopes():
                try:
                    scope = _scope_id(row.key)
                except ValueOfRowError:
                    continue  # No document can name it.
                found[scope] = self._container(row)
        ordered: dict[ScopeId, Container] = {}
        for scope in found:
            self._order(scope, found, ordered)
        return ordered

    def _order(self, scope: ScopeId, found: Mapping[ScopeId, Container], ordered: dict[ScopeId, Container]) -> None:
        way: list[ScopeId] = []
        here = scope
        while here not in ordered and here in found and here not in way and len(way) < MAX_DEPTH:
            way.append(here)
            here = found[here].parent
        broken = here not in ordered and here != AUDIENCE
        for one in reversed(way):
            if broken:
                why = Unknown("the containers around it are missing, too many, or lead in a circle")
                ordered[one] = Container(AUDIENCE, why, found[one].location)
            else:
                ordered[one] = found[one]

    def _container(self, found: Found) -> Container:
        table = self._declared.scopes
        assert table is not None
        location = rows.label(found.row[table.title]) or f"{table.table}/{found.key}"
        clause = rows.clause(table.rules, found.row, found.joined)
        parent = found.row[table.parent] if table.parent is not None else None
        try:
            return Container(AUDIENCE if parent is None else _scope_id(parent), clause, location)
        except ValueOfRowError as err:
            return Container(AUDIENCE, Unknown(f"the container around it is not known: {err}"), location)

    def _look_again(self) -> Iterator[Change]:
        if self._declared.scopes is None:
            return
        now = self._containers()
        for scope, found in now.items():
            if self._sent.get(scope) != found:
                self._twice.add(scope)
                yield ScopeChange(scope, found.parent, found.clause, found.location)
        for scope, found in self._sent.items():
            if scope not in now:
                self._twice.add(scope)
                why = Unknown("it vanished while its source was read")
                yield ScopeChange(scope, AUDIENCE, why, found.location, complete=False)

    def _compare(self, moment: Moment, found: Found, document: Upsert) -> None:
        """Raise SkippableError unless row and containers are what was sent."""
        here, own = self._rules(found)
        version = rows.version(found.row[self._declared.documents.version], self._place)
        if (here, own, version) != (document.scope, document.own, document.version):
            raise SkippableError("changed", f"`{document.location}` or its rules changed")
        while here != AUDIENCE:
            row, sent = moment.scope(rows.key_of(here)), self._sent.get(here)
            now = self._container(row) if row is not None else None
            # Asked last: what was sent meanwhile may not be in force yet.
            if now is None or sent is None or now != sent or here in self._twice:
                raise SkippableError("changed", f"`{document.location}`: the rules around it changed")
            here = now.parent


def _scope_id(key: object) -> ScopeId:
    return ScopeId(rows.native_id(key))


def _after(cursor: Cursor) -> object | None:
    found = cursor.get("after")
    return rows.key_of(found) if isinstance(found, str) else None
