"""Compact storage for what the compiled index must be able to give back: clauses and who lies where.

Plain objects would take a kilobyte for a clause; a million ACLs are to fit in 50 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Final

from pyroaring import BitMap, FrozenBitMap

from acl.model import NEVER, Clause, Effect, Rule
from acl.postings import Items
from acl.principal import Principal

_NO_RULES: Final = 0
_RECENT: Final = 16_384
_SMALL: Final = 64
_MANY: Final = 65_536


class Clauses:
    """Clauses by number. Number 0 is no clause; equal clauses stored near each other in time share a number.

    A clause is its count of rules, then for each rule a head (count of principals, whether it expires, whether it
    denies), the number of its expiry if it has one, and the numbers of its principals.
    """

    def __init__(self) -> None:
        self._words = array("I", (_NO_RULES,))
        self._principals: list[Principal] = []
        self._numbers: dict[Principal, int] = {}
        self._times: list[datetime] = []
        self._time_numbers: dict[datetime, int] = {}
        self._recent: dict[bytes, int] = {}
        self._given_up = 0

    def give_up(self, uses: int = 1) -> None:
        """Say that so many uses of clauses have ended. The clauses stay: others may use them."""
        self._given_up += uses

    def is_wasteful(self, used: int) -> bool:
        """Whether, with `used` uses left, it is time to copy what is in use to new storage and drop the rest."""
        return self._given_up > max(_MANY, used)

    def put(self, clause: Clause) -> int:
        """Store a clause and return its number."""
        words = array("I", (len(clause.rules),))
        numbers = self._numbers
        for rule in clause.rules:
            expires = rule.expires_at != NEVER
            words.append(len(rule.principals) << 2 | expires << 1 | (rule.effect is Effect.DENY))
            if expires:
                words.append(self._time(rule.expires_at))
            place = len(words)
            for principal in rule.principals:
                number = numbers.get(principal)
                if number is None:
                    number = numbers[principal] = len(self._principals)
                    self._principals.append(principal)
                words.append(number)
            if len(words) - place > 1:
                # A set has no order of its own; without one, equal clauses would differ.
                words[place:] = array("I", sorted(words[place:]))
        key = words.tobytes()
        found = self._recent.get(key)
        if found is None:
            found = len(self._words)
            self._words += words
            if len(self._recent) >= _RECENT:
                # The oldest half goes: what is shared by many comes back soon.
                for old in list(islice(self._recent, _RECENT // 2)):
                    del self._recent[old]
            self._recent[key] = found
        return found

    def _time(self, moment: datetime) -> int:
        number = self._time_numbers.get(moment)
        if number is None:
            number = self._time_numbers[moment] = len(self._times)
            self._times.append(moment)
        return number

    def get(self, number: int) -> Clause:
        """Return the clause that `put` stored."""
        words = self._words
        rules: list[Rule] = []
        place = number + 1
        for _ in range(words[number]):
            head = words[place]
            place += 1
            moment = NEVER
            if head & 2:
                moment = self._times[words[place]]
                place += 1
            count = head >> 2
            principals = frozenset([self._principals[n] for n in words[place : place + count]])
            place += count
            rules.append(Rule(Effect.DENY if head & 1 else Effect.ALLOW, principals, moment))
        return Clause(tuple(rules))


class Members:
    """For each of many places the numbers that lie there. Small sets are arrays, large ones bitmaps."""

    def __init__(self) -> None:
        self._at: list[array[int] | BitMap | None] = []

    def add(self, place: int, numbers: list[int]) -> None:
        """Put numbers, none of them there yet, at a place."""
        if len(self._at) <= place:
            self._at.extend([None] * (place + 1 - len(self._at)))
        held = self._at[place]
        if held is None:
            held = array("I", numbers)
        elif isinstance(held, array):
            held = held + array("I", numbers)
        else:
            held.update(numbers)
        self._at[place] = BitMap(held) if isinstance(held, array) and len(held) > _SMALL else held

    def discard(self, place: int, numbers: list[int]) -> None:
        """Take numbers away from a place."""
        held = self._at[place] if place < len(self._at) else None
        if held is None:
            return
        if isinstance(held, array):
            gone = set(numbers)
            self._at[place] = array("I", [n for n in held if n not in gone]) or None
        else:
            held.difference_update(BitMap(numbers))
            self._at[place] = held or None

    def at(self, place: int) -> array[int] | BitMap:
        """What lies at a place: iterate, do not change."""
        held = self._at[place] if place < len(self._at) else None
        return held if held is not None else array("I")


class ChunkCounts:
    """How many chunks each ACL has, as one bitmap for each binary digit: sums over any set of ACLs need no loop."""

    def __init__(self) -> None:
        self._digits: list[BitMap] = []
        self._counted = BitMap()

    def total(self, acls: FrozenBitMap) -> int:
        """The number of chunks of all these ACLs together."""
        return sum(acls.intersection_cardinality(digit) << n for n, digit in enumerate(self._digits))

    def change(self, by: Mapping[int, int]) -> None:
        """Add to the counts of some ACLs, or take away."""
        ones: dict[int, list[int]] = {}
        counted = self._counted
        known = BitMap(by) & counted
        for acl, difference in by.items():
            count = difference
            if acl in known:
                count += sum(1 << n for n, digit in enumerate(self._digits) if acl in digit)
            for n in range(count.bit_length()):
                if count >> n & 1:
                    ones.setdefault(n, []).append(acl)
        while len(self._digits) <= max(ones, default=-1):
            self._digits.append(BitMap())
        counted |= BitMap(by)
        for n, digit in enumerate(self._digits):
            digit -= known
            digit |= BitMap(ones.get(n, ()))


class Tables:
    """What is known of each ACL id and each document ordinal, over all sources.

    acl_clause: 0 for an ACL that is not known or not understood.
    """

    def __init__(self) -> None:
        self.clauses = Clauses()
        self.acl_scope = array("I")
        self.acl_clause = array("I")
        self.document_acl = array("I")
        self._start = array("I")
        self._stop = array("I")
        self._ragged: dict[int, tuple[tuple[int, int], ...]] = {}

    def grow(self, acl: int, ordinal: int) -> None:
        """Make room up to an ACL id and a document ordinal, before they are put."""
        _grow(acl, self.acl_scope, self.acl_clause)
        _grow(ordinal, self.document_acl, self._start, self._stop)

    def put_acl(self, acl: int, node: int, clause: int) -> None:
        """Say in which scope an ACL lies, by its node, and which own clause it has, by its number."""
        self.acl_scope[acl], self.acl_clause[acl] = node, clause

    def put_document(self, ordinal: int, acl: int, rows: tuple[tuple[int, int], ...]) -> None:
        """Say which ACL a document has, and which rows. Nearly all documents have one range."""
        self.document_acl[ordinal] = acl
        self._start[ordinal], self._stop[ordinal] = rows[0] if len(rows) == 1 else (0, 0)
        if len(rows) > 1:
            self._ragged[ordinal] = rows
        elif self._ragged:
            self._ragged.pop(ordinal, None)

    def rows(self, ordinal: int) -> tuple[tuple[int, int], ...]:
        """The rows of a document, as half-open ranges."""
        if ordinal in self._ragged:
            return self._ragged[ordinal]
        start, stop = self._start[ordinal], self._stop[ordinal]
        return ((start, stop),) if start < stop else ()


class Batch:
    """Items on their way in or out, by the clause and by the scope that they have."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.by_clause: dict[int, Items] = {}
        self.by_node: dict[int, Items] = {}
        self.chunks: dict[int, int] = {}

    def _items(self, acl: int) -> tuple[Items, Items]:
        clause, node = self._tables.acl_clause[acl], self._tables.acl_scope[acl]
        mine, around = self.by_clause.get(clause), self.by_node.get(node)
        if mine is None:
            mine = self.by_clause[clause] = Items()
        if around is None:
            around = self.by_node[node] = Items()
        return mine, around

    def acl(self, acl: int) -> None:
        """Take an ACL along."""
        for items in self._items(acl):
            items.acls.append(acl)

    def document(self, ordinal: int) -> None:
        """Take a document along, with its rows, by the ACL that the tables name for it."""
        acl, rows = self._tables.document_acl[ordinal], self._tables.rows(ordinal)
        for items in self._items(acl):
            items.documents.append(ordinal)
            items.ranges += rows
        self.chunks[acl] = self.chunks.get(acl, 0) + sum(stop - start for start, stop in rows)


def _grow(last: int, *arrays: array[int]) -> None:
    for numbers in arrays:
        if len(numbers) <= last:
            numbers.frombytes(bytes(numbers.itemsize * (last + 1 + len(numbers) // 8 - len(numbers))))
