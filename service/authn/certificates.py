"""From a client certificate to the service account that it is.

TLS proved that the peer holds the certificate's key and that a configured authority signed it; which account it is,
the settings say, by a name in the certificate or by its fingerprint. A common name is never looked at.
Source: RFC 9525 (names of certificates), RFC 8705 section 3.1 (the thumbprint that a token may be bound to).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from acl.principal import Principal
from service.authn.subject import OnBehalf, Subject, TokenRefusedError, text_claim
from service.sections.service_accounts import ServiceAccount

ISSUER: Final = "client-certificate"
"""Stands in records where for a token its issuer stands."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What counts of a certificate. names: its URIs and DNS names. Times: when it is valid, the ends included."""

    fingerprint: str
    names: frozenset[str]
    not_before: datetime
    not_after: datetime

    @property
    def thumbprint(self) -> str:
        """The fingerprint as `x5t#S256` writes it."""
        return base64.urlsafe_b64encode(bytes.fromhex(self.fingerprint)).rstrip(b"=").decode("ascii")


@lru_cache(maxsize=256)
def parse(pem: bytes) -> ClientCertificate:
    """Read the certificate that TLS verified. Raises TokenRefusedError when it has no form that we know."""
    try:
        found = x509.load_pem_x509_certificate(pem)
        names = frozenset[str]()
        for extension in found.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
                hosts = extension.value.get_values_for_type(x509.DNSName)
                names = frozenset([*uris, *hosts])
    except (ValueError, x509.DuplicateExtension) as err:
        raise TokenRefusedError("malformed certificate") from err
    return ClientCertificate(
        found.fingerprint(SHA256()).hex(), names, found.not_valid_before_utc, found.not_valid_after_utc
    )


class ServiceAccounts:
    """The configured service accounts, by their certificates."""

    def __init__(self, accounts: Iterable[ServiceAccount], privileged: Iterable[Principal] = ()) -> None:
        """privileged: who holds one of these is never acted for."""
        self._accounts = tuple(accounts)
        self._privileged = frozenset(privileged)

    def privilege(self, principals: Iterable[Principal]) -> None:
        """Act for nobody who holds one of these, from now on."""
        self._privileged = frozenset(principals)

    def on_behalf(self, certificate: ClientCertificate, value: str, now: datetime) -> Subject:
        """Return the person that the service names. Raises TokenRefusedError: it is none, or may name nobody.

        Whether it may name this person is found out when the person's groups are known: `service.identity.callers`.
        """
        service = self.subject(certificate, now)
        account = self._account(certificate)
        if not account.acts_for:
            raise TokenRefusedError("may act for nobody")
        on_behalf = OnBehalf(account.name, service, account.acts_for, self._privileged)
        return replace(service, value=text_claim(value), on_behalf=on_behalf)

    def subject(self, certificate: ClientCertificate, now: datetime) -> Subject:
        """Return the one account that the certificate is. Raises TokenRefusedError: none, several, or not valid now.

        The time is checked for every call, because a connection may outlive what it was opened with.
        """
        if not certificate.not_before <= now <= certificate.not_after:
            raise TokenRefusedError("expired certificate")
        account = self._account(certificate)
        return Subject(
            issuer=ISSUER,
            subject=account.san or account.fingerprint,
            directory=account.directory,
            attribute=account.attribute,
            value=account.value,
            expires_at=certificate.not_after,
            token_id=certificate.fingerprint[:16],
        )

    def _account(self, certificate: ClientCertificate) -> ServiceAccount:
        found = [
            one
            for one in self._accounts
            if one.fingerprint == certificate.fingerprint or (one.san and one.san in certificate.names)
        ]
        # A certificate that is two accounts is nobody: which one it acts as must not depend on an order.
        if len(found) != 1:
            raise TokenRefusedError("unknown certificate" if not found else "ambiguous certificate")
        return found[0]
