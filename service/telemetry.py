"""The service's own log: one JSON object a line on standard error. The audit log is something else.

What must never be in it is dropped here by key, as a second line of defence behind those who write to it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

_FORBIDDEN: Final = frozenset(
    {
        "authorization",
        "credential",
        "groups",
        "key",
        "passage",
        "principals",
        "query",
        "secret",
        "text",
        "title",
        "token",
    }
)


def drop_forbidden(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop what a log must not hold: queries, passages, tokens, people's groups."""
    for name in _FORBIDDEN & event.keys():
        event[name] = "dropped"
    return event


def configure(*, debug: bool = False) -> None:
    """Log to standard error from now on."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            drop_forbidden,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
