"""Opening several things at once: a start after a crash is as long as its longest part and not as their sum."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Opens something in a thread of its own from now on.

    opening: gets the stack of what it opens. closing: closes that, whether it was asked for or not, and however far it
    had come; what is opened after this is closed before.
    """

    def __init__(self, opening: Callable[[ExitStack], T], closing: ExitStack) -> None:
        self._opened = ExitStack()
        pool = ThreadPoolExecutor(1, thread_name_prefix="opening")
        self._future = pool.submit(opening, self._opened)
        pool.shutdown(wait=False)
        closing.callback(self._close)

    def get(self) -> T:
        """Wait for it. Raises what the opening raised."""
        return self._future.result()

    def _close(self) -> None:
        wait([self._future])
        self._opened.close()
