"""What a connector may offer beside its walk: a word that something has changed, so that the next walk comes early.

A notice says nothing of what changed, and none is ever the reason to believe anything: it brings a run forward, which
reads everything again as any run does. So one that is wrong, forged or missing costs time and never opens anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something has changed, or may have. missed: why notices were lost, for people; empty when none were."""

    missed: str = ""


class Watch(Protocol):
    """A source under watch. Used by one thread; `close` may be called by another."""

    def wait(self, timeout_s: float) -> Noticed | None:
        """Return what was noticed since the last call, or None after a while without anything.

        Raises RetriableError when the watch has ended, and another one must be begun.
        """

    def close(self) -> None:
        """End it. May be called twice."""


@runtime_checkable
class Watchable(Protocol):
    """A connector whose source can be watched."""

    def watch(self) -> Watch:
        """Begin to watch: what changes from the return on is noticed. Blocking.

        Raises RetriableError when it cannot be watched now, and FatalError as `Connector.changes` does.
        """
