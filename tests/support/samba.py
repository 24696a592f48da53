"""A Samba Active Directory domain controller for tests: provisioned in a temporary folder, stopped by its process id.

Its ports are fixed by the protocols, so it has a loopback address of its own, and a lock lets one run at a time.
Winbind's socket has a fixed path: the server runs in a mount namespace with a private `/run/samba`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ldap3
import pytest

from connectors.directories.ldap_client import VerifiedTls, tls_context
from tests.support.certificates import Authority
from tests.support.machine_lock import machine_lock
from tests.support.needs import need
from tests.support.servers import Server, accepts

ADDRESS: Final = "127.0.0.41"
REALM: Final = "REMIT.TEST"
BASE: Final = "DC=remit,DC=test"
PASSWORD: Final = "Remit-Test-1"
"""Of every account that can log in. The domain lives for one test run, on loopback."""

_NORMAL_ACCOUNT: Final = 0x200
_NO_PASSWORD_NEEDED: Final = 0x20
_GLOBAL, _LOCAL, _UNIVERSAL, _SECURITY = 2, 4, 8, -(2**31)

GLOBAL: Final = _GLOBAL + _SECURITY
DOMAIN_LOCAL: Final = _LOCAL + _SECURITY
UNIVERSAL: Final = _UNIVERSAL + _SECURITY
DISTRIBUTION: Final = _GLOBAL


class SambaDomain:
    """A domain with one controller. Every name that is made in it is new, so tests need not clean up."""

    def __init__(self, folder: Path, address: str = ADDRESS) -> None:
        """Provision it; `folder` must be empty."""
        self.address = address
        self.folder = folder
        self.authority = Authority("Authority of the test domain")
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.pem)
        self.connection: Any = None
        self._numbers = itertools.count(1)
        self._run("samba-tool", "domain", "provision", *self._provisioning())
        self._server = Server(
            [
                *("unshare", "--mount", "--", "sh", "-c"),
                'mkdir -p /run/samba && mount -t tmpfs none /run/samba && exec "$@"',
                *("sh", "samba", "--foreground", "--model=single", f"--configfile={folder}/etc/smb.conf"),
            ],
            folder / "samba.log",
        )

    @property
    def admin(self) -> str:
        """The login name of an administrator."""
        return f"Administrator@{REALM.lower()}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._server.start(self.address, 636)
        self.connection = self.connect()

    def stop(self) -> None:
        """Stop it."""
        if self.connection is not None and self.connection.socket is not None:
            self.connection.socket.close()
        self._server.stop()

    def pause(self) -> None:
        """Stop answering, with all connections open."""
        self._server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again."""
        self._server.signal(signal.SIGCONT)

    def connect(self, user: str = "", password: str = PASSWORD) -> ldap3.Connection:
        """A connection over LDAPS as an administrator or as `user`."""
        tls = VerifiedTls(tls_context(self.ca))
        server = ldap3.Server(self.address, port=636, use_ssl=True, tls=tls, get_info=ldap3.NONE, connect_timeout=10)
        return ldap3.Connection(
            server, user or self.admin, password, auto_bind=True, raise_exceptions=True, auto_referrals=False
        )

    def unit(self, name: str = "unit") -> str:
        """Make an organizational unit and return its DN: everything below is the test's own."""
        dn = f"OU={name}-{next(self._numbers)},{BASE}"
        self.connection.add(dn, "organizationalUnit")
        return dn

    def user(self, unit: str, name: str, *, password: str = "", **attributes: object) -> str:
        """Make an enabled user, with a login name of its own, and return its DN. password: none cannot log in."""
        dn = f"CN={name},{unit}"
        given: dict[str, object] = {
            "sAMAccountName": f"{name[:12]}-{next(self._numbers)}",
            "userAccountControl": str(_NORMAL_ACCOUNT | (0 if password else _NO_PASSWORD_NEEDED)),
            **attributes,
        }
        if password:
            given["unicodePwd"] = f'"{password}"'.encode("utf-16-le")
        self.connection.add(dn, "user", given)
        return dn

    def contacts(self, unit: str, count: int) -> list[str]:
        """Make many entries that can be members, in one transaction of the database, and return their DNs."""
        dns = [f"CN=c{number},{unit}" for number in range(count)]
        script = (
            "import sys; from samba.samdb import SamDB; from samba.auth import system_session\n"
            "from samba.param import LoadParm; lp = LoadParm(sys.argv[1])\n"
            "db = SamDB(url=sys.argv[2], session_info=system_session(), lp=lp); db.transaction_start()\n"
            "[db.add({'dn': line.strip(), 'objectClass': 'contact'}) for line in sys.stdin]; db.transaction_commit()"
        )
        command = ["/usr/bin/python3", "-c", script, f"{self.folder}/etc/smb.conf", f"{self.folder}/private/sam.ldb"]
        done = subprocess.run(command, input="\n".join(dns), capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        return dns

    def group(self, unit: str, name: str, members: Sequence[str] = (), kind: int = GLOBAL, **attributes: object) -> str:
        """Make a group and return its DN."""
        dn = f"CN={name},{unit}"
        given: dict[str, object] = {
            "sAMAccountName": f"{name[:40]}-{next(self._numbers)}",
            "groupType": str(kind),
            **attributes,
        }
        if members:
            given["member"] = list(members)
        self.connection.add(dn, "group", given)
        return dn

    def set_members(self, group: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Change who is in a group."""
        changes: dict[str, Any] = {}
        if add:
            changes["member"] = [(ldap3.MODIFY_ADD, list(add))]
        if remove:
            changes.setdefault("member", []).append((ldap3.MODIFY_DELETE, list(remove)))
        self.connection.modify(group, changes)

    def replace(self, dn: str, **attributes: object) -> None:
        """Replace attributes."""
        self.connection.modify(dn, {name: [(ldap3.MODIFY_REPLACE, [value])] for name, value in attributes.items()})

    def disable(self, dn: str) -> None:
        """Disable an account."""
        self.replace(dn, userAccountControl=str(_NORMAL_ACCOUNT | _NO_PASSWORD_NEEDED | 2))

    def delete(self, dn: str) -> None:
        """Delete an object."""
        self.connection.delete(dn)

    def raw(self, dn: str, *attributes: str) -> Mapping[str, list[bytes]]:
        """Attributes of one object, as they are on the wire."""
        self.connection.search(dn, "(objectClass=*)", ldap3.BASE, attributes=list(attributes))
        found: Mapping[str, list[bytes]] = self.connection.response[0]["raw_attributes"]
        return found

    def _provisioning(self) -> list[str]:
        certificate, key = self.folder / "server.pem", self.folder / "server.key"
        self.authority.server(self.address, "127.0.0.1", f"dc1.{REALM.lower()}").write(certificate, key)
        folders = {
            name: self.folder / name.replace(" ", "-") for name in ("pid directory", "ncalrpc dir", "cache directory")
        }
        for path in folders.values():
            path.mkdir()
        options = {
            "interfaces": f"{self.address}/8",
            "bind interfaces only": "yes",
            "server services": "s3fs, rpc, ldap, cldap, kdc, winbindd",
            "unix password sync": "no",
            "log file": f"{self.folder}/samba.%m.log",
            "tls enabled": "yes",
            "tls keyfile": key,
            "tls certfile": certificate,
            "tls cafile": self.ca,
            **folders,
        }
        return [
            f"--realm={REALM}",
            f"--domain={REALM.partition('.')[0]}",
            "--server-role=dc",
            "--dns-backend=NONE",
            "--host-name=dc1",
            f"--host-ip={self.address}",
            "--use-rfc2307",
            f"--adminpass={PASSWORD}",
            f"--targetdir={self.folder}",
            *(f"--option={name}={value}" for name, value in options.items()),
        ]

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{command[:3]}: {done.stdout[-1000:]} {done.stderr[-2000:]}"


@contextmanager
def running_domain() -> Iterator[SambaDomain]:
    """A started domain, gone afterwards. Skips, or fails where everything is required, without root or Samba."""
    need(os.geteuid() == 0, "a Samba domain controller needs root: its ports are below 1024")
    need(
        shutil.which("samba") is not None and shutil.which("samba-tool") is not None,
        "Samba's domain controller is not installed: deploy/test-deps.sh installs samba-ad-dc",
    )
    with (
        machine_lock("samba"),
        # Short: a socket's path has at most 107 characters.
        tempfile.TemporaryDirectory(prefix="remit-ad-") as folder,
    ):
        need(not accepts(ADDRESS, 636), f"another server listens on {ADDRESS}:636")
        domain = SambaDomain(Path(folder))
        try:
            domain.start()
            yield domain
        finally:
            domain.stop()


@pytest.fixture(scope="session")
def samba() -> Iterator[SambaDomain]:
    """The domain of this test run."""
    with running_domain() as domain:
        yield domain
