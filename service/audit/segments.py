"""The files of an audit log: segments of length-prefixed records, the leaf hashes beside them, the last checkpoint.

    segments/000000000000.seg   4 bytes of length (big-endian), then the stored record (`service.audit.bodies`); named
                                by its first record; append only
    leaves                      32 bytes for each record, never deleted
    checkpoint                  the last signed note, replaced atomically
    lock                        held by the one process that writes

It knows bytes and order. What a record means, and whether the log is the one that was signed, others say.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from service.audit.bodies import is_whole
from service.audit.merkle import HASH_BYTES
from service.audit.record import MAX_BYTES
from service.files import durable_file

SEGMENT_BYTES: Final = 64 * 1024 * 1024
_LENGTH_BYTES: Final = 4
_DIGITS: Final = 12


class DamagedError(Exception):
    """The bytes at record `index` are none that a write, finished or not, leaves behind."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index = index


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a write that was cut off left behind the last whole record: a stretch at the end of the last segment."""

    segment: Path
    offset: int
    size: int


class Reader:
    """Reads the stored records of a log in their order, without changing anything. `unfinished` is known at the end."""

    def __init__(self, folder: Path) -> None:
        self._segments = sorted((folder / "segments").glob("*.seg"))
        self.unfinished: Unfinished | None = None

    def records(self) -> Iterator[bytes]:
        """Every whole record. Raises DamagedError at the first that cannot be one."""
        index = 0
        for number, path in enumerate(self._segments):
            last = number == len(self._segments) - 1
            if path.name != _segment_name(index):
                raise DamagedError(index, f"a segment is missing before `{path.name}`")
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                offset = 0
                while offset < size:
                    data = self._one(file.read(_LENGTH_BYTES), file, size - offset - _LENGTH_BYTES, index)
                    if data is None:
                        if not last:
                            raise DamagedError(index, f"`{path.name}` ends within the record")
                        self.unfinished = Unfinished(path, offset, size - offset)
                        return
                    yield data
                    offset += _LENGTH_BYTES + len(data)
                    index += 1

    @staticmethod
    def _one(prefix: bytes, file: BinaryIO, rest: int, index: int) -> bytes | None:
        # None: this is what a write leaves that did not finish. After a power failure a file can have its new size
        # and pages of zeros within.
        length = int.from_bytes(prefix)
        if rest < 0:
            return None
        if length > MAX_BYTES * 2:
            raise DamagedError(index, "its length is impossible")
        if length > rest:
            return None
        data = file.read(length)
        return data if length and is_whole(data) else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where record `index` begins, or will: `segment` is the number of its segment's first record."""

    index: int = 0
    segment: int = 0
    offset: int = 0


def read_from(folder: Path, place: Place, stop: int) -> Iterator[tuple[Place, bytes]]:
    """The stored records from a place up to, and without, number `stop`, which the caller knows to be durable.

    Raises DamagedError when they are not there.
    """
    at = place
    while at.index < stop:
        path = folder / "segments" / _segment_name(at.segment)
        try:
            file = path.open("rb")
        except FileNotFoundError as err:
            raise DamagedError(at.index, f"the segment `{path.name}` is missing") from err
        with file:
            file.seek(at.offset)
            while at.index < stop:
                prefix = file.read(_LENGTH_BYTES)
                if not prefix and at.segment != at.index:
                    at = Place(at.index, at.index, 0)  # the next segment is named by its first record
                    break
                length = int.from_bytes(prefix)
                data = file.read(length) if len(prefix) == _LENGTH_BYTES and 0 < length <= MAX_BYTES * 2 else b""
                if not data or len(data) != length:
                    raise DamagedError(at.index, "the record is cut off")
                yield at, data
                at = Place(at.index + 1, at.segment, at.offset + _LENGTH_BYTES + length)


def head(folder: Path, place: Place, size: int) -> bytes:
    """The first `size` bytes of the stored record at a place. Raises OSError."""
    with (folder / "segments" / _segment_name(place.segment)).open("rb") as file:
        file.seek(place.offset + _LENGTH_BYTES)
        return file.read(size)


def heads(folder: Path, stop: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The first `size` bytes of each stored record up to, and without, number `stop`, and its number; quicker than all.

    Raises DamagedError when the records are not there.
    """
    index = 0
    while index < stop:
        path = folder / "segments" / _segment_name(index)
        try:
            file = path.open("rb")
        except FileNotFoundError as err:
            raise DamagedError(index, f"the segment `{path.name}` is missing") from err
        with file:
            end = os.fstat(file.fileno()).st_size
            at = 0
            while at < end and index < stop:
                file.seek(at)
                data = file.read(_LENGTH_BYTES + size)
                at += _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES])
                if at > end or len(data) <= _LENGTH_BYTES:
                    raise DamagedError(index, "the record is cut off")
                yield index, data[_LENGTH_BYTES:]
                index += 1


def place_before(folder: Path, index: int) -> Place:
    """Where the segment begins that holds record `index`. Raises DamagedError when there is none."""
    firsts = [int(path.stem) for path in (folder / "segments").glob("*.seg") if path.stem.isdecimal()]
    try:
        first = max(one for one in firsts if one <= index)
    except ValueError as err:
        raise DamagedError(index, "its segment is missing") from err
    return Place(first, first, 0)


def stored_bytes(data: bytes) -> int:
    """How many bytes of a segment a stored record takes."""
    return _LENGTH_BYTES + len(data)


def read_leaves(folder: Path) -> bytes:
    """All leaf hashes, one after another; the last may be cut off. Empty when there is no file."""
    try:
        return (folder / "leaves").read_bytes()
    except FileNotFoundError:
        return b""


def read_checkpoint(folder: Path) -> bytes | None:
    """The last checkpoint as it stands, or None when there is none."""
    try:
        with (folder / "checkpoint").open("rb") as file:
            return file.read(1024 * 1024)
    except FileNotFoundError:
        return None


def is_new(folder: Path) -> bool:
    """True when nothing of a log is there yet."""
    return not any((folder / name).exists() for name in ("segments", "leaves", "checkpoint"))


class Writer:
    """Appends to a log whose whole content is known: `count` records, nothing unfinished. Not thread-safe."""

    def __init__(self, folder: Path, count: int, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segments = folder / "segments"
        if not self._segments.exists():
            self._segments.mkdir(mode=0o700)
            durable_file.sync_folder(folder)
        self._leaves = os.open(folder / "leaves", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        found = sorted(self._segments.glob("*.seg"))
        self._segment = self._open(found[-1]) if found else self._open(self._segments / _segment_name(count))
        self._size = os.fstat(self._segment).st_size

    def _open(self, path: Path) -> int:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        durable_file.sync_folder(self._segments)
        return handle

    def append(self, first: int, records: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        """Write stored records from number `first` on, durably, then their leaf hashes. Raises OSError.

        INVARIANT: a leaf is written after its record is durable. So a leaf without its record proves that the record
        was there, and what an unfinished write left never has one.
        """
        if self._size >= self._segment_bytes:
            os.close(self._segment)
            self._segment = self._open(self._segments / _segment_name(first))
            self._size = 0
        data = b"".join(len(one).to_bytes(_LENGTH_BYTES) + one for one in records)
        _write_all(self._segment, data)
        self._size += len(data)
        os.fdatasync(self._segment)
        _write_all(self._leaves, b"".join(leaves))

    def put_checkpoint(self, note: str) -> None:
        """Make the leaves durable, then replace the checkpoint. Raises OSError."""
        os.fdatasync(self._leaves)
        put_checkpoint(self._folder, note)

    def close(self) -> None:
        """Close the files, once."""
        for handle in (self._segment, self._leaves):
            with contextlib.suppress(OSError):
                os.close(handle)


def put_checkpoint(folder: Path, note: str) -> None:
    """Replace the checkpoint, durably and at once. Raises OSError."""
    durable_file.replace(folder / "checkpoint", note.encode())


def cut(unfinished: Unfinished) -> None:
    """Remove what an unfinished write left."""
    with unfinished.segment.open("r+b") as file:
        file.truncate(unfinished.offset)
        os.fsync(file.fileno())


def mend_leaves(folder: Path, known: int, missing: Sequence[bytes]) -> None:
    """Keep the first `known` leaves, and write those behind them that were not durable yet."""
    handle = os.open(folder / "leaves", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(handle, known * HASH_BYTES)
        os.lseek(handle, 0, os.SEEK_END)
        _write_all(handle, b"".join(missing))
        os.fsync(handle)
    finally:
        os.close(handle)


def _segment_name(first: int) -> str:
    return f"{first:0{_DIGITS}d}.seg"


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
