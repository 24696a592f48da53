"""`readable` is `decide` for all ACLs at once, whatever happened before."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.changes import AclDrop, AclPut, Change, DocumentDrop, DocumentPut, ScopeDrop, ScopePut
from acl.decide import Allowed, decide
from acl.errors import CallerExpiredError, InvalidValueError
from acl.model import MAX_DEPTH, NEVER, NOBODY, AclId, Caller, Clause, Effect, Rule, ScopeId, Unknown
from acl.normalize import normalize
from acl.principal import Principal, Realm
from acl.readable import ReadableIndex
from tests.acl.reference import chain, may_read, plain_clause
from tests.strategies import FAR, MOMENTS, START, callers, clauses, doubtful_callers, moments, unknowns

_SCOPES = [ScopeId(f"s{n}") for n in range(6)]
_ACLS = [AclId(n) for n in range(1, 9)]
_ORDINALS = range(8)

own = st.one_of(clauses, clauses, clauses, unknowns)
changes = st.one_of(
    st.builds(ScopePut, st.sampled_from(_SCOPES), st.sampled_from([None, *_SCOPES]), own, st.just("")),
    st.builds(ScopeDrop, st.sampled_from(_SCOPES)),
    st.builds(AclPut, st.sampled_from(_ACLS), st.sampled_from([None, *_SCOPES]), own),
    st.builds(AclDrop, st.sampled_from(_ACLS)),
    st.builds(
        lambda ordinal, acl_id, shape: DocumentPut(
            ordinal, acl_id, tuple((ordinal * 10 + a, ordinal * 10 + b) for a, b in shape)
        ),
        st.sampled_from(_ORDINALS),
        st.sampled_from([AclId(0), *_ACLS]),
        st.sampled_from([(), ((0, 1),), ((0, 7),), ((1, 3), (5, 9))]),
    ),
    st.builds(DocumentDrop, st.sampled_from(_ORDINALS)),
)


class World:
    """The state that a change log describes, kept as plainly as possible."""

    def __init__(self) -> None:
        self.scopes: dict[str, tuple[str | None, Any]] = {}
        self.acls: dict[int, tuple[str | None, Any]] = {}
        self.documents: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {}

    def apply(self, batch: Sequence[Change]) -> None:
        for change in batch:
            match change:
                case ScopePut(name, parent, clause):
                    self.scopes[name] = (parent, None if isinstance(clause, Unknown) else plain_clause(clause))
                case ScopeDrop(name):
                    self.scopes.pop(name, None)
                case AclPut(number, scope, clause):
                    self.acls[number] = (scope, None if isinstance(clause, Unknown) else plain_clause(clause))
                case AclDrop(number):
                    self.acls.pop(number, None)
                case DocumentPut(ordinal, number, rows):
                    self.documents[ordinal] = (number, rows)
                case DocumentDrop(ordinal):
                    self.documents.pop(ordinal, None)

    def allowed(self, caller: Caller, at: datetime) -> set[int]:
        found = set()
        for number, (scope, clause) in self.acls.items():
            around = chain(self.scopes, scope)
            if (
                around is not None
                and clause is not None
                and may_read([*around, clause], caller.principals, caller.complete, at.timestamp())
            ):
                found.add(number)
        return found


@given(
    st.lists(st.lists(changes, max_size=12), max_size=6), st.lists(st.tuples(callers, moments), min_size=1, max_size=4)
)
def test_readable_is_decide_after_any_changes(
    batches: list[list[Change]], questions: list[tuple[Caller, datetime]]
) -> None:
    """After any interleaving of changes and questions, `readable` gives what `decide` allows, counted exactly."""
    index, world = ReadableIndex(), World()

    for batch in batches:
        index.apply("source", batch)
        world.apply(batch)

        for caller, at in questions:
            found = index.readable(caller, at)
            allowed = world.allowed(caller, at)
            assert set(found.acl_ids) == allowed
            assert {n for n in _ACLS if isinstance(decide(index.acl(n), caller, at), Allowed)} == allowed
            documents = {o: rows for o, (n, rows) in world.documents.items() if n in allowed}
            assert set(found.documents) == set(documents)
            assert set(found.chunks) == {row for rows in documents.values() for a, b in rows for row in range(a, b)}
            assert found.chunk_count == len(found.chunks)
            for later in MOMENTS:
                if at <= later < found.valid_until:
                    assert world.allowed(caller, later) == allowed


@given(
    st.lists(st.builds(AclPut, st.sampled_from(_ACLS), st.none(), clauses.map(normalize)), max_size=8),
    st.lists(st.tuples(doubtful_callers, moments), min_size=1, max_size=4),
)
def test_readable_is_decide_for_callers_of_whom_something_is_doubtful(
    puts: list[AclPut], questions: list[tuple[Caller, datetime]]
) -> None:
    """Of clauses in normal form, as the stored ones are, one caller after the other and as long as the answer says."""
    index = ReadableIndex()
    index.apply("source", puts)

    for caller, at in questions:
        found = index.readable(caller, at)
        for later in [at, *MOMENTS]:
            if at <= later < found.valid_until:
                allowed = {
                    put.acl_id for put in puts if isinstance(decide(index.acl(put.acl_id), caller, later), Allowed)
                }
                assert set(found.acl_ids) == allowed


@given(st.lists(changes, max_size=40), callers, moments)
def test_one_batch_equals_many(batch: list[Change], caller: Caller, at: datetime) -> None:
    """How the changes are cut into batches makes no difference, and neither does when the first question comes."""
    at_once, one_by_one, world = ReadableIndex(), ReadableIndex(), World()
    world.apply(batch)

    at_once.apply("source", batch)
    for change in batch:
        one_by_one.apply("source", [change])

    a, b = at_once.readable(caller, at), one_by_one.readable(caller, at)
    assert (a.acl_ids, a.documents, a.chunks, a.chunk_count) == (b.acl_ids, b.documents, b.chunks, b.chunk_count)
    assert set(a.acl_ids) == world.allowed(caller, at)


_A, _B = Principal(Realm("ad"), "a"), Principal(Realm("ad"), "b")
_HOLDERS = [Caller("u", frozenset(held), frozenset({Realm("ad")}), START, FAR) for held in ((_A,), (_B,), (_A, _B))]
_open = st.sampled_from(
    [Clause((Rule(Effect.ALLOW, frozenset(named)),)) for named in ((_A,), (_B,), (_A, _B), (_A, _B), (_A, _B))]
)
_moves = st.builds(ScopePut, st.sampled_from(_SCOPES), st.sampled_from([None, *_SCOPES]), _open, st.just(""))


@given(
    st.lists(st.lists(_moves | st.builds(ScopeDrop, st.sampled_from(_SCOPES)), max_size=4), max_size=12), st.booleans()
)
def test_containers_may_move_anywhere(batches: list[list[Change]], asked_each_time: bool) -> None:
    """However open and closed containers are moved about, in circles and back, each document lies where it should."""
    index, world = ReadableIndex(), World()
    documents: list[Change] = []
    for number, scope in enumerate(_SCOPES, 1):
        documents.append(AclPut(AclId(number), scope, Clause((Rule(Effect.ALLOW, frozenset({_A, _B})),))))
        documents.append(DocumentPut(number, AclId(number), ((number, number + 1),)))
    for turn, batch in enumerate([documents, *batches]):
        # Documents keep coming, so that what was merged on a move is added to afterwards.
        more: list[Change] = [DocumentPut(100 + turn, AclId(turn % len(_SCOPES) + 1), ((100 + turn, 101 + turn),))]
        index.apply("source", [*batch, *more])
        world.apply([*batch, *more])
        if asked_each_time or turn == len(batches):
            for caller in _HOLDERS:
                found = index.readable(caller, START)
                allowed = world.allowed(caller, START)
                assert set(found.acl_ids) == allowed
                assert set(found.documents) == {o for o, (n, _) in world.documents.items() if n in allowed}
                assert len(found.chunks) == found.chunk_count == len(found.documents)


_AD = Realm("ad")
_ALICE, _STAFF = Principal(_AD, "alice"), Principal(_AD, "staff")
_CALLER = Caller("alice", frozenset({_ALICE, _STAFF}), frozenset({_AD}), START, FAR)


def _allow(*principals: Principal, until: datetime = NEVER) -> Clause:
    return Clause((Rule(Effect.ALLOW, frozenset(principals), until),))


def _document(number: int, own: Clause | Unknown, scope: str | None = None) -> list[Change]:
    place = None if scope is None else ScopeId(scope)
    return [AclPut(AclId(number), place, own), DocumentPut(number, AclId(number), ((number * 10, number * 10 + 2),))]


def test_an_answer_stays_what_it_was() -> None:
    """Bitmaps that are asked for after a change are those of the state before it, as the count promised."""
    index = ReadableIndex()
    index.apply("a", [ScopePut(ScopeId("s"), None, _allow(_STAFF)), *_document(1, _allow(_ALICE), "s")])
    index.apply("a", _document(2, _allow(_ALICE)))
    before = index.readable(_CALLER, START)

    index.apply("a", [ScopePut(ScopeId("s"), None, NOBODY), DocumentDrop(2), *_document(3, _allow(_ALICE))])

    after = index.readable(_CALLER, START)
    assert (set(before.documents), set(before.chunks), before.chunk_count) == ({1, 2}, {10, 11, 20, 21}, 4)
    assert (set(after.documents), set(after.chunks), after.chunk_count) == ({3}, {30, 31}, 2)


def test_what_was_hidden_stays_hidden_in_an_answer() -> None:
    """A document that leaves a closed container later, or comes into it, does not show in an earlier answer."""
    index = ReadableIndex()
    index.apply("a", [ScopePut(ScopeId("s"), None, NOBODY), *_document(1, _allow(_ALICE), "s")])
    index.apply("a", _document(2, _allow(_ALICE)))
    index.readable(_CALLER, START)
    before = index.readable(Caller("c", frozenset({_ALICE}), frozenset({_AD}), START, FAR), START)

    index.apply("a", [*_document(1, _allow(_ALICE)), *_document(3, _allow(_ALICE), "s")])

    assert set(before.documents) == {2}
    assert set(before.chunks) == {20, 21}
    assert set(index.readable(_CALLER, START).documents) == {1, 2}


@pytest.mark.parametrize("solved", ["x", "y"])
def test_a_circle_is_solved_at_either_end(solved: str) -> None:
    """Two containers inside each other are nobody's; when either leaves the circle, what lies in both is read again."""
    index = ReadableIndex()
    index.apply("a", [ScopePut(ScopeId("x"), ScopeId("y"), _allow(_STAFF)), *_document(1, _allow(_ALICE), "x")])
    index.apply("a", [ScopePut(ScopeId("y"), ScopeId("x"), _allow(_STAFF)), *_document(2, _allow(_ALICE), "y")])
    closed = index.readable(_CALLER, START)

    index.apply("a", [ScopePut(ScopeId(solved), None, _allow(_STAFF))])

    assert set(closed.documents) == set()
    assert set(index.readable(_CALLER, START).documents) == {1, 2}


def test_containers_do_not_share_what_lies_in_them() -> None:
    """What comes into a container after another was moved into it is not taken to lie in that other one too."""
    index = ReadableIndex()
    outer, inner = _allow(_ALICE), _allow(Principal(_AD, "bob"))
    index.apply("a", [ScopePut(ScopeId("outer"), None, outer), ScopePut(ScopeId("inner"), None, inner)])
    index.apply("a", _document(1, _allow(_ALICE), "inner"))
    index.apply("a", [ScopePut(ScopeId("inner"), ScopeId("outer"), inner)])

    index.apply("a", _document(2, _allow(_ALICE), "outer"))

    assert set(index.readable(_CALLER, START).documents) == {2}


def test_an_answer_cannot_be_changed() -> None:
    """The bitmaps of an answer are shared with other callers, so they are frozen."""
    index = ReadableIndex()
    index.apply("a", _document(1, _allow(_ALICE)))

    found = index.readable(_CALLER, START)

    for bitmap in (found.acl_ids, found.documents, found.chunks):
        assert not hasattr(bitmap, "add")


def test_sources_are_kept_apart() -> None:
    """A caller stays warm in one source while another changes, and sees of each what was asked for."""
    index = ReadableIndex()
    index.apply("a", _document(1, _allow(_ALICE)))
    index.apply("b", _document(2, _allow(_ALICE)))
    warm = index.readable(_CALLER, START, frozenset({"a"}))

    index.apply("b", _document(3, _allow(_STAFF)))

    assert index.readable(_CALLER, START, frozenset({"a"})).acl_ids is warm.acl_ids
    assert (index.epoch("a"), index.epoch("b"), index.epoch("c")) == (1, 2, 0)
    assert set(index.readable(_CALLER, START).documents) == {1, 2, 3}
    assert set(index.readable(_CALLER, START, frozenset({"b", "c"})).documents) == {2, 3}
    assert set(index.readable(_CALLER, START, frozenset()).documents) == set()
    index.drop("b")
    assert set(index.readable(_CALLER, START).documents) == {1}


def test_another_sources_documents_are_refused() -> None:
    """A source that names an ACL or a document of another is refused before anything changes."""
    index = ReadableIndex()
    index.apply("a", _document(1, _allow(_STAFF)))

    for wrong in (AclPut(AclId(1), None, _allow(_ALICE)), DocumentPut(1, AclId(9), ())):
        with pytest.raises(InvalidValueError, match="another source"):
            index.apply("b", [*_document(2, _allow(_ALICE)), wrong])

    assert set(index.readable(_CALLER, START).documents) == {1}
    index.apply("b", _document(2, _allow(_ALICE)))
    assert set(index.readable(_CALLER, START).documents) == {1, 2}


def test_a_document_under_another_sources_acl_is_nobodys() -> None:
    """A document that names an ACL of another source is not governed by it, whichever of the two comes first."""
    index = ReadableIndex()
    index.apply("b", [DocumentPut(2, AclId(1), ((20, 21),)), DocumentPut(3, AclId(7), ((30, 31),))])

    index.apply("a", _document(1, _allow(_ALICE)))
    index.apply("b", [DocumentPut(4, AclId(1), ((40, 41),))])

    found = index.readable(_CALLER, START)
    assert (set(found.documents), set(found.chunks), found.chunk_count) == ({1}, {10, 11}, 2)
    index.apply("b", [AclPut(AclId(7), None, _allow(_ALICE))])
    assert set(index.readable(_CALLER, START).documents) == {1, 3}


def test_numbers_of_sources_may_alternate() -> None:
    """Sources whose ACLs, documents and rows lie between each other's, far apart, answer as if they were alone."""
    index = ReadableIndex()
    numbers = [*range(1, 400), *range(70_000, 70_400), (1 << 24) - 2, (1 << 24) - 1]
    for source, names in (("a", numbers[::2]), ("b", numbers[1::2])):
        index.apply(
            source,
            [
                change
                for number in names
                for change in (
                    AclPut(AclId(number), None, _allow(_ALICE if number % 3 else Principal(_AD, "bob"))),
                    DocumentPut(
                        number, AclId(number), ((number * 9, number * 9 + 2), (number * 9 + 5, number * 9 + 6))
                    ),
                )
            ],
        )

    index.apply("a", [DocumentDrop(number) for number in numbers[:200:4]])

    gone = set(numbers[:200:4])
    for sources, names in ((None, numbers), (frozenset("a"), numbers[::2]), (frozenset("b"), numbers[1::2])):
        expected = {number for number in names if number % 3}
        found = index.readable(_CALLER, START, sources)
        assert set(found.acl_ids) == expected
        assert set(found.documents) == expected - gone
        assert set(found.chunks) == {number * 9 + k for number in expected - gone for k in (0, 1, 5)}
        assert found.chunk_count == len(found.chunks)


def test_an_answer_ends_with_the_next_expiry_that_touches_it() -> None:
    """`valid_until` is the next expiry of a rule that names the caller, allow or deny, or the caller's own."""
    soon, later = START + timedelta(hours=1), START + timedelta(hours=2)
    index = ReadableIndex()
    deny = Clause((Rule(Effect.DENY, frozenset({_ALICE}), later), Rule(Effect.ALLOW, frozenset({_STAFF}))))
    index.apply("a", [*_document(1, _allow(_STAFF, until=soon)), *_document(2, deny)])
    stranger = Caller("bob", frozenset({Principal(_AD, "bob")}), frozenset({_AD}), START, FAR)

    answers = [index.readable(_CALLER, at) for at in (START, soon, later)]

    assert [set(answer.documents) for answer in answers] == [{1}, set(), {2}]
    assert [answer.valid_until for answer in answers] == [soon, later, FAR]
    assert index.readable(stranger, START).valid_until == FAR


def test_decide_is_asked_about_scopes_as_they_are() -> None:
    """After the rules of a scope, or of one around it, or its place changed, `acl` gives what holds now."""
    index = ReadableIndex()
    outer, inner, other = ScopeId("outer"), ScopeId("inner"), ScopeId("other")
    closed = _allow(Principal(_AD, "bob"))
    index.apply("a", [ScopePut(outer, None, _allow(_STAFF)), ScopePut(inner, outer, _allow(_STAFF))])
    index.apply("a", [ScopePut(other, None, closed), *_document(1, _allow(_ALICE), "inner")])

    def reads(*changes: Change) -> bool:
        index.apply("a", changes)
        decided = isinstance(decide(index.acl(AclId(1)), _CALLER, START), Allowed)
        assert decided == bool(index.readable(_CALLER, START).documents)
        return decided

    assert reads()
    assert not reads(ScopePut(inner, outer, closed))
    assert reads(ScopePut(inner, outer, _allow(_ALICE)))
    assert not reads(ScopePut(outer, None, closed))
    assert reads(ScopePut(outer, None, _allow(_ALICE)))
    assert not reads(ScopePut(inner, other, _allow(_ALICE)))
    assert reads(ScopePut(inner, None, _allow(_ALICE)))
    assert not reads(ScopeDrop(inner))
    assert reads(ScopePut(inner, None, _allow(_ALICE)))
    assert not reads(AclPut(AclId(1), other, _allow(_ALICE)))


def test_time_may_go_backwards() -> None:
    """A cached answer is not used for a moment before the expiry that shaped it."""
    soon = START + timedelta(hours=1)
    index = ReadableIndex()
    index.apply("a", _document(1, _allow(_ALICE, until=soon)))

    found = [set(index.readable(_CALLER, at).documents) for at in (soon, START, soon)]

    assert found == [set(), {1}, set()]


def test_callers_share_an_answer_only_when_nothing_tells_them_apart() -> None:
    """Neither the subject nor joined texts make the key: other principals or other completeness, another answer."""
    index = ReadableIndex()
    index.apply("a", _document(1, _allow(Principal(Realm("entra:t1"), "x"))))
    realms = frozenset({Realm("entra:t1"), Realm("entra")})

    def reads(held: Principal, complete: frozenset[Realm]) -> bool:
        caller = Caller("alice", frozenset({held}), complete, START, FAR)
        return bool(index.readable(caller, START).documents)

    assert reads(Principal(Realm("entra:t1"), "x"), realms)
    assert not reads(Principal(Realm("entra"), "t1:x"), realms)
    assert not reads(Principal(Realm("entra:t1"), "x"), frozenset({Realm("entra")}))


def test_an_expired_caller_gets_no_answer() -> None:
    """A caller past its expiry is an error here as in `decide`, although an answer for it is cached."""
    index = ReadableIndex()
    index.apply("a", _document(1, _allow(_ALICE)))
    index.readable(_CALLER, START)

    with pytest.raises(CallerExpiredError):
        index.readable(_CALLER, FAR)
    with pytest.raises(InvalidValueError, match="time zone"):
        index.readable(_CALLER, START.replace(tzinfo=None))


def test_a_change_that_fails_half_way_leaves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a change be applied in part, its source is nobody's until it is built again; the others stay."""
    index = ReadableIndex()
    index.apply("a", _document(1, _allow(_ALICE)))
    index.apply("b", _document(2, _allow(_ALICE)))

    with monkeypatch.context() as patch:
        patch.setattr("acl.compiled.shard.Shard._enter", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.apply("a", _document(3, _allow(_ALICE)))

    assert set(index.readable(_CALLER, START).documents) == {2}
    with pytest.raises(InvalidValueError, match="built again"):
        index.apply("a", _document(3, _allow(_ALICE)))
    index.drop("a")
    index.apply("a", _document(3, _allow(_ALICE)))
    assert set(index.readable(_CALLER, START).documents) == {2, 3}


def test_a_source_of_another_name_after_a_drop_does_not_inherit() -> None:
    """An index that was dropped and built again holds what was put since, and nothing from before."""
    index = ReadableIndex()
    index.apply("a", [*_document(1, _allow(_ALICE)), *_document(2, _allow(_ALICE))])
    index.drop("a")

    index.apply("b", [DocumentPut(1, AclId(1), ((0, 1),)), *_document(3, _allow(_ALICE))])

    assert set(index.readable(_CALLER, START).documents) == {3}
    assert isinstance(index.acl(AclId(1)), Unknown)


def test_a_dropped_source_is_freed_at_once() -> None:
    """Its tables do not wait for the garbage collector, which does not know how large they are."""
    index = ReadableIndex()
    index.apply("a", [ScopePut(ScopeId("s"), None, _allow(_STAFF)), *_document(1, _allow(_ALICE), "s")])
    index.readable(_CALLER, START)
    index.acl(AclId(1))
    shard = weakref.ref(index._sources["a"].shard)
    assert shard() is not None

    gc.disable()
    try:
        index.drop("a")
    finally:
        gc.enable()

    assert shard() is None


def test_readers_see_a_change_whole_or_not_at_all() -> None:
    """While documents move between two ACLs, a reader in another thread never counts one twice or misses one."""
    index = ReadableIndex()
    index.apply("a", [AclPut(AclId(1), None, _allow(_ALICE)), AclPut(AclId(2), None, _allow(_STAFF))])
    index.apply("a", [DocumentPut(n, AclId(1), ((n, n + 1),)) for n in range(50)])
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found = index.readable(_CALLER, START)
            seen.update((found.chunk_count, len(found.documents), len(found.chunks)))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(100):
        index.apply("a", [DocumentPut(n, AclId(1 + turn % 2), ((n, n + 1),)) for n in range(50)])
    done.set()
    reader.join()

    assert seen <= {50}


def test_a_bad_document_cannot_be_named() -> None:
    """Ids below the first, rows that overlap, and ids too large for the tables are refused where they are built."""
    for bad in (
        lambda: AclPut(AclId(0), None, NOBODY),
        lambda: AclPut(AclId(1 << 28), None, NOBODY),
        lambda: DocumentPut(-1, AclId(1), ()),
        lambda: DocumentPut(1 << 28, AclId(1), ()),
        lambda: DocumentPut(1, AclId(-1), ()),
        lambda: DocumentPut(1, AclId(1), ((3, 3),)),
        lambda: DocumentPut(1, AclId(1), ((0, 3), (2, 5))),
        lambda: DocumentPut(1, AclId(1), ((0, (1 << 32) + 1),)),
    ):
        with pytest.raises(InvalidValueError):
            bad()


def test_a_large_flat_source_is_patched() -> None:
    """Hundreds of ACLs and documents in one container, where sets are stored in another way, are moved and dropped."""
    index = ReadableIndex()
    index.apply("a", [ScopePut(ScopeId("s"), None, _allow(_STAFF)), ScopePut(ScopeId("t"), None, NOBODY)])
    index.apply("a", [c for n in range(1, 301) for c in _document(n, _allow(_ALICE), "s")])
    index.readable(_CALLER, START)

    index.apply("a", [AclPut(AclId(n), ScopeId("t"), _allow(_ALICE)) for n in range(1, 101)])
    index.apply("a", [AclDrop(AclId(n)) for n in range(101, 201)])
    index.apply("a", [DocumentPut(250, AclId(299), ((1, 2),))])

    found = index.readable(_CALLER, START)
    assert set(found.documents) == set(range(201, 301))
    assert found.chunk_count == len(found.chunks) == 199
    index.apply("a", [ScopePut(ScopeId("t"), None, _allow(_STAFF))])
    assert set(index.readable(_CALLER, START).documents) == {*range(1, 101), *range(201, 301)}


def test_the_index_is_as_deep_as_scopes_may_be() -> None:
    """In a chain of containers the deepest allowed is read, the next and what is below it are not."""
    index = ReadableIndex()
    index.apply(
        "a",
        [ScopePut(ScopeId(f"s{n}"), ScopeId(f"s{n - 1}") if n else None, _allow(_STAFF)) for n in range(MAX_DEPTH + 4)],
    )
    for number, depth in enumerate((MAX_DEPTH, MAX_DEPTH + 1, MAX_DEPTH + 3)):
        index.apply("a", _document(number + 1, _allow(_ALICE), f"s{depth}"))

    assert set(index.readable(_CALLER, START).documents) == {1}
    index.apply("a", [ScopePut(ScopeId("s4"), None, _allow(_STAFF))])
    assert set(index.readable(_CALLER, START).documents) == {1, 2, 3}
    index.apply("a", [ScopePut(ScopeId("s4"), ScopeId("s3"), _allow(_STAFF))])
    assert set(index.readable(_CALLER, START).documents) == {1}


def test_clauses_that_are_no_longer_used_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """When many clauses were replaced their storage is used again, and every answer stays the same."""
    monkeypatch.setattr("acl.compiled.clauses._WASTE", 10)
    index = ReadableIndex()
    index.apply("b", _document(9, Clause((Rule(Effect.DENY, frozenset({_STAFF}), FAR), *_allow(_ALICE).rules))))
    for turn in range(60):
        owner = Principal(_AD, f"owner-{turn}")
        index.apply(
            "a", [ScopePut(ScopeId("s"), None, _allow(_STAFF, owner)), *_document(1, _allow(_ALICE, owner), "s")]
        )
        assert set(index.readable(_CALLER, START).documents) == {1}
        assert isinstance(decide(index.acl(AclId(1)), _CALLER, START), Allowed)
        assert not isinstance(decide(index.acl(AclId(9)), _CALLER, START), Allowed)

    shard = index._sources["a"].shard
    assert shard is not None
    assert len(shard._clauses._words) < 50
    assert len(shard._clauses._start) < 10
    assert not any(len(postings[_AD]) > 4 for postings in shard._clauses._lasting)
