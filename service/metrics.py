"""Numbers about the service, for administrators, in the text format of Prometheus.

No label has a person, a document, a place or a word of anybody: methods, reasons, and names from the configuration
alone. No number belongs to one caller. What is counted over documents that somebody may not read is for administrators,
which is why it is served apart from callers (`service.sections.observing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final, Protocol
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric

from service.access.index import SourceAge
from service.errors import RemitError, StartError
from service.search.shadow import Measured
from service.sections.listeners import Address

log = structlog.get_logger()

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Audited(Protocol):
    """What is needed of the audit log and its index."""

    @property
    def size(self) -> int:
        """How many records there are."""

    @property
    def behind(self) -> int:
        """How many of them cannot be found yet."""


@dataclass(frozen=True, slots=True)
class State:
    """What is looked at when the metrics are fetched.

    ages: how long ago each source's rules were verified in full.
    parts: by name, what says why something is not well. under_way: calls. recall: as live searches were compared.
    """

    ages: Callable[[], Iterable[SourceAge]]
    parts: Mapping[str, Callable[[], str | None]]
    under_way: Callable[[], int]
    recall: Callable[[], Measured]
    audit: Audited


class Metrics:
    """Counts calls, and serves everything. Thread-safe."""

    def __init__(self, state: State) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "remit_calls", "Calls by how they ended", ["rpc", "code", "reason"], registry=self.registry
        )
        self._seconds = Histogram(
            "remit_call_seconds", "How long calls took", ["rpc"], registry=self.registry, buckets=_BUCKETS
        )
        self._returned = Counter("remit_passages_returned", "Passages that left", registry=self.registry)
        self._withheld = Counter(
            "remit_candidates_withheld",
            "Candidates of searches that were left out, of all callers together",
            ["reason"],
            registry=self.registry,
        )
        self.registry.register(_Looked(state))
        ProcessCollector(registry=self.registry)

    def call(self, rpc: str, code: str, reason: str, seconds: float) -> None:
        """Count one call."""
        self._calls.labels(rpc, code, reason).inc()
        self._seconds.labels(rpc).observe(seconds)

    def answer(self, returned: int, withheld: Mapping[str, int]) -> None:
        """Count what an answer returned, and what a search left out by reason."""
        self._returned.inc(returned)
        for reason, count in withheld.items():
            self._withheld.labels(reason).inc(count)

    def serve(self, at: Address) -> tuple[int, Callable[[], None]]:
        """Serve until the returned function is called; return the port with it. Raises StartError."""
        server: WSGIServer
        thread: Thread
        try:
            server, thread = start_http_server(at.port, addr=at.host, registry=self.registry)
        except OSError as err:
            raise StartError(f"cannot serve metrics on {at}: {(err.strerror or str(err)).lower()}") from err

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, close


class _Looked:
    """What is looked at rather than counted."""

    def __init__(self, state: State) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Nothing is looked at to register this."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Look now."""
        state = self._state
        yield _gauge("remit_calls_under_way", "Calls that are under way", state.under_way())
        parts = GaugeMetricFamily("remit_part_failing", "1 while something is not well", labels=["part"])
        for name, failure in state.parts.items():
            parts.add_metric([name], float(failure() is not None))
        yield parts
        yield from self._sources()
        recall = state.recall()
        yield _gauge("remit_recall", "Of live searches that were repeated exactly", recall.recall)
        yield _gauge("remit_recall_searches", "Live searches that were repeated exactly", recall.searches)
        yield _gauge("remit_audit_records", "Records of the audit log", state.audit.size)
        yield _gauge("remit_audit_index_behind", "Records that cannot be found yet", state.audit.behind)

    def _sources(self) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "remit_source_permissions_age_seconds", "Since a source's rules were verified in full", labels=["source"]
        )
        withheld = GaugeMetricFamily(
            "remit_source_withheld", "1 while a source's rules are too old to be served", labels=["source"]
        )
        try:
            ages = self._state.ages()
        except RemitError as err:
            log.warning("metrics_incomplete", error=type(err).__name__)
            return
        for one in ages:
            if one.age is not None:
                age.add_metric([one.source], one.age.total_seconds())
            withheld.add_metric([one.source], float(one.withheld))
        yield age
        yield withheld


def _gauge(name: str, what: str, value: float) -> Any:
    return GaugeMetricFamily(name, what, value=value)
