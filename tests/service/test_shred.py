"""Shredding: what is gone afterwards, what stays, what the certificate says, and what is refused."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from remit.client import AdminClient, KeyStatus, NotFoundError, SourceKeys, SyncRunningError
from remit.v1 import retrieval_pb2

from service import audit_keys
from service.audit import AuditKey, find
from service.index.edge import EdgeIndex
from service.index.follow import follow
from service.keys import UnsealError, open_provider
from service.stores.catalog import open_stores
from service.stores.folder import open_folder
from tests.service.harness import ALICE, COMPANY, EPOCH, Service, allow, serving

T = TypeVar("T")


async def custody(service: Service, work: Callable[[AdminClient], T], person: str = "kai") -> T:
    """Do something as a key administrator."""

    def call() -> T:
        address, token = str(service.administrators), service.token(person)
        with AdminClient(address, token=token, insecure_loopback=True) as admin:
            return work(admin)

    return await asyncio.get_running_loop().run_in_executor(None, call)


async def titles(service: Service) -> set[str]:
    """What Alice finds."""
    return {hit.chunk.document.location for hit in (await service.client("alice").search("the plan", limit=50)).hits}


def company(status: KeyStatus) -> SourceKeys:
    """How the keys of the source stand; there are others, of what belongs to no source."""
    return next(one for one in status.sources if one.source == COMPANY)


def vectors_in(folder: Path, vectors: list[bytes]) -> set[int]:
    """Which of the vectors stand in files below a folder, by number."""
    data = b"\0".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return {number for number, vector in enumerate(vectors) if vector in data}


async def test_a_shredded_document_is_gone_for_everybody_and_for_ever(tmp_path: Path) -> None:
    """At once for callers; its key from the key store; an older catalog with today's keys does not open it; after the
    next start its vector is in no file of the index. Its neighbour is untouched throughout.
    """
    async with serving(tmp_path, edge=True) as service:
        service.add("one", "the plan to be shredded", allow(ALICE))
        service.add("two", "the plan to be kept", allow(ALICE))
        service.sync()
        gone, kept = (service.document_ids()[name] for name in ("one", "two"))
        with service.catalog.reader() as reader:
            vectors = [item.vector.tobytes() for item in reader.feed(0, 10)]  # type: ignore[union-attr]  # all are added
        service.index.flush()
        assert vectors_in(service.config.data / "index", vectors) == {0, 1}, "the control: vectors are found there"
        shutil.copytree(service.config.data, tmp_path / "copy")
        # The service's clock stands still; so does that of its backups.
        backup_id = service.custody.note_backup("/backups/monday", service.clock())

        done = await custody(service, lambda admin: admin.shred_document(gone))

        assert (done.document_id, done.source, done.documents) == (gone, COMPANY, 1)
        assert [one.backup_id for one in done.backups] == [backup_id]
        assert done.index_rebuild_pending
        assert await titles(service) == {"two"}
        assert service.keys.documents(COMPANY) == {kept}
        request = retrieval_pb2.GetDocumentRequest(document_id=gone)
        answer = await service.call("RetrievalService/GetDocument", request, token=service.token("alice"))
        assert answer.code == "NOT_FOUND"
        with pytest.raises(NotFoundError):
            await custody(service, lambda admin: admin.shred_document(gone))
        config, dimension = service.config, service.embedder.dimension
    key = AuditKey.load(config.keys.audit)
    bodies = audit_keys.opener(config.keys.store, open_provider(config.keys), key)
    record = find(config.data / "audit", done.response_id, bodies)
    assert record is not None
    body = record.record["body"]
    assert isinstance(body, dict)
    assert (body["rpc"], body["target"], body["code"]) == ("remit.v1.CustodyService/ShredDocument", gone, "OK")

    # The next start.
    folder = open_folder(config.data)
    keys, catalog = open_stores(folder, config.keys.store, open_provider(config.keys), EPOCH)
    index = EdgeIndex(folder.index, incarnation=catalog.incarnation, dimension=dimension)
    follow(catalog, index)
    index.close()
    assert vectors_in(folder.index, vectors) == {1}
    catalog.close()
    keys.close()
    folder.close()

    # The older copy of the content with today's keys.
    folder = open_folder(tmp_path / "copy")
    keys, catalog = open_stores(folder, config.keys.store, open_provider(config.keys), EPOCH)
    with catalog.reader() as reader:
        documents = {one.document_id: one for one in reader.documents([1, 2]).values()}
        with pytest.raises(UnsealError):
            catalog.sealing.title(documents[gone])
        for chunk in reader.chunks_of(documents[gone].ordinal):
            with pytest.raises(UnsealError):
                catalog.sealing.text(chunk)
        assert catalog.sealing.title(documents[kept]) == "two"
    catalog.close()
    keys.close()
    folder.close()


async def test_a_shredded_source_leaves_nothing_and_can_be_read_anew(tmp_path: Path) -> None:
    """Documents, labels of containers, the cursor and reports of runs are gone; the next run makes all of it new."""
    async with serving(tmp_path) as service:
        service.add("one", "the plan of one", allow(ALICE))
        service.add("two", "the plan of two", allow(ALICE))
        service.sync()
        assert await titles(service) == {"one", "two"}
        before = set(service.document_ids().values())
        name = service.keys.name(COMPANY, "document", "one")
        service.source.documents.pop("one")

        done = await custody(service, lambda admin: admin.shred_source(COMPANY))

        assert (done.source, done.document_id, done.documents) == (COMPANY, "", 2)
        assert await titles(service) == set()
        assert service.keys.documents(COMPANY) == frozenset()
        with service.catalog.reader() as reader:
            (source,) = reader.sources()
            assert (source.latest_run, source.permissions_verified_at) == (None, None)
            assert reader.changes_since(0) == []
        assert service.keys.name(COMPANY, "document", "one") != name
        service.sync()
        assert await titles(service) == {"two"}
        assert not before & set(service.document_ids().values())


async def test_shredding_waits_for_no_run_and_breaks_none(tmp_path: Path) -> None:
    """While a run is under way it is refused and names the run; afterwards it is done."""
    async with serving(tmp_path) as service:
        service.add("one", "the plan of one", allow(ALICE))
        service.sync()
        document_id = service.document_ids()["one"]
        opened = service.engine.open(COMPANY)

        for shred in (lambda a: a.shred_document(document_id), lambda a: a.shred_source(COMPANY)):
            with pytest.raises(SyncRunningError) as refused:
                await custody(service, shred)
            assert refused.value.run_id == opened.progress.run_id

        assert await titles(service) == {"one"}
        assert opened.execute().failure == ""
        await custody(service, lambda admin: admin.shred_document(document_id))
        assert await titles(service) == set()


async def test_other_documents_with_the_same_content_are_counted_and_left_alone(tmp_path: Path) -> None:
    """A copy has a key of its own: the certificate says that there is one."""
    async with serving(tmp_path) as service:
        for name in ("one", "copy", "other"):
            service.add(name, "the plan" if name != "other" else "the plan of others", allow(ALICE))
        service.sync()
        document_id = service.document_ids()["one"]

        done = await custody(service, lambda admin: admin.shred_document(document_id))

        assert done.same_content == 1
        assert await titles(service) == {"copy", "other"}


async def test_rotation_under_load_fails_no_read(tmp_path: Path) -> None:
    """Searches go on while keys are rotated and re-wrapped through the API; the status says what was done."""
    async with serving(tmp_path) as service:
        for number in range(40):
            service.add(f"{number}", f"the plan {number}", allow(ALICE))
        service.sync()
        key_id = service.keys.provider.key_id
        searches: list[int] = []
        ended = asyncio.Event()

        async def search() -> None:
            while not ended.is_set():
                with service.keys._lock:
                    service.keys._opened.clear()
                searches.append(len(await titles(service)))

        task = asyncio.create_task(search())
        rotation = await custody(service, lambda admin: admin.rotate_keys())
        middle = company(await custody(service, lambda admin: admin.get_key_status()))
        while await custody(service, lambda admin: admin.rewrap_keys(7)):
            pass
        status = await custody(service, lambda admin: admin.get_key_status())
        ended.set()
        await task

        assert rotation.retired == (key_id,)
        assert (middle.behind, middle.generations) == (40, 2)
        done = company(status)
        assert (done.behind, done.generations, done.wraps) == (0, 1, 40)
        assert status.key_encryption_key == rotation.key_encryption_key
        assert len(searches) >= 2
        assert set(searches) == {40}
