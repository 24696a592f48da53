"""The audit log: one writer, group commit, a Merkle tree over all records, signed checkpoints.

`append` returns when the record is durable. When that cannot be, it raises AuditUnavailableError, and the log refuses
everything until it is opened again: nothing may be answered that is not recorded.
Opening holds every record against the last signed checkpoint first.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from service.audit import segments
from service.audit.bodies import Bodies
from service.audit.checkpoint import Checkpoint, Signer
from service.audit.errors import AuditTamperedError
from service.audit.merkle import EMPTY_ROOT, leaf_hash
from service.audit.record import SALT_BYTES, Envelope, Kind, Record, envelope, parse, record
from service.audit.standing import Standing
from service.audit.verify import Scan, scan
from service.errors import AuditUnavailableError, StartError
from service.files import lock_file

_BATCH: Final = 256
_MAX_WAITING: Final = 10_000
_GRACE_S: Final = 5.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a record stands, durably."""

    index: int
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with the note that says so."""

    checkpoint: Checkpoint
    note: str


@dataclass(slots=True)
class _Waiting:
    record: Record
    future: Future[Receipt] | asyncio.Future[Receipt]


class AuditLog:
    """The one writer of a log. Thread-safe; `close` it to leave a signed end."""

    def __init__(
        self,
        folder: Path,
        signing_key: Signer,
        bodies: Bodies,
        *,
        facts: Mapping[str, object] | None = None,
        checkpoint_interval_s: float = 60.0,
        checkpoint_records: int = 4096,
        timeout_s: float = 5.0,
        segment_bytes: int = segments.SEGMENT_BYTES,
    ) -> None:
        """Open the log, verify all of it, and record the start.

        bodies: seals what the segments store.
        facts: what the start's record says beside that, such as the version of the software.
        timeout_s: how long a record may take to become durable before the log counts as unavailable.
        Raises AuditTamperedError, and StartError when the folder cannot be used.
        """
        self.bodies = bodies
        """What seals and opens the records."""
        self._folder = folder
        self._signer = signing_key
        self._interval_s = checkpoint_interval_s
        self._every = checkpoint_records
        self._timeout_s = timeout_s
        self._session = secrets.token_hex(8)
        self._began_ns = time.monotonic_ns()
        self._queue: deque[_Waiting] = deque()
        self._signing: list[Future[SignedCheckpoint]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._failure: str | None = None
        self._busy_since: float | None = None
        try:
            self._lock = _locked(folder)
            try:
                found = self._open()
                self._writer = segments.Writer(folder, found.tree.size, segment_bytes=segment_bytes)
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as err:
            raise StartError(f"the audit log in `{folder}` cannot be opened: {err.strerror or err}") from err
        self._tree, self._last, self._day = found.tree, found.last, found.day
        self.standing: Standing = found.standing
        self.last_before = found.last_time
        covered = found.checkpoint or Checkpoint(signing_key.name, 0, EMPTY_ROOT)
        self._signed = SignedCheckpoint(covered, "")
        try:
            start: dict[str, object] = {"event": "started", "covered": covered.size, **(facts or {})}
            if found.unfinished is not None:
                start["cut_bytes"] = found.unfinished.size
            self._commit([_Waiting(record(Kind.CONTROL, start), Future())])
            self._sign()
        except OSError as err:
            self._release()
            raise StartError(f"the audit log in `{folder}` cannot be written: {err.strerror or err}") from err
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="audit writer", daemon=True)
        self._thread.start()

    def _open(self) -> Scan:
        if segments.is_new(self._folder):
            first = Checkpoint(self._signer.name, 0, EMPTY_ROOT)
            # Before anything else: so a log without a checkpoint is one that somebody took it from.
            segments.put_checkpoint(self._folder, first.sign(self._signer))
        found = scan(self._folder, self._signer.verifier, self.bodies)
        if found.problem is not None:
            what, advice = "is not what was signed", "restore the log from a backup"
            if found.lacks_keys:
                what, advice = "has records that cannot be read", "restore the key store that belongs to it"
            raise AuditTamperedError(
                f"the audit log in `{self._folder}` {what}: {found.problem}; "
                f"nothing is served from it, keep the folder as evidence and {advice}",
                found.problem.index,
            )
        # No checkpoint covers what is mended here, and nobody was answered on it: see `segments.Writer.append`.
        if found.unfinished is not None:
            segments.cut(found.unfinished)
        segments.mend_leaves(self._folder, found.known_leaves, found.unwritten)
        return found

    @property
    def failure(self) -> str | None:
        """Why the log refuses everything, or None while it is written. A log that hangs may recover."""
        since = self._busy_since
        if self._failure is None and since is not None and time.monotonic() - since > self._timeout_s:
            return f"the audit log hangs: its disk has not answered for more than {self._timeout_s} s"
        return self._failure

    @property
    def checkpoint(self) -> Checkpoint:
        """The last signed checkpoint."""
        return self._signed.checkpoint

    @property
    def note(self) -> str:
        """The note of the last checkpoint that was signed since the log was opened."""
        return self._signed.note

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._tree.size

    def covering(self, size: int) -> SignedCheckpoint:
        """A signed checkpoint over at least `size` records, at most those there are: the last one, or a new one.

        Blocking. Raises AuditUnavailableError.
        """
        with self._wake:
            self._check_open()
            if self._signed.checkpoint.size >= size:
                return self._signed
            future: Future[SignedCheckpoint] = Future()
            self._signing.append(future)
            self._wake.notify()
        try:
            return future.result(self._timeout_s)
        except TimeoutError as err:
            raise AuditUnavailableError(f"no checkpoint became durable within {self._timeout_s} s") from err

    async def append(self, entry: Record) -> Receipt:
        """Return when the record is durable. Raises AuditUnavailableError; then nothing may be answered.

        A call that is cancelled meanwhile leaves its record in the log.
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(entry, future))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError as err:
            raise AuditUnavailableError(f"no record became durable within {self._timeout_s} s") from err

    def append_blocking(self, entry: Record) -> Receipt:
        """`append` for a thread that is not the event loop's."""
        future: Future[Receipt] = Future()
        self._enqueue(_Waiting(entry, future))
        try:
            return future.result(self._timeout_s)
        except TimeoutError as err:
            raise AuditUnavailableError(f"no record became durable within {self._timeout_s} s") from err

    def close(self) -> None:
        """Write what waits and the stop's record, sign a last checkpoint, release the folder. Again is nothing."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify()
        self._thread.join(self._timeout_s + _GRACE_S)
        if self._thread.is_alive():
            # A disk that does not answer cannot be waited for; the next opening finds what it left.
            _log.error("audit_not_closed", detail=self.failure)
            return
        self._release()

    def _release(self) -> None:
        self._writer.close()
        os.close(self._lock)

    def _enqueue(self, waiting: _Waiting) -> None:
        with self._wake:
            self._check_open()
            if len(self._queue) >= _MAX_WAITING:
                raise AuditUnavailableError(f"{_MAX_WAITING} records wait for the audit log")
            self._queue.append(waiting)
            self._wake.notify()

    def _check_open(self) -> None:
        failure = self.failure
        if failure is not None:
            raise AuditUnavailableError(failure)
        if self._closing:
            raise AuditUnavailableError("the audit log is closed")

    # --- the writer's thread ---

    def _run(self) -> None:
        due = time.monotonic() + self._interval_s
        closing = False
        batch: list[_Waiting] = []
        try:
            while not closing:
                with self._wake:
                    while not (self._queue or self._signing or self._closing) and time.monotonic() < due:
                        self._wake.wait(due - time.monotonic())
                    room = min(_BATCH, self._every - self._uncovered)
                    batch = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
                    signing = self._signing.copy()
                    closing = self._closing and not self._queue
                self._busy_since = time.monotonic()
                is_due = self._busy_since >= due
                if is_due and not batch and not self._uncovered:
                    batch = [_Waiting(record(Kind.HEARTBEAT, {}), Future())]
                if batch:
                    self._commit(batch)
                if closing:
                    self._commit([_Waiting(record(Kind.CONTROL, {"event": "stopped"}), Future())])
                if is_due or closing or signing or self._uncovered >= self._every:
                    self._sign()
                    due = time.monotonic() + self._interval_s
                    self._hand_out(signing)
                self._busy_since = None
        except Exception as err:  # noqa: BLE001  the top of the thread: whatever it was, everybody who waits must know
            self._fail(batch, err)

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        """Make a batch durable, then tell everybody who waits for it."""
        tree, last = self._tree.copy(), self._last
        first = tree.size
        stored: list[bytes] = []
        leaves: list[bytes] = []
        standing: list[bytes] = []
        salts = os.urandom(SALT_BYTES * len(batch))
        for number, waiting in enumerate(batch):
            uptime_us = (time.monotonic_ns() - self._began_ns) // 1000
            now = datetime.now(UTC)
            salt = salts[number * SALT_BYTES : (number + 1) * SALT_BYTES]
            data = envelope(waiting.record, Envelope(tree.size, last, salt, self._session, now, uptime_us))
            self._day = max(self._day, now.date())
            stored.append(self.bodies.seal(waiting.record, tree.size, self._day, data))
            if waiting.record.kind is Kind.STANDING:
                standing.append(data)
            last = leaf_hash(data)
            leaves.append(last)
            tree.append(last)
        self._writer.append(first, stored, leaves)
        self._tree, self._last = tree, last
        for data in standing:
            self.standing.take(parse(data))
        _settle(batch, [Receipt(first + n, leaf) for n, leaf in enumerate(leaves)])

    @property
    def _uncovered(self) -> int:
        return self._tree.size - self._signed.checkpoint.size

    def _sign(self) -> None:
        made = Checkpoint(self._signer.name, self._tree.size, self._tree.root())
        note = made.sign(self._signer)
        self._writer.put_checkpoint(note)
        self._signed = SignedCheckpoint(made, note)

    def _hand_out(self, signing: Sequence[Future[SignedCheckpoint]]) -> None:
        with self._wake:
            del self._signing[: len(signing)]
        for future in signing:
            future.set_result(self._signed)

    def _fail(self, batch: list[_Waiting], err: Exception) -> None:
        what = (err.strerror if isinstance(err, OSError) else None) or type(err).__name__
        with self._wake:
            self._failure = f"the audit log cannot be written: {what}"
            everybody = [*batch, *self._queue]
            self._queue.clear()
            signing, self._signing = self._signing, []
        _log.error("audit_failed", error=what, waiting=len(everybody))
        self._busy_since = None
        _settle(everybody, [AuditUnavailableError(self._failure) for _ in everybody])
        for future in signing:
            future.set_exception(AuditUnavailableError(self._failure))


def _locked(folder: Path) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return lock_file.acquire(folder / "lock")
    except lock_file.HeldError as err:
        raise StartError(f"the audit log in `{folder}` is being written by {err.holder}") from None


def _settle(batch: Sequence[_Waiting], results: Sequence[Receipt | AuditUnavailableError]) -> None:
    # One wake-up for each event loop, whatever the size of the batch.
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Receipt], Receipt | AuditUnavailableError]]] = {}
    for waiting, result in zip(batch, results, strict=True):
        match waiting.future:
            case asyncio.Future() as future:
                loops.setdefault(future.get_loop(), []).append((future, result))
            case future:
                _resolve(future, result)
    for loop, pairs in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve_all, pairs)
        except RuntimeError:
            # The loop is closed: nobody waits there any more.
            _log.warning("audit_nobody_waits", records=len(pairs))


def _resolve_all(pairs: Sequence[tuple[asyncio.Future[Receipt], Receipt | AuditUnavailableError]]) -> None:
    for future, result in pairs:
        _resolve(future, result)


def _resolve(future: Future[Receipt] | asyncio.Future[Receipt], result: Receipt | AuditUnavailableError) -> None:
    if future.done():
        return
    if isinstance(result, Receipt):
        future.set_result(result)
    else:
        future.set_exception(result)
