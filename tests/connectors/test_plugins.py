"""Kinds of other packages: the documented example is found by its entry point and keeps the contract."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from connectors.base import ScanComplete, ScopeChange, Upsert
from connectors.filesystem import Filesystem
from connectors.plugins import GROUP
from connectors.registry import OptionError, build

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/connector"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution where Python looks for them: its metadata with entry points, and modules."""

    def install_(package: str, points: dict[str, str], **modules: str) -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(folder))

    return install_


@pytest.fixture
def notes(install: Install) -> None:
    """The example, with the entry points that its own pyproject names."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    modules = {name: (EXAMPLE / f"{name}.py").read_text() for name in ("remit_notes", "test_notes")}
    install("remit_notes", project["entry-points"][GROUP], **modules)


@pytest.mark.usefixtures("notes")
def test_a_package_brings_a_kind(tmp_path: Path) -> None:
    """A kind that a package registers is built by its name, walks, and names its own wrong options."""
    book = import_module("test_notes").NoteBook(tmp_path / "book.db")
    book.write("a", b"text")

    connector = build("notes", {"path": "book.db"}, tmp_path)
    changes = list(connector.changes(None))

    assert [type(change) for change in changes] == [ScopeChange, Upsert, ScanComplete]
    with pytest.raises(OptionError, match="unknown option `pth`: kind `notes` has `path`"):
        build("notes", {"pth": "x"}, tmp_path)


@pytest.mark.usefixtures("notes")
def test_the_example_keeps_the_contract() -> None:
    """The example's one test, as its author would run it, passes."""
    import_module("test_notes").test_contract()


@pytest.mark.usefixtures("notes")
def test_an_unknown_kind_lists_those_of_packages() -> None:
    """What packages bring is listed beside what the house has."""
    with pytest.raises(OptionError, match=r"there is no source of kind `ftp`: expected .*`filesystem`, `notes`"):
        build("ftp", {}, Path("/"))


def test_a_package_cannot_take_the_place_of_a_kind_of_the_house(tmp_path: Path, install: Install) -> None:
    """A package that registers `filesystem` is not even imported."""
    install("intruder", {"filesystem": "intruder:build"}, intruder="raise SystemExit('imported')")

    found = build("filesystem", {"root": "x", "id_domain": "corp"}, tmp_path)

    assert isinstance(found, Filesystem)


def test_a_package_is_not_imported_before_its_kind_is_used(tmp_path: Path, install: Install) -> None:
    """Other kinds work although an installed package cannot even be imported."""
    install("broken", {"broken": "broken:build"}, broken="import nowhere")

    assert isinstance(build("filesystem", {"root": "x", "id_domain": "corp"}, tmp_path), Filesystem)

    with pytest.raises(OptionError, match=r"comes from package `broken`, which cannot be imported: ModuleNotFound"):
        build("broken", {}, tmp_path)


def test_two_packages_with_one_kind_are_refused(tmp_path: Path, install: Install) -> None:
    """Which of the two would win is left to nobody."""
    install("one", {"wiki": "one:build"}, one="build = None")
    install("two", {"wiki": "two:build"}, two="build = None")

    with pytest.raises(OptionError, match="comes from several packages: `one`, `two`"):
        build("wiki", {}, tmp_path)


def test_what_is_no_function_is_refused(tmp_path: Path, install: Install) -> None:
    """An entry point that leads to something else is an error with the package's name."""
    install("one", {"wiki": "one:build"}, one="build = None")

    with pytest.raises(OptionError, match="`one:build` of package `one` is no function"):
        build("wiki", {}, tmp_path)


@pytest.mark.parametrize("name", ["remit_notes.py", "test_notes.py", "pyproject.toml"])
def test_the_guide_shows_the_example_as_it_is(name: str) -> None:
    """Every file of the example stands in the guide, word by word."""
    guide = (ROOT / "docs/connectors/writing.md").read_text()

    assert f"\n{(EXAMPLE / name).read_text()}```" in guide
