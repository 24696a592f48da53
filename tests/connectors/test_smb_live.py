"""The SMB connector against a real Samba server: its users' own clients are the judges."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from acl.closure import Memberships
from acl.decide import Allowed, decide
from acl.dialects.ntfs import READ_DATA, SYNCHRONIZE
from acl.model import Caller, Clause, Unknown
from acl.principal import Principal
from connectors.base import Connector, Level, Membership, MembershipsEnd, ScopeChange, Skip, Upsert, own_realm
from connectors.directories.base import Watched
from connectors.errors import FatalError, RetriableError
from connectors.notices import Noticed, Watchable
from connectors.registry import build, build_directory
from connectors.smb.rules import AD, BITS, SHARE
from connectors.testing.contract import CONNECTOR_CHECKS, World
from service.identity.domains import require_domain
from tests.acl.descriptors import Entry, descriptor
from tests.connectors.sent import acl_of
from tests.support.samba import BASE, DOMAIN_LOCAL, GLOBAL, PASSWORD, UNIVERSAL
from tests.support.samba_share import ADDRESS, FULL, Client, FileServer, reads, running_share

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

NOW: Final = datetime(2026, 2, 1, tzinfo=UTC)
NAMES: Final = ("ann", "bob", "cid", "dan", "eve", "fay")
OPEN: Final = "D:(A;;0x1f01ff;;;WD)"
DATA: Final = READ_DATA | SYNCHRONIZE
_NETWORK_LOGIN: Final = ("S-1-1-0", "S-1-5-11", "S-1-5-2", "S-1-5-15")
_MASKS: Final = (FULL, FULL, 0x1200A9, 0x120089, 0x1, 0x100001, 0x120116, 0x100000, 0x80, 0x80000000)
_FLAGS: Final = (0, 0, 0, 0x10, 0x10, 0x0B)


class Town:
    """Some people in nested groups."""

    def __init__(self, server: FileServer, chance: random.Random) -> None:
        self.server = server
        unit = server.unit("town")
        self.people = {
            name: server.user(unit, name, password=PASSWORD) for name in ["ann", "bob", "cid", "dan", "eve", "fay"]
        }
        self.groups: list[str] = []
        for number in range(6):
            # Members of a kind that the group may hold; a group of groups that come before it cannot be a circle.
            kind = (GLOBAL, GLOBAL, UNIVERSAL, UNIVERSAL, DOMAIN_LOCAL, DOMAIN_LOCAL)[number]
            inside = [chance.choice(self.groups)] if self.groups and number > 1 else []
            members = [*chance.sample(sorted(self.people.values()), 2), *inside]
            self.groups.append(server.group(unit, f"g{number}", members, kind))
        self.logins = {name: server.login(dn) for name, dn in self.people.items()}
        self.person_sids = [server.sid(dn) for dn in self.people.values()]
        self.sids = [*self.person_sids, *map(server.sid, self.groups)]

    def callers(self) -> dict[str, Caller]:
        """Everybody as the directory resolves them now."""
        found: dict[str, Caller] = {}
        for name, dn in self.people.items():
            principals = frozenset(Principal(AD, sid) for sid in (*self.server.sids(dn), *_NETWORK_LOGIN))
            found[name] = Caller(name, principals, frozenset({AD}), NOW, NOW + timedelta(hours=1))
        return found

    def descriptor(self, chance: random.Random) -> bytes:
        """A random one: explicit, inherited and inherit-only entries in any order, owner rights, or none at all."""
        owner = chance.choice(self.person_sids)
        who = [*self.sids, *self.sids, "S-1-1-0", "S-1-5-11", "S-1-5-2", "S-1-5-4", "S-1-3-0", "S-1-3-4"]
        entries: list[Entry] = [
            (int(chance.random() < 0.35), chance.choice(_FLAGS), chance.choice(_MASKS), chance.choice(who))
            for _ in range(chance.choice((0, 1, 2, 3, 3, 4, 4, 5, 6)))
        ]
        return descriptor(entries, owner)


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with running_share() as started:
        yield started


@pytest.fixture
def share(server: FileServer) -> FileServer:
    """The share, empty and open to everybody."""
    for found in server.root.iterdir():
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    server.set_share(OPEN)
    return server


@pytest.fixture
def admin(share: FileServer) -> Iterator[Client]:
    client = Client("Administrator")
    yield client
    client.close()


@pytest.fixture
def options(share: FileServer, tmp_path: Path) -> dict[str, object]:
    """Options of a connector that logs in as an administrator."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "password").chmod(0o600)
    domain = share.sid(f"CN=Administrator,CN=Users,{BASE}").rpartition("-")[0]
    return {
        "server": ADDRESS,
        "share": "docs",
        "username": "Administrator",
        "password_file": str(tmp_path / "password"),
        "domain_sid": domain,
        "auth": "ntlm",
    }


class ShareWorld:
    """The contract's handles on a share."""

    def __init__(self, share: FileServer, admin: Client, options: Mapping[str, object]) -> None:
        self._share, self._admin, self._options = share, admin, options
        self._connectors: list[Connector] = []

    def connector(self) -> Connector:
        self._connectors.append(build("smb", self._options, Path("/")))
        return self._connectors[-1]

    def close(self) -> None:
        for connector in self._connectors:
            connector.close()
        elsewhere = self._share.root.with_name("elsewhere")
        if elsewhere.exists():
            elsewhere.rename(self._share.root)

    def write(self, name: str, content: bytes) -> None:
        self._admin.write(name, content)

    def remove(self, name: str) -> None:
        self._admin.remove(name)

    def narrow(self, name: str) -> None:
        self._admin.set_descriptor(name, descriptor([], "S-1-5-18"))

    def narrow_container(self) -> None:
        self._share.set_share("D:(D;;0x1f01ff;;;BG)(D;;0x1f01ff;;;AN)(A;;0x1200a9;;;AU)")

    def unplug(self) -> None:
        self._share.root.rename(self._share.root.with_name("elsewhere"))


@pytest.mark.parametrize("check", CONNECTOR_CHECKS, ids=lambda check: check.__name__)
def test_smb_keeps_the_contract(
    check: Callable[[World], None], share: FileServer, admin: Client, options: dict[str, object]
) -> None:
    """The SMB connector does what every connector must."""
    world = ShareWorld(share, admin, options)
    try:
        check(world)
    finally:
        world.close()


def sent(options: Mapping[str, object]) -> tuple[dict[str, Upsert], dict[str, ScopeChange], list[Skip]]:
    """What a walk sends: documents by location, scopes, and what was left out."""
    connector = build("smb", options, Path("/"), "drive")
    changes = list(connector.changes(None))
    connector.close()
    documents = {change.location: change for change in changes if isinstance(change, Upsert)}
    scopes = {str(change.id): change for change in changes if isinstance(change, ScopeChange)}
    return documents, scopes, [change for change in changes if isinstance(change, Skip)]


def decisions(options: Mapping[str, object], callers: Mapping[str, Caller]) -> dict[tuple[str, str], bool]:
    """Whether each person may read each file, by what the connector says and `decide` alone."""
    documents, scopes, skips = sent(options)
    assert not skips
    found: dict[tuple[str, str], bool] = {}
    for location, document in documents.items():
        acl = acl_of(document, {scope.id: scope for scope in scopes.values()})
        assert not isinstance(acl, Unknown), (location, acl)
        for name, caller in callers.items():
            found[name, location.replace("/", "\\")] = isinstance(decide(acl, caller, NOW), Allowed)
    return found


def files(share: FileServer) -> list[str]:
    """Every file of the share, by looking at the server's disk."""
    return sorted(_name(share, path) for path in share.root.rglob("*") if path.is_file())


def _name(share: FileServer, path: Path) -> str:
    return str(path.relative_to(share.root)).replace("/", "\\")


def test_decisions_equal_what_real_clients_get(share: FileServer, admin: Client, options: dict[str, object]) -> None:
    """Over a random tree, and again after a hundred random changes, every decision is the server's own."""
    chance = random.Random(20260201)
    town = Town(share, chance)
    folders = [""]
    for number in range(12):
        folders.append(f"{chance.choice(folders)}\\d{number}".strip("\\"))
        admin.folder(folders[-1])
    for number in range(180):
        path = f"{chance.choice(folders)}\\f{number}.txt".strip("\\")
        admin.write(path, f"text {number}".encode())
        admin.set_descriptor(path, town.descriptor(chance))
    for folder in folders[1:]:
        admin.set_descriptor(folder, town.descriptor(chance))

    before = _compare(share, options, town)
    for number in range(99):
        _change(chance, share, admin, town, number)
    share.set_share(f"D:(D;;0x1f01ff;;;{town.person_sids[0]}){OPEN.removeprefix('D:')}")
    after = _compare(share, options, town)

    for answers in (before, after):
        assert len(answers) >= 1000
        assert 0.1 < sum(answers.values()) / len(answers) < 0.9
    assert not any(allowed for (name, _), allowed in after.items() if name == "ann")
    assert sum(before[pair] != after[pair] for pair in before.keys() & after.keys()) > 20


def _compare(share: FileServer, options: dict[str, object], town: Town) -> dict[tuple[str, str], bool]:
    """Return the server's answers; every decision must equal them, and the stricter reading must stay below them."""
    paths = files(share)
    judged = reads(town.logins, paths, DATA)
    callers = town.callers()
    decided = decisions({**options, "rights": "data"}, callers)
    assert decided.keys() == judged.keys()
    assert {pair for pair in judged if decided[pair] != judged[pair]} == set()
    # An ordinary open asks for the attributes too, which a folder gives to who may list it: never wider.
    opened = reads(town.logins, paths, BITS["open"])
    ordinary = decisions(options, callers)
    assert {pair for pair, allowed in ordinary.items() if allowed and not opened[pair]} == set()
    return judged


def _change(chance: random.Random, share: FileServer, admin: Client, town: Town, number: int) -> None:
    """Change one thing."""
    path = chance.choice(files(share))
    folders = [
        str(found.relative_to(share.root)).replace("/", "\\") for found in share.root.rglob("*") if found.is_dir()
    ]
    match chance.choices(("rules", "folder", "member", "move", "rename", "delete", "new"), (45, 8, 20, 8, 8, 4, 7))[0]:
        case "rules":
            admin.set_descriptor(path, town.descriptor(chance))
        case "folder":
            admin.set_descriptor(chance.choice(folders), town.descriptor(chance))
        case "member":
            group, person = chance.choice(town.groups), chance.choice(list(town.people.values()))
            members = share.raw(group, "member").get("member", [])
            if person.encode() in members:
                share.set_members(group, remove=[person])
            else:
                share.set_members(group, add=[person])
        case "move":
            admin.rename(path, f"{chance.choice(folders)}\\moved{number}.txt")
        case "rename":
            folder = chance.choice(folders)
            admin.rename(folder, f"{folder}-{number}")
        case "delete":
            admin.remove(path)
        case _:
            admin.write(f"{chance.choice(folders)}\\new{number}.txt", b"new")


def test_names_of_the_server_itself_give_nothing_and_let_nobody_past(
    share: FileServer, admin: Client, options: dict[str, object]
) -> None:
    """An allow of the server's own Users lets nobody in, a deny of its Guests nobody past; the others count."""
    town = Town(share, random.Random(1))
    ann, bob = town.person_sids[:2]
    users, guests = "S-1-5-32-545", "S-1-5-32-546"
    cases: dict[str, list[Entry]] = {
        "allow.txt": [(0, 0, FULL, users)],
        "beside.txt": [(0, 0, FULL, users), (0, 0, FULL, ann)],
        "deny.txt": [(0, 0, FULL, ann), (1, 0, FULL, guests), (0, 0, FULL, bob)],
    }
    for name, entries in cases.items():
        admin.write(name, b"x")
        admin.set_descriptor(name, descriptor(entries, "S-1-5-18"))

    decided = decisions({**options, "rights": "data"}, town.callers())

    allowed = {pair for pair, yes in decided.items() if yes}
    assert allowed == {("ann", "beside.txt"), ("ann", "deny.txt")}
    judged = reads(town.logins, list(cases), DATA)
    assert all(judged[pair] for pair in allowed)


def test_ids_survive_a_move_and_not_a_deletion(share: FileServer, admin: Client, options: dict[str, object]) -> None:
    """A renamed and moved file is the same document; a new file at its place is another."""
    admin.folder("a")
    admin.write("one.txt", b"1")
    before = sent(options)[0]["one.txt"]
    admin.rename("one.txt", "a\\two.txt")
    admin.write("one.txt", b"2")

    documents = sent(options)[0]

    assert documents["a/two.txt"].native_id == before.native_id
    assert documents["one.txt"].native_id != before.native_id


def test_a_descriptor_that_may_not_be_read_withholds_its_file(
    share: FileServer, admin: Client, options: dict[str, object]
) -> None:
    """Without the right to look at a file it is skipped by its id; a folder that cannot be listed forbids the sweep."""
    town = Town(share, random.Random(2))
    admin.write("open.txt", b"x")
    admin.write("shut.txt", b"x")
    ids = {location: document.native_id for location, document in sent(options)[0].items()}
    admin.set_descriptor("shut.txt", descriptor([], "S-1-5-18"))
    account = {**options, "username": town.logins["ann"]}

    documents, scopes, skips = sent({**account, "share_access": ["ad:S-1-1-0"]})

    assert list(documents) == ["open.txt"]
    assert [(skip.native_id, skip.reason) for skip in skips] == [(ids["shut.txt"], "unreadable")]
    assert scopes[str(SHARE)].complete

    admin.folder("closed")
    admin.set_descriptor("closed", descriptor([], "S-1-5-18"))
    documents, scopes, skips = sent({**account, "share_access": ["ad:S-1-1-0"]})
    assert list(documents) == ["open.txt"]
    assert "unreadable folder" in [skip.reason for skip in skips]
    assert not scopes[str(SHARE)].complete


def test_links_are_left_out(share: FileServer, admin: Client, options: dict[str, object]) -> None:
    """A second name of one file is no second document, and a symlink leads nowhere."""
    admin.write("a.txt", b"x")
    (share.root / "b.txt").hardlink_to(share.root / "a.txt")
    (share.folder / "secret.txt").write_text("secret")
    (share.root / "out.txt").symlink_to(share.folder / "secret.txt")

    documents, _, skips = sent(options)

    assert len(documents) == 1
    assert "hard link" in [skip.reason for skip in skips]
    assert not any("out" in location for location in documents)


def test_a_declared_share_is_believed(share: FileServer, options: dict[str, object]) -> None:
    """What the administrator declares of the share takes the place of what the server says of it."""
    scopes = sent({**options, "share_access": ["ad:S-1-5-11"]})[1]

    clause = scopes[str(SHARE)].clause
    assert isinstance(clause, Clause)
    assert [principal.token for rule in clause.rules for principal in rule.principals] == ["ad:S-1-5-11"]


@pytest.mark.parametrize(
    ("change", "key"),
    [({"share": "gone"}, "share"), ({"username": "nobody-here"}, "username"), ({"password": "wrong"}, "username")],
    ids=str,
)
def test_what_does_not_let_us_in_is_refused_before_anything_is_sent(
    share: FileServer, options: dict[str, object], tmp_path: Path, change: dict[str, object], key: str
) -> None:
    """A share that is not there and a login that is refused are errors by their option, and tell no password."""
    if "password" in change:
        (tmp_path / "password").write_text("wrong-canary")
    connector = build("smb", options | {key: change[key] for key in change if key != "password"}, Path("/"))

    with pytest.raises(FatalError) as caught:
        next(connector.changes(None))

    assert caught.value.detail.startswith(f"`{key}`: ")
    assert "canary" not in caught.value.detail
    assert [finding.level for finding in connector.check()] == [Level.ERROR]


def test_a_share_whose_permissions_are_secret_is_nobodys(
    share: FileServer, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the server does not tell the share's own permissions, a first run sends nothing, a later one closes all."""
    monkeypatch.setattr("connectors.smb.client.Share.own_descriptor", lambda self: None)
    connector = build("smb", options, Path("/"))

    with pytest.raises(FatalError, match="`share_access`: "):
        list(connector.changes(None))
    changes = connector.changes({"version": 1})
    assert next(changes) == MembershipsEnd()
    first = next(changes)
    assert isinstance(first, ScopeChange)
    assert isinstance(first.clause, Unknown)
    assert not first.complete
    with pytest.raises(FatalError, match="`share_access`: "):
        next(changes)
    connector.close()


# --- the server's own groups ---

BACKUP, REMOTE, NETWORK_OPS = (f"S-1-5-32-{number}" for number in (551, 555, 556))
_BUILTIN: Final = {
    BACKUP: f"CN=Backup Operators,CN=Builtin,{BASE}",
    REMOTE: f"CN=Remote Desktop Users,CN=Builtin,{BASE}",
    NETWORK_OPS: f"CN=Network Configuration Operators,CN=Builtin,{BASE}",
}
OWN: Final = own_realm("drive")


def memberships(options: Mapping[str, object]) -> dict[Principal, Membership]:
    """The server's own groups, as a walk sends them, with the one end after them."""
    connector = build("smb", options, Path("/"), "drive")
    changes = list(connector.changes(None))
    connector.close()
    assert [change for change in changes if isinstance(change, MembershipsEnd)] == [MembershipsEnd()]
    return {change.group: change for change in changes if isinstance(change, Membership)}


def with_groups(callers: Mapping[str, Caller], groups: Mapping[Principal, Membership]) -> dict[str, Caller]:
    """The people with what they hold of the server itself."""
    graph = Memberships()
    for group, change in groups.items():
        assert not isinstance(change.members, Unknown), change
        graph.put({group: change.members})
    found: dict[str, Caller] = {}
    for name, caller in callers.items():
        closure = graph.closure(caller.principals, frozenset({AD, OWN}))
        found[name] = replace(caller, principals=closure.principals, complete=closure.complete)
    return found


def test_groups_of_the_server_itself_decide_as_on_the_server(
    share: FileServer, admin: Client, options: dict[str, object]
) -> None:
    """Allows and denies of its own groups, with people and groups of the domain in them, and after changes of those."""
    town = Town(share, random.Random(3))
    people, groups = list(town.people.values()), town.groups
    names = {name: share.sid(dn) for name, dn in town.people.items()}
    for group, members in {REMOTE: people[:2], NETWORK_OPS: groups[:1], BACKUP: people[4:5]}.items():
        share.set_members(_BUILTIN[group], add=members)
    cases: dict[str, list[Entry]] = {
        "remote.txt": [(0, 0, FULL, REMOTE)],
        "network.txt": [(0, 0, FULL, NETWORK_OPS)],
        "users.txt": [(0, 0, FULL, "S-1-5-32-545")],
        "but remote.txt": [(1, 0, FULL, REMOTE), (0, 0, FULL, "S-1-1-0")],
        "but network.txt": [(1, 0, FULL, NETWORK_OPS), (0, 0, FULL, names["cid"]), (0, 0, FULL, names["ann"])],
        "guests.txt": [(1, 0, FULL, "S-1-5-32-546"), (0, 0, FULL, names["bob"])],
        "backup.txt": [(0, 0, FULL, BACKUP)],
    }
    for name, entries in cases.items():
        admin.write(name, b"x")
        admin.set_descriptor(name, descriptor(entries, "S-1-5-18"))
    asking = {**options, "rights": "data", "local_groups": "read"}

    def compared() -> dict[tuple[str, str], bool]:
        found = memberships(asking)
        decided = decisions(asking, with_groups(town.callers(), found))
        assert decided == reads(town.logins, list(cases), DATA)
        return decided

    try:
        before = compared()
        assert before["ann", "remote.txt"]
        assert not before["ann", "but remote.txt"]
        assert before["cid", "but remote.txt"]
        share.set_members(_BUILTIN[REMOTE], remove=people[:1])
        share.set_members(groups[0], add=[people[5]] if people[5].encode() not in _members(share, groups[0]) else [])
        after = compared()
        assert not after["ann", "remote.txt"]
        assert after["ann", "but remote.txt"]
        assert after["fay", "network.txt"]
    finally:
        for group, members in {REMOTE: people[1:2], NETWORK_OPS: groups[:1], BACKUP: people[4:5]}.items():
            share.set_members(_BUILTIN[group], remove=members)


def _members(share: FileServer, group: str) -> list[bytes]:
    return share.raw(group, "member").get("member", [])


def test_declared_groups_are_those_and_no_others(share: FileServer, admin: Client, options: dict[str, object]) -> None:
    """A declared one counts as it was declared; one that was not gives nothing and lets nobody past."""
    town = Town(share, random.Random(4))
    ann, bob = (share.sid(town.people[name]) for name in ("ann", "bob"))
    cases: dict[str, list[Entry]] = {
        "declared.txt": [(0, 0, FULL, REMOTE)],
        "but.txt": [(1, 0, FULL, REMOTE), (0, 0, FULL, ann), (0, 0, FULL, bob)],
        "other.txt": [(0, 0, FULL, NETWORK_OPS), (0, 0, FULL, ann)],
        "but other.txt": [(1, 0, FULL, NETWORK_OPS), (0, 0, FULL, ann)],
    }
    for name, entries in cases.items():
        admin.write(name, b"x")
        admin.set_descriptor(name, descriptor(entries, "S-1-5-18"))
    declaring = {**options, "rights": "data", "local_groups": {REMOTE: [f"ad:{ann}"]}}

    decided = decisions(declaring, with_groups(town.callers(), memberships(declaring)))

    assert {pair for pair, yes in decided.items() if yes} == {
        ("ann", "declared.txt"),
        ("bob", "but.txt"),
        ("ann", "other.txt"),
    }


def test_groups_that_the_account_may_not_ask_for_are_nobodys(
    share: FileServer, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the first write with the option's name; whatever was known of them is known no more."""
    monkeypatch.setattr("connectors.smb.client.Share.accounts", lambda self, domain_sid: None)
    connector = build("smb", {**options, "local_groups": "read"}, Path("/"), "drive")

    changes = connector.changes({"version": 1})
    first = next(changes)
    assert isinstance(first, MembershipsEnd)
    assert "`local_groups`" in first.unread
    with pytest.raises(FatalError, match="`local_groups`: "):
        next(changes)
    assert [finding.level for finding in connector.check()] == [Level.ERROR]
    connector.close()


def test_the_directory_knows_the_servers_domain(share: FileServer, options: dict[str, object], tmp_path: Path) -> None:
    """The connector's domain is compared with the directory's own SID, and another one is refused."""
    (tmp_path / "ad").write_text(PASSWORD)
    (tmp_path / "ad").chmod(0o600)
    access: dict[str, object] = {"servers": [f"ldaps://{ADDRESS}"], "ca": str(share.ca), "bind": share.admin}
    directory = build_directory("corp", "active_directory", {**access, "password_file": "ad"}, tmp_path)
    try:
        require_domain(build("smb", options, Path("/"), "drive"), [directory])
        with pytest.raises(FatalError, match="`domain_sid`: "):
            require_domain(build("smb", {**options, "domain_sid": "S-1-5-21-1-2-3"}, Path("/"), "drive"), [directory])
    finally:
        assert isinstance(directory, Watched)
        directory.close()


@pytest.fixture
def noticing(share: FileServer, admin: Client, options: dict[str, object]) -> Watchable:
    """A connector of a server whose part that tells of changes has started: it comes up after the rest of Samba."""
    connector = build("smb", options, Path("/"), "drive")
    assert isinstance(connector, Watchable)
    for number in range(30):
        watch = connector.watch()
        admin.write(f"started-{number}.txt", b"")
        started = watch.wait(2)
        watch.close()
        if started is not None:
            return connector
    pytest.fail("the server never told of a change")


def test_the_server_says_when_something_changes(noticing: Watchable, admin: Client, options: dict[str, object]) -> None:
    """Content, names and places, at every depth and by another client; silence is no notice.

    Rules only of what lies in the root: Samba sees a descriptor change by the kernel's notices, which end there.
    """
    admin.write("top.txt", b"text")
    admin.folder("a")
    admin.folder("a\\b")
    admin.write("a\\b\\old.txt", b"text")
    watch = noticing.watch()
    changes: dict[str, Callable[[], None]] = {
        "a new file": lambda: admin.write("a\\b\\new.txt", b"text"),
        "other content": lambda: admin.write("a\\b\\old.txt", b"other text"),
        "other rules": lambda: admin.set_descriptor("top.txt", descriptor([], "S-1-5-18")),
        "another name": lambda: admin.rename("a\\b\\new.txt", "a\\renamed.txt"),
        "another place": lambda: admin.rename("a\\b", "c"),
        "a folder that was moved": lambda: admin.write("c\\new.txt", b"text"),
        "a removal": lambda: admin.remove("a\\renamed.txt"),
    }
    try:
        assert watch.wait(0.3) is None
        sent(options)  # a run changes nothing, so it brings no other one forward
        assert watch.wait(0.3) is None
        for what, change in changes.items():
            change()
            assert watch.wait(30) == Noticed(), what
            while watch.wait(0.5) is not None:
                pass
    finally:
        watch.close()
        watch.close()


def test_a_flood_of_changes_is_noticed_although_nobody_listens(noticing: Watchable, admin: Client) -> None:
    """What happens between two questions is kept, however much it is."""
    watch = noticing.watch()
    try:
        for number in range(300):
            admin.write(f"{number}-{'long' * 20}.txt", b"")
        assert watch.wait(30) == Noticed()
        admin.write("last.txt", b"")
        assert watch.wait(30) == Noticed()
    finally:
        watch.close()


def test_a_watch_whose_server_is_gone_ends(noticing: Watchable, admin: Client, options: dict[str, object]) -> None:
    """It says so, within its time; a new one notices again. A wrong password begins none."""
    watch = noticing.watch()
    watch._share._connection.transport._sock.shutdown(2)  # type: ignore[attr-defined]  # the line is cut

    with pytest.raises(RetriableError):
        all(watch.wait(1) is None for _ in range(20))
    watch.close()
    again = noticing.watch()
    admin.write("new.txt", b"")
    assert again.wait(30) == Noticed()
    again.close()

    wrong = Path(str(options["password_file"])).with_name("wrong")
    wrong.write_text("not the password\n")
    wrong.chmod(0o600)
    refused = build("smb", {**options, "password_file": str(wrong)}, Path("/"), "drive")
    assert isinstance(refused, Watchable)
    with pytest.raises(FatalError):
        refused.watch()
