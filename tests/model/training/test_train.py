from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.support import small_backbone

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

import torch

from app.encoding.trained_on import were_trained_on
from model.commands import StoppedError
from model.data.face_set import join, load_face_set
from model.networks.backbone import BackboneConfig, Encoder, embed, load_encoder, load_record, save_encoder
from model.training.teacher import SFACE, load_targets
from model.training.train import CHECKPOINT_FILE, CollapseError, Trainer, main
from tests.model.made_up import (
    DISTIL,
    TRIPLET,
    as_toml,
    assert_same_weights,
    log_lines,
    make_composites,
    make_recipe,
    make_trainer,
    weights,
)

pytestmark = pytest.mark.slow

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


def test_weights_remember_what_they_were_trained_on(finished: Path, faces: Path, tmp_path: Path) -> None:
    everybody = load_face_set(faces)
    chips, trained = everybody.images(np.arange(len(everybody))), everybody.split == "train"
    assert were_trained_on(chips, load_record(finished / "triplet.pt")).tolist() == trained.tolist()
    # A run that starts from them has learnt from the same faces, whatever it goes on with.
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "triplet.pt").write_bytes((finished / "triplet.pt").read_bytes())
    recipe = make_recipe({**TRIPLET, "steps": 1}, start={"weights": "first/triplet"}, subset={"people": 4, "faces": 3})
    make_trainer(recipe, faces, tmp_path / "second").run()
    assert load_record(tmp_path / "second" / "triplet.pt") == load_record(finished / "triplet.pt")


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ([], [], "training needs 32 people with two photographs or more, there are 8; calibration needs 40 people"),
        (["triplet.identities=9"], ["--small"], "training needs 9 people with two photographs or more, there are 8"),
        (["distil.batch_size=99"], ["--small"], "training needs 99 photographs for one batch, there are 41"),
        (["distil.margin=-1"], [], "stages.0.margin: Input should be greater than 0"),
        (["distil.steps"], [], "is not FIELD=VALUE or PART.FIELD=VALUE"),
        ([], ["--faces", "nowhere"], "nowhere holds no packed faces"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(
    faces: Path, tmp_path: Path, changes: list[str], options: list[str], words: str
) -> None:
    (tmp_path / "recipe.toml").write_text(as_toml(make_recipe()))
    command = [sys.executable, "-m", "model.training.train", str(tmp_path / "recipe.toml"), "--faces", str(faces)]
    command += ["--out", str(tmp_path / "out"), *options, *(f"--set={change}" for change in changes)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.startswith("refused: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_recipe_in_the_same_folder_is_refused(finished: Path, faces: Path) -> None:
    with pytest.raises(ValueError, match="another recipe, in which seed is 1 there and 2 here; choose another --out"):
        make_trainer(make_recipe(seed=2), faces, finished)


def test_a_damaged_checkpoint_is_named_and_kept(finished: Path, faces: Path, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_FILE
    for content in (b"", b"no weights", (finished / CHECKPOINT_FILE).read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged, or no file of weights: remove it"):
            make_trainer(make_recipe(), faces, tmp_path)
        assert path.read_bytes() == content
    path.write_bytes((finished / "triplet.pt").read_bytes())
    with pytest.raises(ValueError, match="holds something else than recipe"):
        make_trainer(make_recipe(), faces, tmp_path)


def test_a_start_is_validated_before_it_is_trained(finished: Path, faces: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    shutil.copy(finished / "triplet.pt", tmp_path / "first")
    recipe = make_recipe({**TRIPLET, "steps": 3}, start={"weights": "first/triplet"})
    make_trainer(recipe, faces, tmp_path / "own").run()
    rates = [line for line in log_lines(tmp_path / "own") if "heldout" in line]
    assert [(line["stage"], line["step"]) for line in rates] == [("triplet", 0), ("triplet", 3)]
    assert rates[0]["heldout"] == log_lines(finished)[-1]["heldout"]
    # Random weights have nothing to lose.
    assert all(line["step"] for line in log_lines(finished))


def test_killed_processes_leave_a_checkpoint_to_go_on_from(faces: Path, tmp_path: Path) -> None:
    recipe = make_recipe({**DISTIL, "steps": 40}, checkpoint_every=1, validate_every=100)
    (tmp_path / "recipe.toml").write_text(as_toml(recipe).replace("steps = 40", "steps = 10"))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "model.training.train", str(tmp_path / "recipe.toml"), "--out", str(out)]
    command += ["--faces", str(faces), "--threads", "1", "--set", "distil.steps=40", "--small"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not (out / CHECKPOINT_FILE).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    reached = torch.load(out / CHECKPOINT_FILE, weights_only=True)["step"]
    assert 1 <= reached < 40
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "train: 41 photographs, 8 people with two or more" in told
    assert f"goes on from step {reached} of distil" in told
    assert re.search(r"distil 39/40  \d+:\d\d left  loss ", told)
    assert "held-out people, true accepts: " in told
    # Steps that the kill made it do again count once.
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["loss"]] == list(range(3, 40, 3))
    assert (out / "training.svg").stat().st_size > 0
    make_trainer(recipe, faces, tmp_path / "undisturbed").run()
    assert_same_weights(weights(out / "distil.pt"), weights(tmp_path / "undisturbed" / "distil.pt"))


def test_ctrl_c_says_how_to_go_on(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Trainer) -> None:
        raise KeyboardInterrupt

    (tmp_path / "recipe.toml").write_text(as_toml(make_recipe()))
    monkeypatch.setattr(Trainer, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(tmp_path / "recipe.toml", faces, tmp_path / "out", small=True)
    assert "stopped; the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_a_checkpoint_from_before_a_setting_existed_is_gone_on_with(
    finished: Path, faces: Path, tmp_path: Path
) -> None:
    state = torch.load(finished / CHECKPOINT_FILE, weights_only=True)
    recipe = json.loads(state["recipe"])
    del recipe["stages"][0]["start_share"]
    torch.save({**state, "recipe": json.dumps(recipe)}, tmp_path / CHECKPOINT_FILE)
    assert make_trainer(make_recipe(), faces, tmp_path).stage_number == 2


def test_other_faces_in_the_same_folder_are_refused(finished: Path, faces: Path, tmp_path: Path) -> None:
    made = make_composites(faces, tmp_path / "composites")
    face_set = load_face_set(faces)
    teacher = load_targets(faces, (SFACE,), face_set.of_split("train"), [(tmp_path / "composites", made)])
    with pytest.raises(ValueError, match="other faces; give the same --faces and --composites"):
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


# --- collapse


def test_embeddings_of_one_point_are_a_collapse(faces: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe({**DISTIL, "learning_rate": 1e-9}), faces, tmp_path)
    assert isinstance(trainer.encoder, Encoder)
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


# --- parts


def test_composites_that_nothing_would_draw_are_refused(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(as_toml(make_recipe(TRIPLET)))
    with pytest.raises(StoppedError, match="--composites would not be used"):
        main(tmp_path / "recipe.toml", faces, tmp_path / "out", composites=[tmp_path], small=True)


def test_beginning_anew_begins_the_log_anew(faces: Path, tmp_path: Path) -> None:
    make_trainer(make_recipe({**DISTIL, "steps": 6}), faces, tmp_path).run()
    (tmp_path / CHECKPOINT_FILE).unlink()
    make_trainer(make_recipe({**DISTIL, "steps": 4}), faces, tmp_path).run()
    assert max(line["step"] for line in log_lines(tmp_path)) == 4


def test_targets_of_another_size_are_refused_before_the_work(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"embedding_size is 16, but the teachers' targets have 32 numbers"):
        make_trainer(make_recipe(DISTIL, backbone=small_backbone(8, 16, embedding_size=16)), faces, tmp_path)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_statistics_of_batch_norm_do_not_change(faces: Path, tmp_path: Path, frozen: bool) -> None:
    trainer = make_trainer(make_recipe({**TRIPLET, "freeze_batch_norm": frozen}), faces, tmp_path)
    before = {name: value.clone() for name, value in trainer.encoder.state_dict().items()}
    trainer.run()
    after, average = trainer.encoder.state_dict(), trainer.averaged_encoder.state_dict()
    statistics = [name for name in before if "running" in name or "tracked" in name]
    assert len(statistics) == 3 * 7
    for name in statistics:
        assert torch.equal(after[name], before[name]) is frozen
        assert torch.equal(average[name], before[name]) is frozen
    assert not torch.equal(after["norm.weight"], before["norm.weight"])
    assert not torch.equal(after["project.weight"], before["project.weight"])


def test_an_anchor_keeps_embeddings_where_the_start_puts_them(finished: Path, faces: Path, tmp_path: Path) -> None:
    start = tmp_path / "first" / "triplet.pt"
    start.parent.mkdir()
    start.write_bytes((finished / "triplet.pt").read_bytes())
    chips = torch.from_numpy(load_face_set(faces).images(np.arange(40)))
    before = embed(load_encoder(start), chips)

    def kept(weight: float) -> float:
        stage = {**TRIPLET, "learning_rate": 1e-2, "steps": 12, "anchor_weight": weight}
        recipe = make_recipe(stage, start={"weights": "first/triplet"}, validate_every=100)
        trainer = make_trainer(recipe, faces, tmp_path / f"anchored-{weight:g}")
        trainer.run()
        return float((embed(trainer.encoder, chips) * before).sum(dim=1).mean())

    assert kept(30.0) > kept(0.0) + 0.02


def test_a_saved_encoder_comes_back(tmp_path: Path) -> None:
    encoder = Encoder(BackboneConfig.model_validate(small_backbone(8, embedding_size=4)))
    save_encoder(encoder, tmp_path / "e.pt")
    loaded = load_encoder(tmp_path / "e.pt")
    assert loaded.config == encoder.config
    assert not loaded.training
    assert_same_weights(loaded.state_dict(), encoder.state_dict())
