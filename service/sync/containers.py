"""The containers of a source during one run: what is stored of them, what was met, what is held around them.

Nothing here writes: `service.sync.walk` commits what `apply` returns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from acl.model import Clause, ScopeId
from connectors.base import ScopeChange
from service.stores.checkpoints import StoredCheckpoint
from service.stores.holds import WITHHELD
from service.stores.writes import Former, KnownScope, ScopeWrite
from service.sync import holds
from service.sync.names import Names


class Containers:
    """What one run knows of containers. Not thread-safe.

    occupied: those in which documents lie. resumed: where the run goes on, None when it begins.
    """

    def __init__(
        self,
        names: Names,
        stored: dict[ScopeId, KnownScope],
        occupied: Collection[ScopeId],
        resumed: StoredCheckpoint | None = None,
    ) -> None:
        self._names = names
        self._known = stored
        # Met in this part of the run: True when listed in full.
        self._met: dict[ScopeId, bool] = {}
        # Met in an earlier part. They have to be met again, or they are gone.
        self._before: Mapping[ScopeId, bool] = resumed.containers if resumed is not None else {}
        # The source said one thing of them first and another later.
        self._restless: set[ScopeId] = set(resumed.restless) if resumed is not None else set()
        # Not stored though something lies in them, so that they would open an old text.
        inside = {*occupied, *(known.parent for known in stored.values() if known.parent is not None)}
        self._missing = inside.difference(stored)

    def apply(self, change: ScopeChange) -> tuple[ScopeWrite | None, bool]:
        """Take what the source says of a container: what to write, if anything, and whether it is met first."""
        scope = self._names.scope(change.id)
        parent = None if change.parent is None else self._names.scope(change.parent)
        first = scope not in self._met
        self._met[scope] = change.complete and self._met.get(scope, self._before.get(scope, True))
        facts = self._names.scope_facts(parent, change.clause, change.location)
        known = self._known.get(scope)
        if known is not None and known.facts == facts:
            return None, first
        clause = self._names.digest(change.clause) if isinstance(change.clause, Clause) else None
        former: Former | None = None
        if known is None:
            held = WITHHELD if scope in self._missing else ()
        else:
            held = holds.around_container(known, parent, clause)
            if clause is None:
                former = known.former if known.clause is None else holds.former(known.parent, known.held, known.clause)
            if (not first or scope in self._before) and (known.parent, known.clause) != (parent, clause):
                self._restless.add(scope)
        self._known[scope] = KnownScope(facts, parent, clause, held, former)
        return ScopeWrite(scope, parent, change.clause, change.location, facts, held, former), first

    def around(self, scope: ScopeId | None) -> Iterator[ScopeId]:
        """A container and those around it as far as they are known, innermost first."""
        passed: set[ScopeId] = set()
        while scope is not None and scope not in passed:
            yield scope
            passed.add(scope)
            known = self._known.get(scope)
            scope = None if known is None else known.parent

    def ruled_by(self, digests: Collection[bytes]) -> set[ScopeId]:
        """Return those through which one of these clauses is a way, be it now, held or the last one that counted."""
        wanted = frozenset(digests)
        return {
            scope
            for scope, known in self._known.items()
            if known.clause in wanted
            or not wanted.isdisjoint(known.held)
            or (known.former is not None and known.former.clause in wanted)
        }

    def is_verified(self, scope: ScopeId | None) -> bool:
        """Whether all that is stored around a document in `scope` is of this walk. What is not stored opens nothing."""
        return all(here in self._met or here not in self._known for here in self.around(scope))

    def is_gone(self, scope: ScopeId | None) -> bool:
        """Whether something that was not met in `scope` is gone: not when the nearest container met was incomplete."""
        return next((self._met[here] for here in self.around(scope) if here in self._met), True)

    def lost(self) -> dict[ScopeId, Former | None]:
        """Return those that a complete walk did not meet and that are gone, with the rules that counted last."""
        found: dict[ScopeId, Former | None] = {}
        for scope, known in self._known.items():
            if scope not in self._met and self.is_gone(scope):
                found[scope] = (
                    known.former if known.clause is None else holds.former(known.parent, known.held, known.clause)
                )
        return found

    def forget(self, scopes: Collection[ScopeId]) -> None:
        """Know nothing of these any more."""
        for scope in scopes:
            del self._known[scope]

    def held(self) -> dict[ScopeId, KnownScope]:
        """Return those around which something is held."""
        return {scope: known for scope, known in self._known.items() if known.held}

    def to_release(self) -> dict[ScopeId, KnownScope]:
        """Return those around which something is held that this walk, if complete, has verified."""
        return {
            scope: known for scope, known in self.held().items() if scope in self._met and scope not in self._restless
        }

    def met(self) -> dict[ScopeId, bool]:
        """Return those that the run met, in whichever part of it, for a checkpoint: True when listed in full."""
        return {**self._before, **self._met}

    def restless(self) -> frozenset[ScopeId]:
        """Return those of which the source said two things."""
        return frozenset(self._restless)
