/** The user's picture on a canvas: with the network's frame on it, and a map over it. */

import { element } from "./dom.js";
import { canvasBox, rectangle, scaleTo } from "./geometry.js";
import { painted } from "./map.js";

// On the longer side of the canvas: sharp on fine screens, and little memory for many pictures.
const MOST_PIXELS = 1200;
const OUTSIDE = "rgb(12 14 18 / 62%)"; // over what the network did not see

let last = Promise.resolve();

/**
 * Decodes a file as browsers do: upright, and only as large as it is shown. One file after the other: a hundred
 * photographs at once would fill the memory.
 *
 * @returns {Promise<?{canvas: HTMLCanvasElement, width: number, height: number}>} null if the browser cannot show it.
 */
export function decoded(file) {
  last = last.then(() => decode(file));
  return last;
}

async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const { width, height } = bitmap;
  const scale = scaleTo([0, 0, width, height], MOST_PIXELS);
  const canvas = element("canvas", {
    width: Math.max(1, Math.round(width * scale)),
    height: Math.max(1, Math.round(height * scale)),
  });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return { canvas, width, height };
}

/** One picture as one model saw it. */
export class View {
  /** @param {string} name what people who cannot see the picture hear of it. */
  constructor(name) {
    this.name = name;
    this.base = element("canvas", { role: "img", "aria-label": name, width: 4, height: 3 });
    this.over = element("canvas", { className: "over", "aria-hidden": "true", width: 4, height: 3 });
    this.element = element("div", { className: "view" }, this.base, this.over);
  }

  /**
   * Draws the picture.
   *
   * @param {{canvas: CanvasImageSource, width: number, height: number}} picture
   * @param {?number[]} box what the network saw, in pixels of the picture; null while that is not known.
   * @param {number[]} fill the colour of a letterbox's bars.
   */
  draw(picture, box, fill = [0, 0, 0]) {
    this.element.replaceChildren(this.base, this.over);
    const shown = canvasBox(picture.width, picture.height, box);
    const scale = scaleTo(shown, MOST_PIXELS);
    const [, , width, height] = rectangle(shown, shown, scale).map(Math.round);
    for (const canvas of [this.base, this.over]) [canvas.width, canvas.height] = [width, height];
    this.element.style.setProperty("--ratio", `${width} / ${height}`);
    const context = this.base.getContext("2d");
    context.imageSmoothingQuality = "high";
    this.frame = box && rectangle(box, shown, scale);
    if (this.frame) {
      context.fillStyle = `rgb(${fill.join(" ")})`;
      context.fillRect(...this.frame);
    }
    context.drawImage(picture.canvas, ...rectangle([0, 0, picture.width, picture.height], shown, scale));
    if (this.frame) this.#dimOutside(context, width, height);
  }

  #dimOutside(context, width, height) {
    const [x, y, w, h] = this.frame;
    if (x < 1 && y < 1 && x + w > width - 1 && y + h > height - 1) return; // it saw everything
    const outside = new Path2D();
    outside.rect(0, 0, width, height);
    outside.rect(x, y, w, h);
    context.fillStyle = OUTSIDE;
    context.fill(outside, "evenodd");
    context.lineWidth = Math.max(2, Math.max(width, height) / 300);
    context.strokeStyle = "#fff";
    context.strokeRect(x, y, w, h);
    this.base.setAttribute("aria-label", `${this.name}, with a frame around the part that the network saw`);
  }

  /** Shows a text where a picture would be. */
  blank(text) {
    this.element.replaceChildren(element("p", { className: "blank small" }, text));
  }

  /** Lays a map over the network's frame; null takes it away. `end`: the value of the strongest colour. */
  lay(map, end) {
    const context = this.over.getContext("2d");
    context.clearRect(0, 0, this.over.width, this.over.height);
    this.element.classList.toggle("mapped", Boolean(map && this.frame));
    if (!map || !this.frame) return;
    context.imageSmoothingQuality = "high";
    context.drawImage(painted(map, end), ...this.frame);
  }
}
