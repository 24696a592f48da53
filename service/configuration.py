"""The settings in force, and how others take their place while the service runs: as a whole, or not at all.

1. The file is read and checked in full, and the connector of every source that is new or differs is made, which checks
   its options and connects to nothing.
2. What can change are sources with their schedules, roles, and the largest document. Anything else that differs is
   named, and nothing changes.
3. New sources are registered in the catalog.
4. A record of both files' digests and of what differs is durable before anything is in force: nothing widens silently.
5. Everybody who works by the settings gets the new ones. INVARIANT: none of them can refuse.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import structlog

from connectors.base import Connector
from service.audit.call import settings_record
from service.audit.record import Record
from service.errors import NotFoundError, RemitError, StartError
from service.settings import Settings, SettingsError, SourceSettings, load

log = structlog.get_logger()

Make = Callable[[SourceSettings, Path], Connector]
"""Makes the connector of a source; paths in its options are relative to the folder. Raises StartError."""

_CAN_CHANGE: Final = frozenset({"sources", "roles", "limits"})


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How a reload ended. problems: why the former settings stay in force, each a sentence; empty when they do not.

    changed: what differs, such as `roles` or `sources.company`; empty when nothing does.
    """

    before: str
    after: str
    changed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Configuration:
    """The settings of a running service. Safe to use from several threads.

    make: makes connectors. bind: puts secrets in the place of options that name them, or raises SettingsError.
    register: has the catalog know a source by name and kind; may raise StartError.
    record: makes a record durable, or raises AuditUnavailableError.
    """

    def __init__(
        self, settings: Settings, make: Make, bind: Callable[[Settings], Settings] = lambda settings: settings
    ) -> None:
        self._settings = settings
        self._make = make
        self._bind = bind
        self._lock = threading.Lock()
        self._register: Callable[[str, str], None] = lambda name, kind: None
        self._record: Callable[[Record], object] = lambda record: None
        self._followers: list[Callable[[Settings], None]] = []

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    def names(self) -> frozenset[str]:
        """Return the names of all sources."""
        return frozenset(one.name for one in self._settings.sources)

    def connect(self, name: str) -> Connector:
        """Make the connector of a source. Raises NotFoundError and StartError."""
        settings = self._settings
        for one in settings.sources:
            if one.name == name:
                return self._make(one, settings.base)
        raise NotFoundError(f"no source is called `{name}`")

    def follow(
        self,
        register: Callable[[str, str], None],
        record: Callable[[Record], object],
        *followers: Callable[[Settings], None],
    ) -> None:
        """Say who is told of new settings; called once, before the first reload. A follower does not raise."""
        self._register, self._record = register, record
        self._followers.extend(followers)

    def reload(self) -> Reloaded:
        """Read the file again, and put it into force or say why not. Blocking."""
        with self._lock:
            result = self._reload()
        if result.problems:
            log.error("settings_refused", found=len(result.problems))
        else:
            log.info("settings_changed", found=len(result.changed))
        return result

    def _reload(self) -> Reloaded:
        before = self._settings
        try:
            after = self._bind(load(before.file))
        except SettingsError as err:
            return Reloaded(before.sha256, "", problems=err.mistakes)
        problems = [*_fixed(before, after), *self._unusable(before, after)]
        changed = _changed(before, after)
        if problems:
            return Reloaded(before.sha256, after.sha256, changed, tuple(problems))
        try:
            for one in after.sources:
                self._register(one.name, one.kind)
            self._record(settings_record(before.sha256, after.sha256, changed))
        except StartError as err:
            return Reloaded(before.sha256, after.sha256, changed, (str(err),))
        except RemitError as err:
            log.error("settings_not_stored", error=type(err).__name__)
            return Reloaded(before.sha256, after.sha256, changed, ("it cannot be written down: the log says why",))
        self._settings = after
        for tell in self._followers:
            tell(after)
        return Reloaded(before.sha256, after.sha256, changed)

    def _unusable(self, before: Settings, after: Settings) -> list[str]:
        known = {one.name: one for one in before.sources}
        problems: list[str] = []
        for one in after.sources:
            former = known.get(one.name)
            if former == one:
                continue
            if former is not None and former.kind != one.kind:
                problems.append(f"{one.place('kind')}: `{one.name}` is of kind `{former.kind}`: give it a new name")
                continue
            try:
                self._make(one, after.base).close()
            except StartError as err:
                problems.append(str(err))
        return problems


def _fixed(before: Settings, after: Settings) -> list[str]:
    """What differs and cannot change while the service runs."""
    kept = replace(after, limits=replace(after.limits, max_document_bytes=before.limits.max_document_bytes))
    names = [one.name for one in fields(Settings) if one.compare and one.name not in _CAN_CHANGE] + ["limits"]
    return [
        f"{after.file}: `{name}` differs and cannot change while the service runs: restart it"
        for name in names
        if getattr(before, name) != getattr(kept, name)
    ]


def _changed(before: Settings, after: Settings) -> tuple[str, ...]:
    """What differs, by the names of the keys."""
    found = [name for name in ("limits", "roles") if getattr(before, name) != getattr(after, name)]
    old, new = ({one.name: one for one in settings.sources} for settings in (before, after))
    names: Sequence[str] = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return (*found, *(f"sources.{name}" for name in names))
