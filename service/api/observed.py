"""Counts and traces every call, beside its record: how it ended and how long it took, never what it was about."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from service.api.evidence import ReadingEvidence, SearchEvidence, code_of
from service.api.wrapper import Auditor, Entry
from service.metrics import Metrics
from service.traces import Traces


class Observed:
    """Stands before the auditor. traces: None where none are sent. clock: that of the wrapper."""

    def __init__(
        self,
        auditor: Auditor,
        metrics: Metrics,
        traces: Traces | None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._auditor = auditor
        self._metrics = metrics
        self._traces = traces
        self._clock = clock

    async def record(self, entry: Entry) -> None:
        """See `Auditor`; what could not be recorded is counted all the same."""
        try:
            await self._auditor.record(entry)
        finally:
            ended, code = self._clock(), code_of(entry.reason)
            seconds = max((ended - entry.received_at).total_seconds(), 0.0)
            self._metrics.call(entry.rpc, code, entry.reason, seconds)
            if isinstance(entry.evidence, SearchEvidence | ReadingEvidence):
                answer = entry.evidence.answer
                self._metrics.answer(len(answer.passages), answer.withheld)
            if self._traces is not None:
                self._traces.call(entry.rpc, code, entry.reason, entry.request_id, entry.received_at, ended)
