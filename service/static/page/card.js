/** One picture: its name, and what one or two models make of it. */

import { element } from "./dom.js";
import { decoded } from "./picture.js";
import { Reading } from "./reading.js";
import { bytes } from "./text.js";

export class Card {
  /** @param {function(Card): void} onRemove */
  constructor(file, onRemove) {
    this.file = file;
    this.picture = decoded(file);
    this.readings = new Map(); // by model: those made before are there at once
    const named = { type: "button", className: "remove", "aria-label": `Remove ${file.name}` };
    const remove = element("button", named, "×");
    remove.addEventListener("click", () => onRemove(this));
    const size = element("span", { className: "small n" }, bytes(file.size));
    this.picture.then((picture) => {
      if (picture) size.textContent = `${picture.width} × ${picture.height} · ${bytes(file.size)}`;
    });
    this.body = element("div", { className: "readings" });
    this.element = element(
      "li",
      { className: "card" },
      element("header", {}, element("h2", {}, file.name), size, remove),
      this.body,
    );
  }

  /** Shows what these models make of the picture, one beside the other. */
  show(models) {
    const shown = models.map((model) => {
      if (!this.readings.has(model.key)) this.readings.set(model.key, new Reading(this.file, this.picture, model));
      return this.readings.get(model.key).element;
    });
    this.body.replaceChildren(...shown);
    this.element.classList.toggle("two", shown.length > 1);
  }

  stop() {
    for (const reading of this.readings.values()) reading.stop();
  }
}
