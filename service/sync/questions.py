"""What the circuit breaker asks a person: written down with the run's changes, and told once that is committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from service.stores.records import Counts, Problem, StoredRun
from service.stores.stops import HeldGroup, Stop, StopKind, StopState
from service.stores.writer import Writer
from service.sync.breaker import Verdict
from service.sync.runs import Progress

_WHAT: Final = {
    StopKind.WIDENING: "more people would read",
    StopKind.PURGE: "would be removed",
    StopKind.MEMBERS: "more people would read by groups of the source",
}


class Questions:
    """The questions of one run. on_held: told of each that is new."""

    def __init__(self, run: StoredRun, progress: Progress, on_held: Callable[[Stop], object]) -> None:
        self._run = run
        self._progress = progress
        self._on_held = on_held

    def write(
        self, writer: Writer, kind: StopKind, verdict: Verdict, groups: Sequence[HeldGroup] = (), more_groups: int = 0
    ) -> Stop | None:
        """Write down what is held now, if anything, and forget what was held and nobody asks for any more."""
        writer.stops.drop(verdict.moot)
        if not verdict.listed:
            return None
        made = Stop(
            "",
            self._run.source,
            kind,
            StopState.WAITING,
            verdict.documents,
            verdict.total,
            self._run.run_id,
            self._run.started_at,
            verdict.listed,
            groups=tuple(groups),
            more_groups=more_groups,
        )
        return writer.stops.hold(made)

    def tell(self, stop: Stop | None) -> None:
        """Say so in the run's report, and where it is news to who follows."""
        if stop is None:
            return
        detail = f"{stop.documents} of {stop.total} documents {_WHAT[stop.kind]}: approve or reject `{stop.hold_id}`"
        self._progress.add(Counts(), [Problem("", "held", detail)])
        if stop.run_id == self._run.run_id:
            self._on_held(stop)
