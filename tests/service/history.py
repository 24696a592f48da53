"""A source in memory with everything that it ever was, and the law that what is served was once true there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import text

from service.stores.records import RunState, StoredRun
from tests.service.sync_support import World, truth

Moment = dict[int, dict[str, list[str]]]
"""What each user may read at the source: name to passages."""


@dataclass
class History:
    """Holds every commit of every run against all moments of the source until then.

    served: what each user could read in the catalog, at every commit. leaks: what nobody may ever find.
    """

    world: World
    users: tuple[int, ...] = (1, 2)
    moments: list[Moment] = field(default_factory=list)
    served: list[Moment] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.world.engine._on_commit = self.check
        self.change(lambda: None)

    def change(self, what: Callable[[], object]) -> None:
        """Change the source in one moment."""
        with self._lock:
            what()
            self.moments.append({user: truth(self.world.source, user) for user in self.users})

    def check(self) -> None:
        """Find what a user can read now and could never read at the source."""
        served = dict(zip(self.users, self.world.readable_by(*self.users), strict=True))
        # After reading: what is stored by now was true at a moment that is noted by now.
        with self._lock:
            self.served.append(served)
            for user, documents in served.items():
                for name, passages in documents.items():
                    if not any(moment[user].get(name) == passages for moment in self.moments):
                        self.leaks.append(f"user {user} reads {passages} in {name}")

    def sync(self, *, state: RunState = RunState.SUCCEEDED) -> StoredRun:
        """Run one sync, with its commits in `served`; it ends so, and nothing leaked at any of them."""
        self.served.clear()
        run = self.world.sync()
        assert run.state is state, run
        self.check()
        assert self.leaks == []
        return run

    def always(self, user: int, name: str) -> bool:
        """Whether a user could read the document, one text of it or another, at every commit of the last run."""
        return all(name in moment[user] for moment in self.served)


def held(world: World) -> int:
    """Return how many held scopes are stored."""
    with world.catalog._readers.begin() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM scopes WHERE id LIKE '%#%'")) or 0)
