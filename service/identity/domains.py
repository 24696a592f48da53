"""Whether a file server's domain is the directory's: groups that exist within one domain alone mean nothing elsewhere.

A domain-local group counts on the servers of its domain, and only that domain's directory knows who is in it. A rule of
another domain's server may deny a group of which the directory has never heard: nobody may read by such rules.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from connectors.base import Connector, DomainMember
from connectors.directories.base import Directory, DirectoryUnavailableError, Domain
from connectors.errors import FatalError

log = structlog.get_logger()


def require_domain(connector: Connector, directories: Iterable[Directory]) -> Connector:
    """Return the connector. Closes it and raises FatalError when its server is of another domain than every directory.

    A directory that does not answer is not compared: nobody is resolved by it either.
    """
    if not isinstance(connector, DomainMember):
        return connector
    found: dict[str, str] = {}
    for directory in directories:
        if not isinstance(directory, Domain):
            continue
        try:
            found[directory.name] = directory.domain_sid()
        except DirectoryUnavailableError as err:
            log.warning("directory_unavailable", directory=directory.name, detail=err.detail)
            return connector
    if connector.domain_sid in found.values():
        return connector
    if found:
        known = ", ".join(f"`{name}` is of {sid}" for name, sid in found.items())
        why = f"directory {known}: configure the directory of the server's domain"
    else:
        why = "there is no directory of kind `active_directory`, which could say who is in its groups"
    connector.close()
    raise FatalError(f"`domain_sid`: the server is of the domain {connector.domain_sid}, and {why}")
