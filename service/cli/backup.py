"""`remit backup` and `remit restore`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.connect import As, Json, Token, context
from service.cli.screen import out, print_json
from service.files import lock_file

if TYPE_CHECKING:
    from service.settings import Settings
    from service.upkeep.backup import Made

Keys = Annotated[
    Path, typer.Option("--keys", help="A new folder for the keys, kept apart from the content.", show_default=False)
]


def backup(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A new folder for the content: catalog and audit log.")],
    keys: Keys,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Back up content and keys, while the service goes on (role `key-admin`) or while it is stopped.

    Both folders lie below those that `backup` in the settings names, which is `backups` beside `remit.yaml` by default.

    Not in it: the key-encryption key, the key of the audit log, settings and directories; and the index, which the
    first start builds anew.
    """
    found = context(ctx)
    content, keys = folder.absolute(), keys.absolute()
    if found.address or lock_file.is_held(found.settings.data / "lock"):
        with found.admin(token, person) as admin:
            made = admin.create_backup(str(content), str(keys))
        backup_id, files, size = made.backup_id, made.files, made.size_bytes
    else:
        local = _alone(found.settings, content, keys)
        backup_id, files, size = local.backup_id, local.files, local.size_bytes
    if json:
        print_json({"backup_id": backup_id, "folder": content, "keys_folder": keys, "files": files, "size_bytes": size})
    else:
        out.print(f"backup {backup_id}: {files} files, {size:,} bytes in {content} and {keys}", markup=False)


def _alone(settings: Settings, folder: Path, keys_folder: Path) -> Made:
    """Back up a data folder that nobody has open; the audit log gets its record."""
    from contextlib import ExitStack

    from service import offline
    from service.audit import AuditKey
    from service.errors import StartError
    from service.keys import Custody, open_provider
    from service.stores.catalog import open_stores
    from service.stores.folder import open_folder
    from service.upkeep.backup import Backups

    if not (settings.data / "catalog.sqlite").exists():
        raise StartError(f"there is nothing to back up in `{settings.data}`")
    provider, audit_key = open_provider(settings.keys), AuditKey.load(settings.keys.audit)
    with ExitStack() as closing:
        closing.callback(provider.close)
        data = open_folder(settings.data)
        closing.callback(data.close)
        store, catalog = open_stores(data, settings.keys.store, provider, datetime.now(UTC))
        closing.callback(store.close)
        closing.callback(catalog.close)
        roots = (settings.backup.folder, settings.backup.keys_folder)
        audit = closing.enter_context(offline.recorded(data, store, audit_key, "backup"))
        backups = Backups(data, settings.keys.store, Custody(store), lambda: datetime.now(UTC), roots)
        made = backups.create(folder, keys_folder)
        audit.append_blocking(offline.command_record("backup", "written", backup_id=made.backup_id))
    return made


def restore(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The backup of the content.")],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="The backup of the keys; else the key store that is there.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Put a backup back to where the settings say, checked in full before anything is in place. Overwrites nothing.

    With the key store that is there in place of its backup, what was shredded since the backup stays shredded.
    """
    from service.audit import AuditKey
    from service.keys import open_provider
    from service.upkeep import restore as work

    settings = context(ctx).settings
    done = work.restore(
        folder.absolute(),
        None if keys is None else keys.absolute(),
        data=settings.data,
        keystore=settings.keys.store,
        provider=open_provider(settings.keys),
        audit_key=AuditKey.load(settings.keys.audit),
        at=datetime.now(UTC),
    )
    if json:
        print_json(done)
    else:
        out.print(
            f"backup {done.backup_id} of {done.made_at} is restored; {done.records:,} records of the audit log verified"
        )
        out.print(
            "next: `remit serve`, which builds the index anew; a source is answered from after its next whole run"
        )
