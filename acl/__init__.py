"""The access model: who may read what, decided in one place. Pure values and functions; see `acl/README.md`.

Dialects that translate the languages of other systems are imported by name: `acl.dialects.posix`, `acl.dialects.ntfs`.
So is `acl.readable`, which brings numpy: whoever only decides, or only names principals, does without.
"""

from acl.changes import AclDrop, AclPut, Change, DocumentDrop, DocumentPut, ScopeDrop, ScopePut
from acl.closure import Closure, Memberships
from acl.decide import OWN, Allowed, Decision, Denied, Match, Reason, decide, require
from acl.errors import AccessDeniedError, AclError, CallerExpiredError, DecodeError, InvalidValueError
from acl.model import (
    MAX_DEPTH,
    MAX_PRINCIPALS,
    MAX_RULES,
    NEVER,
    NOBODY,
    Acl,
    AclId,
    AclState,
    Caller,
    Clause,
    Effect,
    Rule,
    Scope,
    ScopeId,
    Unknown,
    clause_of,
    state_of,
)
from acl.normalize import decode, encode, fingerprint, normalize
from acl.principal import Principal, Realm, realm
from acl.scopes import ScopeRow, ScopeTree

__all__ = [
    "MAX_DEPTH",
    "MAX_PRINCIPALS",
    "MAX_RULES",
    "NEVER",
    "NOBODY",
    "OWN",
    "AccessDeniedError",
    "Acl",
    "AclDrop",
    "AclError",
    "AclId",
    "AclPut",
    "AclState",
    "Allowed",
    "Caller",
    "CallerExpiredError",
    "Change",
    "Clause",
    "Closure",
    "Decision",
    "DecodeError",
    "Denied",
    "DocumentDrop",
    "DocumentPut",
    "Effect",
    "InvalidValueError",
    "Match",
    "Memberships",
    "Principal",
    "Realm",
    "Reason",
    "Rule",
    "Scope",
    "ScopeDrop",
    "ScopeId",
    "ScopePut",
    "ScopeRow",
    "ScopeTree",
    "Unknown",
    "clause_of",
    "decide",
    "decode",
    "encode",
    "fingerprint",
    "normalize",
    "realm",
    "require",
    "state_of",
]
