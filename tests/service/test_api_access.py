"""AccessService: what a caller learns of its own access, and that it learns nothing else."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from remit.v1 import access_pb2, retrieval_pb2

from acl.model import Clause, Effect, Rule, Unknown
from tests.service.harness import ALICE, BOB, FINANCE, PEOPLE, SALES, Outcome, Service, allow, serving


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Documents for Sales, for Finance, for Alice alone, and one whose rules are not understood."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.add("own", "the plan of alice", allow(ALICE))
        running.add("odd", "the plan of nobody", Unknown("of an unknown kind"))
        running.sync()
        yield running


async def check(service: Service, *document_ids: str, by: str = "alice") -> Outcome:
    """Ask about documents."""
    request = access_pb2.CheckAccessRequest(document_ids=document_ids)
    return await service.call("AccessService/CheckAccess", request, token=service.token(by))


async def listed(service: Service, by: str = "alice", size: int = 0, token: str = "") -> Outcome:
    """Ask for a page."""
    request = access_pb2.ListReadableDocumentsRequest(page_size=size, page_token=token)
    return await service.call("AccessService/ListReadableDocuments", request, token=service.token(by))


def page(outcome: Outcome) -> access_pb2.ListReadableDocumentsResponse:
    """A page that came back."""
    assert outcome.code == "OK", outcome
    return access_pb2.ListReadableDocumentsResponse.FromString(outcome.message)


def readable(outcome: Outcome) -> list[bool]:
    """What a check said."""
    assert outcome.code == "OK", outcome
    return [one.readable for one in access_pb2.CheckAccessResponse.FromString(outcome.message).checks]


async def test_checking_listing_and_reading_agree(tmp_path: Path) -> None:
    """Over random rules: a document is readable by the check, in the list, and returned, or none of the three."""
    drawn = random.Random(20261125)
    async with serving(tmp_path / "remit") as service:
        for number in range(30):
            rules = [
                Rule(
                    drawn.choice(list(Effect)),
                    frozenset(drawn.sample([ALICE, BOB, SALES, FINANCE], drawn.randint(1, 2))),
                )
                for _ in range(drawn.randint(0, 3))
            ]
            service.add(f"d{number}", f"plan {number}", Clause(tuple(rules)))
        service.sync()
        ids = service.document_ids()
        for name in ("alice", "bob"):
            checked = dict(zip(ids.values(), readable(await check(service, *ids.values(), by=name)), strict=True))
            everything = {one.document_id for one in page(await listed(service, name)).documents}
            read = set()
            for document_id in ids.values():
                request = retrieval_pb2.GetDocumentRequest(document_id=document_id)
                got = await service.call("RetrievalService/GetDocument", request, token=service.token(name))
                read |= {document_id} if got.code == "OK" else set()

            assert {one for one, yes in checked.items() if yes} == everything == read
            assert 0 < len(read) < len(ids)


async def test_hidden_and_absent_are_one_answer(tmp_path: Path) -> None:
    """The bytes of a check are the same but for the id that was asked, those of an explanation are the same."""
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as service:
        service.add("sales", "the plan of sales", allow(SALES))
        service.add("finance", "the plan of finance", allow(FINANCE))
        service.sync()
        ids = service.document_ids()
        absent = "A" * len(ids["finance"])

        hidden = await check(service, ids["finance"])
        assert (
            hidden.message.replace(ids["finance"].encode(), absent.encode()) == (await check(service, absent)).message
        )
        assert readable(await check(service, ids["finance"], absent, ids["sales"])) == [False, False, True]

        async def explain(document_id: str) -> Outcome:
            request = access_pb2.ExplainAccessRequest(document_id=document_id)
            return await service.call("AccessService/ExplainAccess", request, token=service.token("alice"))

        assert await explain(ids["finance"]) == await explain(absent)
        assert (await explain(absent)).code == "NOT_FOUND"
        assert (await explain(ids["sales"])).code == "OK"


async def test_an_explanation_names_every_clause_and_the_path(service: Service) -> None:
    """The container's clause and the document's own, each with the principal and how it is held; and when verified."""
    request = access_pb2.ExplainAccessRequest(document_id=service.document_ids()["sales"])
    outcome = await service.call("AccessService/ExplainAccess", request, token=service.token("alice"))
    found = access_pb2.ExplainAccessResponse.FromString(outcome.message)

    assert found.document.location == "sales"
    assert found.explanation.allowed
    assert [(one.clause, one.principal, list(one.path)) for one in found.explanation.clauses] == [
        ("/", "posix:corp:other", ["alice"]),
        ("own", "posix:corp:gid-20101", ["alice", "sales"]),
    ]
    assert [bool(one.scope) for one in found.explanation.clauses] == [True, False]
    assert not any(one.remedies for one in found.explanation.clauses)
    assert found.explanation.permissions_verified_at.ToDatetime() == service.clock().replace(tzinfo=None)


async def test_pages_hold_everything_once_and_belong_to_their_caller(service: Service) -> None:
    """Page by page the same as at once; another's token, another question's and a changed one are refused."""
    at_once = [one.document_id for one in page(await listed(service)).documents]
    first = page(await listed(service, size=1))
    second = page(await listed(service, size=1, token=first.next_page_token))

    assert len(at_once) == 2
    assert [one.document_id for one in (*first.documents, *second.documents)] == at_once
    assert second.next_page_token == ""
    token = first.next_page_token
    other = access_pb2.ListReadableDocumentsRequest(sources=["company"], page_token=token)
    refused = [
        await listed(service, by="bob", size=1, token=token),
        await listed(service, token=token[:-2] + ("AA" if token[-2:] != "AA" else "BB")),
        await service.call("AccessService/ListReadableDocuments", other, token=service.token("alice")),
    ]
    assert {one.code for one in refused} == {"INVALID_ARGUMENT"}


async def test_a_list_does_not_depend_on_hidden_documents(tmp_path: Path) -> None:
    """Not in what it holds, not in where its pages end, not in how long its tokens are."""
    found = []
    for hidden in (0, 120):
        async with serving(tmp_path / str(hidden), new_id=lambda: "fixed") as service:
            for number in range(hidden):
                service.add(f"a{number}", f"finance {number}", allow(FINANCE))
            for number in range(3):
                service.add(f"b{number}", f"sales {number}", allow(SALES))
            service.sync()
            pages, token = [], ""
            while True:
                answer = page(await listed(service, size=2, token=token))
                pages.append(([one.location for one in answer.documents], len(answer.next_page_token)))
                token = answer.next_page_token
                if not token:
                    break
            found.append(pages)

    assert found[0] == found[1]
    assert sum(len(names) for names, _ in found[0]) == 3


async def test_a_revocation_is_in_force_on_the_next_question(service: Service) -> None:
    """Who leaves a group is told false by the next check, and the next page is without it."""
    ids = service.document_ids()
    assert readable(await check(service, ids["sales"], ids["own"])) == [True, True]

    service.people(PEOPLE.replace("groups: [sales]", "groups: []").replace("gid: 20101, groups", "gid: 20199, groups"))

    assert readable(await check(service, ids["sales"], ids["own"])) == [False, True]
    assert [one.location for one in page(await listed(service)).documents] == ["own"]


async def test_what_is_stale_or_has_no_text_is_not_readable(service: Service) -> None:
    """Past the limit nothing is, by the check as by the list; and the answer names the source, as it was readable."""
    ids = service.document_ids()
    service.clock.advance(timedelta(hours=25))

    outcome = await check(service, ids["sales"], ids["odd"])
    assert readable(outcome) == [False, False]
    answer = access_pb2.CheckAccessResponse.FromString(outcome.message)
    assert [(one.source, one.withheld) for one in answer.freshness.sources] == [("company", True)]
    assert list(page(await listed(service)).documents) == []


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("CheckAccess", access_pb2.CheckAccessRequest(), b"document_ids"),
        ("CheckAccess", access_pb2.CheckAccessRequest(document_ids=["x"] * 101), b"document_ids"),
        ("CheckAccess", access_pb2.CheckAccessRequest(document_ids=["x" * 65]), b"document_ids"),
        ("ExplainAccess", access_pb2.ExplainAccessRequest(), b"document_id"),
        ("ListReadableDocuments", access_pb2.ListReadableDocumentsRequest(page_size=1001), b"page_size"),
        ("ListReadableDocuments", access_pb2.ListReadableDocumentsRequest(page_size=-1), b"page_size"),
        ("ListReadableDocuments", access_pb2.ListReadableDocumentsRequest(sources=["x"] * 33), b"sources"),
        ("ListReadableDocuments", access_pb2.ListReadableDocumentsRequest(page_token="x" * 600), b"page_token"),
    ],
)  # fmt: skip
async def test_what_is_outside_its_range_is_refused_by_name(
    service: Service, method: str, request_: access_pb2.CheckAccessRequest, field: bytes
) -> None:
    """INVALID_ARGUMENT, with the field."""
    outcome = await service.call(f"AccessService/{method}", request_, token=service.token("alice"))

    assert outcome.code == "INVALID_ARGUMENT"
    assert field in dict(outcome.trailing)["grpc-status-details-bin"]
