"""An audit report as a single HTML page with an inline plot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from app.audits.report import AuditReport, RateCheck

WIDTH, HEIGHT, MARGIN = 520, 340, 54


@dataclass(frozen=True, slots=True)
class _Axis:
    """Decades of a rate, from ``low`` to ``high`` (powers of ten), mapped to pixels from ``start`` to ``end``."""

    low: int
    high: int
    start: float
    end: float

    def place(self, rate: float) -> float:
        share = (math.log10(max(rate, 10.0**self.low)) - self.low) / (self.high - self.low)
        return self.start + min(share, 1.0) * (self.end - self.start)

    def decades(self) -> list[tuple[float, str]]:
        return [(self.place(10.0**power), f"1e{power}") for power in range(self.low, self.high + 1)]


def audit_page(report: AuditReport) -> str:
    """A page without scripts or external resources; every id is escaped."""
    source = files("app.audits").joinpath("audit.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(report=report, plot=_plot(report.rates) if report.rates else None)


def _plot(rates: tuple[RateCheck, ...]) -> dict[str, object]:
    """Pixel coordinates of the plot: observed rates against calibrated ones, on logarithmic axes."""
    shown = [r for c in rates for r in (c.calibrated.value, c.observed.value, c.observed.high) if r > 0]
    low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
    x = _Axis(low, max(high, low + 1), MARGIN, WIDTH - 12)
    y = _Axis(low, max(high, low + 1), HEIGHT - MARGIN, 12)
    points = [
        {
            "x": x.place(c.calibrated.value),
            "y": y.place(c.observed.value),
            "top": y.place(c.observed.high),
            "bottom": y.place(c.observed.low),
        }
        for c in rates
    ]
    band = [(x.place(c.calibrated.value), y.place(c.calibrated.high)) for c in rates]
    band += [(x.place(c.calibrated.value), y.place(c.calibrated.low)) for c in reversed(rates)]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "points": points,
        "band": " ".join(f"{a:.1f},{b:.1f}" for a, b in band),
        "x": x.decades(),
        "y": y.decades(),
        "left": MARGIN,
        "right": WIDTH - 12,
        "top": 12,
        "bottom": HEIGHT - MARGIN,
    }
