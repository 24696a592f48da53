"""What `remit doctor` says of a Qdrant server: whether it answers, to whom, on which ports, and what it tells others.

Nothing is changed and no vector is read.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import grpc
from qdrant_client.http.exceptions import ApiException

from service.errors import StartError
from service.index.qdrant import connect
from service.index.qdrant_settings import QdrantSettings

_TIMEOUT_S: Final = 3.0
_PORTS: Final = {
    6333: "HTTP, with a dashboard",
    6334: "gRPC",
    6335: "the cluster's own, which asks nobody for a key",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing. advice: what to do; empty when all is well."""

    level: Literal["ok", "warning", "error"]
    what: str
    advice: str = ""


def findings(settings: QdrantSettings) -> Iterator[Finding]:
    """Yield what is to be said, the connection first."""
    where = f"Qdrant server {settings.host}:{settings.port}"
    try:
        refusal = _refusal(settings)
    except StartError as err:
        yield Finding("error", where, str(err))
        return
    if refusal is not None:
        yield Finding("error", where, f"it does not answer: {refusal}")
        return
    yield Finding("ok", f"{where}, {'TLS' if settings.tls else 'plain text on this machine'}")
    if settings.api_key is None or _refusal(replace(settings, api_key=None)) is None:
        advice = "it answers without an API key: set `service.api_key` there and `index.api_key` here"
        yield Finding("error", where, advice)
    for port, meaning in _PORTS.items():
        if port != settings.port and _open(settings.host, port):
            advice = f"{meaning}: close it to all who need not reach it"
            yield Finding("warning", f"{settings.host}:{port} is open", advice)
    yield Finding(
        "warning",
        "telemetry of the Qdrant server",
        "it reports its usage to its maker unless `telemetry_disabled: true` is in its configuration, and does not say "
        "whether it does: make sure of it there",
    )


def _refusal(settings: QdrantSettings) -> str | None:
    """Why it does not answer, None when it does."""
    client = connect(settings)
    try:
        client.get_collections()
    except grpc.RpcError as err:
        return err.code().name if hasattr(err, "code") else type(err).__name__
    except (ApiException, OSError, RuntimeError) as err:
        return type(err).__name__
    finally:
        client.close()
    return None


def _open(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _TIMEOUT_S):
            return True
    except OSError:
        return False
