/** Where things are on the picture. Boxes are [left, top, right, bottom] in pixels of the upright original. */

/**
 * What has to be drawn: the picture and the network's view of it, which may lie outside (a letterbox).
 *
 * @returns {number[]} the smallest box around both.
 */
export function canvasBox(width, height, box) {
  if (!box) return [0, 0, width, height];
  return [Math.min(0, box[0]), Math.min(0, box[1]), Math.max(width, box[2]), Math.max(height, box[3])];
}

/** How many pixels of the canvas one of the picture takes, so that the longer side has at most `most` of them. */
export function scaleTo(box, most) {
  return Math.min(1, most / Math.max(box[2] - box[0], box[3] - box[1]));
}

/** A box as canvas calls take it: x, y, width and height, in pixels of a canvas that shows `canvas` at `scale`. */
export function rectangle(box, canvas, scale) {
  return [
    (box[0] - canvas[0]) * scale,
    (box[1] - canvas[1]) * scale,
    (box[2] - box[0]) * scale,
    (box[3] - box[1]) * scale,
  ];
}
