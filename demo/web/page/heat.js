// SPDX-License-Identifier: Apache-2.0
/** Numbers as colours: blue below zero, orange above it, in the colours of the style sheet. */

const SHADES = 128;
const COLUMNS = 20;
const GAP = 0.12;
const LETTERS = 16;

let colours = [];

function parts(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16));
}

/** Reads the colours of the page, after its theme has changed. */
export function readColours() {
  const [minus, zero, plus] = ["--minus", "--zero", "--plus"].map(parts);
  colours = Array.from({ length: 2 * SHADES + 1 }, (_, index) => {
    const share = (index - SHADES) / SHADES;
    const end = share < 0 ? minus : plus;
    return zero.map((from, at) => Math.round(from + (end[at] - from) * Math.abs(share) ** 0.8));
  });
}

/** The colour of a number from -1 to 1, as red, green and blue. */
export function colourOf(value) {
  return colours[Math.round(Math.max(-1, Math.min(1, value)) * SHADES) + SHADES];
}

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** A context in device pixels, and its size; the canvas has the size that the page gives it. */
function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

/** Draws a vector as cells in rows of 20. `scale` is the number that has the full colour. */
export function drawGrid(canvas, values, scale) {
  const { context, width, height } = prepared(canvas);
  const rows = Math.ceil(values.length / COLUMNS);
  const [wide, high] = [width / COLUMNS, height / rows];
  const gap = Math.max(wide * GAP, 1);
  values.forEach((value, unit) => {
    context.fillStyle = css(colourOf(value / scale));
    const [x, y] = [(unit % COLUMNS) * wide, Math.floor(unit / COLUMNS) * high];
    context.fillRect(x, y, wide - gap, high - gap);
  });
}

/** The number of the cell under a pointer. */
export function unitAt(canvas, event, size) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * COLUMNS);
  const row = Math.floor(((event.clientY - box.top) / box.height) * Math.ceil(size / COLUMNS));
  return Math.max(0, Math.min(size - 1, row * COLUMNS + column));
}

/**
 * Draws the last states as columns, each above its character. `past` is [character, values];
 * `order` has the unit of each row.
 */
export function drawPast(canvas, past, order) {
  const { context, width, height, ratio } = prepared(canvas);
  const column = Math.round(9 * ratio);
  const count = Math.floor(width / column);
  const plot = height - LETTERS * ratio;
  const shown = past.slice(-count);
  const picture = new ImageData(count, order.length);
  shown.forEach(([, values], at) => {
    order.forEach((unit, row) => {
      picture.data.set([...colourOf(values[unit]), 255], 4 * (row * count + at));
    });
  });
  const small = new OffscreenCanvas(count, order.length);
  small.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, count * column, plot);

  context.font = `${11 * ratio}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace`;
  context.textAlign = "center";
  context.fillStyle = getComputedStyle(canvas).color;
  shown.forEach(([character], at) => {
    const letter = character === "\n" ? "↵" : character;
    context.fillText(letter, (at + 0.5) * column, height - 3 * ratio);
  });
}
