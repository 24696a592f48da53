"""RetrievalService: each method checks its request, asks `service.search.engine`, and writes the answer."""

from __future__ import annotations

from remit.v1 import retrieval_pb2

from service.api import wire
from service.api.evidence import ReadingEvidence, SearchEvidence
from service.api.wrapper import Call, Reply
from service.executor import Executor
from service.search.engine import Retrieval


class RetrievalServicer:
    """remit.v1.RetrievalService."""

    def __init__(self, retrieval: Retrieval, executor: Executor) -> None:
        self._retrieval = retrieval
        self._executor = executor

    async def Search(self, request: retrieval_pb2.SearchRequest, call: Call) -> Reply:
        """See the `.proto` file, as for all methods."""
        query = wire.query(request)
        answer = await self._executor.run(self._retrieval.search, call.caller, query)
        message = wire.search_response(answer, call.request_id, explain=request.explain)
        return Reply(message, SearchEvidence(query, self._retrieval.model, request.explain, answer))

    async def GetDocument(self, request: retrieval_pb2.GetDocumentRequest, call: Call) -> Reply:
        """Return one document."""
        document_id = wire.document_id(request)
        answer = await self._executor.run(self._retrieval.document, call.caller, document_id)
        return Reply(wire.document_response(answer, call.request_id), ReadingEvidence(answer))

    async def BatchGetChunks(self, request: retrieval_pb2.BatchGetChunksRequest, call: Call) -> Reply:
        """Return passages."""
        chunk_ids = wire.chunk_ids(request)
        answer = await self._executor.run(self._retrieval.chunks, call.caller, chunk_ids)
        return Reply(wire.chunks_response(answer, call.request_id), ReadingEvidence(answer))
