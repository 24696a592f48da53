"""Starts what the settings ask for beside the audit log: checkpoints to places outside, records to SIEMs, alerts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from service import alerts
from service.audit.anchor import Anchor, Anchors, FileAnchor, SyslogAnchor
from service.audit.forward import FileSink, Forwarder, Sink, SyslogSink
from service.audit.log import AuditLog
from service.audit.reading import AuditReader
from service.sections.audit import AuditSettings, Export, FileExport


def start(
    log: AuditLog, reader: AuditReader, folder: Path, settings: AuditSettings, version: str
) -> Callable[[], None]:
    """Begin, and return what ends it. folder: where it is remembered how far each place was served."""
    with ExitStack() as closing:
        anchors: list[Anchor] = [FileAnchor(path) for path in settings.checkpoints]
        if settings.syslog is not None:
            anchors.append(SyslogAnchor(settings.syslog))
        if anchors:
            closing.callback(Anchors(log, anchors).close)
        for export in settings.exports:
            sink = _sink(export)
            position = folder / f"exported-{hashlib.sha256(sink.name.encode()).hexdigest()[:16]}"
            origin = log.checkpoint.origin
            closing.callback(Forwarder(reader, sink, position, origin=origin, version=version).close)
        for place in alerts.places(settings.alerts):
            position = folder / f"alerted-{hashlib.sha256(place.address.encode()).hexdigest()[:16]}"
            closing.callback(alerts.Alerter(log, place, position).close)
        return closing.pop_all().close


def _sink(export: Export) -> Sink:
    if isinstance(export, FileExport):
        return FileSink(export.path)
    address = export.address
    return SyslogSink(address.host, address.port, export.ca, export.certificate, export.key)
