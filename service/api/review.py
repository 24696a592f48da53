"""ReviewService: administrators and auditors ask about others. No answer has any text of a document, nor its title."""

from __future__ import annotations

from remit.v1 import review_pb2

from service.api import wire_access
from service.api.evidence import CheckEvidence
from service.api.pages import PageTokens
from service.api.wrapper import Call, Reply
from service.executor import Executor
from service.review import Review


class ReviewServicer:
    """remit.v1.ReviewService. page_key: seals page tokens."""

    def __init__(self, review: Review, executor: Executor, page_key: bytes) -> None:
        self._review = review
        self._executor = executor
        self._tokens = PageTokens(page_key)

    async def CheckUserAccess(self, request: review_pb2.CheckUserAccessRequest, call: Call) -> Reply:
        """See the `.proto` file, as for all methods."""
        person, document_ids = wire_access.person(request.user), wire_access.document_ids(request.document_ids)
        answer = await self._executor.run(self._review.check, person, document_ids)
        return Reply(wire_access.check_user_response(answer, call.request_id), CheckEvidence(answer, about=True))

    async def ExplainUserAccess(self, request: review_pb2.ExplainUserAccessRequest, call: Call) -> Reply:
        """Say why somebody may read a document, or not."""
        person, document_id = wire_access.person(request.user), wire_access.document_id(request.document_id)
        answer = await self._executor.run(self._review.explain, person, document_id)
        message = wire_access.explain_user_response(answer, call.request_id)
        return Reply(message, CheckEvidence(answer.answer, about=True))

    async def ListUserDocuments(self, request: review_pb2.ListUserDocumentsRequest, call: Call) -> Reply:
        """Return a page of documents that somebody may read."""
        person, sources = wire_access.person(request.user), wire_access.sources(request.sources)
        size, first = wire_access.page_size(request.page_size), self._tokens.read(request, call) or 0
        page = await self._executor.run(self._review.page, person, sources, first, size)
        token = "" if page.following is None else self._tokens.write(page.following, request, call)
        message = wire_access.user_page_response(page, token, call.request_id)
        return Reply(message, CheckEvidence(page.answer, about=True))
