"""What the demo does when something does not hold, and the small tools with which it tries to break in."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.demo import __main__ as demo
from service.demo.calls import random_id
from service.demo.layout import LayoutError
from service.demo.refusals import forge
from service.demo.screen import BrokenClaimError, Screen
from service.files import facl
from tests.support.needs import need

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give the process its signal handlers back: `main` sets its own."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (
            BrokenClaimError("Alice saw it"),
            1,
            "remit: this does not hold: Alice saw it",
        ),
        (LayoutError("no access control lists here"), 2, "remit: no access control lists here"),
    ],
)
def test_failure_is_one_sentence_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, sentence: str
) -> None:
    """A claim that does not hold ends with 1, a host that cannot run it with 2, each with a sentence, no traceback."""

    def fail(*arguments: object, keep: bool) -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["demo"])
    monkeypatch.setattr(demo, "play", fail)

    assert demo.main() == code
    assert capsys.readouterr().err.strip() == sentence


def test_claim_is_printed_only_when_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """A claim that holds is printed and counted; one that does not is an error that says what is the case."""
    screen = Screen()

    screen.claim("two and two are four", True, "arithmetic is broken")
    with pytest.raises(BrokenClaimError, match="they are five"):
        screen.claim("two and two are three", False, "they are five")

    assert screen.claims == 1
    assert capsys.readouterr().out == "  ✓ two and two are four\n"


def test_forged_token_differs_in_its_signature_alone() -> None:
    """The forgery has the header and the claims of the real token, so that only the signature can betray it."""
    real = jwt.encode({"sub": "u-1002"}, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": "dev-1"})

    forged = forge(real)

    assert jwt.get_unverified_header(forged) == jwt.get_unverified_header(real)
    assert forged.rsplit(".", 1)[0] == real.rsplit(".", 1)[0]
    assert forged != real


def test_random_id_has_the_form_of_a_real_one() -> None:
    """An id that does not exist is as long as one that does and made of the same characters."""
    real = "yUWhaHsnXi3VaV2Ubf20rg7g"

    found = random_id(real)

    assert len(found) == len(real)
    assert set(found) <= set(real)
    assert found != real


def test_list_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    """What is set is what is read, and one entry can be taken out without touching the others."""
    named = [facl.user(20005, "---"), facl.group(20104, "r--")]
    try:
        facl.allow_only(tmp_path, named)
    except OSError as err:
        need(False, f"{tmp_path} is on a file system without access control lists: {err.strerror}")

    facl.remove(tmp_path, named[1])

    left = facl.read(tmp_path)
    assert named[0] in left
    assert named[1] not in left
    assert os.getxattr(tmp_path, facl.XATTR) == facl.encode(left)


@pytest.mark.parametrize("attribute", [b"", b"\x02\x00", b"\x01\x00\x00\x00", b"\x02\x00\x00\x00\x01\x00"])
def test_attribute_of_another_form_is_refused(attribute: bytes) -> None:
    """Bytes that are no list of version 2 are an error and never an empty list."""
    with pytest.raises(ValueError, match="access control list"):
        facl.decode(attribute)


def test_every_office_file_has_its_source() -> None:
    """PDF, DOCX, PPTX and XLSX are built: each has a source, and each source was built."""
    company, sources = ROOT / "service/demo/company", ROOT / "examples/company-source"

    built = {p.relative_to(company) for p in company.rglob("*") if p.suffix in {".pdf", ".docx", ".pptx", ".xlsx"}}

    assert built == {p.relative_to(sources).with_suffix("") for p in sources.rglob("*") if p.is_file()}
