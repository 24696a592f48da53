"""The small files that everything rests on: new ones, replaced ones, secrets and locks; and JSON read strictly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import devissuer, settings
from service.errors import StartError
from service.files import durable_file, key_file, lock_file, strict_json
from service.sections import initial


def test_a_new_file_is_private_and_never_in_the_place_of_another(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask; a file or a link that stands there stays, and no draft is left."""
    before = os.umask(0)
    try:
        durable_file.create(tmp_path / "key", b"one")
    finally:
        os.umask(before)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    for name in ("key", "link"):
        with pytest.raises(FileExistsError):
            durable_file.create(tmp_path / name, b"two")

    assert (tmp_path / "key").read_bytes() == b"one"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["key", "link"]


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """On a full disk the old content stays; with space the new one is there."""
    path = tmp_path / "state"
    durable_file.replace(path, b"old")
    (tmp_path / "state.new").symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left"):
        durable_file.replace(path, b"new")

    assert path.read_bytes() == b"old"
    (tmp_path / "state.new").unlink()
    durable_file.replace(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_secret_is_read_only_where_nobody_else_reaches_it(tmp_path: Path, mode: int) -> None:
    """Any bit for group or others is one too many; 0400 is fine."""
    path = tmp_path / "key"
    durable_file.create(path, b"secret")
    path.chmod(mode)

    with pytest.raises(StartError, match=rf"`{path}`, the key, has mode {mode:04o} and is open to others"):
        key_file.read(path, "the key")

    path.chmod(0o400)
    assert key_file.read(path, "the key") == b"secret"


def test_a_lock_is_for_one_process_and_ends_with_it(tmp_path: Path) -> None:
    """A second taker learns who has it; a killed holder holds nothing."""
    path = tmp_path / "lock"
    program = "import sys, pathlib; from service.files import lock_file; lock_file.acquire(pathlib.Path(sys.argv[1]));"
    with subprocess.Popen(
        [sys.executable, "-c", f"{program} print('held', flush=True); sys.stdin.read()", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert lock_file.is_held(path)
        with pytest.raises(lock_file.HeldError) as caught:
            lock_file.acquire(path)
        holder.kill()

    assert caught.value.holder == f"process {holder.pid}"
    assert not lock_file.is_held(path)
    os.close(lock_file.acquire(path))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"a": 1, "a": 1}', id="twice"),
        pytest.param(b'[{"a": 1, "\\u0061": 2}]', id="twice, escaped"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(b"[-Infinity]", id="infinity"),
        pytest.param(b'"\xff"', id="latin-1"),
        pytest.param('{"a": 1}'.encode("utf-16"), id="utf-16"),
        pytest.param(b"", id="empty"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_json_that_two_readers_could_take_for_two_things_is_refused(data: bytes) -> None:
    """A member twice, also by an escape, numbers that are none, other encodings, and what is nested without end."""
    with pytest.raises(ValueError, match=r".+"):
        strict_json.parse(data)

    assert strict_json.parse(b'[{"a": 1, "b": 1.5}]') == [{"a": 1, "b": 1.5}]


@pytest.mark.parametrize("data", [b"", b"[" * 5000, b"[]", b'{"kty":"OKP"}', b"\xff"])
def test_a_broken_key_of_the_development_issuer_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    """Whatever stands in its file; with the key that was there, a token is minted."""
    initial.write(tmp_path)
    config = settings.load(tmp_path / "remit.yaml")
    assert devissuer.mint(config, "alice").count(".") == 2
    (tmp_path / "keys" / "dev.private.json").write_bytes(data)

    with pytest.raises(StartError, match="is not a private key of the development issuer"):
        devissuer.mint(config, "alice")
