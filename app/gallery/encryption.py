"""Files encrypted under a passphrase: AES-256-GCM in chunks, so that they can be streamed and no cut goes unnoticed.

The key is derived with scrypt. The nonce of a chunk is a random prefix, the chunk's number and a flag that only the
last chunk has: chunks that were changed, moved or cut off do not decrypt (the STREAM construction; Hoang,
Reyhanitabar, Rogaway and Vizár, CRYPTO 2015).
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from app.gallery.protocol import BackupError

MAGIC = b"TESSERA-AESGCM-1"
SHORTEST_PASSPHRASE = 8
LONGEST_PASSPHRASE = 4096
_SALT, _PREFIX, _TAG = 16, 7, 16
_HEADER = len(MAGIC) + _SALT + _PREFIX
_CHUNK = 64 * 1024


def read_passphrase(path: Path) -> bytes:
    """The content of a file without the line break at its end. Raises BackupError."""
    try:
        with path.open("rb") as file:
            passphrase = file.read(LONGEST_PASSPHRASE + 2).rstrip(b"\r\n")
    except OSError as error:
        raise BackupError(f"The passphrase file {path} cannot be read: {error.strerror}.") from error
    if not SHORTEST_PASSPHRASE <= len(passphrase) <= LONGEST_PASSPHRASE:
        raise BackupError(
            f"The passphrase in {path} has {len(passphrase)} bytes; between {SHORTEST_PASSPHRASE} and "
            f"{LONGEST_PASSPHRASE} are taken."
        )
    return passphrase


class _Cipher:
    def __init__(self, passphrase: bytes, header: bytes) -> None:
        salt, self._prefix = header[len(MAGIC) : len(MAGIC) + _SALT], header[-_PREFIX:]
        self._header, self._number = header, 0
        self._gcm = AESGCM(Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(passphrase))

    def _nonce(self, *, last: bool) -> bytes:
        nonce = self._prefix + self._number.to_bytes(4, "big") + bytes([last])
        self._number += 1
        return nonce

    def encrypt(self, chunk: bytes, *, last: bool) -> bytes:
        return self._gcm.encrypt(self._nonce(last=last), chunk, self._header)

    def decrypt(self, chunk: bytes, *, last: bool) -> bytes:
        return self._gcm.decrypt(self._nonce(last=last), chunk, self._header)


class EncryptingWriter(io.RawIOBase):
    """Encrypts what is written to it into ``file``; only ``finish`` makes it complete. Does not close ``file``."""

    def __init__(self, file: BinaryIO, passphrase: bytes) -> None:
        header = MAGIC + os.urandom(_SALT + _PREFIX)
        self._file, self._cipher, self._buffer = file, _Cipher(passphrase, header), bytearray()
        file.write(header)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._buffer += data
        # The last chunk is known only at the end, so one is always kept back.
        while len(self._buffer) > _CHUNK:
            self._file.write(self._cipher.encrypt(bytes(self._buffer[:_CHUNK]), last=False))
            del self._buffer[:_CHUNK]
        return len(data)

    def finish(self) -> None:
        """Writes the last chunk."""
        self._file.write(self._cipher.encrypt(bytes(self._buffer), last=True))


class DecryptingReader(io.RawIOBase):
    """Decrypts what an ``EncryptingWriter`` wrote. Raises BackupError where the file or the passphrase is not right."""

    def __init__(self, file: BinaryIO, passphrase: bytes) -> None:
        header = file.read(_HEADER)
        if len(header) != _HEADER or not header.startswith(MAGIC):
            raise BackupError("The file is not encrypted, or it is cut off at its beginning.")
        self._file, self._cipher = file, _Cipher(passphrase, header)
        self._next, self._ready, self._first = file.read(_CHUNK + _TAG), b"", True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        while not self._ready and (self._next or self._first):
            self._ready = self._decrypted()
        part = self._ready[: len(buffer)]
        buffer[: len(part)] = part
        self._ready = self._ready[len(part) :]
        return len(part)

    def _decrypted(self) -> bytes:
        chunk, self._next = self._next, self._file.read(_CHUNK + _TAG)
        try:
            plain = self._cipher.decrypt(chunk, last=not self._next)
        except InvalidTag as error:
            first = "The passphrase is not the one of this file, or the file is damaged or cut off."
            raise BackupError(first if self._first else "The file is damaged or cut off.") from error
        self._first = False
        return plain
