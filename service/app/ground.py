"""What everything else stands on: the settings in force, keys, the data folder, the catalog and the audit log."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from connectors.directories.base import Directory, Watched
from service import audit_copies, audit_keys
from service.app.ahead import Ahead
from service.audit import AuditKey, AuditLog, AuditReader, Bodies
from service.audit.retention import Retention
from service.configuration import Configuration, Make
from service.embed.embedder import tokenizer_path
from service.identity import directories
from service.keys import open_provider
from service.keys.store import KeyStore
from service.keys.watch import KeyWatch
from service.sections import secret_options
from service.settings import Settings
from service.stores.catalog import Catalog, open_stores
from service.stores.folder import DataFolder, open_folder


@dataclass(frozen=True, slots=True)
class Ground:
    """What `open_ground` opened.

    directories: by name. tokenizer: the file that passages are measured with, None without a model.
    audit, records, retention: waited for when they are first asked for, because all records are verified before. They
    raise what opening the log raised.
    """

    configuration: Configuration
    directories: dict[str, Directory]
    key_watch: KeyWatch
    audit_key: AuditKey
    tokenizer: Path | None
    folder: DataFolder
    keys: KeyStore
    catalog: Catalog
    _audited: Ahead[tuple[AuditLog, AuditReader, Retention]]

    @property
    def audit(self) -> AuditLog:
        """The log."""
        return self._audited.get()[0]

    @property
    def records(self) -> AuditReader:
        """What reads it."""
        return self._audited.get()[1]

    @property
    def retention(self) -> Retention:
        """What lets its records expire."""
        return self._audited.get()[2]

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self.configuration.settings


def open_ground(settings: Settings, make: Make, closing: ExitStack) -> Ground:
    """Check every option, then open. Raises StartError: one sentence for people."""
    provider = open_provider(settings.keys)
    closing.callback(provider.close)

    def bound(new: Settings) -> Settings:
        return secret_options.bound(new, lambda: provider)

    configuration = Configuration(settings, make, bound)
    settings = configuration.settings
    for one in settings.sources:
        make(one, settings.base).close()
    opened = _directories(settings, closing)
    watch = KeyWatch(provider)
    watch.start()
    closing.callback(watch.close)
    audit_key = AuditKey.load(settings.keys.audit)
    tokenizer = tokenizer_path(settings.embedding)

    folder = open_folder(settings.data)
    closing.callback(folder.close)
    keys, catalog = open_stores(folder, settings.keys.store, provider, datetime.now(UTC))
    closing.callback(keys.close)
    closing.callback(catalog.close)
    bodies = audit_keys.bodies(keys, audit_key)
    audited = Ahead(lambda stack: _audit(settings, folder, bodies, audit_key, stack), closing)
    configuration.withhold(catalog.removals())
    for one in configuration.settings.sources:
        catalog.add_source(one.name, one.kind)
    return Ground(configuration, opened, watch, audit_key, tokenizer, folder, keys, catalog, audited)


def _directories(settings: Settings, closing: ExitStack) -> dict[str, Directory]:
    opened: dict[str, Directory] = {}
    for one in settings.directories:
        opened[one.name] = directory = directories.open_directory(one, settings.base)
        if isinstance(directory, Watched):
            closing.callback(directory.close)
    return opened


def _audit(
    settings: Settings, folder: DataFolder, bodies: Bodies, key: AuditKey, closing: ExitStack
) -> tuple[AuditLog, AuditReader, Retention]:
    kept = {kind: duration.days for kind, duration in settings.audit.kept.items()}
    facts: dict[str, object] = {
        "version": version("remit-server"),
        "settings_sha256": settings.sha256,
        "kept_days": kept,
    }
    log = AuditLog(folder.audit, key.signer, bodies, facts=facts)
    closing.callback(log.close)
    reader = AuditReader(log, folder.audit, key)
    reader.start()
    closing.callback(reader.close)
    retention = Retention(log, reader, settings.audit.kept)
    retention.start()
    closing.callback(retention.close)
    closing.callback(audit_copies.start(log, reader, folder.audit, settings.audit, version("remit-server")))
    return log, reader, retention
