"""The audit log: what was answered, to whom and why, in a form that shows every later change."""

from service.audit.bodies import USES, Bodies, BodyKeys, Opener, Period
from service.audit.call import Actor, Asked, Authority, Call, Pass, Returned, passes, run_record
from service.audit.checkpoint import Checkpoint, Signer, Verifier
from service.audit.errors import AuditTamperedError, RecordError
from service.audit.key import AuditKey
from service.audit.log import AuditLog, Receipt
from service.audit.reading import AuditReader
from service.audit.record import Kind, Record, record
from service.audit.verify import Found, Problem, Received, VerifyReport, find, verify, verify_stretch

__all__ = [
    "USES",
    "Actor",
    "Asked",
    "AuditKey",
    "AuditLog",
    "AuditReader",
    "AuditTamperedError",
    "Authority",
    "Bodies",
    "BodyKeys",
    "Call",
    "Checkpoint",
    "Found",
    "Kind",
    "Opener",
    "Pass",
    "Period",
    "Problem",
    "Receipt",
    "Received",
    "Record",
    "RecordError",
    "Returned",
    "Signer",
    "Verifier",
    "VerifyReport",
    "find",
    "passes",
    "record",
    "run_record",
    "verify",
    "verify_stretch",
]
