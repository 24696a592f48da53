"""Which status each of the service's errors becomes. Pure; the wrapper is the only user.

The text is constant for each reason, so that two answers with the same reason differ in nothing but what the reason's
metadata is documented to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from service.deadline import DeadlinePassedError
from service.errors import (
    AuditUnavailableError,
    DirectoryUnavailableError,
    DrainingError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RoleRequiredError,
    SecondPersonError,
    SyncRunningError,
    UnauthenticatedError,
    UnavailableError,
)
from service.keys.provider import ProviderError
from service.limits import RateLimitedError
from service.stores.errors import StorageError

DOMAIN = "remit.v1"
_PAUSE_S = 1.0
DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata under which gRPC carries a `google.rpc.Status`."""

_CODES: dict[str, tuple[grpc.StatusCode, str]] = {
    "UNAUTHENTICATED": (grpc.StatusCode.UNAUTHENTICATED, "the credential is missing or does not verify"),
    "INVALID_ARGUMENT": (grpc.StatusCode.INVALID_ARGUMENT, "a field is outside its documented range"),
    "NOT_FOUND": (grpc.StatusCode.NOT_FOUND, "it does not exist, or you may not read it"),
    "ROLE_REQUIRED": (grpc.StatusCode.PERMISSION_DENIED, "the method asks for a role that you do not hold"),
    "DIRECTORY_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, "your groups cannot be resolved at the moment"),
    "AUDIT_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, "the audit log cannot be written, so nothing is answered"),
    "SEARCH_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, "the index or the model does not answer at the moment"),
    "SYNC_RUNNING": (grpc.StatusCode.FAILED_PRECONDITION, "a run over this source is under way"),
    "DRAINING": (grpc.StatusCode.UNAVAILABLE, "the service is stopping"),
    "RATE_LIMITED": (grpc.StatusCode.RESOURCE_EXHAUSTED, "you are at a limit of calls"),
    "OVERLOADED": (grpc.StatusCode.RESOURCE_EXHAUSTED, "more work is waiting than the service accepts"),
    "DEADLINE_EXCEEDED": (grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed"),
    "KEYS_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, "the key-encryption key cannot be reached or changed"),
    "STORAGE_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, "a file of the service cannot be read or written"),
    "SECOND_PERSON_REQUIRED": (grpc.StatusCode.PERMISSION_DENIED, "another person has to do this"),
    "INTERNAL": (grpc.StatusCode.INTERNAL, "a defect in the service"),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call ends that does not end well. `reason`: an `ErrorReason` without its prefix.

    retry_s: after how long it may be tried again, None where nothing is known of that.
    """

    reason: str
    field: tuple[str, str] | None = None
    retry_s: float | None = None

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC code of the reason."""
        return _CODES[self.reason][0]

    @property
    def text(self) -> str:
        """The constant text of the reason."""
        return _CODES[self.reason][1]

    def details(self) -> bytes:
        """The serialized `google.rpc.Status` with its `ErrorInfo`."""
        info = ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=dict([self.field] if self.field else []))
        details = [_packed(info)]
        if self.retry_s is not None:
            delay = Duration()
            # In steps of a tenth: to the nanosecond it would be a clock that somebody could read.
            delay.FromMilliseconds(max(math.ceil(self.retry_s * 10), 1) * 100)
            details.append(_packed(RetryInfo(retry_delay=delay)))
        status = Status(code=self.code.value[0], message=self.text, details=details)
        data: bytes = status.SerializeToString(deterministic=True)
        return data


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def failure_of(error: Exception, request_id: str) -> Failure:
    """Return what a caller is told of `error`. What nobody foresaw is INTERNAL and says nothing of itself."""
    match error:
        case UnauthenticatedError():
            return Failure("UNAUTHENTICATED")
        case InvalidRequestError(field=field):
            return Failure("INVALID_ARGUMENT", ("field", field))
        case NotFoundError(what=what):
            return Failure("NOT_FOUND", ("what", what) if what else None)
        case RoleRequiredError(role=role):
            return Failure("ROLE_REQUIRED", ("role", role))
        case DirectoryUnavailableError():
            return Failure("DIRECTORY_UNAVAILABLE")
        case AuditUnavailableError():
            return Failure("AUDIT_UNAVAILABLE")
        case ProviderError():
            return Failure("KEYS_UNAVAILABLE")
        case StorageError():
            return Failure("STORAGE_UNAVAILABLE")
        case DrainingError():
            return Failure("DRAINING")
        case UnavailableError():
            return Failure("SEARCH_UNAVAILABLE")
        case SecondPersonError():
            return Failure("SECOND_PERSON_REQUIRED")
        case SyncRunningError(run_id=run_id):
            return Failure("SYNC_RUNNING", ("run_id", run_id))
        case RateLimitedError(limit=limit, retry_s=retry_s):
            return Failure("RATE_LIMITED", ("limit", limit), retry_s)
        case OverloadedError():
            return Failure("OVERLOADED", retry_s=_PAUSE_S)
        case DeadlinePassedError():
            return Failure("DEADLINE_EXCEEDED")
        case _:
            return Failure("INTERNAL", ("request_id", request_id))
