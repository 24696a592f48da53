"""From a caller to everything that it may read: `decide` for all ACLs at once, compiled.

`ReadableIndex` follows a change log, source by source. It proposes; `decide` disposes: whoever shows a passage asks
`decide` about the ACL that is current then. What the two say must be equal, and tests hold them so.
Where the changes come from, and how fresh they are, is not known here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from threading import Lock
from typing import Final

from pyroaring import BitMap, FrozenBitMap

from acl.changes import AclDrop, AclPut, Change, DocumentDrop, DocumentPut, ScopeDrop, ScopePut
from acl.compiled.shard import Shard, View
from acl.errors import CallerExpiredError, InvalidValueError
from acl.model import Acl, AclId, Caller, Unknown, instant
from acl.principal import Realm

__all__ = [
    "AclDrop",
    "AclPut",
    "Change",
    "DocumentDrop",
    "DocumentPut",
    "Readable",
    "ReadableIndex",
    "ScopeDrop",
    "ScopePut",
]

_CALLERS: Final = 256

_Held = frozenset[tuple[Realm, frozenset[str]]]
"""All principals of a caller, by realm; those that are doubtful apart from the others."""


class Readable:
    """What one caller may read, of one state of each source. Bitmaps are frozen.

    Permitted ACLs and the count are there; documents and chunks are computed when asked for, of the same state.

    chunk_count: exactly how many chunks.
    valid_until: from then on it may be wrong, because a rule expires or the caller does.
    """

    __slots__ = ("_parts", "chunk_count", "valid_until")

    def __init__(self, parts: tuple[View, ...], valid_until: datetime) -> None:
        self._parts = parts
        self.chunk_count = sum(view.chunk_count for view in parts)
        self.valid_until = valid_until

    @property
    def acl_ids(self) -> FrozenBitMap:
        """The permitted ACL ids."""
        return _joined([view.acls for view in self._parts])

    @property
    def documents(self) -> FrozenBitMap:
        """The ordinals of the permitted documents."""
        return _joined([view.documents.numbers() for view in self._parts])

    @property
    def chunks(self) -> FrozenBitMap:
        """The rows of the permitted chunks."""
        return _joined([view.rows.numbers() for view in self._parts])


class _Source:
    """A shard with its lock, its epoch, and the answers that it gave since."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.shard: Shard | None = Shard()
        self.epoch = 0
        self.answers: OrderedDict[tuple[_Held, _Held, frozenset[Realm]], View] = OrderedDict()


class ReadableIndex:
    """The compiled index over all sources. Safe for threads: readers see a source before or after a change."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}
        self._writing = Lock()

    def apply(self, source: str, changes: Sequence[Change]) -> None:
        """Bring one source to the state that the changes name. Readers see all of them or none.

        Each change carries the full value of what it names, so the order matters only among changes to one thing, and
        a repeated change does nothing. A scope, an ACL or a document may be named before it is put.
        Raises InvalidValueError, having changed nothing, for an id that another source holds.
        """
        with self._writing:
            self._refuse_foreign(source, changes)
            here = self._sources.get(source) or _Source()
            with here.lock:
                shard, here.shard = here.shard, None
                here.answers.clear()
                here.epoch += 1
                if shard is None:
                    raise InvalidValueError(f"the index of source `{source}` failed before and must be built again")
                # Should a change fail half-way, the source stays without a shard: nobody reads.
                shard.apply(changes)
                here.shard = shard
            self._sources[source] = here

    def _refuse_foreign(self, source: str, changes: Sequence[Change]) -> None:
        others = [s.shard for name, s in self._sources.items() if name != source and s.shard is not None]
        if not others:
            return
        acls = BitMap([change.acl_id for change in changes if isinstance(change, AclPut)])
        documents = BitMap([change.ordinal for change in changes if isinstance(change, DocumentPut)])
        for shard in others:
            if not (shard.acls.isdisjoint(acls) and shard.documents.isdisjoint(documents)):
                raise InvalidValueError(f"source `{source}` names an ACL or a document of another source")

    def drop(self, source: str) -> None:
        """Forget a source and everything in it; a later `apply` begins anew."""
        with self._writing:
            self._sources.pop(source, None)

    def readable(self, caller: Caller, at: datetime, sources: frozenset[str] | None = None) -> Readable:
        """Return what `caller` may read at the moment `at`, in these sources or, without them, in all.

        Raises CallerExpiredError as `decide` does, and InvalidValueError when `at` has no time zone.
        """
        at = instant(at, "the moment of a question")
        if at >= caller.expires_at:
            raise CallerExpiredError(f"the resolution of `{caller.subject}` expired at {caller.expires_at.isoformat()}")
        chosen = [here for name, here in tuple(self._sources.items()) if sources is None or name in sources]
        parts = tuple(view for here in chosen if (view := _answer(here, caller, at)) is not None)
        return Readable(parts, min([caller.expires_at, *(view.until for view in parts)]))

    def acl(self, acl_id: AclId) -> Acl | Unknown:
        """Return an ACL as `decide` wants it; Unknown when it, or anything around it, is not known or understood."""
        for here in tuple(self._sources.values()):
            with here.lock:
                if here.shard is not None and here.shard.knows(acl_id):
                    return here.shard.acl(acl_id)
        return Unknown(f"ACL {acl_id} is not known")

    @property
    def held(self) -> int:
        """How many scopes, ACLs, documents and chunks there are in all sources."""
        return sum(shard.held for shard in self._shards())

    @property
    def unused(self) -> int:
        """How much room is kept beside that: what was dropped keeps its own for as long as the index lives."""
        return sum(shard.unused for shard in self._shards())

    def _shards(self) -> list[Shard]:
        return [here.shard for here in tuple(self._sources.values()) if here.shard is not None]

    def count_on(self, before: ReadableIndex) -> None:
        """Go on with the epochs of an index that was made of the same changes, which this one takes the place of."""
        with self._writing:
            for name, here in self._sources.items():
                here.epoch = max(here.epoch, before.epoch(name))

    def epoch(self, source: str) -> int:
        """How many times `apply` ran for a source; 0 for one that is not known."""
        here = self._sources.get(source)
        return 0 if here is None else here.epoch


def _answer(here: _Source, caller: Caller, at: datetime) -> View | None:
    with here.lock:
        if here.shard is None:
            return None
        # The key is the values themselves: two callers share an answer only when nothing can tell them apart. By realm
        # they compare three times as fast, when a caller was resolved anew.
        missing = here.shard.realms - caller.complete
        key = (frozenset(caller.ids.items()), frozenset(caller.doubtful_ids.items()), missing)
        view = here.answers.get(key)
        if view is None or not view.since <= at < view.until:
            view = here.answers[key] = here.shard.view(caller, missing, at)
            if len(here.answers) > _CALLERS:
                here.answers.popitem(last=False)
        else:
            here.answers.move_to_end(key)
        return view


def _joined(bitmaps: list[FrozenBitMap]) -> FrozenBitMap:
    return bitmaps[0] if len(bitmaps) == 1 else FrozenBitMap().union(*bitmaps)
