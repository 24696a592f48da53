"""Cutting: every passage is exactly what stands at its span, fits the model, and knows the headings above it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from service.embed.embedder import tokenizer_path
from service.settings import EmbeddingSettings
from service.text.chunk import MAX_CHARACTERS, Chunker, Passage

TOKENIZER = tokenizer_path(EmbeddingSettings("model", None))
BY_TOKENS = Chunker(TOKENIZER, 256)
SHORT = Chunker(TOKENIZER, 16)
BY_CHARACTERS = Chunker(None, 256)

DOCUMENT = """# Travel

Who travels, and how.

## Trains

Trains go first.

```sh
# this is a comment
```

### Night trains

Second class.

## Flights ##

Over six hours.
"""


def tokens(text: str) -> int:
    """As the model counts them, special ones included."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return len(tokenizer.encode(text).ids)


def test_passage_knows_the_headings_above_it() -> None:
    """Headings nest by level, a deeper one ends with the next of its level, and comments in code are none."""
    passages = SHORT.passages(DOCUMENT, markdown=True)

    above = {line: passage.headings for passage in passages for line in passage.text.splitlines()}
    assert above["Who travels, and how."] == ("Travel",)
    assert above["Trains go first."] == ("Travel", "Trains")
    assert above["# this is a comment"] == ("Travel", "Trains")
    assert above["Second class."] == ("Travel", "Trains", "Night trains")
    assert above["Over six hours."] == ("Travel", "Flights")


def test_passage_that_begins_with_headings_stands_under_them() -> None:
    """A passage that opens with a title and a subtitle is under both; a heading further down does not count."""
    (passage,) = BY_TOKENS.passages("# One\n\n## Two\n\ntext\n\n## Three\n\nmore", markdown=True)

    assert passage.headings == ("One", "Two")


def test_plain_text_has_no_headings() -> None:
    """`#` in a script is a comment."""
    (passage,) = BY_TOKENS.passages("# not a heading\nx = 1\n", markdown=False)

    assert passage.headings == ()


@pytest.mark.parametrize("text", ["", " \n\t\n ", "\u200b\u200b", "\x01\x02"])
def test_nothing_visible_gives_no_passage(text: str) -> None:
    """There is no blank passage; a single letter is one."""
    for chunker in (BY_TOKENS, BY_CHARACTERS):
        assert chunker.passages(text, markdown=True) == []
        assert chunker.passages(text, markdown=False) == []
        assert [passage.text for passage in chunker.passages(f"{text}x", markdown=False)][-1].endswith("x")


@pytest.mark.parametrize(
    "text",
    [
        "word " * 2000,
        "a" * 20_000,
        "a" * 101 + " " + "b" * 9_000,
        ("xy" * 60 + " ") * 300,
        "日本語の文書です。" * 500,
        "x," * 3000,
        "\u0301" * 9000 + "x",
        "🏳️‍🌈" * 3000,
        "\n".join(f"| {n} | {n * 7919} | {'z' * (n % 50)} |" for n in range(500)),
    ],
)
def test_model_sees_every_passage_in_full(text: str) -> None:
    """No passage has more than 256 tokens or 4,000 characters, whatever the text is made of."""
    for markdown in (True, False):
        passages = BY_TOKENS.passages(text, markdown=markdown)

        assert passages
        assert max(tokens(passage.text) for passage in passages) <= 256
        assert max(len(passage.text) for passage in passages) <= MAX_CHARACTERS


def test_without_a_tokenizer_passages_have_about_a_thousand_characters() -> None:
    """The hash embedding has no tokens to count."""
    passages = BY_CHARACTERS.passages("A sentence of some words. " * 400, markdown=False)

    assert 900 < sum(len(passage.text) for passage in passages) / len(passages) <= 1000


ALPHABET = st.sampled_from(
    ["a", "word ", "\n", "\n\n", "# h\n", "## ü\n", "```\n", "- x\n", "| a |", "日", "é", "🏳️‍🌈", "\t", "\r", "*"]
)


@given(st.lists(ALPHABET, max_size=60).map("".join), st.booleans(), st.sampled_from([SHORT, BY_CHARACTERS]))
def test_passages_are_what_stands_at_their_spans(text: str, markdown: bool, chunker: Chunker) -> None:
    """Spans are in order, do not overlap, hold exactly the passage, and leave out nothing but white space."""
    passages = chunker.passages(text, markdown=markdown)

    end = 0
    for passage in passages:
        assert passage.start >= end
        assert not text[end : passage.start].strip()
        assert text[passage.start : passage.end] == passage.text
        assert passage.text.strip()
        end = passage.end
    assert not text[end:].strip()


@pytest.mark.parametrize("unit", ["# h\n\ntext\n\n", "a line\n", "word ", "a", "é"])
def test_long_text_loses_nothing(unit: str) -> None:
    """A text that is cut into blocks first keeps spans, order, headings and every visible character."""
    text = unit * (120_000 // len(unit))

    passages = BY_CHARACTERS.passages(text, markdown=True)

    assert all(text[passage.start : passage.end] == passage.text for passage in passages)
    assert "".join("".join(passage.text.split()) for passage in passages) == "".join(text.split())
    assert passages[-1].headings == (("h",) if "#" in unit else ())


@pytest.mark.parametrize(("text", "start", "end"), [("", 0, 0), (" ", 0, 1), ("ab", 0, 1), ("ab", -2, 0)])
def test_wrong_passage_cannot_exist(text: str, start: int, end: int) -> None:
    """Blank, or of another length than its span."""
    assert Passage("ab", (), 0, 2).text == "ab"

    with pytest.raises(ValueError, match="passage"):
        Passage(text, (), start, end)
