"""Questions that wait at the same moment are answered together, each as if it were alone.

Nothing is kept: what one caller asked leaves no trace that another could time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import UnavailableError

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Q, A]):
    question: Q
    alone: bool = False
    answers: tuple[A, ...] = ()


class Gather(Generic[Q, A]):
    """Asks `answer`, one call at a time, for at most `most` questions that wait. Thread-safe.

    answer: returns one answer for each question, in their order, or raises.
    """

    def __init__(self, answer: Callable[[list[Q]], Iterable[A]], *, most: int) -> None:
        self._answer = answer
        self._most = most
        self._lock = threading.Lock()  # guards `_line`
        self._turn = threading.Lock()  # held while `answer` works
        self._line: list[_Waiting[Q, A]] = []

    def ask(self, question: Q) -> A:
        """Return the answer to `question`. Raises what `answer` raises for it."""
        mine = _Waiting[Q, A](question)
        with self._lock:
            self._line.append(mine)
        while True:
            # Whoever gets the turn asks for the oldest that wait, which may or may not be its own.
            with self._turn:
                if mine.answers:
                    return mine.answers[0]
                if mine.alone:
                    return next(iter(self._answer([question])))
                with self._lock:
                    group, self._line = self._line[: self._most], self._line[self._most :]
                self._serve(group)

    def _serve(self, group: list[_Waiting[Q, A]]) -> None:
        """Answer a group. When that fails each of them is asked alone: one bad question fails nobody else."""
        try:
            answers = self._answer([one.question for one in group])
        except UnavailableError:
            for one in group:
                one.alone = True
        else:
            for one, answer in zip(group, answers, strict=True):
                one.answers = (answer,)
