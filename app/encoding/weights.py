"""The files of an encoder: ``encoder.onnx`` and its description ``encoder.json``, bound by digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from app.embeddings import EMBEDDING_SIZE
from app.encoding.quantisation import QUANTISATION_FILE, Quantisation, read_quantisation
from app.encoding.trained_on import DIGEST_BYTES, TRAINED_ON_FILE
from app.errors import TesseraError

DESCRIPTION_FILE = "encoder.json"
NETWORK_FILE = "encoder.onnx"


class WeightsError(TesseraError):
    """The encoder's files are missing, damaged or do not belong together."""

    code = "encoder_weights_invalid"


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """An encoder whose digest was verified; ``network`` is the ONNX file, ``sha256`` its digest in hex.

    ``trained_on`` is the record of ``app.encoding.trained_on``, ``quantisation`` what it takes to compute in 8-bit
    integers (``app.encoding.quantisation``); both are empty where there is none.
    """

    name: str
    version: str
    sha256: str
    network: bytes
    trained_on: bytes = b""
    quantisation: Quantisation = field(default_factory=dict, repr=False)


def _available(weights: Path) -> str:
    """Lists the encoders that can be chosen instead."""
    names = sorted(path.parent.name for path in weights.glob(f"*/{NETWORK_FILE}"))
    if names:
        return f"set TESSERA_ENCODING__ENCODER to one of the encoders in {weights}: {', '.join(names)}"
    return (
        "point TESSERA_ENCODING__WEIGHTS at a folder that holds, under the name in TESSERA_ENCODING__ENCODER, a folder "
        f"with {NETWORK_FILE} and {DESCRIPTION_FILE}"
    )


def load_weights(directory: Path) -> EncoderWeights:
    """Reads and checks an encoder.

    Raises WeightsError if a file is missing or unreadable, if the network is not the one described, or if its
    embeddings do not have the size that this service stores.
    """
    try:
        description = json.loads((directory / DESCRIPTION_FILE).read_text())
        network = (directory / NETWORK_FILE).read_bytes()
        expected, size = description["sha256"], description["embedding_size"]
        name, version = description["name"], description["version"]
        record = directory / TRAINED_ON_FILE
        trained_on = record.read_bytes() if record.is_file() else b""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"no usable encoder in {directory}: {error}; {_available(directory.parent)}") from error
    digest = hashlib.sha256(network).hexdigest()
    if digest != expected:
        raise WeightsError(
            f"{directory / NETWORK_FILE} has SHA-256 {digest}, but {DESCRIPTION_FILE} names {expected}: "
            "the file is damaged or belongs to another version; restore both from one release"
        )
    if size != EMBEDDING_SIZE:
        raise WeightsError(f"the encoder in {directory} gives {size} numbers a face, this service {EMBEDDING_SIZE}")
    if len(trained_on) % DIGEST_BYTES:
        raise WeightsError(f"{record} is damaged; write it anew with `python -m model.export`")
    return EncoderWeights(
        name=name,
        version=version,
        sha256=digest,
        network=network,
        trained_on=trained_on,
        quantisation=_quantisation_beside(directory, digest),
    )


def _quantisation_beside(directory: Path, digest: str) -> Quantisation:
    path = directory / QUANTISATION_FILE
    try:
        return read_quantisation(path.read_bytes(), digest) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"no usable {path}: {error}; restore it from the encoder's release, or delete it and write it anew with "
            "`python -m model.quantise`"
        ) from error
