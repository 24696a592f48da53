"""What the administrators' API needs of the sync engine. `service.app` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from connectors.base import Finding
from service.stores.records import Removal, StoredRun, StoredSource, SyncPass


@dataclass(frozen=True, slots=True)
class SourceState:
    """A configured source with what is stored of it.

    next_run_at: None without a schedule, and while a run is under way. waits_for_a_person: the latest run failed by
    what only a person can mend. removal: None unless it was removed.
    """

    stored: StoredSource
    max_permissions_age: timedelta
    max_content_age: timedelta
    next_run_at: datetime | None = None
    waits_for_a_person: bool = False
    removal: Removal | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs over a source, the newest first. following: below which number the next ones are, None at the end."""

    runs: Sequence[StoredRun]
    following: int | None


class Sources(Protocol):
    """Configured sources and their runs. Every method blocks and may be called from several threads."""

    def states(self) -> Sequence[SourceState]:
        """Return every configured source, and every removed one, by name."""

    def remove(self, name: str) -> SourceState:
        """Withhold a source from now on, and have it purged. Raises NotFoundError."""

    def state(self, name: str) -> SourceState:
        """Return one source. Raises NotFoundError."""

    def check(self, name: str) -> Sequence[Finding]:
        """Connect, and say what the credential can read; store nothing. Raises NotFoundError."""

    def start(self, name: str, sync_pass: SyncPass = SyncPass.CONTENT) -> StoredRun:
        """Open a run and return at once. Raises NotFoundError, SyncRunningError."""

    def run(self, run_id: str) -> StoredRun:
        """Return a run with what it counted up to now. Raises NotFoundError."""

    def runs(self, name: str, before: int | None, limit: int) -> RunPage:
        """Return the newest runs over a source, those before the number `before` where one is given.

        Raises NotFoundError.
        """

    def cancel(self, run_id: str) -> StoredRun:
        """Tell a run to end, and return it as it stands; nothing happens to one that has ended. Raises NotFoundError.

        It may return before the run has ended.
        """
