"""What `observe` of `remit.yaml` says: where metrics are served, and where traces are sent. Both are off without it."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.yaml_file import Field
from service.sections import web_address
from service.sections.listeners import Address, address


@dataclass(frozen=True, slots=True)
class ObserveSettings:
    """metrics: where Prometheus fetches, on loopback; None: nowhere. traces: an OTLP endpoint by HTTP; empty: none."""

    metrics: Address | None = None
    traces: str = ""


def read(item: Field) -> ObserveSettings:
    """Read the mapping. Raises YamlFileError."""
    entries = item.mapping(["metrics", "traces"])
    metrics = address(entries["metrics"]) if "metrics" in entries else None
    if metrics is not None and not metrics.is_loopback:
        entries["metrics"].fail(
            f"expected a loopback address such as `127.0.0.1:9464`, found `{metrics}`: metrics are for administrators, "
            "in plaintext and without a credential"
        )
    return ObserveSettings(metrics, _endpoint(entries["traces"]) if "traces" in entries else "")


def _endpoint(item: Field) -> str:
    what = "an OTLP endpoint such as `http://127.0.0.1:4318/v1/traces`"
    parts = web_address.read(item, what)
    if parts.query or parts.fragment:
        item.expected(what)
    return item.text(what)
