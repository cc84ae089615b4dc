// Audit: a whole collection checked, and what can be done about the findings.

import { call } from "./api.js";
import { collectionInUse, onCollection } from "./collection.js";
import { button, during, h, problemBox, problemBoxes, refill } from "./dom.js";
import { eraseSubject, eraseTemplate, mergeSubjects } from "./people.js";
import { count, date, distance, oneIn } from "./words.js";

const PAUSE = 500;
const POPULATIONS = {
  too_few: "The collection is too small to say whether its people are as far apart as those that were measured.",
  as_measured: "These people are as far apart as those that were measured, as far as so many can show.",
  easier: "These people are farther apart than those that were measured.",
  harder:
    "These people are harder to tell apart than those that were measured. Some may be enrolled twice; if not, ask for " +
    "a lower rate than you need.",
};

const auditOf = (collection) => `collections/${encodeURIComponent(collection)}/audit`;

export class Audit {
  constructor(panel) {
    this.start = button("Start an audit", () => this.started(), { class: "primary" });
    this.place = h("div");
    this.report = h("div", { class: "report", "aria-live": "polite", tabindex: "-1" });
    panel.append(
      h("p", { class: "intro" }, "Is somebody enrolled twice? Does a template belong to somebody else? Who looks alike?"),
      h("div", { class: "row" }, this.start),
      this.place,
      this.report,
    );
    onCollection(() => {
      this.following?.abort();
      this.place.replaceChildren();
      this.report.replaceChildren();
      this.opened();
    });
  }

  opened() {
    const { hidden } = this.report.closest("[role=tabpanel]");
    return hidden ? undefined : this.follow("GET");
  }

  started() {
    return during(this.start, this.place, () => this.follow("POST"));
  }

  /** Shows an audit until it is done, unless another one is followed meanwhile. */
  async follow(method) {
    this.following?.abort();
    this.following = new AbortController();
    const { signal } = this.following;
    // The rate of a key may be lower than that of these questions.
    const patient = { waits: () => {}, until: signal };
    const path = auditOf(collectionInUse());
    try {
      let job = await call(method, path);
      while (!signal.aborted && ["waiting", "running"].includes(job.status)) {
        refill(this.report, ...underWay(job));
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
        job = await call("GET", path, { patient });
      }
      if (!signal.aborted) this.show(job);
    } catch (error) {
      if (signal.aborted) return;
      const none = error.code === "audit_not_found";
      const empty = h("p", { class: "empty" }, "This collection has not been audited yet.");
      refill(this.report, ...(none ? [empty] : problemBoxes(error, () => this.follow("GET"))));
    }
  }

  show({ collection, report, error }) {
    if (!report) {
      refill(this.report, problemBox({ detail: error }));
      return;
    }
    refill(
      this.report,
      h(
        "div",
        { class: "card" },
        h("h2", null, "Audited"),
        h("p", null, POPULATIONS[report.population]),
        h("p", { class: "hint" }, `${count(report.subjects, "subject")}, ${count(report.templates, "template")} · ${date(report.created_at)}`),
        button("Save the report", () => this.save(collection), { class: "quiet" }),
      ),
      this.pairs(collection, "Possibly enrolled twice", report.duplicate_count, report.duplicates, "No two subjects are within the default threshold.", (first, second) =>
        this.changer("Merge", () => mergeSubjects(collection, first, second), `Merge ${first} and ${second}`)),
      this.templates(collection, "Templates that do not fit their subject", report.outlier_count, report.outliers, "Every template matches the others of its subject.", (found) =>
        `distance to the others ${distance(found.distance)}, threshold ${distance(found.threshold)}`),
      this.templates(collection, "Weak templates", report.weak_count, report.weak, "The encoder recognises enough in every template.", (found) =>
        `quality ${found.norm.toFixed(1)}`),
      this.pairs(collection, "Most alike", null, report.confusable, "There are fewer than two subjects."),
    );
  }

  /** The same report as a document, with a plot. */
  async save(collection) {
    await during(this.start, this.place, async () => {
      const page = new Blob([await call("GET", `${auditOf(collection)}/page`, { as: "text" })], { type: "text/html" });
      const url = URL.createObjectURL(page);
      h("a", { href: url, download: `audit-${collection}.html` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    });
  }

  pairs(collection, title, total, found, none, offered = () => null) {
    return section(title, total, found, none, ({ first, second, distance: apart, false_match_rate: rate }) => [
      h("span", null, h("strong", null, first), " and ", h("strong", null, second)),
      h("span", { class: "hint" }, `distance ${distance(apart)}; strangers as close: ${rate === null ? "more than half" : `at most ${oneIn(rate)}`}`),
      h("span", { class: "row" }, [
        offered(first, second),
        ...[first, second].map((id) => this.changer(`Erase ${id}`, () => eraseSubject(collection, id))),
      ]),
    ]);
  }

  templates(collection, title, total, found, none, words) {
    return section(title, total, found, none, (one) => [
      h("span", null, h("strong", null, one.subject_id), " ", h("code", null, one.template_id.slice(0, 8))),
      h("span", { class: "hint" }, words(one)),
      h("span", { class: "row" }, [
        this.changer("Erase the template", () => eraseTemplate(collection, one.subject_id, one.template_id)),
        this.changer(`Erase ${one.subject_id}`, () => eraseSubject(collection, one.subject_id)),
      ]),
    ]);
  }

  /** What comes of it is told beside the finding: a report is long. */
  changer(text, change, name = null) {
    const control = button(text, async () => {
      const finding = control.closest(".finding");
      const place = [...this.report.querySelectorAll(".finding")].indexOf(finding);
      if (!(await during(control, finding.lastElementChild, change))) return;
      await this.opened();
      this.focusFinding(place);
    }, { class: "quiet", "aria-label": name });
    return control;
  }

  /** For whoever was in a finding that has gone, the one in its place, unless they are elsewhere by now. */
  focusFinding(place) {
    if (!this.report.contains(document.activeElement)) return;
    const findings = this.report.querySelectorAll(".finding");
    findings[Math.min(place, findings.length - 1)]?.querySelector("button").focus();
  }
}

function underWay(job) {
  const share = Math.round(100 * job.progress);
  return [h("p", { role: "status" }, `${share} % done.`), h("progress", { max: 1, value: job.progress, "aria-label": "Audit" })];
}

/** total: how many there are; null for a list that always goes on. */
function section(title, total, found, none, row) {
  const shown = total > found.length ? ` (${found.length} shown)` : "";
  const rows = found.map((one) => h("li", { class: "finding" }, row(one), h("div")));
  return h(
    "div",
    { class: "card" },
    h("h2", null, total === null ? title : `${title}: ${total}${shown}`),
    rows.length > 0 ? h("ul", { class: "plain" }, rows) : h("p", { class: "empty" }, none),
  );
}
