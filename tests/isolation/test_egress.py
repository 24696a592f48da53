"""Nothing leaves that the settings do not name: every command, judged by the calls that the kernel saw."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.egress import Peer, peers, trace

ROOT = Path(__file__).parents[2]
NAMED = "127.0.0.1:6514"

EVIDENCE = "evidence at-rest"

EXPECTED = {
    "keys create": "exists already",
    "audit tail": 130,
    "canary clear": "does not exist",
    "source approve": "role `access-admin`",
    "source reject": "role `access-admin`",
    "prove revocation": "no document lies in",
}
"""Commands that end otherwise than well, and how: there is nothing to be done, or they go on until they are stopped."""


def environment(**more: str) -> dict[str, str]:
    """What the commands find; proxies are there to be ignored."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REMIT_")}
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"))
    paths = os.pathsep.join([*more.pop("path", "").split(), str(ROOT), str(ROOT / "client")])
    # Not offline by the environment: what the product sets itself has to do.
    kept.pop("HF_HUB_OFFLINE", None)
    return {**kept, **dict.fromkeys(proxies, "http://192.0.2.9:3128"), "PYTHONPATH": paths, "NAMED_PEER": NAMED, **more}


def strangers(found: Iterable[Peer], folder: Path, named: Iterable[str]) -> set[Peer]:
    """The peers that neither the settings name nor are files of the deployment."""
    own = str(folder)
    return {
        one
        for one in found
        if one.where not in set(named)
        and not one.where.startswith((own, "@"))
        # The C library asks whether a name cache runs, for users and groups; there is none, or it answers itself.
        and one.where != "/var/run/nscd/socket"
    }


def listeners(folder: Path) -> set[str]:
    """Where the settings say that the service listens."""
    return set(re.findall(r"^  (?:callers|administrators): (\S+:\d+)", (folder / "remit.yaml").read_text(), re.M))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_command_speaks_with_whom_the_settings_do_not_name(tmp_path: Path) -> None:
    """Sync, search and every command there is; the one that they name is met, and the judge tells both apart."""
    (tmp_path / "ca.pem").write_bytes(Authority().pem)
    command = [sys.executable, "-m", "tests.isolation.egress_session"]

    done, found = trace(command, tmp_path, environment(), 360)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:] + (tmp_path / "log").read_text()[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said["ended"]) | {EVIDENCE} == set(said["all"]), (
        "a command is missing in tests/isolation/egress_session.py"
    )
    for name, ends in said["ended"].items():
        expected = EXPECTED.get(name, 0)
        assert all(str(expected) in str(end) if expected else end == 0 for end in ends), (name, ends)
    named = listeners(tmp_path) | {NAMED}
    assert len(named) == 3
    assert {one.where for one in found} >= named, "the control: what the settings name was seen"
    assert not strangers(found, tmp_path, named)
    assert {one.where for one in strangers(found, tmp_path, named - {NAMED})} == {NAMED}


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_evidence_speaks_with_its_own_deployment_alone(tmp_path: Path) -> None:
    """It serves on ports that the system gives it, which are on this machine."""
    command = [sys.executable, "-m", "service.cli", *EVIDENCE.split()]

    done, found = trace(command, tmp_path, environment(TMPDIR=str(tmp_path)), 160)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    own = {one.where for one in found if one.where.startswith("127.0.0.1:") and one.where != "127.0.0.1:53"}
    assert 1 <= len(own) <= 2
    assert not strangers(found, tmp_path, own)


PLANTED = """
import socket
with socket.socket() as s:
    s.settimeout(0.1)
    try:
        s.connect(("192.0.2.7", 443))
    except OSError:
        pass
for family, address in ((socket.AF_INET, "192.0.2.53"), (socket.AF_INET6, "2001:db8::53")):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        try:
            s.sendto(b"x", (address, 53))
        except OSError:
            pass
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    try:
        s.connect("/run/elsewhere.sock")
    except OSError:
        pass
"""


def test_a_planted_peer_is_caught(tmp_path: Path) -> None:
    """The same judge over the same kind of command, in which something speaks to four strangers."""
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    command = [sys.executable, "-m", "service.cli", "init", "made"]

    done, found = trace(command, tmp_path, environment(path=str(tmp_path / "planted")), 60)

    assert done.returncode == 0, done.stderr
    assert strangers(found, tmp_path, [NAMED]) == {
        Peer("192.0.2.7:443", "connect"),
        Peer("192.0.2.53:53", "sendto"),
        Peer("2001:db8::53:53", "sendto"),
        Peer("/run/elsewhere.sock", "connect"),
    }
    clean, seen = trace([*command[:-1], "clean"], tmp_path, environment(), 60)
    assert clean.returncode == 0
    assert not strangers(seen, tmp_path, [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '7 connect(5, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.1")}, 16 <unfinished',
            {"192.0.2.1:443"},
        ),
        (
            "7 sendmsg(5, {msg_name={sa_family=AF_INET6, sin6_port=htons(53), sin6_flowinfo=htonl(0), "
            'inet_pton(AF_INET6, "::ffff:192.0.2.1", &sin6_addr), sin6_scope_id=0}, msg_namelen=28}, 0) = 1',
            {"192.0.2.1:53"},
        ),
        ("7 connect(3, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 0", set()),
        ("7 connect(3, {sa_family=AF_VSOCK, svm_cid=2, svm_port=1}, 16) = 0", {"AF_VSOCK"}),
        ('7 sendto(3, ""..., 12, 0, NULL, 0) = 12', set()),
        (
            "7 sendmmsg(3, [{msg_hdr={msg_name={sa_family=AF_INET, sin_port=htons(1), "
            'sin_addr=inet_addr("192.0.2.1")}, '
            "msg_namelen=16}}, {msg_hdr={msg_name={sa_family=AF_INET, sin_port=htons(2), "
            'sin_addr=inet_addr("192.0.2.2")}, msg_namelen=16}}], 2, 0) = 2',
            {"192.0.2.1:1", "192.0.2.2:2"},
        ),
    ],
)
def test_the_trace_is_read_in_full(line: str, expected: set[str]) -> None:
    """Unfinished calls, mapped addresses, several messages in one call, and families that nobody thought of."""
    assert {one.where for one in peers([line])} == expected
