"""Groups of directories that a proof may change: which there are for somebody, by the kinds of the settings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from acl.principal import Realm
from service.errors import StartError
from service.identity.directories import DirectorySettings
from service.prove.grounds.base import Ground, Skipped, Way, Who
from service.prove.hands import Hands
from service.prove.memberships.base import Membership
from service.prove.memberships.static import StaticMembership
from service.settings import Settings

__all__ = ["Membership", "memberships", "way_of"]

KIND: Final = "group"
_OVER_LDAP: Final = ("active_directory", "ldap")


def memberships(settings: Settings, who: Who, hands: Hands, ground: Ground) -> Iterator[Membership | Skipped]:
    """Yield a group for each directory that has the person, and whose groups the rules of the ground can name."""
    over_ldap = [one.name for one in settings.directories if one.kind in _OVER_LDAP]
    if hands.directory_name and hands.directory_name not in over_ldap:
        raise StartError(f"`--directory`: no directory over LDAP is called `{hands.directory_name}`")
    yielded = False
    for one in settings.directories:
        if one.kind == "static":
            found = _static(settings, one, who)
            if isinstance(found, StaticMembership) and not any(map(ground.names, found.realms)):
                found = None
        else:
            found = _other(settings, one, who, hands, over_ldap) if _matters(one, who, ground) else None
        if found is not None:
            yielded = True
            yield found
    if not yielded:
        why = f"no directory here has groups that the rules of this source can name, and {who.name}"
        yield Skipped(KIND, "the person leaves a group of a directory", why)


def way_of(membership: Membership, ground: Ground, like: str) -> Way:
    """The change of a group as a way in which a right ends."""

    return Way(
        KIND,
        f"the person leaves a group of the directory `{membership.directory}`",
        lambda: ground.plant_for(like, membership.join()),
        lambda canary: membership.leave(),
        runs=False,
    )


def _static(settings: Settings, one: DirectorySettings, who: Who) -> Membership | Skipped | None:
    path = settings.base / str(one.options["path"])
    try:
        found = StaticMembership(one.name, path, who)
    except StartError as err:
        return Skipped(KIND, _what(one), str(err))
    return found if found.has_person() else None


def _other(
    settings: Settings, one: DirectorySettings, who: Who, hands: Hands, over_ldap: Collection[str]
) -> Membership | Skipped | None:
    from service.prove.memberships.ldap import LdapMembership

    if one.kind not in _OVER_LDAP:
        return Skipped(KIND, _what(one), f"groups of a directory of the kind `{one.kind}` are not changed by a proof")
    if hands.directory is None:
        why = "who changes it? Give `--directory-login NAME=FILE` and `--directory-unit DN` or `--directory-group DN`"
        return Skipped(KIND, _what(one), why)
    if len(over_ldap) > 1 and not hands.directory_name:
        return Skipped(KIND, _what(one), "which directory is the login for? Name it by `--directory`")
    if hands.directory_name not in ("", one.name):
        return Skipped(KIND, _what(one), f"`--directory-login` is for `{hands.directory_name}`")
    try:
        return LdapMembership(settings, one, who, hands.directory, hands)
    except StartError as err:
        return Skipped(KIND, _what(one), str(err))


def _matters(one: DirectorySettings, who: Who, ground: Ground) -> bool:
    """Whether the person has an account there, and rules of the source can name what its groups give."""
    own, *more = _realms(one)
    return any(held.realm == own for held in who.held) and any(map(ground.names, [own, *more]))


def _realms(one: DirectorySettings) -> list[Realm]:
    """The realm of its own, and that of its numbers."""
    domain = one.options.get("id_domain")
    match one.kind:
        case "active_directory":
            return [Realm("ad")]
        case "entra":
            return [Realm(f"entra:{one.options['tenant']}")]
        case _:
            own = Realm(f"{one.kind}:{one.name}")
            return [own] if domain is None else [own, Realm(f"posix:{domain}")]


def _what(one: DirectorySettings) -> str:
    return f"the person leaves a group of the directory `{one.name}`"
