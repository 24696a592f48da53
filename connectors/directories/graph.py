"""Microsoft Graph at its edge: tokens for the application, pages, throttling, and errors that say so.

1. Only the configured cloud's two hosts are asked, over TLS. A link to the next page that leads elsewhere is refused:
   the token would go with it.
2. When Graph throttles, nobody asks it until the time that it names, or that doubles where it names none; whoever
   cannot wait that long gets an error. Source: learn.microsoft.com/graph/throttling.
3. Credentials, proxies and authorities come from the settings, never from the environment.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import msal
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connectors.directories.base import BindRefusedError, DirectoryUnavailableError

_MAX_PAGES: Final = 1_000
_DEADLINE_S: Final = 10.0
_TIMEOUT_S: Final = 5.0
_THROTTLED: Final = frozenset({429, 503, 504})
_REFUSED: Final = frozenset({"invalid_client", "unauthorized_client", "invalid_request", "access_denied"})


@dataclass(frozen=True, slots=True)
class Cloud:
    """Where tokens come from, and where Graph is."""

    login: str
    graph: str


# SOURCE: learn.microsoft.com: graph/deployments, entra/identity-platform/authentication-national-cloud.
CLOUDS: Final[Mapping[str, Cloud]] = {
    "global": Cloud("https://login.microsoftonline.com", "https://graph.microsoft.com"),
    "us_gov": Cloud("https://login.microsoftonline.us", "https://graph.microsoft.us"),
    "us_dod": Cloud("https://login.microsoftonline.us", "https://dod-graph.microsoft.us"),
    "china": Cloud("https://login.partner.microsoftonline.cn", "https://microsoftgraph.chinacloudapi.cn"),
}


@dataclass(frozen=True, slots=True)
class GraphAccess:
    """Who the application is. credential: a secret, or a private key with its certificate in PEM, as msal reads it."""

    tenant: str
    client_id: str
    credential: str | Mapping[str, str]
    cloud: Cloud
    ca: Path | None = None
    proxy: str | None = None


def certificate_credential(private_key: str, certificate: str) -> Mapping[str, str]:
    """The credential of an application that signs for itself. Raises ValueError: not PEM, not RSA, not a pair."""
    key = load_pem_private_key(private_key.encode(), None)
    public = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    if not isinstance(key, RSAPrivateKey) or key.public_key() != public:
        raise ValueError("expected an RSA key and its certificate")
    return {"private_key": private_key, "public_certificate": certificate}


class GoneError(Exception):
    """A position that Graph no longer knows (status 410)."""


class NotFoundError(Exception):
    """There is no such object (status 404)."""


class _Answer:
    """What msal reads of an answer."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.status_code = answer.status_code
        self.text = answer.text
        self.headers = dict(answer.headers)

    def raise_for_status(self) -> None:
        """Raise for an error, as msal expects."""
        if self.status_code >= 400:
            raise DirectoryUnavailableError(f"the login server answered with status {self.status_code}")


class _Http:
    """The client that msal uses: ours, so that one configuration holds for both."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def get(self, url: str, params: Any = None, headers: Any = None, **_: object) -> _Answer:
        """Ask."""
        return _Answer(self._client.get(url, params=params, headers=headers))

    def post(self, url: str, params: Any = None, data: Any = None, headers: Any = None, **_: object) -> _Answer:
        """Send a form."""
        if isinstance(data, dict):
            # msal gives its assertion as bytes, which httpx would write as Python does: b'…'.
            data = {key: value.decode() if isinstance(value, bytes) else value for key, value in data.items()}
        return _Answer(self._client.post(url, params=params, data=data, headers=headers))

    def close(self) -> None:
        """Nothing: the client is closed by its owner."""


class GraphClient:
    """Asks Graph as the application. Safe for threads. All methods raise DirectoryUnavailableError."""

    def __init__(
        self,
        name: str,
        access: GraphAccess,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`name` is the directory's, for messages. Opens nothing. Raises OSError for an authority's file."""
        self._name: Final = name
        self._access: Final = access
        self._clock: Final = clock
        self._sleep: Final = sleep
        self._http: Final = httpx2.Client(
            verify=ssl.create_default_context(cafile=None if access.ca is None else str(access.ca)),
            trust_env=False,
            proxy=access.proxy,
            follow_redirects=False,
            timeout=_TIMEOUT_S,
            headers={"user-agent": "remit"},
        )
        self._lock: Final = threading.Lock()
        self._application: Any = None
        self._quiet_until = 0.0

    def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return one object. Raises NotFoundError and GoneError."""
        return self._call("GET", self._url(path), params=params)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Return the first page of what an action says. Raises NotFoundError."""
        return self._call("POST", self._url(path), json=body)

    def pages(self, first: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield this page and those that follow. More than a thousand are an error."""
        page = first
        for _ in range(_MAX_PAGES):
            yield page
            link = page.get("@odata.nextLink")
            if link is None:
                return
            page = self._call("GET", self.own_link(link))
        raise self._unavailable("has more pages than anybody reads")

    def own_link(self, link: object) -> str:
        """A link of an answer, if it leads to the same Graph."""
        graph = self._access.cloud.graph + "/"
        if not isinstance(link, str) or not link.startswith(graph):
            raise self._unavailable("names a next page on another server")
        return link

    def follow(self, link: str) -> dict[str, Any]:
        """Return what a link of an earlier answer leads to. Raises GoneError."""
        return self._call("GET", self.own_link(link))

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def _url(self, path: str) -> str:
        return f"{self._access.cloud.graph}/v1.0{path}"

    def _call(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        deadline = self._clock() + _DEADLINE_S
        for attempt in range(100):
            self._wait(deadline)
            try:
                headers = {"authorization": f"Bearer {self._token()}"}
                answer = self._http.request(method, url, headers=headers, **options)
            except httpx2.HTTPError as err:
                raise self._unavailable(f"cannot be reached: {str(err) or type(err).__name__}") from err
            if answer.status_code in _THROTTLED:
                self._hush(answer.headers.get("retry-after"), attempt)
                continue
            return self._body(answer)
        raise self._unavailable("throttles us")

    def _body(self, answer: httpx2.Response) -> dict[str, Any]:
        if answer.status_code == 404:
            raise NotFoundError
        if answer.status_code == 410:
            raise GoneError
        try:
            found = answer.json()
        except ValueError as err:
            raise self._unavailable(f"answered with status {answer.status_code} and no JSON") from err
        if answer.status_code != 200 or not isinstance(found, dict):
            error = found.get("error") if isinstance(found, dict) else None
            code = error.get("code") if isinstance(error, dict) else None
            raise self._unavailable(f"answered with status {answer.status_code}, `{str(code)[:100]}`")
        return found

    def _wait(self, deadline: float) -> None:
        with self._lock:
            wait = self._quiet_until - self._clock()
        if self._clock() + max(wait, 0) >= deadline:
            raise self._unavailable(f"throttles us for {max(wait, 0):.0f} s more")
        if wait > 0:
            self._sleep(wait)

    def _hush(self, retry_after: str | None, attempt: int) -> None:
        named = retry_after is not None and retry_after.isdecimal() and len(retry_after) < 6
        seconds = float(retry_after or 0) if named else 0.5 * 2 ** min(attempt, 8)
        with self._lock:
            self._quiet_until = max(self._quiet_until, self._clock() + seconds)

    def _token(self) -> str:
        with self._lock:
            try:
                if self._application is None:
                    self._application = msal.ConfidentialClientApplication(
                        self._access.client_id,
                        client_credential=self._access.credential,
                        authority=f"{self._access.cloud.login}/{self._access.tenant}",
                        instance_discovery=False,
                        http_client=_Http(self._http),
                    )
                found = self._application.acquire_token_for_client([f"{self._access.cloud.graph}/.default"])
            except (httpx2.HTTPError, ValueError, KeyError, DirectoryUnavailableError) as err:
                raise self._unavailable(f"gives no token: {str(err) or type(err).__name__}") from err
        if isinstance(token := (found or {}).get("access_token"), str):
            return token
        error = str((found or {}).get("error"))
        kind = BindRefusedError if error in _REFUSED else DirectoryUnavailableError
        raise kind(f"directory `{self._name}` gives the application no token: `{error[:100]}`")

    def _unavailable(self, why: str) -> DirectoryUnavailableError:
        return DirectoryUnavailableError(f"directory `{self._name}` {why}")
