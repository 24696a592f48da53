"""File names to the media types that are read: the same on every machine, and the one list of them.

Content is never guessed: a file that lies about its name is corrupt. How each type is read is `service.text.readers`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

_OFFICE = "application/vnd.openxmlformats-officedocument"
DOCX: Final = f"{_OFFICE}.wordprocessingml.document"
XLSX: Final = f"{_OFFICE}.spreadsheetml.sheet"
PPTX: Final = f"{_OFFICE}.presentationml.presentation"
PDF: Final = "application/pdf"
HTML: Final = "text/html"
CSV: Final = "text/csv"
EML: Final = "message/rfc822"
MARKDOWN: Final = "text/markdown"
PLAIN: Final = "text/plain"
UNKNOWN: Final = "application/octet-stream"
"""What a source says of a file that is not read."""

_TYPES: Final = {
    "pdf": PDF,
    "docx": DOCX,
    "xlsx": XLSX,
    "pptx": PPTX,
    "html": HTML,
    "htm": HTML,
    "xhtml": HTML,
    "csv": CSV,
    "eml": EML,
    "md": MARKDOWN,
    "markdown": MARKDOWN,
}
_PLAIN_SUFFIXES: Final = """
    txt text log rst adoc org tex bib tsv json jsonl xml yaml yml toml ini cfg conf properties sql css
    py pyi c h cc cpp cxx hpp java kt scala go rs rb php pl pm js jsx ts tsx cs swift lua r m jl hs ml el lisp clj
    sh bash zsh fish ps1 bat awk sed mk cmake diff patch proto graphql tf vim service desktop po
"""
# Files that are text by their name alone, whatever follows it: `README.Debian`, `changelog`, `LICENSE-MIT`.
_PLAIN_NAMES: Final = """
    readme license licence copying copyright changelog changes news authors contributors todo faq install notice
    thanks hacking history bugs credits maintainers makefile dockerfile
"""
_PACKED_SUFFIXES: Final = "gz bz2 xz zst zip tar tgz 7z rar"

_SUFFIXES: Final = frozenset(_PLAIN_SUFFIXES.split())
_NAMES: Final = frozenset(_PLAIN_NAMES.split())
_PACKED: Final = frozenset(_PACKED_SUFFIXES.split())


def media_type(name: str) -> str | None:
    """Return the media type that a file of this name is read as, None when it is not read.

    Compressed files and archives are not: what is inside has rules of its own in no source.
    """
    stem, _, suffix = PurePosixPath(name).name.lower().rpartition(".")
    if suffix in _TYPES and stem:
        return _TYPES[suffix]
    if suffix in _SUFFIXES and stem:
        return PLAIN
    first = (stem or suffix).split(".")[0].split("-")[0].split("_")[0]
    return PLAIN if first in _NAMES and suffix not in _PACKED else None
