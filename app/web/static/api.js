// Requests to the service that served this page.

import { askForKey, currentKey } from "./key.js";

const TRIES = 5;
/** In seconds: a rate of requests a minute is waited for, one a day is not. */
const LONGEST_WAIT = 60;

/** What the service answered instead; `detail` says what happened and what to do. */
export class Problem extends Error {
  constructor(detail, { code = "", status = 0, retryAfter = null } = {}) {
    super(detail);
    Object.assign(this, { detail, code, status, retryAfter });
  }
}

/** Relative to the page, so that it works below any prefix. */
const address = (path, query) => {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query ?? {})) if (value !== null) url.searchParams.set(name, value);
  return url;
};

/**
 * The JSON of an answer. Throws Problem; asks for a key where one is needed.
 * options: query, fields (a form; photographs are Blobs), json, headers, signal, as (the answer is "text" or a "blob"),
 * patient (waits and asks again while the service is busy: `patient.waits` is called with the seconds, and the signal
 * `patient.until` ends the wait with an AbortError).
 */
export async function call(method, path, options = {}) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await once(method, path, options);
    } catch (error) {
      if (error.status === 401) {
        if (await askForKey(error)) continue;
        if (!currentKey()) error.detail = "This service asks for a key, and none was entered.";
      }
      const { patient } = options;
      // Of those who wait for a rate, one is let in each time; of those who wait for a service that is down, nobody.
      const busy = error.status === 429 || (error.status === 503 && attempt < TRIES);
      if (!patient || !busy || error.retryAfter === null || error.retryAfter > LONGEST_WAIT) throw error;
      const wait = Math.max(1, error.retryAfter);
      patient.waits(wait);
      await pause(1000 * wait, patient.until);
    }
  }
}

function pause(milliseconds, signal) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    const end = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal.addEventListener("abort", end, { once: true });
  });
}

async function once(method, path, { query, fields, json, headers = {}, signal, as, cache = "no-store" }) {
  const key = currentKey();
  const sent = { ...headers };
  if (key) sent.Authorization = `Bearer ${key}`;
  if (json) sent["Content-Type"] = "application/json";
  let response;
  try {
    const body = json ? JSON.stringify(json) : fields && formOf(fields);
    response = await fetch(address(path, query), { method, headers: sent, body, signal, cache });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer. Check that it runs and that this machine reaches it.");
  }
  if (!response.ok) throw await problemOf(response);
  return as ? response[as]() : jsonOf(response);
}

async function jsonOf(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name !== "SyntaxError") throw error;
    throw new Problem("Something between this page and the service answered in its place. Reload the page: it may ask you to sign in.");
  }
}

function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value === null || value === undefined) continue;
    if (value instanceof Blob) form.append(name, value, "photograph");
    else form.append(name, value);
  }
  return form;
}

async function problemOf(response) {
  const { status } = response;
  const wait = Number(response.headers.get("Retry-After") ?? NaN);
  const retryAfter = Number.isFinite(wait) ? wait : null;
  try {
    const { detail, code } = await response.json();
    return new Problem(detail, { code, status, retryAfter });
  } catch {
    return new Problem(`Something between this page and the service answered ${status}.`, { status, retryAfter });
  }
}

let model = null;

/** Encoder and calibration in use; asked for once. */
export function modelInUse() {
  model ??= call("GET", "model").catch((error) => {
    model = null;
    throw error;
  });
  return model;
}
