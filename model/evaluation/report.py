"""The results of one encoder, as stored in ``report.json`` and shown in tables."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from app.evaluation.bootstrap import Interval


class Estimate(BaseModel):
    """A rate, 0..1, with the bounds of its 95 % interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: Interval) -> Estimate:
        """An interval as part of a report."""
        return cls(value=value.value, low=value.low, high=value.high)

    def percent(self) -> str:
        """For example ``98.67 [98.11, 99.10]``."""
        return f"{100 * self.value:.2f} [{100 * self.low:.2f}, {100 * self.high:.2f}]"


class PairResult(BaseModel):
    """A pair protocol in ten folds: mean accuracy with its standard error, and TAR by FAR."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: int
    faces_missed: int
    accuracy: float
    standard_error: float
    threshold: float
    tar: dict[str, Estimate]


class AllPairsResult(BaseModel):
    """Every face against every other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subjects: int
    faces: int
    mated: int
    non_mated: int
    tar: dict[str, Estimate]


class SearchResult(BaseModel):
    """1:N search: means over random galleries, with standard deviations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subjects: int
    rank1: float
    rank1_deviation: float
    dir_at_1: float
    dir_at_1_deviation: float


class Report(BaseModel):
    """All results of one encoder. Parts without data are absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str
    lfw: PairResult | None = None
    lfw_all: AllPairsResult | None = None
    lfw_search: SearchResult | None = None
    cfp_ff: PairResult | None = None
    cfp_fp: PairResult | None = None
    heldout: AllPairsResult | None = None
    heldout_unrelated: dict[str, float] | None = None
    heldout_by_source: dict[str, AllPairsResult] | None = None
    within_groups: dict[str, AllPairsResult] | None = None


def _pair_cells(result: PairResult | None, fars: tuple[str, ...]) -> list[str]:
    if result is None:
        return ["-"] * (1 + len(fars))
    accuracy = f"{100 * result.accuracy:.2f} ± {100 * result.standard_error:.2f}"
    return [accuracy, *_tar_cells(result, fars)]


def _tar_cells(result: PairResult | AllPairsResult | None, fars: tuple[str, ...]) -> list[str]:
    """TAR cells; "-" where there are too few pairs for a rate, or the part was not measured."""
    return [result.tar[far].percent() if result and far in result.tar else "-" for far in fars]


def markdown_table(reports: dict[str, Report]) -> str:
    """One row per encoder, percent; ± is the standard error of the mean over folds, brackets are 95 % intervals."""
    heads = ["", "LFW accuracy", "LFW TAR@1e-3", "CFP-FF", "CFP-FP", "CFP-FP TAR@1e-2"]
    heads += ["held-out TAR@1e-3", "held-out TAR@1e-4", "held-out TAR@1e-5"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, report in reports.items():
        cells = _pair_cells(report.lfw, ("1e-03",)) + _pair_cells(report.cfp_ff, ())
        cells += _pair_cells(report.cfp_fp, ("1e-02",)) + _tar_cells(report.heldout, ("1e-03", "1e-04", "1e-05"))
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def groups_table(reports: dict[str, Report]) -> str:
    """TAR at FAR 1e-3 within each origin and sex, and within each source of the held-out people, in percent."""
    shown = {name: report for name, report in reports.items() if report.within_groups}
    lines = ["| | " + " | ".join(shown) + " |", "|---|" + "---|" * len(shown)]
    rows: dict[str, list[AllPairsResult | None]] = {}
    for number, report in enumerate(shown.values()):
        sources = {f"held-out, {source}": found for source, found in (report.heldout_by_source or {}).items()}
        for name, result in {**(report.within_groups or {}), **sources}.items():
            rows.setdefault(name, [None] * len(shown))[number] = result
    for name, results in rows.items():
        lines.append(f"| {name} | " + " | ".join(_tar_cells(result, ("1e-03",))[0] for result in results) + " |")
    return "\n".join(lines)


def all_pairs_table(reports: dict[str, Report]) -> str:
    """LFW all against all, and 1:N search, one row per encoder, percent; ± is the deviation over random galleries."""
    heads = ["", "TAR@1e-3", "TAR@1e-4", "right person first", "right person found at 1 % false alarms"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, report in reports.items():
        search = report.lfw_search
        cells = _tar_cells(report.lfw_all, ("1e-03", "1e-04"))
        cells += (
            ["-", "-"]
            if search is None
            else [
                f"{100 * search.rank1:.2f} ± {100 * search.rank1_deviation:.2f}",
                f"{100 * search.dir_at_1:.2f} ± {100 * search.dir_at_1_deviation:.2f}",
            ]
        )
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)
