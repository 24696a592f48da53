"""Gathering: who waits together is answered together, everybody with his own answer, and fails only for himself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from service.embed.gather import Gather
from service.errors import SearchUnavailableError


class Scribe:
    """Answers in capitals; the first call waits until `open`. Knows which calls there were."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.entered, self.open = threading.Event(), threading.Event()

    def answer(self, questions: list[str]) -> list[str]:
        """Answer or, for a question that is bad, raise."""
        self.calls.append(questions)
        self.entered.set()
        assert self.open.wait(30)
        if "bad" in questions:
            raise SearchUnavailableError("bad")
        return [question.upper() for question in questions]


def ask_all(scribe: Scribe, gather: Gather[str, str], questions: list[str]) -> dict[str, str]:
    """Ask `first`, and the others while it is being answered."""
    got: dict[str, str] = {}

    def ask(question: str) -> None:
        try:
            got[question] = gather.ask(question)
        except SearchUnavailableError as err:
            got[question] = f"error: {err}"

    threads = [threading.Thread(target=ask, args=("first",))]
    threads[0].start()
    assert scribe.entered.wait(30)
    threads += [threading.Thread(target=ask, args=(question,)) for question in questions]
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: len(gather._line) == len(questions))
    scribe.open.set()
    for thread in threads:
        thread.join(30)
    return got


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for other threads to have got somewhere."""
    pause = threading.Event()
    while not done():
        pause.wait(0.001)


def test_questions_that_wait_share_calls_of_at_most_so_many() -> None:
    """Five wait behind one: two calls of three and two, and each gets the answer to its own question."""
    scribe = Scribe()
    gather = Gather(scribe.answer, most=3)

    got = ask_all(scribe, gather, list("abcde"))

    assert got == {"first": "FIRST", **{letter: letter.upper() for letter in "abcde"}}
    assert [len(call) for call in scribe.calls] == [1, 3, 2]


def test_a_bad_question_fails_for_who_asked_it_alone() -> None:
    """The neighbours of a question that cannot be answered are answered."""
    scribe = Scribe()
    gather = Gather(scribe.answer, most=8)

    got = ask_all(scribe, gather, ["a", "bad", "c"])

    assert got == {"first": "FIRST", "a": "A", "bad": "error: bad", "c": "C"}


def test_a_question_alone_is_answered_at_once_and_every_time() -> None:
    """Nothing waits for company, and nothing is remembered."""
    scribe = Scribe()
    scribe.open.set()
    gather = Gather(scribe.answer, most=8)

    assert [gather.ask("a"), gather.ask("a")] == ["A", "A"]
    assert scribe.calls == [["a"], ["a"]]
    with pytest.raises(SearchUnavailableError):
        gather.ask("bad")


def test_an_error_that_nobody_expects_leaves_nobody_waiting() -> None:
    """Who called hears of it; the others of the call are answered."""

    def answer(questions: list[str]) -> list[str]:
        if len(questions) > 1:
            raise KeyError("unexpected")
        return scribe.answer(questions)

    scribe = Scribe()
    gather = Gather(answer, most=8)
    got: dict[str, str] = {}

    def ask(question: str) -> None:
        try:
            got[question] = gather.ask(question)
        except KeyError:
            got[question] = "unexpected"

    threads = [threading.Thread(target=ask, args=("first",))]
    threads[0].start()
    assert scribe.entered.wait(30)
    threads += [threading.Thread(target=ask, args=(letter,)) for letter in "abc"]
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: len(gather._line) == 3)
    scribe.open.set()
    for thread in threads:
        thread.join(30)

    assert got["first"] == "FIRST"
    assert sorted(got[letter] for letter in "abc") in [sorted(["unexpected", *rest]) for rest in ("AB", "AC", "BC")]
