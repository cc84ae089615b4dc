"""Do the claimed error rates hold? Claimed against observed rates, on people whom the calibration never saw.

    python -m benchmarks.decisions lfw.tar --faces runs/faces

Three parts. (1) LFW, all photographs against all others, at the thresholds of ``calibration.json``, for both claims.
(2) Over HTTP, people of LFW and, separately, the held-out people: they are enrolled with one photograph each into
collections of growing size; strangers and their other photographs search at several targets, and are compared one to
one. (3) Over HTTP, people of one origin and sex, compared one to one within their group only. A claim is the requested
target; it holds where the lower bound of the observed rate's interval is not above it. ``benchmarks.groups`` calibrates
on half of the people and observes the other half.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import numpy.typing as npt
import typer
from PIL import Image
from scipy.stats import binomtest
from scipy.stats import t as student

from app.crowding import load_crowding
from app.decisions import Calibration, Claim, load_calibration
from app.encoding import create_runtime, load_weights
from app.evaluation.bootstrap import Interval, bootstrap_weights, interval
from app.evaluation.rates import count, single_templates
from app.settings import Settings
from benchmarks.lfw_service import CLIENTS, people, send
from benchmarks.running import service
from benchmarks.tables import ResultsOption, percent, show
from model.calibrate import encode_all
from model.data.face_set import UNLABELLED, FaceSet, load_face_set
from model.data.groups import LABELLED, SEXES
from model.evaluation.protocols import cut_faces, read_lfw

TARGETS = (1e-2, 1e-3, 1e-4, 3e-5)
SIZES = (30, 100, 300, 1000)
SEARCH_TARGETS = (0.1, 0.01)
MOST_PHOTOGRAPHS = 12
GALLERIES = 8
PROBES = 1600
VERIFIED = 800
VERIFY_TARGETS = (1e-2, 1e-3, 1e-4)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """A claim and the observed rate."""

    claimed: float
    observed: Interval

    @property
    def holds(self) -> bool:
        """Whether the observation is consistent with the claim."""
        return self.observed.low <= self.claimed


def wilson(part: int, whole: int) -> Interval:
    """A rate with its 95 % interval (Wilson 1927), for trials that share no subject on one side."""
    found = binomtest(part, max(whole, 1)).proportion_ci(method="wilson")
    return Interval(part / max(whole, 1), float(found.low), float(found.high))


@dataclass(frozen=True, slots=True)
class Faces:
    """Embeddings with their subjects: unit-length [N, D], subject [N], crowding [N]."""

    embeddings: Floats
    subject: Ints
    crowding: Floats


def by_people(pairs: Sequence[tuple[str, str]], matched: npt.NDArray[np.bool_]) -> Interval:
    """A share of comparisons, bool [N], with its interval by a bootstrap over people: look-alikes match repeatedly."""
    number = {name: i for i, name in enumerate(sorted({name for pair in pairs for name in pair}))}
    first, second = np.array([[number[a], number[b]] for a, b in pairs]).T
    shares = []
    for weights in bootstrap_weights(len(number)):
        drawn = weights[first] * weights[second]
        shares.append((drawn @ matched) / max(drawn.sum(), 1.0))
    found = interval(float(matched.mean()), np.array(shares))
    # Without any match the bootstrap has no spread: fall back to independent trials.
    return found if matched.any() else wilson(0, len(pairs))


def by_person(names: Sequence[str], missed: npt.NDArray[np.bool_]) -> Interval:
    """A share of comparisons of one person each, bool [N], with its interval by a bootstrap over people."""
    person = np.unique(names, return_inverse=True)[1]
    if not missed.any():  # the bootstrap has no spread then: fall back to one trial a person
        return wilson(0, len(set(names)))
    own, of_all = np.bincount(person, weights=missed), np.bincount(person)
    weights = np.array(bootstrap_weights(len(own)))
    return interval(float(missed.mean()), (weights @ own) / (weights @ of_all))


def observe(faces: Faces, thresholds: list[float]) -> list[tuple[Interval, Interval]]:
    """FMR and FNMR of all pairs at each threshold."""
    order = np.argsort(thresholds)
    blocks = single_templates(faces.embeddings, faces.subject, faces.crowding)
    counts = count(blocks, int(faces.subject.max()) + 1, [thresholds[i] for i in order])
    rates = list(zip(*counts.intervals(), strict=True))
    return [rates[int(np.flatnonzero(order == i)[0])] for i in range(len(thresholds))]


def all_pairs(calibration: Calibration, faces: Faces, claim: Claim, results: Path | None = None) -> list[Row]:
    """Prints FMR and FNMR of all pairs, at the thresholds that keep a claim."""
    bounds = {t: b for t in TARGETS if (b := calibration.bound(claim, t, 1)) is not None}
    observed = observe(faces, [bound.threshold for bound in bounds.values()])
    lines = [
        "| claimed FMR, % | threshold | for | observed FMR, % | observed FNMR, % | holds |",
        "|---|---|---|---|---|---|",
    ]
    rows = list[Row]()
    for (target, bound), (fmr, fnmr) in zip(bounds.items(), observed, strict=True):
        rows.append(row := Row(target, fmr))
        lines.append(
            f"| {100 * row.claimed:.3g} | {bound.threshold:.3f} | {bound.group or 'all pairs'} | {percent(fmr)} | "
            f"{percent(fnmr)} | {'yes' if row.holds else 'no'} |"
        )
    show(lines, f"lfw-claims-{claim}", results)
    return rows


@dataclass(frozen=True, slots=True)
class Crowd:
    """Encoded photographs of people who may be enrolled, two or more each, and of strangers to them."""

    people: dict[str, list[bytes]]
    strangers: list[bytes]


def crowd_of_lfw(photographs: dict[str, bytes]) -> Crowd:
    """People with a single photograph are the strangers."""
    everyone = people(photographs)
    several = {name: images for name, images in everyone.items() if len(images) > 1}
    return Crowd(several, [images[0] for images in everyone.values() if len(images) == 1][:PROBES])


def crowd_of_heldout(members: FaceSet) -> Crowd:
    """Half of the people, chosen at random, are strangers; the chips serve as photographs."""
    order = np.random.default_rng(1).permutation(np.unique(members.identity))
    half = len(order) // 2
    rows = {str(i): np.flatnonzero(members.identity == i) for i in order}
    images = {name: [_png(chip) for chip in members.images(own[:MOST_PHOTOGRAPHS])] for name, own in rows.items()}
    strangers = [image for name in map(str, order[half:]) for image in images[name]]
    known = {name: images[name] for name in map(str, order[:half]) if len(images[name]) > 1}
    return Crowd(known, strangers[:PROBES])


def crowds_of_groups(faces: FaceSet) -> Iterator[tuple[str, Crowd]]:
    """People with several faces and known origin and sex, grouped by both; nobody is a stranger."""
    labelled = faces.where(faces.split == LABELLED)
    for origin in sorted(set(labelled.origin.tolist())):
        for sex, kind in SEXES.items():
            members = labelled.where((labelled.origin == origin) & (labelled.sex == sex))
            rows = {str(i): np.flatnonzero(members.identity == i) for i in np.unique(members.identity)}
            images = {name: [_png(c) for c in members.images(own[:MOST_PHOTOGRAPHS])] for name, own in rows.items()}
            if images:
                yield f"{origin} {kind}", Crowd(images, [])


def _png(chip: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(chip).save(file, "PNG")
    return file.getvalue()


def searches(crowd: Crowd) -> Iterator[Row]:
    """Prints FPIR and FNIR in collections of growing size, over HTTP."""
    typer.echo("| subjects | claimed FPIR, % | observed FPIR, % | FNIR, % | of them inconclusive, % | holds |")
    typer.echo("|---|---|---|---|---|---|")
    with service() as url, httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(CLIENTS) as pool:
        for size in (s for s in SIZES if s <= len(crowd.people)):
            galleries = [_enrolled(client, pool, crowd, size, draw) for draw in range(GALLERIES)]
            for target in SEARCH_TARGETS:
                ask = {"target_fpir": str(target), "top_k": "1"}
                least = _refused(client, galleries[0], ask)
                if least is None:
                    yield _search_row(size, target, [_searched(client, pool, gallery, ask) for gallery in galleries])
                else:
                    typer.echo(f"| {size} | {100 * target:.3g} | refused: {100 * least:.3g} at least | | | |")


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A collection of random people, their other photographs by name, and strangers."""

    collection: str
    mated: list[tuple[str, bytes]]
    strangers: list[bytes]


def _enrolled(client: httpx.Client, pool: ThreadPoolExecutor, crowd: Crowd, size: int, draw: int) -> Enrolled:
    chooser, collection = random.Random(draw), f"people-{size}-{draw}"
    client.post("/collections", json={"id": collection}).raise_for_status()
    names = chooser.sample(sorted(crowd.people), size)
    fields = {"collection": collection, "face_policy": "largest", "report_duplicates": "false"}
    statuses = pool.map(lambda n: send(client, "/enroll", crowd.people[n][0], subject_id=n, **fields)[0], names)
    known = [name for name, status in zip(names, statuses, strict=True) if status == httpx.codes.CREATED]
    mated = [(name, image) for name in known for image in crowd.people[name][1:]]
    share = PROBES // GALLERIES
    return Enrolled(
        collection,
        chooser.sample(mated, min(share, len(mated))),
        chooser.sample(crowd.strangers, min(share, len(crowd.strangers))),
    )


def _refused(client: httpx.Client, gallery: Enrolled, ask: dict[str, str]) -> float | None:
    """The smallest target supported at this gallery size, if the requested one is not supported."""
    status, answer = send(client, "/identify", gallery.strangers[0], collection=gallery.collection, **ask)
    if status == httpx.codes.UNPROCESSABLE_ENTITY and answer["code"] == "target_unsupported":
        return float(answer["smallest_supported"])
    return None


Answers = list[dict[str, Any]]


def _searched(
    client: httpx.Client, pool: ThreadPoolExecutor, gallery: Enrolled, ask: dict[str, str]
) -> tuple[Answers, list[tuple[str, dict[str, Any]]]]:
    """Answers to the strangers' probes, and to those of enrolled people with their names."""
    fields = ask | {"collection": gallery.collection}
    strangers = pool.map(lambda image: send(client, "/identify", image, **fields)[1], gallery.strangers)
    mated = pool.map(lambda p: (p[0], send(client, "/identify", p[1], **fields)[1]), gallery.mated)
    return list(strangers), list(mated)


def verifications(crowd: Crowd) -> Iterator[Row]:
    """Prints FMR and FNMR over HTTP: each photograph with its own subject and with some others."""
    several = sorted(crowd.people)[:VERIFIED]
    typer.echo("| claimed FMR, % | observed FMR, % | FNMR, % | of them inconclusive, % | holds |")
    typer.echo("|---|---|---|---|---|")
    with service() as url, httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(CLIENTS) as pool:
        fields = {"face_policy": "largest"}
        statuses = pool.map(
            lambda name: send(client, "/enroll", crowd.people[name][0], subject_id=name, **fields)[0], several
        )
        known = [name for name, status in zip(several, statuses, strict=True) if status == httpx.codes.CREATED]
        own = [(name, image) for name in known for image in crowd.people[name][1:]][:PROBES]
        chooser = random.Random(0)
        strange = [(name, other, image) for name, image in own for other in chooser.sample(known, 4) if other != name]
        others = [(other, image) for _, other, image in strange]
        for target in VERIFY_TARGETS:
            ask = {"target_fmr": str(target)}
            mated, non_mated = (
                list(pool.map(lambda p, a=ask: send(client, "/verify", p[1], subject_id=p[0], **a)[1], pairs))
                for pairs in (own, others)
            )
            false = np.array([answer.get("decision") == "match" for answer in non_mated])
            missed = np.array([answer.get("decision") != "match" for answer in mated])
            unsure = sum(answer.get("decision") == "inconclusive" for answer in mated)
            row = Row(target, by_people([(name, other) for name, other, _ in strange], false))
            misses = by_person([name for name, _ in own], missed)
            typer.echo(
                f"| {100 * target:.3g} | {percent(row.observed)} | {percent(misses)} | "
                f"{100 * unsure / len(mated):.3g} | {'yes' if row.holds else 'no'} |"
            )
            yield row


def mean_of(rates: Sequence[float]) -> Interval:
    """The mean over galleries with its 95 % interval (Student's t): results vary from gallery to gallery."""
    mean = float(np.mean(rates))
    half = float(student.ppf(0.975, len(rates) - 1) * np.std(rates, ddof=1) / np.sqrt(len(rates)))
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def _search_row(size: int, target: float, galleries: Sequence[tuple[Answers, list[tuple[str, dict[str, Any]]]]]) -> Row:
    rates = [np.mean([a["decision"] == "match" for a in found if "decision" in a]) for found, _ in galleries]
    own = [answer for _, mated in galleries for answer in mated]
    missed = np.array([a.get("subject_id") != name for name, a in own])
    unsure = sum(a.get("decision") == "inconclusive" for _, a in own)
    row, misses = Row(target, mean_of([float(rate) for rate in rates])), by_person([name for name, _ in own], missed)
    typer.echo(
        f"| {size} | {100 * target:.3g} | {percent(row.observed)} | {percent(misses)} | "
        f"{100 * unsure / max(len(own), 1):.3g} | {'yes' if row.holds else 'no'} |"
    )
    return row


class Part(StrEnum):
    """Parts that can be measured separately."""

    ALL_PAIRS = "all-pairs"
    SEARCHES = "searches"
    COMPARISONS = "comparisons"
    GROUPS = "groups"


def over_http(parts: Sequence[Part], photographs: dict[str, bytes], faces: FaceSet) -> Iterator[tuple[str, list[Row]]]:
    """The rows measured on the running service, by name."""
    members = faces.of_split("heldout")
    members = members.where(members.identity != UNLABELLED)
    crowds = {"LFW": crowd_of_lfw(photographs), "held-out": crowd_of_heldout(members)}
    for name, crowd in crowds.items():
        if Part.SEARCHES in parts:
            typer.echo(f"\n{name} through HTTP: searches")
            yield f"{name}, searches over HTTP (FPIR)", list(searches(crowd))
    compared = dict(crowds) if Part.COMPARISONS in parts else {}
    if Part.GROUPS in parts:
        compared |= dict(crowds_of_groups(faces))
    for name, crowd in compared.items():
        typer.echo(f"\n{name} through HTTP: comparisons")
        yield f"{name}, comparisons over HTTP", list(verifications(crowd))


def read_rows(kept: Path | None) -> dict[str, list[Row]]:
    """The rows stored by an earlier run, by name."""
    if kept is None or not kept.is_file():
        return {}
    found: dict[str, list[dict[str, Any]]] = json.loads(kept.read_text())
    return {name: [Row(row["claimed"], Interval(**row["observed"])) for row in rows] for name, rows in found.items()}


def main(
    archive: Annotated[Path, typer.Argument(help="tar file with the LFW photographs and pairs.txt")],
    faces: Annotated[Path, typer.Option(help="folder written by model.data.prepare")],
    kept: Annotated[Path | None, typer.Option(help="JSON file of the rows; those of other parts stay in it")] = None,
    results: ResultsOption = None,
    part: Annotated[list[Part] | None, typer.Option(help="measure only this; may be repeated")] = None,
) -> None:
    """Prints the tables, and exits with 1 if a claim does not hold."""
    parts = part or list(Part)
    directory = Settings().encoding.directory
    weights = load_weights(directory)
    calibration, runtime = load_calibration(directory, weights.sha256), create_runtime(weights)
    crowding = load_crowding(directory, calibration.cohort_sha256)
    lfw = read_lfw(archive)
    chips = cut_faces(lfw.photographs)
    subject = np.unique([lfw.subject[name] for name in chips], return_inverse=True)[1]
    typer.echo(f"encoder {weights.name} {weights.version}; LFW, all pairs of {len(chips)} photographs")
    embeddings = encode_all(runtime, np.stack(list(chips.values()))).embeddings
    lfw_faces = Faces(embeddings, subject, crowding(embeddings))
    rows = read_rows(kept)
    if Part.ALL_PAIRS in parts:
        for claim in Claim:
            typer.echo(f"\nclaim {claim}")
            rows[f"LFW, all pairs, {claim}"] = all_pairs(calibration, lfw_faces, claim, results)
    rows |= dict(over_http(parts, lfw.photographs, load_face_set(faces)))
    if kept:
        kept.write_text(json.dumps({name: [asdict(row) for row in found] for name, found in rows.items()}, indent=1))
    refuted = sum(not row.holds for found in rows.values() for row in found)
    if refuted:
        typer.echo(f"{refuted} claims do not hold")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
