"""The ground of an `smb` source: files on the share, written by a login that is given for it.

Who reads a canary stands in its own descriptor: whoever planted it, the account that the source is read by, and the
person who is examined; or, for a canary like a neighbour, in a copy of the neighbour's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

from acl.principal import Principal, Realm
from connectors.directories.base import DirectoryError, Watched
from connectors.errors import ConnectorError, FatalError
from connectors.registry import OptionError, smb_login
from connectors.secret import SecretError
from connectors.smb.rules import AD
from connectors.smb.writing import FULL, READ, AccessEntry, WritingShare, descriptor_of
from service.errors import StartError
from service.identity import directories
from service.prove.grounds.base import PREFIX, Canary, Skipped, Way, Who, beside, text_of, word
from service.prove.hands import Login
from service.prove.share import username
from service.settings import Settings, SourceSettings

_KINDS: Final = {
    "grant": "the entry that lets the person in is gone",
    "deny": "an entry that denies comes first",
    "inherit": "inheritance is broken, and the folder's entries are gone",
    "move": "the file goes into a closed folder, and takes over its entries",
}


def connect(settings: Settings, source: SourceSettings, by: Login) -> WritingShare:
    """A connection that may write. Raises StartError."""
    try:
        login, _ = smb_login(source.options, settings.base)
        name = username(by.name, login.username)
        return WritingShare(replace(login, username=name, password=by.password.read()))
    except OptionError as err:
        raise StartError(f"{source.place(err.option)}: {err}") from err
    except SecretError as err:
        raise StartError(f"`--share-login`: {err}") from err
    except ConnectorError as err:
        raise StartError(f"the share cannot be written as `{by.name}`: {err.detail}") from err


def reader_of(settings: Settings, source: SourceSettings) -> str | None:
    """The SID of the account that the source is read by, when a directory knows it."""
    name = str(source.options["username"]).partition("@")[0].rpartition("\\")[2]
    for one in settings.directories:
        if one.kind == "active_directory":
            try:
                found = directories.build(one, settings.base)
                assert isinstance(found, Watched)
                with closing(found):
                    sid = found.find(name)
            except (DirectoryError, StartError):
                continue
            if sid is not None:
                return sid
    return None


class ShareGround:
    """A share with what was planted on it. See `service.prove.grounds.base.Ground`."""

    def __init__(self, name: str, share: Callable[[], WritingShare], reader: Callable[[], str | None]) -> None:
        """Nothing is connected to yet. reader: the account that must go on reading."""
        self._name: Final = name
        self._connect: Final = share
        self._reader: Final = reader
        self._share: WritingShare | None = None
        self._reader_sid: str | None = None
        self._planted: list[str] = []

    @property
    def writes(self) -> str:
        """See `Ground`."""
        return f"files and folders called `{PREFIX}…` beside documents of the share of `{self._name}`"

    def names(self, realm: Realm) -> bool:
        """See `Ground`."""
        return realm == AD

    def plant(self, like: str) -> Canary:
        """See `Ground`."""
        made, path = self._file(like.rpartition("/")[0])
        self._do(lambda share: share.set_descriptor(path, share.descriptor(_native(like))))
        return made

    def plant_for(self, like: str, group: Collection[Principal]) -> Canary:
        """See `Ground`."""
        return self._plant(like.rpartition("/")[0], sorted(one.id for one in group if one.realm == AD))

    def ways(self, like: str, who: Who) -> Sequence[Way | Skipped]:
        """See `Ground`."""
        folder = like.rpartition("/")[0]
        delete = Way("delete", "the file is gone", lambda: self.plant(like), self._delete)
        me = next((one.id for one in who.own if one.realm == AD), None)
        self._reader_sid = self._reader()
        if me is None or self._reader_sid is None:
            why = (
                f"{who.name} has no account in a Windows domain"
                if me is None
                else f"no directory knows the account that `{self._name}` is read by, which must go on reading"
            )
            return [*(Skipped(kind, what, why) for kind, what in _KINDS.items()), delete]

        def for_me() -> Canary:
            return self._plant(folder, [me])

        def inherited() -> Canary:
            around = self._folder(folder, [me])
            return self._file(around)[0]

        closed: list[str] = []

        def beside_closed() -> Canary:
            if not closed:
                closed.append(self._folder(folder, []))
            return for_me()

        return [
            Way("grant", _KINDS["grant"], for_me, lambda c: self._allow(_native(c.location), [])),
            Way("deny", _KINDS["deny"], for_me, lambda c: self._allow(_native(c.location), [me], denied=me)),
            Way("inherit", _KINDS["inherit"], inherited, lambda c: self._allow(_native(c.location), [])),
            Way("move", _KINDS["move"], beside_closed, lambda c: self._move(c, closed[0])),
            delete,
        ]

    def clear(self) -> list[str]:
        """See `Clearable`."""
        left: list[str] = []
        # By a fresh connection: the other one may have been left in the middle of a question.
        self._close()
        for path in reversed(self._planted):
            try:
                self._do(lambda share, path=path: self._gone(share, path))  # type: ignore[misc]  # bound at once
            except StartError as err:
                left.append(f"`{path}` on the share of `{self._name}`: {err}; it holds nothing, and may be deleted")
        if not left:
            self._planted.clear()
        self._close()
        return left

    def _close(self) -> None:
        if self._share is not None:
            self._share.close()
            self._share = None

    def _plant(self, folder: str, sids: Sequence[str]) -> Canary:
        """A canary that these may read, and nobody else but whoever plants it and the source's own account."""
        made, path = self._file(folder)
        self._allow(path, sids)
        return made

    def _file(self, folder: str) -> tuple[Canary, str]:
        canary = word()
        location = beside(f"{folder}/" if folder else "", f"{PREFIX}{canary}.txt")
        path = _native(location)
        self._planted.append(path)
        self._do(lambda share: share.make_file(path, f"{text_of(canary)}\n".encode()))
        return Canary(location, canary, text_of(canary)), path

    def _folder(self, folder: str, sids: Sequence[str]) -> str:
        """A folder that inherits nothing, whose entries what is made inside inherits."""
        location = beside(f"{folder}/" if folder else "", f"{PREFIX}{word()}")
        path = _native(location)
        self._planted.append(path)

        def make(share: WritingShare) -> None:
            share.make_folder(path)
            share.set_descriptor(path, descriptor_of(self._entries(share, path, sids), inherited_by_all=True))

        self._do(make)
        return location

    def _allow(self, path: str, sids: Sequence[str], *, denied: str = "") -> None:
        def set_entries(share: WritingShare) -> None:
            kept_out = [AccessEntry(denied, READ, denies=True)] if denied else []
            share.set_descriptor(path, descriptor_of([*kept_out, *self._entries(share, path, sids)]))

        self._do(set_entries)

    def _entries(self, share: WritingShare, path: str, sids: Sequence[str]) -> list[AccessEntry]:
        if self._reader_sid is None:
            self._reader_sid = self._reader()
        reader = [self._reader_sid] if self._reader_sid is not None else []
        return [AccessEntry(share.owner(path), FULL), *(AccessEntry(one, READ) for one in [*reader, *sids])]

    def _move(self, canary: Canary, folder: str) -> None:
        target = f"{_native(folder)}\\{_native(canary.location).rpartition(chr(92))[2]}"

        def move(share: WritingShare) -> None:
            share.move(_native(canary.location), target)
            self._planted.append(target)
            entries = self._entries(share, target, [])
            share.set_descriptor(target, descriptor_of(entries, protected=False))

        self._do(move)

    def _delete(self, canary: Canary) -> None:
        self._do(lambda share: self._gone(share, _native(canary.location)))

    def _gone(self, share: WritingShare, path: str) -> None:
        try:
            share.remove(path)
        except FatalError:
            # Its entries may let nobody delete it; whoever made it may change them.
            share.set_descriptor(path, descriptor_of([AccessEntry(share.owner(path), FULL)]))
            share.remove(path)

    def _do(self, work: Callable[[WritingShare], None]) -> None:
        if self._share is None:
            self._share = self._connect()
        try:
            work(self._share)
        except ConnectorError as err:
            raise StartError(err.detail) from err


def _native(location: str) -> str:
    return location.replace("/", "\\")
