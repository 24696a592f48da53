"""The section `audit` of the settings: what records hold and how long they are kept, and where copies, checkpoints and
alerts go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from connectors.yaml_file import Field
from service.sections import listeners, web_address
from service.sections.listeners import Address


@dataclass(frozen=True, slots=True)
class FileExport:
    """A file to which events are appended."""

    path: Path


@dataclass(frozen=True, slots=True)
class SyslogExport:
    """A syslog server over TLS. ca: PEM to verify it by, None for the system's. certificate, key: our own, or None."""

    address: Address
    ca: Path | None
    certificate: Path | None
    key: Path | None


Export = FileExport | SyslogExport


@dataclass(frozen=True, slots=True)
class WebhookAlert:
    """An address that gets alerts by POST. secret: the file of what signs them. ca: PEM to verify it by, or None."""

    url: str
    secret: Path
    ca: Path | None


@dataclass(frozen=True, slots=True)
class SyslogAlert:
    """The socket of this machine's syslog."""

    path: Path


Alert = WebhookAlert | SyslogAlert

_KEPT: Final = timedelta(days=400)
_LEAST: Final = timedelta(days=90)
CLASSES: Final = ("query", "access", "admin", "ingest", "control", "heartbeat", "audit", "on_behalf")
"""The classes of records that expire; by name, so that reading the settings loads none of the log."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The audit log. keep_queries: records hold the texts of queries, sealed.

    checkpoints: files to which every signed checkpoint is appended; syslog: the socket that gets them, or None.
    exports: where every record goes as an event. kept: for how long the bodies of each class are kept.
    alerts: who is told when a source was stopped.
    """

    keep_queries: bool = True
    checkpoints: tuple[Path, ...] = ()
    syslog: Path | None = None
    exports: tuple[Export, ...] = ()
    kept: Mapping[str, timedelta] = field(default_factory=lambda: dict.fromkeys(CLASSES, _KEPT))
    alerts: tuple[Alert, ...] = ()


def read(item: Field, base: Path) -> AuditSettings:
    """Read the section. Raises YamlFileError with the line."""
    names = ["query_text", "checkpoints", "syslog", "exports", "retention", "minimum_retention", "alerts"]
    entries = item.mapping(names)
    kept = "query_text" not in entries or entries["query_text"].choice(["sealed", "none"]) == "sealed"
    return AuditSettings(
        keep_queries=kept,
        checkpoints=tuple(one.path(base) for one in entries["checkpoints"].items()) if "checkpoints" in entries else (),
        syslog=entries["syslog"].path(base) if "syslog" in entries else None,
        exports=_exports(entries["exports"], base) if "exports" in entries else (),
        kept=_kept(entries.get("retention"), entries.get("minimum_retention")),
        alerts=tuple(_alert(one, base) for one in entries["alerts"].items()) if "alerts" in entries else (),
    )


def _kept(item: Field | None, minimum: Field | None) -> dict[str, timedelta]:
    least = _LEAST if minimum is None else _days(minimum)
    entries = {} if item is None else item.mapping(CLASSES)
    kept = dict.fromkeys(CLASSES, _KEPT) | {name: _days(entry) for name, entry in entries.items()}
    for name, duration in kept.items():
        if duration < least:
            place = entries.get(name, minimum)
            assert place is not None  # what is kept by default is longer than the least by default
            place.fail(
                f"records of the class `{name}` would be kept for {duration.days} days, "
                f"expected at least the {least.days} of `minimum_retention`"
            )
    return kept


def _days(item: Field) -> timedelta:
    found = item.duration()
    if found.days < 1 or found != timedelta(days=found.days):
        item.expected("whole days such as `400d`")
    return found


def _alert(item: Field, base: Path) -> Alert:
    entries = item.mapping(["webhook", "secret", "ca", "syslog"])
    if "syslog" in entries:
        if len(entries) > 1:
            item.fail("expected either `syslog` alone, or `webhook` with `secret` and `ca`")
        return SyslogAlert(entries["syslog"].path(base))
    field = item.need(entries, "webhook", "an address such as `https://alerts.example.com/remit`, or `syslog`")
    parts = web_address.read(field, "an address such as `https://alerts.example.com/remit`")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        field.fail("an alert in plaintext could be read and held back on its way, expected `https`")
    secret = item.need(entries, "secret", "the path of a file with the secret that signs alerts").path(base)
    return WebhookAlert(field.text(), secret, entries["ca"].path(base) if "ca" in entries else None)


def _exports(item: Field, base: Path) -> tuple[Export, ...]:
    found: list[Export] = []
    for one in item.items():
        made = _export(one, base)
        if made in found:
            one.fail("stands there twice, expected each place once")
        found.append(made)
    return tuple(found)


def _export(item: Field, base: Path) -> Export:
    entries = item.mapping(["file", "syslog", "ca", "certificate", "key"])
    if "file" in entries:
        if len(entries) > 1:
            item.fail("expected either `file` alone, or `syslog` with `ca`, `certificate` and `key`")
        return FileExport(entries["file"].path(base))
    address = listeners.address(item.need(entries, "syslog", "host:port of a syslog server with TLS, or `file`"))
    if ("certificate" in entries) != ("key" in entries):
        item.fail("expected `certificate` and `key` together")
    ca, certificate, key = (
        entries[name].path(base) if name in entries else None for name in ("ca", "certificate", "key")
    )
    return SyslogExport(address, ca, certificate, key)
