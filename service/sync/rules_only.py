"""What stands in place of `service.sync.texts` in a pass for permissions: no content is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.stores.catalog import Catalog, Opening
from service.stores.checkpoints import StoredCheckpoint
from service.sync.channel import BrokenOffError
from service.sync.walk import Todo


class RulesOnly:
    """The pipeline of a pass that reads no content."""

    def __init__(self, catalog: Catalog, opening: Opening) -> None:
        self._catalog = catalog
        self._run = opening.run
        self._fence = opening.fence
        self._broken = False

    def put(self, what: Todo | StoredCheckpoint) -> None:
        """Store a checkpoint; the walk hands over no documents in this pass."""
        if isinstance(what, StoredCheckpoint):
            with self._catalog.writer(self._run.source, self._fence) as writer:
                writer.checkpoints.put(self._run.sync_pass, what)

    def tasks(self) -> Sequence[Callable[[], None]]:
        """Nothing is left to do for another thread."""
        return ()

    def close(self) -> None:
        """Say that the walk is over."""

    def check(self) -> None:
        """Raise BrokenOffError once the run was told to stop."""
        if self._broken:
            raise BrokenOffError

    def break_off(self) -> None:
        """Stop the walk before its next change."""
        self._broken = True
