"""Records of the audit log: what each holds, and the one sequence of bytes for it (RFC 8785).

Pure. No record holds text of a document, a title, a place or a query: ids, hashes, numbers and principals only.
Numbers are integers, scores in millionths; what is absent is left out and never null.
The writer adds the envelope (`envelope`), since only it knows the place of a record in the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Final, NamedTuple

import rfc8785

from acl.decide import Allowed
from acl.model import Acl, Caller
from acl.principal import Principal
from service import strict_json
from service.audit.errors import RecordError

FORMAT: Final = 2
SALT_BYTES: Final = 16
MAX_BYTES: Final = 4 * 1024 * 1024
_MAX_INTEGER: Final = 2**53 - 1


class Kind(Enum):
    """The class of a record; each may be kept for a time of its own."""

    QUERY = "query"  # calls that can return content
    ACCESS = "access"  # calls that ask who may read
    ADMIN = "admin"  # calls and commands that administer
    INGEST = "ingest"  # runs over sources
    CONTROL = "control"  # the log itself and the service: start, stop, other settings
    HEARTBEAT = "heartbeat"  # nothing happened, and the log was there
    AUDIT = "audit"  # calls that read the audit log
    STANDING = "standing"  # what stands until another record ends it: holds, expiries, stopped sources; never expires


@dataclass(frozen=True, slots=True)
class Record:
    """A record before it has its place: its class, and its body in canonical bytes. Build one with `record`.

    response_id: that of the body, empty when it has none.
    """

    kind: Kind
    body: bytes
    response_id: str = ""


def record(kind: Kind, body: Mapping[str, object]) -> Record:
    """Build a record. Raises RecordError for a value without a canonical form here."""
    try:
        _check(body, "body")
        data = _canonical(body)
    except (ValueError, RecursionError) as err:
        raise err if isinstance(err, RecordError) else RecordError(f"no canonical form: {err}") from err
    if len(data) > MAX_BYTES:
        raise RecordError(f"a record of {len(data)} bytes, more than {MAX_BYTES}")
    return Record(kind, data, str(body.get("response_id", "")))


def _check(value: object, where: str) -> None:
    # At every call, over every passage: types are compared before anything dearer is asked.
    kind = type(value)
    if kind is str or kind is bool:
        return
    if kind is int:
        if abs(value) > _MAX_INTEGER:  # type: ignore[arg-type]  # an int
            raise RecordError(f"{where} is a number beyond 2^53")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if type(key) is not str:
                raise RecordError(f"{where} has a member that is not named by text")
            _check(inner, key)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check(inner, where)
    else:
        raise RecordError(f"{where} is a {kind.__name__}, which no record holds")


def _canonical(value: object) -> bytes:
    """RFC 8785 of what `_check` let pass, which has no floats."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    # In ASCII it is the same, and ten times quicker; beyond, keys sort by UTF-16 code units (RFC 8785, 3.2.3).
    return text.encode() if text.isascii() else rfc8785.dumps(value)  # type: ignore[arg-type]  # checked before


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the writer adds.

    index: the record's number, from 0. previous: the leaf hash of the record before it, zeros for the first; so the
    records alone say which one was changed, where the tree only says that one was.
    salt: random, so that a leaf whose record is gone cannot be tried with guesses.
    session: one opening of the log. uptime_us: since then by the monotonic clock, which shows changes of the clock.
    """

    index: int
    previous: bytes
    salt: bytes
    session: str
    time: datetime
    uptime_us: int


_FORM: Final = (
    b'{"body":%b,"class":"%b","index":%d,"previous":"%b","salt":"%b","session":"%b","time":"%b","uptime_us":%d,"v":%d}'
)


def envelope(made: Record, place: Envelope) -> bytes:
    """The canonical bytes of a record at its place: the leaf of the tree."""
    # The keys stand in the order of RFC 8785, and none of the values needs escaping.
    return _FORM % (
        made.body,
        made.kind.value.encode(),
        place.index,
        place.previous.hex().encode(),
        place.salt.hex().encode(),
        place.session.encode(),
        timestamp(place.time).encode(),
        place.uptime_us,
        FORMAT,
    )


_OF_FIRST: Final = frozenset({"body", "class", "index", "previous", "session", "time", "uptime_us", "v"})
_MEMBERS: Final[Mapping[object, frozenset[str]]] = {1: _OF_FIRST, FORMAT: _OF_FIRST | {"salt"}}
"""The members of a record by its format. The first had no salt."""


def parse(data: bytes) -> dict[str, object]:
    """Read a record back, of this format or the first. Raises RecordError unless it is one, in canonical form."""
    try:
        found = strict_json.parse(data)
    except ValueError as err:
        raise RecordError("not the bytes of a record") from err
    if not isinstance(found, dict) or found.keys() != _MEMBERS.get(found.get("v")):
        raise RecordError("not a record of this format")
    _check(found, "record")
    if _canonical(found) != data:
        raise RecordError("not in canonical form")
    return found


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, always with microseconds. Raises RecordError without a time zone."""
    if moment.tzinfo is None:
        raise RecordError("a time without a time zone")
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def micros(duration: timedelta) -> int:
    """A duration in whole microseconds."""
    return duration // timedelta(microseconds=1)


# --- what a call leaves behind ---


@dataclass(frozen=True, slots=True)
class Actor:
    """Whom the credential proved. account: the immutable id of the account, empty when nobody was found.

    acting: who acted for the account, the current actor first; empty when it acted itself.
    """

    issuer: str
    subject: str
    token_id: str
    directory: str
    account: str = ""
    acting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Authority:
    """What the caller held when it was decided: enough to see that two callers were equal, and how old it was."""

    principals_sha256: str
    principals: int
    complete_realms: tuple[str, ...]
    resolution_age: timedelta
    roles: tuple[str, ...] = ()

    @classmethod
    def of(cls, caller: Caller, at: datetime, roles: Iterable[str] = ()) -> Authority:
        """The authority of a resolved caller at the moment of the decision."""
        return cls(
            principals_sha256=_principals_digest(caller.principals),
            principals=len(caller.principals),
            complete_realms=tuple(sorted(caller.complete)),
            resolution_age=max(at - caller.resolved_at, timedelta(0)),
            roles=tuple(sorted(roles)),
        )


def principals_digest(principals: Iterable[Principal]) -> str:
    """SHA-256 over the sorted tokens, one a line, as hex. A token holds no line feed."""
    return _principals_digest(frozenset(principals))


@lru_cache(maxsize=1024)  # a caller's set stays the same object for as long as the resolution is kept
def _principals_digest(principals: frozenset[Principal]) -> str:
    return hashlib.sha256("".join(f"{t}\n" for t in sorted(p.token for p in principals)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class About:
    """Whom a question was about, when that was not who asked: the account, and what it held."""

    directory: str
    account: str
    principals_sha256: str

    def body(self) -> dict[str, object]:
        """As it stands in a record."""
        return {
            "directory": self.directory,
            "account": self.account,
            "principals_sha256": self.principals_sha256,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """What was searched for. digest: `AuditKey.query_digest`. sealed: `AuditKey.seal_query`, empty when it is not kept.

    model: the digest of the model.
    """

    digest: str
    length: int
    limit: int
    model: str
    sources: tuple[str, ...] = ()
    explain: bool = False
    mode: str = "hybrid"
    sealed: str = ""
    exact: bool = False
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Sought:
    """How the candidates of a search were found: on which path and why, of how many, and how many were left.

    rounds: how often more was asked for, the first time included. dense_only: the index of words was down.
    reranked: how many passages a reranker ordered. not_reranked: it was down.
    """

    path: str
    why: str
    permitted: int
    scored: int
    survivors: int
    rounds: int
    dense_only: bool = False
    reranked: int = 0
    not_reranked: bool = False

    def body(self) -> dict[str, object]:
        """As it stands in a record."""
        return {
            "path": self.path,
            "why": self.why,
            "permitted": self.permitted,
            "scored": self.scored,
            "survivors": self.survivors,
            "rounds": self.rounds,
            # What was not is not there.
            **({"dense_only": True} if self.dense_only else {}),
            **({"reranked": self.reranked} if self.reranked else {}),
            **({"not_reranked": True} if self.not_reranked else {}),
        }


class Pass(NamedTuple):
    """How one clause let the caller through. clause: the scope's immutable id or `own`, never its place."""

    clause: str
    rule: int
    principal: str


@lru_cache(maxsize=8192)
def _token(principal: Principal) -> str:
    return principal.token


def passes(acl: Acl, allowed: Allowed) -> tuple[Pass, ...]:
    """The clauses of an ACL with the rule and the principal of each, outermost first.

    The decision names containers by their labels, which are places; here their ids stand instead.
    """
    names = [*(str(scope.id) for scope in (acl.scope.chain() if acl.scope is not None else ())), "own"]
    return tuple(
        Pass(name, match.rule, _token(match.principal)) for name, match in zip(names, allowed.matches, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Returned:
    """One passage that left, and why it was allowed.

    content_sha256: of the passage's text, as hex. score_e6: the cosine in millionths; left out where there is none.
    """

    rank: int
    source: str
    document_id: str
    version: str
    chunk_id: str
    content_sha256: str
    start: int
    end: int
    acl_id: int
    matches: tuple[Pass, ...]
    score_e6: int | None = None

    def body(self) -> dict[str, object]:
        """The passage as it stands in a record."""
        found: dict[str, object] = {
            "rank": self.rank,
            "source": self.source,
            "document_id": self.document_id,
            "version": self.version,
            "chunk_id": self.chunk_id,
            "content_sha256": self.content_sha256,
            "span": [self.start, self.end],
            "acl_id": self.acl_id,
            "matches": [{"clause": m.clause, "rule": m.rule, "principal": m.principal} for m in self.matches],
        }
        if self.score_e6 is not None:
            found["score_e6"] = self.score_e6
        return found

    def text(self) -> str:
        """The canonical form of `body`, written out: ten of them are in the record of most searches."""
        score = "" if self.score_e6 is None else f'"score_e6":{self.score_e6},'
        return (
            f'{{"acl_id":{self.acl_id},"chunk_id":{_quoted(self.chunk_id)},'
            f'"content_sha256":{_quoted(self.content_sha256)},"document_id":{_quoted(self.document_id)},'
            f'"matches":[{_matches_text(self.matches)}],"rank":{self.rank},{score}"source":{_quoted(self.source)},'
            f'"span":[{self.start},{self.end}],"version":{_quoted(self.version)}}}'
        )


_quoted: Final = encode_basestring
"""A string as RFC 8785 has it: escapes where JSON needs them, in lower case, and nowhere else."""


@lru_cache(maxsize=4096)
def _matches_text(matches: tuple[Pass, ...]) -> str:
    return ",".join(
        f'{{"clause":{_quoted(m.clause)},"principal":{_quoted(m.principal)},"rule":{m.rule}}}' for m in matches
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call, however it ended.

    code: the name of the gRPC status, such as `OK`. reason: that of the ErrorInfo, empty when the call succeeded.
    detail: a constant word that only the log sees, such as `expired` for a refused token.
    target: what an administrative call was about, such as the name of a source or the id of a run.
    conditions: what a reading of this log asked for, by the names of the request's fields.
    about: whom a question about access was about. checked: the documents that it was about, and whether that person, or
    the caller, may read them.
    epochs: the version of each source's rules that was decided on.
    withheld: by reason, how many candidates were not returned.
    stale: the sources that were left out, because their rules were not verified in time.
    """

    kind: Kind
    rpc: str
    response_id: str
    code: str
    latency: timedelta
    peer: str = ""
    request_id: str = ""
    reason: str = ""
    detail: str = ""
    target: str = ""
    conditions: Mapping[str, str] = field(default_factory=dict)
    actor: Actor | None = None
    authority: Authority | None = None
    asked: Asked | None = None
    returned: Sequence[Returned] = ()
    about: About | None = None
    checked: Sequence[tuple[str, bool]] = ()
    epochs: Mapping[str, int] = field(default_factory=dict)
    withheld: Mapping[str, int] = field(default_factory=dict)
    stale: Sequence[str] = ()
    candidates: int | None = None
    sought: Sought | None = None

    def record(self) -> Record:
        """The record of this call."""
        body: dict[str, object] = {
            "rpc": self.rpc,
            "response_id": self.response_id,
            "code": self.code,
            "latency_us": micros(self.latency),
        }
        texts = {"peer": self.peer, "request_id": self.request_id, "reason": self.reason, "detail": self.detail}
        body |= {key: text for key, text in {**texts, "target": self.target}.items() if text}
        if self.conditions:
            body["conditions"] = dict(self.conditions)
        if self.actor is not None:
            a = self.actor
            body["actor"] = {
                "issuer": a.issuer,
                "subject": a.subject,
                "token_id": a.token_id,
                "directory": a.directory,
                "account": a.account,
                **({"acting": list(a.acting)} if a.acting else {}),
            }
        if self.authority is not None:
            h = self.authority
            body["authority"] = {
                "principals_sha256": h.principals_sha256,
                "principals": h.principals,
                "complete_realms": list(h.complete_realms),
                "resolution_age_us": micros(h.resolution_age),
                "roles": list(h.roles),
            }
        if self.asked is not None:
            q = self.asked
            body["query"] = {
                "hmac_sha256": q.digest,
                "length": q.length,
                "limit": q.limit,
                "model": q.model,
                "sources": list(q.sources),
                "explain": q.explain,
                "exact": q.exact,
                "approximate": q.approximate,
                "mode": q.mode,
            } | ({"sealed": q.sealed} if q.sealed else {})
        if self.kind is Kind.QUERY:
            body["returned"] = []
        if self.about is not None:
            body["about"] = self.about.body()
        if self.checked:
            body["checked"] = [{"document_id": one, "readable": readable} for one, readable in self.checked]
        if self.epochs:
            body["epochs"] = dict(self.epochs)
        if self.withheld:
            body["withheld"] = dict(self.withheld)
        if self.stale:
            body["stale_sources"] = list(self.stale)
        if self.candidates is not None:
            body["candidates"] = self.candidates
        if self.sought is not None:
            body["sought"] = self.sought.body()
        return self._with_passages(record(self.kind, body)) if self.returned else record(self.kind, body)

    def _with_passages(self, made: Record) -> Record:
        """Put in the passages, which are in their form already. No text can hold the mark: its quotes are escaped."""
        try:
            written = ",".join([one.text() for one in self.returned]).encode()
        except UnicodeEncodeError as err:
            raise RecordError(f"no canonical form: {err}") from err
        before, mark, behind = made.body.partition(_NO_PASSAGES)
        if not mark or len(made.body) + len(written) > MAX_BYTES:
            raise RecordError(f"a record of {len(made.body) + len(written)} bytes, or without a place for passages")
        return Record(made.kind, b"".join((before, mark[:-1], written, mark[-1:], behind)), made.response_id)


_NO_PASSAGES: Final = b'"returned":[]'


def run_record(
    event: str, run_id: str, source: str, *, counts: Mapping[str, int] | None = None, failure: str = ""
) -> Record:
    """The record of a run over a source. event: `started`, `succeeded`, `failed` or `cancelled`.

    failure: a constant word.
    """
    body: dict[str, object] = {"event": event, "run_id": run_id, "source": source}
    if counts is not None:
        body["counts"] = dict(counts)
    if failure:
        body["failure"] = failure
    return record(Kind.INGEST, body)


def settings_record(before: str, after: str, changed: Sequence[str]) -> Record:
    """The record of settings that took the place of others. before, after: SHA-256 of the files, as hex.

    changed: what differs, such as `roles` or `sources.company`.
    """
    body = {"event": "settings_changed", "before_sha256": before, "after_sha256": after, "changed": list(changed)}
    return record(Kind.CONTROL, body)


def refused_record(peer: str, reason: str, first: datetime, last: datetime, calls: Mapping[str, int]) -> Record:
    """The record of refused calls from one address that came too fast for a record each.

    calls: how many, by method and detail.
    """
    body: dict[str, object] = {
        "event": "calls_refused",
        "peer": peer,
        "reason": reason,
        "count": sum(calls.values()),
        "first": timestamp(first),
        "last": timestamp(last),
        "calls": dict(calls),
    }
    return record(Kind.ACCESS, body)
