"""The groups of a file server itself, without a server: what the account manager answers, and whose SIDs count."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.decide import Allowed, decide
from acl.dialects.ntfs import file_clauses, named_in
from acl.model import Acl, Caller, Clause, Unknown
from acl.principal import Principal
from connectors.base import Connector, Membership, MembershipsEnd, own_realm
from connectors.errors import FatalError
from connectors.registry import OptionError, build
from connectors.smb import rpc
from connectors.smb.connector import Smb
from connectors.smb.local_groups import AskServer, Declared
from connectors.smb.rules import AD, BITS, Own, Translator, local_members
from connectors.smb.samr import Accounts, LocalGroup, read_groups
from connectors.testing.contract import GROUP_CHECKS, GroupsWorld
from service.identity.domains import require_domain
from tests.acl.descriptors import descriptor
from tests.connectors.test_smb import ANN, BOB, DOMAIN, FULL, GROUP, OPTIONS, MemoryShare, allows
from tests.service.directory_fake import FakeDirectory

MACHINE = "S-1-5-21-7-7-7"
OWN = own_realm("drive")
USERS, ADMINS = "S-1-5-32-545", "S-1-5-32-544"
LOCAL = Own(OWN, under=("S-1-5-32-", f"{MACHINE}-"))


# --- the account manager ---


class AccountManager:
    """Answers calls as a server does. sets: groups by the SID of their set; denied: those that may not be opened."""

    def __init__(self) -> None:
        self.sets: dict[str, dict[int, tuple[str, list[str]]]] = {
            "S-1-5-32": {544: ("Administrators", [ANN, GROUP]), 545: ("Users", [])},
            MACHINE: {1001: ("staff", [BOB])},
        }
        self.denied: set[int] = set()
        self.page = 1000
        self.refuses = 0
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self.opened: dict[bytes, str] = {}
        self._numbers = 0

    def __call__(self, operation: int, parameters: bytes) -> bytes:
        return self.damage(self._answer(operation, parameters))

    def _answer(self, operation: int, parameters: bytes) -> bytes:
        here, rest = parameters[:20], parameters[20:]
        match operation:
            case 57:
                return self._open("server") if not self.refuses else _failed(self.refuses)
            case 6:
                return _page([(number, name) for number, name in enumerate(self._names())], 0, 0)
            case 5:
                size = struct.unpack_from("<H", rest)[0]
                sid = self._names().get(rest[20 : 20 + size].decode("utf-16-le", "replace"))
                return _words(0, 0xC00000DF) if sid is None else _words(1) + _sid(sid) + _words(0)
            case 7:
                count = struct.unpack_from("<I", rest, 4)[0]
                sid = _text(rest[8 : 16 + 4 * count])
                return self._open(sid) if sid in self.sets else _failed(0xC00000DF)
            case 15:
                groups = [(rid, name) for rid, (name, _) in self.sets.get(self._named(here), {}).items()]
                first = struct.unpack_from("<I", rest)[0]
                part = groups[first : first + self.page]
                more = first + len(part) < len(groups)
                return _page(part, first + len(part), 0x105 if more else 0)
            case 27:
                rid = struct.unpack_from("<I", rest, 4)[0]
                if rid in self.denied or rid not in self.sets.get(self._named(here), {}):
                    return _failed(0xC0000022)
                return self._open(f"{self._named(here)}/{rid}")
            case 33:
                domain, _, number = self._named(here).partition("/")
                if not number:
                    return _words(0, 0, 0xC0000008)
                members = self.sets[domain][int(number)][1]
                if not members:
                    return _words(0, 0, 0)
                array = _words(len(members), 1, len(members), *range(2, 2 + len(members)))
                return array + b"".join(map(_sid, members)) + _words(0)
            case _:
                assert operation == 1
                self.opened.pop(here, None)
                return bytes(20) + _words(0)

    def _names(self) -> dict[str, str]:
        return {"Builtin" if sid == "S-1-5-32" else f"SERVER{number}": sid for number, sid in enumerate(self.sets)}

    def _open(self, name: str) -> bytes:
        self._numbers += 1
        handle = self._numbers.to_bytes(20, "little")
        self.opened[handle] = name
        return handle + _words(0)

    def _named(self, handle: bytes) -> str:
        return self.opened.get(handle, "")


def _failed(status: int) -> bytes:
    return bytes(20) + _words(status)


def _words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def _sid(text: str) -> bytes:
    authority, *parts = (int(part) for part in text.split("-")[2:])
    return _words(len(parts)) + bytes((1, len(parts))) + authority.to_bytes(6, "big") + _words(*parts)


def _text(data: bytes) -> str:
    return "-".join(["S-1", str(int.from_bytes(data[2:8], "big")), *map(str, struct.unpack(f"<{data[1]}I", data[8:]))])


def _page(entries: list[tuple[int, str]], context: int, status: int) -> bytes:
    """An enumeration's answer."""
    heads, texts = b"", b""
    for rid, name in entries:
        data = name.encode("utf-16-le")
        heads += struct.pack("<IHHI", rid, len(data), len(data), 9)
        texts += _words(len(name), 0, len(name)) + data + b"\0" * (-len(data) % 4)
    buffer = _words(1, len(entries), 2, len(entries)) + heads + texts
    return _words(context) + buffer + _words(len(entries), status)


def test_every_group_is_read_with_its_members() -> None:
    """Of both sets, over several pages, and every handle is given back."""
    server = AccountManager()
    for server.page in (1, 1000):
        assert read_groups(server, "files", DOMAIN) == Accounts(
            MACHINE,
            (
                LocalGroup(ADMINS, "Administrators", frozenset({ANN, GROUP})),
                LocalGroup(USERS, "Users", frozenset()),
                LocalGroup(f"{MACHINE}-1001", "staff", frozenset({BOB})),
            ),
        )
    assert server.opened == {}


def test_groups_of_the_domain_are_the_directorys() -> None:
    """A domain controller has them in place of its own: they are not asked for."""
    server = AccountManager()
    server.sets[DOMAIN] = server.sets.pop(MACHINE)

    found = read_groups(server, "dc", DOMAIN)

    assert found.own == DOMAIN
    assert [group.sid for group in found.groups] == [ADMINS, USERS]


def test_a_group_that_may_not_be_opened_is_there_without_its_members() -> None:
    """Its neighbours are known."""
    server = AccountManager()
    server.denied = {544}

    by_sid = {group.sid: group.members for group in read_groups(server, "files", DOMAIN).groups}

    assert by_sid[ADMINS] == "its members may not be read (0xc0000022)"
    assert by_sid[f"{MACHINE}-1001"] == frozenset({BOB})


def test_a_refusal_has_its_status() -> None:
    """So that it is told from a server that does not answer."""
    server = AccountManager()
    server.refuses = 0xC0000022
    with pytest.raises(rpc.RpcError) as caught:
        read_groups(server, "files", DOMAIN)
    assert caught.value.status == 0xC0000022


@pytest.mark.parametrize("sets", [["S-1-5-32"], ["S-1-5-32", MACHINE, "S-1-5-21-8-8-8"]], ids=["none", "two"])
def test_a_server_has_one_set_of_its_own(sets: list[str]) -> None:
    """With none or several nobody knows which SIDs are its own."""
    server = AccountManager()
    server.sets = {sid: {} for sid in sets}
    with pytest.raises(rpc.RpcError):
        read_groups(server, "files", DOMAIN)


@given(
    call=st.integers(0, 12),
    place=st.integers(0, 200),
    value=st.integers(0, 255),
    cut=st.one_of(st.none(), st.integers(0, 200)),
)
def test_a_damaged_answer_is_an_error_or_loses_nobody(call: int, place: int, value: int, cut: int | None) -> None:
    """Whatever stands in one answer, reading ends; one that is cut short anywhere is never a shorter list."""
    server, calls = AccountManager(), 0

    def damage(data: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls != call + 1:
            return data
        if cut is not None:
            return data[: cut % len(data)]
        changed = bytearray(data)
        changed[place % len(data)] = value
        return bytes(changed)

    whole = read_groups(AccountManager(), "files", DOMAIN)
    server.damage = damage
    try:
        found = read_groups(server, "files", DOMAIN)
    except rpc.RpcError:
        return
    if cut is not None:
        assert [group.sid for group in found.groups if isinstance(group.members, frozenset)] == [
            group.sid for group in whole.groups
        ]


# --- whose SIDs count, and as what ---


@pytest.mark.parametrize(
    ("sid", "token"),
    [
        (ANN, f"ad:{ANN}"),
        ("S-1-5-21-9-9-9-513", "ad:S-1-5-21-9-9-9-513"),
        ("S-1-5-11", "ad:S-1-5-11"),
        ("S-1-1-0", "ad:S-1-1-0"),
        ("S-1-5-4", "ad:S-1-5-4"),
        (f"{MACHINE}-500", f"source:drive:{MACHINE}-500"),
        (USERS, f"source:drive:{USERS}"),
    ],
)
def test_members_are_principals_of_whoever_knows_them(sid: str, token: str) -> None:
    """SIDs of domains and of every login are the directory's, the server's accounts its own."""
    assert local_members([sid], DOMAIN, LOCAL) == frozenset({Principal.parse(token)})


@pytest.mark.parametrize("sid", ["S-1-5-7", "S-1-5-17", "S-1-5-19", "S-1-5-113", "S-1-5-80-1-2-3", "S-1-5-9"])
def test_members_that_nobody_can_be_are_left_out(sid: str) -> None:
    """Services, anonymous logins and kinds of login that do not come over a network; the neighbour stays."""
    assert local_members([sid, ANN], DOMAIN, LOCAL) == frozenset({Principal(AD, ANN)})


@pytest.mark.parametrize("sid", ["S-1-5-64-10", "S-1-5-1000", "S-1-12-1-1-2-3-4", "S-1-18-1", "S-1-5-10", "S-1-5-90-0"])
def test_a_member_that_could_be_anybody_makes_the_group_unknown(sid: str) -> None:
    """Nobody here can tell who that is."""
    found = local_members([sid, ANN], DOMAIN, LOCAL)
    assert isinstance(found, Unknown)
    assert sid in found.reason


_sids = st.sampled_from([ANN, BOB, GROUP, "S-1-1-0", USERS, ADMINS, f"{MACHINE}-1001", "S-1-5-21-9-9-9-1001"])
_entries = st.lists(
    st.tuples(st.sampled_from([0, 0, 1]), st.just(0), st.sampled_from([FULL, 0x1, 0x100001, 0x120089]), _sids),
    max_size=6,
)
_memberships = st.dictionaries(st.sampled_from([USERS, ADMINS, f"{MACHINE}-1001"]), st.booleans(), max_size=3)


@given(entries=_entries, held=_memberships, rights=st.sampled_from(sorted(BITS)))
def test_rules_with_known_groups_are_the_servers_own(
    entries: list[tuple[int, int, int, str]], held: dict[str, bool], rights: str
) -> None:
    """With the groups known, decisions equal the server's; only SIDs of other domains make them narrower."""
    data = descriptor(entries, BOB)
    translator = Translator(DOMAIN, rights, LOCAL)  # type: ignore[arg-type]  # a key of BITS is one of the two words
    in_groups = [sid for sid, is_in in held.items() if is_in]
    truth = file_clauses(data, named_in(AD), BITS[rights])  # type: ignore[index]
    assert not isinstance(truth, Unknown)
    everything = frozenset(Principal(AD, sid) for sid in (ANN, GROUP, "S-1-1-0", *in_groups))
    judged = all(isinstance(decide(Acl(None, one), _caller(everything), _NOW), Allowed) for one in truth.clauses)

    known = frozenset(Principal(AD, sid) for sid in (ANN, GROUP, "S-1-1-0"))
    known |= frozenset(Principal(OWN, sid) for sid in in_groups)
    rules = translator.file(data)
    assert isinstance(rules.own, Clause)
    clauses = [clause for _, clause in rules.around] + [rules.own]
    decided = all(isinstance(decide(Acl(None, one), _caller(known), _NOW), Allowed) for one in clauses)

    if any(entry[3] == "S-1-5-21-9-9-9-1001" for entry in entries):
        assert judged or not decided
    else:
        assert judged == decided


_NOW = datetime(2026, 2, 1, tzinfo=UTC)


def _caller(principals: frozenset[Principal]) -> Caller:
    return Caller("ann", principals, frozenset({AD, OWN}), _NOW, _NOW + timedelta(hours=1))


def test_without_known_groups_they_give_nothing_and_let_nobody_past() -> None:
    """As before: the neighbour of the last test."""
    translator = Translator(DOMAIN, "data")
    assert not allows(translator, descriptor([(0, 0, FULL, USERS)], BOB), ANN)
    assert not allows(translator, descriptor([(1, 0, FULL, USERS), (0, 0, FULL, ANN)], BOB), ANN)
    assert allows(translator, descriptor([(0, 0, FULL, USERS), (0, 0, FULL, ANN)], BOB), ANN)


# --- the connector ---


class GroupsOfServer:
    """The contract's handles on a server in memory."""

    def __init__(self) -> None:
        self.share = MemoryShare()
        self.groups: dict[str, frozenset[str] | str] = {}
        self.share.accounts = self._accounts  # type: ignore[attr-defined]  # what `Share` has besides

    def connector(self) -> Connector:
        return Smb(lambda: self.share, Translator(DOMAIN, "open"), None, AskServer(OWN))  # type: ignore[arg-type, return-value]

    def fill(self, name: str, number: int) -> None:
        self.groups[name] = frozenset(f"{DOMAIN}-{1000 + one}" for one in range(number))

    def drop(self, name: str) -> None:
        del self.groups[name]

    def hide(self, name: str) -> None:
        self.groups[name] = "its members may not be read"

    def _accounts(self, domain_sid: str) -> Accounts:
        numbers = {"one": 1, "two": 2, "none": 3}
        return Accounts(
            MACHINE,
            tuple(LocalGroup(f"{MACHINE}-{numbers[name]}", name, who) for name, who in self.groups.items()),
        )


@pytest.mark.parametrize("check", GROUP_CHECKS, ids=lambda check: check.__name__)
def test_groups_of_a_server_keep_the_contract(check: Callable[[GroupsWorld], None]) -> None:
    """The SMB connector says who is in the server's groups as every connector must."""
    check(GroupsOfServer())


def test_a_server_that_says_nothing_has_no_groups_that_count() -> None:
    """Without `local_groups` the source has none, and says so."""
    connector = Smb(MemoryShare, Translator(DOMAIN, "open"), None)  # type: ignore[arg-type]  # a share in memory
    changes = list(connector.changes(None))
    assert changes[0] == MembershipsEnd()
    assert not any(isinstance(change, Membership) for change in changes)


def test_declared_groups_are_built_from_the_options(tmp_path: Path) -> None:
    """By SID, with principals; nothing but `ignore`, `read` and such a mapping is taken."""
    for good in ("ignore", "read", {USERS: ["ad:S-1-5-11"], f"{MACHINE}-1001": []}):
        build("smb", OPTIONS | {"local_groups": good}, tmp_path, "drive")
    for bad in (
        "all",
        True,
        [USERS],
        {"Users": ["ad:S-1-5-11"]},
        {f"{DOMAIN}-1104": ["ad:S-1-5-11"]},
        {USERS: "ad:S-1-5-11"},
        {USERS: ["Everyone"]},
        {USERS: [5]},
    ):
        with pytest.raises(OptionError, match="`local_groups`") as caught:
            build("smb", OPTIONS | {"local_groups": bad}, tmp_path, "drive")
        assert caught.value.option == "local_groups"


def test_a_declaration_knows_its_groups_alone() -> None:
    """Other SIDs of the server stay those of strangers."""
    own, groups = Declared(OWN, {USERS: frozenset({Principal(AD, ANN)})}).known(MemoryShare(), DOMAIN)  # type: ignore[arg-type]
    assert [(one.group.id, one.members) for one in groups] == [(USERS, frozenset({Principal(AD, ANN)}))]
    assert own.has(USERS)
    assert not own.has(ADMINS)


# --- the server's domain ---


class _Corp(FakeDirectory):
    """A directory of one Windows domain."""

    sid = DOMAIN

    def domain_sid(self) -> str:
        if self.down:
            self.resolve("", "")
        return self.sid


def test_a_server_of_another_domain_is_refused(tmp_path: Path) -> None:
    """Its rules may deny groups of which the directory never heard; the directory's own servers are read."""
    connector = build("smb", OPTIONS, tmp_path, "drive")
    corp, other = _Corp("corp", AD), FakeDirectory("unix", AD)
    require_domain(connector, [other, corp])

    corp.sid = "S-1-5-21-8-8-8"
    with pytest.raises(FatalError, match=r"`domain_sid`: .*`corp` is of S-1-5-21-8-8-8"):
        require_domain(connector, [other, corp])
    with pytest.raises(FatalError, match="no directory of kind `active_directory`"):
        require_domain(connector, [other])


def test_a_directory_that_does_not_answer_is_not_compared(tmp_path: Path) -> None:
    """Nobody is resolved by it either; a source that is no member of a domain is never asked."""
    corp = _Corp("corp", AD)
    corp.sid, corp.down = "S-1-5-21-8-8-8", "gone"
    require_domain(build("smb", OPTIONS, tmp_path, "drive"), [corp])
    corp.down = ""
    require_domain(build("feed", {"path": "x", "audience": ["ad:S-1-5-11"]}, tmp_path, "wiki"), [corp])
