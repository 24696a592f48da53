"""Everything that a proof changed is put back: at its end, on errors, and when it is told to stop.

A request to stop (SIGTERM) is taken as Ctrl-C is; neither interrupts the putting back itself.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from remit.client import RemitError

from service.errors import StartError
from service.prove.deployment import Deployment
from service.prove.grounds.base import Clearable
from service.prove.report import Check, Result


@contextmanager
def putting_back(there: Deployment, changed: Sequence[Clearable], sources: Sequence[str]) -> Iterator[list[Check]]:
    """Put back `changed`, the last first, and have the sources read again, unless it is stopped. Raises StartError.

    Yields a list that has a check for what could not be put back, once it is over.
    """
    checks: list[Check] = []
    with _handled(signal.SIGTERM, signal.default_int_handler):
        try:
            yield checks
        except KeyboardInterrupt:
            # Without a run: whoever stops it does not wait for one, and a call that was broken off may block the next.
            _put_back(there, changed)
            raise
        except BaseException:
            _put_back(there, changed)
            # What went wrong first is what is told.
            with suppress(StartError, RemitError):
                _read_again(there, sources)
            raise
        left = _put_back(there, changed)
        if left:
            checks.append(Check("what was planted and changed is put back", Result.NOT_RUN, "; ".join(left)))
        _read_again(there, sources)


def _put_back(there: Deployment, changed: Sequence[Clearable]) -> list[str]:
    """Put everything back, and say what could not be; nothing interrupts it."""
    with _handled(signal.SIGINT, signal.SIG_IGN), _handled(signal.SIGTERM, signal.SIG_IGN):
        left = [line for one in reversed(changed) for line in one.clear()]
        for line in left:
            there.say(f"left behind: {line}")
    return left


def _read_again(there: Deployment, sources: Sequence[str]) -> None:
    for source in sources:
        there.sync(source)


@contextmanager
def _handled(what: signal.Signals, by: Any) -> Iterator[None]:
    """Handle a signal otherwise for a while, where that can be said: signals are the main thread's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(what, by)
    try:
        yield
    finally:
        signal.signal(what, before)
