"""IndexService: making the indexes anew, for operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from google.protobuf.message import Message
from remit.v1 import index_pb2

from service.api.wrapper import Call, Stream
from service.errors import SearchUnavailableError
from service.upkeep.rebuild import Rebuilds

_POLL_S: Final = 0.2


class IndexServicer:
    """remit.v1.IndexService. count: how many passages the index of vectors holds. poll_s: between two looks."""

    def __init__(self, rebuilds: Rebuilds, count: Callable[[], int], *, poll_s: float = _POLL_S) -> None:
        self._rebuilds = rebuilds
        self._count = count
        self._poll_s = poll_s

    async def RebuildIndex(self, request: index_pb2.RebuildIndexRequest, call: Call) -> Stream:
        """See the `.proto` file."""
        self._rebuilds.start()
        return Stream(self._watch())

    async def _watch(self) -> AsyncGenerator[Message]:
        before = None
        while not (now := self._rebuilds.progress).ended:
            if now != before:
                yield index_pb2.RebuildIndexResponse(part=now.part, done=now.done, total=now.total)
            before = now
            await asyncio.sleep(self._poll_s)
        if now.failed:
            raise SearchUnavailableError("the indexes could not be made anew")
        yield index_pb2.RebuildIndexResponse(chunks=self._count())
