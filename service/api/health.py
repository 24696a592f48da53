"""What the standard health service says: serving from start to stop, unless nothing can be answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from grpc_health.v1 import health, health_pb2

log = structlog.get_logger()

_OVERALL: Final = ""


class Health:
    """One answer for every service of both listeners. `servicer` is what gRPC registers."""

    def __init__(self, services: Sequence[str]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._services = (_OVERALL, *services)
        self._open = False
        self._failing = False

    async def open(self) -> None:
        """Say SERVING, unless something fails."""
        self._open = True
        await self._say()

    async def close(self) -> None:
        """Say NOT_SERVING, whatever comes."""
        self._open = False
        await self._say()

    async def watch(self, failure: Callable[[], str | None], every_s: float = 0.5) -> None:
        """Ask again and again whether something fails, and say so. Runs until it is cancelled.

        failure: why nothing can be answered, None while all is well: `AuditLog.failure`, `Authenticator.failure`.
        """
        while True:
            why = failure()
            if (why is not None) != self._failing:
                self._failing = why is not None
                log.error("not_serving", detail=why) if why is not None else log.info("serving_again")
                await self._say()
            await asyncio.sleep(every_s)

    async def _say(self) -> None:
        status = health_pb2.HealthCheckResponse
        for name in self._services:
            await self.servicer.set(name, status.SERVING if self._open and not self._failing else status.NOT_SERVING)
