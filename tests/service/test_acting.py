"""Applications that act for a person by a delegated token: never more than the person, never more than the actor."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from remit.v1 import access_pb2, retrieval_pb2, source_pb2

from connectors.yaml_file import YamlFileError, parse
from service import devissuer
from service.authn import Authenticator, TokenRefusedError
from service.authn.acting import CHAIN, acting
from service.authn.subject import NOWHERE, Acting
from service.sections.issuers import IssuerSettings, KeyFile, read
from tests.service.authn_support import ISSUER, KEYS, NOW, claims, issuer, token, write_keys
from tests.service.harness import FINANCE, PEOPLE, SALES, Service, allow, serving
from tests.service.test_api_wrapper import records

ACTORS = {"bot": frozenset({"a", "b"}), "gate": frozenset({"b", "c"}), "lone": frozenset({"d"})}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> IssuerSettings:
    """An issuer with three actors."""
    return issuer(write_keys(tmp_path_factory.mktemp("keys") / "jwks", KEYS), actors=ACTORS)


def chain(*actors: str) -> dict[str, object]:
    """The claim for these actors, the current one first."""
    found: dict[str, object] = {}
    for name in reversed(actors):
        found = {"sub": name} | ({"act": found} if found else {})
    return found


def test_without_a_chain_the_person_acts(settings: IssuerSettings) -> None:
    """Whatever client obtained the token."""
    assert acting({"client_id": "bot", "azp": "gate"}, settings) is None


@pytest.mark.parametrize(
    ("actors", "sources"),
    [(("bot",), {"a", "b"}), (("bot", "gate"), {"b"}), (("gate", "bot"), {"b"}), (("bot", "lone"), set()),
     (("bot", "gate", "bot"), {"b"})],
)  # fmt: skip
def test_a_chain_reaches_what_all_of_its_actors_may(
    settings: IssuerSettings, actors: tuple[str, ...], sources: set[str]
) -> None:
    """The sources are the intersection, in whatever order they acted; all of them are named."""
    assert acting({"act": chain(*actors)}, settings) == Acting(actors, frozenset(sources))


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (chain("stranger"), "unknown actor"),
        (chain("Bot"), "unknown actor"),
        (chain("bot", "stranger"), "unknown actor"),
        (chain("stranger", "bot"), "unknown actor"),
        ({"sub": "bot", "iss": "https://elsewhere.example"}, "unknown actor"),
        ({"sub": ["bot"]}, "unknown actor"),
        ({"client_id": "bot"}, "unknown actor"),
        ({}, "unknown actor"),
        (None, "wrong actor"),
        ("bot", "wrong actor"),
        ([{"sub": "bot"}], "wrong actor"),
        ({"sub": "bot", "act": None}, "wrong actor"),
        ({"sub": "bot", "act": "gate"}, "wrong actor"),
        (chain("bot", "bot", "bot", "bot"), "wrong actor"),
    ],
)
def test_a_chain_with_anything_unknown_is_refused(settings: IssuerSettings, claim: object, why: str) -> None:
    """An actor that is not listed, of another issuer, without a name; a chain that is too long or is none."""
    with pytest.raises(TokenRefusedError) as caught:
        acting({"act": claim}, settings)

    assert caught.value.why == why
    assert acting({"act": {"sub": "bot", "iss": ISSUER}}, settings) == Acting(("bot",), ACTORS["bot"])
    assert acting({"act": chain(*["bot"] * CHAIN)}, settings) is not None


@pytest.mark.parametrize("named", [{"sub": "gate"}, {}, None, "bot", {"sub": ["bot"]}])
def test_a_person_who_says_who_may_act_is_heard(settings: IssuerSettings, named: object) -> None:
    """`may_act` must name the current actor."""
    with pytest.raises(TokenRefusedError):
        acting({"act": chain("bot"), "may_act": named}, settings)
    assert acting({"act": chain("bot", "gate"), "may_act": {"sub": "bot"}}, settings) is not None


def test_an_issuer_without_actors_delegates_nothing(settings: IssuerSettings) -> None:
    """A delegated token is not taken for the person's own."""
    plain = replace(settings, actors={})
    delegated = f"Bearer {token(claims(act=chain('bot')))}"

    with pytest.raises(TokenRefusedError) as caught:
        Authenticator([plain], now=lambda: NOW).authenticate(delegated)
    assert caught.value.why == "unknown actor"
    subject = Authenticator([settings], now=lambda: NOW).authenticate(delegated)
    assert (subject.value, subject.acting) == ("u-1001", Acting(("bot",), ACTORS["bot"]))
    assert Authenticator([plain], now=lambda: NOW).authenticate(f"Bearer {token()}").acting is None


_names = st.sampled_from(["a", "b", "c", "d"])


@given(st.frozensets(_names), st.frozensets(_names))
def test_narrowing_never_widens(allowed: frozenset[str], asked: frozenset[str]) -> None:
    """Whatever is asked, what is reached is allowed; nothing is never everything, though empty means all elsewhere."""
    found = Acting(("bot",), allowed).within(asked)

    assert found
    assert found == NOWHERE or found <= allowed
    assert found == NOWHERE or not asked or found <= asked
    if not asked and allowed:
        assert found == allowed


GOOD = """\
- issuer: https://login.example.com/corp
  audience: remit
  claim: oid
  directory: people
  attribute: id
  actors:
    - {sub: bot, sources: [company]}
"""


def test_actors_are_read_with_their_sources() -> None:
    """Each by its `sub`; a source that is not there, none at all and one actor twice are refused with their line."""

    def issuers(text: str) -> tuple[IssuerSettings, ...]:
        return read(parse(text.encode(), "remit.yaml", 10_000), Path("/etc"), {"people": ("id",)}, ["company"])

    assert issuers(GOOD)[0].actors == {"bot": {"company"}}
    for old, new, sentence in (
        ("[company]", "[companies]", r":7: \[0\]\.actors\[0\]\.sources\[0\]: there is no source `companies`"),
        ("[company]", "[]", r":7: .*sources: expected at least one source"),
        (", sources: [company]", "", r":7: .*`sources` is missing"),
        ("sub: bot", "sub: ''", r":7: .*sub: expected text"),
        ("}\n", "}\n    - {sub: bot, sources: [company]}\n", r":8: .*`bot` is listed twice"),
    ):
        with pytest.raises(YamlFileError, match=sentence):
            issuers(GOOD.replace(old, new))


# --- the whole service ---


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with two actors: one for the source that has documents, one for a source that has none."""
    folder = tmp_path / "remit"
    async with serving(folder):
        pass
    path = folder / "remit.yaml"
    text = path.read_text().replace(
        "    attribute: id                   # ... this immutable attribute\n",
        "    attribute: id\n    actors: [{sub: bot, sources: [company]}, {sub: other, sources: [empty]}]\n",
    )
    path.write_text(text + "  - {name: empty, kind: memory}\n")
    async with serving(folder) as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.sync()
        yield running


def delegated(service: Service, name: str, *actors: str) -> str:
    """A token for somebody with this chain, signed as the issuer signs."""
    settings = service.config.issuers[0]
    assert isinstance(settings.keys, KeyFile)
    private = json.loads(devissuer.private_key_path(settings.keys.path).read_text())
    good = jwt.decode(service.token(name), options={"verify_signature": False})
    key = jwt.PyJWK(private, algorithm="EdDSA").key
    header = {"typ": "at+jwt", "kid": private["kid"]}
    return jwt.encode({**good, "act": chain(*actors)}, key, algorithm="EdDSA", headers=header)


async def found(service: Service, bearer: str, *sources: str) -> list[str]:
    """The texts that a search returns."""
    request = retrieval_pb2.SearchRequest(query="plan", sources=sources)
    outcome = await service.call("RetrievalService/Search", request, token=bearer)
    assert outcome.code == "OK", outcome
    return [hit.chunk.text for hit in retrieval_pb2.SearchResponse.FromString(outcome.message).hits]


async def test_an_actor_sees_the_persons_documents_within_its_sources(service: Service) -> None:
    """By search, by document and by passage: no more than the person, and nothing outside the actor's sources."""
    bot, other = delegated(service, "alice", "bot"), delegated(service, "alice", "other")
    document_id = service.document_ids()["sales"]
    hidden = service.document_ids()["finance"]
    (chunk,) = service.chunk_ids("sales")

    async def get(bearer: str, which: str) -> str:
        request = retrieval_pb2.GetDocumentRequest(document_id=which)
        return (await service.call("RetrievalService/GetDocument", request, token=bearer)).code

    async def passages(bearer: str) -> int:
        request = retrieval_pb2.BatchGetChunksRequest(chunk_ids=[chunk])
        outcome = await service.call("RetrievalService/BatchGetChunks", request, token=bearer)
        return len(retrieval_pb2.BatchGetChunksResponse.FromString(outcome.message).chunks)

    assert await found(service, service.token("alice")) == ["the plan of sales"]
    assert await found(service, bot) == await found(service, bot, "company") == ["the plan of sales"]
    assert await found(service, bot, "empty") == []
    for asked in ((), ("company",), ("empty",), ("company", "empty")):
        assert await found(service, other, *asked) == []
        assert await found(service, delegated(service, "alice", "bot", "other"), *asked) == []
    assert (await get(bot, document_id), await get(bot, hidden)) == ("OK", "NOT_FOUND")
    assert await get(other, document_id) == "NOT_FOUND"
    assert (await passages(bot), await passages(other)) == (1, 0)


async def test_an_answer_to_an_actor_names_no_source_beyond_its_own(service: Service) -> None:
    """Nor how fresh one is that the person may read and the actor may not."""

    async def named(bearer: str) -> list[str]:
        outcome = await service.call("AccessService/GetCaller", access_pb2.GetCallerRequest(), token=bearer)
        answer = access_pb2.GetCallerResponse.FromString(outcome.message)
        return [one.source for one in answer.freshness.sources]

    assert await named(delegated(service, "alice", "bot")) == await named(service.token("alice")) == ["company"]
    assert await named(delegated(service, "alice", "other")) == []


async def test_what_was_outside_and_what_never_was_are_one_answer(service: Service) -> None:
    """The same bytes for a document outside the actor's sources as for one that does not exist."""
    other = delegated(service, "alice", "other")
    outcomes = set()
    for which in (service.document_ids()["sales"], "A" * 24):
        request = retrieval_pb2.GetDocumentRequest(document_id=which)
        outcomes.add(await service.call("RetrievalService/GetDocument", request, token=other))

    assert len(outcomes) == 1


async def test_nobody_administers_in_somebodys_name(service: Service) -> None:
    """An operator's delegated token opens no method that asks for a role; the operator's own does."""
    request = source_pb2.ListSourcesRequest()

    refused = await service.call("SourceService/ListSources", request, token=delegated(service, "olga", "bot"))
    allowed = await service.call("SourceService/ListSources", request, token=service.token("olga"))

    assert (refused.code, allowed.code) == ("PERMISSION_DENIED", "OK")


async def test_a_stranger_and_a_bad_token_are_one_answer(service: Service) -> None:
    """Which actor is configured is nothing that a caller learns."""
    request = access_pb2.GetCallerRequest()

    stranger = await service.call("AccessService/GetCaller", request, token=delegated(service, "alice", "stranger"))
    forged = await service.call("AccessService/GetCaller", request, token="x.y.z")

    assert stranger == forged
    assert stranger.code == "UNAUTHENTICATED"


async def test_a_person_who_was_disabled_is_nobody_for_an_actor_too(service: Service) -> None:
    """The directory decides about the person, whoever acts."""
    bearer = delegated(service, "alice", "bot")
    assert await found(service, bearer)

    service.people(PEOPLE.replace("groups: [sales]}", "groups: [sales], enabled: false}"))

    outcome = await service.call("AccessService/GetCaller", access_pb2.GetCallerRequest(), token=bearer)
    assert outcome.code == "UNAUTHENTICATED"


async def test_the_record_names_the_person_and_every_actor(service: Service) -> None:
    """Both are in the audit log, the current actor first; a person's own call names none."""
    await found(service, delegated(service, "alice", "bot", "other"))
    await found(service, service.token("alice"))

    written = [body["actor"] for body in records(service) if "query" in body]

    assert [(one["account"], one.get("acting")) for one in written if isinstance(one, dict)] == [
        ("u-1001", ["bot", "other"]),
        ("u-1001", None),
    ]
