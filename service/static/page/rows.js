/** The classes of an answer: what it comes to in one line, and a row with a bar for each class. */

import { element } from "./dom.js";
import { percent } from "./text.js";

/**
 * What an answer comes to.
 *
 * @param {Object} result an entry of the answer of /classify: of one class, of several (`labels`), or of none
 *     (`rejected`).
 * @returns {{verdict: string, note: string}}
 */
export function summary(result) {
  const [best] = result.predictions;
  if (result.labels) {
    const present = result.labels.map(({ label }) => label);
    return { verdict: present.join(", ") || "None of the classes", note: "every class is judged by itself" };
  }
  if (result.rejected) return { verdict: "No answer", note: `${best.label} would come first, but is too uncertain` };
  return { verdict: best.label, note: percent(best.probability) };
}

/** The classes to show, with `present` for those of a multi-label model that are. No class twice. */
export function shown(result) {
  const present = new Set((result.labels ?? []).map((one) => one.class_id));
  const all = new Map([...result.predictions, ...(result.labels ?? [])].map((one) => [one.class_id, one]));
  return [...all.values()].map((one) => ({ ...one, present: result.labels ? present.has(one.class_id) : null }));
}

/**
 * A list of the classes. Pointing at a row or moving the focus there shows it for the moment, pressing it for good.
 *
 * @param {function(number): void} onShow given the place of the class to show.
 */
export function rows(classes, onShow) {
  let kept = 0;
  const buttons = classes.map(({ label, probability, present }, place) => {
    const bar = element("span", { className: "bar", "aria-hidden": "true" }, element("span"));
    bar.firstChild.style.inlineSize = `${100 * probability}%`;
    const name = element("span", { className: "label" }, label);
    if (present) name.append(element("span", { className: "tag" }, "present"));
    const number = element("span", { className: "n" }, percent(probability));
    const button = element(
      "button",
      { type: "button", className: "row", "aria-pressed": String(place === kept) },
      name,
      number,
      bar,
    );
    const passing = (showing) => () => onShow(showing ? place : kept);
    button.addEventListener("pointerenter", passing(true));
    button.addEventListener("pointerleave", passing(false));
    button.addEventListener("focus", passing(true));
    button.addEventListener("blur", passing(false));
    button.addEventListener("click", () => {
      kept = place;
      buttons.forEach((other, i) => other.setAttribute("aria-pressed", String(i === kept)));
      onShow(place);
    });
    return button;
  });
  const list = element("ol", { className: "rows", role: "list", "aria-label": "Classes, most probable first" });
  list.append(...buttons.map((button) => element("li", {}, button)));
  return list;
}
