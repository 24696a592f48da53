"""A directory over a network, as tests would have it: it can change, hang, fail, and say what changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from acl.principal import Principal, Realm
from connectors.directories.base import (
    Changes,
    DirectoryUnavailableError,
    Finding,
    Resolution,
    UnknownSubjectError,
)


@dataclass
class FakeDirectory:
    """accounts: by attribute and value, the account's id, its groups and its facts. down: why it cannot answer.

    asked: how many questions came. before_answer: called while a question is under way. broken: polls fail by mistake.
    """

    name: str
    realm: Realm
    accounts: dict[tuple[str, str], tuple[str, set[str], dict[str, str]]] = field(default_factory=dict)
    down: str = ""
    whole: bool = True
    asked: int = 0
    before_answer: Callable[[], None] = lambda: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    pending: set[str] = field(default_factory=set)
    everything: bool = False
    closed: bool = False
    broken: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, attribute: str, value: str, *groups: str, account: str = "", **facts: str) -> None:
        """Give an account."""
        self.accounts[attribute, value] = (account or value, set(groups), facts)

    def resolve(self, attribute: str, value: str) -> Resolution:
        """See `Directory`."""
        with self._lock:
            self.asked += 1
        at = self.now()
        found = self.accounts.get((attribute, value))
        self.before_answer()
        if self.down:
            raise DirectoryUnavailableError(self.down)
        if found is None:
            raise UnknownSubjectError(f"nobody has {attribute} `{value}`")
        account, groups, facts = found
        held = {Principal(self.realm, one): (account, one) for one in {*groups, "members", account}}
        complete = frozenset({self.realm}) if self.whole else frozenset[Realm]()
        return Resolution(account, account, frozenset(held), held, complete, at, dict(facts))

    def feeds(self, realm: Realm) -> bool:
        """See `Directory`."""
        return realm == self.realm

    def changes(self, position: str) -> Changes:
        """See `Watched`."""
        if self.broken:
            raise ZeroDivisionError
        if self.down:
            raise DirectoryUnavailableError(self.down)
        found = Changes("1", self.everything or not position, frozenset(self.pending))
        self.everything, self.pending = False, set()
        return found

    def check(self) -> list[Finding]:
        """See `Watched`."""
        return []

    def explain(self, attribute: str, value: str) -> Resolution:
        """See `Watched`."""
        return self.resolve(attribute, value)

    def find(self, login: str) -> str | None:
        """See `Watched`."""
        return next((value for _, value in self.accounts if value == login), None)

    def close(self) -> None:
        """See `Watched`."""
        self.closed = True
