"""Streams that need no credential: so many of one address, and so many altogether.

Whoever reaches a listener may watch its health, or ask an administrators' listener what methods it has. Nobody is
proved by that, so these streams are bounded by where they come from and not by whose they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from service.limits import address_of

_MOST: Final = 1024
_MOST_OF_ONE: Final = 32


class Strangers:
    """For one event loop."""

    def __init__(self) -> None:
        self._of: Counter[str] = Counter()

    @contextmanager
    def one(self, context: Any) -> Iterator[bool]:
        """Count a stream for as long as it takes. False: it is one too many, and ends as RESOURCE_EXHAUSTED."""
        who = address_of(context.peer())
        if self._of[who] >= _MOST_OF_ONE or self._of.total() >= _MOST:
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            yield False
            return
        self._of[who] += 1
        try:
            yield True
        finally:
            self._of[who] -= 1
            self._of += Counter()  # without those that have none
