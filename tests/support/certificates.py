"""A certificate authority for tests, and what it signs: servers of this machine, and clients by name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Pair:
    """A PEM certificate with its private key."""

    chain: bytes
    key: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Replace both files."""
        for path, data in ((certificate, self.chain), (key, self.key)):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.chmod(0o600)
            fresh.replace(path)


class Authority:
    """Signs what it is asked to."""

    def __init__(self, name: str = "Authority of tests") -> None:
        self._key = generate_private_key(SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, SHA256())
        )
        self.pem = made.public_bytes(Encoding.PEM)

    def server(self, *hosts: str, age: timedelta = timedelta(days=1), left: timedelta = timedelta(days=1)) -> Pair:
        """A server's certificate for these names and addresses; without any, for this machine's loopback."""
        names = [_general(host) for host in hosts or ("127.0.0.1", "localhost")]
        return self._leaf("server", names, ExtendedKeyUsageOID.SERVER_AUTH, age, left)

    def client(self, *uris: str, left: timedelta = timedelta(days=1)) -> Pair:
        """A client's certificate with these URIs (or DNS names) as its names."""
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri) if "://" in uri else x509.DNSName(uri) for uri in uris
        ]
        return self._leaf("client", names, ExtendedKeyUsageOID.CLIENT_AUTH, timedelta(days=1), left)

    def _leaf(
        self,
        common: str,
        names: list[x509.GeneralName],
        use: x509.ObjectIdentifier,
        age: timedelta,
        left: timedelta,
    ) -> Pair:
        key = generate_private_key(SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        built = _builder(name, self._name, key, age, left)
        if names:
            built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = (
            built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, SHA256())
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(made.public_bytes(Encoding.PEM), pem)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    age: timedelta = timedelta(days=1),
    left: timedelta = timedelta(days=1),
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - age)
        .not_valid_after(now + left)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
