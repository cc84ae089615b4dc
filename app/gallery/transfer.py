"""Galleries as files of lines of JSON, for moving them: a header, a line a collection and a subject, a trailer.

The trailer has the counts and the SHA-256 of all lines before it, so that a file which is damaged or cut off shows.
Embeddings are base64 of 128 little-endian float32.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, cast

import numpy as np
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.embeddings import EMBEDDING_SIZE, Embedding, have_unit_norm
from app.gallery import encryption
from app.gallery.protocol import BackupError

VERSION = 1
LONGEST_LINE = 64 * 1024 * 1024
"""Bytes: a subject with some 80,000 templates."""

Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
Id = Annotated[str, Field(min_length=1, max_length=1024)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeaderLine(_Line):
    """The first line."""

    kind: Literal["tessera-gallery"] = "tessera-gallery"
    version: int = VERSION
    encoder: Id


class CollectionLine(_Line):
    """A collection with its targets; its subjects follow."""

    kind: Literal["collection"] = "collection"
    id: Id
    created_at: Moment
    target_fmr: Annotated[float | None, Field(ge=0, le=1)] = None
    target_fpir: Annotated[float | None, Field(ge=0, le=1)] = None
    claim: Annotated[str | None, Field(max_length=64)] = None


class TemplateItem(_Line):
    """A template of a subject; ``norm`` is that of the embedding before it was scaled to 1."""

    id: Id
    created_at: Moment
    norm: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    embedding: Annotated[str, Field(max_length=1024)]

    def vector(self) -> Embedding:
        """float32 [128] of unit length. Raises BackupError."""
        try:
            vector = np.frombuffer(base64.b64decode(self.embedding, validate=True), dtype="<f4")
        except ValueError as error:
            raise BackupError(f"The embedding of template {self.id!r} is no base64 of float32.") from error
        if vector.shape != (EMBEDDING_SIZE,) or not have_unit_norm(vector[np.newaxis]):
            raise BackupError(f"The embedding of template {self.id!r} is not {EMBEDDING_SIZE} numbers of unit length.")
        return vector.astype(np.float32, copy=False)


class SubjectLine(_Line):
    """A subject with everything that is stored of it; templates are oldest first."""

    kind: Literal["subject"] = "subject"
    collection: Id
    id: Id
    metadata: dict[str, Any]
    created_at: Moment
    updated_at: Moment
    templates: Annotated[tuple[TemplateItem, ...], Field(min_length=1)]


class TrailerLine(_Line):
    """The last line."""

    kind: Literal["end"] = "end"
    collections: int
    subjects: int
    templates: int
    sha256: str


Record = CollectionLine | SubjectLine
_LINES: TypeAdapter[Record | TrailerLine] = TypeAdapter(
    Annotated[CollectionLine | SubjectLine | TrailerLine, Field(discriminator="kind")]
)


class _Running:
    """Counts and digest of the lines so far."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._collections = self._subjects = self._templates = 0

    def add(self, line: bytes, record: Record | HeaderLine) -> None:
        self._digest.update(line)
        if isinstance(record, CollectionLine):
            self._collections += 1
        elif isinstance(record, SubjectLine):
            self._subjects += 1
            self._templates += len(record.templates)

    def trailer(self) -> TrailerLine:
        return TrailerLine(
            collections=self._collections,
            subjects=self._subjects,
            templates=self._templates,
            sha256=self._digest.hexdigest(),
        )


def write_export(file: BinaryIO, encoder: str, records: Iterable[Record]) -> TrailerLine:
    """Writes a gallery of this encoder; returns the trailer. Raises BackupError for a subject that is too large."""
    running = _Running()
    for record in chain([HeaderLine(encoder=encoder)], records):
        line = record.model_dump_json().encode() + b"\n"
        if len(line) > LONGEST_LINE:
            raise BackupError(f"A line of more than {LONGEST_LINE} bytes is needed: a subject has too many templates.")
        file.write(line)
        running.add(line, record)
    trailer = running.trailer()
    file.write(trailer.model_dump_json().encode() + b"\n")
    return trailer


def read_export(file: BinaryIO, encoder: str) -> Iterator[Record]:
    """The records of an export; use none of them before the last has come: only then is the file known to be whole.

    Raises BackupError if it is damaged, cut off, of another version or of another encoder.
    """
    running = _Running()
    line = _line(file)
    header = _header(line)
    if header.encoder != encoder:
        raise BackupError(
            f"The export is of encoder {header.encoder[:19]}, this service runs {encoder[:19]}, and embeddings of two "
            "encoders cannot be compared. Import it where that encoder is served."
        )
    running.add(line, header)
    while True:
        line = _line(file)
        try:
            record = _LINES.validate_json(line)
        except ValidationError as error:
            what = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise BackupError(f"The export is damaged or cut off: a line is not valid ({what}).") from error
        if isinstance(record, TrailerLine):
            break
        running.add(line, record)
        yield record
    if record != running.trailer() or file.read(1):
        raise BackupError("The export is damaged: its checksum or its counts do not fit its lines.")


def _header(line: bytes) -> HeaderLine:
    try:
        header = HeaderLine.model_validate_json(line)
    except ValidationError as error:
        raise BackupError("The file is no export of a gallery; `tessera gallery export` makes one.") from error
    if header.version != VERSION:
        raise BackupError(f"The export has version {header.version}, this release reads version {VERSION}.")
    return header


def _line(file: BinaryIO) -> bytes:
    try:
        line = file.readline(LONGEST_LINE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BackupError(f"The export is damaged or cut off: {error}.") from error
    if not line.endswith(b"\n"):
        raise BackupError("The export is cut off, or a line of it is too long.")
    return line


@contextmanager
def export_writer(path: Path, passphrase: bytes | None, *, compressed: bool) -> Iterator[BinaryIO]:
    """A stream into an existing file, compressed and encrypted as asked; complete when the context is left well."""
    with path.open("wb") as raw:
        encrypted = None if passphrase is None else encryption.EncryptingWriter(raw, passphrase)
        out = raw if encrypted is None else cast(BinaryIO, encrypted)
        if compressed:
            with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=out, mtime=0) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield out
        if encrypted is not None:
            encrypted.finish()


@contextmanager
def export_reader(path: Path, passphrase: bytes | None) -> Iterator[BinaryIO]:
    """A stream of the lines of an export, however it is packed. Raises BackupError."""
    with ExitStack() as opened:
        try:
            file = opened.enter_context(path.open("rb"))
        except OSError as error:
            raise BackupError(f"{path} cannot be read: {error.strerror}.") from error
        encrypted = file.peek(len(encryption.MAGIC)).startswith(encryption.MAGIC)
        if encrypted and passphrase is None:
            raise BackupError(f"{path} is encrypted; give --passphrase-file.")
        if passphrase is not None:
            file = io.BufferedReader(encryption.DecryptingReader(file, passphrase))
        if file.peek(2).startswith(b"\x1f\x8b"):
            file = io.BufferedReader(opened.enter_context(gzip.GzipFile(fileobj=file, mode="rb")))
        yield file
