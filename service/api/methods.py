"""The table of every method of the API: who may call it and how long a call may take.

A method of a `.proto` file without a row here is an error at start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from service.identity.roles import ACCESS_ADMIN, AUDITOR, CONTENT_AUDITOR, KEY_ADMIN, OPERATOR, SOURCE_OWNER, kind


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for one method.

    role: the role that the caller must hold; None for every caller with a valid credential.
    also: other roles that will do. Of a source-owner's, that of any source: which one it is, the handler looks at.
    default_s: the deadline of a call that brings none. longest_s: the latest deadline that is honoured.
    """

    role: str | None
    default_s: float = 30.0
    longest_s: float = 60.0
    also: frozenset[str] = frozenset()

    def opens(self, roles: Iterable[str]) -> bool:
        """Whether somebody with these roles may call the method."""
        return self.role is None or not ({self.role} | self.also).isdisjoint(kind(one) for one in roles)


_LOOKS: Final = frozenset({ACCESS_ADMIN, SOURCE_OWNER})
_CALLER: Final = Rule(None)
_OPERATOR: Final = Rule(OPERATOR)
_LOOK: Final = Rule(OPERATOR, also=_LOOKS)
_AUDITOR: Final = Rule(AUDITOR)
_REVIEW: Final = Rule(ACCESS_ADMIN, also=frozenset({AUDITOR}))
_KEY_ADMIN: Final = Rule(KEY_ADMIN, default_s=60.0, longest_s=600.0)
_DAY_S: Final = 24 * 3600.0

METHODS: Final = {
    "remit.v1.RetrievalService/Search": _CALLER,
    "remit.v1.RetrievalService/GetDocument": _CALLER,
    "remit.v1.RetrievalService/BatchGetChunks": _CALLER,
    "remit.v1.AccessService/GetCaller": _CALLER,
    "remit.v1.AccessService/CheckAccess": _CALLER,
    "remit.v1.AccessService/ExplainAccess": _CALLER,
    "remit.v1.AccessService/ListReadableDocuments": _CALLER,
    "remit.v1.ReviewService/CheckUserAccess": _REVIEW,
    "remit.v1.ReviewService/ExplainUserAccess": _REVIEW,
    "remit.v1.ReviewService/ListUserDocuments": _REVIEW,
    "remit.v1.ReviewService/ListDocuments": Rule(ACCESS_ADMIN, also=frozenset({AUDITOR, SOURCE_OWNER})),
    # Everybody is resolved and decided on, or every ACL looked at.
    "remit.v1.ReviewService/ListReaders": Rule(
        ACCESS_ADMIN, default_s=60.0, longest_s=600.0, also=frozenset({AUDITOR})
    ),
    "remit.v1.ReviewService/ListGrants": Rule(
        ACCESS_ADMIN, default_s=60.0, longest_s=600.0, also=frozenset({AUDITOR, SOURCE_OWNER})
    ),
    "remit.v1.ReviewService/ResolveUser": _REVIEW,
    "remit.v1.ReviewService/PreviewChange": Rule(
        ACCESS_ADMIN, default_s=60.0, longest_s=600.0, also=frozenset({AUDITOR})
    ),
    "remit.v1.SourceService/ListSources": _LOOK,
    "remit.v1.SourceService/GetSource": _LOOK,
    "remit.v1.SourceService/CheckSource": Rule(
        OPERATOR, default_s=60.0, longest_s=600.0, also=frozenset({SOURCE_OWNER})
    ),
    "remit.v1.SourceService/StartSync": _OPERATOR,
    "remit.v1.SourceService/GetSyncRun": _LOOK,
    "remit.v1.SourceService/ListSyncRuns": _LOOK,
    "remit.v1.SourceService/CancelSyncRun": Rule(OPERATOR, also=frozenset({SOURCE_OWNER})),
    # A watch follows a run to its end; it ends with the credential or a role at the latest.
    "remit.v1.SourceService/WatchSyncRun": Rule(OPERATOR, default_s=_DAY_S, longest_s=_DAY_S, also=_LOOKS),
    "remit.v1.SourceService/RemoveSource": _OPERATOR,
    "remit.v1.SourceService/ReloadSettings": Rule(OPERATOR, default_s=60.0, longest_s=600.0),
    "remit.v1.SourceService/ListHolds": _LOOK,
    # Who runs syncs does not decide what they may open: that is for those who answer for access.
    "remit.v1.SourceService/ApproveHold": Rule(ACCESS_ADMIN, also=frozenset({SOURCE_OWNER})),
    "remit.v1.SourceService/RejectHold": Rule(ACCESS_ADMIN, also=frozenset({SOURCE_OWNER})),
    "remit.v1.AuditService/GetAuditRecord": _AUDITOR,
    "remit.v1.AuditService/ListAuditRecords": _AUDITOR,
    # A large log takes its time, and `follow` stays; both end with the credential or the role at the latest.
    "remit.v1.AuditService/ExportAuditRecords": Rule(AUDITOR, default_s=_DAY_S, longest_s=_DAY_S),
    "remit.v1.AuditService/GetQueryText": Rule(CONTENT_AUDITOR),
    "remit.v1.AuditService/GetCheckpoint": _AUDITOR,
    "remit.v1.AuditService/GetInclusionProof": _AUDITOR,
    "remit.v1.AuditService/GetConsistencyProof": _AUDITOR,
    "remit.v1.StandingService/PlaceLegalHold": _KEY_ADMIN,
    "remit.v1.StandingService/ListLegalHolds": Rule(KEY_ADMIN, also=frozenset({AUDITOR})),
    "remit.v1.StandingService/LiftLegalHold": _KEY_ADMIN,
    "remit.v1.StandingService/ListStoppedSources": Rule(OPERATOR, also=frozenset({ACCESS_ADMIN, AUDITOR})),
    "remit.v1.StandingService/ClearSource": Rule(OPERATOR, also=frozenset({ACCESS_ADMIN})),
    "remit.v1.AuditService/RecordProof": _AUDITOR,
    "remit.v1.CustodyService/GetKeyStatus": _KEY_ADMIN,
    "remit.v1.CustodyService/RotateKeys": _KEY_ADMIN,
    "remit.v1.CustodyService/RewrapKeys": _KEY_ADMIN,
    "remit.v1.CustodyService/ShredDocument": _KEY_ADMIN,
    "remit.v1.CustodyService/ShredSource": _KEY_ADMIN,
    "remit.v1.CustodyService/RequestShredding": _KEY_ADMIN,
    "remit.v1.CustodyService/ListShredRequests": _KEY_ADMIN,
    "remit.v1.CustodyService/ApproveShredding": _KEY_ADMIN,
    "remit.v1.CustodyService/WithdrawShredding": _KEY_ADMIN,
    "remit.v1.IndexService/RebuildIndex": Rule(OPERATOR, default_s=_DAY_S, longest_s=_DAY_S),
    "remit.v1.CustodyService/CreateBackup": Rule(KEY_ADMIN, default_s=600.0, longest_s=_DAY_S),
}
