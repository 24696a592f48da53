"""Documents made by hand, ordinary ones and hostile ones: no library for them is a dependency of the tests."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from html import escape

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_RELS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPES = "application/vnd.openxmlformats-officedocument"
_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_S = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_P = (
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    f'xmlns:r="{_OFFICE}"'
)


def packed(parts: Mapping[str, str | bytes]) -> bytes:
    """A ZIP file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _relations(*relations: tuple[str, str, str]) -> str:
    items = "".join(f'<Relationship Id="{i}" Type="{_OFFICE}/{kind}" Target="{to}"/>' for i, kind, to in relations)
    return f'{_XML}<Relationships xmlns="{_RELS}">{items}</Relationships>'


def _office(main: str, content_type: str, parts: Mapping[str, str | bytes], types: Mapping[str, str]) -> bytes:
    overrides = {main: content_type, **types}
    listed = "".join(f'<Override PartName="/{part}" ContentType="{_TYPES}.{t}"/>' for part, t in overrides.items())
    return packed(
        {
            "[Content_Types].xml": f'{_XML}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Default Extension="xml" ContentType="application/xml"/>{listed}</Types>',
            "_rels/.rels": _relations(("r1", "officeDocument", main)),
            **parts,
        }
    )


def docx(paragraphs: Sequence[tuple[str, str]], *, doctype: str = "", body: str | None = None) -> bytes:
    """A Word document of (style, text); style is such as `Heading1`, or empty. body: raw XML instead."""
    if body is None:
        body = "".join(f"<w:p>{_style(style)}{_run(text)}</w:p>" for style, text in paragraphs)
    document = f"{_XML}{doctype}<w:document {_W}><w:body>{body}</w:body></w:document>"
    return docx_of(document)


def _style(style: str) -> str:
    return f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""


def _run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r>'


def docx_of(document: str | bytes) -> bytes:
    """A Word document around the XML of its main part."""
    return _office("word/document.xml", "wordprocessingml.document.main+xml", {"word/document.xml": document}, {})


def xlsx(sheets: Mapping[str, Sequence[Sequence[object]]], *, doctype: str = "", far_cell: str = "") -> bytes:
    """A workbook with inline strings and numbers. far_cell: text of the last cell that a sheet can have."""
    parts: dict[str, str | bytes] = {}
    types = {}
    names = list(sheets)
    for number, rows in enumerate(sheets.values(), 1):
        data = ""
        for r, row in enumerate(rows, 1):
            cells = ""
            for c, value in enumerate(row):
                reference = f"{chr(65 + c)}{r}"
                if isinstance(value, int | float):
                    cells += f'<c r="{reference}"><v>{value}</v></c>'
                else:
                    text = str(value) if doctype else escape(str(value))
                    cells += f'<c r="{reference}" t="inlineStr"><is><t>{text}</t></is></c>'
            data += f'<row r="{r}">{cells}</row>'
        if far_cell:
            data += f'<row r="1048576"><c r="XFD1048576" t="inlineStr"><is><t>{far_cell}</t></is></c></row>'
        sheet = f"xl/worksheets/sheet{number}.xml"
        parts[sheet] = f"{_XML}{doctype}<worksheet {_S}><sheetData>{data}</sheetData></worksheet>"
        types[sheet] = "spreadsheetml.worksheet+xml"
    listed = "".join(f'<sheet name="{escape(name)}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(names, 1))
    parts["xl/workbook.xml"] = f'{_XML}<workbook {_S} xmlns:r="{_OFFICE}"><sheets>{listed}</sheets></workbook>'
    parts["xl/_rels/workbook.xml.rels"] = _relations(
        *((f"r{i}", "worksheet", f"worksheets/sheet{i}.xml") for i in range(1, len(names) + 1))
    )
    return _office("xl/workbook.xml", "spreadsheetml.sheet.main+xml", parts, types)


def pptx(slides: Sequence[tuple[str, Sequence[str]]]) -> bytes:
    """A presentation of (title, lines)."""

    def shape(number: int, kind: str, lines: Sequence[str]) -> str:
        text = "".join(f"<a:p><a:r><a:t>{escape(line)}</a:t></a:r></a:p>" for line in lines)
        return (
            f'<p:sp><p:nvSpPr><p:cNvPr id="{number}" name="{kind}"/><p:cNvSpPr/>'
            f'<p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr><p:spPr/>'
            f"<p:txBody><a:bodyPr/>{text}</p:txBody></p:sp>"
        )

    parts: dict[str, str | bytes] = {}
    types = {}
    for number, (title, lines) in enumerate(slides, 1):
        slide = f"ppt/slides/slide{number}.xml"
        parts[slide] = (
            f'{_XML}<p:sld {_P}><p:cSld><p:spTree><p:nvGrpSpPr><p:cNvPr id="1" name=""/><p:cNvGrpSpPr/><p:nvPr/>'
            f"</p:nvGrpSpPr><p:grpSpPr/>{shape(2, 'title', [title])}{shape(3, 'body', lines)}"
            "</p:spTree></p:cSld></p:sld>"
        )
        types[slide] = "presentationml.slide+xml"
    listed = "".join(f'<p:sldId id="{255 + i}" r:id="r{i}"/>' for i in range(1, len(slides) + 1))
    parts["ppt/presentation.xml"] = f"{_XML}<p:presentation {_P}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>"
    parts["ppt/_rels/presentation.xml.rels"] = _relations(
        *((f"r{i}", "slide", f"slides/slide{i}.xml") for i in range(1, len(slides) + 1))
    )
    return _office("ppt/presentation.xml", "presentationml.presentation.main+xml", parts, types)


def pdf(pages: Sequence[Sequence[tuple[int, str]]], *, title: str = "", trailer: str = "") -> bytes:
    """A PDF of pages of (font size, line). trailer: more entries for the trailer dictionary."""
    objects: list[bytes] = []

    def add(data: bytes) -> int:
        objects.append(data)
        return len(objects)

    add(b"<< /Type /Catalog /Pages 2 0 R >>")
    add(b"")
    font = add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    kids = []
    for page in pages:
        y = 780
        content = "BT\n"
        for size, line in page:
            text = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
            content += f"/F1 {size} Tf 1 0 0 1 50 {y} Tm ({text}) Tj\n"
            y -= size + 8
        packed_content = zlib.compress((content + "ET").encode("cp1252"))
        stream = add(
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed_content), packed_content)
        )
        kids.append(
            add(
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {stream} 0 R "
                f"/Resources << /Font << /F1 {font} 0 R >> >> >>".encode()
            )
        )
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{k} 0 R' for k in kids)}] >>".encode()
    if title:
        trailer += f" /Info {add(f'<< /Title ({title}) >>'.encode('cp1252'))} 0 R"
    return pdf_of(objects, trailer)


def pdf_of(objects: Sequence[bytes], trailer: str = "") -> bytes:
    """A PDF around its numbered objects."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, data in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, data)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def eml(subject: str, body: str, *, html: str = "", attachment: str = "") -> bytes:
    """A message in UTF-8, multipart when there is HTML or an attachment."""
    parts = []
    if body:
        parts.append(f"Content-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n")
    if html:
        parts.append(f"Content-Type: text/html; charset=utf-8\r\n\r\n{html}\r\n")
    if attachment:
        parts.append(
            f"Content-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\n{attachment}\r\n"
        )
    head = (
        "From: Alice Ahlgren <alice@example.org>\r\nTo: Bob <bob@example.org>\r\n"
        f"Date: Mon, 1 Jan 2024 08:00:00 +0000\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n"
    )
    kind = "alternative" if html and not attachment else "mixed"
    joined = "".join(f"--B\r\n{part}" for part in parts)
    return f"{head}Content-Type: multipart/{kind}; boundary=B\r\n\r\n{joined}--B--\r\n".encode()


def encrypted_office() -> bytes:
    """The container that a password turns an Office file into: a compound file with a stream `EncryptedPackage`."""
    free, end, fat = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD

    def entry(name: str, kind: int, child: int, right: int, start: int, size: int) -> bytes:
        encoded = name.encode("utf-16-le") + b"\0\0"
        return (
            encoded.ljust(64, b"\0")
            + len(encoded).to_bytes(2, "little")
            + bytes([kind, 1])
            + b"".join(n.to_bytes(4, "little") for n in (free, right, child))
            + bytes(36)
            + start.to_bytes(4, "little")
            + size.to_bytes(8, "little")
        )

    header = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + bytes.fromhex("3e000300feff09000600") + bytes(6)
    header += b"".join(n.to_bytes(4, "little") for n in (0, 1, 1, 0, 0, end, 0, end, 0, 0))
    header = header.ljust(512, b"\0")[:76] + (0).to_bytes(4, "little") + b"\xff" * (4 * 108)
    table = [fat, end] + [n + 1 for n in range(2, 9)] + [end] + [n + 1 for n in range(10, 17)] + [end]
    sectors = b"".join(n.to_bytes(4, "little") for n in table).ljust(512, b"\xff")
    sectors += entry("Root Entry", 5, 1, free, end, 0)
    sectors += entry("EncryptedPackage", 2, free, 2, 2, 4096)
    sectors += entry("EncryptionInfo", 2, free, free, 10, 4096) + bytes(128)
    return header + sectors + bytes(range(256)) * 32


def encrypted_pdf() -> bytes:
    """A PDF whose encryption dictionary fits no empty password (RC4, 40 bits; keys of nothing in particular)."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] >>",
        b"<< /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -44 >>" % (b"ab" * 32, b"cd" * 32),
    ]
    return pdf_of(objects, "/Encrypt 4 0 R /ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>]")


BILLION_LAUGHS = "<!DOCTYPE x [<!ENTITY a0 'ha'>{}]>".format(
    "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 12))
)
"""Declares `&a11;`, which stands for 100 billion laughs."""
