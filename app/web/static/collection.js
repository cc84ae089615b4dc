// The collection that all tabs work on.

import { call } from "./api.js";
import { button, during, h, modal, problemBox, problemBoxes, refill } from "./dom.js";
import { onKey } from "./key.js";

const ID = "[A-Za-z0-9][A-Za-z0-9._@:+~\\-]{0,127}";
const CHARACTERS = "Letters without accents, digits and . _ @ : + ~ -, a letter or digit first";
const listeners = [];
let current = "default";

export const collectionInUse = () => current;
export const onCollection = (listener) => listeners.push(listener);

function use(id) {
  current = id;
  listeners.forEach((listener) => listener(id));
}

/** The control in the header: a list, or a field for a key that may not list collections. */
export function collectionControl() {
  const place = h("div", { class: "collection", tabindex: "-1" });
  const show = async () => {
    try {
      const { collections } = await call("GET", "collections");
      refill(place, ...list(collections.map(({ id }) => id), show));
    } catch (error) {
      // Whoever left the dialog for a key has the button for one beside this.
      const isKnown = error.code === "forbidden" || error.status === 401;
      refill(place, ...field(), ...(isKnown ? [] : problemBoxes(error, show)));
    }
  };
  let loading = null;
  const refresh = () => (loading ??= show().finally(() => (loading = null)));
  onKey(refresh);
  return { element: place, refresh };
}

function list(ids, refresh) {
  if (!ids.includes(current) && ids.length > 0) use(ids[0]);
  const select = h("select", { id: "collection", onchange: () => use(select.value) });
  select.append(...ids.map((id) => h("option", { value: id, selected: id === current }, id)));
  return [h("label", { for: "collection" }, "Collection"), select, button("New …", () => create(refresh), { class: "quiet" })];
}

/** Shows the collection in use, also after something was typed that cannot be one. */
function field() {
  const place = h("div");
  const input = h("input", {
    id: "collection", value: current, pattern: ID, required: true, size: 12, maxlength: 128, spellcheck: "false",
    onchange: () => {
      const valid = input.checkValidity();
      const detail = `“${input.value}” cannot be a collection, so it is still ${current}. ${CHARACTERS}.`;
      place.replaceChildren(...(valid ? [] : [problemBox({ detail })]));
      if (valid) use(input.value);
      else input.value = current;
    },
  });
  return [h("label", { for: "collection" }, "Collection"), input, place];
}

async function create(refresh) {
  const id = await modal("New collection", (close) => {
    const input = h("input", { id: "new-collection", required: true, pattern: ID, title: CHARACTERS, spellcheck: "false" });
    const place = h("div");
    const add = h("button", { class: "primary" }, "Create");
    const submit = (event) => {
      event.preventDefault();
      during(add, place, async () => close((await call("POST", "collections", { json: { id: input.value } })).id));
    };
    return [
      h("h2", null, "New collection"),
      h("p", null, "An isolated set of people: nobody in it is compared with those of another one."),
      h(
        "form",
        { onsubmit: submit },
        h("label", { for: "new-collection" }, "Name"),
        input,
        h("p", { class: "hint" }, CHARACTERS),
        place,
        h("div", { class: "row end" }, button("Cancel", () => close()), add),
      ),
    ];
  });
  if (id) {
    use(id);
    await refresh();
  }
}
