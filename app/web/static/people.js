// People: who is enrolled in a collection, enrolling, erasing.

import { Problem, call, modelInUse } from "./api.js";
import { collectionInUse, onCollection } from "./collection.js";
import { button, confirmed, during, h, modal } from "./dom.js";
import { Enrol, notAnId } from "./enrol.js";
import { isId } from "./folders.js";
import { sampleFile } from "./photograph.js";
import { count, date, day } from "./words.js";

const PAGE = 25;
const SAMPLE_PEOPLE = ["eileen-collins", "grace-hopper"];

const pageAfter = (cursor, collection) => call("GET", "subjects", { query: { collection, limit: PAGE, cursor } });

async function one(id, collection) {
  if (!isId(id)) throw new Problem(notAnId(id));
  const found = await call("GET", `subjects/${encodeURIComponent(id)}`, { query: { collection } });
  return { subjects: [found], next_cursor: null };
}

/** Erases a template; true if it was meant and done. The collection is that of the answer that was shown. */
export async function eraseTemplate(collection, subject, template) {
  const question = `The template ${template} of ${subject} in the collection ${collection} is erased for good.`;
  if (!(await confirmed(question, "Erase the template"))) return false;
  const path = `subjects/${encodeURIComponent(subject)}/templates/${encodeURIComponent(template)}`;
  await call("DELETE", path, { query: { collection } });
  return true;
}

/** Erases a subject; true if it was meant and done. */
export async function eraseSubject(collection, subject) {
  const question = `${subject} of the collection ${collection} and all their templates are erased for good.`;
  if (!(await confirmed(question, "Erase the subject"))) return false;
  await call("DELETE", `subjects/${encodeURIComponent(subject)}`, { query: { collection } });
  return true;
}

/** Merges two subjects who are one person; true if it was meant and done. */
export async function mergeSubjects(collection, first, second) {
  const kept = await modal("Merge", (close) => [
    h("h2", null, "Merge"),
    h("p", null, `${first} and ${second} of the collection ${collection} become one subject with the templates of both.`),
    h("p", { class: "hint" }, "This cannot be undone. The other name and its metadata are erased."),
    h(
      "div",
      { class: "row end" },
      button("Leave both", () => close(), { autofocus: true }),
      [first, second].map((id) => button(`Keep the name ${id}`, () => close(id), { class: "danger" })),
    ),
  ]);
  if (kept === undefined) return false;
  await call("POST", `subjects/${encodeURIComponent(kept)}/merge`, {
    query: { collection }, json: { duplicate: kept === first ? second : first },
  });
  return true;
}

export class People {
  constructor(panel) {
    this.cursors = [null];
    this.enrol = new Enrol(() => this.reload());
    this.search = h("input", {
      type: "search", id: "search", maxlength: 128, spellcheck: "false",
      oninput: () => this.search.value === "" && this.reload(),
    });
    this.find = h("button", null, "Find");
    this.said = h("p", { class: "hint", role: "status" });
    this.list = h("div", { class: "list", tabindex: "-1" });
    this.back = button("Previous", () => this.turnTo(this.cursors.slice(0, -1)));
    this.on = button("Next", () => this.turnTo([...this.cursors, this.next]));
    this.pages = h("div", { class: "row", hidden: true }, this.back, this.on);
    panel.append(
      h("p", { class: "intro" }, "The people of this collection. A template, 128 numbers, is kept of each photograph; the photograph is not."),
      h("div", { class: "columns" }, this.listCard(), this.enrol.element),
    );
    onCollection(() => this.reload());
  }

  listCard() {
    const submit = (event) => {
      event.preventDefault();
      this.reload();
    };
    return h(
      "div",
      { class: "card" },
      h("h2", null, "Enrolled"),
      h(
        "form",
        { class: "row", onsubmit: submit },
        h("label", { for: "search" }, "Subject id"),
        this.search,
        this.find,
      ),
      this.said,
      this.list,
      this.pages,
    );
  }

  opened() {
    this.isOpen = true;
    this.reload();
  }

  paste(files) {
    this.enrol.paste(files);
  }

  reload() {
    if (!this.isOpen) return undefined;
    this.cursors = [null];
    return this.load();
  }

  /** Of several loads the one that was started last is shown, in whatever order they are answered. */
  async load() {
    const turn = (this.turn = {});
    const id = this.search.value.trim();
    const collection = collectionInUse();
    this.isLoading = true;
    this.said.textContent = "Loading …";
    // Its rows go.
    if (this.list.contains(document.activeElement)) this.list.focus();
    await during(this.find, this.list, async () => {
      try {
        const { weak_below: weakBelow } = await modelInUse();
        const page = id ? await one(id, collection) : await pageAfter(this.cursors.at(-1), collection);
        if (turn === this.turn) await this.show(page, collection, weakBelow);
      } catch (error) {
        if (turn !== this.turn) return;
        this.said.textContent = "";
        this.turnPages(null);
        throw error;
      }
    });
  }

  /** A page whose last subject was erased gives way to the one before it. */
  show({ subjects, next_cursor: next }, collection, weakBelow) {
    if (subjects.length === 0 && this.cursors.length > 1) {
      this.cursors.pop();
      return this.load();
    }
    const rows = subjects.map((subject) => this.row(subject, weakBelow));
    this.list.replaceChildren(...(rows.length > 0 ? rows : this.nobody(collection)));
    const many = count(rows.length, "subject");
    this.said.textContent = next || this.cursors.length > 1 ? `Page ${this.cursors.length}: ${many}` : many;
    return this.turnPages(next);
  }

  nobody(collection) {
    return [
      h("p", { class: "empty" }, "Nobody is enrolled in this collection yet."),
      button("Enrol two sample people", async (event) => {
        await during(event.target, this.list, () => this.enrolSamples(collection));
        this.focusRow(0);
      }),
    ];
  }

  async enrolSamples(collection) {
    const files = await Promise.all(SAMPLE_PEOPLE.map((name) => sampleFile(`${name}.jpg`)));
    await this.enrol.enrol(files.map((file, place) => ({ file, folder: SAMPLE_PEOPLE[place] })), collection);
  }

  /** Where to go on is not known before the page that is being loaded is there. */
  turnTo(cursors) {
    if (this.isLoading) return;
    this.cursors = cursors;
    this.load();
  }

  /** The buttons stay, and so does the focus; one that goes no further gives it to the other. */
  turnPages(next) {
    const { activeElement: focused } = document;
    Object.assign(this, { next, isLoading: false });
    this.back.disabled = this.cursors.length < 2;
    this.on.disabled = next === null;
    this.pages.hidden = this.back.disabled && this.on.disabled;
    const both = [this.back, this.on];
    if (both.includes(focused) && focused.disabled) (both.find(({ disabled }) => !disabled) ?? this.list).focus();
  }

  /** For whoever was in a row that has gone, the one in its place, unless they are elsewhere by now. */
  focusRow(place) {
    if (![document.body, this.list].includes(document.activeElement)) return;
    const rows = this.list.querySelectorAll("summary");
    (rows[Math.min(place, rows.length - 1)] ?? this.list).focus();
  }

  row(subject, weakBelow) {
    const { id, collection, metadata, templates, created_at: created } = subject;
    const place = h("div");
    const erase = button("Erase the subject", () => this.erasing(erase, place, () => eraseSubject(collection, id)), { class: "danger" });
    const known = Object.entries(metadata).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
    return h(
      "details",
      { class: "subject" },
      h(
        "summary",
        null,
        h("span", { class: "id" }, id),
        h("span", { class: "hint" }, `${count(templates.length, "template")} · ${day(created)}`),
      ),
      known.length > 0 ? h("p", { class: "hint" }, known.join(" · ")) : null,
      h("ul", { class: "plain" }, templates.map((template) => this.template(subject, template, weakBelow, place))),
      place,
      erase,
    );
  }

  template(subject, template, weakBelow, place) {
    const weak = template.embedding_norm < weakBelow;
    const { id, collection } = subject;
    const erase = button("Erase", () => this.erasing(erase, place, () => eraseTemplate(collection, id, template.id)), {
      class: "quiet", "aria-label": `Erase the template ${template.id}`,
    });
    return h(
      "li",
      { class: "template" },
      h("span", null, h("code", null, template.id.slice(0, 8)), ` · ${date(template.created_at)}`),
      h(
        "span",
        { class: weak ? "weak" : "hint" },
        `quality ${template.embedding_norm.toFixed(1)}, ${weak ? `weak: below ${weakBelow.toFixed(1)}` : "good"}`,
      ),
      subject.templates.length > 1 ? erase : null,
    );
  }

  async erasing(control, place, erase) {
    const row = [...this.list.children].indexOf(control.closest(".subject"));
    if (!(await during(control, place, erase))) return;
    this.search.value = "";
    await this.load();
    this.focusRow(row);
  }
}
