// The curves of a job: groups of charts that share the cursor, the window of steps and the way of drawing.
//
// A chart asks for its values when it comes into sight, and is drawn only while it is there.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { current, note } from "../route.js";
import { Chart } from "./chart.js";
import { add, csv, dropAfter, seriesOf } from "./columns.js";
import { save } from "./export.js";
import { GROUPS, plan } from "./groups.js";
import { palette } from "./plot.js";

/** @typedef {{type: string, data: any}} Event */

/**
 * A chart on the page. `window`: that of its values, undefined before it has any; `missed`: events while it asks.
 * @typedef {{chart: Chart, visible: boolean, window: [number, number] | null | undefined, asks: boolean,
 *   missed: Event[], status: HTMLElement}} Slot
 */

const REDRAW_MS = 250;
const SAY_MS = 300;
const MOST_SMOOTHING = 0.99;
const WINDOW_POINTS = 5000; // the most that the service sends
const [FEWEST_POINTS, MOST_POINTS] = [300, 2000];
const OTHERS_AT_ONCE = 24;
const LIVE = ["metric.batch", "evaluation.completed", "job.started"];
const FORMULA = "Exponential moving average: s = w·s + (1 − w)·x, begun with the first value. "
  + "Values that are not finite do not enter. The raw line stays, faint.";
let made = 0;

/**
 * The curves of a job. `onCursor` gets the step under the cursor, null when the cursor leaves.
 * @param {string} jobId
 * @param {{onCursor?: (step: number | null) => void}} [options]
 * @returns {{element: HTMLElement, push: (event: Event) => void, destroy: () => void}}
 */
export function curves(jobId, { onCursor = () => {} } = {}) {
  const view = new Curves(jobId, onCursor);
  view.start();
  return { element: view.element, push: (event) => view.push(event), destroy: () => view.destroy() };
}

class Curves {
  /**
   * @param {string} jobId
   * @param {(step: number | null) => void} onCursor
   */
  constructor(jobId, onCursor) {
    this.path = `/v1/jobs/${encodeURIComponent(jobId)}/metrics`;
    this.jobId = jobId;
    const { query } = current();
    const smooth = Math.min(Math.max(Number(query.get("smooth")) || 0, 0), MOST_SMOOTHING);
    /** @type {import("./plot.js").View} */
    this.view = { log: query.get("log") === "1", smooth, window: null, last: 0, palette: palette() };
    this.shared = {
      view: this.view, sync: `curves-${++made}`, onCursor,
      onZoom: (/** @type {[number, number] | null} */ window) => this.zoom(window),
      say: (/** @type {string} */ text) => this.say(text),
    };
    this.names = /** @type {Set<string>} */ (new Set());
    this.scores = /** @type {Set<string>} */ (new Set());
    this.slots = /** @type {Map<string, Slot>} */ (new Map());
    this.dirty = /** @type {Set<Slot>} */ (new Set());
    this.others = OTHERS_AT_ONCE;
    this.timer = this.sayTimer = this.drawn = 0;
    this.stop = new AbortController();
    this.bodies = GROUPS.map(() => h("div", { class: "curve-charts" }));
    this.sections = GROUPS.map(({ title }, index) => section(title, this.bodies[index], index === GROUPS.length - 1));
    this.state = h("p", { class: "curve-state", role: "status" }, "Loading the curves …");
    this.live = h("p", { class: "curve-live", "aria-live": "polite" });
    this.element = h("div", { class: "curves" }, this.tools(), this.state, this.sections, this.live);
  }

  tools() {
    const { view } = this;
    const shown = h("output", {}, view.smooth.toFixed(2));
    const log = h("input", { type: "checkbox", checked: view.log, onchange: () => {
      view.log = log.checked;
      note({ log: view.log ? 1 : null });
      this.redraw();
    } });
    const range = { type: "range", min: 0, max: MOST_SMOOTHING, step: 0.01, value: view.smooth, title: FORMULA };
    const smooth = h("input", { ...range, oninput: () => {
      view.smooth = Number(smooth.value);
      shown.textContent = view.smooth.toFixed(2);
      this.redraw();
    }, onchange: () => note({ smooth: view.smooth || null }) }); // not while it moves: browsers refuse so many addresses
    this.out = h("button", { type: "button", disabled: true, onclick: () => this.zoom(null) }, "Show all steps");
    const save = h("button", { type: "button", onclick: () => this.save() }, "Save as CSV");
    return h("div", { class: "curve-tools" }, h("label", {}, log, " Logarithmic"),
      h("label", { title: FORMULA }, "Smoothing w ", smooth, " ", shown), this.out, save,
      h("p", { class: "curve-hint" }, "Drag to zoom, double-click to show all."));
  }

  start() {
    const { signal } = this.stop;
    this.seen = new IntersectionObserver((entries) => this.sight(entries), { rootMargin: "100px" });
    this.sizes = new ResizeObserver(() => { for (const { chart } of this.slots.values()) chart.resize(); });
    this.sizes.observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.view.palette = palette();
      this.redraw();
    }, { signal });
    document.addEventListener("visibilitychange", () => this.schedule(), { signal });
    this.begin();
  }

  /** Ask which metrics there are. */
  async begin() {
    try {
      const { data } = await get(this.path, this.stop.signal);
      for (const { name, step, best_step } of data) {
        this.names.add(name);
        if (best_step !== null) this.scores.add(name);
        this.view.last = Math.max(this.view.last, step);
      }
      this.arrange();
    } catch (error) {
      this.failed(this.state, error, () => this.begin());
    }
  }

  /** Make the charts of the present names; those that have all their curves stay as they are. */
  arrange() {
    const planned = plan([...this.names], this.scores);
    const kept = new Set();
    planned.forEach((charts, index) => {
      const shown = index === GROUPS.length - 1 ? charts.slice(0, this.others) : charts;
      const slots = shown.map(({ title, names }) => this.slot(`${index} ${title}`, title, names, kept));
      const elements = slots.map(({ chart }) => chart.element);
      const same = elements.every((element, at) => element === this.bodies[index].children[at]);
      if (!same || this.bodies[index].children.length !== elements.length) {
        fill(this.bodies[index], elements, shown.length < charts.length && this.more(charts.length - shown.length));
      }
      this.sections[index].hidden = charts.length === 0;
    });
    for (const [key, slot] of this.slots) if (!kept.has(slot)) this.remove(key, slot);
    fill(this.state, this.names.size ? null : "No values yet.");
  }

  /** @param {number} left */
  more(left) {
    const show = () => {
      this.others += OTHERS_AT_ONCE;
      this.arrange();
    };
    return h("button", { type: "button", onclick: show }, `Show more (${left} left)`);
  }

  /**
   * @param {string} key
   * @param {string} title
   * @param {string[]} names
   * @param {Set<Slot>} kept
   * @returns {Slot}
   */
  slot(key, title, names, kept) {
    let slot = this.slots.get(key);
    if (slot && slot.chart.names.join("\n") !== names.join("\n")) {
      this.remove(key, slot);
      slot = undefined;
    }
    if (!slot) {
      const chart = new Chart(title, names, this.shared);
      const status = h("div", { class: "curve-failure" });
      chart.element.append(status);
      slot = { chart, visible: false, window: undefined, asks: false, missed: [], status };
      this.slots.set(key, slot);
      this.seen?.observe(chart.element);
    }
    kept.add(slot);
    return slot;
  }

  /**
   * @param {string} key
   * @param {Slot} slot
   */
  remove(key, slot) {
    this.seen?.unobserve(slot.chart.element);
    this.dirty.delete(slot);
    this.slots.delete(key);
    slot.chart.destroy();
    slot.chart.element.remove();
  }

  /** @param {IntersectionObserverEntry[]} entries */
  sight(entries) {
    for (const { target, isIntersecting } of entries) {
      const slot = [...this.slots.values()].find(({ chart }) => chart.element === target);
      if (!slot) continue;
      slot.visible = isIntersecting;
      this.ask(slot);
    }
    this.schedule(0);
  }

  /**
   * Ask for the values of a chart that is in sight and has not those of the present window.
   * @param {Slot} slot
   */
  async ask(slot) {
    const { window } = this.view;
    if (!slot.visible || slot.asks || slot.window === window) return;
    Object.assign(slot, { asks: true, missed: [] });
    try {
      const { data } = await get(this.address(slot, window), this.stop.signal);
      slot.chart.series = data.map(seriesOf);
      for (const event of slot.missed) this.apply(slot, event);
      // Of a run that goes on, these values may be newer than the list of the metrics.
      this.view.last = Math.max(this.view.last, ...slot.chart.series.map(({ points }) => points.at(-1)?.step ?? 0));
      fill(slot.status);
      Object.assign(slot, { window, asks: false });
      this.mark(slot);
      this.schedule(0);
      this.ask(slot); // the window may have changed meanwhile
    } catch (error) {
      slot.asks = false;
      this.failed(slot.status, error, () => this.ask(slot));
    }
  }

  /**
   * A window comes in full as far as the service allows; else some values for each pixel, with their extremes.
   * @param {Slot} slot
   * @param {[number, number] | null} window
   */
  address({ chart }, window) {
    const points = window ? WINDOW_POINTS : Math.min(Math.max(chart.host.clientWidth, FEWEST_POINTS), MOST_POINTS);
    const names = chart.names.map((name) => ["name", name]);
    const query = new URLSearchParams([...names, ["max_points", String(points)], ["mode", "minmax"]]);
    if (window) {
      query.set("from_step", String(window[0]));
      query.set("to_step", String(window[1]));
    }
    return `${this.path}/history?${query}`;
  }

  /**
   * @param {HTMLElement} place
   * @param {any} error
   * @param {() => void} again
   */
  failed(place, error, again) {
    if (this.stop.signal.aborted) return;
    fill(place, h("span", { role: "alert" }, `The values cannot be shown: ${error.message}. `),
      h("button", { type: "button", onclick: again }, "Try again"));
  }

  /**
   * Take an event of the job's stream.
   * @param {Event} event
   */
  push(event) {
    if (!LIVE.includes(event.type)) return;
    const before = this.names.size;
    if (event.type === "job.started") this.view.last = event.data.resumed ? event.data.step : 0;
    for (const [step, values] of measured(event)) {
      this.view.last = Math.max(this.view.last, step);
      for (const name of Object.keys(values)) this.names.add(name);
    }
    if (this.names.size > before) this.arrange();
    for (const slot of this.slots.values()) {
      if (slot.asks) slot.missed.push(event);
      else if (slot.window !== undefined) this.apply(slot, event);
      this.mark(slot);
    }
    this.schedule();
  }

  /**
   * Bring a chart's values up to an event.
   * @param {Slot} slot
   * @param {Event} event
   */
  apply(slot, event) {
    const { series } = slot.chart;
    if (event.type === "job.started") {
      for (const each of series) dropAfter(each, event.data.resumed ? event.data.step : -1);
      return;
    }
    const [from, to] = slot.window ?? [0, Infinity];
    for (const [step, values] of measured(event)) {
      if (step < from || step > to) continue;
      for (const each of series) if (Object.hasOwn(values, each.name)) add(each, step, values[each.name]);
    }
    if (series.some(({ points }) => points.length > 2 * WINDOW_POINTS)) {
      slot.window = undefined; // too many to redraw often: the service makes buckets of them
      this.ask(slot);
    }
  }

  /** @param {Slot} slot */
  mark(slot) {
    if (slot.window !== undefined) this.dirty.add(slot);
  }

  /** Draw every chart anew, at once: the user has asked for it. */
  redraw() {
    for (const slot of this.slots.values()) this.mark(slot);
    this.schedule(0);
  }

  /**
   * Draw what has changed, in one frame for all charts.
   * @param {number} [wait] milliseconds between two drawings
   */
  schedule(wait = REDRAW_MS) {
    if (document.hidden || this.stop.signal.aborted || (this.timer && wait)) return;
    clearTimeout(this.timer);
    const rest = Math.max(0, wait - (performance.now() - this.drawn));
    this.timer = setTimeout(() => requestAnimationFrame(() => this.flush()), rest);
  }

  flush() {
    this.timer = 0;
    this.drawn = performance.now();
    if (this.stop.signal.aborted) return;
    for (const slot of this.dirty) {
      if (!slot.visible) continue;
      this.dirty.delete(slot);
      slot.chart.draw();
    }
  }

  /** @param {[number, number] | null} window */
  zoom(window) {
    this.view.window = window;
    this.out.disabled = window === null;
    this.say(window ? `steps ${window[0]} to ${window[1]}` : "all steps");
    for (const slot of this.slots.values()) this.ask(slot);
    this.redraw();
  }

  /** @param {string} text */
  say(text) {
    clearTimeout(this.sayTimer);
    this.sayTimer = setTimeout(() => { this.live.textContent = text; }, SAY_MS);
  }

  /** Save the values of the charts that have been in sight. */
  save() {
    const shown = [...this.slots.values()].filter(({ window }) => window !== undefined);
    save(new Blob([csv(shown.flatMap(({ chart }) => chart.series))], { type: "text/csv" }), `${this.jobId}-curves.csv`);
  }

  destroy() {
    this.stop.abort();
    clearTimeout(this.timer);
    clearTimeout(this.sayTimer);
    this.seen?.disconnect();
    this.sizes?.disconnect();
    for (const { chart } of this.slots.values()) chart.destroy();
    this.slots.clear();
  }
}

/**
 * A group of charts under its heading. A folded group is drawn when it is opened, because only then is it in sight.
 * @param {string} title
 * @param {HTMLElement} body
 * @param {boolean} folded
 * @returns {HTMLElement}
 */
function section(title, body, folded) {
  const heading = h("h3", {}, title);
  const content = folded ? h("details", {}, h("summary", {}, heading), body) : [heading, body];
  return h("section", { class: "curve-group", "aria-label": title, hidden: true }, content);
}

/**
 * The values in an event, step by step. A rescored best generator is left out: its step has a score already.
 * @param {Event} event
 * @returns {[number, Record<string, number | string>][]}
 */
function measured({ type, data }) {
  if (type === "metric.batch") return data.points.map((/** @type {any} */ point) => [point.step, point.values]);
  if (type === "evaluation.completed" && data.purpose !== "best_rescored") return [[data.step, data.scores]];
  return [];
}
