"""The client for event loops."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
from remit.client import _read, _read_access, access_values, values
from remit.client._connect import Connection, Token
from remit.client.errors import error_of
from remit.v1 import access_pb2, retrieval_pb2
from remit.v1.access_pb2_grpc import AccessServiceStub
from remit.v1.retrieval_pb2_grpc import RetrievalServiceStub

Q = TypeVar("Q")
A = TypeVar("A")


class AsyncClient:
    """As `Client`, for use within one event loop. Close it, or use it in an `async with` statement."""

    def __init__(
        self,
        address: str,
        *,
        token: Token | None = None,
        insecure_loopback: bool = False,
        root_certificates: bytes | None = None,
        certificate: tuple[bytes, bytes] | None = None,
        on_behalf_of: str = "",
        timeout_s: float = 30.0,
    ) -> None:
        """Connect to `host:port`; see `Client`. A callable `token` must not block."""
        self._connection = Connection(address, token, insecure_loopback, root_certificates, certificate, on_behalf_of)
        self._timeout_s = timeout_s
        options = self._connection.options()
        self._channel = (
            grpc.aio.insecure_channel(address, options)
            if insecure_loopback
            else grpc.aio.secure_channel(address, self._connection.credentials(), options)
        )
        self._retrieval = RetrievalServiceStub(self._channel)
        self._access = AccessServiceStub(self._channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def search(
        self,
        query: str,
        *,
        limit: int = 10,
        sources: Sequence[str] = (),
        explain: bool = False,
        mode: values.SearchMode = values.SearchMode.HYBRID,
        exact: bool = False,
        approximate: bool = False,
    ) -> values.SearchResult:
        """See `Client.search`."""
        request = retrieval_pb2.SearchRequest(
            query=query,
            limit=limit,
            sources=sources,
            explain=explain,
            mode=retrieval_pb2.SearchMode.Value(f"SEARCH_MODE_{mode.name}"),
            exact=exact,
            approximate=approximate,
        )
        return _read.search(await self._call(self._retrieval.Search, request))

    async def get_document(self, document_id: str) -> values.DocumentText:
        """See `Client.get_document`."""
        request = retrieval_pb2.GetDocumentRequest(document_id=document_id)
        return _read.document(await self._call(self._retrieval.GetDocument, request))

    async def batch_get_chunks(self, chunk_ids: Sequence[str]) -> values.Chunks:
        """See `Client.batch_get_chunks`."""
        request = retrieval_pb2.BatchGetChunksRequest(chunk_ids=chunk_ids)
        return _read.chunks(await self._call(self._retrieval.BatchGetChunks, request))

    async def get_caller(self) -> values.Caller:
        """See `Client.get_caller`."""
        return _read.caller(await self._call(self._access.GetCaller, access_pb2.GetCallerRequest()))

    async def check_access(self, document_ids: Sequence[str]) -> access_values.AccessChecks:
        """See `Client.check_access`."""
        request = access_pb2.CheckAccessRequest(document_ids=document_ids)
        return _read_access.checks(await self._call(self._access.CheckAccess, request))

    async def explain_access(self, document_id: str) -> access_values.ExplainedDocument:
        """See `Client.explain_access`."""
        request = access_pb2.ExplainAccessRequest(document_id=document_id)
        return _read_access.explained(await self._call(self._access.ExplainAccess, request))

    async def list_readable_documents(
        self, *, sources: Sequence[str] = (), page_size: int = 0, page_token: str = ""
    ) -> access_values.DocumentPage:
        """See `Client.list_readable_documents`."""
        request = access_pb2.ListReadableDocumentsRequest(sources=sources, page_size=page_size, page_token=page_token)
        return _read_access.page(await self._call(self._access.ListReadableDocuments, request))

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        try:
            return await method(request, timeout=self._timeout_s, metadata=self._connection.metadata())
        except grpc.aio.AioRpcError as err:
            raise error_of(err, self._connection.address) from None
