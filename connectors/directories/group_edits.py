"""Groups of a directory, written: for proofs alone, which measure how long a membership lasts after its end.

No directory knows this: a directory is only ever read, by `connectors.directories.ldap_client`. What may be written is
one group, which is either made here or named by whoever runs the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import ldap3
from ldap3.core.exceptions import LDAPExceptionError

from connectors.directories.base import DirectoryUnavailableError
from connectors.directories.ldap_client import LdapAccess, ServerError, close_connection, open_connection

# Any: the library's stubs give these methods no types.
Change = Callable[[Any], object]

_SUCCESS, _NO_SUCH_ATTRIBUTE, _VALUE_EXISTS, _NO_SUCH_OBJECT, _ENTRY_EXISTS = 0, 16, 20, 32, 68


class GroupEdits:
    """One connection that may write. Every method raises DirectoryUnavailableError."""

    def __init__(self, name: str, access: LdapAccess) -> None:
        """Nothing is opened yet. name: the directory's. access: of an account that may write."""
        self._name: Final = name
        self._access: Final = access
        self._connection: ldap3.Connection | None = None

    def make(self, dn: str, classes: Sequence[str], attributes: Mapping[str, Sequence[str]]) -> None:
        """Make an entry that was not there."""
        self._do(lambda c: c.add(dn, list(classes), {name: list(values) for name, values in attributes.items()}), dn)

    def add(self, dn: str, attribute: str, value: str) -> None:
        """Add a value to an attribute, if it is not there."""
        change = {attribute: [(ldap3.MODIFY_ADD, [value])]}
        # Active Directory says of somebody who is a member already that the entry exists.
        self._do(lambda c: c.modify(dn, change), dn, frozenset({_VALUE_EXISTS, _ENTRY_EXISTS}))

    def remove(self, dn: str, attribute: str, value: str) -> None:
        """Remove a value of an attribute, if it is there."""
        change = {attribute: [(ldap3.MODIFY_DELETE, [value])]}
        self._do(lambda c: c.modify(dn, change), dn, frozenset({_NO_SUCH_ATTRIBUTE}))

    def delete(self, dn: str) -> None:
        """Delete an entry, if it is there."""
        self._do(lambda c: c.delete(dn), dn, frozenset({_NO_SUCH_OBJECT}))

    def close(self) -> None:
        """Close the connection. The next use opens another."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            close_connection(connection)

    def _do(self, change: Change, dn: str, also: frozenset[int] = frozenset()) -> None:
        waited = self._connection is not None
        try:
            result = self._asked(change)
        except (LDAPExceptionError, OSError, ServerError) as err:
            self.close()
            # One that waited may have been closed at the other end, which says nothing about the server.
            if waited:
                self._do(change, dn, also)
                return
            raise DirectoryUnavailableError(f"directory `{self._name}`: `{dn}` could not be written: {err}") from err
        if result["result"] not in {_SUCCESS, *also}:
            said = f"{result['description']} {result['message']}".strip()
            raise DirectoryUnavailableError(f"directory `{self._name}`: `{dn}` was not written: {said}")

    def _asked(self, change: Change) -> Mapping[str, Any]:
        if self._connection is None:
            self._connection = self._opened()
        change(self._connection)
        result: Mapping[str, Any] = self._connection.result
        return result

    def _opened(self) -> ldap3.Connection:
        """To the server that is read first; another one might show a change later."""
        failures: list[str] = []
        for endpoint in self._access.servers:
            try:
                return open_connection(self._name, self._access, endpoint)
            except (LDAPExceptionError, OSError, ServerError) as err:
                failures.append(f"{endpoint}: {err}")
        raise DirectoryUnavailableError(f"directory `{self._name}` cannot be reached: {'; '.join(failures)}")
