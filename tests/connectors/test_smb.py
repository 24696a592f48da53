"""The SMB connector without a server: descriptors as rules, answers as bytes, and a share in memory."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from smbprotocol.exceptions import SMBException

from acl.decide import Allowed, decide
from acl.dialects.ntfs import file_clauses, named_in
from acl.errors import InvalidValueError
from acl.model import Acl, Caller, Clause, Scope, Unknown
from acl.principal import Principal
from connectors.base import Change, Connector, ScopeChange, Skip, Upsert
from connectors.errors import RetriableError, SkippableError
from connectors.registry import OptionError, build
from connectors.smb import client, messages, rpc, srvsvc
from connectors.smb.client import DIRECTORY, REPARSE_POINT, NameFailedError
from connectors.smb.connector import Smb
from connectors.smb.messages import Entry, Look
from connectors.smb.rules import AD, BITS, SHARE, Translator
from connectors.testing.contract import CONNECTOR_CHECKS, World
from tests.acl import descriptors
from tests.acl.descriptors import descriptor

DOMAIN = "S-1-5-21-1-2-3"
ANN, BOB, GROUP = f"{DOMAIN}-1001", f"{DOMAIN}-1002", f"{DOMAIN}-1003"
STRANGERS = ("S-1-5-32-544", "S-1-5-32-545", "S-1-5-21-9-9-9-1001", "S-1-5-64-10", "S-1-2-0")
FULL = 0x1F01FF
NOW = datetime(2026, 2, 1, tzinfo=UTC)
EVERYBODY = descriptor([(0, 0, FULL, "S-1-1-0")], "S-1-5-18")


def caller(*sids: str) -> Caller:
    principals = frozenset(Principal(AD, sid) for sid in sids)
    return Caller("ann", principals, frozenset({AD}), NOW, NOW + timedelta(hours=1))


def allows(translator: Translator, data: bytes, *sids: str) -> bool:
    """Whether a file's rules let somebody through, put together as the catalog would."""
    rules = translator.file(data)
    if isinstance(rules.own, Unknown):
        return False
    scope: Scope | None = None
    for scope_id, clause in rules.around:
        scope = Scope(scope_id, scope, clause)
    return isinstance(decide(Acl(scope, rules.own), caller(*sids), NOW), Allowed)


_sids = st.sampled_from([ANN, BOB, GROUP, "S-1-1-0", "S-1-5-11", "S-1-3-4", "S-1-3-0", *STRANGERS])
_masks = st.sampled_from([FULL, 0x1, 0x80, 0x100000, 0x100001, 0x120089, 0x120116])
_entries = st.lists(st.tuples(st.sampled_from([0, 0, 1]), st.sampled_from([0, 0x10, 0x0B]), _masks, _sids), max_size=6)


@given(entries=_entries, strangers=st.sets(st.sampled_from(STRANGERS)), rights=st.sampled_from(sorted(BITS)))
def test_rules_are_never_wider_whatever_else_a_login_holds(
    entries: list[descriptors.Entry], strangers: set[str], rights: str
) -> None:
    """Who is let through would be let through by the server too, whichever groups of its own it adds to the login."""
    data = descriptor(entries, BOB)
    held = {ANN, GROUP, "S-1-1-0", "S-1-5-11"}
    translator = Translator(DOMAIN, rights)  # type: ignore[arg-type]  # a key of BITS is one of the two words
    truth = file_clauses(data, named_in(AD), translator._required)
    assert not isinstance(truth, Unknown)

    everything = caller(*held, *strangers)
    judged = all(isinstance(decide(Acl(None, clause), everything, NOW), Allowed) for clause in truth.clauses)

    if allows(translator, data, *held):
        assert judged
    elif not any(entry[3] in STRANGERS for entry in entries):
        assert not judged


def test_bits_that_are_decided_differently_are_clauses_around_the_file() -> None:
    """A descriptor with two clauses has one of its own and one around it, named by what it says, within the share."""
    translator = Translator(DOMAIN, "data")
    split = descriptor([(0, 0, 0x1, ANN), (0, 0, 0x100000, GROUP)], BOB)

    rules = translator.file(split)

    ((scope, _),) = rules.around
    assert scope.startswith(f"{SHARE}/")
    assert allows(translator, split, ANN, GROUP)
    assert not allows(translator, split, ANN)
    assert not allows(translator, split, GROUP)
    assert Translator(DOMAIN, "data").file(split) == rules


def test_a_descriptor_that_is_damaged_is_unknown() -> None:
    """Cut short anywhere, or not there: nobody, with the reason."""
    translator = Translator(DOMAIN, "open")
    assert isinstance(translator.file("it may not be read").own, Unknown)
    for length in range(len(EVERYBODY)):
        assert isinstance(translator.file(EVERYBODY[:length]).own, Unknown)
    assert isinstance(translator.file(EVERYBODY).own, Clause)


@pytest.mark.parametrize(
    "sid", ["", "S-1-5-21-1-2", "S-1-5-21-1-2-3-4", "S-1-5-32", "s-1-5-21-1-2-3", "S-1-5-21-01-2-3"]
)
def test_a_domain_is_named_by_its_sid(sid: str) -> None:
    """What is no domain's SID is refused; one is taken."""
    with pytest.raises(InvalidValueError):
        Translator(sid, "open")
    Translator(DOMAIN, "open")


# The server service.


def answer(data: bytes | None, *, status: int = 0, level: int = 502) -> list[bytes]:
    """What a server answers to NetrShareGetInfo, in two fragments."""
    name = "docs\0".encode("utf-16-le")
    text = struct.pack("<III", 5, 0, 5) + name + b"\0\0"
    pointers = (1, 0, 2, 0, 0xFFFFFFFF, 1, 3, 0, len(data or b""), 4 if data is not None else 0)
    stub = struct.pack("<II", level, 5) + struct.pack("<10I", *pointers) + text * 3
    if data is not None:
        stub += struct.pack("<I", len(data)) + data + b"\0" * (-len(data) % 4)
    stub += struct.pack("<I", status)
    cut = len(stub) // 2
    return [_response(stub[:cut], 0x01), _response(stub[cut:], 0x02)]


def _response(stub: bytes, flags: int, kind: int = 2) -> bytes:
    return struct.pack("<BBBB4sHHI", 5, 0, kind, flags, b"\x10\0\0\0", 24 + len(stub), 0, 1) + b"\0" * 8 + stub


def test_the_shares_descriptor_is_read_out_of_the_answer() -> None:
    """All fragments together hold it; without one there is none."""
    fragments = answer(EVERYBODY)

    assert srvsvc.share_descriptor(fragments) == EVERYBODY
    assert [rpc.is_last(srvsvc.SERVER_SERVICE, fragment) for fragment in fragments] == [False, True]
    assert srvsvc.share_descriptor(answer(None)) is None


def test_a_refusal_of_the_server_service_has_its_status() -> None:
    """An error, a fault and another level are no descriptor."""
    with pytest.raises(rpc.RpcError) as caught:
        srvsvc.share_descriptor(answer(EVERYBODY, status=5))
    assert caught.value.status == 5
    with pytest.raises(rpc.RpcError) as caught:
        srvsvc.share_descriptor([_response(struct.pack("<II", 0x1C010003, 0), 3, kind=3)])
    assert caught.value.status == 0x1C010003
    with pytest.raises(rpc.RpcError):
        srvsvc.share_descriptor(answer(EVERYBODY, level=1))


@given(place=st.integers(0, 400), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_answer_is_an_error_or_another_descriptor(place: int, value: int, cut: bool) -> None:
    """Whatever stands in an answer, reading it ends with bytes, with nothing, or with RpcError."""
    first, second = answer(EVERYBODY)
    whole = bytearray(first + second)
    place %= len(whole)
    whole[place] = value
    fragments = [bytes(whole[: len(first)]), bytes(whole[len(first) :])]
    if cut:
        fragments[-1] = fragments[-1][: place % len(second)]

    try:
        found = srvsvc.share_descriptor(fragments)
    except rpc.RpcError:
        return
    assert found is None or isinstance(found, bytes)


def test_a_bind_that_is_refused_is_an_error() -> None:
    """Anything but an acceptance of the one interface is refused."""
    head = struct.pack("<BBBB4sHHI", 5, 0, 12, 3, b"\x10\0\0\0", 60, 0, 1) + struct.pack("<HHI", 4280, 4280, 1)
    body = struct.pack("<H", 13) + b"\\PIPE\\srvsvc\0" + b"\0"
    good = head + body + struct.pack("<BxxxHH", 1, 0, 0) + b"\0" * 20
    good = good[:8] + struct.pack("<H", len(good)) + good[10:]
    rpc.require_bound(srvsvc.SERVER_SERVICE, good)

    place = len(head + body) + 4
    with pytest.raises(rpc.RpcError):
        rpc.require_bound(srvsvc.SERVER_SERVICE, good[:place] + b"\x02" + good[place + 1 :])
    with pytest.raises(rpc.RpcError):
        rpc.require_bound(srvsvc.SERVER_SERVICE, good[:30])


# Answers of the file server.


def listing(*names: str) -> bytes:
    """A listing as it is on the wire."""
    parts = []
    for number, name in enumerate(names):
        data = name.encode("utf-16-le", errors="surrogatepass")
        size = -(-(104 + len(data)) // 8) * 8
        after = size if number < len(names) - 1 else 0
        head = struct.pack(
            "<IIQQQQQQIIIBx24sHQ", after, 0, 7, 0, 0, 0, 0, 0, 0x20, len(data), 0, 0, b"", 0, 100 + number
        )
        parts.append((head + data).ljust(size, b"\0"))
    return b"".join(parts)


def test_a_listing_names_only_what_is_in_the_folder() -> None:
    """A hostile server cannot name a way out of the folder; names that are no Unicode are names too."""
    data = listing(".", "..", "a.txt", "..\\b", "c/d", "e\0f", "\ud800.txt")

    found = list(messages.entries(data))

    assert found == [Entry("a.txt", 0x20, 102, 7), Entry("\ud800.txt", 0x20, 106, 7)]


@given(data=st.binary(max_size=300), place=st.integers(0, 200), value=st.integers(0, 255))
def test_damaged_answers_are_errors_of_the_connection(data: bytes, place: int, value: int) -> None:
    """Whatever a server sends is entries or a look, or SMBException; and reading it ends: no more than have room."""
    damaged = bytearray(listing("a.txt", "b.txt"))
    damaged[place % len(damaged)] = value
    for answer_ in (data, bytes(damaged)):
        read = 0
        with suppress(SMBException):
            for _ in messages.entries(answer_):
                read += 1
        assert read <= len(answer_) // 104
        with suppress(SMBException):
            messages.look(answer_, b"")


class EndlessShare(client.Share):
    """A server whose listings and answers do not end. bytes_read: of answers."""

    bytes_read = 0

    def __init__(self) -> None:
        vars(self).update(_login=client.Login("files", "docs", "remit", "", "ntlm", True), _tree=None)

    def _create(self, opened: object, access: int, options: int) -> None:
        """Open nothing."""

    def _close(self, opened: object) -> None:
        """Close nothing."""

    def _listing(self, folder: object) -> bytes:
        return listing("a.txt", "b.txt")

    def _bound(self, interface: rpc.Interface) -> Any:
        return self

    def write(self, data: bytes) -> None:
        """Take a request."""

    def read(self, place: int, at_most: int) -> bytes:  # type: ignore[override]  # a pipe's
        """One more fragment that is not the last."""
        fragment = struct.pack("<BBBB4sHHI", 5, 0, 2, 0, b"\x10\0\0\0", at_most - 1, 0, 1).ljust(at_most - 1, b"\0")
        self.bytes_read += len(fragment)
        return fragment


def test_what_a_server_says_without_end_is_not_heaped_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing and an answer to a call end as an error of the server, before they take all memory."""
    share = EndlessShare()
    monkeypatch.setattr(client, "Open", lambda tree, path: None)
    monkeypatch.setattr(client, "_MOST_ENTRIES", 1000)

    with pytest.raises(RetriableError, match="does not answer"):
        share.entries("")
    with pytest.raises(RetriableError, match="does not end"):
        share.own_descriptor()
    assert share.bytes_read <= 64 << 20


@pytest.mark.parametrize("after", [1, 8, 103])
def test_a_listing_whose_entries_lie_in_each_other_is_damaged(after: int) -> None:
    """A full answer would otherwise be read once for each of its bytes; entries behind each other are read."""
    good = listing(*(f"{number}.txt" for number in range(500)))
    bad = struct.pack("<I", after) + good[4:]

    with pytest.raises(SMBException):
        list(messages.entries(bad))
    assert len(list(messages.entries(good))) == 500


# A share in memory.


@dataclass
class MemoryShare:
    """A share as `connectors.smb.client.Share` shows one. files: path to look and content."""

    files: dict[str, tuple[Look, bytes]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=lambda: {"": ""})
    share_descriptor: bytes = EVERYBODY
    down: bool = False
    before_look: Callable[[str], None] = lambda path: None
    before_read: Callable[[str], None] = lambda path: None

    def entries(self, path: str) -> list[Entry]:
        if self.folders.get(path):
            raise NameFailedError(self.folders[path])
        inside = {name: look for name, (look, _) in self.files.items() if name.rpartition("\\")[0] == path}
        files = [
            Entry(name.rpartition("\\")[2], look.attributes, look.file_id, look.created)
            for name, look in inside.items()
        ]
        names = [name for name in self.folders if name and name.rpartition("\\")[0] == path]
        return files + [Entry(name.rpartition("\\")[2], DIRECTORY, 1, 1) for name in names]

    def looks(self, paths: Sequence[str]) -> Iterator[Look | NameFailedError]:
        for path in paths:
            self.before_look(path)
            yield self.files[path][0] if path in self.files else NameFailedError("vanished")

    def look(self, path: str) -> Look:
        (found,) = self.looks([path])
        if isinstance(found, NameFailedError):
            raise found
        return found

    def read(self, path: str, at_most: int) -> bytes:
        self.before_read(path)
        if path not in self.files:
            raise NameFailedError("vanished")
        return self.files[path][1][:at_most]

    def own_descriptor(self) -> bytes | None:
        return self.share_descriptor

    def close(self) -> None:
        pass


class MemoryShareWorld:
    """The contract's handles on a share in memory."""

    def __init__(self) -> None:
        self.share = MemoryShare()
        self._clock = itertools.count(1)

    def connector(self) -> Smb:
        return Smb(self._connect, Translator(DOMAIN, "open"), None)  # type: ignore[arg-type]  # a share in memory

    def _connect(self) -> MemoryShare:
        if self.share.down:
            raise RetriableError("the share is unplugged")
        return self.share

    def write(self, name: str, content: bytes) -> None:
        now = next(self._clock)
        before = self.share.files.get(name)
        number, born = (before[0].file_id, before[0].created) if before else (now, now)
        look = Look(number, 1, born, now, now, len(content), 0x20, before[0].descriptor if before else EVERYBODY)
        self.share.files[name] = (look, content)

    def remove(self, name: str) -> None:
        del self.share.files[name]

    def narrow(self, name: str) -> None:
        self.set(name, descriptor=descriptor([], "S-1-5-18"))

    def narrow_container(self) -> None:
        self.share.share_descriptor = descriptor([(0, 0, FULL, ANN)], "S-1-5-18")

    def unplug(self) -> None:
        self.share.down = True

    def set(self, name: str, **changes: object) -> None:
        """Change what a look at a file says."""
        look, content = self.share.files[name]
        self.share.files[name] = (replace(look, changed=next(self._clock), **changes), content)  # type: ignore[arg-type]


@pytest.fixture
def world() -> MemoryShareWorld:
    return MemoryShareWorld()


@pytest.mark.parametrize("check", CONNECTOR_CHECKS, ids=lambda check: check.__name__)
def test_smb_keeps_the_contract_over_a_share_in_memory(check: Callable[[World], None], world: MemoryShareWorld) -> None:
    """The SMB connector does what every connector must."""
    check(world)


def walk(world: MemoryShareWorld) -> tuple[Connector, list[Change]]:
    connector = world.connector()
    return connector, list(connector.changes(None))


def left_out(changes: list[Change]) -> dict[str, tuple[str | None, str]]:
    return {change.location: (change.native_id, change.reason) for change in changes if isinstance(change, Skip)}


def listed(changes: list[Change]) -> dict[str, Upsert]:
    return {change.location: change for change in changes if isinstance(change, Upsert)}


@pytest.mark.parametrize("reason", ["unreadable", "vanished", "elsewhere"])
def test_what_was_not_seen_is_not_gone(world: MemoryShareWorld, reason: str) -> None:
    """A folder that cannot be listed makes every container incomplete, unless it leads to another server."""
    world.write("a.txt", b"a")
    world.write("split.txt", b"b")
    world.set("split.txt", descriptor=descriptor([(0, 0, 0x81, ANN), (0, 0, 0x100000, GROUP)], BOB))
    world.share.folders["closed"] = reason

    changes = walk(world)[1]

    assert set(listed(changes)) == {"a.txt", "split.txt"}
    last = {change.id: change.complete for change in changes if isinstance(change, ScopeChange)}
    assert len(last) > 1
    assert set(last.values()) == {reason == "elsewhere"}
    assert "closed" in left_out(changes)


def test_links_and_second_names_are_left_out(world: MemoryShareWorld) -> None:
    """A reparse point is withheld by its id, a second name of a file is none, a file without a number is nothing."""
    for name in ("a.txt", "link.txt", "second.txt", "none.txt"):
        world.write(name, b"x")
    world.set("link.txt", attributes=REPARSE_POINT)
    first = world.share.files["a.txt"][0]
    world.set("second.txt", file_id=first.file_id, created=first.created)
    world.set("none.txt", file_id=0)

    changes = walk(world)[1]

    assert set(listed(changes)) == {"a.txt"}
    skipped = left_out(changes)
    assert {name: reason for name, (_, reason) in skipped.items()} == {
        "link.txt": "reparse point",
        "second.txt": "hard link",
        "none.txt": "no identity",
    }
    assert skipped["link.txt"][0] is not None
    assert skipped["second.txt"][0] is None


@pytest.mark.parametrize("when", ["before the content", "after the content"])
def test_content_under_other_rules_is_not_returned(world: MemoryShareWorld, when: str) -> None:
    """Rules of the file or of the share that change around the read end it; untouched, the file is read."""
    world.write("a.txt", b"a")
    connector, changes = walk(world)
    document = listed(changes)["a.txt"]
    assert connector.read(document, 10) == b"a"

    def change(path: str) -> None:
        world.share.share_descriptor = descriptor([(0, 0, FULL, ANN)], "S-1-5-18")

    if when == "before the content":
        world.share.before_look = change
    else:
        world.share.before_read = change
    with pytest.raises(SkippableError) as caught:
        connector.read(document, 10)
    assert caught.value.reason == "changed"


def test_a_file_in_the_place_of_another_is_not_read(world: MemoryShareWorld) -> None:
    """The same name with another birth is another document."""
    world.write("a.txt", b"a")
    connector, changes = walk(world)
    world.set("a.txt", created=999)

    with pytest.raises(SkippableError, match="another file is in its place"):
        connector.read(listed(changes)["a.txt"], 10)


def test_a_root_that_cannot_be_listed_is_an_error(world: MemoryShareWorld) -> None:
    """Nothing to see is not nothing there."""
    world.share.folders[""] = "unreadable"

    with pytest.raises(RetriableError, match="root of the share"):
        walk(world)


def test_names_are_kept_exactly_and_shown_harmlessly(world: MemoryShareWorld) -> None:
    """A name with half a surrogate pair, and one with a line break, are documents with names that people can see."""
    world.write("\ud800.txt", b"1")
    world.write("a\nb.txt", b"2")

    connector, changes = walk(world)

    found = listed(changes)
    assert set(found) == {"\\ud800.txt", "a\\nb.txt"}
    assert connector.read(found["\\ud800.txt"], 10) == b"1"


OPTIONS: dict[str, object] = {
    "server": "files.example",
    "share": "docs",
    "username": "EXAMPLE\\remit",
    "password_file": "secret",
    "domain_sid": DOMAIN,
}


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"server": "\\\\files\\docs"}, "server"),
        ({"share": "docs/sub"}, "share"),
        ({"share": ""}, "share"),
        ({"password": "x"}, "password"),
        ({"domain_sid": "EXAMPLE"}, "domain_sid"),
        ({"share_access": []}, "share_access"),
        ({"share_access": ["Everyone"]}, "share_access"),
        ({"rights": "all"}, "rights"),
        ({"auth": "basic"}, "auth"),
        ({"encryption": "off"}, "encryption"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(tmp_path: Path, change: dict[str, object], option: str) -> None:
    """Each wrong option is an error with its key; nothing is opened and no password read for it."""
    build("smb", OPTIONS, tmp_path)

    with pytest.raises(OptionError) as caught:
        build("smb", OPTIONS | change, tmp_path)

    assert caught.value.option == option


def test_the_documented_options_are_right(tmp_path: Path) -> None:
    """The example of the documentation is built."""
    page = (Path(__file__).parents[2] / "docs/connectors/smb.md").read_text()
    options = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])["sources"][0]
    del options["name"]

    build(options.pop("kind"), options, tmp_path)
