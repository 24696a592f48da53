"""The errors of the service, one family for each way to recover. The wrapper in `service.api` turns them into statuses.

Messages are lower case, without secrets or document text, and are for the service's log: what a caller is told is
constant for each family (see `ErrorReason` in the API).
"""

from __future__ import annotations


class RemitError(Exception):
    """Root of the errors that the service raises on purpose."""


class InvalidRequestError(RemitError):
    """The request is outside its documented range; `field` names where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UnauthenticatedError(RemitError):
    """No credential, or one that does not verify. The message is for the log only."""


class RoleRequiredError(RemitError):
    """The caller does not hold `role`."""

    def __init__(self, role: str) -> None:
        super().__init__(f"role `{role}` required")
        self.role = role


class SecondPersonError(RemitError):
    """Somebody else has to do this: another person than the one who asked, and a person at all."""


class NotFoundError(RemitError):
    """It does not exist, or the caller may not read it.

    what: for administrators alone, which of several things that a request names; empty towards callers, always.
    """

    def __init__(self, message: str, *, what: str = "") -> None:
        super().__init__(message)
        self.what = what


class UnavailableError(RemitError):
    """Root of what may work later."""


class DirectoryUnavailableError(UnavailableError):
    """The caller's own directory could not be read in full."""


class AuditUnavailableError(UnavailableError):
    """The audit log could not be written: nothing may be answered."""


class SearchUnavailableError(UnavailableError):
    """The index or the model does not answer."""


class SyncRunningError(RemitError):
    """A run over this source is already under way."""

    def __init__(self, source: str, run_id: str) -> None:
        super().__init__(f"a run over `{source}` is under way: `{run_id}`")
        self.run_id = run_id


class OverloadedError(RemitError):
    """More work is waiting than the service accepts."""


class DrainingError(UnavailableError):
    """The service is stopping and takes no more calls."""


class StartError(RemitError):
    """The service or a command cannot start; the message is one sentence for people. Exit code 2."""
