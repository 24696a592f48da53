"""The running kernel judges the POSIX dialect."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from acl.decide import Allowed, decide
from acl.dialects.posix import directory_clause, file_clause
from acl.model import Acl, Caller, Clause, Scope, ScopeId, Unknown
from acl.principal import Principal, Realm
from tests.acl.posix_acls import acl
from tests.strategies import FAR, START
from tests.support.needs import need

_POSIX = Realm("posix:corp")
_XATTR = "system.posix_acl_access"
_UIDS = [30001, 30002, 30003, 30004]
_GIDS = [40001, 40002, 40003, 40004]
_PAIRS = 5_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root's that takes ACLs."""
    need(os.geteuid() == 0, "the kernel can be asked about other users only by root: run the oracles as root")
    with tempfile.TemporaryDirectory() as name:
        probe = Path(name, "probe")
        probe.touch()
        with ExitStack() as stack:
            stack.callback(probe.unlink)
            try:
                os.setxattr(probe, _XATTR, acl(6, 4, 0, users=[(1, 4)], mask=4))
            except OSError:
                need(False, f"the file system of {name} takes no POSIX ACLs: set TMPDIR to one that does")
        Path(name).chmod(0o755)
        yield Path(name)


def _dress(path: Path, pick: random.Random) -> None:
    os.chown(path, pick.choice(_UIDS), pick.choice(_GIDS))
    bits = [pick.choice([0, 1, 4, 5, 5, 7]) for _ in range(3)]
    path.chmod(bits[0] << 6 | bits[1] << 3 | bits[2])
    if pick.random() < 0.75:
        users = [(uid, pick.choice([0, 1, 4, 5, 7])) for uid in _UIDS if pick.random() < 0.4]
        groups = [(gid, pick.choice([0, 1, 4, 5, 7])) for gid in _GIDS if pick.random() < 0.4]
        mask = pick.choice([0, 0, 1, 4, 5, 7, 2])
        os.setxattr(path, _XATTR, acl(*bits, users=users, groups=groups, mask=mask))
        if pick.random() < 0.1:
            # Changes the mask behind the ACL's back.
            path.chmod(pick.choice([0o700, 0o750, 0o707, 0o775, 0o020]))


def _clause(path: Path, *, directory: bool) -> Clause:
    stat = path.stat()
    try:
        entries = os.getxattr(path, _XATTR)
    except OSError:
        entries = None
    found = (directory_clause if directory else file_clause)(stat.st_mode, stat.st_uid, stat.st_gid, entries, "corp")
    assert not isinstance(found, Unknown)
    return found


@pytest.mark.oracle
def test_decisions_equal_the_kernels(folder: Path) -> None:
    """For 5,000 random pairs of a folder and a file in it, every user opens exactly what the dialect says."""
    pick = random.Random(20261122)
    users = [
        (uid, pick.choice(_GIDS), [gid for gid in _GIDS if pick.random() < 0.35])
        for uid in (*_UIDS, 30005)
        for _ in range(3)
    ]
    acls, paths = [], []
    for number in range(_PAIRS // 4):
        outer = folder / f"d{number}"
        outer.mkdir()
        _dress(outer, pick)
        scope = Scope(ScopeId(outer.name), None, _clause(outer, directory=True))
        for name in "abcd":
            file = outer / name
            file.touch()
            _dress(file, pick)
            acls.append(Acl(scope, _clause(file, directory=False)))
            paths.append(f"{outer.name}/{name}")

    judge = Path(__file__).with_name("kernel_judge.py")
    answers = subprocess.run(
        [sys.executable, "-I", str(judge)],
        input=json.dumps([paths, users]).encode(),
        capture_output=True,
        check=True,
        cwd=folder,
        timeout=100,
    ).stdout

    assert len(answers) == len(users) * len(paths)
    assert answers.count(1) > len(answers) // 20
    expected = iter(answers)
    for uid, gid, groups in users:
        held = [f"uid-{uid}", *(f"gid-{number}" for number in {gid, *groups}), "other"]
        principals = frozenset(Principal(_POSIX, name) for name in held)
        caller = Caller("u", principals, frozenset({_POSIX}), START, FAR)
        for path, access in zip(paths, acls, strict=True):
            allowed = isinstance(decide(access, caller, START + timedelta(1)), Allowed)
            assert allowed is bool(next(expected)), (path, uid, gid, groups, access)
