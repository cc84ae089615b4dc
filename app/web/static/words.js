// Numbers of the service in words. Nothing is decided here.

const ENGLISH = new Intl.NumberFormat("en");
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

export const distance = (value) => value.toFixed(2);
export const count = (number, one, many = `${one}s`) => `${ENGLISH.format(number)} ${number === 1 ? one : many}`;
export const date = (text) => MOMENT.format(new Date(text));
export const day = (text) => DAY.format(new Date(text));

/** "1 in 31,000", kept on one line; beyond a tenth, "31 in 100". */
export function oneIn(rate) {
  return oneInWords(rate).replaceAll(" ", "\u00a0");
}

function oneInWords(rate) {
  if (rate > 0.1) return `${Math.round(100 * rate)} in 100`;
  if (rate <= 0) return "none";
  return `1 in ${ENGLISH.format(Number((1 / rate).toPrecision(2)))}`;
}

function strangers(rate) {
  if (rate > 0.1) return `${Math.round(100 * rate)} strangers in 100 come`;
  return `1 stranger in ${ENGLISH.format(Number((1 / rate).toPrecision(2)))} comes`;
}

/** How often two different people come as close, from an answer's `false_match_rate` and `worst_group`. */
export function howOften(rate, worst) {
  if (!rate) return "More than half of all strangers come this close.";
  const all = `${rate.at_most ? "Closer than could be measured: at most" : "About"} ${strangers(rate.value)} this close`;
  if (!worst || worst.value <= rate.value) return `${all}.`;
  const bound = worst.at_most ? "at most " : "";
  return `${all}; in the group where it is most frequent (${worst.group}), ${bound}${oneIn(worst.value)}.`;
}

export const REASONS = {
  weak_probe: "Too little can be recognised in the first face to say that it is somebody else.",
  weak_reference: "Too little can be recognised in the second face to say that it is somebody else.",
  ambiguous_subjects: "Two people match, and they are too close to each other to say which one it is.",
  ambiguous_face: "A photograph shows another face of like size, who may be meant. Click the face that you mean.",
  empty_gallery: "Nobody is enrolled in this collection yet.",
};

/** Why a photograph was not enrolled. What the service advises a program is not always what this page can do. */
export const notEnrolled = (error) =>
  error.code === "multiple_faces"
    ? "It shows several faces of like size. Crop it to the person who is meant."
    : error.detail ?? String(error);

/** "too dark, extreme pose" */
export const issues = (quality) => quality.issues.map((issue) => issue.replaceAll("_", " ")).join(", ");
