/** Where the time of a request went: the Server-Timing header (W3C) and what the browser measured, as a waterfall. */

import { element } from "./dom.js";
import { milliseconds } from "./text.js";

const NAMES = { decode: "decode", queue: "wait", inference: "compute" };

/** The durations of a Server-Timing header in milliseconds, by name; `batch` is the number of images in the batch. */
export function parse(header) {
  const found = {};
  for (const metric of (header ?? "").split(",")) {
    const [name, ...parameters] = metric.split(";").map((part) => part.trim());
    for (const parameter of parameters) {
      const [key, value] = parameter.split("=");
      if (key === "dur") found[name] = Number(value);
      if (key === "desc" && name === "batch") found.batch = Number(value.replaceAll('"', ""));
    }
  }
  return found;
}

/**
 * Steps one after the other: name, start and length in milliseconds. They end where the browser had the answer.
 *
 * @param {Object} timing as `parse` returns it.
 * @param {number} roundTrip milliseconds from the request to its answer, in the browser.
 */
export function steps(timing, roundTrip) {
  const found = [];
  let start = 0;
  const add = (name, length) => {
    found.push({ name, start, length });
    start += length;
  };
  for (const [stage, name] of Object.entries(NAMES)) if (stage in timing) add(name, timing[stage]);
  const rest = (timing.total ?? start) - start;
  if (rest >= 0.01) add("other work", rest);
  add("on the way", Math.max(0, roundTrip - start));
  return found;
}

/** The steps as a list with bars. */
export function waterfall(timing, roundTrip) {
  const all = steps(timing, roundTrip);
  const whole = all.at(-1).start + all.at(-1).length;
  const list = element("ol", { className: "waterfall", role: "list" });
  for (const { name, start, length } of all) {
    const bar = element("span", { className: name === "on the way" ? "step outside" : "step" });
    bar.style.marginInlineStart = `${(100 * start) / whole}%`;
    bar.style.inlineSize = `${(100 * length) / whole}%`;
    const track = element("span", { className: "track", "aria-hidden": "true" }, bar);
    list.append(
      element("li", {}, element("span", {}, name), track, element("span", { className: "n" }, milliseconds(length))),
    );
  }
  return list;
}
