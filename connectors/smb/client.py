"""A share through smbprotocol, only to read: listings, names with their descriptors, contents, the share's own rules.

No symlink and no reparse point is followed, no privilege for backups is asked for, and nothing is opened by a way
through the name space of another server. What a walk asks and hears, as bytes, is left to `connectors.smb.messages`.
Source: [MS-FSCC] 2.6 (attributes).
"""

from __future__ import annotations

import struct
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Literal, TypeVar

from smbprotocol.change_notify import ChangeNotifyFlags, CompletionFilter, FileSystemWatcher
from smbprotocol.connection import Connection
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.open import CreateDisposition, CreateOptions, ImpersonationLevel, Open
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from acl.dialects.ntfs import READ_ATTRIBUTES, READ_DATA, SYNCHRONIZE
from connectors.errors import FatalError, RetriableError
from connectors.notices import Noticed
from connectors.smb import messages, rpc, samr, srvsvc
from connectors.smb.messages import Entry, Look

_T = TypeVar("_T")

DIRECTORY: Final = 0x10
REPARSE_POINT: Final = 0x400

_TIMEOUT_S: Final = 30
_AT_ONCE: Final = 16
"""How many names are asked about before the first answer is awaited."""

_REQUESTS: Final = 3
"""How many requests one name takes: open, ask, close."""

_SHARE_ALL: Final = 0x7
_CHANGES: Final = (
    CompletionFilter.FILE_NOTIFY_CHANGE_FILE_NAME
    | CompletionFilter.FILE_NOTIFY_CHANGE_DIR_NAME
    | CompletionFilter.FILE_NOTIFY_CHANGE_ATTRIBUTES
    | CompletionFilter.FILE_NOTIFY_CHANGE_SIZE
    | CompletionFilter.FILE_NOTIFY_CHANGE_LAST_WRITE
    | CompletionFilter.FILE_NOTIFY_CHANGE_CREATION
    | CompletionFilter.FILE_NOTIFY_CHANGE_SECURITY
)
_WRITE_DATA: Final = 0x2
_NORMAL: Final = 0x80
_FOLDER_CLASS: Final = 37
_LIST_BYTES: Final = 1 << 16
_READ_BYTES: Final = 1 << 16

# SOURCE: [MS-ERREF] 2.3.1.
_NO_MORE_FILES: Final = 0x8000_0006
_NO_SUCH_FILE: Final = 0xC000_000F
_END_OF_FILE: Final = 0xC000_0011
_ACCESS_DENIED: Final = 0xC000_0022
_DENIED: Final = frozenset({_ACCESS_DENIED, 0xC000_0043})
_GONE: Final = frozenset({_NO_SUCH_FILE, 0xC000_0034, 0xC000_003A, 0xC000_0056, 0xC000_00BA, 0xC000_0103})
_ELSEWHERE: Final = frozenset({0xC000_0257, 0x8000_002D})
_LOGIN_REFUSED: Final = frozenset({0xC000_006D, 0xC000_006E, 0xC000_0064, 0xC000_006A, 0xC000_0071, 0xC000_0072})
_NO_SHARE: Final = 0xC000_00CC
_RPC_DENIED: Final = frozenset({5, 0x1C00_0011, 0xC000_0022})
_MOST_REPLY: Final = 2 * samr.MAX_REPLY
_MOST_ENTRIES: Final = 2_000_000
"""A folder with more names is not one, but a server whose listing does not end."""

Auth = Literal["negotiate", "kerberos", "ntlm"]


@dataclass(frozen=True, slots=True)
class Login:
    """Where the share is and who asks. require_encryption: refuse a server that does not encrypt; signing always is."""

    server: str
    share: str
    username: str
    password: str = field(repr=False)
    auth: Auth
    require_encryption: bool


class NameFailedError(Exception):
    """A name cannot be used. reason: `unreadable`, `vanished` or `elsewhere`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotAdmittedError(FatalError):
    """The server knows the account, and the share does not let it in."""


class Share:
    """One connection to a share. Not thread-safe. Raises FatalError and RetriableError for the whole of it."""

    def __init__(self, login: Login) -> None:
        """Connect. Raises FatalError or RetriableError, each with the option it is about."""
        self._login: Final = login
        self._connection = Connection(uuid.uuid4(), login.server, 445, require_signing=True)
        self._pipes: dict[str, Open] = {}
        try:
            self._connection.connect(timeout=_TIMEOUT_S)
            self._session = Session(
                self._connection,
                username=login.username,
                password=login.password,
                require_encryption=login.require_encryption,
                auth_protocol=login.auth,
            )
            self._session.connect()
            self._tree = self._admitted()
        except FatalError:
            self.close()
            raise
        except (SMBException, ValueError, OSError) as err:
            self.close()
            raise self._refused(err) from err
        if self._tree.is_dfs_share:
            self.close()
            raise FatalError(
                f"`share`: `{login.share}` is a DFS name space, which leads elsewhere: name the server and the share "
                "that hold the files"
            )

    def _admitted(self) -> TreeConnect:
        tree = TreeConnect(self._session, f"\\\\{self._login.server}\\{self._login.share}")
        try:
            tree.connect()
        except SMBResponseException as err:
            if err.status != _ACCESS_DENIED:
                raise
            raise NotAdmittedError(
                f"`username`: `{self._login.username}` may not connect to `{self._login.share}`"
            ) from err
        return tree

    def close(self) -> None:
        """Log off. May be called twice."""
        try:
            self._connection.disconnect(True, timeout=_TIMEOUT_S)
        except (SMBException, ValueError, OSError):
            self._connection.transport.close()

    def entries(self, path: str) -> list[Entry]:
        """Return what is in a folder but `.` and `..`. Raises NameFailedError."""
        found: list[Entry] = []
        folder = Open(self._tree, path)
        try:
            self._create(folder, READ_DATA | READ_ATTRIBUTES | SYNCHRONIZE, CreateOptions.FILE_DIRECTORY_FILE)
            try:
                while data := self._listing(folder):
                    found += messages.entries(data)
                    if len(found) > _MOST_ENTRIES:
                        raise SMBException("a listing does not end")
            finally:
                self._close(folder)
        except UnicodeEncodeError as err:
            # The library cannot say a name with half a surrogate pair in it.
            raise NameFailedError("unreadable") from err
        except SMBResponseException as err:
            raise self._name_error(err) from err
        except (SMBException, OSError) as err:
            raise self._lost(err) from err
        return found

    def looks(self, paths: Sequence[str]) -> Iterator[Look | NameFailedError]:
        """Yield what each name is, in order; several are asked about at once."""
        waiting: deque[list[Any]] = deque()
        names = iter(paths)
        try:
            while True:
                for path in islice(names, self._room(len(waiting))):
                    waiting.append(self._ask(path))
                if not waiting:
                    return
                yield self._answer(waiting.popleft())
        except (SMBException, OSError) as err:
            raise self._lost(err) from err

    def _room(self, waiting: int) -> int:
        """How many more names may be asked about before an answer: a server grants credits, one for each request."""
        window = self._connection.sequence_window
        granted: int = (window["high"] - window["low"]) // _REQUESTS
        return max(0 if waiting else 1, min(_AT_ONCE - waiting, granted))

    def look(self, path: str) -> Look:
        """Return what one name is. Raises NameFailedError."""
        (found,) = self.looks([path])
        if isinstance(found, NameFailedError):
            raise found
        return found

    def opens(self, path: str, access: int) -> bool:
        """Say whether this account is let open a file with these rights, and read nothing of it.

        Raises NameFailedError for every answer that is neither yes nor no.
        """
        file = Open(self._tree, path)
        try:
            self._create(file, access, CreateOptions.FILE_NON_DIRECTORY_FILE)
        except UnicodeEncodeError as err:
            raise NameFailedError("unreadable") from err
        except SMBResponseException as err:
            if err.status == _ACCESS_DENIED:
                return False
            raise self._name_error(err) from err
        except (SMBException, OSError) as err:
            raise self._lost(err) from err
        self._close(file)
        return True

    def read(self, path: str, at_most: int) -> bytes:
        """Return the first `at_most` bytes of a file. Raises NameFailedError."""
        file = Open(self._tree, path)
        blocks: list[bytes] = []
        size = 0
        try:
            self._create(file, READ_DATA | SYNCHRONIZE, CreateOptions.FILE_NON_DIRECTORY_FILE)
            try:
                step = min(_READ_BYTES, self._connection.max_read_size)
                while size < at_most:
                    block = file.read(size, min(step, at_most - size))
                    blocks.append(block)
                    size += len(block)
            except SMBResponseException as err:
                if err.status != _END_OF_FILE:
                    raise
            finally:
                self._close(file)
        except UnicodeEncodeError as err:
            raise NameFailedError("unreadable") from err
        except SMBResponseException as err:
            raise self._name_error(err) from err
        except (SMBException, OSError) as err:
            raise self._lost(err) from err
        return b"".join(blocks)

    def own_descriptor(self) -> bytes | None:
        """Return the share's own descriptor, None when this account may not ask for it or the server holds none."""
        request = srvsvc.share_info_request(self._login.server, self._login.share)
        return self._asked(lambda: srvsvc.share_descriptor(self._call(srvsvc.SERVER_SERVICE, request)))

    def accounts(self, domain_sid: str) -> samr.Accounts | None:
        """Return the groups of the server itself, None when this account may not ask for them."""

        def call(operation: int, parameters: bytes) -> bytes:
            fragments = self._call(samr.ACCOUNTS, rpc.request(operation, parameters))
            return rpc.parameters(samr.ACCOUNTS, fragments, samr.MAX_REPLY)

        return self._asked(lambda: samr.read_groups(call, self._login.server, domain_sid))

    def _asked(self, ask: Callable[[], _T]) -> _T | None:
        """Return what a service of the server says, None when this account may not ask it."""
        try:
            return ask()
        except rpc.RpcError as err:
            if err.status in _RPC_DENIED:
                return None
            raise RetriableError(f"`{self._login.server}`: {err} ({err.status:#x})") from err
        except SMBResponseException as err:
            if err.status in _DENIED:
                return None
            raise self._lost(err) from err
        except (SMBException, OSError) as err:
            raise self._lost(err) from err

    def notices(self) -> ShareNotices:
        """Begin to wait for changes anywhere in the share; this object is of no other use from then on."""
        root = Open(self._tree, "")
        try:
            self._create(root, READ_DATA | SYNCHRONIZE, CreateOptions.FILE_DIRECTORY_FILE)
        except (SMBException, OSError) as err:
            raise self._lost(err) from err
        return ShareNotices(self, root, self._lost)

    def _call(self, interface: rpc.Interface, request: bytes) -> list[bytes]:
        """Return all fragments of the answer to a request."""
        pipe = self._bound(interface)
        pipe.write(request)
        fragments = [pipe.read(0, _READ_BYTES)]
        size = len(fragments[0])
        while not rpc.is_last(interface, fragments[-1]):
            fragments.append(pipe.read(0, _READ_BYTES))
            size += len(fragments[-1])
            if size > _MOST_REPLY:
                raise rpc.RpcError(f"the answer of the {interface.name} does not end")
        return fragments

    def _bound(self, interface: rpc.Interface) -> Open:
        """Return the pipe to a service, bound; it stays open."""
        found = self._pipes.get(interface.pipe)
        if found is None:
            tree = TreeConnect(self._session, f"\\\\{self._login.server}\\IPC$")
            tree.connect()
            found = Open(tree, interface.pipe)
            found.create(
                ImpersonationLevel.Impersonation,
                READ_DATA | 0x2 | SYNCHRONIZE,
                0,
                _SHARE_ALL,
                CreateDisposition.FILE_OPEN,
                0,
            )
            found.write(rpc.bind(interface))
            rpc.require_bound(interface, found.read(0, _READ_BYTES))
            self._pipes[interface.pipe] = found
        return found

    def _create(self, opened: Open, access: int, options: int) -> None:
        opened.create(
            ImpersonationLevel.Impersonation,
            access,
            _NORMAL,
            _SHARE_ALL,
            CreateDisposition.FILE_OPEN,
            options | CreateOptions.FILE_OPEN_REPARSE_POINT,
        )

    def _close(self, opened: Open) -> None:
        # A handle that cannot be closed goes with the connection.
        with suppress(SMBException):
            opened.close()

    def _listing(self, folder: Open) -> bytes:
        """The next part of a listing, empty at its end."""
        query, _ = folder.query_directory("*", _FOLDER_CLASS, max_output=_LIST_BYTES, send=False)
        request = self._connection.send(query, self._session.session_id, self._tree.tree_connect_id)
        try:
            return messages.output(self._received(request))
        except SMBResponseException as err:
            if err.status in (_NO_MORE_FILES, _NO_SUCH_FILE):
                return b""
            raise

    def _ask(self, path: str) -> list[Any]:
        """Send one message that opens, asks for the descriptor, and closes."""
        requests: list[Any] = self._connection.send_compound(
            [messages.create(path), messages.QUERY, messages.CLOSE],
            self._session.session_id,
            self._tree.tree_connect_id,
            related=True,
        )
        return requests

    def _answer(self, requests: list[Any]) -> Look | NameFailedError:
        answers: list[bytes | SMBResponseException] = []
        for request in requests:
            # Each one is received, whatever the others say: what is not stays in the library's tables.
            try:
                answers.append(self._received(request))
            except SMBResponseException as err:
                answers.append(err)
        created, queried = answers[0], answers[1]
        if isinstance(created, SMBResponseException):
            return self._name_error(created)
        if isinstance(queried, SMBResponseException):
            descriptor: bytes | str = f"its security descriptor cannot be read: {queried.status:#x}"
        else:
            descriptor = messages.output(queried)
        return messages.look(created, descriptor)

    def _received(self, request: Any) -> bytes:
        response = self._connection.receive(request, timeout=_TIMEOUT_S, resolve_symlinks=False)
        data: bytes = response["data"].get_value()
        return data

    def _name_error(self, err: SMBResponseException) -> NameFailedError:
        """What a status says of a name; raises RetriableError when it says something of the server instead."""
        if err.status in _DENIED:
            return NameFailedError("unreadable")
        if err.status in _GONE:
            return NameFailedError("vanished")
        if err.status in _ELSEWHERE:
            return NameFailedError("elsewhere")
        raise self._lost(err)

    def _lost(self, err: Exception) -> RetriableError:
        what = f"{err.status:#x}" if isinstance(err, SMBResponseException) else type(err).__name__
        return RetriableError(f"`{self._login.server}`: the share does not answer ({what}): nothing counts as deleted")

    def _refused(self, err: Exception) -> FatalError | RetriableError:
        login = self._login
        status = err.status if isinstance(err, SMBResponseException) else 0
        if status in _LOGIN_REFUSED or isinstance(err, SMBAuthenticationError):
            return FatalError(f"`username`: `{login.server}` refuses the login as `{login.username}`")
        if status == _NO_SHARE:
            return FatalError(f"`share`: `{login.server}` has no share `{login.share}`: nothing counts as deleted")
        if status in _DENIED:
            return FatalError(f"`username`: `{login.username}` may not connect to `{login.share}`")
        if "encryption" in str(err) or "sign" in str(err):
            return FatalError(f"`encryption`: `{login.server}` does not encrypt or sign as it must")
        return self._lost(err)


class ShareNotices:
    """CHANGE_NOTIFY over a whole share. See `connectors.notices.Watch`.

    The server is asked for no details: it only says that something changed, or so much that it lost count, which is
    the same. Between two questions it keeps for the open folder what happened. SOURCE: [MS-SMB2] 2.2.35, 3.3.5.19.
    """

    def __init__(self, share: Share, root: Open, lost: Callable[[Exception], RetriableError]) -> None:
        self._share = share
        self._root = root
        self._lost = lost
        self._asked = self._ask()
        # INVARIANT: the server has begun to listen: it answers in order, and what changed before would not be kept.
        with suppress(NameFailedError):
            share.look("")

    def wait(self, timeout_s: float) -> Noticed | None:
        """See `connectors.notices.Watch`."""
        if not self._asked.response_event.wait(timeout_s):
            return None
        try:
            # Nothing at all: the connection is gone.
            if self._asked.result is None:
                raise SMBException("the watch was ended")
        except SMBException as err:
            raise self._lost(err) from err
        except (ValueError, struct.error):
            pass  # details that nobody asked for, and that cannot be read: something changed
        self._asked = self._ask()
        return Noticed()

    def close(self) -> None:
        """See `connectors.notices.Watch`."""
        self._share.close()

    def _ask(self) -> FileSystemWatcher:
        asked = FileSystemWatcher(self._root)
        try:
            asked.start(_CHANGES, ChangeNotifyFlags.SMB2_WATCH_TREE, output_buffer_length=0)
        except (SMBException, OSError) as err:
            raise self._lost(err) from err
        return asked
