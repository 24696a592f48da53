"""Microsoft's login server and Graph, as far as their documentation describes what Remit asks of them.

Source: learn.microsoft.com: entra/identity-platform/v2-oauth2-client-creds-grant-flow, graph/api/user-get,
graph/api/directoryobject-getmembergroups, graph/delta-query-overview, graph/throttling, graph/paging.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.certificates import Authority

TENANT: Final = "7c0ffee0-0000-4000-8000-000000000001"
CLIENT: Final = "7c0ffee0-0000-4000-8000-000000000002"
SECRET: Final = "a secret of tests"
_TOO_MANY: Final = {"error": {"code": "Directory_ResultSizeLimitExceeded", "message": "too many"}}


@dataclass
class GraphStub:
    """A tenant. member_of: for a user or a group, the groups that hold it directly.

    refusals: answers to give first, as (status, headers), one for each question to Graph. page: entries of a page.
    feed: what delta queries report, per kind, in order. limit: what getMemberGroups returns at most.
    """

    url: str = ""
    ca: Path = Path()
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    member_of: dict[str, set[str]] = field(default_factory=dict)
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    page: int = 100
    limit: int = 11_000
    feed: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"users": [], "groups": []})
    gone: bool = False
    next_host: str = ""
    asked: list[str] = field(default_factory=list)
    assertions: list[str] = field(default_factory=list)

    def add(self, number: int, *, enabled: object = True, kind: object = "Member", sid: str | None = None) -> str:
        """Add a user and return the id."""
        found = guid(number)
        self.users[found] = {
            "id": found,
            "displayName": f"User {number}",
            "userPrincipalName": f"u{number}@corp.example",
            "accountEnabled": enabled,
            "userType": kind,
            "onPremisesSecurityIdentifier": sid,
        }
        return found

    def join(self, member: str, *groups: str) -> None:
        """Put a member into groups."""
        self.member_of.setdefault(member, set()).update(groups)

    def groups_of(self, member: str) -> list[str]:
        """Every group above."""
        found: set[str] = set()
        queue = [member]
        for here in queue:
            for group in self.member_of.get(here, ()):
                if group not in found:
                    found.add(group)
                    queue.append(group)
        return sorted(found)

    # --- answers ---

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], object]:
        """Status, headers and JSON for one request."""
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if not parts.path.startswith("/v1.0/"):
            return self._login(parts.path, body)
        self.asked.append(f"{method} {parts.path}")
        if headers.get("authorization") != "Bearer token-of-tests":
            return 401, {}, {"error": {"code": "InvalidAuthenticationToken"}}
        if self.refusals:
            status, more = self.refusals.pop(0)
            return status, more, {"error": {"code": "TooManyRequests"}}
        steps = [unquote(step) for step in parts.path.removeprefix("/v1.0/").split("/")]
        match [method, *steps]:
            case ["GET", ("users" | "groups") as kind, "delta"]:
                return self._delta(kind, query)
            case ["GET", "users"]:
                return 200, {}, self._paged(parts.path, query, self._found(query))
            case ["GET", "groups"]:
                return 200, {}, {"value": [{"id": guid(1)}]}
            case ["GET", "users", name]:
                user = next((u for u in self.users.values() if name in (u["id"], u["userPrincipalName"])), None)
                return (404, {}, {"error": {"code": "Request_ResourceNotFound"}}) if user is None else (200, {}, user)
            case [_, "users", name, "getMemberGroups"]:
                if name not in self.users:
                    return 404, {}, {"error": {"code": "Request_ResourceNotFound"}}
                groups = self.groups_of(name)
                if method == "POST" and json.loads(body) != {"securityEnabledOnly": False}:
                    return 400, {}, {"error": {"code": "Request_BadRequest"}}
                return (
                    (400, {}, _TOO_MANY)
                    if len(groups) > self.limit
                    else (200, {}, self._paged(parts.path, query, groups))
                )
            case ["POST", "directoryObjects", "getByIds"]:
                ids = json.loads(body)["ids"]
                return 200, {}, {"value": [{"id": one, "displayName": f"Group {one[-4:]}"} for one in ids]}
            case _:
                return 400, {}, {"error": {"code": "Request_BadRequest"}}

    def _login(self, path: str, body: bytes) -> tuple[int, dict[str, str], object]:
        base = f"{self.url}/{TENANT}"
        if path.endswith("/.well-known/openid-configuration"):
            return (
                200,
                {},
                {
                    "issuer": f"{base}/v2.0",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                },
            )
        form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        if "client_assertion" in form:
            self.assertions.append(form["client_assertion"])
        elif form.get("client_secret") != SECRET:
            return 401, {}, {"error": "invalid_client", "error_description": "AADSTS7000215"}
        if form.get("client_id") != CLIENT or form.get("scope") != f"{self.url}/.default":
            return 400, {}, {"error": "invalid_scope"}
        return 200, {}, {"access_token": "token-of-tests", "token_type": "Bearer", "expires_in": 3600}

    def _found(self, query: dict[str, str]) -> list[dict[str, Any]]:
        wanted = query.get("$filter", "").removeprefix("onPremisesSecurityIdentifier eq ").strip("'")
        users = list(self.users.values())
        return [user for user in users if user["onPremisesSecurityIdentifier"] == wanted] if wanted else users[:1]

    def _paged(self, path: str, query: dict[str, str], values: list[Any]) -> dict[str, Any]:
        start = int(query.get("$skiptoken", "0"))
        page: dict[str, Any] = {"value": values[start : start + self.page]}
        if start + self.page < len(values):
            page["@odata.nextLink"] = f"{self.next_host or self.url}{path}?$skiptoken={start + self.page}"
        return page

    def _delta(self, kind: str, query: dict[str, str]) -> tuple[int, dict[str, str], object]:
        if self.gone:
            return 410, {}, {"error": {"code": "syncStateNotFound"}}
        token = query.get("$deltatoken", "latest")
        start = len(self.feed[kind]) if token == "latest" else int(token)
        ends = f"{self.url}/v1.0/{kind}/delta?$deltatoken={len(self.feed[kind])}"
        return 200, {}, {"value": self.feed[kind][start:], "@odata.deltaLink": ends}


def guid(number: int) -> str:
    """An object id."""
    return f"10000000-0000-4000-8000-{number:012x}"


@contextmanager
def running_graph(folder: Path) -> Iterator[GraphStub]:
    """The stub on a free port of the loopback."""
    authority = Authority("Authority of the cloud")
    authority.server("127.0.0.1").write(folder / "graph.pem", folder / "graph.key")
    stub = GraphStub(ca=folder / "graph-ca.pem")
    stub.ca.write_bytes(authority.pem)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, headers, found = stub.answer(self.command, self.path, self.headers, body)
            data = json.dumps(found).encode()
            self.send_response(status)
            for name, value in {
                **headers,
                "content-type": "application/json",
                "content-length": str(len(data)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "graph.pem", folder / "graph.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    stub.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
