"""One person in several directories: links, what is complete, and what happens when one of them cannot answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from acl.decide import Allowed, decide
from acl.model import Acl, Clause, Effect, Rule
from acl.principal import Principal, Realm
from connectors.directories.base import DirectoryUnavailableError as DirectoryUnavailable
from service.authn import Subject, TokenRefusedError
from service.authn.subject import OnBehalf
from service.errors import DirectoryUnavailableError, UnauthenticatedError
from service.identity.callers import Callers
from service.identity.directories import Link
from service.identity.lookups import Keeping
from service.identity.resolver import Identity, Resolved
from service.identity.roles import Roles
from tests.service.directory_fake import FakeDirectory

AD, UNIX, CLOUD = Realm("ad"), Realm("posix:corp"), Realm("entra:t")
LINKS = (Link("corp", "sid", "cloud", "onprem"), Link("cloud", "number", "unix", "uid"))
KEEPING = Keeping(timedelta(seconds=15), timedelta(seconds=60))


class World:
    """alice and bob in three directories, linked one after the other; carol in the first alone."""

    def __init__(self, *, links: tuple[Link, ...] = LINKS) -> None:
        self.seconds = 1000.0
        self.corp, self.cloud = FakeDirectory("corp", AD), FakeDirectory("cloud", CLOUD)
        self.unix = FakeDirectory("unix", UNIX)
        for name in ("alice", "bob"):
            self.corp.add("sid", name, "staff", sid=name)
            self.cloud.add("onprem", name, "team", account=f"cloud-{name}", number=name)
            self.unix.add("uid", name, "gid-7", account=f"unix-{name}")
        self.corp.add("sid", "carol", "staff")
        every = (self.corp, self.cloud, self.unix)
        start = datetime.now(UTC)
        for one in every:
            one.now = lambda: start + timedelta(seconds=self.seconds)
        self.identity = Identity(
            {one.name: one for one in every},
            Roles({}),
            links=links,
            keeping={one.name: KEEPING for one in every},
            now=lambda: start + timedelta(seconds=self.seconds),
            clock=lambda: self.seconds,
        )
        self.expires = start + timedelta(days=1)

    def resolve(self, name: str = "alice") -> Resolved:
        """Resolve somebody of the first directory."""
        return self.identity.resolve(Subject("https://i", name, "corp", "sid", name, self.expires, "t"))


@pytest.fixture
def world() -> World:
    """The three directories."""
    return World()


def allowed(found: Resolved, *realms: Realm) -> list[bool]:
    """Whether a document opens that everybody of a realm may read, but for a group that nobody is in."""
    at = found.caller.resolved_at
    return [isinstance(decide(_members_but_enemies(one), found.caller, at), Allowed) for one in realms]


def _members_but_enemies(of: Realm) -> Acl:
    deny = Rule(Effect.DENY, frozenset({Principal(of, "enemies")}))
    allow = Rule(Effect.ALLOW, frozenset({Principal(of, "members")}))
    return Acl(None, Clause((deny, allow)))


def test_links_lead_to_everything_that_a_person_holds(world: World) -> None:
    """From the own directory to the next and from there on, with paths, and every realm complete."""
    found = world.resolve()
    assert {p.token for p in found.caller.principals} >= {"ad:staff", "entra:t:team", "posix:corp:gid-7"}
    assert found.caller.complete == {AD, CLOUD, UNIX}
    assert found.caller.subject == "corp/alice"
    assert found.resolution.paths[Principal(UNIX, "gid-7")] == ("unix-alice", "gid-7")
    assert not found.left_out
    assert allowed(found, AD, CLOUD, UNIX) == [True, True, True]


def test_an_account_that_is_not_linked_holds_nothing_there(world: World) -> None:
    """No class of the other realms either, and what names them denies; the own realm is whole."""
    found = world.resolve("carol")
    assert {p.realm for p in found.caller.principals} == {AD}
    assert found.caller.complete == {AD}
    assert not found.left_out
    assert allowed(found, AD, CLOUD, UNIX) == [True, False, False]


def test_a_linked_account_that_is_disabled_holds_nothing(world: World) -> None:
    """Nor what would be reached through it, although it stands enabled there; others are not touched."""
    del world.cloud.accounts["onprem", "alice"]
    assert allowed(world.resolve(), AD, CLOUD, UNIX) == [True, False, False]
    assert allowed(world.resolve("bob"), AD, CLOUD, UNIX) == [True, True, True]


@pytest.mark.parametrize(("down", "left"), [("cloud", [True, False, False]), ("unix", [True, True, False])])
def test_a_directory_that_is_down_withholds_its_realm_alone(world: World, down: str, left: list[bool]) -> None:
    """What names it denies and the answer says so; the others' documents are served; back again it counts again."""
    directory: FakeDirectory = getattr(world, down)
    directory.down = f"{down} is gone"
    found = world.resolve()
    assert allowed(found, AD, CLOUD, UNIX) == left
    assert found.left_out == {down: f"{down} is gone"}

    directory.down = ""
    world.seconds += 1
    assert allowed(world.resolve(), AD, CLOUD, UNIX) == [True, True, True]


def test_everybody_does_not_wait_for_a_directory_that_is_down(world: World) -> None:
    """Within a second it is asked once about each person."""
    world.cloud.down = "gone"
    for _ in range(50):
        world.resolve()
    assert world.cloud.asked == 1


def test_the_own_directory_down_refuses(world: World) -> None:
    """Whoever is of another directory is still served."""
    world.corp.down = "gone"
    with pytest.raises(DirectoryUnavailableError, match="gone"):
        world.resolve()
    cloud = Subject("https://i", "alice", "cloud", "onprem", "alice", world.expires, "t")
    assert allowed(world.identity.resolve(cloud), CLOUD, UNIX, AD) == [True, True, False]


def test_an_incomplete_answer_makes_its_realm_incomplete(world: World) -> None:
    """What was found there counts for nothing, because what is missing could deny."""
    world.unix.whole = False
    found = world.resolve()
    assert found.caller.complete == {AD, CLOUD}
    assert allowed(found, AD, CLOUD, UNIX) == [True, True, False]


def test_a_realm_that_two_directories_feed_needs_both(world: World) -> None:
    """One that cannot answer, or does not know the person, may hold a group that denies."""
    world.corp.realm = world.cloud.realm = Realm("ad")
    assert AD in world.resolve().caller.complete
    world.cloud.down = "gone"
    world.seconds += 61
    assert AD not in world.resolve().caller.complete
    assert AD not in world.resolve("carol").caller.complete


def test_links_to_two_accounts_are_to_nobody() -> None:
    """Two ways that end at different accounts: one of them is somebody else's."""
    world = World(links=(*LINKS, Link("corp", "badge", "unix", "uid")))
    world.corp.add("sid", "alice", sid="alice", badge="bob")
    found = world.resolve()
    assert not [p for p in found.caller.principals if p.realm == UNIX]
    assert "two accounts" in found.left_out["unix"]

    world.corp.add("sid", "bob", sid="bob", badge="bob")
    assert allowed(world.resolve("bob"), UNIX) == [True]


def test_nothing_is_reached_through_an_account_that_may_be_somebody_elses() -> None:
    """Two links to two accounts of one directory: what one of those accounts is linked to is not held either."""
    world = World(links=(*LINKS, Link("corp", "badge", "cloud", "onprem")))
    world.corp.add("sid", "alice", sid="alice", badge="bob")
    found = world.resolve()
    assert {p.realm for p in found.caller.principals} == {AD}
    assert set(found.left_out) == {"cloud"}
    assert allowed(world.resolve("bob"), AD, CLOUD, UNIX) == [True, True, True]


def test_links_in_a_circle_end(world: World) -> None:
    """A link back to where it came from changes nothing."""
    circle = World(links=(*LINKS, Link("unix", "number", "corp", "sid"), Link("unix", "number", "cloud", "onprem")))
    circle.unix.add("uid", "alice", account="unix-alice", number="bob")
    found = circle.resolve()
    assert found.caller.subject == "corp/alice"
    assert "entra:t:team" not in {p.token for p in found.caller.principals}
    assert "two accounts" in found.left_out["cloud"]
    assert world.resolve().caller.complete == {AD, CLOUD, UNIX}


def test_a_kept_caller_is_the_same_until_something_changes(world: World) -> None:
    """No directory is asked again; a change in any of them makes a new caller; the credential still bounds it."""
    first = world.resolve()
    assert world.resolve() is first
    assert (world.corp.asked, world.cloud.asked, world.unix.asked) == (1, 1, 1)

    world.unix.add("uid", "alice", account="unix-alice")
    world.unix.everything = True
    for lookups in world.identity._watched:
        lookups.poll()
    assert "posix:corp:gid-7" not in {p.token for p in world.resolve().caller.principals}

    soon = world.corp.now() + timedelta(seconds=2)
    short = world.identity.resolve(Subject("https://i", "alice", "corp", "sid", "alice", soon, "t"))
    assert short.caller.expires_at == soon
    world.seconds += 2
    with pytest.raises(UnauthenticatedError, match="expired"):
        world.identity.resolve(Subject("https://i", "alice", "corp", "sid", "alice", soon, "t"))
    assert world.resolve().caller.expires_at > soon


def test_a_caller_ends_before_its_oldest_answer_is_too_old(world: World) -> None:
    """Whatever directory the answer is from, and even if the caller was made later."""
    world.resolve()
    world.cloud.down = "gone"
    world.seconds += 40
    found = world.resolve()
    assert allowed(found, AD, CLOUD, UNIX) == [True, True, True]
    assert found.caller.expires_at == world.cloud.now() + timedelta(seconds=20)
    world.seconds += 20
    found = world.resolve()
    assert allowed(found, AD, CLOUD, UNIX) == [True, False, False]
    assert "its last answer is 60 s old" in found.left_out["cloud"]


def test_an_answer_from_the_future_is_left_out(world: World) -> None:
    """A directory whose clock runs ahead of itself does not make answers that last longer."""
    now = world.cloud.now
    world.cloud.now = lambda: now() + timedelta(seconds=5)
    found = world.resolve()
    assert "still to come" in found.left_out["cloud"]
    assert allowed(found, AD, CLOUD) == [True, False]


def test_answers_from_before_a_text_are_asked_again(world: World) -> None:
    """`need` reaches every directory: as_of is that of the oldest answer."""
    subject = Subject("https://i", "alice", "corp", "sid", "alice", world.expires, "t")
    assert world.identity.resolve(subject, mark=lambda: 3).as_of == 3
    assert world.identity.resolve(subject, mark=lambda: 8).as_of == 3
    assert world.identity.resolve(subject, mark=lambda: 8, need=8).as_of == 8
    assert (world.corp.asked, world.cloud.asked, world.unix.asked) == (2, 2, 2)


def test_nobody_is_named_while_a_directory_cannot_say_that_they_are_privileged(world: World) -> None:
    """A service names alice while everything answers, and not when her groups in one directory are unknown."""

    def subject(name: str, on_behalf: OnBehalf | None = None) -> Subject:
        return Subject("https://i", name, "corp", "sid", name, world.expires, "t", on_behalf=on_behalf)

    callers = Callers(world.identity, lambda: 0)
    groups, never = frozenset({Principal(AD, "staff")}), frozenset({Principal(CLOUD, "operators")})
    named = subject("alice", OnBehalf("bot", subject("carol"), groups, never))
    assert callers.resolve(named).resolved.caller.subject == "corp/alice"

    world.cloud.down = "gone"
    world.seconds += 61
    with pytest.raises(DirectoryUnavailableError, match="directory `cloud` does not say"):
        callers.resolve(named)
    assert callers.resolve(subject("alice")).resolved.caller.subject == "corp/alice"

    world.cloud.down = ""
    world.seconds += 2
    world.cloud.add("onprem", "alice", "operators", account="cloud-alice")
    world.seconds += 15
    with pytest.raises(TokenRefusedError):
        callers.resolve(named)


# --- roles, while somebody cannot be resolved in full ---

OPERATORS, AUDITORS = Principal(AD, "operators"), {realm: Principal(realm, "auditors") for realm in (CLOUD, UNIX)}


def roles(world: World, audits: Realm, name: str = "alice") -> frozenset[str]:
    """What somebody may do, where auditors are a group of one directory and operators one of the first."""
    world.corp.add("sid", name, "staff", "operators", **({} if name == "carol" else {"sid": name}))
    bindings = {"operator": frozenset({OPERATORS}), "auditor": frozenset({AUDITORS[audits]})}
    world.identity._roles.use(bindings)
    return world.resolve(name).roles


@pytest.mark.parametrize("audits", [CLOUD, UNIX])
def test_a_role_is_nobodys_whose_other_side_cannot_be_ruled_out(world: World, audits: Realm) -> None:
    """While the auditors' directory is down, or the only way to it is, an operator may be an auditor too."""
    assert roles(world, audits) == {"operator"}

    world.cloud.down = "gone"
    world.seconds += 61
    assert roles(world, audits) == frozenset()

    world.cloud.down = ""
    world.seconds += 2
    assert roles(world, audits) == {"operator"}


def test_whoever_has_no_account_there_is_no_auditor(world: World) -> None:
    """carol is linked to nothing, so a directory that is down takes nothing from her; bob is refused by his groups."""
    world.cloud.down = "gone"
    assert roles(world, CLOUD, "carol") == {"operator"}

    world.cloud.down = ""
    world.cloud.add("onprem", "bob", "auditors", account="cloud-bob")
    assert roles(world, CLOUD, "bob") == frozenset()


def test_a_directory_that_is_down_leaves_roles_that_nothing_is_apart_from(world: World) -> None:
    """Two roles of one side are granted, whoever is down."""
    world.corp.add("sid", "alice", "staff", "operators", sid="alice")
    world.identity._roles.use({"operator": frozenset({OPERATORS}), "key-admin": frozenset({AUDITORS[CLOUD]})})
    world.cloud.down = "gone"
    assert world.resolve().roles == {"operator"}


def test_an_answer_through_a_service_is_incomplete_when_either_is(world: World) -> None:
    """The person is known in full and the service is not, or the other way round."""

    def named(person: str, service: str) -> bool:
        by = OnBehalf("bot", _subject(world, service), frozenset({Principal(AD, "staff")}), frozenset())
        return Callers(world.identity, lambda: 0).resolve(_subject(world, person, by)).incomplete

    assert not named("alice", "bob")
    world.cloud.down = "gone"
    world.seconds += 61
    assert named("alice", "carol")
    assert named("carol", "alice")
    assert not named("carol", "carol")


def _subject(world: World, name: str, by: OnBehalf | None = None) -> Subject:
    return Subject("https://i", name, "corp", "sid", name, world.expires, "t", on_behalf=by)


def test_health_names_the_directory_that_is_down(world: World) -> None:
    """Each by its own name, with the reason; it is said once, and once that it answers again."""
    health = world.identity.failures()
    assert {name: why() for name, why in health.items()} == {
        "corp": None,
        "cloud": None,
        "unix": None,
    }
    lookups = world.identity._lookups["cloud"]
    with capture_logs() as logged:
        for down in ("gone", "gone", ""):
            world.cloud.down = down
            try:
                lookups.poll()
            except DirectoryUnavailable as err:
                lookups._failed(err.detail)
            else:
                lookups._failed(None)
            assert health["cloud"]() == (down or None)
            assert health["unix"]() is None
    assert [(one["event"], one["directory"]) for one in logged] == [
        ("directory_unavailable", "cloud"),
        ("directory_available", "cloud"),
    ]


def test_health_knows_of_a_directory_that_is_asked_every_time() -> None:
    """Its last answer says whether it answers; somebody whom it does not know is an answer."""
    directory = FakeDirectory("people", AD)
    identity = Identity({"people": directory}, Roles({}))
    (why,) = identity.failures().values()
    subject = Subject("https://i", "x", "people", "sid", "x", datetime.now(UTC) + timedelta(hours=1), "t")

    directory.down = "line 3 is wrong"
    with pytest.raises(DirectoryUnavailableError):
        identity.resolve(subject)
    assert why() == "line 3 is wrong"
    directory.down = ""
    with pytest.raises(UnauthenticatedError):
        identity.resolve(subject)
    assert why() is None
