"""An OpenLDAP server for tests: configured in a temporary folder, on ports of its own, stopped by its process id."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ldap3
import pytest
from ldap3.utils.dn import escape_rdn

from connectors.directories.ldap_client import VerifiedTls, tls_context
from tests.support.certificates import Authority
from tests.support.needs import need
from tests.support.servers import Server, free_port

SLAPD: Final = "/usr/sbin/slapd"
SUFFIX: Final = "dc=remit,dc=test"
ADMIN: Final = f"cn=admin,{SUFFIX}"
READER: Final = f"cn=reader,{SUFFIX}"
LIMITED: Final = f"cn=limited,{SUFFIX}"
"""May read everything, and gets ten entries of an answer."""
PASSWORD: Final = "remit-test"

_CONFIG: Final = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload syncprov
moduleload memberof
moduleload ppolicy
pidfile {folder}/slapd.pid
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
security simple_bind=128
disallow bind_anon
database mdb
suffix "{suffix}"
rootdn "{admin}"
rootpw {password}
directory {folder}/data
maxsize 1073741824
index objectClass,entryUUID,member,uniqueMember,memberUid,uid,uidNumber eq
limits dn.exact="{reader}" size.soft=50 size.hard=unlimited size.prtotal=unlimited
limits dn.exact="{limited}" size.soft=10 size.hard=10 size.prtotal=10
access to attrs=userPassword by anonymous auth by * none
access to * by users read by * none
overlay ppolicy
{overlays}
"""


class Slapd:
    """A server with one suffix. Every name that is made in it is the test's own."""

    def __init__(self, folder: Path, *, syncprov: bool = True) -> None:
        self.folder = folder
        self.authority = Authority("Authority of the test directory")
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.pem)
        self.authority.server("127.0.0.1", "localhost").write(folder / "server.pem", folder / "server.key")
        (folder / "data").mkdir()
        (folder / "slapd.conf").write_text(
            _CONFIG.format(
                folder=folder,
                suffix=SUFFIX,
                admin=ADMIN,
                reader=READER,
                limited=LIMITED,
                password=PASSWORD,
                overlays="overlay memberof\n" + ("overlay syncprov" if syncprov else ""),
            )
        )
        self.ldaps, self.ldap = free_port(), free_port()
        urls = f"ldaps://127.0.0.1:{self.ldaps} ldap://127.0.0.1:{self.ldap}"
        self._server = Server([SLAPD, "-d", "0", "-h", urls, "-f", str(folder / "slapd.conf")], folder / "slapd.log")
        self.connection: Any = None

    def start(self) -> None:
        """Start it with the suffix and the two readers."""
        self._server.start("127.0.0.1", self.ldaps)
        tls = VerifiedTls(tls_context(self.ca))
        server = ldap3.Server("127.0.0.1", port=self.ldaps, use_ssl=True, tls=tls, get_info=ldap3.NONE)
        self.connection = ldap3.Connection(server, ADMIN, PASSWORD, auto_bind=True, raise_exceptions=True)
        self.connection.add(SUFFIX, ["dcObject", "organization"], {"dc": "remit", "o": "remit"})
        for name in ("reader", "limited"):
            role = ["organizationalRole", "simpleSecurityObject"]
            self.connection.add(f"cn={name},{SUFFIX}", role, {"cn": name, "userPassword": PASSWORD})

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

    def unit(self, name: str) -> str:
        """Make an organizational unit and return its DN."""
        dn = f"ou={name},{SUFFIX}"
        self.connection.add(dn, "organizationalUnit")
        return dn

    def user(self, unit: str, name: str, *, number: int = 0, gid: int = 0, **attributes: object) -> str:
        """Make a person and return the DN. number: a uid, which makes it a POSIX account."""
        dn = f"uid={escape_rdn(name)},{unit}"
        classes = ["inetOrgPerson"]
        given: dict[str, object] = {"uid": name, "cn": name, "sn": name, **attributes}
        if number:
            classes += ["posixAccount", "shadowAccount"]
            given |= {"uidNumber": str(number), "gidNumber": str(gid or number), "homeDirectory": "/"}
        self.connection.add(dn, classes, given)
        return dn

    def group(self, unit: str, name: str, *members: str, unique: bool = False) -> str:
        """Make a group of DNs and return its own."""
        dn = f"cn={name},{unit}"
        kind, attribute = ("groupOfUniqueNames", "uniqueMember") if unique else ("groupOfNames", "member")
        self.connection.add(dn, kind, {"cn": name, attribute: list(members) or [ADMIN]})
        return dn

    def posix_group(self, unit: str, name: str, number: int, *logins: str) -> str:
        """Make a group of login names and return its DN."""
        dn = f"cn={name},{unit}"
        given: dict[str, object] = {"cn": name, "gidNumber": str(number)}
        if logins:
            given["memberUid"] = list(logins)
        self.connection.add(dn, "posixGroup", given)
        return dn

    def change(self, dn: str, attribute: str, *, add: str = "", remove: str = "", replace: str = "") -> None:
        """Add, remove or replace one value."""
        kinds = ((ldap3.MODIFY_ADD, add), (ldap3.MODIFY_DELETE, remove), (ldap3.MODIFY_REPLACE, replace))
        self.connection.modify(dn, {attribute: [(kind, [value]) for kind, value in kinds if value]})

    def delete(self, dn: str) -> None:
        """Delete an entry."""
        self.connection.delete(dn)

    def uuid(self, dn: str) -> str:
        """The `entryUUID` of an entry."""
        self.connection.search(dn, "(objectClass=*)", ldap3.BASE, attributes=["entryUUID"])
        found: Mapping[str, list[bytes]] = self.connection.response[0]["raw_attributes"]
        return found["entryUUID"][0].decode()


@contextmanager
def running_slapd(*, syncprov: bool = True) -> Iterator[Slapd]:
    """A started server, gone afterwards. Skips, or fails where everything is required, without OpenLDAP."""
    need(shutil.which(SLAPD) is not None, "OpenLDAP's server is not installed: deploy/test-deps.sh installs slapd")
    with tempfile.TemporaryDirectory(prefix="remit-ldap-") as folder:
        server = Slapd(Path(folder), syncprov=syncprov)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def slapd() -> Iterator[Slapd]:
    """The OpenLDAP server of this test run."""
    with running_slapd() as server:
        yield server
