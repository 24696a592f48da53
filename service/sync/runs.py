"""A run as it goes on: counted by the sync, watched by others. What is durable of it is in the catalog."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from connectors.errors import FatalError, RetriableError
from service.errors import RemitError, StartError
from service.stores.records import Counts, Live, Phase, Problem, Recovery, RunState, StoredRun
from service.stores.runs import MAX_PROBLEMS

_SAMPLE_S: Final = 0.5
_WINDOW_S: Final = 10.0
"""A rate is that of so many seconds: what was long ago says nothing of what is left."""


class StoppedError(RemitError):
    """The run was told to stop."""


class CancelledError(RemitError):
    """Somebody told this run to end."""


class Progress:
    """The live counts of one run. Safe to use from several threads.

    expected: how many documents the source had before. clock: seconds, for rates.
    """

    def __init__(self, run: StoredRun, expected: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._expected = expected
        self._clock = clock
        self._phase = Phase.CONNECTING
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._changed = threading.Condition()
        self._run = run
        self._problems: deque[Problem] = deque(maxlen=MAX_PROBLEMS)
        self._revision = 0

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.run_id

    def snapshot(self) -> StoredRun:
        """Return the run as it stands."""
        with self._changed:
            return self._standing()

    def wait(self, revision: int, timeout_s: float) -> tuple[int, StoredRun]:
        """Wait until there is something newer than `revision` (0 at first); return its number and the run.

        After the timeout, and once the run has ended, the number may be the same.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._revision != revision or self._run.state is not RunState.RUNNING, timeout_s
            )
            return self._revision, self._standing()

    def phase(self, phase: Phase) -> None:
        """Say what the run is doing now."""
        with self._changed:
            self._phase = phase
            self._notify()

    def add(self, counts: Counts, problems: Sequence[Problem] = ()) -> None:
        """Add to every count but `remaining`, and note problems."""
        with self._changed:
            was = self._run.counts
            self._run = replace(
                self._run,
                counts=Counts(
                    seen=was.seen + counts.seen,
                    stored=was.stored + counts.stored,
                    unchanged=was.unchanged + counts.unchanged,
                    permissions_changed=was.permissions_changed + counts.permissions_changed,
                    skipped=was.skipped + counts.skipped,
                    removed=was.removed + counts.removed,
                    chunks=was.chunks + counts.chunks,
                    scopes=was.scopes + counts.scopes,
                    remaining=was.remaining,
                ),
            )
            self._problems.extend(problems)
            self._notify()

    def resume(self) -> None:
        """Say that the run goes on from the checkpoint of one that was interrupted."""
        with self._changed:
            self._run = replace(self._run, resumed=True)
            self._notify()

    def remaining(self, documents: int) -> None:
        """Say how many documents are still to come."""
        with self._changed:
            if self._run.counts.remaining != documents:
                self._run = replace(self._run, counts=replace(self._run.counts, remaining=documents))
                self._notify()

    def ended(self, state: RunState, failure: str, at: datetime, error: Exception | None = None) -> StoredRun:
        """Return the run as it ends, without saying so yet. error: why it failed."""
        with self._changed:
            counts = replace(self._run.counts, remaining=0) if state is RunState.SUCCEEDED else self._run.counts
            return replace(
                self._run,
                state=state,
                ended_at=at,
                counts=counts,
                problems=tuple(self._problems),
                failure=failure,
                recovery=_recovery(error),
                retry_after=error.retry_after if isinstance(error, RetriableError) else None,
            )

    def end(self, run: StoredRun) -> None:
        """Say that the run has ended."""
        with self._changed:
            self._run = run
            self._notify()

    def _standing(self) -> StoredRun:
        run = replace(self._run, problems=tuple(self._problems))
        return replace(run, live=self._live(run.counts)) if run.state is RunState.RUNNING else run

    def _live(self, counts: Counts) -> Live:
        done = counts.stored + counts.unchanged + counts.skipped
        now = self._clock()
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, done))
        while len(self._samples) > 1 and self._samples[1][0] <= now - _WINDOW_S:
            self._samples.popleft()
        since, before = self._samples[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        # Once the walk is over, what is left was counted; before, the source is taken to be as large as it was.
        left = self._expected - done if self._phase in (Phase.CONNECTING, Phase.READING) else counts.remaining
        known = rate > 0 and left > 0
        return Live(self._phase, self._expected, rate, timedelta(seconds=left / rate) if known else None)

    def _notify(self) -> None:
        self._revision += 1
        self._changed.notify_all()


def _recovery(error: Exception | None) -> Recovery:
    """What nobody foresaw is tried again: it may be a defect of this moment."""
    match error:
        case FatalError() | StartError():
            return Recovery.PERSON
        case StoppedError():
            return Recovery.RESUME
        case _:
            return Recovery.RETRY


class Tally:
    """What was counted since the progress was last told; a plain sum, because it is touched for every file."""

    def __init__(self) -> None:
        self.documents = 0
        self.unchanged = 0
        self.skipped = 0
        self.scopes = 0
        self.permissions_changed = 0
        self.problems: list[Problem] = []

    def any(self) -> bool:
        """Whether anything was counted."""
        return bool(self.documents or self.skipped or self.scopes or self.permissions_changed or self.unchanged)

    def counts(self) -> Counts:
        """Return it as counts."""
        return Counts(
            seen=self.documents,
            unchanged=self.unchanged,
            skipped=self.skipped,
            scopes=self.scopes,
            permissions_changed=self.permissions_changed,
        )
