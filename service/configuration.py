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
from collections.abc import Callable, Collection, Iterable, Sequence
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

    loaded: as the file has them. make: makes connectors. bind: puts secrets in the place of what names them; raises
    StartError.
    """

    def __init__(self, loaded: Settings, make: Make, bind: Callable[[Settings], Settings] = lambda one: one) -> None:
        """Raises StartError."""
        self._loaded = loaded
        self._settings = bind(loaded)
        self._make = make
        self._bind = bind
        self._lock = threading.Lock()
        self._removed: frozenset[str] = frozenset()
        self._register: Callable[[str, str], None] = lambda name, kind: None
        self._record: Callable[[Record], object] = lambda record: None
        self._refuse: Callable[[Settings], Iterable[str]] = lambda settings: ()
        self._followers: list[Callable[[Settings], None]] = []

    @property
    def settings(self) -> Settings:
        """The settings in force: without the sources that were removed."""
        removed = self._removed
        if not removed:
            return self._settings
        kept = tuple(one for one in self._settings.sources if one.name not in removed)
        return replace(self._settings, sources=kept)

    def names(self) -> frozenset[str]:
        """Return the names of all sources in force."""
        return frozenset(one.name for one in self.settings.sources)

    @property
    def named(self) -> frozenset[str]:
        """The sources that the file names, removed or not."""
        return frozenset(one.name for one in self._loaded.sources)

    def withhold(self, names: Collection[str]) -> None:
        """Leave these sources out, whatever the file says: they were removed."""
        with self._lock:
            if self._removed == frozenset(names):
                return
            self._removed = frozenset(names)
            self._tell()

    def connect(self, name: str) -> Connector:
        """Make the connector of a source. Raises NotFoundError and StartError."""
        settings = self.settings
        for one in settings.sources:
            if one.name == name:
                return self._make(one, settings.base)
        raise NotFoundError(f"no source is called `{name}`")

    def follow(
        self,
        register: Callable[[str, str], None],
        record: Callable[[Record], object],
        *followers: Callable[[Settings], None],
        refuse: Callable[[Settings], Iterable[str]] = lambda settings: (),
    ) -> None:
        """Say who is told of new settings; called once, before the first reload. A follower does not raise.

        register: has the catalog know a source by name and kind; may raise StartError. record: makes a record durable,
        or raises AuditUnavailableError. refuse: says what else is wrong with settings, a sentence each.
        """
        self._register, self._record, self._refuse = register, record, refuse
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
        before = self._loaded
        try:
            after = load(before.file)
        except SettingsError as err:
            return Reloaded(before.sha256, "", problems=err.mistakes)
        problems = list(_fixed(before, after))
        named = self.named
        problems += [
            f"{one.place('name')}: `{one.name}` was removed and is still being purged: try again when it is gone"
            for one in after.sources
            if one.name in self._removed and one.name not in named
        ]
        bound = self._settings
        try:
            bound = self._bound(after)
            problems += [*self._unusable(bound), *self._refuse(bound)]
        except RemitError as err:
            problems.append(str(err))
        changed = _changed(before, after)
        if problems:
            return Reloaded(before.sha256, after.sha256, changed, tuple(problems))
        try:
            for one in after.sources:
                if one.name not in self._removed:
                    self._register(one.name, one.kind)
            self._record(settings_record(before.sha256, after.sha256, changed))
        except StartError as err:
            return Reloaded(before.sha256, after.sha256, changed, (str(err),))
        except RemitError as err:
            log.error("settings_not_stored", error=type(err).__name__)
            return Reloaded(before.sha256, after.sha256, changed, ("it cannot be written down: the log says why",))
        self._loaded, self._settings = after, bound
        self._tell()
        return Reloaded(before.sha256, after.sha256, changed)

    def _tell(self) -> None:
        settings = self.settings
        for tell in self._followers:
            tell(settings)

    def _bound(self, after: Settings) -> Settings:
        """With secrets; a source that is the same stays the same value, so that nobody takes it for another."""
        same = {one.name for one in after.sources if one in self._loaded.sources}
        known = {one.name: one for one in self._settings.sources}
        bound = self._bind(after)
        return replace(bound, sources=tuple(known[one.name] if one.name in same else one for one in bound.sources))

    def _unusable(self, after: Settings) -> list[str]:
        known = {one.name: one for one in self._settings.sources}
        problems: list[str] = []
        for one in after.sources:
            former = known.get(one.name)
            if former is one:
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
