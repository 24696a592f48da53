"""Records: one form for each, nothing in them that must not be there; notes and keys in their text forms."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from acl.decide import Allowed, decide
from acl.model import Acl, Caller, Clause, Effect, Rule, Scope, ScopeId
from acl.principal import Principal, realm
from service.audit import Actor, Asked, AuditKey, Authority, Call, Kind, Pass, RecordError, Returned, passes, record
from service.audit.call import principals_digest
from service.audit.checkpoint import Checkpoint, NoteError, Signer, Verifier, open_note, sign_note
from service.audit.record import Envelope, envelope, parse
from service.errors import StartError

NOW = datetime(2026, 11, 22, 10, 0, 0, 1, tzinfo=UTC)
CORP = realm("posix", "corp")
PLACE = Envelope(7, bytes(range(32)), bytes(range(16)), "00ff", NOW, 12)

json_values = st.recursive(
    st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\u20ac\U0001f600", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), json_values, max_size=3))
def test_the_bytes_of_a_record_are_the_canonical_ones(body: dict[str, object]) -> None:
    """The envelope that is written by hand is exactly RFC 8785 of the whole, and reads back."""
    data = envelope(record(Kind.QUERY, body), PLACE)
    found = parse(data)

    assert rfc8785.dumps(json.loads(data)) == data
    assert found["body"] == body
    assert (found["index"], found["class"], found["v"]) == (7, "query", 2)
    assert found["time"] == "2026-11-22T10:00:00.000001Z"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
passed = st.builds(Pass, texts, st.integers(0, 9), texts)


@given(
    st.lists(
        st.builds(
            Returned,
            rank=st.integers(1, 99),
            source=texts,
            document_id=texts,
            version=texts,
            chunk_id=texts,
            content_sha256=texts,
            start=st.integers(0, 2**40),
            end=st.integers(0, 2**40),
            acl_id=st.integers(0, 2**40),
            matches=st.lists(passed, max_size=3).map(tuple),
            score_e6=st.none() | st.integers(-1_000_000, 1_000_000),
        ),
        max_size=4,
    ),
    texts,
)
def test_passages_that_are_written_by_hand_are_canonical(returned: list[Returned], source: str) -> None:
    """Whatever stands in them and around them: exactly the bytes that RFC 8785 gives for the same record."""
    call = Call(Kind.QUERY, "x/Search", "r", "OK", timedelta(0), target=source, epochs={source: 1, '"returned":[]': 2})

    made = replace(call, returned=returned).record()

    expected = json.loads(call.record().body) | {"returned": [one.body() for one in returned]}
    assert made.body == rfc8785.dumps(expected)


@given(st.sampled_from(["Search", "GetDocument"]))
def test_what_a_service_is_given_for_a_person_is_recorded_too(method: str) -> None:
    """With the passages, and with none of them as none; a call that returns no content says nothing of any."""
    passage = Returned(1, "s", "d", "1", "c", "00", 0, 1, 1, ())
    call = Call(Kind.ON_BEHALF, f"remit.v1.RetrievalService/{method}", "r", "OK", timedelta(0))

    assert json.loads(replace(call, returned=[passage]).record().body)["returned"] == [passage.body()]
    assert json.loads(call.record().body)["returned"] == []
    assert "returned" not in json.loads(replace(call, rpc="remit.v1.AccessService/GetCaller").record().body)


def test_a_passage_with_broken_text_is_no_record() -> None:
    """A lone surrogate has no canonical form, wherever it stands."""
    broken = Returned(1, "\ud800", "d", "1", "c", "00", 0, 1, 1, ())
    with pytest.raises(RecordError):
        Call(Kind.QUERY, "x/Search", "r", "OK", timedelta(0), returned=[broken]).record()


@pytest.mark.parametrize("value", [None, 1.5, float("nan"), 2**53, b"bytes", {"deep": [None]}, {1: 2}, "\ud800", NOW])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    """Nulls, floats, numbers beyond 2^53, other types and broken text make no record; an integer does."""
    with pytest.raises(RecordError):
        record(Kind.QUERY, {"x": value})
    assert record(Kind.QUERY, {"x": 2**53 - 1}).body == b'{"x":9007199254740991}'


@pytest.mark.parametrize(
    "change",
    [
        (b'"index":7', b'"index": 7'),
        (b'"index":7', b'"index":7.0'),
        (b'"v":2', b'"v":1'),
        (b'"v":2', b'"v":2,"w":1'),
        (b'{"body"', b'{"body":{},"body"'),
        (b"}", b"} "),
    ],
)
def test_only_the_canonical_form_is_read(change: tuple[bytes, bytes]) -> None:
    """Other bytes with the same meaning, another format and unknown fields are no record."""
    data = envelope(record(Kind.QUERY, {}), PLACE)
    assert parse(data)["index"] == 7

    with pytest.raises(RecordError):
        parse(data.replace(*change))


def test_the_record_of_a_search_names_every_passage_and_why() -> None:
    """Document, version, chunk, hash, span, rank, ACL, and each clause with its rule; no query, no place."""
    sales = Principal(CORP, "gid-20101")
    rule = Rule(Effect.ALLOW, frozenset({sales}))
    scope = Scope(ScopeId("fs:1:2"), None, Clause((rule,)), label="/srv/secret plans")
    acl = Acl(scope, Clause((Rule(Effect.DENY, frozenset({Principal(CORP, "uid-1")})), rule)))
    caller = Caller("people/u-1001", frozenset({sales}), frozenset({CORP}), NOW, NOW + timedelta(minutes=1))
    allowed = decide(acl, caller, NOW)
    assert isinstance(allowed, Allowed)
    key = AuditKey(Signer.parse(SKEY))
    call = Call(
        kind=Kind.QUERY,
        rpc="remit.v1.RetrievalService/Search",
        response_id="r-1",
        code="OK",
        latency=timedelta(milliseconds=3),
        actor=Actor("https://issuer", "u-1001", "jti-1", "people", "u-1001"),
        authority=Authority.of(caller, NOW + timedelta(seconds=2), {"operator"}),
        asked=Asked(key.query_digest("who earns what"), 14, 10, "abc"),
        returned=[Returned(1, "company", "d1", "v1", "c1", "00" * 32, 0, 9, 3, passes(acl, allowed), 812_345)],
        epochs={"company": 4},
        withheld={"stale": 2},
    )

    data = envelope(call.record(), PLACE)
    body = json.loads(data)["body"]

    assert body["returned"] == [
        {
            "rank": 1,
            "source": "company",
            "document_id": "d1",
            "version": "v1",
            "chunk_id": "c1",
            "content_sha256": "00" * 32,
            "span": [0, 9],
            "acl_id": 3,
            "score_e6": 812345,
            "matches": [
                {"clause": "fs:1:2", "rule": 0, "principal": "posix:corp:gid-20101"},
                {"clause": "own", "rule": 1, "principal": "posix:corp:gid-20101"},
            ],
        }
    ]
    assert body["authority"]["principals"] == 1
    assert body["authority"]["resolution_age_us"] == 2_000_000
    assert body["actor"]["issuer"] == "https://issuer"
    assert (body["epochs"], body["withheld"]) == ({"company": 4}, {"stale": 2})
    assert b"secret plans" not in data
    assert b"who earns" not in data


def test_a_refused_call_has_a_record_without_a_subject() -> None:
    """Who was not authenticated leaves the status, the reason and the peer, and no actor."""
    call = Call(Kind.QUERY, "x/Search", "r-2", "UNAUTHENTICATED", timedelta(0), "ipv4:127.0.0.1:1", detail="expired")

    body = json.loads(call.record().body)

    assert (body["code"], body["detail"], body["returned"]) == ("UNAUTHENTICATED", "expired", [])
    assert "actor" not in body
    assert "reason" not in body


def test_the_digest_of_principals_depends_on_the_set_alone() -> None:
    """Order does not matter, and each principal does."""
    one, two = Principal(CORP, "gid-1"), Principal(CORP, "gid-2")

    assert principals_digest([one, two]) == principals_digest([two, one])
    assert principals_digest([one, two]) != principals_digest([one])


def test_a_query_has_the_same_digest_only_under_the_same_key(tmp_path: Path) -> None:
    """Equal in NFKC is equal; another query or another key is another digest."""
    key, other = AuditKey.create(tmp_path / "a"), AuditKey.create(tmp_path / "b")

    assert key.query_digest("ﬁle") == key.query_digest("file")
    assert key.query_digest("file") != key.query_digest("files")
    assert key.query_digest("file") != other.query_digest("file")
    assert AuditKey.load(tmp_path / "a").query_digest("file") == key.query_digest("file")


def test_a_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """The file is 0600; one that is open to others, missing or damaged is refused, and so is a second creation."""
    path = tmp_path / "audit.key"
    key = AuditKey.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key.signer.text.split("+", 4)[4] not in repr(key) + repr(key.signer)

    with pytest.raises(FileExistsError):
        AuditKey.create(path)
    path.chmod(0o640)
    with pytest.raises(StartError, match="open to others"):
        AuditKey.load(path)
    path.chmod(0o600)
    assert AuditKey.load(path).verifier == key.verifier
    path.write_text("PRIVATE+KEY+x+00000000+AQ==")
    with pytest.raises(StartError, match="not the key") as caught:
        AuditKey.load(path)
    assert "AQ==" not in str(caught.value)
    with pytest.raises(StartError, match="does not exist"):
        AuditKey.load(tmp_path / "none")


# The example of golang.org/x/mod/sumdb/note.
SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_is_that_of_the_public_example() -> None:
    """Key texts, key id and signature are those that Go's implementation of signed notes publishes."""
    signer, verifier = Signer.parse(SKEY), Verifier.parse(VKEY)
    text = NOTE.partition("\n\n")[0] + "\n"

    assert signer.verifier == verifier
    assert (signer.text, verifier.text) == (SKEY, VKEY)
    assert sign_note(text, signer) == NOTE
    assert open_note(NOTE.encode(), verifier) == text


@pytest.mark.parametrize("text", ["", VKEY[:-1], VKEY.replace("c74f", "c74e"), VKEY.replace("Peter", "Pet er"), SKEY])
def test_a_damaged_public_key_is_refused(text: str) -> None:
    """Another id, another name, a private key: none is a public key."""
    with pytest.raises(NoteError):
        Verifier.parse(text)


@given(st.data())
def test_a_note_with_any_byte_changed_does_not_open(data: st.DataObject) -> None:
    """Every byte of a signed note counts."""
    note = NOTE.encode()
    at = data.draw(st.integers(0, len(note) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    changed = note[:at] + bytes([note[at] ^ bit]) + note[at + 1 :]

    with pytest.raises(NoteError):
        open_note(changed, Verifier.parse(VKEY))


def test_a_witness_may_add_its_line_but_not_stand_in() -> None:
    """A second signature is left alone; a checkpoint that only the witness signed is refused, and so is another's."""
    signer, verifier = Signer.parse(SKEY), Verifier.parse(VKEY)
    made = Checkpoint(signer.name, 5, bytes(32))
    note = made.sign(signer)
    witness = "— witness AAAAAAAAAAA=\n"

    assert Checkpoint.open((note + witness).encode(), verifier) == made
    with pytest.raises(NoteError, match="no signature"):
        Checkpoint.open((note.rpartition("— ")[0] + witness).encode(), verifier)
    with pytest.raises(NoteError, match="not a checkpoint of this log"):
        Checkpoint.open(Checkpoint("another", 5, bytes(32)).sign(signer).encode(), verifier)
