"""Every method, every role, every state of a token, on every listener: from the tables that a new method must join.

That the tables name exactly the methods of the `.proto` files is held in `tests.service.test_api_matrix` and
`test_roles`; here each row of them is multiplied with what those do not vary.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from service.api.server import ADMINISTRATOR_SERVICES, CALLER_SERVICES
from service.identity.roles import Roles
from service.settings import Address
from tests.isolation.test_wire import CANARY, wrong
from tests.service.harness import FINANCE, SALES, Outcome, Service, allow, serving
from tests.service.test_api_matrix import _REQUESTS, bad_tokens
from tests.service.test_roles import ANSWERS, EVERYBODY, TABLE, held


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A document that Alice may read, and one that she may not."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", f"the {CANARY} plan of finance", allow(FINANCE))
        running.sync()
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("role", sorted(EVERYBODY))
async def test_every_method_every_role_every_state_of_a_token(
    service: Service, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """A role helps nobody whose token is wrong in one way; with the good one the table decides, and nothing else."""
    monkeypatch.setattr(Roles, "of", lambda self, principals: held(role))
    states = {name: make() for name, make in wrong(service, "alice").items()} | bad_tokens(service)
    good = service.token("alice")
    refused: set[Outcome] = set()

    for method, who in TABLE.items():
        for state, token in states.items():
            outcome = await service.call(method, _REQUESTS[method], token=token)
            assert outcome.code == "UNAUTHENTICATED", (method, role, state)
            refused.add(outcome)
        outcome = await service.call(method, _REQUESTS[method], token=good)
        assert outcome.code == (ANSWERS[method] if role in who else "PERMISSION_DENIED"), (method, role)
        # Who reviews access is told where documents stand, and there it is a part of the place.
        secret = f"the {CANARY} plan" if method.startswith("ReviewService/") else CANARY
        assert secret.encode() not in outcome.message

    assert len(refused) == 1


async def code_at(address: Address, path: str, token: str) -> str:
    """The status of a call of any path at a listener."""
    async with grpc.aio.insecure_channel(str(address), [("grpc.enable_http_proxy", 0)]) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        try:
            await method(b"", metadata=[("authorization", f"Bearer {token}")], timeout=20)
        except grpc.aio.AioRpcError as err:
            return err.code().name
    return "OK"


async def test_no_method_of_administrators_exists_where_callers_call(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each method has one listener; at the other it is unknown, whatever role the caller holds, and so is reflection.

    At its own listener the same call gets as far as its handler.
    """
    monkeypatch.setattr(Roles, "of", lambda self, principals: EVERYBODY - {"", "source-owner"})
    token = service.token("alice")
    for descriptors, own, other in (
        (CALLER_SERVICES, service.callers, service.administrators),
        (ADMINISTRATOR_SERVICES, service.administrators, service.callers),
    ):
        for descriptor in descriptors:
            name = descriptor.methods[0].name
            for method in descriptor.methods:
                path = f"/{descriptor.full_name}/{method.name}"
                assert await code_at(other, path, token) == "UNIMPLEMENTED", path
            assert await code_at(own, f"/{descriptor.full_name}/{name}", token) in {"OK", "INVALID_ARGUMENT"}
    for path in ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1.X/Y"):
        assert await code_at(service.callers, path, token) == "UNIMPLEMENTED"


async def test_paths_that_only_look_like_a_method_are_no_method(service: Service) -> None:
    """Other cases, dots, doubled and encoded slashes, other packages: unknown, without a look at the credential."""
    token = service.token("alice")
    search = "/remit.v1.RetrievalService/Search"

    for path in (
        search.lower(),
        search + "/",
        "/" + search,
        search.replace("v1", "v2"),
        search.replace("/Search", "//Search"),
        search.replace("/Search", "%2FSearch"),
        search.replace("/Search", "/../RetrievalService/Search"),
        "/RetrievalService/Search",
        search + "?user=bob",
        search + "\N{ZERO WIDTH SPACE}".encode().decode("latin-1"),
    ):
        assert await code_at(service.callers, path, token) == "UNIMPLEMENTED", path
    assert await code_at(service.callers, search, token) == "INVALID_ARGUMENT"
