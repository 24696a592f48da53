"""A share that is also written to: for proofs alone, which plant files of their own there and change who may read them.

No connector knows this: a source is only ever read, by `connectors.smb.client`.
Source: [MS-SMB2] 2.2.13, 2.2.39; [MS-DTYP] 2.4.4 to 2.4.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.file_info import FileDispositionInformation, FileInformationClass, FileRenameInformation, InfoType
from smbprotocol.open import CreateDisposition, CreateOptions, ImpersonationLevel, Open, SMB2SetInfoRequest
from smbprotocol.security_descriptor import (
    AccessAllowedAce,
    AccessDeniedAce,
    AclPacket,
    SDControl,
    SIDPacket,
    SMB2CreateSDBuffer,
)

from connectors.errors import FatalError
from connectors.smb.client import NameFailedError, Share

FULL: Final = 0x001F_01FF
READ: Final = 0x0012_00A9
"""What `Read & execute` is in the dialog of Windows."""

_DELETE: Final = 0x0001_0000
_WRITE_DAC: Final = 0x0004_0000
_READ_CONTROL: Final = 0x0002_0000
_NORMAL: Final = 0x80
_SHARE_ALL: Final = 0x7
_DACL: Final = 0x0000_0004
_INHERITED_BY_ALL: Final = 0x3
_SELF_RELATIVE: Final = 0x8000


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """Who is let in, or kept out. rights: which bits."""

    sid: str
    rights: int
    denies: bool = False


class WritingShare(Share):
    """One connection of an account that may write. Every method raises FatalError, or RetriableError without an answer.

    Paths are in the form of the protocol, with backslashes.
    """

    def make_file(self, path: str, content: bytes) -> None:
        """Make a file that was not there."""
        with self._opened(path, FULL, CreateOptions.FILE_NON_DIRECTORY_FILE, CreateDisposition.FILE_CREATE) as file:
            file.write(content)

    def make_folder(self, path: str) -> None:
        """Make a folder that was not there."""
        with self._opened(path, FULL, CreateOptions.FILE_DIRECTORY_FILE, CreateDisposition.FILE_CREATE):
            pass

    def owner(self, path: str) -> str:
        """Return the SID of whom a file belongs to."""
        found = SMB2CreateSDBuffer()
        found.unpack(self.descriptor(path))
        return str(found.get_owner())

    def descriptor(self, path: str) -> bytes:
        """Return the descriptor of a file with its owner and its entries."""
        try:
            found = self.look(path).descriptor
        except NameFailedError as err:
            raise FatalError(f"`{path}` cannot be looked at: {err.reason}") from err
        if isinstance(found, str):
            raise FatalError(f"`{path}`: {found}")
        return found

    def set_descriptor(self, path: str, descriptor: bytes) -> None:
        """Replace the entries of a file or folder by those of a descriptor; its owner stays."""
        with self._opened(path, _WRITE_DAC | _READ_CONTROL) as opened:
            self._set(opened, InfoType.SMB2_0_INFO_SECURITY, FileInformationClass.FILE_NONE, descriptor, _DACL)

    def move(self, path: str, target: str) -> None:
        """Give a file another name or folder, where nothing stands yet."""
        wanted = FileRenameInformation()
        wanted["file_name"] = target
        with self._opened(path, _DELETE) as opened:
            self._set_info(opened, FileInformationClass.FILE_RENAME_INFORMATION, wanted)

    def remove(self, path: str) -> bool:
        """Delete a file or an empty folder; False when it was gone."""
        wanted = FileDispositionInformation()
        wanted["delete_pending"] = True
        try:
            with self._opened(path, _DELETE) as opened:
                self._set_info(opened, FileInformationClass.FILE_DISPOSITION_INFORMATION, wanted)
        except _VanishedError:
            return False
        return True

    def _set_info(self, opened: Open, kind: int, wanted: Any) -> None:
        self._set(opened, InfoType.SMB2_0_INFO_FILE, kind, wanted.pack())

    def _set(self, opened: Open, info: int, kind: int, data: bytes, additional: int = 0) -> None:
        request = SMB2SetInfoRequest()
        request["info_type"] = info
        request["file_info_class"] = kind
        request["additional_information"] = additional
        request["file_id"] = opened.file_id
        request["buffer"] = data
        sent = self._connection.send(request, self._session.session_id, self._tree.tree_connect_id)
        self._received(sent)

    @contextmanager
    def _opened(
        self, path: str, access: int, options: int = 0, disposition: int = CreateDisposition.FILE_OPEN
    ) -> Iterator[Open]:
        """Open a name itself, never where a link leads; what the server says against anything becomes a sentence."""
        opened = Open(self._tree, path)
        try:
            opened.create(
                ImpersonationLevel.Impersonation,
                access,
                _NORMAL,
                _SHARE_ALL,
                disposition,
                options | CreateOptions.FILE_OPEN_REPARSE_POINT,
            )
            try:
                yield opened
            finally:
                self._close(opened)
        except UnicodeEncodeError as err:
            raise FatalError(f"`{path!r}` has a name that cannot be said") from err
        except SMBResponseException as err:
            reason = self._name_error(err).reason if err.status not in _TAKEN else "taken"
            kind = _VanishedError if reason == "vanished" else FatalError
            why = {"unreadable": f"`{self._login.username}` may not", "taken": "the name is taken"}.get(reason, reason)
            raise kind(f"`{path}` cannot be written: {why}") from err
        except (SMBException, ValueError, OSError) as err:
            raise self._lost(err) from err


# SOURCE: [MS-ERREF] 2.3.1: object name collision.
_TAKEN: Final = frozenset({0xC000_0035})


class _VanishedError(FatalError):
    """There is no such name."""


def descriptor_of(entries: Sequence[AccessEntry], *, inherited_by_all: bool = False, protected: bool = True) -> bytes:
    """A descriptor with these entries, in this order, and no owner.

    inherited_by_all: what is made inside gets them, too. protected: nothing is inherited from around it.
    """
    found = AclPacket()
    found["aces"] = [_ace(one, _INHERITED_BY_ALL if inherited_by_all else 0) for one in entries]
    made = SMB2CreateSDBuffer()
    made.set_dacl(found)
    made["control"].set_flag(_SELF_RELATIVE)
    if protected:
        made["control"].set_flag(SDControl.DACL_PROTECTED)
    packed: bytes = made.pack()
    return packed


def _ace(entry: AccessEntry, flags: int) -> Any:
    who = SIDPacket()
    who.from_string(entry.sid)
    made = AccessDeniedAce() if entry.denies else AccessAllowedAce()
    made["mask"] = entry.rights
    made["ace_flags"] = flags
    made["sid"] = who
    return made
