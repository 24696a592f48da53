"""Active Directory: the domain controller says who somebody is, in one base-scope read of `tokenGroups`.

1. An account is found by `objectSid` or `objectGUID`, in the one spelling each has, as the base of the search: no
   filter is built of what a caller sends. Names and `userPrincipalName` are given to others: they find nobody.
2. `tokenGroups` holds every security group, nested ones, the primary group and domain-local groups included, and no
   distribution group. Absent, or without the primary group, it is incomplete: the directory does not answer.
3. To it come the account's own SID, `sIDHistory`, and the well-known SIDs of everybody who logs in over a network.
4. `S-1-5-32-…` are groups of the domain controllers alone, although files on every server name the same SIDs: left out.
   A file server's own come from its source.
5. Disabled, expired, not a person's account, the guest account: nobody. A lockout ends nobody's membership.

Source: [MS-ADTS] 3.1.1.4.5.19 (tokenGroups), 3.1.1.1.16 (userAccountControl); [MS-DTYP] 2.4.2.4 (well-known SIDs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Final, NoReturn

from acl.closure import Memberships
from acl.principal import Principal, Realm
from connectors.directories.base import Changes, DirectoryUnavailableError, Finding, Resolution, UnknownSubjectError
from connectors.directories.ldap_client import DOMAIN_SCOPE, SHOW_DELETED, Entry, LdapAccess, LdapClient, any_of, equals
from connectors.directories.mail import MAIL, address_of, mail_facts
from connectors.directories.nesting import BATCH, levels_above
from connectors.directories.sids import (
    AUTHENTICATED_USERS,
    BUILTIN,
    EVERYONE,
    NETWORK,
    THIS_ORGANIZATION,
    domain_of,
    guid_text,
    is_account_sid,
    is_guid,
    rid_of,
    sid_text,
)

REALM: Final = Realm("ad")
ATTRIBUTES: Final = ("objectSid", "objectGUID")
FOREIGN: Final = "foreignSecurityPrincipal"
"""For links alone: the SID of an account of another forest, of which this domain knows only memberships."""

_READ: Final = (
    "objectClass",
    "objectSid",
    "objectGUID",
    "sAMAccountName",
    "displayName",
    "userAccountControl",
    "accountExpires",
    "primaryGroupID",
    "sIDHistory",
    "tokenGroups",
    "uidNumber",
    "mail",
    "proxyAddresses",
)
_WELL_KNOWN: Final = (EVERYONE, AUTHENTICATED_USERS, NETWORK, THIS_ORGANIZATION)
_DISABLED, _NORMAL_ACCOUNT = 0x2, 0x200
_GUEST: Final = 501
_NEVER: Final = frozenset({0, 2**63 - 1})
_EPOCH: Final = datetime(1601, 1, 1, tzinfo=UTC)
# An indexed bit of `groupType`: without it a group is a distribution list, which gives nothing.
_SECURITY_GROUP: Final = "(groupType:1.2.840.113556.1.4.803:=2147483648)"
_CHANGED: Final = "(|(objectClass=group)(objectClass=user)(objectClass=foreignSecurityPrincipal))"
MAX_SKEW: Final = timedelta(minutes=5)


class ActiveDirectory:
    """One domain. Realm `ad`, in which a principal's id is a SID."""

    def __init__(
        self, name: str, access: LdapAccess, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Opens nothing."""
        self.name = name
        self._client: Final = LdapClient(name, access)
        self._now: Final = now
        self._lock: Final = Lock()
        self._known: tuple[str, str] | None = None

    def resolve(self, attribute: str, value: str) -> Resolution:
        """Return the enabled account whose `objectSid` or `objectGUID` is `value`; see the module for what it holds."""
        if attribute == FOREIGN:
            return self._foreign(value)
        if attribute == MAIL:
            attribute, value = "objectSid", self._by_mail(value)
        at = self._now()
        _, domain = self._domain()
        entry = self._account(attribute, value)
        sid = self._sid(entry, domain)
        held = self._held(entry, sid, domain)
        login = entry.text("sAMAccountName") or sid
        paths: dict[Principal, tuple[str, ...]] = {Principal(REALM, sid): (login,)}
        for group in sorted(held):
            paths.setdefault(Principal(REALM, group), (login, group))
        for known in _WELL_KNOWN:
            paths[Principal(REALM, known)] = (login, "well-known")
        facts = {"objectSid": sid, "objectGUID": self._one_guid(entry)}
        if (number := entry.text("uidNumber")) is not None and number.isdecimal():
            facts["uidNumber"] = number
        facts |= _mail(entry)
        return Resolution(
            account_id=sid,
            display_name=entry.text("displayName") or login,
            principals=frozenset(paths),
            paths=paths,
            complete=frozenset({REALM}),
            resolved_at=at,
            facts=facts,
        )

    def feeds(self, realm: Realm) -> bool:
        """True for the realm of SIDs."""
        return realm == REALM

    def domain_sid(self) -> str:
        """Return the SID of the domain."""
        return self._domain()[1]

    def changes(self, position: str) -> Changes:
        """Return what changed since `position`: server, database and update sequence number.

        Who was taken out of a group is not to be seen at the group, so a changed group is everything.
        Source: learn.microsoft.com/windows/win32/ad/polling-for-changes-using-usnchanged.
        """
        endpoint = str(self._client.endpoint)
        base, _ = self._domain()
        root = self._need(self._client.read("", ["highestCommittedUSN", "dsServiceName"]), "its root")
        # INVARIANT: the number is read before the changes are: what changes meanwhile is seen twice, not never.
        service, highest = root.text("dsServiceName"), root.text("highestCommittedUSN")
        if service is None or highest is None or not highest.isdecimal():
            self._incomplete("its root has no `highestCommittedUSN`")
        settings = self._need(self._client.read(service, ["invocationId"]), "its own settings")
        if len(settings.all("invocationId")) != 1:
            self._incomplete("the database's `invocationId` cannot be read")
        place = f"{endpoint} {guid_text(settings.all('invocationId')[0])}"
        before, _, since = position.rpartition(" ")
        if before != place or int(highest) < int(since):
            # Another server, or one that was restored from a backup: numbers do not compare.
            return self._from(place, endpoint, highest)
        if highest == since:
            return Changes(position, False)
        found = self._client.search(
            base,
            f"(&(uSNChanged>={int(since) + 1}){_CHANGED})",
            ["objectClass", "objectSid"],
            controls=[SHOW_DELETED, DOMAIN_SCOPE],
        )
        if str(self._client.endpoint) != endpoint:
            return Changes("", True)
        accounts = set()
        for entry in found:
            classes = {one.lower() for one in entry.all("objectClass")}
            if b"user" not in classes:
                return self._from(place, endpoint, highest)
            accounts.add(self._one_sid(entry))
        return Changes(f"{place} {highest}", False, frozenset(accounts))

    def _from(self, place: str, endpoint: str, highest: str) -> Changes:
        return Changes(f"{place} {highest}" if str(self._client.endpoint) == endpoint else "", True)

    def check(self) -> list[Finding]:
        """Connect anew, and say which domain this is, how far its clock is from ours, and whether deletions show."""
        endpoint = self._client.connect()
        with self._lock:
            self._known = None
        base, domain = self._domain()
        root = self._need(self._client.read("", ["currentTime", "dnsHostName"]), "its root")
        found = [
            Finding("connection", True, f"{endpoint}, certificate and name verified, bound"),
            Finding("domain", True, f"`{base}` with SID {domain}"),
            clock_finding(root.text("currentTime"), self._now()),
        ]
        deleted = self._client.read(f"CN=Deleted Objects,{base}", ["objectClass"], controls=[SHOW_DELETED])
        found.append(
            Finding(
                "deletions",
                deleted is not None,
                "seen at once"
                if deleted is not None
                else "not to be seen: a deleted group counts until a kept answer ends; allow the account to list "
                f"`CN=Deleted Objects,{base}`",
            )
        )
        return found

    def explain(self, attribute: str, value: str) -> Resolution:
        """Return what `resolve` does, with the groups' names in the paths."""
        found = self.resolve(attribute, value)
        base, _ = self._domain()
        sids = [p.id for p in found.principals if is_account_sid(p.id)]
        names: dict[Principal, str] = {}
        edges: dict[Principal, list[Principal]] = {}
        by_dn: dict[str, Principal] = {}
        above: dict[Principal, tuple[bytes, ...]] = {}
        primary: Principal | None = None
        for first in range(0, len(sids), BATCH):
            wanted = any_of([equals("objectSid", sid) for sid in sids[first : first + BATCH]])
            asked = ["objectSid", "sAMAccountName", "memberOf", "primaryGroupID"]
            for entry in self._client.search(base, wanted, asked, controls=[DOMAIN_SCOPE]):
                principal = Principal(REALM, self._one_sid(entry))
                names[principal] = entry.text("sAMAccountName") or principal.id
                by_dn[entry.dn.lower()] = principal
                above[principal] = entry.all("memberOf")
                if principal.id == found.account_id and (rid := entry.text("primaryGroupID")) is not None:
                    primary = Principal(REALM, f"{domain_of(principal.id)}-{rid}")
        for principal, groups in above.items():
            held = [by_dn.get(group.decode(errors="replace").lower()) for group in groups]
            edges[principal] = [group for group in held if group is not None]
        own = Principal(REALM, found.account_id)
        if primary is not None:
            edges.setdefault(own, []).append(primary)
        closure = Memberships(edges).closure([own], found.complete)
        paths = {
            principal: tuple(names.get(step, step.id) for step in closure.path(principal)) or found.paths[principal]
            for principal in found.principals
        }
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
        """Return the SID of the account called `login`: for an administrator's question, never for a decision."""
        if not login or not login.isprintable():
            return None  # Samba ends a value at a zero byte
        base, _ = self._domain()
        found = self._client.search(base, equals("sAMAccountName", login), ["objectSid"], controls=[DOMAIN_SCOPE])
        return self._one_sid(found[0]) if len(found) == 1 else None

    # --- one account ---

    def _account(self, attribute: str, value: str) -> Entry:
        """The object, which is an enabled account of a person."""
        match attribute:
            case "objectSid" if is_account_sid(value):
                entry = self._client.read(f"<SID={value}>", _READ)
            case "objectGUID" if is_guid(value):
                entry = self._client.read(f"<GUID={value}>", _READ)
            case "objectSid" | "objectGUID":
                entry = None
            case _:
                raise DirectoryUnavailableError(
                    f"directory `{self.name}` has no immutable attribute `{attribute}`: use `objectSid` or `objectGUID`"
                )
        if entry is None or b"user" not in {one.lower() for one in entry.all("objectClass")}:
            self._nobody(attribute, value)
        control = self._number(entry, "userAccountControl")
        expires = self._number(entry, "accountExpires")
        if control & _DISABLED or not control & _NORMAL_ACCOUNT:
            self._nobody(attribute, value)
        if expires not in _NEVER and self._now() >= _filetime(expires):
            self._nobody(attribute, value)
        # The server found it by this value; an answer about somebody else must not count all the same.
        if value not in (self._one_sid(entry), self._one_guid(entry)):
            self._incomplete("it answered about another account than was asked for")
        return entry

    def _by_mail(self, value: str) -> str:
        """The SID of the one user with an address, whatever becomes of it."""
        base, _ = self._domain()
        wanted = f"(&(objectClass=user){any_of([equals('mail', value), equals('proxyAddresses', f'smtp:{value}')])})"
        found = self._client.search(base, wanted, ["objectSid"], controls=[DOMAIN_SCOPE])
        if len(found) != 1 or address_of(value) != value:
            self._nobody(MAIL, value)
        return self._one_sid(found[0])

    def _sid(self, entry: Entry, domain: str) -> str:
        sid = self._one_sid(entry)
        if not is_account_sid(sid) or domain_of(sid) != domain:
            # Domain-local groups in the answer would be those of another domain than the account's.
            self._incomplete(f"the account {sid} is not of the domain {domain}")
        if rid_of(sid) == _GUEST:
            self._nobody("objectSid", sid)
        return sid

    def _held(self, entry: Entry, sid: str, domain: str) -> frozenset[str]:
        """The SIDs of the account and of its groups."""
        try:
            groups = {sid_text(one) for one in entry.all("tokenGroups")}
            history = {sid_text(one) for one in entry.all("sIDHistory")}
        except ValueError as err:
            raise DirectoryUnavailableError(f"directory `{self.name}` is incomplete: {err}") from err
        primary = f"{domain}-{self._number(entry, 'primaryGroupID')}"
        if primary not in groups:
            self._incomplete("`tokenGroups` is absent, or lacks the primary group: may the account read it?")
        return frozenset(one for one in {sid, *groups, *history} if not one.startswith(BUILTIN))

    def _foreign(self, sid: str) -> Resolution:
        """What an account of another forest holds here; whether it is enabled is for its own directory to say."""
        at = self._now()
        base, domain = self._domain()
        if not is_account_sid(sid) or domain_of(sid) == domain:
            self._nobody(FOREIGN, sid)
        # Its container and name follow from the SID, but the server is asked: tokenGroups is not computed for it.
        entry = self._client.read(f"<SID={sid}>", ["objectClass", "objectSid"])
        paths: dict[Principal, tuple[str, ...]] = {}
        if entry is not None:
            if b"foreignsecurityprincipal" not in {one.lower() for one in entry.all("objectClass")}:
                self._nobody(FOREIGN, sid)

            def ask(members: Sequence[str]) -> list[tuple[str, Entry]]:
                wanted = f"(&{_SECURITY_GROUP}{any_of([equals('member', member) for member in members])})"
                found = self._client.search(base, wanted, ["objectSid", "sAMAccountName"], controls=[DOMAIN_SCOPE])
                return [(group.dn, group) for group in found]

            for group in levels_above([entry.dn], ask, self.name).values():
                held = self._one_sid(group)
                if not held.startswith(BUILTIN):
                    paths[Principal(REALM, held)] = (sid, group.text("sAMAccountName") or held)
        return Resolution(
            account_id=sid,
            display_name=sid,
            principals=frozenset(paths),
            paths=paths,
            complete=frozenset({REALM}),
            resolved_at=at,
        )

    # --- the domain ---

    def _domain(self) -> tuple[str, str]:
        """The DN and the SID of the domain, read once."""
        with self._lock:
            if self._known is not None:
                return self._known
        root = self._need(self._client.read("", ["defaultNamingContext"]), "its root")
        base = root.text("defaultNamingContext")
        if not base:
            self._incomplete("its root has no `defaultNamingContext`: is it Active Directory?")
        domain = self._need(self._client.read(base, ["objectSid"]), f"`{base}`")
        known = (base, self._one_sid(domain))
        with self._lock:
            self._known = known
        return known

    def _one_sid(self, entry: Entry) -> str:
        try:
            (data,) = entry.all("objectSid")
            return sid_text(data)
        except ValueError:
            self._incomplete(f"the `objectSid` of `{entry.dn}` cannot be read")

    def _one_guid(self, entry: Entry) -> str:
        try:
            (data,) = entry.all("objectGUID")
            return guid_text(data)
        except ValueError:
            self._incomplete(f"the `objectGUID` of `{entry.dn}` cannot be read")

    def _number(self, entry: Entry, attribute: str) -> int:
        text = entry.text(attribute)
        try:
            return int(text or "")
        except ValueError:
            self._incomplete(f"an account's `{attribute}` cannot be read")

    def _need(self, entry: Entry | None, what: str) -> Entry:
        if entry is None:
            self._incomplete(f"{what} cannot be read")
        return entry

    def _incomplete(self, why: str) -> NoReturn:
        raise DirectoryUnavailableError(f"directory `{self.name}` is incomplete: {why}")

    def _nobody(self, attribute: str, value: str) -> NoReturn:
        raise UnknownSubjectError(f"directory `{self.name}` has no enabled account with {attribute} `{value[:100]}`")


def clock_finding(said: str | None, now: datetime) -> Finding:
    """How far a directory's clock, as a generalized time, is from ours."""
    try:
        theirs = datetime.strptime((said or "").partition(".")[0].rstrip("Z"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return Finding("clock", True, "the directory does not say what time it is")
    skew = abs(theirs - now)
    return Finding("clock", skew <= MAX_SKEW, f"{skew.total_seconds():.0f} s from ours")


def _mail(entry: Entry) -> dict[str, str]:
    """The address, verified where Exchange, which alone gives out `proxyAddresses`, has it as the primary one."""
    address = address_of(entry.text("mail"))
    primary = [one for one in entry.all("proxyAddresses") if one.startswith(b"SMTP:")]
    return mail_facts(address, verified=[address] == [address_of(one[5:].decode(errors="replace")) for one in primary])


def _filetime(ticks: int) -> datetime:
    """A moment in units of 100 nanoseconds since 1601; one that no calendar has is the end of time."""
    try:
        return _EPOCH + timedelta(microseconds=ticks // 10)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
