"""Calls below `remit.client`: the bare gRPC status of a refusal with its bytes, and the standard health check."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from remit.v1 import retrieval_pb2, retrieval_pb2_grpc

TIMEOUT_S: Final = 30.0

_DETAILS: Final = "grpc-status-details-bin"
_Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: the status with everything that came with it, and a title when there was an answer."""

    code: str
    message: str
    details: bytes
    title: str = ""


class Calls:
    """The callers' listener. Each call says itself what it presents."""

    def __init__(self, address: str) -> None:
        self._channel: Final = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._retrieval: Final = retrieval_pb2_grpc.RetrievalServiceStub(self._channel)
        self._health: Final = health_pb2_grpc.HealthStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def serving(self) -> bool:
        """Whether the service says that it serves."""
        try:
            answer = self._health.Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def document(self, token: str | None, document_id: str, claims: _Metadata = ()) -> Outcome:
        """Ask for a document by its id. claims: more metadata, which the service must not believe."""
        request = retrieval_pb2.GetDocumentRequest(document_id=document_id)
        bearer = (("authorization", f"Bearer {token}"),) if token is not None else ()
        try:
            answer = self._retrieval.GetDocument(request, timeout=TIMEOUT_S, metadata=(*bearer, *claims))
        except grpc.RpcError as err:
            if not isinstance(err, grpc.Call):  # what a stub raises is also the call
                raise
            details = dict(err.trailing_metadata() or ()).get(_DETAILS, b"")
            raw = details if isinstance(details, bytes) else details.encode()
            return Outcome(err.code().name, err.details() or "", raw)
        return Outcome("OK", "", b"", answer.document.title)


def random_id(like: str) -> str:
    """An id of the same form as `like` that no document has."""
    alphabet = sorted({*like})
    return "".join(secrets.choice(alphabet) for _ in like)
