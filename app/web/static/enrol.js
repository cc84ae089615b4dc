// Enrolling by dropping photographs, or folders with one person in each.

import { call } from "./api.js";
import { collectionInUse, onCollection } from "./collection.js";
import { button, h, problemBox } from "./dom.js";
import { chosen, clash, dropped, idOf, isId } from "./folders.js";
import { KINDS } from "./photograph.js";
import { count, distance, notEnrolled } from "./words.js";

const AT_ONCE = 2;
const SHOWN = 200;

/** Why it is none, as a sentence. */
export function notAnId(id) {
  const near = idOf(id);
  const such = near === null ? "" : `, such as ${near}`;
  return `“${id}” cannot be a subject id: take letters without accents, digits and . _ @ : + ~ -${such}.`;
}

/** A name for one request, so that it may be sent again without being done twice. */
const requestName = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export class Enrol {
  /** ondone: called when subjects may have been added. */
  constructor(ondone) {
    this.ondone = ondone;
    this.subject = h("input", { id: "enrol-id", maxlength: 128, spellcheck: "false", placeholder: "such as ada" });
    this.files = this.input({ multiple: true }, "Photographs of one person");
    this.folder = this.input({ webkitdirectory: true }, "A folder with a folder for each person");
    this.progress = h("progress", { "aria-label": "Photographs sent", hidden: true });
    this.problem = h("div");
    this.said = h("p", { role: "status", tabindex: "-1" });
    this.stop = button("Stop", () => this.stopping.abort(), { hidden: true });
    this.refused = h("ul", { class: "plain" });
    this.alike = h("ul", { class: "plain" });
    this.zone = this.dropZone();
    this.element = h(
      "div",
      { class: "card" },
      h("h2", null, "Enrol"),
      this.files,
      this.folder,
      this.zone,
      h("div", { class: "row" }, this.progress, this.stop),
      this.problem,
      this.said,
      this.refused,
      this.alike,
    );
    onCollection(() => (this.running ? this.tell() : this.forget()));
  }

  input(kind, label) {
    const input = h("input", {
      type: "file", accept: KINDS, class: "hidden", tabindex: "-1", "aria-label": label, ...kind,
      onchange: async () => {
        await this.enrol(chosen(input.files), collectionInUse());
        input.value = "";
      },
    });
    return input;
  }

  dropZone() {
    const zone = h(
      "div",
      { class: "drop" },
      h("p", null, "Drop photographs of one person here, or folders with one person in each."),
      h("label", { for: "enrol-id" }, "Subject id (photographs in a folder take its name)"),
      this.subject,
      h(
        "div",
        { class: "row" },
        button("Choose photographs", () => this.files.click()),
        button("Choose a folder", () => this.folder.click()),
      ),
      h("p", { class: "hint" }, "Templates are kept, photographs are not. One face in each, large and sharp."),
    );
    zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", async (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      // Reading a large folder takes a while, and another collection may be in use by then.
      const collection = collectionInUse();
      await this.enrol(await dropped(event.dataTransfer), collection);
    });
    return zone;
  }

  paste(files) {
    this.enrol(files.map((file) => ({ file, folder: null })), collectionInUse());
  }

  refusal(items) {
    if (this.running) return "Photographs are being enrolled; wait until that is done.";
    if (items.length === 0) return "There are no photographs in there.";
    const alone = items.some(({ folder }) => folder === null);
    const id = this.subject.value.trim();
    if (alone && !id) return "Give the subject id of these photographs first: whose are they?";
    if (alone && !isId(id)) return notAnId(id);
    return clash(items.filter(({ folder }) => folder !== null));
  }

  /** Sends the photographs, each in a request of its own: one that is refused costs no other one. */
  async enrol(items, collection) {
    const refusal = this.refusal(items);
    if (refusal) {
      if (!this.running) this.forget();
      this.problem.replaceChildren(problemBox({ detail: refusal }));
      return;
    }
    const plan = this.plan(items, collection);
    this.start(plan.length, collection);
    const next = plan.values();
    await Promise.all(Array.from({ length: AT_ONCE }, () => this.work(next)));
    this.finish(plan.length);
  }

  plan(items, collection) {
    return items.map(({ file, folder }) => ({
      file,
      name: folder === null ? file.name : `${folder}/${file.name}`,
      fields: {
        image: file,
        subject_id: folder === null ? this.subject.value.trim() : idOf(folder),
        // Its name as it was, where the id could not hold it.
        metadata: folder === null || folder === idOf(folder) ? null : JSON.stringify({ name: folder }),
        collection,
      },
    }));
  }

  /** What was said of the last photographs goes. */
  forget() {
    for (const place of [this.problem, this.said, this.refused, this.alike]) place.replaceChildren();
  }

  start(total, collection) {
    this.forget();
    Object.assign(this, {
      running: true, collection, stopping: new AbortController(), sent: 0, enrolled: 0, subjects: new Set(), failures: 0,
    });
    Object.assign(this.progress, { max: total, value: 0, hidden: false });
    this.stop.hidden = false;
    this.tell();
  }

  tell(more = "") {
    this.progress.value = this.sent;
    this.said.textContent = `${this.sent} of ${count(this.progress.max, "photograph")} sent.${more}${this.where()}`;
  }

  /** The collection, where another one is in use by now. */
  where() {
    return this.collection === collectionInUse() ? "" : ` In the collection ${this.collection}.`;
  }

  finish(total) {
    this.running = false;
    if (document.activeElement === this.stop) this.said.focus();
    this.progress.hidden = this.stop.hidden = true;
    this.problem.replaceChildren();
    const left = total - this.sent;
    this.said.textContent =
      `${count(this.enrolled, "photograph")} enrolled, ${count(this.subjects.size, "subject")}; ${this.failures} refused` +
      (left > 0 ? `, ${left} not sent.` : ".") +
      this.where();
    this.ondone();
  }

  async work(next) {
    for (const item of next) {
      if (this.stopping.signal.aborted) return;
      if (!(await this.one(item))) return;
      this.sent += 1;
      this.tell();
    }
  }

  /** Whether the photograph is done with; not so if the service was waited for and that was stopped. */
  async one({ name, fields }) {
    const waits = (seconds) =>
      this.tell(` The service asks to wait: the next one is sent in ${count(seconds, "second")}.`);
    try {
      const headers = { "Idempotency-Key": requestName() };
      const answer = await call("POST", "enroll", { fields, headers, patient: { waits, until: this.stopping.signal } });
      this.enrolled += 1;
      this.subjects.add(answer.subject_id);
      for (const other of answer.possible_duplicates) this.resembles(answer.subject_id, other);
    } catch (error) {
      if (error.name === "AbortError") return false;
      this.failures += 1;
      // The others would be refused as well.
      if ([401, 403, 429].includes(error.status)) this.stopping.abort();
      if (this.failures <= SHOWN)
        this.refused.append(h("li", { class: "refused" }, h("strong", null, name), ` ${notEnrolled(error)}`));
    }
    return true;
  }

  resembles(id, other) {
    const text = `${id} looks like ${other.subject_id}, who is enrolled (distance ${distance(other.distance)}).`;
    const known = [...this.alike.children].some((line) => line.textContent.startsWith(`${id} looks like ${other.subject_id},`));
    if (!known && this.alike.children.length < SHOWN) this.alike.append(h("li", { class: "note" }, text));
  }
}
