"""The groups of a server itself, by the Security Account Manager's remote protocol: who is in `BUILTIN\\Users`.

Pure but for the calls, which are handed in. A server has two sets of groups: those under `S-1-5-32`, which every server
has under the same SIDs, and those under a SID of its own. A domain controller has the domain's in place of the latter.
Source: [MS-SAMR] 3.1.5.1.4 (Connect2), .2 (enumerations), .5 (open), .8.3 (GetMembersInAlias); 2.2 for the structures.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from connectors.directories.sids import sid_text
from connectors.smb import rpc
from connectors.smb.rpc import Interface, RpcError

ACCOUNTS: Final = Interface("samr", "account manager", "12345778-1234-abcd-ef00-0123456789ac", (1, 0))
BUILTIN: Final = "S-1-5-32"
MAX_REPLY: Final = 16 << 20

Call = Callable[[int, bytes], bytes]
"""Sends the number of an operation and its parameters; returns what it gave back. Raises RpcError."""

_CLOSE, _LOOKUP_DOMAIN, _DOMAINS, _OPEN_DOMAIN = 1, 5, 6, 7
_ALIASES, _OPEN_ALIAS, _MEMBERS, _CONNECT = 15, 27, 33, 57
# SOURCE: [MS-SAMR] 2.2.1.3 to .6: connect, enumerate and look up; list and look up; list members.
_SERVER_RIGHTS: Final = 0x31
_DOMAIN_RIGHTS: Final = 0x300
_ALIAS_RIGHTS: Final = 0x4
_MORE: Final = 0x105
_HANDLE: Final = 20
_PAGE_BYTES: Final = 0x8000
_MOST_PAGES: Final = 1000


@dataclass(frozen=True, slots=True)
class LocalGroup:
    """A group with the SIDs of its members, or why they are not known."""

    sid: str
    name: str
    members: frozenset[str] | str


@dataclass(frozen=True, slots=True)
class Accounts:
    """A server's own groups. own: the SID under which it has accounts of its own; a controller's is the domain's."""

    own: str
    groups: tuple[LocalGroup, ...]


def read_groups(call: Call, server: str, domain_sid: str) -> Accounts:
    """Return every group of the server itself. Those of the domain `domain_sid` are the directory's, not its.

    Raises RpcError when the account may not ask, or when an answer is damaged. A single group that may not be opened is
    there, with the reason in place of its members.
    """
    connected = _handle(call(_CONNECT, struct.pack("<I", 0x20000) + rpc.text(f"\\\\{server}") + _word(_SERVER_RIGHTS)))
    own, groups = "", list[LocalGroup]()
    for _, name in _listed(call, _DOMAINS, connected):
        sid = _domain_sid(call(_LOOKUP_DOMAIN, connected + _unicode(name)))
        if sid != BUILTIN:
            if own:
                raise RpcError("the account manager has more than one set of accounts")
            own = sid
        if sid != domain_sid:
            opened = _handle(call(_OPEN_DOMAIN, connected + _word(_DOMAIN_RIGHTS) + _sid(sid)))
            groups += [_group(call, opened, sid, rid, label) for rid, label in _listed(call, _ALIASES, opened)]
            call(_CLOSE, opened)
    call(_CLOSE, connected)
    if not own:
        raise RpcError("the account manager has no accounts of the server")
    return Accounts(own, tuple(groups))


def _group(call: Call, domain: bytes, domain_sid: str, rid: int, name: str) -> LocalGroup:
    sid = f"{domain_sid}-{rid}"
    try:
        opened = _handle(call(_OPEN_ALIAS, domain + _word(_ALIAS_RIGHTS) + _word(rid)))
    except RpcError as err:
        if not err.status:
            raise
        return LocalGroup(sid, name, f"its members may not be read ({err.status:#x})")
    members = _members(call(_MEMBERS, opened))
    call(_CLOSE, opened)
    return LocalGroup(sid, name, members)


def _listed(call: Call, operation: int, handle: bytes) -> list[tuple[int, str]]:
    """Number and name of everything that an enumeration gives, over all its pages."""
    found: list[tuple[int, str]] = []
    context = 0
    for _ in range(_MOST_PAGES):
        answer = _Reader(call(operation, handle + _word(context) + _word(_PAGE_BYTES)))
        context = answer.word()
        page = answer.entries()
        count, status = answer.word(), answer.word()
        if status not in (0, _MORE):
            raise RpcError("the account manager refuses", status)
        if count != len(page) or (status == _MORE and not page):
            raise _damaged()
        found += page
        if status == 0:
            return found
    raise RpcError("the account manager's list does not end")


def _handle(answer: bytes) -> bytes:
    reader = _Reader(answer)
    handle = reader.take(_HANDLE)
    reader.require_success()
    return handle


def _domain_sid(answer: bytes) -> str:
    reader = _Reader(answer)
    there = reader.word()
    sid = reader.sid() if there else ""
    reader.require_success()
    if not sid:
        raise _damaged()
    return sid


def _members(answer: bytes) -> frozenset[str]:
    reader = _Reader(answer)
    count, there = reader.word(), reader.word()
    found: list[str] = []
    if there:
        if reader.word() != count:
            raise _damaged()
        pointers = [reader.word() for _ in range(reader.bounded(count, 4))]
        # A member that is left out would be one that nobody knows.
        found = [reader.sid() for pointer in pointers if pointer]
    reader.require_success()
    if len(found) != count:
        raise _damaged()
    return frozenset(found)


class _Reader:
    """Reads what a call gave back, from its beginning. Raises RpcError for what is cut short or damaged."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise rpc.cut_short(ACCOUNTS)
        self._at += size
        return found

    def word(self) -> int:
        self._at = (self._at + 3) & ~3
        return int.from_bytes(self.take(4), "little")

    def bounded(self, count: int, size: int) -> int:
        """A number of things that the rest of the answer has room for."""
        if count * size > len(self._data) - self._at:
            raise rpc.cut_short(ACCOUNTS)
        return count

    def sid(self) -> str:
        count = self.word()
        if count > 15:
            raise _damaged()
        try:
            return sid_text(self.take(8 + 4 * count))
        except ValueError as err:
            raise _damaged() from err

    def entries(self) -> list[tuple[int, str]]:
        """The buffer of an enumeration: numbers with names."""
        if not self.word():
            return []
        count, there = self.word(), self.word()
        if not there:
            return []
        if self.word() != count:
            raise _damaged()
        heads = [struct.unpack("<IHHI", self.take(12)) for _ in range(self.bounded(count, 12))]
        return [(rid, self._characters(size) if pointer else "") for rid, size, _, pointer in heads]

    def _characters(self, size: int) -> str:
        self.word()
        first, count = self.word(), self.word()
        if first or 2 * count != size:
            raise _damaged()
        return self.take(size).decode("utf-16-le", "backslashreplace")

    def require_success(self) -> None:
        status = self.word()
        if status:
            raise RpcError("the account manager refuses", status)


def _damaged() -> RpcError:
    return RpcError("the answer of the account manager is damaged")


def _word(value: int) -> bytes:
    return struct.pack("<I", value)


def _unicode(text: str) -> bytes:
    size = len(text.encode("utf-16-le"))
    return struct.pack("<HHI", size, size, 0x20000) + rpc.characters(text)


def _sid(text: str) -> bytes:
    authority, *parts = (int(part) for part in text.split("-")[2:])
    head = struct.pack("<IBB", len(parts), 1, len(parts)) + authority.to_bytes(6, "big")
    return head + struct.pack(f"<{len(parts)}I", *parts)
