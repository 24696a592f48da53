"""Ids that are guessed, swapped, of another kind, of another source; page tokens of somebody else; unlisted sources."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from remit.v1 import audit_pb2, retrieval_pb2

from service.api.methods import METHODS
from tests.service.harness import COMPANY, FINANCE, PEOPLE, SALES, Outcome, Service, allow, serving
from tests.service.test_api_matrix import _REQUESTS

_SEED = 20261125


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Alice reads one document, Bob the other; every answer has the same id."""
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the kestrel plan of finance", allow(FINANCE))
        running.sync()
        yield running


async def document(service: Service, document_id: str, who: str = "alice") -> Outcome:
    """Ask for a document."""
    request = retrieval_pb2.GetDocumentRequest(document_id=document_id)
    return await service.call("RetrievalService/GetDocument", request, token=service.token(who))


async def chunks(service: Service, *chunk_ids: str, who: str = "alice") -> Outcome:
    """Ask for passages."""
    request = retrieval_pb2.BatchGetChunksRequest(chunk_ids=chunk_ids)
    return await service.call("RetrievalService/BatchGetChunks", request, token=service.token(who))


def near(real: str, other: str) -> Iterator[str]:
    """Ids that are nearly a real one."""
    random_ = random.Random(_SEED)
    yield from (real.upper(), real.lower(), real.swapcase(), real[:-1], real[1:], real + "A", real + " ", " " + real)
    yield from (real + "\0", "\0" + real, real + "\n", real + "%00", real + "' OR '1'='1", "%", "_" * len(real), "*")
    yield from (f"{real}/../{other}", f"{other}/{real}", f"{real},{other}", real.replace(real[0], "а", 1))
    yield from ("".join(random_.sample(real, len(real))) for _ in range(20))
    yield from (real[:i] + random_.choice("abcXYZ019-_") + real[i + 1 :] for i in range(len(real)))


async def test_ids_near_a_hidden_one_are_as_absent_as_any(service: Service) -> None:
    """Other cases, cuts, wildcards, terminators, look-alikes, a character changed: the bytes of an id that never was.

    Bob's own id opens for Bob, and none of those near it does.
    """
    ids = service.document_ids()
    hidden, mine = ids["finance"], ids["sales"]
    absent = await document(service, "A" * len(hidden))

    assert absent.code == "NOT_FOUND"
    assert await document(service, hidden) == absent
    for guess in near(hidden, mine):
        outcome = await document(service, guess)
        if len(guess.encode()) <= 64:
            assert outcome == absent, guess
        if guess not in (hidden, mine):
            assert (await document(service, guess, who="bob")).code != "OK", guess
    assert (await document(service, hidden, who="bob")).code == "OK"
    assert (await document(service, mine)).code == "OK"


async def test_an_id_of_one_kind_opens_nothing_of_another(service: Service) -> None:
    """Ids of documents, passages, runs, answers and places, each in every field that takes an id."""
    run = service.engine.run(COMPANY).run_id
    hidden = service.document_ids()["finance"]
    (passage,) = service.chunk_ids("finance")
    absent, none = await document(service, "x"), await chunks(service, "x")

    for other in (hidden, passage, run, "fixed", "finance", "/finance", f"{COMPANY}/finance", f"{COMPANY}:finance"):
        assert await document(service, other) == absent, other
        assert await chunks(service, other) == none, other
    assert (await document(service, passage, who="bob")).code == "NOT_FOUND"
    assert await chunks(service, hidden, who="bob") == await chunks(service, "x", who="bob")
    assert b"kestrel" in (await chunks(service, passage, who="bob")).message


async def test_hidden_passages_among_readable_ones_change_nothing(service: Service) -> None:
    """Their number, their order and their repetition: an answer with them is that with absent ones."""
    (mine,), (hidden,) = service.chunk_ids("sales"), service.chunk_ids("finance")

    for order in ([mine, hidden], [hidden, mine], [hidden] * 50 + [mine] + [hidden] * 49, [hidden] * 100):
        absent = ["A" * len(hidden) if one == hidden else one for one in order]
        found = await chunks(service, *order)
        assert found == await chunks(service, *absent)
        assert b"kestrel" not in found.message
    assert b"plan of sales" in (await chunks(service, hidden, mine)).message


async def test_a_source_that_cannot_be_listed_is_one_that_does_not_exist(tmp_path: Path) -> None:
    """Asked for by name, a source in which she reads nothing gives Alice the bytes of one that never was.

    Nor do the ages in any of her answers name it; Bob, who reads in it, gets its passages and its age.
    """
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as service:
        service.add("finance", "the kestrel plan of finance", allow(FINANCE))
        service.sync()

        async def search(*sources: str, who: str) -> Outcome:
            request = retrieval_pb2.SearchRequest(query="plan", sources=sources)
            return await service.call("RetrievalService/Search", request, token=service.token(who))

        listed = await search(COMPANY, who="alice")
        for other in ("absent", COMPANY.upper(), f"{COMPANY} ", f"{COMPANY}\0", f"{COMPANY}' OR 1=1", "*", ""):
            assert await search(other, who="alice") == listed, other
        assert await search(who="alice") == listed
        caller = await service.call("AccessService/GetCaller", token=service.token("alice"))
        for outcome in (listed, caller):
            assert COMPANY.encode() not in outcome.message
        theirs = await search(COMPANY, who="bob")
        assert b"kestrel" in theirs.message
        assert COMPANY.encode() in theirs.message


async def test_every_list_with_pages_refuses_the_token_of_another_caller(service: Service) -> None:
    """Each method whose request has a page token: one of another caller, changed in one bit, of another method.

    A new list joins by its descriptor. Its own caller goes on with it.
    """
    service.people(PEOPLE.replace("groups: [content-auditors]", "groups: [auditors]"))
    for _ in range(5):
        await document(service, "x")
    lists = [name for name, request in _REQUESTS.items() if "page_token" in request.DESCRIPTOR.fields_by_name]
    assert "AuditService/ListAuditRecords" in lists
    request = audit_pb2.ListAuditRecordsRequest(page_size=2)
    first = await service.call("AuditService/ListAuditRecords", request, token=service.token("adam"))
    good = audit_pb2.ListAuditRecordsResponse.FromString(first.message).next_page_token
    assert good
    request.page_token = good
    assert (await service.call("AuditService/ListAuditRecords", request, token=service.token("adam"))).code == "OK"
    bad = [good[:i] + ("A" if good[i] != "A" else "B") + good[i + 1 :] for i in range(0, len(good), 7)]
    for method in lists:
        made = type(_REQUESTS[method])()
        made.CopyFrom(_REQUESTS[method])
        for who in ("adam", "carla", "alice", "olga"):
            if who == "adam" and method == "AuditService/ListAuditRecords":
                continue
            for token in (good, *bad[:2]):
                made.page_token = token  # type: ignore[attr-defined]  # of every request in `lists`
                outcome = await service.call(method, made, token=service.token(who))
                assert outcome.code in {"INVALID_ARGUMENT", "PERMISSION_DENIED"}, (method, who)
    for token in bad:
        request.page_token = token
        outcome = await service.call("AuditService/ListAuditRecords", request, token=service.token("adam"))
        assert outcome.code == "INVALID_ARGUMENT", token


def test_no_method_for_everybody_takes_a_person() -> None:
    """Identity comes from the credential: no request that every caller may send has a field that names somebody."""
    named = ("user", "person", "subject", "account", "principal", "caller", "group", "role", "on_behalf")

    for method, rule in METHODS.items():
        if rule.role is None:
            fields = _REQUESTS[method.removeprefix("remit.v1.")].DESCRIPTOR.fields_by_name
            assert not [field for field in fields if any(word in field for word in named)], method
