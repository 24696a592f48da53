"""What calls, runs and floods of refusals leave behind in the audit log, member by member. Pure.

The form of a record, and its place in the log, are `service.audit.record`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Final, NamedTuple

from acl.decide import Allowed
from acl.model import Acl, Caller
from acl.principal import Principal
from service.audit.errors import RecordError
from service.audit.record import MAX_BYTES, Kind, Record, micros, record, timestamp

_RETRIEVAL: Final = "remit.v1.RetrievalService/"


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
    """What the caller held when it was decided: enough to see that two callers were equal, and how old it was.

    groups_age: of the groups of sources among it, None without any.
    """

    principals_sha256: str
    principals: int
    complete_realms: tuple[str, ...]
    resolution_age: timedelta
    roles: tuple[str, ...] = ()
    groups_age: timedelta | None = None

    @classmethod
    def of(
        cls, caller: Caller, at: datetime, roles: Iterable[str] = (), groups_verified_at: datetime | None = None
    ) -> Authority:
        """The authority of a resolved caller at the moment of the decision."""
        return cls(
            principals_sha256=_principals_digest(caller.principals),
            principals=len(caller.principals),
            complete_realms=tuple(sorted(caller.complete)),
            resolution_age=max(at - caller.resolved_at, timedelta(0)),
            roles=tuple(sorted(roles)),
            groups_age=None if groups_verified_at is None else max(at - groups_verified_at, timedelta(0)),
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
            } | ({} if h.groups_age is None else {"groups_age_us": micros(h.groups_age)})
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
        if self.kind is Kind.QUERY or (self.kind is Kind.ON_BEHALF and self.rpc.startswith(_RETRIEVAL)):
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


def removal_record(event: str, source: str, documents: int) -> Record:
    """The record of a source that is withheld (`source_removed`) or gone (`source_purged`)."""
    return record(Kind.INGEST, {"event": event, "source": source, "documents": documents})


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
