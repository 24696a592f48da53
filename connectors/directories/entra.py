"""Microsoft Entra ID: people by object id, groups by `getMemberGroups`, changes by delta queries.

1. An account is found by its object id (`oid` of a token), or for links by `onPremisesSecurityIdentifier`; never by
   `userPrincipalName` or mail, which change and return.
2. `getMemberGroups` gives all groups, nested ones too, of every kind (`securityEnabledOnly: false`): SharePoint counts
   Microsoft 365 groups. Above 11,000 it is an error, and so is everything here that is not whole.
3. The groups in a token are never looked at: above 200 they are missing.
4. A guest is not of the class `members`; an account whose `userType` nobody set is not either.

Source: learn.microsoft.com/graph/api/directoryobject-getmembergroups, /graph/delta-query-overview. Tested against a
stub that follows these pages, never against the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn
from urllib.parse import quote

from acl.principal import Principal, Realm, realm
from connectors.directories.base import Changes, DirectoryUnavailableError, Finding, Resolution, UnknownSubjectError
from connectors.directories.graph import GoneError, GraphClient, NotFoundError
from connectors.directories.sids import is_account_sid, is_guid

_READ: Final = "id,displayName,accountEnabled,userType,onPremisesSecurityIdentifier"
_FEEDS: Final = (("/users/delta", "accountEnabled,userType"), ("/groups/delta", "members"))
_BATCH: Final = 1_000


class Entra:
    """One tenant. Realm `entra:<tenant>`, in which a principal's id is an object id, or `members`."""

    def __init__(
        self, name: str, tenant: str, client: GraphClient, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """tenant: its id. Opens nothing. Raises InvalidValueError."""
        self.name = name
        self._realm: Final = realm("entra", tenant)
        self._client: Final = client
        self._now: Final = now

    def resolve(self, attribute: str, value: str) -> Resolution:
        """Return the enabled account whose `id` is `value`; see the module for what it holds."""
        at = self._now()
        user = self._user(attribute, value)
        account = user["id"]
        shown = _text(user.get("displayName")) or account
        paths: dict[Principal, tuple[str, ...]] = {Principal(self._realm, account): (shown,)}
        if user.get("userType") == "Member":
            paths[Principal(self._realm, "members")] = (shown,)
        for group in self._groups(account):
            paths[Principal(self._realm, group)] = (shown, group)
        facts = {"id": account}
        sid = _text(user.get("onPremisesSecurityIdentifier"))
        if is_account_sid(sid):
            facts["onPremisesSecurityIdentifier"] = sid
        return Resolution(
            account_id=account,
            display_name=shown,
            principals=frozenset(paths),
            paths=paths,
            complete=frozenset({self._realm}),
            resolved_at=at,
            facts=facts,
        )

    def feeds(self, realm: Realm) -> bool:
        """True for the tenant's realm."""
        return realm == self._realm

    def changes(self, position: str) -> Changes:
        """Return what changed since `position`, which is a link for users and one for groups.

        Graph reports direct memberships alone and may be minutes late: `keep_for` is the bound, this is the hurry.
        """
        try:
            if not position:
                return Changes("\n".join(self._latest(*feed) for feed in _FEEDS), True)
            users, _, groups = position.partition("\n")
            changed_users, users = self._since(users)
            changed_groups, groups = self._since(groups)
        except (GoneError, NotFoundError):
            return Changes("", True)
        accounts = [user.get("id") for user in changed_users]
        if changed_groups or not all(isinstance(one, str) for one in accounts):
            return Changes(f"{users}\n{groups}", True)
        return Changes(f"{users}\n{groups}", False, frozenset(map(str, accounts)))

    def check(self) -> list[Finding]:
        """Get a token, and say whether users and groups can be read."""
        found = []
        for what, path in (("users", "/users"), ("groups", "/groups")):
            try:
                one = self._client.get(path, {"$top": "1", "$select": "id"})
            except NotFoundError:
                one = {}
            found.append(
                Finding(what, bool(one.get("value")), "can be read" if one.get("value") else "none can be read")
            )
        return [Finding("connection", True, "a token for the application, and Graph answers"), *found]

    def explain(self, attribute: str, value: str) -> Resolution:
        """Return what `resolve` does, with the groups' names in the paths; the way through nested ones is not known."""
        found = self.resolve(attribute, value)
        ids = sorted(p.id for p in found.principals if is_guid(p.id) and p.id != found.account_id)
        names: dict[str, str] = {}
        for first in range(0, len(ids), _BATCH):
            body = {"ids": ids[first : first + _BATCH], "types": ["group"]}
            for page in self._client.pages(self._client.post("/directoryObjects/getByIds", body)):
                for one in _listed(page):
                    names[str(one.get("id"))] = _text(one.get("displayName"))
        paths = {p: (*path[:-1], names.get(p.id) or path[-1]) for p, path in found.paths.items()}
        return Resolution(
            found.account_id,
            found.display_name,
            found.principals,
            paths,
            found.complete,
            found.resolved_at,
            found.facts,
        )

    def find(self, login: str) -> str | None:
        """Return the id of the account with this user principal name: for an administrator's question alone."""
        if not login or not login.isprintable():
            return None
        try:
            found = self._client.get(f"/users/{quote(login, safe='')}", {"$select": "id"})
        except NotFoundError:
            return None
        return _text(found.get("id")) or None

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def _user(self, attribute: str, value: str) -> Mapping[str, Any]:
        found: list[Mapping[str, Any]]
        try:
            match attribute:
                case "id" if is_guid(value):
                    found = [self._client.get(f"/users/{value}", {"$select": _READ})]
                case "onPremisesSecurityIdentifier" if is_account_sid(value):
                    asked = {"$filter": f"onPremisesSecurityIdentifier eq '{value}'", "$select": _READ}
                    pages = self._client.pages(self._client.get("/users", asked))
                    found = [user for page in pages for user in _listed(page)]
                case "id" | "onPremisesSecurityIdentifier":
                    found = []
                case _:
                    raise DirectoryUnavailableError(
                        f"directory `{self.name}` has no immutable attribute `{attribute}`: use `id`"
                    )
        except NotFoundError:
            found = []
        if len(found) != 1:
            self._nobody(attribute, value)
        (user,) = found
        if user.get(attribute) != value or not is_guid(_text(user.get("id"))):
            self._incomplete("it answered about another account than was asked for")
        enabled = user.get("accountEnabled")
        if not isinstance(enabled, bool):
            self._incomplete("`accountEnabled` cannot be read: may the application read users?")
        if not enabled:
            self._nobody(attribute, value)
        return user

    def _groups(self, account: str) -> list[str]:
        try:
            first = self._client.post(f"/users/{account}/getMemberGroups", {"securityEnabledOnly": False})
        except NotFoundError:
            self._nobody("id", account)
        groups: list[str] = []
        for page in self._client.pages(first):
            values = page.get("value")
            if not isinstance(values, list) or not all(isinstance(one, str) and is_guid(one) for one in values):
                self._incomplete("a page of groups is not what it should be")
            groups += values
        return groups

    def _latest(self, path: str, select: str) -> str:
        """The link from which on changes are reported."""
        page = self._client.get(path, {"$deltatoken": "latest", "$select": select})
        return self._delta_link(list(self._client.pages(page))[-1])

    def _since(self, link: str) -> tuple[list[Mapping[str, Any]], str]:
        """What changed, and the link to go on with."""
        pages = list(self._client.pages(self._client.follow(link)))
        return [one for page in pages for one in _listed(page)], self._delta_link(pages[-1])

    def _delta_link(self, page: Mapping[str, Any]) -> str:
        return self._client.own_link(page.get("@odata.deltaLink"))

    def _incomplete(self, why: str) -> NoReturn:
        raise DirectoryUnavailableError(f"directory `{self.name}` is incomplete: {why}")

    def _nobody(self, attribute: str, value: str) -> NoReturn:
        raise UnknownSubjectError(f"directory `{self.name}` has no enabled account with {attribute} `{value[:100]}`")


def _listed(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The objects of a page. Raises DirectoryUnavailableError."""
    values = page.get("value")
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise DirectoryUnavailableError("a page of Graph is not what it should be")
    return values


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
