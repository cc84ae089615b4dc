"""The training loop: bf16 on the CPU, resumable after a kill at any moment.

    python -m model.training.train model/recipes/tessera-l-2.toml --faces runs/faces --out runs/tessera-l-2

Running the same command again continues from the newest checkpoint. Batches and augmentations are functions of seed and
step, so the weights, their average, and the state of the objective and the optimizer suffice to resume exactly.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor, nn

from app.embeddings import EMBEDDING_SIZE
from app.encoding.trained_on import record_of
from app.evaluation.pairs import all_pair_distances, can_show, tar_at_far
from model.commands import StoppedError, run
from model.data.augmentation import augment
from model.data.cleaning import without_outliers
from model.data.face_set import UNLABELLED, FaceSet, join, load_face_set
from model.data.sampling import IdentitySampler, Sampler, ShuffledSampler
from model.networks.backbone import AnyEncoder, Encoder, embed, load_any_encoder, load_record, save_encoder
from model.networks.states import read_state, write_state
from model.progress import Progress
from model.training.curves import CSV_FILE, LOG_FILE, PLOT_FILE, write_curves
from model.training.losses import ImitationLoss, spread
from model.training.messages import in_words, say_what_there_is
from model.training.objective import Objective
from model.training.optimisation import averaged, learning_rate, make_optimizer, mix
from model.training.recipe import SFACE_START, Recipe, Stage, Start, Subset, differences, load_recipe
from model.training.teacher import Floats, load_targets
from model.training.warm_start import centre, copy_weights, inherited_parts, sample_for_centre, sface_encoder

CHECKPOINT_FILE = "checkpoint.pt"
COLLAPSE_SHARE = 0.2
RECORDED_AT_ONCE = 4096
VALIDATION_FARS = (1e-3, 1e-4, 1e-5)
FARS_OF_FEW = (1e-2, 1e-1)


class CollapseError(StoppedError):
    """The encoder maps all faces to nearly one point; training further is pointless."""


def make_sampler(identity: npt.NDArray[np.int64], source: npt.NDArray[np.str_], stage: Stage, seed: int) -> Sampler:
    """The sampler a stage asks for, over faces with these identities and sources."""
    if stage.batch_size is not None:
        return ShuffledSampler(len(identity), stage.batch_size, seed)
    assert stage.identities is not None
    assert stage.images is not None
    return IdentitySampler(identity, stage.identities, stage.images, seed, source, stage.source_balance)


def choose_subset(identity: npt.NDArray[np.int64], subset: Subset, seed: int) -> npt.NDArray[np.bool_]:
    """The faces of a random subset of people, bool [N]. Raises ValueError where too few have enough faces."""
    labels, counts = np.unique(identity[identity != UNLABELLED], return_counts=True)
    able = labels[counts >= subset.faces]
    if len(able) < subset.people:
        raise ValueError(
            f"{subset.people} people of {subset.faces} faces wanted, {len(able)} are there; --set subset.people=N and "
            "--set subset.faces=N ask for fewer"
        )
    rng, chosen = np.random.default_rng(seed), np.zeros(len(identity), dtype=np.bool_)
    for label in rng.choice(able, subset.people, replace=False):
        chosen[rng.choice(np.flatnonzero(identity == label), subset.faces, replace=False)] = True
    return chosen


class Trainer:
    """One run of one recipe in one directory."""

    def __init__(self, recipe: Recipe, faces: FaceSet, teacher: Floats | None, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.teacher = None if teacher is None else torch.from_numpy(teacher)
        self.train_faces, heldout = faces.of_split("train"), faces.of_split("heldout")
        if recipe.subset is not None:
            chosen = choose_subset(self.train_faces.identity, recipe.subset, recipe.seed)
            self.train_faces = self.train_faces.where(chosen)
            self.teacher = None if self.teacher is None else self.teacher[torch.from_numpy(chosen)]
        self.heldout = heldout.where(heldout.identity != UNLABELLED)
        torch.manual_seed(recipe.seed)
        fresh = None if recipe.backbone is None else Encoder(recipe.backbone)
        self.source = None if recipe.start is None else self._load_start(recipe.start)
        self.encoder = self._with_weights_of_start(fresh, recipe.start)
        self._require_size_of_teacher()
        self.average = averaged(self.encoder, recipe.ema_decay)
        self.identity, self.classes = self._labels(recipe)
        self._fingerprint = self._digest_of_faces()
        self.stage_number, self.step = 0, 0
        self.progress: Progress | None = None
        self._begin_stage()
        out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def _require_size_of_teacher(self) -> None:
        size = self.encoder.config.embedding_size
        if self.teacher is not None and self.teacher.shape[1] != size:
            raise ValueError(
                f"backbone.embedding_size is {size}, but the teachers' targets have {self.teacher.shape[1]} numbers"
            )

    @property
    def averaged_encoder(self) -> AnyEncoder:
        """The encoder with averaged weights, which is the result of a stage."""
        assert isinstance(self.average.module, AnyEncoder)
        return self.average.module

    def _labels(self, recipe: Recipe) -> tuple[Tensor, int]:
        """Identities of the training faces, numbered from 0, and their number."""
        identity = self.train_faces.identity
        if recipe.max_centre_distance is not None:
            if self.teacher is None:
                raise ValueError("max_centre_distance needs the teacher's embeddings")
            identity = without_outliers(self.teacher.numpy(), identity, recipe.max_centre_distance)
        labels, numbers = np.unique(identity[identity != UNLABELLED], return_inverse=True)
        compact = np.full(len(identity), UNLABELLED)
        compact[identity != UNLABELLED] = numbers
        return torch.from_numpy(compact), len(labels)

    def _begin_stage(self) -> None:
        stage = self.recipe.stages[self.stage_number]
        with torch.random.fork_rng():
            # The margin head is reset in each stage, to the same values whether or not the run was interrupted.
            torch.manual_seed(int(np.random.SeedSequence([self.recipe.seed, self.stage_number]).generate_state(1)[0]))
            self.objective = Objective(stage, self.classes, self.encoder.config.embedding_size)
        self.optimizer = make_optimizer(self.encoder, self.objective, stage, self._inherited())

    def _inherited(self) -> set[Tensor]:
        """The parameters that came from the recipe's start."""
        if self.recipe.start is None:
            return set()
        if self.recipe.backbone is None:
            return set(self.encoder.parameters())
        assert isinstance(self.encoder, Encoder)
        parts = inherited_parts(self.encoder, self.recipe.start.last_blocks)
        return {parameter for part in parts for parameter in part.parameters()}

    def _load_start(self, start: Start) -> AnyEncoder:
        """The network to start from; its weights are copied."""
        path = self._path_of(start)
        if start.weights != SFACE_START and not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing, which this recipe starts from; 'How our encoders are made' in docs/training.md "
                "has the command that writes it: model.training.warm_start, model.fuse, or another recipe"
            )
        source = sface_encoder() if start.weights == SFACE_START else load_any_encoder(path)
        source.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        if start.centre:
            typer.echo("measures the mean of the start's embeddings")
            if not isinstance(source, Encoder):
                raise ValueError(f"{path} holds several networks, whose common mean is at the origin already")
            centre(source, torch.from_numpy(sample_for_centre(self.train_faces, self.recipe.seed)))
        return source

    def _with_weights_of_start(self, fresh: Encoder | None, start: Start | None) -> AnyEncoder:
        """The network to train: the start itself, or a fresh one with the weights taken over from it."""
        encoder: AnyEncoder
        if fresh is None:
            assert self.source is not None
            encoder = copy.deepcopy(self.source).requires_grad_(True)
        else:
            encoder = fresh
            if start is not None:
                assert isinstance(self.source, Encoder)
                copy_weights(self.source, encoder, start.last_blocks)
        return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _resume(self) -> None:
        path = self.out / CHECKPOINT_FILE
        if not path.is_file():
            # That of an earlier run, whose checkpoint was removed to begin anew.
            (self.out / LOG_FILE).unlink(missing_ok=True)
            return
        state = read_state(
            path, ("recipe", "faces", "stage", "step"), "remove it to begin anew, or choose another --out"
        )
        # Parsed rather than compared as text: settings added since then take their defaults.
        if differ := differences(Recipe.model_validate_json(state["recipe"]), self.recipe):
            raise ValueError(
                f"{path} belongs to another recipe, in which {', '.join(differ[:5])}"
                f"{' and so on' if len(differ) > 5 else ''}; choose another --out or remove it"
            )
        if state["faces"] != self._fingerprint:
            raise ValueError(
                f"{path} was trained on other faces; give the same --faces and --composites, or choose another --out"
            )
        self.stage_number, self.step = state["stage"], state["step"]
        self.encoder.load_state_dict(state["encoder"])
        self.average.load_state_dict(state["average"])
        if self.stage_number < len(self.recipe.stages):
            self._begin_stage()
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])

    def _digest_of_faces(self) -> str:
        """Digest of the training faces' identities and the teacher's embeddings."""
        digest = hashlib.sha256(self.train_faces.identity.tobytes() + self.train_faces.finished.tobytes())
        if self.teacher is not None:
            digest.update(self.teacher.numpy().tobytes())
        return digest.hexdigest()

    def save(self) -> None:
        """Replaces the checkpoint."""
        state = {
            "recipe": self.recipe.model_dump_json(),
            "faces": self._fingerprint,
            "stage": self.stage_number,
            "step": self.step,
            "encoder": self.encoder.state_dict(),
            "average": self.average.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(state, self.out / CHECKPOINT_FILE)

    def log(self, **values: Any) -> None:
        """Appends one JSON line to ``log.jsonl`` and prints it in words."""
        stage = self.recipe.stages[self.stage_number]
        line = json.dumps({"stage": stage.name, "step": self.step, **values})
        with (self.out / LOG_FILE).open("a") as file:
            file.write(line + "\n")
        left = "" if self.progress is None or self.step == stage.steps else f"{self.progress.left} left  "
        typer.echo(f"{stage.name} {self.step}/{stage.steps}  {left}{in_words(values)}")

    def run(self) -> None:
        """Trains the remaining stages; ``<stage>.pt`` holds the averaged weights after each.

        A start that is taken over whole is validated first, for training may make it worse.
        """
        start = self.recipe.start
        if start is not None and start.last_blocks is None and (self.stage_number, self.step) == (0, 0):
            self._validate()
        while self.stage_number < len(self.recipe.stages):
            stage = self.recipe.stages[self.stage_number]
            self._run_stage(stage)
            if stage.start_share and self.source is not None:
                mix(self.average.module, self.source, stage.start_share)
            self._validate()
            save_encoder(self.averaged_encoder, self.out / f"{stage.name}.pt", self._record())
            self.stage_number, self.step = self.stage_number + 1, 0
            if self.stage_number < len(self.recipe.stages):
                self.encoder.load_state_dict(self.average.module.state_dict())
                self._begin_stage()
            self.save()

    def _record(self) -> bytes:
        """Which photographs the weights have learnt from, those of the recipe's start included."""
        start, photographed = self.recipe.start, np.flatnonzero(~self.train_faces.finished)
        record = b"" if start is None or start.weights == SFACE_START else load_record(self._path_of(start))
        for rows in np.array_split(photographed, max(len(photographed) // RECORDED_AT_ONCE, 1)):
            record = record_of(self.train_faces.images(rows), record)
        return record

    def _path_of(self, start: Start) -> Path:
        return self.out.parent / f"{start.weights}.pt"

    def _run_stage(self, stage: Stage) -> None:
        sampler = make_sampler(
            self.identity.numpy(), self.train_faces.source, stage, self.recipe.seed + self.stage_number
        )
        if self.step == 0:
            # An average that carried over the previous stage would mask most of a short one.
            self.average = averaged(self.encoder, self.recipe.ema_decay)
        with Progress(stage.name, stage.steps, self.step, lines=False) as self.progress:
            self._train_steps(stage, sampler)

    def _train_steps(self, stage: Stage, sampler: Sampler) -> None:
        assert self.progress is not None
        started, images, sums, count = time.monotonic(), 0, dict[str, float](), 0
        while self.step < stage.steps:
            index = sampler.batch(self.step)
            values = self._train_step(stage, index)
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            images, count, self.step = images + len(index), count + 1, self.step + 1
            self.progress.advance()
            if self.step % self.recipe.log_every == 0:
                means = {name: round(value / count, 5) for name, value in sums.items()}
                if "spread" in means:
                    self._check_collapse(means["spread"])
                self.log(**means, images_per_second=round(images / (time.monotonic() - started), 1))
                started, images, sums, count = time.monotonic(), 0, {}, 0
            if self.step % self.recipe.checkpoint_every == 0:
                self.save()
            if self.step % self.recipe.validate_every == 0 and self.step < stage.steps:
                self._validate()

    def _check_collapse(self, value: float) -> None:
        floor = COLLAPSE_SHARE / math.sqrt(self.encoder.config.embedding_size)
        if self.step > self.recipe.log_every and not value > floor:
            raise CollapseError(
                f"the embeddings' spread fell to {value:.4f} (below {floor:.4f}) at step {self.step}: "
                "lower the learning rate, mine semi-hard negatives, or raise the distillation weight"
            )

    def _train_step(self, stage: Stage, index: npt.NDArray[np.int64]) -> dict[str, float]:
        """One update. Returns what is logged."""
        seeds = np.random.SeedSequence([self.recipe.seed, self.stage_number, self.step])
        rng = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
        pixels = self._pixels(index, rng)
        self.encoder.train()
        if stage.freeze_batch_norm:
            for module in self.encoder.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.eval()
        self.encoder.freeze(stage.freeze_blocks)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(stage, self.step) * group["share"]
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        loss, values = torch.zeros(()), dict[str, float]()
        embeddings: Tensor | None
        if stage.imitation_weight:
            assert isinstance(self.encoder, Encoder)
            blocks = len(self.encoder.blocks) - stage.imitation_blocks
            with torch.autocast("cpu", torch.bfloat16):
                features = self.encoder.features(pixels, blocks)
                embeddings = self.encoder.finish(features, blocks) if stage.trains_embeddings else None
            term = ImitationLoss()(features, self._features_to_imitate(pixels, stage.imitation_blocks))
            loss, values["imitation"] = loss + stage.imitation_weight * term, term.item()
        else:
            with torch.autocast("cpu", torch.bfloat16):
                embeddings = self.encoder(pixels)
        if embeddings is not None:
            rows = torch.from_numpy(index)
            teacher = None if self.teacher is None else self.teacher[rows]
            term, terms = self.objective(embeddings, self.identity[rows], teacher)
            loss, values = loss + term, {**values, "spread": spread(embeddings.detach()).item(), **terms}
            if stage.anchor_weight:
                term = (1 - (embeddings * self._anchors(pixels)).sum(dim=1)).mean()
                loss, values["anchor"] = loss + stage.anchor_weight * term, term.item()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.average.update_parameters(self.encoder)
        return {"loss": loss.item(), **values}

    def _pixels(self, index: npt.NDArray[np.int64], rng: torch.Generator) -> Tensor:
        """Augmented faces, float [B, 3, 112, 112]; finished ones are only mirrored at random."""
        chips, finished = torch.from_numpy(self.train_faces.images(index)), self.train_faces.finished[index]
        if not finished.any():
            return augment(chips, self.recipe.augmentation, rng)
        pixels = chips.permute(0, 3, 1, 2).float()
        if not finished.all():
            pixels[~finished] = augment(chips[~finished], self.recipe.augmentation, rng)
        mirrored = torch.from_numpy(finished) & (torch.rand(len(index), generator=rng) < 0.5)
        pixels[mirrored] = pixels[mirrored].flip(3)
        return pixels

    @torch.no_grad()
    def _features_to_imitate(self, pixels: Tensor, last_blocks: int) -> Tensor:
        assert isinstance(self.source, Encoder)
        with torch.autocast("cpu", torch.bfloat16):
            return self.source.features(pixels, len(self.source.blocks) - last_blocks)

    @torch.no_grad()
    def _anchors(self, pixels: Tensor) -> Tensor:
        """Embeddings of the same images by the recipe's start network, unit-length float [B, D]."""
        assert self.source is not None
        self.source.eval()
        with torch.autocast("cpu", torch.bfloat16):
            anchors: Tensor = self.source(pixels)
        return anchors

    def _validate(self) -> None:
        """Logs TAR on all pairs of held-out identities, with averaged weights.

        FARs that the number of pairs cannot resolve are left out.
        """
        chips = torch.from_numpy(self.heldout.images(np.arange(len(self.heldout))))
        vectors = embed(self.averaged_encoder, chips).numpy()
        pairs = all_pair_distances(vectors, self.heldout.identity)
        fars = [far for far in VALIDATION_FARS if can_show(pairs.non_mated, far)]
        # A set too small for any of them still has one to watch.
        fars = fars or [far for far in FARS_OF_FEW if can_show(pairs.non_mated, far)][:1]
        self.log(heldout={f"tar@{far:g}": round(tar_at_far(pairs, far), 4) for far in fars})


def main(
    recipe: Annotated[Path, typer.Argument(help="a file of model/recipes")],
    faces: Annotated[Path, typer.Option(help="folder written by model.data.prepare")],
    out: Annotated[Path, typer.Option(help="folder for checkpoints, log and weights")],
    composites: Annotated[
        list[Path] | None, typer.Option(help="folder written by model.data.composites; may be repeated")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves the choice to torch")] = 0,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="one setting changed, as in triplet.margin=0.2; may be repeated")
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="go on with too few people, to try the commands")] = False,
) -> None:
    """Trains a recipe, or resumes it.

    Prints steps, time left, losses and rates as it goes; ``training.svg`` and ``metrics.csv`` in --out show them all.
    """
    if threads:
        torch.set_num_threads(threads)
    config, face_set = load_recipe(recipe, change or ()), load_face_set(faces)
    say_what_there_is(config, face_set, small=small)
    size = EMBEDDING_SIZE if config.backbone is None else config.backbone.embedding_size
    if size != EMBEDDING_SIZE and not small:
        raise StoppedError(f"backbone.embedding_size is {size}, but the service takes {EMBEDDING_SIZE} numbers")
    if composites and not any(stage.draws_unlabelled for stage in config.stages):
        raise StoppedError("no stage of this recipe draws pictures without a name, so --composites would not be used")
    more = [(path, load_face_set(path).of_split("train")) for path in composites or ()]
    asks = config.max_centre_distance is not None or any(stage.distillation_weight for stage in config.stages)
    teacher = load_targets(faces, config.teachers, face_set.of_split("train"), more) if asks else None
    trainer = Trainer(config, join(face_set, [members for _, members in more]) if more else face_set, teacher, out)
    if trainer.stage_number == len(config.stages):
        typer.echo(f"this run is at its end; to train anew, remove {out / CHECKPOINT_FILE} or choose another --out")
    elif trainer.stage_number or trainer.step:
        typer.echo(f"goes on from step {trainer.step} of {config.stages[trainer.stage_number].name}")
    try:
        trainer.run()
    except KeyboardInterrupt:
        typer.echo(
            f"stopped; the same command goes on from the last checkpoint (every {config.checkpoint_every} steps)",
            err=True,
        )
        raise
    write_curves(out)
    typer.echo(f"weights in {out / config.stages[-1].name}.pt; curves in {out / PLOT_FILE} and {out / CSV_FILE}")


if __name__ == "__main__":
    run(main)
