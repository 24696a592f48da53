"""How a client reaches a listener: address, TLS, and the token that goes with every call."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass

import grpc

Token = str | Callable[[], str]
"""A token, or what returns a fresh one; it is asked before every call."""

# What only reads may be asked again; UNAVAILABLE means that nothing was answered. Never what changes something.
_READING = ("RetrievalService", "AccessService", "ReviewService", "AuditService")
_AGAIN = {
    "methodConfig": [
        {
            "name": [{"service": f"remit.v1.{service}"} for service in _READING],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

# An answer may be a whole document.
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """Where and how to connect.

    insecure_loopback: without TLS, which is refused for any address that is not this machine's loopback.
    root_certificates: PEM, to verify the server by; None means the system's.
    token: None for a service account, which proves itself by its certificate.
    certificate: the PEM chain and the private key of a client certificate.
    on_behalf_of: the person that a service account names, where it may.
    """

    address: str
    token: Token | None
    insecure_loopback: bool
    root_certificates: bytes | None
    certificate: tuple[bytes, bytes] | None
    on_behalf_of: str = ""

    def __post_init__(self) -> None:
        if self.token is None and self.certificate is None:
            raise ValueError("neither a token nor a client certificate says who is calling")
        if self.on_behalf_of and (self.token is not None or self.certificate is None):
            raise ValueError("only a service account with a certificate, and without a token, can name a person")
        if self.insecure_loopback and self.certificate is not None:
            raise ValueError("a client certificate proves nothing without TLS")
        if self.insecure_loopback and not _is_loopback(self.address):
            raise ValueError(f"{self.address} is not a loopback address: a token must not cross a network without TLS")

    def options(self) -> list[tuple[str, int | str]]:
        """Options of the channel."""
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
            ("grpc.service_config", json.dumps(_AGAIN)),
        ]
        if self.insecure_loopback:
            options.append(("grpc.enable_http_proxy", 0))
        return options

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials that verify the server."""
        chain, key = self.certificate if self.certificate is not None else (None, None)
        return grpc.ssl_channel_credentials(self.root_certificates, key, chain)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call."""
        if self.token is None:
            return (("remit-on-behalf-of", self.on_behalf_of),) if self.on_behalf_of else ()
        token = self.token if isinstance(self.token, str) else self.token()
        return (("authorization", f"Bearer {token}"),)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
