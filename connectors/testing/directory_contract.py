"""What every directory must do, as checks that need no test framework: `verify(make_world, DIRECTORY_CHECKS)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from connectors.directories.base import Directory, DirectoryUnavailableError, UnknownSubjectError, Watched
from connectors.testing.contract import ContractError, require


class DirectoryWorld(Protocol):
    """A directory with one enabled account, one disabled account, and handles on both.

    attribute: the immutable attribute by which the checks ask.
    enabled, disabled: the two accounts' values of it.
    absent: a value that an account could have, and none has.
    mutable: an attribute to be refused, such as a login name, with the enabled account's value.
    """

    attribute: str
    enabled: str
    disabled: str
    absent: str
    mutable: tuple[str, str]

    def directory(self) -> Directory:
        """Return the directory; the same one each time, so that what it keeps is tested too."""

    def leave_group(self) -> None:
        """Take the enabled account out of a group."""

    def disable(self) -> None:
        """Disable the enabled account."""

    def break_down(self) -> None:
        """Make the directory unreadable."""


def resolves_an_enabled_account(world: DirectoryWorld) -> None:
    """An enabled account has principals, a way to each, and realms that are complete."""
    found = world.directory().resolve(world.attribute, world.enabled)
    require(bool(found.principals), "the account holds nothing")
    require(set(found.paths) == set(found.principals), "a principal has no path, or a path no principal")
    require(all(found.paths.values()), "a path is empty")
    require(bool(found.complete), "no realm is complete")
    require(found.resolved_at.tzinfo is not None, "the time has no zone")
    require(all(p.realm in found.complete for p in found.principals), "a principal's realm is not complete")
    require(all(world.directory().feeds(name) for name in found.complete), "it does not say that it feeds a realm")


def knows_nobody_else(world: DirectoryWorld) -> None:
    """What is not exactly the account's value is nobody: absent, empty, in another case, with a space or a wildcard."""
    value = world.enabled
    for other in (
        "",
        world.absent,
        "nobody-has-this",
        "*",
        f"{value}*",
        f" {value}",
        f"{value} ",
        f"{value}\x00",
        value.swapcase(),
    ):
        if other != value:
            _require_unknown(world, other)
    resolves_an_enabled_account(world)


def does_not_resolve_a_disabled_account(world: DirectoryWorld) -> None:
    """A disabled account is nobody."""
    _require_unknown(world, world.disabled)
    resolves_an_enabled_account(world)


def notices_at_once_that_a_group_is_left(world: DirectoryWorld) -> None:
    """The next answer after a change is the changed one."""
    before = world.directory().resolve(world.attribute, world.enabled)
    world.leave_group()
    after = world.directory().resolve(world.attribute, world.enabled)
    require(after.principals < before.principals, "the account holds what it held before")


def notices_at_once_that_an_account_is_disabled(world: DirectoryWorld) -> None:
    """The next answer after an account was disabled is that it is nobody."""
    resolves_an_enabled_account(world)
    world.disable()
    _require_unknown(world, world.enabled)


def refuses_a_mutable_attribute(world: DirectoryWorld) -> None:
    """An attribute that can be given to somebody else does not identify anybody."""
    try:
        world.directory().resolve(*world.mutable)
    except (UnknownSubjectError, DirectoryUnavailableError):
        return
    raise ContractError(f"attribute `{world.mutable[0]}` was accepted")


def says_when_it_cannot_answer(world: DirectoryWorld) -> None:
    """An unreadable directory is unavailable, for accounts it knew and for others; it does not answer from memory."""
    resolves_an_enabled_account(world)
    world.break_down()
    for value in (world.enabled, world.disabled, world.absent):
        try:
            world.directory().resolve(world.attribute, value)
        except DirectoryUnavailableError as err:
            require(bool(err.detail), "the error has no sentence for people")
        except UnknownSubjectError:
            raise ContractError("it claims to know that the account does not exist") from None
        else:
            raise ContractError("it answered from memory")


def says_what_changed(world: DirectoryWorld) -> None:
    """A directory whose answers are kept names whoever lost a group or was disabled, from the position before it."""
    directory = world.directory()
    if not isinstance(directory, Watched):
        return
    account = directory.resolve(world.attribute, world.enabled).account_id
    start = directory.changes("")
    require(start.everything, "from no position it does not say that everything may have changed")
    for change in (world.leave_group, world.disable):
        position = directory.changes("").position
        change()
        found = directory.changes(position)
        require(found.everything or account in found.accounts, f"{change.__name__}: it says that nothing changed")
        again = directory.changes(position)
        require(again.everything or account in again.accounts, "the same position says something else now")


DIRECTORY_CHECKS: Final[tuple[Callable[[DirectoryWorld], None], ...]] = (
    resolves_an_enabled_account,
    knows_nobody_else,
    does_not_resolve_a_disabled_account,
    notices_at_once_that_a_group_is_left,
    notices_at_once_that_an_account_is_disabled,
    refuses_a_mutable_attribute,
    says_what_changed,
    says_when_it_cannot_answer,
)


def _require_unknown(world: DirectoryWorld, value: str) -> None:
    try:
        world.directory().resolve(world.attribute, value)
    except UnknownSubjectError:
        return
    raise ContractError(f"{value!r} was resolved")
