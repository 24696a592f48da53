"""The rules of RFC 8725 and of the draft that succeeds it, one by one: a token that breaks the rule and in nothing else
is refused, and its allowed neighbour is not. `test_authn` has the claims, the form and the headers; here are what a
deployment chooses, the kinds of tokens, and the tricks with algorithms and serializations."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from service.authn import Authenticator, TokenRefusedError
from service.errors import StartError
from service.sections.issuers import IssuerSettings
from tests.service.authn_support import (
    AUDIENCE,
    EC,
    ISSUER,
    KEYS,
    NOW,
    RSA,
    claims,
    compact,
    encode,
    issuer,
    token,
    write_keys,
)

HEADER = '{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}'


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> IssuerSettings:
    """An issuer of typed access tokens, for two clients."""
    jwks = write_keys(tmp_path_factory.mktemp("keys") / "jwks", KEYS)
    return issuer(jwks, clients=frozenset({"app", "app2"}))


@pytest.fixture(scope="module")
def untyped(strict: IssuerSettings) -> IssuerSettings:
    """An issuer whose access tokens and ID tokens have one type, such as Entra ID and Keycloak."""
    return replace(strict, token_type="JWT")


def word(settings: IssuerSettings, text: str) -> str:
    """Why a token is refused; empty when it is accepted."""
    authenticator = Authenticator([settings], now=lambda: NOW)
    try:
        authenticator.authenticate(f"Bearer {text}")
    except TokenRefusedError as err:
        return err.why if str(err) == "the credential is missing or does not verify" else "another text"
    return ""


# --- which application (RFC 8725 3.8 and 3.9: for whom and by whom a token is) ---

CLIENTS: list[tuple[str, dict[str, object], str]] = [
    ("the client of RFC 9068", {"client_id": "app"}, ""),
    ("the client of OpenID Connect", {"azp": "app2"}, ""),
    ("the client of Entra ID's first version", {"appid": "app"}, ""),
    ("all that is said is listed", {"client_id": "app", "azp": "app"}, ""),
    ("another client", {"client_id": "other"}, "wrong client"),
    ("another case", {"client_id": "App"}, "wrong client"),
    ("no client", {}, "wrong client"),
    ("one of two is another", {"client_id": "app", "azp": "other"}, "wrong client"),
    ("the other of two is another", {"client_id": "other", "azp": "app"}, "wrong client"),
    ("a list", {"client_id": ["app"]}, "wrong client"),
    ("a list beside it", {"client_id": "app", "azp": ["app"]}, "wrong client"),
    ("null beside it", {"client_id": "app", "azp": {}}, "wrong client"),
    ("empty", {"client_id": ""}, "wrong client"),
]


@pytest.mark.parametrize(("changes", "expected"), [c[1:] for c in CLIENTS], ids=[c[0] for c in CLIENTS])
def test_only_listed_applications_may_present_tokens(
    strict: IssuerSettings, changes: dict[str, object], expected: str
) -> None:
    """Every claim that names the client must name a listed one; without a list all that the issuer serves may."""
    text = token(claims(**changes))

    assert word(strict, text) == expected
    assert word(replace(strict, clients=frozenset()), text) == ""


# --- which kind of token (RFC 8725 3.11 and 3.12) ---


@pytest.mark.parametrize("typ", ["JWT", "jwt", "application/jwt"])
def test_an_issuer_without_types_is_configured_so(strict: IssuerSettings, untyped: IssuerSettings, typ: str) -> None:
    """`JWT` is accepted only where the issuer is said to emit nothing better; then `at+jwt` is the wrong type."""
    text = token(claims(client_id="app"), typ=typ)

    assert word(untyped, text) == ""
    assert word(strict, text) == "wrong type"
    assert word(untyped, token(claims(client_id="app"))) == "wrong type"


OTHER_KINDS: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("an ID token with a nonce", {}, {"nonce": "n"}),
    ("an ID token with a token's hash", {}, {"at_hash": "h"}),
    ("an ID token with a code's hash", {}, {"c_hash": "h"}),
    ("a logout token", {}, {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
    ("Keycloak's ID token", {}, {"typ": "ID"}),
    ("Keycloak's refresh token", {}, {"typ": "Refresh"}),
    ("a type that is no text", {}, {"typ": ["Bearer"]}),
    ("a typed logout token", {"typ": "logout+jwt"}, {}),
    ("a typed proof", {"typ": "dpop+jwt"}, {}),
    ("a typed request", {"typ": "oauth-authz-req+jwt"}, {}),
    ("a client's assertion", {"typ": "client-authentication+jwt"}, {}),
    ("an answer of introspection", {"typ": "token-introspection+jwt"}, {}),
]


@pytest.mark.parametrize(("header", "changes"), [o[1:] for o in OTHER_KINDS], ids=[o[0] for o in OTHER_KINDS])
def test_other_tokens_of_the_issuer_are_no_access_tokens(
    untyped: IssuerSettings, header: dict[str, object], changes: dict[str, object]
) -> None:
    """Signed by the same key for the same client, but for another purpose."""
    good = {"client_id": "app"}

    assert word(untyped, token(claims(**(good | changes)), typ=header.get("typ", "JWT"))) == "wrong type"
    assert word(untyped, token(claims(**good, typ="Bearer"), typ="JWT")) == ""


def test_an_id_token_for_the_application_is_for_another_audience(untyped: IssuerSettings) -> None:
    """Without any mark of its kind, an ID token is for the client and not for this service."""
    assert word(untyped, token(claims(client_id="app", aud="app"), typ="JWT")) == "wrong audience"


def test_a_token_that_is_bound_to_a_key_is_no_bearer_token(strict: IssuerSettings) -> None:
    """Whoever stole it cannot present it without the key, so neither may anybody here."""
    for binding in ({"x5t#S256": "x"}, {"jkt": "x"}, {}, None, "x"):
        members = {**claims(client_id="app"), "cnf": binding}
        assert word(strict, compact(HEADER, json.dumps(members))) == "bound token"
    assert word(strict, token(claims(client_id="app"))) == ""


# --- which algorithm (RFC 8725 3.1, 3.2) ---


def signed(algorithm: str, kid: str, signature: bytes) -> str:
    """A token with these bytes as its signature."""
    head = encode(json.dumps({"alg": algorithm, "typ": "at+jwt", "kid": kid}).encode())
    return f"{head}.{encode(json.dumps(claims(client_id='app')).encode())}.{encode(signature)}"


def test_a_signature_of_zeros_is_none(strict: IssuerSettings) -> None:
    """r = s = 0 once verified everything elsewhere (CVE-2022-21449)."""
    for size in (64, 63, 65, 1, 132):
        assert word(strict, signed("ES256", "ec", bytes(size))) == "wrong signature"
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for r, s in ((order, order), (1, 0), (0, 1), (order, 1)):
        assert word(strict, signed("ES256", "ec", r.to_bytes(32, "big") + s.to_bytes(32, "big"))) == "wrong signature"
    assert word(strict, token(claims(client_id="app"), key=EC, algorithm="ES256", kid="ec")) == ""


def test_a_signature_has_the_form_of_its_algorithm(strict: IssuerSettings) -> None:
    """DER where JWS wants two numbers, PKCS#1 v1.5 under a PSS key and the other way, another hash: refused."""
    text = signed("ES256", "ec", b"").rpartition(".")[0].encode()
    der = EC.sign(text, ec.ECDSA(hashes.SHA256()))
    r, s = decode_dss_signature(der)
    assert word(strict, signed("ES256", "ec", der)) == "wrong signature"
    assert word(strict, signed("ES256", "ec", r.to_bytes(32, "big") + s.to_bytes(32, "big"))) == ""

    text = signed("PS256", "ps", b"").rpartition(".")[0].encode()
    assert word(strict, signed("PS256", "ps", RSA.sign(text, padding.PKCS1v15(), hashes.SHA256()))) == "wrong signature"
    text = signed("RS256", "rs", b"").rpartition(".")[0].encode()
    pss = RSA.sign(text, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    assert word(strict, signed("RS256", "rs", pss)) == "wrong signature"
    assert word(strict, signed("RS256", "rs", RSA.sign(text, padding.PKCS1v15(), hashes.SHA512()))) == "wrong signature"
    assert word(strict, signed("RS256", "rs", RSA.sign(text, padding.PKCS1v15(), hashes.SHA256()))) == ""


@pytest.mark.parametrize(
    "algorithm",
    ["none", "None", "NONE", "nOnE", "HS256", "hs256", "RS1", "RS384", "RS512", "ES256K", "ES384", "ES512", "PS512",
     "Ed448", "EdDSA ", " EdDSA", "EDDSA", "", None, 1, True, ["EdDSA"], {"alg": "EdDSA"}],
)  # fmt: skip
def test_no_other_spelling_and_no_other_algorithm_is_accepted(strict: IssuerSettings, algorithm: object) -> None:
    """The header's `alg` is compared with the key's, exactly; it chooses nothing."""
    head = json.dumps({"alg": algorithm, "typ": "at+jwt", "kid": "ed"})
    body = json.dumps(claims(client_id="app"))

    assert word(strict, compact(head, body)) == "wrong algorithm"
    assert word(strict, compact(HEADER, body)) == ""


def test_an_algorithm_that_the_issuer_may_not_use_has_no_key(strict: IssuerSettings, tmp_path: Path) -> None:
    """`algorithms` narrows what is accepted, whatever key would fit."""
    jwks = write_keys(tmp_path / "jwks", [KEYS[1]])
    narrow = issuer(jwks, algorithms=frozenset({"ES256"}))

    assert word(narrow, token(key=EC, algorithm="ES256", kid="ec")) == ""
    assert word(narrow, token()) == "unknown key"


def test_a_key_that_is_no_point_of_its_curve_is_none(strict: IssuerSettings, tmp_path: Path) -> None:
    """RFC 8725 3.4: another point, the one at infinity, and numbers beyond the field are refused at start."""
    good = KEYS[1]
    Authenticator([issuer(write_keys(tmp_path / "good", [good]))])
    beyond = encode((2**256 - 1).to_bytes(32, "big"))
    for changed in ({"x": good["y"], "y": good["x"]}, {"x": encode(bytes(32)), "y": encode(bytes(32))}, {"x": beyond}):
        with pytest.raises(StartError, match="malformed or not a key of ES256"):
            Authenticator([issuer(write_keys(tmp_path / "bad", [{**good, **changed}]))])


# --- which serialization, and what hides in it (draft-ietf-oauth-rfc8725bis-03: 3.13 to 3.15) ---


def test_encrypted_and_nested_tokens_are_not_opened(strict: IssuerSettings) -> None:
    """Five parts, a compressed payload, a token in a token, JSON serialization, a detached payload: refused, and a
    count of iterations or a size after decompression is never worked off, because nothing is decrypted."""
    good = token(claims(client_id="app"))
    head, body, signature = good.split(".")
    encrypted = encode(b'{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":2147483647,"p2s":"AAAA"}')
    members = json.dumps({"protected": head, "payload": body, "signature": signature})
    packed = zlib.compress(base64.urlsafe_b64decode(body + "=="))

    for refused, why in (
        (f"{encrypted}.AA.AA.AA.AA", "not a bearer token"),
        (f"{encrypted}.{body}.{signature}", "wrong type"),
        (members, "not a bearer token"),
        (encode(members.encode()), "not a bearer token"),
        (f"{head}..{signature}", "not a bearer token"),
        (compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed","cty":"JWT"}', good), "malformed"),
        (f"{head}.{encode(packed)}.{signature}", "malformed"),
        (compact('{"alg":"EdDSA","typ":"at+jwt","kid":"ed","b64":false}', json.dumps(claims(client_id="app"))),
         "wrong signature"),
    ):  # fmt: skip
        assert word(strict, refused) == why, refused
    assert word(strict, good) == ""


def test_a_token_is_three_texts_of_base64url_and_nothing_else(strict: IssuerSettings) -> None:
    """The draft's 3.14: one character of another kind, wherever it stands, is no token; braces and quotes least of all.

    Among them is a text that is a token to who splits it at dots, and JSON to who looks at its braces.
    """
    good = token(claims(client_id="app"))
    head, body, signature = good.split(".")
    others = [chr(code) for code in range(128) if not (chr(code).isalnum() or chr(code) in "-_.")]
    for other in [*others, "\u00e9", "\u2024", "\uff0e"]:
        for place in (0, 1, len(head), len(good) // 2, len(good) - 1, len(good)):
            assert word(strict, good[:place] + other + good[place:]) == "not a bearer token", (other, place)
    for split in (f"{good}.", f".{good}", good.replace(".", "..", 1), f"{head}.{body}", head, f"{good}.{signature}"):
        assert word(strict, split) == "not a bearer token", split
    polyglot = json.dumps({"protected": f"x.{body}.x", "payload": body, "signature": signature})
    assert word(strict, polyglot) == "not a bearer token"
    assert word(strict, good) == ""


@pytest.mark.parametrize(
    "payload", [b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"a": "\xff"}', b"\x00{}", b'{"a":1,}', b"{'a':1}", b"null"]
)
def test_claims_are_json_in_utf_8(strict: IssuerSettings, payload: bytes) -> None:
    """RFC 8725 3.7: no other encoding, no byte order mark, nothing but JSON."""
    text = f"{encode(HEADER.encode())}.{encode(payload)}.AAAA"

    assert word(strict, text) in {"malformed", "unknown issuer"}


def test_a_key_of_one_issuer_serves_no_other_also_by_the_same_file(strict: IssuerSettings) -> None:
    """RFC 8725 3.8: `iss` chooses the settings, all of them: audience, clients and the claim that names the account."""
    other = replace(strict, issuer="https://issuer.example/two", audience="b", clients=frozenset({"b"}), claim="oid")
    authenticator = Authenticator([strict, other], now=lambda: NOW)

    def value(**changes: object) -> str:
        try:
            return authenticator.authenticate(f"Bearer {token(claims(**changes))}").value
        except TokenRefusedError as err:
            return err.why

    assert value(client_id="app") == "u-1001"
    assert value(iss=other.issuer, aud="b", client_id="b", oid="o-1") == "o-1"
    assert value(iss=other.issuer, aud=AUDIENCE, client_id="b", oid="o-1") == "wrong audience"
    assert value(iss=other.issuer, aud="b", client_id="app", oid="o-1") == "wrong client"
    assert value(iss=other.issuer, aud="b", client_id="b") == "no subject"
    assert value(iss=ISSUER.upper(), client_id="app") == "unknown issuer"


def test_groups_in_a_token_are_never_looked_at(strict: IssuerSettings) -> None:
    """Whatever a token says of groups, roles or scopes, the subject is the same."""
    authenticator = Authenticator([strict], now=lambda: NOW)
    plain = authenticator.authenticate(f"Bearer {token(claims(client_id='app'))}")

    said: list[dict[str, object]] = [
        {"groups": ["operators"]},
        {"groups": []},
        {"hasgroups": True},
        {"_claim_names": {"groups": "src1"}},
        {"roles": ["operator"], "scope": "admin", "scp": "admin", "wids": ["x"]},
    ]
    for changes in said:
        assert authenticator.authenticate(f"Bearer {token(claims(client_id='app', **changes))}") == plain


# --- anything at all ---

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_names = st.sampled_from(
    ["alg", "typ", "kid", "crit", "b64", "cty", "jku", "jwk", "x5u", "x5c", "x5t", "zip", "enc", "epk", "p2c"]
)
_claims = st.sampled_from(
    ["iss", "aud", "sub", "exp", "iat", "nbf", "jti", "azp", "client_id", "appid", "typ", "cnf", "act", "nonce"]
)


@given(st.dictionaries(_names, _values, max_size=4), st.dictionaries(_claims, _values, max_size=4))
def test_any_header_with_any_claims_is_accepted_or_refused_and_nothing_else(
    strict: IssuerSettings, header: dict[str, object], changes: dict[str, object]
) -> None:
    """Signed with the right key, whatever they hold: a subject that the rules name, or the one error."""
    authenticator = Authenticator([strict], now=lambda: NOW)
    members = json.loads(HEADER) | header
    body = claims(client_id="app") | changes
    try:
        subject = authenticator.authenticate(f"Bearer {compact(json.dumps(members), json.dumps(body))}")
    except TokenRefusedError:
        return

    assert (members["alg"], members["kid"], str(members["typ"]).lower()) == ("EdDSA", "ed", "at+jwt")
    assert "crit" not in members
    assert "cnf" not in body
    assert (body["iss"], subject.value) == (ISSUER, body["sub"])
    assert body["client_id"] in {"app", "app2"}


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=80))
def test_any_bytes_as_parts_are_refused(strict: IssuerSettings, head: bytes, body: bytes, signature: bytes) -> None:
    """Bytes that were never a token end in the one error."""
    with pytest.raises(TokenRefusedError):
        Authenticator([strict], now=lambda: NOW).authenticate(
            f"Bearer {encode(head)}.{encode(body)}.{encode(signature)}"
        )
