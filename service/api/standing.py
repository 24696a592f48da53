"""StandingService: legal holds and stopped sources. What a request asks for is checked here."""

from __future__ import annotations

from datetime import date, datetime
from typing import Final

from remit.v1 import standing_pb2

from service.api import wire
from service.api.wrapper import Call, Reply
from service.audit.record import Kind
from service.audit.retention import Retention
from service.audit.standing import Hold, Stop
from service.canaries import Stops
from service.errors import InvalidRequestError
from service.executor import Executor

_MOST_CLASSES: Final = 16
_LONGEST_WHY: Final = 1024
_KINDS: Final = frozenset(kind.value for kind in Kind)


class StandingServicer:
    """remit.v1.StandingService."""

    def __init__(self, retention: Retention, stops: Stops, executor: Executor) -> None:
        self._retention = retention
        self._stops = stops
        self._executor = executor

    async def PlaceLegalHold(self, request: standing_pb2.PlaceLegalHoldRequest, call: Call) -> Reply:
        """See the `.proto` file, as for all methods."""
        since, until = _day("from_day", request.from_day), _day("to_day", request.to_day)
        if since is not None and until is not None and until < since:
            raise InvalidRequestError("to_day", "the last day is before the first")
        if len(request.classes) > _MOST_CLASSES or not _KINDS.issuperset(request.classes):
            raise InvalidRequestError("classes", "an unknown class, or too many")
        asked = Hold(
            hold_id="",
            by=_person(call),
            why=_why(request.why),
            kinds=frozenset(request.classes),
            since=since,
            until=until,
            document_id=wire.name("document_id", request.document_id) if request.document_id else "",
            person=wire.name("person", request.person) if request.person else "",
        )
        placed = await self._executor.run(self._retention.hold, asked)
        return Reply(standing_pb2.PlaceLegalHoldResponse(hold=_hold(placed)))

    async def ListLegalHolds(self, request: standing_pb2.ListLegalHoldsRequest, call: Call) -> Reply:
        """Return the holds that stand."""
        return Reply(standing_pb2.ListLegalHoldsResponse(holds=[_hold(one) for one in self._retention.holds]))

    async def LiftLegalHold(self, request: standing_pb2.LiftLegalHoldRequest, call: Call) -> Reply:
        """End a hold."""
        hold_id, why = wire.name("hold_id", request.hold_id), _why(request.why)
        ended = await self._executor.run(self._retention.lift, hold_id, _person(call), why)
        return Reply(standing_pb2.LiftLegalHoldResponse(hold=_hold(ended)))

    async def ListStoppedSources(self, request: standing_pb2.ListStoppedSourcesRequest, call: Call) -> Reply:
        """Return stopped sources."""
        return Reply(standing_pb2.ListStoppedSourcesResponse(sources=[_stop(one) for one in self._stops.standing()]))

    async def ClearSource(self, request: standing_pb2.ClearSourceRequest, call: Call) -> Reply:
        """Let a source be read again."""
        name, why = wire.name("name", request.name), _why(request.why)
        cleared = await self._executor.run(self._stops.clear, name, _person(call), why)
        return Reply(standing_pb2.ClearSourceResponse(source=_stop(cleared)))


def _person(call: Call) -> str:
    return call.caller.resolved.resolution.account_id


def _why(text: str) -> str:
    if not 1 <= len(text.encode()) <= _LONGEST_WHY or not text.strip():
        raise InvalidRequestError("why", f"{len(text.encode())} bytes, expected 1 to {_LONGEST_WHY}")
    return text


def _day(field: str, text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as err:
        raise InvalidRequestError(field, "not a day, expected one such as 2026-11-25") from err


def _hold(found: Hold) -> standing_pb2.LegalHold:
    return standing_pb2.LegalHold(
        hold_id=found.hold_id,
        placed_by=found.by,
        placed_at=wire.moment(datetime.fromisoformat(found.placed_at)),
        why=found.why,
        classes=sorted(found.kinds),
        from_day="" if found.since is None else found.since.isoformat(),
        to_day="" if found.until is None else found.until.isoformat(),
        document_id=found.document_id,
        person=found.person,
    )


def _stop(found: Stop) -> standing_pb2.StoppedSource:
    return standing_pb2.StoppedSource(
        source=found.source,
        alert_id=found.alert_id,
        happened_at=wire.moment(datetime.fromisoformat(found.happened_at)),
        response_id=found.response_id,
        document_id=found.document_id,
    )
