"""The role workloads of HoneyBee (arXiv 2505.01538), as its public code describes them, and one-by-one sharing.

Each gives, for every document, the roles or people who may read it, and for some users what they hold.
Tree: 100 roles in a tree of height 4 with 3 to 4 children a node; documents are split evenly over the nodes, and a role
may read its own and those of all its ancestors; one role a user. Random: a role reads a random sample of 4.5 to 9 % of
the documents; 1 to 3 roles a user. ERBAC: 40 functional roles of up to 1/26 of the documents each, 100 business roles
of 1 to 3 of these; 1 to 3 business roles a user. Shared: each document has an owner and 1 to 5 others of 3,000 people.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import numpy as np

from acl.changes import AclPut, Change, DocumentPut
from acl.model import NEVER, AclId, Caller, Clause, Effect, Rule
from acl.principal import Principal, realm
from acl.readable import ReadableIndex
from benchmarks.vectors import SEED, Vectors
from service.index.base import Index

Metrics = dict[str, tuple[float, str, str, int]]
Holdings = list[list[int]]
"""For each user, or each document, the numbers of roles."""

USERS: Final = 20
_ROLES: Final = 100
_PEOPLE: Final = 3_000
_REALM: Final = realm("posix", "bench")
_AT: Final = datetime(2030, 1, 1, tzinfo=UTC)


def tree(documents: int, draw: random.Random) -> tuple[Holdings, Holdings]:
    """Roles in a tree."""
    parents: list[int] = []

    def grow(parent: int, depth: int) -> None:
        for _ in range(draw.randint(3, 4)):
            if len(parents) >= _ROLES or depth > 4:
                return
            parents.append(parent)
            grow(len(parents) - 1, depth + 1)

    while len(parents) < _ROLES:
        grow(-1, 1)
    below: Holdings = [[] for _ in range(_ROLES)]
    for role in range(_ROLES):
        above = role
        while above >= 0:
            below[above].append(role)
            above = parents[above]
    order = draw.sample(range(documents), documents)
    readers: Holdings = [[] for _ in range(documents)]
    for place, document in enumerate(order):
        readers[document] = below[place % _ROLES]
    return readers, [[user % _ROLES] for user in range(USERS)]


def at_random(documents: int, draw: random.Random) -> tuple[Holdings, Holdings]:
    """Roles with random samples."""
    most = 9 * documents // _ROLES
    readers: Holdings = [[] for _ in range(documents)]
    for role in range(_ROLES):
        for document in draw.sample(range(documents), draw.randint(most // 2, most)):
            readers[document].append(role)
    for left in readers:
        if not left:
            left.append(draw.randrange(_ROLES))
    return readers, [draw.sample(range(_ROLES), draw.randint(1, 3)) for _ in range(USERS)]


def erbac(documents: int, draw: random.Random) -> tuple[Holdings, Holdings]:
    """Business roles made of functional ones; only business roles are on the documents."""
    business = [draw.sample(range(40), draw.randint(1, 3)) for _ in range(_ROLES)]
    has: Holdings = [[role for role, parts in enumerate(business) if part in parts] for part in range(40)]
    readers: Holdings = [[] for _ in range(documents)]
    for part in range(40):
        for document in draw.sample(range(documents), draw.randint(1, documents // 26)):
            readers[document] += has[part]
    for document, left in enumerate(readers):
        if not left:
            left += has[document % 40] or [document % _ROLES]
    return readers, [draw.sample(range(_ROLES), draw.randint(1, 3)) for _ in range(USERS)]


def shared(documents: int, draw: random.Random) -> tuple[Holdings, Holdings]:
    """Nearly every document has an ACL of its own."""
    readers = [[int(_PEOPLE * draw.random() ** 2) for _ in range(draw.randint(2, 6))] for _ in range(documents)]
    return readers, [[int(_PEOPLE * (user / USERS) ** 2)] for user in range(USERS)]


WORKLOADS: Final[dict[str, Callable[[int, random.Random], tuple[Holdings, Holdings]]]] = {
    "tree": tree,
    "random_roles": at_random,
    "erbac": erbac,
    "shared_one_by_one": shared,
}


def measure(index: Index, vectors: Vectors, queries: Vectors) -> Metrics:
    """From a caller never seen before to candidates: the permitted rows, then the search; recall against exact mode."""
    found: Metrics = {}
    for name, made in WORKLOADS.items():
        # Shared documents are one chunk each: as many ACLs as chunks. The others have four.
        chunks = 1 if name.startswith("shared") else 4
        documents = len(vectors) // chunks
        readers, users = made(documents, random.Random(SEED))
        rules, acls = _rules(readers, chunks)
        rows_ms, search_ms, recall, shares = [], [], [], []
        for number, held in enumerate(users):
            caller = Caller(f"user-{number}", frozenset(map(_principal, held)), frozenset({_REALM}), _AT, NEVER)
            start = time.perf_counter()
            rows = rules.readable(caller, _AT).chunks
            rows_ms.append((time.perf_counter() - start) * 1e3)
            shares.append(len(rows) / len(vectors))
            query = np.array(queries[number % len(queries)])
            start = time.perf_counter()
            proposal = index.search(query, rows, 20)
            search_ms.append((time.perf_counter() - start) * 1e3)
            exact = {hit.row for hit in index.search(query, rows, 10, exact=True).candidates}
            got = {hit.row for hit in proposal.candidates[:10]}
            recall.append(len(exact & got) / max(1, len(exact)))
        found[f"workload_{name}_acls"] = (acls, "ACLs", "", 1)
        found[f"workload_{name}_share_p50"] = (statistics.median(shares), "", "", len(users))
        found[f"workload_{name}_rows_cold_p50_ms"] = (statistics.median(rows_ms), "ms", "", len(users))
        found[f"workload_{name}_search_p50_ms"] = (statistics.median(search_ms), "ms", "", len(users))
        found[f"workload_{name}_recall_at_10"] = (statistics.mean(recall), "", ">= 0.99", len(users))
    return found


def _rules(readers: Holdings, chunks: int) -> tuple[ReadableIndex, int]:
    ids: dict[frozenset[int], AclId] = {}
    changes: list[Change] = []
    for document, roles in enumerate(readers):
        key = frozenset(roles)
        acl = ids.get(key)
        if acl is None:
            acl = ids[key] = AclId(len(ids) + 1)
            clause = Clause((Rule(Effect.ALLOW, frozenset(map(_principal, key))),))
            changes.append(AclPut(acl, None, clause))
        changes.append(DocumentPut(document, acl, ((document * chunks, (document + 1) * chunks),)))
    rules = ReadableIndex()
    rules.apply("bench", changes)
    return rules, len(ids)


def _principal(role: int) -> Principal:
    return Principal(_REALM, f"gid-{role}")
