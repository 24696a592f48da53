"""Other systems, asked the same: the ten nearest chunks that a caller may read. Each keeps its index in the cache."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from benchmarks.permissions import ACLS, Caller, Organisation
from benchmarks.vectors import DIMENSION, Vectors

LIMIT: Final = 10
_BATCH: Final = 1_000


class Peer(Protocol):
    """A system with all chunks in it. build_s: 0 when it came from the cache."""

    build_s: float

    def enter(self, caller: Caller) -> None:
        """Become somebody: what may be prepared once for a caller."""

    def search(self, query: Vectors) -> list[int]:
        """The rows that this caller finds, best first."""

    def close(self) -> None:
        """Let go."""


class EdgeDefault:
    """Qdrant Edge as it comes: HNSW, and a filter on the ACL ids that the caller may read."""

    def __init__(self, folder: Path, vectors: Vectors, organisation: Organisation) -> None:
        import qdrant_edge as qe

        self._qe = qe
        self._filter: Any = None
        self.build_s = 0.0
        config = qe.EdgeConfig(vectors=qe.EdgeVectorParams(size=DIMENSION, distance=qe.Distance.Dot), wal_enabled=False)
        if _done(folder):
            self._shard = qe.EdgeShard.load(str(folder / "shard"), config)
            return
        start = time.perf_counter()
        self._shard = qe.EdgeShard.create(str(folder / "shard"), config)
        update = qe.UpdateOperation
        for name in ("spread", "together"):
            self._shard.update(update.create_field_index(name, qe.IntegerIndexParams(lookup=True, range=False)))
        for at in range(0, len(vectors), _BATCH):
            points = [
                qe.Point(
                    at + n,
                    vector,
                    {"spread": int(organisation.spread[at + n]), "together": int(organisation.together[at + n])},
                )
                for n, vector in enumerate(vectors[at : at + _BATCH].tolist())
            ]
            self._shard.update(update.upsert_points(points))
        self._shard.optimize()
        self._shard.flush()
        self.build_s = time.perf_counter() - start
        _finish(folder)

    def enter(self, caller: Caller) -> None:
        """See `Peer`."""
        name = "spread" if caller.kind == "random" else "together"
        condition = self._qe.FieldCondition(name, match=self._qe.MatchAny(caller.acls.tolist()))
        self._filter = self._qe.Filter(must=[condition])

    def search(self, query: Vectors) -> list[int]:
        """See `Peer`."""
        nearest = self._qe.Query.Nearest(query.tolist())
        request = self._qe.QueryRequest(limit=LIMIT, query=nearest, filter=self._filter)
        return [int(point.id) for point in self._shard.query(request)]

    def close(self) -> None:
        """See `Peer`."""
        self._shard.close()


class Postgres:
    """PostgreSQL with pgvector's HNSW and row-level security: the server and its tables. Ask through `policy`."""

    def __init__(self, folder: Path, vectors: Vectors, organisation: Organisation) -> None:
        import pgserver

        self.build_s = 0.0
        fresh = not _done(folder)
        self._server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        self.uri = self._server.get_uri()
        if fresh:
            start = time.perf_counter()
            self._build(vectors, organisation)
            self.build_s = time.perf_counter() - start
            _finish(folder)
        with _session(self.uri) as owner:
            # Its default of 128 MB would have it fetch a million vectors from the system's cache, page by page.
            known = owner.execute("show shared_buffers").fetchone()
            owner.execute("alter system set shared_buffers = '4GB'")
        if known != ("4GB",):
            self._server.cleanup()
            self._server = pgserver.get_server(folder / "data", cleanup_mode="stop")
            self.uri = self._server.get_uri()

    def policy(self, name: str) -> PostgresPolicy:
        """A session under one of the policies, `join` or `array`."""
        return PostgresPolicy(self, name)

    def close(self) -> None:
        """Stop the server."""
        self._server.cleanup()

    def _build(self, vectors: Vectors, organisation: Organisation) -> None:
        with _session(self.uri) as owner:
            owner.execute("create extension vector")
        with _session(self.uri) as owner:
            owner.execute("set maintenance_work_mem = '4GB'")
            owner.execute("set max_parallel_maintenance_workers = 2")
            owner.execute(
                "create table chunk (id int primary key, spread int not null, together int not null,"
                f" allow_spread int[] not null, allow_together int[] not null, v vector({DIMENSION}) not null)"
            )
            owner.execute("create table acl_entry (acl int, principal int, primary key (principal, acl))")
            owner.execute("create table member (uid text, principal int, primary key (uid, principal))")
            entries = organisation.entries()
            with owner.cursor().copy("copy acl_entry from stdin") as copy:
                for pair in np.unique(entries, axis=0).tolist():
                    copy.write_row(pair)
            with owner.cursor().copy("copy member from stdin") as copy:
                for caller in organisation.callers.values():
                    for principal in caller.principals.tolist():
                        copy.write_row((caller.name, principal))
            named: list[list[int]] = [[] for _ in range(2 * ACLS)]
            for acl, principal in entries.tolist():
                named[acl].append(principal)
            with owner.cursor().copy("copy chunk from stdin with (format binary)") as copy:
                copy.set_types(["int4", "int4", "int4", "int4[]", "int4[]", "vector"])
                for row in range(len(vectors)):
                    spread, together = int(organisation.spread[row]), int(organisation.together[row])
                    copy.write_row((row, spread, together, named[spread], named[together], vectors[row]))
            owner.execute("create index on chunk using hnsw (v vector_ip_ops) with (m = 16, ef_construction = 100)")
            owner.execute("vacuum analyze")
            owner.execute("alter table chunk enable row level security")
            for layout in ("spread", "together"):
                mine = "select principal from member where uid = current_setting('app.uid')"
                rules = {
                    "join": f"{layout} in (select acl from acl_entry join ({mine}) m using (principal))",
                    "array": f"allow_{layout} && (select array_agg(principal) from ({mine}) m)",
                }
                for name, rule in rules.items():
                    owner.execute(f"create role {name}_{layout}")
                    owner.execute(f"grant select on all tables in schema public to {name}_{layout}")
                    owner.execute(
                        f"create policy {name}_{layout} on chunk for select to {name}_{layout} using ({rule})"
                    )


class PostgresPolicy:
    """One session under a policy; iterative scans in strict order, everything else as pgvector comes.

    join: looks the caller's ACLs up in tables. array: compares the principals on the chunk with the caller's.
    """

    def __init__(self, server: Postgres, name: str) -> None:
        self.build_s = server.build_s
        self._name = name
        self._session = _session(server.uri)
        self._session.execute("set hnsw.iterative_scan = strict_order")
        self._session.execute("set statement_timeout = '10s'")

    def effort(self, kept: int, tuples: int, memory: int) -> None:
        """Look farther. kept: candidates of the graph's walk. tuples: at most looked at. memory: times `work_mem`."""
        self._session.execute("set statement_timeout = '2s'")
        self._session.execute(f"set hnsw.ef_search = {kept}")
        self._session.execute(f"set hnsw.max_scan_tuples = {tuples}")
        self._session.execute(f"set hnsw.scan_mem_multiplier = {memory}")

    def enter(self, caller: Caller) -> None:
        """See `Peer`."""
        self._session.execute("reset role")
        self._session.execute("select set_config('app.uid', %s, false)", (caller.name,))
        self._session.execute(f"set role {self._name}_{'spread' if caller.kind == 'random' else 'together'}")

    def search(self, query: Vectors) -> list[int]:
        """See `Peer`."""
        from psycopg import errors

        try:
            found = self._session.execute(f"select id from chunk order by v <#> %s limit {LIMIT}", (query,))
        except errors.QueryCanceled:
            return []  # nothing within ten seconds
        return [row[0] for row in found.fetchall()]

    def close(self) -> None:
        """See `Peer`."""
        self._session.close()


def _session(uri: str) -> Any:
    import psycopg
    from pgvector.psycopg import register_vector

    session = psycopg.connect(uri, autocommit=True)
    if session.execute("select 1 from pg_extension where extname = 'vector'").fetchone():
        register_vector(session)
    return session


class Wardowl:
    """The library `wardowl` over PostgreSQL with pgvector: the principals on each chunk, its filter inside the search.

    As its documentation has it: `MetadataACLAuthorizer`, HNSW and GIN by `create_schema`, every hit checked again.
    """

    def __init__(self, folder: Path, vectors: Vectors, organisation: Organisation) -> None:
        import pgserver
        from psycopg_pool import ConnectionPool
        from wardowl.backends.pgvector import PgVectorBackend, create_schema

        self.build_s = 0.0
        self._ask: Any = None
        fresh = not _done(folder)
        self._server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        self._pool = ConnectionPool(
            self._server.get_uri(), min_size=1, max_size=1, open=True, kwargs={"options": "-c statement_timeout=10s"}
        )
        self._backend = PgVectorBackend(self._pool)
        if fresh:
            start = time.perf_counter()
            with self._pool.connection() as session:
                session.execute("set statement_timeout = 0")
            create_schema(self._pool, DIMENSION, hnsw=False)
            self._add(vectors, organisation)
            with self._pool.connection() as session:
                session.execute("set maintenance_work_mem = '4GB'")
                session.execute("set max_parallel_maintenance_workers = 2")
            create_schema(self._pool, DIMENSION)
            with self._pool.connection() as session:
                session.execute("analyze")
                session.execute("reset all")
            self.build_s = time.perf_counter() - start
            _finish(folder)

    def _add(self, vectors: Vectors, organisation: Organisation) -> None:
        from wardowl import Document

        named: list[list[str]] = [[] for _ in range(2 * ACLS)]
        for acl, principal in organisation.entries().tolist():
            named[acl].append(f"p{principal}")
        for at in range(0, len(vectors), _BATCH):
            part = vectors[at : at + _BATCH]
            rows = range(at, at + len(part))
            documents = [
                Document(
                    str(row),
                    "",
                    {
                        "spread": named[int(organisation.spread[row])],
                        "together": named[int(organisation.together[row])],
                    },
                )
                for row in rows
            ]
            self._backend.add(documents, part.tolist())

    def enter(self, caller: Caller) -> None:
        """See `Peer`."""
        from wardowl import MetadataACLAuthorizer, PermissionedRetriever, Query, Subject

        field = "spread" if caller.kind == "random" else "together"
        retriever = PermissionedRetriever(self._backend, MetadataACLAuthorizer(groups_field=field))
        subject = Subject(caller.name, groups=[f"p{one}" for one in caller.principals.tolist()])
        self._ask = lambda query: retriever.retrieve(Query(vector=query.tolist()), subject, k=LIMIT).hits

    def search(self, query: Vectors) -> list[int]:
        """See `Peer`."""
        from psycopg import errors

        try:
            return [int(hit.id) for hit in self._ask(query)]
        except errors.QueryCanceled:
            return []  # nothing within ten seconds

    def close(self) -> None:
        """See `Peer`."""
        self._pool.close()
        self._server.cleanup()


class Lance:
    """LanceDB with its quantized HNSW, and a filter on ACL ids before the search; refined by full vectors."""

    def __init__(self, folder: Path, vectors: Vectors, organisation: Organisation) -> None:
        import lancedb
        import pyarrow

        self.build_s = 0.0
        self._where = ""
        fresh = not _done(folder)
        database = lancedb.connect(str(folder / "lance"))
        if not fresh:
            self._table = database.open_table("chunk")
            return
        start = time.perf_counter()
        flat = pyarrow.array(np.asarray(vectors).ravel())
        columns = {
            "id": pyarrow.array(np.arange(len(vectors), dtype=np.int32)),
            "spread": pyarrow.array(organisation.spread.astype(np.int32)),
            "together": pyarrow.array(organisation.together.astype(np.int32)),
            "vector": pyarrow.FixedSizeListArray.from_arrays(flat, DIMENSION),
        }
        self._table = database.create_table("chunk", pyarrow.table(columns), mode="overwrite")
        for name in ("spread", "together"):
            self._table.create_scalar_index(name, index_type="BTREE")
        self._table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_HNSW_SQ")
        self.build_s = time.perf_counter() - start
        _finish(folder)

    def enter(self, caller: Caller) -> None:
        """See `Peer`."""
        name = "spread" if caller.kind == "random" else "together"
        self._where = f"{name} IN ({','.join(map(str, caller.acls.tolist()))})"

    def search(self, query: Vectors) -> list[int]:
        """See `Peer`."""
        asked = self._table.search(query).distance_type("dot").limit(LIMIT).select(["id"])
        found = asked.where(self._where, prefilter=True).refine_factor(5).nprobes(20).to_arrow()
        return [int(row) for row in found["id"].to_pylist()]

    def close(self) -> None:
        """Nothing is held."""


def _done(folder: Path) -> bool:
    """Whether a peer's index is whole; what is not is removed."""
    if (folder / "done").exists():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return False


def _finish(folder: Path) -> None:
    (folder / "done").touch()
