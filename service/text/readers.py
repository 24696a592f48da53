"""One document's bytes to its title and text, by format. Runs in the extraction process alone.

Responsible for decoding, for what kreuzberg is given and for what is left of its answer. Limits on time and memory are
left to `service.text.extract_process`, passages to `service.text.chunk`. What is read of which format: docs/formats.md.
"""

from __future__ import annotations

import codecs
import email
import email.policy
import html
import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Final

import kreuzberg

from connectors import media_types

_MAX_UNPACKED_BYTES: Final = 256 * 2**20
_MAX_ENTRIES: Final = 20_000
# What the standard library's mail parser raises for headers that are not well formed.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
_COMPOUND_FILE = bytes.fromhex("d0cf11e0a1b11ae1")
# Characters of a private plane that stand for XML's own five while kreuzberg reads a DOCX, see `_without_references`.
_XML = {"amp": "\U000f0001", "lt": "\U000f0002", "gt": "\U000f0003", "quot": "\U000f0004", "apos": "\U000f0005"}
_STAND_INS = str.maketrans(dict(zip(_XML.values(), "&<>\"'", strict=True)))


class ReadError(Exception):
    """The document cannot be read. reason: one of those of `service.text.extract.ExtractError`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Content:
    """What was read. title: empty when the document has none. markdown: whether `#` at a line's start is a heading."""

    title: str
    text: str
    markdown: bool


def read(data: bytes, media_type: str) -> Content:
    """Read a document. Raises ReadError."""
    match media_type:
        case media_types.PLAIN:
            return Content("", _lines(decode(data)), markdown=False)
        case media_types.MARKDOWN:
            return Content("", _lines(decode(data)), markdown=True)
        case media_types.HTML:
            return _html(decode(data, _declared(data)))
        case media_types.CSV:
            return _markdown(_lines(decode(data)).encode(), media_types.CSV)
        case media_types.EML:
            return _message(data)
        case media_types.PDF:
            return _markdown(data, media_types.PDF)
        case media_types.DOCX | media_types.XLSX | media_types.PPTX:
            _check_package(data)
            return _markdown(_without_references(data) if media_type == media_types.DOCX else data, media_type)
        case _:
            raise ReadError("unsupported", f"nothing reads `{media_type}`")


def decode(data: bytes, declared: str | None = None) -> str:
    """Bytes to text: by its byte order mark, its declaration, as UTF-8, else as Windows-1252. Binary is refused."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            text = data.decode(encoding, errors="replace")
            break
    else:
        text = _by_declaration(data, declared) or _by_content(data)
    strange = sum(text.count(chr(code)) for code in (*range(9), *range(14, 27), *range(28, 32), 127))
    if "\0" in text or strange > len(text) // 100:
        raise ReadError("corrupt", "this is binary data, not text")
    return text


def _by_declaration(data: bytes, declared: str | None) -> str | None:
    if declared is None:
        return None
    try:
        return data.decode(declared)
    except (LookupError, UnicodeError):
        return None


def _by_content(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        repaired = data.decode(errors="replace")
    # One broken character in a UTF-8 text leaves it UTF-8; bytes of another encoding are nearly all broken.
    broken = repaired.count("\ufffd")
    if broken < sum(1 for character in repaired if character > "\x7f") - broken:
        return repaired
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _declared(data: bytes) -> str | None:
    """The encoding that an HTML page names, if it is one that a page may name."""
    found = re.search(
        rb"""<(?:meta|\?xml)\b[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?([\w.:-]{1,20})""", data[:4096], re.I
    )
    name = found[1].decode("ascii", errors="replace").lower() if found else ""
    return name if re.fullmatch(r"(windows|iso|koi8|gb|big5|euc|shift|utf|us-ascii).*", name) else None


def _html(page: str) -> Content:
    found = re.search(r"<title\b[^>]{0,200}>([^<]{0,1000})</title", page, re.I)
    # Kreuzberg turns the head into front matter that ends up as a heading of the text.
    page = re.sub(
        r"<title\b[^>]{0,200}>[^<]{0,1000}</title\s*>|<(?:meta|link|base)\b[^>]{0,10000}>", "", page, flags=re.I
    )
    content = _markdown(page.encode(errors="replace"), media_types.HTML)
    return Content(html.unescape(found[1]) if found else "", content.text, markdown=True)


def _message(data: bytes) -> Content:
    """The subject and the body of a message, never its attachments."""
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        kind = message.get_content_type()
        body = message.get_body(("plain", "html"))
    except _MALFORMED as err:
        raise ReadError("corrupt", "the message is malformed") from err
    if kind in ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"):
        raise ReadError("encrypted", "the message is encrypted")
    text = _body(body) if isinstance(body, EmailMessage) else ""
    if not text.strip():
        raise ReadError("empty", "the message has no text")
    headers = {name: _header(message, name) for name in ("From", "To", "Cc", "Date", "Subject")}
    lines = [f"{name}: {value}" for name, value in headers.items() if value]
    return Content(headers["Subject"], "\n".join(lines) + "\n\n" + text, markdown=False)


def _header(message: EmailMessage, name: str) -> str:
    """One line; empty for a header that is missing or malformed."""
    try:
        return " ".join(str(message[name] or "").split())
    except _MALFORMED:
        return ""


def _body(part: EmailMessage) -> str:
    try:
        payload, charset = part.get_payload(decode=True), part.get_content_charset()
    except _MALFORMED as err:
        raise ReadError("corrupt", "the message is malformed") from err
    text = decode(payload if isinstance(payload, bytes) else b"", charset)
    return _html(text).text if part.get_content_type() == media_types.HTML else _lines(text)


def _check_package(data: bytes) -> None:
    """Refuse a package that is no ZIP file, asks for a password, or unpacks to more than is reasonable."""
    if data.startswith(_COMPOUND_FILE):
        if "EncryptedPackage".encode("utf-16-le") in data:
            raise ReadError("encrypted", "the file is protected by a password")
        raise ReadError("unsupported", "this is a file of Office 97 to 2003: save it in the current format")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            entries = package.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError) as err:
        raise ReadError("corrupt", "the file is damaged or incomplete") from err
    if not any(entry.filename == "[Content_Types].xml" for entry in entries):
        raise ReadError("corrupt", "this is an archive, not a document")
    if any(entry.flag_bits & 1 for entry in entries):
        raise ReadError("encrypted", "the file is protected by a password")
    if len(entries) > _MAX_ENTRIES or sum(e.file_size for e in entries if _is_xml(e)) > _MAX_UNPACKED_BYTES:
        raise ReadError("too large", "the file unpacks to more than 256 MB")


def _is_xml(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.endswith((".xml", ".rels"))


def _without_references(data: bytes) -> bytes:
    """Return a DOCX without media in which no text holds an XML reference.

    Kreuzberg 4.10 drops `&amp;` and every other reference from a DOCX: `R&D` would become `RD`.
    """
    buffer = io.BytesIO()
    left = _MAX_UNPACKED_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
            for entry in package.infolist():
                if not _is_xml(entry):
                    continue
                part = package.read(entry)
                left -= len(part)
                if left < 0:
                    raise ReadError("too large", "the file unpacks to more than 256 MB")
                out.writestr(
                    entry.filename, re.sub(rb"&(?:#(\d{1,7})|#x([0-9a-fA-F]{1,6})|(\w{2,4}));", _reference, part)
                )
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, EOFError, OSError) as err:
        raise ReadError("corrupt", "the file is damaged or incomplete") from err
    return buffer.getvalue()


def _reference(match: re.Match[bytes]) -> bytes:
    decimal, hexadecimal, name = match.groups()
    if name is not None:
        return _XML[name.decode()].encode() if name.decode(errors="replace") in _XML else match[0]
    code = int(decimal) if decimal is not None else int(hexadecimal, 16)
    if code < 32 or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
        return b" "
    named = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}.get(chr(code))
    return (_XML[named] if named else chr(code)).encode()


_SETTINGS: Final = kreuzberg.ExtractionConfig(
    output_format="markdown",
    use_cache=False,  # a cache on disk would hold the text of documents in the clear
    enable_quality_processing=False,  # it rewrites text, and this is the text that is cited
    ocr=None,
    force_ocr=False,
    images=None,
    concurrency=kreuzberg.ConcurrencyConfig(max_threads=1),
)


def _markdown(data: bytes, media_type: str) -> Content:
    try:
        result: Any = kreuzberg.extract_bytes_sync(data, media_type, _SETTINGS)
    except kreuzberg.KreuzbergError as err:
        message = str(err).lower()
        if "password" in message or "encrypt" in message:
            raise ReadError("encrypted", "the file is protected by a password") from err
        if "limit" in message or "too large" in message or "bomb" in message or "exceed" in message:
            raise ReadError("too large", "the file unpacks to more than is reasonable") from err
        raise ReadError("corrupt", "the file is damaged or not of its format") from err
    except (OSError, ValueError) as err:
        raise ReadError("corrupt", "the file is damaged or incomplete") from err
    metadata: Mapping[str, object] = result.metadata or {}
    core = metadata.get("core_properties")
    title = metadata.get("title") or (core.get("title") if isinstance(core, Mapping) else None)
    text = _plainer(_lines(str(result.content))).translate(_STAND_INS)
    return Content(str(title or "").translate(_STAND_INS), text, markdown=True)


def _plainer(markdown: str) -> str:
    """Take back escapes that only a renderer needs, and images that are data; fenced code stays as it is."""
    parts = re.split(r"(^```.*?^```[^\n]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"!\[([^\]\n]*)\]\(data:[^)\s]*\)", r"\1", parts[i])
        parts[i] = re.sub(r"\\([&<>_*\[\]()!~])|(?<!\n)(?<!^)\\#", lambda m: m[1] or "#", parts[i])
    return "".join(parts)
