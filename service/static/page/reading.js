/** One picture as one model reads it: asks the service, and shows what comes of it. */

import { announce, copy, element } from "./dom.js";
import { mean, strongest } from "./map.js";
import { View } from "./picture.js";
import { rows, shown, summary } from "./rows.js";
import { Problem, address, askUntilAnswered, hasKey } from "./service.js";
import { curl, decimal, milliseconds, signed } from "./text.js";
import { parse, waterfall } from "./timing.js";

const CLASSES = 5;
const WAITS = {
  gone: "The server is gone. Goes on when it is back.",
  locked: "Waits for a key.",
};

export class Reading {
  /**
   * @param {File} file
   * @param {Promise<?Object>} picture what `picture.decoded` returns.
   * @param {Object} model as `models.js` has it.
   */
  constructor(file, picture, model) {
    Object.assign(this, { file, picture, model });
    this.view = new View(file.name);
    this.caption = element("figcaption", { className: "small" });
    this.answer = element("div", { className: "answer" });
    this.element = element(
      "div",
      { className: "reading", role: "group", "aria-label": `${file.name} by ${model.name}` },
      element(
        "p",
        { className: "by" },
        element("span", {}, model.name),
        element("span", { className: "small" }, model.runs),
      ),
      element("figure", {}, this.view.element, this.caption),
      this.answer,
    );
    this.#run();
  }

  /** Ends what is under way. */
  stop() {
    this.stopping?.abort();
  }

  async #run() {
    this.stop();
    this.stopping = new AbortController();
    this.answer.replaceChildren(
      element("p", { className: "busy" }, element("span", { className: "spin", "aria-hidden": "true" }), "Looking"),
    );
    try {
      const local = await this.picture;
      if (local) this.view.draw(local, null);
      await this.#classify();
      await this.#explain(local);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      this.#fail(error);
    }
  }

  #ask(path, query, accept) {
    const options = {
      query: { model: this.model.reference, ...query },
      body: this.file,
      type: this.file.type || "application/octet-stream",
      accept,
      signal: this.stopping.signal,
    };
    return askUntilAnswered(path, options, (why, seconds, problem) => this.#wait(why, seconds, problem));
  }

  async #classify() {
    const query = { top_k: Math.min(CLASSES, this.model.classes) };
    const response = await this.#ask("classify", query);
    const body = await response.json();
    this.result = body.images[0];
    this.classes = shown(this.result);
    this.#show(
      parse(response.headers.get("Server-Timing")),
      response.took,
      address("classify", { model: this.model.reference, ...query }),
    );
  }

  #show(timing, took, url) {
    const { verdict, note } = summary(this.result);
    const { width, height } = this.result;
    announce(`${this.file.name}: ${verdict}, ${note}`);
    const heading = element("h3", {}, verdict);
    const said = element("p", { className: "said n" }, note);
    const batch = timing.batch > 1 ? `, in a batch of ${timing.batch}` : "";
    const explained = address("explain", {
      model: this.model.reference,
      classes: this.classes[0].class_id,
      format: "png",
    });
    this.answer.replaceChildren(
      heading,
      said,
      rows(this.classes, (place) => this.#lay(place)),
      element("h4", {}, "Time ", element("span", { className: "n small" }, `${milliseconds(took)}${batch}`)),
      waterfall(timing, took),
      this.#commands([url, explained]),
    );
    this.size = `${width} × ${height}`;
  }

  /** The same with curl, ready to copy. */
  #commands(addresses) {
    const text = curl(addresses, this.file, hasKey());
    const button = element("button", { type: "button", className: "quiet" }, "Copy");
    button.addEventListener("click", async () => {
      button.textContent = (await copy(text)) ? "Copied" : "Select and copy";
      announce(button.textContent);
    });
    const code = element("pre", { tabIndex: 0, role: "group", "aria-label": "Commands" }, element("code", {}, text));
    return element("details", {}, element("summary", {}, "The same with curl"), code, button);
  }

  async #explain(local) {
    const ids = this.classes.map(({ class_id }) => class_id).join(",");
    try {
      const { image, explanations } = await (await this.#ask("explain", { classes: ids, format: "json" })).json();
      const byId = new Map(explanations.map((one) => [one.class_id, one]));
      this.explanations = this.classes.map(({ class_id }) => byId.get(class_id));
      this.end = strongest(explanations.map(({ map }) => map));
      this.view.draw(local ?? (await this.#seen(image)), image.box, this.model.fill);
      this.notShown = local ? "" : "This browser cannot show the file; this is what the network saw of it. ";
      this.#lay(0);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.caption.textContent = `No map: ${error.detail} ${error.remedy}`;
    }
  }

  /** The network's input as a picture, in its place on the original: for files that the browser cannot show. */
  async #seen({ box, width, height }) {
    const response = await this.#ask("preview", {}, "image/png");
    const bitmap = await createImageBitmap(await response.blob());
    const [canvas, scale] = [element("canvas", { width, height }), Math.min(1, 1200 / Math.max(width, height))];
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    const place = [box[0], box[1], box[2] - box[0], box[3] - box[1]].map((pixels) => pixels * scale);
    canvas.getContext("2d").drawImage(bitmap, ...place);
    return { canvas, width, height };
  }

  /** Shows the map of the class at a place, and how it adds up to the class's logit. */
  #lay(place) {
    if (!this.explanations) return;
    const one = this.explanations[place];
    if (!one) {
      // a label that reads as the id of another class
      this.view.lay(null);
      this.caption.textContent = "No map of this class.";
      return;
    }
    this.view.lay(one.map, this.end);
    const sum = `${decimal(mean(one.map))} (mean of the map) ${signed(one.bias)} (bias) = logit ${decimal(one.logit)}`;
    this.caption.replaceChildren(
      this.notShown,
      element("b", {}, one.label),
      " ",
      element("span", { className: "n" }, sum),
    );
  }

  #wait(why, seconds, problem) {
    if (this.result) return; // the answer is there, only its map is not yet
    const text = problem ? `${problem.message}. Tries again in ${seconds} s.` : WAITS[why];
    announce(`${this.file.name}: ${text}`);
    this.answer.replaceChildren(
      element("p", { className: "busy" }, element("span", { className: "spin", "aria-hidden": "true" }), text),
    );
  }

  #fail({ message, detail, remedy }) {
    announce(`${this.file.name}: ${message}. ${remedy}`);
    this.element.classList.add("failed");
    const again = element("button", { type: "button", className: "quiet" }, "Try again");
    again.addEventListener("click", () => {
      this.element.classList.remove("failed");
      this.#run();
    });
    this.answer.replaceChildren(
      element("h3", {}, message),
      element("p", {}, detail),
      ...(remedy ? [element("p", { className: "remedy" }, remedy)] : []),
      again,
    );
    this.picture.then((local) => {
      if (!local) this.view.blank("No picture to show");
    });
  }
}
