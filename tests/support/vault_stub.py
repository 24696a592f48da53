"""What Vault's documentation says of the engines transit and KV and of AppRole, over HTTPS on this machine.

It encrypts for real, with the associated data and the versions of keys. It was never compared with a Vault.
SOURCE: the API documentation, "Transit secrets engine", "KV secrets engine - version 2", "AppRole auth method", and
"HTTP status codes".
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connectors.secret import FileSecret
from service.sections.keys import AppRole, VaultProvider
from tests.support.certificates import Authority

TOKEN: Final = "hvs.token-of-the-test"
SECRET_ID: Final = "5e4d0c8a-secret-id"
ROLE_ID: Final = "role-of-remit"


@dataclass
class Key:
    """A key of transit."""

    versions: list[bytes] = field(default_factory=lambda: [os.urandom(32)])
    min_decryption_version: int = 1
    type: str = "aes256-gcm96"
    derived: bool = False
    exportable: bool = False


@dataclass
class Vault:
    """The stub. answers: statuses that come first, once each, whatever is asked. allowed: what the token may do."""

    url: str
    settings: VaultProvider
    keys: dict[str, Key] = field(default_factory=dict)
    kv: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    answers: list[int] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    sealed: bool = False
    redirects: bool = False

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(f"{method} {path}")
        if self.answers:
            return self.answers.pop(0), {"errors": []}
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if path == "auth/approle/login":
            if (body.get("role_id"), body.get("secret_id")) != (ROLE_ID, SECRET_ID):
                return 400, {"errors": ["invalid role or secret ID"]}
            made = f"hvs.{os.urandom(6).hex()}"
            self.tokens.add(made)
            return 200, {"auth": {"client_token": made, "lease_duration": 1200, "renewable": True}}
        if token not in self.tokens or any(path.startswith(one) for one in self.denied):
            return 403, {"errors": ["permission denied"]}
        engine, _, rest = path.partition("/")
        if engine == "secret" and method == "GET":
            found = self.kv.get(rest.removeprefix("data/"))
            if found is None:
                return 404, {"errors": []}
            return 200, {"data": {"data": found, "metadata": {"version": 1}}}
        return self._transit(method, rest, body) if engine == "transit" else (404, {"errors": ["no handler for route"]})

    def _transit(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        match method, path.split("/"):
            case "GET", ["keys", name]:
                key = self.keys.get(name)
                return (404, {"errors": []}) if key is None else (200, {"data": _shown(name, key)})
            case "POST" | "PUT", ["keys", name]:
                self.keys.setdefault(name, Key())
                return 204, {}
            case "POST" | "PUT", ["keys", name, "rotate"]:
                self.keys[name].versions.append(os.urandom(32))
                return 204, {}
            case "POST" | "PUT", ["encrypt", name]:
                # SOURCE: with the capability `create` it would make the key; the policy of the documentation has not.
                return (403, {"errors": ["permission denied"]}) if name not in self.keys else self._encrypt(name, body)
            case "POST" | "PUT", ["decrypt", name]:
                return self._decrypt(name, body)
            case _:
                pass
        return 404, {"errors": ["unsupported path"]}

    def _encrypt(self, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        versions, nonce = self.keys[name].versions, os.urandom(12)
        plaintext, bound = base64.b64decode(body["plaintext"]), base64.b64decode(body.get("associated_data") or "")
        sealed = nonce + AESGCM(versions[-1]).encrypt(nonce, plaintext, bound)
        text = f"vault:v{len(versions)}:{base64.b64encode(sealed).decode()}"
        return 200, {"data": {"ciphertext": text, "key_version": len(versions)}}

    def _decrypt(self, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        key = self.keys.get(name)
        if key is None:
            return 400, {"errors": ["encryption key not found"]}
        _, version, text = str(body["ciphertext"]).split(":")
        number, bound = int(version.removeprefix("v")), base64.b64decode(body.get("associated_data") or "")
        if number < key.min_decryption_version:
            return 400, {"errors": ["ciphertext or signature version is disallowed by policy (too old)"]}
        if number > len(key.versions):
            return 400, {"errors": ["invalid ciphertext: version is too new"]}
        try:
            sealed = base64.b64decode(text, validate=True)
        except binascii.Error:
            return 400, {"errors": ["invalid ciphertext: could not decode base64"]}
        if len(sealed) < 12 + 16:
            return 400, {"errors": ["invalid ciphertext: too short"]}
        try:
            plaintext = AESGCM(key.versions[number - 1]).decrypt(sealed[:12], sealed[12:], bound)
        except InvalidTag:
            return 400, {"errors": ["invalid ciphertext: unable to decrypt: cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": base64.b64encode(plaintext).decode()}}


def _shown(name: str, key: Key) -> dict[str, Any]:
    return {
        "name": name,
        "type": key.type,
        "derived": key.derived,
        "exportable": key.exportable,
        "allow_plaintext_backup": False,
        "keys": {str(number + 1): 1442851412 for number in range(len(key.versions))},
        "latest_version": len(key.versions),
        "min_decryption_version": key.min_decryption_version,
    }


@contextmanager
def vault(folder: Path, *, approle: bool = False) -> Iterator[Vault]:
    """Serve on a free port of the loopback. folder: for certificates and the token."""
    authority = Authority()
    authority.server("127.0.0.1").write(folder / "vault.pem", folder / "vault.key")
    ca, secret = folder / "vault-ca.pem", folder / ("secret-id" if approle else "token")
    ca.write_bytes(authority.pem)
    secret.write_text(SECRET_ID if approle else TOKEN)
    secret.chmod(0o600)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            path = self.path.removeprefix("/v1/")
            made.namespaces.append(self.headers.get("X-Vault-Namespace") or "")
            status, answer = made.answer(self.command, path, self.headers.get("X-Vault-Token") or "", body)
            if made.redirects:
                self.send_response(307)
                self.send_header("location", "https://127.0.0.1:1/v1/elsewhere")
            else:
                self.send_response(status)
            data = b"" if status == 204 else json.dumps(answer).encode()
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _serve

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up is no news."""

    server = Quiet(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "vault.pem", folder / "vault.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    url = f"https://127.0.0.1:{server.server_port}"
    login = AppRole(ROLE_ID, FileSecret(secret), "approle") if approle else FileSecret(secret)
    made = Vault(url, VaultProvider(url, ca, "transit", "remit", None, login))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
