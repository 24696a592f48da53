"""A share with NT ACLs on the Samba domain controller of the tests, the owner's hand on it, and its users as judges."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from smbprotocol.connection import Connection
from smbprotocol.exceptions import SMBResponseException
from smbprotocol.file_info import FileDispositionInformation, FileRenameInformation, InfoType
from smbprotocol.open import CreateDisposition, ImpersonationLevel, Open, SMB2SetInfoRequest
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from connectors.directories.sids import sid_text
from tests.support.machine_lock import machine_lock
from tests.support.needs import need
from tests.support.samba import PASSWORD, SambaDomain
from tests.support.servers import accepts

ADDRESS: Final = "127.0.0.42"
"""Its own, so that it runs beside the domain controller of the tests of directories."""

SHARE: Final = "docs"
FULL: Final = 0x1F01FF
DENIED: Final = 0xC0000022
_ALL: Final = 0x7


class FileServer(SambaDomain):
    """The domain controller with the share `docs`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ADDRESS)
        self.root = folder / SHARE
        self.root.mkdir()
        self.root.chmod(0o777)
        self.config = folder / "etc/smb.conf"
        with self.config.open("a") as config:
            config.write(
                f"\n[{SHARE}]\n\tpath = {self.root}\n\tread only = no\n\tvfs objects = acl_xattr\n"
                "\tacl_xattr:ignore system acls = yes\n"
            )

    def start(self) -> None:
        """Start it, and wait until the file server answers too."""
        super().start()
        ends = time.monotonic() + 60
        while not self._logs_in():
            assert time.monotonic() < ends, (self.folder / "samba.log").read_text(errors="replace")[-2000:]
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop it, and the helpers that it started in sessions of their own."""
        super().stop()
        mine = f"--configfile={self.config}".encode()
        for found in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if mine in found.read_bytes().split(b"\0"):
                    os.kill(int(found.parent.name), signal.SIGTERM)

    def _logs_in(self) -> bool:
        """Whether the file server listens, and has found who asks winbind for it."""
        if not accepts(ADDRESS, 445):
            return False
        try:
            Client("Administrator").close()
        except SMBResponseException:
            return False
        return True

    def set_share(self, sddl: str) -> None:
        """Give the share itself other permissions."""
        command = ["sharesec", SHARE, f"--configfile={self.config}", f"--setsddl={sddl}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def sid(self, dn: str) -> str:
        """The SID of an account or group."""
        return sid_text(self.raw(dn, "objectSid")["objectSid"][0])

    def sids(self, dn: str) -> frozenset[str]:
        """The account's SID and those of all its groups, by `tokenGroups`, but for groups of the server itself."""
        found = self.raw(dn, "objectSid", "tokenGroups")
        texts = {sid_text(data) for data in [*found["objectSid"], *found["tokenGroups"]]}
        return frozenset(text for text in texts if not text.startswith("S-1-5-32-"))

    def login(self, dn: str) -> str:
        """The login name of an account."""
        return self.raw(dn, "sAMAccountName")["sAMAccountName"][0].decode()


@contextmanager
def running_share() -> Iterator[FileServer]:
    """A started server, gone afterwards. Skips, or fails where everything is required, without root or Samba."""
    need(os.geteuid() == 0, "a Samba domain controller needs root: its ports are below 1024")
    programs = ("samba", "samba-tool", "sharesec")
    need(
        all(shutil.which(program) for program in programs),
        "Samba's domain controller is not installed: deploy/test-deps.sh installs samba-ad-dc",
    )
    with (
        machine_lock("samba-share"),
        tempfile.TemporaryDirectory(prefix="remit-fs-") as folder,
    ):
        need(not accepts(ADDRESS, 445), f"another server listens on {ADDRESS}:445")
        Path(folder).chmod(0o755)
        server = FileServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


class Client:
    """A real SMB client of one account, connected to the share."""

    def __init__(self, username: str, share: str = SHARE) -> None:
        """Log in and connect. Raises SMBResponseException when the share refuses the account."""
        self._connection = Connection(uuid.uuid4(), ADDRESS, 445)
        self._connection.connect()
        session = Session(self._connection, username=username, password=PASSWORD, auth_protocol="ntlm")
        try:
            session.connect()
            self._tree = TreeConnect(session, f"\\\\{ADDRESS}\\{share}")
            self._tree.connect()
        except SMBResponseException:
            self.close()
            raise

    def close(self) -> None:
        """Log off."""
        self._connection.disconnect(True)

    def opens(self, path: str, access: int) -> bool:
        """Whether the server grants these rights on a file."""
        try:
            opened = self._open(path, access)
        except SMBResponseException as err:
            if err.status != DENIED:
                raise
            return False
        opened.close()
        return True

    def folder(self, path: str) -> None:
        """Make a folder."""
        self._open(path, FULL, CreateDisposition.FILE_CREATE, 0x1).close()

    def write(self, path: str, content: bytes) -> None:
        """Make a file, or give it other content."""
        file = self._open(path, FULL, CreateDisposition.FILE_OVERWRITE_IF, 0x40)
        if content:
            file.write(content)
        file.close()

    def remove(self, path: str) -> None:
        """Delete a file or an empty folder."""
        opened = self._open(path, FULL)
        info = FileDispositionInformation()
        info["delete_pending"] = True
        self._set(opened, InfoType.SMB2_0_INFO_FILE, 13, info.pack())
        opened.close()

    def rename(self, path: str, target: str) -> None:
        """Rename or move a file or folder."""
        opened = self._open(path, FULL)
        info = FileRenameInformation()
        info["file_name"] = target
        self._set(opened, InfoType.SMB2_0_INFO_FILE, 10, info.pack())
        opened.close()

    def set_descriptor(self, path: str, data: bytes) -> None:
        """Replace owner and DACL."""
        opened = self._open(path, 0x0E0000)
        self._set(opened, InfoType.SMB2_0_INFO_SECURITY, 0, data, 0x5)
        opened.close()

    def _open(self, path: str, access: int, disposition: int = CreateDisposition.FILE_OPEN, options: int = 0) -> Open:
        opened = Open(self._tree, path)
        opened.create(ImpersonationLevel.Impersonation, access, 0x80, _ALL, disposition, options)
        return opened

    def _set(self, opened: Open, kind: int, what: int, data: bytes, additional: int = 0) -> None:
        request = SMB2SetInfoRequest()
        request["info_type"] = kind
        request["file_info_class"] = what
        request["additional_information"] = additional
        request["file_id"] = opened.file_id
        request["buffer"] = data
        tree: Any = self._tree
        sent = self._connection.send(request, tree.session.session_id, tree.tree_connect_id)
        self._connection.receive(sent)


def reads(logins: Mapping[str, str], paths: Sequence[str], access: int) -> dict[tuple[str, str], bool]:
    """Return for each person and path whether a new client of theirs is granted the rights."""
    found: dict[tuple[str, str], bool] = {}
    for person, login in logins.items():
        try:
            client = Client(login)
        except SMBResponseException as err:
            if err.status != DENIED:
                raise
            found.update({(person, path): False for path in paths})
            continue
        try:
            found.update({(person, path): client.opens(path, access) for path in paths})
        finally:
            client.close()
    return found
