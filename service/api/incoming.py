"""What a call brings: its credential and the bytes of its request. Pure but for reading them; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import grpc

from service.authn import Credentials, Subject
from service.deadline import DeadlinePassedError
from service.errors import InvalidRequestError

SLOWEST_SENDER_S = 10.0
"""How long a call may wait for the bytes of its request."""

Context = grpc.aio.ServicerContext[bytes, bytes]


def credentials(context: Context) -> Credentials:
    """What the call brings: two entries of its metadata, and what TLS says of the connection. Nothing else counts."""
    sent = context.invocation_metadata() or ()

    def values(name: str) -> tuple[str, ...]:
        return tuple(value if isinstance(value, str) else "" for key, value in sent if key == name)

    tls: Mapping[str, Iterable[bytes]] = context.auth_context()
    return Credentials(
        authorization=values("authorization"),
        certificate=next(iter(tls.get("x509_pem_cert", ())), None),
        tls_version=b"".join(tls.get("ssl_tls_version", ())).decode("ascii", "replace"),
        on_behalf_of=values("remit-on-behalf-of"),
    )


async def received(context: Context) -> bytes:
    """The bytes of the request. Raises InvalidRequestError when none come."""
    try:
        async with asyncio.timeout(SLOWEST_SENDER_S):
            raw = await context.read()
    except TimeoutError as err:
        raise DeadlinePassedError("the request of a call does not come") from err
    if not isinstance(raw, bytes):
        raise InvalidRequestError("request", "the call ended without a request")
    return raw


def counted_as(subject: Subject) -> str:
    """Whose limits a call counts against: a service's own, whomever it names."""
    own = subject if subject.on_behalf is None else subject.on_behalf.service
    return f"{own.issuer} {own.subject}"
