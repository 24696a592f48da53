"""How much one caller may ask for: calls a second, calls at once, streams at once. What is beyond is refused at once.

Buckets belong to whom a credential proves; calls that prove nobody share the bucket of their address. Only the event
loop uses them. What all callers together may have under way is bounded as well, so that memory is.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from connectors.yaml_file import Field
from service.errors import OverloadedError, RemitError

_MOST_KEPT: Final = 20_000
"""Callers and addresses that are remembered. INVARIANT: nobody is forgotten who has calls under way."""


class RateLimitedError(RemitError):
    """The caller is at a limit of its own. limit: which one. retry_s: after how long a call may pass."""

    def __init__(self, limit: str, retry_s: float) -> None:
        super().__init__(f"limit of {limit} reached")
        self.limit = limit
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one caller may have, and an address from which nobody is proved.

    calls_per_second, burst: a bucket that holds `burst` calls and is filled at that rate.
    calls_at_once, streams_at_once: under way, both kinds counted apart.
    unproven_per_second: of each address, with a burst of three seconds.
    at_once: of all callers together.
    """

    calls_per_second: int = 200
    burst: int = 400
    calls_at_once: int = 32
    streams_at_once: int = 8
    unproven_per_second: int = 50
    at_once: int = 512


_RANGES: Final = {
    "calls_per_second": (1, 100_000),
    "burst": (1, 1_000_000),
    "calls_at_once": (1, 512),
    "streams_at_once": (1, 512),
    "unproven_per_second": (1, 100_000),
}
KEYS: Final = tuple(_RANGES)


def read(entries: dict[str, Field]) -> CallLimits:
    """Read those keys of `limits` that are about calls. Raises YamlFileError."""
    return CallLimits(**{key: entries[key].whole(*bounds) for key, bounds in _RANGES.items() if key in entries})


@dataclass(slots=True)
class _Account:
    tokens: float
    at: float
    calls: int = 0
    streams: int = 0


@dataclass(slots=True)
class _Buckets:
    """Buckets of one size by name, the least recently used first."""

    rate: float
    burst: float
    clock: Callable[[], float]
    found: OrderedDict[str, _Account] = field(default_factory=OrderedDict)

    def of(self, name: str) -> _Account:
        """The bucket, filled up to now."""
        now = self.clock()
        account = self.found.get(name)
        if account is None:
            self._make_room()
            account = self.found[name] = _Account(self.burst, now)
        account.tokens = min(self.burst, account.tokens + max(now - account.at, 0.0) * self.rate)
        account.at = now
        self.found.move_to_end(name)
        return account

    def take(self, name: str, limit: str) -> None:
        """Take one. Raises RateLimitedError when there is none."""
        account = self.of(name)
        if account.tokens < 1.0:
            raise RateLimitedError(limit, (1.0 - account.tokens) / self.rate)
        account.tokens -= 1.0

    def _make_room(self) -> None:
        if len(self.found) < _MOST_KEPT:
            return
        for name, account in self.found.items():
            if not account.calls and not account.streams:
                del self.found[name]
                return


class Meter:
    """Counts for one service. For one event loop."""

    def __init__(self, limits: CallLimits = CallLimits(), clock: Callable[[], float] = time.monotonic) -> None:
        self.limits: Final = limits
        self._proven = _Buckets(limits.calls_per_second, limits.burst, clock)
        self._unproven = _Buckets(limits.unproven_per_second, 3 * limits.unproven_per_second, clock)
        self.under_way = 0

    @contextmanager
    def admit(self, name: str, *, stream: bool) -> Iterator[None]:
        """Count a call of a caller for as long as it takes. Raises RateLimitedError and OverloadedError."""
        self._proven.take(name, "calls_per_second")
        account = self._proven.of(name)
        if stream and account.streams >= self.limits.streams_at_once:
            raise RateLimitedError("streams_at_once", 1.0)
        if not stream and account.calls >= self.limits.calls_at_once:
            raise RateLimitedError("calls_at_once", 1.0)
        if self.under_way >= self.limits.at_once:
            raise OverloadedError(f"{self.under_way} calls are under way")
        self._count(account, 1, stream=stream)
        try:
            yield
        finally:
            self._count(account, -1, stream=stream)

    def unproven(self, peer: str) -> None:
        """Count a call that proved nobody. peer: as gRPC names it. Raises RateLimitedError."""
        self._unproven.take(address_of(peer), "unproven_per_second")

    def _count(self, account: _Account, change: int, *, stream: bool) -> None:
        self.under_way += change
        if stream:
            account.streams += change
        else:
            account.calls += change


def address_of(peer: str) -> str:
    """Whose calls are counted together: the host of `ipv4:127.0.0.1:5000`, and of IPv6 the network of 64 bits.

    One machine has all addresses of such a network.
    """
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    if kind != "ipv6":
        return host or peer
    try:
        return str(ipaddress.IPv6Network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return peer
