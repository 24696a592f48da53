"""What the standard health service says: serving from start to stop, unless nothing can be answered, or a part not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2

from service.api.strangers import Strangers

log = structlog.get_logger()

_OVERALL: Final = ""
_LONGEST_NAME: Final = 256


class _Servicer(health.aio.HealthServicer):  # type: ignore[misc]  # without types
    """The standard one, with bounds. The name that is watched stays in memory for as long as the watch."""

    def __init__(self) -> None:
        super().__init__()
        self._strangers = Strangers()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """See gRPC. Beyond a bound: RESOURCE_EXHAUSTED."""
        if len(request.service) > _LONGEST_NAME:
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            return
        with self._strangers.one(context) as admitted:
            if admitted:
                await super().Watch(request, context)


class Health:
    """The answers for the services of all listeners. `servicer` is what gRPC registers."""

    def __init__(self, services: Sequence[str]) -> None:
        self.servicer = _Servicer()
        self._services = (_OVERALL, *services)
        self._open = False
        self._failing = False
        self._parts: dict[str, str] = {}
        self._known: frozenset[str] = frozenset()

    async def open(self) -> None:
        """Say SERVING, unless something fails."""
        self._open = True
        await self._say()

    async def close(self) -> None:
        """Say NOT_SERVING, whatever comes."""
        self._open = False
        await self._say()

    async def watch(
        self,
        failure: Callable[[], str | None],
        every_s: float = 0.5,
        parts: Mapping[str, Callable[[], str | None]] | None = None,
    ) -> None:
        """Ask again and again whether something fails, and say so. Runs until it is cancelled.

        failure: why nothing can be answered, None while all is well: `AuditLog.failure`, `Authenticator.failure`.
        parts: by the full name of a service, why that one alone cannot do all that it is for; and by the name of
        something that services rest on, such as `directory/people`, why it is not well. They may block.
        """
        self._known = frozenset(parts or ())
        await self._say()
        while True:
            why = failure()
            found = await asyncio.get_running_loop().run_in_executor(None, _ill, parts or {})
            if (why is not None) != self._failing or found.keys() != self._parts.keys():
                if (why is not None) != self._failing:
                    log.error("not_serving", detail=why) if why is not None else log.info("serving_again")
                for name in found.keys() - self._parts.keys():
                    log.warning("part_not_serving", part=name, detail=found[name])
                self._failing, self._parts = why is not None, found
                await self._say()
            await asyncio.sleep(every_s)

    async def _say(self) -> None:
        status = health_pb2.HealthCheckResponse
        for name in sorted({*self._services, *self._known}):
            well = self._open and not self._failing and name not in self._parts
            await self.servicer.set(name, status.SERVING if well else status.NOT_SERVING)


def _ill(parts: Mapping[str, Callable[[], str | None]]) -> dict[str, str]:
    return {name: said for name, one in parts.items() if (said := one()) is not None}
