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
        self._changed = threading.Condition()  # guards what follows, and says when it changed
        self._line: list[_Waiting[Q, A]] = []
        self._busy = False

    def ask(self, question: Q) -> A:
        """Return the answer to `question`. Raises what `answer` raises for it."""
        mine = _Waiting[Q, A](question)
        with self._changed:
            self._line.append(mine)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(mine.answers) or not self._busy)
                if mine.answers:
                    return mine.answers[0]
                # Whoever finds it free asks for the oldest that wait, which may or may not be its own.
                self._busy = True
                group = [mine] if mine.alone else self._line[: self._most]
                self._line = [one for one in self._line if one not in group]
            try:
                self._serve(group, mine)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _serve(self, group: list[_Waiting[Q, A]], mine: _Waiting[Q, A]) -> None:
        """Answer a group. When that fails each of them is asked alone: one bad question fails nobody else."""
        try:
            answers = list(self._answer([one.question for one in group]))
            for one, answer in zip(group, answers, strict=True):
                one.answers = (answer,)
        except BaseException as err:
            # INVARIANT: whoever is out of the line has an answer, or asks alone when it wakes up: nobody is forgotten.
            for one in group:
                one.alone = True
            if group == [mine] or not isinstance(err, UnavailableError):
                raise
