"""An export of any system as a source: one file of JSON Lines, with rules, and files beside it.

docs/connectors/feed.md says what is guaranteed and what is not. `connectors.feed_lines` reads a line,
`connectors.feed_file` the whole file.

What keeps a feed from widening access:
1. Every document lies in an outermost container whose rules the administrator declares, not the feed: the audience.
2. A feed that is not whole, or too old, counts for nothing; one of an unknown version closes what was open.
3. While a line is broken, nothing that was not seen is taken for deleted.
4. Content is returned only if the line and all containers around it are what the walk sent, before and after.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Final

from acl.model import Clause, ScopeId, Unknown
from connectors import feed_file
from connectors.base import (
    Change,
    Checkpoint,
    Cursor,
    Finding,
    Level,
    Membership,
    MembershipsEnd,
    ScanComplete,
    ScopeChange,
    Skip,
    Upsert,
)
from connectors.errors import ConnectorError, RetriableError, SkippableError
from connectors.feed_file import FeedIndex, Place, UnknownVersionError
from connectors.feed_lines import DocumentLine, parse
from connectors.posix.content import read_file, too_large
from connectors.posix.folder import LOOK
from connectors.posix.inode import CLOSED, GONE, lost
from connectors.posix.walk import version_of

AUDIENCE: Final = ScopeId("feed")
_SHOWN: Final = 10
_CHECKPOINT_EVERY: Final = 500
_CLOCKS_DIFFER: Final = timedelta(minutes=5)


def _now() -> datetime:
    return datetime.now(UTC)


class Feed:
    """Reads one feed: once as a whole, and once more document by document.

    `read` answers for what the last `changes` of the same object sent; one thread may walk while another reads.
    """

    def __init__(self, path: Path, audience: Clause, max_age: timedelta, now: Callable[[], datetime] = _now) -> None:
        """Nothing is opened yet.

        audience: who may read anything of the feed at all. max_age: an older export is not believed.
        """
        self._path: Final = path
        self._max_age: Final = max_age
        self._now: Final = now
        self._audience: Final = audience
        self._lock: Final = threading.Lock()
        self._current: FeedIndex | None = None
        self._sent: FeedIndex | None = None
        # Containers that were sent a second time, differently: no read can rely on them.
        self._twice: set[str] = set()

    def check(self) -> list[Finding]:
        """Say what the feed holds, which of its lines are broken, and who else may write it."""
        try:
            index = self._index()
            status = self._path.stat()
        except ConnectorError as err:
            return [Finding(Level.ERROR, err.detail)]
        except OSError as err:
            return [Finding(Level.ERROR, f"`{self._path}`: {err.strerror}")]
        groups = f", {len(index.groups)} groups" if index.groups else ""
        found = [Finding(Level.INFO, f"{len(index.documents)} documents in {len(index.scopes)} scopes{groups}")]
        found += [
            Finding(Level.WARNING, f"line {broken.number} is left out: {broken.complaint}")
            for broken in index.broken[:_SHOWN]
        ]
        if len(index.broken) > _SHOWN:
            found.append(Finding(Level.WARNING, f"{len(index.broken)} lines are left out"))
        if status.st_mode & stat.S_IWOTH:
            found.append(Finding(Level.WARNING, f"`{self._path}` may be written by everybody, who may so give access"))
        return found

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        """Send groups, audience, scopes and documents; then look at the scopes again.

        The cursor of a checkpoint names the export and the line; that of a complete walk holds nothing.
        """
        try:
            index = self._index()
        except UnknownVersionError as err:
            yield MembershipsEnd(err.detail)
            yield ScopeChange(AUDIENCE, None, Unknown(err.detail), self._path.name, complete=False)
            raise
        with self._lock:
            self._sent, self._twice = index, set()
        whole = not index.broken
        yield from (Membership(one.group, one.members, one.name) for one in index.groups.values())
        hiding = next((f"line {one.number} is broken" for one in index.broken if one.hides_group), "")
        yield MembershipsEnd(hiding)
        yield ScopeChange(AUDIENCE, None, self._audience, self._path.name, complete=whole)
        for scope in index.scopes:
            yield _scope(index, scope, complete=whole)
        for broken in index.broken:
            yield Skip(broken.document, f"line {broken.number}", "broken line", broken.complaint)
        with feed_file.open_feed(self._path) as file:
            last = _line(cursor, index)
            for count, place in enumerate(index.documents.values(), 1):
                if place.number <= last:
                    continue
                data = feed_file.line_at(file, place)
                if data is None:
                    raise RetriableError(f"`{self._path}` was exported anew while it was read: the next run reads it")
                yield self._document(index, place, data)
                if count % _CHECKPOINT_EVERY == 0:
                    yield Checkpoint({"export": list(index.signature), "line": place.number})
        yield from self._look_again(index)
        yield ScanComplete({"version": 1})

    def resumes(self, cursor: Cursor) -> bool:
        """Whether the export is still the one of this checkpoint."""
        return _line(cursor, self._index()) > 0

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        """Return the content of `document.version`, if the feed says the same as when it was sent, before and after."""
        line = self._compare(document)
        if isinstance(line.content, str):
            content = line.content.encode()
            if len(content) > limit_bytes:
                raise too_large(document.location, limit_bytes)
        else:
            content = self._file(document, line.content, limit_bytes)
        self._compare(document)
        return content

    def close(self) -> None:
        """Forget what was read of the feed."""
        with self._lock:
            self._current = self._sent = None

    def _index(self) -> FeedIndex:
        """Return the index of the file as it stands now."""
        with self._lock:
            if self._current is None or not feed_file.stands(self._current, self._path):
                self._current = feed_file.load(self._path)
            self._require_fresh(self._current.exported_at)
            return self._current

    def _require_fresh(self, exported_at: datetime) -> None:
        """Raise RetriableError for an export that says what was, not what is; the source's freshness runs out then."""
        age = self._now() - exported_at
        if age > self._max_age:
            raise RetriableError(f"`{self._path}` was exported at {exported_at.isoformat()}, longer ago than `max_age`")
        if age < -_CLOCKS_DIFFER:
            raise RetriableError(f"`{self._path}` was exported at {exported_at.isoformat()}, which is still to come")

    def _document(self, index: FeedIndex, place: Place, data: bytes) -> Change:
        line = _parsed(data)
        scope, own = AUDIENCE, self._audience if line.own == "scope" else line.own
        if line.scope is not None:
            if line.scope in index.scopes:
                scope = _scope_id(line.scope)
            else:
                own = Unknown(f"its scope `{line.scope}` is not declared")
        if isinstance(own, Unknown):
            own = Unknown(f"line {place.number}: {own.reason}")
        if isinstance(line.content, str):
            version, size = _version(line.content), len(line.content.encode())
        else:
            try:
                version, size = self._file_version(line.content)
            except OSError as err:
                if err.errno not in GONE | CLOSED:
                    raise lost(err, line.location) from err
                why = f"its file `{line.content}` cannot be read: {err.strerror}"
                return Skip(line.id, line.location, "unreadable", f"line {place.number}: {why}")
        return Upsert(
            native_id=line.id,
            scope=scope,
            own=own,
            version=version,
            name=line.title,
            location=line.location,
            media_type=line.media_type,
            size_bytes=size,
            modified_at=line.modified_at.astimezone(UTC),
        )

    def _look_again(self, index: FeedIndex) -> Iterator[Change]:
        """Send the scopes again that differ in a feed that took the place of this one."""
        if feed_file.stands(index, self._path):
            return
        now = self._index()
        whole = not index.broken and not now.broken
        for scope, found in now.scopes.items():
            if index.scopes.get(scope) != found:
                self._twice.add(scope)
                yield _scope(now, scope, complete=whole)
        for scope, found in index.scopes.items():
            if scope not in now.scopes:
                self._twice.add(scope)
                why = Unknown("it vanished from the feed while this was read")
                yield ScopeChange(_scope_id(scope), _around(found.parent), why, found.location, complete=False)

    def _compare(self, document: Upsert) -> DocumentLine:
        """Return what the feed says of the document now. Raises SkippableError when it is not what was sent."""
        now, sent = self._index(), self._sent
        place = now.documents.get(document.native_id)
        if place is None:
            raise SkippableError("vanished", f"`{document.location}` is not in the feed any more")
        before = sent.documents.get(document.native_id) if sent is not None else None
        if sent is None or before is None or before.digest != place.digest:
            raise _changed(document, "the feed says something else of it")
        with feed_file.open_feed(self._path) as file:
            data = feed_file.line_at(file, place)
        if data is None:
            raise _changed(document, "the feed was exported anew")
        line = _parsed(data)
        here = line.scope
        while here is not None:
            found = now.scopes.get(here)
            # Asked last: what was sent meanwhile may not be in force yet.
            if found != sent.scopes.get(here) or here in self._twice:
                raise _changed(document, f"the rules of its scope `{here}` changed")
            here = found.parent if found is not None else None
        if isinstance(line.content, str) and _version(line.content) != document.version:
            raise _changed(document, "it is of another version")
        return line

    def _file(self, document: Upsert, path: PurePosixPath, limit_bytes: int) -> bytes:
        if document.size_bytes > limit_bytes:
            raise too_large(document.location, limit_bytes)
        try:
            with self._folder(path) as folder:
                return read_file(folder, path.name, document.version, document.location, limit_bytes)
        except OSError as err:
            if err.errno in GONE:
                raise SkippableError("vanished", f"`{document.location}`: its file `{path}` is gone") from err
            if err.errno in CLOSED:
                raise SkippableError("unreadable", f"`{document.location}`: `{path}` may not be read") from err
            raise lost(err, document.location) from err

    def _file_version(self, path: PurePosixPath) -> tuple[str, int]:
        """Version and size of a file below the feed's folder. Raises OSError, also for what is no regular file."""
        with self._folder(path) as folder:
            status = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ELOOP, "not a regular file")
        return version_of(status), status.st_size

    @contextmanager
    def _folder(self, path: PurePosixPath) -> Iterator[int]:
        """Open the folder of a file, each name within the one before and no symlink followed: no way leads out."""
        here = os.open(self._path.parent, LOOK & ~os.O_NOFOLLOW)
        try:
            for part in path.parts[:-1]:
                inner = os.open(part, LOOK, dir_fd=here)
                os.close(here)
                here = inner
            yield here
        finally:
            os.close(here)


def _line(cursor: Cursor | None, index: FeedIndex) -> int:
    """Return the line after which a walk of this export goes on: 0 at its beginning, and for another export."""
    if cursor is None or cursor.get("export") != list(index.signature):
        return 0
    line = cursor.get("line")
    return line if isinstance(line, int) else 0


def _parsed(data: bytes) -> DocumentLine:
    """Read a line that was read before."""
    line = parse(data)
    assert isinstance(line, DocumentLine)
    return line


def _scope(index: FeedIndex, scope: str, *, complete: bool) -> ScopeChange:
    found = index.scopes[scope]
    return ScopeChange(_scope_id(scope), _around(found.parent), found.clause, found.location, complete)


def _scope_id(scope: str) -> ScopeId:
    return ScopeId(f"scope:{scope}")


def _around(parent: str | None) -> ScopeId:
    return AUDIENCE if parent is None else _scope_id(parent)


def _version(text: str) -> str:
    return f"text-{blake2b(text.encode(), digest_size=16).hexdigest()}"


def _changed(document: Upsert, why: str) -> SkippableError:
    return SkippableError("changed", f"`{document.location}`: {why}")
