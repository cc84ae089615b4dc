"""Types shared by otherwise independent packages: the pixels of a picture and the shape of an aligned face."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CHIP_SIDE = 112
OUTSIDE_COLOUR = (123, 117, 104)
"""Grey (RGB) that fills chips and detector input beyond the border of the photograph."""

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB; of chips [B, 112, 112, 3]."""
