"""The deployment that is examined, as its clients see it: whoever asks, an auditor, and an operator for runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from remit.client import (
    AdminClient,
    AuditorClient,
    Client,
    NotFoundError,
    ReviewClient,
    SyncRun,
    SyncRunningError,
    SyncState,
)
from remit.client.access_values import DocumentPlace

from service.errors import StartError
from service.settings import Settings

_PATIENCE_S = 600.0


@dataclass
class Deployment:
    """Clients of one deployment. operator: None when runs are left to the schedule. witness: somebody else, if any.

    asked: the ids of the answers that the person and the witness were given, for the audit log.
    say: tells whoever runs the proof what will be written, before it is.
    """

    settings: Settings
    person: Client
    auditor: AuditorClient
    reviewer: ReviewClient
    operator: AdminClient | None
    witness: Client | None
    asked: list[str] = field(default_factory=list)
    say: Callable[[str], None] = lambda line: None

    def documents(self) -> list[DocumentPlace]:
        """Every document, by the word of an auditor."""
        return list(self.reviewer.list_documents())

    def sync(self, source: str) -> SyncRun | None:
        """Have a source read now and wait for it; without an operator the schedule does it. Raises StartError."""
        if self.operator is None:
            return None
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                run = self.operator.start_sync(source)
                break
            except SyncRunningError:
                if time.monotonic() > until:
                    raise StartError(f"a run over `{source}` does not end") from None
                time.sleep(0.2)
        *_, run = self.operator.watch_sync_run(run.run_id, timeout_s=_PATIENCE_S)
        if run.state is not SyncState.SUCCEEDED:
            raise StartError(f"the run over `{source}` did not succeed: {run.failure or run.state.value}")
        return run

    def reads(self, document_id: str) -> bool:
        """Whether the person is given a document now."""
        try:
            self.asked.append(self.person.get_document(document_id).response_id)
        except NotFoundError:
            return False
        return True

    def located(self, source: str, location: str, *, wait_s: float) -> DocumentPlace:
        """A document that was just planted, once the service knows it. Raises StartError."""
        until = time.monotonic() + wait_s
        while True:
            for one in self.reviewer.list_documents(location, sources=[source]):
                if one.location == location:
                    return one
            if time.monotonic() > until:
                raise StartError(
                    f"the service does not know the canary `{location}` after {wait_s:.0f} seconds: "
                    "is the source synced? With an operator's token `remit prove` syncs it itself"
                )
            time.sleep(0.2)
