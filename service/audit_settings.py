"""The section `audit` of the settings: what records hold, and where copies of the log and its checkpoints go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from connectors.yaml_file import Field
from service import listeners
from service.listeners import Address


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
class AuditSettings:
    """The audit log. keep_queries: records hold the texts of queries, sealed.

    checkpoints: files to which every signed checkpoint is appended; syslog: the socket that gets them, or None.
    exports: where every record goes as an event.
    """

    keep_queries: bool = True
    checkpoints: tuple[Path, ...] = ()
    syslog: Path | None = None
    exports: tuple[Export, ...] = ()


def read(item: Field, base: Path) -> AuditSettings:
    """Read the section. Raises YamlFileError with the line."""
    entries = item.mapping(["query_text", "checkpoints", "syslog", "exports"])
    kept = "query_text" not in entries or entries["query_text"].choice(["sealed", "none"]) == "sealed"
    return AuditSettings(
        keep_queries=kept,
        checkpoints=tuple(one.path(base) for one in entries["checkpoints"].items()) if "checkpoints" in entries else (),
        syslog=entries["syslog"].path(base) if "syslog" in entries else None,
        exports=_exports(entries["exports"], base) if "exports" in entries else (),
    )


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
