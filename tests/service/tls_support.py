"""Certificates of listeners, for tests."""

from __future__ import annotations

from pathlib import Path

from service.api.tls import Certificates
from service.sections.listeners import Tls
from tests.support.certificates import Authority


def files(folder: Path, authority: Authority, clients: Authority | None = None) -> Tls:
    """Write a server's certificate, and the authority of clients; return them as settings."""
    authority.server().write(folder / "server.pem", folder / "server.key")
    (folder / "ca.pem").write_bytes(authority.pem)
    if clients is None:
        return Tls(folder / "server.pem", folder / "server.key", place="remit.yaml:7: listen.tls")
    (folder / "clients.pem").write_bytes(clients.pem)
    return Tls(folder / "server.pem", folder / "server.key", folder / "clients.pem", "remit.yaml:7: listen.tls")


def certificates(folder: Path, authority: Authority | None = None, clients: Authority | None = None) -> Certificates:
    """The same, loaded."""
    return Certificates(files(folder, authority or Authority(), clients))
