// Elements from code. Text is always set as text: ids and metadata of people are shown and never become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Attributes: `class`, any other by its name, `on...` for listeners; false and null leave one out. */
function built(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => built(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => built(document.createElementNS(SVG, tag), attributes, children);

export const button = (label, onclick, attributes) => h("button", { type: "button", onclick, ...attributes }, label);

/** A problem of the service, in its own words. */
export const problemBox = (error) => h("p", { class: "problem", role: "alert" }, error.detail ?? String(error));

/** A problem and, where it may pass, a button to try again: what the service refuses of a request it refuses again. */
export function problemBoxes(error, again) {
  const passing = [0, 401, 429].includes(error.status) || error.status >= 500;
  return [problemBox(error), ...(passing ? [button("Try again", again, { class: "quiet" })] : [])];
}

/**
 * Puts something else into a place. If the focus was in there, it goes to the first button that is there now, else to
 * the place, which has a tabindex for that: whoever has no mouse goes on from where they were.
 */
export function refill(place, ...children) {
  const held = place.contains(document.activeElement);
  place.replaceChildren(...children);
  if (held) (place.querySelector("button") ?? place).focus();
}

/**
 * Runs what a control starts: it waits meanwhile, and a failure is shown in `place`. A control that had the focus gets
 * it back, unless the user is elsewhere by then: a browser takes the focus from what is disabled.
 */
export async function during(control, place, work) {
  const focused = document.activeElement === control;
  control.disabled = true;
  place.replaceChildren();
  try {
    return await work();
  } catch (error) {
    place.replaceChildren(problemBox(error));
    return undefined;
  } finally {
    control.disabled = false;
    if (focused && document.activeElement === document.body) control.focus();
  }
}

/** A modal dialog; resolves with what `close(value)` is given, or undefined if it was left. */
export function modal(label, build) {
  return new Promise((resolve) => {
    let result;
    const dialog = h("dialog", { "aria-label": label });
    const close = (value) => {
      result = value;
      dialog.close();
    };
    dialog.append(...build(close));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Asks before something is erased; true if it is meant. */
export const confirmed = (question, action) =>
  modal(action, (close) => [
    h("h2", null, action),
    h("p", null, question),
    h(
      "div",
      { class: "row end" },
      button("Keep", () => close(false), { autofocus: true }),
      button(action, () => close(true), { class: "danger" }),
    ),
  ]);
