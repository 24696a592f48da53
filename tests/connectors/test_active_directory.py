"""Active Directory against a Samba domain controller, and against answers that Samba never gives."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acl.principal import Principal
from connectors.directories.active_directory import FOREIGN, REALM, ActiveDirectory
from connectors.directories.base import BindRefusedError, Directory, DirectoryUnavailableError, UnknownSubjectError
from connectors.directories.ldap_client import Endpoint, Entry, LdapAccess, LdapClient
from connectors.directories.sids import guid_text, is_account_sid, rid_of, sid_text
from connectors.secret import FileSecret
from connectors.testing.contract import verify
from connectors.testing.directory_contract import DIRECTORY_CHECKS, DirectoryWorld
from tests.support.certificates import Authority
from tests.support.proxy import Proxy
from tests.support.samba import DISTRIBUTION, DOMAIN_LOCAL, PASSWORD, UNIVERSAL, SambaDomain

FOREIGN_SID = "S-1-5-21-1004336348-1177238915-682003330-1104"


def access(samba: SambaDomain, folder: Path, *servers: Endpoint, user: str = "", ca: Path | None = None) -> LdapAccess:
    """How to reach the domain."""
    password = folder / "password"
    if not password.exists():
        password.touch(0o600)
        password.write_text(PASSWORD + "\n")
    return LdapAccess(
        servers or (Endpoint(samba.address, 636, False),),
        ca or samba.ca,
        user or samba.admin,
        FileSecret(password),
        connect_timeout_s=2,
        receive_timeout_s=2,
    )


@contextmanager
def opened(samba: SambaDomain, folder: Path, *servers: Endpoint, user: str = "") -> Iterator[ActiveDirectory]:
    """A directory that is closed at the end."""
    directory = ActiveDirectory("corp", access(samba, folder, *servers, user=user))
    try:
        yield directory
    finally:
        directory.close()


@pytest.fixture
def directory(samba: SambaDomain, tmp_path: Path) -> Iterator[ActiveDirectory]:
    """The domain as a directory."""
    with opened(samba, tmp_path) as found:
        yield found


def sid(samba: SambaDomain, dn: str) -> str:
    """The SID of an object."""
    return sid_text(samba.raw(dn, "objectSid")["objectSid"][0])


def held(directory: ActiveDirectory, of: str) -> set[str]:
    """Every SID that an account holds."""
    return {principal.id for principal in directory.resolve("objectSid", of).principals}


class SambaWorld:
    """Two accounts of their own in the domain, reached through a connection that can be cut."""

    attribute = "objectSid"

    def __init__(self, samba: SambaDomain, folder: Path, proxy: Proxy, directory: ActiveDirectory) -> None:
        self._samba, self._proxy, self._directory = samba, proxy, directory
        unit = samba.unit("world")
        self._user = samba.user(unit, "alice")
        self._group = samba.group(unit, "sales", [self._user])
        other = samba.user(unit, "bob")
        samba.disable(other)
        self.enabled, self.disabled = sid(samba, self._user), sid(samba, other)
        self.absent = self.enabled.rpartition("-")[0] + "-999999"
        self.mutable = ("sAMAccountName", samba.raw(self._user, "sAMAccountName")["sAMAccountName"][0].decode())

    def directory(self) -> Directory:
        return self._directory

    def leave_group(self) -> None:
        self._samba.set_members(self._group, remove=[self._user])

    def disable(self) -> None:
        self._samba.disable(self._user)

    def break_down(self) -> None:
        self._proxy.close()


@pytest.mark.live
@pytest.mark.parametrize("check", DIRECTORY_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(samba: SambaDomain, tmp_path: Path, check: Callable[[DirectoryWorld], None]) -> None:
    """The suite that every directory passes."""

    @contextmanager
    def world() -> Iterator[DirectoryWorld]:
        with (
            Proxy(samba.address, 636) as proxy,
            opened(samba, tmp_path, Endpoint("127.0.0.1", proxy.port, False)) as directory,
        ):
            yield SambaWorld(samba, tmp_path, proxy, directory)

    verify(world, [check])


@pytest.mark.live
def test_an_address_finds_the_one_account_that_has_it(samba: SambaDomain, directory: ActiveDirectory) -> None:
    """Verified where it is the primary one of `proxyAddresses`; one that another account has too finds nobody."""
    unit = samba.unit()
    samba.user(unit, "m-one", mail="One@Mail.example")
    samba.user(unit, "m-two", mail="two@mail.example", proxyAddresses=["SMTP:two@mail.example", "smtp:t@mail.example"])
    samba.user(unit, "m-three", mail="three@mail.example", proxyAddresses=["smtp:three@mail.example"])
    samba.user(unit, "m-four", mail="four@mail.example")
    samba.user(unit, "m-five", proxyAddresses=["smtp:four@mail.example"])

    facts = {name: directory.resolve("mail", f"{name}@mail.example").facts for name in ("one", "two", "three")}
    assert {name: "mail_verified" in found for name, found in facts.items()} == {
        "one": False,
        "two": True,
        "three": False,
    }
    assert facts["one"]["mail"] == "one@mail.example"
    for nobody in ("four@mail.example", "*@mail.example", "One@Mail.example", "", "x@mail.example"):
        with pytest.raises(UnknownSubjectError):
            directory.resolve("mail", nobody)


@pytest.mark.live
def test_an_account_holds_what_counts_and_nothing_else(samba: SambaDomain, directory: ActiveDirectory) -> None:
    """Nested, circular, universal and domain-local groups, the primary group; no distribution list, no built-in."""
    unit = samba.unit()
    user = samba.user(unit, "carol", displayName="Carol Čapek", uidNumber="20003")
    inner = samba.group(unit, "inner", [user], UNIVERSAL)
    outer = samba.group(unit, "outer", [inner], UNIVERSAL)
    samba.set_members(inner, add=[outer])
    local = samba.group(unit, "local", [outer], DOMAIN_LOCAL)
    letters = samba.group(unit, "letters", [user], DISTRIBUTION)
    primary = samba.group(unit, "primary", [user])
    above = samba.group(unit, "above-primary", [primary], UNIVERSAL)
    stranger = samba.group(unit, "stranger")
    samba.replace(user, primaryGroupID=str(rid_of(sid(samba, primary))))
    samba.set_members("CN=Administrators,CN=Builtin,DC=remit,DC=test", add=[inner])

    found = directory.resolve("objectSid", sid(samba, user))

    ids = {principal.id for principal in found.principals}
    assert {sid(samba, dn) for dn in (user, inner, outer, local, primary, above)} <= ids
    assert {"S-1-1-0", "S-1-5-11", "S-1-5-2", "S-1-5-15"} <= ids
    assert not {sid(samba, letters), sid(samba, stranger)} & ids
    assert not [one for one in ids if one.startswith("S-1-5-32-")]
    assert found.display_name == "Carol Čapek"
    assert found.complete == {REALM}
    guid = guid_text(samba.raw(user, "objectGUID")["objectGUID"][0])
    assert found.facts == {"objectSid": sid(samba, user), "objectGUID": guid, "uidNumber": "20003"}
    assert directory.resolve("objectGUID", guid).principals == found.principals

    paths = directory.explain("objectSid", sid(samba, user)).paths
    assert [step.rpartition("-")[0] for step in paths[Principal(REALM, sid(samba, local))]] == [
        "carol",
        "inner",
        "outer",
        "local",
    ]
    assert [step.rpartition("-")[0] for step in paths[Principal(REALM, sid(samba, above))]][1:] == [
        "primary",
        "above-primary",
    ]


@pytest.mark.live
def test_a_renamed_account_is_the_same_and_one_of_the_same_name_is_not(
    samba: SambaDomain, directory: ActiveDirectory
) -> None:
    """A new name changes nothing; an account made anew under an old name gets nothing of the old one."""
    unit = samba.unit()
    user = samba.user(unit, "dora", sAMAccountName="dora-once")
    group = samba.group(unit, "keepers", [user])
    first = sid(samba, user)
    samba.connection.modify_dn(user, "CN=theodora")
    user = f"CN=theodora,{unit}"
    samba.replace(user, sAMAccountName="theodora-now")
    assert sid(samba, group) in held(directory, first)

    samba.delete(user)
    again = samba.user(unit, "theodora", sAMAccountName="dora-once")

    with pytest.raises(UnknownSubjectError):
        directory.resolve("objectSid", first)
    second = sid(samba, again)
    assert second != first
    assert not {first, sid(samba, group)} & held(directory, second)


@pytest.mark.live
def test_an_expired_account_is_nobody(samba: SambaDomain, tmp_path: Path) -> None:
    """Until its moment it is somebody, from its moment on nobody; a lockout is no end."""
    unit = samba.unit()
    ends = datetime(2027, 1, 1, tzinfo=UTC)
    ticks = int((ends - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds()) * 10_000_000
    user = sid(samba, samba.user(unit, "erik", accountExpires=str(ticks)))
    for now, enabled in ((ends - timedelta(seconds=1), True), (ends, False)):
        directory = ActiveDirectory("corp", access(samba, tmp_path), now=lambda now=now: now)  # type: ignore[misc]
        if enabled:
            assert directory.resolve("objectSid", user).account_id == user
        else:
            with pytest.raises(UnknownSubjectError):
                directory.resolve("objectSid", user)
        directory.close()


@pytest.mark.live
def test_what_is_no_person_is_nobody(samba: SambaDomain, directory: ActiveDirectory) -> None:
    """A group, the domain controller's own account, the guest: nobody, with a right SID each."""
    unit = samba.unit()
    guest = "CN=Guest,CN=Users,DC=remit,DC=test"
    samba.replace(guest, userAccountControl="544")
    for dn in (samba.group(unit, "no-person"), "CN=DC1,OU=Domain Controllers,DC=remit,DC=test", guest):
        with pytest.raises(UnknownSubjectError):
            directory.resolve("objectSid", sid(samba, dn))
    user = sid(samba, samba.user(unit, "finn"))
    assert directory.resolve("objectSid", user).account_id == user


@pytest.mark.live
@pytest.mark.parametrize(
    "value",
    [
        "*",
        "S-1-5-21-*",
        "{sid})(objectClass=*",
        "{sid}>",
        "{sid}\x00",
        "\uff33-1-5-21-1-2-3-4",
        "S-01-5-21-1-2-3-4",
        "S-1-5-21-1-2-3-04",
        "S-1-5-32-544",
        "CN=Administrator,CN=Users,DC=remit,DC=test",
        "Administrator",
        "x" * 65536,
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_not_exactly_a_sid_is_nobody(samba: SambaDomain, directory: ActiveDirectory, value: str) -> None:
    """Wildcards, filters, DNs, names, look-alikes and other spellings find nobody, by either attribute."""
    administrator = sid(samba, "CN=Administrator,CN=Users,DC=remit,DC=test")
    for attribute in ("objectSid", "objectGUID"):
        with pytest.raises(UnknownSubjectError):
            directory.resolve(attribute, value.replace("{sid}", administrator))
    assert directory.resolve("objectSid", administrator).account_id == administrator


@pytest.mark.live
def test_a_login_name_cannot_inject_a_filter(samba: SambaDomain, directory: ActiveDirectory) -> None:
    """An administrator's look-up by name takes metacharacters for characters."""
    unit = samba.unit()
    user = samba.user(unit, "gina", sAMAccountName="gina")
    for name in ("*", "gin*", "gina)(objectClass=*", "*)(sAMAccountName=gina", "gina\x00", ""):
        assert directory.find(name) is None
    assert directory.find("gina") == sid(samba, user)


@pytest.mark.live
def test_all_of_1701_members_are_read_in_ranges(samba: SambaDomain, tmp_path: Path) -> None:
    """Ranges are asked for, as Samba sends everything at once unasked: nobody is missing, nobody is there twice."""
    unit = samba.unit()
    members = samba.contacts(unit, 1701)
    group = samba.group(unit, "many", members)
    client = LdapClient("corp", access(samba, tmp_path))

    for step in (500, 567, 1701, 5000):
        found = client.read_range(group, "member", step)
        assert sorted(one.decode() for one in found) == sorted(members)
    whole = client.read(group, ["member"])
    assert whole is not None
    assert len(whole.all("member")) == 1701
    assert len(client.search(unit, "(objectClass=contact)", ["cn"])) == 1701  # pages
    client.close()


@pytest.mark.live
def test_a_connection_that_is_cut_half_way_is_no_answer(samba: SambaDomain, tmp_path: Path) -> None:
    """Wherever it is cut, the directory is unavailable; never are there fewer groups than there were."""
    unit = samba.unit()
    user = samba.user(unit, "hugo")
    for number in range(40):
        samba.group(unit, f"h{number}", [user])
    of = sid(samba, user)
    with Proxy(samba.address, 636) as proxy, opened(samba, tmp_path, Endpoint("127.0.0.1", proxy.port, False)) as ad:
        everything = held(ad, of)
        assert len(everything) > 40
        for size in (0, 5, 100, 700, 1300):
            proxy.cut_after(size)
            with pytest.raises(DirectoryUnavailableError):
                ad.resolve("objectSid", of)
            proxy.cut_after(None)
            _until_it_answers(ad, of)
        assert held(ad, of) == everything


@pytest.mark.live
def test_a_connection_that_waited_too_long_is_replaced(samba: SambaDomain, tmp_path: Path) -> None:
    """A firewall that dropped the idle connection costs nobody an error."""
    of = sid(samba, samba.user(samba.unit(), "ida"))
    with Proxy(samba.address, 636) as proxy, opened(samba, tmp_path, Endpoint("127.0.0.1", proxy.port, False)) as ad:
        before = held(ad, of)
        proxy.drop()
        assert held(ad, of) == before


@pytest.mark.live
def test_a_server_that_hangs_is_given_up_for_the_next(samba: SambaDomain, tmp_path: Path) -> None:
    """Silent or gone: the next server answers, and everything that was kept from the first is dropped."""
    of = sid(samba, samba.user(samba.unit(), "jan"))
    with Proxy(samba.address, 636) as first, Proxy(samba.address, 636) as second:
        servers = [Endpoint("127.0.0.1", proxy.port, False) for proxy in (first, second)]
        with opened(samba, tmp_path, *servers) as ad:
            before = held(ad, of)
            position = ad.changes("").position
            assert not ad.changes(position).everything
            first.silence()
            assert held(ad, of) == before
            assert ad.changes(position).everything
            second.close()
            first.speak()
            _until_it_answers(ad, of)


@pytest.mark.live
def test_only_the_configured_authority_and_the_right_name_count(samba: SambaDomain, tmp_path: Path) -> None:
    """Another authority, or a server under a name that its certificate lacks, gets no password; LDAPS and StartTLS."""
    other = tmp_path / "other.pem"
    other.write_bytes(Authority("Another authority").pem)
    for start_tls, port in ((False, 636), (True, 389)):
        right = LdapClient("corp", access(samba, tmp_path, Endpoint(samba.address, port, start_tls)))
        assert right.connect().port == port
        right.close()
        wrong_ca = LdapClient("corp", access(samba, tmp_path, Endpoint(samba.address, port, start_tls), ca=other))
        with pytest.raises(DirectoryUnavailableError, match=r"CERTIFICATE_VERIFY_FAILED|verify failed"):
            wrong_ca.connect()
        with Proxy(samba.address, port) as proxy:
            place = Endpoint("localhost", proxy.port, start_tls)
            wrong_name = LdapClient("corp", access(samba, tmp_path, place))
            with pytest.raises(DirectoryUnavailableError, match=r"not valid for 'localhost'|mismatch"):
                wrong_name.connect()


@pytest.mark.live
def test_a_bind_without_a_password_never_counts(samba: SambaDomain, tmp_path: Path) -> None:
    """Empty, blank or wrong: refused, although the server would take an empty one for an anonymous bind."""
    settings = access(samba, tmp_path)
    password = tmp_path / "password"
    for text, error in (("", "holds no secret"), (" \n", "holds no secret"), ("wrong", "refuses the name")):
        password.write_text(text)
        client = LdapClient("corp", settings)
        with pytest.raises(DirectoryUnavailableError, match=error) as raised:
            client.connect()
        assert isinstance(raised.value, BindRefusedError) == (text == "wrong")
    password.write_text(PASSWORD)
    password.chmod(0o604)
    with pytest.raises(DirectoryUnavailableError, match="open to everybody"):
        LdapClient("corp", settings).connect()
    password.chmod(0o600)
    client = LdapClient("corp", settings)
    assert client.connect().port == 636
    client.close()


@pytest.mark.live
def test_foreign_accounts_hold_the_groups_that_name_their_sid(samba: SambaDomain, directory: ActiveDirectory) -> None:
    """Security groups, nested ones too, and no class; without any membership nothing; never somebody of this domain."""
    unit = samba.unit()
    inner = samba.group(unit, "f-inner", kind=DOMAIN_LOCAL)
    outer = samba.group(unit, "f-outer", [inner], DOMAIN_LOCAL)
    letters = samba.group(unit, "f-letters", kind=4)
    for group in (inner, letters):
        samba.set_members(group, add=[f"<SID={FOREIGN_SID}>"])

    found = directory.resolve(FOREIGN, FOREIGN_SID)

    assert {p.id for p in found.principals} == {sid(samba, inner), sid(samba, outer)}
    assert found.complete == {REALM}
    assert directory.resolve(FOREIGN, FOREIGN_SID[:-1] + "5").principals == frozenset()
    own = sid(samba, samba.user(unit, "kim"))
    for value in (own, "*", "S-1-5-11"):
        with pytest.raises(UnknownSubjectError):
            directory.resolve(FOREIGN, value)
    with pytest.raises(UnknownSubjectError):
        directory.resolve("objectSid", FOREIGN_SID)


@pytest.mark.live
def test_changes_name_accounts_and_a_changed_group_is_everybody(samba: SambaDomain, directory: ActiveDirectory) -> None:
    """Disabled and deleted accounts by their SID; a changed, deleted or nested group is everything; else nothing."""
    unit = samba.unit()
    user, other = samba.user(unit, "lars"), samba.user(unit, "mona")
    inner = samba.group(unit, "c-inner", [user])
    outer = samba.group(unit, "c-outer", [inner])
    user_sid, other_sid = sid(samba, user), sid(samba, other)

    def after(change: Callable[[], None]) -> tuple[bool, frozenset[str]]:
        position = directory.changes("").position
        assert directory.changes(position) == directory.changes(position)
        change()
        found = directory.changes(position)
        return found.everything, found.accounts

    assert after(lambda: None) == (False, frozenset())
    assert after(lambda: samba.disable(other)) == (False, frozenset({other_sid}))
    assert after(lambda: samba.set_members(outer, remove=[inner]))[0]
    assert after(lambda: samba.set_members(outer, add=[inner]))[0]
    assert after(lambda: samba.delete(inner))[0]
    everything, accounts = after(lambda: samba.delete(user))
    assert everything or user_sid in accounts
    assert directory.changes("ldaps://elsewhere:636 0000 1").everything
    assert directory.changes("nonsense").everything


@pytest.mark.live
def test_a_check_says_what_can_be_read(samba: SambaDomain, tmp_path: Path) -> None:
    """An administrator sees deletions; a plain account does not, and is told so, but resolves all the same."""
    unit = samba.unit()
    reader = samba.user(unit, "reader", password=PASSWORD)
    name = samba.raw(reader, "sAMAccountName")["sAMAccountName"][0].decode() + "@remit.test"
    with opened(samba, tmp_path) as directory:
        assert all(finding.good for finding in directory.check())
    with opened(samba, tmp_path, user=name) as directory:
        assert {finding.what: finding.good for finding in directory.check()}["connection"]
        assert directory.resolve("objectSid", sid(samba, reader)).account_id == sid(samba, reader)


# --- answers that Samba does not give ---


class Answers:
    """A client that says what it is told to."""

    endpoint = Endpoint("stub", 636, False)

    def __init__(self, account: dict[str, list[bytes]]) -> None:
        self.account = account

    def read(self, dn: str, attributes: object, *, controls: object = ()) -> Entry | None:
        if dn == "":
            return Entry("", {"defaultnamingcontext": (b"DC=x",)})
        values = {"objectSid": [binary("S-1-5-21-1-2-3")]} if dn == "DC=x" else self.account
        return Entry(dn, {name.lower(): tuple(found) for name, found in values.items()})


def binary(text: str) -> bytes:
    """The bytes of a SID."""
    _, _, authority, *parts = text.split("-")
    numbers = [int(part) for part in parts]
    return bytes([1, len(numbers)]) + int(authority).to_bytes(6, "big") + struct.pack(f"<{len(numbers)}I", *numbers)


OWN, PRIMARY, OLD = "S-1-5-21-1-2-3-1104", "S-1-5-21-1-2-3-513", "S-1-5-21-9-9-9-77"
ACCOUNT: dict[str, list[bytes]] = {
    "objectClass": [b"top", b"user"],
    "objectSid": [binary(OWN)],
    "objectGUID": [bytes(16)],
    "userAccountControl": [b"512"],
    "accountExpires": [b"9223372036854775807"],
    "primaryGroupID": [b"513"],
    "tokenGroups": [binary(PRIMARY)],
}


def stubbed(**changed: list[bytes]) -> ActiveDirectory:
    """A directory of which one account is known, with some of its attributes changed."""
    access_ = LdapAccess((Endpoint("stub", 636, False),), Path("ca"), "dn", FileSecret(Path("password")))
    directory = ActiveDirectory("corp", access_)
    directory._client = Answers({**ACCOUNT, **changed})  # type: ignore[assignment,misc]  # the edge, answered for
    return directory


def test_sid_history_is_held() -> None:
    """What an account was before it moved here still opens what names it."""
    assert OLD in held(stubbed(sIDHistory=[binary(OLD)]), OWN)
    assert OLD not in held(stubbed(), OWN)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokenGroups": []},
        {"tokenGroups": [binary(OLD)]},
        {"tokenGroups": [binary(PRIMARY), b"\x01"]},
        {"userAccountControl": []},
        {"accountExpires": []},
        {"accountExpires": [b"never"]},
        {"primaryGroupID": []},
        {"objectSid": []},
        {"objectSid": [binary(OLD)]},
        {"objectGUID": []},
        {"sIDHistory": [b""]},
    ],
    ids=str,
)
def test_what_cannot_be_read_of_an_account_makes_it_unavailable(changed: dict[str, list[bytes]]) -> None:
    """`tokenGroups` absent or without the primary group, any attribute a decision rests on: never fewer groups."""
    with pytest.raises(DirectoryUnavailableError, match="incomplete"):
        stubbed(**changed).resolve("objectSid", OWN)
    assert PRIMARY in held(stubbed(), OWN)


def test_an_account_of_another_domain_is_not_answered_for() -> None:
    """Its domain-local groups would be those of the wrong domain."""
    with pytest.raises(DirectoryUnavailableError, match="not of the domain"):
        stubbed(objectSid=[binary(OLD)]).resolve("objectSid", OLD)


def test_a_sid_has_one_text() -> None:
    """Bytes to text and what is an account's; not a byte more or less."""
    assert sid_text(binary(OWN)) == OWN
    assert sid_text(binary("S-1-5-11")) == "S-1-5-11"
    for bad in (b"", binary(OWN)[:-1], binary(OWN) + b"\0", b"\x02" + binary(OWN)[1:]):
        with pytest.raises(ValueError, match="SID"):
            sid_text(bad)
    assert is_account_sid(OWN)
    for text in (
        "S-1-5-21-1-2-3",
        "S-1-5-21-1-2-3-4-5",
        "S-1-5-21-1-2-3-4294967296",
        f"{OWN}\n",
        "S-1-1-0",
        OWN.lower(),
    ):
        assert not is_account_sid(text)


def _until_it_answers(directory: ActiveDirectory, of: str) -> None:
    ends = time.monotonic() + 20
    while True:
        try:
            directory.resolve("objectSid", of)
        except DirectoryUnavailableError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)
        else:
            return
