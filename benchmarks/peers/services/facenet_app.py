"""facenet-pytorch 2.6.0: MTCNN and InceptionResnetV1, run by PyTorch. For speed only: the encoder's weights are random.

The HTTP is ours, the rest follows the package's README: MTCNN with its own weights, which are in the wheel, and its
defaults, the face cropped to 160x160, the encoder in eval mode. The encoder's own weights are a separate download;
random ones of the same size are read from a file instead.
"""

from typing import Any, BinaryIO

import torch
from fastapi import UploadFile
from PIL import Image

from benchmarks.peers.services.serving import INCEPTION, INNER_THREADS, MODELS, application, no_face
from benchmarks.peers.services.torchvision_stub import MTCNN, InceptionResnetV1

SIDE = 160
THRESHOLD = 1.1  # of the distance, on the unit sphere

torch.set_num_threads(INNER_THREADS)
app = application()
detector = MTCNN(image_size=SIDE)
encoder = InceptionResnetV1(pretrained=None)
encoder.load_state_dict(torch.load(MODELS / INCEPTION))
encoder.eval()


def face(file: BinaryIO) -> torch.Tensor:
    """The largest face of a photograph, 3 x 160 x 160."""
    crop: torch.Tensor | None = detector(Image.open(file).convert("RGB"))
    if crop is None:
        raise no_face()
    return crop


@app.post("/verify", response_model=None)
def verify(first: UploadFile, second: UploadFile) -> dict[str, Any]:
    """The distance of two photographs; both faces go through the encoder in one batch."""
    with torch.inference_mode():
        vectors = encoder(torch.stack([face(first.file), face(second.file)]))
    distance = float((vectors[0] - vectors[1]).norm())
    return {"matched": distance <= THRESHOLD, "distance": distance, "threshold": THRESHOLD}
