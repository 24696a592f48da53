"""LDAP at its edge: connections that are verified, answers that are whole, and errors that say so.

Everything that ldap3 knows stays in this file. What entries mean is the directories' business.

1. A connection is TLS with the configured authority alone, and the host's name is checked (ldap3's own check is not
   used: it rests on a function that Python no longer has). The password is sent after that, and never empty: a simple
   bind without one is anonymous, and succeeds (RFC 4513 section 5.1.2).
2. Referrals are never followed. One that is met, a size or time limit, an unwilling server: the answer is incomplete,
   and incomplete is an error, never a shorter list.
3. One server is used at a time, so that what was noticed there is also read there; the next one when it fails.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import ldap3
from ldap3.core.exceptions import LDAPExceptionError
from ldap3.utils.conv import escape_filter_chars

from connectors.directories.base import BindRefusedError, DirectoryUnavailableError
from connectors.secret import Secret, SecretError

_T = TypeVar("_T")

DOMAIN_SCOPE: Final = ("1.2.840.113556.1.4.1339", False, None)
"""Of Active Directory: no references to other naming contexts, which a search of the domain's root always meets."""
SHOW_DELETED: Final = ("1.2.840.113556.1.4.417", True, None)

MAX_ENTRIES: Final = 200_000
_MAX_RANGES: Final = 10_000
_PAGE: Final = 500
_PAGED: Final = "1.2.840.113556.1.4.319"
_SUCCESS, _NO_SUCH_OBJECT, _INVALID_CREDENTIALS = 0, 32, 49
# operationsError, strongAuthRequired, busy, unavailable, other
_ANOTHER_SERVER_MAY: Final = frozenset({1, 8, 51, 52, 80})
_INCOMPLETE: Final = {
    3: "a time limit cut the answer short",
    4: "a size limit cut the answer short",
    10: "it referred us to another server",
    11: "an administrative limit cut the answer short",
}


class ServerError(Exception):
    """This server cannot answer; another one may."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server. start_tls: TLS begins within the connection rather than with it."""

    host: str
    port: int
    start_tls: bool

    def __str__(self) -> str:
        return f"{'ldap' if self.start_tls else 'ldaps'}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LdapAccess:
    """Where a directory is and who we are to it. password: read at each connection, so that it can be changed."""

    servers: tuple[Endpoint, ...]
    ca: Path
    bind_dn: str
    password: Secret
    connect_timeout_s: int = 3
    receive_timeout_s: int = 5
    connections: int = 8
    wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is on the wire. values: by attribute name in lower case, without options such as `;range`."""

    dn: str
    values: Mapping[str, tuple[bytes, ...]]

    def all(self, attribute: str) -> tuple[bytes, ...]:
        """The values of an attribute; none when it is absent."""
        return self.values.get(attribute.lower(), ())

    def text(self, attribute: str) -> str | None:
        """The one value of an attribute as text; None when it is absent, has several values or is no text."""
        values = self.all(attribute)
        if len(values) != 1:
            return None
        try:
            return values[0].decode()
        except UnicodeDecodeError:
            return None


def equals(attribute: str, value: str) -> str:
    """A filter for one value of an attribute, escaped (RFC 4515 section 3)."""
    return f"({attribute}={escape_filter_chars(value)})"


def any_of(filters: Sequence[str]) -> str:
    """A filter that one of several satisfies."""
    return filters[0] if len(filters) == 1 else f"(|{''.join(filters)})"


def tls_context(ca: Path) -> ssl.SSLContext:
    """TLS that trusts one authority and checks names. Raises OSError and ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca)
    return context


class VerifiedTls(ldap3.Tls):
    """ldap3's TLS with the standard library's verification, the host's name included."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        """Begin TLS. Raises ssl.SSLError, an OSError."""
        connection.socket = self._context.wrap_socket(connection.socket, server_hostname=connection.server.host)


def open_connection(name: str, access: LdapAccess, endpoint: Endpoint) -> ldap3.Connection:
    """Return a connection that is verified and bound. name: the directory's.

    Raises DirectoryUnavailableError; BindRefusedError for a name or a password that the server does not accept;
    LDAPExceptionError, OSError and an error of this module when another server may do.
    """
    try:
        password = access.password.read()
    except SecretError as err:
        raise DirectoryUnavailableError(str(err)) from err
    server = ldap3.Server(
        endpoint.host,
        port=endpoint.port,
        use_ssl=not endpoint.start_tls,
        tls=VerifiedTls(tls_context(access.ca)),
        get_info=ldap3.NONE,
        connect_timeout=access.connect_timeout_s,
    )
    connection = ldap3.Connection(
        server,
        user=access.bind_dn,
        password=password,
        authentication=ldap3.SIMPLE,
        auto_referrals=False,
        auto_range=False,
        check_names=False,
        return_empty_attributes=False,
        receive_timeout=access.receive_timeout_s,
    )
    try:
        connection.open()
        if endpoint.start_tls:
            connection.start_tls()
        # INVARIANT: from here on the socket is TLS with a server whose certificate and name were checked.
        if not isinstance(connection.socket, ssl.SSLSocket):
            raise ServerError("TLS did not begin")
        connection.bind()
        code = _code(connection)
        if code == _INVALID_CREDENTIALS:
            message = f"directory `{name}`: {endpoint} refuses the name `{access.bind_dn}` or its password"
            raise BindRefusedError(message)
        if code != _SUCCESS:
            raise ServerError(f"binding ended with {connection.result['description']}")
    except BaseException:
        close_connection(connection)
        raise
    return connection


class LdapClient:
    """Searches one directory over a few connections. Safe for threads. All methods raise DirectoryUnavailableError."""

    def __init__(self, name: str, access: LdapAccess) -> None:
        """`name` is the directory's, for messages. Nothing is opened."""
        self._name: Final = name
        self._access: Final = access
        self._slots: Final = threading.BoundedSemaphore(access.connections)
        self._lock: Final = threading.Lock()
        self._idle: list[tuple[Endpoint, ldap3.Connection]] = []
        self._order: list[Endpoint] = list(access.servers)
        self._closed = False
        self._rest: tuple[float, DirectoryUnavailableError] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The server that is asked now."""
        return self._order[0]

    def read(self, dn: str, attributes: Sequence[str], *, controls: Iterable[Any] = ()) -> Entry | None:
        """Return one object by its DN, every value of each attribute; None when there is no such object."""
        return self._run(lambda connection: self._read(connection, dn, attributes, tuple(controls)))

    def search(
        self, base: str, filter_: str, attributes: Sequence[str], *, controls: Iterable[Any] = ()
    ) -> list[Entry]:
        """Return every object below `base` that the filter finds. Paged; more than MAX_ENTRIES are an error."""
        return self._run(lambda connection: self._search(connection, base, filter_, attributes, tuple(controls)))

    def read_range(self, dn: str, attribute: str, step: int) -> tuple[bytes, ...]:
        """Return all values of an attribute, asking for `step` at a time. Source: [MS-ADTS] 3.1.1.3.1.3.3."""
        return self._run(lambda connection: self._ranges(connection, dn, attribute, (), 0, step))

    def connect(self) -> Endpoint:
        """Make a connection anew and return where it went, so that a wrong password or authority shows."""
        with self._lock:
            self._rest = None
        self._run(lambda connection: None, fresh=True)
        return self.endpoint

    def close(self) -> None:
        """Close every connection; what is asked afterwards is refused."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            close_connection(connection)

    # --- which connection ---

    def _run(self, work: Callable[[ldap3.Connection], _T], *, fresh: bool = False) -> _T:
        with self._slot():
            self._refuse_while_resting()
            failures: list[str] = []
            for endpoint in list(self._order):
                # One that waited may have been closed at the other end, which says nothing about the server.
                waiting = None if fresh else self._take(endpoint)
                if waiting is not None:
                    with contextlib.suppress(LDAPExceptionError, OSError, ServerError):
                        return self._use(endpoint, waiting, work)
                try:
                    return self._use(endpoint, self._open(endpoint), work)
                except (LDAPExceptionError, OSError, ServerError) as err:
                    failures.append(f"{endpoint}: {err}")
                    self._pass_over(endpoint)
            raise self._rest_after(
                DirectoryUnavailableError(f"directory `{self._name}` cannot be reached: {'; '.join(failures)}"), 1.0
            )

    def _use(self, endpoint: Endpoint, connection: ldap3.Connection, work: Callable[[ldap3.Connection], _T]) -> _T:
        try:
            result = work(connection)
        except DirectoryUnavailableError:
            self._give_back(endpoint, connection)
            raise
        except BaseException:
            close_connection(connection)
            raise
        self._give_back(endpoint, connection)
        return result

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(timeout=self._access.wait_s):
            raise DirectoryUnavailableError(f"directory `{self._name}` has too many questions waiting")
        try:
            yield
        finally:
            self._slots.release()

    def _take(self, endpoint: Endpoint) -> ldap3.Connection | None:
        with self._lock:
            for number in range(len(self._idle) - 1, -1, -1):
                if self._idle[number][0] == endpoint:
                    return self._idle.pop(number)[1]
        return None

    def _give_back(self, endpoint: Endpoint, connection: ldap3.Connection) -> None:
        with self._lock:
            if not self._closed and endpoint == self._order[0]:
                self._idle.append((endpoint, connection))
                return
        close_connection(connection)

    def _pass_over(self, endpoint: Endpoint) -> None:
        with self._lock:
            if self._order[0] == endpoint and len(self._order) > 1:
                self._order.append(self._order.pop(0))
            gone = [connection for place, connection in self._idle if place == endpoint]
            self._idle = [(place, connection) for place, connection in self._idle if place != endpoint]
        for connection in gone:
            close_connection(connection)

    def _refuse_while_resting(self) -> None:
        # Without it everybody who asks would wait for the same time-out, and a wrong password would lock the account.
        with self._lock:
            if self._closed:
                raise DirectoryUnavailableError(f"directory `{self._name}` is closed")
            rest = self._rest
            if rest is not None and time.monotonic() >= rest[0]:
                rest = self._rest = None
        if rest is not None:
            raise type(rest[1])(rest[1].detail)

    def _rest_after(self, error: DirectoryUnavailableError, seconds: float) -> DirectoryUnavailableError:
        with self._lock:
            self._rest = (time.monotonic() + seconds, error)
        return error

    def _open(self, endpoint: Endpoint) -> ldap3.Connection:
        try:
            return open_connection(self._name, self._access, endpoint)
        except BindRefusedError as err:
            self._rest_after(err, 10.0)
            raise

    # --- what is asked ---

    def _read(self, connection: ldap3.Connection, dn: str, attributes: Sequence[str], controls: Any) -> Entry | None:
        connection.search(dn, "(objectClass=*)", ldap3.BASE, attributes=list(attributes), controls=controls or None)
        if _code(connection) == _NO_SUCH_OBJECT:
            return None
        found = self._entries(connection)
        if len(found) > 1:
            raise DirectoryUnavailableError(f"directory `{self._name}` answers for one object with {len(found)}")
        return self._whole(connection, found[0]) if found else None

    def _search(
        self,
        connection: ldap3.Connection,
        base: str,
        filter_: str,
        attributes: Sequence[str],
        controls: Any,
    ) -> list[Entry]:
        found: list[Entry] = []
        cookie: bytes | None = None
        while True:
            connection.search(
                base,
                filter_,
                ldap3.SUBTREE,
                attributes=list(attributes),
                controls=controls or None,
                paged_size=_PAGE,
                paged_cookie=cookie,
            )
            found += [self._whole(connection, entry) for entry in self._entries(connection)]
            if len(found) > MAX_ENTRIES:
                raise DirectoryUnavailableError(f"directory `{self._name}` has more than {MAX_ENTRIES} such entries")
            cookie = _cookie(connection)
            if not cookie:
                return found

    def _entries(self, connection: ldap3.Connection) -> list[Entry]:
        """The entries of the last answer, which must be whole."""
        code = _code(connection)
        if code in _INCOMPLETE:
            raise DirectoryUnavailableError(f"directory `{self._name}` is incomplete: {_INCOMPLETE[code]}")
        if code in _ANOTHER_SERVER_MAY:
            raise ServerError(f"the search ended with {connection.result['description']}")
        if code != _SUCCESS:
            said = connection.result["description"]
            raise DirectoryUnavailableError(f"directory `{self._name}` is incomplete: the search ended with {said}")
        found = []
        for one in connection.response or ():
            if one["type"] != "searchResEntry":
                raise DirectoryUnavailableError(f"directory `{self._name}` is incomplete: {_INCOMPLETE[10]}")
            found.append(Entry(one["dn"], {k.lower(): tuple(v) for k, v in one["raw_attributes"].items() if v}))
        return found

    def _whole(self, connection: ldap3.Connection, entry: Entry) -> Entry:
        """The entry with every value of the attributes of which the server sent a range."""
        if not any(";" in name for name in entry.values):
            return entry
        values: dict[str, tuple[bytes, ...]] = {}
        for key, part in entry.values.items():
            name, _, option = key.partition(";")
            if option.startswith("range=") and not option.endswith("-*"):
                values[name] = self._ranges(connection, entry.dn, name, part, len(part), 0)
            elif not option or option.startswith("range="):
                values[name] = part  # other options, such as a language, are other attributes
        return Entry(entry.dn, values)

    def _ranges(
        self, connection: ldap3.Connection, dn: str, name: str, first: tuple[bytes, ...], start: int, step: int
    ) -> tuple[bytes, ...]:
        found = list(first)
        for _ in range(_MAX_RANGES):
            ends = "*" if step == 0 else start + step - 1
            connection.search(dn, "(objectClass=*)", ldap3.BASE, attributes=[f"{name};range={start}-{ends}"])
            entries = self._entries(connection)
            if len(entries) != 1:
                break
            answered = {k: v for k, v in entries[0].values.items() if k.partition(";")[0] == name.lower()}
            if not answered and not found:
                return ()
            if len(answered) != 1:
                break
            ((key, part),) = answered.items()
            found += part
            start += len(part)
            if key.endswith("-*") or ";" not in key:
                return tuple(found)
        raise DirectoryUnavailableError(f"directory `{self._name}` is incomplete: `{name}` ended half way")


def _code(connection: ldap3.Connection) -> int:
    result = connection.result
    if not isinstance(result, dict) or not isinstance(result.get("result"), int):
        raise ServerError("it gave no result")
    return int(result["result"])


def _cookie(connection: ldap3.Connection) -> bytes | None:
    control = (connection.result.get("controls") or {}).get(_PAGED)
    return control["value"]["cookie"] or None if control else None


def close_connection(connection: ldap3.Connection) -> None:
    """Close a connection, whatever state it is in."""
    with contextlib.suppress(LDAPExceptionError, OSError):
        connection.unbind()
    # ldap3 leaves the socket open when TLS fails.
    if connection.socket is not None:
        with contextlib.suppress(OSError):
            connection.socket.close()
