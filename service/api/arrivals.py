"""Calls that reach no method of ours: health, reflection, methods that do not exist, what ended before it began.

They are counted, and once a minute a record says how many there were of each.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import grpc

from service.audit.record import Kind, Record, record, timestamp

_UNKNOWN: Final = "a method that does not exist"
_STANDARD: Final = frozenset(
    {
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)


@dataclass(slots=True)
class _Arrival:
    """A call. handled: one of our methods has it, and writes its record."""

    handled: bool = False


_arrival: ContextVar[_Arrival | None] = ContextVar("arrival", default=None)


def handled() -> None:
    """Say that the call of this task has a record of its own."""
    arrived = _arrival.get()
    if arrived is not None:
        arrived.handled = True


class Arrivals(grpc.aio.ServerInterceptor):
    """Sees every call of every listener before its handler. known: our methods, such as `remit.v1.X/Y`."""

    def __init__(self, known: Collection[str], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._known = frozenset(known)
        self._now = now
        self._since = now()
        self._calls: Counter[str] = Counter()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """See gRPC: called for each call, within the task that goes on to handle it."""
        arrived = _Arrival()
        _arrival.set(arrived)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._ended(arrived, details.method))
        return await continuation(details)

    def _ended(self, arrived: _Arrival, path: str) -> None:
        if arrived.handled:
            return
        method = path.removeprefix("/")
        if method in self._known:
            self._calls[f"{method} that did not begin"] += 1
        else:
            # The names of others are the caller's own words.
            self._calls[method if method in _STANDARD else _UNKNOWN] += 1

    def take(self) -> list[Record]:
        """The record of what was counted, if there was something; it is counted no more."""
        now = self._now()
        since, self._since = self._since, now
        calls, self._calls = self._calls, Counter()
        if not calls:
            return []
        body: dict[str, object] = {
            "event": "calls_counted",
            "count": calls.total(),
            "first": timestamp(since),
            "last": timestamp(now),
            "calls": dict(calls),
        }
        return [record(Kind.ACCESS, body)]
