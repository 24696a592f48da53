"""The closure against a directory's own: Samba computes `tokenGroups`, and `acl.closure` must say the same."""

from __future__ import annotations

import random

import ldap3
import pytest

from acl.closure import Memberships
from acl.principal import Principal, Realm
from connectors.directories.sids import rid_of, sid_text
from tests.support.samba import UNIVERSAL, SambaDomain

AD = Realm("ad")
SEED = 20261125
GROUPS, USERS, EDGES = 60, 25, 140


@pytest.mark.live
def test_closure_says_what_samba_says(samba: SambaDomain) -> None:
    """Over a random graph with circles and primary groups, each user's groups are exactly those of `tokenGroups`."""
    chance = random.Random(SEED)
    unit = samba.unit("closure")
    groups = [samba.group(unit, f"g{number}", kind=UNIVERSAL) for number in range(GROUPS)]
    users = [samba.user(unit, f"u{number}") for number in range(USERS)]
    samba.set_members(groups[0], add=[groups[1]])
    samba.set_members(groups[1], add=[groups[0]])  # at least one circle
    edges = {(groups[1], groups[0]), (groups[0], groups[1])}
    while len(edges) < EDGES:
        member, group = chance.choice(groups + users), chance.choice(groups)
        if member != group and (member, group) not in edges:
            edges.add((member, group))
            samba.set_members(group, add=[member])
    sids = _sids(samba, unit)
    held: dict[Principal, list[Principal]] = {}
    for member, group in edges:
        held.setdefault(sids[member], []).append(sids[group])
    for user in users[:5]:  # a primary group is in no `member` attribute
        primary = next((group for member, group in sorted(edges) if member == user), None)
        if primary is not None:
            samba.replace(user, primaryGroupID=str(rid_of(sids[primary].id)))
    memberships = Memberships(held)

    ours = set(sids.values())
    for user in users:
        closure = memberships.closure([sids[user]], frozenset({AD}))
        said = {Principal(AD, sid_text(one)) for one in samba.raw(user, "tokenGroups")["tokenGroups"]}
        assert closure.principals - {sids[user]} == said & ours
        assert closure.complete == {AD}


def _sids(samba: SambaDomain, unit: str) -> dict[str, Principal]:
    samba.connection.search(unit, "(objectSid=*)", ldap3.SUBTREE, attributes=["objectSid"])
    return {
        entry["dn"]: Principal(AD, sid_text(entry["raw_attributes"]["objectSid"][0]))
        for entry in samba.connection.response
    }
