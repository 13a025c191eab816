/** Live figures of the server, from /metrics: only where that can be read, and only while the page is seen. */

import { find } from "./dom.js";
import { ask, happens, sleep } from "./service.js";
import { rate } from "./text.js";

const EVERY_MS = 2000;

/** The sum of all series of a metric in the Prometheus text format. */
export function total(text, name) {
  let sum = 0;
  for (const line of text.split("\n")) {
    const after = line[name.length];
    if (line.startsWith(name) && (after === " " || after === "{")) sum += Number(line.slice(line.lastIndexOf(" ") + 1));
  }
  return sum;
}

export function counted(text, at) {
  return {
    at,
    requests: total(text, "resnet_requests_total"),
    images: total(text, "resnet_images_total"),
    waiting: Math.max(0, total(text, "resnet_images_in_service") - total(text, "resnet_images_running")),
  };
}

/** What happened between two counts, per second; null if the server has started anew between them. */
export function figures(before, now) {
  const seconds = (now.at - before.at) / 1000;
  const per = (name) => (now[name] - before[name]) / seconds;
  if (now.requests < before.requests || seconds <= 0) return null;
  return { requests: per("requests"), images: per("images"), waiting: now.waiting };
}

/** Shows them from now on, where the service tells them: not to everybody, if it knows keys. */
export async function showFigures() {
  let before = null;
  let told = null; // whether /metrics is here; it may be on a port of its own
  for (;;) {
    if (!document.hidden) {
      try {
        told ??= "metrics" in (await (await ask("")).json());
        if (!told) return;
        const text = await (await ask("metrics", { accept: "text/plain", quietly: true })).text();
        const now = counted(text, performance.now());
        show(before && figures(before, now));
        before = now;
      } catch (error) {
        show(null);
        before = null;
        if (error.status === 401 || error.status === 403) await happens("unlocked"); // by another key, perhaps
      }
    }
    await sleep(EVERY_MS);
  }
}

function show(shown) {
  find("figures").hidden = !shown;
  for (const [name, value] of Object.entries(shown ?? {})) {
    find(`figure-${name}`).textContent = name === "waiting" ? String(value) : rate(value);
  }
}
