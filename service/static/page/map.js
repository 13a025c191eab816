/** Activation maps as pictures: orange speaks for a class, purple against it; where nothing speaks, nothing is seen. */

// The colours of /explain (service/runtime/images/overlay.py): with any kind of colour blindness, people tell them
// apart. From 0 on, opacity grows with the magnitude.
export const FOR = [230, 97, 0];
export const AGAINST = [94, 60, 153];
const FULL = 235; // opacity of the strongest cell, of 255: the picture stays visible at 100 %
const FINE = 160; // pixels to which a coarse map is interpolated, on its longer side

/** The largest magnitude in several maps: with it as the end of the scale, the maps can be compared. */
export function strongest(maps) {
  let most = 0;
  for (const map of maps) for (const row of map) for (const value of row) most = Math.max(most, Math.abs(value));
  return most;
}

export function mean(map) {
  const all = map.flat();
  return all.reduce((sum, value) => sum + value, 0) / all.length;
}

/** Red, green, blue and opacity (0 to 255) of a value from -1 to 1. */
export function colour(value) {
  const [red, green, blue] = value < 0 ? AGAINST : FOR;
  return [red, green, blue, Math.round(FULL * Math.min(1, Math.abs(value)) ** 1.15)];
}

/** Weights of the four cells around a position (Catmull and Rom 1974): smooth, and exact at the cells' centres. */
function weights(t) {
  return [
    ((2 - t) * t - 1) * t * 0.5,
    ((3 * t - 5) * t * t + 2) * 0.5,
    ((4 - 3 * t) * t + 1) * t * 0.5,
    (t - 1) * t * t * 0.5,
  ];
}

/** For each of `to` pixels over `from` cells: the four cells and their weights. Beyond the edges is the edge. */
function taps(from, to) {
  return Array.from({ length: to }, (_, pixel) => {
    const at = ((pixel + 0.5) * from) / to - 0.5;
    const first = Math.floor(at);
    const cells = [-1, 0, 1, 2].map((step) => Math.min(from - 1, Math.max(0, first + step)));
    return { cells, weights: weights(at - first) };
  });
}

/**
 * A map with more cells, interpolated.
 *
 * @param {number[][]} map rows of cells.
 * @returns {Float32Array[]} rows.
 */
export function interpolated(map, rows, columns) {
  const across = taps(map[0].length, columns);
  const wide = map.map((row) =>
    Float32Array.from(across, ({ cells, weights: w }) => cells.reduce((sum, cell, i) => sum + w[i] * row[cell], 0)),
  );
  return taps(map.length, rows).map(({ cells, weights: w }) =>
    Float32Array.from({ length: columns }, (_, x) => cells.reduce((sum, cell, i) => sum + w[i] * wide[cell][x], 0)),
  );
}

/** A map as a canvas with one pixel for each of its (interpolated) cells. `end`: the value of the strongest colour. */
export function painted(map, end) {
  const finer = Math.max(1, Math.round(FINE / Math.max(map.length, map[0].length)));
  const [rows, columns] = [map.length * finer, map[0].length * finer];
  const values = finer > 1 ? interpolated(map, rows, columns) : map;
  const pixels = new ImageData(columns, rows);
  for (let y = 0; y < rows; y += 1) {
    for (let x = 0; x < columns; x += 1) pixels.data.set(colour(end ? values[y][x] / end : 0), 4 * (y * columns + x));
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
