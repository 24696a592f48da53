"""The keys of issuers: which may verify what, and how published ones are fetched, renewed and forgotten."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.authn import Authenticator, Credentials, TokenRefusedError, fetch, key_sets
from service.authn.fetch import FetchError, KeyFetcher
from service.authn.key_sets import LEAST_PAUSE_S, PublishedKeys, UnknownKeyError
from service.authn.keys import KeySetError, read, read_published
from service.errors import StartError
from service.sections.issuers import ALGORITHMS, KeyServer
from tests.service.authn_support import EC, ED, KEYS, NOW, OTHER_ED, RSA, claims, issuer, public_jwk, token
from tests.support import https
from tests.support.certificates import Authority
from tests.support.https import Answer, Site

HOUR = timedelta(hours=1)


def key_set(*entries: dict[str, object]) -> bytes:
    """The bytes of a key set."""
    return json.dumps({"keys": entries}).encode()


# --- which key verifies which algorithm ---


@pytest.mark.parametrize(
    ("key", "algorithms", "expected"),
    [
        (ED, ALGORITHMS, "EdDSA"),
        (EC, ALGORITHMS, "ES256"),
        (RSA, ("RS256", "ES256"), "RS256"),
        (RSA, ("PS256",), "PS256"),
    ],
)
def test_a_key_without_alg_has_the_one_algorithm_that_the_issuer_leaves_for_it(
    key: rsa.RSAPrivateKey, algorithms: tuple[str, ...], expected: str
) -> None:
    """As Entra ID publishes keys; where two algorithms are possible, nobody guesses."""
    entry = public_jwk(key, "k", "")
    del entry["alg"]

    assert read(key_set(entry), algorithms)["k"].algorithm == expected
    if key is RSA:
        with pytest.raises(KeySetError, match="key `k` without `alg`"):
            read(key_set(entry), ALGORITHMS)


def test_an_algorithm_that_the_issuer_may_not_use_is_no_key() -> None:
    """`algorithms` narrows what a key may say of itself."""
    with pytest.raises(KeySetError, match="`ed` of EdDSA, which `algorithms` does not list"):
        read(key_set(*KEYS), ["ES256"])
    assert read_published(key_set(*KEYS), ["ES256"]).keys() == {"ec"}


UNUSABLE: list[dict[str, object]] = [
    {**KEYS[0], "kid": "x", "use": "enc"},
    {**KEYS[0], "kid": "x", "key_ops": ["encrypt"]},
    {**KEYS[0], "kid": "x", "alg": "HS256"},
    {**KEYS[0], "kid": "x", "alg": ["EdDSA"]},
    {**KEYS[0], "kid": "x", "d": "AA"},
    {**KEYS[0], "kid": ""},
    {**KEYS[0], "kid": ["x"]},
    {"kty": "oct", "kid": "x", "k": "AAAA", "alg": "HS256"},
    {"kty": "RSA", "kid": "x", "n": "AQAB", "e": "AQAB", "alg": "RS256"},
    {"kty": ["RSA"], "kid": "x"},
    {"kty": "EC", "crv": ["P-256"], "kid": "x"},
    {},
    public_jwk(rsa.generate_private_key(65537, 1024), "x", "RS256"),
    public_jwk(ec.generate_private_key(ec.SECP521R1()), "x", "ES256"),
]


@pytest.mark.parametrize("entry", UNUSABLE, ids=range(len(UNUSABLE)))
def test_a_published_key_that_cannot_be_used_leaves_the_others(entry: dict[str, object]) -> None:
    """What an issuer publishes beside its keys for tokens is left alone, and verifies nothing."""
    assert read_published(key_set(entry, KEYS[0]), ALGORITHMS).keys() == {"ed"}
    with pytest.raises(KeySetError, match="holds no key"):
        read_published(key_set(entry), ALGORITHMS)


def test_an_id_that_stands_twice_names_no_published_key() -> None:
    """Nobody chooses between two keys of one id."""
    twice = [KEYS[0], {**public_jwk(OTHER_ED, "ed", "EdDSA")}, KEYS[1]]

    assert read_published(key_set(*twice), ALGORITHMS).keys() == {"ec"}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"keys": 1}', b'{"keys": [1]}', b'{"keys":[],"keys":[]}',
                                  b"\xff", b" " * 300_000, key_set(*([KEYS[0]] * 201))])  # fmt: skip
def test_what_is_no_key_set_holds_no_keys(data: bytes) -> None:
    """Broken, oversized, ambiguous: an error, and no keys."""
    with pytest.raises(KeySetError):
        read_published(data, ALGORITHMS)


# --- published keys: age, rotation, storms ---


class Issuer:
    """What an issuer publishes, as a fetch sees it, and a clock."""

    def __init__(self) -> None:
        self.body: bytes | None = key_set(*KEYS)
        self.fetches = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.third = asyncio.Event()
        self.seconds = 1000.0

    async def fetch(self) -> bytes:
        """Answer, or do not."""
        self.fetches += 1
        if self.fetches == 3:
            self.third.set()
        await self.answering.wait()
        if self.body is None:
            raise FetchError("`https://issuer.example/keys` cannot be reached")
        return self.body

    def keys(self, max_age: timedelta = HOUR) -> PublishedKeys:
        """The keys of this issuer."""
        return PublishedKeys("remit.yaml:9: issuers[0]", self.fetch, ALGORITHMS, max_age, clock=lambda: self.seconds)


@asynccontextmanager
async def followed(keys: PublishedKeys) -> AsyncIterator[None]:
    """Open the keys, and follow them meanwhile."""
    await keys.open()
    task = asyncio.ensure_future(keys.follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_issuer_that_is_down_at_the_start_is_one_sentence_with_its_place() -> None:
    """The start ends with file, line, key and what could not be reached; with the issuer there, it does not."""
    issuer = Issuer()
    body, issuer.body = issuer.body, None

    with pytest.raises(StartError, match=r"remit\.yaml:9: issuers\[0\]: the keys of the issuer cannot be fetched: `ht"):
        await issuer.keys().open()
    issuer.body = body
    await issuer.keys().open()


async def test_keys_rotate_without_a_restart() -> None:
    """A token with a new key is worth one look at the newest set; the key that is gone verifies nothing."""
    issuer = Issuer()
    keys = issuer.keys()
    async with followed(keys):
        issuer.body = key_set(public_jwk(OTHER_ED, "new", "EdDSA"))
        issuer.seconds += LEAST_PAUSE_S
        with pytest.raises(UnknownKeyError):
            keys.key("new")

        assert await keys.renew()

        assert keys.key("new").algorithm == "EdDSA"
        with pytest.raises(UnknownKeyError):
            keys.key("ed")


async def test_invented_key_ids_cost_the_issuer_one_fetch_a_minute() -> None:
    """However many ask: one fetch at once, none within the pause, and the next one after it."""
    issuer = Issuer()
    keys = issuer.keys()
    async with followed(keys):
        issuer.seconds += LEAST_PAUSE_S - 1
        assert not any(await asyncio.gather(*(keys.renew() for _ in range(50))))
        assert issuer.fetches == 1

        issuer.seconds += 1
        assert all(await asyncio.gather(*(keys.renew() for _ in range(50))))
        assert issuer.fetches == 2
        assert not await keys.renew()

        issuer.seconds += LEAST_PAUSE_S
        assert await keys.renew()
        assert issuer.fetches == 3


async def test_a_failed_fetch_counts_against_the_pause_too() -> None:
    """An issuer that is down is not asked by every call."""
    issuer = Issuer()
    keys = issuer.keys()
    async with followed(keys):
        issuer.body = None
        issuer.seconds += LEAST_PAUSE_S
        assert await keys.renew()
        assert not await keys.renew()

        assert issuer.fetches == 2
        assert keys.key("ed").algorithm == "EdDSA"


async def test_more_callers_than_a_bound_do_not_wait_for_an_issuer() -> None:
    """While an issuer hangs, only some calls wait for it; the others are refused at once."""
    issuer = Issuer()
    keys = issuer.keys()
    async with followed(keys):
        issuer.seconds += LEAST_PAUSE_S
        issuer.answering.clear()
        waiting = [asyncio.ensure_future(keys.renew()) for _ in range(key_sets._MAX_WAITING)]
        await asyncio.sleep(0)

        assert not await keys.renew()

        issuer.answering.set()
        assert all(await asyncio.gather(*waiting))
        assert issuer.fetches == 2


async def test_a_caller_that_gives_up_does_not_end_the_fetch_of_the_others() -> None:
    """The fetch belongs to nobody's call."""
    issuer = Issuer()
    keys = issuer.keys()
    async with followed(keys):
        issuer.seconds += LEAST_PAUSE_S
        issuer.answering.clear()
        first, second = (asyncio.ensure_future(keys.renew()) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        issuer.answering.set()

        assert await second
        assert issuer.fetches == 2


async def test_old_keys_verify_nothing() -> None:
    """With the issuer down, keys count up to their age and not a second longer; when it is back, so are they."""
    issuer = Issuer()
    keys = issuer.keys(max_age=HOUR)
    async with followed(keys):
        issuer.body, body = None, issuer.body
        issuer.seconds += HOUR.total_seconds()
        assert keys.key("ed").algorithm == "EdDSA"
        assert keys.failure() is None

        issuer.seconds += 1
        with pytest.raises(UnknownKeyError) as caught:
            keys.key("ed")
        assert caught.value.why == "no keys"
        assert await keys.renew()
        assert "cannot be reached" in (keys.failure() or "")

        issuer.body = body
        issuer.seconds += LEAST_PAUSE_S
        assert await keys.renew()
        assert keys.key("ed").algorithm == "EdDSA"
        assert keys.failure() is None


async def test_keys_are_as_old_as_the_question_for_them() -> None:
    """An answer that took long is not younger than the moment when it was asked for."""
    issuer = Issuer()
    keys = issuer.keys(max_age=HOUR)
    issuer.answering.clear()
    opening = asyncio.ensure_future(keys.open())
    await asyncio.sleep(0)
    issuer.seconds += HOUR.total_seconds() + 1
    issuer.answering.set()
    await opening

    with pytest.raises(UnknownKeyError):
        keys.key("ed")


async def test_a_clock_that_was_set_back_makes_no_keys_young() -> None:
    """An age below zero is no age."""
    issuer = Issuer()
    keys = issuer.keys()
    await keys.open()
    issuer.seconds -= 1

    with pytest.raises(UnknownKeyError):
        keys.key("ed")


async def test_a_set_that_became_unusable_changes_nothing_until_it_is_too_old() -> None:
    """Garbage from the issuer is an issuer that is down, not an issuer without keys and not one with new ones."""
    issuer = Issuer()
    keys = issuer.keys()
    async with followed(keys):
        for body in (b"<html>", key_set(), key_set({**KEYS[0], "use": "enc"})):
            issuer.body = body
            issuer.seconds += LEAST_PAUSE_S
            assert await keys.renew()
            assert keys.key("ed").algorithm == "EdDSA"


async def test_keys_are_fetched_regularly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any call a withdrawn key is gone after the refresh."""
    monkeypatch.setattr(key_sets, "REFRESH_S", 0.01)
    issuer = Issuer()
    keys = issuer.keys()
    async with followed(keys):
        issuer.body = key_set(KEYS[1])
        async with asyncio.timeout(10):
            await issuer.third.wait()

        with pytest.raises(UnknownKeyError):
            keys.key("ed")
        assert keys.key("ec").algorithm == "ES256"


# --- the fetch ---


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An HTTPS server with a key set."""
    with https.serving(tmp_path) as running:
        running.answers["/keys"] = Answer(key_set(*KEYS))
        yield running


def fetcher(site: Site, path: str = "/keys", *, discovered: bool = False, ca: Path | None = None) -> KeyFetcher:
    """A fetcher for one path of the site."""
    return KeyFetcher(site.url, KeyServer(site.url + path, discovered, ca or site.ca, None, HOUR))


async def test_a_key_set_is_fetched_from_its_url(site: Site) -> None:
    """With the authority that is configured."""
    assert await fetcher(site).fetch() == key_set(*KEYS)


async def test_a_key_set_is_found_by_discovery(site: Site) -> None:
    """The document must be of exactly this issuer, and name an https URL."""
    path = "/.well-known/openid-configuration"

    def document(**members: object) -> Answer:
        return Answer(json.dumps({"issuer": site.url, "jwks_uri": site.url + "/keys"} | members).encode())

    site.answers[path] = document()
    assert await fetcher(site, path, discovered=True).fetch() == key_set(*KEYS)
    for changed, sentence in (
        (document(issuer=site.url + "/"), "describes another issuer"),
        (document(issuer=None), "describes another issuer"),
        (document(jwks_uri=site.url.replace("https", "http") + "/keys"), "names no key set with an https URL"),
        (document(jwks_uri=7), "names no key set with an https URL"),
        (Answer(b"[]"), "describes another issuer"),
        (Answer(b"{"), "is not a discovery document"),
    ):
        site.answers[path] = changed
        with pytest.raises(FetchError, match=sentence):
            await fetcher(site, path, discovered=True).fetch()


async def test_another_authority_is_not_trusted(site: Site, tmp_path: Path) -> None:
    """A server that a pinned authority did not sign for gives no keys, and neither does one of the system's."""
    other = tmp_path / "other.pem"
    other.write_bytes(Authority("Another").pem)

    with pytest.raises(FetchError, match=r"cannot be reached: .*CERTIFICATE_VERIFY_FAILED"):
        await fetcher(site, ca=other).fetch()
    with pytest.raises(FetchError, match=r"cannot be reached: .*CERTIFICATE_VERIFY_FAILED"):
        await KeyFetcher(site.url, KeyServer(site.url + "/keys", False, None, None, HOUR)).fetch()
    with pytest.raises(FetchError, match=r"cannot be reached: .*[Hh]ostname"):
        await KeyFetcher(
            site.url, KeyServer(site.url.replace("127.0.0.1", "localhost") + "/keys", False, site.ca, None, HOUR)
        ).fetch()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_an_authority_that_cannot_be_read_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    """A missing file or one without a certificate is named with its line in the settings."""
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_bytes(content)
    settings = issuer(
        tmp_path, keys=KeyServer("https://127.0.0.1:1/keys", False, ca, None, HOUR), place="remit.yaml:9: issuers[0]"
    )

    with pytest.raises(StartError, match=r"remit\.yaml:9: issuers\[0\]: `ca`: `.*ca\.pem` cannot be read, or holds no"):
        Authenticator([settings])


async def test_redirects_stay_on_the_host(site: Site, tmp_path: Path) -> None:
    """To the same server they are followed, a few times; to another host, port or scheme never."""
    site.answers["/old"] = Answer(status=301, headers=(("location", "/keys"),))
    assert await fetcher(site, "/old").fetch() == key_set(*KEYS)
    site.answers["/loop"] = Answer(status=302, headers=(("location", "/loop"),))
    with pytest.raises(FetchError, match="redirects more than 3 times"):
        await fetcher(site, "/loop").fetch()
    (tmp_path / "other").mkdir()
    with https.serving(tmp_path / "other") as other:
        other.answers["/keys"] = Answer(key_set(public_jwk(OTHER_ED, "evil", "EdDSA")))
        for target in (
            other.url + "/keys",
            site.url.replace("127.0.0.1", "localhost") + "/keys",
            site.url.replace("https", "http") + "/keys",
            f"//{other.url.removeprefix('https://')}/keys",
        ):
            site.answers["/away"] = Answer(status=307, headers=(("location", target),))
            with pytest.raises(FetchError, match="redirects to another server"):
                await fetcher(site, "/away").fetch()
        assert other.asked == []


async def test_what_is_not_a_plain_answer_is_no_keys(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another status, too many bytes, compressed, too slow, not there: a sentence each."""
    site.answers |= {
        "/status": Answer(key_set(*KEYS), status=203),
        "/large": Answer(b" " * 300_000),
        "/gzip": Answer(gzip.compress(key_set(*KEYS)), headers=(("content-encoding", "gzip"),)),
        "/slow": Answer(key_set(*KEYS), delay_s=1.0),
    }
    for path, sentence in (
        ("/status", "answered with status 203"),
        ("/absent", "answered with status 404"),
        ("/large", "more than 256 KiB"),
        ("/gzip", "answered compressed"),
    ):
        with pytest.raises(FetchError, match=sentence):
            await fetcher(site, path).fetch()
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.2)
    with pytest.raises(FetchError, match="did not answer within"):
        await fetcher(site, "/slow").fetch()
    with pytest.raises(FetchError, match="cannot be reached"):
        await KeyFetcher("x", KeyServer("https://127.0.0.1:1/keys", False, site.ca, None, HOUR)).fetch()


async def test_the_environment_names_no_proxy_and_no_authority(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that other programs follow do not lead ours elsewhere; a configured proxy is used."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert await fetcher(site).fetch() == key_set(*KEYS)
    with pytest.raises(FetchError, match="cannot be reached"):
        await KeyFetcher(site.url, KeyServer(site.url + "/keys", False, site.ca, "http://127.0.0.1:1", HOUR)).fetch()


# --- both together ---


async def test_a_token_of_an_issuer_that_publishes_its_keys_gets_in_after_a_rotation(site: Site) -> None:
    """The whole way: discovery, verification, an unknown key, a new fetch; a token of the old key is refused then."""
    site.answers["/.well-known/openid-configuration"] = Answer(
        json.dumps({"issuer": site.url, "jwks_uri": site.url + "/keys"}).encode()
    )
    server = KeyServer(site.url + "/.well-known/openid-configuration", True, site.ca, None, HOUR)
    authenticator = Authenticator([issuer(site.ca, site.url, keys=server)], now=lambda: NOW)
    await authenticator.open()
    assert authenticator.failure is None
    follow = asyncio.ensure_future(authenticator.follow())
    old = f"Bearer {token(claims(iss=site.url))}"
    new = f"Bearer {token(claims(iss=site.url), key=OTHER_ED, kid='new')}"
    assert (await authenticator.identify(Credentials((old,)))).value == "u-1001"
    with pytest.raises(TokenRefusedError):
        await authenticator.identify(Credentials((new,)))

    site.answers["/keys"] = Answer(key_set(public_jwk(OTHER_ED, "new", "EdDSA")))
    (_, keys) = authenticator._issuers[site.url]
    assert isinstance(keys, PublishedKeys)
    keys._tried_at -= LEAST_PAUSE_S

    assert (await authenticator.identify(Credentials((new,)))).value == "u-1001"
    with pytest.raises(TokenRefusedError):
        await authenticator.identify(Credentials((old,)))
    follow.cancel()


async def test_only_tokens_of_a_known_issuer_and_kind_reach_the_issuer(site: Site) -> None:
    """What is wrong before its key is looked up is refused without a fetch."""
    server = KeyServer(site.url + "/keys", False, site.ca, None, HOUR)
    authenticator = Authenticator([issuer(site.ca, site.url, keys=server)], now=lambda: NOW)
    await authenticator.open()
    (_, keys) = authenticator._issuers[site.url]
    assert isinstance(keys, PublishedKeys)
    keys._tried_at -= LEAST_PAUSE_S

    for text in (
        "x.y.z",
        token(kid="new"),
        token(claims(iss=site.url), kid="new", typ="JWT"),
        token(claims(iss=site.url), kid="new", crit=["x"]),
        token(claims(iss=site.url), kid=None),
    ):
        with pytest.raises(TokenRefusedError):
            await authenticator.identify(Credentials((f"Bearer {text}",)))
    assert site.asked == ["/keys"]
