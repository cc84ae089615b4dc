from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.encoding import WeightsError, load_weights
from app.encoding.quantisation import (
    LARGEST_WEIGHT,
    QUANTISATION_FILE,
    STEPS,
    LayerInput,
    RoundedWeights,
    quantisation_file,
    read_quantisation,
)
from app.settings import EncodingSettings

DIGEST = "ab" * 32
SEEN = {
    "first": LayerInput(-0.5, 2.5, np.array([0.25, 1.5], np.float32)),
    "second": LayerInput(0.0, 0.75, np.array([0.5], np.float32)),
}


def test_two_products_fit_into_sixteen_bits() -> None:
    assert 2 * STEPS * LARGEST_WEIGHT <= np.iinfo(np.int16).max < 2 * STEPS * 127


@pytest.mark.parametrize(("low", "high"), [(-0.5, 2.5), (0.1, 3.0), (-3.0, -0.1), (0.0, 0.0), (-1e-3, 50.0)])
def test_zero_is_a_step_of_every_range(low: float, high: float) -> None:
    first, last = LayerInput(low, high, np.zeros(1, np.float32)).limits()
    step = (last - first) / STEPS
    assert step > 0
    assert (-first / step) == pytest.approx(round(-first / step), abs=1e-6)
    # Values at the border are cut by half a step at most.
    assert first <= min(low, 0) + step
    assert last >= max(high, 0) - step


def test_rounded_weights_are_near_and_the_mean_of_every_channel_is_kept() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(6, 5, 3, 3)) * rng.uniform(0.01, 10, (6, 1, 1, 1))).astype(np.float32)
    mean = rng.uniform(0, 3, 5).astype(np.float32)
    rounded = RoundedWeights.of(weights, mean)
    assert np.abs(rounded.integers).max(axis=(1, 2, 3)).tolist() == [LARGEST_WEIGHT] * 6
    near = rounded.integers * rounded.scale
    assert np.all(np.abs(weights - near) <= rounded.scale / 2 * 1.001)
    wanted, got = (w.sum(axis=(2, 3)) @ mean for w in (weights, near))
    assert np.abs(wanted - got).max() > 1e-3
    np.testing.assert_allclose(got + rounded.correction[0, :, 0, 0], wanted, atol=1e-4)


def test_a_channel_without_weights_stays_zero() -> None:
    rounded = RoundedWeights.of(np.zeros((2, 3, 1, 1), np.float32), np.ones(3, np.float32))
    assert not rounded.integers.any()
    assert np.isfinite(rounded.scale).all()
    assert not rounded.correction.any()


def test_what_was_written_is_read() -> None:
    read = read_quantisation(quantisation_file(SEEN, DIGEST), DIGEST)
    assert list(read) == list(SEEN)
    for name, seen in SEEN.items():
        assert (read[name].low, read[name].high) == (seen.low, seen.high)
        np.testing.assert_array_equal(read[name].mean, seen.mean)


def test_another_network_s_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"network abababababab, not cdcdcdcdcdcd"):
        read_quantisation(quantisation_file(SEEN, DIGEST), "cd" * 32)


def _with(data: bytes, **changed: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    with np.load(io.BytesIO(data)) as content:
        np.savez(file, **{name: changed.get(name, content[name]) for name in content.files})
    return file.getvalue()


def _without(data: bytes, name: str) -> bytes:
    file = io.BytesIO()
    with np.load(io.BytesIO(data)) as content:
        np.savez(file, **{n: content[n] for n in content.files if n != name})
    return file.getvalue()


def _encrypted(data: bytes) -> bytes:
    """Marked as encrypted in the directory of the archive."""
    flags = data.index(b"PK\x01\x02") + 8
    return data[:flags] + bytes([data[flags] | 1]) + data[flags + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no archive",
        lambda data: data[:-40],
        lambda data: _without(data, "means"),
        lambda data: _without(data, "encoder"),
        _encrypted,
        lambda data: _with(data, names=np.array([["first"], ["second"]])),
        lambda data: _with(data, names=np.array(["first", "first"])),
        lambda data: _with(data, names=np.array([1, 2])),
        lambda data: _with(data, names=np.array([], dtype=np.str_)),
        lambda data: _with(data, channels=np.array([2.0, 1.0])),
        lambda data: _with(data, channels=np.array([5, -2])),
        lambda data: quantisation_file({**SEEN, "bad": LayerInput(2.0, 1.0, np.zeros(1, np.float32))}, DIGEST),
        lambda data: quantisation_file({**SEEN, "bad": LayerInput(0.0, np.inf, np.zeros(1, np.float32))}, DIGEST),
    ],
    ids=[
        "empty",
        "text",
        "cut",
        "no means",
        "no digest",
        "encrypted",
        "names in lines",
        "a name twice",
        "numbers as names",
        "no names",
        "halves",
        "less than none",
        "range upside down",
        "range without end",
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match="damaged"):
        read_quantisation(damage(quantisation_file(SEEN, DIGEST)), DIGEST)


def test_a_changed_byte_is_refused_or_changes_nothing() -> None:
    data = quantisation_file(SEEN, DIGEST)
    rng, refused = np.random.default_rng(0), 0
    for place in rng.permutation(len(data))[:400]:
        changed = bytearray(data)
        changed[place] ^= int(rng.integers(1, 256))
        try:
            read = read_quantisation(bytes(changed), DIGEST)
        except ValueError:
            refused += 1
            continue
        assert list(read) == list(SEEN)
        assert [(seen.low, seen.high) for seen in read.values()] == [(seen.low, seen.high) for seen in SEEN.values()]
        for name, seen in SEEN.items():
            np.testing.assert_array_equal(read[name].mean, seen.mean)
    assert refused > 200


def test_a_damaged_file_beside_the_encoder_names_what_to_do(tmp_path: Path) -> None:
    for name in ("encoder.onnx", "encoder.json", QUANTISATION_FILE):
        shutil.copy(EncodingSettings().directory / name, tmp_path / name)
    assert load_weights(tmp_path).quantisation
    (tmp_path / QUANTISATION_FILE).write_bytes(b"half a file")
    with pytest.raises(WeightsError, match=r"quantisation\.npz.*model\.quantise"):
        load_weights(tmp_path)
    (tmp_path / QUANTISATION_FILE).unlink()
    assert not load_weights(tmp_path).quantisation
