"""An attacker at the wire: any bytes, any metadata, any credential that is wrong in one way, on every method.

What must hold whatever is sent: a status that the API documents and no other, the same bytes for every credential that
does not verify, and not one byte of a document that the caller may not read.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service import devissuer
from service.sections.issuers import KeyFile
from tests.service.harness import FINANCE, PEOPLE, SALES, Service, allow, serving
from tests.service.test_api_matrix import _REQUESTS

pytestmark = pytest.mark.slow

CANARY: Final = "kestrel"
SEED: Final = 20261125
_DOCUMENTED: Final = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "FAILED_PRECONDITION"}
_PEOPLE: Final = ("alice", "olga", "adam")
"""Somebody without a role, an operator, an auditor."""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A document that Alice may read, and one that nobody of these three may, with the canary."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", f"the {CANARY} plan of finance", allow(FINANCE))
        running.sync()
        yield running


def mutated(data: bytes, random_: random.Random) -> bytes:
    """A message with some bytes changed, added, taken away, repeated; or bytes that never were one."""
    kind = random_.randrange(6)
    if kind == 0:
        return random_.randbytes(random_.randrange(1, 60))
    made = bytearray(data)
    for _ in range(random_.randrange(1, 4)):
        place = random_.randrange(len(made) + 1)
        match random_.randrange(4):
            case 0:
                made.insert(place, random_.randrange(256))
            case 1:
                del made[place : place + random_.randrange(1, 4)]
            case 2 if place < len(made):
                made[place] ^= 1 << random_.randrange(8)
            case _:
                made += made[place:]
    return bytes(made)


@pytest.mark.parametrize("name", _PEOPLE)
async def test_any_bytes_as_a_request_end_in_a_documented_status_and_tell_nothing(service: Service, name: str) -> None:
    """Mutations of every method's message, and bytes that are none."""
    random_ = random.Random(f"{SEED} {name}")
    token = service.token(name)
    hidden = service.document_ids()["finance"].encode()
    seen = set()
    for _ in range(20):
        for method, request in sorted(_REQUESTS.items()):
            data = mutated(request.SerializeToString(), random_)
            # The id of the hidden document in place of any other.
            data = data.replace(b"\x0a\x01x", b"\x0a" + bytes([len(hidden)]) + hidden)

            outcome = await service.call(method, data, token=token)

            assert outcome.code in _DOCUMENTED, (method, data, outcome)
            seen.add(outcome.code)
            everything = outcome.message + outcome.details.encode() + repr(outcome.trailing).encode()
            # An auditor reads whom a query was about and where documents stand, never what is in one.
            told = f"the {CANARY} plan" if (name, method[:6]) == ("adam", "Review") else CANARY
            assert told.encode() not in everything, (method, data)
    assert {"OK", "INVALID_ARGUMENT"} <= seen


def wrong(service: Service, name: str) -> dict[str, Callable[[], str]]:
    """Tokens of this person that are wrong in one way each."""
    settings = service.config.issuers[0]
    assert isinstance(settings.keys, KeyFile)
    private = json.loads(devissuer.private_key_path(settings.keys.path).read_text())
    key = jwt.PyJWK(private, algorithm="EdDSA").key
    good = jwt.decode(service.token(name), options={"verify_signature": False})
    now = int(service.clock().timestamp())

    def signed(by: Ed25519PrivateKey = key, typ: str = "at+jwt", kid: str = private["kid"], **changes: object) -> str:
        return jwt.encode({**good, **changes}, by, algorithm="EdDSA", headers={"typ": typ, "kid": kid})

    return {
        "forged": lambda: signed(Ed25519PrivateKey.generate()),
        "of an unknown key": lambda: signed(kid="another"),
        "expired": lambda: devissuer.mint(service.config, name, at=service.clock() - timedelta(hours=2)),
        "not yet valid": lambda: signed(nbf=now + 3600),
        "of another audience": lambda: signed(aud="another"),
        "of another issuer": lambda: signed(iss="https://elsewhere.example"),
        "an ID token": lambda: signed(typ="JWT"),
        "bound to a certificate": lambda: signed(cnf={"x5t#S256": "x"}),
        "delegated to a stranger": lambda: signed(act={"sub": "stranger"}),
        "of another account's claim": lambda: signed(sub=["u-1001"]),
        "long-lived": lambda: signed(exp=now + 400 * 86400),
        "unsigned": lambda: jwt.encode(good, "", algorithm="none", headers={"typ": "at+jwt", "kid": private["kid"]}),
    }


async def test_no_state_of_a_token_gets_in_whatever_role_its_owner_has(service: Service) -> None:
    """Every method, every role, every fault: one answer, byte for byte; the good token of each is another."""
    outcomes = set()
    for name in _PEOPLE:
        tokens = {state: make() for state, make in wrong(service, name).items()}
        for method, request in sorted(_REQUESTS.items()):
            for state, token in tokens.items():
                outcome = await service.call(method, request, token=token)
                assert outcome.code == "UNAUTHENTICATED", (name, method, state)
                outcomes.add(outcome)
        assert (await service.call("AccessService/GetCaller", token=service.token(name))).code == "OK"
    service.people(PEOPLE.replace("groups: [sales]}", "groups: [sales], enabled: false}"))
    for method, request in sorted(_REQUESTS.items()):
        outcomes.add(await service.call(method, request, token=service.token("olga")[:-4] + "AAAA"))

    assert len(outcomes) == 1


_CLAIMS: Final = (
    *("x-user", "x-forwarded-user", "x-remote-user", "remit-caller", "remit-roles", "on-behalf-of", "x-role"),
    *("x-ssl-client-cert", "x-forwarded-client-cert", "cookie", "grpc-internal-encoding-request"),
)


async def test_any_metadata_changes_nothing_or_is_refused(tmp_path: Path) -> None:
    """Names that other systems trust, with values that would be worth it: the same bytes as without. The one entry
    that names a person is refused from everybody who is no service, and a second credential is, too."""
    random_ = random.Random(SEED)
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as service:
        service.add("sales", "the plan of sales", allow(SALES))
        service.add("finance", f"the {CANARY} plan of finance", allow(FINANCE))
        service.sync()
        token, other = service.token("alice"), service.token("bob")
        method, request = "RetrievalService/Search", _REQUESTS["RetrievalService/Search"]
        plain = await service.call(method, request, token=token)
        assert plain.code == "OK"
        for _ in range(40):
            names = random_.sample(_CLAIMS, 3)
            values = random_.choices(["bob", "u-1002", "operator", f"Bearer {other}", "", "a" * 2000, "../.."], k=3)
            metadata = list(zip(names, values, strict=True))
            assert await service.call(method, request, token=token, metadata=metadata) == plain, metadata
        for refused in (
            [("remit-on-behalf-of", "u-1002")],
            [("remit-on-behalf-of", "u-1001")],
            [("remit-on-behalf-of", "")],
            [("authorization", f"Bearer {other}")],
            [("authorization", "")],
        ):
            outcome = await service.call(method, request, token=token, metadata=refused)
            assert outcome.code == "UNAUTHENTICATED", refused
            assert CANARY not in repr(outcome)
        assert plain != await service.call(method, request, token=other)
