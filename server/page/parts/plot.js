// What uPlot is told for one chart: columns, colors, dashes, bands, scales and the marks of values that are not finite.

import uPlot from "../vendor/uPlot.esm.js";
import { number } from "../format.js";
import { smoothed, table } from "./columns.js";
import { moved } from "./curve_window.js";

/** @typedef {import("./columns.js").Series} Series */
/** @typedef {import("./curve_window.js").Window} Window */

/** @typedef {{text: string, line: string, curves: string[]}} Palette */

/**
 * How all charts are drawn. `window`: the first and last step in sight, null for all; `last`: the newest step; `level`: a
 * value that is drawn as a dashed line over all steps.
 * @typedef {{log: boolean, smooth: number, window: Window, last: number, palette: Palette,
 *   level?: number | null}} View
 */

/** @typedef {{onZoom: (window: Window) => void, onMove: (chosen: boolean) => void}} Listeners */

/** Curves of one chart: as many as the colors, which stay apart by dashes too. */
export const MOST_CURVES = 8;
/** The dashes of each curve in pixels; from the fourth on no curve is told by its color alone. */
export const DASHES = [[], [], [], [8, 4], [2, 3], [12, 3, 2, 3], [5, 5], [2, 6]];
/** The marks of values that are not finite, by their words. */
export const GLYPHS = /** @type {Record<string, string>} */ ({
  NaN: "×", Infinity: "▲", "-Infinity": "▼", "some non-finite": "◆",
});

// uPlot's columns of one curve, after the steps: the band's edges first, so that the lines lie above it.
const PARTS = 4;
const HEIGHT = 220;
const MARK_PIXELS = 12;
const LAST_LABEL = 30; // pixels to the right of the plot: half of "1,000,000", the last step's label
const STEP_SIZES = Array.from({ length: 42 }, (_, index) => [1, 2, 5][index % 3] * 10 ** Math.floor(index / 3));

/**
 * The present colors. The canvas does not follow the style sheet by itself.
 * @returns {Palette}
 */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  /** @param {string} name @param {string} other */
  const read = (name, other) => style.getPropertyValue(name).trim() || other;
  const curves = Array.from({ length: MOST_CURVES }, (_, index) => read(`--curve-${index}`, "#777777"));
  return { text: read("--muted", "#777777"), line: read("--curve-grid", "#7773"), curves };
}

/**
 * The columns of the series in uPlot's order. The line is the smoothed one if smoothing is on; the raw one stays.
 * @param {Series[]} all
 * @param {number} smooth
 * @returns {any}
 */
export function columns(all, smooth) {
  const { steps, last, min, max } = table(all);
  /** @type {(number[] | import("./columns.js").Column)[]} */
  const found = [steps];
  all.forEach((_, index) => {
    const raw = last[index];
    found.push(max[index], min[index], smooth ? raw : raw.map(() => undefined), smooth ? smoothed(raw, smooth) : raw);
  });
  return found;
}

/**
 * A plot without data. The scale and the curves stay as they are; the rest of the view may change before each drawing.
 * @param {HTMLElement} host
 * @param {string[]} names
 * @param {{view: View, series: () => Series[], log: boolean, sync: string, listeners: Listeners}} given
 * @returns {any}
 */
export function plot(host, names, { view, series, log, sync, listeners }) {
  const options = {
    width: Math.max(host.clientWidth, 200), height: HEIGHT, legend: { show: false }, padding: [10, LAST_LABEL, 0, 0],
    scales: { x: { time: false, range: () => view.window ?? [0, Math.max(1, view.last)] }, y: valueScale(log, view) },
    series: [{}, ...names.flatMap((_, index) => parts(view, index))],
    bands: names.map((_, index) => band(view, index)),
    axes: axes(view),
    cursor: cursor(view, sync, listeners),
    hooks: {
      draw: [(/** @type {any} */ drawn) => { level(drawn, view); mark(drawn, series(), view); }],
      setSelect: [(/** @type {any} */ drawn) => zoom(drawn, listeners)],
      setCursor: [(/** @type {any} */ drawn) => listeners.onMove(Boolean(drawn.cursor.event))],
    },
  };
  return new /** @type {any} */ (uPlot)(options, [[]], host);
}

/**
 * The scale of the values, and of the level. uPlot knows no range where no value is finite.
 * @param {boolean} log
 * @param {View} view
 */
function valueScale(log, view) {
  /** @param {any} _ @param {number | null} least @param {number | null} most */
  const range = (_, least, most) => {
    const ends = [least, most, view.level].filter((each) => typeof each === "number" && Number.isFinite(each));
    if (ends.length === 0) return log ? [1, 10] : [0, 1];
    const [min, max] = [Math.min(.../** @type {number[]} */ (ends)), Math.max(.../** @type {number[]} */ (ends))];
    return log ? uPlot.rangeLog(min, max, 10, false) : uPlot.rangeNum(min, max, 0.1, true);
  };
  return { distr: log ? 3 : 1, range };
}

/**
 * @param {View} view
 * @param {number} index
 */
function parts(view, index) {
  const color = () => view.palette.curves[index];
  const edge = { width: 0, stroke: () => "transparent", points: { show: false } };
  const dash = DASHES[index];
  const raw = { width: 1, stroke: () => `${color()}77`, points: { show: false } };
  return [edge, edge, raw, { width: 2, stroke: color, dash, points: { size: 5, fill: color } }];
}

/**
 * @param {View} view
 * @param {number} index
 */
function band(view, index) {
  return { series: [1 + PARTS * index, 2 + PARTS * index], fill: () => `${view.palette.curves[index]}2e` };
}

/** @param {View} view */
function axes(view) {
  const font = "12px system-ui, sans-serif";
  const shared = {
    font, stroke: () => view.palette.text, grid: { stroke: () => view.palette.line, width: 1 },
    ticks: { stroke: () => view.palette.line, width: 1, size: 5 },
  };
  /** @param {any} _ @param {(number | null)[]} values */
  const labels = (_, values) => values.map((value) => (value === null ? "" : number(value)));
  /** @param {any} _ @param {number[]} values */
  const steps = (_, values) => values.map((value) => value.toLocaleString("en"));
  return [
    { ...shared, values: steps, incrs: STEP_SIZES, size: 32, space: 70 },
    { ...shared, values: labels, size: 62, space: 32 },
  ];
}

/**
 * The cursor, shared by the step with all other charts; selections and double clicks are not, because the view zooms
 * all charts.
 * @param {View} view
 * @param {string} sync
 * @param {Listeners} listeners
 */
function cursor(view, sync, listeners) {
  /** @param {any} drawn @param {any} _ @param {(event: MouseEvent) => void} select */
  const mousedown = (drawn, _, select) => (/** @type {MouseEvent} */ event) => {
    if (event.shiftKey && view.window) drag(event, drawn.over.clientWidth, view, listeners);
    else select(event);
  };
  return {
    y: false, points: { show: false }, drag: { x: true, y: false, setScale: false },
    sync: { key: sync, scales: ["x", null], filters: { pub: (/** @type {string} */ type) => type === "mousemove" } },
    bind: { mousedown, dblclick: () => () => { listeners.onZoom(null); return null; } },
  };
}

/**
 * Move the window with the mouse until its button is released.
 * @param {MouseEvent} begin
 * @param {number} width of the plot, in pixels
 * @param {View} view
 * @param {Listeners} listeners
 */
function drag(begin, width, view, listeners) {
  const { window: start, last } = view;
  const released = new AbortController();
  addEventListener("mousemove", (event) => {
    if (event.buttons === 0) released.abort(); // released outside of the browser
    else listeners.onZoom(moved(start, (begin.clientX - event.clientX) / width, last));
  }, { signal: released.signal });
  addEventListener("mouseup", () => released.abort(), { signal: released.signal });
}

/**
 * @param {any} drawn
 * @param {Listeners} listeners
 */
function zoom(drawn, listeners) {
  const { left, width } = drawn.select;
  if (width < 5) return;
  const from = Math.max(0, Math.floor(drawn.posToVal(left, "x")));
  const to = Math.ceil(drawn.posToVal(left + width, "x"));
  drawn.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  listeners.onZoom([from, Math.max(to, from + 1)]);
}

/**
 * Draw the level.
 * @param {any} drawn
 * @param {View} view
 */
function level({ ctx, bbox, valToPos }, view) {
  if (typeof view.level !== "number") return;
  const y = valToPos(view.level, "y", true);
  ctx.save();
  ctx.strokeStyle = view.palette.text;
  ctx.lineWidth = 1.5 * uPlot.pxRatio;
  ctx.setLineDash([6 * uPlot.pxRatio, 4 * uPlot.pxRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

/**
 * Mark the steps of values that are not finite above the axis, a row for each curve. uPlot itself shows nothing there.
 * @param {any} drawn
 * @param {Series[]} all
 * @param {View} view
 */
function mark(drawn, all, view) {
  const { ctx, bbox } = drawn;
  const unit = MARK_PIXELS * uPlot.pxRatio;
  ctx.save();
  ctx.font = `bold ${unit}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.textBaseline = "alphabetic";
  all.forEach(({ points }, index) => {
    ctx.fillStyle = view.palette.curves[index];
    const y = bbox.top + bbox.height - 2 - index * unit;
    for (const { word, step } of points) {
      const x = word ? drawn.valToPos(step, "x", true) : -1;
      if (word && x >= bbox.left && x <= bbox.left + bbox.width) ctx.fillText(GLYPHS[word] ?? "◆", x, y);
    }
  });
  ctx.restore();
}
