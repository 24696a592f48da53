"""The answers of one directory, kept for a short while, and each question asked once however many wait for it.

1. An answer is used for `keep_for`. Meanwhile the directory is asked every `poll_every` what changed, and what changed
   is dropped; an answer to a question that was asked before the change was known is not kept.
2. While the directory cannot be reached, an answer counts until it is `max_age` old, then not at all: its realm is
   unresolved. An account that is unknown or disabled is dropped at once; refusals are not kept.
3. Each answer knows the change of the catalog that was known before its question (`as_of`), so that a text newer than
   somebody's groups is noticed, however old the answer is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from connectors.directories.base import (
    Changes,
    Directory,
    DirectoryError,
    DirectoryUnavailableError,
    Resolution,
    Telling,
    UnknownSubjectError,
    Watched,
)

log = structlog.get_logger()

_MOST_KEPT: Final = 50_000
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long answers are used; see `service.identity.directories.DirectorySettings`."""

    keep_for: timedelta = timedelta(0)
    max_age: timedelta = timedelta(seconds=60)
    poll_every: timedelta = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """An answer. asked_at: by the monotonic clock, before the question. as_of: a change of the catalog before that."""

    resolution: Resolution
    asked_at: float
    as_of: int


@dataclass(frozen=True, slots=True)
class _Question:
    answer: Future[Kept]
    as_of: int


class Lookups:
    """One directory, asked sparingly. Safe for threads; blocks while the directory answers."""

    def __init__(
        self, directory: Directory, keeping: Keeping = Keeping(), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.directory: Final = directory
        self.keeping: Final = keeping
        self._keep_s: Final = keeping.keep_for.total_seconds() if isinstance(directory, Watched) else 0.0
        self._max_s: Final = keeping.max_age.total_seconds()
        self._clock: Final = clock
        self._lock: Final = threading.Lock()
        self._kept: dict[Key, Kept] = {}
        self._asked: dict[Key, _Question] = {}
        self._position = ""
        self._ended: Final = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._failing_since: float | None = None
        self.epoch = 0

    @property
    def keeps(self) -> bool:
        """False for a directory that is asked every time, as its answers cost nothing."""
        return self._keep_s > 0

    @property
    def failure(self) -> str | None:
        """Why the directory does not answer, None while it does; with the directory's own words, for operators."""
        if isinstance(self.directory, Telling):
            return self.directory.failure()
        return self._failure

    @property
    def exhausted(self) -> str | None:
        """Why nobody can be resolved here now: it has not answered for so long that no kept answer counts."""
        if isinstance(self.directory, Telling):
            return self.directory.failure()
        since = self._failing_since
        # Without a poll beside the questions nobody would notice that it answers again.
        if since is None or not self.keeps or self._clock() - since < self._max_s:
            return None
        return f"directory `{self.directory.name}` has not answered for {self._clock() - since:.0f} s"

    def resolve(self, attribute: str, value: str, *, mark: Callable[[], int], need: int = 0) -> Kept:
        """Return the directory's answer, a kept one where it may be.

        mark: the latest change of the catalog. need: an answer with a smaller `as_of` is not enough.
        Raises UnknownSubjectError and DirectoryUnavailableError.
        """
        if not self.keeps:
            as_of = mark()
            asked_at = self._clock()
            try:
                answer = self.directory.resolve(attribute, value)
            except DirectoryUnavailableError as err:
                self._failed(err.detail)
                raise
            except UnknownSubjectError:
                self._failed(None)
                raise
            self._failed(None)
            return Kept(answer, asked_at, as_of)
        key = (attribute, value)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.as_of >= need and self._clock() - kept.asked_at < self._keep_s:
                return kept
            if kept is not None and self.failure is not None and self._may_count(kept, need):
                return kept  # rather than wait for a time-out at every question
            question = self._asked.get(key)
            mine = question is None or question.as_of < need
            if question is None or mine:
                question = self._asked[key] = _Question(Future(), mark())
            epoch = self.epoch
        if mine:
            self._ask(key, question, epoch)
        try:
            return question.answer.result()
        except DirectoryUnavailableError as err:
            return self._older(key, need, err)

    def poll(self) -> None:
        """Ask what changed, and drop it. A directory that does not say leaves the answers to their age."""
        directory = self.directory
        if not isinstance(directory, Watched):
            return
        changes = directory.changes(self._position)
        self._position = changes.position
        if not changes.everything and not changes.accounts:
            return
        self._drop(changes)

    def _drop(self, changes: Changes) -> None:
        with self._lock:
            # INVARIANT: a question that is under way was asked before the change was known: its answer is not kept, and
            # nobody who asks from now on waits for it.
            self.epoch += 1
            self._asked.clear()
            if changes.everything:
                self._kept.clear()
            else:
                gone = [key for key, kept in self._kept.items() if kept.resolution.account_id in changes.accounts]
                for key in gone:
                    del self._kept[key]

    def start(self) -> None:
        """Poll in a thread of its own until `close`."""
        if self.keeps and self._thread is None:
            self._thread = threading.Thread(target=self._watch, name=f"watch-{self.directory.name}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop polling, and close the directory."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if isinstance(self.directory, Watched):
            self.directory.close()

    def _watch(self) -> None:
        every_s = self.keeping.poll_every.total_seconds()
        while not self._ended.wait(every_s):
            try:
                self.poll()
            except DirectoryUnavailableError as err:
                self._failed(err.detail)
            except Exception:
                log.exception("directory_poll_failed", directory=self.directory.name)
                self._position = ""
                self._drop(Changes("", True))
            else:
                self._failed(None)

    def _failed(self, why: str | None) -> None:
        """Remember whether the directory answers, and say once that it does not, and once that it does again."""
        if self._failure is None and why is not None:
            log.warning("directory_unavailable", directory=self.directory.name, detail=why)
            self._failing_since = self._clock()
        elif self._failure is not None and why is None:
            log.info("directory_available", directory=self.directory.name)
            self._failing_since = None
        self._failure = why

    def _ask(self, key: Key, question: _Question, epoch: int) -> None:
        asked_at = self._clock()
        try:
            kept = Kept(self.directory.resolve(*key), asked_at, question.as_of)
        except DirectoryError as err:
            with self._lock:
                if isinstance(err, UnknownSubjectError):
                    self._kept.pop(key, None)
                self._forget(key, question)
            question.answer.set_exception(err)
        else:
            with self._lock:
                other = self._kept.get(key)
                if self.epoch == epoch and (other is None or other.as_of <= kept.as_of):
                    self._make_room()
                    self._kept[key] = kept
                self._forget(key, question)
            question.answer.set_result(kept)
        finally:
            if not question.answer.done():  # a mistake of ours: nobody may wait for ever
                with self._lock:
                    self._forget(key, question)
                name = self.directory.name
                question.answer.set_exception(DirectoryUnavailableError(f"directory `{name}` failed on a question"))

    def _forget(self, key: Key, question: _Question) -> None:
        if self._asked.get(key) is question:
            del self._asked[key]

    def _make_room(self) -> None:
        if len(self._kept) >= _MOST_KEPT:
            oldest = self._clock() - self._max_s
            self._kept = {key: kept for key, kept in self._kept.items() if kept.asked_at > oldest}
        while len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def _may_count(self, kept: Kept, need: int) -> bool:
        return kept.as_of >= need and self._clock() - kept.asked_at < self._max_s

    def _older(self, key: Key, need: int, err: DirectoryUnavailableError) -> Kept:
        """The last answer, while it may count in place of one that cannot be had."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                raise err
            if self._may_count(kept, need):
                return kept
            age = self._clock() - kept.asked_at
        raise DirectoryUnavailableError(
            f"{err.detail}; its last answer is {age:.0f} s old, of at most {self._max_s:.0f} s"
        ) from err
