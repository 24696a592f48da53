"""From a credential to a subject: OAuth 2.0 access tokens as signed JWTs, verified against pinned keys, and client
certificates, verified by TLS.

PyJWT checks the signature; which key and which one algorithm it may use is chosen here, never by the token.

1. form: one bearer token of three strict base64url parts, bounded
2. issuer: exactly one that is configured; what follows is by its settings
3. kind: an access token, with nothing in its header that must be understood and is not
4. key: of this issuer, by its id; the algorithm is the key's
5. signature, with exactly that one algorithm
6. claims: audience, client, binding, times, the immutable claim that names the account, and who acts for it

Source: RFC 8725 (JWT best practices), RFC 9068 (access tokens), RFC 7515 section 4.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import jwt

from acl.principal import Principal
from service.authn import certificates, token
from service.authn.acting import acting
from service.authn.certificates import ClientCertificate, ServiceAccounts
from service.authn.fetch import FetchError, KeyFetcher
from service.authn.key_sets import FileKeys, KeySet, PublishedKeys, UnknownKeyError
from service.authn.subject import Subject, TokenRefusedError, text_claim
from service.errors import StartError
from service.sections.issuers import IssuerSettings, KeyFile, KeyServer
from service.sections.service_accounts import ServiceAccount

_TLS: Final = "TLSv1.3"
_SIGNED: Final = jwt.PyJWS()
"""Only ever told the one algorithm to use. Made once: it collects all that there are."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a call brings to prove who it is.

    authorization: the values of that metadata, in their order.
    certificate: the PEM of the client certificate that TLS verified, None without one.
    on_behalf_of: the values of the metadata by which a service names a person.
    tls_version: as gRPC names it, empty for a plaintext connection.
    """

    authorization: tuple[str, ...] = ()
    certificate: bytes | None = None
    tls_version: str = ""
    on_behalf_of: tuple[str, ...] = ()


class Authenticator:
    """Verifies credentials of the configured issuers.

    Use: `open` before the first call, and `follow` beside the calls, where an issuer publishes its keys.
    """

    def __init__(
        self,
        issuers: Iterable[IssuerSettings],
        service_accounts: Iterable[ServiceAccount] = (),
        privileged: Iterable[Principal] = (),
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read the key files. privileged: as for `ServiceAccounts`.

        Raises StartError: missing, no keys, or keys that may not verify tokens.
        """
        self._services = ServiceAccounts(service_accounts, privileged)
        self._issuers = {one.issuer: (one, _key_set(one)) for one in issuers}
        self._now = now

    def privilege(self, principals: Iterable[Principal]) -> None:
        """See `ServiceAccounts.privilege`."""
        self._services.privilege(principals)

    async def open(self) -> None:
        """Fetch the keys that issuers publish. Raises StartError when one cannot be reached."""
        for _, keys in self._issuers.values():
            await keys.open()

    async def follow(self) -> None:
        """Keep published keys fresh until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _, keys in self._issuers.values():
                group.create_task(keys.follow())

    @property
    def failure(self) -> str | None:
        """Why nobody's token verifies now: no issuer's keys can be had. None while those of one can."""
        found = {name: keys.failure() for name, (_, keys) in self._issuers.items()}
        return None if None in found.values() else "; ".join(f"{name}: {why}" for name, why in found.items())

    async def identify(self, presented: Credentials) -> Subject:
        """Return whom a call proves: the person whose token it brings, or else the service of its certificate.

        A token is verified once more with newer keys when its key is not known.
        Raises TokenRefusedError, one text for all.
        """
        if presented.tls_version not in ("", _TLS):
            raise TokenRefusedError("old TLS")
        certificate = None if presented.certificate is None else certificates.parse(presented.certificate)
        if presented.on_behalf_of:
            # Refused and not ignored where it is not allowed: who asks for somebody must not get an answer for itself.
            if certificate is None or presented.authorization or len(presented.on_behalf_of) > 1:
                raise TokenRefusedError("may act for nobody")
            return self._services.on_behalf(certificate, presented.on_behalf_of[0], self._now())
        if not presented.authorization and certificate is not None:
            return self._services.subject(certificate, self._now())
        if len(presented.authorization) > 1:
            # Nobody knows which was meant.
            raise TokenRefusedError("several credentials")
        value = next(iter(presented.authorization), None)
        try:
            return self.authenticate(value, certificate)
        except UnknownKeyError:
            # The form was good and the issuer is ours, so that nothing else reaches the issuer.
            _, keys = self._issuers[str(token.parse(value).claims["iss"])]
            if not await keys.renew():
                raise
        return self.authenticate(value, certificate)

    def authenticate(self, value: str | None, certificate: ClientCertificate | None = None) -> Subject:
        """Verify the value of `authorization` with the keys that are known now, without waiting.

        certificate: the client certificate of the connection. Raises TokenRefusedError, one text for all.
        """
        presented = token.parse(value)
        name, key_id = presented.claims.get("iss"), presented.header.get("kid")
        if not isinstance(name, str) or name not in self._issuers:
            raise TokenRefusedError("unknown issuer")
        issuer, keys = self._issuers[name]
        token.check_kind(presented, issuer)
        if not isinstance(key_id, str):
            raise TokenRefusedError("unknown key")
        trusted = keys.key(key_id)
        if presented.header.get("alg") != trusted.algorithm:
            raise TokenRefusedError("wrong algorithm")
        try:
            _SIGNED.decode_complete(presented.text, trusted.key, algorithms=[trusted.algorithm])
        except jwt.PyJWTError as err:
            raise TokenRefusedError("wrong signature") from err
        # INVARIANT: from here on the claims are what the issuer signed.
        expires_at = token.check_claims(presented.claims, issuer, self._now(), certificate)
        return Subject(
            issuer=issuer.issuer,
            subject=text_claim(presented.claims.get("sub")),
            directory=issuer.directory,
            attribute=issuer.attribute,
            value=text_claim(presented.claims.get(issuer.claim)),
            expires_at=expires_at,
            token_id=token.token_id(presented),
            acting=acting(presented.claims, issuer),
        )


def _key_set(issuer: IssuerSettings) -> KeySet:
    match issuer.keys:
        case KeyFile(path):
            try:
                return FileKeys(path, issuer.algorithms)
            except StartError as err:
                raise StartError(f"{issuer.place}: {err}" if issuer.place else str(err)) from err
        case KeyServer(max_age=max_age):
            try:
                fetcher = KeyFetcher(issuer.issuer, issuer.keys)
            except FetchError as err:
                raise StartError(f"{issuer.place}: {err}") from err
            return PublishedKeys(issuer.place, fetcher.fetch, issuer.algorithms, max_age)
