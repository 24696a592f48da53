"""What the circuit breaker holds, for those who decide about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from service.audit.record import Record
from service.errors import NotFoundError
from service.stores.catalog import Catalog
from service.stores.stops import Stop, StopState
from service.sync.records import decided_record

NOT_HELD = "nothing with this id is held"


class SourceHolds:
    """Implements `service.api.holds.Holds` over the configured sources. sources: returns their names.

    record: makes a record durable, or raises AuditUnavailableError.
    """

    def __init__(
        self, catalog: Catalog, sources: Callable[[], Collection[str]], record: Callable[[Record], object]
    ) -> None:
        self._catalog = catalog
        self._sources = sources
        self._record = record

    def list(self, source: str) -> Sequence[Stop]:
        """See `Holds`."""
        sources = self._sources()
        if source and source not in sources:
            raise NotFoundError(f"no source is called `{source}`")
        with self._catalog.reader() as reader:
            return [one for one in reader.stops(source or None) if one.source in sources]

    def get(self, hold_id: str) -> Stop:
        """See `Holds`."""
        found = next((one for one in self.list("") if one.hold_id == hold_id), None)
        if found is None:
            raise NotFoundError(NOT_HELD)
        return found

    def decide(self, hold_id: str, state: StopState, by: str, at: datetime) -> Stop:
        """See `Holds`."""
        found = self.get(hold_id)
        # Before it counts: what widens does so by nobody's word that is not on record.
        self._record(decided_record(found, state, by))
        decided = self._catalog.decide_stop(hold_id, state, by, at)
        if decided is None:
            raise NotFoundError(NOT_HELD)
        return decided
