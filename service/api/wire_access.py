"""Between protobuf messages and the service's values, for questions about access. Pure, as `wire` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from remit.v1 import access_pb2, review_pb2

from acl.decide import Denied
from acl.model import NEVER
from acl.principal import Principal
from acl.trace import Remedy, Step
from service.access.checks import Checked, Explained, Explanation, Page, Standing, Why, why
from service.access.review import Held, Person
from service.api import wire
from service.errors import InvalidRequestError
from service.identity.callers import Current
from service.search.reading import DocumentView

MAX_DOCUMENTS: Final = 100
MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
_SHOWN: Final = 20
"""Principals of a remedy that are listed; the others are counted."""

_REASONS: Final = {
    Why.ALLOWED: access_pb2.ACCESS_REASON_ALLOWED,
    Why.DENY_RULE: access_pb2.ACCESS_REASON_DENY_RULE,
    Why.NO_RULE: access_pb2.ACCESS_REASON_NO_RULE,
    Why.INCOMPLETE_REALM: access_pb2.ACCESS_REASON_INCOMPLETE_REALM,
    Why.UNKNOWN_RULES: access_pb2.ACCESS_REASON_UNKNOWN_RULES,
    Why.STALE: access_pb2.ACCESS_REASON_STALE,
    Why.NO_TEXT: access_pb2.ACCESS_REASON_NO_TEXT,
}

Paths = Mapping[Principal, tuple[str, ...]]


# --- requests ---


def document_ids(values: Sequence[str]) -> tuple[str, ...]:
    """Read the ids of documents. Raises InvalidRequestError, as all of these do."""
    if not 1 <= len(values) <= MAX_DOCUMENTS:
        raise InvalidRequestError("document_ids", f"{len(values)} ids, expected 1 to {MAX_DOCUMENTS}")
    return tuple(wire.text("document_ids", one, wire.MAX_ID_BYTES) for one in values)


def document_id(value: str) -> str:
    """Read the id of a document."""
    return wire.text("document_id", value, wire.MAX_ID_BYTES)


def person(user: review_pb2.UserRef) -> Person:
    """Read who is asked about."""
    if len(user.directory.encode()) > wire.MAX_NAME_BYTES:
        raise InvalidRequestError("directory", "the name of a directory is too long")
    return Person(wire.text("user", user.user, wire.MAX_NAME_BYTES), user.directory)


def sources(values: Sequence[str]) -> frozenset[str]:
    """Read the names of sources."""
    if len(values) > wire.MAX_SOURCES:
        raise InvalidRequestError("sources", f"{len(values)} sources, more than {wire.MAX_SOURCES}")
    return frozenset(values)


def page_size(value: int) -> int:
    """Read how much a page may hold."""
    if not 0 <= value <= MAX_PAGE:
        raise InvalidRequestError("page_size", f"{value}, expected 0 to {MAX_PAGE}")
    return value or DEFAULT_PAGE


# --- answers to a caller ---


def check_response(answer: Checked, response_id: str) -> access_pb2.CheckAccessResponse:
    """Write which documents may be read."""
    return access_pb2.CheckAccessResponse(
        checks=_checks(answer), response_id=response_id, freshness=wire.freshness(answer.facts.freshness)
    )


def explain_response(answer: Explained, document: DocumentView, response_id: str) -> access_pb2.ExplainAccessResponse:
    """Write why a caller may read a document."""
    return access_pb2.ExplainAccessResponse(
        document=wire.document(document),
        explanation=explanation(answer.explanation),
        response_id=response_id,
        freshness=wire.freshness(answer.answer.facts.freshness),
    )


def page_response(page: Page, token: str, response_id: str) -> access_pb2.ListReadableDocumentsResponse:
    """Write a page of documents."""
    return access_pb2.ListReadableDocumentsResponse(
        documents=[wire.document(one) for one in page.documents],
        next_page_token=token,
        response_id=response_id,
        freshness=wire.freshness(page.answer.facts.freshness),
    )


# --- answers to administrators ---


def check_user_response(answer: Checked, response_id: str) -> review_pb2.CheckUserAccessResponse:
    """Write which documents somebody may read."""
    return review_pb2.CheckUserAccessResponse(
        user=user(answer.caller),
        checks=_checks(answer),
        response_id=response_id,
        freshness=wire.freshness(answer.facts.freshness),
    )


def explain_user_response(answer: Explained, response_id: str) -> review_pb2.ExplainUserAccessResponse:
    """Write why somebody may read a document, or not."""
    return review_pb2.ExplainUserAccessResponse(
        user=user(answer.answer.caller),
        document=place_of(answer.standing),
        explanation=explanation(answer.explanation),
        response_id=response_id,
    )


def user_page_response(page: Page, token: str, response_id: str) -> review_pb2.ListUserDocumentsResponse:
    """Write a page of documents that somebody may read: where they are, not what they are called inside."""
    return review_pb2.ListUserDocumentsResponse(
        user=user(page.answer.caller),
        documents=[place(one) for one in page.documents],
        next_page_token=token,
        response_id=response_id,
        freshness=wire.freshness(page.answer.facts.freshness),
    )


def user(current: Current) -> review_pb2.User:
    """Write who was asked about."""
    found = current.resolved
    return review_pb2.User(
        directory=current.subject.directory,
        account=found.resolution.account_id,
        display_name=found.resolution.display_name,
        left_out=sorted(found.unsaid),
    )


def resolve_user_response(found: Held, response_id: str) -> review_pb2.ResolveUserResponse:
    """Write everything that somebody holds."""
    resolved = found.current.resolved
    held = sorted((principal.token, path) for principal, path in found.paths.items())
    return review_pb2.ResolveUserResponse(
        user=user(found.current),
        principals=[access_pb2.HeldPrincipal(token=token, path=path) for token, path in held],
        roles=sorted(resolved.roles),
        complete_realms=sorted(resolved.caller.complete),
        left_out=[review_pb2.LeftOut(name=name, reason=why) for name, why in sorted(resolved.unsaid.items())],
        resolved_at=wire.moment(resolved.caller.resolved_at),
        expires_at=wire.moment(resolved.caller.expires_at),
        response_id=response_id,
    )


def place_of(value: Standing) -> review_pb2.DocumentPlace:
    """Write where a document stands, also when that cannot be opened any more."""
    stored = value.stored
    location = "" if value.view is None else value.view.location
    return review_pb2.DocumentPlace(document_id=stored.document_id, source=stored.source, location=location)


def place(view: DocumentView) -> review_pb2.DocumentPlace:
    """Write where a document stands."""
    return review_pb2.DocumentPlace(document_id=view.document_id, source=view.source, location=view.location)


# --- decisions ---


def explanation(value: Explanation) -> access_pb2.Explanation:
    """Write a decision, clause by clause."""
    verified, limit = value.permissions_verified_at, value.max_permissions_age
    return access_pb2.Explanation(
        allowed=value.allowed,
        reason=_REASONS[value.reason],
        detail=value.detail,
        clauses=[_clause(step, value.paths) for step in value.steps],
        permissions_verified_at=None if verified is None else wire.moment(verified),
        max_permissions_age=None if limit is None else wire.duration(limit),
        principals_resolved_at=wire.moment(value.principals_resolved_at),
        decided_at=wire.moment(value.decided_at),
    )


def reason(value: Why) -> access_pb2.AccessReason.ValueType:
    """Write a reason."""
    return _REASONS[value]


def _clause(step: Step, paths: Paths) -> access_pb2.ClauseVerdict:
    found, detail = why(step.verdict) if isinstance(step.verdict, Denied) else (Why.ALLOWED, "")
    expires = step.expires_at
    return access_pb2.ClauseVerdict(
        clause=step.name,
        scope=step.scope or "",
        passed=not isinstance(step.verdict, Denied),
        reason=_REASONS[found],
        rule=step.rule,
        rules=step.rules,
        principal="" if step.principal is None else step.principal.token,
        path=() if step.principal is None else paths.get(step.principal, ()),
        rule_expires_at=None if expires is None or expires == NEVER else wire.moment(expires),
        detail=detail,
        remedies=[_remedy(one) for one in step.remedies],
    )


def _remedy(value: Remedy) -> access_pb2.AccessRemedy:
    return access_pb2.AccessRemedy(
        leave=sorted(one.token for one in value.leave),
        hold_one_of=[one.token for one in value.hold[:_SHOWN]],
        more=max(len(value.hold) - _SHOWN, 0),
    )


def _checks(answer: Checked) -> list[access_pb2.AccessCheck]:
    return [access_pb2.AccessCheck(document_id=one, readable=readable) for one, readable in answer.checked]
