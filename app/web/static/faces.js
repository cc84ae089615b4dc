// Which face of a photograph is meant, and that the service used that one.

import { Problem } from "./api.js";
import { jpegOf } from "./camera.js";

/** Margins around a face that is cut out, in sides of its box. Null: the whole photograph. */
const CUTS = [null, 0.7, 0.35, 0.1];
const SAME_FACE = 0.4;

/** Shared area of two boxes, divided by the area that they cover together. */
export function overlap(a, b) {
  const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
  if (width <= 0 || height <= 0) return 0;
  const shared = width * height;
  return shared / (a.width * a.height + b.width * b.height - shared);
}

/** A photograph with one of its faces chosen: what is sent to the service for it. */
export class Chosen {
  /** face: of /detect, the largest one unless `isCut`, which says that the face is cut out. */
  constructor(file, face, isCut) {
    this.file = file;
    this.face = face;
    this.cut = isCut ? 1 : 0;
    this.sent = null;
  }

  async photograph() {
    this.sent ??= CUTS[this.cut] === null ? { blob: this.file, x: 0, y: 0 } : await cutOut(this.file, this.face.box, CUTS[this.cut]);
    return this.sent.blob;
  }

  /** Whether the face that the service used is the chosen one. */
  used(probe) {
    const { box } = probe.face;
    return overlap({ ...box, x: box.x + this.sent.x, y: box.y + this.sent.y }, this.face.box) >= SAME_FACE;
  }

  get canBeCutCloser() {
    return this.cut > 0 && this.cut < CUTS.length - 1;
  }

  closer() {
    if (this.cut === CUTS.length - 1)
      throw new Problem("The service takes another face than the chosen one: cut the photograph to that face and try again.");
    this.cut += 1;
    this.sent = null;
  }
}

/** Sends the photographs; again, cut closer, while the service takes another face or cannot tell which one is meant. */
export async function withChosenFaces(chosen, send) {
  for (;;) {
    const { answer, probes } = await send(await Promise.all(chosen.map((one) => one.photograph())));
    const others = chosen.filter((one, index) => !one.used(probes[index]));
    const unsure = answer.reason === "ambiguous_face" ? chosen.filter((one) => one.canBeCutCloser) : [];
    const again = others.length > 0 ? others : unsure;
    if (again.length === 0) return answer;
    again.forEach((one) => one.closer());
  }
}

async function cutOut(file, box, margin) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Problem("This browser cannot open the photograph to cut out the chosen face: save it as a JPEG and try again.");
  });
  const edge = margin * Math.max(box.width, box.height);
  const x = Math.max(0, Math.floor(box.x - edge));
  const y = Math.max(0, Math.floor(box.y - edge));
  const width = Math.min(picture.width, Math.ceil(box.x + box.width + edge)) - x;
  const height = Math.min(picture.height, Math.ceil(box.y + box.height + edge)) - y;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(picture, -x, -y);
  picture.close();
  return { blob: await jpegOf(canvas), x, y };
}
