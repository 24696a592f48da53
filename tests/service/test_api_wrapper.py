"""The wrapper around every method: deadlines, errors, records, and what is refused at start."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from remit.v1 import retrieval_pb2, source_pb2

from service.api.methods import METHODS, Rule
from service.api.retrieval import RetrievalServicer
from service.api.server import CALLER_SERVICES
from service.api.source import SourceServicer
from service.api.status import failure_of
from service.api.wrapper import Call, Reply, Wrapper, _seconds
from service.audit.record import Record
from service.errors import (
    AuditUnavailableError,
    DirectoryUnavailableError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RoleRequiredError,
    SearchUnavailableError,
    StartError,
    SyncRunningError,
    UnauthenticatedError,
    UnavailableError,
)
from service.executor import Executor
from tests.service.harness import FINANCE, SALES, Outcome, Service, allow, serving

_SEARCH = retrieval_pb2.SearchRequest(query="canary-query")
_CANARY = "canary-in-an-exception"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with a document for Sales and one for Finance."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.sync()
        yield running


def info(outcome: Outcome) -> tuple[str, dict[str, str]]:
    """The reason of a failed call with its metadata."""
    details = dict(outcome.trailing)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status, found = Status.FromString(details), ErrorInfo()
    assert status.message == outcome.details
    assert status.details[0].Unpack(found)
    assert found.domain == "remit.v1"
    return found.reason, dict(found.metadata)


async def search(service: Service, name: str = "alice", timeout_s: float = 20.0) -> Outcome:
    """One search."""
    return await service.call("RetrievalService/Search", _SEARCH, token=service.token(name), timeout_s=timeout_s)


def records(service: Service) -> list[dict[str, object]]:
    """The bodies of the audit log's records so far."""
    return [one["body"] for one in service.records()]


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata"),
    [
        (UnauthenticatedError(_CANARY), "UNAUTHENTICATED", "UNAUTHENTICATED", {}),
        (InvalidRequestError("limit", _CANARY), "INVALID_ARGUMENT", "INVALID_ARGUMENT", {"field": "limit"}),
        (NotFoundError(_CANARY), "NOT_FOUND", "NOT_FOUND", {}),
        (RoleRequiredError("operator"), "PERMISSION_DENIED", "ROLE_REQUIRED", {"role": "operator"}),
        (DirectoryUnavailableError(_CANARY), "UNAVAILABLE", "DIRECTORY_UNAVAILABLE", {}),
        (AuditUnavailableError(_CANARY), "UNAVAILABLE", "AUDIT_UNAVAILABLE", {}),
        (SearchUnavailableError(_CANARY), "UNAVAILABLE", "SEARCH_UNAVAILABLE", {}),
        (UnavailableError(_CANARY), "UNAVAILABLE", "SEARCH_UNAVAILABLE", {}),
        (SyncRunningError("company", "r1"), "FAILED_PRECONDITION", "SYNC_RUNNING", {"run_id": "r1"}),
        (OverloadedError(_CANARY), "RESOURCE_EXHAUSTED", "OVERLOADED", {}),
        (ValueError(_CANARY), "INTERNAL", "INTERNAL", {"request_id": "call-1"}),
        (TimeoutError(_CANARY), "INTERNAL", "INTERNAL", {"request_id": "call-1"}),
    ],
)
def test_each_error_has_its_status_and_a_constant_text(
    error: Exception, code: str, reason: str, metadata: dict[str, str]
) -> None:
    """What an error says goes to the log; the caller learns the reason and what it documents."""
    failure = failure_of(error, "call-1")

    status, found = Status.FromString(failure.details()), ErrorInfo()
    assert status.details[0].Unpack(found)
    assert (failure.code.name, status.code, found.reason, dict(found.metadata)) == (
        code,
        failure.code.value[0],
        reason,
        metadata,
    )
    assert _CANARY not in status.message
    assert _CANARY.encode() not in failure.details()


async def test_a_defect_says_nothing_but_where_to_look(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception that nobody foresaw is INTERNAL with the request's id, and its text goes nowhere."""

    def broken(*_: object) -> None:
        raise RuntimeError(_CANARY)

    monkeypatch.setattr(service.retrieval_core, "search", broken)

    outcome = await search(service)

    reason, metadata = info(outcome)
    logged = capsys.readouterr().out
    assert (outcome.code, reason, outcome.message) == ("INTERNAL", "INTERNAL", b"")
    assert metadata["request_id"] in logged
    assert "test_api_wrapper.py" in logged
    assert _CANARY not in logged + str(outcome)


async def test_nothing_leaves_when_the_record_cannot_be_written(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a durable record every method answers UNAVAILABLE and no content, refusals included."""
    documents, chunks = service.document_ids(), service.chunk_ids("sales")

    async def failing(entry: Record) -> None:
        raise AuditUnavailableError("the disk is full")

    monkeypatch.setattr(service.audit, "append", failing)
    asked = {
        "RetrievalService/Search": _SEARCH,
        "RetrievalService/GetDocument": retrieval_pb2.GetDocumentRequest(document_id=documents["sales"]),
        "RetrievalService/BatchGetChunks": retrieval_pb2.BatchGetChunksRequest(chunk_ids=chunks),
        "AccessService/GetCaller": retrieval_pb2.SearchRequest(),
        "SourceService/ListSources": source_pb2.ListSourcesRequest(),
    }
    for method, request in asked.items():
        for token in (service.token("alice"), service.token("olga"), "forged"):
            outcome = await service.call(method, request, token=token)
            assert (outcome.code, info(outcome)[0], outcome.message) == ("UNAVAILABLE", "AUDIT_UNAVAILABLE", b"")

    monkeypatch.undo()
    assert (await search(service)).code == "OK"


async def test_the_record_is_durable_before_the_answer_leaves(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the record is not written the answer waits."""
    written, release = asyncio.Event(), asyncio.Event()
    append = service.audit.append

    async def slow(entry: Record) -> object:
        written.set()
        await release.wait()
        return await append(entry)

    monkeypatch.setattr(service.audit, "append", slow)
    answer = asyncio.ensure_future(search(service))
    await written.wait()
    await asyncio.sleep(0)

    assert not answer.done()
    release.set()
    assert (await answer).code == "OK"


async def test_a_record_names_each_passage_and_why_it_was_allowed(service: Service) -> None:
    """The record of an answer holds caller, decision and passages by id and hash, and neither text nor query."""
    outcome = await search(service)
    response = retrieval_pb2.SearchResponse.FromString(outcome.message)

    (found,) = [body for body in records(service) if body.get("response_id") == response.response_id]

    hit = response.hits[0].chunk
    assert found["rpc"] == "remit.v1.RetrievalService/Search"
    assert found["code"] == "OK"
    assert isinstance(found["actor"], dict)
    assert found["actor"]["account"] == "u-1001"
    assert isinstance(found["returned"], list)
    (passage,) = found["returned"]
    assert passage["chunk_id"] == hit.chunk_id
    assert passage["document_id"] == hit.document.document_id
    assert passage["content_sha256"] == hit.content_sha256.hex()
    assert [match["principal"] for match in passage["matches"]] == ["posix:corp:other", SALES.token]
    assert passage["score_e6"] == round(response.hits[0].score * 1e6)
    text = json.dumps(found)
    assert "plan of sales" not in text
    assert "canary-query" not in text


async def test_a_document_of_many_passages_has_records_that_name_them_all(service: Service) -> None:
    """What does not fit into one record stands in several with one id, and none is left out."""
    service.add("long", "\n\n".join(f"passage {number}" for number in range(2500)), allow(SALES))
    service.sync()
    request = retrieval_pb2.GetDocumentRequest(document_id=service.document_ids()["long"])

    outcome = await service.call("RetrievalService/GetDocument", request, token=service.token("alice"))

    response = retrieval_pb2.GetDocumentResponse.FromString(outcome.message)
    parts = [body["returned"] for body in records(service) if body.get("response_id") == response.response_id]
    named = [passage for part in parts for passage in part]  # type: ignore[attr-defined]  # lists, by the format
    assert len(parts) == 3
    assert [(one["rank"], one["chunk_id"]) for one in named] == [
        (rank, chunk.chunk_id) for rank, chunk in enumerate(response.chunks, 1)
    ]


async def test_refusals_are_recorded_with_what_was_asked(service: Service) -> None:
    """A document that was not found and a credential that did not verify leave records, too."""
    hidden = service.document_ids()["finance"]
    request = retrieval_pb2.GetDocumentRequest(document_id=hidden)

    await service.call("RetrievalService/GetDocument", request, token=service.token("alice"))
    await service.call("RetrievalService/GetDocument", request, token="forged")

    refused = [body for body in records(service) if body.get("rpc") == "remit.v1.RetrievalService/GetDocument"]
    assert [(b["code"], b["reason"], b.get("target"), b["returned"]) for b in refused] == [
        ("NOT_FOUND", "NOT_FOUND", hidden, []),
        ("UNAUTHENTICATED", "UNAUTHENTICATED", None, []),
    ]
    assert "actor" in refused[0]
    assert "actor" not in refused[1]
    assert refused[1]["detail"] == "not a bearer token"


async def test_a_call_past_its_deadline_is_refused_without_content(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service ends a call at its method's longest, also when the caller asked for more."""
    release = threading.Event()
    monkeypatch.setattr(service.retrieval_core, "search", lambda *_: release.wait(30))
    monkeypatch.setattr("service.api.wrapper._seconds", lambda rule, context: 0.05)
    try:
        outcome = await search(service)
    finally:
        release.set()

    assert (outcome.code, info(outcome)[0], outcome.message) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", b"")


@pytest.mark.parametrize(("remaining", "expected"), [(None, 30.0), (5.0, 5.0), (7200.0, 60.0), (-1.0, -1.0)])
def test_deadlines_are_the_calls_own_up_to_the_methods_longest(remaining: float | None, expected: float) -> None:
    """A call without a deadline gets the default; one with too much of it gets the longest."""

    @dataclass
    class Context:
        def time_remaining(self) -> float | None:
            return remaining

    assert _seconds(Rule(None), Context()) == expected  # type: ignore[arg-type]  # the one method that is used


class _NoSearch:
    """A servicer that lacks a method."""

    async def GetDocument(self, request: Message, call: Call) -> Reply:
        raise NotImplementedError

    BatchGetChunks = GetDocument


def _wrapper(service: Service, rules: dict[str, Rule]) -> Wrapper:
    none: object = None
    return Wrapper(
        authenticator=none,  # type: ignore[arg-type]  # never asked
        callers=none,  # type: ignore[arg-type]
        auditor=none,  # type: ignore[arg-type]
        gate=none,  # type: ignore[arg-type]
        executor=service.executor,
        rules=rules,
    )


async def test_a_method_without_a_row_or_a_handler_is_a_start_error(service: Service) -> None:
    """Nothing is served that nobody decided about."""
    servicer = RetrievalServicer(service.retrieval_core, service.executor)
    without = {name: rule for name, rule in METHODS.items() if not name.endswith("/Search")}

    with pytest.raises(StartError, match=r"RetrievalService/Search.*no row"):
        _wrapper(service, without).handlers(CALLER_SERVICES[0], servicer)
    with pytest.raises(StartError, match=r"RetrievalService/Search.*no handler"):
        _wrapper(service, METHODS).handlers(CALLER_SERVICES[0], _NoSearch())
    assert _wrapper(service, METHODS).handlers(CALLER_SERVICES[0], servicer) is not None


async def test_a_stream_ends_with_the_credential_that_opened_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch is cut off when its token expires, and its source of messages is closed."""
    closed = asyncio.Event()
    token = service.token("olga")

    async def endless(self: SourceServicer, run: object) -> AsyncGenerator[Message]:
        try:
            # The clock reaches the token's end while the first message is under way.
            yield source_pb2.WatchSyncRunResponse()
            await asyncio.Event().wait()
        finally:
            closed.set()

    run = service.engine.run("company")
    monkeypatch.setattr(SourceServicer, "_watch", endless)
    service.clock.advance(timedelta(minutes=16) - timedelta(milliseconds=50))
    request = source_pb2.WatchSyncRunRequest(run_id=run.run_id)

    outcome = await service.call("SourceService/WatchSyncRun", request, token=token)

    assert (outcome.code, info(outcome)[0]) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    await closed.wait()


async def test_what_does_not_fit_is_refused_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """More work than the executor admits gets RESOURCE_EXHAUSTED; when there is room again, an answer."""
    monkeypatch.setattr(service.executor, "_limit", 0)
    outcome = await search(service)
    assert (outcome.code, info(outcome)[0]) == ("RESOURCE_EXHAUSTED", "OVERLOADED")

    monkeypatch.undo()
    assert (await search(service)).code == "OK"


async def test_the_executor_admits_no_more_than_it_was_told() -> None:
    """What runs and what waits together have a bound, and a place is free again when its work has ended."""
    executor = Executor(threads=1, waiting=1)
    release = threading.Event()
    running = [asyncio.ensure_future(executor.run(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(OverloadedError):
        await executor.run(int)
    release.set()
    await asyncio.gather(*running)

    assert await executor.run(int) == 0
    executor.close()
