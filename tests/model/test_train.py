from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.support import make_chips, small_backbone, unit_vectors

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

import torch

from model import train, views
from model.backbone import BackboneConfig, Encoder, embed
from model.config import Recipe, Stage
from model.data import CHIP_SIDE, CHIPS_FILE, FaceSet, join, load_face_set, write_table
from model.teacher import CACHE_FILE
from model.train import CHECKPOINT_FILE, CollapseError, Ema, Trainer, learning_rate, load_encoder, load_teacher

DISTIL: dict[str, Any] = {
    "name": "distil",
    "steps": 9,
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "warmup_steps": 2,
    "batch_size": 16,
    "distillation_weight": 1.0,
}
TRIPLET: dict[str, Any] = {
    "name": "triplet",
    "steps": 7,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "identities": 4,
    "images": 3,
    "triplet_weight": 1.0,
    "distillation_weight": 0.5,
    "margin": 0.3,
    "freeze_batch_norm": True,
}


def make_recipe(*stages: dict[str, Any], **changes: Any) -> Recipe:
    values = {"seed": 1, "validate_every": 5, "checkpoint_every": 4, "log_every": 3, "ema_decay": 0.9}
    backbone = small_backbone(8, 16, embedding_size=32)
    return Recipe.model_validate(
        {**values, "backbone": backbone, "augmentation": {}, "stages": stages or [DISTIL, TRIPLET], **changes}
    )


def as_toml(recipe: Recipe) -> str:
    """JSON values are TOML values, but for what is null."""
    values = json.loads(recipe.model_dump_json(exclude_none=True))
    backbone = values.pop("backbone")
    tables = [
        ("[backbone]", {"embedding_size": backbone["embedding_size"]}),
        ("[backbone.stem]", backbone["stem"]),
        *(("[[backbone.stages]]", stage) for stage in backbone["stages"]),
        ("[augmentation]", values.pop("augmentation")),
        *(("[[stages]]", stage) for stage in values.pop("stages")),
    ]
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    for header, entry in tables:
        lines += [header, *(f"{name} = {json.dumps(value)}" for name, value in entry.items())]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight identities of five to train on, one face of nobody known, twelve identities of four held out."""
    directory = tmp_path_factory.mktemp("faces")
    numbers = [i for i in range(8) for _ in range(5)] + [99] + [i for i in range(20, 32) for _ in range(4)]
    shape = (len(numbers), CHIP_SIDE, CHIP_SIDE, 3)
    chips = np.lib.format.open_memmap(directory / CHIPS_FILE, mode="w+", dtype=np.uint8, shape=shape)
    chips[:] = make_chips(numbers)
    chips.flush()
    identity = ["" if n == 99 else f"{n:02}" for n in numbers]
    split = ["heldout" if 20 <= n < 90 else "train" for n in numbers]
    write_table(
        directory,
        {"identity": identity, "split": split, "family": [""] * len(numbers), "source": ["made up"] * len(numbers)},
    )
    np.save(directory / CACHE_FILE, unit_vectors(100, 32)[numbers])
    return directory


def make_trainer(recipe: Recipe, faces: Path, out: Path) -> Trainer:
    face_set = load_face_set(faces)
    return Trainer(recipe, face_set, load_teacher(faces, face_set.of_split("train")), out)


def log_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_encoder(path).state_dict()


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture(scope="module")
def finished(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("run")
    make_trainer(make_recipe(), faces, out).run()
    return out


# --- a whole run


def test_both_stages_run_and_leave_their_weights(finished: Path) -> None:
    first, second = weights(finished / "distil.pt"), weights(finished / "triplet.pt")
    assert first.keys() == second.keys()
    assert not torch.equal(first["project.weight"], second["project.weight"])
    assert all(value.isfinite().all() for value in second.values())
    assert sorted(p.name for p in finished.iterdir()) == [CHECKPOINT_FILE, "distil.pt", "log.jsonl", "triplet.pt"]


def test_the_log_holds_what_training_did(finished: Path) -> None:
    lines = log_lines(finished)
    steps = [line for line in lines if "loss" in line]
    assert [(line["stage"], line["step"]) for line in steps] == [
        *(("distil", 3), ("distil", 6), ("distil", 9)),
        *(("triplet", 3), ("triplet", 6)),
    ]
    for line in steps:
        assert line["images_per_second"] > 0
        assert 0 < line["spread"] <= 1 / math.sqrt(32) + 1e-4
        if line["stage"] == "distil":
            assert line["loss"] == pytest.approx(line["distillation"], abs=1e-4)
            assert "d_ap" not in line
        else:
            assert line["loss"] == pytest.approx(line["triplet"] + 0.5 * line["distillation"], abs=1e-4)
            assert 0 < line["d_ap"] < line["d_an"] < 4
            assert 0 <= line["active"] <= 1


def test_the_log_holds_only_rates_that_the_held_out_faces_can_show(finished: Path) -> None:
    lines = [line for line in log_lines(finished) if "heldout" in line]
    assert [(line["stage"], line["step"]) for line in lines] == [
        *(("distil", 5), ("distil", 9)),
        *(("triplet", 5), ("triplet", 7)),
    ]
    # 48 faces are 1,056 non-mated pairs: enough for one false accept in a thousand.
    for line in lines:
        assert list(line["heldout"]) == ["tar@0.001"]
        assert 0 <= line["heldout"]["tar@0.001"] <= 1


def test_distillation_learns(faces: Path, tmp_path: Path) -> None:
    recipe = make_recipe({**DISTIL, "steps": 40, "warmup_steps": 5}, log_every=10, validate_every=100)
    make_trainer(recipe, faces, tmp_path).run()
    losses = [line["loss"] for line in log_lines(tmp_path) if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_triplets_learn(faces: Path, tmp_path: Path) -> None:
    stage = {**TRIPLET, "steps": 40, "distillation_weight": 0.0, "freeze_batch_norm": False}
    recipe = make_recipe(stage, log_every=10, validate_every=100)
    make_trainer(recipe, faces, tmp_path).run()
    lines = [line for line in log_lines(tmp_path) if "loss" in line]
    assert lines[-1]["d_an"] - lines[-1]["d_ap"] > lines[0]["d_an"] - lines[0]["d_ap"] + 0.1


def test_a_stage_starts_from_the_averaged_weights_of_the_one_before(faces: Path, tmp_path: Path) -> None:
    standing_still = {**TRIPLET, "learning_rate": 1e-12, "weight_decay": 0.0}
    trainer = make_trainer(make_recipe(DISTIL, standing_still), faces, tmp_path)
    trainer.run()
    averaged = weights(tmp_path / "distil.pt")
    for name, value in trainer.encoder.state_dict().items():
        torch.testing.assert_close(value, averaged[name], atol=1e-7, rtol=0, msg=name)


# --- going on after an interruption


class InterruptionError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("_train_step", 2),  # before there is a checkpoint
        ("_train_step", 6),  # after the first, with steps to be done again
        ("_validate", 2),  # at the end of the first stage
        ("_train_step", 10),  # at the first step of the second
        ("_train_step", 15),
        ("_validate", 4),  # when all is done but for the last word
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    finished: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, call: int
) -> None:
    original, calls = getattr(Trainer, method), 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise InterruptionError
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, method, interrupted)
        with pytest.raises(InterruptionError):
            make_trainer(make_recipe(), faces, tmp_path).run()
    torch.rand(7)  # what global random numbers were drawn in between must not matter
    make_trainer(make_recipe(), faces, tmp_path).run()
    for name in ("distil.pt", "triplet.pt"):
        assert_same_weights(weights(tmp_path / name), weights(finished / name))


def test_a_finished_run_is_not_trained_further(finished: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_train_step", pytest.fail)
    before = (finished / "log.jsonl").read_text()
    make_trainer(make_recipe(), faces, finished).run()
    assert (finished / "log.jsonl").read_text() == before


def test_a_checkpoint_that_was_not_finished_does_no_harm(finished: Path, faces: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes((finished / CHECKPOINT_FILE).read_bytes())
    (tmp_path / f"{CHECKPOINT_FILE}.part").write_bytes(b"half a check")
    assert make_trainer(make_recipe(), faces, tmp_path).stage_number == 2


def test_another_recipe_in_the_same_folder_is_refused(finished: Path, faces: Path) -> None:
    with pytest.raises(ValueError, match="belongs to another recipe"):
        make_trainer(make_recipe(seed=2), faces, finished)


def test_killed_processes_leave_a_checkpoint_to_go_on_from(faces: Path, tmp_path: Path) -> None:
    recipe = make_recipe({**DISTIL, "steps": 40}, checkpoint_every=1, validate_every=100)
    (tmp_path / "recipe.toml").write_text(as_toml(recipe))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "model.train", tmp_path / "recipe.toml", "--faces", faces, "--out", out]
    command += ["--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not (out / CHECKPOINT_FILE).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    reached = torch.load(out / CHECKPOINT_FILE, weights_only=True)["step"]
    assert 1 <= reached < 40
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    make_trainer(recipe, faces, tmp_path / "undisturbed").run()
    assert_same_weights(weights(out / "distil.pt"), weights(tmp_path / "undisturbed" / "distil.pt"))


def test_a_checkpoint_from_before_a_setting_existed_is_gone_on_with(
    finished: Path, faces: Path, tmp_path: Path
) -> None:
    state = torch.load(finished / CHECKPOINT_FILE, weights_only=True)
    recipe = json.loads(state["recipe"])
    del recipe["stages"][0]["start_share"]
    torch.save({**state, "recipe": json.dumps(recipe)}, tmp_path / CHECKPOINT_FILE)
    assert make_trainer(make_recipe(), faces, tmp_path).stage_number == 2


def test_other_faces_in_the_same_folder_are_refused(finished: Path, faces: Path, tmp_path: Path) -> None:
    made = make_views(faces, tmp_path / "views")
    face_set = load_face_set(faces)
    teacher = load_teacher(faces, face_set.of_split("train"), [(tmp_path / "views", made)])
    with pytest.raises(ValueError, match="other faces; give the same --faces and --views"):
        Trainer(make_recipe(), join(face_set, [made]), teacher, finished)


def test_classifiers_of_two_stages_begin_the_same_after_an_interruption(faces: Path, tmp_path: Path) -> None:
    stage = {**DISTIL, "distillation_weight": 0.0, "classification_weight": 1.0, "steps": 2, "warmup_steps": 0}
    recipe = make_recipe(stage, {**stage, "name": "again"}, checkpoint_every=1)
    make_trainer(recipe, faces, tmp_path / "whole").run()
    for _ in range(2):
        trainer = make_trainer(recipe, faces, tmp_path / "parts")
        torch.rand(11)
        trainer.recipe = recipe.model_copy(update={"stages": recipe.stages[: trainer.stage_number + 1]})
        trainer._run_stage(recipe.stages[trainer.stage_number])
        trainer.recipe = recipe
        trainer.save()
    make_trainer(recipe, faces, tmp_path / "parts").run()
    for name in ("distil.pt", "again.pt"):
        assert_same_weights(weights(tmp_path / "parts" / name), weights(tmp_path / "whole" / name))


# --- other starts than random weights


def start_from(run: Path, **changes: Any) -> dict[str, Any]:
    return {"weights": f"{run.name}/triplet", **changes}


def test_a_run_starts_from_the_result_of_another(finished: Path, faces: Path) -> None:
    recipe = make_recipe(start=start_from(finished))
    trainer = make_trainer(recipe, faces, finished.parent / "started")
    assert_same_weights(trainer.encoder.state_dict(), weights(finished / "triplet.pt"))


def test_a_start_that_was_not_trained_says_what_to_do(faces: Path, tmp_path: Path) -> None:
    recipe = make_recipe(start={"weights": "elsewhere/distil"})
    with pytest.raises(FileNotFoundError, match=r"train elsewhere into .* first"):
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
    teacher = load_teacher(faces, face_set.of_split("train")).clone()
    teacher[3] = -teacher[3]
    trainer = Trainer(make_recipe(max_centre_distance=1.0), face_set, teacher, tmp_path)
    changed = trainer.identity.numpy() != make_trainer(make_recipe(), faces, tmp_path / "b").identity.numpy()
    assert np.flatnonzero(changed).tolist() == [3]
    assert trainer.identity[3] == -1
    assert trainer.classes == 8
    with pytest.raises(ValueError, match="teacher"):
        Trainer(make_recipe(max_centre_distance=1.0), face_set, None, tmp_path / "c")


# --- collapse


def test_embeddings_of_one_point_are_a_collapse(faces: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe({**DISTIL, "learning_rate": 1e-9}), faces, tmp_path)
    torch.nn.init.zeros_(trainer.encoder.norm.weight)
    torch.nn.init.ones_(trainer.encoder.norm.bias)
    with pytest.raises(CollapseError, match=r"spread fell to 0\.0000 \(below 0\.0354\) at step 6: lower the learning"):
        trainer.run()


def test_mining_the_hardest_at_a_high_learning_rate_collapses(faces: Path, tmp_path: Path) -> None:
    stage = {**TRIPLET, "steps": 60, "distillation_weight": 0.0, "miner": "batch_hard", "learning_rate": 0.1}
    trainer = make_trainer(make_recipe(stage, validate_every=100), faces, tmp_path)
    with pytest.raises(CollapseError):
        trainer.run()


@pytest.mark.parametrize(
    ("value", "step", "collapsed"), [(0.0353, 4, True), (0.0354, 4, False), (math.nan, 4, True), (0, 3, False)]
)
def test_a_fifth_of_the_healthy_spread_is_the_limit_after_the_first_line(
    faces: Path, tmp_path: Path, value: float, step: int, collapsed: bool
) -> None:
    trainer = make_trainer(make_recipe(), faces, tmp_path)
    trainer.step = step
    if not collapsed:
        trainer._check_collapse(value)
        return
    with pytest.raises(CollapseError):
        trainer._check_collapse(value)


# --- the teacher


def test_a_missing_teacher_says_how_to_get_it(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{CACHE_FILE} is missing; write it with `python -m model\.teacher"):
        load_teacher(tmp_path, load_face_set(faces))


def test_a_teacher_of_other_faces_is_refused(faces: Path, tmp_path: Path) -> None:
    np.save(tmp_path / CACHE_FILE, unit_vectors(88, 32))
    with pytest.raises(ValueError, match="holds 88 embeddings, but there are 89 faces"):
        load_teacher(tmp_path, load_face_set(faces))


def test_teacher_embeddings_are_centred_unit_vectors_of_the_faces_asked_for(faces: Path) -> None:
    members = load_face_set(faces).of_split("heldout")
    cached = np.load(faces / CACHE_FILE)[41:]
    centred = cached - cached.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(load_teacher(faces, members).numpy(), expected, atol=1e-6)


def test_distilling_without_a_teacher_is_refused(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'distil' distils"):
        Trainer(make_recipe(), load_face_set(faces), None, tmp_path).run()


def make_views(faces: Path, folder: Path) -> FaceSet:
    """Nine pictures with a teacher's word on each."""
    views.make_views(load_face_set(faces).of_split("train"), folder, augmented=4, blends=3, swaps=2, seed=0)
    np.save(folder / CACHE_FILE, unit_vectors(9, 32, seed=5))
    return load_face_set(folder)


def test_the_teacher_of_views_is_centred_like_that_of_the_faces(faces: Path, tmp_path: Path) -> None:
    made = make_views(faces, tmp_path)
    members = load_face_set(faces).of_split("train")
    clean = np.load(faces / CACHE_FILE)[members.rows]
    expected = np.concatenate([clean, np.load(tmp_path / CACHE_FILE)]) - clean.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(load_teacher(faces, members, [(tmp_path, made)]).numpy(), expected, atol=1e-6)


def test_views_are_shown_as_they_are_or_mirrored(faces: Path, tmp_path: Path) -> None:
    made = make_views(faces, tmp_path / "views")
    face_set = load_face_set(faces)
    teacher = load_teacher(faces, face_set.of_split("train"), [(tmp_path / "views", made)])
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


# --- parts


@pytest.mark.parametrize(("decay", "first", "second"), [(0.5, 1 / 11, 2 / 12), (0.1, 1 / 11, 0.1), (0.0, 0.0, 0.0)])
def test_the_average_of_two_updates(decay: float, first: float, second: float) -> None:
    encoder = Encoder(BackboneConfig.model_validate(small_backbone(8, embedding_size=4)))
    ema = Ema(encoder, decay)

    def set_to(value: float, batches: int) -> None:
        torch.nn.init.constant_(encoder.project.weight, value)
        assert encoder.norm.running_mean is not None
        assert encoder.norm.num_batches_tracked is not None
        encoder.norm.running_mean.fill_(-value)
        encoder.norm.num_batches_tracked.fill_(batches)

    set_to(3.0, 1)
    ema.encoder.load_state_dict(encoder.state_dict())
    set_to(5.0, 2)
    ema.update(encoder)
    set_to(10.0, 3)
    ema.update(encoder)
    expected = second * (first * 3 + (1 - first) * 5) + (1 - second) * 10
    state = ema.encoder.state_dict()
    torch.testing.assert_close(state["project.weight"], torch.full_like(state["project.weight"], expected))
    torch.testing.assert_close(state["norm.running_mean"], torch.full((4,), -expected))
    assert state["norm.num_batches_tracked"] == 3
    assert ema.updates == 2
    assert not any(p.requires_grad for p in ema.encoder.parameters())


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    stage = Stage.model_validate({**DISTIL, "steps": 100, "warmup_steps": 10, "learning_rate": 0.4})
    rates = [learning_rate(stage, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[55] == pytest.approx(0.2)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[99] < 0.001 * 0.4


def test_a_learning_rate_without_warm_up_starts_at_its_height() -> None:
    stage = Stage.model_validate({**DISTIL, "steps": 1, "warmup_steps": 0})
    assert learning_rate(stage, 0) == stage.learning_rate


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_statistics_of_batch_norm_do_not_change(faces: Path, tmp_path: Path, frozen: bool) -> None:
    trainer = make_trainer(make_recipe({**TRIPLET, "freeze_batch_norm": frozen}), faces, tmp_path)
    before = {name: value.clone() for name, value in trainer.encoder.state_dict().items()}
    trainer.run()
    after, average = trainer.encoder.state_dict(), trainer.ema.encoder.state_dict()
    statistics = [name for name in before if "running" in name or "tracked" in name]
    assert len(statistics) == 3 * 7
    for name in statistics:
        assert torch.equal(after[name], before[name]) is frozen
        assert torch.equal(average[name], before[name]) is frozen
    assert not torch.equal(after["norm.weight"], before["norm.weight"])
    assert not torch.equal(after["project.weight"], before["project.weight"])


def test_normalisation_does_not_decay(faces: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe(), faces, tmp_path)
    decayed, others, *inherited = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0)
    assert not any(group["params"] for group in inherited)
    assert all(p.ndim > 1 for p in decayed["params"])
    names = {name for name, p in trainer.encoder.named_parameters() if any(p is other for other in others["params"])}
    assert {"norm.weight", "norm.bias", "stem.1.weight"} <= names
    assert len(decayed["params"]) + len(others["params"]) == len(list(trainer.encoder.parameters()))


def test_a_saved_encoder_comes_back(tmp_path: Path) -> None:
    encoder = Encoder(BackboneConfig.model_validate(small_backbone(8, embedding_size=4)))
    train.save_encoder(encoder, tmp_path / "e.pt")
    loaded = load_encoder(tmp_path / "e.pt")
    assert loaded.config == encoder.config
    assert not loaded.training
    assert_same_weights(loaded.state_dict(), encoder.state_dict())
