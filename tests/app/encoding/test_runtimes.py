from __future__ import annotations

import platform
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from app.embeddings import EMBEDDING_SIZE
from app.encoding import (
    EncoderRuntime,
    EncoderWeights,
    Precision,
    RuntimeName,
    WeightsError,
    create_runtime,
    load_weights,
)
from app.encoding.openvino_runtime import FASTER_IN_INTEGERS, choose_precision
from app.faces import FaceFinder, FacePolicy
from app.openvino import Processor
from app.settings import EncodingSettings
from app.types import CHIP_SIDE, Pixels
from tests.app.photographs import collins, hopper, variants

pytestmark = pytest.mark.slow

HAS_BF16 = Processor().has_bf16
ALL = [
    (RuntimeName.OPENVINO, Precision.F32),
    (RuntimeName.OPENVINO, Precision.INT8),
    pytest.param(
        RuntimeName.OPENVINO,
        Precision.BF16,
        marks=pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16 instructions"),
    ),
    (RuntimeName.ONNXRUNTIME, Precision.F32),
]
Embeddings = npt.NDArray[np.float32]


@cache
def runtime(name: RuntimeName, precision: Precision) -> EncoderRuntime:
    if name is RuntimeName.ONNXRUNTIME:
        pytest.importorskip("onnxruntime")
    return create_runtime(load_weights(EncodingSettings().directory), runtime=name, precision=precision)


@pytest.fixture(scope="module")
def chips(face_finder: FaceFinder, people: dict[str, tuple[bytes, ...]]) -> Pixels:
    """Real faces, uint8 [N, 112, 112, 3]."""
    photographs = [*variants(collins()).values(), *variants(hopper()).values()]
    photographs += [images[0] for images in list(people.values())[:12]]
    return np.stack([face_finder.find(data, FacePolicy.LARGEST).faces[0].chip for data in photographs])


@pytest.fixture(scope="module")
def reference(chips: Pixels) -> Embeddings:
    """What ONNX Runtime computes of them in f32."""
    return runtime(RuntimeName.ONNXRUNTIME, Precision.F32).encode(chips).embeddings


def cosines(a: Embeddings, b: Embeddings) -> npt.NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    products: npt.NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return products


@pytest.mark.parametrize(("name", "precision"), ALL)
class TestEveryRuntime:
    def test_it_says_what_it_is(self, name: RuntimeName, precision: Precision, weights: EncoderWeights) -> None:
        info = runtime(name, precision).info
        assert (info.runtime, info.precision, info.sha256) == (name, precision, weights.sha256)
        assert (info.name, info.version) == (weights.name, weights.version)
        assert info.device

    def test_embeddings_are_float32_of_unit_length(
        self, name: RuntimeName, precision: Precision, chips: Pixels
    ) -> None:
        embeddings = runtime(name, precision).encode(chips).embeddings
        assert (embeddings.dtype, embeddings.shape) == (np.float32, (len(chips), EMBEDDING_SIZE))
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)

    def test_it_agrees_with_the_reference(
        self, name: RuntimeName, precision: Precision, chips: Pixels, reference: Embeddings
    ) -> None:
        lowest = {Precision.BF16: 0.999, Precision.INT8: 0.985}.get(precision, 0.99999)
        assert cosines(runtime(name, precision).encode(chips).embeddings, reference).min() >= lowest

    @pytest.mark.parametrize("size", [1, 5, 16])
    def test_a_batch_gives_what_one_by_one_gives(
        self, name: RuntimeName, precision: Precision, chips: Pixels, size: int
    ) -> None:
        encoder = runtime(name, precision)
        single = np.concatenate([encoder.encode(chip[None]).embeddings for chip in chips[:size]])
        together = encoder.encode(chips[:size]).embeddings
        if name is RuntimeName.OPENVINO:
            np.testing.assert_array_equal(together, single)
        else:
            assert cosines(together, single).min() > 0.9999

    def test_several_threads_give_what_one_gives(self, name: RuntimeName, precision: Precision, chips: Pixels) -> None:
        encoder = runtime(name, precision)
        single = np.concatenate([encoder.encode(chip[None]).embeddings for chip in chips])
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                together = np.concatenate(list(pool.map(lambda chip: encoder.encode(chip[None]).embeddings, chips)))
                np.testing.assert_allclose(together, single, atol=1e-5)

    def test_an_answer_is_not_overwritten_by_the_next(
        self, name: RuntimeName, precision: Precision, chips: Pixels
    ) -> None:
        encoder = runtime(name, precision)
        first = encoder.encode(chips[:1]).embeddings
        kept = first.copy()
        for chip in chips[1:6]:
            encoder.encode(chip[None])
        np.testing.assert_array_equal(first, kept)

    def test_chips_need_not_be_contiguous(self, name: RuntimeName, precision: Precision, chips: Pixels) -> None:
        encoder = runtime(name, precision)
        mirrored = chips[:2, :, ::-1]
        np.testing.assert_array_equal(
            encoder.encode(mirrored).embeddings, encoder.encode(np.ascontiguousarray(mirrored)).embeddings
        )

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((0, CHIP_SIDE, CHIP_SIDE, 3), np.uint8),
            np.zeros((CHIP_SIDE, CHIP_SIDE, 3), np.uint8),
            np.zeros((1, CHIP_SIDE, CHIP_SIDE, 1), np.uint8),
            np.zeros((1, 3, CHIP_SIDE, CHIP_SIDE), np.uint8),
            np.zeros((1, CHIP_SIDE + 1, CHIP_SIDE, 3), np.uint8),
            np.zeros((1, CHIP_SIDE, CHIP_SIDE, 3), np.float32),
        ],
        ids=lambda chips: f"{chips.dtype}{chips.shape}",
    )
    def test_other_shapes_and_types_are_refused(
        self, name: RuntimeName, precision: Precision, wrong: npt.NDArray[np.generic]
    ) -> None:
        with pytest.raises(ValueError, match="chips must be uint8"):
            runtime(name, precision).encode(wrong)  # type: ignore[arg-type]


def test_one_person_is_nearer_than_another(reference: Embeddings) -> None:
    collins_, hopper_ = reference[:6], reference[6:12]
    nearest_other = (collins_ @ hopper_.T).max()
    for person in (collins_, hopper_):
        assert (person @ person.T).min() > nearest_other


@pytest.mark.parametrize(
    ("wanted", "has_bf16", "quantised", "machine", "chosen"),
    [
        (Precision.AUTO, True, True, "x86_64", Precision.BF16),
        (Precision.AUTO, False, True, "x86_64", Precision.INT8),
        (Precision.AUTO, False, False, "x86_64", Precision.F32),
        (Precision.AUTO, False, True, "aarch64", Precision.F32),
        (Precision.F32, True, True, "x86_64", Precision.F32),
        (Precision.F32, False, True, "x86_64", Precision.F32),
        (Precision.BF16, True, True, "x86_64", Precision.BF16),
        (Precision.INT8, True, True, "x86_64", Precision.INT8),
        (Precision.INT8, False, True, "aarch64", Precision.INT8),
    ],
)
def test_the_precision_follows_the_processor(
    wanted: Precision, has_bf16: bool, quantised: bool, machine: str, chosen: Precision
) -> None:
    assert choose_precision(wanted, has_bf16=has_bf16, quantised=quantised, machine=machine) is chosen


def test_bf16_on_a_processor_without_it_is_refused() -> None:
    with pytest.raises(WeightsError, match="TESSERA_ENCODING__PRECISION"):
        choose_precision(Precision.BF16, has_bf16=False, quantised=True)


def test_integers_without_the_file_that_they_take_are_refused(weights: EncoderWeights) -> None:
    plain = replace(weights, quantisation={})
    with pytest.raises(WeightsError, match=r"quantisation\.npz.*TESSERA_ENCODING__PRECISION"):
        create_runtime(plain, precision=Precision.INT8)
    assert create_runtime(plain).info.precision is (Precision.BF16 if HAS_BF16 else Precision.F32)


def test_a_convolution_that_the_network_lacks_is_named(weights: EncoderWeights) -> None:
    some = dict(weights.quantisation)
    other = replace(weights, quantisation={**some, "no.such.weight": next(iter(some.values()))})
    with pytest.raises(WeightsError, match=r"no\.such\.weight"):
        create_runtime(other, precision=Precision.INT8)


def test_inputs_of_another_width_are_refused(weights: EncoderWeights) -> None:
    wrong = {name: replace(seen, mean=seen.mean[:-1]) for name, seen in weights.quantisation.items()}
    with pytest.raises(WeightsError, match=weights.name):
        create_runtime(replace(weights, quantisation=wrong), precision=Precision.INT8)


@pytest.mark.skipif(platform.machine() != FASTER_IN_INTEGERS, reason="kernels of amd64")
def test_the_convolutions_run_in_integers(weights: EncoderWeights) -> None:
    encoder = create_runtime(weights, precision=Precision.INT8, threads=1)
    network = encoder._network._compiled.get_runtime_model()  # type: ignore[attr-defined]
    arithmetic = Counter(
        str(layer.get_rt_info()["primitiveType"].astype(str)).rpartition("_")[2]
        for layer in network.get_ops()
        if layer.get_rt_info()["layerType"].astype(str) == "Convolution"
    )
    assert arithmetic["I8"] == len(weights.quantisation) > 40


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.INT8])
def test_onnxruntime_has_float32_only(weights: EncoderWeights, precision: Precision) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(WeightsError, match="TESSERA_ENCODING__PRECISION"):
        create_runtime(weights, runtime=RuntimeName.ONNXRUNTIME, precision=precision)


def test_without_onnxruntime_it_is_said_what_to_install(
    weights: EncoderWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "app.encoding.onnx_runtime", raising=False)
    with pytest.raises(WeightsError, match=r"tessera-face\[onnxruntime\]"):
        create_runtime(weights, runtime=RuntimeName.ONNXRUNTIME)


def test_a_network_that_onnxruntime_cannot_read_is_named(weights: EncoderWeights) -> None:
    pytest.importorskip("onnxruntime")
    broken = replace(weights, network=weights.network[:1000])
    with pytest.raises(WeightsError, match=weights.name):
        create_runtime(broken, runtime=RuntimeName.ONNXRUNTIME)


def test_auto_is_never_what_runs(encoder: EncoderRuntime) -> None:
    assert encoder.info.precision is choose_precision(Precision.AUTO, has_bf16=HAS_BF16, quantised=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(weights: EncoderWeights, chips: Pixels, reference: Embeddings, threads: int) -> None:
    encoder = create_runtime(weights, precision=Precision.F32, threads=threads)
    assert cosines(encoder.encode(chips[:4]).embeddings, reference[:4]).min() >= 0.99999
