"""SourceService: configured sources and their runs, for operators; the owners of a source are told of theirs alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from google.protobuf.message import Message
from remit.v1 import source_pb2

from service.api import wire
from service.api.sources import Sources
from service.api.wrapper import Call, Reply, Stream
from service.errors import NotFoundError
from service.executor import Executor
from service.roles import sees
from service.stores.records import RunState, StoredRun

_POLL_S: Final = 0.2


class SourceServicer:
    """remit.v1.SourceService. poll_s: how often a watch looks whether its run has changed."""

    def __init__(self, sources: Sources, executor: Executor, *, poll_s: float = _POLL_S) -> None:
        self._sources = sources
        self._executor = executor
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
        run = await self._executor.run(self._sources.start, name)
        return Reply(source_pb2.StartSyncResponse(run=wire.run(run)))

    async def GetSyncRun(self, request: source_pb2.GetSyncRunRequest, call: Call) -> Reply:
        """Return one run."""
        run_id = wire.name("run_id", request.run_id)
        run = await self._executor.run(self._sources.run, run_id)
        _seen(run.source, call)
        return Reply(source_pb2.GetSyncRunResponse(run=wire.run(run)))

    async def WatchSyncRun(self, request: source_pb2.WatchSyncRunRequest, call: Call) -> Stream:
        """Follow one run to its end."""
        run_id = wire.name("run_id", request.run_id)
        run = await self._executor.run(self._sources.run, run_id)
        _seen(run.source, call)
        return Stream(self._watch(run))

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
