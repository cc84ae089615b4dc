"""Embeddings of labelled faces -> the calibration table of their encoder.

Every face is compared with every other, then with subjects of two and more templates, and with galleries of growing
size. Relatives count as non-mated pairs; the rates with and without them are reported separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile

import numpy as np
import numpy.typing as npt

from app.crowding import Crowding, NoCrowding
from app.decisions.calibration import (
    Calibration,
    CalibrationData,
    GallerySize,
    PrecisionCheck,
    QualityBand,
    QualityLimit,
    Stratum,
)
from app.decisions.curves import Claim, Estimate, Group, OperatingPoint, TemplateCurve, smallest_supported_by_groups
from app.evaluation.bootstrap import REPLICATES, Interval
from app.evaluation.groups import GroupFaces, beyond, measure_group
from app.evaluation.identification import gallery_sizes, margin_limit
from app.evaluation.pairs import threshold_at_fmr
from app.evaluation.rates import (
    Blocks,
    Counts,
    count,
    count_by_weaker,
    count_in_parts,
    non_mated_distances,
    several_templates,
    single_templates,
)

TARGETS = (0.5, 0.2, *(10 ** (-1 - i / 20) for i in range(81)))
"""False match rates of the operating points, as far down as the subjects support."""
DEFAULT_FMR = 1e-4
DEFAULT_FPIR = 1e-2
MOST_TEMPLATES = 8
SLACK = 1.5
"""How much higher the lowest rate may be that subjects of several templates support than that of one template."""
BANDS = (0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
"""Quantiles of the norm that separate the bands of error rates."""
ODDS = 4
"""A face is weak where the odds of missing its person are this many times those of all faces."""
EVERY = 5
"""Every n-th operating point of a group is measured in its own galleries."""
REPEATS = 4
"""How often the templates of every subject are drawn."""
SIDES = (64, 128)
"""Sides of faces, pixels, that separate the strata by size."""
TRIALS_TO_CLAIM = 7
"""Pairs of people times the lowest rate that they can claim: three false matches, with their upper bound.

Draws of 14 to 500 people came to 6.4 to 7.2 (``benchmarks.few_people``).
"""
USELESS_FNMR = 0.5
UNKNOWN = -1
MOST_SUBJECTS, MOST_FACES = 2000, 10_000
"""Of more people than this, or of people with more faces, as many are drawn: memory grows with their squares."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Fuse = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class LabelledEmbeddings:
    """Embeddings of faces whose subjects are known.

    embeddings: unit-length float32 [N, D]. norms: float32 [N], norms of the embeddings before scaling to 1. subject:
    int64 [N], 0..S-1. family: int64 [N], the same for relatives, ``UNKNOWN`` if not known. source: str [N]. face_side:
    float32 [N], side of the face in the photograph, pixels; NaN if not known.
    """

    embeddings: Floats
    norms: Floats
    subject: Ints
    family: Ints
    source: npt.NDArray[np.str_]
    face_side: Floats

    def of(self, kept: npt.NDArray[np.bool_]) -> LabelledEmbeddings:
        """Some of the faces, bool [N]; their subjects are numbered anew."""
        return LabelledEmbeddings(
            embeddings=self.embeddings[kept],
            norms=self.norms[kept],
            subject=np.unique(self.subject[kept], return_inverse=True)[1],
            family=self.family[kept],
            source=self.source[kept],
            face_side=self.face_side[kept],
        )


@dataclass(frozen=True, slots=True)
class EncoderRun:
    """The encoder that was measured: name, digest, and how it ran."""

    name: str
    version: str
    sha256: str
    runtime: str
    precision: str


@dataclass(frozen=True, slots=True)
class AlternativeRun:
    """The same faces through the same encoder, with another runtime or precision."""

    runtime: str
    precision: str
    embeddings: Floats


def rule_of_three_fmr(pairs_of_subjects: int) -> float:
    """Rule of three over pairs of subjects: comparisons that share a subject are not independent."""
    return min(3 / max(pairs_of_subjects, 1), 1.0)


def people_needed(fmr: float) -> int:
    """About how many people it takes to claim this rate; see ``TRIALS_TO_CLAIM``."""
    people = 2
    while TRIALS_TO_CLAIM / (people * (people - 1) // 2) > fmr:
        people += 1
    return people


def _estimate(found: Interval) -> Estimate:
    return Estimate.around(found.value, found.low, found.high)


def measure_curve(blocks: Blocks, subjects: int, templates: int) -> TemplateCurve:
    """The operating points at ``TARGETS``, as far as the subjects support them.

    Each threshold is the most permissive whose false match rate is at most the target. Raises ValueError if the
    subjects support too few points, or if too many non-mated comparisons are at distance 0.
    """
    distances = non_mated_distances(blocks)
    if not len(distances):
        raise ValueError(f"{subjects} subjects cannot show a false match rate, for there are no two to compare")
    found = [threshold_at_fmr(distances, target) for target in TARGETS if target * len(distances) >= 1]
    thresholds = [t for t in found if t >= distances[0]]
    thresholds += beyond(min(thresholds, default=0.0))
    measured = list[tuple[float, Interval, Interval]]()
    for counts in count_in_parts(blocks, subjects, sorted(set(thresholds))):
        measured += zip(counts.thresholds.tolist(), *counts.intervals(), strict=True)
    floor = rule_of_three_fmr(counts.pairs_of_subjects)
    points = list[OperatingPoint]()
    for threshold, fmr, fnmr in reversed(measured):
        # Where the subjects cannot show the rate of a stricter threshold, the rate before it is an upper bound.
        shown = _estimate(fmr) if fmr.value >= floor or not points else points[-1].false_match_rate
        points.append(OperatingPoint(threshold=threshold, false_match_rate=shown, false_non_match_rate=_estimate(fnmr)))
    if len({p.false_match_rate for p in points}) < 2 or points[-1].claimed_fmr > TARGETS[2]:
        raise ValueError(
            f"{subjects} subjects cannot show a false match rate of {TARGETS[2]:g}; calibrate on more, rightly labelled"
        )
    return TemplateCurve(
        templates=templates,
        subjects=int(np.count_nonzero(counts.mated_total)),
        mated=int(counts.mated_total.sum()),
        non_mated=int(counts.non_mated_total.sum()),
        rule_of_three_fmr=floor,
        operating_points=tuple(points),
    )


def measure_curves(faces: LabelledEmbeddings, crowding: Crowding, fuse: Fuse) -> list[TemplateCurve]:
    """The curves of one template, two and so on, up to ``MOST_TEMPLATES``.

    Few people have many photographs, and a rate that they cannot show would be out of reach for everybody. So it ends
    before the first curve that supports neither ``DEFAULT_FMR`` nor about what one template supports. Raises ValueError
    as ``measure_curve`` does for one template.
    """
    embeddings, subject = faces.embeddings, faces.subject
    subjects, own = int(subject.max()) + 1, crowding(embeddings)
    curves = [measure_curve(single_templates(embeddings, subject, own), subjects, 1)]
    highest = max(DEFAULT_FMR, SLACK * curves[0].smallest_supported)
    for templates in range(2, MOST_TEMPLATES + 1):
        if np.count_nonzero(np.bincount(subject) > templates) < 2:
            break
        blocks = several_templates(embeddings, subject, crowding, templates, fuse, repeats=REPEATS)
        try:
            curve = measure_curve(blocks, subjects, templates)
        except ValueError:  # too few comparisons for any curve
            break
        if curve.smallest_supported > highest:
            break
        curves.append(curve)
    return curves


def strata(counts: Counts, faces: LabelledEmbeddings) -> list[Stratum]:
    """The rates at one threshold among relatives, without relatives, and per source (that of a person's first face)."""
    _, first = np.unique(faces.subject, return_index=True)
    family, source = faces.family[first], faces.source[first]
    related = (family[:, None] == family[None, :]) & (family != UNKNOWN)[:, None]
    kinds = {"relatives": related & ~np.eye(len(first), dtype=np.bool_), "without relatives": ~related}
    np.fill_diagonal(kinds["without relatives"], True)
    for name in sorted(set(source.tolist())):
        kinds[f"source {name}"] = (source == name)[:, None] & (source == name)[None, :]
    return [_stratum(name, counts.among(chosen)) for name, chosen in kinds.items()]


def strata_of_size(faces: LabelledEmbeddings, crowding: Floats, threshold: float) -> list[Stratum]:
    """The rates at one threshold by the size of the smaller face, where sizes are known."""
    known = ~np.isnan(faces.face_side)
    if not known.any():
        return []
    subject = np.unique(faces.subject[known], return_inverse=True)[1]
    band = np.searchsorted(SIDES, faces.face_side[known], side="right")
    parts = count_by_weaker(faces.embeddings[known], subject, crowding[known], band, len(SIDES) + 1, threshold)
    limits = (f"below {SIDES[0]}", *(f"{a} to {b}" for a, b in pairwise(SIDES)), f"{SIDES[-1]} or more")
    return [
        _stratum(f"smaller face {limit} pixels", part)
        for limit, part in zip(limits, parts, strict=True)
        if part.mated_total.any() or part.non_mated_total.any()
    ]


def _stratum(name: str, counts: Counts) -> Stratum:
    (fmr,), (fnmr,) = counts.intervals()
    mated, non_mated = int(counts.mated_total.sum()), int(counts.non_mated_total.sum())
    involved = (counts.non_mated_total.any(axis=0) | counts.non_mated_total.any(axis=1)) | (counts.mated_total > 0)
    return Stratum(
        name=name,
        subjects=int(involved.sum()),
        mated=mated,
        non_mated=non_mated,
        false_match_rate=_estimate(fmr) if non_mated else None,
        # Drawing one person anew has no spread, and the interval would be as narrow as if everything were known.
        false_non_match_rate=_estimate(fnmr) if np.count_nonzero(counts.mated_total) > 1 else None,
    )


def quality_limit(
    embeddings: Floats, norms: Floats, subject: Ints, crowding: Floats, default: OperatingPoint
) -> QualityLimit:
    """The rates at the default threshold by the smaller of the two norms, and the limit below which a face is weak."""
    edges = np.unique(np.quantile(norms, BANDS))
    edges[-1] = np.nextafter(edges[-1], np.inf)
    band = np.searchsorted(edges[1:-1], norms, side="right")
    bands = []
    parts = count_by_weaker(embeddings, subject, crowding, band, len(edges) - 1, default.threshold)
    for number, part in enumerate(parts):
        if not part.mated_total.any() or not part.non_mated_total.any():
            continue
        (fmr,), (fnmr,) = part.intervals()
        bands.append(
            QualityBand(
                shortest=float(edges[number]),
                longest=float(edges[number + 1]),
                mated=int(part.mated_total.sum()),
                non_mated=int(part.non_mated_total.sum()),
                false_match_rate=_estimate(fmr),
                false_non_match_rate=_estimate(fnmr),
            )
        )
    misses = default.false_non_match_rate.value
    missed = ODDS * misses / (1 - misses + ODDS * misses)
    # Where nothing is missed, every band reaches that rate, and no face is weak.
    weak = list(takewhile(lambda b: b.false_non_match_rate.value >= missed > 0, bands))
    false_matches = sum(b.false_match_rate.value * b.non_mated for b in weak)
    rate = false_matches / max(sum(b.non_mated for b in weak), 1)
    return QualityLimit(
        bands=tuple(bands),
        missed=missed,
        limit=weak[-1].longest if weak else 0.0,
        inflation=max(rate / default.false_match_rate.value, 1.0),
    )


def drawn(subject: Ints) -> npt.NDArray[np.bool_]:
    """Which faces, of subjects int64 [N], count: all of at most ``MOST_SUBJECTS`` people, ``MOST_FACES`` at most."""
    own = np.bincount(subject)
    order = np.random.default_rng(0).permutation(len(own))[:MOST_SUBJECTS]
    return np.isin(subject, order[np.cumsum(own[order]) <= MOST_FACES])


def make_table(
    faces: LabelledEmbeddings,
    encoder: EncoderRun,
    description: str,
    fuse: Fuse,
    crowding: Crowding,
    *,
    groups: Sequence[GroupFaces] = (),
    others: Sequence[AlternativeRun] = (),
) -> Calibration:
    """Measures an encoder on faces of people who were not in its training data.

    ``fuse`` combines several templates for comparison (see ``app.evaluation.rates.several_templates``). Each of
    ``groups`` is compared within itself, and searched in its own galleries if each of its people counts once. The
    default rate is ``DEFAULT_FMR``, or the lowest that all groups support. Of very many people some are ``drawn`` for
    all but the groups, and the description says so. Raises ValueError if the faces support too little.
    """
    kept = drawn(faces.subject)
    if not kept.all():
        everybody = len(np.unique(faces.subject))
        faces, others = faces.of(kept), [replace(other, embeddings=other.embeddings[kept]) for other in others]
        description += f"; {len(np.unique(faces.subject))} people, drawn at random, of {everybody}"
    embeddings, subject = faces.embeddings, faces.subject
    if not len(subject) or np.bincount(subject).max() < 2:
        raise ValueError("no person has two faces, so that none can be compared with itself")
    subjects, own = int(subject.max()) + 1, crowding(embeddings)
    curves = measure_curves(faces, crowding, fuse)
    measured = tuple(measure_group(group) for group in groups)
    default_fmr = max(DEFAULT_FMR, *(c.smallest_supported for c in curves), smallest_supported_by_groups(measured))
    point = curves[0].at_rate(default_fmr)
    assert point is not None
    at_default = count(single_templates(embeddings, subject, own), subjects, [point.threshold])
    identification = [
        *gallery_sizes(embeddings, subject, own, curves[0].operating_points),
        *(
            size
            for group, found in zip(groups, measured, strict=True)
            if group.name not in {g.part_of for g in groups}
            for size in _group_galleries(group, found)
        ),
    ]
    return Calibration(
        schema_version=4,
        version=f"{encoder.name}-{encoder.version}-{encoder.sha256[:8]}",
        encoder_sha256=encoder.sha256,
        cohort_sha256=None if isinstance(crowding, NoCrowding) else crowding.digest,
        data=CalibrationData(
            description=description,
            subjects=subjects,
            faces=len(embeddings),
            runtime=encoder.runtime,
            precision=encoder.precision,
            replicates=REPLICATES,
        ),
        default_fmr=default_fmr,
        default_fpir=DEFAULT_FPIR,
        curves=tuple(curves),
        groups=measured,
        identification=tuple(identification),
        strata=(*strata(at_default, faces), *strata_of_size(faces, own, point.threshold)),
        quality=quality_limit(embeddings, faces.norms, subject, own, point),
        margin=margin_limit(embeddings, subject, own, point.threshold),
        precisions=tuple(check_precision(other, subject, crowding, point.threshold) for other in others),
    )


def _group_galleries(group: GroupFaces, measured: Group) -> Iterator[GallerySize]:
    if group.claimed and len(group.parts) == 1:
        (part,) = group.parts
        points = measured.operating_points[::EVERY]
        yield from gallery_sizes(part.embeddings, part.subject, part.crowding, points, group.name)


def check_precision(other: AlternativeRun, subject: Ints, crowding: Crowding, threshold: float) -> PrecisionCheck:
    """Rates of single templates at a threshold, of embeddings whose subjects are int64 [N], 0..S-1."""
    blocks = single_templates(other.embeddings, subject, crowding(other.embeddings))
    counts = count(blocks, int(subject.max()) + 1, [threshold])
    return PrecisionCheck(
        runtime=other.runtime,
        precision=other.precision,
        false_match_rate=float(counts.false_match_rates()[0]),
        false_non_match_rate=float(counts.false_non_match_rates()[0]),
    )


def describe(table: Calibration) -> list[str]:
    """A readable summary of a table, line by line."""
    lines = [f"measured on {table.data.faces} faces of {table.data.subjects} people: {table.data.description}"]
    for curve in table.curves:
        point = curve.at_rate(table.default_fmr)
        assert point is not None
        fmr, fnmr = point.false_match_rate, point.false_non_match_rate
        lines.append(
            f"{curve.templates} template{'s' if curve.templates > 1 else ''}: threshold {point.threshold:.4f}  "
            f"FMR {fmr.value:.2e} [{fmr.low:.2e}, {fmr.high:.2e}]  "
            f"FNMR {fnmr.value:.4f} [{fnmr.low:.4f}, {fnmr.high:.4f}]  supported down to {curve.smallest_supported:.2e}"
        )
    if (missed := table.curves[0].at_rate(table.default_fmr)) and missed.false_non_match_rate.value > USELESS_FNMR:
        lines.append(
            "More than half of all pairs of one person are missed: photographs like these want a better encoder, or a "
            "higher false match rate."
        )
    lines += [_line_of(group) for group in table.groups]
    for claim in Claim:
        smallest = table.smallest_supported(claim, table.most_templates)
        bound = table.bound(claim, table.default_fmr, 1)
        assert bound is not None
        lines.append(
            f"{claim}: threshold {bound.threshold:.4f} at {table.default_fmr:.2e}, for {bound.group or 'all pairs'}; "
            f"supported down to {smallest:.2e}"
        )
    if table.default_fmr > DEFAULT_FMR:
        lines.append(
            f"default: a false match rate of {table.default_fmr:.2g}, 1 in {1 / table.default_fmr:.0f}: the people "
            f"support no lower one; {DEFAULT_FMR:g} takes more of them"
        )
    if table.most_templates < MOST_TEMPLATES:
        lines.append(
            f"of a subject's templates the newest {table.most_templates} count: too few people have more photographs"
        )
    agreed, sizes_measured = sum(s.agrees for s in table.identification), len(table.identification)
    lines.append(f"FPIR: 1-(1-FMR)^N is not below the middle 95 % of galleries at {agreed} of {sizes_measured} sizes:")
    for name in dict.fromkeys(size.group for size in table.identification):
        sizes = [size for size in table.identification if size.group == name]
        marks = ", ".join(f"{size.subjects}{'' if size.agrees else ' (no)'}" for size in sizes)
        lines.append(f"  {name or 'all'}: {marks}")
    lines += [
        f"{s.name}: FMR {_share(s.false_match_rate)}  FNMR {_share(s.false_non_match_rate)}"
        for s in table.strata
        if s.mated or s.non_mated
    ]
    lines.append(f"weak: embeddings shorter than {table.quality.limit:.2f}")
    lines.append(f"ambiguous: two matching subjects less than {table.margin.limit:.3f} apart")
    lines += [
        f"in {other.precision}: FMR {other.false_match_rate:.2e}  FNMR {other.false_non_match_rate:.4f}"
        for other in table.precisions
    ]
    return lines


def _line_of(group: Group) -> str:
    point = group.at_rate(1e-3) or group.strictest
    promise = "" if group.claimed else " (not promised)"
    return (
        f"{group.name}{promise}: {group.subjects} people, at threshold {point.threshold:.4f} FMR "
        f"{_share(point.false_match_rate)}  FNMR {_share(point.false_non_match_rate)}  "
        f"supported down to {group.smallest_supported:.2e}"
    )


def _share(rate: Estimate | None) -> str:
    return "-" if rate is None else f"{rate.value:.3g} [{rate.low:.3g}, {rate.high:.3g}]"
