"""face_recognition 1.3.0 on dlib: HOG detector, ResNet-29 encoder, 128 dimensions.

The HTTP is ours, the rest follows face_recognition's README: HOG, its default of one upsampling, tolerance 0.6; the
largest of several faces. face_recognition keeps one detector and one network for the whole process and dlib guards
neither, so a lock admits one request at a time; more cores need more processes. Unfair to dlib: the package
``dlib-bin`` is compiled without BLAS, which a local build would find.
"""

import threading
from typing import Any, BinaryIO

import face_recognition
import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray

from benchmarks.peers.services.serving import application, no_face

TOLERANCE = 0.6
app = application()
dlib_lock = threading.Lock()


def encode(file: BinaryIO) -> NDArray[np.float64]:
    """The encoding of the largest face of a photograph."""
    image = face_recognition.load_image_file(file)
    with dlib_lock:
        boxes = face_recognition.face_locations(image)
        if not boxes:
            raise no_face()
        largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[1] - box[3]))
        encoding: NDArray[np.float64] = face_recognition.face_encodings(image, [largest])[0]
    return encoding


@app.post("/verify", response_model=None)
def verify(first: UploadFile, second: UploadFile) -> dict[str, Any]:
    """Whether two photographs show the same person."""
    distance = float(face_recognition.face_distance([encode(first.file)], encode(second.file))[0])
    return {"matched": distance <= TOLERANCE, "distance": distance, "threshold": TOLERANCE}
