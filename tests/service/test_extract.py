"""Extraction: each format gives its text; whatever a stranger wrote costs that document and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.media_types import CSV, DOCX, EML, HTML, MARKDOWN, PDF, PLAIN, PPTX, XLSX
from service.embed.embedder import tokenizer_path
from service.process import Child, ChildCrashedError
from service.settings import EmbeddingSettings
from service.text import extract
from service.text.extract import Extracted, ExtractError, Extractor
from tests.service import documents as made

MB = 2**20


@pytest.fixture(scope="session")
def extractor() -> Iterator[Extractor]:
    """One extraction process for this file, with less memory than the service gives it so that bombs go off soon."""
    extractor = Extractor(tokenizer_path(EmbeddingSettings("model", None)), 256, memory_bytes=640 * MB)
    yield extractor
    extractor.close()


def text_of(extracted: Extracted) -> str:
    return "\n\n".join(passage.text for passage in extracted.chunks)


def reason_of(extractor: Extractor, data: bytes, media_type: str) -> str:
    """Why a document is skipped. Afterwards an ordinary one must still be read."""
    with pytest.raises(ExtractError) as caught:
        extractor.extract(data, media_type, "hostile")
    assert caught.value.detail
    assert "\n" not in caught.value.detail
    assert text_of(extractor.extract(b"an ordinary text", PLAIN, "a.txt")) == "an ordinary text"
    return caught.value.reason


def test_docx(extractor: Extractor) -> None:
    """Headings and paragraphs, with every character: kreuzberg alone would drop XML references."""
    data = made.docx([("Heading1", "R&D"), ("", "AT&T, a < b > c, \"so\" & 'so'"), ("Heading2", "Plans"), ("", "_x_")])

    extracted = extractor.extract(data, DOCX, "plan.docx")

    assert text_of(extracted) == "## R&D\n\nAT&T, a < b > c, \"so\" & 'so'\n\n### Plans\n\n_x_"
    assert extracted.title == "R&D"


def test_docx_character_references(extractor: Extractor) -> None:
    """A character by its number is that character, and an escaped reference is text."""
    body = "<w:p><w:r><w:t>gr&#252;n&#x2019;s &#38; &amp;amp; &#0;</w:t></w:r></w:p>"

    assert text_of(extractor.extract(made.docx([], body=body), DOCX, "a.docx")) == "grün’s & &amp;"


def test_xlsx(extractor: Extractor) -> None:
    """Each sheet is a table under its name."""
    data = made.xlsx({"Plan & budget": [["item", "cost"], ["R&D", 12.5]], "Notes": [["see finance"]]})

    text = text_of(extractor.extract(data, XLSX, "budget.xlsx"))

    assert "## Plan & budget" in text
    assert "| R&D | 12.5 |" in text
    assert "## Notes" in text
    assert "see finance" in text


def test_pptx(extractor: Extractor) -> None:
    """Each slide's title is a heading of its lines, in the order of the slides."""
    data = made.pptx([("Goals & plans", ["grow", "save"]), ("Risks", ["few"])])

    assert text_of(extractor.extract(data, PPTX, "a.pptx")) == "## Goals & plans\n\ngrow\n\nsave\n\n## Risks\n\nfew"


def test_pdf(extractor: Extractor) -> None:
    """Text of all pages, large type as headings, the title from the document's properties."""
    data = made.pdf([[(24, "Handbook"), (11, "Line one (of two)"), (11, "line two")], [(11, "next page")]], title="T")

    extracted = extractor.extract(data, PDF, "a.pdf")

    assert text_of(extracted) == "# Handbook\n\nLine one (of two) line two\n\nnext page"
    assert extracted.title == "T"
    assert extracted.chunks[0].headings == ("Handbook",)


def test_html(extractor: Extractor) -> None:
    """The body's text as Markdown; head, scripts, styles, comments and embedded images are left out."""
    page = (
        '<!doctype html><html lang="de"><head><title>A &amp; B</title><meta name="description" content="HIDDEN">'
        "<style>HIDDEN{}</style></head><body><!-- HIDDEN --><h1>R&amp;D</h1><p>gr&uuml;n &lt;b&gt; a_b</p>"
        "<script>HIDDEN()</script><ul><li>one</ul><p><img src='data:image/png;base64,HIDDEN' alt='chart'></p>"
        "<pre>x = a\\&b</pre></body></html>"
    )

    extracted = extractor.extract(page.encode(), HTML, "a.html")

    text = text_of(extracted)
    assert extracted.title == "A & B"
    assert text.startswith("# R&D\n\ngrün <b> a_b\n\n- one\n\nchart")
    assert "x = a\\&b" in text
    assert "HIDDEN" not in text


@pytest.mark.parametrize(
    "page",
    [
        "<p>grüße".encode(),
        "<p>grüße".encode("utf-8-sig"),
        "<p>grüße".encode("utf-16"),
        "<meta charset='iso-8859-1'><p>grüße".encode("latin-1"),
        '<?xml version="1.0" encoding="ISO-8859-1"?><p>grüße</p>'.encode("latin-1"),
        "<p>grüße".encode("cp1252"),
        "<meta charset='punycode'><p>grüße".encode(),
    ],
)
def test_html_encodings(extractor: Extractor, page: bytes) -> None:
    """By byte order mark, by declaration, by content; a strange declaration is ignored."""
    assert text_of(extractor.extract(page, HTML, "a.html")) == "grüße"


def test_csv(extractor: Extractor) -> None:
    """A table, also with semicolons and in Windows-1252."""
    text = text_of(extractor.extract("name;cost\nMüller & Co;2_3\n".encode("cp1252"), CSV, "a.csv"))

    assert text == "| name | cost |\n| --- | --- |\n| Müller & Co | 2_3 |"


def test_eml(extractor: Extractor) -> None:
    """Headers that people read and the plain body, line by line; no attachment, not the HTML twin."""
    data = made.eml("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "line one\r\nline two ü", html="<p>TWIN</p>", attachment="ATTACHED")

    extracted = extractor.extract(data, EML, "a.eml")

    text = text_of(extracted)
    assert extracted.title == "Grüße"
    assert "From: Alice Ahlgren <alice@example.org>" in text
    assert text.endswith("Subject: Grüße\n\nline one\nline two ü")
    assert "TWIN" not in text
    assert "ATTACHED" not in text


@pytest.mark.parametrize("header", ["Date: Mon, 99999999999 Jan 2024 08:00:00", "To: a:;@x", "From: <", "Cc: @"])
def test_eml_with_a_malformed_header(extractor: Extractor, header: str) -> None:
    """A header that nobody can parse is left out, and the message is read."""
    data = f"Subject: S\r\n{header}\r\n\r\nthe body".encode()

    assert text_of(extractor.extract(data, EML, "a.eml")).endswith("Subject: S\n\nthe body")


def test_eml_with_html_alone(extractor: Extractor) -> None:
    """A message without a plain body is read from its HTML."""
    data = made.eml("S", "", html="<p>R&amp;D <b>now</b></p>")

    assert text_of(extractor.extract(data, EML, "a.eml")).endswith("R&D **now**")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"one\ntwo", "one\ntwo"),
        (b"one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("\ufeffgrün".encode(), "grün"),
        ("grün".encode("utf-16"), "grün"),
        ("grün".encode("utf-16-be"), None),
        ("grün".encode("utf-32"), "grün"),
        ("grün".encode("cp1252"), "grün"),
        ("grün, schön, süß ".encode() + b"\xff", "grün, schön, süß \ufffd"),
        (b"\x1b[1mbold\x1b[0m", "\x1b[1mbold\x1b[0m"),
    ],
)
def test_plain_text_encodings(extractor: Extractor, data: bytes, text: str | None) -> None:
    """Text is decoded here and not changed; what holds NUL after that is binary."""
    if text is None:
        assert reason_of(extractor, data, PLAIN) == "corrupt"
    else:
        assert text_of(extractor.extract(data, PLAIN, "a.txt")) == text


def test_markdown_keeps_every_character(extractor: Extractor) -> None:
    """Markdown is not rendered and read back; its headings become those of the passages."""
    source = "# Title\n\nAT&amp;T \\_x\\_ <b>\n\n```sh\n# comment\n```"

    extracted = extractor.extract(source.encode(), MARKDOWN, "a.md")

    assert text_of(extracted) == source
    assert extracted.title == "Title"
    assert extracted.text_length == len(source)


def test_title_falls_back_to_the_file_name(extractor: Extractor) -> None:
    """A document without title and heading is called by its name, on one line."""
    assert extractor.extract(b"text", PLAIN, "odd\nname.txt").title == "odd name.txt"
    assert extractor.extract(b"text", PLAIN, "\n").title == "untitled"


def test_long_document_has_passages_that_fit(extractor: Extractor) -> None:
    """Headings and spans survive the way through the process."""
    source = "".join(f"# Part {i}\n\n{'A sentence about this part. ' * 60}\n\n" for i in range(20))

    extracted = extractor.extract(source.encode(), MARKDOWN, "a.md")

    assert len(extracted.chunks) > 20
    assert {passage.headings for passage in extracted.chunks} == {(f"Part {i}",) for i in range(20)}
    assert all(source[passage.start : passage.end] == passage.text for passage in extracted.chunks)


def test_concurrent_callers_get_their_own_documents(extractor: Extractor) -> None:
    """Reading and cutting of one document belong together, whoever else asks."""
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(20):
            if text_of(extractor.extract(b"text %d" % number, PLAIN, "a.txt")) != f"text {number}":
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def deflated(size_bytes: int) -> bytes:
    """A stream of line ends that unpacks to `size_bytes`: after a full flush a block may be repeated as it is."""
    packer = zlib.compressobj(9)
    first = packer.compress(b"\n" * MB) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"\n" * MB) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + block * (size_bytes // MB - 1)


def pdf_bomb() -> bytes:
    data = deflated(1024 * MB)
    return made.pdf_of(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R >>",
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(data), data),
        ]
    )


def flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 0xFF
    return bytes(changed)


DOCX_DATA = made.docx([("", "some text " * 100)])
PDF_DATA = made.pdf([[(11, "some text")]])


@pytest.mark.parametrize(
    ("data", "media_type", "reason"),
    [
        pytest.param(b"x", "image/png", "unsupported", id="image"),
        pytest.param(b"", PLAIN, "empty", id="nothing"),
        pytest.param(b" \n\t", PLAIN, "empty", id="blank"),
        pytest.param("\u200b\u200b".encode(), PLAIN, "empty", id="invisible"),
        pytest.param(made.pdf([[], []]), PDF, "empty", id="pdf-without-text"),
        pytest.param(made.eml("S", ""), EML, "empty", id="message-without-body"),
        pytest.param(bytes(range(256)) * 8, PLAIN, "corrupt", id="binary"),
        pytest.param(b"\x01\x02\x03" * 100, PLAIN, "corrupt", id="control-characters"),
        pytest.param(bytes(100), HTML, "corrupt", id="binary-html"),
        pytest.param(made.encrypted_pdf(), PDF, "encrypted", id="encrypted-pdf"),
        pytest.param(made.encrypted_office(), DOCX, "encrypted", id="encrypted-docx"),
        pytest.param(made.encrypted_office(), XLSX, "encrypted", id="encrypted-xlsx"),
        pytest.param(made.encrypted_office(), PPTX, "encrypted", id="encrypted-pptx"),
        pytest.param(
            b"Subject: s\r\nContent-Type: application/pkcs7-mime\r\n\r\nxx", EML, "encrypted", id="encrypted-eml"
        ),
        pytest.param(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(4096), DOCX, "unsupported", id="word-97"),
        pytest.param(DOCX_DATA[: len(DOCX_DATA) // 2], DOCX, "corrupt", id="docx-cut-off"),
        pytest.param(flipped(DOCX_DATA), DOCX, "corrupt", id="docx-flipped"),
        pytest.param(flipped(made.pptx([("T", ["text " * 200])])), PPTX, "corrupt", id="pptx-flipped"),
        pytest.param(made.packed({"a.txt": "x"}), DOCX, "corrupt", id="zip-called-docx"),
        pytest.param(made.packed({"a.txt": "x"}), XLSX, "corrupt", id="zip-called-xlsx"),
        pytest.param(made.packed({"a.txt": "x"}), PPTX, "corrupt", id="zip-called-pptx"),
        pytest.param(PDF_DATA[:300], PDF, "corrupt", id="pdf-cut-off"),
        pytest.param(b"%PDF-1.7\n" + bytes(4096), PDF, "corrupt", id="pdf-of-zeros"),
        pytest.param(made.pdf_of([b"<< /Type /Catalog /Pages " + b"[" * 500_000]), PDF, "corrupt", id="pdf-nested"),
        pytest.param(b"hello", PDF, "corrupt", id="text-called-pdf"),
        pytest.param(made.docx_of(b"<a>" * (100 * MB)), DOCX, "too large", id="zip-bomb"),
        pytest.param(b"word " * 4_200_000, PLAIN, "too large", id="text-over-the-limit"),
        pytest.param(pdf_bomb(), PDF, "memory", id="pdf-bomb"),
        pytest.param(b"a," * 5_000_000, CSV, "memory", id="csv-of-five-million-columns"),
        pytest.param(
            b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (i, i) for i in range(3000)),
            EML,
            "memory",
            id="message-nested",
        ),
        pytest.param(made.docx([], body="<w:sdt><w:sdtContent>" * 200_000), DOCX, "corrupt", id="docx-nested"),
        pytest.param(b"<div>" * 200_000 + b"x", HTML, "empty", id="html-nested"),
    ],
)
def test_bad_document_has_a_reason_and_the_next_one_is_read(
    extractor: Extractor, data: bytes, media_type: str, reason: str
) -> None:
    """Damage, passwords and bombs are told apart, and none outlives its document."""
    assert reason_of(extractor, data, media_type) == reason


def test_entity_bombs_do_not_go_off(extractor: Extractor) -> None:
    """Entities that a document declares are never expanded, in any format that could hold them."""
    laughs = made.BILLION_LAUGHS
    word = made.docx([], doctype=laughs, body="<w:p><w:r><w:t>before &a11; after</w:t></w:r></w:p>")
    sheet = made.xlsx({"a": [["x &a11; y"], ["plain"]]}, doctype=laughs)

    with pytest.raises(ExtractError) as caught:
        extractor.extract(sheet, XLSX, "bomb")
    assert caught.value.reason == "empty"
    assert text_of(extractor.extract(word, DOCX, "bomb")).split() == ["before", "after"]
    assert text_of(extractor.extract(f"{laughs}<p>x &a11; y".encode(), HTML, "bomb")) == "x &a11; y"


def test_table_with_one_far_cell_is_small(extractor: Extractor) -> None:
    """A cell in the last row and column of a sheet does not fill the rows between."""
    data = made.xlsx({"a": [["near"]]}, far_cell="far")

    extracted = extractor.extract(data, XLSX, "a.xlsx")

    assert "near" in text_of(extracted)
    assert extracted.text_length < 1000


def test_many_pages_are_read(extractor: Extractor) -> None:
    """Ten thousand pages are a long document, not a bomb."""
    data = made.pdf([[(11, f"page {number}")] for number in range(10_000)])

    assert "page 9999" in text_of(extractor.extract(data, PDF, "a.pdf"))


def test_document_over_the_input_limit_is_not_read() -> None:
    """The limit holds before the process sees the document; at the limit it is read."""
    extractor = Extractor(None, 256, max_input_bytes=4)
    try:
        with pytest.raises(ExtractError, match="limit is 4") as caught:
            extractor.extract(b"abcde", PLAIN, "a.txt")

        assert caught.value.reason == "too large"
        assert extractor.pid is None
        assert text_of(extractor.extract(b"abcd", PLAIN, "a.txt")) == "abcd"
    finally:
        extractor.close()


SLOW = b"<meta " * 2_000_000


def test_slow_document_is_ended_by_the_clock() -> None:
    """A document that takes too long is `timeout`; the next one is read."""
    extractor = Extractor(None, 256, read_timeout_s=0.3)
    try:
        extractor.extract(b"text", PLAIN, "a.txt")

        with pytest.raises(ExtractError) as caught:
            extractor.extract(SLOW, HTML, "a.html")

        assert caught.value.reason == "timeout"
    finally:
        extractor.close()


def test_slow_document_is_ended_by_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends a process that computes too long, whatever the clock says."""
    monkeypatch.setattr(extract, "READ_TIMEOUT_S", 1)
    extractor = Extractor(None, 256, read_timeout_s=60)
    try:
        assert reason_of(extractor, SLOW, HTML) == "timeout"
    finally:
        extractor.close()


def test_process_is_limited_and_writes_nothing(extractor: Extractor) -> None:
    """The kernel limits memory, file size and core dumps: nothing can be cached on disk; and nothing is connected."""
    extractor.extract(PDF_DATA, PDF, "a.pdf")

    limits = {
        line[:26].strip(): line[26:].split()[:2]
        for line in Path(f"/proc/{extractor.pid}/limits").read_text().splitlines()
    }
    assert limits["Max address space"] == [str(640 * MB)] * 2
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max cpu time"][0] != "unlimited"
    held = [os.readlink(fd) for fd in Path(f"/proc/{extractor.pid}/fd").iterdir()]  # noqa: PTH115  not paths
    assert not [name for name in held if name.startswith("/") and name != os.devnull]
    network = "".join(Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "udp", "raw"))
    assert not [name for name in held if name.startswith("socket:") and f" {name[8:-1]} " in network]


def test_failure_left_by_earlier_documents_is_not_held_against_this_one(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in a process that read others before is tried once more in a new one; a second crash counts."""
    call = Child.call
    crashes = 1

    def crashing(self: Child, *args: object, **kwargs: object) -> object:
        nonlocal crashes
        if crashes > 0:
            crashes -= 1
            raise ChildCrashedError("ended", -11)
        return call(self, *args, **kwargs)  # type: ignore[arg-type]  # passed through

    extractor.extract(b"text", PLAIN, "a.txt")
    before = extractor.pid
    monkeypatch.setattr(Child, "call", crashing)

    assert text_of(extractor.extract(b"text", PLAIN, "a.txt")) == "text"
    assert extractor.pid != before

    crashes = 2
    with pytest.raises(ExtractError) as caught:
        extractor.extract(b"text", PLAIN, "a.txt")
    assert caught.value.reason == "crashed"


@pytest.mark.parametrize(
    ("spans", "headings", "text"),
    [
        ([[0, 5, 0]], [[]], "text"),
        ([[2, 2, 0]], [[]], "text"),
        ([[-1, 2, 0]], [[]], "text"),
        ([[0, 2, 1]], [[]], "text"),
        ([[0, 2, -1]], [[]], "text"),
        ([[0, 2, 0]], [["a", 1]], "text"),
        ([[0, 2, 0]], [["h"] * 7], "text"),
        ([[0, 3, 0], [2, 4, 0]], [[]], "text"),
        ([[0, 1, 0]], [[]], " ext"),
        ([[0, True, 0]], [[]], "text"),
        ("spans", [[]], "text"),
        ([[0, 4, 0]], [[]], "texts"),
    ],
)
def test_answer_that_makes_no_sense_is_refused(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch, spans: object, headings: object, text: str
) -> None:
    """A process that a document has taken over cannot make passages that are not in the text it gave."""

    def answering(spans: object, headings: object, text: str) -> None:
        def answer(self: Child, method: str, *args: object, **kwargs: object) -> object:
            if method == "read":
                return {"title": "", "length": 4}, []
            return {"spans": spans}, [json.dumps(headings).encode(), text.encode()]

        monkeypatch.setattr(Child, "call", answer)

    answering([[0, 4, 0]], [["h"]], "text")
    assert text_of(extractor.extract(b"", PLAIN, "a.txt")) == "text"
    answering(spans, headings, text)

    with pytest.raises(ExtractError) as caught:
        extractor.extract(b"", PLAIN, "a.txt")

    assert caught.value.reason == "crashed"


def test_only_the_extraction_process_loads_the_parsers() -> None:
    """The service itself never holds a library that reads what strangers wrote."""
    program = (
        "import sys, service.text.extract\n"
        "assert not {'kreuzberg', 'torch', 'service.text.readers'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("media_type", [CSV, DOCX, EML, HTML, MARKDOWN, PDF, PLAIN, PPTX, XLSX])
def test_every_type_that_a_name_may_mean_has_a_reader(extractor: Extractor, media_type: str) -> None:
    """What a source says by a file's name is what the extraction goes by: none of it is unsupported."""
    reasons = set()
    try:
        extractor.extract(b"a,b", media_type, "small")
    except ExtractError as err:
        reasons.add(err.reason)

    assert reasons <= {"corrupt"}
