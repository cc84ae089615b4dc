from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from tests.model.support import make_chips, small_backbone, unit_vectors

pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch

from app.openvino import ov
from model.networks import retail
from model.networks.backbone import BackboneConfig, Encoder, embed
from model.networks.retail import DIGESTS, NAME, load_retail, retail_encoder
from model.training.teacher import retail_teacher, retail_view
from model.training.warm_start import align, centre
from tests.shared_data import TEACHERS, needs

FOLDER = TEACHERS
PUBLISHED = needs(FOLDER / f"{NAME}.xml")
CHIPS = make_chips(list(range(16)))


@PUBLISHED
def test_the_rebuilt_network_is_the_published_one() -> None:
    network = load_retail(FOLDER)
    network.reshape([-1, 3, retail.SIDE, retail.SIDE])
    compiled = ov.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    published = compiled({0: retail_view(CHIPS)})[0].reshape(len(CHIPS), -1)
    published = published / np.linalg.norm(published, axis=1, keepdims=True)
    ours = embed(retail_encoder(FOLDER), torch.from_numpy(CHIPS), bf16=False).numpy()
    assert (ours * published).sum(axis=1).min() >= 0.9999


@PUBLISHED
def test_the_teacher_gives_256_numbers() -> None:
    vectors = retail_teacher(FOLDER).embed(CHIPS)
    assert vectors.shape == (16, retail.EMBEDDING_SIZE)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_files_that_are_missing_or_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"\.xml is missing; docs/training\.md"):
        load_retail(tmp_path)
    for suffix in DIGESTS:
        (tmp_path / f"{NAME}{suffix}").write_bytes(b"another network")
    with pytest.raises(ValueError, match=r"\.xml has SHA-256 \w{64}, expected ce53d2c9"):
        load_retail(tmp_path)


def test_aligning_turns_an_encoder_to_its_targets_and_bends_no_distances() -> None:
    torch.manual_seed(0)
    encoder = Encoder(BackboneConfig.model_validate(small_backbone(8, 16, embedding_size=12))).eval()
    chips = torch.from_numpy(make_chips(list(range(60))))
    with torch.no_grad():
        assert encoder.norm.running_var is not None
        encoder.norm.running_var.uniform_(0.5, 2)
        encoder.norm.weight.uniform_(0.5, 2)
    centred = copy.deepcopy(encoder)
    centre(centred, chips)
    own = embed(centred, chips, bf16=False).numpy()
    turn = np.linalg.qr(unit_vectors(12, 12, seed=3))[0].astype(np.float32)
    ours = embed(align(encoder, chips, own @ turn), chips, bf16=False).numpy()
    np.testing.assert_allclose(ours, own @ turn, atol=0.02)
    np.testing.assert_allclose(ours @ ours.T, own @ own.T, atol=1e-4)
