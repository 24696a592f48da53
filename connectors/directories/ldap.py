"""LDAP as OpenLDAP and its kin speak it: accounts by `entryUUID`, groups by who they name as members.

1. An account is found by `entryUUID`, or for links by `uidNumber`; never by its DN or name, which others get later.
2. Groups (`groupOfNames`, `groupOfUniqueNames`) are asked for level by level until there are no more: they nest, and
   may do so in circles. `memberOf` is asked instead only where it is declared trustworthy: the overlay that keeps it
   knows nothing of what was there before it, and leaves out nesting.
3. With an id domain, an account with a uid holds what the file server's own look-up gives it: `uid-<n>`, the primary
   gid, and the gids of `posixGroup`s that list its login name. They name people by name, as the file server does.
4. A limit, a referral, an error: the directory does not answer. It never means "no groups".
5. Disabled, by the marks that servers set (`pwdAccountLockedTime` for ever, `nsAccountLock`, `shadowExpire`) or by a
   filter that the administrator gives: nobody. A lockout after wrong passwords ends nobody's membership.

Source: RFC 4519 (groups), RFC 2307 (POSIX), RFC 4530 (entryUUID); slapo-ppolicy(5), slapo-memberof(5).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

from ldap3.core.exceptions import LDAPExceptionError
from ldap3.operation.search import parse_filter

from acl.closure import Memberships
from acl.principal import Principal, Realm, realm
from connectors.directories.base import Changes, DirectoryUnavailableError, Finding, Resolution, UnknownSubjectError
from connectors.directories.ldap_client import Entry, LdapAccess, LdapClient, any_of, equals
from connectors.directories.mail import MAIL, address_of, mail_facts
from connectors.directories.nesting import levels_above
from connectors.directories.sids import is_guid

_ACCOUNT: Final = (
    "objectClass",
    "entryUUID",
    "uid",
    "cn",
    "displayName",
    "uidNumber",
    "gidNumber",
    "memberOf",
    "pwdAccountLockedTime",
    "nsAccountLock",
    "shadowExpire",
    "mail",
)
_GROUP: Final = ("objectClass", "entryUUID", "cn", "gidNumber", "memberOf")
# By the server, which knows what is derived from what.
_IS_PERSON: Final = "(|(objectClass=person)(objectClass=account)(objectClass=posixAccount))"
_GROUP_CLASSES: Final = frozenset({b"groupofnames", b"groupofuniquenames", b"posixgroup"})
_IS_GROUP: Final = "(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames))"
_LOCKED_FOR_EVER: Final = "000001010000Z"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NUMBER: Final = 2**32 - 2


class Ldap:
    """The accounts and groups below one entry. Realm `ldap:<name>`, with `user-`, `group-` and `members`."""

    def __init__(
        self,
        name: str,
        access: LdapAccess,
        *,
        base: str,
        id_domain: str | None = None,
        trusts_member_of: bool = False,
        disabled: str | None = None,
        mail_verified: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Opens nothing. disabled: a filter for accounts that are nobody. Raises InvalidValueError.

        mail_verified: a filter for accounts whose mail address the directory vouches for.
        """
        self.name = name
        self._realm: Final = realm("ldap", name)
        self._posix: Final = realm("posix", id_domain) if id_domain is not None else None
        self._client: Final = LdapClient(name, access)
        self._base: Final = base
        self._trusts_member_of: Final = trusts_member_of
        self._disabled: Final = disabled
        self._mail_verified: Final = mail_verified
        self._now: Final = now

    def resolve(self, attribute: str, value: str) -> Resolution:
        """Return the enabled account whose `entryUUID` is `value`; see the module for what it holds."""
        at = self._now()
        if attribute == MAIL:
            attribute, value = "entryUUID", self._by_mail(value)
        account = self._account(attribute, value)
        identity = self._uuid(account)
        login = account.text("uid") or account.text("cn") or identity
        groups = self._groups(account)
        paths: dict[Principal, tuple[str, ...]] = {
            Principal(self._realm, f"user-{identity}"): (login,),
            Principal(self._realm, "members"): (login,),
        }
        facts = {"entryUUID": identity, **self._mail(account, identity)}
        complete = {self._realm}
        for group in groups:
            paths[self._principal(group)] = (login, _name(group))
        number = account.text("uidNumber")
        if number is not None and _is_number(number):
            facts["uidNumber"] = number
        if self._posix is not None:
            posix = self._numbers(account, groups, login)
            paths.update(posix)
            # An account without a number has no part in the file server's rules; what it holds there is then known.
            complete.add(self._posix)
        return Resolution(
            account_id=identity,
            display_name=account.text("displayName") or account.text("cn") or login,
            principals=frozenset(paths),
            paths=paths,
            complete=frozenset(complete),
            resolved_at=at,
            facts=facts,
        )

    def feeds(self, realm: Realm) -> bool:
        """True for the directory's own realm and that of its numbers."""
        return realm in (self._realm, self._posix)

    def changes(self, position: str) -> Changes:
        """Return everything when anything was written since `position`, which is the server's `contextCSN`.

        A server that keeps none (it comes with the overlay `syncprov`) has always changed. Source: RFC 4533.
        """
        endpoint = str(self._client.endpoint)
        entry = self._client.read(self._suffix(), ["contextCSN"])
        numbers = sorted(one.decode(errors="replace") for one in entry.all("contextCSN")) if entry is not None else []
        if not numbers or str(self._client.endpoint) != endpoint:
            return Changes("", True)
        now = " ".join([endpoint, *numbers])
        return Changes(now, now != position)

    def check(self) -> list[Finding]:
        """Connect anew, and say what is below the base, and whether changes show."""
        endpoint = self._client.connect()
        found = [Finding("connection", True, f"{endpoint}, certificate and name verified, bound")]
        base = self._client.read(self._base, ["entryUUID"])
        if base is None or base.text("entryUUID") is None:
            return [*found, Finding("base", False, f"`{self._base}` is not there, or its `entryUUID` cannot be read")]
        found.append(Finding("base", True, f"`{self._base}`"))
        for what, filter_ in (("accounts", _IS_PERSON), ("groups", f"(|{_IS_GROUP}(objectClass=posixGroup))")):
            try:
                count = len(self._client.search(self._base, filter_, ["entryUUID"]))
                found.append(Finding(what, count > 0, f"{count} can be read" if count else "none can be read"))
            except DirectoryUnavailableError as err:
                found.append(Finding(what, False, err.detail))
        shows = bool(self.changes("").position)
        detail = "`contextCSN` shows them" if shows else "no `contextCSN`: every answer is dropped at every poll"
        return [*found, Finding("changes", shows, detail)]

    def explain(self, attribute: str, value: str) -> Resolution:
        """Return what `resolve` does, with every group on the way in the paths."""
        found = self.resolve(attribute, value)
        account = self._account(attribute, value)
        own = Principal(self._realm, f"user-{found.account_id}")
        names: dict[Principal, str] = {own: found.paths[own][0]}
        edges: dict[Principal, list[Principal]] = {}
        reached = {account.dn: own}
        for dn in (queue := [account.dn]):
            for group in self._above([dn]) if dn != account.dn else self._first(account):
                held = self._principal(group)
                edges.setdefault(reached[dn], []).append(held)
                names[held] = _name(group)
                if group.dn not in reached:
                    reached[group.dn] = held
                    queue.append(group.dn)
        closure = Memberships(edges).closure([own], found.complete)
        paths = {p: tuple(names[step] for step in closure.path(p)) or path for p, path in found.paths.items()}
        return Resolution(
            found.account_id,
            found.display_name,
            found.principals,
            paths,
            found.complete,
            found.resolved_at,
            found.facts,
        )

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def find(self, login: str) -> str | None:
        """Return the `entryUUID` of the account with this `uid`: for an administrator's question, never a decision."""
        if not login or not login.isprintable():
            return None
        found = self._client.search(self._base, equals("uid", login), ["entryUUID"])
        return self._uuid(found[0]) if len(found) == 1 else None

    # --- one account ---

    def _account(self, attribute: str, value: str) -> Entry:
        match attribute:
            case "entryUUID" if is_guid(value):
                wanted = equals("entryUUID", value)
            case "uidNumber" if _is_number(value):
                wanted = equals("uidNumber", value)
            case "entryUUID" | "uidNumber":
                self._nobody(attribute, value)
            case _:
                raise DirectoryUnavailableError(
                    f"directory `{self.name}` has no immutable attribute `{attribute}`: use `entryUUID`"
                )
        # An attribute that the server does not know makes `disabled` undefined, and so the filter, which finds nobody.
        enabled = f"(!{self._disabled})" if self._disabled is not None else ""
        found = self._client.search(self._base, f"(&{wanted}{_IS_PERSON}{enabled})", _ACCOUNT)
        if len(found) != 1:
            self._nobody(attribute, value)
        entry = found[0]
        if entry.text(attribute) != value:
            self._incomplete(f"`{attribute}` of `{entry.dn}` cannot be read, or is another than was asked for")
        classes = {one.lower() for one in entry.all("objectClass")}
        if classes & _GROUP_CLASSES or self._is_disabled(entry):
            self._nobody(attribute, value)
        return entry

    def _by_mail(self, value: str) -> str:
        """The `entryUUID` of the one account with an address, whatever becomes of it."""
        found = self._client.search(self._base, f"(&{equals('mail', value)}{_IS_PERSON})", ["entryUUID"])
        if len(found) != 1 or address_of(value) != value:
            self._nobody(MAIL, value)
        return self._uuid(found[0])

    def _mail(self, account: Entry, identity: str) -> dict[str, str]:
        address = address_of(account.text("mail"))
        verified = False
        if address is not None and self._mail_verified is not None:
            wanted = f"(&{equals('entryUUID', identity)}{self._mail_verified})"
            verified = len(self._client.search(self._base, wanted, ["entryUUID"])) == 1
        return mail_facts(address, verified=verified)

    def _is_disabled(self, entry: Entry) -> bool:
        if entry.text("pwdAccountLockedTime") == _LOCKED_FOR_EVER:
            return True
        if (entry.text("nsAccountLock") or "").lower() == "true":
            return True
        expires = entry.text("shadowExpire")
        if expires is None or expires == "-1":
            return False
        try:
            return self._now() >= _EPOCH + timedelta(days=int(expires))
        except (ValueError, OverflowError):
            return True

    # --- its groups ---

    def _groups(self, account: Entry) -> list[Entry]:
        first = self._first(account)
        found = {group.dn: group for group in first}
        found.update(levels_above(list(found), lambda dns: [(g.dn, g) for g in self._above(dns)], self.name))
        return list(found.values())

    def _first(self, account: Entry) -> list[Entry]:
        """The groups that hold the account itself, those of its login name included."""
        direct = list(self._named(account.all("memberOf"))) if self._trusts_member_of else self._above([account.dn])
        if self._posix is None:
            return direct
        return list({group.dn: group for group in (*direct, *self._of_login(account))}.values())

    def _above(self, dns: Sequence[str]) -> list[Entry]:
        """The groups that directly hold any of these entries."""
        if self._trusts_member_of:
            found = [self._need(self._client.read(dn, ["memberOf"]), dn) for dn in dns]
            return list(self._named(one for entry in found for one in entry.all("memberOf")))
        held = [equals(attribute, dn) for dn in dns for attribute in ("member", "uniqueMember")]
        return self._client.search(self._base, f"(&{_IS_GROUP}{any_of(held)})", _GROUP)

    def _named(self, dns: Iterable[bytes]) -> Iterable[Entry]:
        for dn in dict.fromkeys(dns):
            entry = self._need(self._client.read(dn.decode(errors="replace"), _GROUP), dn.decode(errors="replace"))
            if {one.lower() for one in entry.all("objectClass")} & _GROUP_CLASSES:
                yield entry

    def _of_login(self, account: Entry) -> list[Entry]:
        logins = account.all("uid")
        if account.text("uidNumber") is None or not logins:
            return []
        if len(logins) > 1:
            self._incomplete(f"`{account.dn}` has several `uid`s: which of them the file server takes is not known")
        wanted = equals("memberUid", account.text("uid") or "")
        return self._client.search(self._base, f"(&(objectClass=posixGroup){wanted})", _GROUP)

    def _numbers(self, account: Entry, groups: Iterable[Entry], login: str) -> dict[Principal, tuple[str, ...]]:
        """What the account holds on file servers of the id domain."""
        uid, gid = account.text("uidNumber"), account.text("gidNumber")
        if self._posix is None or (uid is None and not account.all("uidNumber")):
            return {}
        if uid is None or gid is None or not _is_number(uid) or not _is_number(gid):
            self._incomplete(f"`uidNumber` or `gidNumber` of `{account.dn}` cannot be read")
        found: dict[Principal, tuple[str, ...]] = {
            Principal(self._posix, f"uid-{int(uid)}"): (login,),
            Principal(self._posix, "other"): (login,),
        }
        for group in groups:
            number = group.text("gidNumber")
            if number is not None and _is_number(number):
                found.setdefault(Principal(self._posix, f"gid-{int(number)}"), (login, _name(group)))
        found.setdefault(Principal(self._posix, f"gid-{int(gid)}"), (login, "primary group"))
        return found

    def _suffix(self) -> str:
        """The entry at which the server keeps its `contextCSN`: the root of the database that holds the base."""
        root = self._client.read("", ["namingContexts"])
        names = [one.decode(errors="replace") for one in root.all("namingContexts")] if root is not None else []
        below = [name for name in names if self._base.lower().replace(" ", "").endswith(name.lower().replace(" ", ""))]
        return max(below, key=len, default=self._base)

    def _principal(self, group: Entry) -> Principal:
        return Principal(self._realm, f"group-{self._uuid(group)}")

    def _uuid(self, entry: Entry) -> str:
        try:
            return str(uuid.UUID(entry.text("entryUUID") or ""))
        except ValueError:
            self._incomplete(f"the `entryUUID` of `{entry.dn}` cannot be read")

    def _need(self, entry: Entry | None, dn: str) -> Entry:
        if entry is None:
            self._incomplete(f"`memberOf` names `{dn}`, which cannot be read")
        return entry

    def _incomplete(self, why: str) -> NoReturn:
        raise DirectoryUnavailableError(f"directory `{self.name}` is incomplete: {why}")

    def _nobody(self, attribute: str, value: str) -> NoReturn:
        raise UnknownSubjectError(f"directory `{self.name}` has no enabled account with {attribute} `{value[:100]}`")


def is_filter(text: str) -> bool:
    """True for a filter in the syntax of RFC 4515, in its parentheses."""
    try:
        parse_filter(text, None, False, False, None, False)  # type: ignore[no-untyped-call]  # so in the stubs
    except LDAPExceptionError:
        return False
    return text.startswith("(") and text.endswith(")")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and str(int(text[:11])) == text and int(text) <= _MAX_NUMBER


def _name(group: Entry) -> str:
    return group.text("cn") or group.dn
