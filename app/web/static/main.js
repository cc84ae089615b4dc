// Starts the page: tabs, the collection, the key.

import { Audit } from "./audit.js";
import { collectionControl } from "./collection.js";
import { Compare } from "./compare.js";
import { button } from "./dom.js";
import { Identify } from "./identify.js";
import { askForKey } from "./key.js";
import { People } from "./people.js";

const TABS = { compare: Compare, people: People, identify: Identify, audit: Audit };
const tabs = [...document.querySelectorAll("[role=tab]")];
const panels = Object.fromEntries(
  Object.entries(TABS).map(([name, Panel]) => [name, new Panel(document.getElementById(name))]),
);
let shown = null;

function show(name) {
  if (shown === name) return;
  shown = name;
  for (const tab of tabs) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  panels[name].opened?.();
}

const named = () => (location.hash.slice(1) in TABS ? location.hash.slice(1) : "compare");

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => {
    const name = tab.getAttribute("aria-controls");
    if (name === shown) return;
    // A new location.hash would take the focus from the tab.
    history.pushState(null, "", `#${name}`);
    show(name);
  });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}
window.addEventListener("hashchange", () => show(named()));

document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length > 0) panels[shown].paste?.(files);
});
// A photograph dropped beside its place would replace the page.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());

const collection = collectionControl();
const key = button("Key", async () => {
  if (await askForKey()) {
    await collection.refresh();
    panels[shown].opened?.();
  }
});
document.getElementById("tools").append(collection.element, key);
show(named());
collection.refresh();
