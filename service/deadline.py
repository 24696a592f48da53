"""When the call that is being worked for ends: passed on to whatever waits for something on its behalf.

Nothing is broken off in the middle by it: a child process that is answering goes on. What it keeps from happening is to
begin, or to wait for one's turn, when nobody waits for the answer any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from service.errors import RemitError

_until: ContextVar[float | None] = ContextVar("until", default=None)


class DeadlinePassedError(RemitError):
    """Nobody waits for this any more."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Work for a call that ends in so many seconds; threads of `service.executor` know it, too."""
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def remaining() -> float | None:
    """Seconds that are left, None where no call is worked for. Raises DeadlinePassedError when none are."""
    until = _until.get()
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0:
        raise DeadlinePassedError("the deadline of the call passed")
    return left
