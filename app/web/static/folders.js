// Which photographs were dropped or chosen, and whose they are: a folder holds the photographs of one person.

const LONGEST = 128;
const PICTURE = /\.(jpe?g|png|webp|heic|heif|avif|gif|bmp|tiff?)$/i;

/** Every file of a drop, folders included, as {file, folder, home}: the folder's name, and which one it is; null outside one. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return [...transfer.files].map((file) => ({ file, folder: null, home: null }));
  const found = [];
  for (const entry of entries) await walk(entry, null, found);
  return found.filter(isPicture);
}

/** The files of an input, also of one that takes a folder, in the same form. */
export const chosen = (files) =>
  [...files]
    .map((file) => {
      const path = file.webkitRelativePath.split("/").slice(0, -1);
      return { file, folder: path.at(-1) ?? null, home: path.join("/") || null };
    })
    .filter(isPicture);

/** In a folder other files lie about, too; what was dropped by itself was meant, whatever it is. */
const isPicture = ({ file, folder }) => folder === null || PICTURE.test(file.name);

/** The entry of a folder is its `home`: two that are dropped from different places may even have the same path. */
async function walk(entry, home, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, folder: home?.name ?? null, home });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a folder in parts, and an empty one at the end.
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (part.length === 0) return;
    for (const inner of part) await walk(inner, entry, found);
  }
}

/** Whether the service accepts it as an id. */
export const isId = (text) => /^[A-Za-z0-9][A-Za-z0-9._@:+~-]{0,127}$/.test(text);

/** An id that the service accepts, made of a name; null if nothing is left of it. */
export function idOf(name) {
  const plain = name.normalize("NFKD").replace(/\p{M}/gu, "").replace(/[^A-Za-z0-9._@:+~-]+/g, "-");
  return plain.replace(/^[^A-Za-z0-9]+|-+$/g, "").slice(0, LONGEST) || null;
}

/** Two folders that would become one subject, as a sentence; null if there are none. */
export function clash(items) {
  const taken = new Map();
  for (const { folder, home } of items) {
    const id = idOf(folder);
    if (id === null) return `No subject id can be made of the folder name “${folder}”: give it one in Latin letters or digits.`;
    const first = taken.get(id) ?? { folder, home };
    if (first.folder !== folder) return `The folders “${first.folder}” and “${folder}” would both become the subject ${id}: rename one.`;
    if (first.home !== home)
      return `Two folders are named “${folder}” (${pathOf(first.home)}, ${pathOf(home)}): put each person's photographs directly in a folder of their own.`;
    taken.set(id, first);
  }
  return null;
}

const pathOf = (home) => home.fullPath ?? home;
