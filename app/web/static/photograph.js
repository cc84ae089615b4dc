// A place for one photograph: drop, paste, choose or take it; shows its faces and lets one be chosen.

import { call } from "./api.js";
import { hasCamera, photographed } from "./camera.js";
import { button, h, problemBox, problemBoxes, refill } from "./dom.js";
import { Chosen } from "./faces.js";
import { count, issues } from "./words.js";

// Without HEIC: so Safari on an iPhone converts its photographs to JPEG.
export const KINDS = "image/jpeg,image/png,image/webp,image/avif";

export const SAMPLES = [
  { file: "eileen-collins.jpg", name: "Eileen Collins" },
  { file: "eileen-collins-changed.jpg", name: "Eileen Collins, the same photograph mirrored, cropped and darker" },
  { file: "grace-hopper.jpg", name: "Grace Hopper" },
  { file: "both.jpg", name: "Both of them in one picture" },
];

/** A sample photograph as a file. Throws Problem. */
export async function sampleFile(name) {
  const content = await call("GET", `page/samples/${name}`, { as: "blob", cache: "default" });
  return new File([content], name, { type: "image/jpeg" });
}

export class PhotographInput {
  /** onchange: called when another face is meant, or none. */
  constructor(label, onchange) {
    this.label = label;
    this.onchange = onchange;
    this.chosen = null;
    this.turn = 0;
    this.input = h("input", {
      type: "file", accept: KINDS, class: "hidden", tabindex: "-1", "aria-label": `${label}: file`,
      onchange: () => this.take(this.input.files),
    });
    this.body = h("div", { class: "photograph-body" });
    this.element = h("div", { class: "photograph", role: "group", "aria-label": label }, this.input, this.body);
    this.element.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.element.classList.add("over");
    });
    this.element.addEventListener("dragleave", () => this.element.classList.remove("over"));
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      this.element.classList.remove("over");
      this.take(event.dataTransfer.files);
    });
    this.clear();
  }

  get isEmpty() {
    return this.file === null;
  }

  take(files) {
    if (files.length > 0) this.load(files[0]);
    this.input.value = "";
  }

  clear() {
    this.turn += 1;
    this.file = null;
    this.mean(null);
    const camera = button("Camera", () => this.fromCamera());
    refill(
      this.body,
      h("p", { class: "lead" }, this.label),
      h("p", { class: "hint" }, "Drop or paste a photograph here, or"),
      h("div", { class: "row" }, button("Choose a file", () => this.input.click()), camera),
      h(
        "div",
        { class: "samples" },
        h("span", { class: "hint" }, "or try one"),
        SAMPLES.map(({ file, name }) =>
          button(h("img", { src: `page/samples/${file}`, alt: "", width: 44, height: 44 }), () => this.sample(file), {
            "aria-label": `Sample: ${name}`, title: name,
          }),
        ),
      ),
    );
  }

  async sample(name) {
    const turn = (this.turn += 1);
    try {
      const file = await sampleFile(name);
      if (turn === this.turn) await this.load(file);
    } catch (error) {
      if (turn !== this.turn) return;
      this.clear();
      this.body.append(problemBox(error));
    }
  }

  async fromCamera() {
    if (!hasCamera()) {
      // Without HTTPS a browser lends no camera to a page; a phone still lends its own through a file.
      this.input.setAttribute("capture", "user");
      this.input.click();
      this.input.removeAttribute("capture");
      return;
    }
    const taken = await photographed();
    if (taken) await this.load(taken);
  }

  /** Shows the photograph and asks the service for its faces. */
  async load(file) {
    this.turn += 1;
    const { turn } = this;
    this.file = file;
    this.mean(null);
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(file);
    this.picture = h("div", { class: "picture" }, this.image());
    this.caption = h("div", { class: "caption", "aria-live": "polite" }, h("p", { class: "hint" }, "Looking for faces …"));
    refill(this.body, this.picture, this.caption, button("Another photograph", () => this.clear(), { class: "quiet" }));
    try {
      const found = await call("POST", "detect", { fields: { image: file } });
      if (turn === this.turn) this.show(found);
    } catch (error) {
      if (turn === this.turn) this.caption.replaceChildren(...problemBoxes(error, () => this.load(file)));
    }
  }

  /** What the browser cannot show, the service may read, and the other way round. */
  image() {
    const image = h("img", { src: this.url, alt: `${this.label}: the photograph`, onerror: () => (image.hidden = true) });
    return image;
  }

  show({ width, height, faces }) {
    const percent = (part, whole) => `${(100 * part) / whole}%`;
    this.faces = faces;
    this.boxes = faces.map(({ box }, index) => {
      const mark = button("", () => this.choose(index, faces.length > 1), { class: "box", "aria-label": `Face ${index + 1} of ${faces.length}` });
      Object.assign(mark.style, {
        left: percent(box.x, width), top: percent(box.y, height),
        width: percent(box.width, width), height: percent(box.height, height),
      });
      return mark;
    });
    this.picture.append(...this.boxes);
    if (faces.length === 0) {
      this.caption.replaceChildren(problemBox({ detail: "No face was found in this photograph." }));
      return;
    }
    this.choose(0, false);
  }

  /** Of several faces, the one that somebody chose is cut out: in the whole photograph another one might be meant. */
  choose(index, isCut) {
    const { quality } = this.faces[index];
    this.boxes.forEach((box, place) => box.setAttribute("aria-pressed", String(place === index)));
    const several = `${count(this.faces.length, "face")}: the one in the coloured frame is meant. Choose another one in the picture.`;
    const poor = quality.issues.length > 0 ? ` This face is poor: ${issues(quality)}.` : "";
    this.caption.replaceChildren(h("p", { class: "hint" }, (this.faces.length > 1 ? several : "1 face.") + poor));
    this.mean(new Chosen(this.file, this.faces[index], isCut));
  }

  mean(chosen) {
    this.chosen = chosen;
    this.onchange();
  }
}
