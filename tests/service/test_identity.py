"""From a subject to a caller and its roles, and what `remit init` and `remit token` make."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acl.principal import Principal, Realm, realm
from connectors.directories import base as directories
from connectors.directories.static import StaticDirectory
from service import devissuer
from service.audit import AuditKey, Verifier
from service.authn import Authenticator, Subject, TokenRefusedError
from service.errors import DirectoryUnavailableError, StartError, UnauthenticatedError
from service.identity.directories import build
from service.identity.resolver import MAX_RESOLUTION_AGE, Identity
from service.identity.roles import Roles
from service.keys import open_provider
from service.sections import initial
from service.settings import load

PEOPLE = """\
version: 1
id_domain: corp
users:
  - {id: u-1001, name: alice, display_name: Alice Ahlgren, uid: 20001, gid: 20101, groups: [sales, operators]}
  - {id: u-1002, name: bob, uid: 20002, gid: 20102, groups: [fin-emea]}
  - {id: u-1003, name: carol, uid: 20003, gid: 20102, groups: [operators], enabled: false}
groups:
  - {id: sales, gid: 20101}
  - {id: operators}
  - {id: fin-emea, gid: 20110, member_of: [finance]}
  - {id: finance, gid: 20102}
"""
STATIC, POSIX = realm("static", "people"), realm("posix", "corp")
OPERATORS = Principal(STATIC, "group-operators")
ROLES = Roles({"operator": frozenset({OPERATORS}), "auditor": frozenset()})


def subject(value: str = "u-1001", *, attribute: str = "id", directory: str = "people") -> Subject:
    """A verified subject whose credential is good for an hour."""
    expires = datetime.now(UTC) + timedelta(hours=1)
    return Subject("https://issuer", value, directory, attribute, value, expires, "t-1")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """The directory's file."""
    path = tmp_path / "people.yaml"
    path.write_text(PEOPLE)
    return path


@pytest.fixture
def identity(people: Path) -> Identity:
    """Identity over one static directory."""
    return Identity({"people": StaticDirectory("people", people)}, ROLES)


def test_a_caller_holds_everything_that_the_directory_says(identity: Identity) -> None:
    """Principals, paths, complete realms, roles and times, all from one resolution."""
    before = datetime.now(UTC)
    resolved = identity.resolve(subject("u-1002"))

    caller = resolved.caller
    assert caller.subject == "people/u-1002"
    assert {p.token for p in caller.principals} == {
        "posix:corp:uid-20002",
        "posix:corp:gid-20102",
        "posix:corp:gid-20110",
        "posix:corp:other",
        "static:people:user-u-1002",
        "static:people:group-fin-emea",
        "static:people:group-finance",
        "static:people:members",
    }
    assert caller.complete == {STATIC, POSIX}
    assert resolved.resolution.paths[Principal(POSIX, "gid-20102")] == ("bob", "fin-emea", "finance")
    assert resolved.roles == frozenset()
    assert before <= caller.resolved_at <= datetime.now(UTC)
    assert caller.expires_at == caller.resolved_at + MAX_RESOLUTION_AGE


def test_a_caller_ends_with_its_credential(identity: Identity) -> None:
    """A credential that ends before the resolution does ends the caller, and one that has ended gives none."""
    soon = datetime.now(UTC) + timedelta(seconds=20)
    assert identity.resolve(replace(subject(), expires_at=soon)).caller.expires_at == soon

    with pytest.raises(UnauthenticatedError, match="expired"):
        identity.resolve(replace(subject(), expires_at=datetime.now(UTC)))


@pytest.mark.parametrize("value", ["u-1003", "u-9999", "alice", "U-1001", "u-1001 ", "20001"])
def test_an_account_that_is_unknown_or_disabled_is_nobody(identity: Identity, value: str) -> None:
    """Disabled, unknown, a name or another attribute in place of the id: nobody; the exact id is somebody."""
    with pytest.raises(UnauthenticatedError):
        identity.resolve(subject(value))
    assert identity.resolve(subject()).caller.subject == "people/u-1001"


def test_a_change_of_the_directory_is_in_force_at_once(identity: Identity, people: Path) -> None:
    """A group that is taken away, and an account that is disabled, count on the next question."""
    assert OPERATORS in identity.resolve(subject()).caller.principals

    people.write_text(PEOPLE.replace("groups: [sales, operators]", "groups: [sales]"))
    resolved = identity.resolve(subject())
    assert OPERATORS not in resolved.caller.principals
    assert resolved.roles == frozenset()

    people.write_text(PEOPLE.replace("groups: [sales, operators]}", "groups: [sales], enabled: false}"))
    with pytest.raises(UnauthenticatedError):
        identity.resolve(subject())


@pytest.mark.parametrize("damage", ["missing", "broken", "half"])
def test_a_directory_that_cannot_be_read_in_full_is_unavailable(identity: Identity, people: Path, damage: str) -> None:
    """It never means that somebody has no groups, nor those of before; repaired, it answers again."""
    assert identity.resolve(subject()).roles == {"operator"}
    match damage:
        case "missing":
            people.unlink()
        case "broken":
            people.write_text("version: 1\nusers: [")
        case _:
            people.write_text(PEOPLE[: PEOPLE.index("groups:\n")])

    with pytest.raises(DirectoryUnavailableError):
        identity.resolve(subject())

    people.write_text(PEOPLE)
    assert identity.resolve(subject()).roles == {"operator"}


def test_a_directory_that_is_not_there_is_unavailable(identity: Identity) -> None:
    """A subject of a directory that the service does not have is refused, not resolved by another one."""
    with pytest.raises(DirectoryUnavailableError):
        identity.resolve(subject(directory="others"))


class Fixed:
    """A directory that says it answered at a given moment."""

    name = "people"

    def __init__(self, at: datetime) -> None:
        self.at = at

    def resolve(self, attribute: str, value: str) -> directories.Resolution:
        """The one account."""
        held = frozenset({OPERATORS})
        return directories.Resolution(value, value, held, {OPERATORS: ()}, frozenset({STATIC}), self.at)

    def feeds(self, realm: Realm) -> bool:
        """Its own."""
        return realm == STATIC


def test_a_resolution_of_another_time_is_not_used() -> None:
    """Older than the bound, or from the future: unavailable; just within the bound it counts for what is left."""
    now = datetime(2026, 11, 22, tzinfo=UTC)
    young = now - MAX_RESOLUTION_AGE + timedelta(microseconds=1)
    asked = replace(subject(), expires_at=now + timedelta(hours=1))

    def resolve(at: datetime) -> datetime:
        return Identity({"people": Fixed(at)}, ROLES, now=lambda: now).resolve(asked).caller.expires_at

    assert resolve(young) == now + timedelta(microseconds=1)
    assert resolve(now) == now + MAX_RESOLUTION_AGE
    for other in (now - MAX_RESOLUTION_AGE, now + timedelta(microseconds=1)):
        with pytest.raises(DirectoryUnavailableError):
            resolve(other)


def test_equal_ids_of_two_directories_are_two_callers() -> None:
    """The caller's subject names the directory."""
    now = datetime.now(UTC)
    identity = Identity({"a": Fixed(now), "b": Fixed(now)}, ROLES)

    subjects = {identity.resolve(subject(directory=name)).caller.subject for name in ("a", "b")}

    assert subjects == {"a/u-1001", "b/u-1001"}


def test_a_role_is_its_groups_and_nobody_elses() -> None:
    """Who holds the group has the role; others do not, and a role that is bound to nobody is nobody's."""
    assert ROLES.of({OPERATORS, Principal(POSIX, "other")}) == {"operator"}
    assert ROLES.of({Principal(STATIC, "group-sales")}) == frozenset()
    assert ROLES.of(()) == frozenset()


# --- remit init, remit token ---


def test_what_init_writes_starts(tmp_path: Path) -> None:
    """Settings, directory, keys and issuer fit together: a token for alice is alice, an operator; bob audits."""
    written = initial.write(tmp_path / "new" / "remit")
    folder = tmp_path / "new" / "remit"

    settings = load(folder / "remit.yaml")
    authenticator = Authenticator(settings.issuers)
    (directory,) = settings.directories
    identity = Identity({directory.name: build(directory, settings.base)}, Roles(settings.roles))
    alice = identity.resolve(authenticator.authenticate(f"Bearer {devissuer.mint(settings, 'alice')}"))
    bob = identity.resolve(authenticator.authenticate(f"Bearer {devissuer.mint(settings, 'bob')}"))

    assert (alice.resolution.account_id, alice.roles) == ("u-1001", frozenset({"key-admin", "operator"}))
    assert (bob.resolution.account_id, bob.roles) == ("u-1002", frozenset({"auditor"}))
    assert open_provider(settings.keys).key_id
    assert Verifier.parse((folder / "keys/audit.pub").read_text()) == AuditKey.load(settings.keys.audit).verifier
    assert sorted(written) == sorted(p for p in folder.rglob("*") if p.is_file())


def test_secrets_are_private(tmp_path: Path) -> None:
    """Every file with a secret is 0600 in a folder that is 0700."""
    initial.write(tmp_path)

    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "keys").iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"remit.kek", "audit.key", "dev.private.json"}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "name", ["remit.yaml", "people.yaml", "keys/remit.kek", "keys/audit.key", "keys/dev.jwks.json"]
)
def test_init_overwrites_nothing(tmp_path: Path, name: str) -> None:
    """One file that is there, even a dangling link, leaves the folder exactly as it was."""
    (tmp_path / "keys").mkdir()
    (tmp_path / name).symlink_to("nowhere")

    with pytest.raises(StartError, match=f"{name} exists: `remit init` overwrites nothing"):
        initial.write(tmp_path)

    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")} == {"keys", name}
    (tmp_path / name).unlink()
    assert initial.write(tmp_path)


@pytest.mark.parametrize("nth", range(7))
def test_init_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Whichever file the disk refuses, the folder that was made for them is gone again."""
    link: Callable[..., None] = os.link
    calls = []

    def refusing(source: str, target: str, **options: object) -> None:
        if ".remit-init-" not in str(target):
            calls.append(target)
            if len(calls) == nth + 1:
                raise OSError(errno.ENOSPC, "No space left on device", str(target))
        link(source, target, **options)

    monkeypatch.setattr(os, "link", refusing)
    with pytest.raises(StartError, match="cannot be written: No space left on device"):
        initial.write(tmp_path / "a" / "b")

    assert list(tmp_path.iterdir()) == []


def test_a_token_is_for_a_person_of_that_name_with_an_enabled_account(tmp_path: Path) -> None:
    """Unknown names and disabled accounts get none; the token lives fifteen minutes."""
    initial.write(tmp_path)
    settings = load(tmp_path / "remit.yaml")
    people = tmp_path / "people.yaml"
    now = datetime.now(UTC)
    token = devissuer.mint(settings, "alice", at=now)

    for later, good in ((timedelta(minutes=15, seconds=58), True), (timedelta(minutes=16, seconds=1), False)):
        authenticator = Authenticator(settings.issuers, now=lambda later=later: now + later)  # type: ignore[misc]  # a default
        if good:
            assert authenticator.authenticate(f"Bearer {token}").value == "u-1001"
        else:
            with pytest.raises(TokenRefusedError):
                authenticator.authenticate(f"Bearer {token}")
    for name in ("nobody", "Alice", "u-1001", ""):
        with pytest.raises(StartError, match="no enabled account called"):
            devissuer.mint(settings, name)
    people.write_text(people.read_text().replace("operators, key-admins]}", "operators], enabled: false}"))
    with pytest.raises(StartError, match="no enabled account called `alice`"):
        devissuer.mint(settings, "alice")


def test_the_development_key_is_refused_when_others_can_read_it(tmp_path: Path) -> None:
    """Open to the group, damaged or gone: a sentence each, and no token."""
    initial.write(tmp_path)
    settings = load(tmp_path / "remit.yaml")
    path = tmp_path / "keys/dev.private.json"

    path.chmod(0o640)
    with pytest.raises(StartError, match="open to others"):
        devissuer.mint(settings, "alice")
    path.chmod(0o600)
    assert devissuer.mint(settings, "alice")
    for damage in ("{", "[]", "{}", path.with_name("dev.jwks.json").read_text()):
        path.write_text(damage)
        with pytest.raises(StartError, match="not a private key"):
            devissuer.mint(settings, "alice")
    path.unlink()
    with pytest.raises(StartError, match="lists no development issuer"):
        devissuer.mint(settings, "alice")
