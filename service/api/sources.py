"""What the administrators' API needs of the sync engine. `service.app` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from connectors.base import Finding
from service.stores.records import StoredRun, StoredSource


@dataclass(frozen=True, slots=True)
class SourceState:
    """A configured source with what is stored of it."""

    stored: StoredSource
    max_permissions_age: timedelta


class Sources(Protocol):
    """Configured sources and their runs. Every method blocks and may be called from several threads."""

    def states(self) -> Sequence[SourceState]:
        """Return every configured source, by name."""

    def state(self, name: str) -> SourceState:
        """Return one source. Raises NotFoundError."""

    def check(self, name: str) -> Sequence[Finding]:
        """Connect, and say what the credential can read; store nothing. Raises NotFoundError."""

    def start(self, name: str) -> StoredRun:
        """Open a run and return at once. Raises NotFoundError, SyncRunningError."""

    def run(self, run_id: str) -> StoredRun:
        """Return a run with what it counted up to now. Raises NotFoundError."""
