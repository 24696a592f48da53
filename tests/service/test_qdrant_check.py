"""What `remit doctor` says of a Qdrant server, and that the key goes there: against a server that only lists."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from qdrant_client import grpc as wire

from service.errors import StartError
from service.index.planner import Tuning
from service.index.qdrant import QdrantIndex, connect
from service.index.qdrant_check import findings
from service.index.qdrant_settings import QdrantSettings
from tests.service.test_index_contract import Kept

Serve = Callable[[str], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that lists no collections for whoever has the key, for everybody when it is empty."""
    servers: list[grpc.Server] = []

    def start(key: str) -> int:
        class Collections(wire.CollectionsServicer):
            def List(self, request: Any, context: grpc.ServicerContext) -> Any:
                sent = dict(context.invocation_metadata())
                if key and sent.get("api-key") != key:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
                return wire.ListCollectionsResponse()

        server = grpc.server(ThreadPoolExecutor(2))
        wire.add_CollectionsServicer_to_server(Collections(), server)  # type: ignore[no-untyped-call]  # generated
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        server.stop(0).wait()


@pytest.fixture
def settings(tmp_path: Path) -> QdrantSettings:
    """A server on this machine, and a key."""
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "key").chmod(0o600)
    return QdrantSettings("127.0.0.1", 1, False, tmp_path / "key")


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
def test_a_server_with_a_key_is_well_but_for_what_it_does_not_say(serve: Serve, settings: QdrantSettings) -> None:
    """The key is sent; whether the server reports to its maker nobody but its configuration says."""
    found = list(findings(replace(settings, port=serve("secret"))))

    assert (found[0].level, found[0].advice) == ("ok", "")
    assert [one.level for one in found if "telemetry" in one.what] == ["warning"]
    assert not any(one.level == "error" for one in found)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
def test_a_server_without_a_key_and_with_open_doors_is_named(
    serve: Serve, settings: QdrantSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reaches it reads all vectors; and every other port of it that answers is said."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        ports = {door.getsockname()[1]: "the cluster's own", 1: "shut"}
        monkeypatch.setattr("service.index.qdrant_check._PORTS", ports)
        found = list(findings(replace(settings, port=serve(""))))

    assert "without an API key" in next(one.advice for one in found if one.level == "error")
    assert [one.advice.partition(":")[0] for one in found if "is open" in one.what] == ["the cluster's own"]


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
def test_a_wrong_key_an_open_key_and_no_server_are_errors(serve: Serve, settings: QdrantSettings) -> None:
    """Each in a sentence, and nothing else is asked then."""
    assert settings.api_key is not None
    assert [one.level for one in findings(replace(settings, timeout=settings.timeout / 10))] == ["error"]
    settings.api_key.write_text("another")
    wrong = list(findings(replace(settings, port=serve("secret"))))
    assert [(one.level, "UNAUTHENTICATED" in one.advice) for one in wrong] == [("error", True)]
    settings.api_key.chmod(0o644)
    assert ["open to everybody" in one.advice for one in findings(settings)] == [True]
    with pytest.raises(StartError, match=r"`index\.api_key`"):
        connect(settings)


@pytest.mark.parametrize(("server_side", "refused"), [(True, True), (False, False)])
def test_a_strict_mode_that_forbids_what_is_asked_is_refused(
    monkeypatch: pytest.MonkeyPatch, server_side: bool, refused: bool
) -> None:
    """At the start and in a sentence; the usual way asks for nothing that a strict mode forbids."""
    client = Kept(":memory:")
    known = client.get_collection

    def strict(name: str, **kwargs: Any) -> Any:
        info = known(name, **kwargs)
        limits = type("Limits", (), {"enabled": True, "search_allow_exact": False, "condition_max_size": None})
        info.config.__dict__["strict_mode_config"] = limits()
        return info

    monkeypatch.setattr(client, "get_collection", strict)
    made: dict[str, Any] = {"collection": "x", "incarnation": "one", "dimension": 8, "tuning": Tuning(threads=1)}
    if refused:
        with pytest.raises(StartError, match="search_allow_exact"):
            QdrantIndex(client, server_side=server_side, **made)
    else:
        QdrantIndex(client, server_side=server_side, **made).close()
