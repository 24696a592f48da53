"""A group of a directory that is asked over LDAP: one made for the proof, or one that the person is in already.

1. A throw-away group is made in a unit that was named, opens nothing but canaries, and is deleted at the end.
2. Of a group that was named the person has to be a member: nobody is ever given a group that they had not. The
   membership is put back after each round, in the spelling in which it stood there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from acl.principal import Principal, Realm, realm
from connectors import registry
from connectors.directories.active_directory import REALM as AD
from connectors.directories.base import DirectoryError, DirectoryUnavailableError, Watched
from connectors.directories.group_edits import GroupEdits
from connectors.directories.ldap_client import Entry, LdapClient, equals
from connectors.directories.sids import sid_text
from connectors.secret import forms
from service.errors import StartError
from service.identity.directories import DirectorySettings
from service.prove.grounds.base import PREFIX, Who, word
from service.prove.hands import Hands, Login
from service.settings import Settings

_GLOBAL_SECURITY_GROUP: Final = "-2147483646"
_FRESH_GID: Final = 2_000_000_000
_MEMBERS: Final = ("member", "uniqueMember", "memberUid")
_READ: Final = ("objectClass", "objectSid", "entryUUID", "gidNumber", "uid", "uidNumber", *_MEMBERS)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a membership stands: the group, its attribute, and the value that is the person."""

    group: str
    attribute: str
    value: str


class LdapMembership:
    """See `service.prove.memberships.base.Membership`."""

    def __init__(self, settings: Settings, one: DirectorySettings, who: Who, by: Login, hands: Hands) -> None:
        """Find the person, and the named group. Raises StartError; nothing is written yet."""
        self.directory: Final = one.name
        self._windows: Final = one.kind == "active_directory"
        self._unit: Final = hands.unit
        self._bind: Final = by.name
        kept = {key: value for key, value in one.options.items() if key not in forms("password")}
        values = {**kept, "bind": by.name, "password_file": by.password}
        try:
            access = registry.ldap_access(one.kind, values, settings.base)
            directory = registry.build_directory(one.name, one.kind, values, settings.base)
        except registry.OptionError as err:
            raise StartError(f"`--directory-login`: {err}") from err
        domain = one.options.get("id_domain")
        self._own: Final = AD if self._windows else realm("ldap", one.name)
        self._posix: Final = realm("posix", str(domain)) if domain is not None else None
        self._client: Final = LdapClient(one.name, access)
        self._edits: Final = GroupEdits(one.name, access)
        self._made: str | None = None
        self._place: _Place | None = None
        self._is_in = False
        try:
            assert isinstance(directory, Watched)
            with closing(directory):
                found = directory.find(who.name)
            if found is None or Principal(self._own, found if self._windows else f"user-{found}") not in who.held:
                raise StartError(f"directory `{one.name}` has no account `{who.name}` that is who the token says")
            self._account: Final = self._entry(found, str(one.options.get("base", "")))
            self._place = self._named(hands.group) if hands.group else None
        except DirectoryError as err:
            raise StartError(err.detail) from err
        self._person: Final = who.name

    @property
    def realms(self) -> Collection[Realm]:
        """See `Membership`."""
        return [self._own] if self._posix is None else [self._own, self._posix]

    @property
    def writes(self) -> str:
        """See `Membership`."""
        if self._unit:
            return f"a group `{PREFIX}…` in `{self._unit}` of `{self.directory}`, which is deleted again"
        assert self._place is not None
        return f"{self._person} is taken out of `{self._place.group}` of `{self.directory}`, and put back each time"

    def join(self) -> Collection[Principal]:
        """See `Membership`."""
        try:
            if self._place is None:
                self._place = self._make()
            self._put_in()
            return self._principals()
        except DirectoryUnavailableError as err:
            raise StartError(err.detail) from err

    def leave(self) -> None:
        """See `Membership`."""
        assert self._place is not None
        try:
            self._is_in = False
            self._edits.remove(self._place.group, self._place.attribute, self._place.value)
        except DirectoryUnavailableError as err:
            raise StartError(err.detail) from err

    def clear(self) -> list[str]:
        """See `Clearable`."""
        try:
            if self._made is not None:
                # What could not be made is not there either, and who may not make it may not delete it.
                if self._client.read(self._made, ["objectClass"]) is not None:
                    self._edits.delete(self._made)
                self._made = self._place = None
            elif self._place is not None and not self._unit:
                self._put_in()
        except DirectoryUnavailableError as err:
            if self._made is not None:
                return [f"the group `{self._made}`, which opens nothing and may be deleted: {err.detail}"]
            assert self._place is not None
            return [f"{self._person} is not in `{self._place.group}` any more, and has to be put back: {err.detail}"]
        self._edits.close()
        self._client.close()
        return []

    def _put_in(self) -> None:
        assert self._place is not None
        if not self._is_in:
            self._edits.add(self._place.group, self._place.attribute, self._place.value)
            self._is_in = True

    def _entry(self, account: str, base: str) -> Entry:
        """The account by its id. Raises DirectoryUnavailableError."""
        if self._windows:
            found = [one for one in [self._client.read(f"<SID={account}>", _READ)] if one is not None]
        else:
            found = self._client.search(base, equals("entryUUID", account), _READ)
        if len(found) != 1:
            raise StartError(f"the account of `{self.directory}` cannot be read by the login that is given")
        return found[0]

    def _named(self, group: str) -> _Place:
        """The membership in a group that somebody named, which has to be there."""
        entry = self._client.read(group, _READ)
        if entry is None:
            raise StartError(f"`--directory-group`: directory `{self.directory}` has no `{group}`")
        wanted = {"member": self._account.dn, "uniqueMember": self._account.dn, "memberUid": self._account.text("uid")}
        for attribute, value in wanted.items():
            for held in entry.all(attribute):
                text = held.decode(errors="replace")
                if value is not None and text.casefold() == value.casefold():
                    self._is_in = True
                    return _Place(entry.dn, attribute, text)
        raise StartError(
            f"`--directory-group`: `{self._account.dn}` is no direct member of `{entry.dn}`: nobody is given a group "
            "that they had not; name another, or `--directory-unit`"
        )

    def _make(self) -> _Place:
        name = f"{PREFIX}{word()}"
        dn = f"CN={name},{self._unit}"
        if self._windows:
            classes = ["group"]
            given: Mapping[str, list[str]] = {"sAMAccountName": [name], "groupType": [_GLOBAL_SECURITY_GROUP]}
            place = _Place(dn, "member", self._account.dn)
        elif self._posix is not None and (login := self._account.text("uid")) is not None:
            classes = ["posixGroup"]
            given = {"cn": [name], "gidNumber": [str(_FRESH_GID + int.from_bytes(os.urandom(3)))]}
            place = _Place(dn, "memberUid", login)
        else:
            classes = ["groupOfNames"]
            # Such a group is never empty: whoever makes it stands in it, too.
            given = {"cn": [name], "member": [self._bind]}
            place = _Place(dn, "member", self._account.dn)
        # Before it is made: an answer that is lost leaves a group, and deleting one that is not there is no mistake.
        self._made = dn
        self._edits.make(dn, classes, given)
        return place

    def _principals(self) -> Collection[Principal]:
        assert self._place is not None
        entry = self._client.read(self._place.group, _READ)
        if entry is None:
            raise StartError(f"`{self._place.group}` of `{self.directory}` cannot be read")
        if self._windows:
            return [Principal(AD, sid_text(one)) for one in entry.all("objectSid")]
        found = [Principal(self._own, f"group-{entry.text('entryUUID')}")]
        if self._posix is not None and (number := entry.text("gidNumber")) is not None:
            found.append(Principal(self._posix, f"gid-{number}"))
        return found
