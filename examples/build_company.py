"""Build the office files of the demo's company (PDF, DOCX, PPTX, XLSX) from the sources beside this script.

Run by hand after a change of `examples/company-source/`; what it writes is committed, so neither Remit nor its demo
needs the libraries below. The same sources give the same bytes: every date inside the files is fixed.

    python -m venv company-venv
    company-venv/bin/pip install fpdf2 markdown-it-py openpyxl python-docx python-pptx pyyaml
    company-venv/bin/python examples/build_company.py

A source is named after what it becomes: `memo.docx.md` is Markdown, `budget.xlsx.yaml` lists sheets with their rows.
Markdown here means headings, paragraphs, lists, tables, bold and italic. In slides `#` is the first slide, `##` begins
another, and a paragraph that begins with `Notes:` goes to the notes. The text formats (Markdown, text, HTML, CSV, EML)
have no source: they are edited in `service/demo/company/` itself.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from docx import Document
from fpdf import FPDF
from fpdf.fonts import FontFace
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from openpyxl import Workbook
from openpyxl.styles import Font
from pptx import Presentation

SOURCES = Path(__file__).resolve().parent / "company-source"
TARGET = Path(__file__).resolve().parent.parent / "service/demo/company"
AUTHOR = "Nordlicht Instruments GmbH"
WRITTEN = dt.datetime(2025, 11, 14, 9, 0, 0, tzinfo=dt.UTC)


@dataclass
class Block:
    """A heading (with its level), a paragraph, a list or a table of a Markdown source; text keeps `**` and `*`."""

    kind: str
    level: int = 0
    text: str = ""
    items: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    ordered: bool = False


def blocks(markdown: str) -> list[Block]:
    """Read the part of Markdown that the sources use. Raises ValueError for anything else."""
    found = []
    for node in SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(markdown)).children:
        match node.type:
            case "heading":
                found.append(Block("heading", level=int(node.tag[1:]), text=_inline(node)))
            case "paragraph":
                found.append(Block("paragraph", text=_inline(node)))
            case "bullet_list" | "ordered_list":
                found.append(Block("list", items=[_inline(i) for i in node.children], ordered=node.type[0] == "o"))
            case "table":
                rows = [[_inline(cell) for cell in row.children] for part in node.children for row in part.children]
                found.append(Block("table", rows=rows))
            case other:
                raise ValueError(f"the sources do not use `{other}`")
    return found


def _inline(node: SyntaxTreeNode) -> str:
    return " ".join(n.content.replace("\n", " ") for n in node.walk() if n.type == "inline")


def plain(text: str) -> str:
    """The text without its marks for bold and italic."""
    return re.sub(r"\*\*?(.+?)\*\*?", r"\1", text)


def runs(text: str) -> list[tuple[str, bool, bool]]:
    """Split into (text, bold, italic)."""
    parts = re.split(r"(\*\*.+?\*\*|\*.+?\*)", text)
    return [(plain(p), p.startswith("**"), p.startswith("*") and not p.startswith("**")) for p in parts if p]


def title(content: list[Block]) -> str:
    """The first heading."""
    return next(plain(b.text) for b in content if b.kind == "heading")


def to_pdf(source: str) -> bytes:
    """One A4 document in a font that every reader has."""
    content = blocks(source)
    pdf = FPDF(format="A4")
    pdf.set_title(title(content))
    pdf.set_author(AUTHOR)
    pdf.set_creation_date(WRITTEN)
    pdf.set_margins(22, 20)
    pdf.set_auto_page_break(True, 20)
    pdf.add_page()
    for block in content:
        match block.kind:
            case "heading":
                pdf.ln(2 if block.level > 1 else 0)
                pdf.set_font("Helvetica", "B", {1: 17, 2: 13}.get(block.level, 11))
                pdf.multi_cell(0, None, plain(block.text), new_x="LMARGIN", new_y="NEXT")
                pdf.ln(2)
            case "paragraph":
                _pdf_text(pdf, block.text)
            case "list":
                for number, item in enumerate(block.items, 1):
                    _pdf_text(pdf, f"{number}. {item}" if block.ordered else f"- {item}", gap=1)
                pdf.ln(2)
            case "table":
                pdf.set_font("Helvetica", "", 9)
                with pdf.table(headings_style=FontFace(emphasis="BOLD"), line_height=5) as table:
                    for row in block.rows:
                        table.row([plain(cell) for cell in row])
                pdf.ln(3)
            case other:
                raise ValueError(f"a PDF has no `{other}`")
    return bytes(pdf.output())


def _pdf_text(pdf: FPDF, text: str, gap: float = 3) -> None:
    pdf.set_font("Helvetica", "", 10)
    marked = re.sub(r"(?<!\*)\*([^*]+?)\*(?!\*)", r"__\1__", text)
    pdf.multi_cell(0, 5, marked, markdown=True, new_x="LMARGIN", new_y="NEXT")
    pdf.ln(gap)


def to_docx(source: str) -> bytes:
    """A document with real headings, lists and tables."""
    content = blocks(source)
    document = Document()
    _properties(document.core_properties, title(content))
    for block in content:
        match block.kind:
            case "heading":
                document.add_heading(plain(block.text), 0 if block.level == 1 else block.level - 1)
            case "paragraph":
                _docx_text(document.add_paragraph(), block.text)
            case "list":
                for item in block.items:
                    _docx_text(document.add_paragraph(style="List Number" if block.ordered else "List Bullet"), item)
            case "table":
                table = document.add_table(len(block.rows), len(block.rows[0]), "Light Grid Accent 1")
                for row, cells in zip(table.rows, block.rows, strict=True):
                    for cell, text in zip(row.cells, cells, strict=True):
                        cell.text = plain(text)
            case other:
                raise ValueError(f"a document has no `{other}`")
    out = io.BytesIO()
    document.save(out)
    return _settle(out.getvalue())


def _docx_text(paragraph: Any, text: str) -> None:
    for part, bold, italic in runs(text):
        run = paragraph.add_run(part)
        run.bold, run.italic = bold or None, italic or None


def to_pptx(source: str) -> bytes:
    """A title slide, then one slide of points for each second-level heading."""
    content = blocks(source)
    deck = Presentation()
    _properties(deck.core_properties, title(content))
    slide: Any = None
    for block in content:
        match block.kind:
            case "heading":
                slide = deck.slides.add_slide(deck.slide_layouts[0 if block.level == 1 else 1])
                slide.shapes.title.text = plain(block.text)
            case "paragraph" if block.text.startswith("Notes:"):
                slide.notes_slide.notes_text_frame.text = plain(block.text.removeprefix("Notes:").strip())
            case "paragraph":
                slide.placeholders[1].text = plain(block.text)
            case "list":
                frame = slide.placeholders[1].text_frame
                frame.text = plain(block.items[0])
                for item in block.items[1:]:
                    frame.add_paragraph().text = plain(item)
            case other:
                raise ValueError(f"slides have no `{other}`")
    out = io.BytesIO()
    deck.save(out)
    return _settle(out.getvalue())


def to_xlsx(source: str) -> bytes:
    """Sheets of values, with a bold first row."""
    book = Workbook()
    book.remove(book.active)
    described = yaml.safe_load(source)
    for sheet in described["sheets"]:
        page = book.create_sheet(sheet["name"])
        page.append(sheet["columns"])
        for row in sheet["rows"]:
            if len(row) != len(sheet["columns"]):
                raise ValueError(f"sheet `{sheet['name']}`: {row} has not {len(sheet['columns'])} cells")
            page.append([value.isoformat() if isinstance(value, dt.date) else value for value in row])
        for cell in page[1]:
            cell.font = Font(bold=True)
        for column in page.columns:
            width = max(len(str(cell.value or "")) for cell in column)
            page.column_dimensions[column[0].column_letter].width = min(width + 2, 50)
    _properties(book.properties, described["title"])
    out = io.BytesIO()
    book.save(out)
    return _settle(out.getvalue())


def _properties(properties: Any, name: str) -> None:
    properties.title = name
    for author in ("author", "creator"):
        if hasattr(properties, author):
            setattr(properties, author, AUTHOR)
    naive = WRITTEN.replace(tzinfo=None)  # the libraries take local times and write them as UTC
    properties.created = properties.modified = naive


def _settle(office: bytes) -> bytes:
    """Give every member of the archive, and the date of the last saving, the same fixed time."""
    out = io.BytesIO()
    stamp = WRITTEN.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    with zipfile.ZipFile(io.BytesIO(office)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb"(<dcterms:(?:created|modified)[^>]*>)[^<]*", rb"\g<1>" + stamp, data)
            member = zipfile.ZipInfo(name, WRITTEN.timetuple()[:6])
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            new.writestr(member, data)
    return out.getvalue()


BUILDERS = {".pdf": to_pdf, ".docx": to_docx, ".pptx": to_pptx, ".xlsx": to_xlsx}


def main() -> int:
    """Build everything; with `--check` only say what would change."""
    changed = []
    for source in sorted(p for p in SOURCES.rglob("*") if p.is_file()):
        target = TARGET / source.relative_to(SOURCES).with_suffix("")
        built = BUILDERS[target.suffix](source.read_text("utf-8"))
        if not target.exists() or target.read_bytes() != built:
            changed.append(target)
            if "--check" not in sys.argv:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(built)
    for target in changed:
        print(target.relative_to(TARGET))
    return 1 if changed and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
