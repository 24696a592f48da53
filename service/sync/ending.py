"""The end of a walk and of a run: what was not met goes, and what was held is released, as far as the breaker lets it.

Rules that are held are released (docs/adr/0004):
1. Those of a document whose text is to do, with that text, by `service.sync.texts`.
2. Those of any other document, when the walk is complete: its version says that the text is the stored one.
3. Those of a container when the run is complete, if the source said the same of it from its first to its last word.
   A document below it whose text could not be confirmed is withheld from then on.
What the breaker keeps stays held, and the next complete run asks again (docs/adr/0015). Of several rules that were
replaced one after another meanwhile, only those that counted last stay, at the moments above.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final, TypeVar

import structlog

from acl.model import ScopeId
from connectors.errors import RetriableError
from service.stores.catalog import Catalog, Opening
from service.stores.holds import Acls, around_container
from service.stores.records import Counts, Problem
from service.stores.stops import StopKind
from service.stores.writer import NOBODY
from service.stores.writes import Known
from service.sync import holds
from service.sync.breaker import (
    Breaker,
    BreakerLimits,
    Verdict,
    key_of_document,
    key_of_purge,
    key_of_rules,
    key_of_scope,
)
from service.sync.questions import Questions
from service.sync.runs import Progress
from service.sync.walk import Walk

log = structlog.get_logger()

_BATCH: Final = 1000

UNLISTED: Final = "its container could not be listed in full, so that its rules were not verified"
GONE: Final = "its source does not list it any more: withheld, and its removal waits for an approval"

_T = TypeVar("_T")


class Ending:
    """Ends one walk: `finish` when the source said that it listed everything, `settle` when every text is stored."""

    def __init__(
        self,
        catalog: Catalog,
        opening: Opening,
        walk: Walk,
        progress: Progress,
        limits: BreakerLimits,
        on_commit: Callable[[], None],
        questions: Questions,
    ) -> None:
        self._catalog = catalog
        self._run = opening.run
        self._fence = opening.fence
        self._walk = walk
        self._progress = progress
        self._limits = limits
        self._on_commit = on_commit
        self._questions = questions
        self._widening: Verdict | None = None
        self._purge = Verdict()

    def may_widen(self) -> bool:
        """Whether the breaker has let this run widen access. Not before its walk is complete."""
        return self._widening is not None and not self._widening.kept

    def finish(self) -> None:
        """Make tombstones of what a complete walk did not meet. Raises RetriableError when it was not complete."""
        walk = self._walk
        with walk.lock:
            if walk.cursor is None:
                raise RetriableError("the source ended its listing early: nothing was removed, start the run again")
            walk.flush()
            stored = walk.documents.ordinals()
            gone, unlisted = self._unmet(stored - walk.met.seen)
            with self._catalog.reader() as reader:
                breaker = Breaker(self._limits, walk.comparison, reader.stops(self._run.source))
            self._purge = breaker.purge(gone, len(stored))
            self._drop_lost()
            widening = breaker.widening(walk.documents, walk.interned, walk.containers)
            self._list(widening)
            self._widening = widening
            self._release_settled()
            walk.hand_on_early()
            self._sweep(gone, unlisted)

    def settle(self) -> None:
        """Release what is held around containers once every text is stored; then tidy up."""
        walk = self._walk
        assert self._widening is not None, "the walk is complete"
        with walk.lock:
            released = self._parents()
            self._confirm_again()
            self._release_settled()
            doubtful = walk.met.doubtful()
            for part in _parts(doubtful):
                self._withhold_below(walk.documents.get(part), frozenset(released))
            with self._catalog.writer(self._run.source, self._fence) as writer:
                writer.rules.release(released)
                writer.rules.drop_unused()
                if self._widening.applied:
                    writer.stops.spend(self._widening.applied, self._unreleased(released))
                writer.stops.drop(self._purge.applied)
            self._on_commit()

    def _parents(self) -> dict[ScopeId, ScopeId | None]:
        """Return what lies directly around containers from now on of which something is released."""
        assert self._widening is not None
        found: dict[ScopeId, ScopeId | None] = {}
        for scope, known in self._walk.containers.to_release().items():
            left = holds.kept(known.held) if key_of_scope(scope, known) in self._widening.kept else ()
            if left != known.held:
                found[scope] = around_container(scope, left)[-1] if left else known.parent
        return found

    # What was not met.

    def _unmet(self, ordinals: Iterable[int]) -> tuple[list[int], list[int]]:
        """Divide what was not met into what is gone and what lies where not everything could be listed."""
        gone: list[int] = []
        unlisted: list[int] = []
        for part in _parts(ordinals):
            for known in self._walk.documents.get(part):
                (gone if self._walk.containers.is_gone(known.scope) else unlisted).append(known.ordinal)
        return gone, unlisted

    def _drop_lost(self) -> None:
        lost = self._walk.containers.lost()
        if not lost:
            return
        with self._catalog.writer(self._run.source, self._fence) as writer:
            if self._purge.kept:
                # What lies in them may come back, and with it what counted here.
                writer.rules.withhold_scopes(lost, GONE)
            else:
                writer.rules.drop_scopes(lost)
        self._walk.containers.forget(lost)
        self._on_commit()

    def _sweep(self, gone: list[int], unlisted: list[int]) -> None:
        kept = {ordinal for ordinal in gone if key_of_purge(ordinal) in self._purge.kept}
        withheld = self._withhold(unlisted, UNLISTED) + self._withhold(sorted(kept), GONE)
        for part in _parts(ordinal for ordinal in gone if ordinal not in kept):
            with self._catalog.writer(self._run.source, self._fence) as writer:
                writer.bury(part)
            self._on_commit()
            self._progress.add(Counts(removed=len(part)))
        problems = [(UNLISTED, "unlisted", len(unlisted)), (GONE, "not removed", len(kept))]
        self._progress.add(
            Counts(permissions_changed=withheld, skipped=len(unlisted)),
            [Problem("", word, f"{count} documents withheld: {why}") for why, word, count in problems if count],
        )

    def _withhold(self, ordinals: list[int], reason: str) -> int:
        """Withhold documents; return of how many that is news."""
        count = 0
        for part in _parts(ordinals):
            made = [self._walk.withholding(known, reason) for known in self._walk.documents.get(part)]
            news = [one for one in made if one is not None]
            if news:
                with self._catalog.writer(self._run.source, self._fence) as writer:
                    writer.withhold(news)
                self._on_commit()
            count += len(news)
        return count

    # What is held.

    def _list(self, widening: Verdict) -> None:
        """Write down what the breaker holds now, and forget what it held and nobody asks for any more."""
        if not any(verdict.moot or verdict.listed for verdict in (widening, self._purge)):
            return
        with self._catalog.writer(self._run.source, self._fence) as writer:
            held = [
                self._questions.write(writer, StopKind.WIDENING, widening),
                self._questions.write(writer, StopKind.PURGE, self._purge),
            ]
        for stop in held:
            self._questions.tell(stop)

    def _confirm_again(self) -> None:
        """Find the documents of which the source spoke twice whose stored text is that of the last word."""
        met = self._walk.met
        again = met.again()
        for part in _parts(again):
            for known in self._walk.documents.get(part):
                if known.source_version == again[known.ordinal]:
                    met.stored(known.ordinal)

    def _release_settled(self) -> None:
        """Release the rules of documents whose text is known to be the stored one."""
        walk = self._walk
        assert self._widening is not None
        held = {acl_id: (rules, key_of_rules(rules)) for acl_id, rules in walk.interned.items() if rules.held}
        ready = (walk.documents.with_acls(held) & walk.met.seen) - walk.met.doubtful()
        for part in _parts(ready):
            fresh: Acls = {}
            with self._catalog.writer(self._run.source, self._fence) as writer:
                given = []
                for known in walk.documents.get(part):
                    if known.acl_id not in held or not walk.containers.is_verified(known.scope):
                        continue
                    rules, key = held[known.acl_id]
                    kept = key_of_document(known.ordinal, key) in self._widening.kept
                    left = holds.kept(rules.held) if kept else ()
                    if left != rules.held:
                        given.append((known, walk.intern(rules._replace(held=left), writer, fresh)))
                writer.give(given)
            walk.remember(fresh)
            self._on_commit()

    def _unreleased(self, released: Collection[ScopeId]) -> frozenset[bytes]:
        """Name the changes that were not released, because what they open could not be verified."""
        walk = self._walk
        held = {acl_id: key_of_rules(rules) for acl_id, rules in walk.interned.items() if rules.held}
        return frozenset(
            [
                *(key_of_scope(scope, one) for scope, one in walk.containers.held().items() if scope not in released),
                *(
                    key_of_document(known.ordinal, held[known.acl_id])
                    for part in _parts(walk.documents.with_acls(held))
                    for known in walk.documents.get(part)
                    if known.acl_id in held
                ),
            ]
        )

    def _withhold_below(self, documents: list[Known], released: frozenset[ScopeId]) -> None:
        """Let nobody read documents in containers that are about to be released: their text may be an older one."""
        walk = self._walk
        fresh: Acls = {}
        with self._catalog.writer(self._run.source, self._fence) as writer:
            given = []
            for known in documents:
                rules = walk.interned.get(known.acl_id)
                if known.acl_id == NOBODY or rules is None:
                    continue
                if any(scope in released for scope in walk.containers.around(known.scope)):
                    closed = rules._replace(held=holds.withheld(rules.held, rules.own))
                    given.append((known, walk.intern(closed, writer, fresh)))
            writer.give(given)
        walk.remember(fresh)
        self._on_commit()


def _parts(values: Iterable[_T]) -> Iterable[list[_T]]:
    listed = list(values)
    for start in range(0, len(listed), _BATCH):
        yield listed[start : start + _BATCH]
