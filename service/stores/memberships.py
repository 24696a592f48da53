"""The groups that sources have themselves: how they stand in the catalog, who writes them, and what changed of them.

A group is one row, with all its members or with why they are not known: it is replaced as a whole. Beside them stand
those who counted last, as long as not every difference between the two is in force (docs/adr/0027).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, delete, literal, select
from sqlalchemy.dialects.sqlite import insert as upsert

from acl.model import Unknown
from acl.principal import Principal, Realm
from service.keys.envelope import UnsealError
from service.stores import schema
from service.stores.journal import Journal
from service.stores.rules import batches
from service.stores.sealing import Sealing

MEMBERSHIP: Final = "membership"
"""What the change log calls a group."""

_FIELD: Final = "membership"
_WAITING: Final = b"waiting "


@dataclass(frozen=True, slots=True)
class Group:
    """A group of a source, as it was sent. name: for people.

    before: who counted last, besides whom `members` counts until every difference is released. None: nothing waits.
    """

    principal: Principal
    members: frozenset[Principal] | Unknown
    name: str
    before: frozenset[Principal] | None = None

    @property
    def certain(self) -> frozenset[Principal]:
        """Who is in it by the old word and by the new one."""
        if isinstance(self.members, Unknown):
            return frozenset()
        return self.members if self.before is None else self.members & self.before

    @property
    def doubtful(self) -> frozenset[Principal]:
        """Who is in it by one of the two words alone."""
        if isinstance(self.members, Unknown) or self.before is None:
            return frozenset()
        return self.members ^ self.before

    @property
    def counted_last(self) -> frozenset[Principal]:
        """Who was in it before anything waited; nobody, where that was never known."""
        if self.before is not None:
            return self.before
        return frozenset() if isinstance(self.members, Unknown) else self.members


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What became of a group. id: the catalog's. group: None when it is gone, Unknown when its row does not open."""

    id: str
    source: str
    group: Group | Unknown | None


@dataclass(frozen=True, slots=True)
class Pass:
    """When the latest pass began that read every group, None: none did. unread: why the latest one did not."""

    verified_at: datetime | None
    unread: str = ""


@dataclass(frozen=True, slots=True)
class GroupWrite:
    """A group to store. facts: of what was sent, see `facts_of`. body: what `body_of` returns."""

    id: str
    facts: bytes
    body: str


def facts_of(group: Group, name: Callable[[str], bytes]) -> bytes:
    """Return what tells a group from itself when the source says something else of it. name: makes a keyed hash."""
    named = name(body_of(replace(group, before=None)))
    return named if group.before is None else _WAITING + named


def waits(facts: bytes) -> bool:
    """Whether members of a group wait for something."""
    return facts.startswith(_WAITING)


def same_word(facts: bytes | None, sent: bytes) -> bool:
    """Whether what is stored is what was sent, be it in force or not."""
    return facts is not None and facts.removeprefix(_WAITING) == sent


class Revision:
    """Counts the transactions that change groups, so that what was made of them is not used a moment too long.

    A transaction counts when it begins to change a group and again when it has ended. In between nobody can tell
    without the catalog which groups there are.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._begun = 0
        self._ended = 0

    def settled(self) -> int | None:
        """Return the number of the last change; None while one is under way."""
        # INVARIANT: read in this order. The other way round a whole change could hide between the two.
        ended = self._ended
        return ended if ended == self._begun else None

    @contextmanager
    def changing(self) -> Iterator[Callable[[], None]]:
        """Give out what says that this transaction changes a group; at the end of the block it has ended."""
        begun = False

        def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                with self._lock:
                    self._begun += 1

        try:
            yield begin
        finally:
            if begun:
                with self._lock:
                    self._ended += 1


class Groups:
    """The groups of one source, in one write transaction."""

    def __init__(
        self,
        connection: Connection,
        source: str,
        source_id: int,
        sealing: Sealing,
        journal: Journal,
        changing: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._source = source
        self._source_id = source_id
        self._sealing = sealing
        self._journal = journal
        self._changing = changing

    def ever_verified(self) -> bool:
        """Whether any pass has read every group: before, none of them opens anything to anybody."""
        table = schema.membership_passes.c
        found = self._connection.scalar(select(table.verified_at).where(table.source == self._source_id))
        return found is not None

    def stored(self, ids: Collection[str] | None = None) -> dict[str, Group]:
        """Return some groups, or all, by id; those that do not open are left out."""
        table = schema.memberships.c
        wanted = select(table.id.label("ref"), table.body, literal(self._source).label("name")).where(
            table.source == self._source_id
        )
        parts = [wanted] if ids is None else [wanted.where(table.id.in_(batch)) for batch in batches(ids)]
        made: dict[str, _Principals] = {}
        rows = [row for part in parts for row in self._connection.execute(part)]
        opened = {row.ref: _opened(self._sealing, row, made) for row in rows}
        return {ref: group for ref, group in opened.items() if isinstance(group, Group)}

    def put(self, groups: Collection[GroupWrite]) -> None:
        """Store groups, each as a whole."""
        if groups:
            self._changing()
            statement = upsert(schema.memberships)
            fresh = {name: statement.excluded[name] for name in ("facts", "body")}
            rows = [
                {
                    "id": group.id,
                    "source": self._source_id,
                    "facts": group.facts,
                    "body": self._sealing.seal_of_source(self._source, _FIELD, group.id, group.body),
                }
                for group in groups
            ]
            self._connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=fresh), rows)
            self._journal.log(MEMBERSHIP, [group.id for group in groups])

    def drop(self, ids: Collection[str]) -> None:
        """Remove groups: nobody is in them any more."""
        table = schema.memberships.c
        for batch in batches(ids):
            self._changing()
            self._connection.execute(
                delete(schema.memberships).where(table.source == self._source_id, table.id.in_(batch))
            )
        self._journal.log(MEMBERSHIP, ids)

    def verified(self, at: datetime) -> None:
        """Note a pass that read every group: when it began."""
        self._changing()
        self._pass({"verified_at": at, "unread": None})

    def unread(self, reason: str) -> None:
        """Note a pass that could not read every group."""
        self._changing()
        self._pass({"unread": self._sealing.seal_of_source(self._source, "unread groups", "", reason)})

    def _pass(self, values: dict[str, Any]) -> None:
        statement = upsert(schema.membership_passes).values(source=self._source_id, **values)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["source"], set_=values))

    def forget(self) -> None:
        """Remove every group and what is known of passes."""
        table = schema.memberships.c
        self.drop(self._connection.scalars(select(table.id).where(table.source == self._source_id)).all())
        self._changing()
        self._connection.execute(
            delete(schema.membership_passes).where(schema.membership_passes.c.source == self._source_id)
        )


def body_of(group: Group) -> str:
    """Write a group as text; equal groups are equal texts. Members stand by realm, which saves half."""
    members = group.members.reason if isinstance(group.members, Unknown) else _listed(group.members)
    body = {"group": group.principal.token, "members": members, "name": group.name}
    return json.dumps(body if group.before is None else {**body, "before": _listed(group.before)})


def _listed(principals: frozenset[Principal]) -> dict[str, list[str]]:
    by_realm: dict[str, list[str]] = {}
    for member in sorted(principals):
        by_realm.setdefault(member.realm, []).append(member.id)
    return by_realm


def known_groups(connection: Connection, source_id: int) -> dict[str, bytes]:
    """Return the facts of every stored group of a source, by id: what a pass compares with."""
    table = schema.memberships.c
    found = connection.execute(select(table.id, table.facts).where(table.source == source_id))
    return {row.id: row.facts for row in found}


def changes_since(connection: Connection, sealing: Sealing, seq: int) -> list[GroupChange]:
    """Return what became of the groups that changed after `seq`; after 0 all there are."""
    changes, table = schema.changes.c, schema.memberships.c
    rows = connection.execute(
        select(changes.ref, schema.sources.c.name, table.body)
        .join(schema.sources, schema.sources.c.id == changes.source)
        .outerjoin(schema.memberships, table.id == changes.ref)
        .where(changes.seq > seq, changes.kind == MEMBERSHIP)
    ).all()
    # People are in many groups: each is made once, and is one object in all of them.
    made: dict[str, _Principals] = {}
    return [GroupChange(row.ref, row.name, _opened(sealing, row, made)) for row in rows if seq or row.body is not None]


def passes(connection: Connection, sealing: Sealing) -> dict[str, Pass]:
    """Return what is known of the passes over each source's groups, by source."""
    table = schema.membership_passes.c
    rows = connection.execute(
        select(schema.sources.c.name, table.verified_at, table.unread).join(
            schema.sources, schema.sources.c.id == table.source
        )
    )
    return {row.name: Pass(row.verified_at, _reason(sealing, row)) for row in rows}


def _reason(sealing: Sealing, row: Any) -> str:
    if row.unread is None:
        return ""
    try:
        return sealing.open_of_source(row.name, "unread groups", "", row.unread)
    except UnsealError:
        return "why does not open"


def _opened(sealing: Sealing, row: Any, made: dict[str, _Principals]) -> Group | Unknown | None:
    if row.body is None:
        return None
    try:
        body = json.loads(sealing.open_of_source(row.name, _FIELD, row.ref, row.body))
    except UnsealError:
        return Unknown("its row does not open")
    found, before = body["members"], body.get("before")
    members = _principals(found, made) if isinstance(found, Mapping) else Unknown(found)
    return Group(
        Principal.parse(body["group"]), members, body["name"], None if before is None else _principals(before, made)
    )


def _principals(listed: Mapping[str, list[str]], made: dict[str, _Principals]) -> frozenset[Principal]:
    parts = []
    for realm, ids in listed.items():
        known = made.setdefault(realm, _Principals(realm))
        parts.append(frozenset(map(known.__getitem__, ids)))
    return frozenset().union(*parts) if len(parts) != 1 else parts[0]


class _Principals(dict[str, Principal]):
    """The principals of one realm by id, each made when it is first asked for."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = Realm(where)

    def __missing__(self, one: str) -> Principal:
        found = self[one] = Principal(self._where, one)
        return found
