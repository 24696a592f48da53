"""Skips that say why, and that fail where everything ought to be installed."""

from __future__ import annotations

import os

import pytest


def need(condition: bool, reason: str) -> None:
    """Skip the test unless `condition`; with REMIT_REQUIRE_LIVE=1 fail instead.

    reason: what is missing and how to get it, in one sentence.
    """
    if condition:
        return
    if os.environ.get("REMIT_REQUIRE_LIVE") == "1":
        pytest.fail(f"REMIT_REQUIRE_LIVE=1, but {reason}")
    pytest.skip(reason)
