"""OpenVINO: the one place that imports it, and networks on a CPU as the service runs them.

``import openvino`` reports every import to Google Analytics through the package ``openvino_telemetry``, which it
depends on, and leaves an identifier in the home directory. Where that package cannot be imported, OpenVINO takes a
stub of its own that does nothing (``openvino/tools/ovc/telemetry_stub.py``). This service sends nothing anywhere, so
``openvino`` must be imported here and nowhere else.
"""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402
from openvino import passes  # noqa: E402

__all__ = ["CpuNetwork", "Floats", "Processor", "available_cores", "ov", "passes"]

DEVICE = "CPU"
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")

Floats = npt.NDArray[np.float32]


def available_cores() -> int:
    """How many cores this process may use at once: its affinity, or less where a control group grants less time.

    The quota is that of cgroup v2 (``cpu.max``), which containers are limited by; a part of a core counts as one.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_LIMIT.read_text(encoding="ascii").split()
        granted = -(-int(quota) // int(period))
    except (OSError, ValueError):  # no such control group, or "max": no limit
        return cores
    return max(1, min(cores, granted))


class Processor:
    """What OpenVINO says of this CPU."""

    def __init__(self) -> None:
        self.core = ov.Core()
        self.name = str(self.core.get_property(DEVICE, "FULL_DEVICE_NAME")).strip()
        self.has_bf16 = "BF16" in self.core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


class CpuNetwork:
    """One compiled network and as many requests as it has threads; a caller waits while all of them are busy.

    ``outputs`` may be called from several threads at once. A request runs on one thread: two pictures on two cores are
    done sooner in parallel than one after the other on both.
    """

    def __init__(
        self,
        processor: Processor,
        network: bytes,
        *,
        precision: str,
        threads: int,
        prepare: Callable[[ov.Model], ov.Model] = lambda model: model,
    ) -> None:
        """Reads and compiles a network.

        Args:
            processor: this CPU.
            network: an ONNX file.
            precision: ``f32`` or ``bf16``.
            threads: how many requests may run at once.
            prepare: changes the model that was read, before it is compiled.

        Raises:
            RuntimeError: OpenVINO cannot read or compile it.
        """
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            # Pinned threads of two processes would all land on the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = processor.core.compile_model(prepare(processor.core.read_model(network)), DEVICE, options)
        self.output_names = [sorted(output.get_names()) for output in compiled.outputs]
        # The last one used is taken first: its memory is still in the caches.
        self._requests: queue.LifoQueue[ov.InferRequest] = queue.LifoQueue()
        for _ in range(threads):
            self._requests.put(compiled.create_infer_request())

    @contextmanager
    def outputs(self, batch: npt.NDArray[np.generic]) -> Iterator[list[Floats]]:
        """What the network makes of its one input; the arrays hold until the context is left."""
        request = self._requests.get()
        try:
            # Read where it lies: the array must be held until the network has run.
            held = np.require(batch, requirements=["C", "W"])
            request.set_input_tensor(ov.Tensor(held, shared_memory=True))
            request.infer()
            tensors = [request.get_output_tensor(i) for i in range(len(self.output_names))]
            yield [tensor.data for tensor in tensors]
        finally:
            self._requests.put(request)
