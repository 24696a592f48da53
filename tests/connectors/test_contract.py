"""The connectors and directories of the house keep the contract that third parties are held to; and it can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from acl.model import NOBODY, Clause, Effect, Rule, ScopeId
from acl.principal import Principal, realm
from connectors.base import Connector, Membership, own_realm
from connectors.directories.base import Directory
from connectors.directories.static import StaticDirectory
from connectors.errors import RetriableError
from connectors.testing.contract import CONNECTOR_CHECKS, GROUP_CHECKS, ContractError, GroupsWorld, World, verify
from connectors.testing.directory_contract import DIRECTORY_CHECKS, DirectoryWorld
from connectors.testing.hostile import MemoryDocument, MemoryScope, MemorySource
from tests.connectors.trees import filesystem

EVERYBODY = Clause((Rule(Effect.ALLOW, frozenset({Principal(realm("posix", "corp"), "other")})),))
FOLDER = ScopeId("folder")


class FilesystemWorld:
    """A folder on disk."""

    def __init__(self, base: Path) -> None:
        self._root = base / "root"
        self._root.mkdir(mode=0o755)

    def connector(self) -> Connector:
        return filesystem(self._root)

    def write(self, name: str, content: bytes) -> None:
        path = self._root / name
        before = path.stat().st_ctime_ns if path.exists() else 0
        path.write_bytes(content)
        # An old kernel's clock may stand still between two writes; a user's edits are further apart.
        while path.stat().st_ctime_ns == before:
            path.write_bytes(content)
        path.chmod(0o644)

    def remove(self, name: str) -> None:
        (self._root / name).unlink()

    def narrow(self, name: str) -> None:
        (self._root / name).chmod(0o600)

    def narrow_container(self) -> None:
        self._root.chmod(0o700)

    def unplug(self) -> None:
        self._root.rename(self._root.with_name("elsewhere"))


class MemoryWorld:
    """The hostile source, on its best behaviour."""

    def __init__(self, source: MemorySource | None = None) -> None:
        self.source = source or MemorySource()
        self.source.scopes[FOLDER] = MemoryScope(None, EVERYBODY)

    def connector(self) -> Connector:
        return self.source

    def write(self, name: str, content: bytes) -> None:
        self.source.documents[name] = MemoryDocument(content, FOLDER, EVERYBODY)

    def remove(self, name: str) -> None:
        del self.source.documents[name]

    def narrow(self, name: str) -> None:
        self.source.documents[name] = MemoryDocument(self.source.documents[name].content, FOLDER, NOBODY)

    def narrow_container(self) -> None:
        self.source.scopes[FOLDER] = MemoryScope(None, NOBODY)

    def unplug(self) -> None:
        self.source.faults.fail_at = 0
        self.source.faults.error = RetriableError("unplugged")
        self.source.faults.check_error = "unplugged"


@pytest.mark.parametrize("check", CONNECTOR_CHECKS, ids=lambda check: check.__name__)
def test_filesystem_keeps_the_contract(check: Callable[[World], None], tmp_path: Path) -> None:
    """The file system connector does what every connector must."""
    check(FilesystemWorld(tmp_path))


@pytest.mark.parametrize("check", CONNECTOR_CHECKS, ids=lambda check: check.__name__)
def test_memory_source_keeps_the_contract(check: Callable[[World], None]) -> None:
    """Without faults the hostile source does what every connector must."""
    check(MemoryWorld())


class MemoryGroups:
    """The hostile source with groups of its own."""

    def __init__(self, source: MemorySource | None = None) -> None:
        self.source = source or MemorySource()
        self.source.groups = {}

    def connector(self) -> Connector:
        return self.source

    def fill(self, name: str, number: int) -> None:
        groups = self.source.groups
        assert groups is not None
        groups[_own(name)] = {Principal(realm("ad"), f"person-{one}") for one in range(number)}

    def drop(self, name: str) -> None:
        groups = self.source.groups
        assert groups is not None
        del groups[_own(name)]

    def hide(self, name: str) -> None:
        self.source.faults.unknown_groups = {_own(name)}


def _own(name: str) -> Principal:
    return Principal(own_realm("memory"), name)


@pytest.mark.parametrize("check", GROUP_CHECKS, ids=lambda check: check.__name__)
def test_memory_groups_keep_the_contract(check: Callable[[GroupsWorld], None]) -> None:
    """Without faults the hostile source says who is in its groups as every connector must."""
    check(MemoryGroups())


class _Misled(MemoryGroups):
    """Groups that were read halfway: those that cannot be read are sent as empty ones, and none loses a member."""

    def fill(self, name: str, number: int) -> None:
        groups = self.source.groups
        assert groups is not None
        before = groups.get(_own(name), set())
        super().fill(name, number)
        groups[_own(name)] |= before

    def drop(self, name: str) -> None:
        pass

    def hide(self, name: str) -> None:
        super().fill(name, 0)


@pytest.mark.parametrize("check", GROUP_CHECKS[1:], ids=lambda check: check.__name__)
def test_the_contract_of_groups_can_be_broken(check: Callable[[GroupsWorld], None]) -> None:
    """Each check fails on a source that only adds."""
    with pytest.raises(ContractError):
        check(_Misled())


@pytest.mark.parametrize(
    "sent",
    [
        (Membership(Principal(realm("ad"), "S-1-5-21-1-2-3-512"), frozenset(), "Domain Admins"),),
        (Membership(_own("a"), frozenset(), "a"), Membership(_own("a"), frozenset(), "a")),
        (Membership(_own("a"), frozenset(), "a"), Membership(Principal(own_realm("other"), "b"), frozenset(), "b")),
    ],
    ids=["of a directory", "twice", "of another source"],
)
def test_groups_of_others_break_the_contract(sent: tuple[Membership, ...]) -> None:
    """A group of a directory or of another source, and one that comes twice, are caught."""
    source = MemorySource()
    source.skips += sent  # type: ignore[arg-type]  # what the walk sends besides documents
    with pytest.raises(ContractError, match="speaks_of_its_own_groups_alone"):
        verify(lambda: nullcontext(MemoryWorld(source)), CONNECTOR_CHECKS)


def _repeat(source: MemorySource) -> None:
    source.faults.repeat = 2


def _scopes_last(source: MemorySource) -> None:
    source.faults.scopes_last = True


def _withhold_scopes(source: MemorySource) -> None:
    source.faults.withhold_scopes = {FOLDER}


def _stop(source: MemorySource) -> None:
    source.faults.stop_at = 1


def _withhold_documents(source: MemorySource) -> None:
    source.faults.withhold_documents = {"a.txt"}


def _other_content(source: MemorySource) -> None:
    source.faults.content_at_read = {"a.txt": b"other", "a.bin": b"other"}


def _changing(source: MemorySource) -> None:
    source.faults.changing = {"a.txt", "a.bin"}


def _check_error(source: MemorySource) -> None:
    source.faults.check_error = "broken"


@pytest.mark.parametrize(
    ("misbehave", "caught_by"),
    [
        (_repeat, "ends_with_one_scan_complete"),
        (_repeat, "lists_what_exists"),
        (_scopes_last, "sends_containers_before_content"),
        (_withhold_scopes, "sends_containers_before_content"),
        (_stop, "ends_with_one_scan_complete"),
        (_withhold_documents, "lists_what_exists"),
        (_other_content, "reads_what_was_written"),
        (_changing, "reads_what_was_written"),
        (_changing, "skips_what_vanished"),
        (_check_error, "can_be_closed"),
    ],
)
def test_contract_catches(misbehave: Callable[[MemorySource], None], caught_by: str) -> None:
    """A connector that misbehaves fails the check about just that, and `verify` names it."""

    @contextmanager
    def worlds() -> Iterator[World]:
        source = MemorySource()
        misbehave(source)
        yield MemoryWorld(source)

    with pytest.raises(ContractError, match=rf"(?m)^{caught_by}: "):
        verify(worlds, CONNECTOR_CHECKS)


class _Careless(MemorySource):
    """Reads without looking again, and takes an outage for an empty source."""

    def _compare(self, document: object) -> None:
        pass


@pytest.mark.parametrize("caught_by", ["refuses_other_content", "refuses_other_rules", "refuses_other_rules_around"])
def test_contract_catches_a_read_without_a_second_look(caught_by: str) -> None:
    """A connector that returns content under rules that are no longer true fails."""

    @contextmanager
    def worlds() -> Iterator[World]:
        yield MemoryWorld(_Careless())

    with pytest.raises(ContractError, match=rf"(?m)^{caught_by}: "):
        verify(worlds, [check for check in CONNECTOR_CHECKS if check.__name__ == caught_by])


def test_contract_catches_an_outage_that_looks_empty() -> None:
    """A connector that lists nothing when its source is out of reach fails."""

    class Emptying(MemoryWorld):
        def unplug(self) -> None:
            self.source.empty()

    @contextmanager
    def worlds() -> Iterator[World]:
        yield Emptying()

    with pytest.raises(ContractError, match="takes_an_outage_for_an_outage"):
        verify(worlds, CONNECTOR_CHECKS)


class StaticWorld:
    """A static directory's file."""

    attribute = "id"
    enabled = "u-1"
    disabled = "u-2"
    absent = "u-3"
    mutable = ("name", "alice")

    def __init__(self, base: Path) -> None:
        self._path = base / "people.yaml"
        self._directory = StaticDirectory("people", self._path)
        self._write("groups: [sales]", True)

    def directory(self) -> Directory:
        return self._directory

    def leave_group(self) -> None:
        self._write("groups: []", True)

    def disable(self) -> None:
        self._write("groups: [sales]", False)

    def break_down(self) -> None:
        self._path.write_text("version: 1\nusers: [")

    def _write(self, groups: str, enabled: bool) -> None:
        self._path.write_text(
            "version: 1\nusers:\n"
            f"  - {{id: u-1, name: alice, {groups}, enabled: {str(enabled).lower()}}}\n"
            "  - {id: u-2, name: bob, enabled: false}\n"
            "groups:\n  - {id: sales}\n"
        )


@pytest.mark.parametrize("check", DIRECTORY_CHECKS, ids=lambda check: check.__name__)
def test_static_directory_keeps_the_contract(check: Callable[[DirectoryWorld], None], tmp_path: Path) -> None:
    """The static directory does what every directory must."""
    check(StaticWorld(tmp_path))
