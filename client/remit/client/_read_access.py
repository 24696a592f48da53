"""From messages to values, for questions about access."""

from __future__ import annotations

from remit.client import _read, access_values, values
from remit.v1 import access_pb2, review_pb2

_REASONS = {
    access_pb2.ACCESS_REASON_ALLOWED: access_values.AccessReason.ALLOWED,
    access_pb2.ACCESS_REASON_DENY_RULE: access_values.AccessReason.DENY_RULE,
    access_pb2.ACCESS_REASON_NO_RULE: access_values.AccessReason.NO_RULE,
    access_pb2.ACCESS_REASON_INCOMPLETE_REALM: access_values.AccessReason.INCOMPLETE_REALM,
    access_pb2.ACCESS_REASON_UNKNOWN_RULES: access_values.AccessReason.UNKNOWN_RULES,
    access_pb2.ACCESS_REASON_STALE: access_values.AccessReason.STALE,
    access_pb2.ACCESS_REASON_NO_TEXT: access_values.AccessReason.NO_TEXT,
}


def checks(message: access_pb2.CheckAccessResponse) -> access_values.AccessChecks:
    """Read which documents may be read."""
    readable = {one.document_id: one.readable for one in message.checks}
    return access_values.AccessChecks(readable, message.response_id, _read.freshness(message.freshness))


def explained(message: access_pb2.ExplainAccessResponse) -> access_values.ExplainedDocument:
    """Read why a document may be read."""
    return access_values.ExplainedDocument(
        document=_read.document_info(message.document),
        explanation=explanation(message.explanation),
        response_id=message.response_id,
        freshness=_read.freshness(message.freshness),
    )


def page(message: access_pb2.ListReadableDocumentsResponse) -> access_values.DocumentPage:
    """Read a page of documents."""
    return access_values.DocumentPage(
        documents=tuple(_read.document_info(one) for one in message.documents),
        next_page_token=message.next_page_token,
        response_id=message.response_id,
        freshness=_read.freshness(message.freshness),
    )


def user_checks(message: review_pb2.CheckUserAccessResponse) -> access_values.UserChecks:
    """Read which documents somebody may read."""
    return access_values.UserChecks(
        user=user(message.user),
        readable={one.document_id: one.readable for one in message.checks},
        response_id=message.response_id,
        freshness=_read.freshness(message.freshness),
    )


def resolved_user(message: review_pb2.ResolveUserResponse) -> access_values.ResolvedUser:
    """Read everything that somebody holds."""
    return access_values.ResolvedUser(
        user=user(message.user),
        principals=tuple(values.HeldPrincipal(one.token, tuple(one.path)) for one in message.principals),
        roles=tuple(message.roles),
        complete_realms=tuple(message.complete_realms),
        left_out={one.name: one.reason for one in message.left_out},
        resolved_at=_read.moment(message.resolved_at),
        expires_at=_read.moment(message.expires_at),
        response_id=message.response_id,
    )


def user_explained(message: review_pb2.ExplainUserAccessResponse) -> access_values.ExplainedAccess:
    """Read why somebody may read a document, or not."""
    return access_values.ExplainedAccess(
        user=user(message.user),
        document=place(message.document),
        explanation=explanation(message.explanation),
        response_id=message.response_id,
    )


def user_page(message: review_pb2.ListUserDocumentsResponse) -> access_values.PlacePage:
    """Read a page of documents that somebody may read."""
    return access_values.PlacePage(
        user=user(message.user),
        documents=tuple(place(one) for one in message.documents),
        next_page_token=message.next_page_token,
        response_id=message.response_id,
        freshness=_read.freshness(message.freshness),
    )


def user(message: review_pb2.User) -> access_values.User:
    """Read who was asked about."""
    return access_values.User(message.directory, message.account, message.display_name, tuple(message.left_out))


def place(message: review_pb2.DocumentPlace) -> access_values.DocumentPlace:
    """Read where a document stands."""
    return access_values.DocumentPlace(message.document_id, message.source, message.location)


def explanation(message: access_pb2.Explanation) -> access_values.Explanation:
    """Read a decision."""
    verified = message.permissions_verified_at if message.HasField("permissions_verified_at") else None
    return access_values.Explanation(
        allowed=message.allowed,
        reason=_REASONS[message.reason],
        detail=message.detail,
        clauses=tuple(_clause(one) for one in message.clauses),
        permissions_verified_at=None if verified is None else _read.moment(verified),
        max_permissions_age=message.max_permissions_age.ToTimedelta()
        if message.HasField("max_permissions_age")
        else None,
        principals_resolved_at=_read.moment(message.principals_resolved_at),
        decided_at=_read.moment(message.decided_at),
    )


def _clause(message: access_pb2.ClauseVerdict) -> access_values.ClauseVerdict:
    return access_values.ClauseVerdict(
        clause=message.clause,
        scope=message.scope,
        passed=message.passed,
        reason=_REASONS[message.reason],
        rule=message.rule if message.HasField("rule") else None,
        rules=message.rules,
        principal=message.principal,
        path=tuple(message.path),
        rule_expires_at=_read.moment(message.rule_expires_at) if message.HasField("rule_expires_at") else None,
        detail=message.detail,
        remedies=tuple(
            access_values.AccessRemedy(tuple(one.leave), tuple(one.hold_one_of), one.more) for one in message.remedies
        ),
    )


def readers(message: review_pb2.ListReadersResponse) -> access_values.DocumentReaders:
    """Read who may read a document."""
    verified = message.permissions_verified_at if message.HasField("permissions_verified_at") else None
    return access_values.DocumentReaders(
        document=place(message.document),
        withheld=_REASONS[message.withheld],
        detail=message.detail,
        clauses=tuple(_rules(one) for one in message.clauses),
        readers=tuple(
            access_values.DocumentReader(
                user(one.user), tuple(values.Grant(g.clause, g.principal, tuple(g.path)) for g in one.grants)
            )
            for one in message.readers
        ),
        more_readers=message.more_readers,
        unresolved=message.unresolved,
        listed=tuple(message.directories_listed),
        not_listed=tuple(message.directories_not_listed),
        permissions_verified_at=None if verified is None else _read.moment(verified),
        response_id=message.response_id,
    )


def _rules(message: review_pb2.AccessClause) -> access_values.AccessClause:
    return access_values.AccessClause(
        clause=message.clause,
        scope=message.scope,
        rules=tuple(
            access_values.AccessRule(
                allow=one.allow,
                principals=tuple(one.principals),
                more=one.more,
                expires_at=_read.moment(one.expires_at) if one.HasField("expires_at") else None,
                in_force=one.in_force,
            )
            for one in message.rules
        ),
    )


def grants(message: review_pb2.ListGrantsResponse) -> access_values.AccessGrantPage:
    """Read rows for recertification."""
    found = tuple(
        access_values.AccessGrant(
            source=one.source,
            principal=one.principal,
            is_class=one.is_class,
            opens=one.opens,
            named=one.named,
            last_used_at=_read.moment(one.last_used_at) if one.HasField("last_used_at") else None,
        )
        for one in message.grants
    )
    return access_values.AccessGrantPage(found, message.next_page_token, message.response_id)


def preview(message: review_pb2.PreviewChangeResponse) -> access_values.AccessPreview:
    """Read what would change."""
    return access_values.AccessPreview(
        effects=tuple(
            access_values.AccessEffect(
                user=user(one.user),
                lost=one.lost,
                gained=one.gained,
                lost_examples=tuple(place(example) for example in one.lost_examples),
                gained_examples=tuple(place(example) for example in one.gained_examples),
            )
            for one in message.effects
        ),
        exact=message.exact,
        principals_lost=tuple(message.principals_lost),
        principals_gained=tuple(message.principals_gained),
        listed=tuple(message.directories_listed),
        not_listed=tuple(message.directories_not_listed),
        response_id=message.response_id,
    )
