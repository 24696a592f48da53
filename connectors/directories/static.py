"""A directory in one YAML file: users, nested groups, uid and gid. For small teams, demos and tests.

The file is looked at on every question and read again when it changed. What cannot be read in full is no directory:
a missing, broken or half-written file answers nobody, and never with what it said before.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final

from acl.closure import Memberships
from acl.principal import Principal, Realm, realm
from connectors.directories.base import (
    DirectoryUnavailableError,
    Resolution,
    UnknownGroupError,
    UnknownSubjectError,
)
from connectors.directories.mail import mail_facts
from connectors.directories.static_file import MAX_BYTES, People, User, read_people
from connectors.yaml_file import YamlFileError

_SETTLED_NS: Final = 1_000_000_000
"""A file that changed within the last second may change again without a new time stamp: it is read every time."""


class _Accounts:
    """The people of one reading, and what each of them holds."""

    def __init__(self, own: Realm, people: People) -> None:
        self.people: Final = people
        self.by_uid: Final = {str(user.uid): user for user in people.users.values() if user.uid is not None}
        self.by_mail: Final[dict[str, list[User]]] = {}
        for user in people.users.values():
            if user.mail is not None:
                self.by_mail.setdefault(user.mail, []).append(user)
        self._own: Final = own
        self._groups: Final = {Principal(own, f"group-{group.id}"): group for group in people.groups.values()}
        self._memberships: Final = Memberships(
            {member: self._held(group.member_of) for member, group in self._groups.items()}
        )

    def principals(self, user: User) -> dict[Principal, tuple[str, ...]]:
        """Everything the user holds, each with the shortest way to it, as names."""
        start = [Principal(self._own, f"user-{user.id}"), Principal(self._own, "members")]
        posix = self.people.posix if user.uid is not None else None
        if posix is not None:
            start += [Principal(posix, f"uid-{user.uid}"), Principal(posix, "other")]
        found: dict[Principal, tuple[str, ...]] = dict.fromkeys(start, (user.name,))
        closure = self._memberships.closure(self._held(user.groups), frozenset({self._own}))
        for principal in sorted(closure.principals):
            path = (user.name, *(self._groups[step].id for step in closure.path(principal)))
            found[principal] = path
            gid = self._groups[principal].gid
            if posix is not None and gid is not None:
                found[Principal(posix, f"gid-{gid}")] = path
        if posix is not None:
            found.setdefault(Principal(posix, f"gid-{user.gid}"), (user.name, "primary group"))
        return found

    def group_id(self, text: str) -> str | None:
        """The id of the group that is called so, or whose token this is: its own, or that of its number."""
        if text in self.people.groups:
            return text
        for principal, group in self._groups.items():
            number = None if self.people.posix is None else f"{self.people.posix}:gid-{group.gid}"
            if text in (principal.token, number):
                return group.id
        return None

    def _held(self, groups: tuple[str, ...]) -> list[Principal]:
        return [Principal(self._own, f"group-{group}") for group in groups]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What one reading of the file gave: accounts, or the sentence that says why not."""

    signature: tuple[int, ...]
    settled: bool
    digest: bytes
    accounts: _Accounts | str


class StaticDirectory:
    """Users and groups of one file. Safe to use from several threads.

    A user holds, in realm `static:<name>`, `user-<id>`, `group-<id>` for each group in the closure, and `members`.
    A user with a uid holds, in realm `posix:<id_domain>`, `uid-<n>`, `gid-<n>` of the primary gid and of every group
    in the closure that has one, and `other`. A primary gid makes nobody a member of the group that has the same gid.
    """

    def __init__(self, name: str, path: Path) -> None:
        """`name` becomes part of a realm. Raises InvalidValueError; the file is first looked at by `resolve`."""
        self.name = name
        self._realm: Final = realm("static", name)
        self._path: Final = path
        self._lock: Final = Lock()
        self._loaded: _Loaded | None = None

    def resolve(self, attribute: str, value: str) -> Resolution:
        """Return the enabled account whose `id` or `uid` is `value`, as the file stands now."""
        at = datetime.now(UTC)
        accounts = self._accounts()
        return self._resolution(accounts, self._user(accounts, attribute, value), at)

    def supposed(self, attribute: str, value: str, group: str, *, member: bool) -> Resolution:
        """See `Listed`."""
        at = datetime.now(UTC)
        accounts = self._accounts()
        user = self._user(accounts, attribute, value)
        found = accounts.group_id(group)
        if found is None:
            raise UnknownGroupError(f"directory `{self.name}` has no group `{group}`")
        if (found in user.groups) is member:
            raise UnknownGroupError(f"`{user.name}` is {'already' if member else 'not'} a direct member of `{found}`")
        groups = (*user.groups, found) if member else tuple(one for one in user.groups if one != found)
        return self._resolution(accounts, replace(user, groups=groups), at)

    def failure(self) -> str | None:
        """See `Telling`."""
        try:
            self._accounts()
        except DirectoryUnavailableError as err:
            return err.detail
        return None

    def accounts(self) -> tuple[str, ...]:
        """See `Listed`."""
        return tuple(sorted(user.id for user in self._accounts().people.users.values() if user.enabled))

    def _user(self, accounts: _Accounts, attribute: str, value: str) -> User:
        match attribute:
            case "id":
                user = accounts.people.users.get(value)
            case "uid":
                user = accounts.by_uid.get(value)
            case "mail":
                # One that others have too, be they disabled, may be anybody's.
                having = accounts.by_mail.get(value, [])
                user = having[0] if len(having) == 1 else None
            case _:
                raise DirectoryUnavailableError(
                    f"directory `{self.name}` has no immutable attribute `{attribute}`: use `id` or `uid`"
                )
        if user is None or not user.enabled:
            raise UnknownSubjectError(f"directory `{self.name}` has no enabled account with {attribute} `{value}`")
        return user

    def _resolution(self, accounts: _Accounts, user: User, at: datetime) -> Resolution:
        paths = accounts.principals(user)
        return Resolution(
            account_id=user.id,
            display_name=user.display_name,
            principals=frozenset(paths),
            paths=paths,
            complete=frozenset(principal.realm for principal in paths),
            resolved_at=at,
            facts={
                "id": user.id,
                **({} if user.uid is None else {"uid": str(user.uid)}),
                **mail_facts(user.mail, verified=user.mail_verified),
            },
        )

    def feeds(self, realm: Realm) -> bool:
        """True for its own realm and that of its numbers; while the file is no directory, for any numbers."""
        if realm == self._realm:
            return True
        try:
            return realm == self._accounts().people.posix
        except DirectoryUnavailableError:
            return realm.startswith("posix:")

    def account_id(self, name: str) -> str:
        """Return the id of the account called `name`: for `remit token`, never for a decision.

        Raises UnknownSubjectError (also for a disabled account) and DirectoryUnavailableError.
        """
        for user in self._accounts().people.users.values():
            if user.name == name and user.enabled:
                return user.id
        raise UnknownSubjectError(f"directory `{self.name}` has no enabled account called `{name}`")

    def find(self, login: str) -> str | None:
        """See `Findable`; None also for a disabled account. Raises DirectoryUnavailableError."""
        try:
            return self.account_id(login)
        except UnknownSubjectError:
            return None

    def _accounts(self) -> _Accounts:
        """The file's content as it is now. Raises DirectoryUnavailableError."""
        with self._lock:
            try:
                self._loaded = _load(self._path, self._realm, self._loaded)
            except OSError as err:
                self._loaded = None
                raise DirectoryUnavailableError(f"directory `{self.name}`: {self._path}: {err.strerror}") from err
            accounts = self._loaded.accounts
        if isinstance(accounts, str):
            raise DirectoryUnavailableError(f"directory `{self.name}`: {accounts}")
        return accounts


def _load(path: Path, own: Realm, last: _Loaded | None) -> _Loaded:
    """Read the file unless it is certainly the one of `last`. Raises OSError."""
    if last is not None and last.settled and _signature(path.stat()) == last.signature:
        return last
    # Non-blocking, so that a pipe in the file's place cannot hold the service.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
        before = os.fstat(fd)
        signature = _signature(before)
        wrong = _wrong_kind(before, path)
        data = b"" if wrong else file.readall()[: MAX_BYTES + 1]
        # 0 < a file from the future is not settled either.
        settled = time.time_ns() - before.st_ctime_ns > _SETTLED_NS
        if _signature(os.fstat(fd)) != signature:
            wrong = f"{path} changes while it is read"
            settled = False
    digest = sha256(data).digest()
    if wrong:
        return _Loaded(signature, settled, b"", wrong)
    if last is not None and digest == last.digest:
        return _Loaded(signature, settled, digest, last.accounts)
    accounts: _Accounts | str
    try:
        accounts = _Accounts(own, read_people(data, path.name))
    except YamlFileError as err:
        accounts = str(err)
    return _Loaded(signature, settled, digest, accounts)


def _wrong_kind(found: os.stat_result, path: Path) -> str:
    """Why this cannot be a directory's file, or nothing."""
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a file"
    if found.st_mode & stat.S_IWOTH:
        return f"{path} can be written by everybody, who could then be anybody: `chmod o-w` it"
    if found.st_size > MAX_BYTES:
        return f"{path} has {found.st_size} bytes, more than {MAX_BYTES}"
    return ""


def _signature(found: os.stat_result) -> tuple[int, ...]:
    # The mode is in it for `_wrong_kind`; the rest moves with the content.
    return (found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
