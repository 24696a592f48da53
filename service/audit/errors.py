"""The errors of the audit log beside AuditUnavailableError of `service.errors`."""

from __future__ import annotations

from service.errors import StartError, UnavailableError


class AuditTamperedError(StartError):
    """The log is not what was signed; nothing may be served from it.

    index: the first record that is wrong, counted from 0, or None when it is not one record.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class RecordError(ValueError):
    """A record holds what has no canonical form here: a float, a null, a number beyond 2^53, or broken text."""


class IndexBehindError(UnavailableError):
    """The index over the log cannot be asked now: it is being built, or its file cannot be used."""
