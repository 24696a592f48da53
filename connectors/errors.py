"""What can go wrong with a source, by what the sync does about it."""

from __future__ import annotations

from datetime import timedelta


class ConnectorError(Exception):
    """Root. `detail` is for people: what was wrong, where, what to do."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class RetriableError(ConnectorError):
    """The run fails now and may succeed later; nothing is deleted. Example: the mount is gone.

    retry_after: how long the source asked to be left alone, as by `Retry-After`; None when it did not.
    """

    def __init__(self, detail: str, retry_after: timedelta | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class FatalError(ConnectorError):
    """The run cannot succeed until a person acts. Example: the root is another folder than it was."""


class SkippableError(ConnectorError):
    """One document is left out, the run goes on.

    reason: a constant word for reports, such as `changed`, `unreadable`, `vanished`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
