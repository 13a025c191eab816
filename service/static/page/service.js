/** The service as this page reaches it: addresses, the key, problems, and when to ask again. */

// From the address of this module (static/page/service.js): right under every prefix of a proxy.
export const BASE = new URL("../../", import.meta.url);

const KEY = "resnet-key";
const AT_ONCE = 3; // requests with an image: browsers open six connections, and others need some
const MOST_TRIES = 8;
const LOOK_AGAIN_MS = [1000, 2000, 4000];

/**
 * What happens to the connection: `locked` (a key is asked for), `unlocked` (one was given), `gone` and `back`.
 */
export const connection = new EventTarget();

/** An answer that is an error: what its problem document (RFC 9457) says. */
export class Problem extends Error {
  constructor({ title, detail = "", remedy = "", status }, retryAfter = null) {
    super(title);
    Object.assign(this, { title, detail, remedy, status, retryAfter });
  }
}

/** There was no answer. */
export class Unreachable extends Error {}

/** The address of a path of the service: `address("classify", {model: "resnet50"})`. */
export function address(path, query = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return url.href;
}

let key = stored();

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // the browser keeps nothing: the key lives as long as the page
  }
}

export const hasKey = () => key !== "";

export function useKey(given) {
  key = given.trim();
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // as above
  }
  connection.dispatchEvent(new Event("unlocked"));
}

/**
 * Asks the service once. Returns the response if it is a success, with `took`: milliseconds until it came.
 *
 * @param {boolean} options.quietly does not ask for a key if one is missing.
 * @throws {Problem|Unreachable}
 */
export async function ask(path, { query, body, type, accept = "application/json", signal, quietly = false } = {}) {
  const headers = { Accept: accept };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (type) headers["Content-Type"] = type;
  const started = performance.now();
  let response;
  try {
    const method = body ? "POST" : "GET";
    response = await fetch(address(path, query), { method, body, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable(error.message);
  }
  if (response.ok) return Object.assign(response, { took: performance.now() - started });
  const document = await response.json().catch(() => ({}));
  if (response.status === 401 && !quietly) connection.dispatchEvent(new Event("locked"));
  throw new Problem(
    {
      title: document.title ?? `The server answered ${response.status}`,
      detail: document.detail ?? "The answer is not one of this service: something between may have made it.",
      remedy: document.remedy ?? "",
      status: response.status,
    },
    seconds(response.headers.get("Retry-After")),
  );
}

function seconds(header) {
  return header && /^\d+$/.test(header) ? Number(header) : null;
}

let running = 0;
const waiting = [];

/** Runs the work when fewer than AT_ONCE others run. */
async function inTurn(work) {
  if (running >= AT_ONCE) await new Promise((go) => waiting.push(go));
  running += 1;
  try {
    return await work();
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

/**
 * Asks until there is an answer: waits as Retry-After says, for the key, and for a server that is gone.
 *
 * @param {function(string, number): void} onWait told why it waits (`busy`, `locked`, `gone`), and how many seconds.
 * @throws {Problem} that asking again does not mend.
 */
export async function askUntilAnswered(path, options, onWait) {
  let broken = 0;
  for (let tries = 1; ; tries += 1) {
    try {
      return await inTurn(() => ask(path, options));
    } catch (error) {
      if (error instanceof Unreachable) {
        broken += 1;
        if (broken > LOOK_AGAIN_MS.length) throw cutOff();
        onWait("gone", 0);
        await reachable(options.signal);
      } else if (error instanceof Problem && error.status === 401) {
        onWait("locked", 0);
        await happens("unlocked", options.signal);
      } else if (error instanceof Problem && error.retryAfter !== null && tries < MOST_TRIES) {
        const pause = Math.max(1, error.retryAfter);
        onWait("busy", pause, error);
        await sleep(1000 * pause, options.signal);
      } else {
        throw error;
      }
    }
  }
}

function cutOff() {
  return new Problem({
    title: "The connection broke again and again",
    detail: "The server answers other requests, but ends this one.",
    remedy: "The file may have changed on this device since it was chosen, or be larger than the server takes.",
    status: 0,
  });
}

let looking = null;

/** Resolves when the server answers. The first who asks looks for all. */
export async function reachable(signal) {
  looking ??= lookForServer().finally(() => {
    looking = null;
  });
  await Promise.race([looking, aborted(signal)]);
}

async function lookForServer() {
  if (await answers()) return; // only one connection broke
  connection.dispatchEvent(new Event("gone"));
  for (let look = 0; ; look += 1) {
    await sleep(LOOK_AGAIN_MS[Math.min(look, LOOK_AGAIN_MS.length - 1)]);
    if (await answers()) break;
  }
  connection.dispatchEvent(new Event("back"));
}

async function answers() {
  try {
    await ask("healthz/live");
    return true;
  } catch (error) {
    return error instanceof Problem; // that is an answer, too
  }
}

export function happens(event, signal) {
  const once = new Promise((done) => connection.addEventListener(event, done, { once: true }));
  return Promise.race([once, aborted(signal)]);
}

export function sleep(milliseconds, signal) {
  return Promise.race([new Promise((done) => setTimeout(done, milliseconds)), aborted(signal)]);
}

function aborted(signal) {
  return new Promise((_, fail) => {
    if (!signal) return;
    if (signal.aborted) fail(signal.reason);
    signal.addEventListener("abort", () => fail(signal.reason), { once: true });
  });
}
