"""The secret of the audit log: one file, from which come the signing key and the key of the query digests.

It reads and writes that file; what is signed is `service.audit.checkpoint`.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import unicodedata
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.audit.checkpoint import NoteError, Signer, Verifier
from service.errors import StartError
from service.files import durable_file, key_file
from service.keys.envelope import UnsealError, associated, seal, unseal


class AuditKey:
    """What the service holds of the audit log's secret. Not shown by `repr`."""

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self._query_key = self._derived(b"remit audit: digest of query texts, 1")
        self.index_key = self._derived(b"remit audit: names in the index, 1")
        self.page_key = self._derived(b"remit audit: page tokens, 1")
        self._texts = AESGCM(self._derived(b"remit audit: query texts, 1"))

    def _derived(self, purpose: bytes) -> bytes:
        """A key of its own for each purpose, so that none says anything about another."""
        derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose)
        return derive.derive(self.signer.key.private_bytes_raw())

    def __repr__(self) -> str:
        return f"AuditKey({self.signer.name!r})"

    @property
    def verifier(self) -> Verifier:
        """The public half, for whoever verifies the log."""
        return self.signer.verifier

    def query_digest(self, query: str) -> str:
        """HMAC-SHA256 of a query in NFKC, as hex: equal queries are equal, and nobody without the key can guess."""
        normal = unicodedata.normalize("NFKC", query).encode("utf-8", "surrogatepass")
        return hmac.digest(self._query_key, normal, "sha256").hex()

    def seal_query(self, query: str, response_id: str) -> str:
        """A query's text for its record, as base64: it opens with this key and for this answer only."""
        sealed = seal(self._texts, query.encode("utf-8", "surrogatepass"), associated("query", response_id))
        return base64.b64encode(sealed).decode("ascii")

    def open_query(self, sealed: str, response_id: str) -> str:
        """The text that `seal_query` sealed. Raises UnsealError."""
        try:
            data = base64.b64decode(sealed, validate=True)
        except ValueError as err:
            raise UnsealError("a sealed query has an unknown format") from err
        return unseal(self._texts, data, associated("query", response_id)).decode("utf-8", "surrogatepass")

    @classmethod
    def create(cls, path: Path) -> AuditKey:
        """Make a new key and write it to a file of mode 0600. Raises FileExistsError: a key is never overwritten.

        The log's origin is random, so that two installations are never taken for each other.
        """
        made = cls(Signer(f"remit-audit/{secrets.token_hex(8)}", Ed25519PrivateKey.generate()))
        durable_file.create(path, f"{made.signer.text}\n".encode("ascii"))
        return made

    @classmethod
    def load(cls, path: Path) -> AuditKey:
        """Read the key. Raises StartError: missing, open to others, or not a key."""
        data = key_file.read(path, "the key of the audit log")
        try:
            return cls(Signer.parse(data.decode("ascii")))
        except (NoteError, UnicodeDecodeError) as err:
            raise StartError(f"{path} is not the key of an audit log: restore it from a backup") from err
