"""OpenVINO without its telemetry.

``import openvino`` reports every import to Google Analytics through the package ``openvino_telemetry``, which it
depends on, and leaves an identifier in the home directory. Where that package cannot be imported, OpenVINO takes a
stub of its own that does nothing (``openvino/tools/ovc/telemetry_stub.py``). This service sends nothing anywhere, so
``openvino`` must be imported here and nowhere else.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402
from openvino import passes  # noqa: E402

__all__ = ["ov", "passes"]
