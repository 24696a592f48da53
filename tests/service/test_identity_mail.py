"""The same person by a mail address: only where the settings say who manages it, and only if it is certainly theirs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.principal import Realm
from connectors.directories.mail import MAIL, VERIFIED, address_of, is_domain
from service.authn import Subject
from service.identity.directories import Link
from service.identity.lookups import Keeping
from service.identity.resolver import Identity, Resolved
from service.identity.roles import Roles
from tests.service.directory_fake import FakeDirectory

CORP, PARTNER = Realm("ad"), Realm("ldap:partner")
ALICE = "alice@corp.example"


class World:
    """`corp`, which gives out addresses, and `partner`, which has the same people under ids of its own."""

    def __init__(self, *, start: str = "partner", managed_by: str = "corp", domains: str = "corp.example") -> None:
        self.corp, self.partner = FakeDirectory("corp", CORP), FakeDirectory("partner", PARTNER)
        ends = (start, "corp" if start == "partner" else "partner")
        link = Link(ends[0], MAIL, ends[1], MAIL, frozenset({domains}), managed_by)
        keeping = Keeping(timedelta(0), timedelta(seconds=60))
        self.identity = Identity(
            {"corp": self.corp, "partner": self.partner}, Roles({}), links=[link], keeping=dict.fromkeys(ends, keeping)
        )
        self.start = start

    def account(self, directory: FakeDirectory, account: str, mail: str = ALICE, *, verified: bool = False) -> None:
        """An account that is found by its id, and by its address."""
        facts = {MAIL: mail, VERIFIED: "yes"} if verified else {MAIL: mail}
        for attribute, value in (("id", account), (MAIL, mail)):
            directory.accounts[attribute, value] = (account, {"staff"}, facts)

    def resolve(self, account: str) -> Resolved:
        """Resolve an account of the directory where links start."""
        expires = datetime.now(UTC) + timedelta(days=1)
        return self.identity.resolve(Subject("https://i", account, self.start, "id", account, expires, "t"))

    def realms(self, account: str) -> set[Realm]:
        """The realms that are complete for an account, which are those of which it holds anything."""
        found = self.resolve(account)
        assert {one.realm for one in found.caller.principals} == found.caller.complete
        return set(found.caller.complete)


def test_an_address_that_one_directory_gives_out_and_the_other_vouches_for_links() -> None:
    """From either end."""
    for start, account in (("partner", "p-alice"), ("corp", "c-alice")):
        world = World(start=start)
        world.account(world.corp, "c-alice")
        world.account(world.partner, "p-alice", verified=True)
        assert world.realms(account) == {CORP, PARTNER}


@pytest.mark.parametrize("start", ["partner", "corp"])
def test_an_address_that_nobody_vouches_for_links_nobody(start: str) -> None:
    """People may write any they like into their profile; the verified one, its neighbour, links."""
    world = World(start=start)
    world.account(world.corp, "c-alice")
    world.account(world.partner, "p-alice")
    account = "p-alice" if start == "partner" else "c-alice"

    assert len(world.realms(account)) == 1
    world.account(world.partner, "p-alice", verified=True)
    assert len(world.realms(account)) == 2


def test_an_address_of_another_domain_links_nobody() -> None:
    """Nor one of a domain below or above it."""
    for address in ("alice@other.example", "alice@sub.corp.example", "alice@example", "alice@xcorp.example"):
        world = World()
        world.account(world.corp, "c-alice", address)
        world.account(world.partner, "p-alice", address, verified=True)
        assert world.realms("p-alice") == {PARTNER}


def test_an_address_of_two_accounts_links_neither() -> None:
    """Found twice where it leads to, or where it comes from: whose it is nobody can tell."""
    world = World()
    world.account(world.corp, "c-alice")
    world.account(world.partner, "p-alice", verified=True)
    world.account(world.partner, "p-other", verified=True)
    del world.partner.accounts[MAIL, ALICE]  # the directory finds two, so it names nobody
    assert world.realms("p-alice") == {PARTNER}
    assert world.realms("p-other") == {PARTNER}

    world = World()
    world.account(world.partner, "p-alice", verified=True)
    world.account(world.corp, "c-alice")
    del world.corp.accounts[MAIL, ALICE]
    assert world.realms("p-alice") == {PARTNER}


def test_an_address_that_was_given_to_somebody_else_links_nobody() -> None:
    """The account that is found by it has another one, or the way back leads to another account."""
    world = World()
    world.account(world.partner, "p-alice", verified=True)
    world.corp.accounts[MAIL, ALICE] = ("c-alice", {"staff"}, {MAIL: "alice.new@corp.example"})
    assert world.realms("p-alice") == {PARTNER}

    world = World()
    world.account(world.corp, "c-alice")
    world.account(world.partner, "p-alice", verified=True)
    world.partner.accounts[MAIL, ALICE] = ("p-new", {"staff"}, {MAIL: ALICE, VERIFIED: "yes"})
    assert world.realms("p-alice") == {PARTNER}


def test_a_directory_that_is_down_is_left_out() -> None:
    """Its realm is incomplete, and the answer says so."""
    world = World()
    world.account(world.corp, "c-alice")
    world.account(world.partner, "p-alice", verified=True)
    world.corp.down = "gone"

    found = world.resolve("p-alice")

    assert found.caller.complete == {PARTNER}
    assert found.left_out == {"corp": "gone"}


def test_a_link_that_names_no_domain_links_nobody() -> None:
    """Whatever the directories vouch for."""
    world = World()
    world.identity._links = {"partner": [Link("partner", MAIL, "corp", MAIL)]}
    world.account(world.corp, "c-alice", verified=True)
    world.account(world.partner, "p-alice", verified=True)
    assert world.realms("p-alice") == {PARTNER}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "alice",
            "@corp.example",
            "alice@",
            "alice@corp",
            "a b@corp.example",
            '"a"@corp.example',
            "a@b@c.example",
        ),
        *("alice@corp.example ", "alice@corp.example\0", "al\u00edce@corp.example", "alice@c\u00f6rp.example"),
        *(".alice@corp.example", "a..b@corp.example", "alice@corp..example", "alice@corp.example.", "a@[127.0.0.1]"),
        f"{'a' * 250}@corp.example",
    ],
)
def test_what_is_no_plain_address_is_none(text: str) -> None:
    """Look-alikes, quoted parts, blanks: nobody."""
    assert address_of(text) is None
    assert address_of("Alice.B+x@Corp.Example") == "alice.b+x@corp.example"


@given(st.text(max_size=30))
def test_an_address_has_one_spelling(text: str) -> None:
    """Reading one again changes nothing."""
    found = address_of(text)
    assert found is None or address_of(found) == found


def test_a_domain_is_one() -> None:
    """As the settings name it."""
    assert is_domain("corp.example")
    assert not any(
        is_domain(one) for one in ("Corp.example", "corp", "", "@corp.example", "corp.example ", "*.example")
    )
