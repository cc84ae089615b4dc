from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.support import unit_vectors

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

import torch

from model.data.face_set import join, load_face_set
from model.networks.backbone import embed
from model.training.teacher import SFACE, load_targets
from model.training.train import Trainer
from tests.model.made_up import (
    DISTIL,
    SFACE_CACHE,
    TRIPLET,
    assert_same_weights,
    log_lines,
    make_composites,
    make_recipe,
    make_trainer,
    weights,
)

pytestmark = pytest.mark.slow

# --- other starts than random weights


def start_from(run: Path, **changes: Any) -> dict[str, Any]:
    return {"weights": f"{run.name}/triplet", **changes}


def test_a_run_starts_from_the_result_of_another(finished: Path, faces: Path) -> None:
    recipe = make_recipe(start=start_from(finished))
    trainer = make_trainer(recipe, faces, finished.parent / "started")
    assert_same_weights(trainer.encoder.state_dict(), weights(finished / "triplet.pt"))


def test_a_start_that_was_not_trained_says_what_to_do(faces: Path, tmp_path: Path) -> None:
    recipe = make_recipe(start={"weights": "elsewhere/distil"})
    with pytest.raises(FileNotFoundError, match=r"distil\.pt is missing, which .* has the command that writes it"):
        make_trainer(recipe, faces, tmp_path / "run")


def test_a_centred_start_has_embeddings_around_the_origin(finished: Path, faces: Path) -> None:
    means = []
    for centre in (False, True):
        recipe = make_recipe(start=start_from(finished, centre=centre))
        trainer = make_trainer(recipe, faces, finished.parent / f"centred-{centre}")
        members = trainer.train_faces
        chips = torch.from_numpy(members.images(np.arange(len(members))))
        means.append(float(embed(trainer.encoder, chips, bf16=False).mean(dim=0).norm()))
    assert means[1] < means[0] / 2


def test_what_was_inherited_learns_at_its_own_rate(finished: Path, faces: Path) -> None:
    stage = {**DISTIL, "steps": 3, "warmup_steps": 0, "inherited_rate": 0.0, "weight_decay": 0.0}
    recipe = make_recipe(stage, start=start_from(finished, last_blocks=1), ema_decay=0.0)
    trainer = make_trainer(recipe, faces, finished.parent / "graft")
    before = {name: value.clone() for name, value in trainer.encoder.named_parameters()}
    trainer.run()
    for name, value in trainer.encoder.named_parameters():
        inherited = name.startswith(("blocks.1.", "project.", "norm."))
        assert torch.equal(value, before[name]) is inherited, name


def test_imitation_brings_the_front_to_the_map_of_the_start(finished: Path, faces: Path) -> None:
    stage = {
        **{k: v for k, v in DISTIL.items() if k != "distillation_weight"},
        "name": "imitate",
        "steps": 60,
        "imitation_weight": 1.0,
        "imitation_blocks": 1,
    }
    out = finished.parent / "imitate"
    recipe = make_recipe(stage, start=start_from(finished, last_blocks=1), log_every=10, validate_every=100)
    trainer = make_trainer(recipe, faces, out)
    tail = {name: v.clone() for name, v in trainer.encoder.named_parameters() if name.startswith(("blocks.1", "proj"))}
    trainer.run()
    lines = [line for line in log_lines(out) if "loss" in line]
    assert all(line["loss"] == line["imitation"] and "spread" not in line for line in lines)
    assert lines[-1]["imitation"] < lines[0]["imitation"] / 2
    after = dict(trainer.encoder.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in tail.items())


def test_frozen_blocks_stay_and_the_others_learn(faces: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe({**DISTIL, "steps": 3, "freeze_blocks": 1}), faces, tmp_path)
    before = {name: value.clone() for name, value in trainer.encoder.state_dict().items()}
    trainer.run()
    for name, value in trainer.encoder.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith(("stem.", "blocks.0.")), name


def test_the_result_is_averaged_with_the_start(finished: Path, faces: Path) -> None:
    results = {}
    for share in (0.0, 0.25):
        out = finished.parent / f"share-{share}"
        stage = {**TRIPLET, "steps": 3, "start_share": share}
        make_trainer(make_recipe(stage, start=start_from(finished)), faces, out).run()
        results[share] = weights(out / "triplet.pt")
    start = weights(finished / "triplet.pt")
    for name, value in results[0.25].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * results[0.0][name] + 0.25 * start[name])


# --- what is known of the faces


def test_classification_learns_and_its_head_goes_on_after_an_interruption(faces: Path, tmp_path: Path) -> None:
    stage = {**DISTIL, "distillation_weight": 0.0, "classification_weight": 1.0, "steps": 40, "head_scale": 8}
    recipe = make_recipe(stage, log_every=10, validate_every=100, checkpoint_every=10)
    make_trainer(recipe, faces, tmp_path / "whole").run()
    losses = [line["classification"] for line in log_lines(tmp_path / "whole") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    trainer = make_trainer(recipe, faces, tmp_path / "parts")
    trainer.save()
    torch.rand(3)
    make_trainer(recipe, faces, tmp_path / "parts").run()
    assert_same_weights(weights(tmp_path / "parts" / "distil.pt"), weights(tmp_path / "whole" / "distil.pt"))


def test_faces_far_from_their_identity_lose_their_label(faces: Path, tmp_path: Path) -> None:
    # The made-up teacher gives all faces of an identity one embedding, but for the one moved here.
    face_set = load_face_set(faces)
    teacher = load_targets(faces, (SFACE,), face_set.of_split("train"))
    teacher[3] = -teacher[3]
    trainer = Trainer(make_recipe(max_centre_distance=1.0), face_set, teacher, tmp_path)
    changed = trainer.identity.numpy() != make_trainer(make_recipe(), faces, tmp_path / "b").identity.numpy()
    assert np.flatnonzero(changed).tolist() == [3]
    assert trainer.identity[3] == -1
    assert trainer.classes == 8
    with pytest.raises(ValueError, match="teacher"):
        Trainer(make_recipe(max_centre_distance=1.0), face_set, None, tmp_path / "c")


def test_a_subset_is_so_many_faces_of_so_many_people(faces: Path, tmp_path: Path) -> None:
    whole = make_trainer(make_recipe(), faces, tmp_path / "whole")
    some = make_trainer(make_recipe(subset={"people": 3, "faces": 4}), faces, tmp_path / "some")
    assert len(some.train_faces) == 12
    assert np.unique(some.train_faces.identity, return_counts=True)[1].tolist() == [4, 4, 4]
    assert some.classes == 3
    assert some.teacher is not None
    assert whole.teacher is not None
    rows = np.flatnonzero(np.isin(whole.train_faces.rows, some.train_faces.rows))
    assert torch.equal(some.teacher, whole.teacher[rows])
    assert len(some.heldout) == len(whole.heldout)
    again = make_trainer(make_recipe(subset={"people": 3, "faces": 4}), faces, tmp_path / "again")
    assert again.train_faces.rows.tolist() == some.train_faces.rows.tolist()
    with pytest.raises(ValueError, match="9 people of 4 faces wanted, 8 are there"):
        make_trainer(make_recipe(subset={"people": 9, "faces": 4}), faces, tmp_path / "more")


# --- the teacher


def test_a_missing_teacher_says_how_to_get_it(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"{SFACE_CACHE} is missing; write it with `python -m model\.training\.teacher"
    ):
        load_targets(tmp_path, (SFACE,), load_face_set(faces))


def test_a_teacher_of_other_faces_is_refused(faces: Path, tmp_path: Path) -> None:
    np.save(tmp_path / SFACE_CACHE, unit_vectors(88, 32))
    with pytest.raises(ValueError, match="holds 88 embeddings, but there are 89 faces"):
        load_targets(tmp_path, (SFACE,), load_face_set(faces))


def test_teacher_embeddings_are_centred_unit_vectors_of_the_faces_asked_for(faces: Path) -> None:
    members = load_face_set(faces).of_split("heldout")
    cached = np.load(faces / SFACE_CACHE)[41:]
    centred = cached - cached.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(load_targets(faces, (SFACE,), members), expected, atol=1e-6)


def test_distilling_without_a_teacher_is_refused(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'distil' distils"):
        Trainer(make_recipe(), load_face_set(faces), None, tmp_path).run()


def test_the_teacher_of_composites_is_centred_like_that_of_the_faces(faces: Path, tmp_path: Path) -> None:
    made = make_composites(faces, tmp_path)
    members = load_face_set(faces).of_split("train")
    clean = np.load(faces / SFACE_CACHE)[members.rows]
    expected = np.concatenate([clean, np.load(tmp_path / SFACE_CACHE)]) - clean.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(load_targets(faces, (SFACE,), members, [(tmp_path, made)]), expected, atol=1e-6)


def test_composites_are_shown_as_they_are_or_mirrored(faces: Path, tmp_path: Path) -> None:
    made = make_composites(faces, tmp_path / "composites")
    face_set = load_face_set(faces)
    teacher = load_targets(faces, (SFACE,), face_set.of_split("train"), [(tmp_path / "composites", made)])
    trainer = Trainer(make_recipe(), join(face_set, [made]), teacher, tmp_path / "run")
    assert len(trainer.train_faces) == 41 + 9
    assert trainer.classes == 8
    index = np.array([0, 45, 1, 46, 41, 42, 43, 44, 47, 48, 49])
    pixels = trainer._pixels(index, torch.Generator().manual_seed(0))
    shown = torch.from_numpy(trainer.train_faces.images(index)).permute(0, 3, 1, 2).float()
    as_it_was = [torch.equal(a, b) for a, b in zip(pixels, shown, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(pixels, shown, strict=True)]
    finished = index >= 41
    assert [a or m for a, m in zip(as_it_was, mirrored, strict=True)] == finished.tolist()
    assert any(as_it_was)
    assert any(mirrored)
    trainer.run()
