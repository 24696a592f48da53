"""What a file's name says about what is read."""

from __future__ import annotations

import pytest

from connectors.media_types import CSV, DOCX, EML, HTML, MARKDOWN, PDF, PLAIN, PPTX, XLSX, media_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.pdf", PDF),
        ("A.DOCX", DOCX),
        ("x/y/budget.xlsx", XLSX),
        ("talk.pptx", PPTX),
        ("index.htm", HTML),
        ("a.csv", CSV),
        ("a.eml", EML),
        ("README.md", MARKDOWN),
        ("main.py", PLAIN),
        ("settings.yaml", PLAIN),
        ("README", PLAIN),
        ("README.Debian", PLAIN),
        ("LICENSE-MIT", PLAIN),
        ("changelog", PLAIN),
        ("changelog.gz", None),
        ("README.gz", None),
        ("a.zip", None),
        ("photo.jpg", None),
        ("old.doc", None),
        ("program", None),
        (".pdf", None),
        (".env", None),
        ("", None),
        ("odd\nname.txt", PLAIN),
        ("odd\udcff.txt", PLAIN),
    ],
)
def test_media_type_follows_the_name(name: str, expected: str | None) -> None:
    """Names alone decide; archives, images and names that say nothing are not read."""
    assert media_type(name) == expected
