"""The groups of a file server itself as memberships: as the server says, or as the administrator declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from acl.model import Unknown
from acl.principal import Principal, Realm
from connectors.base import Membership
from connectors.errors import FatalError
from connectors.smb.client import Share
from connectors.smb.rules import Own, local_members
from connectors.smb.samr import BUILTIN, LocalGroup


class LocalGroups(Protocol):
    """Where it is known from who is in the groups of the server itself."""

    def known(self, share: Share, domain_sid: str) -> tuple[Own, list[Membership]]:
        """Return which SIDs are the server's own, and every group. Raises FatalError and RetriableError."""


class Declared:
    """What the administrator says: these groups are known, and no others of the server."""

    def __init__(self, realm: Realm, groups: Mapping[str, frozenset[Principal]]) -> None:
        """groups: by SID, everybody who is directly in each."""
        self._realm: Final = realm
        self._groups: Final = dict(groups)

    def known(self, share: Share, domain_sid: str) -> tuple[Own, list[Membership]]:
        """See `LocalGroups`."""
        own = Own(self._realm, sids=frozenset(self._groups))
        return own, [Membership(Principal(self._realm, sid), who, sid) for sid, who in self._groups.items()]


class AskServer:
    """What the server says of all its groups."""

    def __init__(self, realm: Realm) -> None:
        self._realm: Final = realm

    def known(self, share: Share, domain_sid: str) -> tuple[Own, list[Membership]]:
        """See `LocalGroups`."""
        found = share.accounts(domain_sid)
        if found is None:
            raise FatalError(
                "`local_groups`: the account may not ask the server for its own groups: give it the right to, or "
                "declare who is in them"
            )
        # What a domain controller has under the SID of its domain is the directory's.
        machine = () if found.own == domain_sid else (f"{found.own}-",)
        own = Own(self._realm, under=(f"{BUILTIN}-", *machine))
        return own, [self._membership(group, domain_sid, own) for group in found.groups]

    def _membership(self, group: LocalGroup, domain_sid: str, own: Own) -> Membership:
        if isinstance(group.members, str):
            members: frozenset[Principal] | Unknown = Unknown(group.members)
        else:
            members = local_members(group.members, domain_sid, own)
        return Membership(Principal(self._realm, group.sid), members, group.name or group.sid)
