"""Somebody says that she is somebody else: in fields, in headers of every case and number, in a second token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from remit.v1 import retrieval_pb2

from tests.isolation.raw import Connection, Headers, Reply, frame
from tests.service.harness import FINANCE, SALES, Service, allow, serving
from tests.service.test_api_matrix import _REQUESTS

_SEARCH: Final = "/remit.v1.RetrievalService/Search"
_BODY: Final = frame(retrieval_pb2.SearchRequest(query="plan").SerializeToString())
_OK, _UNAUTHENTICATED = "0", "16"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """One document for Alice, one for Bob; every answer has the same id."""
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the kestrel plan of finance", allow(FINANCE))
        running.sync()
        yield running


async def search(service: Service, headers: Headers) -> Reply:
    """A search on a connection of its own, with these headers in this spelling."""
    async with Connection.open(service.callers) as connection:
        return await connection.call(_SEARCH, headers, _BODY)


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def text_field(number: int, value: str) -> bytes:
    """A length-delimited field as it stands on the wire."""
    data, tag = value.encode(), number << 3 | 2
    return varint(tag) + varint(len(data)) + data


async def test_no_field_of_a_message_says_who_is_asking(service: Service) -> None:
    """Fields that no message has, with every name and principal of Bob's: the bytes of the answer are the same.

    Every number to 40 is tried in every method of callers that is not a field of its request.
    """
    alice, bob = service.token("alice"), service.token("bob")
    for method in ("RetrievalService/Search", "RetrievalService/GetDocument", "AccessService/GetCaller"):
        request = _REQUESTS[method]
        known = {field.number for field in request.DESCRIPTOR.fields}
        plain = await service.call(method, request, token=alice)
        for number in (n for n in range(1, 40) if n not in known):
            for value in ("u-1002", "bob", "posix:corp:gid-20102", f"Bearer {bob}"):
                sent = request.SerializeToString() + text_field(number, value)
                assert await service.call(method, sent, token=alice) == plain, (method, number, value)
        if method != "RetrievalService/GetDocument":
            assert await service.call(method, request, token=bob) != plain


async def test_a_second_credential_is_refused_in_every_case_and_order(service: Service) -> None:
    """Two `authorization` entries in any spelling: never an answer of either person; one alone still gets its own."""
    alice, bob = service.token("alice"), service.token("bob")
    answers = []
    for first, second in ((alice, bob), (bob, alice), (alice, alice), (alice, "")):
        for spelling in ("authorization", "Authorization", "AUTHORIZATION", "authorizatioN"):
            headers = [("authorization", f"Bearer {first}"), (spelling, f"Bearer {second}")]
            reply = await search(service, headers)
            # HTTP/2 knows lower case alone (RFC 9113, 8.2.1): another spelling may break the stream, never open it.
            assert reply.status in {_UNAUTHENTICATED, ""} or reply.data == b"", (spelling, reply)
            assert b"plan of" not in reply.everything, (spelling, reply)
            answers.append(reply.closed)
    good = await search(service, [("authorization", f"Bearer {alice}")])

    assert "trailers" in answers
    assert good.status == _OK
    assert b"plan of sales" in good.data
    assert b"kestrel" not in good.data


async def test_spellings_of_a_credential_that_are_none(service: Service) -> None:
    """Another case of the name, other schemes, the token elsewhere: nobody; only `Bearer` counts."""
    token = service.token("bob")
    for headers in (
        [("Authorization", f"Bearer {token}")],
        [("AUTHORIZATION", f"Bearer {token}")],
        [("authorization", f"Basic {token}")],
        [("authorization", token)],
        [("authorization", f"Bearer {token} x")],
        [("authorization", f"Bearer  {token},Bearer {token}")],
        [("authorization-bin", "QmVhcmVyIHg=")],
        [("x-authorization", f"Bearer {token}")],
        [("proxy-authorization", f"Bearer {token}")],
        [("cookie", f"authorization=Bearer {token}")],
    ):
        reply = await search(service, headers)
        assert b"plan of" not in reply.everything, headers
        assert reply.status != _OK, headers
    reply = await search(service, [("authorization", f"Bearer {token}")])
    assert (reply.status, b"kestrel plan" in reply.data) == (_OK, True)


async def test_naming_a_person_is_for_services_alone(service: Service) -> None:
    """`remit-on-behalf-of` from a person, in any case, once or twice, with her own name or another's: refused."""
    token = service.token("alice")
    for extra in (
        [("remit-on-behalf-of", "u-1002")],
        [("remit-on-behalf-of", "u-1001")],
        [("Remit-On-Behalf-Of", "u-1002")],
        [("remit-on-behalf-of", "u-1002"), ("remit-on-behalf-of", "u-1002")],
        [("remit-on-behalf-of", "")],
    ):
        reply = await search(service, [("authorization", f"Bearer {token}"), *extra])
        assert reply.status != _OK, extra
        assert b"plan of" not in reply.everything, extra
