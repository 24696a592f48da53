"""Principals: who a rule can name, and the one unambiguous text (token) for each.

A principal is a pair of realm and immutable id. Never a display name, a bare e-mail or a name without its domain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from sys import intern
from typing import Any, Final, NamedTuple, NewType, Self
from urllib.parse import quote, unquote

from acl.errors import InvalidValueError

Realm = NewType("Realm", str)
"""A system, or a system and a domain within it: `ad`, `posix:corp`, `entra:<tenant>`. See `realm()`."""

_REALM: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*(:[A-Za-z0-9_.-]+)?")
_MAX_REALM_CHARACTERS: Final = 255
_MAX_ID_BYTES: Final = 512
_SAFE: Final = "@=+,;!$*()'._~-{}"

# The ids that stand for a class of accounts rather than for one account or group, by system.
# SOURCE: [MS-DTYP] 2.4.2.4 for the SIDs.
_CLASSES: Final = {
    "posix": frozenset({"other"}),
    "ad": frozenset({"S-1-1-0", "S-1-5-11", "S-1-5-2", "S-1-5-15", "S-1-5-32-545"}),
    "entra": frozenset({"members"}),
    "ldap": frozenset({"members"}),
    "static": frozenset({"members"}),
}


def realm(system: str, domain: str = "") -> Realm:
    """Build a realm. Raises InvalidValueError when it would not be unambiguous in a token."""
    text = f"{system}:{domain}" if domain else system
    if ":" in system or len(text) > _MAX_REALM_CHARACTERS or not _REALM.fullmatch(text):
        raise InvalidValueError(f"`{text}` is not a realm: use lower-case letters, digits, `.`, `_` and `-`")
    return Realm(text)


class _Pair(NamedTuple):
    realm: Realm
    id: str


class Principal(_Pair):
    """A user, a group or a class of users of one realm.

    A tuple rather than a dataclass: `readable` hashes and compares thousands of them within a request, in C.
    """

    __slots__ = ()

    def __new__(cls, realm: Realm, id: str) -> Self:  # noqa: A002 (the word of the model)
        """Raises InvalidValueError for a realm or an id that no token could carry."""
        if type(realm) is not str or type(id) is not str:
            raise InvalidValueError("a principal's realm and id are texts")
        if len(realm) > _MAX_REALM_CHARACTERS or not _REALM.fullmatch(realm):
            raise InvalidValueError(f"`{realm[:_MAX_REALM_CHARACTERS]}` is not a realm")
        if not id:
            raise InvalidValueError("a principal's id is empty")
        try:
            size = len(id.encode())
        except UnicodeEncodeError as err:
            raise InvalidValueError("a principal's id cannot be encoded as UTF-8") from err
        if size > _MAX_ID_BYTES:
            raise InvalidValueError(f"a principal's id is longer than {_MAX_ID_BYTES} bytes")
        # One text in memory for equal ids: to compare them is to compare two addresses.
        return super().__new__(cls, Realm(intern(realm)), intern(id))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # typeshed's own spelling has no Self
        # The inherited one builds the tuple without asking whether it may exist.
        return cls(*iterable)

    @property
    def token(self) -> str:
        """The canonical text: the realm, a colon, and the id with everything doubtful percent-encoded.

        The id's part holds no colon, so the last colon splits the two: the encoding is injective.
        """
        return f"{self.realm}:{quote(self.id, safe=_SAFE)}"

    @property
    def is_class(self) -> bool:
        """True for a class token such as `posix:corp:other`. Only reports ask; `decide` never does."""
        return self.id in _CLASSES.get(self.realm.partition(":")[0], frozenset())

    @classmethod
    def parse(cls, token: str) -> Principal:
        """Read a token back. Raises InvalidValueError unless `token` is exactly what `.token` would give."""
        where, colon, encoded = token.rpartition(":")
        if not colon:
            raise InvalidValueError(f"`{token}` is not a principal's token")
        try:
            found = cls(Realm(where), unquote(encoded, errors="strict"))
        except UnicodeDecodeError as err:
            raise InvalidValueError(f"`{token}` is not a principal's token") from err
        if found.token != token:
            raise InvalidValueError(f"`{token}` is not in canonical form, which is `{found.token}`")
        return found
