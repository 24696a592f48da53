"""SourceService: configured sources and their runs, for operators; the owners of a source are told of theirs alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from google.protobuf.message import Message
from remit.v1 import source_pb2

from service.api import wire
from service.api.holds import HoldMethods, Holds
from service.api.pages import PageTokens
from service.api.sources import Sources
from service.api.wrapper import Call, Reply, Stream
from service.configuration import Reloaded
from service.errors import InvalidRequestError, NotFoundError
from service.executor import Executor
from service.identity.roles import sees
from service.stores.records import RunState, StoredRun

_POLL_S: Final = 0.2
_PAGE: Final = 20
_LARGEST_PAGE: Final = 100


class SourceServicer(HoldMethods):
    """remit.v1.SourceService.

    reload: puts the settings of the file into force, or says why not. poll_s: how often a watch looks at its run.
    """

    def __init__(
        self,
        sources: Sources,
        executor: Executor,
        page_key: bytes,
        reload: Callable[[], Reloaded],
        holds: Holds,
        *,
        poll_s: float = _POLL_S,
    ) -> None:
        super().__init__(holds, executor)
        self._sources = sources
        self._reload = reload
        self._executor = executor
        self._tokens = PageTokens(page_key)
        self._poll_s = poll_s

    async def ListSources(self, request: source_pb2.ListSourcesRequest, call: Call) -> Reply:
        """See the `.proto` file, as for all methods."""
        found = await self._executor.run(self._sources.states)
        seen = [wire.source(one) for one in found if sees(call.caller.resolved.roles, one.stored.name)]
        return Reply(source_pb2.ListSourcesResponse(sources=seen))

    async def GetSource(self, request: source_pb2.GetSourceRequest, call: Call) -> Reply:
        """Return one source."""
        name = _seen(wire.name("name", request.name), call)
        found = await self._executor.run(self._sources.state, name)
        return Reply(source_pb2.GetSourceResponse(source=wire.source(found)))

    async def CheckSource(self, request: source_pb2.CheckSourceRequest, call: Call) -> Reply:
        """Check what a source's credential can read."""
        name = _seen(wire.name("name", request.name), call)
        findings = await self._executor.run(self._sources.check, name)
        return Reply(wire.check_response(findings))

    async def StartSync(self, request: source_pb2.StartSyncRequest, call: Call) -> Reply:
        """Open a run."""
        name = _seen(wire.name("name", request.name), call)
        sync_pass = wire.sync_pass("sync_pass", request.sync_pass)
        run = await self._executor.run(self._sources.start, name, sync_pass)
        return Reply(source_pb2.StartSyncResponse(run=wire.run(run)))

    async def GetSyncRun(self, request: source_pb2.GetSyncRunRequest, call: Call) -> Reply:
        """Return one run."""
        run_id = wire.name("run_id", request.run_id)
        run = await self._executor.run(self._sources.run, run_id)
        _seen(run.source, call)
        return Reply(source_pb2.GetSyncRunResponse(run=wire.run(run)))

    async def ListSyncRuns(self, request: source_pb2.ListSyncRunsRequest, call: Call) -> Reply:
        """Return a page of runs."""
        name = _seen(wire.name("name", request.name), call)
        if not 0 <= request.page_size <= _LARGEST_PAGE:
            raise InvalidRequestError("page_size", f"{request.page_size}, expected 0 to {_LARGEST_PAGE}")
        before = self._tokens.read(request, call)
        page = await self._executor.run(self._sources.runs, name, before, request.page_size or _PAGE)
        token = "" if page.following is None else self._tokens.write(page.following, request, call)
        return Reply(source_pb2.ListSyncRunsResponse(runs=[wire.run(one) for one in page.runs], next_page_token=token))

    async def CancelSyncRun(self, request: source_pb2.CancelSyncRunRequest, call: Call) -> Reply:
        """Tell one run to end."""
        run_id = wire.name("run_id", request.run_id)
        # Whose run it is comes first: who may not be told of it may not end it either.
        _seen((await self._executor.run(self._sources.run, run_id)).source, call)
        run = await self._executor.run(self._sources.cancel, run_id)
        return Reply(source_pb2.CancelSyncRunResponse(run=wire.run(run)))

    async def WatchSyncRun(self, request: source_pb2.WatchSyncRunRequest, call: Call) -> Stream:
        """Follow one run to its end."""
        run_id = wire.name("run_id", request.run_id)
        run = await self._executor.run(self._sources.run, run_id)
        _seen(run.source, call)
        return Stream(self._watch(run))

    async def RemoveSource(self, request: source_pb2.RemoveSourceRequest, call: Call) -> Reply:
        """Remove a source."""
        name = _seen(wire.name("name", request.name), call)
        removed = await self._executor.run(self._sources.remove, name)
        return Reply(source_pb2.RemoveSourceResponse(source=wire.source(removed)))

    async def ReloadSettings(self, request: source_pb2.ReloadSettingsRequest, call: Call) -> Reply:
        """Read the settings again."""
        return Reply(wire.reload_response(await self._executor.run(self._reload)))

    async def _watch(self, run: StoredRun) -> AsyncGenerator[Message]:
        yield source_pb2.WatchSyncRunResponse(run=wire.run(run))
        while run.state is RunState.RUNNING:
            await asyncio.sleep(self._poll_s)
            now = await self._executor.run(self._sources.run, run.run_id)
            if now != run:
                yield source_pb2.WatchSyncRunResponse(run=wire.run(now))
            run = now


def _seen(source: str, call: Call) -> str:
    """The name, unless the caller may not be told of the source: then it does not exist."""
    if not sees(call.caller.resolved.roles, source):
        raise NotFoundError("the source does not exist or is another's")
    return source
