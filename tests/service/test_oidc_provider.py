"""Tokens that a real OpenID Connect provider issued, by the flows that applications use."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
from remit.client import Client, UnauthenticatedError

from service.authn import Authenticator, Credentials, TokenRefusedError, key_sets
from service.authn.key_sets import PublishedKeys
from service.sections.issuers import IssuerSettings, KeyServer
from service.settings import load
from tests.service.test_cli import ENVIRONMENT, lay_out, remit
from tests.support.audit_bodies import recorded
from tests.support.oidc_provider import Provider, provider

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """One provider for the tests that leave it as it is."""
    with provider(tmp_path_factory.mktemp("provider")) as started:
        yield started


def settings_of(started: Provider, max_age: timedelta = timedelta(hours=1)) -> IssuerSettings:
    """The issuer as a deployment configures it: by discovery, with its authority pinned."""
    keys = KeyServer(f"{started.issuer}/.well-known/openid-configuration", True, started.ca, None, max_age)
    return IssuerSettings(
        started.issuer, "remit", keys, "sub", "people", "id", clients=frozenset({"rag-app"}),
        max_token_lifetime=timedelta(hours=1), place="remit.yaml:1: issuers[0]",
    )  # fmt: skip


@asynccontextmanager
async def authenticating(settings: IssuerSettings) -> AsyncIterator[tuple[Authenticator, PublishedKeys]]:
    """An authenticator that follows the provider's keys."""
    authenticator = Authenticator([settings])
    await authenticator.open()
    task = asyncio.ensure_future(authenticator.follow())
    (_, keys) = authenticator._issuers[settings.issuer]
    assert isinstance(keys, PublishedKeys)
    try:
        yield authenticator, keys
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True)
class Served:
    """A service whose second issuer is the provider."""

    folder: Path
    callers: str


@pytest.fixture(scope="module")
def served(running: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`remit serve` as a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    lay_out(folder)
    settings = folder / "remit.yaml"
    entry = (
        f"  - {{issuer: '{running.issuer}', audience: remit, claim: sub, directory: people, attribute: id,\n"
        f"     ca: {running.ca}, clients: [rag-app], algorithms: [ES256], max_token_lifetime: 1h}}\n"
    )
    settings.write_text(
        settings.read_text().replace("\n# Where people and groups", f"\n{entry}\n# Where people and groups")
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
            addresses = json.loads(line)
            yield Served(folder, addresses["callers"])
        finally:
            server.terminate()
            server.wait(30)
            server.stdout.close()


def client(served: Served, token: str) -> Client:
    """A client with this token."""
    return Client(served.callers, token=token, insecure_loopback=True)


def test_a_person_who_logs_in_is_their_account(running: Provider, served: Served) -> None:
    """The authorization code's access token opens what the account may read, by client and by command line."""
    tokens = running.login("u-1001")

    with client(served, tokens["access_token"]) as mine:
        assert mine.get_caller().display_name == "Alice Ahlgren"
    done = remit("--address", served.callers, "whoami", "--token", tokens["access_token"], folder=served.folder)
    assert "Alice Ahlgren" in done.stdout, done.stderr


def test_a_refreshed_token_is_as_good_as_the_first(running: Provider, served: Served) -> None:
    """The refresh token's access token is another token of the same account."""
    first = running.login("u-1002")
    second = running.refresh(first)

    assert second["access_token"] != first["access_token"]
    with client(served, second["access_token"]) as mine:
        assert mine.get_caller().display_name == "Bob Berg"


def refused(served: Served, token: str) -> None:
    """The token gets the one answer."""
    with client(served, token) as one, pytest.raises(UnauthenticatedError, match="not for this service"):
        one.get_caller()


def test_what_else_the_provider_gives_opens_nothing(running: Provider, served: Served) -> None:
    """The ID token and the refresh token of a login whose access token is good."""
    tokens = running.login("u-1001")

    refused(served, tokens["id_token"])
    refused(served, tokens["refresh_token"])
    with client(served, tokens["access_token"]) as mine:
        assert mine.get_caller().subject


def test_an_application_is_no_person(running: Provider, served: Served) -> None:
    """A token of the client credentials flow verifies, and its subject is nobody's account."""
    refused(served, running.service_token())


def test_a_person_without_an_account_is_nobody(running: Provider, served: Served) -> None:
    """The provider lets in whom the directory does not know."""
    refused(served, running.login("u-9999")["access_token"])


def test_a_token_for_an_application_that_is_not_listed_is_refused(running: Provider, served: Served) -> None:
    """The same person by another client."""
    refused(served, running.login("u-1001", client="other-app")["access_token"])


def test_the_record_says_which_rule_refused(running: Provider, served: Served) -> None:
    """Callers hear one sentence; the audit log has the word."""
    refused(served, running.login("u-1001", client="other-app")["access_token"])
    refused(served, running.login("u-1001")["id_token"])

    details = {one["body"].get("detail") for one in recorded(load(served.folder / "remit.yaml"))}
    assert {"wrong client", "wrong type"} <= details


async def test_keys_rotate_under_load_without_a_refused_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While callers come all the time, the provider signs with new keys, four times: nobody is refused. When it
    publishes the newest key alone, tokens of the older ones are refused, and the newest are not."""
    monkeypatch.setattr(key_sets, "LEAST_PAUSE_S", 0.0)
    with provider(tmp_path) as started:
        async with authenticating(settings_of(started)) as (authenticator, keys):
            first = await asyncio.to_thread(started.service_token)
            tokens, accepted = [first], 0
            stopped = asyncio.Event()

            async def call() -> int:
                done = 0
                while not stopped.is_set():
                    subject = await authenticator.identify(Credentials((f"Bearer {tokens[-1]}",)))
                    assert subject.value == "rag-app"
                    done += 1
                    await asyncio.sleep(0)
                return done

            callers = [asyncio.ensure_future(call()) for _ in range(20)]
            used = {jwt.get_unverified_header(first)["kid"]}
            for _ in range(4):
                await asyncio.to_thread(started.rotate)
                tokens.append(await asyncio.to_thread(started.service_token))
                used.add(jwt.get_unverified_header(tokens[-1])["kid"])
                await asyncio.sleep(0.1)
            stopped.set()
            accepted = sum(await asyncio.gather(*callers))

            assert len(used) == 5
            assert accepted >= 100
            # Each new key was worth a fetch, or a few: callers that came together shared one.
            assert 5 <= keys._rounds <= 13

            await asyncio.to_thread(started.forget)
            await keys.renew()
            with pytest.raises(TokenRefusedError):
                await authenticator.identify(Credentials((f"Bearer {first}",)))
            assert (await authenticator.identify(Credentials((f"Bearer {tokens[-1]}",)))).value == "rag-app"


async def test_a_provider_that_is_down_is_missed_when_its_keys_are_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down: tokens verify until the keys' age ends, then none does, and nothing starts; back: they verify again."""
    monkeypatch.setattr(key_sets, "LEAST_PAUSE_S", 0.0)
    later = 0.0
    with provider(tmp_path) as started:
        port = urlsplit(started.issuer).port
        assert port is not None
        settings = settings_of(started)
        async with authenticating(settings) as (authenticator, keys):
            keys._clock = lambda: key_sets._since_boot() + later
            token = f"Bearer {await asyncio.to_thread(started.service_token)}"
            assert (await authenticator.identify(Credentials((token,)))).value == "rag-app"
            await asyncio.to_thread(started.stop)

            later = 3000.0
            assert (await authenticator.identify(Credentials((token,)))).value == "rag-app"
            later = 3700.0
            with pytest.raises(TokenRefusedError) as caught:
                await authenticator.identify(Credentials((token,)))
            assert caught.value.why == "no keys"
            assert authenticator.failure is not None
            with pytest.raises(
                Exception, match=r"remit\.yaml:1: issuers\[0\]: the keys of the issuer cannot be fetched"
            ):
                await Authenticator([settings]).open()

            with provider(tmp_path, port=port) as again:
                # With new keys, as after a restart: the old token's is gone, and a new one's is found.
                fresh = f"Bearer {await asyncio.to_thread(again.service_token)}"
                assert (await authenticator.identify(Credentials((fresh,)))).value == "rag-app"
                assert authenticator.failure is None
                with pytest.raises(TokenRefusedError):
                    await authenticator.identify(Credentials((token,)))


def test_tokens_of_the_provider_are_what_the_tests_say_they_are(running: Provider) -> None:
    """Typed access tokens of one audience and ID tokens of another, by one key: what the refusals above rest on."""
    tokens: Mapping[str, str] = running.login("u-1001")
    access, identity = (tokens[name] for name in ("access_token", "id_token"))
    assert jwt.get_unverified_header(access)["typ"] == "at+jwt"
    assert jwt.get_unverified_header(identity).get("typ") != "at+jwt"
    assert jwt.get_unverified_header(access)["kid"] == jwt.get_unverified_header(identity)["kid"]
    assert jwt.decode(access, options={"verify_signature": False})["aud"] == "remit"
    assert jwt.decode(identity, options={"verify_signature": False})["aud"] == "rag-app"
