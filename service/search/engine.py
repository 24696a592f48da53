"""Answering callers: from a question to passages, and from ids to passages and documents.

For a search, in this order (the caller is resolved before, the audit record is written and the answer leaves after):

1. the query becomes a unit vector
2. a snapshot gives the chunks that the caller may read; among them one index proposes the nearest, the other those with
   the query's words, and both rankings become one by rank (`service.search.fuse`); while the second one is down, the
   first answers alone and the answer says so
3. another snapshot, later: the catalog's current rules decide on every candidate, and exactly the decided version of
   each text is opened and checked against its hash
4. when fewer than `limit` survived and the index has more, 2 and 3 again with more candidates, a few times
5. with a reranker, more survivors than `limit` are ordered once more by reading them beside the question; their scores
   stay cosines

Everything blocks and runs in a thread of `service.executor`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from pyroaring import AbstractBitMap, BitMap

from service.access.index import Access, Snapshot, SourceAge
from service.embed.embedder import Embedder
from service.errors import NotFoundError, RemitError, SearchUnavailableError
from service.identity.callers import Current
from service.index.base import Index, Keywords, Proposal
from service.search.fuse import fuse
from service.search.reading import DocumentView, Passage, Resolve, open_passages, permit, refusals, resolved, stand_in
from service.search.rerank import Reranker
from service.search.shadow import Shadow
from service.stores.records import StoredChunk
from service.stores.sealing import Sealing

log = structlog.get_logger()

_ROUNDS: Final = 3
_FIRST: Final = 2
_GROWTH: Final = 4
"""A first round asks for twice the limit, each further one for four times as many as the one before."""
_FUSED: Final = 50
"""Rankings that become one are at least so long, however few candidates are asked for."""


class DamagedTextError(RemitError):
    """A document cannot be returned whole, because a passage does not open or does not have its hash."""


class Mode(Enum):
    """What a passage is found by: its meaning, its words, or both."""

    HYBRID = "hybrid"
    DENSE = "dense"
    KEYWORD = "keyword"


@dataclass(frozen=True, slots=True)
class Query:
    """A question. limit: 1 to 100. sources: names; empty means all.

    exact: compare the vectors of every readable passage.
    approximate: let the index use a graph, if the deployment allows one (docs/approximate.md).
    """

    text: str
    limit: int
    sources: frozenset[str] = frozenset()
    exact: bool = False
    mode: Mode = Mode.HYBRID
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old what an answer rests on is. principals_incomplete: a directory could not say what the caller holds."""

    principals_resolved_at: datetime
    sources: tuple[SourceAge, ...]
    principals_incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What an answer rests on. epochs: the version of each source's rules."""

    freshness: Freshness
    epochs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Trace:
    """How the candidates of a search were found. For the audit log: no caller sees it.

    path, why: of the vectors, in the last round. permitted: how many chunks the caller could read. scored: how many
    were compared by full vectors, survivors: how many of the candidates were allowed, both in the last round.
    dense_only: words were asked for, too, and their index was down. The caller is told that.
    reranked: how many passages were ordered once more. not_reranked: they were not, because the reranker was down.
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


@dataclass(frozen=True, slots=True)
class Answer:
    """Passages in their order, with what the audit log wants to know.

    scores: one cosine for each passage of a search, empty for a reading.
    caller: as it was decided on, which is later than the call's when it was resolved again.
    epochs: the version of the rules of each source that a search could draw on, of each that a reading returned from.
    withheld: how many candidates were left out, by reason.
    trace: of a search.
    """

    passages: tuple[Passage, ...]
    scores: tuple[float, ...]
    freshness: Freshness
    caller: Current
    decided_at: datetime
    epochs: Mapping[str, int]
    candidates: int
    withheld: Mapping[str, int] = field(default_factory=dict)
    trace: Trace | None = None

    @property
    def dense_only(self) -> bool:
        """Whether words were asked for, too, and their index was down."""
        return self.trace is not None and self.trace.dense_only

    @property
    def not_reranked(self) -> bool:
        """Whether passages should have been ordered once more, and were not."""
        return self.trace is not None and self.trace.not_reranked

    @property
    def document(self) -> DocumentView:
        """The document of an answer that has one."""
        return self.passages[0].document


class Retrieval:
    """Everything that returns text."""

    def __init__(
        self,
        *,
        access: Access,
        index: Index,
        keywords: Keywords,
        embedder: Embedder,
        sealing: Sealing,
        callers: Resolve,
        shadow: Shadow,
        reranker: Reranker | None = None,
    ) -> None:
        self._access = access
        self._index = index
        self._keywords = keywords
        self._embedder = embedder
        self._sealing = sealing
        self._callers = callers
        self._shadow = shadow
        self._reranker = reranker

    @property
    def model(self) -> str:
        """The digest of the model that queries are embedded with."""
        return self._embedder.digest

    def search(self, caller: Current, query: Query) -> Answer:
        """Return the passages that answer the query best among those that the caller may read, best first.

        Raises SearchUnavailableError, DirectoryUnavailableError, UnauthenticatedError.
        """
        if caller.subject.acting is not None:
            query = replace(query, sources=caller.subject.acting.within(query.sources))
        vector = self._embedder.embed([query.text])[0]

        def work(current: Current, again: bool) -> Answer:
            wanted = max(query.limit, 0 if self._reranker is None else self._reranker.top)
            asked, rounds = wanted * _FIRST, 0
            while True:
                rounds += 1
                with self._access.snapshot() as snapshot:
                    rows = snapshot.permitted(current.resolved.caller, query.sources).chunks
                    if current.actor is not None:
                        rows = rows & snapshot.permitted(current.actor, query.sources).chunks
                found = self._found(vector, query, rows, asked)
                answer = self._decided(current, again, found, query, wanted)
                if len(answer.passages) >= wanted or found.all or rounds == _ROUNDS:
                    if query.mode is not Mode.KEYWORD:
                        self._shadow.consider(vector, rows, found.proposal, query.limit)
                    traced = replace(answer, trace=_trace(found, len(rows), answer, rounds))
                    return traced if self._reranker is None else self._reranked(self._reranker, traced, query)
                asked *= _GROWTH

        return resolved(self._callers, caller, work)

    def _found(self, vector: NDArray[np.float32], query: Query, rows: AbstractBitMap, asked: int) -> _Found:
        """Step 2: the ranking that the mode asks for, with the cosine of everything in it.

        # INVARIANT: both indexes get the permitted rows and nothing else, so both rankings, and how long they are,
        # depend on nothing else, unless an approximate search was asked for and is allowed.
        """
        care = {"exact": query.exact, "approximate": query.approximate}
        if query.mode is Mode.DENSE:
            proposal = self._index.search(vector, rows, asked, **care)
            scores = {candidate.row: candidate.score for candidate in proposal.candidates}
            return _Found(list(scores), scores, proposal, len(scores) < asked)
        # Deeper than asked: what is good in both may be among the first in neither.
        depth = max(asked, _FUSED) if query.mode is Mode.HYBRID else asked
        try:
            words = self._keywords.search(query.text, rows, depth)
        except SearchUnavailableError:
            if query.mode is Mode.KEYWORD:
                raise
            # Whether a process is down depends on no passage, and half of an answer that says so is better than none.
            found = self._found(vector, replace(query, mode=Mode.DENSE), rows, asked)
            return replace(found, dense_only=True)
        if query.mode is Mode.KEYWORD:
            proposal = self._index.search(vector, BitMap(words), max(len(words), 1), exact=True)
            scores = {candidate.row: candidate.score for candidate in proposal.candidates}
            return _Found([row for row in words if row in scores], scores, proposal, len(words) < asked)
        proposal = self._index.search(vector, rows, depth, **care)
        scores = {candidate.row: candidate.score for candidate in proposal.candidates}
        nearest = list(scores)
        fused = fuse([nearest, words])
        missing = BitMap(row for row in fused[:asked] if row not in scores)
        if missing:
            others = self._index.search(vector, missing, len(missing), exact=True)
            scores.update((candidate.row, candidate.score) for candidate in others.candidates)
        # The two follow the feed each for itself: what has words and no vector yet, has no score and waits.
        ranking = [row for row in fused[:asked] if row in scores]
        everything = len(nearest) < depth and len(words) < depth and len(fused) <= asked
        return _Found(ranking, scores, proposal, everything)

    def _reranked(self, reranker: Reranker, answer: Answer, query: Query) -> Answer:
        """Step 5. While the reranker is down the order is that of step 2, and the answer says so."""
        assert answer.trace is not None
        places = list(range(len(answer.passages)))
        try:
            places = reranker.order(query.text, [passage.text for passage in answer.passages])
        except SearchUnavailableError as err:
            log.warning("not_reranked", detail=str(err))
            trace = replace(answer.trace, not_reranked=True)
        else:
            trace = replace(answer.trace, reranked=len(places))
        kept = places[: query.limit]
        return replace(
            answer,
            passages=tuple(answer.passages[place] for place in kept),
            scores=tuple(answer.scores[place] for place in kept),
            trace=trace,
        )

    def _decided(self, current: Current, again: bool, found: _Found, query: Query, wanted: int) -> Answer:
        """Step 3: the first `wanted` of them that may be read."""
        rows, scores = found.ranking, found.scores
        with self._access.snapshot() as snapshot:
            chunks = snapshot.reader.chunks(rows)
            documents = snapshot.reader.documents({chunk.ordinal for chunk in chunks.values()})
            # The index is derived: a document of another source than asked for cannot be a candidate, but the
            # catalog has the last word on that, too.
            within = [d for d in documents.values() if not query.sources or d.source in query.sources]
            permits = permit(snapshot, within, current, again=again)
            refused = refusals(snapshot, [d for d in within if d.ordinal not in permits], current)
            facts = facts_of(snapshot, current, query.sources)
            snapshot.release()
            ordered = [chunks[row] for row in rows if row in chunks and chunks[row].ordinal in permits]
            passages = list(islice(open_passages(self._sealing, permits, ordered), wanted))
        return Answer(
            passages=tuple(passages),
            scores=tuple(scores[passage.row] for passage in passages),
            freshness=facts.freshness,
            caller=current,
            decided_at=snapshot.at,
            epochs=facts.epochs,
            candidates=len(rows),
            withheld=_withheld(rows, chunks, permits, refused)
            | _unreadable([chunk.row for chunk in ordered], [passage.row for passage in passages], wanted),
        )

    def document(self, caller: Current, document_id: str) -> Answer:
        """Return all passages of one document.

        Raises NotFoundError when it does not exist, has no text or may not be read: nothing says which.
        """

        def work(current: Current, again: bool) -> Answer:
            with self._access.snapshot() as snapshot:
                stored = snapshot.reader.document_by_id(document_id)
                permits = permit(snapshot, [stored], current, again=again)
                facts = facts_of(snapshot, current, frozenset())
                snapshot.release()
                if stored is None or stored.ordinal not in permits:
                    raise NotFoundError("the document does not exist or may not be read")
                chunks = snapshot.reader.chunks_of(stored.ordinal)
                passages = list(open_passages(self._sealing, permits, chunks))
            if not passages or len(passages) < stored.row_stop - stored.row_start:
                raise DamagedTextError("a passage of the document does not open")
            return self._read(snapshot, current, facts, passages, asked=1)

        return resolved(self._callers, caller, work)

    def chunks(self, caller: Current, chunk_ids: Sequence[str]) -> Answer:
        """Return passages in the order asked; those absent or not readable are left out alike."""

        def work(current: Current, again: bool) -> Answer:
            with self._access.snapshot() as snapshot:
                wanted = set(chunk_ids)
                stored = snapshot.reader.chunks_by_id(wanted)
                # As many rows of each kind are asked for, read and decided on as ids came, whether they are hidden or
                # absent and of how many documents: others stand in for what is not there, and nobody gets them.
                ordinals = {chunk.ordinal for chunk in stored.values()}
                documents = snapshot.reader.documents(ordinals | set(range(len(ordinals) - len(wanted), 0)))
                snapshot.reader.any_chunks(len(wanted) - len(stored))
                stand_in(snapshot, snapshot.reader.any_documents(len(wanted) - len(documents)), current)
                permits = permit(snapshot, documents.values(), current, again=again)
                facts = facts_of(snapshot, current, frozenset())
                snapshot.release()
                by_id = {p.chunk_id: p for p in open_passages(self._sealing, permits, stored.values())}
            passages = [by_id[chunk_id] for chunk_id in chunk_ids if chunk_id in by_id]
            return self._read(snapshot, current, facts, passages, asked=len(chunk_ids))

        return resolved(self._callers, caller, work)

    def freshness(self, caller: Current) -> Freshness:
        """Return how fresh everything is that the caller may read something of."""

        def work(current: Current, again: bool) -> Freshness:
            with self._access.snapshot() as snapshot:
                return facts_of(snapshot, current, frozenset()).freshness

        return resolved(self._callers, caller, work)

    def _read(
        self, snapshot: Snapshot, current: Current, facts: Facts, passages: Sequence[Passage], asked: int
    ) -> Answer:
        return Answer(
            passages=tuple(passages),
            scores=(),
            freshness=facts.freshness,
            caller=current,
            decided_at=snapshot.at,
            epochs={name: facts.epochs[name] for name in sorted({p.document.source for p in passages})},
            candidates=asked,
        )


def facts_of(snapshot: Snapshot, current: Current, sources: frozenset[str]) -> Facts:
    """Return how fresh those sources are that the caller may know of. No sources: all."""
    if current.subject.acting is not None:
        sources = current.subject.acting.within(sources)
    ages = snapshot.ages(current.resolved.caller, sources)
    if current.actor is not None:
        known = {age.source for age in snapshot.ages(current.actor, sources)}
        ages = tuple(age for age in ages if age.source in known)
    return Facts(
        Freshness(current.resolved.caller.resolved_at, ages, current.incomplete),
        snapshot.epochs(frozenset(age.source for age in ages)),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """Candidates. ranking: rows, best first. scores: the cosine of each. all: there are no more of them.

    dense_only: see `Trace`.
    """

    ranking: list[int]
    scores: Mapping[int, float]
    proposal: Proposal
    all: bool
    dense_only: bool = False


def _trace(found: _Found, permitted: int, answer: Answer, rounds: int) -> Trace:
    survivors = answer.candidates - sum(answer.withheld.values())
    how = found.proposal
    return Trace(how.path.value, how.why, permitted, how.scored, survivors, rounds, found.dense_only)


def _withheld(
    rows: Iterable[int], chunks: Mapping[int, StoredChunk], permits: Container[int], refused: Mapping[int, str]
) -> dict[str, int]:
    """How many candidates were left out, by reason: `gone` from the catalog, of no source asked for, or refused."""
    found: Counter[str] = Counter()
    for row in rows:
        chunk = chunks.get(row)
        if chunk is None:
            found["gone"] += 1
        elif chunk.ordinal not in permits:
            found[refused.get(chunk.ordinal, "not asked for")] += 1
    return dict(found)


def _unreadable(ordered: Sequence[int], opened: Sequence[int], limit: int) -> dict[str, int]:
    """How many permitted candidates did not open, among those that were tried."""
    tried = ordered.index(opened[-1]) + 1 if len(opened) == limit else len(ordered)
    return {"unreadable": tried - len(opened)} if tried > len(opened) else {}
