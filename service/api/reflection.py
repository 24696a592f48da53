"""What the standard reflection service says, with bounds: it needs no credential."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from grpc_reflection.v1alpha import reflection

from service.api.strangers import Strangers

_LONGEST_S: Final = 60.0


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # without types
    """The standard one. A stream of questions ends after a minute: its last one stays in memory for as long."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self._strangers = Strangers()

    async def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        """See gRPC. Beyond a bound: RESOURCE_EXHAUSTED."""
        with self._strangers.one(context) as admitted:
            if not admitted:
                return
            answers = super().ServerReflectionInfo(request_iterator, context)
            until = asyncio.get_running_loop().time() + _LONGEST_S
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        answer = await anext(answers)
                except (StopAsyncIteration, TimeoutError):
                    return
                yield answer
