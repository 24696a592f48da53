"""Kinds of source that other packages bring: entry points of the group `remit.connectors`.

A package is imported only when the settings name its kind, and never in place of a kind of the house.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from connectors.base import Connector

GROUP: Final = "remit.connectors"

Factory = Callable[[Mapping[str, object], Path], Connector]
"""Takes the options and the folder at which relative paths start. Opens nothing. Raises registry.OptionError."""


class PluginError(Exception):
    """A kind that packages bring cannot be used: one sentence."""


def kinds() -> frozenset[str]:
    """Return the names of all kinds that installed packages bring. Imports none of them."""
    return frozenset(point.name for point in entry_points(group=GROUP))


def load(kind: str) -> Factory:
    """Import what stands behind one of `kinds`. Raises PluginError."""
    found = {(point.value, _package(point)): point for point in entry_points(group=GROUP, name=kind)}
    if len(found) != 1:
        packages = ", ".join(sorted(f"`{package}`" for _, package in found))
        raise PluginError(f"kind `{kind}` comes from several packages: {packages}: uninstall all but one")
    (point,) = found.values()
    try:
        factory = point.load()
    except Exception as err:
        why = f"{type(err).__name__}: {err}"
        raise PluginError(
            f"kind `{kind}` comes from package `{_package(point)}`, which cannot be imported: {why}"
        ) from err
    if not callable(factory):
        raise PluginError(f"kind `{kind}`: `{point.value}` of package `{_package(point)}` is no function")
    return factory  # type: ignore[no-any-return]  # what an entry point holds has no type


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
