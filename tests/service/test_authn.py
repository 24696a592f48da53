"""Tokens: what is accepted, and that each of the known tricks is refused, with one text for all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from service.authn import Authenticator, TokenRefusedError
from service.authn.key_sets import FileKeys
from service.errors import StartError, UnauthenticatedError
from tests.service.authn_support import (
    AUDIENCE,
    EC,
    ED,
    ISSUER,
    KEYS,
    NOW,
    OTHER_ED,
    RSA,
    claims,
    compact,
    hmac_token,
    issuer,
    public_jwk,
    token,
    write_keys,
)

HOUR = timedelta(hours=1)


def at(offset: timedelta) -> int:
    """A claim's time, from now."""
    return int((NOW + offset).timestamp())


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    """A key set with one key of each algorithm."""
    return write_keys(tmp_path / "issuer.jwks.json", KEYS)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    """One authenticator for all examples of a law."""
    return Authenticator([issuer(write_keys(tmp_path_factory.mktemp("keys") / "jwks", KEYS))], now=lambda: NOW)


@pytest.fixture
def check(jwks: Path) -> Callable[[str], str]:
    """Authenticate a token; the account's value, or raises."""
    authenticator = Authenticator([issuer(jwks)], now=lambda: NOW)
    return lambda text: authenticator.authenticate(f"Bearer {text}").value


def why(check: Callable[[str], str], text: str) -> str:
    """The constant word for which a token is refused."""
    with pytest.raises(TokenRefusedError) as caught:
        check(text)
    assert str(caught.value) == "the credential is missing or does not verify"
    return caught.value.why


def test_a_good_token_is_its_subject(jwks: Path) -> None:
    """Everything that the service uses of a token arrives; it proves nothing past its expiry and the skew."""
    subject = Authenticator([issuer(jwks)], now=lambda: NOW).authenticate(f"Bearer {token()}")

    assert (subject.issuer, subject.subject, subject.value) == (ISSUER, "u-1001", "u-1001")
    assert (subject.directory, subject.attribute, subject.token_id) == ("people", "id", "t-1")
    assert subject.expires_at == NOW + timedelta(minutes=16)


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(EC, "ES256", "ec"), (RSA, "RS256", "rs"), (RSA, "PS256", "ps")])
def test_each_algorithm_verifies_under_its_own_key_alone(
    check: Callable[[str], str], key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, algorithm: str, kid: str
) -> None:
    """The key decides on the algorithm: the same signature under the id of another key is refused."""
    assert check(token(key=key, algorithm=algorithm, kid=kid)) == "u-1001"
    for other in {"ed", "ec", "rs", "ps"} - {kid}:
        assert why(check, token(key=key, algorithm=algorithm, kid=other)) == "wrong algorithm"


# Each refused token beside the allowed one that differs in that alone: (name, refused, its word, allowed).
NEIGHBOURS: list[tuple[str, str, str, str]] = [
    ("expired", token(claims(exp=at(-timedelta(seconds=60)), iat=at(-HOUR))), "expired",
     token(claims(exp=at(-timedelta(seconds=59)), iat=at(-HOUR)))),
    ("not before", token(claims(nbf=at(timedelta(seconds=61)))), "not yet valid",
     token(claims(nbf=at(timedelta(seconds=60))))),
    ("issued in the future", token(claims(iat=at(timedelta(seconds=61)))), "not yet valid",
     token(claims(iat=at(timedelta(seconds=60))))),
    ("lives too long", token(claims(exp=at(timedelta(hours=24, seconds=1)))), "lives too long",
     token(claims(exp=at(timedelta(hours=24))))),
    ("ends before it begins", token(claims(exp=at(timedelta(0)))), "lives too long",
     token(claims(exp=at(timedelta(seconds=1))))),
    ("no expiry", token(claims(exp=None)), "no times", token()),
    ("no issue time", token(claims(iat=None)), "no times", token()),
    ("expiry as text", token(claims(exp=str(at(HOUR)))), "no times", token(claims(exp=at(HOUR) + 0.5))),
    ("expiry as truth", token(claims(exp=True)), "no times", token()),
    ("expiry beyond time", token(claims(exp=10**300)), "no times", token()),
    ("wrong audience", token(claims(aud="remit2")), "wrong audience", token(claims(aud=["other", AUDIENCE]))),
    ("audience in another case", token(claims(aud="Remit")), "wrong audience", token()),
    ("audience as part", token(claims(aud="a remit b")), "wrong audience", token()),
    ("no audience", token(claims(aud=None)), "wrong audience", token()),
    ("audience nested", token(claims(aud=[[AUDIENCE]])), "wrong audience", token(claims(aud=[AUDIENCE]))),
    ("wrong issuer", token(claims(iss=ISSUER + "/")), "unknown issuer", token()),
    ("no issuer", token(claims(iss=None)), "unknown issuer", token()),
    ("issuer as list", token(claims(iss=[ISSUER])), "unknown issuer", token()),
    ("no subject", token(claims(sub=None)), "no subject", token()),
    ("empty subject", token(claims(sub="")), "no subject", token()),
    ("subject as number", token(claims(sub=1001)), "no subject", token(claims(sub="1001"))),
    ("subject with NUL", token(claims(sub="u-1001\0x")), "no subject", token()),
    ("subject of 64 KB", token(claims(sub="u" * 513)), "no subject", token(claims(sub="u" * 512))),
    ("token id as number", token(claims(jti=7)), "no subject", token(claims(jti=None))),
    ("no signature", token(algorithm="none").rpartition(".")[0] + ".", "not a bearer token", token()),
    ("algorithm none", token(algorithm="none"), "wrong algorithm", token()),
    ("algorithm in another case", token(algorithm="eddsa"), "wrong algorithm", token()),
    ("no algorithm", token(alg=None), "wrong algorithm", token()),
    ("unknown key", token(kid="another"), "unknown key", token()),
    ("no key id", token(kid=None), "unknown key", token()),
    ("key id as list", token(kid=["ed"]), "unknown key", token()),
    ("wrong key", token(key=OTHER_ED), "wrong signature", token()),
    ("key in the header", token(key=OTHER_ED, jwk=public_jwk(OTHER_ED, "ed", "EdDSA")), "wrong signature",
     token(jwk=public_jwk(OTHER_ED, "ed", "EdDSA"))),
    ("key behind an address", token(key=OTHER_ED, jku="https://evil.example/keys"), "wrong signature",
     token(jku="https://evil.example/keys")),
    ("critical header", token(crit=["exp"], exp=1), "critical header", token(exp=1)),
    ("empty critical header", token(crit=[]), "critical header", token()),
    ("identity token", token(typ="JWT"), "wrong type", token(typ="application/at+jwt")),
    ("no type", token(typ=None), "wrong type", token(typ="AT+JWT")),
    ("trailing part", token() + ".x", "not a bearer token", token()),
    ("trailing garbage", token() + "!", "not a bearer token", token()),
    ("trailing space", token() + " ", "not a bearer token", token()),
    ("trailing line feed", token() + "\n", "not a bearer token", token()),
    ("padding", token().replace(".", "=.", 1), "not a bearer token", token()),
    ("oversized", token(claims(pad="x" * 16_384)), "too large", token(claims(pad="x" * 8_000))),
    ("claims twice", compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}',
     json.dumps(claims())[:-1] + ', "sub": "u-2"}'), "malformed", token()),
    ("claims twice, deep", compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}',
     json.dumps(claims())[:-1] + ', "x": [{"a": 1, "a": 2}]}'), "malformed", token(claims(x=[{"a": 1}]))),
    ("header twice", compact('{"alg":"EdDSA","alg":"EdDSA","typ":"at+jwt","kid":"ed"}', json.dumps(claims())),
     "malformed", token()),
    ("claims that are a list", compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}', "[]"), "malformed", token()),
    ("claims with more behind", compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}', json.dumps(claims()) + "{}"),
     "malformed", token()),
    ("claims nested too deep", compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}', "[" * 10_000), "malformed",
     token()),
    ("a number that is none", compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}',
     json.dumps(claims())[:-1] + ', "x": NaN}'), "malformed", token()),
]  # fmt: skip


@pytest.mark.parametrize(("refused", "word", "allowed"), [n[1:] for n in NEIGHBOURS], ids=[n[0] for n in NEIGHBOURS])
def test_a_token_that_is_wrong_in_one_way_is_refused_and_its_neighbour_is_not(
    check: Callable[[str], str], refused: str, word: str, allowed: str
) -> None:
    """The negative matrix: one fault each, one text for all, and the token without that fault is accepted."""
    assert check(allowed)
    assert why(check, refused) == word


@pytest.mark.parametrize("encoding", [Encoding.Raw, Encoding.DER, Encoding.PEM])
def test_a_public_key_is_never_a_secret(check: Callable[[str], str], encoding: Encoding) -> None:
    """HS256 with the public key as the secret, in each of its forms, also for the keys of RSA."""
    public = ED.public_key().public_bytes(
        encoding, PublicFormat.Raw if encoding is Encoding.Raw else PublicFormat.SubjectPublicKeyInfo
    )

    assert why(check, hmac_token(public)) == "wrong algorithm"
    assert check(token()) == "u-1001"
    if encoding is not Encoding.Raw:
        secret = RSA.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        assert why(check, hmac_token(secret, kid="rs")) == "wrong algorithm"


def test_unused_bits_of_base64_are_not_another_token(check: Callable[[str], str]) -> None:
    """One token has one text: a last character with other unused bits is refused."""
    payload = json.dumps(claims())
    while len(payload) % 3 != 1:
        payload += " "
    good = compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}', payload)
    head, body, signature = good.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = body[:-1] + alphabet[alphabet.index(body[-1]) | 1]

    assert check(good) == "u-1001"
    assert why(check, f"{head}.{other}.{signature}") == "malformed"


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer ", token(), f"Basic {token()}", f"Bearer  {token()}", f" Bearer {token()}",
     f"Bearer\t{token()}", f"Bearer {token()}, Bearer {token()}", "Bearer a.b", "Bearer ...", "Bearer é.é.é"],
)  # fmt: skip
def test_only_the_bearer_scheme_is_read(jwks: Path, value: str | None) -> None:
    """Missing, empty, another scheme, other spaces, two tokens: refused; the scheme's case does not matter."""
    authenticator = Authenticator([issuer(jwks)], now=lambda: NOW)

    with pytest.raises(UnauthenticatedError, match="missing or does not verify"):
        authenticator.authenticate(value)
    assert authenticator.authenticate(f"bearer {token()}").value == "u-1001"


@given(st.data())
def test_a_token_with_any_bit_changed_is_refused(shared: Authenticator, data: st.DataObject) -> None:
    """No change of a character leaves a token that verifies."""
    good = token()
    place = data.draw(st.integers(0, len(good) - 1))
    character = data.draw(st.sampled_from("AZaz09-_.=+/ ").filter(lambda c: c != good[place]))

    with pytest.raises(TokenRefusedError):
        shared.authenticate(f"Bearer {good[:place]}{character}{good[place + 1 :]}")


@given(st.text(max_size=60) | st.from_regex(r"Bearer [A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,9}"))
def test_any_text_is_refused_without_another_error(shared: Authenticator, text: str) -> None:
    """Random credentials never end in anything but a refusal."""
    with pytest.raises(TokenRefusedError):
        shared.authenticate(text)


@given(
    st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5), st.lists, max_leaves=4)
)
def test_any_value_of_a_claim_is_refused_without_another_error(shared: Authenticator, value: object) -> None:
    """Signed, but of other types: every claim that counts is checked for its type."""
    for name in ("iss", "aud", "sub", "exp", "iat", "nbf", "jti"):
        text = token({**claims(), name: value})
        try:
            shared.authenticate(f"Bearer {text}")
        except TokenRefusedError:
            continue
        assert name in ("sub", "jti", "nbf"), (name, value)


def test_several_issuers_each_have_their_keys(tmp_path: Path) -> None:
    """A key of one issuer signs for no other, also under the same id; each has its own audience and claim."""
    one = issuer(write_keys(tmp_path / "one", [public_jwk(ED, "k", "EdDSA")]))
    two = issuer(
        write_keys(tmp_path / "two", [public_jwk(OTHER_ED, "k", "EdDSA")]), "https://two", audience="b", claim="oid"
    )
    authenticator = Authenticator([one, two], now=lambda: NOW)
    of_two = claims(iss="https://two", aud="b", oid="o-1")

    assert authenticator.authenticate(f"Bearer {token(kid='k')}").value == "u-1001"
    assert authenticator.authenticate(f"Bearer {token(of_two, key=OTHER_ED, kid='k')}").value == "o-1"
    for forged in (token(kid="k", key=OTHER_ED), token(of_two, kid="k")):
        with pytest.raises(TokenRefusedError):
            authenticator.authenticate(f"Bearer {forged}")
    without = {key: value for key, value in of_two.items() if key != "oid"}
    with pytest.raises(TokenRefusedError):
        authenticator.authenticate(f"Bearer {token(without, key=OTHER_ED, kid='k')}")


def test_keys_are_read_again_when_their_file_changes(jwks: Path) -> None:
    """A new key counts at once, one that was taken away no longer, and a file that cannot be used is no keys."""
    authenticator = Authenticator([issuer(jwks)], now=lambda: NOW)
    old, new = f"Bearer {token()}", f"Bearer {token(key=OTHER_ED, kid='new')}"
    assert authenticator.authenticate(old).value == "u-1001"

    write_keys(jwks, [public_jwk(OTHER_ED, "new", "EdDSA")])
    assert authenticator.authenticate(new).value == "u-1001"
    with pytest.raises(TokenRefusedError):
        authenticator.authenticate(old)

    jwks.write_text("{")
    with pytest.raises(TokenRefusedError):
        authenticator.authenticate(new)
    jwks.unlink()
    with pytest.raises(TokenRefusedError):
        authenticator.authenticate(new)

    write_keys(jwks, KEYS)
    assert authenticator.authenticate(old).value == "u-1001"


def test_keys_that_everybody_can_write_verify_nothing(jwks: Path) -> None:
    """Whoever could add a key to the file could be anybody: refused at the start, and from then on when it comes."""
    os.utime(jwks, (1_700_000_000, 1_700_000_000))
    authenticator = Authenticator([issuer(jwks)], now=lambda: NOW)
    assert authenticator.authenticate(f"Bearer {token()}").value == "u-1001"

    jwks.chmod(0o666)
    with pytest.raises(TokenRefusedError):
        authenticator.authenticate(f"Bearer {token()}")
    assert "can be written by everybody" in str(authenticator.failure)
    with pytest.raises(StartError, match="`chmod o-w` it"):
        Authenticator([issuer(jwks)])

    jwks.chmod(0o644)
    assert authenticator.authenticate(f"Bearer {token()}").value == "u-1001"


def test_a_settled_key_file_is_not_read_again(jwks: Path) -> None:
    """One that did not change for a while is only looked at: the keys are those of the first reading."""
    os.utime(jwks, (1_700_000_000, 1_700_000_000))
    authenticator = Authenticator([issuer(jwks)], now=lambda: NOW)
    (_, keys) = authenticator._issuers[ISSUER]
    assert isinstance(keys, FileKeys)
    before = keys._keys

    assert authenticator.authenticate(f"Bearer {token()}").value == "u-1001"

    assert keys._keys is before


BAD_SETS: list[tuple[object, str]] = [
    ([], "holds no key"),
    ({}, "expected `keys`"),
    ([1], "expected `keys`"),
    ([{**KEYS[0], "d": "AA"}], "private or symmetric"),
    ([{"kty": "oct", "kid": "s", "k": "AAAA", "alg": "HS256"}], "private or symmetric"),
    ([{**KEYS[0], "kid": None}], "without `kid`"),
    ([KEYS[0], KEYS[0]], "two keys with the id `ed`"),
    ([{**KEYS[0], "alg": None}], "expected `alg`"),
    ([{**KEYS[0], "alg": "HS256"}], "expected `alg`"),
    ([{**KEYS[0], "alg": "none"}], "expected `alg`"),
    ([{**KEYS[0], "alg": ["EdDSA"]}], "expected `alg`"),
    ([{**KEYS[0], "alg": "RS256"}], "not a key of RS256"),
    ([{**KEYS[1], "alg": "EdDSA"}], "not a key of EdDSA"),
    ([{**KEYS[0], "x": "AA"}], "malformed"),
    ([public_jwk(rsa.generate_private_key(65537, 1024), "short", "RS256")], "too short"),
    ([public_jwk(rsa.generate_private_key(3, 2048), "e3", "RS256")], "too short"),
    ([public_jwk(ec.generate_private_key(ec.SECP384R1()), "384", "ES256")], "not a key of ES256"),
    ([{**KEYS[0], "use": "enc"}], "holds no key"),
    ([{**KEYS[0], "key_ops": ["sign"]}], "holds no key"),
]


@pytest.mark.parametrize(("keys", "sentence"), BAD_SETS, ids=[f"{n}-{b[1]}" for n, b in enumerate(BAD_SETS)])
def test_keys_that_may_not_verify_stop_the_start(tmp_path: Path, keys: object, sentence: str) -> None:
    """Private, symmetric, short, unnamed, for encryption, of another algorithm: a sentence, and no start."""
    path = write_keys(tmp_path / "jwks", keys)

    with pytest.raises(StartError, match=sentence):
        Authenticator([issuer(path)])


def test_a_key_for_encryption_is_left_alone_beside_one_that_verifies(tmp_path: Path) -> None:
    """A set may hold keys for other uses; they verify nothing."""
    path = write_keys(tmp_path / "jwks", [KEYS[0], {**public_jwk(OTHER_ED, "enc", "EdDSA"), "use": "enc"}])
    authenticator = Authenticator([issuer(path)], now=lambda: NOW)

    assert authenticator.authenticate(f"Bearer {token()}").value == "u-1001"
    with pytest.raises(TokenRefusedError):
        authenticator.authenticate(f"Bearer {token(key=OTHER_ED, kid='enc')}")


def test_missing_keys_stop_the_start(tmp_path: Path) -> None:
    """The file is named."""
    with pytest.raises(StartError, match=r"none\.json`, do not exist"):
        Authenticator([issuer(tmp_path / "none.json")])


def test_a_token_without_an_id_is_named_by_its_hash(jwks: Path) -> None:
    """The audit log can tell two tokens apart without holding either."""
    authenticator = Authenticator([issuer(jwks)], now=lambda: NOW)

    text = token(claims(jti=None))
    found = authenticator.authenticate(f"Bearer {text}").token_id

    assert len(found) == 16
    assert found not in text


def test_the_clock_is_the_real_one_by_default(jwks: Path) -> None:
    """Without a clock of its own the authenticator goes by the system's."""
    now = datetime.now(UTC)
    good = claims(iat=int(now.timestamp()), exp=int((now + HOUR).timestamp()))

    assert Authenticator([issuer(jwks)]).authenticate(f"Bearer {token(good)}").value == "u-1001"
    old = claims(iat=int((now - 2 * HOUR).timestamp()), exp=int((now - HOUR).timestamp()))
    with pytest.raises(TokenRefusedError):
        Authenticator([issuer(jwks)]).authenticate(f"Bearer {token(old)}")
