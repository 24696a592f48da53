"""The canary scan: it finds words in every form, finds none where sealing seals, and finds them where it does not."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from service.upkeep import at_rest, scan

WORD = "Canary0123456789abcdef0123456789abcdef"


def _zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("name", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "write"),
    [
        ("utf-8", lambda data: data),
        ("utf-8", bytes.lower),
        ("utf-16", lambda data: data.decode().encode("utf-16-le")),
        ("utf-16", lambda data: data.decode().encode("utf-16-be")),
        ("hex", lambda data: data.hex().encode()),
        ("hex", lambda data: data.hex().upper().encode()),
        ("base64", base64.b64encode),
        ("base64", lambda data: base64.b64encode(b"x" + data)),
        ("base64", lambda data: base64.urlsafe_b64encode(b"xx" + data)),
        ("utf-8 in zlib", zlib.compress),
        ("utf-8 in gzip", gzip.compress),
        ("utf-8 in zip", _zipped),
        ("utf-8 in bzip2", bz2.compress),
        ("utf-8 in xz", lzma.compress),
        ("utf-8 in zstd", lambda data: zstandard.ZstdCompressor().compress(data * 20)),
    ],
)
def test_a_word_is_found_in_every_form(tmp_path: Path, form: str, write: Callable[[bytes], bytes]) -> None:
    """In the middle of other bytes, far into a file with holes; a file without it beside is not named."""
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(os.urandom(70_000) + bytes(300_000) + b"text " + write(f"of {WORD}.".encode()) + os.urandom(999))
    (tmp_path / "other").write_bytes(os.urandom(100_000))

    found = scan.scan(tmp_path, [WORD])

    assert scan.Hit("folder/file", WORD, form) in found.hits
    assert {hit.path for hit in found.hits} == {"folder/file"}
    assert found.files == 2


def test_a_name_counts_too(tmp_path: Path) -> None:
    """A file called by the word, however empty."""
    (tmp_path / f"about {WORD}.txt").touch()

    (hit,) = scan.scan(tmp_path, [WORD]).hits

    assert hit.form == "utf-8, name"


def test_no_planted_word_reaches_the_disk(tmp_path: Path) -> None:
    """The command as people run it: exit 0, nothing found, and vectors in the index alone."""
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "evidence", "at-rest", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)["report"]
    assert report["hits"] == []
    assert len(report["places"]) == 14
    assert report["files"] > 20
    assert report["vectors"], "the control within: what is not sealed, is found"
    assert all(path.startswith("data/index/") for path in report["vectors"])
    assert list(tmp_path.iterdir()) == []


def test_the_scan_finds_records_that_are_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same drill with an audit log that does not seal: ids are found in it, and nothing else that was planted."""
    monkeypatch.setattr("service.audit.bodies.Bodies.seal", lambda self, made, index, day, data: data)

    found = at_rest.run(tmp_path / "drill")

    assert not found.ok
    assert {hit.word for hit in found.hits} == {"person's id", "document's id", "response's id"}
    assert all(hit.path.startswith("data/audit/segments/") for hit in found.hits)


def test_the_scan_finds_what_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same drill with a sealing that does not seal: it finds what stands in the catalog, so it can fail."""
    monkeypatch.setattr("service.stores.sealing.seal", lambda cipher, plain, place: plain)
    monkeypatch.setattr("service.stores.sealing.unseal", lambda cipher, sealed, place: sealed)

    found = at_rest.run(tmp_path / "drill")

    assert not found.ok
    assert {hit.word for hit in found.hits if hit.path.startswith("data/catalog.sqlite")} >= {
        "text",
        "title",
        "file name",
        "folder name",
        "quarantined file name",
        "reason of a quarantine",
        "skipped file name",
        "problem of a run",
    }
    assert any(path.startswith("data/catalog.sqlite") for path in found.vectors)
