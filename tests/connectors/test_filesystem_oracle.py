"""The connector's ACLs against the running kernel, over random trees with real ACLs. Needs root to be other users."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acl.decide import Allowed, decide
from acl.model import Caller, Unknown
from connectors.directories.base import Resolution
from connectors.directories.static import StaticDirectory
from tests.acl import posix_acls
from tests.connectors import trees
from tests.connectors.trees import Seen, filesystem, walk
from tests.support.kernel import Process, kernel_reads
from tests.support.needs import need

TREES = int(os.environ.get("REMIT_ORACLE_TREES", "4"))
UIDS = range(20001, 20009)
GIDS = range(20101, 20107)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def _people(random_: random.Random) -> str:
    """Users over nested groups, some in circles."""
    lines = ["version: 1", "id_domain: corp", "users:"]
    for uid in UIDS:
        groups = random_.sample([f"g{gid}" for gid in GIDS], random_.randrange(3))
        lines.append(f"  - {{id: u{uid}, name: n{uid}, uid: {uid}, gid: {random_.choice(GIDS)}, groups: {groups}}}")
    lines.append("groups:")
    for gid in GIDS:
        outer = random_.sample([f"g{other}" for other in GIDS if other != gid], random_.randrange(2))
        lines.append(f"  - {{id: g{gid}, gid: {gid}, member_of: {outer}}}")
    return "\n".join(lines)


def _entries(random_: random.Random) -> list[posix_acls.Entry]:
    entries = [
        (tag, random_.randrange(8), posix_acls.NO_ID) for tag in (posix_acls.OWNER, posix_acls.GROUP, posix_acls.OTHER)
    ]
    # The mask is empty more often than by chance: the kernel has a rule of its own for that.
    entries.append((posix_acls.MASK, random_.choice([0, 0, 1, 4, 5, 5, 7, 7]), posix_acls.NO_ID))
    entries += [(posix_acls.USER, random_.randrange(8), uid) for uid in random_.sample(UIDS, random_.randrange(4))]
    entries += [
        (posix_acls.NAMED_GROUP, random_.randrange(8), gid) for gid in random_.sample(GIDS, random_.randrange(4))
    ]
    return entries


def _protect(path: Path, random_: random.Random, *, folder: bool) -> None:
    """Random owner, group and rules; folders are mostly open, or nothing deep would ever be readable."""
    os.chown(path, random_.choice(UIDS), random_.choice(GIDS))
    if folder and random_.random() < 0.7:
        path.chmod(0o711 | random_.choice([0, 0o044]))
    elif random_.random() < 0.5:
        path.chmod(random_.randrange(0o1000))
    else:
        trees.set_acl(path, _entries(random_))


def _grow(base: Path, random_: random.Random) -> None:
    """A tree with rules on everything; set from the leaves up, as root."""
    folders = [base]
    for number in range(60):
        folder = random_.choice(folders) / f"d{number}"
        folder.mkdir()
        folders.append(folder)
    for number in range(300):
        file = random_.choice(folders) / f"f{number}"
        if number % 10 == 9:
            others = [path for path in base.rglob("f*") if path.is_file()]
            os.link(random_.choice(others), file)
            continue
        file.write_bytes(b"x")
        _protect(file, random_, folder=False)
    for folder in folders:
        _protect(folder, random_, folder=True)
    base.chmod(0o755)


def _caller(found: Resolution) -> Caller:
    return Caller(found.account_id, found.principals, found.complete, AT, AT + timedelta(hours=1))


def _process(found: Resolution, uid: int) -> Process:
    gids = sorted(int(p.id.removeprefix("gid-")) for p in found.principals if p.id.startswith("gid-"))
    return Process(uid, gids[0], tuple(gids))


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(TREES))
def test_decisions_are_the_kernels(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """For every pair of user and file, `decide` over what the connector sent says what `open` does."""
    need(os.geteuid() == 0, "becoming other users needs root: run `sudo make test`")
    random_ = random.Random(seed)
    with trees.open_tree() as base:
        root = base / "above" / "root"
        root.mkdir(parents=True)
        _grow(root, random_)
        _protect(base / "above", random_, folder=True)
        (base / "above").chmod(0o755 if seed else 0o700)
        people = tmp_path_factory.mktemp("people") / "people.yaml"
        people.write_text(_people(random_))
        directory = StaticDirectory("people", people)
        resolutions = {uid: directory.resolve("uid", str(uid)) for uid in UIDS}

        seen = walk(filesystem(root, ancestors_above_root="enforce"))
        locations = sorted(seen.documents)
        judged = kernel_reads(
            [_process(found, uid) for uid, found in resolutions.items()], [root / location for location in locations]
        )

        assert len(locations) == 300
        differences, readable = _compare(seen, locations, list(resolutions.values()), judged)
        assert differences == []
        assert seed == 0 or 0 < readable < 2400, "the tree proves nothing"


def _compare(
    seen: Seen, locations: list[str], callers: list[Resolution], judged: list[list[bool]]
) -> tuple[list[str], int]:
    differences: list[str] = []
    readable = 0
    acls = {location: seen.acl(location) for location in locations}
    assert not any(isinstance(acl, Unknown) for acl in acls.values())
    for found, answers in zip(callers, judged, strict=True):
        for location, kernel in zip(locations, answers, strict=True):
            readable += kernel
            if isinstance(decide(acls[location], _caller(found), AT), Allowed) is not kernel:
                differences.append(f"{found.account_id} {location}: the kernel says {kernel}")
    return differences, readable
