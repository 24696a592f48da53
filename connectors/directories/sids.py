"""Security identifiers and GUIDs of Active Directory: their bytes, their one text, and nothing else.

Source: [MS-DTYP] 2.4.2 (SID), 2.3.4 (GUID).
"""

from __future__ import annotations

import re
import uuid
from typing import Final

EVERYONE: Final = "S-1-1-0"
NETWORK: Final = "S-1-5-2"
AUTHENTICATED_USERS: Final = "S-1-5-11"
THIS_ORGANIZATION: Final = "S-1-5-15"
BUILTIN: Final = "S-1-5-32-"
"""How the groups begin that every server has for itself, such as Administrators."""

# One spelling for each SID: decimal, without leading zeros.
_ACCOUNT: Final = re.compile(r"S-1-5-21(-(?:0|[1-9][0-9]{0,9})){3}-[1-9][0-9]{0,9}")
_BUILTIN_GROUP: Final = re.compile(r"S-1-5-32-[1-9][0-9]{0,9}")
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAX_SUBAUTHORITIES: Final = 15


def sid_text(data: bytes) -> str:
    """Return the text of a binary SID. Raises ValueError unless the bytes are exactly one."""
    if len(data) < 12 or data[0] != 1 or not 1 <= data[1] <= _MAX_SUBAUTHORITIES or len(data) != 8 + 4 * data[1]:
        raise ValueError("these bytes are not a SID")
    authority = int.from_bytes(data[2:8], "big")
    parts = [int.from_bytes(data[start : start + 4], "little") for start in range(8, len(data), 4)]
    if authority >= 2**32:
        raise ValueError("this SID is of an authority that no domain has")
    return "-".join(str(part) for part in ("S", 1, authority, *parts))


def is_account_sid(text: str) -> bool:
    """True for the canonical text of a SID of an account or group of a domain."""
    return _ACCOUNT.fullmatch(text) is not None and all(int(part) < 2**32 for part in text.split("-")[4:])


def is_sid(text: object) -> bool:
    """True for the canonical text of a SID of a group that a server or a domain has."""
    return isinstance(text, str) and (is_account_sid(text) or _BUILTIN_GROUP.fullmatch(text) is not None)


def domain_of(sid: str) -> str:
    """The SID of the domain that an account's SID belongs to."""
    return sid.rpartition("-")[0]


def rid_of(sid: str) -> int:
    """The last number of an account's SID, which names it within its domain."""
    return int(sid.rpartition("-")[2])


def guid_text(data: bytes) -> str:
    """Return the text of a binary GUID. Raises ValueError unless there are 16 bytes."""
    return str(uuid.UUID(bytes_le=data))


def is_guid(text: str) -> bool:
    """True for the canonical text of a GUID: lower case, with dashes."""
    return _GUID.fullmatch(text) is not None
