"""Services that name a person: only where the settings allow it, never a privileged one, and never more than both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from remit.v1 import access_pb2

from acl.model import Clause, Effect, Rule
from acl.principal import Principal, Realm
from service.api.evidence import LoggedCalls
from service.api.pages import PageTokens
from service.api.wrapper import Call, Entry
from service.audit.record import Kind, Record
from service.authn import Authenticator, Credentials, Subject, TokenRefusedError
from service.authn.subject import Acting, OnBehalf
from service.errors import InvalidRequestError, NotFoundError, UnauthenticatedError
from service.identity.callers import Callers, Current
from service.search.engine import Query
from service.sections.service_accounts import ServiceAccount
from tests.service.authn_support import KEYS, issuer, token, write_keys
from tests.service.harness import ALICE, EVERYBODY, FINANCE, PEOPLE, SALES, Service, allow, serving
from tests.support.certificates import Authority

BOT = "spiffe://corp.example/bot"
STATIC = Realm("static:people")
IN_SALES = Principal(STATIC, "group-sales")
OPERATORS = Principal(STATIC, "group-operators")
BOT_ACCOUNT = "  - {id: svc-bot, name: bot, display_name: The bot, uid: 20900, gid: 20901, groups: [shared]}\n"
WORLD = PEOPLE.replace("groups:\n  - {id: sales", BOT_ACCOUNT + "groups:\n  - {id: shared, gid: 20102}\n  - {id: sales")
WORLD = WORLD.replace("  - {id: finance, gid: 20102}\n", "  - {id: finance, gid: 20103}\n")
SHARED = FINANCE
"""The group of number 20102, which here is the bot's."""


def authenticator(tmp_path: Path, *acts_for: Principal) -> Authenticator:
    """One service account that may act for these; operators are privileged."""
    account = ServiceAccount("bot", BOT, "", "people", "id", "svc-bot", frozenset(acts_for))
    return Authenticator([issuer(write_keys(tmp_path / "jwks", KEYS))], [account], [OPERATORS])


# --- what a call may say ---


async def test_a_service_that_may_names_a_person(tmp_path: Path) -> None:
    """The subject is the person; the service, its groups and who is never acted for travel with it."""
    pair = Authority().client(BOT)
    found = authenticator(tmp_path, IN_SALES)

    subject = await found.identify(Credentials(certificate=pair.chain, on_behalf_of=("u-1001",)))

    assert (subject.value, subject.directory, subject.attribute) == ("u-1001", "people", "id")
    assert subject.on_behalf is not None
    assert (subject.on_behalf.name, subject.on_behalf.service.value) == ("bot", "svc-bot")
    assert subject.on_behalf.groups == {IN_SALES}
    assert subject.on_behalf.never == {OPERATORS}
    assert subject.expires_at == subject.on_behalf.service.expires_at
    own = await found.identify(Credentials(certificate=pair.chain))
    assert (own.value, own.on_behalf) == ("svc-bot", None)


async def test_whoever_may_not_name_somebody_gets_no_answer_for_itself(tmp_path: Path) -> None:
    """Without a certificate, beside a token, twice, not configured, not a value: refused, never ignored."""
    pair = Authority().client(BOT)
    bearer = (f"Bearer {token()}",)
    allowed, not_configured = authenticator(tmp_path, IN_SALES), authenticator(tmp_path)

    async def why(found: Authenticator, credentials: Credentials) -> str:
        with pytest.raises(TokenRefusedError) as caught:
            await found.identify(credentials)
        return caught.value.why

    named = ("u-1001",)
    assert await why(allowed, Credentials(bearer, None, "", named)) == "may act for nobody"
    assert await why(allowed, Credentials((), None, "", named)) == "may act for nobody"
    assert await why(allowed, Credentials(bearer, pair.chain, "", named)) == "may act for nobody"
    assert await why(allowed, Credentials((), pair.chain, "", ("u-1001", "u-1002"))) == "may act for nobody"
    assert await why(not_configured, Credentials((), pair.chain, "", named)) == "may act for nobody"
    assert (
        await why(allowed, Credentials((), Authority().client("x.example").chain, "", named)) == "unknown certificate"
    )
    for value in ("", "\0", "u" * 513):
        assert await why(allowed, Credentials((), pair.chain, "", (value,))) == "no subject"
    assert (await not_configured.identify(Credentials((), pair.chain))).value == "svc-bot"


# --- whom, and what is read ---


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Documents for Sales, for the bot's group, for either, for everybody but the bot's group, and for everybody."""
    async with serving(tmp_path / "remit") as running:
        running.people(WORLD)
        running.add("sales", "a plan of sales", allow(SALES))
        running.add("bots", "a plan of the bot's group", allow(SHARED))
        running.add("either", "a plan of either", allow(SALES, SHARED))
        running.add("alice", "a plan of Alice alone", allow(ALICE))
        but = Clause((Rule(Effect.DENY, frozenset({SHARED})), Rule(Effect.ALLOW, frozenset({EVERYBODY}))))
        running.add("but", "a plan of everybody but the bot's group", but)
        running.add("all", "a plan of everybody", allow(EVERYBODY))
        running.sync()
        yield running


def subject(service: Service, value: str, on_behalf: OnBehalf | None = None) -> Subject:
    """Somebody, as an authenticator would say."""
    expires = service.clock() + timedelta(hours=1)
    return Subject("client-certificate", BOT, "people", "id", value, expires, "t", on_behalf=on_behalf)


def resolve(service: Service, person: str, groups: frozenset[Principal] = frozenset({IN_SALES})) -> Current:
    """The caller when the bot names a person."""
    by = OnBehalf("bot", subject(service, "svc-bot"), groups, frozenset({OPERATORS}))
    return Callers(service.identity, service.access.latest).resolve(subject(service, person, by))


def found(service: Service, caller: Current) -> set[str]:
    """The locations that a search for everything returns."""
    answer = service.retrieval_core.search(caller, Query("plan", 50))
    return {passage.document.location for passage in answer.passages}


def own(service: Service, person: str) -> set[str]:
    """What somebody finds as themselves."""
    return found(service, Callers(service.identity, service.access.latest).resolve(subject(service, person)))


async def test_what_is_found_is_what_both_may_read(service: Service) -> None:
    """The intersection of the two, denies of either included, by search, by document and by passage."""
    person, bot = own(service, "u-1001"), own(service, "svc-bot")
    ids = service.document_ids()

    both = resolve(service, "u-1001")

    assert person == {"sales", "either", "alice", "but", "all"}
    assert bot == {"bots", "either", "all"}
    assert found(service, both) == {"either", "all"}
    for location, document_id in ids.items():
        (chunk,) = service.chunk_ids(location)
        passages = service.retrieval_core.chunks(both, [chunk]).passages
        if location in person & bot:
            assert service.retrieval_core.document(both, document_id).passages
            assert len(passages) == 1
        else:
            assert passages == ()
            with pytest.raises(NotFoundError):
                service.retrieval_core.document(both, document_id)


async def test_a_service_names_people_of_its_groups_alone(service: Service) -> None:
    """Bob is not in Sales; Alice is, until she is not; a stranger is nobody."""
    assert resolve(service, "u-1001").resolved.resolution.account_id == "u-1001"
    with pytest.raises(TokenRefusedError) as caught:
        resolve(service, "u-1002")
    assert caught.value.why == "person of another group"
    with pytest.raises(UnauthenticatedError):
        resolve(service, "u-9999")

    service.people(WORLD.replace("gid: 20101, groups: [sales]", "gid: 20999, groups: []"))
    with pytest.raises(TokenRefusedError):
        resolve(service, "u-1001")


async def test_nobody_with_a_role_is_named(service: Service) -> None:
    """Not even one in the right group; the same person without the role is."""
    groups = frozenset({IN_SALES, OPERATORS})
    with pytest.raises(TokenRefusedError) as caught:
        resolve(service, "u-1003", groups)
    assert caught.value.why == "privileged person"

    service.people(
        WORLD.replace("name: olga, display_name: Olga Olsen, groups: [operators]", "name: olga, groups: [sales]")
    )
    assert resolve(service, "u-1003", groups).resolved.roles == frozenset()


async def test_a_service_that_is_disabled_acts_for_nobody(service: Service) -> None:
    """Its own account is looked up with the person's, at each call."""
    assert resolve(service, "u-1001").actor is not None

    service.people(WORLD.replace("uid: 20900, gid: 20901, groups: [shared]", "groups: [shared], enabled: false"))

    with pytest.raises(UnauthenticatedError):
        resolve(service, "u-1001")


async def test_what_the_service_loses_is_gone_on_the_next_call(service: Service) -> None:
    """A group that the service held, though the person still may read the document."""
    assert "either" in found(service, resolve(service, "u-1001"))

    service.people(WORLD.replace("uid: 20900, gid: 20901, groups: [shared]", "groups: []"))

    assert "either" not in found(service, resolve(service, "u-1001"))
    assert "either" in own(service, "u-1001")


async def test_freshness_names_only_sources_of_both(service: Service) -> None:
    """A source in which the service may read nothing is not named to it."""
    both = resolve(service, "u-1001")
    assert [one.source for one in service.retrieval_core.freshness(both).sources] == ["company"]

    service.people(WORLD.replace("uid: 20900, gid: 20901, groups: [shared]", "groups: []"))

    assert service.retrieval_core.freshness(resolve(service, "u-1001")).sources == ()


async def test_the_record_names_the_person_and_the_service(service: Service) -> None:
    """Whose certificate it was, whom it named, and as which service account."""
    caller = resolve(service, "u-1001")
    written: list[Record] = []

    class Log:
        async def append(self, record: Record) -> None:
            written.append(record)

    entry = Entry(
        rpc="remit.v1.AccessService/GetCaller",
        request_id="r",
        received_at=service.clock(),
        peer="",
        subject=caller.subject,
        caller=caller,
        request=None,
        reason="",
        error=None,
        evidence=None,
    )
    await LoggedCalls(Log(), None, service.clock).record(entry)  # type: ignore[arg-type]  # no query, no key

    assert written[0].kind is Kind.ON_BEHALF, "a class of its own, so that it can be found and kept apart"
    body = written[0].body.decode()
    assert '"account":"u-1001","acting":["service-account:bot"]' in body
    assert f'"subject":"{BOT}"' in body


@pytest.mark.parametrize("other", ["another person", "the service itself", "an application for the same person"])
def test_a_page_of_one_person_is_no_page_of_another(service: Service, other: str) -> None:
    """A token of a list is good only for whom it came from, though one service asked for both."""
    by = OnBehalf("bot", subject(service, "svc-bot"), frozenset({IN_SALES}), frozenset())
    person = subject(service, "u-1001", by)
    someone = {
        "another person": subject(service, "u-1002", by),
        "the service itself": subject(service, "svc-bot"),
        "an application for the same person": replace(
            subject(service, "u-1001"), acting=Acting(("app",), frozenset({"company"}))
        ),
    }[other]
    tokens, request = PageTokens(bytes(32)), access_pb2.ListReadableDocumentsRequest()
    request.page_token = tokens.write(7, request, _call(service, person))

    assert tokens.read(request, _call(service, person)) == 7
    with pytest.raises(InvalidRequestError):
        tokens.read(request, _call(service, someone))


def _call(service: Service, who: Subject) -> Call:
    resolved = service.identity.resolve(replace(who, value="u-1001", on_behalf=None))
    return Call("remit.v1.AccessService/ListReadableDocuments", "r", service.clock(), Current(who, resolved, 0))
