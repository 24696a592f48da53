"""Requests outside their documented range, through the API; and what their neighbours inside it get."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from remit.v1 import retrieval_pb2, source_pb2

from connectors.base import Finding, Level
from service.api import wire
from service.errors import InvalidRequestError
from tests.service.harness import EVERYBODY, Service, allow, serving


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with 120 passages that everybody may read."""
    async with serving(tmp_path / "remit") as running:
        running.add("d", "\n\n".join(f"passage {number}" for number in range(120)), allow(EVERYBODY))
        running.sync()
        yield running


async def outcome(service: Service, method: str, request: Message | bytes) -> tuple[str, str]:
    """The code of a call, and the field that it complains about."""
    found = await service.call(f"RetrievalService/{method}", request, token=service.token("alice"))
    details = dict(found.trailing).get("grpc-status-details-bin")
    if details is None:
        return found.code, ""
    assert isinstance(details, bytes)
    info = ErrorInfo()
    assert Status.FromString(details).details[0].Unpack(info)
    return found.code, info.metadata["field"]


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("", False),
        (" \t\n\u00a0\u2003", False),
        ("x" * 8193, False),
        ("ä" * 4097, False),
        ("x" * 1_000_000, False),
        ("x" * 8192, True),
        ("ä" * 4096, True),
        ("?", True),
        ("\x00", True),
        ("🦭", True),
    ],
)
async def test_queries_have_1_to_8192_bytes_and_something_to_say(service: Service, query: str, fits: bool) -> None:
    """An empty query, white space and more than 8,192 bytes are refused by name of the field."""
    found = await outcome(service, "Search", retrieval_pb2.SearchRequest(query=query))

    assert found == (("OK", "") if fits else ("INVALID_ARGUMENT", "query"))


@pytest.mark.parametrize(
    ("limit", "hits"), [(-(2**31), None), (-1, None), (0, 10), (1, 1), (100, 100), (101, None), (10_000, None)]
)
async def test_limits_are_1_to_100_and_0_means_10(service: Service, limit: int, hits: int | None) -> None:
    """Other limits are refused; none is quietly cut."""
    request = retrieval_pb2.SearchRequest(query="passage", limit=limit)

    found = await service.call("RetrievalService/Search", request, token=service.token("alice"))

    if hits is None:
        assert await outcome(service, "Search", request) == ("INVALID_ARGUMENT", "limit")
    else:
        assert len(retrieval_pb2.SearchResponse.FromString(found.message).hits) == hits


async def test_more_than_a_message_may_hold_is_refused_by_the_listener(service: Service) -> None:
    """Beyond 1 MiB a request is not read at all, and the next one is answered."""
    assert (await outcome(service, "Search", b"x" * (1024 * 1024 + 1)))[0] == "RESOURCE_EXHAUSTED"
    assert await outcome(service, "Search", retrieval_pb2.SearchRequest(query="x")) == ("OK", "")


async def test_more_metadata_than_allowed_is_refused_by_the_listener(service: Service) -> None:
    """Beyond 16 KiB of metadata nothing is looked at."""
    request = retrieval_pb2.SearchRequest(query="x")
    found = await service.call(
        "RetrievalService/Search", request, token=service.token("alice"), metadata=[("x-more", "x" * 20_000)]
    )
    assert found.code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (retrieval_pb2.SearchRequest(query="x", sources=["s"] * 33), "sources"),
        (retrieval_pb2.GetDocumentRequest(), "document_id"),
        (retrieval_pb2.GetDocumentRequest(document_id="x" * 65), "document_id"),
        (retrieval_pb2.BatchGetChunksRequest(), "chunk_ids"),
        (retrieval_pb2.BatchGetChunksRequest(chunk_ids=["x"] * 101), "chunk_ids"),
        (retrieval_pb2.BatchGetChunksRequest(chunk_ids=["x", ""]), "chunk_ids"),
        (retrieval_pb2.BatchGetChunksRequest(chunk_ids=["x" * 65]), "chunk_ids"),
    ],
)
async def test_each_bound_names_its_field(service: Service, request_: Message, field: str) -> None:
    """What is too much or too little is refused with the field's name."""
    method = type(request_).__name__.removesuffix("Request")

    assert await outcome(service, method, request_) == ("INVALID_ARGUMENT", field)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x02\xc3\x28", b"\x0a\x7f"])
async def test_bytes_that_are_no_message_are_refused(service: Service, data: bytes) -> None:
    """Broken framing and broken UTF-8 are the caller's error, and named as such."""
    assert await outcome(service, "Search", data) == ("INVALID_ARGUMENT", "request")


def test_the_largest_values_inside_the_bounds_are_read() -> None:
    """The neighbours of the refusals above."""
    sources = [f"s{number}" for number in range(32)]

    assert wire.query(retrieval_pb2.SearchRequest(query="x", sources=sources)).sources == frozenset(sources)
    assert wire.document_id(retrieval_pb2.GetDocumentRequest(document_id="x" * 64)) == "x" * 64
    assert len(wire.chunk_ids(retrieval_pb2.BatchGetChunksRequest(chunk_ids=["x" * 64] * 100))) == 100
    assert wire.name("name", "x" * 256) == "x" * 256
    with pytest.raises(InvalidRequestError):
        wire.name("name", "x" * 257)


def test_findings_come_worst_first_and_an_error_means_not_ready() -> None:
    """A check is ready unless something is an error."""
    findings = [Finding(Level.INFO, "i"), Finding(Level.ERROR, "e"), Finding(Level.WARNING, "w")]

    bad, good = wire.check_response(findings), wire.check_response(findings[::2])

    assert [finding.text for finding in bad.findings] == ["e", "w", "i"]
    assert (bad.ready, good.ready, wire.check_response([]).ready) == (False, True, True)
    assert bad.findings[0].severity == source_pb2.SEVERITY_ERROR


def test_times_keep_their_microseconds() -> None:
    """Moments and durations survive the wire."""
    at = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)

    assert wire.moment(at).ToDatetime(UTC) == at
    assert wire.duration(timedelta(days=400, microseconds=7)).ToTimedelta() == timedelta(days=400, microseconds=7)
