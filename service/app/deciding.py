"""What decides: who somebody is, what they hold, and what they may read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from service.access.index import Access
from service.api.gate import Gate
from service.app.ground import Ground
from service.canaries import Patterns, Stops
from service.identity.callers import Callers
from service.identity.lookups import Keeping
from service.identity.resolver import Identity
from service.identity.roles import Roles
from service.identity.source_groups import SourceGroups
from service.settings import Settings
from service.sync import leases


@dataclass(frozen=True, slots=True)
class Deciding:
    """What `open_deciding` opened."""

    identity: Identity
    access: Access
    callers: Callers
    stops: Stops
    gate: Gate
    _roles: Roles
    _groups: SourceGroups

    def use(self, new: Settings) -> None:
        """Decide by other settings from now on."""
        # First: a source that is new is not read before its canaries are looked for.
        self.gate.use(_canaries(new))
        self.access.limit(leases.of_all(new))
        self._groups.limit(_memberships_ages(new))
        # Last: the epoch of the roles drops every caller that was kept under the former limits.
        self._roles.use(new.roles)

    def warm(self) -> None:
        """Read all rules and all groups once, so that the first question does not wait for it."""
        with self.access.snapshot():
            pass
        self._groups.join({}, frozenset())


def open_deciding(ground: Ground, closing: ExitStack) -> Deciding:
    """Open it, and begin to follow what changes in the directories."""
    settings = ground.settings
    roles = Roles(settings.roles)
    groups = SourceGroups(ground.catalog, _memberships_ages(settings))
    keeping = {one.name: Keeping(one.keep_for, one.max_age, one.poll_every) for one in settings.directories}
    identity = Identity(ground.directories, roles, links=settings.links, keeping=keeping, groups=groups)
    closing.callback(identity.close)
    identity.start()
    stops = Stops(ground.audit)
    access = Access(ground.catalog, leases.of_all(settings), stopped=stops.sources)
    closing.callback(access.close)
    gate = Gate(_canaries(settings), stops, ground.audit)
    return Deciding(identity, access, Callers(identity, access.latest), stops, gate, roles, groups)


def _memberships_ages(settings: Settings) -> dict[str, timedelta]:
    return {one.name: one.max_memberships_age for one in settings.sources}


def _canaries(settings: Settings) -> Patterns:
    return Patterns({one.name: one.canaries for one in settings.sources if one.canaries})
