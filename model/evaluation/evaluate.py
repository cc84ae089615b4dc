"""Evaluation of an encoder through the same code that serves it.

    python -m model.evaluation.evaluate run model/weights/tessera-l runs/reports/tessera-l \
        --faces runs/faces --lfw lfw.tar --cfp cfp-chips.zip
    python -m model.evaluation.evaluate run sface runs/reports/sface --faces runs/faces --lfw lfw.tar
    python -m model.evaluation.evaluate compare runs/reports/tessera-l runs/reports/sface --faces runs/faces
    python -m model.evaluation.evaluate table runs/reports/*
    python -m model.evaluation.evaluate curves docs/roc.svg runs/reports/* --faces runs/faces
    python -m model.evaluation.evaluate robustness runs/robustness --faces runs/faces --encoder model/weights/tessera-l

LFW and CFP are for reporting only; choices are made on the held-out people of the training pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import typer

from app.crowding import Crowding, NoCrowding, load_crowding
from app.decisions import Claim
from app.decisions.calibration import CALIBRATION_FILE, load_calibration
from app.encoding import Precision, RuntimeName, load_weights
from app.evaluation.bootstrap import REPLICATES, interval
from app.evaluation.pairs import all_pair_distances, can_show, tar_at_far
from app.evaluation.roc import Comparisons, all_comparisons, bootstrap_tar
from model import commands
from model.calibrate import refuse_trained_on
from model.data.face_set import UNLABELLED, FaceSet, load_face_set
from model.data.groups import LABELLED, SEXES
from model.evaluation.baselines import DLIB, SFACE, Encode, dlib_embeddings, load_encode
from model.evaluation.corruptions import CORRUPTIONS, corrupt
from model.evaluation.plots import distance_histogram, robustness_curves, roc_and_det
from model.evaluation.protocols import (
    Embeddings,
    LfwPairs,
    PairProtocol,
    cut_faces,
    identify,
    pair_distances,
    protocol_comparisons,
    read_cfp,
    read_lfw,
    ten_fold,
)
from model.evaluation.report import AllPairsResult, Estimate, PairResult, Report, SearchResult, markdown_table

REPORT_FILE = "report.json"
EMBEDDINGS_FILE = "embeddings.npz"
PAIR_FARS = (1e-2, 1e-3)
ALL_FARS = (1e-3, 1e-4, 1e-5)
SEARCH_FARS = (1e-3, 1e-4)
ROBUSTNESS_FACES = 1000
ROBUSTNESS_FAR = 1e-3
FEW_SUBJECTS = 30
FEW_OF_A_GROUP = 20
CFP_PARTS: tuple[tuple[str, str, Literal["FF", "FP"]], ...] = (("cfp_ff", "CFP-FF", "FF"), ("cfp_fp", "CFP-FP", "FP"))

app = typer.Typer(help=__doc__, no_args_is_help=True)

Vectors = npt.NDArray[np.float32]
FacesOption = Annotated[Path | None, typer.Option(help="folder written by model.data.prepare")]
LfwOption = Annotated[Path | None, typer.Option(help="tar file with the LFW photographs and pairs.txt")]
CfpOption = Annotated[Path | None, typer.Option(help="zip file with the aligned chips and the protocol of CFP")]


def _estimates(comparisons: Comparisons, fars: tuple[float, ...]) -> dict[str, Estimate]:
    """TAR at each FAR that the number of pairs can resolve."""
    shown = comparisons.shown(fars)
    replicates = bootstrap_tar(comparisons, shown)
    values = comparisons.tar_at_far(shown)
    return {
        f"{far:.0e}": Estimate.of(interval(value, replicates[:, i]))
        for i, (far, value) in enumerate(zip(shown, values, strict=True))
    }


def evaluate_pairs(protocol: PairProtocol, embeddings: Embeddings) -> tuple[PairResult, Comparisons]:
    """A pair protocol, from the embeddings of the photographs in which a face was found."""
    distances = pair_distances(embeddings, protocol.names)
    accuracy = ten_fold(distances, protocol.mated, protocol.fold)
    comparisons = protocol_comparisons(protocol, distances)
    result = PairResult(
        pairs=len(distances),
        faces_missed=len({n for pair in protocol.names for n in pair} - embeddings.keys()),
        accuracy=accuracy.mean,
        standard_error=accuracy.standard_error,
        threshold=accuracy.threshold,
        tar=_estimates(comparisons, PAIR_FARS),
    )
    return result, comparisons


def evaluate_all_pairs(
    vectors: Vectors, identity: npt.NDArray[np.int64], fars: tuple[float, ...]
) -> tuple[AllPairsResult, Comparisons]:
    """Every face against every other: unit-length [N, D] and int64 [N]."""
    comparisons = all_comparisons(vectors, identity)
    result = AllPairsResult(
        subjects=comparisons.subjects,
        faces=len(vectors),
        mated=len(comparisons.mated),
        non_mated=round(comparisons.non_mated_total(np.ones(comparisons.subjects))),
        tar=_estimates(comparisons, fars),
    )
    return result, comparisons


def _encode_named(encode: Encode, chips: dict[str, npt.NDArray[np.uint8]]) -> Embeddings:
    return dict(zip(chips, encode(np.stack(list(chips.values()))), strict=True))


def _by_source(members: FaceSet, vectors: Vectors) -> dict[str, AllPairsResult]:
    """All pairs within each source that has enough people with several faces for a meaningful rate."""
    results = {}
    for source in sorted(set(members.source.tolist())):
        rows = members.source == source
        if (np.unique(members.identity[rows], return_counts=True)[1] > 1).sum() >= FEW_SUBJECTS:
            results[source], _ = evaluate_all_pairs(vectors[rows], members.identity[rows], ALL_FARS[:1])
    return results


def _within_groups(everybody: FaceSet, encode: Encode) -> dict[str, AllPairsResult]:
    """All pairs within each origin and sex of the people with several faces who are neither trained on nor held out."""
    if not (everybody.split == LABELLED).any():
        return {}
    members = everybody.of_split(LABELLED)
    members = members.where(members.identity != UNLABELLED)
    vectors, results = encode(members.images(np.arange(len(members)))), {}
    for origin in sorted(set(members.origin.tolist())):
        for sex, kind in SEXES.items():
            rows = (members.origin == origin) & (members.sex == sex)
            if (np.unique(members.identity[rows], return_counts=True)[1] > 1).sum() >= FEW_OF_A_GROUP:
                results[f"{origin} {kind}"], _ = evaluate_all_pairs(vectors[rows], members.identity[rows], ALL_FARS[:1])
    return results


def _load_heldout(faces: Path) -> FaceSet:
    """The labelled held-out people."""
    members = load_face_set(faces).of_split("heldout")
    return members.where(members.identity >= 0)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What `run` has gathered so far: report entries, curves by title, arrays to keep by name."""

    parts: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Comparisons] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    def lfw(self, data: LfwPairs, named: Embeddings) -> None:
        """View 2, all pairs, and search."""
        self._pairs("lfw", "LFW View 2", data, named)
        names = sorted(named)
        vectors = np.stack([named[n] for n in names])
        subject = np.unique([data.subject[n] for n in names], return_inverse=True)[1]
        self.parts["lfw_all"], self.curves["LFW all pairs"] = evaluate_all_pairs(vectors, subject, SEARCH_FARS)
        self.parts["lfw_search"] = SearchResult(**asdict(identify(vectors, subject)))

    def cfp(self, archive: Path, encode: Encode) -> None:
        """Frontal faces, and frontal against profile faces."""
        for part, title, kind in CFP_PARTS:
            protocol, chips = read_cfp(archive, kind)
            self._pairs(part, title, protocol, _encode_named(encode, chips))

    def _pairs(self, part: str, title: str, protocol: PairProtocol, named: Embeddings) -> None:
        self.parts[part], self.curves[title] = evaluate_pairs(protocol, named)
        self.kept.update({f"{part}_names": np.array(list(named)), part: np.stack(list(named.values()))})

    def heldout(self, members: FaceSet, vectors: Vectors) -> None:
        """All pairs of the held-out people: with relatives, without, and within each source."""
        self.parts["heldout"], self.curves["held-out"] = evaluate_all_pairs(vectors, members.identity, ALL_FARS)
        pairs = all_pair_distances(vectors, members.identity, members.family)
        rates = {f"{far:.0e}": tar_at_far(pairs, far) for far in ALL_FARS if can_show(pairs.non_mated, far)}
        self.parts.update(heldout_unrelated=rates, heldout_by_source=_by_source(members, vectors))
        self.kept["heldout"] = vectors


@app.command()
def run(
    encoder: Annotated[str, typer.Argument(help="folder with encoder.onnx and encoder.json, or sface, or dlib")],
    out: Annotated[Path, typer.Argument(help="folder for report.json, the embeddings and the plots")],
    faces: FacesOption = None,
    lfw: LfwOption = None,
    cfp: CfpOption = None,
    runtime: Annotated[RuntimeName, typer.Option(help="library that executes the encoder")] = RuntimeName.OPENVINO,
    precision: Annotated[Precision, typer.Option(help="arithmetic of the encoder")] = Precision.AUTO,
) -> None:
    """Measures one encoder on the given data. dlib aligns photographs itself, so it is measured on LFW only."""
    if encoder == DLIB and (faces or cfp):
        raise typer.BadParameter("dlib cuts faces from photographs; of --faces and --cfp there are only aligned chips")
    if not (faces or lfw or cfp):
        raise typer.BadParameter("there is nothing to measure on: give --faces, --lfw or --cfp")
    if faces and encoder != SFACE:
        refuse_trained_on(_load_heldout(faces), load_weights(Path(encoder)), "heldout")
    thresholds, crowding = _decided_by(Path(encoder))
    out.mkdir(parents=True, exist_ok=True)
    name, encode = ("dlib", None) if encoder == DLIB else load_encode(encoder, runtime, precision)
    measured = _Measured(parts={"encoder": name})
    if lfw:
        data = read_lfw(lfw)
        if encode:
            measured.lfw(data, _encode_named(encode, cut_faces(data.photographs)))
        else:
            measured.lfw(data, dlib_embeddings(data.photographs))
    if cfp and encode:
        measured.cfp(cfp, encode)
    if faces and encode:
        members = _load_heldout(faces)
        vectors = encode(members.images(np.arange(len(members))))
        measured.heldout(members, vectors)
        measured.parts["within_groups"] = _within_groups(load_face_set(faces), encode)
        pairs = all_pair_distances(vectors, members.identity, crowding=crowding(vectors))
        sample = pairs.non_mated[:: max(len(pairs.non_mated) // 1_000_000, 1)]
        distance_histogram(pairs.mated, sample, thresholds, out / "distances.svg", "held-out people, all pairs")
    report = Report.model_validate(measured.parts)
    (out / REPORT_FILE).write_text(report.model_dump_json(indent=2) + "\n")
    np.savez_compressed(out / EMBEDDINGS_FILE, **measured.kept)
    roc_and_det(measured.curves, out / "roc.svg", name)
    typer.echo(markdown_table({name: report}))
    typer.echo(report.model_dump_json(indent=2, exclude={"heldout_by_source", "within_groups"}))


def _decided_by(encoder: Path) -> tuple[dict[str, float], Crowding]:
    """The thresholds that are served with an encoder, by what they are for, and the crowding that they count on.

    None, and no crowding, without a calibration beside it.
    """
    if not (encoder / CALIBRATION_FILE).is_file():
        return {}, NoCrowding()
    calibration = load_calibration(encoder, load_weights(encoder).sha256)
    bounds = {rate: calibration.bound(Claim.EVERY_GROUP, rate, 1) for rate in (1e-2, 1e-3, 1e-4, 3e-5)}
    thresholds = {f"FMR {rate:.0e}": bound.threshold for rate, bound in bounds.items() if bound is not None}
    return thresholds, load_crowding(encoder, calibration.cohort_sha256)


def _heldout_comparisons(report: Path, faces: Path) -> Comparisons:
    """All pairs of the held-out people, from the embeddings stored by `run`."""
    identity, vectors = _load_heldout(faces).identity, np.load(report / EMBEDDINGS_FILE).get("heldout")
    if vectors is None or len(vectors) != len(identity):
        raise typer.BadParameter(f"{report} was not measured on the held-out people of {faces}; `run` it with --faces")
    return all_comparisons(vectors, identity)


def _require_own_names(reports: Sequence[Path]) -> None:
    if len({path.name for path in reports}) < len(reports):
        raise typer.BadParameter("two folders of one name cannot be told apart")


@app.command()
def table(reports: Annotated[list[Path], typer.Argument(help="folders that `run` wrote")]) -> None:
    """Prints reports side by side, one row each."""
    _require_own_names(reports)
    rows = {path.name: Report.model_validate_json((path / REPORT_FILE).read_text()) for path in reports}
    typer.echo(markdown_table(rows))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="folder that `run` wrote")],
    second: Annotated[Path, typer.Argument(help="another one, of the same data")],
    faces: FacesOption = None,
    lfw: LfwOption = None,
    cfp: CfpOption = None,
) -> None:
    """Prints by how much the first is better, with intervals: both use the same bootstrap subjects."""
    if not (faces or lfw or cfp):
        raise typer.BadParameter("there is nothing to compare on: give --faces, --lfw or --cfp")
    kept = [np.load(path / EMBEDDINGS_FILE) for path in (first, second)]
    sets: dict[str, tuple[list[Comparisons], tuple[float, ...]]] = {}
    if faces:
        sets["held-out"] = [_heldout_comparisons(path, faces) for path in (first, second)], ALL_FARS
    protocols: list[tuple[str, str, PairProtocol]] = []
    if lfw:
        protocols.append(("lfw", "LFW View 2", read_lfw(lfw)))
    if cfp:
        protocols += [(part, title, read_cfp(cfp, kind)[0]) for part, title, kind in CFP_PARTS]
    for key, title, protocol in protocols:
        if lacking := [str(path) for path, k in zip((first, second), kept, strict=True) if key not in k]:
            raise typer.BadParameter(f"{lacking[0]} was not measured on {title}; `run` it with --{key[:3]}")
        named = [dict(zip(k[f"{key}_names"].tolist(), k[key], strict=True)) for k in kept]
        both = [protocol_comparisons(protocol, pair_distances(n, protocol.names)) for n in named]
        sets[title] = both, PAIR_FARS
    for title, (both, wanted) in sets.items():
        fars = both[0].shown(wanted)
        values = [c.tar_at_far(fars) for c in both]
        replicates = [bootstrap_tar(c, fars) for c in both]
        for i, far in enumerate(fars):
            shown = interval(values[0][i] - values[1][i], replicates[0][:, i] - replicates[1][:, i])
            typer.echo(
                f"{title}, TAR at FAR {far:.0e}: {100 * values[0][i]:.2f} - {100 * values[1][i]:.2f} = "
                f"{100 * shown.value:+.2f} [{100 * shown.low:+.2f}, {100 * shown.high:+.2f}] points, {REPLICATES} draws"
            )


@app.command()
def curves(
    picture: Annotated[Path, typer.Argument(help="SVG file to write")],
    reports: Annotated[list[Path], typer.Argument(help="folders that `run` wrote")],
    faces: Annotated[Path, typer.Option(help="folder written by model.data.prepare")],
) -> None:
    """Draws ROC and DET of several encoders on the held-out people into one figure."""
    _require_own_names(reports)
    comparisons = {path.name: _heldout_comparisons(path, faces) for path in reports}
    picture.parent.mkdir(parents=True, exist_ok=True)
    roc_and_det(comparisons, picture, "held-out people, all pairs")


@app.command()
def robustness(
    out: Annotated[Path, typer.Argument(help="folder for robustness.svg")],
    faces: Annotated[Path, typer.Option(help="folder written by model.data.prepare")],
    encoder: Annotated[list[str], typer.Option(help="folder with encoder.onnx, or sface; may be given repeatedly")],
) -> None:
    """Share of held-out people still recognised when the probe is corrupted.

    Only the probes are corrupted. The threshold is the one that accepts a share of 1e-3 of the uncorrupted non-mated
    pairs, as a service would have it set.
    """
    _require_own_names([Path(e) for e in encoder])
    members = _load_heldout(faces)
    rows = np.sort(np.random.default_rng(0).permutation(len(members))[:ROBUSTNESS_FACES])
    clean, identity = members.images(np.arange(len(members))), members.identity
    mated = (identity[rows, None] == identity[None, :]) & (rows[:, None] != np.arange(len(members))[None, :])
    curves: dict[str, dict[str, dict[float, float]]] = {name: {} for name in CORRUPTIONS}
    encoders = {Path(e).name: load_encode(e)[1] for e in encoder}
    gallery = {name: encode(clean) for name, encode in encoders.items()}
    limits = {n: all_comparisons(v, identity) for n, v in gallery.items()}
    for kind, corruption in CORRUPTIONS.items():
        for strength in corruption.strengths:
            changed = corrupt(clean[rows], kind, strength)
            for name, encode in encoders.items():
                distances = 2 - 2 * encode(changed) @ gallery[name].T
                limit = limits[name].threshold_at_far(ROBUSTNESS_FAR)
                rate = float((distances[mated] < limit).mean())
                curves[kind].setdefault(name, {})[strength] = rate
                typer.echo(f"{corruption.title} {strength:g}: {name} {100 * rate:.1f} %")
    out.mkdir(parents=True, exist_ok=True)
    titles = {kind: p.title for kind, p in CORRUPTIONS.items()}
    robustness_curves(curves, titles, out / "robustness.svg")


if __name__ == "__main__":
    commands.run(app)
