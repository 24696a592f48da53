"""The LDAP directory against OpenLDAP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from acl.principal import Principal, Realm
from connectors.directories.base import Directory, DirectoryUnavailableError, UnknownSubjectError
from connectors.directories.ldap import Ldap, is_filter
from connectors.directories.ldap_client import Endpoint, LdapAccess
from connectors.secret import FileSecret
from connectors.testing.contract import verify
from connectors.testing.directory_contract import DIRECTORY_CHECKS, DirectoryWorld
from tests.support.proxy import Proxy
from tests.support.slapd import LIMITED, PASSWORD, READER, SUFFIX, Slapd, running_slapd

LDAP, POSIX = Realm("ldap:unix"), Realm("posix:corp")
_numbers = itertools.count(1)


def access(slapd: Slapd, folder: Path, port: int = 0, *, user: str = READER, start_tls: bool = False) -> LdapAccess:
    """How to reach the server."""
    password = folder / "password"
    password.touch(0o600)
    password.write_text(PASSWORD)
    place = Endpoint("127.0.0.1", port or slapd.ldaps, start_tls)
    return LdapAccess((place,), slapd.ca, user, FileSecret(password), connect_timeout_s=2, receive_timeout_s=2)


@contextmanager
def opened(slapd: Slapd, folder: Path, port: int = 0, *, user: str = READER, **options: Any) -> Iterator[Ldap]:
    """A directory that is closed at the end."""
    directory = Ldap("unix", access(slapd, folder, port, user=user), **{"base": SUFFIX, **options})
    try:
        yield directory
    finally:
        directory.close()


@pytest.fixture
def unit(slapd: Slapd) -> str:
    """A unit of this test's own."""
    return slapd.unit(f"unit-{next(_numbers)}")


def held(slapd: Slapd, folder: Path, user: str, **options: Any) -> set[str]:
    """The tokens of everything that an account holds."""
    with opened(slapd, folder, **options) as directory:
        return {p.token for p in directory.resolve("entryUUID", slapd.uuid(user)).principals}


class SlapdWorld:
    """Two accounts of their own, reached through a connection that can be cut."""

    attribute = "entryUUID"
    absent = "00000000-0000-4000-8000-00000000abcd"

    def __init__(self, slapd: Slapd, unit: str, proxy: Proxy, directory: Ldap) -> None:
        self._slapd, self._proxy, self._directory = slapd, proxy, directory
        self._user = slapd.user(unit, "alice")
        self._group = slapd.group(unit, "sales", self._user, READER)
        other = slapd.user(unit, "bob", pwdAccountLockedTime="000001010000Z")
        self.enabled, self.disabled = slapd.uuid(self._user), slapd.uuid(other)
        self.mutable = ("uid", "alice")

    def directory(self) -> Directory:
        return self._directory

    def leave_group(self) -> None:
        self._slapd.change(self._group, "member", remove=self._user)

    def disable(self) -> None:
        self._slapd.change(self._user, "pwdAccountLockedTime", replace="000001010000Z")

    def break_down(self) -> None:
        self._proxy.close()


@pytest.mark.live
@pytest.mark.parametrize("check", DIRECTORY_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(slapd: Slapd, unit: str, tmp_path: Path, check: Callable[[DirectoryWorld], None]) -> None:
    """The suite that every directory passes."""

    @contextmanager
    def world() -> Iterator[DirectoryWorld]:
        with Proxy("127.0.0.1", slapd.ldaps) as proxy, opened(slapd, tmp_path, proxy.port) as directory:
            yield SlapdWorld(slapd, unit, proxy, directory)

    verify(world, [check])


@pytest.mark.live
def test_groups_nest_in_circles_and_of_either_kind(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """Every group above the account, once, with the way to it; no group beside it."""
    user = slapd.user(unit, "carol", displayName="Carol")
    inner = slapd.group(unit, "inner", user)
    middle = slapd.group(unit, "middle", inner, unique=True)
    outer = slapd.group(unit, "outer", middle)
    slapd.change(inner, "member", add=outer)
    slapd.group(unit, "beside", READER)

    with opened(slapd, tmp_path) as directory:
        found = directory.resolve("entryUUID", slapd.uuid(user))
        paths = directory.explain("entryUUID", slapd.uuid(user)).paths

    groups = {f"group-{slapd.uuid(dn)}" for dn in (inner, middle, outer)}
    assert {p.id for p in found.principals} == {f"user-{slapd.uuid(user)}", "members", *groups}
    assert found.complete == {LDAP}
    assert found.display_name == "Carol"
    assert paths[Principal(LDAP, f"group-{slapd.uuid(outer)}")] == ("carol", "inner", "middle", "outer")


@pytest.mark.live
def test_numbers_are_those_that_the_file_server_looks_up(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """uid, primary gid, the gids of groups that list the login name; without an id domain or a number none of it."""
    user = slapd.user(unit, "dora", number=30001, gid=30100)
    slapd.posix_group(unit, "staff", 30200, "dora", "somebody")
    slapd.posix_group(unit, "elsewhere", 30300, "dora-x")
    plain = slapd.user(unit, "erik")

    with opened(slapd, tmp_path, id_domain="corp") as directory:
        found = directory.resolve("entryUUID", slapd.uuid(user))
        assert directory.resolve("uidNumber", "30001").account_id == slapd.uuid(user)
        without = directory.resolve("entryUUID", slapd.uuid(plain))

    numbers = {p.token for p in found.principals if p.realm == POSIX}
    assert numbers == {f"posix:corp:{one}" for one in ("uid-30001", "other", "gid-30100", "gid-30200")}
    assert found.complete == {LDAP, POSIX}
    assert found.facts["uidNumber"] == "30001"
    assert not [p for p in without.principals if p.realm == POSIX]
    assert not [token for token in held(slapd, tmp_path, user) if token.startswith("posix")]


@pytest.mark.live
def test_a_number_that_two_accounts_have_is_nobodys(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """A link by uidNumber that finds two finds none; the account of another number is found."""
    slapd.user(unit, "one", number=31001)
    slapd.user(unit, "two", number=31001)
    slapd.user(unit, "three", number=31003)
    with opened(slapd, tmp_path) as directory:
        for value in ("31001", "031003", "31003 ", "\u0663", "4294967295", "-1", ""):
            with pytest.raises(UnknownSubjectError):
                directory.resolve("uidNumber", value)
        assert directory.resolve("uidNumber", "31003").facts["uidNumber"] == "31003"


@pytest.mark.live
def test_an_address_finds_the_one_account_that_has_it(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """One that a disabled account has too finds nobody; only a declared filter says that an address is verified."""
    slapd.user(unit, "one", mail="One@Mail.example")
    slapd.user(unit, "two", mail="two@mail.example", employeeType="checked")
    slapd.user(unit, "three", mail="same@mail.example")
    slapd.user(unit, "gone", mail="same@mail.example", pwdAccountLockedTime="000001010000Z")
    slapd.user(unit, "many", mail=["many@mail.example", "more@mail.example"])
    with opened(slapd, tmp_path, mail_verified="(employeeType=checked)") as directory:
        one, two = (directory.resolve("mail", f"{name}@mail.example").facts for name in ("one", "two"))
        assert (one["mail"], "mail_verified" in one) == ("one@mail.example", False)
        assert (two["mail"], "mail_verified" in two) == ("two@mail.example", True)
        assert "mail" not in directory.resolve("mail", "many@mail.example").facts, "several are none"
        for nobody in ("same@mail.example", "*@mail.example", "One@Mail.example", "", "x@mail.example"):
            with pytest.raises(UnknownSubjectError):
                directory.resolve("mail", nobody)
    with opened(slapd, tmp_path) as directory:
        assert "mail_verified" not in directory.resolve("mail", "two@mail.example").facts


@pytest.mark.live
def test_member_of_counts_only_where_it_is_trusted(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """Trusted, it finds the same groups as their own lists do; untrusted, it is not even asked."""
    user = slapd.user(unit, "finn")
    inner = slapd.group(unit, "mo-inner", user)
    slapd.group(unit, "mo-outer", inner)
    asked = held(slapd, tmp_path, user)
    assert len(asked) == 4
    assert held(slapd, tmp_path, user, trusts_member_of=True) == asked


@pytest.mark.live
def test_a_renamed_account_is_the_same_and_one_of_the_same_name_is_not(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """By entryUUID: a new DN changes nothing; the DN's next owner has the old one's stale group, as the server says."""
    user = slapd.user(unit, "gina")
    first = slapd.uuid(user)
    slapd.connection.modify_dn(user, "uid=regina")
    group = slapd.group(unit, "keepers", f"uid=regina,{unit}")
    with opened(slapd, tmp_path) as directory:
        assert f"group-{slapd.uuid(group)}" in {p.id for p in directory.resolve("entryUUID", first).principals}
        slapd.delete(f"uid=regina,{unit}")
        again = slapd.user(unit, "gina")
        with pytest.raises(UnknownSubjectError):
            directory.resolve("entryUUID", first)
        assert {p.id for p in directory.resolve("entryUUID", slapd.uuid(again)).principals} == {
            f"user-{slapd.uuid(again)}",
            "members",
        }


@pytest.mark.live
def test_disabled_accounts_are_nobody(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """Locked for ever, expired, or by the administrator's filter; a lockout and an expiry to come are no end."""
    today = (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
    gone = [
        slapd.user(unit, "locked", pwdAccountLockedTime="000001010000Z"),
        slapd.user(unit, "expired", number=32001, shadowExpire=str(today)),
        slapd.user(unit, "left", employeeType="left"),
    ]
    here = [
        slapd.user(unit, "lockout", pwdAccountLockedTime="20261125120000Z"),
        slapd.user(unit, "later", number=32002, shadowExpire=str(today + 2)),
        slapd.user(unit, "works", employeeType="staff"),
    ]
    with opened(slapd, tmp_path, disabled="(employeeType=left)") as directory:
        for dn in gone:
            with pytest.raises(UnknownSubjectError):
                directory.resolve("entryUUID", slapd.uuid(dn))
        for dn in here:
            assert directory.resolve("entryUUID", slapd.uuid(dn)).account_id == slapd.uuid(dn)
    with opened(slapd, tmp_path, disabled="(noSuchAttribute=1)") as directory, pytest.raises(UnknownSubjectError):
        directory.resolve("entryUUID", slapd.uuid(here[0]))


@pytest.mark.live
def test_a_size_limit_is_no_shorter_list(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """An account that may read ten entries gets no answer about somebody with twelve groups, and one about nine."""
    many, few = slapd.user(unit, "many"), slapd.user(unit, "few")
    for number in range(12):
        slapd.group(unit, f"s{number}", many, *([few] if number < 9 else []))
    assert len(held(slapd, tmp_path, many)) == 14
    with opened(slapd, tmp_path, user=LIMITED) as directory:
        with pytest.raises(DirectoryUnavailableError, match="size limit"):
            directory.resolve("entryUUID", slapd.uuid(many))
        assert len(directory.resolve("entryUUID", slapd.uuid(few)).principals) == 11
        assert "groups" in [finding.what for finding in directory.check() if not finding.good]


@pytest.mark.live
def test_pages_go_past_the_soft_limit(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """1,200 groups of one account, of which the server sends 50 unasked: all of them."""
    user = slapd.user(unit, "hugo")
    for number in range(1200):
        slapd.group(unit, f"p{number}", user)
    assert len(held(slapd, tmp_path, user)) == 1202


@pytest.mark.live
def test_groups_and_other_entries_are_nobody(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """An entryUUID of a group or a role is no account's."""
    group, user = slapd.group(unit, "nobody"), slapd.user(unit, "ida")
    with opened(slapd, tmp_path) as directory:
        for dn in (group, READER, unit):
            with pytest.raises(UnknownSubjectError):
                directory.resolve("entryUUID", slapd.uuid(dn))
        assert directory.resolve("entryUUID", slapd.uuid(user)).account_id == slapd.uuid(user)


@pytest.mark.live
@pytest.mark.parametrize("value", ["*", "{uuid})(uid=*", "{uuid}\x00", "{UUID}", "uid=jan", "jan", "", "x" * 65536])
def test_what_is_not_exactly_a_uuid_is_nobody(slapd: Slapd, unit: str, tmp_path: Path, value: str) -> None:
    """Wildcards, filters, DNs, names and other spellings."""
    uuid = slapd.uuid(slapd.user(unit, "jan"))
    with opened(slapd, tmp_path) as directory:
        with pytest.raises(UnknownSubjectError):
            directory.resolve("entryUUID", value.replace("{uuid}", uuid).replace("{UUID}", uuid.upper()))
        assert directory.find("jan*") is None
        assert directory.find("jan)(uid=*") is None
        assert directory.resolve("entryUUID", uuid).account_id == uuid


@pytest.mark.live
def test_names_with_metacharacters_are_escaped(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """Groups of somebody called `a*)(b\\` are found, and only theirs."""
    user = slapd.user(unit, "a*)(b\\5c", number=33001)
    group = slapd.group(unit, "odd", user)
    slapd.posix_group(unit, "odd-posix", 33002, "a*)(b\\5c")
    slapd.posix_group(unit, "other-posix", 33003, "ab")
    tokens = held(slapd, tmp_path, user, id_domain="corp")
    assert f"ldap:unix:group-{slapd.uuid(group)}" in tokens
    assert "posix:corp:gid-33002" in tokens
    assert "posix:corp:gid-33003" not in tokens


@pytest.mark.live
def test_start_tls_and_a_refused_password(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """StartTLS serves as LDAPS does; a server that hangs is an error within the time-out."""
    user = slapd.uuid(slapd.user(unit, "kim"))
    directory = Ldap("unix", access(slapd, tmp_path, slapd.ldap, start_tls=True), base=SUFFIX)
    assert directory.resolve("entryUUID", user).account_id == user
    slapd.pause()
    try:
        before = datetime.now(UTC)
        with pytest.raises(DirectoryUnavailableError):
            directory.resolve("entryUUID", user)
        assert datetime.now(UTC) - before < timedelta(seconds=30)
    finally:
        slapd.resume()
    directory.close()


@pytest.mark.live
def test_a_server_without_numbers_of_changes_has_always_changed(tmp_path: Path) -> None:
    """Without the overlay `syncprov` no position is ever given, and a check says so."""
    with running_slapd(syncprov=False) as server, opened(server, tmp_path) as directory:
        found = directory.changes("")
        assert found.everything
        assert not found.position
        assert [f.detail for f in directory.check() if f.what == "changes" and not f.good]


@pytest.mark.live
def test_any_write_is_a_change_and_nothing_is_none(slapd: Slapd, unit: str, tmp_path: Path) -> None:
    """Deleted entries too, which no time stamp shows."""
    user = slapd.user(unit, "lars")
    with opened(slapd, tmp_path, base=unit) as directory:
        position = directory.changes("").position
        assert not directory.changes(position).everything
        slapd.delete(user)
        assert directory.changes(position).everything
        assert [f.what for f in directory.check() if f.good][:2] == ["connection", "base"]


@pytest.mark.parametrize(
    ("text", "good"), [("(a=b)", True), ("(&(a=b)(!(c=*)))", True), ("a=b", False), ("(a=b", False)]
)
def test_a_filter_is_checked_when_it_is_configured(text: str, good: bool) -> None:
    """What is no filter is refused at start rather than at every question."""
    assert is_filter(text) == good
