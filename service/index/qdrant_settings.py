"""What `index` of `remit.yaml` says of a Qdrant server; the rest of it is `service.index.planner.Tuning`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from connectors.yaml_file import Field
from service.sections import web_address

KEYS: Final = ("backend", "url", "api_key", "collection", "server_side", "timeout")
_PORT: Final = 6334
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class QdrantSettings:
    """A server. port: of gRPC. api_key: the file that holds it. collection: the first part of its name.

    server_side: vectors never leave the server, see `service.index.qdrant`.
    """

    host: str
    port: int
    tls: bool
    api_key: Path | None
    collection: str = "remit"
    server_side: bool = False
    timeout: timedelta = timedelta(seconds=30)


def read(entries: Mapping[str, Field], item: Field, base: Path) -> QdrantSettings | None:
    """Read it; None for the embedded index. Fails for its keys without `backend: qdrant`, and for plain text."""
    backend = entries["backend"].choice(["edge", "qdrant"]) if "backend" in entries else "edge"
    if backend == "edge":
        for key in KEYS[1:]:
            if key in entries:
                entries[key].fail("it is of a Qdrant server, expected `backend: qdrant` beside it")
        return None
    if "approximate" in entries:
        entries["approximate"].fail("there is no graph on a Qdrant server, expected no `approximate`")
    found = item.need(dict(entries), "url", "the server's gRPC address, such as `https://qdrant.example.com:6334`")
    url = web_address.read(found, "an address such as `https://qdrant.example.com:6334`")
    host, port = url.hostname or "", url.port or _PORT
    if url.path.strip("/") or url.query:
        found.expected("an address such as `https://qdrant.example.com:6334`")
    if url.scheme == "http" and not _loopback(host):
        found.fail("vectors would cross the network in plain text, expected `https`, or a loopback address")
    return QdrantSettings(
        host=host,
        port=port,
        tls=url.scheme == "https",
        api_key=entries["api_key"].path(base) if "api_key" in entries else None,
        collection=entries["collection"].text("a name", _NAME) if "collection" in entries else "remit",
        server_side="server_side" in entries and entries["server_side"].flag(),
        timeout=entries["timeout"].duration() if "timeout" in entries else timedelta(seconds=30),
    )


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
