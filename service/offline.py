"""Commands that work on the data folder while no service does: the audit log has a record of each, before it begins and
after it ended, with who ran it on this machine. Without the first nothing is done.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from service import audit_keys
from service.audit import AuditKey, AuditLog, Kind, Record, record
from service.keys import KeyStore
from service.stores.folder import DataFolder


def command_record(command: str, outcome: str, **facts: object) -> Record:
    """The record of a command. outcome: `begun`, `done`, or what it failed by."""
    return record(Kind.ADMIN, {"event": "command", "command": command, "outcome": outcome, **who(), **facts})


def who() -> dict[str, object]:
    """Who runs this process, and through whose hands: `sudo` says it, and it is worth what that is worth."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    found: dict[str, object] = {"os_uid": uid, "os_user": name}
    if os.environ.get("SUDO_UID", "").isdecimal():
        found["sudo_uid"] = int(os.environ["SUDO_UID"][:10])
    return found


@contextmanager
def recorded(folder: DataFolder, keys: KeyStore, key: AuditKey, command: str) -> Iterator[AuditLog]:
    """Do a command within. Raises StartError when the log cannot be opened, AuditUnavailableError when written."""
    log = AuditLog(folder.audit, key.signer, audit_keys.bodies(keys, key), facts=who())
    try:
        log.append_blocking(command_record(command, "begun"))
        try:
            yield log
        except BaseException as err:
            log.append_blocking(command_record(command, type(err).__name__))
            raise
        log.append_blocking(command_record(command, "done"))
    finally:
        log.close()
