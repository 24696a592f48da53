"""The process that reads documents which somebody else wrote: it may hang, crash or run out of memory at any time.

Responsible for its own limits, set before the first document and never raised. Formats are left to
`service.text.readers`, passages to `service.text.chunk`, and what follows from an early end to `service.text.extract`.

Run as `python -m service.text.extract_process MEMORY_BYTES READ_CPU_S CUT_CPU_S MAX_CHARACTERS MAX_TOKENS [TOKENIZER]`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import tempfile
from pathlib import Path

from service.process import Answer, Refusal, serve

_MAX_HEADINGS_BYTES = 32 * 2**20
_EMPTY_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>\n"
)


def main() -> None:
    """Answer `read`, then `cut` for the text that was read."""
    memory_bytes, read_cpu_s, cut_cpu_s, max_characters, max_tokens = (int(value) for value in sys.argv[1:6])
    # Everything that will run is imported and loaded before the limits, and standard error is closed after: a parser's
    # complaint may quote the document, and with RLIMIT_FSIZE 0 a log that is a file would be the end of the process.
    from service.text.chunk import Chunker
    from service.text.readers import Content, ReadError, read

    chunker = Chunker(Path(sys.argv[6]) if len(sys.argv) > 6 else None, max_tokens)
    # The library for PDF unpacks a shared object below TMPDIR at its first document, and loads what it finds there: in
    # a shared folder that may be somebody else's, and under the limits it cannot be written at all.
    with tempfile.TemporaryDirectory(prefix="remit-") as own:
        os.environ["TMPDIR"] = own
        with contextlib.suppress(ReadError):
            read(_EMPTY_PDF, "application/pdf")
    last: Content | None = None

    def limit() -> None:
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            resource.setrlimit(kind, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os.close(nothing)

    def spend(cpu_s: int) -> None:
        """Allow this much more processor time, on all threads together."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + 1 + cpu_s
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))

    def read_(params: dict[str, object], blobs: list[bytes]) -> Answer:
        nonlocal last
        last = None
        spend(read_cpu_s)
        try:
            content = read(blobs[0], str(params["media_type"]))
        except ReadError as err:
            raise Refusal(err.reason, str(err)) from None
        except (MemoryError, RecursionError) as err:
            raise Refusal("memory", f"reading it takes too much memory ({type(err).__name__})") from None
        if len(content.text) > max_characters:
            raise Refusal("too large", f"its text is longer than {max_characters} characters")
        if not content.text.strip():
            raise Refusal("empty", "it holds no text")
        last = content
        return {"title": content.title[:1000], "length": len(content.text)}, ()

    def cut(params: dict[str, object], blobs: list[bytes]) -> Answer:
        nonlocal last
        content, last = last, None
        if content is None:
            raise Refusal("crashed", "nothing was read")
        spend(cut_cpu_s)
        try:
            passages = chunker.passages(content.text, markdown=content.markdown)
            stacks: dict[tuple[str, ...], int] = {}
            spans = [(p.start, p.end, stacks.setdefault(p.headings, len(stacks))) for p in passages]
            headings = json.dumps(list(stacks), ensure_ascii=False).encode(errors="replace")
            if len(headings) > _MAX_HEADINGS_BYTES:
                raise Refusal("too large", "its headings are too many or too long")
            return {"spans": spans}, [headings, content.text.encode(errors="replace")]
        except MemoryError:
            raise Refusal("memory", "cutting it takes too much memory") from None

    serve({"read": read_, "cut": cut}, prepare=limit)


if __name__ == "__main__":
    main()
