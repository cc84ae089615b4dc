"""What commands write into the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from app.composition import open_security
from app.security.store import SecurityStore, is_begun
from app.security.trail import AuditTrail, Entry, Receipt
from app.settings import Settings


class Recorder:
    """Records what a command does. Callable from any thread."""

    def __init__(self, store: SecurityStore, *, plain_ids: bool) -> None:
        self.store, self._trail = store, AuditTrail(store, plain_ids=plain_ids)

    def name_of(self, collection: str, subject: str) -> str:
        """How a subject is written."""
        return self._trail.name_of(collection, subject)

    def record(
        self,
        action: str,
        outcome: str = "done",
        *,
        collection: str | None = None,
        subject: str | None = None,
        details: dict[str, object] | None = None,
    ) -> Receipt:
        """Writes a record; it is on the disk when this returns. Raises SecurityStoreUnavailable."""
        named = None if subject is None or collection is None else self._trail.name_of(collection, subject)
        entry = Entry("command", action, outcome, collection=collection, subject=named, details=details or {})
        return self._trail.record(entry).result()


@contextmanager
def recorder(settings: Settings) -> Iterator[Recorder]:
    """The audit trail of the data directory, made if it is missing. Raises SecurityStoreUnavailable."""
    with closing(open_security(settings)) as store:
        yield Recorder(store, plain_ids=settings.security.audit_plain_ids)


def require_trail(settings: Settings) -> None:
    """Raises SecurityStoreUnavailable where a command would be done and could not be recorded; nothing is made."""
    if is_begun(settings.gallery.data_dir):
        open_security(settings, create=False).close()


def record(settings: Settings, action: str, outcome: str = "done", **details: object) -> None:
    """Writes into the audit trail what a command did. Raises SecurityStoreUnavailable."""
    with recorder(settings) as trail:
        trail.record(action, outcome, details=details)
