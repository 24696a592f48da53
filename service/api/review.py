"""ReviewService: administrators and auditors ask about others. No answer has any text of a document, nor its title."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from remit.v1 import review_pb2

from service.access.audience import Audience
from service.access.grants import Grants
from service.access.preview import Preview
from service.access.review import Review
from service.api import wire, wire_access, wire_review
from service.api.evidence import CheckEvidence, HeldEvidence
from service.api.pages import PageTokens
from service.api.wrapper import Call, Reply
from service.errors import InvalidRequestError
from service.executor import Executor
from service.identity.roles import AUDITOR, sees


class ReviewServicer:
    """remit.v1.ReviewService. page_key: seals page tokens."""

    def __init__(
        self,
        review: Review,
        audience: Audience,
        grants: Grants,
        preview: Preview,
        executor: Executor,
        page_key: bytes,
    ) -> None:
        self._review = review
        self._audience = audience
        self._grants = grants
        self._preview = preview
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

    async def ListDocuments(self, request: review_pb2.ListDocumentsRequest, call: Call) -> Reply:
        """Return documents by where they stand."""
        if len(request.location.encode()) > wire.MAX_PATH_BYTES:
            raise InvalidRequestError("location", "the text is too long")
        told, size = _told(request.sources, call), wire_access.page_size(request.page_size)
        first = self._tokens.read(request, call) or 0
        page = await self._executor.run(self._review.places, request.location, told, first, size)
        token = "" if page.following is None else self._tokens.write(page.following, request, call)
        return Reply(wire_review.documents_response(page, token, call.request_id))

    async def ListReaders(self, request: review_pb2.ListReadersRequest, call: Call) -> Reply:
        """Say who may read a document."""
        found = await self._executor.run(self._audience.of, wire_access.document_id(request.document_id))
        return Reply(wire_review.readers_response(found, call.request_id))

    async def ListGrants(self, request: review_pb2.ListGrantsRequest, call: Call) -> Reply:
        """Return rows for recertification: to an auditor of all sources, to others of those they are told of."""
        told, size = _told(request.sources, call), wire_access.page_size(request.page_size)
        first = self._tokens.read(request, call) or 0
        rows, following = await self._executor.run(self._grants.page, told, first, size)
        token = "" if following is None else self._tokens.write(following, request, call)
        return Reply(wire_review.grants_response(rows, token, call.request_id))

    async def ResolveUser(self, request: review_pb2.ResolveUserRequest, call: Call) -> Reply:
        """Return everything that somebody holds."""
        found = await self._executor.run(self._review.resolve, wire_access.person(request.user))
        return Reply(wire_access.resolve_user_response(found, call.request_id), HeldEvidence(found.current))

    async def PreviewChange(self, request: review_pb2.PreviewChangeRequest, call: Call) -> Reply:
        """Say what a change would do."""
        match request.WhichOneof("change"):
            case "membership":
                change = request.membership
                person, group = wire_access.person(change.user), wire_review.group(change)
                found = await self._executor.run(self._preview.membership, person, group, join=change.join)
            case "clause":
                found = await self._executor.run(self._preview.clause, wire_review.clause_change(request.clause))
            case _:
                raise InvalidRequestError("change", "no change is given")
        return Reply(wire_review.preview_response(found, call.request_id))


def _told(wanted: Sequence[str], call: Call) -> Callable[[str], bool]:
    """Which of the sources the caller may be told of: an auditor of all, an owner of the own."""
    named, held = wire_access.sources(wanted), call.caller.resolved.roles

    def told(source: str) -> bool:
        return (not named or source in named) and (AUDITOR in held or sees(held, source))

    return told
