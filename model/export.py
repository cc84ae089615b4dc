"""Weights -> the files the service loads: ``encoder.onnx`` with preprocessing inside, and its description.

    python -m model.export runs/tessera-l/triplet.pt model/weights/tessera-l --name tessera-l --version 1

The network maps uint8 [B, 112, 112, 3] RGB chips to unit-length float32 [B, 128]. Batch normalisation is folded into
the preceding layers; large weights are stored as float16, and every runtime converts them to float32 on loading.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from app.crowding import COHORT_FILE
from app.encoding.quantisation import QUANTISATION_FILE
from app.encoding.trained_on import TRAINED_ON_FILE
from app.encoding.weights import DESCRIPTION_FILE, NETWORK_FILE
from model.commands import run
from model.data.face_set import CHIP_SIDE
from model.networks.backbone import AnyEncoder, Encoder, FusedEncoder, load_any_encoder, load_record

OPSET = 17
SMALL = 1024


class ExportedEncoder(nn.Module):
    """The encoder as served, with the last layer and its normalisation folded into one.

    Next to the embeddings, [B, D], it returns their norms before scaling, [B, 1]: a face in which the network finds
    little has a small norm and is rejected more often (as with MagFace, Meng et al. 2021, arXiv 2103.06627, but without
    a loss that asks for it).
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        encoder = copy.deepcopy(encoder).eval()
        self.encoder = encoder
        self.features = nn.Sequential(encoder.stem, encoder.blocks, nn.Flatten())
        self.project = fuse_linear_bn_eval(encoder.project, encoder.norm)

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor]:
        x = self.project(self.features(self.encoder.prepare(chips.permute(0, 3, 1, 2).float())))
        lengths = x.norm(dim=1, keepdim=True)
        return x / lengths, lengths


class ExportedFusedEncoder(nn.Module):
    """Several encoders as served; the norm is the mean of theirs."""

    def __init__(self, encoder: FusedEncoder) -> None:
        super().__init__()
        self.parts = nn.ModuleList(ExportedEncoder(part) for part in encoder.parts if isinstance(part, Encoder))
        self.project = copy.deepcopy(encoder.project)

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor]:
        embeddings, lengths = zip(*(part(chips) for part in self.parts), strict=True)
        x = self.project(torch.cat(embeddings, dim=1))
        return x / x.norm(dim=1, keepdim=True), torch.cat(lengths, dim=1).mean(dim=1, keepdim=True)


def store_as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores initializers of more than ``SMALL`` float32 values as float16 followed by a Cast, in place."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > SMALL:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.f16"))
            casts.append(helper.make_node("Cast", [f"{name}.f16"], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    return model


def to_onnx(encoder: AnyEncoder) -> bytes:
    """The served network as an ONNX file with a free batch dimension."""
    example = torch.zeros(2, CHIP_SIDE, CHIP_SIDE, 3, dtype=torch.uint8)
    batch = {name: {0: "batch"} for name in ("chips", "embeddings", "lengths")}
    exported = ExportedFusedEncoder(encoder) if isinstance(encoder, FusedEncoder) else ExportedEncoder(encoder)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / NETWORK_FILE
        with warnings.catch_warnings():
            # Of this exporter, whose successor needs one package more.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                exported.eval(),
                (example,),
                path,
                input_names=["chips"],
                output_names=["embeddings", "lengths"],
                dynamic_axes=batch,
                opset_version=OPSET,
                dynamo=False,
            )
        model = store_as_float16(onnx.load_from_string(path.read_bytes()))
    onnx.checker.check_model(model, full_check=True)
    network: bytes = model.SerializeToString(deterministic=True)
    return network


def main(
    weights: Annotated[Path, typer.Argument(help="a .pt file of model.training.train")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    name: Annotated[str, typer.Option(help="name of the encoder")],
    version: Annotated[str, typer.Option(help="version of these weights")],
) -> None:
    """Writes ``encoder.onnx``, ``encoder.json`` and what the encoder was trained on; then calibrate it (anew)."""
    encoder = load_any_encoder(weights)
    network = to_onnx(encoder)
    description = {
        "name": name,
        "version": version,
        "sha256": hashlib.sha256(network).hexdigest(),
        "embedding_size": encoder.config.embedding_size,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "backbone": json.loads(encoder.config.model_dump_json()),
    }
    out.mkdir(parents=True, exist_ok=True)
    _remove_of_others(out, network)
    (out / NETWORK_FILE).write_bytes(network)
    (out / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
    if record := load_record(weights):
        (out / TRAINED_ON_FILE).write_bytes(record)
    else:
        # That of other weights, exported here before.
        (out / TRAINED_ON_FILE).unlink(missing_ok=True)
    typer.echo(f"{out / NETWORK_FILE}: {len(network) / 1e6:.1f} MB, SHA-256 {description['sha256']}")


def _remove_of_others(out: Path, network: bytes) -> None:
    """Removes what was computed of another encoder that was exported here before: it means nothing to this one."""
    network_file = out / NETWORK_FILE
    if network_file.is_file() and network_file.read_bytes() == network:
        return
    for name, command in ((QUANTISATION_FILE, "model.quantise"), (COHORT_FILE, "model.cohort")):
        if (out / name).is_file():
            (out / name).unlink()
            typer.echo(f"removed {out / name}, which belongs to other weights; {command} writes it anew")


if __name__ == "__main__":
    run(main)
