"""The containers of a source during one walk: what is stored of them, what was met, what is held around them.

Nothing here writes: `service.walk` commits what `apply` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from acl.model import Clause, ScopeId
from connectors.base import ScopeChange
from service import holds
from service.names import Names
from service.stores.holds import WITHHELD
from service.stores.writes import Known, KnownScope, ScopeWrite


class Containers:
    """What one walk knows of containers. Not thread-safe."""

    def __init__(self, names: Names, stored: dict[ScopeId, KnownScope], documents: Iterable[Known]) -> None:
        self._names = names
        self._known = stored
        # Met in this walk: True when listed in full.
        self._met: dict[ScopeId, bool] = {}
        # The source said one thing of them first and another later.
        self._restless: set[ScopeId] = set()
        # Not stored though something lies in them, so that they would open an old text.
        inside = {known.scope for known in documents}.union([known.parent for known in stored.values()])
        self._missing = inside.difference(stored)

    def apply(self, change: ScopeChange) -> tuple[ScopeWrite | None, bool]:
        """Take what the source says of a container: what to write, if anything, and whether it is met first."""
        scope = self._names.scope(change.id)
        parent = None if change.parent is None else self._names.scope(change.parent)
        first = scope not in self._met
        self._met[scope] = change.complete and self._met.get(scope, True)
        facts = self._names.scope_facts(parent, change.clause, change.location)
        known = self._known.get(scope)
        if known is not None and known.facts == facts:
            return None, first
        clause = self._names.digest(change.clause) if isinstance(change.clause, Clause) else None
        if known is None:
            held = WITHHELD if scope in self._missing else ()
        else:
            held = holds.around_container(known, parent, clause)
            if not first and (known.parent, known.clause) != (parent, clause):
                self._restless.add(scope)
        self._known[scope] = KnownScope(facts, parent, clause, held)
        return ScopeWrite(scope, parent, change.clause, change.location, facts, held), first

    def around(self, scope: ScopeId | None) -> Iterator[ScopeId]:
        """A container and those around it as far as they are known, innermost first."""
        passed: set[ScopeId] = set()
        while scope is not None and scope not in passed:
            yield scope
            passed.add(scope)
            known = self._known.get(scope)
            scope = None if known is None else known.parent

    def is_verified(self, scope: ScopeId | None) -> bool:
        """Whether all that is stored around a document in `scope` is of this walk. What is not stored opens nothing."""
        return all(here in self._met or here not in self._known for here in self.around(scope))

    def is_gone(self, scope: ScopeId | None) -> bool:
        """Whether something that was not met in `scope` is gone: not when the nearest container met was incomplete."""
        return next((self._met[here] for here in self.around(scope) if here in self._met), True)

    def forget_lost(self) -> list[ScopeId]:
        """Return those that a complete walk did not meet and that are gone, and know nothing of them any more."""
        lost = [scope for scope in self._known if scope not in self._met and self.is_gone(scope)]
        for scope in lost:
            del self._known[scope]
        return lost

    def to_release(self) -> Mapping[ScopeId, ScopeId | None]:
        """Return those around which something is held that this walk, if complete, has verified; with their parents."""
        return {
            scope: known.parent
            for scope, known in self._known.items()
            if known.held and scope in self._met and scope not in self._restless
        }
