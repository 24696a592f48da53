"""AuditService: the log for auditors. What a request asks for is checked here; reading is `service.audit.reading`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from remit.v1 import audit_pb2

from service.api import wire
from service.api.pages import PageTokens
from service.api.wrapper import Call, Reply, Stream
from service.audit.index import Wanted
from service.audit.reading import AuditReader, Entry
from service.audit.record import Kind
from service.errors import InvalidRequestError, NotFoundError
from service.executor import Executor

_POLL_S: Final = 0.5
_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000
_PAGE_BYTES: Final = 8 * 1024 * 1024
_MOST_CLASSES: Final = 16
_LAST: Final = 2**62

_PROOFS: Final = frozenset({"isolation", "revocation", "oracle", "all"})
_MOST_CHECKS: Final = 1_000_000

_KINDS: Final = {
    audit_pb2.AUDIT_CLASS_QUERY: Kind.QUERY,
    audit_pb2.AUDIT_CLASS_ACCESS: Kind.ACCESS,
    audit_pb2.AUDIT_CLASS_ADMIN: Kind.ADMIN,
    audit_pb2.AUDIT_CLASS_INGEST: Kind.INGEST,
    audit_pb2.AUDIT_CLASS_CONTROL: Kind.CONTROL,
    audit_pb2.AUDIT_CLASS_HEARTBEAT: Kind.HEARTBEAT,
    audit_pb2.AUDIT_CLASS_AUDIT: Kind.AUDIT,
    audit_pb2.AUDIT_CLASS_STANDING: Kind.STANDING,
    audit_pb2.AUDIT_CLASS_ON_BEHALF: Kind.ON_BEHALF,
}


class AuditServicer:
    """remit.v1.AuditService. poll_s: how often an export that follows looks for new records."""

    def __init__(self, reader: AuditReader, executor: Executor, page_key: bytes, *, poll_s: float = _POLL_S) -> None:
        self._reader = reader
        self._executor = executor
        self._tokens = PageTokens(page_key)
        self._poll_s = poll_s

    async def GetAuditRecord(self, request: audit_pb2.GetAuditRecordRequest, call: Call) -> Reply:
        """See the `.proto` file, as for all methods."""
        response_id = wire.name("response_id", request.response_id)
        found = await self._executor.run(self._reader.by_response, response_id)
        if not found:
            raise NotFoundError("no answer has this id")
        return Reply(audit_pb2.GetAuditRecordResponse(records=_records(found)))

    async def ListAuditRecords(self, request: audit_pb2.ListAuditRecordsRequest, call: Call) -> Reply:
        """Return a page of records."""
        wanted = _wanted(request)
        if not 0 <= request.page_size <= _LARGEST_PAGE:
            raise InvalidRequestError("page_size", f"{request.page_size}, expected 0 to {_LARGEST_PAGE}")
        at, newest = self._tokens.read(request, call), not request.oldest_first
        # The first page ends with the log as it stands, so that reading it never becomes a part of what is read.
        first, last = (0, self._reader.size - 1) if at is None else (0, at) if newest else (at, _LAST)
        page = await self._executor.run(
            self._reader.page, wanted, first=first, last=last, limit=request.page_size or _PAGE, newest=newest
        )
        entries, following = _fitting(page.entries, page.following)
        token = "" if following is None else self._tokens.write(following, request, call)
        return Reply(audit_pb2.ListAuditRecordsResponse(records=_records(entries), next_page_token=token))

    async def ExportAuditRecords(self, request: audit_pb2.ExportAuditRecordsRequest, call: Call) -> Stream:
        """Send a stretch of the log."""
        if request.first_index < 0:
            raise InvalidRequestError("first_index", f"{request.first_index}, expected 0 or more")
        if request.follow and request.HasField("end_time"):
            raise InvalidRequestError("end_time", "an export that follows has no end")
        return Stream(self._export(request, _times(request)))

    async def _export(self, request: audit_pb2.ExportAuditRecordsRequest, wanted: Wanted) -> AsyncGenerator[Message]:
        # After the record of this call, so that the checkpoint covers it, too.
        stretch = await self._executor.run(self._reader.stretch, wanted, request.first_index)
        yield audit_pb2.ExportAuditRecordsResponse(
            header=audit_pb2.ExportHeader(
                first_index=stretch.first,
                stop_index=stretch.stop,
                checkpoint=stretch.signed.note.encode(),
                public_key=self._reader.public_key,
                before=stretch.before,
                behind=stretch.behind,
                expiries=[
                    audit_pb2.ProvenRecord(record=_records([entry])[0], hashes=hashes)
                    for entry, hashes in stretch.expiries
                ],
            )
        )
        first, stop = stretch.first, stretch.stop
        while True:
            parts = self._reader.read(first, stop)
            while (part := await self._executor.run(next, parts, None)) is not None:
                yield audit_pb2.ExportAuditRecordsResponse(records=audit_pb2.ExportedRecords(records=_records(part)))
            if not request.follow:
                return
            first = stop
            while stop == first:
                await asyncio.sleep(self._poll_s)
                stop = self._reader.size

    async def GetQueryText(self, request: audit_pb2.GetQueryTextRequest, call: Call) -> Reply:
        """Open the text of one query."""
        response_id = wire.name("response_id", request.response_id)
        text = await self._executor.run(self._reader.query_text, response_id)
        if text is None:
            raise NotFoundError("no search has this id, or its text was not kept")
        return Reply(audit_pb2.GetQueryTextResponse(query=text))

    async def GetCheckpoint(self, request: audit_pb2.GetCheckpointRequest, call: Call) -> Reply:
        """Return the latest checkpoint."""
        signed = await self._executor.run(self._reader.checkpoint)
        return Reply(
            audit_pb2.GetCheckpointResponse(checkpoint=signed.note.encode(), public_key=self._reader.public_key)
        )

    async def GetInclusionProof(self, request: audit_pb2.GetInclusionProofRequest, call: Call) -> Reply:
        """Prove that a record is in the log."""
        if request.index < 0:
            raise InvalidRequestError("index", f"{request.index}, expected 0 or more")
        if request.index >= self._reader.size:
            raise NotFoundError("no such record")
        signed, hashes = await self._executor.run(self._reader.inclusion, request.index)
        leaf = await self._executor.run(self._reader.leaf, request.index)
        return Reply(
            audit_pb2.GetInclusionProofResponse(
                checkpoint=signed.note.encode(), index=request.index, leaf_hash=leaf, hashes=hashes
            )
        )

    async def GetConsistencyProof(self, request: audit_pb2.GetConsistencyProofRequest, call: Call) -> Reply:
        """Prove that the log only grew."""
        if request.first_size < 1:
            raise InvalidRequestError("first_size", f"{request.first_size}, expected 1 or more")
        if request.first_size > self._reader.size:
            raise NotFoundError("the log was never that large")
        signed, hashes = await self._executor.run(self._reader.consistency, request.first_size)
        return Reply(
            audit_pb2.GetConsistencyProofResponse(
                checkpoint=signed.note.encode(), first_size=request.first_size, hashes=hashes
            )
        )

    async def RecordProof(self, request: audit_pb2.RecordProofRequest, call: Call) -> Reply:
        """Check the result; the record of the call, which is durable before the answer leaves, is what holds it."""
        if request.proof not in _PROOFS:
            raise InvalidRequestError("proof", "no such proof")
        if request.result not in audit_pb2.ProofResult.values()[1:]:
            raise InvalidRequestError("result", "no such result")
        if len(request.report_sha256) != 32:
            raise InvalidRequestError("report_sha256", "not a SHA-256")
        if not 1 <= request.checks <= _MOST_CHECKS or not 0 <= request.failed <= request.checks:
            raise InvalidRequestError("checks", "not a number of checks")
        return Reply(audit_pb2.RecordProofResponse(response_id=call.request_id))


def _records(entries: Iterable[Entry]) -> list[audit_pb2.AuditRecord]:
    return [
        audit_pb2.AuditRecord(
            index=one.index,
            data=one.data,
            leaf_hash=one.leaf,
            expired=None
            if one.expired is None
            else audit_pb2.ExpiredBody(record_class=one.expired.kind, day=one.expired.day.isoformat()),
        )
        for one in entries
    ]


def _fitting(entries: list[Entry], following: int | None) -> tuple[list[Entry], int | None]:
    """As many as one message should hold, at least one; the next page begins with the first that is left out."""
    room = _PAGE_BYTES
    for count, entry in enumerate(entries):
        room -= len(entry.data)
        if room < 0 and count:
            return entries[:count], entry.index
    return entries, following


def _wanted(request: audit_pb2.ListAuditRecordsRequest) -> Wanted:
    if len(request.classes) > _MOST_CLASSES or any(one not in _KINDS for one in request.classes):
        raise InvalidRequestError("classes", "an unknown class, or too many")
    times = _times(request)
    return Wanted(
        person=_optional("person", request.person),
        document_id=_optional("document_id", request.document_id),
        kinds=frozenset(_KINDS[one] for one in request.classes),
        since=times.since,
        until=times.until,
    )


def _optional(field: str, value: str) -> str:
    return wire.name(field, value) if value else ""


def _times(request: audit_pb2.ListAuditRecordsRequest | audit_pb2.ExportAuditRecordsRequest) -> Wanted:
    return Wanted(
        since=_moment("start_time", request.start_time) if request.HasField("start_time") else None,
        until=_moment("end_time", request.end_time) if request.HasField("end_time") else None,
    )


def _moment(field: str, value: Timestamp) -> datetime:
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError) as err:
        raise InvalidRequestError(field, "not a time") from err
