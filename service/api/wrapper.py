"""The one place around every method: what a call must bring, what is written down, how it ends.

Every method of every service is registered through `Wrapper.handlers`, which walks the descriptors of the `.proto`
files; one without a row in `methods` or without a handler is a StartError. In this order, for every call:

1. a deadline: the call's own, at most the method's longest, the method's default when it brings none
2. the credential is verified, and the call counted against the limits of whom it proves
3. the caller is resolved, the method's role checked
4. the request's bytes become a message, and not before the caller is known
5. the handler returns a reply or raises
6. the gate looks at the reply
7. the audit record is durable
8. the reply leaves, or the status of the error

Of a stream each message is looked at by the gate, and before each the caller is resolved again: an account that is
gone, or a role, ends it.

Handlers never touch gRPC: `context.abort` is called here and nowhere else, because an abort that is not awaited lets
the handler go on and answers OK with the data.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from service.api.arrivals import handled
from service.api.incoming import Context, counted_as, credentials, received
from service.api.methods import METHODS, Rule
from service.api.status import DETAILS_KEY, Failure, failure_of
from service.api.under_way import UnderWay
from service.authn import Credentials, Subject
from service.deadline import DeadlinePassedError, within
from service.errors import (
    AuditUnavailableError,
    DrainingError,
    InvalidRequestError,
    RoleRequiredError,
    StartError,
    UnauthenticatedError,
)
from service.executor import Executor
from service.identity.callers import Current
from service.keys.provider import ProviderError
from service.limits import Meter
from service.stores.errors import StorageError

log = structlog.get_logger()

SLOWEST_READER_S = 60.0
"""How long one message of a stream may wait for its reader."""

_LAST_WRITE_S = 1.0
"""How long the end of a call waits for a message that is on its way."""

GIVEN_UP = "CANCELLED"
"""The reason of a call whose caller did not wait for its end. Nobody is told, so it is none of the API."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler knows of its call beside the message. `request_id` also names the answer in the audit log."""

    rpc: str
    request_id: str
    received_at: datetime
    caller: Current


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers. `evidence`: what the audit record says of it."""

    message: Message
    evidence: object = None


@dataclass(frozen=True, slots=True)
class Stream:
    """What a handler of a stream answers; the record is written before the first message leaves."""

    messages: AsyncGenerator[Message]


@dataclass(frozen=True, slots=True)
class Entry:
    """A call for the audit log, however it ended.

    subject, caller, request: None when the call ended before they were known.
    reason: empty when the call ended well. evidence: what the handler said of its answer, None without one.
    """

    rpc: str
    request_id: str
    received_at: datetime
    peer: str
    subject: Subject | None
    caller: Current | None
    request: Message | None
    reason: str
    error: Exception | None
    evidence: object


class Auditor(Protocol):
    """What makes an entry durable."""

    async def record(self, entry: Entry) -> None:
        """Return once the entry is durable. Raises AuditUnavailableError: then nothing may be answered."""


class Gate(Protocol):
    """What looks at every message before it leaves: `service.api.gate.Gate`."""

    async def check(self, message: Message, response_id: str) -> None:
        """Return when the message may leave; raise otherwise."""


class Authenticate(Protocol):
    """What verifies credentials: `service.authn.Authenticator`."""

    async def identify(self, presented: Credentials) -> Subject:
        """Return whom they prove. Raises UnauthenticatedError."""


class Resolve(Protocol):
    """What resolves a subject: `service.identity.callers.Callers`."""

    def resolve(self, subject: Subject) -> Current:
        """Return the caller. Blocking. Raises UnauthenticatedError and DirectoryUnavailableError."""


class _Trial:
    """What is known of one call while it runs, for its record."""

    __slots__ = ("caller", "evidence", "peer", "received_at", "recorded", "request", "request_id", "rpc", "subject")

    def __init__(self, rpc: str, request_id: str, received_at: datetime, peer: str) -> None:
        self.rpc = rpc
        self.request_id = request_id
        self.received_at = received_at
        self.peer = peer
        self.subject: Subject | None = None
        self.caller: Current | None = None
        self.request: Message | None = None
        self.evidence: object = None
        self.recorded = False

    def entry(self, reason: str, error: Exception | None) -> Entry:
        return Entry(
            rpc=self.rpc,
            request_id=self.request_id,
            received_at=self.received_at,
            peer=self.peer,
            subject=self.subject,
            caller=self.caller,
            request=self.request,
            reason=reason,
            error=error,
            evidence=self.evidence,
        )


@dataclass(frozen=True, slots=True)
class _Method:
    rpc: str
    rule: Rule
    request: Callable[[], Message]
    handle: Callable[[Any, Call], Awaitable[Any]]


class Wrapper:
    """clock: the time of records and decisions. new_id: names calls; never guessable from another's.

    meter: what callers may have; the default limits without one.
    """

    def __init__(
        self,
        *,
        authenticator: Authenticate,
        callers: Resolve,
        auditor: Auditor,
        gate: Gate,
        executor: Executor,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
        rules: Mapping[str, Rule] = METHODS,
        meter: Meter | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._callers = callers
        self._auditor = auditor
        self._gate = gate
        self._executor = executor
        self._clock = clock
        self._new_id = new_id
        self._rules = rules
        self._meter = meter or Meter()
        self.under_way = UnderWay()

    def handlers(self, service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        """Return the handlers of all methods of `service`, each of them wrapped.

        Raises StartError when a method has no row in the table or no handler.
        """
        found: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        for descriptor in service.methods:
            found[descriptor.name] = self._handler(service, descriptor, servicer)
        return grpc.method_handlers_generic_handler(service.full_name, found)

    def _handler(
        self, service: ServiceDescriptor, descriptor: MethodDescriptor, servicer: object
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        rpc = f"{service.full_name}/{descriptor.name}"
        rule = self._rules.get(rpc)
        if rule is None:
            raise StartError(f"the method `{rpc}` has no row in the table of who may call it")
        handle = getattr(servicer, descriptor.name, None)
        if handle is None or descriptor.client_streaming:
            raise StartError(f"the method `{rpc}` has no handler")
        method = _Method(rpc, rule, GetMessageClass(descriptor.input_type), handle)
        # Messages are read, parsed and built within the wrapper: what gRPC did itself would answer outside of it. To
        # gRPC every method takes a stream, of which one message is read: so a call whose message never comes is known
        # by its credential before, counted, and ended. On the wire it is the same.
        if descriptor.server_streaming:

            async def stream(_: object, context: Context) -> None:
                failure = await self._stream(method, context)
                if failure is not None:
                    await _abort(context, failure)

            return grpc.stream_stream_rpc_method_handler(stream)

        async def unary(_: object, context: Context) -> bytes:
            answer = await self._unary(method, context)
            if isinstance(answer, Failure):
                await _abort(context, answer)
            return answer

        return grpc.stream_unary_rpc_method_handler(unary)

    async def _unary(self, method: _Method, context: Context) -> bytes | Failure:
        trial = self._begin(method, context)
        seconds = _seconds(method.rule, context)
        limit = asyncio.timeout(seconds)
        try:
            async with self.under_way.within(limit, stream=False):
                with await self._metered(trial, context, stream=False), within(seconds):
                    reply: Reply = await method.handle(*await self._admit(method, trial, context))
                await self._gate.check(reply.message, trial.request_id)
                data = reply.message.SerializeToString(deterministic=True)
                trial.evidence = reply.evidence
                trial.recorded = True
                await self._auditor.record(trial.entry("", None))
                return data
        except asyncio.CancelledError:
            await self._given_up(trial)
            raise
        except Exception as err:  # noqa: BLE001  the one place where errors become statuses
            return await self._failed(trial, err, limit)

    async def _stream(self, method: _Method, context: Context) -> Failure | None:
        trial = self._begin(method, context)
        limit = asyncio.timeout(_seconds(method.rule, context))
        try:
            async with self.under_way.within(limit, stream=True):
                with await self._metered(trial, context, stream=True):
                    await self._send(method, trial, context, limit)
            return None
        except asyncio.CancelledError:
            await self._given_up(trial)
            raise
        except Exception as err:  # noqa: BLE001  the one place where errors become statuses
            return await self._failed(trial, err, limit)

    async def _send(self, method: _Method, trial: _Trial, context: Context, limit: asyncio.Timeout) -> None:
        message, call = await self._admit(method, trial, context)
        left = (call.caller.subject.expires_at - self._clock()).total_seconds()
        deadline = limit.when()
        assert deadline is not None
        # A stream does not outlive the credential that opened it.
        limit.reschedule(min(deadline, asyncio.get_running_loop().time() + left))
        stream: Stream = await method.handle(message, call)
        async with aclosing(stream.messages) as messages:
            trial.recorded = True
            await self._auditor.record(trial.entry("", None))
            async for one in messages:
                await self._still(method.rule, call.caller)
                await self._gate.check(one, trial.request_id)
                # Whoever does not read holds a message of ours in memory: for so long, and not until the deadline.
                try:
                    async with asyncio.timeout(SLOWEST_READER_S):
                        await _write(context, one.SerializeToString(deterministic=True))
                except TimeoutError as err:
                    raise DeadlinePassedError("the reader of a stream does not read") from err

    async def _still(self, rule: Rule, opened: Current) -> None:
        """Return while the caller of a stream is who opened it: a known account, with every role that it had then."""
        now = await self._executor.run(self._callers.resolve, opened.subject)
        if rule.role is not None and not opened.resolved.roles <= now.resolved.roles:
            raise RoleRequiredError(rule.role)

    def _begin(self, method: _Method, context: Context) -> _Trial:
        handled()
        trial = _Trial(method.rpc, self._new_id(), self._clock(), context.peer())
        structlog.contextvars.bind_contextvars(request_id=trial.request_id, rpc=trial.rpc)
        return trial

    async def _metered(
        self, trial: _Trial, context: Context, *, stream: bool
    ) -> contextlib.AbstractContextManager[None]:
        """The credential is verified, and the call counted within what is returned."""
        if self.under_way.refusing:
            raise DrainingError("the service is stopping")
        try:
            trial.subject = await self._authenticator.identify(credentials(context))
        except UnauthenticatedError:
            self._meter.unproven(trial.peer)
            raise
        return self._meter.admit(counted_as(trial.subject), stream=stream)

    async def _admit(self, method: _Method, trial: _Trial, context: Context) -> tuple[Message, Call]:
        """Steps 3 and 4."""
        assert trial.subject is not None
        trial.caller = await self._executor.run(self._callers.resolve, trial.subject)
        if method.rule.role is not None and not method.rule.opens(trial.caller.resolved.roles):
            raise RoleRequiredError(method.rule.role)
        message = method.request()
        try:
            message.ParseFromString(await received(context))
        except DecodeError as err:
            raise InvalidRequestError("request", "the request is not a message of this method") from err
        trial.request = message
        return message, Call(trial.rpc, trial.request_id, trial.received_at, trial.caller)

    async def _given_up(self, trial: _Trial) -> None:
        """The caller hung up before there was an answer: nothing leaves, and the record says that it was asked."""
        if not trial.recorded:
            with contextlib.suppress(AuditUnavailableError):
                await self._auditor.record(trial.entry(GIVEN_UP, None))

    async def _failed(self, trial: _Trial, error: Exception, limit: asyncio.Timeout) -> Failure:
        failure = failure_of(error, trial.request_id)
        if limit.expired():
            failure = Failure("DRAINING" if self.under_way.was_cut(limit) else "DEADLINE_EXCEEDED")
        trial.evidence = None
        if failure.reason == "INTERNAL":
            # Where, and never the message: it may hold a document's text.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("request_failed", error=type(error).__name__, where=where)
        elif isinstance(error, StorageError | ProviderError):
            # Its sentence names files of ours and where keys are; who calls is told only that there is one.
            log.error("request_failed", error=type(error).__name__, detail=str(error))
        try:
            await self._auditor.record(trial.entry(failure.reason, error))
        except AuditUnavailableError:
            return Failure("AUDIT_UNAVAILABLE")
        return failure


def _seconds(rule: Rule, context: Context) -> float:
    remaining: float | None = context.time_remaining()
    return min(rule.default_s if remaining is None else remaining, rule.longest_s)


async def _write(context: Context, data: bytes) -> None:
    """Write a message of a stream; when the call is to end meanwhile, only after it, if that is soon.

    gRPC takes no status while a message is on its way: the caller would get none of ours, and no reason.
    """
    writing = asyncio.ensure_future(context.write(data))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing], timeout=_LAST_WRITE_S)
        if not writing.done():
            writing.cancel()
        elif not writing.cancelled():
            writing.exception()  # looked at: why the call ends is known
        raise


async def _abort(context: Context, failure: Failure) -> NoReturn:
    await context.abort(failure.code, failure.text, ((DETAILS_KEY, failure.details()),))
