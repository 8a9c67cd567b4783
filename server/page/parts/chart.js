// One chart with its legend, its keys and its table: what uPlot lacks for people who see no canvas or use no mouse.

import { fill, h } from "../dom.js";
import { number } from "../format.js";
import { nonFinite, notPositive, spread } from "./columns.js";
import { moved, narrowed } from "./curve_window.js";
import { columns, DASHES, GLYPHS, plot } from "./plot.js";

/** @typedef {import("./columns.js").Series} Series */
/** @typedef {import("./plot.js").View} View */

/**
 * What a chart shares with the others. `say` tells a screen reader; `onCursor` the page; `note` explains what is drawn.
 * @typedef {object} Shared
 * @property {View} view
 * @property {string} sync
 * @property {(window: import("./curve_window.js").Window) => void} onZoom
 * @property {(step: number | null) => void} onCursor
 * @property {(text: string) => void} say
 * @property {string} [note]
 */

const MOST_ROWS = 50;
const PAGE = 0.1;
let made = 0;

/** A chart of some metrics. It is empty until `series` is set and `draw` called. */
export class Chart {
  /**
   * @param {string} title
   * @param {string[]} names
   * @param {Shared} shared
   */
  constructor(title, names, shared) {
    this.names = names;
    this.shared = shared;
    /** @type {Series[]} */
    this.series = [];
    /** @type {any} */
    this.plot = null;
    this.log = false;
    const id = `curve-table-${++made}`;
    this.note = h("p", { class: "curve-note" });
    this.legend = h("ul", { class: "curve-legend" });
    this.step = h("p", { class: "curve-step" });
    this.host = h("div", {
      class: "curve-plot", tabindex: "0", role: "group", "aria-details": id,
      "aria-label": `Chart ${title}: ${names.join(", ")}. Arrow keys move the cursor, `
        + "with Shift the steps shown; plus zooms in, Escape zooms out.",
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
    });
    this.table = h("table", { id });
    this.element = h("figure", { class: "curve" },
      h("figcaption", {}, h("span", { class: "curve-title" }, title), this.step), this.host, this.legend, this.note,
      h("div", { class: "curve-table" }, this.table));
  }

  /** Draw the present series as the present view asks. */
  draw() {
    const { view, sync, onZoom } = this.shared;
    const refused = view.log ? notPositive(this.series) : null;
    const log = view.log && refused === null;
    if (this.plot && this.log !== log) this.destroy();
    this.log = log;
    this.plot ??= plot(this.host, this.names, {
      view, sync, log, series: () => this.series, listeners: { onZoom, onMove: (chosen) => this.moved(chosen) },
    });
    this.plot.setData(columns(this.series, view.smooth));
    const width = Math.max(1, ...this.series.map(({ bucketSteps }) => bucketSteps));
    const band = width > 1 ? `band: least and greatest value of ${number(width)} steps` : null;
    fill(this.note, [this.shared.note, band, refused].filter(Boolean).join("; ") || null);
    this.showLegend();
    this.showTable();
  }

  /** Follow a new width of the page. */
  resize() {
    const { clientWidth } = this.host;
    if (!this.plot || !clientWidth || clientWidth === this.plot.width) return;
    this.plot.setSize({ width: clientWidth, height: this.plot.height });
  }

  destroy() {
    this.plot?.destroy();
    this.plot = null;
  }

  /** @returns {number | null} the step under the cursor */
  get cursorStep() {
    const index = this.plot?.cursor.idx ?? null;
    return index === null ? null : this.plot.data[0][index] ?? null;
  }

  /**
   * The cursor moved, because the user moved it here (`chosen`) or in another chart.
   * @param {boolean} chosen
   */
  moved(chosen) {
    if (!this.plot) return; // uPlot tells the first position before its constructor is done
    this.showLegend();
    if (chosen) this.shared.onCursor(this.cursorStep);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const steps = this.plot?.data[0] ?? [];
    if (!steps.length || event.ctrlKey || event.altKey || event.metaKey) return;
    const { view, onZoom } = this.shared;
    const at = this.plot.cursor.idx;
    const [first, last] = this.range(steps);
    const page = Math.max(1, Math.round((last - first) * PAGE));
    const target = /** @type {Record<string, number>} */ ({
      ArrowLeft: (at ?? last + 1) - 1, ArrowRight: (at ?? first - 1) + 1, Home: first, End: last,
      PageUp: (at ?? first) + page, PageDown: (at ?? last) - page,
    })[event.key];
    const share = /** @type {Record<string, number>} */ ({ ArrowLeft: -PAGE, ArrowRight: PAGE })[event.key];
    if (event.shiftKey && share && view.window) onZoom(moved(view.window, share, view.last));
    else if (target !== undefined) this.moveTo(Math.min(Math.max(target, first), last));
    else if (event.key === "+") onZoom(narrowed(view.window, steps[at ?? last], view.last));
    else if (event.key === "Escape" && view.window) onZoom(null);
    else return;
    event.preventDefault();
  }

  /**
   * The first and the last position that lie in the window.
   * @param {number[]} steps
   * @returns {[number, number]}
   */
  range(steps) {
    const [from, to] = this.shared.view.window ?? [0, Infinity];
    const first = steps.findIndex((step) => step >= from);
    const behind = steps.findIndex((step) => step > to);
    const last = (behind === -1 ? steps.length : behind) - 1;
    return first === -1 || last < first ? [0, steps.length - 1] : [first, last];
  }

  /** @param {number} index */
  moveTo(index) {
    const step = this.plot.data[0][index];
    // The top must not be negative: other charts take that for a cursor that has left.
    this.plot.setCursor({ left: this.plot.valToPos(step, "x"), top: 0 }, true, true);
    this.showLegend();
    this.shared.onCursor(step);
    const values = this.series.map((each) => `${each.name} ${valueAt(each, step)}`);
    this.shared.say(`step ${step.toLocaleString("en")}: ${values.join(", ")}`);
  }

  /** Show the values at the cursor, the newest ones without a cursor, and what is not finite. */
  showLegend() {
    const cursor = this.cursorStep;
    const newest = Math.max(-1, ...this.series.map(({ points }) => points[points.length - 1]?.step ?? -1));
    fill(this.step, cursor !== null ? `step ${cursor.toLocaleString("en")}`
      : newest < 0 ? "no values here"
        : `${this.shared.view.window ? "last shown" : "newest"}: step ${newest.toLocaleString("en")}`);
    fill(this.legend, this.series.map((each, index) => h("li", {}, swatch(index), h("span", {}, each.name),
      h("strong", {}, valueAt(each, cursor ?? each.points[each.points.length - 1]?.step)), marks(each))));
  }

  /** A table of a part of the steps, for screen readers. */
  showTable() {
    const steps = this.plot.data[0];
    const rows = spread(steps.length, MOST_ROWS).map((index) => h("tr", {},
      h("th", { scope: "row" }, String(steps[index])),
      this.series.map((each) => h("td", {}, valueAt(each, steps[index])))));
    const head = h("tr", {}, ["step", ...this.names].map((name) => h("th", { scope: "col" }, name)));
    fill(this.table, h("caption", {}, `Values of ${rows.length} of ${steps.length} steps`),
      h("thead", {}, head), h("tbody", {}, rows));
  }
}

/**
 * A metric's value at a step as text; the word of one that is not finite.
 * @param {Series} series
 * @param {number | undefined} step
 * @returns {string}
 */
function valueAt({ points }, step) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].step < (step ?? Infinity)) low = middle + 1;
    else high = middle;
  }
  const point = points[low];
  if (!point || point.step !== step) return "–";
  return `${number(point.last ?? point.word)}${point.note ? ` (${point.note})` : ""}`;
}

/**
 * The words and glyphs of a metric's values that are not finite.
 * @param {Series} series
 */
function marks({ points }) {
  return [...nonFinite(points)].map(([word, { count, first }]) => h("span", { class: "curve-mark" },
    `${GLYPHS[word]} ${word}: ${count}, first at step ${first.toLocaleString("en")}`));
}

/**
 * A piece of a curve as it is drawn.
 * @param {number} index
 */
function swatch(index) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("class", `curve-swatch curve-${index}`);
  picture.setAttribute("viewBox", "0 0 28 10");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "line");
  for (const [name, value] of Object.entries({ x1: 0, x2: 28, y1: 5, y2: 5 })) line.setAttribute(name, String(value));
  line.setAttribute("stroke-dasharray", DASHES[index].join(" "));
  picture.append(line);
  return picture;
}
