"""An SMB share as a source: files with the descriptors by which their server decides.

docs/connectors/smb.md says what is guaranteed and what is not. What keeps a race from widening access:
1. What a file is and its descriptor come from one open of it.
2. The share's own rules are read before the first file and after the last, and sent again when they differ.
3. Content is returned only between two looks that are both what was sent, the share's own rules looked at last.
4. What cannot be listed is not seen, and then nothing that was not seen counts as deleted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final

from acl.model import Clause, ScopeId, Unknown
from connectors.base import (
    Change,
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
from connectors.errors import ConnectorError, FatalError, RetriableError, SkippableError
from connectors.media_types import UNKNOWN, media_type
from connectors.notices import Watch
from connectors.posix.names import display
from connectors.smb.client import DIRECTORY, REPARSE_POINT, NameFailedError, Share
from connectors.smb.local_groups import LocalGroups
from connectors.smb.messages import Entry, Look
from connectors.smb.rules import SHARE, Rules, Translator

_SINCE_1601: Final = datetime(1601, 1, 1, tzinfo=UTC)
_TICK_S: Final = 0.02
"""Longer than a server's clock needs to move on between two changes of a file."""
_CLOCKS_DIFFER_S: Final = 300.0
_ROOT: Final = "."
_WHY: Final = {
    "unreadable": "the account may not look at the file",
    "unreadable folder": "the account may not list the folder",
    "vanished": "it was moved or removed while it was walked",
    "elsewhere": "it leads to another server, or by a link: such ways are not followed",
    "reparse point": "links, mount points and files that are stored elsewhere are not followed",
    "hard link": "another name of a file that is listed already",
    "no identity": "the server gives the file no number",
}


@dataclass(frozen=True, slots=True)
class _Sent:
    """Where a document was met and what was sent of its rules."""

    path: str
    rules: Rules


class Smb:
    """Reads one share. Ids hold file number and birth, never a path.

    `read` answers for what the last `changes` of the same object sent; one thread may walk while another reads.
    """

    def __init__(
        self,
        connect: Callable[[], Share],
        translator: Translator,
        share_rules: tuple[Clause, ...] | None,
        local_groups: LocalGroups | None = None,
    ) -> None:
        """Connect to nothing yet. share_rules: what the administrator declares of the share, None: ask the server.

        local_groups: where it is known from who is in the groups of the server itself, None: nobody knows.
        """
        self._connect: Final = connect
        self._translator = translator
        self._declared: Final = share_rules
        self._local_groups: Final = local_groups
        self._lock: Final = threading.Lock()
        self._reader: Share | None = None
        self._sent: dict[str, _Sent] = {}
        self._share_sent: tuple[Clause, ...] = ()
        self._share_changed = False

    @property
    def domain_sid(self) -> str:
        """The domain whose SIDs the server's rules name: see `connectors.base.DomainMember`."""
        return self._translator.domain_sid

    def check(self) -> list[Finding]:
        """Say whether the share answers, its own rules and the server's groups are known, and its root is listed."""
        try:
            share = self._connect()
        except ConnectorError as err:
            return [Finding(Level.ERROR, err.detail)]
        try:
            self._share_rules(share)
            own = sum(isinstance(change, Membership) for change in self._memberships(share))
            entries = share.entries("")
        except ConnectorError as err:
            return [Finding(Level.ERROR, err.detail)]
        except NameFailedError as err:
            return [Finding(Level.ERROR, f"the root of the share cannot be listed: {err.reason}")]
        finally:
            share.close()
        groups = f"; {own} groups of the server itself" if self._local_groups is not None else ""
        return [Finding(Level.INFO, f"the share answers; {len(entries)} names in its root{groups}")]

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        """Send the server's groups, the share, then every file. The cursor says that there was a complete run."""
        share = self._connect()
        try:
            try:
                yield from self._memberships(share)
            except FatalError as err:
                yield MembershipsEnd(err.detail)
                raise
            try:
                self._share_sent = self._share_rules(share)
            except FatalError as err:
                if cursor is not None:
                    # What was open under rules that nobody knows any more is nobody's.
                    yield ScopeChange(SHARE, None, Unknown(err.detail), _ROOT, complete=False)
                raise
            self._sent, self._share_changed = {}, False
            yield from self._share_changes(complete=True)
            complete = yield from self._walk(share)
            now = self._share_rules(share)
            if now != self._share_sent:
                self._share_changed = True
                self._share_sent = now
            if self._share_changed or not complete:
                yield from self._share_changes(complete=complete)
        finally:
            share.close()
        yield ScanComplete({"version": 1})

    def watch(self) -> Watch:
        """Have the server say when something changes in the share. See `connectors.notices.Watchable`.

        It says nothing of the share's own permissions and of groups: the schedule meets those.
        """
        share = self._connect()
        try:
            return share.notices()
        except BaseException:
            share.close()
            raise

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        """Return the content of `document.version`, if file and share are what was sent, before and after reading."""
        if document.size_bytes > limit_bytes:
            raise SkippableError("too large", f"`{document.location}` is larger than {limit_bytes} bytes")
        with self._lock:
            if self._reader is None:
                self._reader = self._connect()
            share = self._reader
            try:
                path, look = self._compare(share, document)
                _settle(look)
                content = share.read(path, document.size_bytes + 1)
                self._compare(share, document)
                share_rules = self._share_rules(share)
            except NameFailedError as err:
                reason = "vanished" if err.reason == "vanished" else "unreadable"
                raise SkippableError(reason, f"`{document.location}`: {err.reason}") from err
        if len(content) != document.size_bytes:
            raise _changed(document, "it was written to while it was read")
        # Asked last: what was sent meanwhile may not be in force yet.
        if share_rules != self._share_sent or self._share_changed:
            raise _changed(document, "the rules of the share changed")
        return content

    def close(self) -> None:
        """Log off."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    # The server's own groups.

    def _memberships(self, share: Share) -> Iterator[Change]:
        """Send them, and know their SIDs from then on. Raises FatalError when the account may not read them."""
        if self._local_groups is not None:
            own, groups = self._local_groups.known(share, self.domain_sid)
            self._translator = self._translator.knowing(own)
            yield from groups
        yield MembershipsEnd()

    # The share's own rules.

    def _share_rules(self, share: Share) -> tuple[Clause, ...]:
        """Return the share's clauses. Raises FatalError when they are not known: nobody may read anything then."""
        if self._declared is not None:
            return self._declared
        descriptor = share.own_descriptor()
        if descriptor is None:
            raise FatalError(
                "`share_access`: the account may not read the share's own permissions: give it the right to, "
                "or declare who may connect to the share"
            )
        found = self._translator.share(descriptor)
        if isinstance(found, Unknown):
            raise FatalError(f"`share_access`: the share's own permissions are not understood: {found.reason}")
        return found

    def _share_changes(self, *, complete: bool) -> Iterator[Change]:
        """The share as a scope, within one scope for each further clause of it."""
        *outer, own = self._share_sent
        parent: ScopeId | None = None
        for number, clause in enumerate(outer):
            scope = ScopeId(f"share:{number}")
            yield ScopeChange(scope, parent, clause, _ROOT, complete)
            parent = scope
        yield ScopeChange(SHARE, parent, own, _ROOT, complete)

    # The walk.

    def _walk(self, share: Share) -> Generator[Change, None, bool]:
        """Send every file. Returns whether everything could be seen."""
        complete = True
        around: dict[ScopeId, ScopeChange] = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                entries = share.entries(folder)
            except NameFailedError as err:
                if not folder:
                    raise RetriableError(f"the root of the share cannot be listed: {err.reason}") from err
                # What lies on another server is not in this share; anything else may hold what was not seen.
                complete = complete and err.reason == "elsewhere"
                yield _left_out(None, folder, "unreadable folder" if err.reason == "unreadable" else err.reason)
                continue
            files: list[tuple[str, Entry]] = []
            for entry in entries:
                path = f"{folder}\\{entry.name}" if folder else entry.name
                if entry.attributes & DIRECTORY == 0:
                    files.append((path, entry))
                elif entry.attributes & REPARSE_POINT:
                    yield _left_out(None, path, "reparse point")
                else:
                    waiting.append(path)
            looks = share.looks([path for path, _ in files])
            for (path, entry), look in zip(files, looks, strict=True):
                yield from self._file(path, entry, look, around)
        if not complete:
            # What was not seen may lie in any of them.
            yield from (replace(scope, complete=False) for scope in around.values())
        return complete

    def _file(
        self, path: str, entry: Entry, look: Look | NameFailedError, around: dict[ScopeId, ScopeChange]
    ) -> Iterator[Change]:
        if isinstance(look, NameFailedError):
            if look.reason != "vanished":
                yield _left_out(_id(entry.file_id, entry.created), path, look.reason)
            return
        native_id = _id(look.file_id, look.created)
        if look.attributes & DIRECTORY:
            return
        if not look.file_id:
            yield _left_out(None, path, "no identity")
        elif native_id in self._sent:
            yield _left_out(None, path, "hard link")
        elif look.attributes & REPARSE_POINT:
            yield _left_out(native_id, path, "reparse point")
        else:
            rules = self._translator.file(look.descriptor)
            parent = SHARE
            for scope, clause in rules.around:
                if scope not in around:
                    around[scope] = ScopeChange(scope, parent, clause, "security descriptor")
                    yield around[scope]
                parent = scope
            self._sent[native_id] = _Sent(path, rules)
            yield _upsert(native_id, path, look, parent, rules)

    def _compare(self, share: Share, document: Upsert) -> tuple[str, Look]:
        """Return where the document is and what it is. Raises SkippableError when that is not what was sent."""
        sent = self._sent.get(document.native_id)
        if sent is None:
            raise _changed(document, "it was not met by the last walk")
        look = share.look(sent.path)
        if _id(look.file_id, look.created) != document.native_id or look.attributes & (DIRECTORY | REPARSE_POINT):
            raise _changed(document, "another file is in its place")
        if _version(look) != document.version:
            raise _changed(document, "it was written to, or got other rules")
        if self._translator.file(look.descriptor) != sent.rules:
            raise _changed(document, "its rules changed")
        return sent.path, look


def _settle(look: Look) -> None:
    """Wait until a later write must get a later time stamp, so that it cannot pass for what is read now."""
    age_s = (datetime.now(UTC) - _moment(look.changed)).total_seconds()
    # The server's clock is not ours.
    if abs(age_s) < _CLOCKS_DIFFER_S:
        time.sleep(_TICK_S)


def _upsert(native_id: str, path: str, look: Look, scope: ScopeId, rules: Rules) -> Upsert:
    location = _location(path)
    name = display(path.rpartition("\\")[2])
    return Upsert(
        native_id=native_id,
        scope=scope,
        own=rules.own,
        version=_version(look),
        name=name,
        location=location,
        media_type=media_type(name) or UNKNOWN,
        size_bytes=look.size,
        modified_at=_moment(look.written),
    )


def _left_out(native_id: str | None, path: str, reason: str) -> Skip:
    return Skip(native_id, _location(path), reason, _WHY[reason])


def _id(file_id: int, created: int) -> str:
    # The birth too: a server may give a file the number of one that is gone.
    return f"{file_id:x}-{created:x}"


def _version(look: Look) -> str:
    return blake2b(f"{look.size} {look.written} {look.changed}".encode(), digest_size=16).hexdigest()


def _moment(since_1601: int) -> datetime:
    try:
        return _SINCE_1601 + timedelta(microseconds=since_1601 // 10)
    except OverflowError:
        return _SINCE_1601


def _location(path: str) -> str:
    return "/".join(display(part) for part in path.split("\\"))


def _changed(document: Upsert, why: str) -> SkippableError:
    return SkippableError("changed", f"`{document.location}`: {why}")
