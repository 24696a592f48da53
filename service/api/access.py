"""AccessService: a caller asks about itself. No request names anybody, and hidden and absent are one answer."""

from __future__ import annotations

from remit.v1 import access_pb2

from service.access.checks import Checks
from service.api import wire, wire_access
from service.api.evidence import CheckEvidence
from service.api.pages import PageTokens
from service.api.wrapper import Call, Reply
from service.errors import NotFoundError
from service.executor import Executor
from service.search.engine import Retrieval


class AccessServicer:
    """remit.v1.AccessService. page_key: seals page tokens."""

    def __init__(self, retrieval: Retrieval, checks: Checks, executor: Executor, page_key: bytes) -> None:
        self._retrieval = retrieval
        self._checks = checks
        self._executor = executor
        self._tokens = PageTokens(page_key)

    async def GetCaller(self, request: access_pb2.GetCallerRequest, call: Call) -> Reply:
        """See the `.proto` file, as for all methods."""
        fresh = await self._executor.run(self._retrieval.freshness, call.caller)
        return Reply(wire.caller_response(call.caller, fresh, call.request_id))

    async def CheckAccess(self, request: access_pb2.CheckAccessRequest, call: Call) -> Reply:
        """Say which documents may be read."""
        document_ids = wire_access.document_ids(request.document_ids)
        answer = await self._executor.run(self._checks.check, call.caller, document_ids)
        return Reply(wire_access.check_response(answer, call.request_id), CheckEvidence(answer))

    async def ExplainAccess(self, request: access_pb2.ExplainAccessRequest, call: Call) -> Reply:
        """Say why a document may be read."""
        document_id = wire_access.document_id(request.document_id)
        answer = await self._executor.run(self._checks.explain, call.caller, document_id)
        if answer.standing.view is None:
            # Its key is gone: nobody reads it any more.
            raise NotFoundError("what is known of the document does not open")
        message = wire_access.explain_response(answer, answer.standing.view, call.request_id)
        return Reply(message, CheckEvidence(answer.answer))

    async def ListReadableDocuments(self, request: access_pb2.ListReadableDocumentsRequest, call: Call) -> Reply:
        """Return a page of documents."""
        sources, size = wire_access.sources(request.sources), wire_access.page_size(request.page_size)
        first = self._tokens.read(request, call) or 0
        page = await self._executor.run(self._checks.page, call.caller, sources, first, size)
        token = "" if page.following is None else self._tokens.write(page.following, request, call)
        return Reply(wire_access.page_response(page, token, call.request_id), CheckEvidence(page.answer))
