"""What `listen` of `remit.yaml` says: where the service listens, and under which certificates.

Only values and their reading; listening is `service.api.server`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connectors.yaml_file import Field

_ADDRESS: Final = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. port: 0 lets the system choose one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True for a loopback address; a host name is none, whatever it resolves to."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a certificate chain and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Listen:
    """The two listeners. tls: None only where both are on loopback and plaintext was asked for."""

    callers: Address
    administrators: Address
    tls: Tls | None


def read(item: Field, base: Path) -> Listen:
    """Read the mapping. Raises YamlFileError."""
    entries = item.mapping(["callers", "administrators", "insecure_loopback", "tls"])
    places = {name: item.need(entries, name, "host:port") for name in ("callers", "administrators")}
    callers, administrators = (_address(place) for place in places.values())
    if callers == administrators and callers.port != 0:
        places["administrators"].fail(f"expected another address than that of the callers, found `{administrators}`")
    insecure = "insecure_loopback" in entries and entries["insecure_loopback"].flag()
    if "tls" in entries:
        if insecure:
            entries["insecure_loopback"].fail("stands beside `tls`, expected only one of them")
        pair = entries["tls"].mapping(["certificate", "key"])
        certificate, key = (entries["tls"].need(pair, name, "a path").path(base) for name in ("certificate", "key"))
        return Listen(callers, administrators, Tls(certificate, key))
    if not insecure:
        item.fail(
            "`tls` is missing, expected `tls: {certificate: …, key: …}`, or `insecure_loopback: true` on loopback"
        )
    for place, address in zip(places.values(), (callers, administrators), strict=True):
        if not address.is_loopback:
            place.fail(f"expected a loopback address such as `127.0.0.1:7420` without TLS, found `{address}`")
    return Listen(callers, administrators, None)


def _address(item: Field) -> Address:
    found = _ADDRESS.fullmatch(item.text("host:port"))
    if found is None or int(found["port"]) > 65535:
        item.expected("host:port")
    if found["six"] is not None:
        try:
            ipaddress.IPv6Address(found["six"])
        except ValueError:
            item.expected("host:port")
    return Address(found["six"] or found["host"], int(found["port"]))
