"""What a caller gets: nothing that the catalog's current rules do not allow, whatever index, source and time do."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from remit.client import InternalError, NotFoundError, SearchMode
from remit.v1.retrieval_pb2 import BatchGetChunksRequest, GetDocumentRequest, SearchRequest
from remit.v1.retrieval_pb2 import SearchMode as WireMode

from acl.model import Unknown
from service.authn import Authenticator
from service.errors import StartError
from service.identity.callers import Callers
from service.index.follow import follow
from service.search.reading import open_passages, permit
from service.stores.records import StoredChunk
from tests.service.harness import (
    ALICE,
    BOB,
    COMPANY,
    EVERYBODY,
    FINANCE,
    PEOPLE,
    SALES,
    MemoryIndex,
    Service,
    allow,
    serving,
)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service over an empty source."""
    async with serving(tmp_path / "remit") as running:
        yield running


@pytest.fixture
def index(service: Service) -> MemoryIndex:
    """The service's index, which can be made to misbehave."""
    assert isinstance(service.index, MemoryIndex)
    return service.index


async def texts(
    service: Service, name: str, query: str = "plan", limit: int = 10, mode: SearchMode = SearchMode.HYBRID
) -> list[str]:
    """What somebody finds."""
    async with service.client(name) as client:
        return [hit.chunk.text for hit in (await client.search(query, limit=limit, mode=mode)).hits]


async def test_each_caller_finds_what_their_groups_may_read(service: Service) -> None:
    """Alice in Sales and Bob in Finance ask the same and get their own."""
    service.add("sales", "the plan of sales", allow(SALES))
    service.add("finance", "the plan of finance", allow(FINANCE))
    service.add("all", "the plan of everybody", allow(EVERYBODY))
    service.sync()

    assert sorted(await texts(service, "alice")) == ["the plan of everybody", "the plan of sales"]
    assert sorted(await texts(service, "bob")) == ["the plan of everybody", "the plan of finance"]
    assert await texts(service, "olga") == []


async def test_the_whole_path_with_the_real_index(tmp_path: Path) -> None:
    """The index process behind the same service gives the same answers, also after a restart."""
    async with serving(tmp_path / "remit", edge=True) as service:
        service.add("sales", "the plan of sales\n\nand its second part", allow(SALES))
        service.add("finance", "the plan of finance", allow(FINANCE))
        service.sync()
        assert await texts(service, "alice", limit=1) == ["the plan of sales"]

    async with serving(tmp_path / "remit", edge=True) as service:
        assert follow(service.catalog, service.index) == 0
        assert await texts(service, "alice") == ["the plan of sales", "and its second part"]
        assert await texts(service, "bob") == ["the plan of finance"]


async def test_hits_are_ranked_and_explained(service: Service) -> None:
    """Ranks count from 1, scores fall, and each grant names clause, principal and the path of groups to it."""
    service.scope("finance", allow(FINANCE), "root")
    service.add("near", "plan", allow(EVERYBODY), "finance")
    service.add("far", "plan with many other words", allow(BOB), "finance")
    service.sync()

    async with service.client("bob") as client:
        found = await client.search("plan", explain=True)
        plain = await client.search("plan")

    assert [(hit.rank, hit.chunk.document.title) for hit in found.hits] == [(1, "near"), (2, "far")]
    assert found.hits[0].score == pytest.approx(1.0)
    assert found.hits[0].score > found.hits[1].score
    assert [(g.clause, g.principal, g.path) for g in found.hits[1].grants] == [
        ("/", EVERYBODY.token, ("bob",)),
        ("/finance", FINANCE.token, ("bob", "fin-emea", "finance")),
        ("own", BOB.token, ("bob",)),
    ]
    assert all(hit.grants == () for hit in plain.hits)


async def test_an_index_that_proposes_everything_opens_nothing(service: Service, index: MemoryIndex) -> None:
    """The index proposes and never decides."""
    service.add("sales", "the plan of sales", allow(SALES))
    service.add("finance", "the plan of finance", allow(FINANCE))
    service.sync()

    index.propose_all = True

    assert await texts(service, "alice") == ["the plan of sales"]


async def test_more_candidates_are_asked_for_until_enough_survive(service: Service, index: MemoryIndex) -> None:
    """When decisions thin the candidates out, further rounds ask for more, and no more rounds than needed."""
    for number in range(30):
        service.add(f"hidden{number:02}", "plan", allow(FINANCE))
    for number in range(3):
        service.add(f"mine{number}", "plan of mine", allow(SALES))
    service.sync()
    index.propose_all = True

    assert await texts(service, "alice", limit=2, mode=SearchMode.DENSE) == ["plan of mine"] * 2
    assert index.asked == [4, 16, 64]


async def test_the_budget_of_rounds_is_bounded(service: Service, index: MemoryIndex) -> None:
    """When nothing survives, the search ends after three rounds with what it has."""
    for number in range(100):
        service.add(f"hidden{number:02}", "plan", allow(FINANCE))
    service.add("mine", "plan of mine", allow(SALES))
    service.sync()
    index.propose_all = True

    assert await texts(service, "alice", limit=1, mode=SearchMode.DENSE) == []
    assert index.asked == [2, 8, 32]
    index.propose_all = False
    assert await texts(service, "alice", limit=1, mode=SearchMode.DENSE) == ["plan of mine"]


async def test_no_permitted_document_asks_the_index_for_none(service: Service, index: MemoryIndex) -> None:
    """A caller who may read nothing gets an empty answer."""
    service.add("sales", "plan", allow(SALES))
    service.sync()

    assert await texts(service, "olga") == []
    assert len(index.asked) == 1


async def test_a_revocation_between_candidates_and_decision_is_in_force(service: Service, index: MemoryIndex) -> None:
    """What is committed before the decision decides, though the candidates were permitted when they were found."""
    service.add("sales", "plan of sales", allow(SALES, FINANCE))
    service.add("other", "plan of others", allow(SALES))
    service.sync()

    def revoke() -> None:
        index.before_answer = lambda: None
        service.add("sales", "plan of sales", allow(FINANCE))
        service.engine.run(COMPANY)

    index.before_answer = revoke

    assert await texts(service, "alice") == ["plan of others"]
    assert await texts(service, "bob") == ["plan of sales"]


async def test_a_revoked_folder_is_in_force_on_the_next_query(service: Service) -> None:
    """One changed scope withdraws everything below it, and index and texts are not touched for it."""
    service.scope("sales", allow(SALES), "root")
    for number in range(5):
        service.add(f"d{number}", "plan", allow(EVERYBODY), "sales")
    service.sync()
    assert len(await texts(service, "alice")) == 5

    service.scope("sales", allow(FINANCE), "root")
    service.engine.run(COMPANY)

    assert await texts(service, "alice") == []
    assert len(await texts(service, "bob")) == 5


async def test_a_removed_group_is_in_force_on_the_next_query(service: Service) -> None:
    """Groups are those of the moment of the question."""
    service.add("finance", "plan of finance", allow(FINANCE))
    service.sync()
    assert await texts(service, "bob") == ["plan of finance"]

    service.people(PEOPLE.replace("groups: [fin-emea]", "groups: []"))

    assert await texts(service, "bob") == []


@pytest.mark.parametrize("leaves", [True, False])
async def test_groups_resolved_before_a_text_was_stored_do_not_open_it(service: Service, leaves: bool) -> None:
    """Bob leaves Finance, then a secret is stored for Finance: groups read before that must not open it.

    A member who stays gets the text, because the caller is resolved again.
    """
    service.add("old", "plan from before", allow(EVERYBODY))
    service.sync()

    def meanwhile() -> None:
        service.directory.before = lambda: None
        if leaves:
            service.people(PEOPLE.replace("groups: [fin-emea]", "groups: []"))
        service.add("secret", "plan of the merger", allow(FINANCE))
        service.sync()

    service.directory.before = meanwhile

    found = await texts(service, "bob")

    assert sorted(found) == (["plan from before"] if leaves else ["plan from before", "plan of the merger"])


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("opened", ["document", "container"])
async def test_groups_resolved_before_rules_were_stored_do_not_open_what_they_open(
    service: Service, opened: str, leaves: bool
) -> None:
    """Bob leaves Finance, then a plan of Alice's is opened to Finance: he could read it at no time."""
    service.scope("board", allow(ALICE) if opened == "container" else allow(ALICE, FINANCE), "root")
    service.add("old", "plan from before", allow(EVERYBODY))
    service.add("secret", "plan of the merger", allow(ALICE) if opened == "document" else allow(EVERYBODY), "board")
    service.sync()
    await texts(service, "alice")

    def meanwhile() -> None:
        service.directory.before = lambda: None
        if leaves:
            service.people(PEOPLE.replace("groups: [fin-emea]", "groups: []"))
        if opened == "document":
            service.add("secret", "plan of the merger", allow(ALICE, FINANCE), "board")
        service.scope("board", allow(ALICE, FINANCE), "root")
        service.sync()

    service.directory.before = meanwhile

    found = await texts(service, "bob")

    assert sorted(found) == (["plan from before"] if leaves else ["plan from before", "plan of the merger"])


async def test_unknown_rules_are_nobodys(service: Service) -> None:
    """A document or a folder whose rules are not understood is withheld from everybody; its neighbour is not."""
    service.scope("odd", Unknown("not understood"), "root")
    service.add("a", "plan a", Unknown("not understood"))
    service.add("b", "plan b", allow(EVERYBODY), "odd")
    service.add("c", "plan c", allow(EVERYBODY), "missing")
    service.add("d", "plan d", allow(EVERYBODY))
    service.sync()

    assert await texts(service, "alice") == ["plan d"]


async def test_a_removed_document_is_gone_before_the_index_knows(service: Service, index: MemoryIndex) -> None:
    """The catalog decides what exists."""
    service.add("gone", "plan to go", allow(EVERYBODY))
    service.add("stays", "plan to stay", allow(EVERYBODY))
    service.sync()

    del service.source.documents["gone"]
    service.engine.run(COMPANY)

    assert index.count == 2
    assert await texts(service, "alice") == ["plan to stay"]


async def test_only_the_current_text_is_read(service: Service) -> None:
    """After a change of content nobody gets the old passages, also while the index still has them."""
    service.add("d", "plan one\n\nplan two", allow(EVERYBODY))
    service.sync()

    service.add("d", "plan three", allow(EVERYBODY))
    service.engine.run(COMPANY)
    before_the_index_follows = await texts(service, "alice")
    service.follow()

    assert before_the_index_follows == []
    assert await texts(service, "alice") == ["plan three"]


async def test_stale_rules_withhold_their_source_and_the_answer_says_so(service: Service) -> None:
    """Past the configured age nothing of the source is returned by any method, until it is verified again."""
    service.add("d", "plan", allow(SALES))
    service.sync()
    document_id, chunk_ids = service.document_ids()["d"], service.chunk_ids("d")

    service.clock.advance(timedelta(hours=24, seconds=1))

    async with service.client("alice") as client:
        found = await client.search("plan")
        assert found.hits == ()
        assert [(s.source, s.withheld) for s in found.freshness.sources] == [(COMPANY, True)]
        assert (await client.batch_get_chunks(chunk_ids)).chunks == ()
        with pytest.raises(NotFoundError):
            await client.get_document(document_id)
        service.sync()
        found = await client.search("plan")
        assert [hit.chunk.text for hit in found.hits] == ["plan"]
        assert [(s.withheld, s.permissions_age) for s in found.freshness.sources] == [(False, timedelta(0))]


async def test_rules_from_the_future_are_stale(service: Service) -> None:
    """When the clock was set back, nobody knows how old the rules are."""
    service.add("d", "plan", allow(SALES))
    service.sync()

    service.clock.advance(timedelta(seconds=-1))

    assert await texts(service, "alice") == []


async def test_a_source_without_a_complete_run_is_withheld(service: Service) -> None:
    """What a broken first run brought is not served: its rules were never verified in full."""
    service.add("a", "plan a", allow(SALES))
    service.add("b", "plan b", allow(SALES))
    service.source.faults.fail_at = 2
    service.engine.run(COMPANY)
    service.follow()

    assert await texts(service, "alice") == []
    service.source.faults.fail_at = None
    service.sync()
    assert sorted(await texts(service, "alice")) == ["plan a", "plan b"]


async def test_a_source_that_is_no_longer_configured_is_withheld(tmp_path: Path) -> None:
    """Nobody verifies the rules of a source that the settings do not name."""
    async with serving(tmp_path / "remit") as service:
        service.add("d", "plan", allow(SALES))
        service.sync()
    settings = tmp_path / "remit" / "remit.yaml"
    written = settings.read_text()

    settings.write_text(written[: written.index("\nsources:") + 1])
    async with serving(tmp_path / "remit") as service:
        service.follow()
        assert await texts(service, "alice") == []
    settings.write_text(written)
    async with serving(tmp_path / "remit") as service:
        service.follow()
        assert await texts(service, "alice") == ["plan"]


async def test_only_sources_asked_for_are_searched(service: Service) -> None:
    """A source that does not exist adds nothing, and is not named in the answer."""
    service.add("d", "plan", allow(SALES))
    service.sync()

    async with service.client("alice") as client:
        both = await client.search("plan", sources=["elsewhere", COMPANY])
        none = await client.search("plan", sources=["elsewhere"])

    assert [hit.chunk.text for hit in both.hits] == ["plan"]
    assert [s.source for s in both.freshness.sources] == [COMPANY]
    assert (none.hits, none.freshness.sources) == ((), ())


async def test_candidates_of_other_sources_than_asked_for_are_left_out(service: Service, index: MemoryIndex) -> None:
    """The catalog has the last word on the source, too."""
    service.add("d", "plan", allow(SALES))
    service.sync()
    index.propose_all = True

    async with service.client("alice") as client:
        assert (await client.search("plan", sources=["elsewhere"])).hits == ()
        assert len((await client.search("plan", sources=[COMPANY])).hits) == 1


async def test_passages_open_only_as_part_of_what_was_decided_on(service: Service) -> None:
    """A chunk of another version, of rows that are withheld or of another document does not open with a permit."""
    service.add("d", "plan", allow(SALES))
    service.sync()
    subject = Authenticator(service.config.issuers, now=service.clock).authenticate(f"Bearer {service.token('alice')}")
    caller = Callers(service.identity, service.access.latest).resolve(subject)
    with service.access.snapshot() as snapshot:
        (document,) = snapshot.reader.documents(range(10)).values()
        (chunk,) = snapshot.reader.chunks_of(document.ordinal)
        permits = permit(snapshot, [document, None], caller, again=False)

    def opened(one: StoredChunk) -> list[str]:
        return [passage.text for passage in open_passages(service.catalog.sealing, permits, [one])]

    assert opened(chunk) == ["plan"]
    assert opened(replace(chunk, version=chunk.version + 1)) == []
    assert opened(replace(chunk, row=document.row_stop)) == []
    assert opened(replace(chunk, row=document.row_start - 1)) == []
    assert opened(replace(chunk, ordinal=chunk.ordinal + 1)) == []


async def test_a_source_in_which_nothing_may_be_read_is_not_named(service: Service) -> None:
    """That a source exists is nothing that everybody may know."""
    service.add("d", "plan", allow(SALES))
    service.sync()

    async with service.client("bob") as bob, service.client("alice") as alice:
        assert (await bob.search("plan")).freshness.sources == ()
        assert (await bob.search("plan", sources=[COMPANY])).freshness.sources == ()
        assert (await bob.get_caller()).freshness.sources == ()
        assert [s.source for s in (await alice.get_caller()).freshness.sources] == [COMPANY]


async def test_a_document_comes_whole_and_in_order(service: Service) -> None:
    """GetDocument returns every passage with its place and hash."""
    service.add("d", "# Title\n\nfirst\n\nsecond", allow(SALES))
    service.sync()

    async with service.client("alice") as client:
        found = await client.get_document(service.document_ids()["d"])

    assert (found.document.title, found.document.location, found.document.source) == ("Title", "d", COMPANY)
    assert [(c.text, c.start, c.end) for c in found.chunks] == [
        ("# Title", 0, 7),
        ("first", 9, 14),
        ("second", 16, 22),
    ]


async def test_passages_come_in_the_order_asked(service: Service) -> None:
    """BatchGetChunks keeps the order and leaves out what is absent and what is hidden."""
    service.add("mine", "one\n\ntwo\n\nthree", allow(SALES))
    service.add("hidden", "secret", allow(FINANCE))
    service.sync()
    one, two, three = service.chunk_ids("mine")
    (hidden,) = service.chunk_ids("hidden")

    async with service.client("alice") as client:
        found = await client.batch_get_chunks([three, hidden, one, "no-such-chunk", two, one])

    assert [chunk.text for chunk in found.chunks] == ["three", "one", "two", "one"]


def _damage(service: Service, name: str, change: Callable[[bytes], bytes]) -> None:
    chunk_id = service.chunk_ids(name)[0]
    with sqlite3.connect(service.config.data / "catalog.sqlite") as catalog:
        (body,) = catalog.execute("SELECT body FROM chunks WHERE chunk_id = ?", (chunk_id,)).fetchone()
        catalog.execute("UPDATE chunks SET body = ? WHERE chunk_id = ?", (change(body), chunk_id))
    catalog.close()


async def test_a_damaged_passage_is_withheld(service: Service) -> None:
    """A passage that does not open is left out of searches, and its document is not returned in part."""
    service.add("bad", "plan one\n\nplan two", allow(SALES))
    service.add("good", "plan three", allow(SALES))
    service.sync()
    ids = service.document_ids()

    _damage(service, "bad", lambda body: body[:-1] + bytes([body[-1] ^ 1]))

    assert sorted(await texts(service, "alice")) == ["plan three", "plan two"]
    async with service.client("alice") as client:
        with pytest.raises(InternalError):
            await client.get_document(ids["bad"])
        assert (await client.get_document(ids["good"])).chunks[0].text == "plan three"


async def test_a_damaged_passage_is_not_found_by_its_words_and_holds_up_nobody(service: Service) -> None:
    """The keyword index goes on behind a passage that does not open: its words are nobody's, the others are found."""
    service.add("bad", "plan one\n\nplan two", allow(SALES))
    service.add("good", "plan three", allow(SALES))
    service.sync()
    _damage(service, "bad", lambda body: body[:-1] + bytes([body[-1] ^ 1]))

    service.keywords.clear()
    service.add("later", "plan four", allow(SALES))
    service.sync()

    assert service.keywords.applied_seq == service.index.applied_seq
    found = await texts(service, "alice", mode=SearchMode.KEYWORD)
    assert sorted(found) == ["plan four", "plan three", "plan two"]


async def test_a_passage_moved_to_another_document_is_withheld(service: Service) -> None:
    """Text that stands where it was not sealed for is nobody's: rules cannot be changed by moving rows."""
    service.add("secret", "plan of finance", allow(FINANCE))
    service.add("open", "plan of everybody", allow(EVERYBODY))
    service.sync()
    (secret,) = service.chunk_ids("secret")
    with sqlite3.connect(service.config.data / "catalog.sqlite") as catalog:
        (body,) = catalog.execute("SELECT body FROM chunks WHERE chunk_id = ?", (secret,)).fetchone()
    catalog.close()

    _damage(service, "open", lambda _: body)

    assert await texts(service, "alice") == []
    assert await texts(service, "bob") == ["plan of finance"]


async def test_what_hidden_documents_do_changes_nothing(tmp_path: Path) -> None:
    """Answers to Alice are byte for byte the same, whether Finance has no document or forty, some of them nearer.

    The clock and the names of the answers are held; everything else is the service as it is.
    """
    words = ["plan", "budget", "merger", "the quarterly report", "plan budget", "nothing", "?!", "a b c d e"]
    async with serving(tmp_path / "remit", edge=True, new_id=lambda: "fixed") as service:
        for number in range(12):
            service.add(f"m{number}", f"{words[number % 5]} of sales {number // 6}", allow(SALES))
        service.sync()
        token = service.token("alice")
        ids, chunk_ids = service.document_ids(), service.chunk_ids("m3")

        async def everything() -> list[object]:
            asked = [
                await service.call(
                    "RetrievalService/Search",
                    SearchRequest(query=q, limit=limit, explain=True, mode=mode),
                    token=token,
                )
                for q in words
                for limit in (1, 5, 100)
                for mode in WireMode.values()
            ]
            reading = GetDocumentRequest(document_id=ids["m2"])
            asked.append(await service.call("RetrievalService/GetDocument", reading, token=token))
            batch = BatchGetChunksRequest(chunk_ids=chunk_ids)
            asked.append(await service.call("RetrievalService/BatchGetChunks", batch, token=token))
            asked.append(await service.call("AccessService/GetCaller", token=token))
            return list(asked)

        before = await everything()
        for number in range(40):
            service.add(f"h{number}", f"{words[number % 5]} of sales {number % 2}", allow(FINANCE))
        service.sync()
        after = await everything()

    assert before == after
    assert len({str(one) for one in before}) > 10


async def test_two_services_never_open_one_folder(tmp_path: Path) -> None:
    """Two services never open one data folder."""
    async with serving(tmp_path / "remit"):
        with pytest.raises(StartError):
            async with serving(tmp_path / "remit"):
                raise AssertionError("unreachable")


async def test_alice_herself_is_a_principal(service: Service) -> None:
    """A private file is its owner's alone."""
    service.add("private", "plan of my own", allow(ALICE))
    service.sync()

    assert await texts(service, "alice") == ["plan of my own"]
    assert await texts(service, "bob") == []
