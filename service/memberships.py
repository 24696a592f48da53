"""The pass over a source's own groups, within a run: what the source says of them goes into the catalog.

1. A source says who is in groups of its own realm alone. One that names another's group is refused: it would let people
   into what that group may read.
2. A group is replaced as a whole, in small batches while the walk goes on, whether it lost members or got some.
3. Only a pass that sent every group removes those that it did not send, and only then the groups count as verified, as
   of the beginning of the run. One that says that it could not read some makes all of them count as unknown.
"""

from __future__ import annotations

import time
from typing import Final

from acl.model import MAX_PRINCIPALS, Unknown
from connectors.base import Membership, MembershipsEnd, own_realm
from connectors.errors import FatalError
from service.names import Names
from service.runs import Progress
from service.stores.catalog import Catalog, Opening
from service.stores.memberships import Group, GroupWrite, body_of
from service.stores.records import Counts, Problem

_MOST_GROUPS: Final = 200
_LONGEST_WAIT_S: Final = 0.2


class MembershipPass:
    """One pass. Not thread-safe: the walk calls it under its lock."""

    def __init__(self, catalog: Catalog, names: Names, opening: Opening, progress: Progress) -> None:
        self._catalog = catalog
        self._names = names
        self._source = opening.run.source
        self._fence = opening.fence
        self._began = opening.run.started_at
        self._realm: Final = own_realm(opening.run.source)
        self._known = dict(opening.groups)
        self._progress = progress
        self._sent: set[str] = set()
        self._waiting: dict[str, GroupWrite] = {}
        self._since = 0.0
        self._ended = False

    def apply(self, change: Membership | MembershipsEnd) -> None:
        """Take one change. Raises FatalError for a group that is not the source's, or one after the end."""
        match change:
            case Membership():
                if self._ended:
                    raise FatalError("the connector sent a group after the last one: report this to who wrote it")
                self._group(change)
            case MembershipsEnd():
                if not self._ended:
                    self._end(change.unread)

    def flush(self) -> None:
        """Commit the groups that wait."""
        if self._waiting:
            with self._catalog.writer(self._source, self._fence) as writer:
                writer.groups.put(self._waiting.values())
            self._known.update((group.id, group.facts) for group in self._waiting.values())
            self._waiting.clear()

    def _group(self, change: Membership) -> None:
        if change.group.realm != self._realm:
            raise FatalError(
                f"the source says who is in `{change.group.token}`, and may only speak of groups of its own, "
                f"`{self._realm}:…`"
            )
        members = change.members
        if not isinstance(members, Unknown) and len(members) > MAX_PRINCIPALS:
            members = Unknown(f"it has more than {MAX_PRINCIPALS} members")
        if isinstance(members, Unknown):
            self._progress.add(Counts(), [Problem(change.name, "unknown members", members.reason)])
        group = self._names.group(change.group.token)
        body = body_of(Group(change.group, members, change.name))
        facts = self._names.group_facts(body)
        self._sent.add(group)
        # A later word on the same group takes the place of an earlier one.
        self._waiting.pop(group, None)
        if self._known.get(group) != facts:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting[group] = GroupWrite(group, facts, body)
        if len(self._waiting) >= _MOST_GROUPS or (self._waiting and time.monotonic() - self._since >= _LONGEST_WAIT_S):
            self.flush()

    def _end(self, unread: str) -> None:
        self.flush()
        self._ended = True
        if unread:
            self._progress.add(Counts(), [Problem("", "unknown groups", unread)])
            with self._catalog.writer(self._source, self._fence) as writer:
                writer.groups.unread(unread)
            return
        gone = [group for group in self._known if group not in self._sent]
        with self._catalog.writer(self._source, self._fence) as writer:
            writer.groups.drop(gone)
            writer.groups.verified(self._began)
