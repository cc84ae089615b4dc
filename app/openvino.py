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
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402
from openvino import opset13 as opset  # noqa: E402
from openvino import passes  # noqa: E402

from app.memory import give_back, own_groups  # noqa: E402

# The first tensor that is seen as an array sets up OpenVINO's access to numpy. Two threads that are the first at once
# may wait for each other for ever: one for Python's lock, the other one for that of the set-up.
_ = ov.Tensor(np.zeros(1, np.float32)).data

__all__ = ["CpuNetwork", "Floats", "Processor", "available_cores", "opset", "ov", "passes"]

DEVICE = "CPU"

Floats = npt.NDArray[np.float32]


def available_cores() -> int:
    """How many cores this process may use at once: its affinity, or fewer if a control group limits its CPU time.

    The quota is that of cgroup v2 (``cpu.max``), which limits containers and units of systemd; a fraction of a core
    counts as one.
    """
    cores = len(os.sched_getaffinity(0))
    for group in own_groups():
        try:
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            cores = min(cores, -(-int(quota) // int(period)))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return max(1, cores)


class Processor:
    """What OpenVINO reports about this CPU."""

    def __init__(self) -> None:
        self.core = ov.Core()
        self.name = str(self.core.get_property(DEVICE, "FULL_DEVICE_NAME")).strip()
        self.has_bf16 = "BF16" in self.core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


class CpuNetwork:
    """One compiled network with one request per thread; a caller waits while all requests are busy.

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
        cached_kernels: int | None = None,
    ) -> None:
        """Reads and compiles a network.

        Args:
            processor: this CPU.
            network: an ONNX file.
            precision: ``f32`` or ``bf16``.
            threads: how many requests may run at once.
            prepare: changes the model that was read, before it is compiled.
            cached_kernels: how many kernels, each compiled for one layer and one shape of input, each thread keeps;
                OpenVINO's default of thousands if None, which is too much for inputs of all shapes.

        Raises:
            RuntimeError: OpenVINO cannot read or compile it.
        """
        options: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            # Pinned threads of several processes would all land on the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        if cached_kernels is not None:
            options["CPU_RUNTIME_CACHE_CAPACITY"] = cached_kernels
        self._compiled = processor.core.compile_model(prepare(processor.core.read_model(network)), DEVICE, options)
        self.output_names = [sorted(output.get_names()) for output in self._compiled.outputs]
        self._threads, self._releasing = threads, threading.Lock()
        # The most recently used one is taken first: its memory is still cached.
        self._requests: queue.LifoQueue[ov.InferRequest] = queue.LifoQueue()
        for _ in range(threads):
            self._requests.put(self._compiled.create_infer_request())

    @contextmanager
    def outputs(self, batch: npt.NDArray[np.generic]) -> Iterator[list[Floats]]:
        """The outputs for the network's one input; the arrays are valid until the context is left."""
        request = self._requests.get()
        try:
            # Not copied: the array must stay alive until the network has run.
            held = np.require(batch, requirements=["C", "W"])
            request.set_input_tensor(ov.Tensor(held, shared_memory=True))
            request.infer()
            tensors = [request.get_output_tensor(i) for i in range(len(self.output_names))]
            yield [tensor.data for tensor in tensors]
        finally:
            self._requests.put(request)

    def release_memory(self) -> None:
        """Gives back the working memory, which is otherwise kept at the size of the largest input of every thread.

        Waits for the runs under way and holds further ones up for some ten milliseconds.
        """
        with self._releasing:  # two callers that each held some of the requests would wait for each other
            held = [self._requests.get() for _ in range(self._threads)]
            try:
                self._compiled.release_memory()
            finally:
                for request in held:
                    self._requests.put(request)
        give_back()
