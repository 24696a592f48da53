"""Revocation: a canary is granted and found; then the right is taken away at the source or in the directory, and the
time is measured until the person is refused, for every kind of change.

The clock starts before the change is made and stops at the first refusal. A run over the source is part of it: with an
operator's token one is started at once, without it the schedule decides, as it would for a real change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from remit.client import SearchMode, SyncRunningError

from service.errors import StartError
from service.prove.areas import Area, find
from service.prove.deployment import Deployment
from service.prove.grounds import Ground, ground_of
from service.prove.grounds.base import Canary, Clearable, Skipped, Way, Who
from service.prove.hands import Hands
from service.prove.memberships import Membership, memberships, way_of
from service.prove.putting_back import putting_back
from service.prove.report import Check, Part, Result, claim

_POLL_S: Final = 0.05


def prove(there: Deployment, allow: str, person: str, rounds: int, limit_s: float, hands: Hands) -> Part:
    """All ways, `rounds` times each. limit_s: a right that lasts longer failed. Raises StartError."""
    area = find(allow, there.documents())
    ground = ground_of(there.settings, area.source, hands)
    who = Who.of(person, there.person.get_caller())
    like = _neighbour(there, area)
    groups = list(memberships(there.settings, who, hands, ground))
    changed: list[Clearable] = [ground, *(one for one in groups if not isinstance(one, Skipped))]
    first = len(there.asked)
    with putting_back(there, changed, [area.source]) as left:
        ways = [*ground.ways(like, who), *_by_group(ground, like, groups)]
        _require_known(ways, hands)
        _announce(there, ground.writes, groups, ways, hands)
        found = [_tried(there, area, way, rounds, limit_s, hands) for way in ways]
    checks = [check for checks_of_way, _ in found for check in checks_of_way]
    return Part("revocation", [*checks, *left], {"ways": [row for _, row in found]}, there.asked[first:])


def _neighbour(there: Deployment, area: Area) -> str:
    """A document in the area that the person reads: its rights are what is granted."""
    for start in range(0, len(area.documents), 100):
        part = area.documents[start : start + 100]
        readable = there.person.check_access([one.document_id for one in part]).readable
        for one in part:
            if readable[one.document_id]:
                return one.location
    raise StartError(f"the person reads nothing in `{area}`, so nothing can be taken away there")


def _by_group(ground: Ground, like: str, groups: Sequence[Membership | Skipped]) -> Iterator[Way | Skipped]:
    for one in groups:
        yield one if isinstance(one, Skipped) else way_of(one, ground, like)


def _require_known(ways: Sequence[Way | Skipped], hands: Hands) -> None:
    """A kind that is left out by a name that none has would be tried all the same. Raises StartError."""
    kinds = dict.fromkeys(way.kind for way in ways)
    for one in sorted(hands.without - kinds.keys()):
        raise StartError(f"`--without {one}`: this source has the kinds {', '.join(f'`{kind}`' for kind in kinds)}")


def _announce(
    there: Deployment, writes: str, groups: Sequence[Membership | Skipped], ways: Sequence[Way | Skipped], hands: Hands
) -> None:
    """Say what will be written and tried, before it is."""
    there.say(f"revocation writes {writes}")
    if "group" not in hands.without:
        for one in groups:
            if not isinstance(one, Skipped):
                there.say(f"revocation writes {one.writes}")
    for way in ways:
        out = way.kind in hands.without
        there.say(
            f"left out: {way.name}"
            if out
            else f"cannot be tried: {way.name}: {way.why}"
            if isinstance(way, Skipped)
            else f"will be tried: {way.name}"
        )


def _tried(
    there: Deployment, area: Area, way: Way | Skipped, rounds: int, limit_s: float, hands: Hands
) -> tuple[list[Check], dict[str, object]]:
    row: dict[str, object] = {"way": way.name, "rounds": 0}
    if way.kind in hands.without:
        return [Check(way.name, Result.LEFT_OUT, f"as asked by `--without {way.kind}`")], row
    if isinstance(way, Skipped):
        return [Check(way.name, Result.NOT_RUN, f"it cannot be tried: {way.why}")], row
    return _measure(there, area, way, rounds, limit_s)


def _measure(
    there: Deployment, area: Area, way: Way, rounds: int, limit_s: float
) -> tuple[list[Check], dict[str, object]]:
    times: list[float] = []
    late = after = 0
    why = ""
    try:
        for _ in range(rounds):
            with _granted(there, area, way, limit_s) as (canary, document_id):
                began = time.perf_counter()
                way.revoke(canary)
                if not _refused(there, area.source, document_id, began, limit_s, runs=way.runs):
                    late += 1
                    continue
                times.append(time.perf_counter() - began)
                result = there.person.search(canary.word, limit=10, mode=SearchMode.KEYWORD)
                there.asked.append(result.response_id)
                after += any(hit.chunk.document.document_id == document_id for hit in result.hits)
    except (OSError, StartError) as err:
        why = (err.strerror or type(err).__name__) if isinstance(err, OSError) else str(err)
        if not late and not after:
            return [Check(way.name, Result.NOT_RUN, f"it could not be tried: {why}")], {"way": way.name, "rounds": 0}
    numbers = {"p50_s": _percentile(times, 0.5), "p95_s": _percentile(times, 0.95), "max_s": max(times, default=None)}
    said = (
        ""
        if not times
        else ", ".join(f"{name[:-2]} {value:.2f} s" for name, value in numbers.items() if value is not None)
    )
    detail = (
        f"{len(times)} of {rounds} were refused in time: {said}"
        if times
        else f"none of {rounds} within {limit_s:.0f} s"
    )
    if after:
        detail += f"; {after} were found by a search afterwards"
    if why:
        detail += f"; then it could not be tried: {why}"
    facts: dict[str, object] = {k: None if v is None else round(v, 4) for k, v in numbers.items()}
    row = {"way": way.name, "rounds": len(times), **facts, "times_s": [round(t, 4) for t in times]}
    return [claim(way.name, late == 0 and after == 0 and bool(times), detail, **facts)], row


def _percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so many are not above."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


@contextmanager
def _granted(there: Deployment, area: Area, way: Way, limit_s: float) -> Iterator[tuple[Canary, str]]:
    """A canary that the person is given. Raises StartError when it never is: then nothing can be taken away."""
    canary = way.prepare()
    there.sync(area.source)
    place = there.located(area.source, canary.location, wait_s=max(limit_s, 60.0))
    until = time.monotonic() + max(limit_s, 60.0)
    while not there.reads(place.document_id):
        if time.monotonic() > until:
            raise StartError("the canary was granted and the person was never given it")
        time.sleep(_POLL_S)
    yield canary, place.document_id


def _refused(there: Deployment, source: str, document_id: str, began: float, limit_s: float, *, runs: bool) -> bool:
    """Ask until the person is refused; False past the limit."""
    asked_for = 0.0
    while there.reads(document_id):
        if time.perf_counter() - began > limit_s:
            return False
        if runs and there.operator is not None and time.monotonic() - asked_for > 1.0:
            asked_for = time.monotonic()
            try:
                there.operator.start_sync(source)
            except SyncRunningError:
                # A run that began before the change may miss it: another follows.
                asked_for = 0.0
        time.sleep(_POLL_S)
    return True
