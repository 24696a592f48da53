"""The typed client against a real service: values, errors, and that a token never travels where it must not."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import remit.client
from remit.client import (
    AdminClient,
    AsyncClient,
    Client,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    RemitError,
    RoleRequiredError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
)

from service.errors import SearchUnavailableError
from service.limits import CallLimits
from tests.service.harness import FINANCE, SALES, Service, allow, serving


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with a document for Sales and one for Finance."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "# Sales\n\nthe plan of sales", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.sync()
        yield running


def blocking(service: Service, name: str = "alice") -> Client:
    """A blocking client."""
    return Client(str(service.callers), token=service.token(name), insecure_loopback=True)


async def test_both_clients_return_the_same_values(service: Service) -> None:
    """The client for threads and the one for event loops agree on every method."""
    document_id, chunk_ids = service.document_ids()["sales"], service.chunk_ids("sales")

    def block() -> list[object]:
        with blocking(service) as client:
            return [
                client.search("plan", limit=3, explain=True),
                client.get_document(document_id),
                client.batch_get_chunks(chunk_ids),
                client.get_caller(),
                client.check_access([document_id, "x"]),
                client.explain_access(document_id),
                client.list_readable_documents(),
            ]

    first = await asyncio.to_thread(block)
    async with service.client("alice") as client:
        second = [
            await client.search("plan", limit=3, explain=True),
            await client.get_document(document_id),
            await client.batch_get_chunks(chunk_ids),
            await client.get_caller(),
            await client.check_access([document_id, "x"]),
            await client.explain_access(document_id),
            await client.list_readable_documents(),
        ]

    same = [dataclasses.replace(one, response_id="") for one in first]  # type: ignore[type-var]  # all dataclasses
    assert same == [dataclasses.replace(one, response_id="") for one in second]  # type: ignore[type-var]
    search, document, chunks, caller, checks, explained, page = second
    assert isinstance(checks, remit.client.AccessChecks)
    assert checks.readable == {document_id: True, "x": False}
    assert isinstance(explained, remit.client.ExplainedDocument)
    assert [one.path for one in explained.explanation.clauses] == [("alice",), ("alice", "sales")]
    assert isinstance(page, remit.client.DocumentPage)
    assert page.documents == (explained.document,)
    assert isinstance(document, remit.client.DocumentText)
    assert isinstance(chunks, remit.client.Chunks)
    assert document.chunks == chunks.chunks
    assert [chunk.text for chunk in document.chunks] == ["# Sales", "the plan of sales"]
    assert isinstance(search, remit.client.SearchResult)
    assert {hit.chunk for hit in search.hits} == set(document.chunks)
    assert isinstance(caller, remit.client.Caller)
    assert (caller.subject, caller.display_name, caller.roles) == ("u-1001", "Alice Ahlgren", ())
    assert (SALES.token, ("alice", "sales")) in [(held.token, held.path) for held in caller.principals]


async def test_errors_are_typed_and_speak_to_people(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recovery has its class, the message is a sentence, and no error of gRPC comes through."""
    async with service.client("alice") as client:
        with pytest.raises(InvalidRequestError, match="`query` is outside") as invalid:
            await client.search(" ")
        assert (invalid.value.field, invalid.value.reason) == ("query", "INVALID_ARGUMENT")
        with pytest.raises(NotFoundError, match="or you may not read it"):
            await client.get_document(service.document_ids()["finance"])
        monkeypatch.setattr(service.index, "search", _unavailable)
        with pytest.raises(UnavailableError, match="index or the model") as unavailable:
            await client.search("plan")
        assert unavailable.value.reason == "SEARCH_UNAVAILABLE"
        assert unavailable.value.__cause__ is None
    async with AsyncClient(str(service.callers), token="x.y.z", insecure_loopback=True) as client:
        with pytest.raises(UnauthenticatedError, match="missing, expired or not for this service"):
            await client.get_caller()

    def administer() -> None:
        with (
            AdminClient(str(service.administrators), token=service.token("alice"), insecure_loopback=True) as admin,
            pytest.raises(RoleRequiredError, match="`operator`") as refused,
        ):
            admin.list_sources()
        assert refused.value.role == "operator"

    await asyncio.to_thread(administer)


def _unavailable(*_: object, **__: object) -> None:
    raise SearchUnavailableError("gone")


async def test_nobody_at_the_address_is_one_sentence() -> None:
    """Without a service the error says what to look at."""
    async with AsyncClient("127.0.0.1:1", token="x", insecure_loopback=True, timeout_s=5) as client:
        with pytest.raises(UnreachableError, match=r"no Remit answers at 127\.0\.0\.1:1"):
            await client.search("plan")


async def test_a_token_may_be_a_function_that_is_asked_for_every_call(service: Service) -> None:
    """A fresh token goes with each call."""
    asked: list[str] = []

    def token() -> str:
        asked.append("alice" if not asked else "bob")
        return service.token(asked[-1])

    async with AsyncClient(str(service.callers), token=token, insecure_loopback=True) as client:
        names = [(await client.get_caller()).display_name for _ in range(2)]

    assert names == ["Alice Ahlgren", "Bob Borg"]


@pytest.mark.parametrize("client", [Client, AsyncClient, AdminClient])
@pytest.mark.parametrize("address", ["192.0.2.1:7420", "remit.example:7420", "0.0.0.0:7420", "127.0.0.1.example:7420"])
def test_a_token_never_crosses_a_network_in_plaintext(client: type[Client], address: str) -> None:
    """Without TLS only this machine's loopback is an address."""
    with pytest.raises(ValueError, match="without TLS"):
        client(address, token="x", insecure_loopback=True)


@pytest.mark.parametrize("address", ["127.0.0.1:7420", "[::1]:7420", "localhost:7420"])
def test_loopback_is_an_address_without_tls(address: str) -> None:
    """The allowed neighbours of the refusals above."""
    with Client(address, token="x", insecure_loopback=True) as allowed:
        assert isinstance(allowed, Client)


def test_no_method_takes_a_user_or_a_filter() -> None:
    """Who asks is proved by the token, and what may be read is decided by the service."""
    found: dict[str, set[str]] = {}
    for client in (Client, AsyncClient):
        for name, method in inspect.getmembers(client, inspect.isfunction):
            if not name.startswith("_"):
                found.setdefault(name, set()).update(set(inspect.signature(method).parameters) - {"self"})

    assert found == {
        "search": {"query", "limit", "sources", "explain", "mode", "exact", "approximate"},
        "get_document": {"document_id"},
        "batch_get_chunks": {"chunk_ids"},
        "get_caller": set(),
        "check_access": {"document_ids"},
        "explain_access": {"document_id"},
        "list_readable_documents": {"sources", "page_size", "page_token"},
        "close": set(),
    }


def test_everything_public_is_exported() -> None:
    """What the package names exists, and every error is a RemitError."""
    assert all(hasattr(remit.client, name) for name in remit.client.__all__)
    errors = [getattr(remit.client, name) for name in remit.client.__all__ if name.endswith("Error")]
    assert len(errors) == 13
    assert all(issubclass(error, RemitError) for error in errors)


async def test_the_example_of_the_readme_runs(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """The ten lines of the README print a passage."""
    text = (Path(__file__).parents[2] / "client" / "README.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    code = found[1].replace("127.0.0.1:7420", str(service.callers))

    await asyncio.to_thread(exec, code, {"my_token": service.token("alice")})

    assert "the plan of sales" in capsys.readouterr().out
    assert len(found[1].strip().splitlines()) <= 10


async def test_what_may_pass_is_tried_again_and_what_changes_something_is_not(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that the index refuses twice is answered; a sync that fails is not started twice."""
    real, asked = service.index.search, [0]

    def at_times(*args: object, **options: object) -> object:
        asked[0] += 1
        if asked[0] <= 2:
            raise SearchUnavailableError("gone")
        return real(*args, **options)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(service.index, "search", at_times)
    async with service.client("alice") as client:
        assert (await client.search("plan")).hits
    assert asked[0] > 2

    started = [0]

    def failing(*_: object) -> None:
        started[0] += 1
        raise SearchUnavailableError("gone")

    monkeypatch.setattr(service.sources, "start", failing)

    def administer() -> None:
        with (
            AdminClient(str(service.administrators), token=service.token("olga"), insecure_loopback=True) as admin,
            pytest.raises(UnavailableError),
        ):
            admin.start_sync("company")

    await asyncio.to_thread(administer)
    assert started[0] == 1


async def test_a_limit_is_a_typed_error_with_the_time_to_wait(tmp_path: Path) -> None:
    """The limit is named."""
    async with serving(tmp_path / "remit", limits=CallLimits(calls_per_second=1, burst=1)) as service:
        async with service.client("alice") as client:
            calls = [client.get_caller() for _ in range(5)]
            with pytest.raises(RateLimitedError, match="calls_per_second") as limited:
                await asyncio.gather(*calls)
        assert 0 < limited.value.retry_s <= 1.0
