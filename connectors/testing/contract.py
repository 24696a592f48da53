"""What every connector and every directory must do, as checks that need no test framework.

In one line, for all of them: `verify(make_world, CONNECTOR_CHECKS)`. Or one test a check, with pytest:

    @pytest.mark.parametrize("check", CONNECTOR_CHECKS, ids=lambda check: check.__name__)
    def test_contract(check, world): check(world)

A world is a source with handles: the check changes it from outside and looks at what the connector makes of it.
Each check needs a fresh world. `GROUP_CHECKS` are for connectors to sources that have groups of their own, and
`connectors.testing.directory_contract` has the checks for directories.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar

from acl.model import Clause, ScopeId, Unknown
from acl.principal import Principal, Realm
from connectors.base import (
    Change,
    Connector,
    Cursor,
    Level,
    Membership,
    MembershipsEnd,
    ScanComplete,
    ScopeChange,
    Skip,
    Upsert,
)
from connectors.errors import FatalError, RetriableError, SkippableError

_W = TypeVar("_W")
_LIMIT: Final = 1 << 20


class ContractError(AssertionError):
    """A connector or directory breaks its contract; the message says which sentence of it, and how."""


class World(Protocol):
    """A source that a check can change. It starts empty of documents, and everything is readable to the connector."""

    def connector(self) -> Connector:
        """Return a new connector to the source as it stands."""

    def write(self, name: str, content: bytes) -> None:
        """Make the document `name`, or give it other content, all in the same one container."""

    def remove(self, name: str) -> None:
        """Delete the document."""

    def narrow(self, name: str) -> None:
        """Take rights away from the document itself, so that its own clause is another one."""

    def narrow_container(self) -> None:
        """Take rights away from the container around the documents, so that its clause is another one."""

    def unplug(self) -> None:
        """Put the source out of reach: nothing of it answers any more."""


class GroupsWorld(Protocol):
    """A source that has groups of its own, none at the start."""

    def connector(self) -> Connector:
        """Return a new connector to the source as it stands."""

    def fill(self, name: str, number: int) -> None:
        """Make the group `name`, or give it other members: the first `number` of those that the source can name."""

    def drop(self, name: str) -> None:
        """Remove the group."""

    def hide(self, name: str) -> None:
        """Take away what it needs to know who is in the group, while it is still seen to exist."""


def verify(make_world: Callable[[], AbstractContextManager[_W]], checks: Sequence[Callable[[_W], None]]) -> None:
    """Run every check in a world of its own. Raises ContractError that lists all that failed."""
    failed: list[str] = []
    for check in checks:
        with make_world() as world:
            try:
                check(world)
            except ContractError as err:
                failed.append(f"{check.__name__}: {err}")
            except Exception as err:  # noqa: BLE001 - a stranger's code may raise anything, and the rest is checked too
                failed.append(f"{check.__name__}: raised {type(err).__name__}: {err}")
    if failed:
        raise ContractError("\n".join(failed))


def ends_with_one_scan_complete(world: World) -> None:
    """A finished walk ends with ScanComplete, and it comes once."""
    world.write("a.txt", b"a")
    changes = _walk(world.connector())
    count = sum(isinstance(change, ScanComplete) for change in changes)
    require(count == 1, f"ScanComplete was sent {count} times")
    require(isinstance(changes[-1], ScanComplete), "something was sent after ScanComplete")


def sends_containers_before_content(world: World) -> None:
    """Whatever a change refers to was sent before it, and no container leads back to itself."""
    world.write("a.txt", b"a")
    known: set[ScopeId] = set()
    for change in _walk(world.connector()):
        match change:
            case ScopeChange(id=scope_id, parent=parent):
                require(parent is None or parent in known, f"`{scope_id}` was sent before its parent `{parent}`")
                known.add(scope_id)
            case Upsert(native_id=native_id, scope=scope):
                require(scope is None or scope in known, f"`{native_id}` was sent before its container `{scope}`")
            case _:
                pass


def lists_what_exists(world: World) -> None:
    """Every document is listed once, with an id of its own."""
    for name in ("a.txt", "b.txt", "c.txt"):
        world.write(name, b"same")
    found = _documents(_walk(world.connector()))
    names = sorted(document.name for document in found)
    require(names == ["a.txt", "b.txt", "c.txt"], f"listed were {names}")
    require(len({document.native_id for document in found}) == 3, "two documents share an id")


def sends_values_that_can_be_stored(world: World) -> None:
    """Texts are valid Unicode, times have a zone, sizes are not negative, rules are clauses or unknown."""
    world.write("a.txt", b"a")
    for change in _walk(world.connector()):
        match change:
            case Upsert():
                texts = [change.native_id, change.version, change.name, change.location, change.media_type]
                require(all(texts), f"`{change.native_id}` has an empty text")
                require(change.modified_at.tzinfo is not None, f"`{change.native_id}` has a time without a zone")
                require(change.size_bytes >= 0, f"`{change.native_id}` has a negative size")
                require(isinstance(change.own, Clause | Unknown), f"`{change.native_id}` has no clause")
            case ScopeChange():
                texts = [change.id, change.location]
                require(isinstance(change.clause, Clause | Unknown), f"`{change.id}` has no clause")
            case Skip():
                texts = [change.native_id or "-", change.location, change.reason, change.detail]
            case Membership():
                texts = [change.name]
            case _:
                texts = []
        for text in texts:
            require(_is_unicode(text), f"{text!r} cannot be encoded as UTF-8")


def repeats_itself(world: World) -> None:
    """A second walk over an unchanged source, by another connector with the cursor, sends the same."""
    world.write("a.txt", b"a")
    world.write("b.txt", b"b")
    first = _walk(world.connector())
    second = _walk(world.connector(), _cursor(first))
    require(set(_documents(first)) == set(_documents(second)), "the documents differ though nothing changed")
    require(set(_scopes(first)) == set(_scopes(second)), "the containers differ though nothing changed")
    require(set(_groups(first)) == set(_groups(second)), "the groups differ though nothing changed")


def speaks_of_its_own_groups_alone(world: World) -> None:
    """Groups are of the source's own realm, each is sent once, and MembershipsEnd comes after the last one."""
    world.write("a.txt", b"a")
    _require_own_groups(_walk(world.connector()))


def writes_a_cursor_of_json(world: World) -> None:
    """The cursor survives being stored as JSON."""
    world.write("a.txt", b"a")
    cursor = _cursor(_walk(world.connector()))
    stored = json.loads(json.dumps(cursor))
    require(stored == dict(cursor), "the cursor is not made of JSON values")
    _cursor(_walk(world.connector(), stored))


def gives_new_content_a_new_version(world: World) -> None:
    """New content means a new version under the same id."""
    world.write("a.txt", b"one")
    before = _document(world, "a.txt")
    world.write("a.txt", b"two")
    after = _document(world, "a.txt")
    require(before.native_id == after.native_id, "the id changed with the content")
    require(before.version != after.version, "the version did not change with the content")


def leaves_out_what_was_removed(world: World) -> None:
    """What was deleted is not listed, and its neighbour still is."""
    world.write("a.txt", b"a")
    world.write("b.txt", b"b")
    cursor = _cursor(_walk(world.connector()))
    world.remove("a.txt")
    names = [document.name for document in _documents(_walk(world.connector(), cursor))]
    require(names == ["b.txt"], f"listed were {names}")


def sends_narrower_rules(world: World) -> None:
    """Rules that were narrowed are sent with the next walk: the document's own, and the container's."""
    world.write("a.txt", b"a")
    before = _walk(world.connector())
    world.narrow("a.txt")
    between = _walk(world.connector())
    require(_documents(before)[0].own != _documents(between)[0].own, "the document's own clause did not change")
    world.narrow_container()
    after = _walk(world.connector())
    require(set(_scopes(between)) != set(_scopes(after)), "no container's clause changed")


def looks_again_at_containers(world: World) -> None:
    """A container whose rules change while the walk goes on is sent again with those that it has at the end."""
    world.write("a.txt", b"a")
    before = {scope.id: scope for scope in _scopes(_walk(world.connector()))}
    walk = world.connector().changes(None)
    for change in walk:
        if isinstance(change, Upsert):
            break
    world.narrow_container()
    again = _scopes(list(walk))
    require(any(before[scope.id].clause != scope.clause for scope in again), "the container was not sent again")


def reads_what_was_written(world: World) -> None:
    """The content comes back byte by byte, up to exactly the limit."""
    content = bytes(range(256)) * 5
    world.write("a.bin", content)
    connector, document = _walked(world, "a.bin")
    require(connector.read(document, _LIMIT) == content, "the content differs")
    require(connector.read(document, len(content)) == content, "the content differs at the limit")


def refuses_to_read_too_much(world: World) -> None:
    """A document over the limit is skipped with the reason `too large`."""
    world.write("a.txt", b"12345")
    connector, document = _walked(world, "a.txt")
    _require_skip(connector, document, "too large", limit_bytes=4)


def refuses_other_content(world: World) -> None:
    """Content that is not of the version that was sent is not returned."""
    world.write("a.txt", b"one")
    connector, document = _walked(world, "a.txt")
    world.write("a.txt", b"two")
    _require_skip(connector, document, "changed")


def refuses_other_rules(world: World) -> None:
    """Content is not returned when the document's own rules are no longer those that were sent."""
    world.write("a.txt", b"one")
    connector, document = _walked(world, "a.txt")
    world.narrow("a.txt")
    _require_skip(connector, document, "changed")


def refuses_other_rules_around(world: World) -> None:
    """Content is not returned when the container's rules are no longer those that were sent."""
    world.write("a.txt", b"one")
    connector, document = _walked(world, "a.txt")
    world.narrow_container()
    _require_skip(connector, document, "changed")


def skips_what_vanished(world: World) -> None:
    """A document that was deleted after the walk is skipped."""
    world.write("a.txt", b"one")
    connector, document = _walked(world, "a.txt")
    world.remove("a.txt")
    _require_skip(connector, document, "vanished")


def takes_an_outage_for_an_outage(world: World) -> None:
    """A source out of reach is an error of the run, and a finding of `check`: never an empty listing."""
    world.write("a.txt", b"a")
    cursor = _cursor(_walk(world.connector()))
    world.unplug()
    for remembered in (cursor, None):
        try:
            changes = _walk(world.connector(), remembered)
        except (RetriableError, FatalError) as err:
            require(bool(err.detail), "the error has no sentence for people")
        else:
            raise ContractError(f"the walk over nothing sent {len(changes)} changes and no error")
    levels = [finding.level for finding in world.connector().check()]
    require(Level.ERROR in levels, "`check` found no error")


def can_be_closed(world: World) -> None:
    """`check` finds no error in a healthy source, and `close` may be called twice."""
    world.write("a.txt", b"a")
    connector = world.connector()
    errors = [finding.text for finding in connector.check() if finding.level is Level.ERROR]
    require(not errors, f"`check` found {errors}")
    connector.close()
    connector.close()


CONNECTOR_CHECKS: Final[tuple[Callable[[World], None], ...]] = (
    ends_with_one_scan_complete,
    sends_containers_before_content,
    lists_what_exists,
    sends_values_that_can_be_stored,
    repeats_itself,
    speaks_of_its_own_groups_alone,
    writes_a_cursor_of_json,
    gives_new_content_a_new_version,
    leaves_out_what_was_removed,
    sends_narrower_rules,
    looks_again_at_containers,
    reads_what_was_written,
    refuses_to_read_too_much,
    refuses_other_content,
    refuses_other_rules,
    refuses_other_rules_around,
    skips_what_vanished,
    takes_an_outage_for_an_outage,
    can_be_closed,
)


def says_who_is_in_a_group(world: GroupsWorld) -> None:
    """Every group is sent with its own members, and an empty one too."""
    world.fill("one", 1)
    world.fill("two", 2)
    world.fill("none", 0)
    changes = _walk(world.connector())
    _require_own_groups(changes)
    sizes = {group.name: len(_members(group)) for group in _groups(changes)}
    # A source may have groups that nobody made here.
    found = {name: sizes.get(name) for name in ("one", "two", "none")}
    require(found == {"one": 1, "two": 2, "none": 0}, f"numbers of members were {found}")


def takes_members_out_of_a_group(world: GroupsWorld) -> None:
    """Who was taken out is not sent any more, who stayed is, and the group is the same one."""
    world.fill("one", 2)
    before = _group(world, "one")
    world.fill("one", 1)
    after = _group(world, "one")
    require(before.group == after.group, "the group's id changed with its members")
    require(_members(after) < _members(before), "who was taken out is still in")


def leaves_out_a_group_that_was_removed(world: GroupsWorld) -> None:
    """A group that is gone is not sent, its neighbour is, and the groups end as if it had never been."""
    world.fill("one", 1)
    world.fill("two", 1)
    world.drop("one")
    changes = _walk(world.connector())
    names = {group.name for group in _groups(changes)}
    require("one" not in names and "two" in names, f"sent were {sorted(names)}")
    _require_own_groups(changes)


def knows_when_it_does_not_know(world: GroupsWorld) -> None:
    """A group whose members cannot be read is not an empty one: its members are unknown, or the groups do not end."""
    world.fill("one", 1)
    world.hide("one")
    try:
        changes = _walk(world.connector())
    except (RetriableError, FatalError):
        return
    unknown = [group for group in _groups(changes) if isinstance(group.members, Unknown)]
    ended = any(change == MembershipsEnd() for change in changes)
    require(bool(unknown) or not ended, "nobody is in a group whose members could not be read")


GROUP_CHECKS: Final[tuple[Callable[[GroupsWorld], None], ...]] = (
    says_who_is_in_a_group,
    takes_members_out_of_a_group,
    leaves_out_a_group_that_was_removed,
    knows_when_it_does_not_know,
)


def require(condition: bool, message: str) -> None:
    """Raise ContractError with the message unless the condition holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise ContractError(message)


def _require_skip(connector: Connector, document: Upsert, reason: str, limit_bytes: int = _LIMIT) -> None:
    try:
        connector.read(document, limit_bytes)
    except SkippableError as err:
        require(err.reason == reason, f"the reason is `{err.reason}`, not `{reason}`")
        return
    raise ContractError("the content was returned")


def _walk(connector: Connector, cursor: Cursor | None = None) -> list[Change]:
    return list(connector.changes(cursor))


def _walked(world: World, name: str) -> tuple[Connector, Upsert]:
    connector = world.connector()
    found = [document for document in _documents(_walk(connector)) if document.name == name]
    require(len(found) == 1, f"`{name}` was listed {len(found)} times")
    return connector, found[0]


def _document(world: World, name: str) -> Upsert:
    return _walked(world, name)[1]


def _documents(changes: Sequence[Change]) -> list[Upsert]:
    return [change for change in changes if isinstance(change, Upsert)]


def _scopes(changes: Sequence[Change]) -> list[ScopeChange]:
    return [change for change in changes if isinstance(change, ScopeChange)]


def _groups(changes: Sequence[Change]) -> list[Membership]:
    return [change for change in changes if isinstance(change, Membership)]


def _group(world: GroupsWorld, name: str) -> Membership:
    found = [group for group in _groups(_walk(world.connector())) if group.name == name]
    require(len(found) == 1, f"the group `{name}` was sent {len(found)} times")
    return found[0]


def _members(group: Membership) -> frozenset[Principal]:
    if isinstance(group.members, Unknown):
        raise ContractError(f"the members of `{group.name}` are unknown: {group.members.reason}")
    return group.members


def _require_own_groups(changes: Sequence[Change]) -> None:
    groups = [group.group for group in _groups(changes)]
    ends = [number for number, change in enumerate(changes) if isinstance(change, MembershipsEnd)]
    realms: set[Realm] = {group.realm for group in groups}
    own = all(name.startswith("source:") for name in realms)
    require(own and len(realms) <= 1, f"groups are of the realms {sorted(realms)}, not of the source's own alone")
    require(len(groups) == len(set(groups)), "a group was sent twice")
    require(len(ends) <= 1, f"MembershipsEnd was sent {len(ends)} times")
    require(not groups or bool(ends), "groups were sent, and MembershipsEnd was not")
    last = max((number for number, change in enumerate(changes) if isinstance(change, Membership)), default=-1)
    require(all(last < end for end in ends), "a group was sent after MembershipsEnd")


def _cursor(changes: Sequence[Change]) -> Cursor:
    last = changes[-1] if changes else None
    if not isinstance(last, ScanComplete):
        raise ContractError("the walk did not end with ScanComplete")
    return last.cursor


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
