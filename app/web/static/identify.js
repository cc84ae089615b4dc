// Identify: whose face is this, among the people of a collection?

import { call } from "./api.js";
import { collectionInUse, onCollection } from "./collection.js";
import { h, problemBoxes, refill } from "./dom.js";
import { withChosenFaces } from "./faces.js";
import { PhotographInput } from "./photograph.js";
import { REASONS, count, distance, howOften, oneIn } from "./words.js";

/** As where two faces are compared, in the words of a search. */
const WHY = {
  ...REASONS,
  weak_probe: "Too little can be recognised in this face to say that it is nobody of this collection.",
  weak_reference: "Too little can be recognised in what is kept of the nearest person to say that it is not them.",
};
const DECISIONS = { match: "match", no_match: "no match", inconclusive: "cannot say" };

export class Identify {
  constructor(panel) {
    this.panel = panel;
    this.photograph = new PhotographInput("Who is this?", () => this.changed());
    this.result = h("div", { class: "card result", hidden: true, "aria-live": "polite", tabindex: "-1" });
    panel.append(
      h("p", { class: "intro" }, "One face: who of this collection is it? Nothing is stored."),
      h("div", { class: "columns" }, this.photograph.element, this.result),
    );
    onCollection(() => this.changed());
  }

  /** Somebody may have been enrolled or erased since. */
  opened() {
    this.changed();
  }

  paste(files) {
    this.photograph.take(files);
  }

  /** Nobody is searched for while the tab is hidden: that is done once it is opened. */
  async changed() {
    if (!this.result) return;
    this.asking?.abort();
    this.result.hidden = this.panel.hidden || !this.photograph.chosen;
    if (this.result.hidden) return;
    this.asking = new AbortController();
    const { signal } = this.asking;
    refill(this.result, h("p", { class: "hint" }, "Searching …"));
    try {
      const answer = await this.found(signal);
      if (!signal.aborted) this.tell(answer);
    } catch (error) {
      if (!signal.aborted) refill(this.result, ...problemBoxes(error, () => this.changed()));
    }
  }

  found(signal) {
    return withChosenFaces([this.photograph.chosen], async ([image]) => {
      const fields = { image, collection: collectionInUse(), face_policy: "largest" };
      const answer = await call("POST", "identify", { fields, signal });
      return { answer, probes: [answer.probe] };
    });
  }

  tell(answer) {
    const nearest = answer.candidates[0];
    const parts = [h("div", { class: `verdict ${answer.decision}` }, h("h2", null, headline(answer)))];
    if (answer.reason) parts.push(h("p", null, WHY[answer.reason]));
    if (nearest) parts.push(h("p", null, howOften(nearest.false_match_rate, nearest.worst_group)));
    parts.push(answer.reason === "empty_gallery" ? toPeople() : h("p", { class: "hint" }, searched(answer)));
    if (nearest) parts.push(candidates(answer.candidates));
    refill(this.result, ...parts);
  }
}

const toPeople = () => h("p", null, "Enrol somebody under ", h("a", { href: "#people" }, "People"), " first.");

function headline({ decision, reason, subject_id: subject }) {
  if (reason === "empty_gallery") return "Nobody to search among";
  if (decision === "match") return `This is ${subject}`;
  return decision === "no_match" ? "Nobody in this collection" : "Cannot say";
}

function searched({ gallery_subjects: subjects, margin, ...answer }) {
  const among = `Searched among ${count(subjects, "subject")}.`;
  const rate = answer.false_positive_identification_rate;
  const bound = answer.false_positive_identification_rate_at_most ? "at most " : "";
  const often = rate ? ` Of searches for people who are not enrolled, ${bound}${oneIn(rate)} would find somebody.` : "";
  return among + often + (margin === null ? "" : ` The next candidate fits less well by ${distance(margin)}.`);
}

function candidates(found) {
  const head = ["subject", "decision", "distance", "threshold", "strangers as close"].map((name, place) =>
    h("th", { scope: "col", class: place === 2 || place === 3 ? "number" : false }, name),
  );
  const rows = found.map((one) =>
    h(
      "tr",
      { class: one.decision },
      h("th", { scope: "row" }, one.subject_id ?? "(not shown to this key)"),
      h("td", { class: "decision" }, DECISIONS[one.decision]),
      h("td", { class: "number" }, distance(one.distance)),
      h("td", { class: "number" }, distance(one.threshold)),
      h("td", null, one.false_match_rate ? (one.false_match_rate.at_most ? "at most " : "") + oneIn(one.false_match_rate.value) : "most"),
    ),
  );
  const table = h("table", null, h("thead", null, h("tr", null, head)), h("tbody", null, rows));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Candidates, best first" }, table);
}
