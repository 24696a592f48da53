"""Fetching an issuer's public keys over HTTPS, within limits of size and time.

The server's certificate is checked by the configured authority, or the system's. No proxy, credential or setting comes
from the environment. A redirect is followed on the same host alone: it must not choose whom we trust.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import httpx2

from service.authn import keys
from service.files import strict_json
from service.sections.issuers import KeyServer

TIMEOUT_S: Final = 5.0
_MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Compressed answers are refused: their size when unpacked is not known in time.
_HEADERS: Final = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "remit"}


class FetchError(Exception):
    """The keys could not be fetched; the message is a sentence for operators."""


class KeyFetcher:
    """Fetches the key set of one issuer. Raises FetchError when its authority's file cannot be used."""

    def __init__(self, issuer: str, server: KeyServer) -> None:
        self._issuer = issuer
        self._server = server
        try:
            self._tls = ssl.create_default_context(cafile=None if server.ca is None else str(server.ca))
        except OSError as err:  # also what ssl says of a file without a certificate
            raise FetchError(f"`ca`: `{server.ca}` cannot be read, or holds no certificate in PEM") from err

    async def fetch(self) -> bytes:
        """Return the bytes of the key set. Raises FetchError."""
        url = self._server.url
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                httpx2.AsyncClient(
                    verify=self._tls,
                    trust_env=False,
                    proxy=self._server.proxy,
                    follow_redirects=False,
                    timeout=TIMEOUT_S,
                    headers=_HEADERS,
                ) as client,
            ):
                if self._server.discovered:
                    url = self._key_set_url(await _get(client, url))
                return await _get(client, url)
        except TimeoutError as err:
            raise FetchError(f"`{url}` did not answer within {TIMEOUT_S:.0f} s") from err
        except httpx2.TransportError as err:
            raise FetchError(f"`{url}` cannot be reached: {str(err) or type(err).__name__}") from err
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as err:
            # Whatever else a server's answer can do to the library: it must not end the task that fetches.
            raise FetchError(f"`{url}` does not answer as HTTP asks for") from err

    def _key_set_url(self, data: bytes) -> str:
        try:
            found = strict_json.parse(data)
        except ValueError as err:
            raise FetchError(f"`{self._server.url}` is not a discovery document: {err}") from err
        # SOURCE: OpenID Connect Discovery 4.3: the issuer in the document is exactly the one that was asked.
        if not isinstance(found, dict) or found.get("issuer") != self._issuer:
            raise FetchError(f"`{self._server.url}` describes another issuer than `{self._issuer}`")
        url = found.get("jwks_uri")
        if not isinstance(url, str) or not url.startswith("https://"):
            raise FetchError(f"`{self._server.url}` names no key set with an https URL")
        return url


async def _get(client: httpx2.AsyncClient, url: str) -> bytes:
    asked = httpx2.URL(url)
    if asked.scheme != "https":
        raise FetchError(f"`{url}` is no https URL")
    origin = (asked.scheme, asked.host, asked.port)
    for _ in range(_MAX_REDIRECTS + 1):
        async with client.stream("GET", asked) as answer:
            if answer.status_code in _REDIRECTS:
                asked = asked.join(answer.headers.get("location", ""))
                if (asked.scheme, asked.host, asked.port) != origin:
                    raise FetchError(f"`{url}` redirects to another server, `{asked}`")
                continue
            if answer.status_code != 200:
                raise FetchError(f"`{url}` answered with status {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise FetchError(f"`{url}` answered compressed, which was not asked for")
            data = bytearray()
            async for part in answer.aiter_raw():
                data += part
                if len(data) > keys.MAX_BYTES:
                    raise FetchError(f"`{url}` answered with more than {keys.MAX_BYTES // 1024} KiB")
            return bytes(data)
    raise FetchError(f"`{url}` redirects more than {_MAX_REDIRECTS} times")
