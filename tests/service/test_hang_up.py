"""The end of a listener: nobody can connect any more, those who wait are counted, and connections end from below."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.api.hang_up import hang_up, turn_away


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """One that takes connections only when it is told to."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as made:
        yield made


def port_of(one: socket.socket) -> int:
    """Its own."""
    return int(one.getsockname()[1])


def connect(listener: socket.socket, timeout_s: float = 10.0) -> socket.socket:
    """As somebody who calls."""
    return socket.create_connection(("127.0.0.1", port_of(listener)), timeout_s)


def test_nobody_connects_to_a_listener_that_turns_away(listener: socket.socket) -> None:
    """As long as it listens there is no answer; then it is refused. Another port of this process goes on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert turn_away({port_of(listener)}) == 0

        with pytest.raises(TimeoutError):
            connect(listener, 0.05)
        connect(other).close()
    port = port_of(listener)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)


def test_who_connected_before_is_counted_until_taken_and_hung_up_on(listener: socket.socket) -> None:
    """Those who wait to be taken are seen, and once they are taken they hear the end of their connection."""
    with ExitStack() as closing:
        callers = [closing.enter_context(connect(listener)) for _ in range(2)]
        assert turn_away({port_of(listener)}) == 2
        taken = [closing.enter_context(listener.accept()[0]) for _ in range(2)]
        assert turn_away({port_of(listener)}) == 0
        taken[0].sendall(b"said before")

        assert hang_up({port_of(listener)}) == 2

        assert callers[0].recv(100) == b"said before"
        assert [one.recv(100) for one in callers] == [b"", b""]


def test_only_connections_of_the_ports_are_hung_up_on(listener: socket.socket) -> None:
    """Those that this process has made itself, to others or to its own ports, are not its listener's."""
    with ExitStack() as closing:
        other = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
        caller = closing.enter_context(connect(other))
        taken = closing.enter_context(other.accept()[0])

        assert hang_up({port_of(listener)}) == 0

        taken.sendall(b"still here")
        assert caller.recv(100) == b"still here"
