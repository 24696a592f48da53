"""The certificate of the listeners: read at the start, and again when its files change, without a restart.

TLS 1.3 alone is spoken: see `service.cli.serving`, since that must be said before gRPC is imported. Should gRPC ever
speak something else, `service.authn` refuses the call.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from service.errors import StartError
from service.sections.listeners import Tls

log = structlog.get_logger()

_MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A certificate chain with its key, the authorities of client certificates (None: none), and when it ends."""

    chain: bytes
    key: bytes
    authorities: bytes | None
    not_after: datetime


class Certificates:
    """The files of the listeners' certificate. A change that cannot be used is logged, and the old pair stays.

    Raises StartError when they cannot be used at the start.
    """

    def __init__(self, tls: Tls, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._tls = tls
        self._now = now
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._loaded = load(tls, now())

    def credentials(self, *, client: bool = False) -> grpc.ServerCredentials:
        """Credentials of one listener. client: it asks for a client certificate, and nobody gets in without one."""
        given = self._loaded

        def fetch() -> grpc.ServerCertificateConfiguration:
            # At every handshake, from a thread of gRPC.
            nonlocal given
            newest = self._newest()
            if newest is given:
                return None  # type: ignore[return-value]  # documented: nothing changed
            given = newest
            return _configuration(newest, client)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given, client), fetch, require_client_authentication=client
        )

    def _newest(self) -> Loaded:
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                try:
                    self._loaded = load(self._tls, self._now())
                    log.info("certificate_loaded", detail=f"valid until {self._loaded.not_after:%Y-%m-%d %H:%M} UTC")
                except StartError as err:
                    # Half replaced, say: the next change is looked at again.
                    log.error("certificate_unusable", detail=str(err))
            return self._loaded

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._tls.certificate, self._tls.key, self._tls.client_ca))


def load(tls: Tls, now: datetime) -> Loaded:
    """Read and check all files. Raises StartError with the place in the settings, the file, and what is wrong."""
    chain, key = (_read(tls, path) for path in (tls.certificate, tls.key))
    authorities = None if tls.client_ca is None else _read(tls, tls.client_ca)
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as err:
        raise StartError(f"{tls.place}: `{tls.certificate}` holds no certificate in PEM") from err
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError) as err:
        raise StartError(f"{tls.place}: `{tls.key}` holds no private key in PEM without a password") from err
    public = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*public) != private.public_key().public_bytes(*public):
        raise StartError(f"{tls.place}: the certificate and its key do not fit: `{tls.certificate}`, `{tls.key}`")
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        span = f"{leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d}"
        raise StartError(f"{tls.place}: `{tls.certificate}` is not valid today, but from {span}")
    if authorities is not None:
        try:
            x509.load_pem_x509_certificates(authorities)
        except ValueError as err:
            raise StartError(f"{tls.place}: `{tls.client_ca}` holds no certificate in PEM") from err
    return Loaded(chain, key, authorities, leaf.not_valid_after_utc)


def _configuration(loaded: Loaded, client: bool) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(loaded.key, loaded.chain)], root_certificates=loaded.authorities if client else None
    )


def _read(tls: Tls, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if path == tls.key and mode & 0o007:
                raise StartError(f"{tls.place}: `{path}` is open to others (mode {mode:04o}): `chmod 0600 {path}`")
            if mode & stat.S_IWOTH:
                raise StartError(f"{tls.place}: `{path}` can be written by everybody: `chmod o-w` it")
            return file.read(_MAX_BYTES)
    except OSError as err:
        raise StartError(f"{tls.place}: `{path}` cannot be read: {(err.strerror or str(err)).lower()}") from err


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns)
