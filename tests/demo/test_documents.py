"""The documents of the demo's company can be read, all of them, on a machine that never read one before."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.media_types import media_type
from service.demo.layout import documents
from service.text.extract import Extractor


def test_every_document_is_extracted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each document gives a title and passages of text, with an empty folder for temporary files, and leaves it so."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    extractor = Extractor(None, 256)

    read = {}
    for path, data in documents():
        kind = media_type(path.name)
        assert kind is not None, path
        read[path] = extractor.extract(data, kind, path.name)
    extractor.close()

    for path, found in read.items():
        words = sum(len(passage.text.split()) for passage in found.chunks)
        assert words >= 150, path
        assert found.title, path
    assert list(tmp_path.iterdir()) == []
