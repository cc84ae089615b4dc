"""Do the rates that are claimed hold? Claimed against observed, on people whom the calibration never saw.

    python -m benchmarks.decisions lfw.tar --faces runs/faces --plot docs/claims.svg

Three parts. (1) LFW, all photographs with all others, at the thresholds of ``calibration.json``. (2) The held-out
people themselves, cut in halves at random: one half is calibrated on, the other observed. (3) Through HTTP, people of
LFW and, apart, the held-out ones: they are enrolled with one photograph each into collections of growing size;
strangers and their other photographs search at several targets, and are compared one to one. A claim is the target that
was asked for; it holds where the lower bound of the observed rate's interval is not above it.
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
from scipy.stats import t as student

from app.decisions import Calibration, Estimate, load_calibration
from app.encoding import create_runtime, load_weights
from app.measuring.draws import Interval
from app.measuring.rates import count, single_templates
from app.measuring.table import measure_curve
from app.settings import Settings
from benchmarks.lfw_service import CLIENTS, people, send
from benchmarks.running import service
from model.calibrate import encode_all
from model.data import UNLABELLED, FaceSet, load_face_set
from model.exams import cut_faces, read_lfw
from model.plots import TradeOff, claimed_against_observed

TARGETS = (1e-2, 1e-3, 1e-4, 3e-5)
SPLITS = 10
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
    """A claim and what was observed."""

    claimed: float
    observed: Interval

    @property
    def holds(self) -> bool:
        """Whether the observation does not refute the claim."""
        return self.observed.low <= self.claimed


def wilson(part: int, whole: int) -> Interval:
    """A share with its 95 % interval (Wilson 1927), for trials that share no subject on one side."""
    z, n = 1.96, max(whole, 1)
    share = part / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def observe(embeddings: Floats, subject: Ints, thresholds: list[float]) -> list[tuple[Interval, Interval]]:
    """False match and false non-match rates of all pairs at each threshold."""
    order = np.argsort(thresholds)
    counts = count(single_templates(embeddings, subject), int(subject.max()) + 1, [thresholds[i] for i in order])
    rates = list(zip(*counts.intervals(), strict=True))
    return [rates[int(np.flatnonzero(order == i)[0])] for i in range(len(thresholds))]


def percent(rate: Interval | Estimate) -> str:
    """Such as ``1.23 [1.10, 1.35]``."""
    return f"{100 * rate.value:.3g} [{100 * rate.low:.3g}, {100 * rate.high:.3g}]"


def all_pairs(calibration: Calibration, embeddings: Floats, subject: Ints) -> Iterator[Row]:
    """Prints the rates of one comparison on all pairs, at the calibrated thresholds."""
    points = {t: p for t in TARGETS if (p := calibration.curve(1).at_rate(t)) is not None}
    observed = observe(embeddings, subject, [p.threshold for p in points.values()])
    typer.echo(
        "| claimed FMR, % | threshold | calibrated FMR, % | observed FMR, % | calibrated FNMR, % | observed FNMR, % | "
        "holds |"
    )
    typer.echo("|---|---|---|---|---|---|---|")
    for (target, point), (fmr, fnmr) in zip(points.items(), observed, strict=True):
        row = Row(target, fmr)
        typer.echo(
            f"| {100 * row.claimed:.3g} | {point.threshold:.3f} | {percent(point.false_match_rate)} | {percent(fmr)} | "
            f"{percent(point.false_non_match_rate)} | {percent(fnmr)} | {'yes' if row.holds else 'no'} |"
        )
        yield row


def trade_offs(calibration: Calibration, embeddings: Floats, subject: Ints) -> dict[str, TradeOff]:
    """What is calibrated, and what all these pairs give at the same thresholds: FMR and FNMR, for a plot."""
    points = [p for p in calibration.curve(1).operating_points if p.claimed_fmr <= TARGETS[0] * (1 + 1e-9)]
    observed = observe(embeddings, subject, [p.threshold for p in points])
    return {
        "held-out people (calibration)": [(p.false_match_rate, p.false_non_match_rate) for p in points],
        "LFW, all pairs": [(fmr, fnmr) for fmr, fnmr in observed if fmr.value > 0],
    }


def halves(embeddings: Floats, subject: Ints) -> Iterator[Row]:
    """Prints the rates of one half of the people at thresholds taken from the other half, for several halvings."""
    subjects = int(subject.max()) + 1
    typer.echo("| claimed FMR, % | observed FMR, %, median of the halves | halves in which the claim holds |")
    typer.echo("|---|---|---|")
    found: dict[float, list[Row]] = {target: [] for target in TARGETS}
    for split in range(SPLITS):
        first = np.isin(subject, np.random.default_rng(split).permutation(subjects)[: subjects // 2])
        mine, other = (np.unique(subject[part], return_inverse=True)[1] for part in (first, ~first))
        curve = measure_curve(single_templates(embeddings[first], mine), int(mine.max()) + 1, 1)
        points = {t: p for t in TARGETS if (p := curve.at_rate(t)) is not None}
        if not points:
            continue
        rates = observe(embeddings[~first], other, [p.threshold for p in points.values()])
        for target, (fmr, _) in zip(points, rates, strict=True):
            found[target].append(Row(target, fmr))
    for target, rows in found.items():
        if rows:
            middle = float(np.median([row.observed.value for row in rows]))
            typer.echo(f"| {100 * target:.3g} | {100 * middle:.3g} | {sum(r.holds for r in rows)} of {len(rows)} |")
            yield from rows


@dataclass(frozen=True, slots=True)
class Crowd:
    """Photographs, encoded, of people who may be enrolled, two or more of each, and of strangers to them."""

    people: dict[str, list[bytes]]
    strangers: list[bytes]


def crowd_of_lfw(photographs: dict[str, bytes]) -> Crowd:
    """Who has one photograph only is a stranger."""
    everyone = people(photographs)
    several = {name: images for name, images in everyone.items() if len(images) > 1}
    return Crowd(several, [images[0] for images in everyone.values() if len(images) == 1][:PROBES])


def crowd_of_heldout(members: FaceSet) -> Crowd:
    """Half of the people, chosen at random, are strangers; the aligned faces are the photographs."""
    order = np.random.default_rng(1).permutation(np.unique(members.identity))
    half = len(order) // 2
    rows = {str(i): np.flatnonzero(members.identity == i) for i in order}
    images = {name: [_png(chip) for chip in members.images(own[:MOST_PHOTOGRAPHS])] for name, own in rows.items()}
    strangers = [image for name in map(str, order[half:]) for image in images[name]]
    known = {name: images[name] for name in map(str, order[:half]) if len(images[name]) > 1}
    return Crowd(known, strangers[:PROBES])


def _png(chip: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(chip).save(file, "PNG")
    return file.getvalue()


def searches(crowd: Crowd) -> Iterator[Row]:
    """Prints how often strangers find somebody, and people are not found, in collections of growing size, over HTTP."""
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
    """A collection of random people, other photographs of them, by name, and strangers."""

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
    """The smallest rate that is supported among so many, where the one that is asked for is not."""
    status, answer = send(client, "/identify", gallery.strangers[0], collection=gallery.collection, **ask)
    if status == httpx.codes.UNPROCESSABLE_ENTITY and answer["code"] == "target_unsupported":
        return float(answer["smallest_supported"])
    return None


Answers = list[dict[str, Any]]


def _searched(
    client: httpx.Client, pool: ThreadPoolExecutor, gallery: Enrolled, ask: dict[str, str]
) -> tuple[Answers, list[tuple[str, dict[str, Any]]]]:
    """Answers to strangers, and to people who are enrolled, by their names."""
    fields = ask | {"collection": gallery.collection}
    strangers = pool.map(lambda image: send(client, "/identify", image, **fields)[1], gallery.strangers)
    mated = pool.map(lambda p: (p[0], send(client, "/identify", p[1], **fields)[1]), gallery.mated)
    return list(strangers), list(mated)


def verifications(crowd: Crowd) -> Iterator[Row]:
    """Prints the rates of single comparisons over HTTP: each photograph with its own subject and with some others."""
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
        others = [(other, image) for name, image in own for other in chooser.sample(known, 4) if other != name]
        for target in VERIFY_TARGETS:
            ask = {"target_fmr": str(target)}
            mated, non_mated = (
                list(pool.map(lambda p, a=ask: send(client, "/verify", p[1], subject_id=p[0], **a)[1], pairs))
                for pairs in (own, others)
            )
            false = sum(answer.get("decision") == "match" for answer in non_mated)
            missed = sum(answer.get("decision") != "match" for answer in mated)
            unsure = sum(answer.get("decision") == "inconclusive" for answer in mated)
            row = Row(target, wilson(false, len(non_mated)))
            typer.echo(
                f"| {100 * target:.3g} | {percent(row.observed)} | {percent(wilson(missed, len(mated)))} | "
                f"{100 * unsure / len(mated):.3g} | {'yes' if row.holds else 'no'} |"
            )
            yield row


def mean_of(rates: Sequence[float]) -> Interval:
    """The mean of several galleries with its 95 % interval (Student's t): one gallery may be luckier than another."""
    mean = float(np.mean(rates))
    half = float(student.ppf(0.975, len(rates) - 1) * np.std(rates, ddof=1) / np.sqrt(len(rates)))
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def _search_row(size: int, target: float, galleries: Sequence[tuple[Answers, list[tuple[str, dict[str, Any]]]]]) -> Row:
    rates = [np.mean([a["decision"] == "match" for a in found if "decision" in a]) for found, _ in galleries]
    own = [answer for _, mated in galleries for answer in mated]
    missed = sum(a.get("subject_id") != name for name, a in own)
    unsure = sum(a.get("decision") == "inconclusive" for _, a in own)
    row = Row(target, mean_of([float(rate) for rate in rates]))
    typer.echo(
        f"| {size} | {100 * target:.3g} | {percent(row.observed)} | {percent(wilson(missed, len(own)))} | "
        f"{100 * unsure / max(len(own), 1):.3g} | {'yes' if row.holds else 'no'} |"
    )
    return row


class Part(StrEnum):
    """What can be measured by itself."""

    ALL_PAIRS = "all-pairs"
    HALVES = "halves"
    SEARCHES = "searches"
    COMPARISONS = "comparisons"


def read_rows(kept: Path | None) -> dict[str, list[Row]]:
    """What was kept of an earlier run, by the name that the plot shows."""
    if kept is None or not kept.is_file():
        return {}
    found: dict[str, list[dict[str, Any]]] = json.loads(kept.read_text())
    return {name: [Row(row["claimed"], Interval(**row["observed"])) for row in rows] for name, rows in found.items()}


def main(
    archive: Annotated[Path, typer.Argument(help="tar file with the LFW photographs and pairs.txt")],
    faces: Annotated[Path, typer.Option(help="folder written by model.prepare")],
    plot: Annotated[Path | None, typer.Option(help="SVG file: observed rates against claimed ones")] = None,
    kept: Annotated[Path | None, typer.Option(help="JSON file of the rows; those of other parts stay in it")] = None,
    part: Annotated[list[Part] | None, typer.Option(help="measure only this; may be repeated")] = None,
) -> None:
    """Prints the tables, and exits with 1 if a claim does not hold."""
    parts = part or list(Part)
    directory = Settings().encoding.directory
    weights = load_weights(directory)
    calibration, runtime = load_calibration(directory, weights.sha256), create_runtime(weights)
    lfw = read_lfw(archive)
    chips = cut_faces(lfw.photographs)
    subject = np.unique([lfw.subject[name] for name in chips], return_inverse=True)[1]
    typer.echo(f"encoder {weights.name} {weights.version}; LFW, all pairs of {len(chips)} photographs")
    exam = encode_all(runtime, np.stack(list(chips.values()))).embeddings
    rows = read_rows(kept)
    if Part.ALL_PAIRS in parts:
        rows["LFW, all pairs"] = list(all_pairs(calibration, exam, subject))
    members = load_face_set(faces).of_split("heldout")
    members = members.where(members.identity != UNLABELLED)
    if Part.HALVES in parts:
        identity = np.unique(members.identity, return_inverse=True)[1]
        embeddings = encode_all(runtime, members.images(np.arange(len(members)))).embeddings
        typer.echo(f"\nheld-out people in halves, {SPLITS} times")
        rows["held-out, other half"] = list(halves(embeddings, identity))
    for name, crowd in (("LFW", crowd_of_lfw(lfw.photographs)), ("held-out", crowd_of_heldout(members))):
        if Part.SEARCHES in parts:
            typer.echo(f"\n{name} through HTTP: searches")
            rows[f"{name}, searches over HTTP (FPIR)"] = list(searches(crowd))
        if Part.COMPARISONS in parts:
            typer.echo(f"\n{name} through HTTP: comparisons")
            rows[f"{name}, comparisons over HTTP"] = list(verifications(crowd))
    if kept:
        kept.write_text(json.dumps({name: [asdict(row) for row in found] for name, found in rows.items()}, indent=1))
    if plot:
        shown = {name: [(row.claimed, row.observed) for row in found] for name, found in rows.items()}
        claimed_against_observed(shown, trade_offs(calibration, exam, subject), plot)
    # The halves are many draws of the same people: some may miss by chance.
    refuted = sum(not row.holds for name, found in rows.items() if "half" not in name for row in found)
    if refuted:
        typer.echo(f"{refuted} claims do not hold")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
