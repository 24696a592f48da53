"""What stands until another record ends it: legal holds, expiries of bodies, stopped sources. Pure.

Records of the class `standing` say it and never expire, so the log alone says what holds: nothing beside it has to be
kept, and nothing beside it can be changed to end a hold or a stop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from service.audit.bodies import Period
from service.audit.record import Kind, Record, record

HOLD: Final = "hold placed"
LIFT: Final = "hold lifted"
EXPIRED: Final = "bodies expired"
STOPPED: Final = "source stopped"
CLEARED: Final = "source cleared"


class Tally:
    """Which records a class and day has: how many, and a digest over their numbers, so that none can be slipped in."""

    def __init__(self) -> None:
        self.first = -1
        self.count = 0
        self._numbers = hashlib.sha256()

    def add(self, index: int) -> None:
        """Count record `index`; numbers only grow."""
        if not self.count:
            self.first = index
        self.count += 1
        self._numbers.update(index.to_bytes(8))

    @property
    def said(self) -> Said:
        """As the record of an expiry says it."""
        return Said(self.count, self._numbers.hexdigest())


@dataclass(frozen=True, slots=True)
class Said:
    """What the log says of the records whose bodies expired. numbers: SHA-256 over their numbers, 8 bytes each.

    index: the record that says so.
    """

    count: int
    numbers: str
    index: int = field(default=-1, compare=False)


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold: what it names does not expire. Empty and None leave open; an open hold keeps everything.

    kinds: classes of records. since, until: days (UTC), both included. document_id, person: whole days on which the
    log names them. by: who placed it; why: their words. placed_at: RFC 3339.
    """

    hold_id: str
    by: str
    why: str
    kinds: frozenset[str] = frozenset()
    since: date | None = None
    until: date | None = None
    document_id: str = ""
    person: str = ""
    placed_at: str = ""

    def covers(self, period: Period) -> bool:
        """Whether a class and day lie in it, whomever its records name."""
        return (
            (not self.kinds or period.kind in self.kinds)
            and (self.since is None or self.since <= period.day)
            and (self.until is None or period.day <= self.until)
        )

    @property
    def names_somebody(self) -> bool:
        """Whether only days on which the log names its document or person are held."""
        return bool(self.document_id or self.person)

    def record(self) -> Record:
        """The record that places it."""
        body: dict[str, object] = {
            "event": HOLD,
            "hold_id": self.hold_id,
            "by": self.by,
            "why": self.why,
            "classes": sorted(self.kinds),
        }
        days = {"from_day": self.since, "to_day": self.until}
        body |= {name: day.isoformat() for name, day in days.items() if day is not None}
        body |= {name: value for name in ("document_id", "person") if (value := getattr(self, name))}
        return record(Kind.STANDING, body)


@dataclass(frozen=True, slots=True)
class Stop:
    """A source whose documents are withheld until somebody clears it.

    alert_id: of the alert that told of it. response_id: of the answer that was not given. happened_at: RFC 3339.
    """

    source: str
    alert_id: str
    why: str
    response_id: str
    document_id: str
    happened_at: str


@dataclass(slots=True)
class Standing:
    """What stands after some records, each of which `take` was told. One thread tells; others may read beside it, since
    nothing here is changed but replaced.

    alerts: every source that was stopped, cleared since or not, by the number of the record.
    """

    holds: dict[str, Hold] = field(default_factory=dict)
    expired: dict[Period, Said] = field(default_factory=dict)
    stops: dict[str, Stop] = field(default_factory=dict)
    alerts: dict[int, Stop] = field(default_factory=dict)

    def take(self, found: Mapping[str, Any]) -> None:
        """Take in one record of the class; anything else is left alone."""
        body = found["body"]
        match body.get("event"):
            case "hold placed":
                self.holds = {**self.holds, body["hold_id"]: _hold(body, found["time"])}
            case "hold lifted":
                self.holds = {name: one for name, one in self.holds.items() if name != body["hold_id"]}
            case "bodies expired":
                self.expired = self.expired | {
                    Period(kind, date.fromisoformat(day)): Said(count, numbers, found["index"])
                    for kind, day, count, numbers in body["bodies"]
                }
            case "source stopped":
                names = ("source", "alert_id", "why", "response_id", "document_id", "happened_at")
                stop = Stop(**{name: body[name] for name in names})
                self.stops = {stop.source: stop} | self.stops
                self.alerts = {**self.alerts, found["index"]: stop}
            case "source cleared":
                self.stops = {name: one for name, one in self.stops.items() if name != body["source"]}
            case _:
                pass


def _hold(body: Mapping[str, Any], at: str) -> Hold:
    def day(name: str) -> date | None:
        return date.fromisoformat(body[name]) if name in body else None

    return Hold(
        hold_id=body["hold_id"],
        by=body["by"],
        why=body["why"],
        kinds=frozenset(body["classes"]),
        since=day("from_day"),
        until=day("to_day"),
        document_id=body.get("document_id", ""),
        person=body.get("person", ""),
        placed_at=at,
    )


def lifted_record(hold_id: str, by: str, why: str) -> Record:
    """The record that ends a hold."""
    return record(Kind.STANDING, {"event": LIFT, "hold_id": hold_id, "by": by, "why": why})


def expired_record(gone: Mapping[Period, Tally], kept: Mapping[str, int], held: int) -> Record:
    """The record of bodies that expire. kept: for how many days each class is kept. held: days that holds keep."""
    bodies = [[one.kind, one.day.isoformat(), gone[one].said.count, gone[one].said.numbers] for one in sorted(gone)]
    body: dict[str, object] = {"event": EXPIRED, "bodies": bodies, "kept_days": dict(kept), "held": held}
    return record(Kind.STANDING, body)


def stopped_record(stop: Stop) -> Record:
    """The record that stops a source."""
    body: dict[str, object] = {
        "event": STOPPED,
        "source": stop.source,
        "alert_id": stop.alert_id,
        "why": stop.why,
        "response_id": stop.response_id,
        "document_id": stop.document_id,
        "happened_at": stop.happened_at,
    }
    return record(Kind.STANDING, body)


def cleared_record(stop: Stop, by: str, why: str) -> Record:
    """The record that lets a stopped source be read again."""
    body: dict[str, object] = {
        "event": CLEARED,
        "source": stop.source,
        "alert_id": stop.alert_id,
        "by": by,
        "why": why,
    }
    return record(Kind.STANDING, body)
