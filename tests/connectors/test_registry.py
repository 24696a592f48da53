"""From options to connectors and directories: what is wrong is named by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.directories.static import StaticDirectory
from connectors.filesystem import Filesystem
from connectors.registry import OptionError, build, build_directory

OPTIONS: dict[str, object] = {"root": "./company", "id_domain": "corp", "ancestors_above_root": "trust"}


def test_filesystem_is_built_from_its_options(tmp_path: Path) -> None:
    """A relative root starts where the settings file stands; the built connector walks it."""
    (tmp_path / "company").mkdir()
    (tmp_path / "company" / "a.txt").write_text("a")

    found = build("filesystem", OPTIONS | {"foreign_permissions": "trust"}, tmp_path)

    assert isinstance(found, Filesystem)
    assert len(list(found.changes(None))) == 3


def test_static_directory_is_built_from_its_options(tmp_path: Path) -> None:
    """The path is relative to the settings file; nothing is opened yet."""
    found = build_directory("people", "static", {"path": "./people.yaml"}, tmp_path)

    assert isinstance(found, StaticDirectory)
    assert found.name == "people"


@pytest.mark.parametrize(
    ("change", "option", "message"),
    [
        ({"rot": "x"}, "rot", "unknown option `rot`: kind `filesystem` has `ancestors_above_root`, `foreign"),
        ({"root": None}, "root", "`root`: expected text, found NoneType"),
        ({"root": ""}, "root", "`root`: expected text"),
        ({"root": "a\x00b"}, "root", "zero byte"),
        ({"id_domain": 5}, "id_domain", "`id_domain`: expected text, found `5`"),
        ({"id_domain": "co rp"}, "id_domain", "`id_domain`: `posix:co rp` is not a realm"),
        ({"ancestors_above_root": "ignore"}, "ancestors_above_root", "expected `enforce` or `trust`, found `ignore`"),
        ({"ancestors_above_root": ["trust"]}, "ancestors_above_root", "expected `enforce` or `trust`, found list"),
        ({"ancestors_above_root": None}, "ancestors_above_root", "expected `enforce` or `trust`, found NoneType"),
        ({"foreign_permissions": True}, "foreign_permissions", "expected `refuse` or `trust`, found `True`"),
        ({"gone_mounts": "disk"}, "gone_mounts", "expected a list of paths below the root"),
        ({"gone_mounts": ["/disk"]}, "gone_mounts", "expected a path below the root, found `/disk`"),
        ({"gone_mounts": ["a/../../disk"]}, "gone_mounts", "expected a path below the root"),
    ],
)
def test_wrong_option_is_named(tmp_path: Path, change: dict[str, object], option: str, message: str) -> None:
    """Each wrong option is an error with its key; without it the same options are fine."""
    build("filesystem", OPTIONS, tmp_path)

    with pytest.raises(OptionError) as caught:
        build("filesystem", OPTIONS | change, tmp_path)

    assert caught.value.option == option
    assert message in str(caught.value)


@pytest.mark.parametrize("option", ["root", "id_domain"])
def test_missing_option_is_named(tmp_path: Path, option: str) -> None:
    """What a kind needs and does not get is named."""
    options = {key: value for key, value in OPTIONS.items() if key != option}

    with pytest.raises(OptionError, match=f"option `{option}` is missing") as caught:
        build("filesystem", options, tmp_path)

    assert caught.value.option == option


def test_rules_above_the_root_count_by_default(tmp_path: Path) -> None:
    """Without a word about them, the folders above the root are enforced, and foreign file systems refused."""
    root = tmp_path / "company"
    root.mkdir()
    options: dict[str, object] = {"root": str(root), "id_domain": "corp", "foreign_permissions": "trust"}

    first = next(iter(build("filesystem", options, tmp_path).changes(None)))

    assert getattr(first, "location", None) == "/"


def test_unknown_kind_is_named(tmp_path: Path) -> None:
    """An unknown kind lists the known ones."""
    with pytest.raises(OptionError, match="there is no source of kind `ftp`: expected `feed`, `filesystem`"):
        build("ftp", {}, tmp_path)
    with pytest.raises(OptionError, match="of kind `nis`: expected `active_directory`, `entra`, `ldap`, `static`"):
        build_directory("people", "nis", {}, tmp_path)


@pytest.mark.parametrize(("name", "options"), [("people", {"pth": "x"}), ("people", {}), ("pe ople", {"path": "x"})])
def test_wrong_directory_is_refused(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    """A directory with a wrong option, a missing one or a name that is no realm is refused."""
    with pytest.raises(OptionError):
        build_directory(name, "static", options, tmp_path)
