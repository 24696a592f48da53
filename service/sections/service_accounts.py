"""What `service_accounts` of `remit.yaml` says: which client certificates are which accounts.

A service account is an account of a directory like any other: it holds what its groups give it, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from acl.principal import Principal
from connectors.yaml_file import Field

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_SAN: Final = re.compile(r"(?P<uri>[a-z][a-z0-9+.-]*://[!-~]{1,500})|(?P<dns>[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+)")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """One service account.

    san: a URI or DNS name that its certificate has; empty when `fingerprint` says which certificate it is.
    fingerprint: the SHA-256 of the certificate in DER, in lower-case hexadecimal; empty when `san` does.
    attribute, value: the immutable attribute by which its account in `directory` is found.
    acts_for: it may name a person of `directory`, by `attribute`, who holds one of these; empty: nobody.
    """

    name: str
    san: str
    fingerprint: str
    directory: str
    attribute: str
    value: str
    acts_for: frozenset[Principal] = frozenset()


def read(
    item: Field, attributes: Mapping[str, Collection[str]], bound: Callable[[Field], Principal]
) -> tuple[ServiceAccount, ...]:
    """Read the list. attributes: as for `issuers.read`. bound: reads a group as roles name it. Raises YamlFileError."""
    found: dict[str, ServiceAccount] = {}
    certificates: set[str] = set()
    for one in item.items():
        entries = one.mapping(["name", "san", "fingerprint", "directory", "attribute", "value", "acts_for"])
        name = one.need(entries, "name", "a name").text("a name of lower-case letters, digits, `-`, `_`, `.`", _NAME)
        if name in found:
            entries["name"].fail(f"`{name}` is listed twice")
        if ("san" in entries) == ("fingerprint" in entries):
            one.fail("expected either `san` or `fingerprint`, which says which certificate is this account's")
        place = entries["san" if "san" in entries else "fingerprint"]
        if "san" in entries:
            proof = place.text("a URI such as `spiffe://corp.example/app`, or a DNS name", _SAN)
        else:
            proof = place.text("the SHA-256 of the certificate in DER, 64 lower-case hexadecimal digits", _FINGERPRINT)
        if proof in certificates:
            place.fail(f"`{proof}` is another service account already")
        certificates.add(proof)
        directory = one.need(entries, "directory", "the directory of its account").text()
        if directory not in attributes:
            entries["directory"].expected("one of the directories " + ", ".join(f"`{name}`" for name in attributes))
        attribute = one.need(entries, "attribute", "an immutable attribute of its account").text()
        if attribute not in attributes[directory]:
            entries["attribute"].expected("one of " + ", ".join(f"`{name}`" for name in attributes[directory]))
        value = one.need(entries, "value", "the value of that attribute").label()
        found[name] = ServiceAccount(
            name=name,
            san=proof if "san" in entries else "",
            fingerprint=proof if "fingerprint" in entries else "",
            directory=directory,
            attribute=attribute,
            value=value,
            acts_for=_groups(entries["acts_for"], bound) if "acts_for" in entries else frozenset(),
        )
    return tuple(found.values())


def _groups(item: Field, bound: Callable[[Field], Principal]) -> frozenset[Principal]:
    found = frozenset(bound(group) for group in item.items())
    if not found:
        item.fail("expected at least one group, found none")
    return found
