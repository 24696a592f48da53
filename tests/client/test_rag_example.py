"""The example for applications: from a question to a prompt with citations."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from examples import rag
from tests.service.harness import FINANCE, SALES, allow, serving


async def test_the_prompt_has_the_readers_passages_and_their_citations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alice's prompt cites what she may read; a passage of Finance is not in it."""
    async with serving(tmp_path / "remit") as service:
        service.add("travel.txt", "trains are booked in second class", allow(SALES))
        service.add("secret.txt", "trains are sold to finance", allow(FINANCE))
        service.sync()
        monkeypatch.setattr("sys.stdin", io.StringIO(service.token("alice") + "\n"))

        code = await asyncio.to_thread(rag.main, [str(service.callers), "how are trains booked?"])

        printed = capsys.readouterr().out
        (chunk_id,) = service.chunk_ids("travel.txt")
    assert code == 0
    assert "[1] travel.txt\ntrains are booked in second class" in printed
    assert f"[1] travel.txt (0-33), passage {chunk_id}" in printed
    assert "Question: how are trains booked?" in printed
    assert "finance" not in printed


async def test_a_refusal_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad token and an address that would need TLS end with a sentence and code 1."""
    async with serving(tmp_path / "remit") as service:
        monkeypatch.setattr("sys.stdin", io.StringIO("not a token\n"))
        assert await asyncio.to_thread(rag.main, [str(service.callers), "?"]) == 1
    assert capsys.readouterr().err == "error: the token is missing, expired or not for this service\n"

    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    assert rag.main(["remit.example:7420", "?"]) == 1
    assert "without TLS" in capsys.readouterr().err
