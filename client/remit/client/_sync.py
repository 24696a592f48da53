"""The clients that block: for applications, and for administrators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
from remit.client import _read, _read_access, access_values, audit_values, key_values, source_values, values
from remit.client._connect import Connection, Token
from remit.client.errors import error_of
from remit.v1 import access_pb2, custody_pb2, index_pb2, retrieval_pb2, source_pb2, standing_pb2
from remit.v1.access_pb2_grpc import AccessServiceStub
from remit.v1.custody_pb2_grpc import CustodyServiceStub
from remit.v1.index_pb2_grpc import IndexServiceStub
from remit.v1.retrieval_pb2_grpc import RetrievalServiceStub
from remit.v1.source_pb2_grpc import SourceServiceStub
from remit.v1.standing_pb2_grpc import StandingServiceStub

Q = TypeVar("Q")
A = TypeVar("A")


class _Blocking:
    """A channel, opened at the first call. Thread-safe. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        address: str,
        *,
        token: Token | None = None,
        insecure_loopback: bool = False,
        root_certificates: bytes | None = None,
        certificate: tuple[bytes, bytes] | None = None,
        on_behalf_of: str = "",
        timeout_s: float = 30.0,
    ) -> None:
        """Connect to `host:port`.

        token: a token, or what returns a fresh one; None for a service account that has a certificate.
        insecure_loopback: without TLS, on this machine only. root_certificates: PEM; None means the system's.
        certificate: the PEM chain and the private key of a client certificate, for the services' listener.
        on_behalf_of: the person whom a service account names, by the attribute that the service's settings say.
        timeout_s: how long one call may take.
        """
        self._connection = Connection(address, token, insecure_loopback, root_certificates, certificate, on_behalf_of)
        self._timeout_s = timeout_s
        options = self._connection.options()
        self._channel = (
            grpc.insecure_channel(address, options)
            if insecure_loopback
            else grpc.secure_channel(address, self._connection.credentials(), options)
        )

        self._retrieval = RetrievalServiceStub(self._channel)
        self._access = AccessServiceStub(self._channel)
        self._sources = SourceServiceStub(self._channel)
        self._custody = CustodyServiceStub(self._channel)
        self._indexes = IndexServiceStub(self._channel)
        self._standing = StandingServiceStub(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        try:
            return method(request, timeout=self._timeout_s, metadata=self._connection.metadata())
        except grpc.RpcError as err:
            raise error_of(err, self._connection.address) from None


class Client(_Blocking):
    """Passages for an application, as the person whose token it presents.

    There is no parameter for a user or for a filter on access: the service answers what the token's owner may read.
    """

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        sources: Sequence[str] = (),
        explain: bool = False,
        mode: values.SearchMode = values.SearchMode.HYBRID,
        exact: bool = False,
        approximate: bool = False,
    ) -> values.SearchResult:
        """Return the passages that answer `query` best, best first.

        limit: 1 to 100. sources: only of these, by name. explain: with why each of them may be read.
        mode: by meaning, by words, or both.
        exact: compare every readable passage by its full vector.
        approximate: quicker in large collections, where the deployment allows it; what is found then depends a little
        on passages that you may not read.
        """
        request = retrieval_pb2.SearchRequest(
            query=query,
            limit=limit,
            sources=sources,
            explain=explain,
            mode=retrieval_pb2.SearchMode.Value(f"SEARCH_MODE_{mode.name}"),
            exact=exact,
            approximate=approximate,
        )
        return _read.search(self._call(self._retrieval.Search, request))

    def get_document(self, document_id: str) -> values.DocumentText:
        """Return a document with its text. Raises NotFoundError: absent, or not readable."""
        request = retrieval_pb2.GetDocumentRequest(document_id=document_id)
        return _read.document(self._call(self._retrieval.GetDocument, request))

    def batch_get_chunks(self, chunk_ids: Sequence[str]) -> values.Chunks:
        """Return passages by id, in the order asked, without those that are absent or not readable."""
        request = retrieval_pb2.BatchGetChunksRequest(chunk_ids=chunk_ids)
        return _read.chunks(self._call(self._retrieval.BatchGetChunks, request))

    def get_caller(self) -> values.Caller:
        """Return who the token proves you to be, and what you hold."""
        return _read.caller(self._call(self._access.GetCaller, access_pb2.GetCallerRequest()))

    def check_access(self, document_ids: Sequence[str]) -> access_values.AccessChecks:
        """Return which of at most 100 documents you may read; absent and hidden are one answer."""
        request = access_pb2.CheckAccessRequest(document_ids=document_ids)
        return _read_access.checks(self._call(self._access.CheckAccess, request))

    def explain_access(self, document_id: str) -> access_values.ExplainedDocument:
        """Return why you may read a document. Raises NotFoundError: absent, or not readable."""
        request = access_pb2.ExplainAccessRequest(document_id=document_id)
        return _read_access.explained(self._call(self._access.ExplainAccess, request))

    def list_readable_documents(
        self, *, sources: Sequence[str] = (), page_size: int = 0, page_token: str = ""
    ) -> access_values.DocumentPage:
        """Return a page of the documents that you may read, without their text. sources: only of these, by name."""
        request = access_pb2.ListReadableDocumentsRequest(sources=sources, page_size=page_size, page_token=page_token)
        return _read_access.page(self._call(self._access.ListReadableDocuments, request))


def _target(document_id: str, source: str) -> custody_pb2.ShredTarget:
    return custody_pb2.ShredTarget(document_id=document_id) if document_id else custody_pb2.ShredTarget(source=source)


class AdminClient(_Blocking):
    """Sources, runs and keys, on the administrators' listener, for holders of the role `operator` or `key-admin`."""

    def list_sources(self) -> tuple[source_values.Source, ...]:
        """Return every source, by name."""
        answer = self._call(self._sources.ListSources, source_pb2.ListSourcesRequest())
        return tuple(_read.source(one) for one in answer.sources)

    def get_source(self, name: str) -> source_values.Source:
        """Return one source."""
        return _read.source(self._call(self._sources.GetSource, source_pb2.GetSourceRequest(name=name)).source)

    def check_source(self, name: str) -> source_values.Check:
        """Have the service connect to a source and say what its credential can read. Stores nothing."""
        return _read.check(self._call(self._sources.CheckSource, source_pb2.CheckSourceRequest(name=name)))

    def start_sync(
        self, name: str, sync_pass: source_values.SyncPass = source_values.SyncPass.CONTENT
    ) -> source_values.SyncRun:
        """Open a run over a source. Raises SyncRunningError."""
        request = source_pb2.StartSyncRequest(name=name, sync_pass=_read.PASSES[sync_pass])
        return _read.run(self._call(self._sources.StartSync, request).run)

    def list_holds(self, name: str = "") -> tuple[source_values.Hold, ...]:
        """Return what the circuit breaker holds of a source, or of all, the newest first."""
        answer = self._call(self._sources.ListHolds, source_pb2.ListHoldsRequest(name=name))
        return tuple(_read.hold(one) for one in answer.holds)

    def approve_hold(self, hold_id: str) -> source_values.Hold:
        """Have the next complete run apply what is held (role `access-admin`, or `source-owner`)."""
        request = source_pb2.ApproveHoldRequest(hold_id=hold_id)
        return _read.hold(self._call(self._sources.ApproveHold, request).hold)

    def reject_hold(self, hold_id: str) -> source_values.Hold:
        """Keep what is held as it is, until the source says something else. Roles as for `approve_hold`."""
        return _read.hold(self._call(self._sources.RejectHold, source_pb2.RejectHoldRequest(hold_id=hold_id)).hold)

    def get_sync_run(self, run_id: str) -> source_values.SyncRun:
        """Return one run as it stands."""
        return _read.run(self._call(self._sources.GetSyncRun, source_pb2.GetSyncRunRequest(run_id=run_id)).run)

    def list_sync_runs(self, name: str, *, page_size: int = 0, page_token: str = "") -> source_values.SyncRunPage:
        """Return a page of the runs over a source, the newest first. page_size: up to 100; 0 is the service's own."""
        request = source_pb2.ListSyncRunsRequest(name=name, page_size=page_size, page_token=page_token)
        answer = self._call(self._sources.ListSyncRuns, request)
        return source_values.SyncRunPage(tuple(_read.run(one) for one in answer.runs), answer.next_page_token)

    def cancel_sync_run(self, run_id: str) -> source_values.SyncRun:
        """Tell a run to end; return it as it stands. Watch it to see its end."""
        return _read.run(self._call(self._sources.CancelSyncRun, source_pb2.CancelSyncRunRequest(run_id=run_id)).run)

    def remove_source(self, name: str) -> source_values.Source:
        """Remove a source: withheld from now on, purged in the background. Raises NotFoundError."""
        request = source_pb2.RemoveSourceRequest(name=name)
        return _read.source(self._call(self._sources.RemoveSource, request).source)

    def reload_settings(self) -> source_values.Reload:
        """Have the service read its settings again: all that differs comes into force, or nothing."""
        return _read.reload(self._call(self._sources.ReloadSettings, source_pb2.ReloadSettingsRequest()))

    def place_legal_hold(
        self,
        why: str,
        *,
        classes: Sequence[str] = (),
        from_day: str = "",
        to_day: str = "",
        document_id: str = "",
        person: str = "",
    ) -> audit_values.LegalHold:
        """Keep records of the audit log from expiring (role `key-admin`). What is left open holds for all."""
        request = standing_pb2.PlaceLegalHoldRequest(
            why=why, classes=classes, from_day=from_day, to_day=to_day, document_id=document_id, person=person
        )
        return _read.legal_hold(self._call(self._standing.PlaceLegalHold, request).hold)

    def list_legal_holds(self) -> tuple[audit_values.LegalHold, ...]:
        """Return the holds that stand, the oldest first (role `key-admin` or `auditor`)."""
        answer = self._call(self._standing.ListLegalHolds, standing_pb2.ListLegalHoldsRequest())
        return tuple(_read.legal_hold(one) for one in answer.holds)

    def lift_legal_hold(self, hold_id: str, why: str) -> audit_values.LegalHold:
        """End a hold (role `key-admin`). Raises NotFoundError."""
        request = standing_pb2.LiftLegalHoldRequest(hold_id=hold_id, why=why)
        return _read.legal_hold(self._call(self._standing.LiftLegalHold, request).hold)

    def list_stopped_sources(self) -> tuple[audit_values.StoppedSource, ...]:
        """Return the sources whose documents are withheld because a canary was about to leave."""
        answer = self._call(self._standing.ListStoppedSources, standing_pb2.ListStoppedSourcesRequest())
        return tuple(_read.stopped(one) for one in answer.sources)

    def clear_source(self, name: str, why: str) -> audit_values.StoppedSource:
        """Let a stopped source be read again. Raises NotFoundError."""
        request = standing_pb2.ClearSourceRequest(name=name, why=why)
        return _read.stopped(self._call(self._standing.ClearSource, request).source)

    def get_key_status(self) -> key_values.KeyStatus:
        """Return how all keys stand (role `key-admin`, as for all methods about keys)."""
        return _read.key_status(self._call(self._custody.GetKeyStatus, custody_pb2.GetKeyStatusRequest()))

    def rotate_keys(self) -> key_values.Rotation:
        """Make a new key-encryption key and new wrapping keys, or finish a rotation that was broken off."""
        answer = self._call(self._custody.RotateKeys, custody_pb2.RotateKeysRequest())
        return key_values.Rotation(answer.key_encryption_key, tuple(answer.retired))

    def rewrap_keys(self, limit: int = 10_000) -> int:
        """Move some keys of documents to the newest wrapping keys; return how many are left."""
        return self._call(self._custody.RewrapKeys, custody_pb2.RewrapKeysRequest(limit=limit)).remaining

    def shred_document(self, document_id: str) -> key_values.ShredCertificate:
        """Take a document away for good. Raises NotFoundError and SyncRunningError."""
        request = custody_pb2.ShredDocumentRequest(document_id=document_id)
        return _read.certificate(self._call(self._custody.ShredDocument, request).certificate)

    def shred_source(self, name: str) -> key_values.ShredCertificate:
        """Take all of a source away for good. Raises NotFoundError and SyncRunningError."""
        request = custody_pb2.ShredSourceRequest(name=name)
        return _read.certificate(self._call(self._custody.ShredSource, request).certificate)

    def request_shredding(self, *, document_id: str = "", source: str = "") -> key_values.ShredRequest:
        """Ask for a shredding that another key administrator approves. Raises NotFoundError and SecondPersonError."""
        request = custody_pb2.RequestShreddingRequest(target=_target(document_id, source))
        return _read.shred_request(self._call(self._custody.RequestShredding, request).request)

    def list_shred_requests(self) -> tuple[key_values.ShredRequest, ...]:
        """Return the requests that can be approved now, the oldest first."""
        answer = self._call(self._custody.ListShredRequests, custody_pb2.ListShredRequestsRequest())
        return tuple(_read.shred_request(one) for one in answer.requests)

    def approve_shredding(
        self, request_id: str, *, document_id: str = "", source: str = ""
    ) -> key_values.ShredCertificate:
        """Shred what somebody else asked for, and which is named again. Raises SecondPersonError and NotFoundError."""
        target = _target(document_id, source)
        request = custody_pb2.ApproveShreddingRequest(request_id=request_id, target=target)
        return _read.certificate(self._call(self._custody.ApproveShredding, request).certificate)

    def withdraw_shredding(self, request_id: str) -> None:
        """End a request. Raises NotFoundError."""
        self._call(self._custody.WithdrawShredding, custody_pb2.WithdrawShreddingRequest(request_id=request_id))

    def create_backup(self, folder: str, keys_folder: str, *, timeout_s: float = 3600.0) -> key_values.BackupMade:
        """Have the service back up its content and, elsewhere, its keys: absolute paths on its machine."""
        request = custody_pb2.CreateBackupRequest(folder=folder, keys_folder=keys_folder)
        try:
            made = self._custody.CreateBackup(request, timeout=timeout_s, metadata=self._connection.metadata())
        except grpc.RpcError as err:
            raise error_of(err, self._connection.address) from None
        return _read.backup(made)

    def rebuild_index(self, *, timeout_s: float | None = None) -> Iterator[source_values.Rebuild]:
        """Make both indexes anew beside the served ones; yield how far it is, and at last how many passages there are.

        It goes on when nobody listens any more, and a second call follows the one that is under way.
        """
        stream = self._indexes.RebuildIndex(
            index_pb2.RebuildIndexRequest(), timeout=timeout_s, metadata=self._connection.metadata()
        )
        try:
            for message in stream:
                yield source_values.Rebuild(message.part, message.done, message.total, message.chunks)
        except grpc.RpcError as err:
            raise error_of(err, self._connection.address) from None
        finally:
            stream.cancel()

    def watch_sync_run(self, run_id: str, *, timeout_s: float | None = None) -> Iterator[source_values.SyncRun]:
        """Yield a run as it stands, then each change of it, until it has ended. timeout_s: None means no limit here."""
        request = source_pb2.WatchSyncRunRequest(run_id=run_id)
        stream = self._sources.WatchSyncRun(request, timeout=timeout_s, metadata=self._connection.metadata())
        try:
            for message in stream:
                yield _read.run(message.run)
        except grpc.RpcError as err:
            raise error_of(err, self._connection.address) from None
        finally:
            stream.cancel()
