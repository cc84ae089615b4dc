"""facenet-pytorch without torchvision: stubs of the two functions it imports, then its own two networks.

torchvision's build must match torch's release; ``batched_nms`` is OpenCV's NMS in C++ with torchvision's trick of
shifted coordinates.
"""

import sys
import types
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray


def to_tensor(picture: NDArray[np.float32]) -> torch.Tensor:
    """Like torchvision's for a float H x W x C array: no scaling."""
    return torch.from_numpy(picture.transpose(2, 0, 1)).contiguous()


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of the boxes (x1, y1, x2, y2) kept, best first; boxes of different idxs never suppress each other."""
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    shifted = (boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]).double().numpy()
    shifted[:, 2:] -= shifted[:, :2]
    kept = cv2.dnn.NMSBoxes(shifted.tolist(), scores.tolist(), 0.0, iou_threshold)
    return torch.as_tensor(np.asarray(kept), dtype=torch.int64)


def _module(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    return module


functional = _module("torchvision.transforms.functional", to_tensor=to_tensor)
transforms = _module("torchvision.transforms", functional=functional)
ops_boxes = _module("torchvision.ops.boxes", batched_nms=batched_nms)
ops = _module("torchvision.ops", boxes=ops_boxes)
_module("torchvision", transforms=transforms, ops=ops)

from facenet_pytorch import MTCNN, InceptionResnetV1  # noqa: E402

__all__ = ["MTCNN", "InceptionResnetV1"]
