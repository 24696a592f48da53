"""The client for auditors, on the administrators' listener, for holders of the role `auditor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from remit.client import audit_values
from remit.client._sync import _Blocking
from remit.client.errors import error_of
from remit.v1 import audit_pb2
from remit.v1.audit_pb2_grpc import AuditServiceStub


class AuditorClient(_Blocking):
    """The audit log: what was answered, to whom and why. Every call is itself recorded."""

    def __init__(self, address: str, **options: Any) -> None:
        """Connect to `host:port`; see `Client` for the options."""
        super().__init__(address, **options)
        self._audit = AuditServiceStub(self._channel)

    def get_audit_record(self, response_id: str) -> tuple[audit_values.AuditRecord, ...]:
        """Return the record of one answer, in several parts if it is very large. Raises NotFoundError."""
        request = audit_pb2.GetAuditRecordRequest(response_id=response_id)
        return _records(self._call(self._audit.GetAuditRecord, request).records)

    def list_audit_records(
        self,
        *,
        document_id: str = "",
        person: str = "",
        classes: Sequence[str] = (),
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        oldest_first: bool = False,
        page_size: int = 0,
        page_token: str = "",
    ) -> audit_values.AuditPage:
        """Return a page of records.

        document_id: only answers with this document. person: only calls of this account or subject.
        classes: such as `query` or `admin`. Raises ValueError for a class that does not exist.
        """
        request = audit_pb2.ListAuditRecordsRequest(
            document_id=document_id,
            person=person,
            classes=[audit_pb2.AuditClass.Value(f"AUDIT_CLASS_{one.upper()}") for one in classes],
            start_time=_timestamp(start_time),
            end_time=_timestamp(end_time),
            oldest_first=oldest_first,
            page_size=page_size,
            page_token=page_token,
        )
        answer = self._call(self._audit.ListAuditRecords, request)
        return audit_values.AuditPage(_records(answer.records), answer.next_page_token)

    @contextmanager
    def export_audit_records(
        self,
        *,
        first_index: int = 0,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        follow: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[tuple[audit_values.ExportHeader, Iterator[audit_values.AuditRecord]]]:
        """Open a stretch of the log: what it is held against, and its records in order.

        follow: go on with new records until the block is left. timeout_s: None means no limit here.
        """
        request = audit_pb2.ExportAuditRecordsRequest(
            first_index=first_index, start_time=_timestamp(start_time), end_time=_timestamp(end_time), follow=follow
        )
        stream = self._audit.ExportAuditRecords(request, timeout=timeout_s, metadata=self._connection.metadata())

        def records() -> Iterator[audit_values.AuditRecord]:
            try:
                for message in stream:
                    yield from _records(message.records.records)
            except grpc.RpcError as err:
                raise error_of(err, self._connection.address) from None

        try:
            try:
                header = next(stream).header
            except grpc.RpcError as err:
                raise error_of(err, self._connection.address) from None
            opened = audit_values.ExportHeader(
                first_index=header.first_index,
                stop_index=header.stop_index,
                checkpoint=header.checkpoint,
                public_key=header.public_key,
                before=tuple(header.before),
                behind=tuple(header.behind),
                expiries=tuple(
                    audit_values.ProvenRecord(_records([one.record])[0], tuple(one.hashes)) for one in header.expiries
                ),
            )
            yield opened, records()
        finally:
            stream.cancel()

    def get_query_text(self, response_id: str) -> str:
        """Return the text of one search's query, for holders of the role `audit-reader-content`.

        Raises NotFoundError: no such search, or its text was not kept.
        """
        request = audit_pb2.GetQueryTextRequest(response_id=response_id)
        return self._call(self._audit.GetQueryText, request).query

    def get_checkpoint(self) -> audit_values.SignedCheckpoint:
        """Return the latest signed checkpoint. Keep it elsewhere."""
        answer = self._call(self._audit.GetCheckpoint, audit_pb2.GetCheckpointRequest())
        return audit_values.SignedCheckpoint(answer.checkpoint, answer.public_key)

    def get_inclusion_proof(self, index: int) -> audit_values.InclusionProof:
        """Return the proof that record `index` is in the log. Raises NotFoundError."""
        answer = self._call(self._audit.GetInclusionProof, audit_pb2.GetInclusionProofRequest(index=index))
        return audit_values.InclusionProof(answer.checkpoint, answer.index, answer.leaf_hash, tuple(answer.hashes))

    def get_consistency_proof(self, first_size: int) -> audit_values.ConsistencyProof:
        """Return the proof that the log of `first_size` records only grew. Raises NotFoundError."""
        request = audit_pb2.GetConsistencyProofRequest(first_size=first_size)
        answer = self._call(self._audit.GetConsistencyProof, request)
        return audit_values.ConsistencyProof(answer.checkpoint, answer.first_size, tuple(answer.hashes))

    def record_proof(self, proof: str, result: str, report_sha256: bytes, *, checks: int, failed: int) -> str:
        """Put the result of a `remit prove` on record, and return the record's id.

        proof: such as `isolation`. result: `passed`, `failed` or `not_run`. report_sha256: of the signed report.
        """
        request = audit_pb2.RecordProofRequest(
            proof=proof,
            result=audit_pb2.ProofResult.Value(f"PROOF_RESULT_{result.upper()}"),
            report_sha256=report_sha256,
            checks=checks,
            failed=failed,
        )
        return self._call(self._audit.RecordProof, request).response_id


def _records(messages: Sequence[audit_pb2.AuditRecord]) -> tuple[audit_values.AuditRecord, ...]:
    return tuple(
        audit_values.AuditRecord(
            one.index,
            one.data,
            one.leaf_hash,
            audit_values.ExpiredBody(one.expired.record_class, date.fromisoformat(one.expired.day))
            if one.HasField("expired")
            else None,
        )
        for one in messages
    )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    written = Timestamp()
    written.FromDatetime(moment)
    return written
