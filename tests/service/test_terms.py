"""Terms: one form of a word for all that are the same to a reader, and numbers that tell nobody which word it was."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.text.terms import TermHash, passage_terms, query_terms


@pytest.mark.parametrize(
    ("passage", "query"),
    [
        ("The approvals were given.", "approval"),
        ("Die Häuser werden nach der Regelung gebaut, und das ist alles.", "haus regelungen"),
        ("STRASSE", "straße"),
        ("ﬁnance", "FINANCE"),
        ("Ｆｕｌｌｗｉｄｔｈ", "fullwidth"),
        ("cafe\u0301", "café"),
        ("NL-450/B", "nl 450"),
        ("отчёты", "ОТЧЁТЫ"),
        ("हिन्दी", "हिन्दी"),
        ("東京都の文書を読む", "文書"),
        ("x" * 500, "x" * 300),
    ],
)
def test_forms_of_a_word_meet(passage: str, query: str) -> None:
    """Case, width, composition, inflection and script do not keep a word from being found."""
    assert query_terms(query) & set(passage_terms(passage))


@pytest.mark.parametrize(
    ("passage", "query"),
    [("The house.", "horse"), ("", "house"), ("The and of", "the of"), ("?! --", "!?"), ("प", "फ")],
)
def test_other_words_do_not_meet(passage: str, query: str) -> None:
    """Other words, words that say nothing, and signs match nothing."""
    assert not query_terms(query) & set(passage_terms(passage))


def test_terms_are_counted() -> None:
    """How often a word stands in a passage, in whatever form."""
    assert passage_terms("The plan, plans and planning of a budget.") == {"plan": 3, "budget": 1}


@given(st.text(max_size=200))
def test_any_text_has_terms_that_it_finds_itself_by(text: str) -> None:
    """No text is an error, a lone surrogate included, and what is in a passage is found by the passage."""
    text += "\udc80"
    counted = passage_terms(text)

    assert set(counted) <= query_terms(text)
    assert all(0 <= number < 2**32 for number in TermHash(b"k").numbers(counted))


def test_numbers_need_the_key() -> None:
    """The same under the same key, others under another, which the fingerprint tells apart without telling the key."""
    one, again, other = TermHash(b"a" * 32), TermHash(b"a" * 32), TermHash(b"b" * 32)

    assert one.numbers(["merger", "plan"]) == again.numbers(["merger", "plan"])
    assert set(one.numbers(["merger", "plan"])).isdisjoint(other.numbers(["merger", "plan"]))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert "a" * 8 not in one.fingerprint


def test_threads_stem_alike() -> None:
    """Stemmers are not shared between threads."""
    texts = [f"regulations and approvals of houses {number}" for number in range(200)]
    expected = [passage_terms(text) for text in texts]
    got: list[list[object]] = []

    threads = [threading.Thread(target=lambda: got.append([passage_terms(t) for t in texts])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert got == [expected] * 4
