"""From a settings mapping to a connector or a directory: the only list of the house's kinds, strict about options.

What the settings file looks like around these options is the service's business; an error names the option, and the
service adds file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from acl.errors import InvalidValueError
from acl.model import Clause, Effect, Rule
from acl.principal import Principal, Realm
from connectors import plugins
from connectors.base import Connector, own_realm
from connectors.directories.base import Directory
from connectors.directories.static import StaticDirectory
from connectors.errors import FatalError
from connectors.feed import Feed
from connectors.filesystem import Filesystem
from connectors.secret import EnvSecret, FileSecret, OptionSecret, Secret, SecretError, forms

if TYPE_CHECKING:
    from connectors.directories.ldap_client import LdapAccess
    from connectors.smb.client import Login, Share
    from connectors.smb.local_groups import LocalGroups
    from connectors.smb.rules import Rights

_T = TypeVar("_T")

_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SERVER: Final = re.compile(r"(ldaps?)://([A-Za-z0-9.-]+)(?::([0-9]{1,5}))?/?")
_PROXY: Final = re.compile(r"https?://[^\s?#@]+")
_GLOBAL_CATALOG: Final = frozenset({3268, 3269})
_FILTERS: Final = ("disabled", "mail_verified")
_ACCESS: Final = ("servers", "ca", "bind")
_LDAP: Final = (*_ACCESS, "base", "id_domain", "member_of", *_FILTERS)
_SMB: Final = (
    *("server", "share", "username", "auth", "encryption"),
    *("domain_sid", "share_access", "local_groups", "rights"),
)


class OptionError(Exception):
    """An option is missing, unknown or wrong. `option` is its key, empty when it is about the kind."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class Options:
    """The options of one source or directory. Every reading method raises OptionError."""

    def __init__(
        self,
        kind: str,
        values: Mapping[str, object],
        base: Path,
        allowed: Collection[str],
        secrets: Collection[str] = (),
    ) -> None:
        """`base`: relative paths start there. Refuses keys that are not `allowed`.

        secrets: names of those that `secret` reads. A key that is one of them is refused without its value.
        """
        known = {*allowed, *(form for name in secrets for form in forms(name))}
        for key in values:
            if key in secrets:
                listed = ", ".join(f"`{form}`" for form in forms(key))
                raise OptionError(str(key), f"`{key}`: a secret does not stand in the settings: name it by {listed}")
            if key not in known:
                listed = ", ".join(f"`{name}`" for name in sorted(known))
                raise OptionError(str(key), f"unknown option `{key}`: kind `{kind}` has {listed}")
        self._kind: Final = kind
        self._values: Final = values
        self._base: Final = base

    def text(self, key: str) -> str:
        """Read text that must be there."""
        value = self._required(key)
        if not isinstance(value, str) or not value:
            raise OptionError(key, f"`{key}`: expected text, found {_shown(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Read a list of texts that must be there, at least one."""
        value = self._required(key)
        if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) and one for one in value):
            raise OptionError(key, f"`{key}`: expected a list of texts, found {_shown(value)}")
        return tuple(value)

    def optional(self, key: str) -> str | None:
        """Read text that may be left out."""
        return self.text(key) if key in self._values else None

    def audience(self, key: str) -> Clause:
        """Read a list of principals, at least one, as the clause that lets them through and nobody else."""
        try:
            return Clause((Rule(Effect.ALLOW, frozenset(Principal.parse(token) for token in self.texts(key))),))
        except InvalidValueError as err:
            raise OptionError(key, f"`{key}`: {err}") from err

    def duration(self, key: str, default: timedelta) -> timedelta:
        """Read a whole number above 0 and one of `s`, `m`, `h`, `d`, such as `24h`."""
        if key not in self._values:
            return default
        match = _DURATION.fullmatch(self.text(key))
        if match is None:
            raise OptionError(key, f"`{key}`: expected a duration such as `15m` or `24h`")
        return timedelta(**{_UNITS[match[2]]: int(match[1])})

    def path(self, key: str) -> Path:
        """Read a path that must be there; it is made absolute, and nothing is looked up."""
        value = self.text(key)
        if "\x00" in value:
            raise OptionError(key, f"`{key}`: a path holds no zero byte")
        return (self._base / Path(value).expanduser()).absolute()

    def secret(self, name: str) -> OptionSecret:
        """Read which option names a secret that must be there; the secret itself is not looked at."""
        found = self.optional_secret(name)
        if found is None:
            raise OptionError(f"{name}_file", f"option `{name}_file` is missing: kind `{self._kind}` needs it")
        return found

    def optional_secret(self, name: str) -> OptionSecret | None:
        """Read which option names a secret that may be left out."""
        given = [key for key in forms(name) if key in self._values]
        if not given:
            return None
        key = given[-1]
        if len(given) > 1:
            raise OptionError(key, f"`{key}`: there is `{given[0]}` too, and one of the two is enough")
        value = self._values[key]
        if isinstance(value, Secret):
            return OptionSecret(key, value)
        if key == f"{name}_file":
            return OptionSecret(key, FileSecret(self.path(key)))
        if key == f"{name}_env":
            return OptionSecret(key, EnvSecret(self.text(key)))
        raise OptionError(key, f"`{key}`: it opens with the service's keys, which are not there: use `{name}_file`")

    def choice(self, key: str, first: _T, second: _T, default: _T) -> _T:
        """Read one of two words."""
        value = self._values.get(key, default)
        for word in (first, second):
            if value == word:
                return word
        raise OptionError(key, f"`{key}`: expected `{first}` or `{second}`, found {_shown(value)}")

    def one_of(self, key: str, words: tuple[_T, ...]) -> _T:
        """Read one of some words; the first when there is none."""
        value = self._values.get(key, words[0])
        for word in words:
            if value == word:
                return word
        raise OptionError(key, f"`{key}`: expected {', '.join(f'`{one}`' for one in words)}, found {_shown(value)}")

    def name(self, key: str) -> str:
        """Read the name of a server or of something on it: no path."""
        value = self.text(key)
        if not value.isprintable() or set(value) & set("\\/ "):
            raise OptionError(key, f"`{key}`: expected a name, found {_shown(value)}")
        return value

    def relative_paths(self, key: str) -> tuple[str, ...]:
        """Read a list of paths that stay below the source's root; none is an empty list."""
        value = self._values.get(key, [])
        if not isinstance(value, list | tuple):
            raise OptionError(key, f"`{key}`: expected a list of paths below the root, found {_shown(value)}")
        for item in value:
            if not isinstance(item, str) or not item or item.startswith("/") or ".." in Path(item).parts:
                raise OptionError(key, f"`{key}`: expected a path below the root, found {_shown(item)}")
        return tuple(value)

    def _required(self, key: str) -> object:
        if key not in self._values:
            raise OptionError(key, f"option `{key}` is missing: kind `{self._kind}` needs it")
        return self._values[key]


def build(kind: str, options: Mapping[str, object], base: Path, name: str = "") -> Connector:
    """Return a connector: of the house, or of a package that brings the kind. Opens nothing. Raises OptionError.

    name: the source's; a connector that speaks of groups of the source's own needs it.
    """
    if kind not in _CONNECTORS and kind in plugins.kinds():
        try:
            factory = plugins.load(kind)
        except plugins.PluginError as err:
            raise OptionError("kind", str(err)) from err
        return factory(options, base)
    return _factory(kind, _CONNECTORS, "source", plugins.kinds())(name, options, base)


def build_directory(name: str, kind: str, options: Mapping[str, object], base: Path) -> Directory:
    """Return the directory called `name`. Reads files that options name, connects to nothing. Raises OptionError."""
    return _factory(kind, _DIRECTORIES, "directory")(name, options, base)


def _filesystem(name: str, values: Mapping[str, object], base: Path) -> Connector:
    keys = ("root", "id_domain", "ancestors_above_root", "gone_mounts", "foreign_permissions")
    options = Options("filesystem", values, base, keys)
    root = options.path("root")
    id_domain = options.text("id_domain")
    try:
        return Filesystem(
            root,
            id_domain=id_domain,
            ancestors_above_root=options.choice("ancestors_above_root", "enforce", "trust", "enforce"),
            gone_mounts=options.relative_paths("gone_mounts"),
            foreign_permissions=options.choice("foreign_permissions", "refuse", "trust", "refuse"),
        )
    except InvalidValueError as err:
        raise OptionError("id_domain", f"`id_domain`: {err}") from err


def _feed(name: str, values: Mapping[str, object], base: Path) -> Connector:
    options = Options("feed", values, base, ("path", "audience", "max_age"))
    max_age = options.duration("max_age", timedelta(hours=24))
    return Feed(options.path("path"), options.audience("audience"), max_age)


def _sql(name: str, values: Mapping[str, object], base: Path) -> Connector:
    # Imported when configured: the command line starts without SQLAlchemy's drivers.
    from connectors.sql.connector import Sql
    from connectors.sql.declared import declared
    from connectors.sql.tables import access

    keys = ("url", "ca", "audience", "documents", "scopes", "groups")
    options = Options("sql", values, base, keys, ("password",))
    ca = options.path("ca") if "ca" in values else None
    return Sql(
        access(options.text("url"), base, options.optional_secret("password"), ca),
        declared(
            values.get("documents"), values.get("scopes"), values.get("groups"), _own_realm(name, values, "groups")
        ),
        options.audience("audience"),
    )


def _own_realm(name: str, values: Mapping[str, object], option: str) -> Realm | None:
    """The realm of the source's own groups, None when it does not speak of any."""
    if option not in values:
        return None
    try:
        return own_realm(name)
    except InvalidValueError as err:
        raise OptionError(option, f"`{option}`: {err}") from err


def _smb(name: str, values: Mapping[str, object], base: Path) -> Connector:
    # Imported when configured: the command line starts without its libraries.
    from connectors.smb.client import Share
    from connectors.smb.connector import Smb
    from connectors.smb.rules import Translator

    options = Options("smb", values, base, _SMB, ("password",))
    login, rights = smb_login(values, base)
    password = options.secret("password")
    try:
        translator = Translator(options.text("domain_sid"), rights)
    except InvalidValueError as err:
        raise OptionError("domain_sid", f"`domain_sid`: {err}") from err

    def connect() -> Share:
        try:
            secret = password.read()
        except SecretError as err:
            raise FatalError(str(err)) from err
        return Share(replace(login, password=secret))

    declared = (options.audience("share_access"),) if "share_access" in values else None
    return Smb(connect, translator, declared, _local_groups(name, values, options))


def smb_login(values: Mapping[str, object], base: Path) -> tuple[Login, Rights]:
    """Return how a source of kind `smb` logs in, its password left empty, and what reading is there.

    Raises OptionError.
    """
    from connectors.smb.client import Auth, Login

    options = Options("smb", values, base, _SMB, ("password",))
    server, share, username = options.name("server"), options.name("share"), options.text("username")
    auths: tuple[Auth, ...] = ("negotiate", "kerberos", "ntlm")
    auth = options.one_of("auth", auths)
    encrypt = options.choice("encryption", "require", "allow", "require") == "require"
    rights: tuple[Rights, ...] = ("open", "data")
    return Login(server, share, username, "", auth, encrypt), options.one_of("rights", rights)


def _local_groups(name: str, values: Mapping[str, object], options: Options) -> LocalGroups | None:
    """Read `local_groups`: `ignore`, `read`, or who is in which of them."""
    from connectors.directories.sids import is_sid
    from connectors.smb.local_groups import AskServer, Declared

    found = values.get("local_groups", "ignore")
    own = _own_realm(name, values, "local_groups")
    if own is None or found == "ignore":
        return None
    if found == "read":
        return AskServer(own)
    if not isinstance(found, Mapping):
        raise OptionError(
            "local_groups", f"`local_groups`: expected `ignore`, `read` or groups by their SIDs, found {_shown(found)}"
        )
    groups: dict[str, frozenset[Principal]] = {}
    for sid, members in found.items():
        if not is_sid(sid) or sid.startswith(f"{options.text('domain_sid')}-") or not isinstance(members, list | tuple):
            expected = "a SID of the server's own such as `S-1-5-32-545`, and a list of principals"
            raise OptionError("local_groups", f"`local_groups`: expected {expected}, found `{sid}`")
        try:
            groups[sid] = frozenset(Principal.parse(str(token)) for token in members)
        except InvalidValueError as err:
            raise OptionError("local_groups", f"`local_groups`: {sid}: {err}") from err
    return Declared(own, groups)


def _static(name: str, values: Mapping[str, object], base: Path) -> Directory:
    path = Options("static", values, base, ("path",)).path("path")
    try:
        return StaticDirectory(name, path)
    except InvalidValueError as err:
        raise OptionError("name", f"`name`: {err}") from err


def _active_directory(name: str, values: Mapping[str, object], base: Path) -> Directory:
    # Imported when configured: the command line starts in half the time without it.
    from connectors.directories.active_directory import ActiveDirectory

    access = _ldap_access(Options("active_directory", values, base, _ACCESS, ("password",)))
    for server in access.servers:
        if server.port in _GLOBAL_CATALOG:
            raise OptionError("servers", f"`servers`: {server} is a global catalog, which does not know every group")
    return ActiveDirectory(name, access)


def _ldap(name: str, values: Mapping[str, object], base: Path) -> Directory:
    from connectors.directories.ldap import Ldap, is_filter

    options = Options("ldap", values, base, _LDAP, ("password",))
    access = _ldap_access(options)
    filters = {key: options.optional(key) for key in _FILTERS}
    for key, found in filters.items():
        if found is not None and not is_filter(found):
            raise OptionError(key, f"`{key}`: expected a filter such as `(employeeType=left)`, found `{found}`")
    try:
        return Ldap(
            name,
            access,
            base=options.text("base"),
            id_domain=options.optional("id_domain"),
            trusts_member_of=options.choice("member_of", "ignore", "trust", "ignore") == "trust",
            disabled=filters["disabled"],
            mail_verified=filters["mail_verified"],
        )
    except InvalidValueError as err:
        raise OptionError("id_domain", f"`id_domain`: {err}") from err


def ldap_access(kind: str, values: Mapping[str, object], base: Path) -> LdapAccess:
    """Return where a directory of kind `active_directory` or `ldap` is, and who asks it. Raises OptionError."""
    return _ldap_access(Options(kind, values, base, _LDAP if kind == "ldap" else _ACCESS, ("password",)))


def _entra(name: str, values: Mapping[str, object], base: Path) -> Directory:
    from connectors.directories.entra import Entra
    from connectors.directories.graph import CLOUDS, GraphAccess, GraphClient
    from connectors.directories.sids import is_guid

    keys = ("tenant", "client_id", "certificate_file", "cloud", "ca", "proxy")
    options = Options("entra", values, base, keys, ("secret", "key"))
    ids = {key: options.text(key) for key in ("tenant", "client_id")}
    for key, text in ids.items():
        if not is_guid(text):
            raise OptionError(key, f"`{key}`: expected an id such as `0f1a2b3c-…`, in lower case, found `{text}`")
    cloud = options.optional("cloud") or "global"
    if cloud not in CLOUDS:
        listed = ", ".join(f"`{one}`" for one in CLOUDS)
        raise OptionError("cloud", f"`cloud`: expected one of {listed}, found `{cloud}`")
    access = GraphAccess(
        tenant=ids["tenant"],
        client_id=ids["client_id"],
        credential=_application_credential(options),
        cloud=CLOUDS[cloud],
        ca=options.path("ca") if "ca" in values else None,
        proxy=_proxy(options),
    )
    try:
        return Entra(name, ids["tenant"], GraphClient(name, access))
    except OSError as err:
        raise OptionError("ca", f"`ca`: {access.ca} cannot be read, or holds no certificate in PEM") from err


def _proxy(options: Options) -> str | None:
    found = options.optional("proxy")
    if found is not None and _PROXY.fullmatch(found) is None:
        # Without the text: it may hold a password.
        raise OptionError("proxy", "`proxy`: expected one such as `http://proxy.corp:3128`, without a login")
    return found


def _application_credential(options: Options) -> str | Mapping[str, str]:
    from connectors.directories.graph import certificate_credential

    secret, key = options.optional_secret("secret"), options.optional_secret("key")
    certificate = options.path("certificate_file") if options.optional("certificate_file") is not None else None
    if (secret is not None) == (key is not None or certificate is not None):
        raise OptionError("secret_file", "expected `secret_file`, or `certificate_file` with `key_file`")
    try:
        if secret is not None:
            return secret.read()
        private = options.secret("key").read()
    except SecretError as err:
        raise OptionError((secret or options.secret("key")).option, str(err)) from err
    option = "certificate_file"
    try:
        return certificate_credential(private, options.path(option).read_text())
    except OSError as err:
        raise OptionError(option, f"`{option}`: it cannot be read: {err.strerror}") from err
    except (ValueError, TypeError) as err:
        raise OptionError(option, f"`{option}`: expected a certificate in PEM, and its RSA key in `key_file`") from err


def _ldap_access(options: Options) -> LdapAccess:
    import ssl

    from connectors.directories.ldap_client import Endpoint, LdapAccess, tls_context

    servers = []
    for text in options.texts("servers"):
        found = _SERVER.fullmatch(text)
        if found is None or not 0 < int(found[3] or 1) < 65536:
            expected = "`ldaps://host` or `ldap://host`, which begins with StartTLS"
            raise OptionError("servers", f"`servers`: expected {expected}, found {_shown(text)}")
        start_tls = found[1] == "ldap"
        servers.append(Endpoint(found[2], int(found[3] or (389 if start_tls else 636)), start_tls))
    ca, password = options.path("ca"), options.secret("password")
    try:
        tls_context(ca)
    except ssl.SSLError as err:
        raise OptionError("ca", f"`ca`: {ca} holds no certificate of an authority in PEM") from err
    except OSError as err:
        raise OptionError("ca", f"`ca`: {ca} cannot be read: {err.strerror}") from err
    try:
        password.read()
    except SecretError as err:
        raise OptionError(password.option, str(err)) from err
    return LdapAccess(tuple(servers), ca, options.text("bind"), password)


_CONNECTORS: Final[Mapping[str, Callable[[str, Mapping[str, object], Path], Connector]]] = {
    "feed": _feed,
    "filesystem": _filesystem,
    "smb": _smb,
    "sql": _sql,
}
_DIRECTORIES: Final[Mapping[str, Callable[[str, Mapping[str, object], Path], Directory]]] = {
    "active_directory": _active_directory,
    "entra": _entra,
    "ldap": _ldap,
    "static": _static,
}


def _factory(kind: str, factories: Mapping[str, _T], what: str, more: Collection[str] = ()) -> _T:
    if kind not in factories:
        listed = ", ".join(f"`{name}`" for name in sorted({*factories, *more}))
        raise OptionError("kind", f"there is no {what} of kind `{kind}`: expected {listed}")
    return factories[kind]


def _shown(value: object) -> str:
    return f"`{value}`" if isinstance(value, str | int | float | bool) else type(value).__name__
