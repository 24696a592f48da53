"""Searching every byte below a folder for words that must not be there, in every form in which they could hide.

Each word is looked for as UTF-8, UTF-16, hexadecimal and base64 at each of its three alignments, as it is and in lower
case, in files and in whatever is compressed within them: zlib, gzip, zip, bzip2, xz and zstd. LZ4 needs nothing: it
keeps what it has not seen before as it is (LZ4 block format, literals), and a random word was never seen before.
"""

from __future__ import annotations

import base64
import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from service.errors import RemitError

_MOST_UNPACKED: Final = 64 * 2**20
_BLOCK: Final = 64 * 1024
_ZEROS: Final = bytes(_BLOCK)
_GAP: Final = bytes(64)


class UnreadableError(RemitError):
    """A file could not be read, so that nothing can be said."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A word that was found. path: relative to the folder. form: such as `utf-16` or `base64 in gzip`."""

    path: str
    word: str
    form: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a scan saw: how many files and bytes, how many compressed streams within them, and the hits."""

    files: int
    size_bytes: int
    unpacked: int
    hits: tuple[Hit, ...]


def scan(folder: Path, words: Iterable[str], raw: Mapping[str, bytes] | None = None) -> Found:
    """Search all files below `folder`, their names too. raw: bytes to look for as they are, by what they are called.

    Raises UnreadableError.
    """
    patterns = [
        *((word, form, pattern) for word in words for form, pattern in _forms(word)),
        *((name, "bytes", pattern) for name, pattern in (raw or {}).items()),
    ]
    files = size = unpacked = 0
    hits: dict[Hit, None] = {}
    for path in sorted(folder.rglob("*")):
        shown = str(path.relative_to(folder))
        hits.update((Hit(shown, word, f"{form}, name"), None) for word, form in _search(path.name.encode(), patterns))
        if not path.is_file() or path.is_symlink():
            continue
        try:
            length, data = path.stat().st_size, b"".join(_dense(path))
        except OSError as err:
            raise UnreadableError(f"`{path}` cannot be read: {err.strerror}") from err
        files += 1
        size += length
        hits.update((Hit(shown, word, form), None) for word, form in _search(data, patterns))
        for kind, inner in _unpacked(data):
            unpacked += 1
            hits.update((Hit(shown, word, f"{form} in {kind}"), None) for word, form in _search(inner, patterns))
    return Found(files, size, unpacked, tuple(hits))


def _dense(path: Path) -> Iterator[bytes]:
    """Read a file without its long stretches of zeros, in which no word can hide."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield _GAP if block == _ZEROS[: len(block)] else block


_Pattern = tuple[str, str, bytes]


def _search(data: bytes, patterns: Iterable[_Pattern]) -> Iterator[tuple[str, str]]:
    for word, form, pattern in patterns:
        if pattern in data:
            yield word, form


def _forms(word: str) -> Iterator[tuple[str, bytes]]:
    """Every form of a word. It must be so long that none of them occurs by chance."""
    for spelled in dict.fromkeys((word, word.lower())):
        plain = spelled.encode()
        yield "utf-8", plain
        yield "utf-16", spelled.encode("utf-16-le")
        # Big-endian is the same bytes one place further on, but for the first.
        yield "utf-16", spelled.encode("utf-16-be")[1:]
        yield "hex", plain.hex().encode()
        yield "hex", plain.hex().upper().encode()
        for shift in range(3):
            # What stands before and behind shares its first and last characters: only those that are its own count.
            encoded = base64.b64encode(b"\0" * shift + plain)
            own = encoded[-(-shift * 8 // 6) : (shift + len(plain)) * 8 // 6]
            yield "base64", own
            yield "base64", own.translate(bytes.maketrans(b"+/", b"-_"))


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every stream in `data` that can be unpacked, if only its beginning."""
    for kind, magic, unpack in _KINDS:
        at = data.find(magic)
        while at >= 0:
            try:
                inner = unpack(data[at : at + _MOST_UNPACKED])
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError):
                inner = b""
            if inner:
                yield kind, inner
            at = data.find(magic, at + 1)


def _zlib(wbits: int, skip: int = 0) -> Callable[[bytes], bytes]:
    return lambda data: zlib.decompressobj(wbits).decompress(data[skip:], _MOST_UNPACKED)


def _zip_entry(data: bytes) -> bytes:
    # SOURCE: APPNOTE.TXT 4.3.7: 30 bytes, then the name and the extra field, whose lengths are at 26 and 28.
    start = 30 + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    return zlib.decompressobj(-15).decompress(data[start:], _MOST_UNPACKED)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


_KINDS: Final[tuple[tuple[str, bytes, Callable[[bytes], bytes]], ...]] = (
    *(("zlib", magic, _zlib(15)) for magic in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")),
    ("gzip", b"\x1f\x8b\x08", _zlib(31)),
    ("zip", b"PK\x03\x04", _zip_entry),
    ("bzip2", b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data, _MOST_UNPACKED)),
    ("xz", b"\xfd7zXZ\x00", lambda data: lzma.LZMADecompressor().decompress(data, _MOST_UNPACKED)),
    ("zstd", b"\x28\xb5\x2f\xfd", _zstd),
)
