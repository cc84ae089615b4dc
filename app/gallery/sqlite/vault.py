"""Encryption of templates at rest: a data key for every template, in a database of its own.

A data key is wrapped by a root key, and the root key by a master key that lies elsewhere. Erasing a template destroys
its data key, and with it what backups of the gallery still hold of the template: so the database of keys does not
belong into those backups. Searches work on decrypted vectors in memory.

All encryption is AES-256-GCM from the ``cryptography`` package, with random nonces of 96 bits: one for each key and
template, far below the 2**32 uses of one key that NIST SP 800-38D allows (section 8.3).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from threading import Lock, local
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.gallery.protocol import EncryptionKeyMissing, GalleryUnavailable

VAULT_NAME = "template-keys.sqlite3"
WITHOUT_LOG = f"and remove {VAULT_NAME}-wal and {VAULT_NAME}-shm, which belong to the file of before"
VAULT_FILES = (VAULT_NAME, f"{VAULT_NAME}-wal", f"{VAULT_NAME}-shm")
_ID, _NONCE, _TAG, _KEY = 16, 12, 16, 32
_WAIT_S = 2.0
# While a service waits for others to leave the log, its searches wait, too.
_LOG_WAIT_S = 0.25
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS roots (
    key        INTEGER PRIMARY KEY AUTOINCREMENT,
    master_key TEXT NOT NULL,
    wrapped    BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS keys (
    id      BLOB PRIMARY KEY,
    root    INTEGER NOT NULL REFERENCES roots (key),
    wrapped BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (keys INTEGER NOT NULL);
INSERT INTO totals SELECT counted FROM (SELECT COUNT(*) AS counted FROM keys) WHERE NOT EXISTS (SELECT 1 FROM totals);
CREATE TRIGGER IF NOT EXISTS key_added AFTER INSERT ON keys BEGIN UPDATE totals SET keys = keys + 1; END;
CREATE TRIGGER IF NOT EXISTS key_removed AFTER DELETE ON keys BEGIN UPDATE totals SET keys = keys - 1; END;
COMMIT;
"""


class KeyWrapper(Protocol):
    """Wraps a root key: a master key in a file, or a key management service.

    ``key_id`` names the master key that ``wrap`` uses. ``unwrap`` raises KeyError for a master key it does not have,
    ValueError for what it did not wrap.
    """

    @property
    def key_id(self) -> str: ...

    def wrap(self, key: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes: ...


class FileKeyWrapper:
    """Master keys in a file: 64 hexadecimal digits a line, the first one in use, the others until it is rotated.

    The file is read anew every time, so that a rotation needs no restart.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys()

    @property
    def key_id(self) -> str:
        """A digest of the first key."""
        return next(iter(self._keys()))

    def wrap(self, key: bytes) -> bytes:
        """Encrypts a root key."""
        return _encrypt(next(iter(self._keys().values())), key, b"root")

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Decrypts a root key. Raises KeyError, ValueError."""
        return _decrypt(self._keys()[key_id], wrapped, b"root")

    def _keys(self) -> dict[str, bytes]:
        try:
            lines = [line.strip() for line in self._path.read_text(encoding="ascii").splitlines() if line.strip()]
            keys = [bytes.fromhex(line) for line in lines]
        except (OSError, ValueError) as error:
            raise EncryptionKeyMissing(f"The master key file {self._path} cannot be read: {error}.") from error
        if not keys or any(len(key) != _KEY for key in keys):
            raise EncryptionKeyMissing(
                f"The master key file {self._path} needs lines of {2 * _KEY} hexadecimal digits, such as from "
                "`openssl rand -hex 32`."
            )
        return {hashlib.sha256(b"master key" + key).hexdigest()[:16]: key for key in keys}


def load_wrapper(name: str) -> KeyWrapper:
    """What ``package.module:function`` returns. Raises EncryptionKeyMissing if it cannot be loaded."""
    module, _, function = name.partition(":")
    try:
        wrapper: KeyWrapper = getattr(import_module(module), function)()
        wrapper.key_id  # noqa: B018
    except Exception as error:
        raise EncryptionKeyMissing(f"The key wrapper {name} cannot be used: {error!r}.") from error
    return wrapper


class Vault:
    """The data keys of templates. Callable from any thread, and from several processes.

    Raises EncryptionKeyMissing if its root key cannot be unwrapped, GalleryUnavailable if its database fails.
    """

    def __init__(self, directory: Path, wrapper: KeyWrapper) -> None:
        self._path, self._wrapper, self._lock = directory / VAULT_NAME, wrapper, Lock()
        self._roots: dict[int, AESGCM] = {}
        self._refused = local()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
            )
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._require_sound(self._connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            self._connection.executescript(_SCHEMA)
            # The log of another file has the total of that one, and only some of its pages.
            held, total = self._connection.execute("SELECT (SELECT COUNT(*) FROM keys), keys FROM totals").fetchone()
            self._require_sound("ok" if held == total else f"it holds {held} of {total} keys")
            with self._writing():
                root = self._newest_root()
                self._root_key(self._new_root() if root is None else root)
        except (OSError, sqlite3.OperationalError) as error:
            raise GalleryUnavailable(
                f"The database of template keys {self._path} cannot be opened: {error}."
            ) from error
        except sqlite3.Error as error:
            self._require_sound(str(error))

    def _require_sound(self, report: str) -> None:
        if report != "ok":
            raise GalleryUnavailable(
                f"The database of template keys {self._path} is damaged: {report.splitlines()[-1]}. Put a copy of it "
                f"back, {WITHOUT_LOG}."
            )

    def seal(self, embeddings: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
        """Encrypts embeddings by template id, each under a new key that is on the disk when this returns.

        Returns for each the encrypted embedding, as long as it was, and the seal that opens it.
        """
        keys = [(template, os.urandom(_ID), os.urandom(_KEY)) for template in embeddings]
        with self._lock, _answering(), self._writing():
            # Inside the transaction: a rotation may have replaced the root key a moment ago.
            newest = self._newest_root()
            assert newest is not None
            root = self._root_key(newest)
            self._connection.executemany(
                "INSERT INTO keys (id, root, wrapped) VALUES (?, ?, ?)",
                [(id_, newest, _with(root, key, id_)) for _, id_, key in keys],
            )
        return [_sealed(id_, key, embeddings[template], template) for template, id_, key in keys]

    def seal_again(self, embedding: bytes, seal: bytes, template: str) -> tuple[bytes, bytes]:
        """Encrypts another embedding of a template under the key that the template has, by its seal; as ``seal`` does.

        Raises GalleryUnavailable if the key is gone.
        """
        with self._lock, _answering():
            key = self._data_key(seal[:_ID])
        if key is None:
            raise GalleryUnavailable(f"The key of template {template!r} is gone.")
        return _sealed(seal[:_ID], key, embedding, template)

    def open(self, embedding: object, seal: object, template: object) -> bytes | None:
        """The embedding of a template; None if its key is gone, or if it was not sealed for this template."""
        try:
            assert isinstance(embedding, bytes)
            assert isinstance(seal, bytes)
            assert isinstance(template, str)
            with self._lock:
                id_, nonce, tag = seal[:_ID], seal[_ID : _ID + _NONCE], seal[_ID + _NONCE :]
                key = self._data_key(id_)
            return None if key is None else AESGCM(key).decrypt(nonce, embedding + tag, template.encode())
        except (AssertionError, TypeError, ValueError, KeyError, InvalidTag, sqlite3.Error):
            return None

    def open_in_sql(self, embedding: object, seal: object, template: object) -> bytes | None:
        """``open``, for SQL: SQLite says only that a function failed, ``refusal`` says why."""
        try:
            return self.open(embedding, seal, template)
        except EncryptionKeyMissing as error:
            self._refused.reason = error
            raise

    def refusal(self) -> EncryptionKeyMissing | None:
        """Why ``open_in_sql`` failed in SQL of this thread; None if it did not since this was asked last."""
        reason: EncryptionKeyMissing | None = getattr(self._refused, "reason", None)
        self._refused.reason = None
        return reason

    def check(self) -> None:
        """Raises EncryptionKeyMissing if it cannot open what is sealed now, as after a rotation it was not told of.

        Raises GalleryUnavailable, too.
        """
        with self._lock, _answering():
            newest = self._newest_root()
            assert newest is not None
            self._root_key(newest)

    def empty_log(self) -> bool:
        """Moves its log into its one file, so that a copy of that file is whole; False if others need the log still.

        Raises GalleryUnavailable.
        """
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        # A connection of its own, so that nobody who needs a key waits for the disk meanwhile.
        with _answering(), closing(sqlite3.connect(uri, uri=True, timeout=_LOG_WAIT_S, isolation_level=None)) as other:
            # Only a connection that has read knows of the log.
            other.execute("SELECT MAX(key) FROM roots").fetchone()
            busy: int = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    def forget(self, seals: Iterable[bytes]) -> None:
        """Destroys the keys of erased templates, by their seals.

        Raises GalleryUnavailable; call it again then, also for keys that only the log holds still.
        """
        with self._lock, _answering():
            with self._writing():
                self._connection.executemany("DELETE FROM keys WHERE id = ?", [(seal[:_ID],) for seal in seals])
            self._require_empty_log(_LOG_WAIT_S)

    def forget_others(self, seals: Iterable[bytes]) -> int:
        """Destroys all keys but those of these seals; returns how many. Raises GalleryUnavailable."""
        held = {seal[:_ID] for seal in seals}
        with self._lock, _answering():
            with self._writing():
                others = [id_ for id_ in self._connection.execute("SELECT id FROM keys") if id_[0] not in held]
                self._connection.executemany("DELETE FROM keys WHERE id = ?", others)
            self._require_empty_log(_WAIT_S)
        return len(others)

    @property
    def is_empty(self) -> bool:
        """Whether there is no key at all."""
        with self._lock, _answering():
            return self._connection.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is None

    def lost(self, seals: Iterable[bytes]) -> list[bytes]:
        """Those of the seals whose keys were destroyed. Raises GalleryUnavailable."""
        query = "SELECT 1 FROM keys WHERE id = ?"
        with self._lock, _answering():
            return [s for s in seals if self._connection.execute(query, (s[:_ID],)).fetchone() is None]

    def rotate(self) -> int:
        """Wraps all data keys by a new root key under the current master key; returns how many. Services may run.

        The log still holds them as they were: ``require_empty_log``.
        """
        with self._lock, _answering():
            with self._writing():
                new = self._new_root()
                root = self._root_key(new)
                rows = self._connection.execute("SELECT id, root, wrapped FROM keys").fetchall()
                renewed = [
                    (new, _with(root, _without(self._root_key(of), wrapped, id_), id_), id_)
                    for id_, of, wrapped in rows
                ]
                self._connection.executemany("UPDATE keys SET root = ?, wrapped = ? WHERE id = ?", renewed)
                self._connection.execute("DELETE FROM roots WHERE key <> ?", (new,))
            self._roots = {new: root}
        return len(renewed)

    def require_empty_log(self) -> None:
        """Moves its log, which may hold keys from before, into its one file.

        Raises GalleryUnavailable if others need it.
        """
        with self._lock, _answering():
            self._require_empty_log(_WAIT_S)

    def copy(self, target: Path) -> int:
        """Copies all keys as they are at one moment, wrapped, into an empty file; returns how many.

        Raises GalleryUnavailable, also if the copy is not sound.
        """
        with self._lock, _answering(), closing(sqlite3.connect(target, isolation_level=None)) as copy:
            self._connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            report = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if report != "ok":
                raise GalleryUnavailable(f"The database of template keys {self._path} is damaged: {report}.")
            return int(copy.execute("SELECT COUNT(*) FROM keys").fetchone()[0])

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._connection.close()

    def _require_empty_log(self, wait: float) -> None:
        """Raises GalleryUnavailable if the log may still hold the pages from before."""
        if not self._emptied_log(wait):
            raise GalleryUnavailable(
                f"The log of {self._path} still holds keys from before, because another process reads it. End that "
                "process and try again."
            )

    def _emptied_log(self, wait: float) -> bool:
        """Whether it could be done in so many seconds."""
        self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * wait)}")
        try:
            busy: int = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * _WAIT_S)}")
        return not busy

    def _data_key(self, id_: bytes) -> bytes | None:
        """The key with this id; None if it is gone."""
        row = self._connection.execute("SELECT root, wrapped FROM keys WHERE id = ?", (id_,)).fetchone()
        return None if row is None else _without(self._root_key(row[0]), row[1], id_)

    def _newest_root(self) -> int | None:
        newest: int | None = self._connection.execute("SELECT MAX(key) FROM roots").fetchone()[0]
        return newest

    def _new_root(self) -> int:
        key = os.urandom(_KEY)
        cursor = self._connection.execute(
            "INSERT INTO roots (master_key, wrapped) VALUES (?, ?) RETURNING key",
            (self._wrapper.key_id, self._wrapper.wrap(key)),
        )
        return int(cursor.fetchone()[0])

    def _root_key(self, root: int) -> AESGCM:
        """A root key by its number, unwrapped once. Another process may have made it in a rotation."""
        if root not in self._roots:
            master_key, wrapped = self._connection.execute(
                "SELECT master_key, wrapped FROM roots WHERE key = ?", (root,)
            ).fetchone()
            try:
                self._roots[root] = AESGCM(self._wrapper.unwrap(wrapped, master_key))
            except (KeyError, ValueError, InvalidTag) as error:
                raise EncryptionKeyMissing(
                    f"The template keys in {self._path} are wrapped by master key {master_key}, which is not the one "
                    "given. Put it back, and restart a service that reads a copy of the file; without it the templates "
                    "cannot be read."
                ) from error
        return self._roots[root]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise


def install(connection: sqlite3.Connection, vault: Vault | None) -> None:
    """Makes ``opened(embedding, seal, id)`` a function of this connection's SQL: NULL for what cannot be opened."""
    connection.create_function("opened", 3, vault.open_in_sql if vault is not None else lambda *_: None)


def require_vault(connection: sqlite3.Connection, vault: Vault | None) -> None:
    """Raises EncryptionKeyMissing if there are encrypted templates and no keys at all."""
    if connection.execute("SELECT 1 FROM templates WHERE seal IS NOT NULL LIMIT 1").fetchone() is None:
        return
    if vault is None:
        raise EncryptionKeyMissing(
            "The stored templates are encrypted. Name the master key in TESSERA_GALLERY__MASTER_KEY_FILE, and put "
            f"{VAULT_NAME} back if it is missing beside them."
        )
    if vault.is_empty:
        raise EncryptionKeyMissing(
            f"The stored templates are encrypted, and {VAULT_NAME} beside them holds no keys. Put a copy of it back, "
            f"{WITHOUT_LOG}."
        )


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise GalleryUnavailable(f"The database of template keys does not answer: {error}.") from error


def _sealed(id_: bytes, key: bytes, embedding: bytes, template: str) -> tuple[bytes, bytes]:
    nonce = os.urandom(_NONCE)
    encrypted = AESGCM(key).encrypt(nonce, embedding, template.encode())
    return encrypted[:-_TAG], id_ + nonce + encrypted[-_TAG:]


def _with(cipher: AESGCM, plain: bytes, purpose: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + cipher.encrypt(nonce, plain, purpose)


def _without(cipher: AESGCM, wrapped: bytes, purpose: bytes) -> bytes:
    return cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], purpose)


def _encrypt(key: bytes, plain: bytes, purpose: bytes) -> bytes:
    return _with(AESGCM(key), plain, purpose)


def _decrypt(key: bytes, wrapped: bytes, purpose: bytes) -> bytes:
    return _without(AESGCM(key), wrapped, purpose)
