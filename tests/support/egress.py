"""Whom a process and its children speak with, as the kernel saw it: `connect` and `send…`, traced by strace.

Run in a network namespace of its own with loopback alone, so that what tries to leave neither gets out nor waits.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from tests.support.needs import need

_CALL: Final = re.compile(r"\b(connect|sendto|sendmsg|sendmmsg)\(")
_INET: Final = re.compile(r'sa_family=AF_INET, sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)')
_INET6: Final = re.compile(r'sa_family=AF_INET6, sin6_port=htons\((\d+)\)[^}]*?inet_pton\(AF_INET6, "([^"]+)"')
_UNIX: Final = re.compile(r'sa_family=AF_UNIX, sun_path=(@?"[^"]*")')
_FAMILY: Final = re.compile(r"sa_family=(AF_\w+|0x[0-9a-f]+|\d+)")
# Neither leaves the machine: the kernel itself, and the end of an association.
_NOBODY: Final = frozenset({"AF_NETLINK", "AF_UNSPEC"})

_LOOPBACK_UP: Final = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True, order=True)
class Peer:
    """Somebody who was spoken to. where: `address:port`, or a path of this machine. call: how."""

    where: str
    call: str


def trace(
    command: list[str], folder: Path, environment: Mapping[str, str], timeout_s: float
) -> tuple[subprocess.CompletedProcess[str], frozenset[Peer]]:
    """Run a command with loopback alone and return what it and all its children spoke with. Skips without the tools."""
    need(os.geteuid() == 0, "a network namespace takes root")
    need(shutil.which("strace") is not None, "strace is missing: run deploy/test-deps.sh")
    need(shutil.which("unshare") is not None, "unshare is missing: run deploy/test-deps.sh")
    log = folder / "calls"
    traced = ["strace", "-f", "-qq", "-s", "0", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _LOOPBACK_UP, *traced, "-o", str(log), *command],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert log.exists(), done.stderr
    return done, frozenset(peers(log.read_text(errors="replace").splitlines()))


def peers(lines: Iterable[str]) -> Iterable[Peer]:
    """Read a trace. A family that is not known is a peer too: nothing is left out because it looks strange."""
    for line in lines:
        call = _CALL.search(line)
        if call is None:
            continue
        for port, address in (*_INET.findall(line), *_INET6.findall(line)):
            yield Peer(f"{_plain(address)}:{port}", call[1])
        for path in _UNIX.findall(line):
            yield Peer(path.replace('"', ""), call[1])
        for family in _FAMILY.findall(line):
            if family not in {*_NOBODY, "AF_INET", "AF_INET6", "AF_UNIX"}:
                yield Peer(family, call[1])


def _plain(text: str) -> str:
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
