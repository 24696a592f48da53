"""Entra ID against a stub that follows Microsoft's documentation; what the product does beyond it is not shown here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from acl.principal import Principal, realm
from connectors.directories.base import BindRefusedError, Directory, DirectoryUnavailableError, UnknownSubjectError
from connectors.directories.entra import Entra
from connectors.directories.graph import CLOUDS, Cloud, GraphAccess, GraphClient, certificate_credential
from connectors.registry import OptionError, build_directory
from connectors.testing.contract import verify
from connectors.testing.directory_contract import DIRECTORY_CHECKS, DirectoryWorld
from tests.support.certificates import Authority
from tests.support.graph_stub import CLIENT, SECRET, TENANT, GraphStub, guid, running_graph

ENTRA = realm("entra", TENANT)
SID = "S-1-5-21-1-2-3-1104"


class Slept:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def directory_of(
    stub: GraphStub, clock: Slept | None = None, *, credential: str | Mapping[str, str] = SECRET, ca: Path | None = None
) -> Entra:
    """The stub as a directory."""
    access = GraphAccess(TENANT, CLIENT, credential, Cloud(stub.url, stub.url), ca or stub.ca)
    clock = clock or Slept()
    return Entra("cloud", TENANT, GraphClient("cloud", access, clock=clock, sleep=clock.sleep))


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[GraphStub]:
    """A tenant."""
    with running_graph(tmp_path) as found:
        yield found


@pytest.fixture
def clock() -> Slept:
    """The clock of throttling."""
    return Slept()


@pytest.fixture
def directory(stub: GraphStub, clock: Slept) -> Iterator[Entra]:
    """The tenant as a directory."""
    found = directory_of(stub, clock)
    yield found
    found.close()


class GraphWorld:
    """Two accounts of a tenant."""

    attribute = "id"
    enabled, disabled, absent = guid(1), guid(2), guid(99)
    mutable = ("userPrincipalName", "u1@corp.example")

    def __init__(self, stub: GraphStub, directory: Entra) -> None:
        self._stub, self._directory = stub, directory
        stub.add(1)
        stub.add(2, enabled=False)
        stub.join(guid(1), guid(50))

    def directory(self) -> Directory:
        return self._directory

    def leave_group(self) -> None:
        self._stub.member_of.clear()
        self._stub.feed["groups"].append({"id": guid(50), "members@delta": [{"id": guid(1), "@removed": {}}]})

    def disable(self) -> None:
        self._stub.users[guid(1)]["accountEnabled"] = False
        self._stub.feed["users"].append({"id": guid(1), "accountEnabled": False})

    def break_down(self) -> None:
        self._stub.refusals = [(500, {})] * 100


@pytest.mark.parametrize("check", DIRECTORY_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(tmp_path: Path, check: Callable[[DirectoryWorld], None]) -> None:
    """The suite that every directory passes."""

    @contextmanager
    def world() -> Iterator[DirectoryWorld]:
        with running_graph(tmp_path) as stub:
            directory = directory_of(stub)
            yield GraphWorld(stub, directory)
            directory.close()

    verify(world, [check])


def test_all_groups_over_all_pages_are_held(stub: GraphStub, directory: Entra) -> None:
    """Nested and circular ones, 1,234 of them in pages of a hundred; with names when an administrator asks."""
    user = stub.add(1, sid=SID)
    for number in range(100, 1334):
        stub.join(user if number % 2 else guid(number - 1), guid(number))
    stub.join(guid(1333), guid(101))
    stub.join(user, guid(100))

    found = directory.resolve("id", user)

    groups = {Principal(ENTRA, guid(number)) for number in range(100, 1334)}
    assert found.principals == groups | {Principal(ENTRA, user), Principal(ENTRA, "members")}
    assert found.complete == {ENTRA}
    assert found.facts == {"id": user, "onPremisesSecurityIdentifier": SID}
    assert directory.explain("id", user).paths[Principal(ENTRA, guid(100))] == ("User 1", f"Group {guid(100)[-4:]}")


def test_guests_and_accounts_without_a_type_are_no_members(stub: GraphStub, directory: Entra) -> None:
    """They hold their groups, and not the class of the tenant's own people."""
    for number, kind in ((1, "Guest"), (2, None), (3, "Member")):
        user = stub.add(number, kind=kind)
        stub.join(user, guid(50))
        held = directory.resolve("id", user).principals
        assert Principal(ENTRA, guid(50)) in held
        assert (Principal(ENTRA, "members") in held) == (kind == "Member")


@pytest.mark.parametrize("enabled", [None, "true", 1])
def test_an_account_of_which_it_is_not_known_is_unavailable(stub: GraphStub, directory: Entra, enabled: object) -> None:
    """`accountEnabled` that cannot be read is no yes; the same account with it is somebody."""
    user = stub.add(1, enabled=enabled)
    with pytest.raises(DirectoryUnavailableError, match="accountEnabled"):
        directory.resolve("id", user)
    stub.users[user]["accountEnabled"] = True
    assert directory.resolve("id", user).account_id == user


def test_a_sid_finds_one_account_or_nobody(stub: GraphStub, directory: Entra) -> None:
    """By the SID of the account on premises; two accounts with one are nobody, and so is what is no SID."""
    user = stub.add(1, sid=SID)
    assert directory.resolve("onPremisesSecurityIdentifier", SID).account_id == user
    stub.add(2, sid=SID)
    for value in (SID, "S-1-5-21-1-2-3-9", "' or '1' eq '1", "*", ""):
        with pytest.raises(UnknownSubjectError):
            directory.resolve("onPremisesSecurityIdentifier", value)
    assert directory.resolve("id", user).account_id == user


@pytest.mark.parametrize("value", ["u1@corp.example", "..", "me", guid(1).upper(), f"{guid(1)}/memberOf", "x" * 65536])
def test_what_is_not_exactly_an_object_id_is_never_asked(stub: GraphStub, directory: Entra, value: str) -> None:
    """No path is built of it."""
    stub.add(1)
    with pytest.raises(UnknownSubjectError):
        directory.resolve("id", value if value != guid(1).upper() else guid(0xABC).upper())
    assert stub.asked == []
    assert directory.find("u1@corp.example") == guid(1)
    assert directory.find("u1@corp.example/../x") is None


def test_more_groups_than_graph_returns_are_an_error(stub: GraphStub, directory: Entra) -> None:
    """Its limit is no shorter list."""
    user = stub.add(1)
    stub.join(user, *(guid(number) for number in range(100, 111)))
    stub.limit = 10
    with pytest.raises(DirectoryUnavailableError, match="Directory_ResultSizeLimitExceeded"):
        directory.resolve("id", user)
    stub.limit = 11
    assert len(directory.resolve("id", user).principals) == 13


def test_throttling_is_waited_for_as_long_as_graph_says(stub: GraphStub, directory: Entra, clock: Slept) -> None:
    """With Retry-After just so long; without it longer each time; beyond the deadline an error, at once for others."""
    user = stub.add(1)
    stub.refusals = [(429, {"retry-after": "3"})]
    assert directory.resolve("id", user).account_id == user
    assert clock.naps == [3.0]

    clock.naps.clear()
    stub.refusals = [(429, {}), (503, {}), (429, {"retry-after": "soon"})]
    assert directory.resolve("id", user).account_id == user
    assert clock.naps == [0.5, 1.0, 2.0]

    stub.refusals = [(429, {"retry-after": "120"})]
    with pytest.raises(DirectoryUnavailableError, match="throttles us for 120 s more"):
        directory.resolve("id", user)
    asked = len(stub.asked)
    with pytest.raises(DirectoryUnavailableError, match="throttles us"):
        directory.resolve("id", user)
    assert len(stub.asked) == asked
    clock.now += 120
    assert directory.resolve("id", user).account_id == user


def test_changes_name_accounts_and_a_changed_group_is_everybody(stub: GraphStub, directory: Entra) -> None:
    """Users by id, removed ones too; a group is everything, and so is a position that Graph no longer knows."""
    first = directory.changes("")
    assert first.everything
    assert not directory.changes(first.position).everything

    stub.feed["users"] += [{"id": guid(1)}, {"id": guid(2), "@removed": {"reason": "changed"}}]
    found = directory.changes(first.position)
    assert (found.everything, found.accounts) == (False, frozenset({guid(1), guid(2)}))
    assert directory.changes(found.position).accounts == frozenset()

    stub.feed["groups"].append({"id": guid(50)})
    assert directory.changes(found.position).everything
    stub.gone = True
    assert directory.changes(found.position).everything
    with pytest.raises(DirectoryUnavailableError):
        directory.changes("https://elsewhere.example/x\nhttps://elsewhere.example/y")


def test_a_next_page_elsewhere_is_refused(stub: GraphStub, directory: Entra) -> None:
    """The token would go with it."""
    user = stub.add(1)
    stub.join(user, *(guid(number) for number in range(100, 300)))
    stub.next_host = f"{stub.url}.evil.example"
    with pytest.raises(DirectoryUnavailableError, match="another server"):
        directory.resolve("id", user)


def test_another_authority_or_a_wrong_secret_gets_nothing(stub: GraphStub, tmp_path: Path) -> None:
    """The certificate is checked before the secret is sent; a refused secret says so."""
    user = stub.add(1)
    other = tmp_path / "other.pem"
    other.write_bytes(Authority("Another authority").pem)
    with pytest.raises(DirectoryUnavailableError, match=r"CERTIFICATE_VERIFY_FAILED|verify failed"):
        directory_of(stub, ca=other).resolve("id", user)
    with pytest.raises(BindRefusedError, match="invalid_client"):
        directory_of(stub, credential="wrong").resolve("id", user)
    found = directory_of(stub)
    assert found.resolve("id", user).account_id == user
    assert all(finding.good for finding in found.check())
    found.close()


def test_a_certificate_serves_in_place_of_a_secret(stub: GraphStub) -> None:
    """The application signs for itself; nothing secret is sent."""
    user = stub.add(1)
    private, certificate = rsa_pair()
    directory = directory_of(stub, credential=certificate_credential(private, certificate))

    assert directory.resolve("id", user).account_id == user

    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    assert isinstance(key, RSAPublicKey)
    claims = jwt.decode(stub.assertions[0], key, ["PS256", "RS256"], options={"verify_aud": False})
    assert claims["iss"] == CLIENT
    directory.close()

    elliptic = Authority("Application").client("remit")
    for pair in ((private, elliptic.chain.decode()), (elliptic.key.decode(), elliptic.chain.decode()), ("x", "y")):
        with pytest.raises(ValueError, match=r"."):
            certificate_credential(*pair)


def rsa_pair() -> tuple[str, str]:
    """A private key and its own certificate, in PEM."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "remit")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private.decode(), made.public_bytes(Encoding.PEM).decode()


def test_options_are_checked(tmp_path: Path) -> None:
    """Ids, one kind of credential, a known cloud; the right ones build a directory without a connection."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("s")
    good: dict[str, object] = {"tenant": TENANT, "client_id": CLIENT, "secret_file": "secret", "cloud": "us_gov"}
    assert build_directory("cloud", "entra", good, tmp_path).feeds(ENTRA)
    assert len({cloud.graph for cloud in CLOUDS.values()}) == 4
    for changed, option in (
        ({"tenant": "corp.onmicrosoft.com"}, "tenant"),
        ({"client_id": CLIENT.upper()}, "client_id"),
        ({"cloud": "mars"}, "cloud"),
        ({"key_file": "secret"}, "secret_file"),
        ({"secret_file": "none"}, "secret_file"),
        ({"ca": "none"}, "ca"),
        ({"secret": "s"}, "secret"),
        ({"proxy": "http://user:word@proxy:3128"}, "proxy"),
        ({"secret_file": None, "key_file": "secret", "certificate_file": "secret"}, "certificate_file"),
    ):
        options = {key: value for key, value in {**good, **changed}.items() if value is not None}
        with pytest.raises(OptionError) as caught:
            build_directory("cloud", "entra", options, tmp_path)
        assert caught.value.option == option
