"""Directories and links in `remit.yaml`: what is read, and that every refusal at start names key and line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from connectors.directories.base import Watched
from service.errors import StartError
from service.identity.directories import Link, build, open_directory
from service.settings import Settings, load
from tests.support.certificates import Authority
from tests.support.samba import PASSWORD as SAMBA_PASSWORD
from tests.support.samba import SambaDomain
from tests.support.servers import free_port
from tests.support.slapd import PASSWORD, READER, SUFFIX, Slapd

HEAD = """\
version: 1
data: ./data
listen: {callers: 127.0.0.1:7420, administrators: 127.0.0.1:7421, insecure_loopback: true}
keys: {provider: file, path: ./keys/remit.kek}
issuers:
  - {issuer: https://i, audience: remit, jwks: ./j, claim: sub, directory: corp, attribute: objectSid}
directories:
  - name: corp
    kind: active_directory
    servers: [ldaps://dc1.corp.example, ldap://dc2.corp.example:1389]
    ca: ./ca.pem
    bind: remit@corp.example
    password_file: ./password
    keep_for: 20s
    max_directory_age: 2m
    poll_every: 5s
  - name: unix
    kind: ldap
    servers: [ldaps://ldap.corp.example]
    ca: ./ca.pem
    bind: cn=reader,dc=corp,dc=example
    password_file: ./password
    base: dc=corp,dc=example
    id_domain: corp
    disabled: (employeeType=left)
links:
  - {from: corp, fact: uidNumber, to: unix, equals: uidNumber}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], Settings]:
    """Write the settings with the files they name, and read them."""
    (tmp_path / "ca.pem").write_bytes(Authority().pem)
    (tmp_path / "password").touch(0o600)
    (tmp_path / "password").write_text("secret\n")

    def read(text: str) -> Settings:
        (tmp_path / "remit.yaml").write_text(text)
        return load(tmp_path / "remit.yaml")

    return read


def test_directories_and_links_are_read_in_full(settings: Callable[[str], Settings]) -> None:
    """Every key arrives, and both directories can be built without a connection."""
    found = settings(HEAD)

    corp, unix = found.directories
    assert (corp.keep_for, corp.max_age, corp.poll_every) == tuple(timedelta(seconds=n) for n in (20, 120, 5))
    assert (unix.keep_for, unix.max_age, unix.poll_every) == tuple(timedelta(seconds=n) for n in (15, 60, 2))
    assert found.links == (Link("corp", "uidNumber", "unix", "uidNumber"),)
    for one in found.directories:
        directory = build(one, found.base)
        assert directory.name == one.name
        assert isinstance(directory, Watched)
        directory.close()


REFUSED = [
    ("ca: ./ca.pem", "ca: ./none.pem", 11, "`ca`: ", "cannot be read: No such file"),
    ("ca: ./ca.pem", "ca: ./password", 11, "`ca`: ", "holds no certificate of an authority"),
    ("password_file: ./password", "password_file: ./none", 13, "`password_file`", "cannot be read"),
    ("password_file: ./password", "password_file: ./empty", 13, "`password_file`", "holds no secret"),
    ("password_file: ./password", "password_file: ./open", 13, "`password_file`", "open to everybody"),
    ("bind: remit@corp.example", "bind: ''", 12, "`bind`", "expected text"),
    ("bind: remit@corp.example\n", "\n", 8, "option `bind` is missing", ""),
    ("[ldaps://dc1.corp.example, ", "[http://dc1, ", 10, "`servers`", "expected `ldaps://host`"),
    ("[ldaps://dc1.corp.example, ", "[ldaps://dc1:3269, ", 10, "`servers`", "global catalog"),
    ("[ldaps://dc1.corp.example, ", "[ldaps://dc1:99999, ", 10, "`servers`", "expected `ldaps://host`"),
    ("base: dc=corp,dc=example", "base: ''", 23, "`base`", "expected text"),
    ("disabled: (employeeType=left)", "disabled: employeeType", 25, "`disabled`", "expected a filter"),
    ("id_domain: corp", "id_domain: a b", 24, "`id_domain`", "is not a realm"),
    ("id_domain: corp", "id_domian: corp", 24, "unknown option `id_domian`", ""),
]


@pytest.mark.parametrize(("old", "new", "line", "key", "says"), REFUSED, ids=[f"{r[3]} {r[4]}" for r in REFUSED])
def test_a_wrong_option_names_key_and_line(
    settings: Callable[[str], Settings], tmp_path: Path, old: str, new: str, line: int, key: str, says: str
) -> None:
    """One sentence with file, line and key; without the mistake the same settings can be used."""
    for name, mode in (("empty", 0o600), ("open", 0o644)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "open").write_text("secret")
    found = settings(HEAD.replace(old, new, 1))
    wrong = found.directories[0 if line < 17 else 1]
    with pytest.raises(StartError) as caught:
        build(wrong, found.base)
    text = str(caught.value)
    assert f"remit.yaml:{line}: directories[" in text
    assert key in text
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("attribute: objectSid", "attribute: sAMAccountName", "expected one of `objectSid`, `objectGUID`"),
        ("attribute: objectSid", "attribute: id", "which the directory `corp` has"),
        (
            "fact: uidNumber",
            "fact: login",
            "links[0].fact: expected `objectSid` or `objectGUID` or `uidNumber` or `mail`",
        ),
        ("equals: uidNumber", "equals: uid", "links[0].equals: expected `entryUUID` or `uidNumber` or `mail`"),
        ("fact: uidNumber", "fact: mail", "links[0].equals: expected `mail`, as the other end"),
        ("equals: uidNumber", "equals: mail", "links[0].fact: expected `mail`, as the other end"),
        ("to: unix", "to: unx", "links[0].to: expected one of the directories `corp`, `unix`"),
    ],
)
def test_only_what_never_changes_identifies(settings: Callable[[str], Settings], old: str, new: str, says: str) -> None:
    """Names and other kinds' attributes are refused at start, for issuers and for links; so is mail at one end."""
    with pytest.raises(StartError, match=r"remit\.yaml:\d+: ") as caught:
        settings(HEAD.replace(old, new, 1))
    assert says in str(caught.value)


MAIL_LINK = "{from: corp, fact: mail, to: unix, equals: mail, domains: [corp.example], managed_by: corp}"
LINK = HEAD[HEAD.index("{from: corp, fact") : HEAD.index("}", HEAD.index("{from: corp, fact")) + 1]


def test_a_link_by_mail_names_its_domains_and_who_manages_them(settings: Callable[[str], Settings]) -> None:
    """Nothing else turns it on."""
    (found,) = settings(HEAD.replace(LINK, MAIL_LINK)).links
    assert (found.domains, found.managed_by) == (frozenset({"corp.example"}), "corp")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (", domains: [corp.example]", "", "links[0]: `domains` is missing"),
        ("[corp.example]", "[]", "links[0].domains: expected at least one mail domain"),
        ("[corp.example]", "[Corp.example]", "links[0].domains[0]: expected a mail domain in lower case"),
        ("[corp.example]", "['*']", "links[0].domains[0]: expected a mail domain"),
        (", managed_by: corp", "", "links[0]: `managed_by` is missing"),
        ("managed_by: corp", "managed_by: cloud", "links[0].managed_by: expected `corp` or `unix`"),
        (
            "fact: mail, to: unix, equals: mail",
            "fact: objectSid, to: unix, equals: uidNumber",
            "by `objectSid`, not by",
        ),
    ],
)
def test_a_link_by_mail_that_is_left_open_is_refused(
    settings: Callable[[str], Settings], old: str, new: str, says: str
) -> None:
    """At start, with file, line and key."""
    with pytest.raises(StartError, match=r"remit\.yaml:\d+: ") as caught:
        settings(HEAD.replace(LINK, MAIL_LINK.replace(old, new)))
    assert says in str(caught.value)


@pytest.mark.live
def test_a_wrong_password_stops_the_start_and_a_server_that_is_down_does_not(
    settings: Callable[[str], Settings], slapd: Slapd, tmp_path: Path
) -> None:
    """What waiting does not heal is said at once, with key and line."""
    (tmp_path / "ca.pem").write_bytes(slapd.ca.read_bytes())
    (tmp_path / "password").write_text(PASSWORD)
    text = HEAD.replace("ldaps://ldap.corp.example", f"ldaps://127.0.0.1:{slapd.ldaps}")
    text = text.replace("cn=reader,dc=corp,dc=example", READER).replace("base: dc=corp,dc=example", f"base: {SUFFIX}")
    found = settings(text)
    directory = open_directory(found.directories[1], found.base)
    assert isinstance(directory, Watched)
    directory.close()

    (tmp_path / "password").write_text("wrong")
    with pytest.raises(StartError, match=r"remit\.yaml:21: directories\[1\]\.bind: .* refuses the name"):
        open_directory(found.directories[1], found.base)

    found = settings(text.replace(f"ldaps://127.0.0.1:{slapd.ldaps}", f"ldaps://127.0.0.1:{free_port()}"))
    directory = open_directory(found.directories[1], found.base)
    assert isinstance(directory, Watched)
    directory.close()


@pytest.mark.live
def test_the_same_for_active_directory(settings: Callable[[str], Settings], samba: SambaDomain, tmp_path: Path) -> None:
    """A wrong password of the service account, and the right one."""
    (tmp_path / "ca.pem").write_bytes(samba.ca.read_bytes())
    text = HEAD.replace("ldaps://dc1.corp.example", f"ldaps://{samba.address}")
    text = text.replace("remit@corp.example", samba.admin)
    found = settings(text)
    with pytest.raises(StartError, match=r"remit\.yaml:12: directories\[0\]\.bind: .* refuses the name"):
        open_directory(found.directories[0], found.base)
    (tmp_path / "password").write_text(SAMBA_PASSWORD)
    directory = open_directory(found.directories[0], found.base)
    assert isinstance(directory, Watched)
    assert directory.changes("").position
    directory.close()
