// Which photographs were dropped or chosen, and whose they are: a folder holds the photographs of one person.

const LONGEST = 128;
const PICTURE = /\.(jpe?g|png|webp|heic|heif|avif|gif|bmp|tiff?)$/i;

/** Every file of a drop, folders included, as {file, folder}; folder is null outside one. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return [...transfer.files].map((file) => ({ file, folder: null }));
  const found = [];
  for (const entry of entries) await walk(entry, null, found);
  return found.filter(isPicture);
}

/** The files of an input, also of one that takes a folder. */
export const chosen = (files) =>
  [...files].map((file) => ({ file, folder: file.webkitRelativePath.split("/").at(-2) ?? null })).filter(isPicture);

/** In a folder other files lie about, too; what was dropped by itself was meant, whatever it is. */
const isPicture = ({ file, folder }) => folder === null || PICTURE.test(file.name);

async function walk(entry, folder, found) {
  if (entry.isFile) {
    found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), folder });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a folder in parts, and an empty one at the end.
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (part.length === 0) return;
    for (const inner of part) await walk(inner, entry.name, found);
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
export function clash(names) {
  const taken = new Map();
  for (const name of new Set(names)) {
    const id = idOf(name);
    if (id === null) return `No subject id can be made of the folder name “${name}”: give it one in Latin letters or digits.`;
    if (taken.has(id)) return `The folders “${taken.get(id)}” and “${name}” would both become the subject ${id}: rename one.`;
    taken.set(id, name);
  }
  return null;
}
