"""A feed's file as an index of its lines: checked as a whole before a word of it counts. Linux only.

Nothing of a document but its id and place is kept, so that memory does not grow with texts. One index belongs to one
state of the file: `signature` tells whether it still stands.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final

from acl.model import MAX_DEPTH, Clause, Unknown
from acl.principal import Principal
from connectors.errors import FatalError, RetriableError
from connectors.feed_lines import VERSION, DocumentLine, EndLine, GroupLine, HeaderLine, LineError, ScopeLine, parse
from connectors.posix.content import settle
from connectors.posix.inode import CLOSED, GONE

MAX_LINE_BYTES: Final = 64 * 2**20
_MAX_HEADER_BYTES: Final = 1000

Signature = tuple[int, int, int, int, int]


class UnknownVersionError(FatalError):
    """The feed is written in a version that this code does not read: nobody reads anything of it."""


@dataclass(frozen=True, slots=True)
class FeedScope:
    """A container as the feed declares it."""

    parent: str | None
    clause: Clause | Unknown
    location: str
    depth: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document's line stands. digest: of its bytes."""

    number: int
    offset: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that says nothing. document: the id of the document that it is about, if that much is certain.

    hides_group: whether it may be about a group that nobody can name.
    """

    number: int
    document: str | None
    complaint: str
    hides_group: bool


@dataclass(slots=True)
class FeedIndex:
    """What a feed holds; in the order of its lines."""

    signature: Signature
    exported_at: datetime
    scopes: dict[str, FeedScope] = field(default_factory=dict)
    documents: dict[str, Place] = field(default_factory=dict)
    groups: dict[str, GroupLine] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)


def load(path: Path) -> FeedIndex:
    """Read the whole feed.

    Raises RetriableError when it is not there, not whole or written to meanwhile, FatalError when it is no feed or may
    not be read, UnknownVersionError.
    """
    with open_feed(path) as file:
        settle(os.fstat(file.fileno()))
        index = FeedIndex(_signature(os.fstat(file.fileno())), _header(path, file))
        _Reader(index, path).read(file)
        if _signature(os.fstat(file.fileno())) != index.signature:
            raise RetriableError(f"`{path}` was written to while it was read: put a new feed there by renaming it")
    return index


def stands(index: FeedIndex, path: Path) -> bool:
    """Whether the file at `path` is still the one that the index was made of. Raises RetriableError."""
    try:
        return _signature(path.stat()) == index.signature
    except OSError as err:
        raise _lost(path, err) from err


def line_at(file: BinaryIO, place: Place) -> bytes | None:
    """Return the line, or None when other bytes stand there."""
    file.seek(place.offset)
    data = file.read(place.size)
    return data if _digest(data) == place.digest else None


def open_feed(path: Path) -> BinaryIO:
    """Open the feed. Raises RetriableError or FatalError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        raise _lost(path, err) from err
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FatalError(f"`{path}` is not a file")
    return os.fdopen(descriptor, "rb")


class _Reader:
    """Fills an index, line by line from the second."""

    def __init__(self, index: FeedIndex, path: Path) -> None:
        self._index = index
        self._path = path
        self._between = self._scopes = self._documents = self._groups = 0
        # Ids of broken lines and of those that stand twice: nothing that is said of them counts.
        self._doubtful: set[tuple[str, str]] = set()
        self._ended = False

    def read(self, file: BinaryIO) -> None:
        offset = file.tell()
        for number, data in enumerate(self._lines(file), 2):
            if self._ended:
                raise RetriableError(f"`{self._path}`: line {number} comes after the end marker: write the feed anew")
            self._line(number, offset, data)
            offset = file.tell()
        if not self._ended:
            raise RetriableError(f"`{self._path}` has no end marker: it is not whole, and nothing of it counts")

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        while data := file.readline(MAX_LINE_BYTES + 1):
            if len(data) > MAX_LINE_BYTES:
                while not data.endswith(b"\n") and (more := file.readline(MAX_LINE_BYTES)):
                    data = more
                data = b""
            yield data

    def _line(self, number: int, offset: int, data: bytes) -> None:
        try:
            if not data:
                raise LineError(f"longer than {MAX_LINE_BYTES} bytes")
            line = parse(data)
            match line:
                case EndLine():
                    self._end(line)
                    return
                case HeaderLine():
                    raise LineError("a second header")
                case ScopeLine():
                    self._scope(line)
                case DocumentLine():
                    self._document(line, Place(number, offset, len(data), _digest(data)))
                case GroupLine():
                    self._group(line)
        except LineError as err:
            self._break(number, err)
        self._between += 1

    def _scope(self, line: ScopeLine) -> None:
        self._scopes += 1
        scopes = self._index.scopes
        if ("scope", line.id) in self._doubtful or line.id in scopes:
            raise LineError(f"a second line about the scope `{line.id}`", ("scope", line.id))
        around = scopes.get(line.parent) if line.parent is not None else None
        depth = around.depth + 1 if around is not None else 1
        found = FeedScope(line.parent, line.clause, line.location, depth)
        if line.parent is not None and around is None:
            why = f"its parent `{line.parent}` is not declared before it"
            found = replace(found, parent=None, clause=Unknown(why))
        elif depth >= MAX_DEPTH:
            found = replace(found, parent=None, clause=Unknown(f"it lies deeper than {MAX_DEPTH} scopes"), depth=1)
        scopes[line.id] = found

    def _document(self, line: DocumentLine, place: Place) -> None:
        self._documents += 1
        if ("document", line.id) in self._doubtful or line.id in self._index.documents:
            raise LineError(f"a second line about the document `{line.id}`", ("document", line.id))
        self._index.documents[line.id] = place

    def _group(self, line: GroupLine) -> None:
        self._groups += 1
        token = line.group.token
        if ("group", token) in self._doubtful or token in self._index.groups:
            raise LineError(f"a second line about the group `{token}`", ("group", token))
        self._index.groups[token] = line

    def _end(self, line: EndLine) -> None:
        self._ended = True
        announced = (line.scopes, line.documents, line.groups)
        met = (self._scopes, self._documents, self._groups)
        if sum(announced) != self._between or any(many > few for many, few in zip(met, announced, strict=True)):
            raise RetriableError(
                f"`{self._path}` announces {line.scopes} scopes, {line.documents} documents and {line.groups} groups "
                f"at its end, and has {self._between} lines: it is not whole, and nothing of it counts"
            )

    def _break(self, number: int, err: LineError) -> None:
        document = None
        if err.about is not None:
            self._doubtful.add(err.about)
            kind, line_id = err.about
            if kind == "document":
                self._index.documents.pop(line_id, None)
                document = line_id
            elif kind == "group":
                unknown = Unknown(f"line {number}: {err}")
                named = self._index.groups.get(line_id)
                name = named.name if named is not None else line_id
                self._index.groups[line_id] = GroupLine(Principal.parse(line_id), name, unknown)
            else:
                known = self._index.scopes.get(line_id, FeedScope(None, Unknown(""), line_id, 1))
                self._index.scopes[line_id] = replace(known, clause=Unknown(f"line {number}: {err}"))
        self._index.broken.append(Broken(number, document, str(err), err.about is None))


def _header(path: Path, file: BinaryIO) -> datetime:
    """Read the first line: when the feed was exported."""
    data = file.readline(_MAX_HEADER_BYTES)
    try:
        header = parse(data)
    except LineError as err:
        if not data:
            raise RetriableError(f"`{path}` is empty: nothing counts as deleted") from err
        raise FatalError(f"`{path}`: line 1: expected the feed's header: {err}") from err
    if not isinstance(header, HeaderLine):
        raise FatalError(f"`{path}`: line 1: expected the feed's header")
    if header.exported_at is None:
        raise UnknownVersionError(
            f"`{path}` is a feed of version {header.version}, and version {VERSION} is read here: "
            "nobody reads what it holds until it is"
        )
    return header.exported_at


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _signature(status: os.stat_result) -> Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _lost(path: Path, err: OSError) -> RetriableError | FatalError:
    if err.errno in GONE:
        return RetriableError(f"`{path}` is not there: nothing counts as deleted; export the feed again")
    if err.errno in CLOSED:
        return FatalError(f"`{path}` may not be read by this process: {err.strerror}")
    return RetriableError(f"`{path}`: {err.strerror}")
