"""What `listen` of `remit.yaml` says: where the service listens, and under which certificates.

Only values and their reading; listening is `service.api.server`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from connectors.yaml_file import Field

_LONGEST_DRAIN: Final = timedelta(minutes=5)
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
    """PEM files of a certificate chain and its private key, and of the authorities of client certificates.

    client_ca: None unless there is a listener that asks for client certificates.
    place: where it stands, for an error about it.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    place: str = field(default="listen.tls", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Listen:
    """The listeners. tls: None only where all are on loopback and plaintext was asked for.

    services: for service accounts, which prove themselves by a client certificate; None: there is no such listener.
    drain: how long health says NOT_SERVING and calls are still answered before listening ends.
    """

    callers: Address
    administrators: Address
    tls: Tls | None
    services: Address | None = None
    drain: timedelta = timedelta(0)


def read(item: Field, base: Path) -> Listen:
    """Read the mapping. Raises YamlFileError."""
    entries = item.mapping(["callers", "administrators", "services", "insecure_loopback", "tls", "drain"])
    places = {name: item.need(entries, name, "host:port") for name in ("callers", "administrators")}
    if "services" in entries:
        places["services"] = entries["services"]
    addresses: dict[str, Address] = {}
    for name, place in places.items():
        found = address(place)
        if found.port != 0 and found in addresses.values():
            other = next(other for other, address in addresses.items() if address == found)
            place.fail(f"expected another address than that of the {other}, found `{found}`")
        addresses[name] = found
    drain = entries["drain"].duration() if "drain" in entries else timedelta(0)
    if drain > _LONGEST_DRAIN:
        entries["drain"].expected("at most `5m`")
    insecure = "insecure_loopback" in entries and entries["insecure_loopback"].flag()
    if "tls" in entries:
        if insecure:
            entries["insecure_loopback"].fail("stands beside `tls`, expected only one of them")
        tls = _tls(entries["tls"], base, services=entries.get("services"))
        return Listen(addresses["callers"], addresses["administrators"], tls, addresses.get("services"), drain)
    if "services" in places:
        places["services"].fail("asks for client certificates, expected `tls` with `client_ca` beside it")
    if not insecure:
        item.fail(
            "`tls` is missing, expected `tls: {certificate: …, key: …}`, or `insecure_loopback: true` on loopback"
        )
    for name, place in places.items():
        if not addresses[name].is_loopback:
            place.fail(f"expected a loopback address such as `127.0.0.1:7420` without TLS, found `{addresses[name]}`")
    return Listen(addresses["callers"], addresses["administrators"], None, drain=drain)


def _tls(item: Field, base: Path, services: Field | None) -> Tls:
    entries = item.mapping(["certificate", "key", "client_ca"])
    certificate, key = (item.need(entries, name, "a path").path(base) for name in ("certificate", "key"))
    if services is not None and "client_ca" not in entries:
        item.fail("`client_ca` is missing, expected the authorities whose client certificates `services` accepts")
    if services is None and "client_ca" in entries:
        entries["client_ca"].fail("is for `listen.services`, which is missing")
    client_ca = entries["client_ca"].path(base) if "client_ca" in entries else None
    return Tls(certificate, key, client_ca, f"{item.file}:{item.line}: {item.key}")


def address(item: Field) -> Address:
    """Read host:port. Raises YamlFileError."""
    found = _ADDRESS.fullmatch(item.text("host:port"))
    if found is None or int(found["port"]) > 65535:
        item.expected("host:port")
    if found["six"] is not None:
        try:
            ipaddress.IPv6Address(found["six"])
        except ValueError:
            item.expected("host:port")
    return Address(found["six"] or found["host"], int(found["port"]))
