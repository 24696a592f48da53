"""A real OpenID Connect provider (npm `oidc-provider`) as a process of its own, and the flows that get tokens of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2

from tests.support.certificates import Authority
from tests.support.needs import need

_FOLDER = Path(__file__).parent / "oidc"
_SECRET = "a secret of tests alone"
_CALLBACK = "https://127.0.0.1/callback"
_FORM = re.compile(r'<form[^>]*action="([^"]+)"')


@dataclass
class Provider:
    """The running process. ca: the file with its authority."""

    issuer: str
    ca: Path
    process: subprocess.Popen[str]

    def rotate(self) -> str:
        """Sign with a new key from now on, and publish the old one too; return the new key's id."""
        return self._command("rotate")

    def forget(self) -> str:
        """Publish the newest key alone."""
        return self._command("forget")

    def service_token(self, client: str = "rag-app") -> str:
        """An access token for an application itself (RFC 6749 section 4.4)."""
        return self._token({"grant_type": "client_credentials", "scope": "search"}, client)["access_token"]

    def login(self, account: str, client: str = "rag-app") -> Mapping[str, str]:
        """Log somebody in as a browser does (authorization code with PKCE); return all that the provider gives.

        That is an access token, an ID token and a refresh token.
        """
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "client_id": client,
            "response_type": "code",
            "redirect_uri": _CALLBACK,
            "scope": "openid offline_access search",
            "prompt": "consent",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "nonce": secrets.token_hex(8),
        }
        with self._browser() as browser:
            answer = browser.get(f"{self.issuer}/auth", params=asked)
            for _ in range(10):
                if answer.is_redirect:
                    target = str(answer.next_request.url) if answer.next_request is not None else ""
                    if target.startswith(_CALLBACK):
                        break
                    answer = browser.get(target)
                    continue
                assert answer.status_code == 200, answer.text
                form = _FORM.search(answer.text)
                assert form is not None, answer.text
                prompt = "login" if 'value="login"' in answer.text else "consent"
                filled = {"prompt": prompt, "login": account, "password": "any"}
                answer = browser.post(httpx2.URL(self.issuer).join(form[1]), data=filled)
            (code,) = parse_qs(urlsplit(target).query)["code"]
        return self._token(
            {"grant_type": "authorization_code", "code": code, "redirect_uri": _CALLBACK, "code_verifier": verifier},
            client,
        )

    def refresh(self, tokens: Mapping[str, str], client: str = "rag-app") -> Mapping[str, str]:
        """Get fresh tokens for a refresh token."""
        return self._token({"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}, client)

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)

    def _token(self, form: dict[str, str], client: str) -> dict[str, str]:
        with self._browser() as browser:
            answer = browser.post(f"{self.issuer}/token", data=form, auth=(client, _SECRET))
        assert answer.status_code == 200, answer.text
        found: dict[str, str] = answer.json()
        return found

    def _browser(self) -> httpx2.Client:
        return httpx2.Client(verify=ssl.create_default_context(cafile=str(self.ca)), trust_env=False, timeout=20)

    def _command(self, text: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        return str(_said(self.process)["kid"])


@contextmanager
def provider(folder: Path, *, port: int = 0) -> Iterator[Provider]:
    """Start the provider. folder: for its certificate and log; what is there from an earlier start is used again."""
    need(
        shutil.which("node") is not None and (_FOLDER / "node_modules" / "oidc-provider").is_dir(),
        "the OpenID Connect provider is not installed: deploy/test-deps.sh installs it",
    )
    certificate, key, ca = folder / "provider.pem", folder / "provider.key", folder / "provider-ca.pem"
    if not ca.exists():
        authority = Authority()
        authority.server("127.0.0.1").write(certificate, key)
        ca.write_bytes(authority.pem)
    with (folder / "provider.log").open("a") as log:
        process = subprocess.Popen(
            ["node", str(_FOLDER / "provider.mjs"), str(port), str(certificate), str(key)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Provider(_said(process)["issuer"], ca, process)
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _said(process: subprocess.Popen[str]) -> Any:
    """What the provider says next; the library writes notices of its own between."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise AssertionError("the provider ended: its log is beside its certificate")
