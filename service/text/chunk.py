"""Text to passages that the model sees in full, each with the headings above it and its place in the text.

Pure: a tokenizer and a text in, passages out. Runs in the extraction process: a hostile text can be slow to cut.
Boundaries come from semantic-text-splitter: headings, blocks, sentences, words, in that order; passages do not overlap.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

MAX_CHARACTERS: Final = 4000
"""A word of any length can be one token, so tokens alone do not bound a passage."""
_HASH_CHARACTERS: Final = 1000
_BLOCK_CHARACTERS: Final = 50_000
_MAX_HEADING_CHARACTERS: Final = 120
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+([^\n]*)$|^ {0,3}(```|~~~)", re.MULTILINE)

Cut = Callable[[str], list[tuple[int, str]]]


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of an extracted text, never blank.

    headings: those it stands under, outermost first, for Markdown only.
    start, end: code points; `text` is exactly what stands between them.
    """

    text: str
    headings: tuple[str, ...]
    start: int
    end: int

    def __post_init__(self) -> None:
        if not self.text.strip() or self.start < 0 or self.end - self.start != len(self.text):
            raise ValueError("a passage is not blank and spans what it holds")


class Chunker:
    """Cuts texts. tokenizer: the model's tokenizer.json, or None to cut by characters.

    max_tokens: in each passage, special tokens included.
    """

    def __init__(self, tokenizer: Path | None, max_tokens: int) -> None:
        self._tokenizer: Tokenizer | None = None
        self._capacity = 0
        if tokenizer is None:
            self._text: Cut = TextSplitter(_HASH_CHARACTERS).chunk_indices
            self._markdown: Cut = MarkdownSplitter(_HASH_CHARACTERS).chunk_indices
            return
        loaded = Tokenizer.from_file(str(tokenizer))
        # A tokenizer.json may carry the length that a model was trained with; then nothing would ever seem too long.
        loaded.no_truncation()
        loaded.no_padding()
        self._tokenizer = loaded
        self._capacity = max_tokens - loaded.num_special_tokens_to_add(is_pair=False)
        if self._capacity < 1:
            raise ValueError("max_tokens leaves no room for text")
        self._text = TextSplitter.from_huggingface_tokenizer(loaded, self._capacity).chunk_indices
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(loaded, self._capacity).chunk_indices

    def passages(self, text: str, *, markdown: bool) -> list[Passage]:
        """Cut `text`. Empty for a text without anything visible."""
        cut = self._markdown if markdown else self._text
        found = [
            piece
            for begin, block in _blocks(text)
            for start, part in cut(block)
            for piece in self._fit(begin + start, part)
        ]
        above = _Headings(text) if markdown else None
        return [
            Passage(part, above.at(start, part) if above is not None else (), start, start + len(part))
            for start, part in found
            if any(character.isprintable() and not character.isspace() for character in part)
        ]

    def _fit(self, start: int, part: str) -> Iterator[tuple[int, str]]:
        """Halve what is still too long: a cut inside an unknown word can make more tokens than the word was."""
        if len(part) <= MAX_CHARACTERS and (self._tokenizer is None or self._tokens(part) <= self._capacity):
            yield start, part
        elif len(part) > 1:
            for offset, piece in TextSplitter(min(MAX_CHARACTERS, (len(part) + 1) // 2)).chunk_indices(part):
                yield from self._fit(start + offset, piece)

    def _tokens(self, part: str) -> int:
        assert self._tokenizer is not None
        return len(self._tokenizer.encode(part, add_special_tokens=False).ids)


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Cut a long text where it hurts least, because the splitter's time grows faster than the length of its text."""
    start = 0
    while len(text) - start > _BLOCK_CHARACTERS:
        stop = start + _BLOCK_CHARACTERS
        found = (text.rfind(mark, start + 1, stop) for mark in ("\n\n", "\n", " "))
        end = next((place for place in found if place > 0), stop)
        yield start, text[start:end]
        start = end
    yield start, text[start:]


class _Headings:
    """The `#` headings of a Markdown text, outside fenced code."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._stacks: list[tuple[str, ...]] = []
        stack: list[tuple[int, str]] = []
        fence = None
        for match in _HEADING.finditer(text):
            if match[3] is not None:
                fence = None if fence == match[3] else fence or match[3]
            elif fence is None:
                title = " ".join(match[2].rstrip(" \t#").split())[:_MAX_HEADING_CHARACTERS]
                level = len(match[1])
                stack = [(other, name) for other, name in stack if other < level]
                if title:
                    stack.append((level, title))
                self._starts.append(match.start())
                self._ends.append(match.end())
                self._stacks.append(tuple(name for _, name in stack))

    def at(self, start: int, part: str) -> tuple[str, ...]:
        """Return the headings of a passage; headings that it begins with count."""
        index = bisect_right(self._starts, start) - 1
        position = max(start, self._ends[index]) if index >= 0 else start
        while index + 1 < len(self._starts) and self._starts[index + 1] < start + len(part):
            if part[position - start : self._starts[index + 1] - start].strip():
                break
            index += 1
            position = self._ends[index]
        return self._stacks[index] if index >= 0 else ()
