"""A bounded queue between two threads of a pipeline that can be closed at its end and broken off when one fails."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class BrokenOffError(Exception):
    """The pipeline was broken off: whoever waits goes home. Why is known to who broke it off."""


class Channel(Generic[_T]):
    """Values in their order, of which at most `capacity` waits, or one that is heavier.

    weigh: what a value takes of the capacity.
    """

    def __init__(self, capacity: int, weigh: Callable[[_T], int] = lambda value: 1) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._weight = 0
        self._values: deque[_T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._broken = False

    def __len__(self) -> int:
        return len(self._values)

    def put(self, value: _T) -> None:
        """Add a value, waiting for room. Raises BrokenOffError."""
        weight = self._weigh(value)
        with self._changed:
            self._changed.wait_for(lambda: not self._values or self._weight + weight <= self._capacity or self._broken)
            if self._broken:
                raise BrokenOffError
            self._values.append(value)
            self._weight += weight
            self._changed.notify_all()

    def take(self, until: float | None = None) -> _T | None:
        """Take the next value; None at the end, and when there is none at `until` (of `time.monotonic`).

        Raises BrokenOffError.
        """
        with self._changed:
            timeout_s = None if until is None else max(0.0, until - time.monotonic())
            self._changed.wait_for(lambda: self._values or self._closed or self._broken, timeout_s)
            if self._broken:
                raise BrokenOffError
            if not self._values:
                return None
            value = self._values.popleft()
            self._weight -= self._weigh(value)
            self._changed.notify_all()
            return value

    def check(self) -> None:
        """Raise BrokenOffError once the channel was broken off."""
        if self._broken:
            raise BrokenOffError

    @property
    def ended(self) -> bool:
        """True when nothing waits and nothing more will come."""
        with self._changed:
            return self._closed and not self._values

    def close(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def break_off(self) -> None:
        """Drop everything and wake whoever waits."""
        with self._changed:
            self._broken = True
            self._values.clear()
            self._changed.notify_all()
