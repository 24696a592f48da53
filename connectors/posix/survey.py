"""What `remit source check` says about a tree: whether it can be a source, who looks, and what stays unseen.

Stores nothing and reads no content. Folders are looked at up to a limit, so that a check stays quick.
"""

from __future__ import annotations

import errno
import os
import pwd
from itertools import islice
from pathlib import Path
from typing import Final

from connectors.base import Finding, Level, ScopeChange, Skip
from connectors.errors import ConnectorError
from connectors.posix.inode import ACL_XATTR
from connectors.posix.walk import Rules, Walk

_FOLDERS: Final = 1000
_ENTRIES: Final = 50_000
_EXAMPLES: Final = 3


def check(root: Path, rules: Rules) -> list[Finding]:
    """Return the findings; the last ones are about cost. Does not raise for what it can report."""
    findings = [Finding(Level.INFO, f"`{root}` is read as {_whoami()}")]
    walk = Walk(root, rules)
    folders = documents = looked_at = 0
    unseen: dict[str, list[str]] = {}
    cut = False
    try:
        for item in islice(walk.run(), _ENTRIES):
            looked_at += 1
            match item:
                case ScopeChange():
                    folders += 1
                case Skip(reason=reason, location=location):
                    unseen.setdefault(reason, []).append(location)
                case _:
                    documents += 1
            if folders >= _FOLDERS:
                break
        cut = looked_at == _ENTRIES or folders >= _FOLDERS
    except ConnectorError as err:
        return [*findings, Finding(Level.ERROR, err.detail)]
    findings.append(_acls(root))
    if rules.trust_foreign:
        text = "`foreign_permissions: trust`: mode bits and ACLs are believed also where a server decides"
        findings.append(Finding(Level.WARNING, text))
    if not rules.enforce:
        findings.append(Finding(Level.INFO, "folders above the root do not count (`ancestors_above_root: trust`)"))
    findings.extend(_left_out(reason, locations) for reason, locations in sorted(unseen.items()))
    seen = f"the first {folders} folders hold" if cut else f"{folders} folders hold"
    findings.append(
        Finding(Level.INFO, f"{seen} {documents} files; a run asks for the status and the ACL of every file")
    )
    return findings


def _left_out(reason: str, locations: list[str]) -> Finding:
    """How often something is left out, and where. Unreadable folders need a person; symlinks do not."""
    level = Level.INFO if reason in ("symlink", "special file") else Level.WARNING
    examples = ", ".join(f"`{location}`" for location in locations[:_EXAMPLES])
    more = f" and {len(locations) - _EXAMPLES} more" if len(locations) > _EXAMPLES else ""
    return Finding(level, f"{reason}: {examples}{more}")


def _acls(root: Path) -> Finding:
    try:
        os.getxattr(root, ACL_XATTR)
    except OSError as err:
        if err.errno == errno.ENOTSUP:
            return Finding(Level.WARNING, f"the file system of `{root}` has no POSIX ACLs: only mode bits count")
        if err.errno != errno.ENODATA:
            return Finding(Level.ERROR, f"the ACL of `{root}` cannot be read: {err.strerror}")
    return Finding(Level.INFO, f"the file system of `{root}` has POSIX ACLs")


def _whoami() -> str:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
    return f"`{name}` (uid {uid})"
