"""A typed client for Remit: passages for RAG applications, with the permissions of the person who asks.

It takes a token and neither a user nor a filter: who asks is proved by the token, and what may be read is decided by
the service. The generated code is in `remit.v1` for those who need more.
"""

from remit.client._async import AsyncClient
from remit.client._connect import Token
from remit.client._sync import AdminClient, Client
from remit.client.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RemitError,
    RoleRequiredError,
    SyncRunningError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
)
from remit.client.values import (
    Caller,
    Check,
    CheckFinding,
    Chunk,
    Chunks,
    Document,
    DocumentText,
    Freshness,
    Grant,
    HeldPrincipal,
    Hit,
    SearchMode,
    SearchResult,
    Severity,
    Source,
    SourceFreshness,
    SyncCounts,
    SyncProblem,
    SyncRun,
    SyncState,
)

__all__ = [
    "AdminClient",
    "AsyncClient",
    "Caller",
    "Check",
    "CheckFinding",
    "Chunk",
    "Chunks",
    "Client",
    "DeadlineExceededError",
    "Document",
    "DocumentText",
    "Freshness",
    "Grant",
    "HeldPrincipal",
    "Hit",
    "InternalError",
    "InvalidRequestError",
    "NotFoundError",
    "OverloadedError",
    "RemitError",
    "RoleRequiredError",
    "SearchMode",
    "SearchResult",
    "Severity",
    "Source",
    "SourceFreshness",
    "SyncCounts",
    "SyncProblem",
    "SyncRun",
    "SyncRunningError",
    "SyncState",
    "Token",
    "UnauthenticatedError",
    "UnavailableError",
    "UnreachableError",
]
