"""Between protobuf messages and the service's values, for readers, grants and previews. Pure, as `wire` is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from remit.v1 import retrieval_pb2, review_pb2

from acl.errors import InvalidValueError
from acl.model import NEVER, Effect, Rule
from acl.principal import Principal
from service.access.audience import NamedClause, Readership, Reads
from service.access.checks import Places
from service.access.grants import UsedGrant
from service.access.preview import ClauseChange, Consequence, Outlook
from service.api import wire, wire_access
from service.errors import InvalidRequestError

_SHOWN: Final = 50
"""Principals of a rule that are listed; the others are counted."""
_MOST_TOKENS: Final = 100


# --- requests ---


def group(change: review_pb2.MembershipChange) -> str:
    """Read which group is meant. Raises InvalidRequestError, as all of these do."""
    return wire.text("group", change.group, wire.MAX_PATH_BYTES)


def clause_change(change: review_pb2.ClauseChange) -> ClauseChange:
    """Read a change of a clause."""
    if not (change.revoke or change.allow or change.deny):
        raise InvalidRequestError("clause", "nothing would change")
    if len(change.scope.encode()) > wire.MAX_NAME_BYTES:
        raise InvalidRequestError("scope", "the id of a container is too long")
    return ClauseChange(
        wire_access.document_id(change.document_id),
        change.scope,
        _principals("revoke", change.revoke),
        _principals("allow", change.allow),
        _principals("deny", change.deny),
    )


def _principals(field: str, tokens: Sequence[str]) -> frozenset[Principal]:
    if len(tokens) > _MOST_TOKENS:
        raise InvalidRequestError(field, f"{len(tokens)} tokens, more than {_MOST_TOKENS}")
    try:
        return frozenset(Principal.parse(one) for one in tokens)
    except InvalidValueError as err:
        raise InvalidRequestError(field, "not a principal's token") from err


# --- answers ---


def documents_response(page: Places, token: str, response_id: str) -> review_pb2.ListDocumentsResponse:
    """Write a page of documents."""
    documents = [wire_access.place(one) for one in page.documents]
    return review_pb2.ListDocumentsResponse(documents=documents, next_page_token=token, response_id=response_id)


def readers_response(found: Readership, response_id: str) -> review_pb2.ListReadersResponse:
    """Write who may read a document."""
    standing = found.standing
    verified = standing.permissions_verified_at
    return review_pb2.ListReadersResponse(
        document=wire_access.place_of(standing),
        withheld=wire_access.reason(standing.withheld),
        detail=standing.detail,
        clauses=[_clause(one, found.decided_at) for one in found.clauses],
        readers=[_reader(one) for one in found.readers],
        more_readers=found.more,
        unresolved=found.unresolved,
        directories_listed=found.listed,
        directories_not_listed=found.not_listed,
        permissions_verified_at=None if verified is None else wire.moment(verified),
        response_id=response_id,
    )


def _clause(named: NamedClause, at: datetime) -> review_pb2.AccessClause:
    rules = [_rule(one, at) for one in named.clause.rules]
    return review_pb2.AccessClause(clause=named.name, scope=named.scope or "", rules=rules)


def _rule(value: Rule, at: datetime) -> review_pb2.AccessRule:
    tokens = sorted(one.token for one in value.principals)
    return review_pb2.AccessRule(
        allow=value.effect is Effect.ALLOW,
        principals=tokens[:_SHOWN],
        more=max(len(tokens) - _SHOWN, 0),
        expires_at=None if value.expires_at == NEVER else wire.moment(value.expires_at),
        in_force=at < value.expires_at,
    )


def _reader(value: Reads) -> review_pb2.DocumentReader:
    paths = value.current.resolved.resolution.paths
    return review_pb2.DocumentReader(
        user=wire_access.user(value.current),
        grants=[
            retrieval_pb2.Grant(clause=one.clause, principal=one.principal.token, path=paths.get(one.principal, ()))
            for one in value.allowed.matches
        ],
    )


def grants_response(rows: Iterable[UsedGrant], token: str, response_id: str) -> review_pb2.ListGrantsResponse:
    """Write a page of rows."""
    return review_pb2.ListGrantsResponse(
        grants=[
            review_pb2.AccessGrant(
                source=row.grant.source,
                principal=row.grant.principal.token,
                is_class=row.grant.principal.is_class,
                opens=row.grant.opens,
                named=row.grant.named,
                last_used_at=None if row.last_used_at is None else wire.moment(row.last_used_at),
            )
            for row in rows
        ],
        next_page_token=token,
        response_id=response_id,
    )


def preview_response(found: Outlook, response_id: str) -> review_pb2.PreviewChangeResponse:
    """Write what would change."""
    return review_pb2.PreviewChangeResponse(
        effects=[_effect(one) for one in found.effects],
        exact=found.exact,
        principals_lost=sorted(one.token for one in found.principals_lost),
        principals_gained=sorted(one.token for one in found.principals_gained),
        directories_listed=found.listed,
        directories_not_listed=found.not_listed,
        response_id=response_id,
    )


def _effect(value: Consequence) -> review_pb2.AccessEffect:
    return review_pb2.AccessEffect(
        user=wire_access.user(value.current),
        lost=value.lost,
        gained=value.gained,
        lost_examples=[wire_access.place(one) for one in value.lost_examples],
        gained_examples=[wire_access.place(one) for one in value.gained_examples],
    )
