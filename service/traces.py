"""Spans of calls, sent to an OpenTelemetry collector that the configuration names; off without it.

A span has the method, how the call ended and the id under which it stands in the audit log, and nothing else. What a
caller sends about traces of its own is ignored. Needs the extra `otel`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from service.errors import StartError

_NAMES: Final = {"rpc": "rpc.method", "code": "rpc.response.status_code", "reason": "remit.reason", "id": "remit.id"}


class Traces:
    """processor: what takes ended spans, an OpenTelemetry `SpanProcessor`."""

    def __init__(self, processor: Any) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        # Without what the environment of the process would add of itself.
        self._provider = TracerProvider(resource=Resource({"service.name": "remit"}), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("remit")

    def call(self, rpc: str, code: str, reason: str, request_id: str, began: datetime, ended: datetime) -> None:
        """Send one call."""
        facts = {"rpc": rpc, "code": code, "reason": reason, "id": request_id}
        span = self._tracer.start_span(
            rpc,
            context=_nowhere(),
            start_time=_nanos(began),
            attributes={_NAMES[key]: value for key, value in facts.items() if value},
        )
        span.end(end_time=_nanos(max(began, ended)))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def open_traces(endpoint: str) -> Traces:
    """Send to this endpoint from now on. Raises StartError when the extra is not installed."""
    try:
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as err:
        raise StartError("`observe.traces` needs the extra `otel`: `pip install 'remit-server[otel]'`") from err
    session = requests.Session()
    session.trust_env = False  # no proxy that only the environment names
    exporter = OTLPSpanExporter(endpoint=endpoint, headers={}, session=session)
    return Traces(BatchSpanProcessor(exporter))


def _nowhere() -> Any:
    from opentelemetry.context import Context

    return Context()


def _nanos(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
