"""How a client reaches a listener: address, TLS, and the token that goes with every call."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

import grpc

Token = str | Callable[[], str]
"""A token, or what returns a fresh one; it is asked before every call."""

# An answer may be a whole document.
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """Where and how to connect.

    insecure_loopback: without TLS, which is refused for any address that is not this machine's loopback.
    root_certificates: PEM, to verify the server by; None means the system's.
    """

    address: str
    token: Token
    insecure_loopback: bool
    root_certificates: bytes | None

    def __post_init__(self) -> None:
        if self.insecure_loopback and not _is_loopback(self.address):
            raise ValueError(f"{self.address} is not a loopback address: a token must not cross a network without TLS")

    def options(self) -> list[tuple[str, int]]:
        """Options of the channel."""
        options = [("grpc.max_receive_message_length", _MAX_ANSWER_BYTES)]
        if self.insecure_loopback:
            options.append(("grpc.enable_http_proxy", 0))
        return options

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials that verify the server."""
        return grpc.ssl_channel_credentials(self.root_certificates)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call."""
        token = self.token if isinstance(self.token, str) else self.token()
        return (("authorization", f"Bearer {token}"),)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
