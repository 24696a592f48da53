"""Floods of refused calls: each address has some records a second, and one with a count for all that came beyond.

Only calls that proved nobody, or were refused for their number, are counted here: they were told nothing, so nothing
waits for their records. What is counted and not yet written is lost when the process is killed: at most the counts of
one second.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from service.audit.call import refused_record
from service.audit.record import Record
from service.limits import address_of

SINGLE: Final = 10
"""Records a second and address before counting begins."""

_MOST_ADDRESSES: Final = 1000
_OTHERS: Final = "others"
_MOST_KINDS: Final = 200


@dataclass(slots=True)
class _Address:
    second: int
    singles: int = 0
    first: datetime | None = None
    last: datetime | None = None
    calls: Counter[str] = field(default_factory=Counter)


class Floods:
    """Counts what comes too fast. For one thread. `reason`: that of every call that is counted."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self._addresses: dict[str, _Address] = {}

    def counted(self, peer: str, what: str, at: datetime) -> bool:
        """True when the call is counted; it has a record of its own otherwise.

        peer: as gRPC names it; the port is left out. what: the method and the detail.
        """
        address = _address(peer)
        if address not in self._addresses and len(self._addresses) >= _MOST_ADDRESSES:
            address = _OTHERS
        second = int(at.timestamp())
        state = self._addresses.setdefault(address, _Address(second))
        if state.second != second:
            state.second, state.singles = second, 0
        if address != _OTHERS and state.singles < SINGLE:
            state.singles += 1
            return False
        state.first = state.first or at
        state.last = at
        state.calls[what if what in state.calls or len(state.calls) < _MOST_KINDS else _OTHERS] += 1
        return True

    def take(self) -> list[Record]:
        """The records of what was counted since the last time; they are counted no more."""
        found = [
            refused_record(address, self.reason, state.first, state.last, state.calls)
            for address, state in self._addresses.items()
            if state.first is not None and state.last is not None
        ]
        self._addresses = {
            address: _Address(state.second, state.singles)
            for address, state in self._addresses.items()
            if state.first is not None
        }
        return found


def _address(peer: str) -> str:
    """The host of a peer: `ipv4:127.0.0.1` of `ipv4:127.0.0.1:5000`; of IPv6 the network, as limits count them."""
    if peer.startswith("ipv6:"):
        return f"ipv6:{address_of(peer)}"
    host, _, port = peer.rpartition(":")
    return host if host and port.isdecimal() else peer
