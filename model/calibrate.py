"""Weights and held-out faces -> ``calibration.json``: thresholds with the error rates measured at each.

    python -m model.calibrate runs/faces model/weights/tessera-l
    python -m model.calibrate runs/faces model/weights/tessera-l --add int8

The faces come from the split ``heldout``, whose identities the encoder never saw. They go through the runtime and the
precision used in production; ``app.evaluation.calibration`` documents what is measured. Every other precision that this
processor has is checked at the default threshold; ``--add`` checks one more elsewhere and leaves the rest as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from app.crowding import Crowding, crowding_beside, load_crowding
from app.decisions.calibration import CALIBRATION_FILE, Calibration, load_calibration
from app.embeddings import fuse
from app.encoding import EncoderRuntime, EncoderWeights, Encodings, Precision, create_runtime, load_weights
from app.encoding.trained_on import were_trained_on
from app.evaluation.calibration import (
    AlternativeRun,
    EncoderRun,
    LabelledEmbeddings,
    check_precision,
    describe,
    make_table,
)
from app.evaluation.groups import GroupFaces, Part
from app.openvino import Processor
from model.commands import StoppedError, run
from model.data.face_set import UNLABELLED, FaceSet, load_face_set
from model.data.groups import GroupMembers, evaluation_groups
from model.data.sufficiency import holdings, refuse_small, short_of_calibration


def encode_all(runtime: EncoderRuntime, chips: npt.NDArray[np.uint8], *, batch: int = 64) -> Encodings:
    """Encodes uint8 [N, 112, 112, 3] in batches."""
    return Encodings.join([runtime.encode(chips[i : i + batch]) for i in range(0, len(chips), batch)])


def calibrate(
    runtime: EncoderRuntime,
    faces: FaceSet,
    description: str,
    crowding: Crowding,
    *,
    groups: Sequence[GroupMembers] = (),
    others: Sequence[EncoderRuntime] = (),
) -> Calibration:
    """Measures a runtime on labelled faces of identities that its encoder never saw.

    Each of ``groups`` is measured within itself. ``others`` are further ways to run the same encoder; their rates at
    the same thresholds are recorded. Raises ValueError where there are too few faces to calibrate.
    """
    chips = faces.images(np.arange(len(faces)))
    encodings, info = encode_all(runtime, chips), runtime.info
    labelled = LabelledEmbeddings(
        embeddings=encodings.embeddings,
        norms=encodings.norms,
        subject=np.unique(faces.identity, return_inverse=True)[1],
        family=faces.family,
        source=faces.source,
        face_side=faces.face_side,
    )
    otherwise = [AlternativeRun(o.info.runtime, o.info.precision, encode_all(o, chips).embeddings) for o in others]
    encoder = EncoderRun(info.name, info.version, info.sha256, info.runtime, info.precision)
    return make_table(
        labelled,
        encoder,
        description,
        fuse,
        crowding,
        groups=encode_groups(groups, runtime, crowding),
        others=otherwise,
    )


def precisions_of(encoder: EncoderWeights, has_bf16: bool) -> list[Precision]:
    """In which an encoder runs on a processor, the fastest first."""
    available = {Precision.BF16: has_bf16, Precision.INT8: bool(encoder.quantisation), Precision.F32: True}
    return [precision for precision, there in available.items() if there]


def add_precision(table: Calibration, runtime: EncoderRuntime, faces: FaceSet, crowding: Crowding) -> Calibration:
    """The table with a runtime's rates at the default threshold, on the faces that the table was measured on.

    Raises StoppedError where these are others, or where the table was measured with this very precision.
    """
    info, subject = runtime.info, np.unique(faces.identity, return_inverse=True)[1]
    if (len(faces), subject.max() + 1) != (table.data.faces, table.data.subjects):
        raise StoppedError(
            f"the table was measured on {table.data.faces} faces of {table.data.subjects} people, not on these "
            f"{len(faces)} of {subject.max() + 1}; give the same, or calibrate anew without --add"
        )
    measured = (table.data.runtime, table.data.precision)
    if measured == (info.runtime, info.precision):
        raise StoppedError(f"the table was measured in {info.precision}; --add takes another one")
    chips = faces.images(np.arange(len(faces)))
    other = AlternativeRun(info.runtime, info.precision, encode_all(runtime, chips).embeddings)
    check = check_precision(other, subject, crowding, table.default.threshold)
    kept = [p for p in table.precisions if (p.runtime, p.precision) != (info.runtime, info.precision)]
    return table.model_copy(update={"precisions": (*kept, check)})


def encode_groups(groups: Sequence[GroupMembers], runtime: EncoderRuntime, crowding: Crowding) -> list[GroupFaces]:
    """Embeds the faces of each group; a face in several groups is encoded once."""
    if not groups:
        return []
    faces = groups[0].faces
    wanted = np.unique(np.concatenate([part for group in groups for part in group.parts]))
    embeddings = encode_all(runtime, faces.images(wanted)).embeddings
    crowded = crowding(embeddings)

    def part(members: npt.NDArray[np.int64], person: npt.NDArray[np.int64]) -> Part:
        place = np.searchsorted(wanted, members)
        return Part(embeddings[place], crowded[place], np.unique(person[members], return_inverse=True)[1])

    return [
        GroupFaces(g.name, g.definition, [part(m, g.person) for m in g.parts], claimed=g.claimed, part_of=g.part_of)
        for g in groups
    ]


def refuse_trained_on(faces: FaceSet, encoder: EncoderWeights, split: str) -> None:
    """Raises StoppedError if the encoder was trained on any of these photographs; says so if that is not known."""
    known = f"encoder {encoder.name} {encoder.version}"
    if not encoder.trained_on:
        typer.echo(f"{known} has no record of what it was trained on: rates on those people would flatter it", err=True)
        return
    parts = np.array_split(np.arange(len(faces)), max(len(faces) // 4096, 1))
    seen = np.concatenate([were_trained_on(faces.images(part), encoder.trained_on) for part in parts])
    if seen.any():
        raise StoppedError(
            f"{known} was trained on {int(seen.sum())} of the {len(faces)} photographs of the split {split!r}, of "
            f"{len(np.unique(faces.identity[seen]))} people: its error rates on them would flatter it; take people who "
            "were kept out of its training"
        )


def main(
    faces: Annotated[Path, typer.Argument(help="folder written by model.data.prepare")],
    weights: Annotated[Path, typer.Argument(help="folder written by model.export; the table goes there")],
    split: Annotated[str, typer.Option(help="faces of identities that the encoder never saw")] = "heldout",
    precision: Annotated[Precision, typer.Option(help="arithmetic of the encoder")] = Precision.AUTO,
    add: Annotated[
        Precision | None, typer.Option(help="only check this arithmetic, at the default threshold of the table there")
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="go on with too few people, to try the commands")] = False,
) -> None:
    """Measures the encoder, overall and by group where origins are known, and writes ``calibration.json``."""
    loaded, everybody = load_weights(weights), load_face_set(faces)
    members = everybody.of_split(split)
    labelled = members.where(members.identity != UNLABELLED)
    if not small:
        refuse_small(short_of_calibration(holdings(labelled.identity)))
    refuse_trained_on(labelled, loaded, split)
    if add is not None:
        if precision is not Precision.AUTO or add is Precision.AUTO:
            raise StoppedError("--add names the arithmetic to check, not auto, and goes without --precision")
        before, other = load_calibration(weights, loaded.sha256), create_runtime(loaded, precision=add)
        table = add_precision(before, other, labelled, load_crowding(weights, before.cohort_sha256))
        (weights / CALIBRATION_FILE).write_text(table.model_dump_json(indent=1) + "\n")
        typer.echo(describe(table)[-1])
        return
    runtime = create_runtime(loaded, precision=precision)
    others = [
        create_runtime(loaded, precision=other)
        for other in precisions_of(loaded, Processor().has_bf16)
        if other is not runtime.info.precision
    ]
    sources = ", ".join(sorted(set(labelled.source.tolist())))
    crowding = crowding_beside(weights)
    table = calibrate(
        runtime,
        labelled,
        f"identities kept out of training; faces from {sources}",
        crowding,
        groups=evaluation_groups(everybody, split),
        others=others,
    )
    (weights / CALIBRATION_FILE).write_text(table.model_dump_json(indent=1) + "\n")
    for line in describe(table):
        typer.echo(line)


if __name__ == "__main__":
    run(main)
