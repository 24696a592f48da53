"""Clauses by number, each stored once in a few words, and turned round: from a principal to the clauses that name it.

A clause is a list of runs of one effect. Runs are numbered from the last allow backwards, so that even ones allow and
odd ones deny; for each run and each principal there is a *posting*: the numbers of the clauses that name the principal
there. A caller's postings, run by run from number 0 on, that is from the last run of each clause to its first, say yes
and no in turn. The last word stands: it is what first-match evaluation would have said, without looking at any clause.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from acl.compiled.columns import Flags
from acl.model import NEVER, Caller, Clause, Effect, Rule
from acl.normalize import normalize
from acl.principal import Principal, Realm

ALWAYS: Final = datetime.min.replace(tzinfo=UTC)
"""The beginning of a validity without one."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_DENY: Final = Effect.DENY
_EXPIRES: Final = 2
_NO_WORD: Final = 0xFFFF_FFFF  # where clause 0 and those without uses begin: more rules than any has
_RECENT: Final = 1 << 17
_WASTE: Final = 65_536
_JOINED: Final = 512

ByPrincipal = dict[Realm, dict[str, "array[int]"]]
"""A posting for each principal, by realm and id. In no order; for lasting rules the numbers of clauses, for passing
ones threes of expiry in microseconds, run, and number."""


Runs = tuple[dict[int, frozenset[Principal]], list[tuple[Principal, int, datetime]]]
"""A clause as postings see it: the principals of lasting rules, by run; principal, run and expiry of passing ones."""


def runs_of(clause: Clause) -> Runs:
    """Turn a clause into what its principals get by it."""
    rules = clause.rules
    last = len(rules)
    # A deny that nothing follows changes nothing: no rule is no access.
    while last and rules[last - 1].effect is _DENY:
        last -= 1
    if not last:
        return {}, []
    for rule in rules[:last]:
        if rule.effect is _DENY or rule.expires_at is not NEVER:
            break
    else:
        return {0: rules[0].principals.union(*[rule.principals for rule in rules[1:last]])}, []
    lasting: dict[int, frozenset[Principal]] = {}
    passing: list[tuple[Principal, int, datetime]] = []
    run, effect = 0, Effect.ALLOW
    for rule in reversed(normalize(Clause(rules[:last])).rules):
        if rule.effect is not effect:
            run, effect = run + 1, rule.effect
        if rule.expires_at == NEVER:
            lasting[run] = lasting.get(run, frozenset()) | rule.principals
        else:
            passing.extend((principal, run, rule.expires_at) for principal in rule.principals)
    return lasting, passing


@dataclass(frozen=True, slots=True)
class Passed:
    """Which clauses let a caller through.

    flags: shape (clauses,), by number. since, until: the same at every moment `since <= at < until`.
    """

    flags: Flags
    since: datetime
    until: datetime


class Clauses:
    """The clauses of one source. Number 0 is no clause: nobody passes it.

    Equal clauses share a number, nearly always. In words a clause is its count of rules, then for each rule a head
    (count of principals, whether it expires, whether it denies), the number of its expiry if it has one, and the
    numbers of its principals.

    INVARIANT: a clause is in the postings exactly while it has uses; a number without uses may become another clause.
    realms: every realm that a clause in use names.
    """

    def __init__(self) -> None:
        self.realms: frozenset[Realm] = frozenset()
        self._words = array("I", (_NO_WORD,))
        self._start = array("I", (0,))
        self._uses = array("I", (0,))
        self._free: list[int] = []
        self._wasted = 0
        # A clause by the hash of its words: the last one that was put there, so that equal ones are found again.
        self._recent = np.zeros(_RECENT, np.uint32).data
        self._principals: list[Principal] = []
        self._numbers: dict[Principal, int] = {}
        self._times: list[datetime] = []
        self._time_numbers: dict[datetime, int] = {}
        self._named = array("I", (0,))
        self._realm_sets: dict[frozenset[Realm], int] = {frozenset(): 0}
        self._realm_uses = [0]
        self._lasting: list[ByPrincipal] = []
        self._passing: ByPrincipal = {}

    # Reading

    def get(self, number: int) -> Clause:
        """Return the clause that `put` stored."""
        words = self._words
        rules: list[Rule] = []
        place = self._start[number] + 1
        for _ in range(words[place - 1]):
            head = words[place]
            place += 1
            moment = NEVER
            if head & _EXPIRES:
                moment = self._times[words[place]]
                place += 1
            count = head >> 2
            principals = frozenset([self._principals[n] for n in words[place : place + count]])
            place += count
            rules.append(Rule(_DENY if head & 1 else Effect.ALLOW, principals, moment))
        return Clause(tuple(rules))

    def passed(self, caller: Caller, missing: frozenset[Realm], at: datetime) -> Passed:
        """Ask all clauses at once whether they let a caller through at the moment `at`.

        missing: the realms that are incomplete for the caller; a clause that names one denies.
        """
        passing = _passing(self._passing, caller.ids)
        if caller.doubtful:
            # What it is doubtful that the caller holds only denies: it counts in odd runs alone.
            more = _passing(self._passing, caller.doubtful_ids)
            passing = np.concatenate([passing, more[more[:, 1] % 2 == 1]])
        expiry, run_of, number = passing[:, 0], passing[:, 1], passing[:, 2]
        in_force = expiry > _microseconds(at)
        flags = np.zeros(len(self._start), np.bool_)
        for run, postings in enumerate(self._lasting):
            held = _held(postings, caller.ids)
            if caller.doubtful and run % 2 == 1:
                held += _held(postings, caller.doubtful_ids)
            # Some at a time: what is joined stays in the caches.
            for some in range(0, len(held), _JOINED):
                flags[np.frombuffer(b"".join(held[some : some + _JOINED]), np.uint32)] = run % 2 == 0
            if len(number):
                flags[number[in_force & (run_of == run)]] = run % 2 == 0
        if missing:
            closed = np.array([not realms.isdisjoint(missing) for realms in self._realm_sets])
            flags &= ~closed.take(np.frombuffer(self._named, np.uint32))
        past, coming = expiry[~in_force], expiry[in_force]
        return Passed(
            flags,
            _moment(past.max()) if len(past) else ALWAYS,
            _moment(coming.min()) if len(coming) else NEVER,
        )

    # Writing

    def put(self, clause: Clause) -> int:
        """Store a clause and return its number. It counts from its first use on, by `change_uses`."""
        words = [len(clause.rules)]
        for rule in clause.rules:
            named: list[int | None] = list(map(self._numbers.get, rule.principals))
            known = [self._new(p) for p in rule.principals] if None in named else cast(list[int], named)
            if len(known) > 1:
                # A set has no order of its own; without one, equal clauses would differ.
                known.sort()
            head = len(known) << 2 | (rule.effect is _DENY)
            if rule.expires_at is NEVER or rule.expires_at == NEVER:
                words.append(head)
            else:
                words += (head | _EXPIRES, self._time(rule.expires_at))
            words += known
        packed = array("I", words)
        slot = hash(packed.tobytes()) % _RECENT
        found = self._recent[slot]
        start = self._start[found]
        if self._words[start : start + len(packed)] == packed:
            return found
        if self._free:
            found = self._free.pop()
        else:
            found = len(self._start)
            for column in (self._start, self._uses, self._named):
                column.append(0)
        self._start[found] = len(self._words)
        self._words += packed
        self._recent[slot] = found
        self._post(found, clause)
        return found

    def change_uses(self, begun: Iterable[int], ended: Iterable[int]) -> None:
        """Say that uses of clauses have begun, and then that others have ended; 0 among them does not matter."""
        uses = self._uses
        come, gone = Counter(begun), Counter(ended)
        del come[0], gone[0]
        for number, times in come.items():
            uses[number] += times
        for number, times in gone.items():
            uses[number] -= times
            if not uses[number]:
                self._drop(number)
        if self._wasted > max(_WASTE, len(self._words) // 2):
            self._pack()
        live = [realms for realms, n in self._realm_sets.items() if self._realm_uses[n]]
        self.realms = frozenset().union(*live)

    def _new(self, principal: Principal) -> int:
        number = self._numbers.setdefault(principal, len(self._principals))
        if number == len(self._principals):
            self._principals.append(principal)
        return number

    def _time(self, moment: datetime) -> int:
        number = self._time_numbers.get(moment)
        if number is None:
            number = self._time_numbers[moment] = len(self._times)
            self._times.append(moment)
        return number

    def _post(self, number: int, clause: Clause) -> None:
        lasting, passing = runs_of(clause)
        for run, principals in lasting.items():
            self._reach(run)
            postings = self._lasting[run]
            for realm, name in principals:
                by_id = postings.get(realm)
                if by_id is None:
                    by_id = postings[realm] = {}
                posting = by_id.get(name)
                if posting is None:
                    by_id[name] = array("I", (number,))
                else:
                    posting.append(number)
        for (realm, name), run, expires_at in passing:
            self._reach(run)
            posting = self._passing.setdefault(realm, {}).setdefault(name, array("q"))
            posting.extend((_microseconds(expires_at), run, number))
        realms = self._realm_sets.setdefault(clause.realms, len(self._realm_uses))
        if realms == len(self._realm_uses):
            self._realm_uses.append(0)
        self._named[number] = realms
        self._realm_uses[realms] += 1

    def _reach(self, run: int) -> None:
        while len(self._lasting) <= run:
            self._lasting.append({})

    def _drop(self, number: int) -> None:
        lasting, passing = runs_of(self.get(number))
        for run, principals in lasting.items():
            for realm, name in principals:
                _take_out(self._lasting[run][realm], name, (number,))
        for (realm, name), run, expires_at in passing:
            _take_out(self._passing[realm], name, (_microseconds(expires_at), run, number))
        self._realm_uses[self._named[number]] -= 1
        self._named[number] = 0
        self._wasted += len(self._words_of(number))
        self._start[number] = 0
        self._free.append(number)

    def _words_of(self, number: int) -> array[int]:
        words = self._words
        start = place = self._start[number]
        place += 1
        for _ in range(words[start]):
            place += 1 + (words[place] >> 1 & 1) + (words[place] >> 2)
        return words[start:place]

    def _pack(self) -> None:
        """Leave out the words of clauses that are gone. Happens once in as many changes as it costs."""
        packed = array("I", (_NO_WORD,))
        for number in range(1, len(self._start)):
            if self._uses[number]:
                words = self._words_of(number)
                self._start[number] = len(packed)
                packed += words
        self._words, self._wasted = packed, 0


def _passing(by_principal: ByPrincipal, held: Mapping[Realm, frozenset[str]]) -> NDArray[np.int64]:
    """The threes of the rules that expire, shape (n, 3)."""
    return np.frombuffer(b"".join(_held(by_principal, held)), np.int64).reshape(-1, 3)


def _held(by_principal: ByPrincipal, held: Mapping[Realm, frozenset[str]]) -> list[array[int]]:
    """The postings of principals, given by realm."""
    found: list[array[int]] = []
    for realm, ids in held.items():
        by_id = by_principal.get(realm)
        if not by_id:
            continue
        # Whichever way touches less memory, of which the caches hold little of a caller that was never seen.
        if 4 * len(by_id) < 3 * len(ids):
            found += [posting for name, posting in by_id.items() if name in ids]
        else:
            found += filter(None, map(by_id.get, ids))
    return found


def _take_out(postings: dict[str, array[int]], name: str, entry: tuple[int, ...]) -> None:
    """Take one entry out of a posting; the last takes its place."""
    posting, size = postings[name], len(entry)
    place = size * int(np.flatnonzero((np.array(posting).reshape(-1, size) == entry).all(axis=1))[0])
    posting[place : place + size] = posting[-size:]
    del posting[-size:]
    if not posting:
        del postings[name]


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds: int) -> datetime:
    return _EPOCH + int(microseconds) * _MICROSECOND
