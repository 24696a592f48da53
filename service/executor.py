"""The one bounded pool of threads for blocking work of the service's event loop.

What does not fit is refused at once instead of waiting for a deadline to pass.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from service.errors import OverloadedError

P = ParamSpec("P")
T = TypeVar("T")


class Executor:
    """threads: how much runs at once. waiting: how much may wait behind it; more is refused."""

    def __init__(self, *, threads: int = 4, waiting: int = 64) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="work")
        self._limit = threads + waiting
        self._admitted = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread. Called from one event loop.

        When the caller is cancelled the thread finishes what it began, and its place is free only then.
        Raises OverloadedError when too much is waiting, and what `work` raises.
        """
        if self._admitted >= self._limit:
            raise OverloadedError(f"{self._admitted} calls are running or waiting")
        # With the caller's context, so that what a thread logs names the request.
        context = copy_context()
        future = self._pool.submit(lambda: context.run(work, *args, **kwargs))
        self._add(1)
        future.add_done_callback(lambda _: self._add(-1))
        return await asyncio.wrap_future(future)

    def _add(self, change: int) -> None:
        with self._lock:
            self._admitted += change

    def close(self) -> None:
        """Wait for what runs; drop what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)
