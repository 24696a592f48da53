"""What can go wrong with a call, one class for each thing that a program would do about it.

`reason` is the `ErrorReason` of the API without its prefix, empty when the answer did not come from Remit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

_DOMAIN = "remit.v1"
_DETAILS_KEY = "grpc-status-details-bin"


# What the `.proto` files say of each field, for people.
_RANGES = {
    "query": "1 to 8,192 bytes with a character that is not white space",
    "limit": "1 to 100",
    "sources": "at most 32 names",
    "document_id": "an id of 1 to 64 bytes",
    "document_ids": "1 to 100 ids of documents",
    "revoke": "at most 100 tokens such as `posix:corp:gid-20101`",
    "allow": "at most 100 tokens such as `posix:corp:gid-20101`",
    "deny": "at most 100 tokens such as `posix:corp:gid-20101`",
    "clause": "at least one principal to revoke, allow or deny, and a clause that stays small enough",
    "user": "a login name or an id of 1 to 256 bytes",
    "directory": "the name of a configured directory",
    "chunk_ids": "1 to 100 ids",
    "page_size": "0 to 1000",
    "page_token": "the token of the page before, of the same list and the same caller",
    "first_index": "0 or more",
    "first_size": "1 or more",
    "index": "0 or more",
    "folder": "a path where nothing is yet, below `backup.folder` of the service's settings, in a folder that exists",
    "keys_folder": "a path as `folder`, below `backup.keys_folder`, and not in `folder`",
}


_NOT_FOUND = {
    "user": "there is no enabled account with this name or id in that directory",
    "directory": "there is no directory with this name",
    "document": "there is no document with this id",
    "group": "there is no such group, or the person is not a direct member of it, or is one already",
    "scope": "the document does not lie in this container",
}


class RemitError(Exception):
    """Root of everything that a call raises. The message is one sentence for people."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class UnauthenticatedError(RemitError):
    """No token, or one that does not verify. Get a new one; which check failed is never said."""


class InvalidRequestError(RemitError):
    """A value is outside its documented range; `field` names it."""

    def __init__(self, message: str, *, reason: str = "", field: str = "") -> None:
        super().__init__(message, reason=reason)
        self.field = field


class NotFoundError(RemitError):
    """It does not exist, or you may not read it: the two are the same answer.

    what: for administrators, which of the things that they named was not found, such as `user`; otherwise empty.
    """

    def __init__(self, message: str, *, reason: str = "", what: str = "") -> None:
        super().__init__(message, reason=reason)
        self.what = what


class RoleRequiredError(RemitError):
    """You do not hold the role that the method asks for; `role` names it."""

    def __init__(self, message: str, *, reason: str = "", role: str = "") -> None:
        super().__init__(message, reason=reason)
        self.role = role


class SecondPersonError(RemitError):
    """Another person has to do this: whoever asked cannot approve, and a program is no person."""


class SyncRunningError(RemitError):
    """A run over this source is under way; `run_id` names it."""

    def __init__(self, message: str, *, reason: str = "", run_id: str = "") -> None:
        super().__init__(message, reason=reason)
        self.run_id = run_id


class UnavailableError(RemitError):
    """The service cannot answer now and may later: try again. Nothing was answered."""


class OverloadedError(UnavailableError):
    """More work is waiting than the service accepts: try again after a pause."""


class RateLimitedError(OverloadedError):
    """You are at a limit of your own; `limit` names it, and after `retry_s` a call may pass."""

    def __init__(self, message: str, *, reason: str = "", limit: str = "", retry_s: float = 1.0) -> None:
        super().__init__(message, reason=reason)
        self.limit = limit
        self.retry_s = retry_s


class DeadlineExceededError(UnavailableError):
    """The call took longer than it was given."""


class UnreachableError(UnavailableError):
    """No Remit answers at this address."""


class InternalError(RemitError):
    """A defect in the service; `request_id` finds it in the service's log."""

    def __init__(self, message: str, *, reason: str = "", request_id: str = "") -> None:
        super().__init__(message, reason=reason)
        self.request_id = request_id


def error_of(error: grpc.RpcError, address: str) -> RemitError:
    """Turn what gRPC raises into the error above that it stands for."""
    code, info = _code(error), _info(error)
    reason, facts = (info.reason, dict(info.metadata)) if info is not None else ("", {})
    match reason:
        case "UNAUTHENTICATED":
            return UnauthenticatedError("the token is missing, expired or not for this service", reason=reason)
        case "INVALID_ARGUMENT":
            field = facts.get("field", "")
            expected = f": expected {_RANGES[field]}" if field in _RANGES else ""
            message = f"`{field}` is outside its documented range{expected}"
            return InvalidRequestError(message, reason=reason, field=field)
        case "NOT_FOUND":
            what = facts.get("what", "")
            return NotFoundError(
                _NOT_FOUND.get(what, "it does not exist, or you may not read it"), reason=reason, what=what
            )
        case "ROLE_REQUIRED":
            role = facts.get("role", "")
            return RoleRequiredError(f"you do not hold the role `{role}`", reason=reason, role=role)
        case "SECOND_PERSON_REQUIRED":
            return SecondPersonError("another person has to do this, in their own name", reason=reason)
        case "SYNC_RUNNING":
            run_id = facts.get("run_id", "")
            return SyncRunningError(f"a run over this source is under way: `{run_id}`", reason=reason, run_id=run_id)
        case "DIRECTORY_UNAVAILABLE":
            return UnavailableError("your groups cannot be resolved at the moment", reason=reason)
        case "AUDIT_UNAVAILABLE":
            return UnavailableError("the audit log cannot be written, so nothing is answered", reason=reason)
        case "SEARCH_UNAVAILABLE":
            return UnavailableError("the index or the model does not answer at the moment", reason=reason)
        case "KEYS_UNAVAILABLE":
            message = "the key-encryption key cannot be reached or changed: the service's log says why"
            return UnavailableError(message, reason=reason)
        case "STORAGE_UNAVAILABLE":
            message = "a file of the service cannot be read or written, perhaps for lack of space: its log says which"
            return UnavailableError(message, reason=reason)
        case "RATE_LIMITED":
            limit, retry_s = facts.get("limit", ""), _retry_s(error)
            message = f"your limit `{limit}` is reached: try again in {retry_s:.1f} s"
            return RateLimitedError(message, reason=reason, limit=limit, retry_s=retry_s)
        case "DRAINING":
            return UnavailableError("the service is stopping: try again", reason=reason)
        case "OVERLOADED":
            return OverloadedError("more work is waiting than the service accepts", reason=reason)
        case "DEADLINE_EXCEEDED":
            return DeadlineExceededError("the call took longer than it was given", reason=reason)
        case "INTERNAL":
            request_id = facts.get("request_id", "")
            return InternalError(
                f"a defect in the service: look for `{request_id}` in its log", reason=reason, request_id=request_id
            )
        case _:
            return _outside(code, address)


def _outside(code: grpc.StatusCode | None, address: str) -> RemitError:
    """The answer is of gRPC itself, not of Remit."""
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return UnreachableError(f"no Remit answers at {address}: is `remit serve` running?")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError("the call took longer than it was given")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return InvalidRequestError("the request or the answer is larger than one message may be", field="request")
        case grpc.StatusCode.UNIMPLEMENTED:
            return RemitError(f"the listener at {address} has no such method: callers and administrators have two")
        case _:
            return RemitError(f"the call to {address} ended with {code.name if code is not None else 'no status'}")


def _code(error: Any) -> grpc.StatusCode | None:
    code = error.code()
    return code if isinstance(code, grpc.StatusCode) else None


def _info(error: Any) -> ErrorInfo | None:
    info = ErrorInfo()
    found = any(detail.Unpack(info) and info.domain == _DOMAIN for detail in _details(error))
    return info if found else None


def _retry_s(error: Any) -> float:
    retry = RetryInfo()
    for detail in _details(error):
        if detail.Unpack(retry):
            seconds: float = retry.retry_delay.ToTimedelta().total_seconds()
            return seconds
    return 1.0


def _details(error: Any) -> Iterator[Any]:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            yield from Status.FromString(value).details
