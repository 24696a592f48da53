"""A witness: remembers the last checkpoint of a log that it saw, and cosigns only what follows from it.

It knows nothing but a log's public key and its own state, and belongs on another machine, under somebody who does not
administer the service: then neither an older copy of the log nor another history passes, whoever has the log's key.

    <state>/checkpoint     the last checkpoint that was seen, with the log's signature and the cosignature
    <state>/conflict-…     a checkpoint that contradicts it: evidence; nothing is cosigned from then on

1. A checkpoint must bear the log's signature.
2. It must not be smaller than the last one, and of the same size only with the same root.
3. A larger one must come with a proof that the last one is its beginning.
4. What was seen is durable before anybody is told (C2SP `tlog-witness`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from service.audit.checkpoint import Checkpoint, NoteError, Verifier
from service.audit.cosign import Cosigner
from service.audit.merkle import verify_consistency
from service.errors import RemitError, StartError
from service.files import durable_file, lock_file

Prove = Callable[[int], tuple[bytes, Sequence[bytes]]]
"""Asks the log for a checkpoint and the proof that its first so many records are the beginning of it."""


class ForkError(RemitError):
    """The log is not what it was: an older copy, or another history. The checkpoint that shows it was kept."""


class Witness:
    """One log's witness. For one process: the state is locked until `close`."""

    def __init__(
        self, state: Path, log: Verifier, key: Cosigner, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Raises StartError when the state is not one of this log, is damaged, or shows a conflict."""
        self._state, self._log, self._key, self._now = state, log, key, now
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = lock_file.acquire(state / "lock")
        except lock_file.HeldError as err:
            raise StartError(f"the state of the witness in {state} is used by {err.holder}") from None
        except OSError as err:
            raise StartError(f"the state of the witness in {state} cannot be used: {err.strerror}") from err
        try:
            conflicts = sorted(state.glob("conflict-*"))
            if conflicts:
                raise StartError(
                    f"{conflicts[0]} contradicts what was seen before: find out who changed the log; "
                    "nothing is cosigned until a new state is begun in another folder"
                )
            self.seen = self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the state."""
        os.close(self._lock)

    def _load(self) -> Checkpoint | None:
        try:
            note = (self._state / "checkpoint").read_bytes()
            self._key.verifier.seen_at(note)
            return Checkpoint.open(note, self._log)
        except FileNotFoundError:
            return None
        except (NoteError, OSError) as err:
            raise StartError(f"{self._state}/checkpoint is not what this witness saw of this log: {err}") from err

    def look(self, note: bytes, prove: Prove) -> Checkpoint:
        """Take a checkpoint of the log, and remember and cosign it when it follows. Returns what is seen now.

        prove: called when the log has grown. Raises ForkError when the log is not what it was, and what `prove` raises.
        """
        found = self._opened(note)
        if self.seen is None:
            return self._remember(found, note)
        if found.size < self.seen.size:
            raise self._conflict(note, f"{self.seen.size} records were signed before, and now {found.size}")
        if found.size == self.seen.size:
            if found.root != self.seen.root:
                raise self._conflict(note, f"two roots were signed for {found.size} records")
            return self._remember(found, note)
        if self.seen.size == 0:
            return self._remember(found, note)
        note, hashes = prove(self.seen.size)
        found = self._opened(note)
        if found.size < self.seen.size or not verify_consistency(
            self.seen.size, found.size, self.seen.root, found.root, hashes
        ):
            raise self._conflict(note, f"the first {self.seen.size} records are not those that were signed before")
        return self._remember(found, note)

    def _opened(self, note: bytes) -> Checkpoint:
        try:
            return Checkpoint.open(note, self._log)
        except NoteError as err:
            raise ForkError(f"not a checkpoint of `{self._log.name}`: {err}") from err

    def _remember(self, found: Checkpoint, note: bytes) -> Checkpoint:
        durable_file.replace(self._state / "checkpoint", self._key.cosign(note, self._now()))
        self.seen = found
        return found

    def _conflict(self, note: bytes, what: str) -> ForkError:
        name = f"conflict-{self._now().strftime('%Y%m%dT%H%M%SZ')}"
        durable_file.replace(self._state / name, note)
        return ForkError(f"the log `{self._log.name}` was changed: {what}; see {self._state / name}")
