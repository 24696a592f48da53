"""The client for questions about others, on the administrators' listener, for `access-admin` and `auditor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from remit.client import _read_access, access_values
from remit.client._sync import _Blocking
from remit.v1 import review_pb2
from remit.v1.review_pb2_grpc import ReviewServiceStub


class ReviewClient(_Blocking):
    """Who may read what, about anybody and without any content. Every call is recorded, with whom it was about.

    user: a login name or an immutable id. directory: its name; empty means the first that is configured.
    """

    def __init__(self, address: str, **options: Any) -> None:
        """Connect to `host:port`; see `Client` for the options."""
        super().__init__(address, **options)
        self._review = ReviewServiceStub(self._channel)

    def check_user_access(
        self, user: str, document_ids: Sequence[str], *, directory: str = ""
    ) -> access_values.UserChecks:
        """Return which of at most 100 documents somebody may read now. Raises NotFoundError for the person."""
        request = review_pb2.CheckUserAccessRequest(user=_user(user, directory), document_ids=document_ids)
        return _read_access.user_checks(self._call(self._review.CheckUserAccess, request))

    def explain_user_access(self, user: str, document_id: str, *, directory: str = "") -> access_values.ExplainedAccess:
        """Return why somebody may read a document, or not, clause by clause. Raises NotFoundError."""
        request = review_pb2.ExplainUserAccessRequest(user=_user(user, directory), document_id=document_id)
        return _read_access.user_explained(self._call(self._review.ExplainUserAccess, request))

    def resolve_user(self, user: str, *, directory: str = "") -> access_values.ResolvedUser:
        """Return everything that somebody holds now, with the way to each. Raises NotFoundError."""
        request = review_pb2.ResolveUserRequest(user=_user(user, directory))
        return _read_access.resolved_user(self._call(self._review.ResolveUser, request))

    def list_user_documents(
        self, user: str, *, directory: str = "", sources: Sequence[str] = (), page_size: int = 0, page_token: str = ""
    ) -> access_values.PlacePage:
        """Return a page of the documents that somebody may read."""
        request = review_pb2.ListUserDocumentsRequest(
            user=_user(user, directory), sources=sources, page_size=page_size, page_token=page_token
        )
        return _read_access.user_page(self._call(self._review.ListUserDocuments, request))

    def list_documents(
        self, location: str = "", *, sources: Sequence[str] = ()
    ) -> Iterator[access_values.DocumentPlace]:
        """Yield every document whose location contains a text, whoever may read it, in an order that stays."""
        token = ""
        while True:
            request = review_pb2.ListDocumentsRequest(
                location=location, sources=sources, page_size=1000, page_token=token
            )
            answer = self._call(self._review.ListDocuments, request)
            yield from (_read_access.place(one) for one in answer.documents)
            token = answer.next_page_token
            if not token:
                return

    def list_readers(self, document_id: str) -> access_values.DocumentReaders:
        """Return who may read a document and by what. Raises NotFoundError."""
        request = review_pb2.ListReadersRequest(document_id=document_id)
        return _read_access.readers(self._call(self._review.ListReaders, request))

    def list_grants(
        self, *, sources: Sequence[str] = (), page_size: int = 0, page_token: str = ""
    ) -> access_values.AccessGrantPage:
        """Return a page of rows for recertification."""
        request = review_pb2.ListGrantsRequest(sources=sources, page_size=page_size, page_token=page_token)
        return _read_access.grants(self._call(self._review.ListGrants, request))

    def preview_membership(
        self, user: str, group: str, *, join: bool = False, directory: str = ""
    ) -> access_values.AccessPreview:
        """Return what would change if somebody left a group, or joined it. group: its token or its id."""
        change = review_pb2.MembershipChange(user=_user(user, directory), group=group, join=join)
        request = review_pb2.PreviewChangeRequest(membership=change)
        return _read_access.preview(self._call(self._review.PreviewChange, request))

    def preview_clause(
        self,
        document_id: str,
        *,
        scope: str = "",
        revoke: Sequence[str] = (),
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
    ) -> access_values.AccessPreview:
        """Return for whom something would change if a clause did: tokens taken out, allowed or denied first.

        scope: the id of one of the document's containers, for its clause instead of the document's own.
        """
        change = review_pb2.ClauseChange(document_id=document_id, scope=scope, revoke=revoke, allow=allow, deny=deny)
        return _read_access.preview(
            self._call(self._review.PreviewChange, review_pb2.PreviewChangeRequest(clause=change))
        )


def _user(user: str, directory: str) -> review_pb2.UserRef:
    return review_pb2.UserRef(user=user, directory=directory)
