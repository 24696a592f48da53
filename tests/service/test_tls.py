"""TLS of the listeners: one version, certificates that change without a restart, and clients that prove themselves."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from remit.client import Client, RoleRequiredError, UnauthenticatedError, UnavailableError
from remit.client._connect import Connection

from service.api.arrivals import Arrivals
from service.api.health import Health
from service.api.server import Server
from service.api.tls import Certificates, load
from service.api.wrapper import Wrapper
from service.authn import Authenticator, Credentials, TokenRefusedError
from service.authn.certificates import parse
from service.errors import StartError
from service.sections.service_accounts import ServiceAccount
from service.settings import Address
from tests.service.authn_support import KEYS, NOW, claims, issuer, token, write_keys
from tests.service.harness import LOOPBACK
from tests.service.test_cli import ENVIRONMENT, lay_out, remit
from tests.service.tls_support import certificates, files
from tests.support.certificates import Authority, Pair

BOT = "spiffe://corp.example/bot"


@asynccontextmanager
async def listening(loaded: Certificates, *, services: bool = False) -> AsyncIterator[tuple[Address, Address | None]]:
    """A server of health alone; the addresses of callers and services."""
    none: object = None
    wrapper = Wrapper(authenticator=none, callers=none, auditor=none, gate=none, executor=none)  # type: ignore[arg-type]  # unused
    server = Server(wrapper=wrapper, health=Health([]), callers=[], administrators=[], arrivals=Arrivals(()))
    callers, _, third = await server.start(LOOPBACK, LOOPBACK, loaded, LOOPBACK if services else None)
    try:
        yield callers, third
    finally:
        await server.stop(0)


async def answers(address: Address, authority: Authority, client: Pair | None = None) -> bool:
    """Whether somebody who trusts this authority gets an answer."""
    pair = (None, None) if client is None else (client.key, client.chain)
    credentials = grpc.ssl_channel_credentials(authority.pem, *pair)
    async with grpc.aio.secure_channel(str(address), credentials) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.aio.AioRpcError as err:
            if err.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


async def test_with_a_certificate_only_tls_is_spoken(tmp_path: Path) -> None:
    """A client that trusts the authority gets in; one of another authority and one without TLS do not."""
    authority = Authority()
    async with listening(certificates(tmp_path, authority)) as (callers, _):
        assert await answers(callers, authority)
        assert not await answers(callers, Authority())
        async with grpc.aio.insecure_channel(str(callers)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_is_replaced_without_a_restart(tmp_path: Path) -> None:
    """New connections get the new one; a half replaced or unusable pair changes nothing."""
    old, new = Authority("old"), Authority("new")
    loaded = certificates(tmp_path, old)
    async with listening(loaded) as (callers, _):
        fresh = new.server()
        (tmp_path / "server.pem").write_bytes(fresh.chain)
        assert await answers(callers, old)
        assert not await answers(callers, new)

        (tmp_path / "server.key").write_bytes(fresh.key)
        assert await answers(callers, new)
        assert not await answers(callers, old)

        for damage in (b"", b"no PEM", fresh.chain[: len(fresh.chain) // 2]):
            (tmp_path / "server.pem").write_bytes(damage)
            assert await answers(callers, new)
        (tmp_path / "server.pem").unlink()
        assert await answers(callers, new)
        new.server(age=timedelta(days=3), left=timedelta(days=-1)).write(
            tmp_path / "server.pem", tmp_path / "server.key"
        )
        assert await answers(callers, new)


async def test_services_get_in_with_a_certificate_of_their_authority_alone(tmp_path: Path) -> None:
    """None, one of another authority, of the servers' authority, a server's and an expired one: no connection."""
    servers, clients = Authority("servers"), Authority("clients")
    async with listening(certificates(tmp_path, servers, clients), services=True) as (callers, services):
        assert services is not None
        assert await answers(services, servers, clients.client(BOT))
        for refused in (
            None,
            Authority("another").client(BOT),
            servers.client(BOT),
            clients.server("bot.example"),
            clients.client(BOT, left=timedelta(seconds=-1)),
        ):
            assert not await answers(services, servers, refused)
        assert await answers(callers, servers)


async def test_the_authority_of_services_is_replaced_without_a_restart(tmp_path: Path) -> None:
    """Whoever the new authority did not sign for is out."""
    servers, clients, others = Authority("servers"), Authority("clients"), Authority("others")
    async with listening(certificates(tmp_path, servers, clients), services=True) as (_, services):
        assert services is not None
        assert await answers(services, servers, clients.client(BOT))

        (tmp_path / "clients.pem").write_bytes(others.pem)

        assert await answers(services, servers, others.client(BOT))
        assert not await answers(services, servers, clients.client(BOT))


async def test_services_have_no_listener_without_tls(tmp_path: Path) -> None:
    """Nothing would prove them."""
    none: object = None
    wrapper = Wrapper(authenticator=none, callers=none, auditor=none, gate=none, executor=none)  # type: ignore[arg-type]  # unused
    server = Server(wrapper=wrapper, health=Health([]), callers=[], administrators=[], arrivals=Arrivals(()))

    with pytest.raises(StartError, match="services prove themselves by TLS"):
        await server.start(LOOPBACK, LOOPBACK, None, LOOPBACK)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tls: tls.certificate.unlink(), r"`.*server\.pem` cannot be read: no such file"),
        (lambda tls: tls.certificate.write_bytes(b""), r"`.*server\.pem` holds no certificate in PEM"),
        (lambda tls: tls.certificate.write_bytes(tls.key.read_bytes()), r"`.*server\.pem` holds no certificate"),
        (lambda tls: tls.key.write_bytes(b"x"), r"`.*server\.key` holds no private key"),
        (lambda tls: tls.key.write_bytes(Authority().server().key), "the certificate and its key do not fit"),
        (lambda tls: tls.key.chmod(0o644), r"`.*server\.key` is open to others \(mode 0644\): `chmod 0600"),
        (lambda tls: tls.client_ca.write_bytes(b"x"), r"`.*clients\.pem` holds no certificate in PEM"),
        (lambda tls: tls.client_ca.unlink(), r"`.*clients\.pem` cannot be read"),
        (lambda tls: tls.client_ca.chmod(0o666), r"`.*clients\.pem` can be written by everybody: `chmod o-w`"),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence_with_their_place(
    tmp_path: Path, change: object, sentence: str
) -> None:
    """Which key of the settings, which file, and what is wrong with it."""
    tls = files(tmp_path, Authority(), Authority())
    assert load(tls, datetime.now(UTC)).authorities
    assert callable(change)

    change(tls)

    with pytest.raises(StartError, match=rf"remit\.yaml:7: listen\.tls: {sentence}"):
        Certificates(tls)


@pytest.mark.parametrize("shift", [timedelta(days=-2), timedelta(days=2)])
def test_a_certificate_that_is_not_valid_today_is_refused(tmp_path: Path, shift: timedelta) -> None:
    """Before its time and after it."""
    tls = files(tmp_path, Authority())

    with pytest.raises(StartError, match="is not valid today, but from"):
        load(tls, datetime.now(UTC) + shift)


# --- from a certificate to an account ---


def account(name: str = "bot", **changes: object) -> ServiceAccount:
    """A service account with the name BOT, or another proof."""
    good: dict[str, object] = {"san": BOT, "fingerprint": "", "directory": "people", "attribute": "id"}
    return ServiceAccount(name=name, **({"value": "svc-bot"} | good | changes))  # type: ignore[arg-type]  # by name


def authenticator(tmp_path: Path, *accounts: ServiceAccount, now: datetime | None = None) -> Authenticator:
    """One issuer of tokens and these service accounts."""
    moment = now if now is not None else datetime.now(UTC)
    return Authenticator([issuer(write_keys(tmp_path / "jwks", KEYS))], accounts, now=lambda: moment)


async def why(found: Authenticator, certificate: bytes | None, *authorization: str, tls: str = "TLSv1.3") -> str:
    """Why these credentials are refused."""
    with pytest.raises(TokenRefusedError) as caught:
        await found.identify(Credentials(authorization, certificate, tls))
    assert str(caught.value) == "the credential is missing or does not verify"
    return caught.value.why


async def test_a_certificate_is_the_account_that_the_settings_say(tmp_path: Path) -> None:
    """By a URI, by a DNS name, by a fingerprint; the subject ends with the certificate."""
    authority = Authority()
    by_uri, by_host, by_print = authority.client(BOT), authority.client("bot.corp.example"), authority.client()
    found = authenticator(
        tmp_path,
        account(),
        account("host", san="bot.corp.example", value="svc-host"),
        account("print", san="", fingerprint=parse(by_print.chain).fingerprint, value="svc-print"),
    )

    values = {}
    for pair in (by_uri, by_host, by_print):
        subject = await found.identify(Credentials(certificate=pair.chain, tls_version="TLSv1.3"))
        values[subject.subject] = subject.value
        assert subject.expires_at == parse(pair.chain).not_after
        assert (subject.issuer, subject.directory, subject.attribute) == ("client-certificate", "people", "id")
        assert parse(pair.chain).fingerprint.startswith(subject.token_id)
    assert values == {BOT: "svc-bot", "bot.corp.example": "svc-host", parse(by_print.chain).fingerprint: "svc-print"}


async def test_another_certificate_is_nobody(tmp_path: Path) -> None:
    """Another name, another case, a longer name, the name as a common name alone, and two accounts at once."""
    authority = Authority()
    found = authenticator(tmp_path, account(), account("other", san="spiffe://corp.example/other"))

    for name in ("spiffe://corp.example/BOT", BOT + "/x", "spiffe://corp.example/bo", "client"):
        assert await why(found, authority.client(name).chain) == "unknown certificate"
    assert await why(found, authority.client().chain) == "unknown certificate"
    both = authority.client(BOT, "spiffe://corp.example/other")
    assert await why(found, both.chain) == "ambiguous certificate"
    assert await why(found, b"x") == "malformed certificate"
    assert (await found.identify(Credentials((), authority.client(BOT).chain, "TLSv1.3"))).value == "svc-bot"


async def test_a_certificate_that_ended_during_a_connection_is_nobody(tmp_path: Path) -> None:
    """The time is looked at for each call."""
    pair = Authority().client(BOT)
    ends = parse(pair.chain).not_after

    assert (await authenticator(tmp_path, account(), now=ends).identify(Credentials((), pair.chain))).value == "svc-bot"
    late = authenticator(tmp_path, account(), now=ends + timedelta(seconds=1))
    assert await why(late, pair.chain) == "expired certificate"


async def test_a_token_beside_a_certificate_says_who_is_calling(tmp_path: Path) -> None:
    """A bad token is refused and never replaced by the certificate's account; two tokens are nobody's."""
    pair = Authority().client(BOT)
    found = authenticator(tmp_path, account(), now=NOW)
    good = f"Bearer {token()}"

    assert (await found.identify(Credentials((good,), pair.chain, "TLSv1.3"))).value == "u-1001"
    assert await why(found, pair.chain, "Bearer x.y.z") == "malformed"
    assert await why(found, pair.chain, "") == "not a bearer token"
    assert await why(found, pair.chain, good, good) == "several credentials"
    assert await why(found, None, good, good) == "several credentials"
    assert await why(found, None) == "missing"


async def test_a_bound_token_needs_the_certificate_that_it_is_bound_to(tmp_path: Path) -> None:
    """RFC 8705: the thumbprint must be that of the connection's certificate; other bindings are not known here."""
    authority = Authority()
    mine, other = authority.client(BOT), authority.client(BOT)
    found = authenticator(tmp_path, now=NOW)
    thumbprint = parse(mine.chain).thumbprint
    bound = f"Bearer {token(claims(cnf={'x5t#S256': thumbprint}))}"

    assert (await found.identify(Credentials((bound,), mine.chain))).value == "u-1001"
    assert await why(found, other.chain, bound) == "bound token"
    assert await why(found, None, bound) == "bound token"
    for binding in ({"x5t#S256": thumbprint, "jkt": "x"}, {"jkt": "x"}, {"x5t#S256": thumbprint + "="}, {}):
        assert await why(found, mine.chain, f"Bearer {token(claims(cnf=binding))}") == "bound token"


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1", "unknown"])
async def test_an_older_tls_is_refused_whatever_it_brings(tmp_path: Path, version: str) -> None:
    """The second wall, should gRPC ever speak something else."""
    found = authenticator(tmp_path, now=NOW)
    good = f"Bearer {token()}"

    assert await why(found, None, good, tls=version) == "old TLS"
    assert (await found.identify(Credentials((good,), None, "TLSv1.3"))).value == "u-1001"


# --- the whole service ---


@dataclass(frozen=True)
class Served:
    """A service over TLS, its addresses, and who signs."""

    folder: Path
    addresses: dict[str, str]
    servers: Authority
    clients: Authority


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`remit serve` with all three listeners, two service accounts among the people."""
    import json

    folder = tmp_path_factory.mktemp("tls")
    lay_out(folder)
    servers, clients = Authority("servers"), Authority("clients")
    files(folder, servers, clients)
    people = folder / "people.yaml"
    people.write_text(
        people.read_text().replace(
            "groups:\n  -",
            "  - {id: svc-bot, name: bot, display_name: The bot, groups: [operators]}\n"
            "  - {id: svc-off, name: retired, display_name: Disabled, enabled: false}\ngroups:\n  -",
        )
    )
    settings = folder / "remit.yaml"
    text = settings.read_text().replace("  insecure_loopback: true\n", "")
    text = text.replace(
        "listen:\n",
        "listen:\n  services: 127.0.0.1:0\n"
        "  tls: {certificate: ./server.pem, key: ./server.key, client_ca: ./clients.pem}\n",
    )
    settings.write_text(
        text + "service_accounts:\n"
        f"  - {{name: bot, san: '{BOT}', directory: people, attribute: id, value: svc-bot,\n"
        "     acts_for: ['posix:corp:gid-20102']}\n"
        "  - {name: retired, san: 'spiffe://corp.example/off', directory: people, attribute: id, value: svc-off}\n"
    )
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--json"],
            cwd=folder,
            env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            assert line, (folder / "log").read_text()
            yield Served(folder, json.loads(line), servers, clients)
        finally:
            server.terminate()
            server.wait(30)
            server.stdout.close()


@pytest.mark.parametrize("listener", ["callers", "administrators", "services"])
def test_tls_1_3_alone_is_spoken(served: Served, listener: str) -> None:
    """A client that knows nothing newer than TLS 1.2 has no connection; one of TLS 1.3 has."""
    host, _, port = served.addresses[listener].rpartition(":")
    found = {}
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cadata=served.servers.pem.decode())
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        try:
            with (
                socket.create_connection((host, int(port)), 10) as plain,
                context.wrap_socket(plain, server_hostname=host) as connection,
            ):
                found[version] = connection.version()
        except OSError:
            found[version] = None

    assert found == {ssl.TLSVersion.TLSv1_2: None, ssl.TLSVersion.TLSv1_3: "TLSv1.3"}


def client(served: Served, pair: Pair, listener: str = "services") -> Client:
    """A client with a certificate and without a token."""
    return Client(served.addresses[listener], root_certificates=served.servers.pem, certificate=(pair.chain, pair.key))


def test_a_service_account_is_its_account_and_holds_its_roles(served: Served) -> None:
    """By its certificate it has what its groups give; on another listener the certificate says nothing."""
    pair = served.clients.client(BOT)

    with client(served, pair) as bot:
        caller = bot.get_caller()
    assert (caller.display_name, caller.roles) == ("The bot", ("operator",))
    with client(served, pair, "callers") as elsewhere, pytest.raises(UnauthenticatedError):
        elsewhere.get_caller()


def test_a_service_account_names_a_person_whom_it_may_act_for(served: Served) -> None:
    """Bob is of its group, Alice has a role, and whoever is no service gets no answer at all."""
    pair = served.clients.client(BOT)

    def acting(person: str, listener: str = "services", by: Pair = pair) -> Client:
        return Client(
            served.addresses[listener],
            root_certificates=served.servers.pem,
            certificate=(by.chain, by.key),
            on_behalf_of=person,
        )

    with acting("u-1002") as bot:
        caller = bot.get_caller()
    assert (caller.display_name, caller.roles) == ("Bob Berg", ())
    for refused in (
        acting("u-1001"),
        acting("u-9999"),
        acting("svc-bot"),
        acting("u-1002", "callers"),
        acting("u-1002", by=served.clients.client("spiffe://corp.example/off")),
    ):
        with refused, pytest.raises(UnauthenticatedError):
            refused.get_caller()


@pytest.mark.parametrize("name", ["spiffe://corp.example/nobody", "spiffe://corp.example/off"])
def test_a_certificate_without_an_enabled_account_is_nobody(served: Served, name: str) -> None:
    """Signed by the right authority, but not configured, or disabled in the directory."""
    with client(served, served.clients.client(name)) as nobody, pytest.raises(UnauthenticatedError):
        nobody.get_caller()


def test_a_certificate_of_another_authority_has_no_connection(served: Served) -> None:
    """It ends in the handshake."""
    with client(served, Authority().client(BOT)) as nobody, pytest.raises(UnavailableError):
        nobody.get_caller()


def test_the_command_line_trusts_a_ca_and_presents_a_certificate(served: Served) -> None:
    """People by token over TLS; a service account starts a sync without any token; without the CA nothing is sent."""
    pair = served.clients.client(BOT)
    pair.write(served.folder / "bot.pem", served.folder / "bot.key")
    pem = ["--ca", "ca.pem", "--certificate", "bot.pem"]
    proof = [*pem, "--key", "bot.key", "--address", served.addresses["services"]]

    synced = remit(*proof, "source", "sync", "company", folder=served.folder)
    person = remit(
        "--ca", "ca.pem", "--address", served.addresses["callers"], "whoami", "--as", "alice", folder=served.folder
    )
    without = remit("--address", served.addresses["callers"], "whoami", "--as", "alice", folder=served.folder)
    half = remit(*pem, "source", "list", folder=served.folder)

    assert synced.returncode == 0, synced.stderr
    assert "Alice Ahlgren" in person.stdout, person.stderr
    assert without.returncode == 1
    assert "Traceback" not in without.stderr
    assert half.returncode == 2
    assert "`--certificate` and `--key` belong together" in half.stderr


def test_roles_hold_for_service_accounts_too(served: Served) -> None:
    """Without its group the bot is an operator no more, on the next call."""
    people = served.folder / "people.yaml"
    before = people.read_text()
    people.write_text(before.replace("display_name: The bot, groups: [operators]", "display_name: The bot"))
    try:
        from remit.client import AdminClient

        pair = served.clients.client(BOT)
        admin = AdminClient(
            served.addresses["services"],
            root_certificates=served.servers.pem,
            certificate=(pair.chain, pair.key),
        )
        with admin, pytest.raises(RoleRequiredError):
            admin.list_sources()
    finally:
        people.write_text(before)


def test_the_doctor_checks_the_certificate_and_the_listeners(served: Served) -> None:
    """How long the certificate is valid, and that the service serves it, with what to do."""
    done = remit("doctor", folder=served.folder)

    assert "certificate, valid for 0 more days: replace its files" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": None},
        {"insecure_loopback": True, "certificate": (b"", b"")},
        {"on_behalf_of": "u-1002"},
        {"on_behalf_of": "u-1002", "certificate": (b"", b"")},
    ],
)
def test_a_client_without_any_proof_is_refused_at_once(wrong: dict[str, object]) -> None:
    """Neither a token nor a certificate, or a certificate without TLS."""
    good: dict[str, object] = {
        "address": "127.0.0.1:1",
        "token": "x",
        "insecure_loopback": False,
        "root_certificates": None,
        "certificate": None,
    }
    assert Connection(**good).metadata()  # type: ignore[arg-type]  # by name

    with pytest.raises(ValueError, match="certificate"):
        Connection(**(good | wrong))  # type: ignore[arg-type]  # by name
