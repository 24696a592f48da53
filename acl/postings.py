"""From a principal to everything that a rule gives it or takes from it, as bitmaps: clauses turned round.

A clause is a list of runs of one effect. Runs are numbered from the last allow backwards, so that even ones allow and
odd ones deny; for each run and each principal there is a posting: the items whose clause names the principal there.
Whoever holds some principals gets, run by run, the union of their postings; from number 0 on, that is from the last run
of each clause to its first, an allow adds and a deny takes away. What is left is what first-match evaluation would have
allowed, without looking at any clause.

INVARIANT: once a reader has gathered, bitmaps are replaced and never changed, so what it holds stays as it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from pyroaring import BitMap, FrozenBitMap

from acl.model import NEVER, Caller, Clause, Effect
from acl.normalize import normalize
from acl.principal import Principal, Realm

ACLS: Final = 0
DOCUMENTS: Final = 1
ROWS: Final = 2
SCOPES: Final = 3

Bits = tuple[BitMap | None, BitMap | None, BitMap | None, BitMap | None]
"""The bitmaps of ACLs, documents, rows and scopes; None for an empty one."""

NOTHING: Final[Bits] = (None, None, None, None)

ALWAYS: Final = datetime.min.replace(tzinfo=UTC)
"""The beginning of a validity without one."""

EMPTY: Final = FrozenBitMap()

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A clause as postings see it.

    lasting: for each run that has any, the principals of rules without expiry.
    passing: those of rules with one, as (principal, run, expiry).
    """

    lasting: tuple[tuple[int, frozenset[Principal]], ...]
    passing: tuple[tuple[Principal, int, datetime], ...]
    realms: frozenset[Realm]


def compile_clause(clause: Clause) -> Compiled:
    """Turn a clause into what its principals get by it."""
    rules = clause.rules
    last = len(rules)
    # A deny that nothing follows changes nothing: no rule is no access.
    while last and rules[last - 1].effect is Effect.DENY:
        last -= 1
    if all(rule.effect is Effect.ALLOW and rule.expires_at is NEVER for rule in rules[:last]):
        if last == 1:
            return Compiled(((0, rules[0].principals),), (), clause.realms)
        return Compiled(((0, frozenset().union(*(r.principals for r in rules[:last]))),), (), clause.realms)
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
    return Compiled(tuple(lasting.items()), tuple(passing), clause.realms)


class Gathered:
    """The postings that concern one caller at one moment, and between which moments they do.

    since, until: the answer is the same at every moment `since <= at < until`.
    """

    __slots__ = ("_missing", "_runs", "since", "until")

    def __init__(self, runs: dict[int, list[Bits]], missing: list[Bits], since: datetime, until: datetime) -> None:
        self._runs = sorted(runs.items())
        self._missing = missing
        self.since = since
        self.until = until

    def plane(self, kind: int) -> FrozenBitMap:
        """The items of one kind that the caller is allowed."""
        found = EMPTY
        for run, postings in self._runs:
            named = union_of(postings, kind)
            if run % 2:
                found = found - named
            else:
                found = found | named if found else named
        if self._missing:
            found = found - union_of(self._missing, kind)
        return found


class Items:
    """Items of one clause or one place, on their way in or out."""

    __slots__ = ("acls", "documents", "ranges", "scopes")

    def __init__(self) -> None:
        self.acls: list[int] = []
        self.documents: list[int] = []
        self.ranges: list[tuple[int, int]] = []
        self.scopes: list[int] = []


class Delta:
    """Items to be put into postings or taken out, by posting."""

    def __init__(self) -> None:
        self.lasting: defaultdict[int, defaultdict[Principal, list[Items]]] = defaultdict(lambda: defaultdict(list))
        self.passing: defaultdict[Principal, defaultdict[tuple[int, datetime], list[Items]]]
        self.passing = defaultdict(lambda: defaultdict(list))
        self.realms: defaultdict[Realm, list[Items]] = defaultdict(list)

    def add(self, clause: Compiled, items: Items) -> None:
        """Record that `items` have this clause."""
        for run, principals in clause.lasting:
            postings = self.lasting[run]
            for principal in principals:
                postings[principal].append(items)
        for principal, run, expires_at in clause.passing:
            self.passing[principal][(run, expires_at)].append(items)
        for realm in clause.realms:
            self.realms[realm].append(items)


class Postings:
    """The postings of all clauses, documents' own and scopes'."""

    def __init__(self) -> None:
        self._runs: list[dict[Realm, dict[str, Bits]]] = []
        self._passing: dict[Principal, dict[tuple[int, datetime], Bits]] = {}
        self._realms: dict[Realm, Bits] = {}
        self._gathered = False

    @property
    def realms(self) -> Iterable[Realm]:
        """Every realm that some clause names."""
        return self._realms.keys()

    def gather(self, caller: Caller, missing: frozenset[Realm], at: datetime) -> Gathered:
        """Collect what concerns a caller at the moment `at`.

        missing: the realms that are incomplete for the caller; a clause that names one denies.
        """
        self._gathered = True
        runs: dict[int, list[Bits]] = {}
        for run, realms in enumerate(self._runs):
            held: list[Bits] = []
            for realm, ids in caller.ids.items():
                postings = realms.get(realm)
                if not postings:
                    continue
                # Whichever way touches less memory, of which the caches hold little of a caller that was never seen.
                if 2 * len(postings) < len(ids):
                    held += [bits for name, bits in postings.items() if name in ids]
                else:
                    held += filter(None, map(postings.get, ids))
            if held:
                runs[run] = held
        since, until = ALWAYS, NEVER
        for principal in self._passing.keys() & caller.principals:
            for (run, expires_at), bits in self._passing[principal].items():
                if at < expires_at:
                    until = min(until, expires_at)
                    runs.setdefault(run, []).append(bits)
                else:
                    since = max(since, expires_at)
        return Gathered(runs, [self._realms[realm] for realm in missing if realm in self._realms], since, until)

    def narrowest(self, clause: Compiled, kind: int) -> BitMap | None:
        """A small superset of the items of one kind that have this clause; None when no principal would tell."""
        found = [self._runs[run][p.realm][p.id][kind] for run, principals in clause.lasting for p in principals]
        return min((bitmap for bitmap in found if bitmap is not None), key=len, default=None)

    def patch(self, delta: Delta, *, adding: bool) -> None:
        """Put the items of `delta` in, or take them out. Costs what the touched postings are long."""
        for run, principals in delta.lasting.items():
            while len(self._runs) <= run:
                self._runs.append({})
            by_realm: dict[Realm, dict[str, list[Items]]] = {}
            for principal, items in principals.items():
                by_realm.setdefault(principal.realm, {})[principal.id] = items
            for realm, ids in by_realm.items():
                self._patch(self._runs[run].setdefault(realm, {}), ids, adding)
        self._patch(self._realms, delta.realms, adding)
        for principal, expiries in delta.passing.items():
            passing = self._passing.setdefault(principal, {})
            self._patch(passing, expiries, adding)
            if not passing:
                del self._passing[principal]

    def _patch(self, postings: dict[_K, Bits], by: Mapping[_K, list[Items]], adding: bool) -> None:
        for key, items in by.items():
            bits = patched(postings.get(key, NOTHING), items, adding=adding, in_place=not self._gathered)
            if any(bits):
                postings[key] = bits
            else:
                postings.pop(key, None)


def patched(old: Bits, items: list[Items], *, adding: bool, in_place: bool) -> Bits:
    """Return bitmaps with the items put in or taken out.

    in_place: nobody else holds `old`, so it may be changed.
    """
    if len(items) == 1:
        one = items[0]
    else:
        one = Items()
        for some in items:
            one.acls += some.acls
            one.documents += some.documents
            one.ranges += some.ranges
            one.scopes += some.scopes
    return (
        _changed(old[ACLS], BitMap(one.acls), adding, in_place) if one.acls else old[ACLS],
        _changed(old[DOCUMENTS], BitMap(one.documents), adding, in_place) if one.documents else old[DOCUMENTS],
        _changed(old[ROWS], bitmap_of(one.ranges), adding, in_place) if one.ranges else old[ROWS],
        _changed(old[SCOPES], BitMap(one.scopes), adding, in_place) if one.scopes else old[SCOPES],
    )


def _changed(old: BitMap | None, by: BitMap, adding: bool, in_place: bool) -> BitMap | None:
    if old is None:
        return by if adding else None
    if in_place:
        (old.update if adding else old.difference_update)(by)
    else:
        old = old | by if adding else old - by
    return old or None


def merged(old: Bits, new: Bits) -> Bits:
    """Kind by kind, the union of two; nothing in it is `old`'s or `new`'s own."""
    a, b, c, d = ((x or BitMap()) | (y or BitMap()) or None for x, y in zip(old, new, strict=True))
    return (a, b, c, d)


def without(old: Bits, gone: Bits) -> Bits:
    """Kind by kind, the difference of two; nothing in it is `old`'s own."""
    a, b, c, d = ((x or BitMap()) - (y or BitMap()) or None for x, y in zip(old, gone, strict=True))
    return (a, b, c, d)


def bitmap_of(ranges: Iterable[tuple[int, int]]) -> BitMap:
    """The bitmap of half-open ranges."""
    found = BitMap()
    for start, stop in ranges:
        found.add_range(start, stop)
    return found


def union_of(postings: list[Bits], kind: int) -> FrozenBitMap:
    """The union of the bitmaps of one kind."""
    return EMPTY.union(*[bitmap for bits in postings if (bitmap := bits[kind]) is not None])
