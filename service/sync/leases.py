"""Leases: how long what a pass over a source verified counts. Past it the source's documents are withheld
(`service.access.index`); half-way somebody is told; one that is too short for its pass is a mistake in the settings.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import structlog

from service.errors import UnavailableError
from service.settings import Settings, SourceSettings
from service.stores import schema
from service.stores.clocks import read_clocks
from service.stores.errors import storage_errors
from service.stores.reader import Reader
from service.stores.records import PassClock, SyncPass
from service.stores.sqlite import open_readers

log = structlog.get_logger()

OPTIONS: Final = {SyncPass.PERMISSIONS: "max_permissions_age", SyncPass.CONTENT: "max_content_age"}
"""What the settings call the lease of each pass."""

_TIMES: Final = 2
"""A lease must last at least so many times as long as its pass takes: one pass may fail, and the next one makes it."""

_LOOK_EVERY_S: Final = 30.0

Leases = Mapping[SyncPass, timedelta]
"""The leases of one source."""


def of(source: SourceSettings) -> Leases:
    """Return the leases of a source."""
    return {SyncPass.PERMISSIONS: source.max_permissions_age, SyncPass.CONTENT: source.max_content_age}


def of_all(settings: Settings) -> dict[str, Leases]:
    """Return the leases of every source."""
    return {one.name: of(one) for one in settings.sources}


def too_short(sources: Iterable[SourceSettings], clocks: Mapping[str, Mapping[SyncPass, PassClock]]) -> list[str]:
    """Return a sentence, with file, line and key, for each lease that is shorter than twice what its pass took.

    clocks: as measured, of each source by its name; what was never measured is not complained of.
    """
    return [
        f"{source.place(OPTIONS[one])}: `{lease}` is shorter than twice the {_shown(took)} that the pass took: "
        f"expected at least `{_shown(took * _TIMES)}`, or documents are withheld whenever a run fails"
        for source in sources
        for one, lease in of(source).items()
        if lease < (took := _took(one, clocks.get(source.name, {}))) * _TIMES
    ]


def _took(one: SyncPass, clocks: Mapping[SyncPass, PassClock]) -> timedelta:
    """How long the pass takes that renews a lease: for permissions the shorter one, if it was ever run."""
    measured = [clocks[known].took for known in (one, SyncPass.CONTENT) if known in clocks and clocks[known].took]
    return measured[0] if measured else timedelta(0)


def _shown(duration: timedelta) -> str:
    return f"{-(-duration // timedelta(seconds=1))}s"


@dataclass(frozen=True, slots=True)
class LeaseAlert:
    """A lease that is half over, or over. age: how long ago its pass began."""

    source: str
    sync_pass: SyncPass
    over: bool
    age: timedelta
    limit: timedelta


def measured(catalog: Path) -> dict[str, dict[SyncPass, PassClock]]:
    """Return the clocks in a catalog's file, which a running service may have open; nothing where there is none yet.

    Raises StorageError.
    """
    if not catalog.exists():
        return {}
    readers = open_readers(catalog)
    try:
        with storage_errors(catalog), readers.begin() as connection:
            known = connection.dialect.has_table(connection, schema.passes.name)
            return read_clocks(connection) if known else {}
    finally:
        readers.dispose()


class _Catalog(Protocol):
    def reader(self) -> AbstractContextManager[Reader]:
        """Open one read transaction."""


class LeaseWatch:
    """Tells of each lease when it is half over and when it is over, once for each time that it was renewed.

    settings: those in force. tell: writes the audit record; may raise UnavailableError, and is asked again.
    """

    def __init__(
        self,
        catalog: _Catalog,
        settings: Callable[[], Settings],
        tell: Callable[[LeaseAlert], object],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._tell = tell
        self._now = now
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._told: dict[tuple[str, SyncPass], tuple[datetime, bool]] = {}

    def start(self, every_s: float = _LOOK_EVERY_S) -> None:
        """Say which leases are too short; then look again and again in a thread, until `close`."""
        with self._catalog.reader() as reader:
            clocks = reader.clocks()
        for complaint in too_short(self._settings().sources, clocks):
            log.error("lease_too_short", detail=complaint)
        self._thread = threading.Thread(target=self._follow, args=(every_s,), name="leases", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, every_s: float) -> None:
        while not self._closing.wait(every_s):
            self.look()

    def look(self) -> None:
        """Look once. Blocks."""
        try:
            with self._catalog.reader() as reader:
                clocks, at = reader.clocks(), self._now()
            for alert, verified_at in self._due(clocks, at):
                key, what = (alert.source, alert.sync_pass), (verified_at, alert.over)
                if self._told.get(key) == what:
                    continue
                self._tell(alert)
                self._told[key] = what
                event = log.error if alert.over else log.warning
                event(
                    "lease_over" if alert.over else "lease_half_over",
                    source=alert.source,
                    state=alert.sync_pass.value,
                    duration_s=int(alert.age.total_seconds()),
                    expected=int(alert.limit.total_seconds()),
                )
        except UnavailableError as err:
            log.error("leases_unknown", error=type(err).__name__)

    def _due(
        self, clocks: Mapping[str, Mapping[SyncPass, PassClock]], at: datetime
    ) -> Iterator[tuple[LeaseAlert, datetime]]:
        for source, leases in of_all(self._settings()).items():
            for one, limit in leases.items():
                clock = clocks.get(source, {}).get(one)
                if clock is None:
                    continue  # Nothing was ever served: it is the first run that is missing, and everybody sees that.
                age = at - clock.verified_at
                over = not is_fresh(age, limit)
                if over or age * 2 >= limit:
                    yield LeaseAlert(source, one, over, age, limit), clock.verified_at


def is_fresh(age: timedelta | None, limit: timedelta) -> bool:
    """Whether what was verified so long ago counts; None: never. Below zero a clock was set back: nobody knows."""
    return age is not None and timedelta(0) <= age <= limit
