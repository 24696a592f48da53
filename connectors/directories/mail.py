"""Mail addresses as a last resort for finding the same person in two directories: their one spelling, who vouches.

An address is no immutable fact: it is given to somebody else later, and some systems let people write any they like. So
nothing here finds anybody unless an administrator links directories by it, naming domains and who manages them.
"""

from __future__ import annotations

import re
from typing import Final

MAIL: Final = "mail"
VERIFIED: Final = "mail_verified"
"""Facts of an account: its one address, and that its directory vouches for it; absent otherwise."""

# SOURCE: RFC 5321 4.1.2, without quoted strings and beyond ASCII nothing: what looks alike is not alike.
_ADDRESS: Final = re.compile(
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*@(?P<domain>[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+)"
)
_MOST: Final = 254


def address_of(text: str | None) -> str | None:
    """Return an address in lower case, None for what is none. Two that differ only in case are one."""
    if text is None or not text.isascii() or len(text) > _MOST:
        return None
    address = text.lower()
    return address if _ADDRESS.fullmatch(address) else None


def domain_of(address: str) -> str:
    """Return the domain of an address."""
    return address.rpartition("@")[2]


def is_domain(text: str) -> bool:
    """True for a mail domain in lower case."""
    return address_of(f"a@{text}") == f"a@{text}"


def mail_facts(address: str | None, *, verified: bool) -> dict[str, str]:
    """Return what to say about an account's address."""
    if address is None:
        return {}
    return {MAIL: address, VERIFIED: "yes"} if verified else {MAIL: address}
