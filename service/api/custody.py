"""CustodyService: keys, shredding and backups, for key administrators."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from remit.v1 import custody_pb2

from service.api import wire
from service.api.wrapper import Call, Reply
from service.errors import InvalidRequestError
from service.executor import Executor
from service.keys import Backup, Custody, Status
from service.upkeep.approvals import Approvals, ShredRequest, Target
from service.upkeep.backup import Backups, TargetError
from service.upkeep.shred import Certificate

MAX_REWRAP: Final = 100_000


class CustodyServicer:
    """remit.v1.CustodyService."""

    def __init__(self, custody: Custody, approvals: Approvals, backups: Backups, executor: Executor) -> None:
        self._custody = custody
        self._backups = backups
        self._approvals = approvals
        self._executor = executor

    async def GetKeyStatus(self, request: custody_pb2.GetKeyStatusRequest, call: Call) -> Reply:
        """See the `.proto` file, as for all methods."""
        status = await self._executor.run(self._custody.status)
        return Reply(_status(status, self._approvals))

    async def RotateKeys(self, request: custody_pb2.RotateKeysRequest, call: Call) -> Reply:
        """Rotate."""
        retired = await self._executor.run(self._custody.rotate)
        return Reply(custody_pb2.RotateKeysResponse(key_encryption_key=self._custody.key_id, retired=retired))

    async def RewrapKeys(self, request: custody_pb2.RewrapKeysRequest, call: Call) -> Reply:
        """Re-wrap some."""
        if not 1 <= request.limit <= MAX_REWRAP:
            raise InvalidRequestError("limit", f"the limit is {request.limit}, expected 1 to {MAX_REWRAP}")
        remaining = await self._executor.run(self._custody.rewrap, request.limit)
        return Reply(custody_pb2.RewrapKeysResponse(remaining=remaining))

    async def ShredDocument(self, request: custody_pb2.ShredDocumentRequest, call: Call) -> Reply:
        """Shred one document."""
        target = Target(wire.shredded_document(request), "")
        done = await self._executor.run(self._approvals.shred, target, call.caller)
        return Reply(custody_pb2.ShredDocumentResponse(certificate=_certificate(done, call.request_id)))

    async def ShredSource(self, request: custody_pb2.ShredSourceRequest, call: Call) -> Reply:
        """Shred a source."""
        target = Target("", wire.name("name", request.name))
        done = await self._executor.run(self._approvals.shred, target, call.caller)
        return Reply(custody_pb2.ShredSourceResponse(certificate=_certificate(done, call.request_id)))

    async def RequestShredding(self, request: custody_pb2.RequestShreddingRequest, call: Call) -> Reply:
        """Ask for a shredding."""
        target = wire.shred_target(request.target)
        made = await self._executor.run(self._approvals.request, target, call.caller, call.request_id)
        return Reply(custody_pb2.RequestShreddingResponse(request=_request(made)))

    async def ListShredRequests(self, request: custody_pb2.ListShredRequestsRequest, call: Call) -> Reply:
        """List what is open."""
        found = await self._executor.run(self._approvals.open)
        return Reply(custody_pb2.ListShredRequestsResponse(requests=[_request(one) for one in found]))

    async def ApproveShredding(self, request: custody_pb2.ApproveShreddingRequest, call: Call) -> Reply:
        """Approve, and shred."""
        request_id, target = wire.request_id(request.request_id), wire.shred_target(request.target)
        done = await self._executor.run(self._approvals.approve, request_id, target, call.caller)
        return Reply(custody_pb2.ApproveShreddingResponse(certificate=_certificate(done, call.request_id)))

    async def WithdrawShredding(self, request: custody_pb2.WithdrawShreddingRequest, call: Call) -> Reply:
        """End a request."""
        await self._executor.run(self._approvals.withdraw, wire.request_id(request.request_id))
        return Reply(custody_pb2.WithdrawShreddingResponse())

    async def CreateBackup(self, request: custody_pb2.CreateBackupRequest, call: Call) -> Reply:
        """Back up."""
        folder, keys_folder = (
            Path(wire.path(field, text))
            for field, text in (("folder", request.folder), ("keys_folder", request.keys_folder))
        )
        try:
            made = await self._executor.run(self._backups.create, folder, keys_folder)
        except TargetError as err:
            raise InvalidRequestError(err.field, str(err)) from err
        return Reply(
            custody_pb2.CreateBackupResponse(
                backup_id=made.backup_id,
                made_at=wire.moment(made.made_at),
                files=made.files,
                size_bytes=made.size_bytes,
            )
        )


def _status(status: Status, approvals: Approvals) -> custody_pb2.GetKeyStatusResponse:
    return custody_pb2.GetKeyStatusResponse(
        key_encryption_key=status.kek,
        provider=status.provider,
        older_source_keys=status.older,
        sources=[
            custody_pb2.SourceKeys(
                source=one.source,
                documents=one.documents,
                behind=one.behind,
                generations=one.generations,
                made_at=wire.moment(one.made_at),
                wraps=one.wraps,
                seals=one.seals,
                most_seals=one.most_seals,
            )
            for one in status.sources
        ],
        backups=_backups(status.backups),
        index_rebuild_pending=approvals.rebuild_pending,
        shred_approvals=approvals.needed,
    )


def _certificate(done: Certificate, response_id: str) -> custody_pb2.ShredCertificate:
    return custody_pb2.ShredCertificate(
        response_id=response_id,
        source=done.source,
        document_id=done.document_id,
        documents=done.documents,
        shredded_at=wire.moment(done.shredded_at),
        backups=_backups(done.backups),
        index_rebuild_pending=done.index_rebuild_pending,
        same_content=done.same_content,
        requested_by=done.requested_by,
        approved_by=done.approved_by,
    )


def _request(made: ShredRequest) -> custody_pb2.ShredRequest:
    document, source = made.target.document_id, made.target.source
    return custody_pb2.ShredRequest(
        request_id=made.request_id,
        target=custody_pb2.ShredTarget(document_id=document) if document else custody_pb2.ShredTarget(source=source),
        requested_by=made.requested_by,
        requested_at=wire.moment(made.requested_at),
        expires_at=wire.moment(made.expires_at),
    )


def _backups(backups: Iterable[Backup]) -> list[custody_pb2.KeyStoreBackup]:
    return [
        custody_pb2.KeyStoreBackup(backup_id=one.backup_id, made_at=wire.moment(one.made_at), folder=one.folder)
        for one in backups
    ]
