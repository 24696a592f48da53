"""What the service rests on, and which of its services cannot be trusted to answer while some of that is not well.

Only the table is here; `service.api.health` asks it again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

Failure = Callable[[], str | None]
"""Says why something is not well, None while it is."""


class Failing(Protocol):
    """Something that knows whether it is well."""

    @property
    def failure(self) -> str | None:
        """Why it is not, None while it is."""


def of(one: Failing) -> Failure:
    """What asks one thing whether it is well."""
    return lambda: one.failure


DIRECTORY: Final = "directory/"
"""What stands before a directory's name in the health service."""

_DECIDING = ("remit.v1.RetrievalService", "remit.v1.AccessService", "remit.v1.ReviewService")


def parts(
    *,
    audit: Failure,
    issuers: Failure,
    keys: Failure,
    indexes: Iterable[Failure],
    directories: Mapping[str, Failure],
    proving: Iterable[Failure],
) -> dict[str, Failure]:
    """Return for every service, and everything that it rests on, what says why it is not well.

    directories: why each does not answer. proving: why nobody can be resolved in those in which issuers find whom a
    credential proves: then their people are answered nothing; another directory only withholds what names its realms.
    """
    own = tuple(proving)
    found: dict[str, Failure] = {
        "audit": audit,
        "issuers": issuers,
        "keys": keys,
        "index": _first(indexes),
        **{f"{DIRECTORY}{name}": failure for name, failure in directories.items()},
        "remit.v1.CustodyService": keys,
    }
    for service in _DECIDING:
        found[service] = _first(own)
    found["remit.v1.RetrievalService"] = _first([*own, found["index"]])
    return found


def _first(failures: Iterable[Failure]) -> Failure:
    """The first thing that is wrong."""
    listed = tuple(failures)
    return lambda: next((why for one in listed if (why := one()) is not None), None)
