// Compare: two photographs, one decision.

import { call, modelInUse } from "./api.js";
import { collectionInUse, onCollection } from "./collection.js";
import { drawAxis } from "./curves.js";
import { button, h, problemBoxes, refill } from "./dom.js";
import { withChosenFaces } from "./faces.js";
import { PhotographInput } from "./photograph.js";
import { REASONS, distance, howOften, oneIn } from "./words.js";

const LOOSEST = 0.1;
const PAUSE = 150;
const HEADLINES = { match: "The same person", no_match: "Not the same person", inconclusive: "Cannot say" };

/** The rates that the slider offers: 1, 2, 5 of every decade that the calibration supports, and the one in use. */
export function targets(model, used) {
  const found = new Set([model.smallest_supported_fmr, used]);
  for (let decade = 1e-9; decade < LOOSEST; decade *= 10)
    for (const step of [1, 2, 5]) {
      const rate = Number((step * decade).toPrecision(1));
      if (rate > model.smallest_supported_fmr) found.add(rate);
    }
  found.add(LOOSEST);
  return [...found].sort((a, b) => a - b);
}

export class Compare {
  constructor(panel) {
    this.panel = panel;
    this.first = new PhotographInput("First face", () => this.changed());
    this.second = new PhotographInput("Second face", () => this.changed());
    this.verdict = h("div", { class: "verdict", "aria-live": "polite", tabindex: "-1" });
    this.axis = h("div", { class: "axis" });
    this.slider = h("input", { type: "range", id: "target", min: 0, step: 1, oninput: () => this.moved() });
    this.said = h("output", { for: "target" });
    this.target = this.control();
    this.result = h("div", { class: "card result", hidden: true }, this.verdict, this.axis, this.target);
    panel.append(
      h("p", { class: "intro" }, "Two faces: is it the same person? Nothing is stored."),
      this.both(),
      h("div", { class: "pair" }, this.first.element, this.second.element),
      this.result,
    );
    new ResizeObserver(() => this.draw()).observe(this.axis);
    onCollection(() => {
      this.isMoved = false;
      this.changed();
    });
  }

  /** Nothing is asked while the tab is hidden: that is done once it is opened. */
  opened() {
    if (this.result.hidden) this.changed();
  }

  both() {
    return h(
      "div",
      { class: "row" },
      h("span", { class: "hint" }, "Try samples:"),
      this.samples("One person", "eileen-collins.jpg", "eileen-collins-changed.jpg"),
      this.samples("Two people", "eileen-collins.jpg", "grace-hopper.jpg"),
    );
  }

  samples(label, first, second) {
    return button(label, () => {
      this.first.sample(first);
      this.second.sample(second);
    });
  }

  control() {
    return h(
      "div",
      { class: "control", hidden: true },
      h("label", { for: "target" }, "How many strangers may pass as the same person? At most ", this.said),
      this.slider,
      h("div", { class: "ends hint" }, h("span", null, "stricter"), h("span", null, "more permissive")),
    );
  }

  paste(files) {
    const inputs = [this.first, this.second];
    const focused = inputs.find((input) => input.element.contains(document.activeElement));
    const empty = focused?.isEmpty ? focused : inputs.find((input) => input.isEmpty);
    (empty ?? focused ?? this.second).take(files);
  }

  /** Another face is meant, or another collection is in use. */
  changed() {
    if (!this.result) return;
    this.asking?.abort();
    clearTimeout(this.pause);
    this.answer = null;
    const ready = Boolean(!this.panel.hidden && this.first.chosen && this.second.chosen);
    this.result.hidden = !ready;
    if (ready) this.ask();
  }

  moved() {
    this.isMoved = true;
    this.say();
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.ask(), PAUSE);
  }

  say() {
    const text = oneIn(this.rates[this.slider.value]);
    this.said.textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
  }

  /** Every decision is the service's, also those for a moved slider. */
  async ask() {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    this.result.classList.add("waiting");
    if (!this.answer) refill(this.verdict, h("p", { class: "hint" }, "Comparing …"));
    try {
      this.model = await modelInUse();
      const answer = await this.decided(signal);
      if (signal.aborted) return;
      this.answer = answer;
      if (!this.isMoved) this.offer(answer.criterion);
      this.tell();
    } catch (error) {
      if (signal.aborted) return;
      this.answer = null;
      refill(this.verdict, ...problemBoxes(error, () => this.ask()));
    }
    this.result.classList.remove("waiting");
    this.draw();
  }

  /** Until the slider is moved it stands at the target of the collection, or of the service. */
  offer({ kind, value }) {
    const used = kind === "target_fmr" ? value : this.model.target_fmr;
    this.rates = targets(this.model, used);
    this.slider.max = this.rates.length - 1;
    this.slider.value = this.rates.indexOf(used);
    this.target.hidden = false;
    this.say();
  }

  decided(signal) {
    return withChosenFaces([this.first.chosen, this.second.chosen], async ([image, reference]) => {
      const target = this.isMoved ? this.rates[this.slider.value] : null;
      const fields = { image, reference, face_policy: "largest", collection: collectionInUse(), target_fmr: target };
      const answer = await call("POST", "verify", { fields, signal });
      return { answer, probes: [answer.probe, answer.reference] };
    });
  }

  tell() {
    const { answer } = this;
    const missed = answer.operating_point?.false_non_match_rate.value;
    this.verdict.className = `verdict ${answer.decision}`;
    refill(
      this.verdict,
      h("h2", null, HEADLINES[answer.decision]),
      ...(answer.reason ? [h("p", null, REASONS[answer.reason])] : []),
      h("p", null, howOften(answer.false_match_rate, answer.worst_group)),
      h(
        "p",
        { class: "hint" },
        `Distance ${distance(answer.distance)}, threshold ${distance(answer.threshold)}` +
          (missed === undefined ? "." : `; at this target, ${oneIn(missed)} pairs of photographs of one person were missed when it was measured.`) +
          ` Calibration ${answer.calibration_version}.`,
      ),
    );
  }

  draw() {
    if (this.model && !this.result.hidden) drawAxis(this.axis, this.model, this.answer);
  }
}
