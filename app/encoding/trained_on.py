"""Which photographs an encoder was trained on: digests beside its weights, so that nobody calibrates on them unawares.

A digest is the first eight bytes of the SHA-256 of an aligned face. It shows nothing of the photograph; who has the
photograph can tell whether it was used.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from app.types import Pixels

TRAINED_ON_FILE = "trained-on.bin"
DIGEST_BYTES = 8

_Digests = npt.NDArray[np.uint64]


def _digests_of(chips: Pixels) -> bytes:
    return b"".join(hashlib.sha256(chip.tobytes()).digest()[:DIGEST_BYTES] for chip in chips)


def _numbers(record: bytes) -> _Digests:
    return np.frombuffer(record, dtype="<u8")


def record_of(chips: Pixels, earlier: bytes = b"") -> bytes:
    """The record of uint8 [N, 112, 112, 3] aligned faces, joined with an earlier record: sorted, each digest once."""
    return np.unique(_numbers(earlier + _digests_of(chips))).tobytes()


def were_trained_on(chips: Pixels, record: bytes) -> npt.NDArray[np.bool_]:
    """Which of uint8 [N, 112, 112, 3] aligned faces a record holds, bool [N]."""
    return np.isin(_numbers(_digests_of(chips)), _numbers(record))
