"""The methods of SourceService about the circuit breaker: what it holds, and a person's word on it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol

from remit.v1 import source_pb2

from service.api import wire
from service.api.wrapper import Call, Reply
from service.errors import NotFoundError
from service.executor import Executor
from service.identity.roles import ACCESS_ADMIN, owner_of, sees
from service.stores.stops import Stop, StopKind, StopState

_KINDS: Final = {
    StopKind.WIDENING: source_pb2.HOLD_KIND_WIDENING,
    StopKind.PURGE: source_pb2.HOLD_KIND_PURGE,
    StopKind.MEMBERS: source_pb2.HOLD_KIND_MEMBERS,
}
_STATES: Final = {
    StopState.WAITING: source_pb2.HOLD_STATE_WAITING,
    StopState.APPROVED: source_pb2.HOLD_STATE_APPROVED,
    StopState.REJECTED: source_pb2.HOLD_STATE_REJECTED,
}


class Holds(Protocol):
    """What is needed of the breaker. Every method blocks and may be called from several threads."""

    def list(self, source: str) -> Sequence[Stop]:
        """Return what is held of a source, or of all, the newest first. Raises NotFoundError."""

    def get(self, hold_id: str) -> Stop:
        """Return one. Raises NotFoundError."""

    def decide(self, hold_id: str, state: StopState, by: str, at: datetime) -> Stop:
        """Write down what a person decided. Raises NotFoundError when it is not held any more."""


class HoldMethods:
    """The handlers."""

    def __init__(self, holds: Holds, executor: Executor) -> None:
        self._holds = holds
        self._threads = executor

    async def ListHolds(self, request: source_pb2.ListHoldsRequest, call: Call) -> Reply:
        """See the `.proto` file, as for all methods."""
        name = wire.name("name", request.name) if request.name else ""
        if name:
            _require(name, call)
        found = await self._threads.run(self._holds.list, name)
        seen = [_hold(one) for one in found if sees(call.caller.resolved.roles, one.source)]
        return Reply(source_pb2.ListHoldsResponse(holds=seen))

    async def ApproveHold(self, request: source_pb2.ApproveHoldRequest, call: Call) -> Reply:
        """Approve what is held."""
        decided = await self._decide(request.hold_id, StopState.APPROVED, call)
        return Reply(source_pb2.ApproveHoldResponse(hold=_hold(decided)))

    async def RejectHold(self, request: source_pb2.RejectHoldRequest, call: Call) -> Reply:
        """Reject what is held."""
        decided = await self._decide(request.hold_id, StopState.REJECTED, call)
        return Reply(source_pb2.RejectHoldResponse(hold=_hold(decided)))

    async def _decide(self, given: str, state: StopState, call: Call) -> Stop:
        hold_id = wire.name("hold_id", given)
        found = await self._threads.run(self._holds.get, hold_id)
        # Not who may only see the source: an operator who owns another one gets here, too.
        if {ACCESS_ADMIN, owner_of(found.source)}.isdisjoint(call.caller.resolved.roles):
            raise NotFoundError("nothing is held there, or it is another's")
        by = call.caller.resolved.resolution.account_id
        return await self._threads.run(self._holds.decide, hold_id, state, by, call.received_at)


def _require(source: str, call: Call) -> None:
    """Nothing of a source that the caller may not be told of exists."""
    if not sees(call.caller.resolved.roles, source):
        raise NotFoundError("the source does not exist or is another's")


def _hold(stop: Stop) -> source_pb2.Hold:
    return source_pb2.Hold(
        hold_id=stop.hold_id,
        source=stop.source,
        kind=_KINDS[stop.kind],
        state=_STATES[stop.state],
        documents=stop.documents,
        total=stop.total,
        run_id=stop.run_id,
        listed_at=wire.moment(stop.listed_at),
        decided_by=stop.decided_by,
        decided_at=None if stop.decided_at is None else wire.moment(stop.decided_at),
        groups=[
            source_pb2.HeldGroup(
                group=one.group,
                name=one.name,
                joining=one.joining,
                leaving=one.leaving,
                documents=one.documents,
                examples=one.examples,
            )
            for one in stop.groups
        ],
        more_groups=stop.more_groups,
    )
