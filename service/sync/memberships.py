"""The pass over a source's own groups, within a run: what the source says of them goes into the catalog.

1. A source says who is in groups of its own realm alone. One that names another's group is refused: it would let people
   into what that group may read.
2. A group is replaced as a whole, in small batches while the walk goes on. Who left it has left it then; who was not in
   it before waits for the end of the pass, and so does the end of what is denied to who left (docs/adr/0027).
3. Only a pass that sent every group removes those that it did not send, and only then the groups count as verified, as
   of the beginning of the run. One that says that it could not read some makes all of them count as unknown.
4. What waits is released then too, but for what the circuit breaker keeps (`joins`): with more than a share of the
   source's documents a person is asked.
5. Before the first such pass no group opens anything to anybody, so that it widens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from acl.model import MAX_PRINCIPALS, Unknown
from connectors.base import Membership, MembershipsEnd, own_realm
from connectors.errors import FatalError
from service.stores.catalog import Catalog, Opening
from service.stores.memberships import Group, GroupWrite, body_of, facts_of, same_word, waits
from service.stores.records import Counts, Problem
from service.stores.stops import Stop, StopKind
from service.stores.writer import Writer
from service.sync.breaker import Breaker
from service.sync.joins import Joins
from service.sync.names import Names
from service.sync.questions import Questions
from service.sync.runs import Progress

_MOST_GROUPS: Final = 200
_LONGEST_WAIT_S: Final = 0.2


class MembershipPass:
    """One pass. Not thread-safe: the walk calls it under its lock."""

    def __init__(
        self,
        catalog: Catalog,
        names: Names,
        opening: Opening,
        progress: Progress,
        breaker: Callable[[Sequence[Stop]], Breaker],
        joins: Joins,
        questions: Questions,
    ) -> None:
        self._catalog = catalog
        self._names = names
        self._source = opening.run.source
        self._fence = opening.fence
        self._began = opening.run.started_at
        self._realm: Final = own_realm(opening.run.source)
        self._known = dict(opening.groups)
        self._progress = progress
        self._sent: set[str] = set()
        self._breaker = breaker
        self._joins = joins
        self._questions = questions
        self._waiting: dict[str, Group] = {}
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
                if writer.groups.ever_verified():
                    stored = writer.groups.stored(self._waiting)
                    self._waiting = {ref: _beside(group, stored.get(ref)) for ref, group in self._waiting.items()}
                self._put(writer, self._waiting)
            self._waiting = {}

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
        word = Group(change.group, members, change.name)
        self._sent.add(group)
        # A later word on the same group takes the place of an earlier one.
        self._waiting.pop(group, None)
        if not same_word(self._known.get(group), facts_of(word, self._names.group_facts)):
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting[group] = word
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
        with self._catalog.writer(self._source, self._fence) as writer:
            held = self._release(writer)
            writer.groups.verified(self._began)
        self._questions.tell(held)

    def _release(self, writer: Writer) -> Stop | None:
        """End what waits, and remove what is gone, as far as the breaker lets it. Return what a person is asked."""
        gone = [group for group in self._known if group not in self._sent]
        if not writer.groups.ever_verified():
            writer.groups.drop(gone)
            return None
        any_news = bool(gone) or any(waits(facts) for facts in self._known.values())
        stops = writer.stops.all()
        found = self._joins.judge(self._breaker(stops), writer.groups.stored() if any_news else {}, gone, stops)
        self._put(writer, found.groups)
        writer.groups.drop(found.gone)
        writer.stops.spend(found.verdict.applied, found.unreleased)
        return self._questions.write(writer, StopKind.MEMBERS, found.verdict, found.held, found.more)

    def _put(self, writer: Writer, groups: Mapping[str, Group]) -> None:
        writes = [
            GroupWrite(ref, facts_of(group, self._names.group_facts), body_of(group)) for ref, group in groups.items()
        ]
        writer.groups.put(writes)
        self._known.update((write.id, write.facts) for write in writes)


def _beside(word: Group, stored: Group | None) -> Group:
    """What the source says of a group now, beside those who counted last."""
    before = frozenset() if stored is None else stored.counted_last
    return word if before == word.members else replace(word, before=before)
