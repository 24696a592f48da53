"""`issuers` of `remit.yaml`: what is read, and that every refusal names line, key and what was expected."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from connectors.yaml_file import YamlFileError, parse
from service.sections.issuers import ALGORITHMS, IssuerSettings, KeyFile, KeyServer, read

BASE = Path("/etc/remit")
ATTRIBUTES = {"people": ("id", "uid")}
GOOD = """\
- issuer: https://login.example.com/corp
  audience: remit
  claim: oid
  directory: people
  attribute: id
"""


def issuers(text: str) -> tuple[IssuerSettings, ...]:
    """Read a list of issuers."""
    return read(parse(text.encode(), "remit.yaml", 100_000), BASE, ATTRIBUTES)


def one(more: str = "") -> IssuerSettings:
    """Read one issuer with more keys."""
    (found,) = issuers(GOOD + "".join(f"  {line}\n" for line in more.splitlines()))
    return found


def test_an_issuer_publishes_its_keys_unless_something_else_is_said() -> None:
    """Discovery over HTTPS with the system's authorities, no proxy, an hour; every algorithm and every client."""
    found = one()

    url = "https://login.example.com/corp/.well-known/openid-configuration"
    assert found.keys == KeyServer(url, True, None, None, timedelta(hours=1))
    assert (found.issuer, found.audience, found.claim) == ("https://login.example.com/corp", "remit", "oid")
    assert (found.token_type, found.clients, found.algorithms) == ("at+jwt", frozenset(), frozenset(ALGORITHMS))
    assert found.place == "remit.yaml:1: [0]"


def test_every_choice_of_an_issuer_is_read() -> None:
    """A URL of the keys, an authority, a proxy, an age, the type, the clients, the algorithms, the lifetime."""
    found = one(
        "jwks: https://keys.example.com/corp\nca: ./ca.pem\nproxy: http://proxy:3128\nmax_keys_age: 2h\n"
        "token_type: JWT\nclients: [app]\nalgorithms: [ES256, RS256]\nmax_token_lifetime: 1h"
    )

    assert found.keys == KeyServer(
        "https://keys.example.com/corp", False, BASE / "ca.pem", "http://proxy:3128", timedelta(hours=2)
    )
    assert found.token_type == "JWT"
    assert found.clients == {"app"}
    assert found.algorithms == {"ES256", "RS256"}
    assert found.max_token_lifetime == timedelta(hours=1)
    assert one("jwks: ./keys.json").keys == KeyFile(BASE / "keys.json")


def test_a_slash_at_the_end_of_an_issuer_does_not_double_in_its_discovery() -> None:
    """OpenID Connect Discovery 4.1: it is removed; the issuer itself stays as it is written."""
    (found,) = issuers(GOOD.replace("/corp", "/corp/"))

    assert isinstance(found.keys, KeyServer)
    assert found.keys.url == "https://login.example.com/corp/.well-known/openid-configuration"
    assert found.issuer == "https://login.example.com/corp/"


REFUSED = [
    ("jwks: http://keys.example.com", 6, "[0].jwks: expected a path or an https URL"),
    ("jwks: ftp://keys.example.com", 6, "[0].jwks: expected a path or an https URL"),
    ("jwks: https://keys.example.com#a", 6, "[0].jwks: expected a path or an https URL"),
    ("jwks: https://user@keys.example.com", 6, "[0].jwks: expected a path or an https URL"),
    ("jwks: ./keys.json\nca: ./ca.pem", 7, "[0].ca: is for keys that are fetched"),
    ("jwks: ./keys.json\nmax_keys_age: 1h", 7, "[0].max_keys_age: is for keys that are fetched"),
    ("proxy: proxy:3128", 6, "[0].proxy: expected a proxy's URL"),
    ("max_keys_age: 19m", 6, "[0].max_keys_age: expected at least `20m`"),
    ("token_type: JWT", 6, "[0].token_type: `JWT` does not tell access tokens from ID tokens, expected `clients`"),
    ("token_type: id+jwt", 6, "[0].token_type: expected `at+jwt` or `JWT`"),
    ("clients: []", 6, "[0].clients: expected at least one entry"),
    ("clients: app", 6, "[0].clients: expected a list"),
    ("algorithms: [HS256]", 6, "[0].algorithms[0]: expected `EdDSA` or `ES256` or `RS256` or `PS256`, found `HS256`"),
    ("algorithms: [none]", 6, "found `none`"),
    ("algorithms: []", 6, "[0].algorithms: expected at least one entry"),
]


@pytest.mark.parametrize(("more", "line", "sentence"), REFUSED, ids=[r[0][:40] for r in REFUSED])
def test_what_an_issuer_may_not_be_is_refused_with_its_line(more: str, line: int, sentence: str) -> None:
    """Each wrong value is named where it stands."""
    with pytest.raises(YamlFileError) as caught:
        one(more)

    assert str(caught.value).startswith(f"remit.yaml:{line}: ")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "claim",
    ["email", "Email", "mail", "upn", "preferred_username", "unique_name", "name", "given_name", "nickname",
     "phone_number", "groups", "roles", "samaccountname", "userprincipalname", "login_hint", "custom:email",
     "https://corp.example/user_name", "azp", "client_id", "jti", "iss", "aud", "sid", "tid"],
)  # fmt: skip
def test_a_claim_that_may_change_is_no_identity(claim: str) -> None:
    """Names, addresses, groups and what names no person are refused at the start."""
    with pytest.raises(YamlFileError, match="expected an immutable claim"):
        issuers(GOOD.replace("claim: oid", f'claim: "{claim}"'))


@pytest.mark.parametrize("claim", ["sub", "oid", "onprem_sid", "entryUUID", "employee_id", "https://corp.example/id"])
def test_an_immutable_claim_is_one(claim: str) -> None:
    """What an administrator says does not change."""
    (found,) = issuers(GOOD.replace("claim: oid", f'claim: "{claim}"'))

    assert found.claim == claim


def test_an_issuer_stands_once() -> None:
    """Two entries of one issuer would leave open which holds."""
    with pytest.raises(YamlFileError, match=r"remit\.yaml:6: .*listed twice"):
        issuers(GOOD + GOOD)
    assert len(issuers(GOOD + GOOD.replace("/corp", "/other"))) == 2
