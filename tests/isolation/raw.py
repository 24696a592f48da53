"""HTTP/2 as an attacker speaks it: headers in any case and any number, frames that a gRPC client would never send."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from service.settings import Address

Headers = Sequence[tuple[str, str]]
_WAIT_S: Final = 20.0


@dataclass
class Reply:
    """Everything that came back on one stream. closed: how it ended: `trailers`, `reset` or `connection`."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    closed: str = ""

    @property
    def status(self) -> str:
        """The number of the gRPC status, empty without one."""
        return self.headers.get("grpc-status", "")

    @property
    def everything(self) -> bytes:
        """All bytes, for a search in them."""
        return self.data + repr(self.headers).encode()


def frame(message: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """A gRPC message on the wire. length: what it says of its length, when that is a lie."""
    return struct.pack(">?I", compressed, len(message) if length is None else length) + message


class Connection:
    """One connection; use `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # Nothing is checked or put right on the way out: what a server makes of it is the question.
        self._h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self._h2.initiate_connection()
        self.replies: dict[int, Reply] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, address: Address) -> AsyncIterator[Connection]:
        """Connect, and hang up at the end of the block."""
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            made = cls(reader, writer)
            await made._flush()
            yield made
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    async def ping(self) -> None:
        """Ask whether the server is there, as a frame of the connection."""
        self._h2.ping(b"remit-io")
        await self._flush()

    async def ended(self) -> bool:
        """Read once; whether the server has hung up, or has said that it will."""
        received = await self._reader.read(65536)
        events = self._h2.receive_data(received) if received else []
        return not received or any(isinstance(event, ConnectionTerminated) for event in events)

    async def begin(self, path: str, headers: Headers, body: bytes = b"", *, end: bool = True) -> int:
        """Begin a call; `headers` come after those that every call has. Return its stream."""
        stream = self._h2.get_next_available_stream_id()
        base = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "remit")]
        fixed = [("te", "trailers"), ("content-type", "application/grpc")]
        self._h2.send_headers(stream, [*base, *fixed, *headers])
        self.replies[stream] = Reply()
        if body or end:
            limit = self._h2.max_outbound_frame_size
            window = self._h2.local_flow_control_window(stream)
            assert len(body) <= window, "a body of the tests fits into one window"
            for start in range(0, max(len(body), 1), limit):
                part = body[start : start + limit]
                self._h2.send_data(stream, part, end_stream=end and start + limit >= len(body))
        await self._flush()
        return stream

    async def call(self, path: str, headers: Headers, body: bytes, *, wait_s: float | None = None) -> Reply:
        """A whole call. wait_s: for a call that may never end: what came of it by then."""
        stream = await self.begin(path, headers, body)
        try:
            async with asyncio.timeout(_WAIT_S if wait_s is None else wait_s):
                while not self.replies[stream].closed:
                    await self.read()
        except TimeoutError:
            if wait_s is None:
                raise
        return self.replies[stream]

    async def read(self) -> None:
        """Read once."""
        received = await self._reader.read(65536)
        if not received:
            for reply in self.replies.values():
                reply.closed = reply.closed or "connection"
            return
        try:
            for event in self._h2.receive_data(received):
                self._take(event)
        except ProtocolError:
            for reply in self.replies.values():
                reply.closed = reply.closed or "connection"
        await self._flush()

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived() | TrailersReceived():
                reply = self.replies[int(event.stream_id or 0)]
                reply.headers |= {str(key): str(value) for key, value in event.headers or ()}
            case DataReceived():
                self.replies[int(event.stream_id or 0)].data += event.data or b""
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, int(event.stream_id or 0))
            case StreamEnded():
                self.replies[int(event.stream_id or 0)].closed = "trailers"
            case StreamReset():
                self.replies[int(event.stream_id or 0)].closed = "reset"
            case _:
                pass

    @property
    def most_streams(self) -> int:
        """How many streams at once the server says that it takes."""
        return self._h2.remote_settings.max_concurrent_streams
