"""ReviewService: who may read a document, rows for recertification, and what a change would do before it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remit.v1 import access_pb2, review_pb2

from acl.decide import Allowed, decide
from acl.model import Acl, Caller, Clause, Effect, Rule, ScopeId, Unknown
from acl.principal import Principal, realm
from connectors.base import own_realm
from service.access.grants import _worth
from service.access.preview import ClauseChange, _replaced
from service.identity.roles import Roles, owner_of
from tests import strategies
from tests.service.harness import (
    ALICE,
    BOB,
    COMPANY,
    CORP,
    EVERYBODY,
    FINANCE,
    PEOPLE,
    SALES,
    Outcome,
    Service,
    allow,
    serving,
)

EMEA = Principal(CORP, "gid-20110")
SALES_GROUP = Principal(realm("static", "people"), "group-sales")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Documents for Sales, for Finance, for both, and two in a container of Finance."""
    async with serving(tmp_path / "remit") as running:
        running.scope("vault", allow(FINANCE), parent="root")
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.add("both", "the plan of both", Clause((*allow(SALES).rules, *allow(FINANCE).rules)))
        running.add("v1", "in the vault", allow(EVERYBODY), scope="vault")
        running.add("v2", "in the vault, for Bob", allow(BOB), scope="vault")
        running.sync()
        yield running


async def readers(service: Service, name: str) -> review_pb2.ListReadersResponse:
    """Ask who may read a document."""
    request = review_pb2.ListReadersRequest(document_id=service.document_ids()[name])
    outcome = await service.call("ReviewService/ListReaders", request, token=service.token("rita"))
    assert outcome.code == "OK", outcome
    return review_pb2.ListReadersResponse.FromString(outcome.message)


async def rows(service: Service, by: str = "rita", **asked: object) -> list[tuple[str, int, int]]:
    """Ask for rows, all pages."""
    found: list[tuple[str, int, int]] = []
    token = ""
    while True:
        request = review_pb2.ListGrantsRequest(page_size=3, page_token=token, **asked)  # type: ignore[arg-type]
        outcome = await service.call("ReviewService/ListGrants", request, token=service.token(by))
        assert outcome.code == "OK", outcome
        answer = review_pb2.ListGrantsResponse.FromString(outcome.message)
        found += [(one.principal, one.opens, one.named) for one in answer.grants]
        token = answer.next_page_token
        if not token:
            return found


async def preview(service: Service, request: review_pb2.PreviewChangeRequest) -> Outcome:
    """Ask what would change."""
    return await service.call("ReviewService/PreviewChange", request, token=service.token("rita"))


def moved(user: str, group: str, *, join: bool = False) -> review_pb2.PreviewChangeRequest:
    """Somebody leaves or joins a group."""
    change = review_pb2.MembershipChange(user=review_pb2.UserRef(user=user), group=group, join=join)
    return review_pb2.PreviewChangeRequest(membership=change)


# --- who ---


async def test_readers_are_people_with_what_they_read_it_by(service: Service) -> None:
    """Each with a grant for every clause and the path of groups; and the rules as they stand."""
    found = await readers(service, "both")

    assert found.withheld == access_pb2.ACCESS_REASON_ALLOWED
    assert found.document.location == "both"
    assert [(one.clause, [list(rule.principals) for rule in one.rules]) for one in found.clauses] == [
        ("/", [[EVERYBODY.token]]),
        ("own", [[SALES.token, FINANCE.token]]),
    ]
    assert [(one.user.account, [list(grant.path) for grant in one.grants]) for one in found.readers] == [
        ("u-1001", [["alice"], ["alice", "sales"]]),
        ("u-1002", [["bob"], ["bob", "fin-emea", "finance"]]),
    ]
    assert (list(found.directories_listed), list(found.directories_not_listed)) == (["people"], [])


async def test_readers_are_exactly_those_whom_the_service_lets_read(service: Service) -> None:
    """Everybody in the list is told so by their own check, and nobody else is."""
    for name, document_id in service.document_ids().items():
        listed = {one.user.account for one in (await readers(service, name)).readers}
        allowed = set()
        for person, account in (("alice", "u-1001"), ("bob", "u-1002"), ("olga", "u-1003")):
            request = access_pb2.CheckAccessRequest(document_ids=[document_id])
            outcome = await service.call("AccessService/CheckAccess", request, token=service.token(person))
            if access_pb2.CheckAccessResponse.FromString(outcome.message).checks[0].readable:
                allowed.add(account)
        assert listed == allowed, name


async def test_a_directory_that_lists_nobody_is_named(service: Service) -> None:
    """Then the rules are all there is to say."""
    service.directory.lists = False

    found = await readers(service, "sales")

    assert list(found.readers) == []
    assert (list(found.directories_listed), list(found.directories_not_listed)) == ([], ["people"])
    assert [rule.allow for rule in found.clauses[1].rules] == [True]


async def test_a_stale_source_has_no_readers(service: Service) -> None:
    """And the answer says why, with the rules as they were."""
    service.clock.advance(timedelta(hours=25))

    found = await readers(service, "sales")

    assert (found.withheld, len(found.readers), len(found.clauses)) == (access_pb2.ACCESS_REASON_STALE, 0, 2)


# --- rows ---


async def test_rows_count_what_a_principal_opens_and_where_it_is_named(service: Service) -> None:
    """By principal: the class opens nothing alone where another clause asks for a group."""
    assert await rows(service) == sorted(
        [
            (EVERYBODY.token, 0, 5),
            (SALES.token, 2, 2),
            # The vault's clause names it: with the class it opens the first in there, and not what is for Bob alone.
            (FINANCE.token, 3, 4),
            (BOB.token, 0, 1),
        ],
        key=lambda row: Principal.parse(row[0]),
    )


async def test_the_last_use_comes_from_the_log(service: Service) -> None:
    """A principal by which a passage left has the time of that; others have none."""
    async with service.client("bob") as client:
        await client.get_document(service.document_ids()["finance"])

    outcome = await service.call("ReviewService/ListGrants", token=service.token("rita"))
    used = {
        one.principal
        for one in review_pb2.ListGrantsResponse.FromString(outcome.message).grants
        if one.HasField("last_used_at")
    }

    assert used == {EVERYBODY.token, FINANCE.token}


async def test_owners_get_the_rows_of_their_source_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who owns another source gets none; an auditor and an administrator of access get all."""
    assert await rows(service, "adam") == await rows(service, "rita") != []
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({owner_of("another")}))
    assert await rows(service, "alice") == []
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({owner_of(COMPANY)}))
    assert len(await rows(service, "alice")) == 4
    assert await rows(service, "alice", sources=["another"]) == []


@given(strategies.acls, strategies.moments)
def test_a_row_says_what_decide_says_of_its_holder(acl: Acl | Unknown, at: datetime) -> None:
    """Every principal that an allow rule in force names has a row; without classes it says what it opens alone."""
    found = dict(_worth(acl, at))

    clauses = () if isinstance(acl, Unknown) else acl.clauses()
    rules = [
        rule for clause in clauses for rule in clause.rules if rule.effect is Effect.ALLOW and at < rule.expires_at
    ]
    assert set(found) == {principal for rule in rules for principal in rule.principals}
    for principal, opens in found.items():
        # None of the strategies' principals is a class.
        holder = Caller("x", frozenset({principal}), frozenset(strategies.REALMS), at, at + timedelta(hours=1))
        assert opens == isinstance(decide(acl, holder, at), Allowed)


# --- what would change ---


async def test_leaving_a_group_takes_what_it_alone_opened(service: Service) -> None:
    """And what was held through it; the directory itself is unchanged, and so is what Bob reads."""
    outcome = await preview(service, moved("bob", "fin-emea"))
    found = review_pb2.PreviewChangeResponse.FromString(outcome.message)

    assert found.exact
    assert {EMEA.token, FINANCE.token} <= set(found.principals_lost)
    (effect,) = found.effects
    assert (effect.user.account, effect.lost, effect.gained) == ("u-1002", 4, 0)
    assert [one.location for one in effect.lost_examples] == ["finance", "both", "v1", "v2"]
    service.people(PEOPLE.replace("groups: [fin-emea]", "groups: []"))
    after = {one.user.account for name in service.document_ids() for one in (await readers(service, name)).readers}
    assert "u-1002" not in after


async def test_joining_a_group_gives_what_it_opens(service: Service) -> None:
    """By its token as by its id; to join twice, to leave what one is not in, and groups that are none are refused."""
    for group in ("finance", FINANCE.token, Principal(realm("static", "people"), "group-finance").token):
        found = review_pb2.PreviewChangeResponse.FromString(
            (await preview(service, moved("alice", group, join=True))).message
        )
        assert [(one.lost, one.gained) for one in found.effects] == [(0, 2)]
    refused = [
        await preview(service, moved("alice", "sales", join=True)),
        await preview(service, moved("bob", "finance")),
        await preview(service, moved("alice", "nothing")),
        await preview(service, moved("nobody", "sales")),
    ]
    assert {one.code for one in refused} == {"NOT_FOUND"}


async def test_a_changed_clause_names_everybody_for_whom_something_changes(service: Service) -> None:
    """Of the document alone, or of all in a container; with what was foretold being what happens."""
    ids = service.document_ids()
    own = review_pb2.ClauseChange(document_id=ids["both"], revoke=[SALES.token])
    found = review_pb2.PreviewChangeResponse.FromString(
        (await preview(service, review_pb2.PreviewChangeRequest(clause=own))).message
    )
    assert [(one.user.account, one.lost, one.gained) for one in found.effects] == [("u-1001", 1, 0)]
    service.add("both", "the plan of both", allow(FINANCE))
    service.sync()
    assert [one.user.account for one in (await readers(service, "both")).readers] == ["u-1002"]

    scope = next(one.scope for one in (await readers(service, "v1")).clauses if one.clause == "/vault")
    vault = review_pb2.ClauseChange(document_id=ids["v1"], scope=scope, allow=[SALES.token], deny=[EMEA.token])
    found = review_pb2.PreviewChangeResponse.FromString(
        (await preview(service, review_pb2.PreviewChangeRequest(clause=vault))).message
    )
    assert [(one.user.account, one.lost, one.gained) for one in found.effects] == [
        ("u-1001", 0, 1),
        ("u-1002", 2, 0),
    ]
    rules = (Rule(Effect.DENY, frozenset({EMEA})), *allow(SALES).rules, *allow(FINANCE).rules)
    service.scope("vault", Clause(rules), parent="root")
    service.sync()
    assert [one.user.account for one in (await readers(service, "v1")).readers] == ["u-1001"]
    assert [one.user.account for one in (await readers(service, "v2")).readers] == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (review_pb2.ClauseChange(document_id="x"), "INVALID_ARGUMENT"),
        (review_pb2.ClauseChange(document_id="x", allow=["no token"]), "INVALID_ARGUMENT"),
        (review_pb2.ClauseChange(document_id="x", allow=["ad:x"] * 101), "INVALID_ARGUMENT"),
        (review_pb2.ClauseChange(document_id="x", allow=["ad:x"]), "NOT_FOUND"),
        (review_pb2.ClauseChange(document_id="sales", scope="elsewhere", allow=["ad:x"]), "NOT_FOUND"),
        (None, "INVALID_ARGUMENT"),
    ],
)
async def test_a_change_that_is_none_is_refused(
    service: Service, change: review_pb2.ClauseChange | None, code: str
) -> None:
    """With the field, or with what was not found."""
    request = review_pb2.PreviewChangeRequest()
    if change is not None:
        request.clause.CopyFrom(change)
        request.clause.document_id = service.document_ids().get(change.document_id, change.document_id)

    assert (await preview(service, request)).code == code


@given(strategies.acls, strategies.clauses, st.integers(0, 4))
def test_a_replaced_clause_is_replaced_and_nothing_else(acl: Acl | Unknown, clause: Clause, number: int) -> None:
    """The other clauses of an ACL stay as they were, the order too."""
    if not isinstance(acl, Acl):
        return
    scopes = [] if acl.scope is None else list(acl.scope.chain())
    scope = ScopeId(f"s{number}") if number < len(scopes) else None
    place = number if scope is not None else len(scopes)

    changed = _replaced(acl, scope, clause)

    expected = list(acl.clauses())
    expected[place] = clause
    assert list(changed.clauses()) == expected


@given(strategies.clauses)
def test_a_change_that_changes_nothing_keeps_the_clause(clause: Clause) -> None:
    """To revoke from nobody is the clause itself; a deny stands first and an allow behind it."""
    nothing = ClauseChange("x", "", frozenset({Principal(realm("ad"), "nobody")}), frozenset(), frozenset())
    assert nothing.of(clause) == clause
    both = replace(nothing, allow=frozenset({ALICE}), deny=frozenset({BOB}))
    assert both.of(clause).rules == (
        Rule(Effect.DENY, frozenset({BOB})),
        Rule(Effect.ALLOW, frozenset({ALICE})),
        *clause.rules,
    )


async def test_a_change_of_groups_reaches_the_groups_of_sources(service: Service) -> None:
    """Who leaves a group that is a member of a source's own group loses what that opens; and who joins gains it."""
    board = Principal(own_realm(COMPANY), "board")
    service.source.groups = {board: {SALES_GROUP}}
    service.add("board", "for the board", allow(board))
    service.sync()
    assert [list(one.grants[1].path) for one in (await readers(service, "board")).readers] == [
        ["alice", "sales", "board"]
    ]

    left = review_pb2.PreviewChangeResponse.FromString((await preview(service, moved("alice", "sales"))).message)
    joined = review_pb2.PreviewChangeResponse.FromString(
        (await preview(service, moved("bob", "sales", join=True))).message
    )

    assert board.token in left.principals_lost
    assert [one.location for one in left.effects[0].lost_examples] == ["board"]  # the number stays, by her own gid
    assert board.token in joined.principals_gained
    assert "board" in [one.location for one in joined.effects[0].gained_examples]
