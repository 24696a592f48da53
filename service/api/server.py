"""The listeners: one for callers, one for administrators, and one for services, which bring a client certificate.

Starting, stopping and limits; no method is known here. Callers get retrieval, their own access and health;
administrators get the sources, the audit log, the keys, the access of others, health and reflection; services get the
methods of both, each as far as their roles go.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from remit.v1 import access_pb2, audit_pb2, custody_pb2, index_pb2, retrieval_pb2, review_pb2, source_pb2, standing_pb2

from service.api.arrivals import Arrivals
from service.api.hang_up import hang_up, turn_away
from service.api.health import Health
from service.api.reflection import Reflection
from service.api.tls import Certificates
from service.api.wrapper import Wrapper
from service.errors import StartError
from service.settings import Address

CALLER_SERVICES: tuple[ServiceDescriptor, ...] = (
    retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"],
    access_pb2.DESCRIPTOR.services_by_name["AccessService"],
)
ADMINISTRATOR_SERVICES: tuple[ServiceDescriptor, ...] = (
    source_pb2.DESCRIPTOR.services_by_name["SourceService"],
    audit_pb2.DESCRIPTOR.services_by_name["AuditService"],
    custody_pb2.DESCRIPTOR.services_by_name["CustodyService"],
    review_pb2.DESCRIPTOR.services_by_name["ReviewService"],
    index_pb2.DESCRIPTOR.services_by_name["IndexService"],
    standing_pb2.DESCRIPTOR.services_by_name["StandingService"],
)

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

# Without a bound of its own, gRPC lets two servers share a port and a caller keep a connection for ever.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1024 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 128),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
)
# How many calls are under way is bounded by whom they are of (`service.limits`); this keeps those of nobody in bounds.
_MOST_CALLS = 16_384
_TOLD_AT = 0.8
"""The share of the grace after which calls that are still under way are ended."""
_QUIET_S = 0.3
_ADMINISTRATOR_OPTIONS = tuple(o for o in _OPTIONS if not o[0].startswith("grpc.max_connection_age"))


@dataclass(frozen=True, slots=True)
class Served:
    """A service's descriptor with what handles its methods."""

    descriptor: ServiceDescriptor
    servicer: object


class Server:
    """All listeners. Use `start`, then `stop`."""

    def __init__(
        self,
        *,
        wrapper: Wrapper,
        health: Health,
        callers: Sequence[Served],
        administrators: Sequence[Served],
        arrivals: Arrivals,
    ) -> None:
        """arrivals: counts the calls that reach no method of ours."""
        self._health = health
        self._calls = wrapper.under_way
        self._ports: frozenset[int] = frozenset()

        def listener(served: Sequence[Served], options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
            return _listener(wrapper, health, served, options, arrivals)

        self._callers = listener(callers, _OPTIONS)
        self._administrators = listener(administrators, _ADMINISTRATOR_OPTIONS)
        self._services = listener([*callers, *administrators], _OPTIONS)
        names = [served.descriptor.full_name for served in administrators]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            Reflection([*names, _HEALTH, reflection.SERVICE_NAME]), self._administrators
        )

    async def start(
        self,
        callers: Address,
        administrators: Address,
        certificates: Certificates | None,
        services: Address | None = None,
    ) -> tuple[Address, Address, Address | None]:
        """Listen, and return the addresses with the ports that were given. Without certificates: loopback only.

        Raises StartError with one sentence when a port is in use or an address is not this machine's.
        """
        for address in (callers, administrators, *([services] if services is not None else [])):
            _check(address, certificates)
        first = _bind(self._callers, callers, certificates)
        second = _bind(self._administrators, administrators, certificates)
        third = None
        if services is not None:
            if certificates is None:
                raise StartError(f"cannot listen on {services}: services prove themselves by TLS")
            third = _bind(self._services, services, certificates, client=True)
        self._ports = frozenset(one.port for one in (first, second, third) if one is not None)
        for server in self._all:
            await server.start()
        await self._health.open()
        return first, second, third

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, take no more calls, and give those under way `grace_s`.

        1. Streams have no end of their own: they are told at once. New calls are refused with a status that lets their
           callers try again.
        2. What is left shortly before the end of the grace is told the same, because gRPC would cut it with a status
           that does not.
        3. Nobody can connect any more; gRPC stops, and in the same moment connections end from below, see `hang_up`.
        """
        await self._health.close()
        self._calls.refusing = True
        self._calls.cut(streams_alone=True)
        if grace_s > 0:
            await self._settled(grace_s * _TOLD_AT)
            self._calls.cut(streams_alone=False)
            await self._settled(grace_s * (1 - _TOLD_AT) / 2)
        await self._turned_away()
        async with asyncio.TaskGroup() as group:
            for server in self._all:
                group.create_task(server.stop(grace_s * (1 - _TOLD_AT) / 2))
            # INVARIANT: before the first of these tasks runs, and no message is read or sent in between.
            hang_up(self._ports)

    async def _settled(self, most_s: float) -> None:
        """Return when no call was under way for a moment, or after so long."""
        loop = asyncio.get_running_loop()
        until, busy = loop.time() + most_s, loop.time()
        while (now := loop.time()) < until and now - busy < min(_QUIET_S, most_s / 2):
            if not self._calls.idle:
                busy = now
            await asyncio.sleep(0.005)

    async def _turned_away(self) -> None:
        """Let nobody connect any more, and return when gRPC has taken those who have, or after a moment."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _QUIET_S
        while turn_away(self._ports):
            if loop.time() >= until:
                return
            await asyncio.sleep(0.005)

    async def wait(self) -> None:
        """Return when all listeners have ended."""
        for server in self._all:
            await server.wait_for_termination()

    @property
    def _all(self) -> tuple[grpc.aio.Server, ...]:
        # That for services is there also when it has no address: then it listens nowhere.
        return self._callers, self._administrators, self._services


def _listener(
    wrapper: Wrapper,
    health: Health,
    services: Sequence[Served],
    options: Sequence[tuple[str, int]],
    arrivals: Arrivals,
) -> grpc.aio.Server:
    handlers = [wrapper.handlers(served.descriptor, served.servicer) for served in services]
    server = grpc.aio.server(
        interceptors=[arrivals], handlers=handlers, options=list(options), maximum_concurrent_rpcs=_MOST_CALLS
    )
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    return server


def _check(address: Address, certificates: Certificates | None) -> None:
    """Find out what gRPC would only write to standard error."""
    if certificates is None and not address.is_loopback:
        raise StartError(f"cannot listen on {address} without TLS: plaintext is for loopback addresses only")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            raise StartError(
                f"cannot listen on {address}: port {address.port} is in use, stop what uses it or choose another"
            ) from err
        raise StartError(f"cannot listen on {address}: {(err.strerror or str(err)).lower()}") from err


def _bind(
    server: grpc.aio.Server, address: Address, certificates: Certificates | None, *, client: bool = False
) -> Address:
    try:
        if certificates is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), certificates.credentials(client=client))
    except RuntimeError as err:
        raise StartError(f"cannot listen on {address}") from err
    return Address(address.host, port)
