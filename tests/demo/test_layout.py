"""The demo's company: what ships, and who may read it once it lies on disk."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest
import yaml

from acl.decide import Allowed, decide
from acl.model import Caller
from acl.scopes import ScopeRow, ScopeTree
from connectors.base import ScopeChange, Skip, Upsert
from connectors.directories.static import StaticDirectory
from connectors.filesystem import Filesystem
from service.demo import layout, people
from service.files import facl
from tests.support.needs import need

EVERYBODY = {p.name for p in people.PEOPLE}
SALES = {"alice", "grace", "ivan"}
ENGINEERING = {"dave", "erin", "grace"}

READERS = {
    "Company-wide": EVERYBODY,
    "Sales": SALES,
    "Sales/Helios": SALES,
    "Finance": {"bob", "grace", "heidi"},
    "Finance/EMEA": {"bob", "grace"},
    "HR": {"carol", "grace"},
    "HR/For everyone": EVERYBODY,
    "Engineering": ENGINEERING,
    "Engineering/Borealis": ENGINEERING,
    "Engineering/Reviews": {"dave", "grace"},
    "Legal": {"frank", "grace", "judith"},
    "Legal/Drafts": {"frank"},
}
"""Who may read the files of each folder: said once more here, in names, independently of the entries on disk."""

QUESTIONS = Path(__file__).parent / "questions.yaml"


@pytest.fixture(scope="module")
def laid_out() -> Iterator[layout.Layout]:
    """The company on disk, with the directory file beside it."""
    found = layout.lay_out()
    people.write(found.base / "people.yaml")
    yield found
    found.remove()


def callers(base: Path) -> dict[str, Caller]:
    """Everybody as the static directory resolves them."""
    directory = StaticDirectory("people", base / "people.yaml")
    resolved = {p.name: directory.resolve("id", p.id) for p in people.PEOPLE}
    return {
        name: Caller(
            subject=one.account_id,
            principals=one.principals,
            complete=one.complete,
            resolved_at=one.resolved_at,
            expires_at=one.resolved_at + timedelta(minutes=5),
        )
        for name, one in resolved.items()
    }


def decisions(company: Path, base: Path) -> dict[str, set[str]]:
    """For each document the names of those who may read it, by the connector's walk and `decide`."""
    source = Filesystem(company, id_domain=people.ID_DOMAIN, ancestors_above_root="trust")
    changes = list(source.changes(None))
    assert not [c for c in changes if isinstance(c, Skip)]
    tree = ScopeTree(ScopeRow(c.id, c.parent, c.clause, c.location) for c in changes if isinstance(c, ScopeChange))
    everybody = callers(base)
    at = datetime.now(UTC)
    return {
        c.location: {
            name
            for name, caller in everybody.items()
            if isinstance(decide(tree.acl(c.scope, c.own), caller, at), Allowed)
        }
        for c in changes
        if isinstance(c, Upsert)
    }


def test_company_has_every_format() -> None:
    """At least 44 documents ship, at least three of each of the nine formats, in less than two megabytes."""
    shipped = list(layout.documents())

    formats = Counter(path.suffix for path, _ in shipped)

    assert len(shipped) >= 44
    assert set(formats) == {".md", ".txt", ".html", ".pdf", ".docx", ".xlsx", ".pptx", ".csv", ".eml"}
    assert min(formats.values()) >= 3
    assert sum(len(data) for _, data in shipped) < 2_000_000


def test_company_has_every_department() -> None:
    """Each department has at least five documents."""
    departments = Counter(path.parts[0] for path, _ in layout.documents())

    assert set(departments) == {"Company-wide", "Sales", "Finance", "HR", "Engineering", "Legal"}
    assert min(departments.values()) >= 5


def test_documents_are_written_not_filled_in() -> None:
    """Every document in a text format has a body of its own: no two share a paragraph, prose has 200 to 900 words."""
    seen: dict[str, PurePosixPath] = {}
    for path, data in layout.documents():
        if path.suffix not in {".md", ".txt", ".html", ".eml"}:
            continue
        text = data.decode()
        assert 200 <= len(re.sub(r"<[^>]*>", " ", text).split()) <= 900, path
        for paragraph in (p.strip() for p in text.split("\n\n")):
            if len(paragraph) > 80:
                assert paragraph not in seen, f"{path} repeats a paragraph of {seen.get(paragraph)}"
                seen[paragraph] = path


def test_layout_lets_each_person_read_what_is_theirs(laid_out: layout.Layout) -> None:
    """By the connector and `decide`, every document is readable by exactly the people meant, and by nobody else."""
    found = decisions(laid_out.company, laid_out.base)

    assert len(found) == len(list(layout.documents()))
    wanted = {str(path): READERS[str(path.parent)] for path, _ in layout.documents()}
    assert {_inside(laid_out.company, place): names for place, names in found.items()} == wanted


def _inside(company: Path, location: str) -> str:
    place = PurePosixPath(location)
    return str(place.relative_to(company) if place.is_absolute() else place)


@pytest.mark.oracle
def test_kernel_agrees(laid_out: layout.Layout) -> None:
    """The kernel lets each person open exactly the files meant: a child with their ids tries every file."""
    need(os.geteuid() == 0, "only root can take on the ids of the demo's people: run the tests as root")
    everything = sorted(str(path) for path, _ in layout.documents())
    gids = {g.id: g for g in people.GROUPS}

    for person in people.PEOPLE:
        groups = {*person.groups, *(outer for name in person.groups for outer in gids[name].member_of)}
        numbers = [gid for name in groups if (gid := gids[name].gid) is not None]
        wanted = {p for p in everything if person.name in READERS[str(PurePosixPath(p).parent)]}
        assert _opened(laid_out.company, everything, person.uid, numbers) == wanted, person.name


def _opened(company: Path, paths: list[str], uid: int, gids: list[int]) -> set[str]:
    """The paths that a process with these ids can open, starting inside the folder as the demo's `trust` means."""
    reading, writing = os.pipe()
    folder = os.open(company, os.O_PATH)
    with warnings.catch_warnings():
        # Newer Pythons warn where threads run; the child below only makes system calls.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        found = []
        try:
            os.setgroups(gids)
            os.setresgid(people.STAFF, people.STAFF, people.STAFF)
            os.setresuid(uid, uid, uid)
            for number, path in enumerate(paths):
                try:
                    os.close(os.open(path, os.O_RDONLY, dir_fd=folder))
                    found.append(number)
                except PermissionError:
                    pass
            os.write(writing, ",".join(str(n) for n in found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.close(folder)
    with os.fdopen(reading) as answer:
        numbers = answer.read()
    os.waitpid(child, 0)
    return {paths[int(n)] for n in numbers.split(",") if n}


def test_losing_a_group_loses_what_it_opened(laid_out: layout.Layout, tmp_path: Path) -> None:
    """Without fin-emea Bob loses all of Finance, since finance was his through it; what is for staff stays."""
    people.write(tmp_path / "people.yaml", people.without("bob", "fin-emea"))

    found = decisions(laid_out.company, tmp_path)

    readable = {_inside(laid_out.company, place).split("/")[0] for place, names in found.items() if "bob" in names}
    assert readable == {"Company-wide", "HR"}


def test_folder_entry_closes_everything_below() -> None:
    """When a folder loses the entry of a group, its people lose every file below, and others keep them."""
    found = layout.lay_out()
    try:
        people.write(found.base / "people.yaml")
        facl.remove(found.company / "Sales/Helios", facl.group(people.SALES, "r-x"))
        after = {_inside(found.company, p): names for p, names in decisions(found.company, found.base).items()}
    finally:
        found.remove()

    assert after["Sales/Helios/negotiation-log.md"] == {"grace"}
    assert after["Sales/competitor-notes.txt"] == SALES


def test_demo_ids_stay_in_their_range() -> None:
    """Every uid and gid of the demo lies in 20001 to 20999."""
    ids = [p.uid for p in people.PEOPLE] + [g.gid for g in people.GROUPS if g.gid is not None]

    assert set(ids) <= set(layout.IDS)
    assert len(set(ids)) == len(ids)


def test_mask_is_never_empty(laid_out: layout.Layout) -> None:
    """No list has the mask `---`, with which the kernel would ignore the entries and ask `other` instead."""
    for path in [laid_out.company, *laid_out.company.rglob("*")]:
        entries = facl.read(path)
        assert facl.Entry(facl.Tag.MASK, None, "---") not in entries
        assert facl.Entry(facl.Tag.OTHER, None, "---") in entries
        assert facl.Entry(facl.Tag.OWNING_GROUP, None, "---") in entries


def test_list_is_shown_as_getfacl_shows_it(laid_out: layout.Layout) -> None:
    """Our own notation is that of getfacl, entry by entry."""
    getfacl = shutil.which("getfacl")
    need(getfacl is not None, "getfacl is not installed: `apt install acl`")
    assert getfacl is not None
    file = laid_out.company / "Engineering/Reviews/technical-lead-assessment.docx"

    shown = subprocess.run([getfacl, "-np", file], capture_output=True, text=True, check=True).stdout

    assert facl.text(file, str(file)) == shown.strip()


def test_refusing_file_system_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no file system takes the lists, the demo stops with the names of the mounts and leaves nothing behind."""

    def refuse(path: Path, name: str, value: bytes) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(layout, "MEMORY", tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "setxattr", refuse)

    with pytest.raises(layout.LayoutError, match=r"does not pretend.*has no access control lists.*TMPDIR"):
        layout.lay_out()

    assert list(tmp_path.iterdir()) == []


def test_memory_is_tried_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the usual place refuses the lists, the documents go to the memory file system, still with real lists."""
    usual, memory = tmp_path / "usual", tmp_path / "memory"
    usual.mkdir()
    memory.mkdir()
    real = os.setxattr

    def refuse(path: Path, name: str, value: bytes) -> None:
        if path.is_relative_to(usual):
            raise OSError(errno.ENOTSUP, "Operation not supported")
        real(path, name, value)

    monkeypatch.setattr(layout, "MEMORY", memory)
    monkeypatch.setattr(tempfile, "tempdir", str(usual))
    monkeypatch.setattr(os, "setxattr", refuse)

    found = layout.lay_out()

    assert found.company.is_relative_to(memory)
    assert facl.group(people.STAFF, "r-x") in facl.read(found.company)
    found.remove()
    assert list(usual.iterdir()) == list(memory.iterdir()) == []


def test_questions_agree_with_the_layout() -> None:
    """Every question names documents that exist, and exactly the people who may read at least one of them."""
    shipped = {str(path) for path, _ in layout.documents()}
    questions = yaml.safe_load(QUESTIONS.read_text("utf-8"))["questions"]

    assert len(questions) >= 30
    for one in questions:
        assert set(one["answers"]) <= shipped, one["question"]
        allowed = set[str]().union(*(READERS[str(PurePosixPath(path).parent)] for path in one["answers"]))
        assert set(one["readers"]) == (allowed if allowed != EVERYBODY else {"everyone"}), one["question"]
