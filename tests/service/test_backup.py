"""Backing up while serving and restoring: the same answers, a log that verifies, and what is refused."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from remit.client import InvalidRequestError, UnavailableError

from service import audit_keys
from service.audit import AuditKey, Kind, VerifyReport, record, verify
from service.audit.errors import AuditTamperedError
from service.errors import RemitError, StartError
from service.index.follow import follow
from service.keys import FileKey, create_key_file, open_provider
from service.upkeep import backup as module
from service.upkeep.restore import Restored, restore
from tests.service.harness import ALICE, BOB, EPOCH, Service, allow, serving
from tests.service.test_shred import custody

Answers = dict[str, list[tuple[str, str, float]]]


async def answers(service: Service) -> Answers:
    """What two people find, with text and score."""
    found: Answers = {}
    for person in ("alice", "bob"):
        hits = (await service.client(person).search("the plan", limit=50)).hits
        found[person] = [(hit.chunk.chunk_id, hit.chunk.text, hit.score) for hit in hits]
    return found


def verified(data: Path, store: Path, service: Service) -> VerifyReport:
    """The audit log of a data folder, verified with the keys of a key store."""
    key = AuditKey.load(service.config.keys.audit)
    return verify(data / "audit", key.verifier, audit_keys.opener(store, open_provider(service.config.keys), key))


def put_back(service: Service, folder: Path, keys: Path | None, **changes: Any) -> Restored:
    """Restore to where the settings say."""
    config = service.config
    values: dict[str, Any] = {
        "data": config.data,
        "keystore": config.keys.store,
        "provider": open_provider(config.keys),
        "audit_key": AuditKey.load(config.keys.audit),
        "at": EPOCH,
    }
    return restore(folder, keys, **{**values, **changes})


def fill(service: Service) -> None:
    """Five documents for Alice, two of them for Bob as well."""
    for number in range(5):
        service.add(f"{number}", f"the plan {number}", allow(ALICE, BOB) if number % 2 else allow(ALICE))


async def backed_up(tmp_path: Path) -> tuple[Service, Answers, Path, Path]:
    """A service that was backed up while it served, and has ended; its folders are still in place."""
    async with serving(tmp_path / "remit") as service:
        fill(service)
        service.sync()
        before = await answers(service)
        content, keys = tmp_path / "content", tmp_path / "keys"
        searches = asyncio.gather(*(answers(service) for _ in range(3)))

        made = await custody(service, lambda admin: admin.create_backup(str(content), str(keys)))

        assert await searches == [before] * 3
        assert made.files >= 4
        (noted,) = (await custody(service, lambda admin: admin.get_key_status())).backups
        assert (noted.backup_id, noted.folder) == (made.backup_id, str(keys))
    return service, before, content, keys


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def folders(path: Path) -> set[Path]:
    return {one for one in path.rglob("*") if one.is_dir()}


async def test_a_restore_ends_with_the_same_answers_and_a_verified_log(tmp_path: Path) -> None:
    """The drill: everything is lost but the backup, the keys folder and the settings."""
    service, before, content, keys = await backed_up(tmp_path)
    shutil.rmtree(service.config.data)
    shutil.rmtree(service.config.keys.store)

    done = put_back(service, content, keys)

    assert done.records >= 3, "the start, and what two people asked before"
    report = verified(service.config.data, service.config.keys.store, service)
    assert report.ok, report.problem
    assert report.covered == report.records
    async with serving(tmp_path / "remit") as again:
        fill(again)
        again.sync()
        assert again.embedder.texts == [], "nothing is embedded again"
        assert await answers(again) == before
        again.add("0", "the plan has changed", allow(BOB))
        again.sync()
        assert (await answers(again))["alice"] != before["alice"]
    assert not any(path.name.endswith(".new") for path in folders(tmp_path))


async def test_what_was_taken_away_since_the_backup_stays_taken_away(tmp_path: Path) -> None:
    """The restored rules are older than what is known of a narrowing: nobody reads by them until they are verified.

    Then those read who may, and whoever was taken out does not.
    """
    service, before, content, keys = await backed_up(tmp_path)
    assert before["bob"]
    shutil.rmtree(service.config.data)
    shutil.rmtree(service.config.keys.store)

    put_back(service, content, keys)

    async with serving(tmp_path / "remit") as again:
        follow(again.catalog, again.index)
        assert await answers(again) == {"alice": [], "bob": []}
        for number in range(5):
            again.add(f"{number}", f"the plan {number}", allow(ALICE))
        again.sync()
        after = await answers(again)
        assert after == {"alice": before["alice"], "bob": []}


async def test_the_content_alone_has_no_key_and_the_keys_alone_no_content(tmp_path: Path) -> None:
    """No wrapped key stands in the content's folder, nothing but keys in the other, both for the owner alone."""
    _, _, content, keys = await backed_up(tmp_path)
    async with serving(tmp_path / "remit") as again:
        with again.keys.read() as connection:
            wrapped = [
                row.wrapped
                for row in connection.exec_driver_sql("SELECT wrapped FROM documents WHERE source = 'company'")
            ]

    in_content, in_keys = (b"".join(everything(folder).values()) for folder in (content, keys))

    assert len(wrapped) == 5
    assert not any(one in in_content for one in wrapped)
    assert all(one in in_keys for one in wrapped)
    assert set(everything(keys)) == {"keys.sqlite", "manifest.json"}
    for path in (content, keys, *content.rglob("*"), *keys.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_what_was_shredded_since_stays_shredded_with_todays_keys(tmp_path: Path) -> None:
    """The older content is restored beside the key store that is there: the document is nobody's."""
    service, before, content, _ = await backed_up(tmp_path)
    async with serving(tmp_path / "remit") as again:
        follow(again.catalog, again.index)
        await custody(again, lambda admin: admin.shred_document(again.document_ids()["1"]))
        after = await answers(again)
    shutil.rmtree(service.config.data)

    put_back(service, content, None)

    async with serving(tmp_path / "remit") as again:
        fill(again)
        del again.source.documents["1"]
        again.sync()
        assert await answers(again) == after
        assert len(after["bob"]) == len(before["bob"]) - 1


async def test_a_restore_that_is_refused_writes_nothing(tmp_path: Path) -> None:
    """Existing targets, a wrong key, a flipped byte, another backup's keys, a changed log: one sentence each."""
    service, before, content, keys = await backed_up(tmp_path)
    data, store = service.config.data, service.config.keys.store
    with pytest.raises(StartError, match="holds something"):
        put_back(service, content, keys)
    shutil.rmtree(data)
    with pytest.raises(StartError, match=r"keystore` holds something"):
        put_back(service, content, keys)
    shutil.rmtree(store)
    create_key_file(tmp_path / "other.kek")
    for name in ("flipped", "forged"):
        shutil.copytree(content, tmp_path / name)
    flip(tmp_path / "flipped" / "catalog.sqlite", 5000)
    segment = next((tmp_path / "forged" / "audit" / "segments").iterdir())
    flip(segment, 300)
    manifest = json.loads((tmp_path / "forged" / "manifest.json").read_text())
    manifest["files"][str(segment.relative_to(tmp_path / "forged"))]["sha256"] = module.digest(segment)
    (tmp_path / "forged" / "manifest.json").write_text(json.dumps(manifest))
    shutil.copytree(keys, tmp_path / "others")
    (tmp_path / "others" / "manifest.json").write_text(
        (keys / "manifest.json").read_text().replace('"backup_id": "', '"backup_id": "0')
    )
    (tmp_path / "empty").mkdir()
    here = folders(tmp_path)

    refused: list[tuple[type[RemitError], str, Callable[[], object]]] = [
        (
            StartError,
            "restore the right key",
            lambda: put_back(service, content, keys, provider=FileKey(tmp_path / "other.kek")),
        ),
        (StartError, "is not what was backed up", lambda: put_back(service, tmp_path / "flipped", keys)),
        (AuditTamperedError, "record", lambda: put_back(service, tmp_path / "forged", keys)),
        (StartError, "not of the same backup", lambda: put_back(service, content, tmp_path / "others")),
        (StartError, "no whole backup", lambda: put_back(service, tmp_path / "empty", keys)),
        (StartError, "is no backup of keys", lambda: put_back(service, content, content)),
        (StartError, "there is no key store", lambda: put_back(service, content, None)),
    ]
    for error, says, attempt in refused:
        with pytest.raises(error, match=says):
            attempt()
        assert folders(tmp_path) == here, says

    put_back(service, content, keys)
    async with serving(tmp_path / "remit") as again:
        fill(again)
        again.sync()
        assert await answers(again) == before


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


async def test_a_backup_that_is_refused_or_breaks_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong targets are named by their field; a full disk is one sentence; no folder, no draft, no note stays."""

    def full(reading: IO[bytes], writing: IO[bytes], size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with serving(tmp_path / "remit") as service:
        service.add("0", "the plan", allow(ALICE))
        service.sync()
        (tmp_path / "taken").mkdir()
        inside = service.config.data / "backup"
        wrong = [
            ("folder", "relative", tmp_path / "keys"),
            ("folder", tmp_path / "taken", tmp_path / "keys"),
            ("folder", inside, tmp_path / "keys"),
            ("folder", tmp_path / "no" / "such", tmp_path / "keys"),
            ("keys_folder", tmp_path / "new", tmp_path / "taken"),
            ("keys_folder", tmp_path / "new", tmp_path / "new" / "keys"),
            ("keys_folder", tmp_path / "new", tmp_path / "new"),
        ]

        for field, folder, keys in wrong:
            with pytest.raises(InvalidRequestError) as refused:
                await custody(service, lambda admin, f=folder, k=keys: admin.create_backup(str(f), str(k)))  # type: ignore[misc]
            assert refused.value.field == field
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "copyfileobj", full)
            with pytest.raises(UnavailableError, match="lack of space"):
                await custody(service, lambda admin: admin.create_backup(str(tmp_path / "new"), str(tmp_path / "k")))

        assert sorted(path.name for path in folders(tmp_path) if path.parent == tmp_path) == ["remit", "taken"]
        assert (await custody(service, lambda admin: admin.get_key_status())).backups == ()
        await custody(service, lambda admin: admin.create_backup(str(tmp_path / "new"), str(tmp_path / "k")))
        assert sorted(path.name for path in folders(tmp_path) if path.parent == tmp_path) == [
            "k",
            "new",
            "remit",
            "taken",
        ]


async def test_a_backup_is_written_where_the_settings_say_alone(tmp_path: Path) -> None:
    """Not outside, not by `..`, not by a link, not where others may write; below it, as deep as folders exist."""
    base = tmp_path / "remit"
    async with serving(base) as service:
        service.add("0", "the plan", allow(ALICE))
        service.sync()
        (tmp_path / "allowed" / "deep").mkdir(parents=True, mode=0o700)
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "allowed" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "allowed" / "dangling").symlink_to(tmp_path / "elsewhere" / "new")
        (tmp_path / "allowed" / "open").mkdir()
        (tmp_path / "allowed" / "open").chmod(0o777)
        service.backups.roots = (tmp_path / "allowed", tmp_path / "allowed")
        good = tmp_path / "allowed" / "keys"
        wrong = [
            tmp_path / "elsewhere" / "new",
            tmp_path / "allowed",
            tmp_path / "allowed" / ".." / "elsewhere" / "new",
            tmp_path / "allowed" / "link" / "new",
            tmp_path / "allowed" / "link",
            tmp_path / "allowed" / "dangling",
            tmp_path / "allowed" / "open" / "new",
            tmp_path / "allowed-too",
        ]

        for path in wrong:
            for field, folder, keys in (("folder", path, good), ("keys_folder", good, path)):
                with pytest.raises(InvalidRequestError) as refused:
                    await custody(service, lambda admin, f=folder, k=keys: admin.create_backup(str(f), str(k)))  # type: ignore[misc]
                assert refused.value.field == field
        assert not list((tmp_path / "elsewhere").iterdir())
        assert sorted(one.name for one in (tmp_path / "allowed").iterdir()) == ["dangling", "deep", "link", "open"]

        await custody(service, lambda admin: admin.create_backup(str(tmp_path / "allowed" / "deep" / "c"), str(good)))
        assert (tmp_path / "allowed" / "deep" / "c" / "manifest.json").exists()
        assert (good / "manifest.json").exists()


async def test_a_log_that_grows_while_it_is_copied_is_whole_in_the_copy(tmp_path: Path) -> None:
    """Backups beside a writer of records: each one restores, and its log verifies."""
    async with serving(tmp_path / "remit") as service:
        service.add("0", "the plan", allow(ALICE))
        service.sync()
        ended = False

        def write() -> None:
            while not ended:
                service.audit.append_blocking(record(Kind.CONTROL, {"event": "test"}))

        writing = asyncio.get_running_loop().run_in_executor(None, write)
        for number in range(5):
            folder, keys = tmp_path / f"content-{number}", tmp_path / f"keys-{number}"
            await custody(service, lambda admin, f=folder, k=keys: admin.create_backup(str(f), str(k)))  # type: ignore[misc]
        ended = True
        await writing

    for number in range(5):
        target = tmp_path / f"restored-{number}"
        done = put_back(
            service,
            tmp_path / f"content-{number}",
            tmp_path / f"keys-{number}",
            data=target / "data",
            keystore=target / "keystore",
        )
        report = verified(target / "data", target / "keystore", service)
        assert report.ok, report.problem
        assert report.records >= done.records


def test_a_manifest_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    """However deep it is nested."""
    (tmp_path / "manifest.json").write_bytes(b"[" * 20_000)

    with pytest.raises(StartError, match="is not the manifest of a backup"):
        restore(
            tmp_path,
            None,
            data=tmp_path / "data",
            keystore=tmp_path / "keys",
            provider=_NEVER,
            audit_key=_NEVER,
            at=EPOCH,
        )


_NEVER: Any = None
"""What is not reached."""
