"""Opening parts of the service at once: what is opened is closed, in order, whatever became of the others."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from service.app.ahead import Ahead
from service.errors import StartError


def test_what_is_opened_ahead_is_opened_while_others_are() -> None:
    """It waits for something that only the opening of the others does."""
    others = threading.Event()

    def opening(closing: ExitStack) -> str:
        assert others.wait(30)
        return "opened"

    with ExitStack() as closing:
        ahead = Ahead(opening, closing)
        others.set()
        assert ahead.get() == ahead.get() == "opened"


def test_what_is_opened_ahead_is_closed_after_what_was_opened_later() -> None:
    """Also when nobody asked for it."""
    closed: list[str] = []

    def opening(closing: ExitStack) -> None:
        closing.callback(closed.append, "ahead")

    with ExitStack() as closing:
        closing.callback(closed.append, "before")
        Ahead(opening, closing)
        closing.callback(closed.append, "later")

    assert closed == ["later", "ahead", "before"]


def test_an_opening_that_fails_says_so_to_whoever_asks_and_leaves_nothing_open() -> None:
    """What it had opened so far is closed with everything else; closing raises nothing of its own."""
    closed: list[str] = []

    def opening(closing: ExitStack) -> None:
        closing.callback(closed.append, "half")
        raise StartError("the disk is gone")

    with pytest.raises(StartError, match="the disk is gone"), ExitStack() as closing:
        Ahead(opening, closing).get()
    assert closed == ["half"]

    with ExitStack() as closing:
        Ahead(opening, closing)
    assert closed == ["half", "half"]
