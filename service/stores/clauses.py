"""A stored clause from its row. What is damaged is not understood: it takes what it guards away from everybody."""

from __future__ import annotations

from hashlib import sha256

from acl.errors import DecodeError
from acl.model import Clause, Unknown
from acl.normalize import decode


def read_clause(digest: bytes, body: bytes) -> Clause | Unknown:
    """Read a clause that stands under its `acl.normalize.fingerprint`, the hash of its body."""
    # One flipped bit can make another id of an id: most damage still decodes.
    if sha256(body).digest() != digest:
        return Unknown("a stored clause is damaged: its rules are not those that it is called by")
    try:
        return decode(body)
    except DecodeError as err:
        return Unknown(str(err))
