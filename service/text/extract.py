"""Documents to passages, in a process of its own that may end at any time without harm.

Responsible for the limits, for replacing the process, and for checking what it answers: it reads what strangers wrote,
so its answer is taken for hostile. Formats are left to `service.text.readers`.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, get_args

from service.embed.embedder import passage_tokens, tokenizer_path
from service.process import Child, ChildCrashedError, ChildError, ChildRefusedError, ChildTimeoutError
from service.settings import Settings
from service.text.chunk import Passage

__all__ = ["ExtractError", "Extracted", "Extractor", "Passage", "Reason", "open_extractor"]

Reason = Literal["unsupported", "encrypted", "corrupt", "too large", "timeout", "memory", "empty", "crashed"]

READ_TIMEOUT_S: Final = 30
CUT_TIMEOUT_S: Final = 60
"""Each on the clock, and of processor time on all threads together."""
MEMORY_BYTES: Final = 1536 * 2**20
MAX_CHARACTERS: Final = 20_000_000
_DOCUMENTS_PER_PROCESS: Final = 1000


class ExtractError(Exception):
    """A document that is skipped. The message is for people and holds none of its text."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document's text, cut. title: never empty. text_length: code points of the text that the spans refer to."""

    title: str
    text_length: int
    chunks: tuple[Passage, ...]


class Extractor:
    """Reads documents one at a time, each within limits. Thread-safe.

    tokenizer, max_tokens: see `Chunker`.
    max_input_bytes: a larger document is refused unread.
    """

    def __init__(
        self,
        tokenizer: Path | None,
        max_tokens: int,
        *,
        max_input_bytes: int = 64 * 2**20,
        read_timeout_s: float = READ_TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self._max_input_bytes = max_input_bytes
        self._read_timeout_s = read_timeout_s
        self._lock = threading.Lock()
        self._documents = 0
        limits = (memory_bytes, READ_TIMEOUT_S, CUT_TIMEOUT_S, max_characters, max_tokens)
        self._child = Child(
            "service.text.extract_process",
            args=[*map(str, limits), *([str(tokenizer)] if tokenizer is not None else [])],
            name="extraction",
            call_timeout_s=CUT_TIMEOUT_S,
            max_answer_bytes=4 * max_characters + 96 * 2**20,
            # Each arena of the allocator reserves address space, which is limited.
            env={"MALLOC_ARENA_MAX": "2", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
        )

    @property
    def pid(self) -> int | None:
        """The extraction process, while it runs."""
        return self._child.pid

    def limit(self, max_input_bytes: int) -> None:
        """Refuse larger documents from now on."""
        self._max_input_bytes = max_input_bytes

    def extract(self, data: bytes, media_type: str, name: str) -> Extracted:
        """Read a document. name: the title when it has none. Raises ExtractError; the next document is not affected."""
        if len(data) > self._max_input_bytes:
            raise ExtractError("too large", f"it has {len(data)} bytes, the limit is {self._max_input_bytes}")
        with self._lock:
            if self._documents >= _DOCUMENTS_PER_PROCESS:
                self._child.stop()  # what the parsers leak goes with the process
            fresh = not self._child.alive
            self._documents = 1 if fresh else self._documents + 1
            try:
                return self._extract(data, media_type, name)
            except ExtractError as err:
                if fresh or err.reason not in ("memory", "crashed"):
                    raise
            # What earlier documents left in the process must not be held against this one.
            self._child.stop()
            self._documents = 1
            return self._extract(data, media_type, name)

    def _extract(self, data: bytes, media_type: str, name: str) -> Extracted:
        try:
            head, _ = self._child.call("read", {"media_type": media_type}, [data], timeout_s=self._read_timeout_s)
            body, blobs = self._child.call("cut", {})
        except ChildRefusedError as err:
            raise ExtractError(_reason(err.code), str(err)) from err
        except ChildTimeoutError as err:
            raise ExtractError("timeout", "reading it takes too long") from err
        except ChildCrashedError as err:
            raise _ended(err) from err
        except ChildError as err:
            raise ExtractError("crashed", str(err)) from err
        try:
            text = blobs[1].decode()
            if len(text) != head["length"]:
                raise ValueError("length")
            chunks = _passages(text, body["spans"], json.loads(blobs[0]))
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as err:
            self._child.stop()
            raise ExtractError("crashed", "reading it gave an answer that makes no sense") from err
        if not chunks:
            raise ExtractError("empty", "it holds no text")
        return Extracted(_title(str(head.get("title") or ""), chunks, name), len(text), chunks)

    def close(self) -> None:
        """End the process."""
        self._child.close()


def open_extractor(settings: Settings) -> Extractor:
    """Return an extractor whose passages fit the model of the settings. Raises ModelError."""
    return Extractor(
        tokenizer_path(settings.embedding),
        passage_tokens(settings.embedding),
        max_input_bytes=settings.limits.max_document_bytes,
    )


def _passages(text: str, spans: object, stacks: object) -> tuple[Passage, ...]:
    """Rebuild the passages from spans. Raises ValueError, TypeError, IndexError for what cannot be."""
    if not isinstance(spans, list) or not isinstance(stacks, list):
        raise TypeError("spans")
    passages = []
    for start, end, stack in spans:
        if not (type(start) is type(end) is type(stack) is int and 0 <= start < end <= len(text) and stack >= 0):
            raise ValueError("span")
        headings = stacks[stack]
        if not isinstance(headings, list) or len(headings) > 6 or not all(isinstance(h, str) for h in headings):
            raise TypeError("headings")
        passages.append(Passage(text[start:end], tuple(headings), start, end))
    if any(one.end > other.start for one, other in pairwise(passages)):
        raise ValueError("passages overlap")
    return tuple(passages)


def _title(title: str, chunks: Sequence[Passage], name: str) -> str:
    """The document's own title, else the heading that it opens with, else its file name."""
    for candidate in (title, *(chunks[0].headings[:1]), name):
        shown = " ".join("".join(c if c.isprintable() else " " for c in candidate).split())[:200]
        if shown:
            return shown
    return "untitled"


def _reason(code: str) -> Reason:
    for reason in get_args(Reason):
        if reason == code:
            return reason  # type: ignore[no-any-return]  # one of the literals
    return "crashed"


def _ended(err: ChildCrashedError) -> ExtractError:
    match err.returncode:
        case code if code == -signal.SIGXCPU:
            return ExtractError("timeout", "reading it takes too much processor time")
        case code if code == -signal.SIGKILL:
            return ExtractError("memory", "the system ended the process that read it, most likely for its memory")
        case code if code == -signal.SIGABRT:
            # A failed allocation and an exhausted stack both end in abort().
            return ExtractError("memory", "reading it takes more memory than is allowed, or it is nested too deeply")
        case _:
            return ExtractError("crashed", str(err))
