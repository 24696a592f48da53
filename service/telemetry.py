"""The service's own log: one JSON object a line on standard error. The audit log is something else.

It says what happened and never to whose content. Those who write to it name facts, and here, as a second line of
defence, nothing passes whose key is not listed; what libraries say in words of their own becomes where they said it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TextIO

import structlog

ALLOWED: Final = frozenset(
    {
        "event",
        "level",
        "timestamp",
        # Which call, run, source or thing: ids that say nothing of themselves.
        "chunk_id",
        "directory",
        "document_id",
        "part",
        "place",
        "request_id",
        "rpc",
        "run_id",
        "source",
        # How many, how long, how good, in which state.
        "chunks",
        "cosine",
        "documents",
        "duration_s",
        "expected",
        "found",
        "permitted",
        "plan",
        "precision",
        "recall",
        "records",
        "searches",
        "seen",
        "state",
        "waiting",
        # What went wrong: names of errors, sentences that are made of constants and paths of ours, places in the code.
        "detail",
        "error",
        "library",
        "where",
    }
)
"""The keys that may stand in a line. Never one for a query, a passage, a title, a name, a token or a list of groups."""

_LONGEST: Final = 300
"""Characters of a value: a sentence of ours is shorter, a passage is not."""


def keep_allowed(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep what is listed, of simple types and short; count the rest in `dropped`."""
    kept = {key: value for key, value in event.items() if key in ALLOWED and isinstance(value, str | int | float)}
    for key, value in kept.items():
        if isinstance(value, str) and len(value) > _LONGEST:
            kept[key] = f"{len(value)} characters"
    if len(kept) < len(event):
        kept["dropped"] = len(event) - len(kept)
    return kept


class _Libraries(logging.Handler):
    """What libraries log through the standard library. Their words may quote a document, so only the place is kept."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say who complained and where; never what was said."""
        raised = record.exc_info[0] if record.exc_info else None
        structlog.get_logger().warning(
            "library_complained",
            library=record.name,
            where=f"{record.module}:{record.lineno}",
            error=raised.__name__ if raised is not None else record.levelname,
        )


def configure(*, debug: bool = False) -> None:
    """Log to standard error from now on."""
    _configure(sys.stderr, debug=debug, cached=True)


@contextmanager
def logging_to(stream: TextIO) -> Iterator[None]:
    """Log to `stream` within the block, and as before after it."""
    before, handlers = structlog.get_config(), logging.root.handlers[:]
    _configure(stream, debug=True, cached=False)
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.root.handlers[:] = handlers


def _configure(stream: TextIO, *, debug: bool, cached: bool) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            keep_allowed,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=cached,
    )
    handler = _Libraries(logging.WARNING)
    logging.root.handlers[:] = [handler]
