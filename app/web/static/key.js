// The key for this tab: asked for once, kept until the tab is closed, sent with every request.

import { button, h, modal, problemBox } from "./dom.js";

const NAME = "tessera-key";
/** What a header can carry; the browser does not send anything else. */
const SENDABLE = "[ -~\\xA1-\\xFF]+";
let asking = null;
const listeners = [];

/** Called whenever another key was entered. */
export const onKey = (listener) => listeners.push(listener);

export const currentKey = () => sessionStorage.getItem(NAME);
export const forgetKey = () => sessionStorage.removeItem(NAME);

/** Shows the dialog; true once a key was entered. Several requests that were refused at once share one dialog. */
export function askForKey(error) {
  asking ??= ask(error).finally(() => (asking = null));
  return asking;
}

async function ask(error) {
  const entered = await modal("Key", (close) => {
    const input = h("input", {
      id: "key", type: "password", autocomplete: "off", spellcheck: "false", placeholder: "tessera_…", required: true,
      pattern: SENDABLE, title: "Paste the whole key as it was made; it has no such character as …",
    });
    const submit = (event) => {
      event.preventDefault();
      if (input.value.trim()) close(input.value.trim());
    };
    return [
      h("h2", null, error ? "This service asks for a key" : "The key of this tab"),
      error && currentKey() ? problemBox(error) : null,
      h(
        "form",
        { onsubmit: submit },
        h("label", { for: "key" }, "Key"),
        input,
        h("p", { class: "hint" }, "Whoever runs the service makes keys with ", h("code", null, "tessera keys create"), "."),
        h("p", { class: "hint" }, "It stays in this tab and is forgotten when the tab is closed."),
        h(
          "div",
          { class: "row end" },
          button("Not now", () => close()),
          currentKey() ? button("Forget the key", () => close("")) : null,
          h("button", { class: "primary" }, "Use this key"),
        ),
      ),
    ].filter(Boolean);
  });
  if (entered === "") {
    forgetKey();
    // What was shown with the key goes, too.
    location.reload();
  } else if (entered) {
    sessionStorage.setItem(NAME, entered);
    listeners.forEach((listener) => listener());
  }
  return Boolean(entered);
}
