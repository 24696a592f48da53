"""Shredding by two persons: one key administrator asks for it, another one says yes within a time, or nothing happens.

1. Who asks and who approves are named persons: neither an application that acts for somebody nor a service account,
   and nobody whose accounts cannot all be known now.
2. They are two when they share no account: whoever has several accounts that links join is one person under any of
   them. Accounts are compared by their immutable ids, never by names.
3. A request is for one document or one source, which the approver names again. It is bound to both by the source's own
   key: a row that was changed in the store is no request.
4. It is used once, and ends by itself.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Row, delete, insert, select

from service.authn.certificates import ISSUER as CERTIFICATES
from service.errors import InvalidRequestError, NotFoundError, OverloadedError, SecondPersonError
from service.identity.callers import Current
from service.keys import KeyStore
from service.keys.tables import shred_requests
from service.upkeep.shred import Certificate, Shredder

_MOST_OPEN = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """A document by its id, or where that is empty a whole source by its name."""

    document_id: str
    source: str


@dataclass(frozen=True, slots=True)
class ShredRequest:
    """A request that somebody else may approve. request_id: that of the call that made it, which is on record."""

    request_id: str
    target: Target
    requested_by: str
    requested_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    accounts: frozenset[str]


class Approvals:
    """Shreds, after as many persons agreed as are needed. Blocking."""

    def __init__(
        self, shredder: Shredder, keys: KeyStore, needed: int, within: timedelta, now: Callable[[], datetime]
    ) -> None:
        """needed: 1 or 2 persons."""
        self._shredder = shredder
        self._keys = keys
        self._now = now
        self._within = within
        self.needed = needed

    def shred(self, target: Target, caller: Current) -> Certificate:
        """Shred at once. Raises SecondPersonError where two persons are needed, and what `Shredder` raises."""
        if self.needed > 1:
            raise SecondPersonError("shredding needs a second person")
        name = caller.resolved.caller.subject
        return replace(self._shred(target), requested_by=name, approved_by=name)

    def request(self, target: Target, caller: Current, request_id: str) -> ShredRequest:
        """Ask for a shredding. Raises NotFoundError, SecondPersonError, and OverloadedError for too many open ones."""
        person, source = _person(caller), self._shredder.source_of(target.document_id, target.source)
        at = self._now()
        made = ShredRequest(request_id, target, person.name, at, at + self._within)
        accounts = json.dumps(sorted(person.accounts))
        with self._keys.write() as connection:
            connection.execute(delete(shred_requests).where(shred_requests.c.expires_at <= at))
            if len(connection.execute(select(shred_requests.c.request_id)).all()) >= _MOST_OPEN:
                raise OverloadedError("too many requests for shredding are open: withdraw some")
            connection.execute(
                insert(shred_requests).values(
                    request_id=request_id,
                    source=source,
                    document=target.document_id,
                    requested_by=person.name,
                    accounts=accounts,
                    requested_at=at,
                    expires_at=made.expires_at,
                    proof=self._proof(source, made, accounts),
                )
            )
        return made

    def approve(self, request_id: str, target: Target, caller: Current) -> Certificate:
        """Shred what somebody else asked for.

        Raises NotFoundError for a request that is not open, InvalidRequestError when it is about something else,
        SecondPersonError for whoever asked, and what `Shredder` raises; then the request stays open.
        """
        person, row = _person(caller), self._row(request_id)
        found = _request(row)
        if found.target != target:
            raise InvalidRequestError("target", "the request is about something else")
        if person.accounts & set(json.loads(row.accounts)):
            raise SecondPersonError("whoever asked for it cannot approve it")
        done = self._shred(target)
        self._forget(request_id)
        return replace(done, requested_by=found.requested_by, approved_by=person.name)

    def withdraw(self, request_id: str) -> None:
        """End a request. Raises NotFoundError."""
        self._row(request_id)
        self._forget(request_id)

    def open(self) -> Sequence[ShredRequest]:
        """The requests that can be approved now, the oldest first."""
        with self._keys.read() as connection:
            rows = connection.execute(select(shred_requests).order_by(shred_requests.c.requested_at)).all()
        return [_request(row) for row in rows if self._holds(row)]

    @property
    def rebuild_pending(self) -> bool:
        """See `Shredder`."""
        return self._shredder.rebuild_pending

    # Within.

    def _shred(self, target: Target) -> Certificate:
        if target.document_id:
            return self._shredder.document(target.document_id)
        return self._shredder.source(target.source)

    def _row(self, request_id: str) -> Row[tuple[object, ...]]:
        with self._keys.read() as connection:
            row = connection.execute(
                select(shred_requests).where(shred_requests.c.request_id == request_id)
            ).one_or_none()
        if row is None or not self._holds(row):
            raise NotFoundError("no request with this id is open")
        return row

    def _holds(self, row: Row[tuple[object, ...]]) -> bool:
        if row.expires_at <= self._now() or not self._keys.has_source(row.source):
            return False
        return hmac.compare_digest(row.proof, self._proof(row.source, _request(row), row.accounts))

    def _proof(self, source: str, made: ShredRequest, accounts: str) -> bytes:
        times = (made.requested_at.isoformat(), made.expires_at.isoformat())
        about = (made.request_id, made.target.document_id, made.target.source, made.requested_by, accounts)
        return self._keys.name(source, "shred request", *about, *times)

    def _forget(self, request_id: str) -> None:
        with self._keys.write() as connection:
            connection.execute(delete(shred_requests).where(shred_requests.c.request_id == request_id))


def _request(row: Row[tuple[object, ...]]) -> ShredRequest:
    # Of a document the source is not part of what was asked for: ids are enough, and the row needs it for its key.
    target = Target(row.document, "" if row.document else row.source)
    return ShredRequest(row.request_id, target, row.requested_by, row.requested_at, row.expires_at)


def _person(caller: Current) -> _Person:
    """Who this is, by every account. Raises SecondPersonError where that is nobody, or cannot be told now."""
    resolved = caller.resolved
    if not caller.subject.acts_itself or caller.subject.issuer == CERTIFICATES:
        raise SecondPersonError("a program is no person: somebody does this in their own name")
    if resolved.left_out:
        raise SecondPersonError("a directory does not say which accounts this person has")
    own = {p.token for p, path in resolved.resolution.paths.items() if len(path) == 1 and not p.is_class}
    return _Person(resolved.caller.subject, frozenset({resolved.caller.subject, *own}))
