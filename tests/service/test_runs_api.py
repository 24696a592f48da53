"""Runs as operators see them: listed a page at a time, and cancelled so that nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from remit.client import AdminClient, SyncState
from remit.v1 import source_pb2

from service.identity import roles
from service.identity.roles import Roles
from service.stores.records import RunState
from tests.service.harness import COMPANY, SALES, Outcome, Service, allow, serving
from tests.service.sync_support import SOURCE, World, open_world
from tests.service.sync_support import allow as allow_user


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document, read five times."""
    async with serving(tmp_path / "remit") as running:
        running.add("plan", "the plan of sales", allow(SALES))
        for _ in range(5):
            running.sync()
        yield running


def _admin(service: Service, name: str = "olga") -> AdminClient:
    return AdminClient(str(service.administrators), token=service.token(name), insecure_loopback=True)


async def test_runs_are_listed_the_newest_first_page_by_page(service: Service) -> None:
    """All pages together are all runs, each once; the latest is the one that the source shows."""

    def read() -> tuple[list[str], list[str], str]:
        with _admin(service) as admin:
            whole = admin.list_sync_runs(COMPANY)
            assert whole.next_page_token == ""
            paged, token = [], ""
            while True:
                page = admin.list_sync_runs(COMPANY, page_size=2, page_token=token)
                paged.append([run.run_id for run in page.runs])
                token = page.next_page_token
                if not token:
                    break
            latest = admin.get_source(COMPANY).latest_run
            assert latest is not None
            assert [len(page) for page in paged] == [2, 2, 1]
            return [run.run_id for run in whole.runs], [one for page in paged for one in page], latest.run_id

    whole, paged, latest = await asyncio.to_thread(read)

    assert whole == paged
    assert len(set(whole)) == 5
    assert whole[0] == latest


async def test_a_page_token_is_good_for_its_caller_and_its_list_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another operator's token, one of another source, and one that was touched are all the same refusal."""
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({"operator"}))

    async def listed(name: str, person: str, token: str) -> Outcome:
        request = source_pb2.ListSyncRunsRequest(name=name, page_size=2, page_token=token)
        return await service.call("SourceService/ListSyncRuns", request, token=service.token(person))

    first = source_pb2.ListSyncRunsResponse.FromString((await listed(COMPANY, "olga", "")).message)
    token = first.next_page_token
    refused = [
        await listed(COMPANY, "alice", token),
        await listed("another", "olga", token),
        await listed(COMPANY, "olga", token[:-2] + ("AA" if not token.endswith("AA") else "BB")),
        await listed(COMPANY, "olga", "x" * 600),
    ]

    assert {outcome.code for outcome in refused} == {"INVALID_ARGUMENT"}
    assert len(set(refused)) == 1
    assert (await listed(COMPANY, "olga", token)).code == "OK"


@pytest.mark.parametrize("size", [-1, 101])
async def test_a_page_has_a_size(service: Service, size: int) -> None:
    """Beyond what is documented is refused; the largest is answered."""
    request = source_pb2.ListSyncRunsRequest(name=COMPANY, page_size=size)
    largest = source_pb2.ListSyncRunsRequest(name=COMPANY, page_size=100)

    outcome = await service.call("SourceService/ListSyncRuns", request, token=service.token("olga"))

    assert outcome.code == "INVALID_ARGUMENT"
    assert (await service.call("SourceService/ListSyncRuns", largest, token=service.token("olga"))).code == "OK"


@pytest.mark.parametrize("by", ["operator", roles.owner_of(COMPANY)])
async def test_a_cancelled_run_ends_and_the_next_one_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Whoever may cancel: the run ends as cancelled, what was there stays, and another run completes."""
    gate, begun = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

    service.add("second", "the second plan", allow(SALES))
    service.source.faults.before_change = hold
    with _admin(service) as operator:
        run_id = (await asyncio.to_thread(operator.start_sync, COMPANY)).run_id
    await begun.wait()
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({by}))

    def cancel() -> list[SyncState]:
        with _admin(service) as admin:
            states = [admin.cancel_sync_run(run_id).state]
            loop.call_soon_threadsafe(gate.set)
            *_, last = admin.watch_sync_run(run_id)
            # To a run that has ended nothing happens.
            return [*states, last.state, admin.cancel_sync_run(run_id).state]

    assert await asyncio.to_thread(cancel) == [SyncState.RUNNING, SyncState.CANCELLED, SyncState.CANCELLED]
    service.source.faults.before_change = None
    assert set(service.document_ids()) == {"plan"}
    service.sync()
    assert set(service.document_ids()) == {"plan", "second"}


@pytest.mark.parametrize("by", ["access-admin", roles.owner_of("another"), "auditor", ""])
async def test_who_may_not_cancel_ends_nothing(service: Service, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """To be told of a run is not to be allowed to end it, and another's run does not exist."""
    run_id = service.engine.run(COMPANY).run_id
    cancelled: list[str] = []
    monkeypatch.setattr(service.engine, "cancel", cancelled.append)
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({by} if by else ()))

    request = source_pb2.CancelSyncRunRequest(run_id=run_id)
    outcome = await service.call("SourceService/CancelSyncRun", request, token=service.token("olga"))

    assert outcome.code == ("NOT_FOUND" if by.startswith("source-owner") else "PERMISSION_DENIED")
    assert cancelled == []


def test_cancelling_loses_nothing_and_deletes_nothing(tmp_path: Path) -> None:
    """A run that is cancelled half way keeps what it narrowed, sweeps nothing, and is finished by the next one."""
    with open_world(tmp_path) as world:
        for name in ("a", "b", "c"):
            world.add(name, f"text {name}", allow_user(1))
        world.sync()
        del world.source.documents["c"]
        world.add("a", "text a", allow_user(2))
        world.add("d", "text d", allow_user(1))

        # The last change before ScanComplete: everything was met, and nothing was swept yet.
        world.source.faults.before_change = lambda number: _cancel(world) if number == 4 else None

        run = world.sync()
        world.source.faults.before_change = None

        assert (run.state, run.failure) == (RunState.CANCELLED, "")
        assert "a" not in world.readable(1), "narrowed at once"
        assert "c" in world.readable(1), "not met, and still not gone"
        assert world.sync().state is RunState.SUCCEEDED
        assert set(world.readable(1)) == {"b", "d"}
        assert set(world.readable(2)) == {"a"}
        assert [one.state for one in world.finished[-2:]] == [RunState.CANCELLED, RunState.SUCCEEDED]


def _cancel(world: World) -> None:
    with world.catalog.reader() as reader:
        run_id = reader.running(SOURCE)
    assert run_id is not None
    assert world.engine.cancel(run_id) is not None


def test_cancelling_a_run_of_nobody_is_nothing(tmp_path: Path) -> None:
    """An id that never was ends no run: the one beside it completes."""
    with open_world(tmp_path) as world:
        world.add("a", "text", allow_user(1))
        seen: list[object] = []
        world.extractor.before = _then(lambda: seen.append(world.engine.cancel("nothing of that name")))

        assert world.sync().state is RunState.SUCCEEDED
        assert seen == [None]


def _then(do: Callable[[], object]) -> Callable[[str], None]:
    def before(text: str) -> None:
        do()

    return before
