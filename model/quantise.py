"""Training faces -> ``quantisation.npz``, with which the service computes an encoder's convolutions in 8-bit integers.

    python -m model.quantise runs/faces model/weights/tessera-l

Run it after ``model.export`` and before ``model.cohort``; ``app.encoding.quantisation`` documents the method. Nothing
is learnt, and the network stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from app.encoding import EncoderWeights, load_weights
from app.encoding.openvino_runtime import convolutions, one_face
from app.encoding.quantisation import QUANTISATION_FILE, LayerInput, quantisation_file
from app.openvino import CpuNetwork, Processor, opset, ov
from model.commands import run
from model.data.face_set import load_face_set

COLOURS = 3


def worth_it(layer: ov.Node) -> bool:
    """Whether a convolution takes long: not one of the picture itself, nor one of a single pixel."""
    inputs = layer.input_value(0).get_partial_shape()[1].get_length()
    height = layer.output(0).get_partial_shape()[2].get_length()
    return bool(inputs > COLOURS and height > 1)


def observe(weights: EncoderWeights, chips: npt.NDArray[np.uint8]) -> dict[str, LayerInput]:
    """What the convolutions take in on uint8 [N, 112, 112, 3] faces, in float32."""
    names = list[str]()

    def show_inputs(model: ov.Model) -> ov.Model:
        layers = {name: layer for name, layer in convolutions(one_face(model)).items() if worth_it(layer)}
        names.extend(layers)
        model.add_results([opset.result(layer.input_value(0)) for layer in layers.values()])
        return model

    network = CpuNetwork(Processor(), weights.network, precision="f32", threads=1, prepare=show_inputs)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    means: list[npt.NDArray[np.float64]] = []
    for number, chip in enumerate(chips):
        with network.outputs(chip[None]) as outputs:
            seen = outputs[-len(names) :]
            low = np.minimum(low, [maps.min() for maps in seen])
            high = np.maximum(high, [maps.max() for maps in seen])
            of_face = [maps.mean(axis=(0, 2, 3), dtype=np.float64) for maps in seen]
        means = of_face if not number else [a + b for a, b in zip(means, of_face, strict=True)]
    return {
        name: LayerInput(float(least), float(most), (mean / len(chips)).astype(np.float32))
        for name, least, most, mean in zip(names, low, high, means, strict=True)
    }


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.data.prepare")],
    weights: Annotated[Path, typer.Argument(help="folder written by model.export; the file goes there")],
    sample: Annotated[int, typer.Option(help="training faces to look at", min=16)] = 256,
    seed: Annotated[int, typer.Option(help="which faces those are")] = 1,
) -> None:
    """Writes what the convolutions of an encoder take in on training faces; then calibrate it (anew)."""
    encoder, members = load_weights(weights), load_face_set(faces).of_split("train")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(members))[:sample])
    quantisation = observe(encoder, members.images(chosen))
    file = quantisation_file(quantisation, encoder.sha256)
    (weights / QUANTISATION_FILE).write_bytes(file)
    typer.echo(f"{weights / QUANTISATION_FILE}: {len(quantisation)} convolutions, {len(file) / 1e3:.0f} kB")


if __name__ == "__main__":
    run(main)
