// People: who is enrolled in a collection, enrolling, erasing.

import { call, modelInUse } from "./api.js";
import { collectionInUse, onCollection } from "./collection.js";
import { button, confirmed, during, h, modal } from "./dom.js";
import { Enrol } from "./enrol.js";
import { sampleFile } from "./photograph.js";
import { count, date, day } from "./words.js";

const PAGE = 25;
const SAMPLE_PEOPLE = ["eileen-collins", "grace-hopper"];

const pageAfter = (cursor, collection) => call("GET", "subjects", { query: { collection, limit: PAGE, cursor } });

async function one(id, collection) {
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
    this.list = h("div", { class: "list" });
    this.pages = h("div", { class: "row" });
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
    this.pages.replaceChildren();
    await during(this.find, this.list, async () => {
      try {
        const { weak_below: weakBelow } = await modelInUse();
        const page = id ? await one(id, collection) : await pageAfter(this.cursors.at(-1), collection);
        if (turn === this.turn) await this.show(page, collection, weakBelow);
      } catch (error) {
        if (turn === this.turn) throw error;
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
    return this.turnPages(next);
  }

  nobody(collection) {
    return [
      h("p", { class: "empty" }, "Nobody is enrolled in this collection yet."),
      button("Enrol two sample people", (event) => during(event.target, this.list, () => this.enrolSamples(collection))),
    ];
  }

  async enrolSamples(collection) {
    const files = await Promise.all(SAMPLE_PEOPLE.map((name) => sampleFile(`${name}.jpg`)));
    await this.enrol.enrol(files.map((file, place) => ({ file, folder: SAMPLE_PEOPLE[place] })), collection);
  }

  turnPages(next) {
    const back = button("Previous", () => {
      this.cursors.pop();
      this.load();
    });
    const on = button("Next", () => {
      this.cursors.push(next);
      this.load();
    });
    back.disabled = this.cursors.length < 2;
    on.disabled = next === null;
    const shown = back.disabled && on.disabled ? [] : [back, h("span", { class: "hint" }, `Page ${this.cursors.length}`), on];
    this.pages.replaceChildren(...shown);
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
    const done = await during(control, place, erase);
    if (done) this.search.value = "";
    if (done) await this.load();
  }
}
