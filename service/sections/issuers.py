"""What `issuers` of `remit.yaml` says: whose tokens are accepted, by which keys, and how one names an account.

Only values and their reading; fetching keys and verifying tokens is `service.authn`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from connectors.yaml_file import Field

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256", "PS256")
"""What may sign a token: one algorithm for each kind of key but RSA, which has two. Nothing symmetric, so that a
public key can never serve as a secret."""

_URL: Final = re.compile(r"https://[^\s?#@]+")
_PROXY: Final = re.compile(r"https?://[^\s?#@]+")
_DISCOVERY: Final = "/.well-known/openid-configuration"
_LEAST_AGE: Final = timedelta(minutes=20)
_CLIENTS: Final = 1000

# What a person or an administrator may change, or hand to somebody else, and what names no person: never an identity.
# SOURCE: OpenID Connect Core 5.7: only `sub` with `iss` is stable, and the others must not identify.
_MUTABLE: Final = re.compile(r"mail|name|upn|login|phone|nick|alias|address|group|role|profile|picture|locale")
_NO_PERSON: Final = frozenset(
    {"iss", "aud", "exp", "iat", "nbf", "jti", "azp", "client_id", "appid", "act", "may_act", "cnf", "nonce", "sid"}
    | {"scope", "scp", "acr", "amr", "auth_time", "typ", "tid", "idp", "ipaddr", "gender", "birthdate", "zoneinfo"}
)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The issuer's public keys are in a file, a JSON web key set, which is read again when it changes."""

    path: Path


@dataclass(frozen=True, slots=True)
class KeyServer:
    """The issuer publishes its keys over HTTPS.

    url: of the key set when `discovered` is false, else of the document that names it (OpenID Connect Discovery 4).
    ca: a PEM file with the only authorities that count; None means the system's.
    proxy: None means none, whatever the environment says.
    max_age: keys that were fetched longer ago verify nothing.
    """

    url: str
    discovered: bool
    ca: Path | None
    proxy: str | None
    max_age: timedelta


@dataclass(frozen=True, slots=True)
class IssuerSettings:
    """One issuer.

    claim: the immutable claim that equals `attribute` of an account in `directory`.
    token_type: the header `typ` of its access tokens; `JWT` says that only `clients` tells them from ID tokens.
    clients: the applications whose tokens are accepted; empty: every one that the issuer gives tokens for `audience`.
    algorithms: those that its keys may have.
    actors: who may act for a person (`act` of RFC 8693), by `sub`, each with the names of the sources it may reach.
    place: where it stands, for an error about it.
    """

    issuer: str
    audience: str
    keys: KeyFile | KeyServer
    claim: str
    directory: str
    attribute: str
    max_token_lifetime: timedelta = timedelta(hours=24)
    token_type: Literal["at+jwt", "JWT"] = "at+jwt"
    clients: frozenset[str] = frozenset()
    algorithms: frozenset[str] = frozenset(ALGORITHMS)
    actors: Mapping[str, frozenset[str]] = field(default_factory=dict)
    place: str = field(default="", compare=False, repr=False)


def read(
    item: Field, base: Path, attributes: Mapping[str, Collection[str]], sources: Collection[str] = ()
) -> tuple[IssuerSettings, ...]:
    """Read the list. attributes: the immutable attributes of accounts, for each configured directory by its name.

    sources: the names of the configured sources.

    Raises YamlFileError.
    """
    found: dict[str, IssuerSettings] = {}
    for one in item.items():
        settings = _issuer(one, base, attributes, sources)
        if settings.issuer in found:
            one.mapping()["issuer"].fail(f"`{settings.issuer}` is listed twice")
        found[settings.issuer] = settings
    if not found:
        item.fail("expected at least one issuer, found none")
    return tuple(found.values())


def _issuer(
    one: Field, base: Path, attributes: Mapping[str, Collection[str]], sources: Collection[str]
) -> IssuerSettings:
    required = ["issuer", "audience", "claim", "directory", "attribute"]
    of_keys = ["jwks", "ca", "proxy", "max_keys_age"]
    entries = one.mapping([*required, *of_keys, "max_token_lifetime", "token_type", "clients", "algorithms", "actors"])
    values = {name: one.need(entries, name, f"the {name} of the tokens' issuer") for name in required}
    issuer = values["issuer"].text("an https URL", _URL)
    claim = values["claim"].text("a claim's name")
    if claim.lower() in _NO_PERSON or _MUTABLE.search(claim.lower()):
        values["claim"].expected("an immutable claim such as `sub` or `oid`, because a mutable one is no identity")
    directory = values["directory"].text("a directory's name")
    if directory not in attributes:
        names = ", ".join(f"`{name}`" for name in attributes) or "(none listed)"
        values["directory"].expected(f"one of the directories {names}")
    attribute = values["attribute"].text()
    if attribute not in attributes[directory]:
        names = ", ".join(f"`{name}`" for name in attributes[directory])
        values["attribute"].expected(f"one of {names}, which the directory `{directory}` has")
    token_type: Literal["at+jwt", "JWT"] = "at+jwt"
    if "token_type" in entries and entries["token_type"].choice(["at+jwt", "JWT"]) == "JWT":
        token_type = "JWT"
    clients = _words(entries.get("clients"), "the client id of an application")
    if token_type == "JWT" and not clients:
        # An ID token is for the client that asked for it: without a list nothing tells the two kinds apart.
        entries["token_type"].fail("`JWT` does not tell access tokens from ID tokens, expected `clients` beside it")
    return IssuerSettings(
        issuer=issuer,
        audience=values["audience"].text("the audience that names this service"),
        keys=_keys(one, entries, issuer, base),
        claim=claim,
        directory=directory,
        attribute=attribute,
        max_token_lifetime=entries["max_token_lifetime"].duration()
        if "max_token_lifetime" in entries
        else timedelta(hours=24),
        token_type=token_type,
        clients=clients,
        algorithms=_words(entries.get("algorithms"), "", ALGORITHMS) or frozenset(ALGORITHMS),
        actors=_actors(entries.get("actors"), sources),
        place=f"{one.file}:{one.line}: {one.key}",
    )


def _keys(one: Field, entries: Mapping[str, Field], issuer: str, base: Path) -> KeyFile | KeyServer:
    jwks = entries.get("jwks")
    where = issuer.removesuffix("/") + _DISCOVERY if jwks is None else jwks.text("a path or an https URL")
    if jwks is not None and "://" not in where:
        for name in ("ca", "proxy", "max_keys_age"):
            if name in entries:
                entries[name].fail("is for keys that are fetched, but `jwks` names a file")
        return KeyFile(jwks.path(base))
    if jwks is not None:
        jwks.text("a path or an https URL", _URL)
    max_age = entries["max_keys_age"].duration() if "max_keys_age" in entries else timedelta(hours=1)
    if max_age < _LEAST_AGE:
        entries["max_keys_age"].fail("expected at least `20m`: keys are fetched every ten minutes")
    proxy = entries.get("proxy")
    return KeyServer(
        url=where,
        discovered=jwks is None,
        ca=entries["ca"].path(base) if "ca" in entries else None,
        proxy=None if proxy is None else proxy.text("a proxy's URL such as `http://proxy.corp:3128`", _PROXY),
        max_age=max_age,
    )


def _actors(item: Field | None, sources: Collection[str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for one in item.items(_CLIENTS) if item is not None else ():
        entries = one.mapping(["sub", "sources"])
        name = one.need(entries, "sub", "the `sub` of an actor").label()
        if name in found:
            entries["sub"].fail(f"`{name}` is listed twice")
        allowed = one.need(entries, "sources", "the sources that it may reach").items()
        names = frozenset(source.text("a source's name") for source in allowed)
        for source in allowed:
            if source.text() not in sources:
                source.fail(f"there is no source `{source.text()}`, expected one of the sources below")
        if not names:
            entries["sources"].fail("expected at least one source, found none")
        found[name] = names
    return found


def _words(item: Field | None, what: str, choices: Collection[str] = ()) -> frozenset[str]:
    if item is None:
        return frozenset()
    found = frozenset(one.choice(choices) if choices else one.text(what) for one in item.items(_CLIENTS))
    if not found:
        item.fail("expected at least one entry, found none")
    return found
