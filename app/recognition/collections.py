"""Collections: isolated sets of subjects, optionally with their own targets."""

from __future__ import annotations

from app.gallery import Collection, CollectionNotFound, Gallery, Targets
from app.recognition.criteria import Criteria


class CollectionService:
    """Lists, creates, changes and erases collections. Every method may be called from several threads at once."""

    def __init__(self, gallery: Gallery, criteria: Criteria) -> None:
        self._gallery, self._criteria = gallery, criteria

    def list(self) -> list[Collection]:
        """All collections with their counts, ordered by id."""
        return self._gallery.collections()

    def get(self, collection: str) -> Collection:
        """One collection with its counts. Raises CollectionNotFound."""
        for found in self._gallery.collections():
            if found.id == collection:
                return found
        raise CollectionNotFound(f"There is no collection {collection!r}.")

    def create(self, collection: str, targets: Targets, *, keep_chips: bool = False) -> Collection:
        """Raises CollectionExists, TargetUnsupported, ChipsNeedEncryption."""
        self._criteria.check(targets)
        return self._gallery.create_collection(collection, targets, keep_chips=keep_chips)

    def update(self, collection: str, targets: Targets, *, keep_chips: bool | None = None) -> Collection:
        """Replaces the targets; ``keep_chips`` None leaves that as it is, False erases the chips kept so far.

        Raises CollectionNotFound, TargetUnsupported, ChipsNeedEncryption.
        """
        self._criteria.check(targets)
        return self._gallery.update_collection(collection, targets, keep_chips=keep_chips)

    def delete(self, collection: str, *, force: bool = False) -> int:
        """Erases a collection; returns how many templates it had. Raises CollectionNotFound.

        Raises CollectionNotEmpty if it has subjects, unless ``force``.
        """
        return self._gallery.delete_collection(collection, force=force)
