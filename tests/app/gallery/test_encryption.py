from __future__ import annotations

import io
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from app.gallery import BackupError
from app.gallery.encryption import DecryptingReader, EncryptingWriter, read_passphrase

PASSPHRASE = b"a passphrase for tests"
CHUNK, TAG, HEADER = 65536, 16, 39


def encrypted(content: bytes) -> bytes:
    file = io.BytesIO()
    writer = EncryptingWriter(file, PASSPHRASE)
    for start in range(0, len(content), 10_000):
        writer.write(content[start : start + 10_000])
    writer.finish()
    return file.getvalue()


def decrypted(content: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    return io.BufferedReader(DecryptingReader(io.BytesIO(content), passphrase)).read()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_was_encrypted_is_decrypted(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert decrypted(encrypted(content)) == content
    assert encrypted(content) != encrypted(content)


def test_the_format_is_what_it_is_said_to_be() -> None:
    content = encrypted(b"hello")
    header, chunk = content[:HEADER], content[HEADER:]
    key = Scrypt(salt=header[16:32], length=32, n=2**17, r=8, p=1).derive(PASSPHRASE)
    assert AESGCM(key).decrypt(header[32:39] + bytes(4) + b"\x01", chunk, header) == b"hello"


@pytest.mark.parametrize("place", [0, 16, 32, HEADER, HEADER + CHUNK + TAG, -1])
def test_a_flipped_bit_is_noticed(place: int) -> None:
    content = bytearray(encrypted(bytes(2 * CHUNK)))
    content[place] ^= 1
    with pytest.raises(BackupError):
        decrypted(bytes(content))


def test_chunks_that_are_cut_off_moved_or_repeated_are_noticed() -> None:
    content = encrypted(bytes(3 * CHUNK))
    size = CHUNK + TAG
    header, one, two, three = (
        content[:HEADER],
        *(content[HEADER + i * size : HEADER + (i + 1) * size] for i in range(3)),
    )
    assert decrypted(header + one + two + three) == bytes(3 * CHUNK)
    for chunks in (
        (one, two),
        (one,),
        (),
        (one, three),
        (two, one, three),
        (one, two, two, three),
        (one, two, three, three),
        (one, two, three[:-1]),
    ):
        with pytest.raises(BackupError, match=r"cut off|damaged"):
            decrypted(header + b"".join(chunks))
    for cut in (0, 10, HEADER - 1):
        with pytest.raises(BackupError, match="not encrypted"):
            decrypted(content[:cut])


def test_another_passphrase_does_not_decrypt() -> None:
    with pytest.raises(BackupError, match="passphrase is not the one"):
        decrypted(encrypted(b"hello"), b"another passphrase")


def test_a_passphrase_is_the_content_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(PASSPHRASE + b"\r\n")
    assert read_passphrase(file) == PASSPHRASE
    for content in (b"", b"\n", b"short\n", b"x" * 5000):
        file.write_bytes(content)
        with pytest.raises(BackupError, match="bytes"):
            read_passphrase(file)
    with pytest.raises(BackupError, match="cannot be read"):
        read_passphrase(tmp_path / "none")
