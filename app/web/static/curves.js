// The axis: how distances of the same person and of different people are spread, and where these two faces lie.

import { h, svg } from "./dom.js";
import { distance as shown } from "./words.js";

const HEIGHT = 210;
const TOP = 34;
const BASE = 160;
const END = 2.4;

/**
 * Densities from the measured rates: FNMR falls and FMR rises with the threshold, and the share of pairs between two
 * thresholds is the difference of the rates there. Points: {x, mated, strangers}, by rising distance.
 */
export function densities(operatingPoints) {
  const points = [...operatingPoints].sort((a, b) => a.threshold - b.threshold);
  const nearest = points[0];
  const found = [
    { x: 0, mated: 0, strangers: 0 },
    { x: nearest.threshold / 2, mated: (1 - nearest.false_non_match_rate.value) / nearest.threshold, strangers: 0 },
  ];
  for (let i = 1; i < points.length; i += 1) {
    const [a, b] = [points[i - 1], points[i]];
    const width = b.threshold - a.threshold;
    found.push({
      x: (a.threshold + b.threshold) / 2,
      mated: Math.max(0, a.false_non_match_rate.value - b.false_non_match_rate.value) / width,
      strangers: Math.max(0, b.false_match_rate.value - a.false_match_rate.value) / width,
    });
  }
  return smoothed(found);
}

/** Where thresholds are close together the differences are noisy: a running mean over a twentieth of the range. */
function smoothed(points, reach = 0.05) {
  return points.map(({ x }) => {
    const near = points.filter((p) => Math.abs(p.x - x) <= Math.min(reach, x));
    const mean = (name) => near.reduce((sum, p) => sum + p[name], 0) / near.length;
    return { x, mated: mean("mated"), strangers: mean("strangers") };
  });
}

/** Draws into `place`; `answer` of /verify, or null before there is one. */
export function drawAxis(place, model, answer) {
  const width = Math.max(260, place.clientWidth);
  const crowding = answer?.crowding ?? 0;
  const at = (x) => 12 + ((width - 24) * Math.min(Math.max(x, 0), END)) / END;
  const points = densities(model.operating_points).map((p) => ({ ...p, x: p.x - crowding }));
  const highest = Math.max(...points.flatMap((p) => [p.mated, p.strangers]));
  const up = (share) => BASE - ((BASE - TOP) * share) / highest;
  const last = points.at(-1);
  const measured = model.operating_points[0].threshold - crowding;
  place.replaceChildren(
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": description(answer) },
      area(points, "mated", at, up),
      area([...points, { ...last, x: measured }], "strangers", at, up),
      beyond(at(measured), at(END), up(last.strangers)),
      ticks(at),
      label(at(0.5 - crowding), BASE - 30, "same person", "mated"),
      label(at(1.62 - crowding), BASE - 30, "strangers", "strangers"),
      answer ? marks(answer, at, width) : null,
    ),
    h("p", { class: "hint" }, `Distance of two faces; half of all pairs of strangers are farther apart than ${shown(measured)}.`),
  );
}

function area(points, name, at, up) {
  const line = points.map((p) => `${at(p.x).toFixed(1)},${up(p[name]).toFixed(1)}`).join("L");
  return svg("path", { class: `area ${name}`, d: `M${at(points[0].x)},${BASE}L${line}L${at(points.at(-1).x)},${BASE}Z` });
}

/** The half of the strangers that lies beyond the calibration's last point: that it is there, not how it is spread. */
function beyond(from, to, top) {
  const stripes = [];
  for (let x = from + 4; x < to; x += 8) stripes.push(svg("line", { x1: x, x2: x, y1: top, y2: BASE }));
  return svg("g", { class: "beyond" }, stripes);
}

function ticks(at) {
  const marks = [0, 0.5, 1, 1.5, 2].map((x) => label(at(x), BASE + 16, String(x), "tick", x === 0 ? "start" : "middle"));
  return svg("g", null, svg("line", { class: "base", x1: at(0), x2: at(END), y1: BASE, y2: BASE }), marks);
}

const label = (x, y, text, name, anchor = "middle") => svg("text", { x, y, class: name, "text-anchor": anchor }, text);

function marks(answer, at, width) {
  const [threshold, place] = [at(answer.threshold), at(answer.distance)];
  const far = answer.distance > END ? " →" : "";
  const anchor = (x) => (x > width - 80 ? "end" : x < 80 ? "start" : "middle");
  return svg(
    "g",
    null,
    svg("line", { class: "threshold", x1: threshold, x2: threshold, y1: TOP - 8, y2: BASE }),
    label(threshold, TOP - 14, `threshold ${shown(answer.threshold)}`, "threshold", anchor(threshold)),
    svg("line", { class: "distance", x1: place, x2: place, y1: BASE - 24, y2: BASE }),
    svg("circle", { class: "distance", cx: place, cy: BASE, r: 7 }),
    label(place, BASE + 38, `these two: ${shown(answer.distance)}${far}`, "distance", anchor(place)),
  );
}

const description = (answer) =>
  answer
    ? `These two faces have a distance of ${shown(answer.distance)}; up to ${shown(answer.threshold)} it is a match.`
    : "How the distances of photographs of the same person and of strangers are spread.";
