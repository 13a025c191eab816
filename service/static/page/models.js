/** The models of the service: which there are, how fast they are here, and which are chosen. */

import { element, find } from "./dom.js";
import { milliseconds, rate } from "./text.js";

/** One entry of /models as this page needs it. */
export function modelOf(info) {
  const measured = info.tuning?.candidates[0];
  const rates = Object.values(measured?.images_per_second ?? {});
  return {
    key: `${info.name}@${info.version}`,
    reference:
      info.references.find((one) => !one.includes("@")) ?? info.references[0] ?? `${info.name}@${info.version}`,
    name: info.name,
    depth: info.depth,
    classes: info.classes,
    default: info.default,
    state: info.state,
    fill: info.input.fill ?? [0, 0, 0],
    runs: info.precision ? `${info.precision} on ${info.provider}` : info.state,
    alone: measured?.lone_ms ?? null,
    rate: rates.length ? Math.max(...rates) : null,
  };
}

/** The default first, then by depth. */
export function inOrder(infos) {
  return infos.map(modelOf).sort((a, b) => b.default - a.default || a.depth - b.depth || a.name.localeCompare(b.name));
}

const speed = ({ alone, rate: most }) =>
  alone === null ? "" : `${milliseconds(alone)} alone${most ? `, ${rate(most)} images/s under load` : ""}`;

/** The two lists to choose from, and the table. */
export class Models {
  /** @param {function(): void} onChange called when other models are chosen. */
  constructor(onChange) {
    this.all = [];
    this.lists = [find("model"), find("other")];
    for (const list of this.lists) {
      list.addEventListener("change", () => {
        this.#times();
        onChange();
      });
    }
  }

  /** Those that are chosen and ready, one or two; none while nothing is ready. */
  get chosen() {
    const keys = this.lists.map((list) => list.value);
    const found = keys.map((key) => this.all.find((model) => model.key === key && model.state === "ready"));
    return [...new Set(found.filter(Boolean))];
  }

  get areLoading() {
    return this.all.some(({ state }) => state === "loading");
  }

  /** Takes an answer of /models. Returns whether anything is new. */
  take(infos) {
    const all = inOrder(infos);
    if (JSON.stringify(all) === JSON.stringify(this.all)) return false;
    this.all = all;
    this.#fill(this.lists[0], [], all.find(({ state }) => state === "ready")?.key);
    this.#fill(this.lists[1], [element("option", { value: "" }, "No other")], "");
    this.lists[1].closest(".control").hidden = all.length < 2;
    this.#times();
    this.#table();
    return true;
  }

  #fill(list, first, usual) {
    const before = list.value;
    list.replaceChildren(
      ...first,
      ...this.all.map((model) => {
        const state = model.state === "ready" ? "" : ` (${model.state})`;
        const options = { value: model.key, disabled: model.state !== "ready" };
        return element("option", options, `${model.name}, ${model.depth} layers${state}`);
      }),
    );
    const kept = this.all.some(({ key, state }) => key === before && state === "ready");
    list.value = kept ? before : (usual ?? "");
  }

  #times() {
    for (const list of this.lists) {
      const model = this.all.find(({ key }) => key === list.value);
      find(`${list.id}-time`).textContent = model ? speed(model) : "";
    }
  }

  #table() {
    const cell = (text, className) => element("td", { className }, text);
    find("models").replaceChildren(
      ...this.all.map((model) =>
        element(
          "tr",
          {},
          element(
            "th",
            { scope: "row" },
            model.name,
            ...(model.default ? [element("span", { className: "tag" }, "default")] : []),
          ),
          cell(String(model.depth), "n"),
          cell(String(model.classes), "n seldom"),
          cell(model.runs, "seldom"),
          cell(model.alone === null ? "–" : milliseconds(model.alone), "n"),
          cell(model.rate === null ? "–" : `${rate(model.rate)}/s`, "n"),
        ),
      ),
    );
    find("models-note").hidden = this.all.every(({ alone }) => alone === null);
  }
}
