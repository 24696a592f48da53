"""The calls that are under way, and how they end when the service stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from weakref import WeakSet


class UnderWay:
    """For one event loop. refusing: every new call is answered that it may be tried again elsewhere."""

    def __init__(self) -> None:
        self.refusing = False
        self._running: dict[asyncio.Timeout, bool] = {}
        self._cut: WeakSet[asyncio.Timeout] = WeakSet()

    @property
    def idle(self) -> bool:
        """Whether there is none."""
        return not self._running

    @contextlib.asynccontextmanager
    async def within(self, limit: asyncio.Timeout, *, stream: bool) -> AsyncGenerator[None]:
        """A call, from its beginning to its end or to its limit."""
        async with limit:
            self._running[limit] = stream
            try:
                yield
            finally:
                del self._running[limit]

    def cut(self, *, streams_alone: bool) -> None:
        """End calls now, as if their limit had come."""
        for limit, stream in list(self._running.items()):
            if stream or not streams_alone:
                self._cut.add(limit)
                limit.reschedule(asyncio.get_running_loop().time())

    def was_cut(self, limit: asyncio.Timeout) -> bool:
        """Whether a call ended because the service stops."""
        return limit in self._cut
