"""From a settings mapping to a connector or a directory: the only list of the house's kinds, strict about options.

What the settings file looks like around these options is the service's business; an error names the option, and the
service adds file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from acl.errors import InvalidValueError
from acl.model import Clause, Effect, Rule
from acl.principal import Principal
from connectors import plugins
from connectors.base import Connector
from connectors.directories.base import Directory
from connectors.directories.static import StaticDirectory
from connectors.feed import Feed
from connectors.filesystem import Filesystem

_T = TypeVar("_T")

_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class OptionError(Exception):
    """An option is missing, unknown or wrong. `option` is its key, empty when it is about the kind."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class Options:
    """The options of one source or directory. Every reading method raises OptionError."""

    def __init__(self, kind: str, values: Mapping[str, object], base: Path, allowed: Collection[str]) -> None:
        """`base`: relative paths start there. Refuses keys that are not `allowed`."""
        for key in values:
            if key not in allowed:
                listed = ", ".join(f"`{name}`" for name in sorted(allowed))
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

    def choice(self, key: str, first: _T, second: _T, default: _T) -> _T:
        """Read one of two words."""
        value = self._values.get(key, default)
        for word in (first, second):
            if value == word:
                return word
        raise OptionError(key, f"`{key}`: expected `{first}` or `{second}`, found {_shown(value)}")

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


def build(kind: str, options: Mapping[str, object], base: Path) -> Connector:
    """Return a connector: of the house, or of a package that brings the kind. Opens nothing. Raises OptionError."""
    if kind not in _CONNECTORS and kind in plugins.kinds():
        try:
            factory = plugins.load(kind)
        except plugins.PluginError as err:
            raise OptionError("kind", str(err)) from err
        return factory(options, base)
    return _factory(kind, _CONNECTORS, "source", plugins.kinds())(options, base)


def build_directory(name: str, kind: str, options: Mapping[str, object], base: Path) -> Directory:
    """Return the directory called `name`. Opens nothing. Raises OptionError."""
    return _factory(kind, _DIRECTORIES, "directory")(name, options, base)


def _filesystem(values: Mapping[str, object], base: Path) -> Connector:
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


def _feed(values: Mapping[str, object], base: Path) -> Connector:
    options = Options("feed", values, base, ("path", "audience", "max_age"))
    max_age = options.duration("max_age", timedelta(hours=24))
    return Feed(options.path("path"), options.audience("audience"), max_age)


def _static(name: str, values: Mapping[str, object], base: Path) -> Directory:
    path = Options("static", values, base, ("path",)).path("path")
    try:
        return StaticDirectory(name, path)
    except InvalidValueError as err:
        raise OptionError("name", f"`name`: {err}") from err


_CONNECTORS: Final[Mapping[str, plugins.Factory]] = {
    "feed": _feed,
    "filesystem": _filesystem,
}
_DIRECTORIES: Final[Mapping[str, Callable[[str, Mapping[str, object], Path], Directory]]] = {"static": _static}


def _factory(kind: str, factories: Mapping[str, _T], what: str, more: Collection[str] = ()) -> _T:
    if kind not in factories:
        listed = ", ".join(f"`{name}`" for name in sorted({*factories, *more}))
        raise OptionError("kind", f"there is no {what} of kind `{kind}`: expected {listed}")
    return factories[kind]


def _shown(value: object) -> str:
    return f"`{value}`" if isinstance(value, str | int | float | bool) else type(value).__name__
