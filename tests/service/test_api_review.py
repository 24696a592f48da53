"""ReviewService: what administrators are told of others, what they are not, and that it is recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.message import Message
from remit.v1 import access_pb2, audit_pb2, review_pb2

from acl.model import Clause, Effect, Rule, Unknown
from acl.principal import Principal
from connectors.base import own_realm
from service.access import checks
from service.identity.roles import Roles, owner_of
from tests.service.harness import ALICE, FINANCE, PEOPLE, SALES, Outcome, Service, allow, serving

CANARY = "kestrel"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Documents for Sales, for Finance but not for Bob, and one whose rules are not understood."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", f"# {CANARY}\n\nthe plan of sales {CANARY}", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.add("odd", "the plan of nobody", Unknown("of an unknown kind"))
        running.sync()
        yield running


async def ask(service: Service, method: str, request: Message, by: str = "rita") -> Outcome:
    """Ask as the administrator of access."""
    return await service.call(f"ReviewService/{method}", request, token=service.token(by))


async def explain(service: Service, user: str, document_id: str) -> review_pb2.ExplainUserAccessResponse:
    """Ask why."""
    request = review_pb2.ExplainUserAccessRequest(user=review_pb2.UserRef(user=user), document_id=document_id)
    outcome = await ask(service, "ExplainUserAccess", request)
    assert outcome.code == "OK", outcome
    return review_pb2.ExplainUserAccessResponse.FromString(outcome.message)


async def test_a_person_is_found_by_name_and_by_id(service: Service) -> None:
    """Both name one account; and what is said of it is what it would be told itself."""
    ids = service.document_ids()
    for user in ("bob", "u-1002"):
        request = review_pb2.CheckUserAccessRequest(
            user=review_pb2.UserRef(user=user), document_ids=[ids["sales"], ids["finance"], "x"]
        )
        found = review_pb2.CheckUserAccessResponse.FromString((await ask(service, "CheckUserAccess", request)).message)
        own = await service.call(
            "AccessService/CheckAccess",
            access_pb2.CheckAccessRequest(document_ids=request.document_ids),
            token=service.token("bob"),
        )

        assert (found.user.directory, found.user.account, found.user.display_name) == ("people", "u-1002", "Bob Borg")
        assert [one.readable for one in found.checks] == [False, True, False]
        assert list(found.checks) == list(access_pb2.CheckAccessResponse.FromString(own.message).checks)


async def test_a_denial_is_explained_with_what_would_open_it(service: Service) -> None:
    """The container lets Bob pass, the document's own clause does not, and one of its principals would do."""
    found = await explain(service, "bob", service.document_ids()["sales"])

    assert not found.explanation.allowed
    assert found.explanation.reason == access_pb2.ACCESS_REASON_NO_RULE
    assert (found.document.location, found.document.source) == ("sales", "company")
    root, own = found.explanation.clauses
    assert (root.passed, root.principal, root.rule) == (True, "posix:corp:other", 0)
    assert (own.passed, own.HasField("rule"), own.rules) == (False, False, 1)
    assert [list(one.hold_one_of) for one in own.remedies] == [[SALES.token]]


async def test_an_allowance_is_explained_with_the_path_of_groups(service: Service) -> None:
    """Bob is in `fin-emea`, which is in `finance`."""
    found = await explain(service, "bob", service.document_ids()["finance"])

    assert found.explanation.allowed
    assert list(found.explanation.clauses[1].path) == ["bob", "fin-emea", "finance"]


async def test_a_deny_rule_names_the_group_to_leave(service: Service) -> None:
    """And an expiry is shown."""
    until = service.clock() + timedelta(days=1)
    rules = (Rule(Effect.DENY, frozenset({SALES}), until), Rule(Effect.ALLOW, frozenset({ALICE})))
    service.add("denied", "text", Clause(rules))
    service.sync()

    own = (await explain(service, "alice", service.document_ids()["denied"])).explanation.clauses[1]

    assert (own.reason, own.rule, own.principal) == (access_pb2.ACCESS_REASON_DENY_RULE, 0, SALES.token)
    assert list(own.path) == ["alice", "sales"]
    assert own.rule_expires_at.ToDatetime() == until.replace(tzinfo=None)
    assert [(list(one.leave), list(one.hold_one_of)) for one in own.remedies] == [([SALES.token], [])]


async def test_what_is_withheld_from_everybody_says_why(service: Service) -> None:
    """Rules that are not understood, and rules that are too old; the clauses are shown for those that are known."""
    odd = (await explain(service, "alice", service.document_ids()["odd"])).explanation
    assert (odd.allowed, odd.reason) == (False, access_pb2.ACCESS_REASON_UNKNOWN_RULES)
    assert "unknown kind" in odd.detail
    assert list(odd.clauses) == []

    service.clock.advance(timedelta(hours=25))
    old = (await explain(service, "alice", service.document_ids()["sales"])).explanation
    assert (old.allowed, old.reason) == (False, access_pb2.ACCESS_REASON_STALE)
    assert [one.passed for one in old.clauses] == [True, True]
    assert old.max_permissions_age.ToTimedelta() == timedelta(hours=24)


async def test_no_answer_has_a_title_or_a_text(service: Service) -> None:
    """The title stands in the document, so it is content; where the document stands is not."""
    ids = service.document_ids()
    user = review_pb2.UserRef(user="alice")
    answers = [
        await ask(
            service, "ExplainUserAccess", review_pb2.ExplainUserAccessRequest(user=user, document_id=ids["sales"])
        ),
        await ask(service, "ListUserDocuments", review_pb2.ListUserDocumentsRequest(user=user)),
    ]

    assert {one.code for one in answers} == {"OK"}
    assert all(CANARY.encode() not in one.message for one in answers)
    listed = review_pb2.ListUserDocumentsResponse.FromString(answers[1].message)
    assert [one.location for one in listed.documents] == ["sales"]


@pytest.mark.parametrize(
    ("user", "directory", "document", "what"),
    [
        ("nobody", "", "sales", b"user"),
        ("alice", "elsewhere", "sales", b"directory"),
        ("alice", "people", "", b"document"),
    ],
)
async def test_what_was_not_found_is_named(
    service: Service, user: str, directory: str, document: str, what: bytes
) -> None:
    """An administrator is told which of the two it was: a disabled account is nobody, too."""
    document_id = service.document_ids().get(document, "absent")
    request = review_pb2.ExplainUserAccessRequest(
        user=review_pb2.UserRef(user=user, directory=directory), document_id=document_id
    )

    outcome = await ask(service, "ExplainUserAccess", request)

    details = dict(outcome.trailing)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    assert outcome.code == "NOT_FOUND"
    assert b"what" in details
    assert what in details


async def test_a_disabled_account_is_not_found(service: Service) -> None:
    """Nobody can call as that person, so there is nothing to explain."""
    service.people(PEOPLE.replace("groups: [sales]}", "groups: [sales], enabled: false}"))
    request = review_pb2.CheckUserAccessRequest(user=review_pb2.UserRef(user="alice"), document_ids=["x"])

    assert (await ask(service, "CheckUserAccess", request)).code == "NOT_FOUND"


async def test_questions_about_somebody_are_in_the_log_under_both(service: Service) -> None:
    """Who asked, about whom, about which document, and the answer; found by either person and by the document."""
    document_id = service.document_ids()["finance"]
    await explain(service, "bob", document_id)

    for person, document in (("u-1007", ""), ("u-1002", ""), ("", document_id)):
        listed = await service.call(
            "AuditService/ListAuditRecords",
            audit_pb2.ListAuditRecordsRequest(
                person=person, document_id=document, classes=[audit_pb2.AUDIT_CLASS_ACCESS]
            ),
            token=service.token("adam"),
        )
        records = audit_pb2.ListAuditRecordsResponse.FromString(listed.message).records
        (data,) = [one.data for one in records]
        assert b'"rpc":"remit.v1.ReviewService/ExplainUserAccess"' in data
        assert b'"account":"u-1002"' in data
        assert b'"conditions":{"user":"bob"}' in data
        assert f'"checked":[{{"document_id":"{document_id}","readable":true}}]'.encode() in data
    assert (await ask(service, "ListUserDocuments", review_pb2.ListUserDocumentsRequest(), by="rita")).code == (
        "INVALID_ARGUMENT"
    )


async def test_documents_are_found_by_where_they_stand(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a part of the location, page by page, those that nobody reads too; an owner gets the own source alone."""

    async def listed(location: str, token: str = "", by: str = "rita") -> review_pb2.ListDocumentsResponse:
        request = review_pb2.ListDocumentsRequest(location=location, page_size=1, page_token=token)
        outcome = await ask(service, "ListDocuments", request, by)
        assert CANARY.encode() not in outcome.message
        return review_pb2.ListDocumentsResponse.FromString(outcome.message)

    assert [one.location for one in (await listed("odd")).documents] == ["odd"]
    first = await listed("")
    second = await listed("", first.next_page_token)
    third = await listed("", second.next_page_token)
    places = [one.location for page in (first, second, third) for one in page.documents]
    assert sorted(places) == ["finance", "odd", "sales"]
    assert third.next_page_token == ""
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({owner_of("another")}))
    assert list((await listed("odd")).documents) == []
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({owner_of("company")}))
    assert len((await listed("odd")).documents) == 1


async def test_an_owner_cannot_count_what_others_have(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list ends after the owner's own documents: no page is empty and followed by another because of others."""
    monkeypatch.setattr(checks, "_LOOKED", 1)
    for name, pages in (("another", [0]), ("company", [1, 1, 1])):
        monkeypatch.setattr(Roles, "of", lambda self, principals, name=name: frozenset({owner_of(name)}))
        found, token = [], ""
        while True:
            request = review_pb2.ListDocumentsRequest(page_size=1, page_token=token)
            outcome = await ask(service, "ListDocuments", request, "rita")
            answer = review_pb2.ListDocumentsResponse.FromString(outcome.message)
            found.append(len(answer.documents))
            token = answer.next_page_token
            if not token:
                break
        assert found == pages


async def test_what_somebody_holds_is_told_to_auditors_and_recorded(service: Service) -> None:
    """With the way to each, what is known in full and how old it is; the log has who asked and about whom."""
    request = review_pb2.ResolveUserRequest(user=review_pb2.UserRef(user="bob"))
    outcome = await ask(service, "ResolveUser", request, by="adam")
    found = review_pb2.ResolveUserResponse.FromString(outcome.message)

    assert (found.user.account, list(found.left_out)) == ("u-1002", [])
    ways = {one.token: list(one.path) for one in found.principals}
    assert ways["static:people:group-finance"] == ["bob", "fin-emea", "finance"]
    assert list(found.complete_realms) == ["posix:corp", "static:people"]
    assert found.resolved_at.ToDatetime() < found.expires_at.ToDatetime()
    for token in ("alice", "olga", "kai"):
        assert (await ask(service, "ResolveUser", request, by=token)).code == "PERMISSION_DENIED"

    listed = await service.call(
        "AuditService/ListAuditRecords",
        audit_pb2.ListAuditRecordsRequest(person="u-1002", classes=[audit_pb2.AUDIT_CLASS_ACCESS]),
        token=service.token("adam"),
    )
    (data,) = [one.data for one in audit_pb2.ListAuditRecordsResponse.FromString(listed.message).records]
    assert b'"rpc":"remit.v1.ReviewService/ResolveUser"' in data
    assert b'"about":{"account":"u-1002"' in data
    assert found.response_id.encode() in data


async def test_groups_of_sources_are_held_and_named_while_they_are_not_known(service: Service) -> None:
    """As principals of the source while they are; with the source and the reason while they are not."""
    service.source.groups = {Principal(own_realm("company"), "team"): {ALICE}}
    service.sync()
    request = review_pb2.ResolveUserRequest(user=review_pb2.UserRef(user="alice"))
    found = review_pb2.ResolveUserResponse.FromString((await ask(service, "ResolveUser", request)).message)
    assert "source:company:team" in {one.token for one in found.principals}
    assert list(found.left_out) == []

    service.source.faults.groups_unread = "a page did not come"
    service.sync()
    found = review_pb2.ResolveUserResponse.FromString((await ask(service, "ResolveUser", request)).message)
    assert [one.name for one in found.left_out] == ["source:company"]
    assert "a page did not come" in found.left_out[0].reason
    assert list(found.user.left_out) == ["source:company"]
